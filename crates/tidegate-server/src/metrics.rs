//! Every metric of the node, in one place. Names are a contract; labels come from closed enums.
//!
//! The registry belongs to one node, so several nodes can live in one process. Handles are cheap to
//! clone; on the way of an event only plain counters are touched, once per round.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};
use tidegate_core::{Budget, deflate::Contexts};
use tidegate_engine::SyncObserver;
use tidegate_protocol::{Code, GapReason, Refusal};

use crate::transport::Transport;

/// What is held now, for operators and audits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SlotsHeld {
    /// Streams, from their knock to the end of their socket.
    pub streams: usize,
    /// Addresses that have some.
    pub addresses: usize,
    /// SlotsHeld of orgs.
    pub orgs: usize,
    /// SlotsHeld of users.
    pub users: usize,
    /// Connections in the registry.
    pub registered: usize,
}

/// What came of a request for an issuer's key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwksOutcome {
    /// A key set.
    Ok,
    /// No connection, or one that broke.
    Unreachable,
    /// No whole answer in time.
    Timeout,
    /// A redirect, which is not followed.
    Redirect,
    /// Another status than 200.
    Status,
    /// More bytes than a key set may have.
    TooLarge,
    /// Something else than a key set.
    Malformed,
}

impl JwksOutcome {
    const ALL: [Self; 7] = [
        Self::Ok,
        Self::Unreachable,
        Self::Timeout,
        Self::Redirect,
        Self::Status,
        Self::TooLarge,
        Self::Malformed,
    ];

    const fn name(self) -> &'static str {
        match self {
            JwksOutcome::Ok => "ok",
            JwksOutcome::Unreachable => "unreachable",
            JwksOutcome::Timeout => "timeout",
            JwksOutcome::Redirect => "redirect",
            JwksOutcome::Status => "status",
            JwksOutcome::TooLarge => "too_large",
            JwksOutcome::Malformed => "malformed",
        }
    }
}

/// What was done with a page of the log for readers that catch up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplayPage {
    /// Read from the log.
    Read,
    /// Given to a reader as others get it.
    Shared,
    /// Made for one reader: it began in the middle, or held events targeted at it.
    Private,
}

impl ReplayPage {
    const ALL: [Self; 3] = [Self::Read, Self::Shared, Self::Private];

    const fn name(self) -> &'static str {
        match self {
            ReplayPage::Read => "read",
            ReplayPage::Shared => "shared",
            ReplayPage::Private => "private",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabel {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLabel {
    of: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

/// The metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections: Family<TransportLabel, Gauge>,
    connection_slots: Family<ScopeLabel, Gauge>,
    /// Events stored, duplicates not counted.
    pub published: Counter,
    /// Publishes that were recognised as sent before.
    pub duplicates: Counter,
    /// Events handed to sockets, over all readers.
    pub delivered: Counter,
    publish_duration: Histogram,
    gaps: Family<ReasonLabel, Counter>,
    closes: Family<CodeLabel, Counter>,
    refusals: Family<LimitLabel, Counter>,
    log_sync_duration: Histogram,
    log_sync_events: Counter,
    /// Warnings to slow readers.
    pub slow_warnings: Counter,
    /// Events that slow readers with `latest` did not get, because later ones made them old.
    pub omitted: Counter,
    /// Readers that left the live loop because their socket took no more.
    pub parked: Counter,
    /// Readers that wait for their replay.
    pub replays_waiting: Gauge,
    replay_pages: Family<OfLabel, Counter>,
    replay_pages_kept: Arc<Budget>,
    /// Orgs that have a tail in memory.
    pub orgs: Gauge,
    jwks_fetches: Family<OutcomeLabel, Counter>,
    /// Keys of issuers that publish theirs, over all of them.
    pub jwks_keys: Gauge,
    config_rereads: Family<OutcomeLabel, Counter>,
}

/// Buckets from 100 us to 10 s.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Metrics {
    /// The metrics of a command that has no readers.
    pub fn of_nothing() -> Self {
        Self::new(Arc::default(), Arc::new(Contexts::new(0)))
    }

    /// The metrics of a node whose tails are charged to `tails`, and whose compressors are of `contexts`.
    pub fn new(tails: Arc<Budget>, contexts: Arc<Contexts>) -> Self {
        let mut whole = Registry::default();
        let registry = whole.sub_registry_with_prefix("tidegate");
        let metrics = Self {
            connections: Family::default(),
            connection_slots: Family::default(),
            published: Counter::default(),
            duplicates: Counter::default(),
            delivered: Counter::default(),
            publish_duration: Histogram::new(SECONDS),
            gaps: Family::default(),
            closes: Family::default(),
            refusals: Family::default(),
            log_sync_duration: Histogram::new(SECONDS),
            log_sync_events: Counter::default(),
            slow_warnings: Counter::default(),
            omitted: Counter::default(),
            parked: Counter::default(),
            replays_waiting: Gauge::default(),
            replay_pages: Family::default(),
            replay_pages_kept: Arc::default(),
            orgs: Gauge::default(),
            jwks_fetches: Family::default(),
            jwks_keys: Gauge::default(),
            config_rereads: Family::default(),
            registry: Registry::default(),
        };
        registry.register("connections", "Readers connected now", metrics.connections.clone());
        registry.register(
            "connection_slots",
            "Slots taken now in the counters that bound connections",
            metrics.connection_slots.clone(),
        );
        registry.register("events_published", "Events stored", metrics.published.clone());
        registry.register(
            "events_duplicate",
            "Publishes recognised as sent before",
            metrics.duplicates.clone(),
        );
        registry.register("events_delivered", "Events handed to sockets", metrics.delivered.clone());
        registry.register_with_unit(
            "publish_duration",
            "Time from a publish request's last byte to its answer",
            Unit::Seconds,
            metrics.publish_duration.clone(),
        );
        registry.register("gaps", "Gaps declared to readers", metrics.gaps.clone());
        registry.register("closes", "Streams ended by the gateway", metrics.closes.clone());
        registry.register("refusals", "Requests and connections over a limit", metrics.refusals.clone());
        registry.register_with_unit(
            "log_sync_duration",
            "Time to write and sync one group of the log",
            Unit::Seconds,
            metrics.log_sync_duration.clone(),
        );
        registry.register(
            "log_sync_events",
            "Events over all groups synced",
            metrics.log_sync_events.clone(),
        );
        registry.register(
            "readers_parked",
            "Readers that left the live loop to catch up",
            metrics.parked.clone(),
        );
        registry.register(
            "replays_waiting",
            "Readers that have come back and wait for the gateway to replay what they missed",
            metrics.replays_waiting.clone(),
        );
        registry.register(
            "replay_pages",
            "Pages of the log for readers that catch up: read, and given to readers as shared or private",
            metrics.replay_pages.clone(),
        );
        registry.register("slow_warnings", "Warnings to slow readers", metrics.slow_warnings.clone());
        registry.register(
            "events_omitted",
            "Events left out for slow readers with the policy latest",
            metrics.omitted.clone(),
        );
        registry.register("orgs", "Orgs with a tail in memory", metrics.orgs.clone());
        registry.register("jwks_fetches", "Requests for issuers' key sets", metrics.jwks_fetches.clone());
        registry.register("jwks_keys", "Keys held of issuers' key sets", metrics.jwks_keys.clone());
        registry.register(
            "config_rereads",
            "Configurations read again on SIGHUP",
            metrics.config_rereads.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What this process was built from", build);
        let pages = metrics.replay_pages_kept.clone();
        whole.register_collector(Box::new(Shared { tails, pages, contexts }));
        whole.register_collector(Box::new(Process));
        // Series stand from the start, so that a rate over them has a beginning. Those of refusals come
        // with the first: their bounds are named where they are checked.
        for code in Code::ALL.into_iter().filter(|code| code.close().is_some()) {
            drop(metrics.closes.get_or_create(&CodeLabel { code: code.name() }));
        }
        for transport in [Transport::WebSocket, Transport::Sse] {
            drop(metrics.connections.get_or_create(&TransportLabel { transport: transport.name() }));
        }
        for of in ReplayPage::ALL {
            drop(metrics.replay_pages.get_or_create(&OfLabel { of: of.name() }));
        }
        for outcome in JwksOutcome::ALL {
            drop(metrics.jwks_fetches.get_or_create(&OutcomeLabel { outcome: outcome.name() }));
        }
        for outcome in ["taken", "refused"] {
            drop(metrics.config_rereads.get_or_create(&OutcomeLabel { outcome }));
        }
        for reason in GapReason::ALL {
            drop(metrics.gaps.get_or_create(&ReasonLabel { reason: reason.name() }));
        }
        Self { registry: whole, ..metrics }
    }

    /// The gauge of readers connected by `transport`.
    pub fn connections(&self, transport: Transport) -> Gauge {
        self.connections.get_or_create_owned(&TransportLabel { transport: transport.name() })
    }

    /// Takes over what is held now: accepted sockets, and the counters of admission.
    pub fn connection_slots(&self, sockets: usize, held: &SlotsHeld) {
        for (scope, count) in [
            ("sockets", sockets),
            ("streams", held.streams),
            ("addresses", held.addresses),
            ("orgs", held.orgs),
            ("users", held.users),
            ("registered", held.registered),
        ] {
            self.connection_slots
                .get_or_create(&ScopeLabel { scope })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts gaps declared.
    pub fn gap(&self, reason: GapReason) {
        self.gaps.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
    }

    /// Counts a stream that the gateway ended.
    pub fn close(&self, code: Code) {
        self.closes.get_or_create(&CodeLabel { code: code.name() }).inc();
    }

    /// Counts something that was over the bound with this configuration key.
    pub fn refusal(&self, limit: &'static str) {
        self.refusals.get_or_create(&LimitLabel { limit }).inc();
    }

    /// Counts a refusal that goes to a peer, where it names a bound. Called where it is written, so
    /// that each is counted once whatever its way there.
    pub fn refused(&self, refusal: &Refusal) {
        if let Some(limit) = refusal.limit {
            self.refusal(limit);
        }
    }

    /// Counts a page of the log.
    pub fn replay_page(&self, of: ReplayPage) {
        self.replay_pages.get_or_create(&OfLabel { of: of.name() }).inc();
    }

    /// What pages that are kept are charged to.
    pub fn replay_pages_kept(&self) -> &Arc<Budget> {
        &self.replay_pages_kept
    }

    /// Counts a request for a key set.
    pub fn jwks_fetch(&self, outcome: JwksOutcome) {
        self.jwks_fetches.get_or_create(&OutcomeLabel { outcome: outcome.name() }).inc();
    }

    /// Counts a configuration that was read again: taken over, or refused.
    pub fn config_reread(&self, is_taken: bool) {
        let outcome = if is_taken { "taken" } else { "refused" };
        self.config_rereads.get_or_create(&OutcomeLabel { outcome }).inc();
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

    /// All metrics in the Prometheus text format, version 0.0.4: there the family of a counter bears
    /// the name of its sample, infos and units are not known, and there is no end mark.
    pub fn prometheus_text(&self) -> String {
        let open = self.open_metrics();
        let mut text = String::with_capacity(open.len());
        let mut counter = None;
        for line in open.lines() {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some("EOF"), ..) | (Some("#"), Some("UNIT"), ..) => {}
                (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                    // The type follows its help; hold the help back until it is known.
                    counter = Some((name, help));
                }
                (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                    let (name, kind) = match kind {
                        "counter" => (format!("{name}_total"), "counter"),
                        "info" => (format!("{name}_info"), "gauge"),
                        other => (name.to_owned(), other),
                    };
                    if let Some((_, help)) = counter.take() {
                        let _ = writeln!(text, "# HELP {name} {help}");
                    }
                    let _ = writeln!(text, "# TYPE {name} {kind}");
                }
                _ => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        text
    }
}

impl SyncObserver for Metrics {
    fn on_sync(&self, took: Duration, events: usize) {
        self.log_sync_duration.observe(took.as_secs_f64());
        self.log_sync_events.inc_by(events as u64);
    }
}

/// What readers share, read where it is kept.
#[derive(Debug)]
struct Shared {
    tails: Arc<Budget>,
    pages: Arc<Budget>,
    contexts: Arc<Contexts>,
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = [
            (
                "tidegate_tail",
                "Memory of all tails, the encoded views of their batches included",
                Some(&Unit::Bytes),
                self.tails.used(),
            ),
            (
                "tidegate_replay_page",
                "Memory of pages of the log kept for readers that catch up",
                Some(&Unit::Bytes),
                self.pages.used(),
            ),
            ("tidegate_compressors", "Shared compressors in use", None, self.contexts.used()),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        let counters = [
            (
                "tidegate_views_unkept",
                "Encodings of a batch for a filter that were not kept, because it had as many as it may",
                self.tails.views_unkept(),
            ),
            (
                "tidegate_compressors_missed",
                "Batches of a filter compressed without context, because all compressors were taken",
                self.contexts.missed(),
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

/// The standard `process_*` metrics, from /proc. Where there is no /proc, none.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(process) = ProcessFacts::read() else { return Ok(()) };
        let cpu = ConstCounter::new(process.cpu_seconds);
        let help = "Total user and system CPU time spent in seconds.";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_bytes),
            (
                "process_start_time_seconds",
                "Start time since the Unix epoch in seconds.",
                process.start_seconds,
            ),
            ("process_open_fds", "Number of open file descriptors.", process.open_fds),
            ("process_max_fds", "Maximum number of open file descriptors.", process.max_fds),
            ("process_threads", "Number of OS threads in the process.", process.threads),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

struct ProcessFacts {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    start_seconds: f64,
    open_fds: f64,
    max_fds: f64,
    threads: f64,
}

impl ProcessFacts {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the command in parentheses, and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        // proc(5) counts from 1, and the state, the first one here, is its third.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            start_seconds: boot + field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page,
            open_fds: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            max_fds: limit.map_or(f64::INFINITY, |limit| limit as f64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_of_names_is_kept_in_both_formats() {
        let metrics = Metrics::of_nothing();
        metrics.close(Code::Draining);
        metrics.refusal("limits.connections");
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
            "tidegate_refusals_total{limit=\"limits.connections\"} 1",
            "tidegate_log_sync_duration_seconds_count 0",
            "tidegate_tail_bytes 0",
            "tidegate_views_unkept_total 0",
            "tidegate_compressors 0",
            "tidegate_compressors_missed_total 0",
            "tidegate_jwks_fetches_total{outcome=\"ok\"} 0",
            "tidegate_jwks_keys 0",
            "tidegate_config_rereads_total{outcome=\"refused\"} 0",
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
