//! Every metric of the node, in one place. Names are a contract; labels come from closed enums.
//!
//! The registry belongs to one node, so several nodes can live in one process. Handles are cheap to
//! clone. The path of an event touches only plain counters, once per fan-out pass.

mod by_org;
mod declare;
mod labels;
mod memory;
mod process;
mod shared;
mod text;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use tidegate_core::{
    Budget,
    deflate::{Contexts, MadeForm},
};
use tidegate_engine::{
    SyncObserver,
    store::{Recovery, Usage},
};
use tidegate_protocol::{Code, GapReason, OrgId, Refusal, UnixMillis, frame::HealthReport};

use crate::{
    config::{Config, ConfigKey, config_key},
    transport::Transport,
};
use by_org::ByOrg;
use declare::{By, Fraction, Instrument, declare};
use labels::{Bound, End, Incident, Limit, LogPart, MemoryHolder, Outcome, ReportOutcome, SlotScope};
use process::{Dropped, Process};
use shared::Shared;

pub use labels::{
    InFlight, JwksOutcome, LogState, LongSlice, Operation, Quota, ReplayPage, RereadOutcome, Waiting,
};

/// The longest that one piece of work of a worker may take, in CPU time, without being counted.
const PIECE_MAX: Duration = Duration::from_millis(2);

declare! {
    /// Readers connected now.
    connections: By<Transport, Gauge> = "connections";
    /// Slots taken now in the counters that bound connections.
    connection_slots: By<SlotScope, Gauge> = "connection_slots";
    /// Connections that wait for a request, or for the body of one.
    waiting_sockets: By<Waiting, Gauge> = "waiting_sockets";
    /// Events stored.
    pub published: Counter = "events_published";
    /// Publishes recognised as sent before.
    pub duplicates: Counter = "events_duplicate";
    /// Events handed to sockets.
    pub delivered: Counter = "events_delivered";
    /// Bytes of streams sent: what sockets took of WebSocket frames, and what HTTP took of the bodies of
    /// event streams. They are added several times a second.
    sent: By<Transport, Counter> = "sent" in Bytes;
    /// Time from the timestamp of an event (given when the log takes it, before it is synced) until the last
    /// reader of a group has it. A group is the readers of an org on one worker that see the same in the same
    /// form. Each fan-out pass counts once for each group, with the oldest event that it brings. "Has it" means: the
    /// WebSocket took the bytes, or they wait for HTTP as the body of the event stream. Readers that catch up
    /// are not measured. Whole milliseconds.
    delivery_duration: By<Transport, Histogram> = "delivery_duration" in Seconds;
    /// Requests answered on the public listener, by what they asked for and how they were answered (ok, or the
    /// code of the refusal). A WebSocket counts as ok when its upgrade is answered; if it is refused after
    /// that, closes has the code.
    requests: By<(Operation, Outcome), Counter> = "requests";
    /// Time from the head of a request to its answer; of a stream, until it is open.
    request_duration: By<Operation, Histogram> = "request_duration" in Seconds;
    /// Publish requests whose body has come and that are not answered yet; one for several orgs counts for each.
    publishes_in_flight: Gauge = "publishes_in_flight";
    /// Time from a publish request's last byte to its answer.
    publish_duration: Histogram = "publish_duration" in Seconds;
    /// Gaps declared to readers.
    gaps: By<GapReason, Counter> = "gaps";
    /// Streams that ended or were refused.
    closes: By<End, Counter> = "closes";
    /// Requests and connections over a limit.
    refusals: By<Limit, Counter> = "refusals";
    /// The values of the bounds that gauges approach, by configuration key.
    limit: By<Bound, Gauge> = "limit";
    /// 1 for the present state of the log, 0 for the others.
    log_state: By<LogState, Gauge> = "log_state";
    /// 1 if this start found that acknowledged events were lost, or may have been, so that readers get a gap;
    /// otherwise 0.
    log_start_lossy: Gauge = "log_start_lossy";
    /// How long this start took to open the log.
    log_recovery_duration: Fraction = "log_recovery_duration" in Seconds;
    /// Bytes of the log: events that are kept, its files, copies of damaged stretches.
    log_bytes: By<LogPart, Gauge> = "log" in Bytes;
    /// What the file system of the log has left for the gateway.
    log_free: Gauge = "log_free" in Bytes;
    /// The oldest event that can be read back is not older than this.
    log_oldest_event_age: Gauge = "log_oldest_event_age" in Seconds;
    /// How far the time that the log gives to events is ahead of the machine's clock: more than 0 if that clock was
    /// set back, or right again after it had been ahead.
    log_clock_ahead: Gauge = "log_clock_ahead" in Seconds;
    /// Damaged stretches of the log that were found since the start.
    log_damaged_stretches: Counter = "log_damaged_stretches";
    /// Files of the log that the start did not find.
    log_missing_files: Counter = "log_missing_files";
    /// Ids in the dedup window.
    dedup_ids: Gauge = "dedup_ids";
    /// Memory by what holds it. The sum is about the resident memory; the rest is the allocator's, most of it
    /// after a burst.
    memory: By<MemoryHolder, Gauge> = "memory" in Bytes;
    /// Memory that is held because a client sends or takes something right now, by what it is. Its sum is bounded by
    /// limits.in_flight_bytes.
    in_flight: By<InFlight, Gauge> = "in_flight" in Bytes;
    /// Time to write and sync one group of the log.
    log_sync_duration: Histogram = "log_sync_duration" in Seconds;
    /// Events over all groups synced.
    log_sync_events: Counter = "log_sync_events";
    /// Pieces of work that held a worker for more than 2 ms of CPU time, so that all other readers of the worker
    /// waited, by what the worker did. Zero unless the CPU is much slower than usual.
    long_slices: By<LongSlice, Counter> = "worker_long_slices";
    /// Compressions of frames by the form that was made: each batch once for each filter and form. They are
    /// added several times a second.
    compressions: By<MadeForm, Counter> = "compressions";
    /// Readers that left the live loop to catch up.
    pub parked: Counter = "readers_parked";
    /// Readers that have come back and wait for the gateway to replay what they missed.
    pub replays_waiting: Gauge = "replays_waiting";
    /// Pages of the log for readers that catch up: read, and given to readers as shared or private.
    replay_pages: By<ReplayPage, Counter> = "replay_pages";
    /// Warnings to slow readers.
    pub slow_warnings: Counter = "slow_warnings";
    /// Events left out for slow readers with the policy latest.
    pub omitted: Counter = "events_omitted";
    /// Time from the timestamp of an event until a client's application had it, as clients report it (health
    /// frames, over WebSocket). A client measures with its own clock, corrected by pings, and may report what
    /// it likes. Whole milliseconds.
    client_latency: Histogram = "client_latency" in Seconds;
    /// What went wrong for clients, as they report it: connections that ended, events that came again, frames
    /// that were missing, and gaps.
    client_incidents: By<Incident, Counter> = "client_incidents";
    /// Reports of clients: taken, taken with values moved to their bounds, or ignored because they came too
    /// early.
    client_reports: By<ReportOutcome, Counter> = "client_reports";
    /// As tidegate_client_latency_seconds, of each org that metrics.health_orgs lists.
    client_org_latency: ByOrg<(), Histogram> = "client_org_latency" in Seconds;
    /// As tidegate_client_incidents_total, of each org that metrics.health_orgs lists.
    client_org_incidents: ByOrg<Incident, Counter> = "client_org_incidents";
    /// As tidegate_client_reports_total, of each org that metrics.health_orgs lists.
    client_org_reports: ByOrg<ReportOutcome, Counter> = "client_org_reports";
    /// How much of a quota an org uses, of orgs that use 0.8 of one or more: at most metrics.top_orgs, those that
    /// use most. A rate is averaged over about 10 s.
    org_quota_used: ByOrg<Quota, Fraction> = "org_quota_used_ratio";
    /// Events that operators deleted.
    pub events_deleted: Counter = "events_deleted";
    /// Orgs that operators deleted.
    pub orgs_deleted: Counter = "orgs_deleted";
    /// Orgs with a tail in memory.
    pub orgs: Gauge = "orgs";
    /// Requests for issuers' key sets.
    jwks_fetches: By<JwksOutcome, Counter> = "jwks_fetches";
    /// Keys held of issuers' key sets.
    pub jwks_keys: Gauge = "jwks_keys";
    /// Issuers without a usable key of their key sets: all their tokens are refused.
    pub jwks_issuers_without_keys: Gauge = "jwks_issuers_without_keys";
    /// Issuers whose last request for a key set failed.
    pub jwks_issuers_failing: Gauge = "jwks_issuers_failing";
    /// Configurations read again on SIGHUP.
    config_rereads: By<RereadOutcome, Counter> = "config_rereads";
    /// 1 if the configuration that was read last, at the start or on SIGHUP, was taken over; 0 if it was refused
    /// and the one before it is still used.
    config_last_reread_successful: Gauge = "config_last_reread_successful";
}

/// The slots that are taken now, for operators and audits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SlotsHeld {
    /// Streams, from the moment that they ask to be let in to the end of their socket.
    pub streams: usize,
    /// Addresses that have streams.
    pub addresses: usize,
    /// Orgs that have streams.
    pub orgs: usize,
    /// Users that have streams.
    pub users: usize,
    /// Streams in the registry of connections.
    pub registered: usize,
}

impl Metrics {
    /// The metrics of a command that has no readers.
    pub fn of_nothing() -> Self {
        Self::new(Arc::default(), Arc::new(Contexts::new(0)))
    }

    /// The metrics of a node whose tails are charged to `tails`, and whose compressors are of `contexts`.
    pub fn new(tails: Arc<Budget>, contexts: Arc<Contexts>) -> Self {
        let shared = Shared { tails, pages: Arc::default(), contexts };
        let mut metrics = Self::declared(shared.clone());
        // The configuration of the start was valid, or there would be no node.
        metrics.config_last_reread_successful.set(1);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        let registry = metrics.registry.sub_registry_with_prefix("tidegate");
        registry.register("build", "What this process was built from", build);
        metrics.registry.register_collector(Box::new(shared));
        metrics.registry.register_collector(Box::new(Dropped));
        metrics.registry.register_collector(Box::new(Process));
        metrics
    }

    /// The gauge of readers connected by `transport`.
    pub fn connections(&self, transport: Transport) -> Gauge {
        self.connections.with(transport).clone()
    }

    /// Takes over what is held now: accepted sockets, and the counters of admission.
    pub fn connection_slots(&self, sockets: usize, held: &SlotsHeld) {
        for (scope, count) in [
            (SlotScope::Sockets, sockets),
            (SlotScope::Streams, held.streams),
            (SlotScope::Addresses, held.addresses),
            (SlotScope::Orgs, held.orgs),
            (SlotScope::Users, held.users),
            (SlotScope::Registered, held.registered),
        ] {
            self.connection_slots.with(scope).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Takes over how many connections wait for a request.
    pub fn waiting(&self, states: impl IntoIterator<Item = (Waiting, usize)>) {
        for (state, count) in states {
            self.waiting_sockets.with(state).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Takes over the bounds that gauges approach.
    pub fn limits(&self, config: &Config) {
        for (key, value) in [
            (config_key!(limits.connections), config.limits.connections),
            (config_key!(limits.replays_waiting), config.limits.replays_waiting),
            (config_key!(limits.publishes_in_flight), config.limits.publishes_in_flight),
            (config_key!(limits.in_flight_bytes), config.limits.in_flight_bytes.bytes()),
            (config_key!(limits.publish_queue_bytes), config.limits.publish_queue_bytes.bytes()),
            (config_key!(tail.max_bytes), config.tail.max_bytes.bytes()),
            (config_key!(compression.max_contexts), config.compression.max_contexts),
            (config_key!(dedup.max_entries), config.dedup.max_entries),
            (config_key!(log.max_bytes), config.log.max_bytes.bytes()),
            (config_key!(log.min_free), config.log.min_free.bytes()),
        ] {
            self.limit.with(Bound(key)).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Takes over how many publish requests hold a place.
    pub fn publishes(&self, places: usize) {
        self.publishes_in_flight.set(i64::try_from(places).unwrap_or(i64::MAX));
    }

    /// Takes over what the ledger counts.
    pub fn in_flight(&self, held: &[(InFlight, usize)]) {
        for (kind, bytes) in held {
            self.in_flight.with(*kind).set(gauge(*bytes as u64));
        }
        let all = held.iter().map(|(_, bytes)| *bytes as u64).sum();
        self.memory.with(MemoryHolder::InFlight).set(gauge(all));
    }

    /// Takes over the state of the log.
    pub fn log_state(&self, now: LogState) {
        for state in [LogState::Ok, LogState::Full, LogState::Degraded, LogState::Halted] {
            self.log_state.with(state).set(i64::from(state == now));
        }
    }

    /// Takes over what the start found of the log, and how long it took.
    pub fn log_start(&self, recovery: &Recovery, took: Duration) {
        self.log_start_lossy.set(i64::from(recovery.lossy));
        self.log_recovery_duration.set(took.as_secs_f64());
        self.log_missing_files.inc_by(recovery.missing);
    }

    /// Takes over what the log takes and has now.
    pub fn log_usage(&self, usage: &Usage, now: UnixMillis) {
        for (part, bytes) in [
            (LogPart::Events, usage.event_bytes),
            (LogPart::Files, usage.disk_bytes),
            (LogPart::Damaged, usage.damaged_bytes),
        ] {
            self.log_bytes.with(part).set(gauge(bytes));
        }
        self.log_free.set(gauge(usage.free_bytes.unwrap_or(0)));
        let age = usage.oldest_at.map_or(0, |at| now.saturating_sub(at));
        self.log_oldest_event_age.set(gauge(age / 1000));
        self.log_clock_ahead.set(gauge(usage.clock_ahead.as_secs()));
        self.log_damaged_stretches.inner().store(usage.damaged, Ordering::Relaxed);
        self.dedup_ids.set(gauge(usage.ids));
        self.take_memory(usage);
    }

    fn take_memory(&self, usage: &Usage) {
        let connections = [Transport::WebSocket, Transport::Sse].map(|transport| {
            self.connections.with(transport).get().max(0) as u64 * memory::of_reader(transport)
        });
        for (holder, bytes) in [
            (MemoryHolder::Tails, self.shared.tails.used() as u64),
            (MemoryHolder::Pages, self.shared.pages.used() as u64),
            (MemoryHolder::Dedup, usage.ids_bytes),
            (MemoryHolder::Log, usage.memory_bytes),
            (MemoryHolder::Queue, usage.queue_bytes),
            (MemoryHolder::Compressors, self.shared.contexts.used() as u64 * memory::COMPRESSOR),
            (MemoryHolder::Connections, connections.iter().sum()),
            (MemoryHolder::Program, memory::of_program()),
        ] {
            self.memory.with(holder).set(gauge(bytes));
        }
    }

    /// Makes the series of an answer, so that it is there before the first such answer.
    pub fn expect_request(&self, operation: Operation, code: Option<Code>) {
        drop(self.requests.with((operation, Outcome(code))));
    }

    /// Counts an answered request; `code` is that of its refusal.
    pub fn request(&self, operation: Operation, code: Option<Code>) {
        self.requests.with((operation, Outcome(code))).inc();
    }

    /// Measures an answered request.
    pub fn request_took(&self, operation: Operation, took: Duration) {
        self.request_duration.with(operation).observe(took.as_secs_f64());
    }

    /// Counts bytes that left for readers.
    pub fn sent(&self, transport: Transport, bytes: u64) {
        self.sent.with(transport).inc_by(bytes);
    }

    /// Measures how long the oldest event of a pass was on its way to the last reader of a group.
    pub fn delivery_took(&self, transport: Transport, took: Duration) {
        self.delivery_duration.with(transport).observe(took.as_secs_f64());
    }

    /// Counts a gap declared to a reader.
    pub fn gap(&self, reason: GapReason) {
        self.gaps.with(reason).inc();
    }

    /// Counts a stream that the gateway ended or refused.
    pub fn close(&self, code: Code) {
        self.closes.with(End::Code(code)).inc();
    }

    /// Counts a stream that its client ended, or whose connection broke.
    pub fn client_left(&self) {
        self.closes.with(End::ClientLeft).inc();
    }

    /// Counts something that was over the bound with this configuration key.
    pub fn refusal(&self, limit: ConfigKey) {
        self.refusals.with(limit.into()).inc();
    }

    /// Counts a refusal that goes to a peer, if it names a bound. It is called where the refusal is
    /// written, so that each is counted once, wherever it came from.
    pub fn refused(&self, refusal: &Refusal) {
        if let Some(limit) = refusal.limit {
            self.refusals.with(Limit(limit)).inc();
        }
    }

    /// Takes over which orgs have series of their own, in place of `before`.
    pub fn set_health_orgs(&self, before: &[OrgId], now: &[OrgId]) {
        self.client_org_latency.set_orgs(before, now);
        self.client_org_incidents.set_orgs(before, now);
        self.client_org_reports.set_orgs(before, now);
    }

    /// Takes over which orgs are near which quotas, and how much of them they use, in place of those before.
    pub fn near_quotas(&self, near: impl Iterator<Item = (OrgId, Vec<(Quota, f64)>)>) {
        self.org_quota_used.clear();
        for (org, ratios) in near {
            ratios.into_iter().for_each(|(quota, ratio)| self.org_quota_used.set(&org, quota, ratio));
        }
    }

    /// Takes over the report of a client of this org.
    pub fn client_report(&self, org: &OrgId, report: &HealthReport) {
        let of_org = self.client_org_latency.with(org, ());
        for latency in &report.latencies_ms {
            let seconds = f64::from(*latency) / 1000.0;
            self.client_latency.observe(seconds);
            if let Some(of_org) = &of_org {
                of_org.observe(seconds);
            }
        }
        for (incident, count) in [
            (Incident::Disconnect, report.disconnects),
            (Incident::Duplicate, report.duplicates),
            (Incident::Hole, report.holes),
            (Incident::Gap, report.gaps),
        ] {
            self.client_incidents.with(incident).inc_by(count.into());
            if let Some(of_org) = self.client_org_incidents.with(org, incident) {
                of_org.inc_by(count.into());
            }
        }
        let is_clamped = report.is_clamped;
        self.count_report(org, if is_clamped { ReportOutcome::Clamped } else { ReportOutcome::Taken });
    }

    /// Counts a report of a client of this org that came too early.
    pub fn client_report_ignored(&self, org: &OrgId) {
        self.count_report(org, ReportOutcome::Early);
    }

    fn count_report(&self, org: &OrgId, outcome: ReportOutcome) {
        self.client_reports.with(outcome).inc();
        if let Some(of_org) = self.client_org_reports.with(org, outcome) {
            of_org.inc();
        }
    }

    /// Counts a piece of a worker's work, if it took too long.
    pub fn piece_took(&self, piece: LongSlice, took: Duration) {
        if took > PIECE_MAX {
            self.long_slices.with(piece).inc();
        }
    }

    /// Adds compressions, by form.
    pub fn compressed(&self, counts: [u64; MadeForm::ALL.len()]) {
        for (form, count) in MadeForm::ALL.into_iter().zip(counts) {
            self.compressions.with(form).inc_by(count);
        }
    }

    /// Counts a page of the log.
    pub fn replay_page(&self, of: ReplayPage) {
        self.replay_pages.with(of).inc();
    }

    /// What pages that are kept are charged to.
    pub fn replay_pages_kept(&self) -> &Arc<Budget> {
        &self.shared.pages
    }

    /// Counts a request for a key set.
    pub fn jwks_fetch(&self, outcome: JwksOutcome) {
        self.jwks_fetches.with(outcome).inc();
    }

    /// Counts a configuration that was read again.
    pub fn config_reread(&self, outcome: RereadOutcome) {
        self.config_last_reread_successful.set(i64::from(outcome == RereadOutcome::Taken));
        self.config_rereads.with(outcome).inc();
    }

    /// Counts an answered publish.
    pub fn publish(&self, took: Duration) {
        self.publish_duration.observe(took.as_secs_f64());
    }

    /// All metrics in OpenMetrics text, version 1.0.0.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// All metrics in the Prometheus text format, version 0.0.4.
    pub fn prometheus_text(&self) -> String {
        text::prometheus_text(&self.open_metrics())
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl SyncObserver for Metrics {
    fn on_sync(&self, took: Duration, events: usize) {
        self.log_sync_duration.observe(took.as_secs_f64());
        self.log_sync_events.inc_by(events as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::config_key;

    #[test]
    fn the_contract_of_names_is_kept_in_both_formats() {
        let metrics = Metrics::of_nothing();
        metrics.close(Code::Draining);
        metrics.refusal(config_key!(limits.connections));
        metrics.publish(Duration::from_millis(3));
        let (open, text) = (metrics.open_metrics(), metrics.prometheus_text());
        for name in [
            "tidegate_connections{transport=\"websocket\"} 0",
            "tidegate_connections{transport=\"sse\"} 0",
            "tidegate_events_published_total 0",
            "tidegate_events_delivered_total 0",
            "tidegate_publish_duration_seconds_count 1",
            "tidegate_gaps_total{reason=\"retention\"} 0",
            "tidegate_closes_total{code=\"draining\"} 1",
            "tidegate_closes_total{code=\"client_left\"} 0",
            "tidegate_refusals_total{limit=\"limits.connections\"} 1",
            "tidegate_log_sync_duration_seconds_count 0",
            "tidegate_tail_bytes 0",
            "tidegate_views_unkept_total 0",
            "tidegate_compressors 0",
            "tidegate_compressors_missed_total 0",
            "tidegate_jwks_fetches_total{outcome=\"ok\"} 0",
            "tidegate_jwks_keys 0",
            "tidegate_jwks_issuers_without_keys 0",
            "tidegate_jwks_issuers_failing 0",
            "tidegate_config_rereads_total{outcome=\"refused\"} 0",
            "tidegate_config_last_reread_successful 1",
            "tidegate_client_latency_seconds_count 0",
            "tidegate_client_incidents_total{incident=\"hole\"} 0",
            "tidegate_client_reports_total{outcome=\"early\"} 0",
            "tidegate_log_start_lossy 0",
            "tidegate_log_lines_dropped_total 0",
            "tidegate_log_bytes{what=\"files\"} 0",
            "tidegate_log_state{state=\"full\"} 0",
            "tidegate_log_damaged_stretches_total 0",
            "tidegate_log_missing_files_total 0",
            "tidegate_log_recovery_duration_seconds 0",
            "tidegate_memory_bytes{holder=\"dedup\"} 0",
            "tidegate_build_info{version=",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
        ] {
            assert!(open.lines().any(|line| line.starts_with(name)), "OpenMetrics lacks {name}:\n{open}");
            assert!(text.lines().any(|line| line.starts_with(name)), "the text format lacks {name}:\n{text}");
        }
        assert!(open.ends_with("# EOF\n"));
        assert!(text.contains("# TYPE tidegate_events_published_total counter\n"));
        assert!(text.contains("# TYPE tidegate_build_info gauge\n"));
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    }
}
