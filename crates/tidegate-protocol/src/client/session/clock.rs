//! The gateway's clock, estimated from round trips (Cristian 1989), and the reports of health.

use super::Session;
use crate::{
    client::{
        members::Members,
        state::{ClockSample, SentPing, Unreported},
    },
    frame::{ClientFrame, HealthReport},
    time::parse_rfc3339,
};

const SAMPLES_MAX: usize = 8;

/// With that many samples, one ping of the gateway in ten is followed by one of the session's own.
const ASK_EVERY: u64 = 10;

/// The least time between two of them.
const ASK_MS: u64 = 1_000;

const REPORT_MS: u64 = 30_000;

impl Session {
    /// Sends a ping, for a sign of life and for the clock.
    pub(super) fn ask(&mut self) {
        self.state.pings_sent += 1;
        let n = self.state.pings_sent;
        self.state.ping = Some(SentPing { n, sent_at: self.now });
        self.state.pinged_at = Some(self.now);
        self.send(ClientFrame::Ping { n });
    }

    /// The gateway's own ping is a good moment: until there are enough samples, and then at times. But pings
    /// come in bursts if many events are hidden, and a gateway counts what a client sends.
    pub(super) fn ask_at_ping(&mut self) {
        let s = &mut self.state;
        s.pings_heard += 1;
        let is_wanted = s.samples.len() < SAMPLES_MAX || s.pings_heard.is_multiple_of(ASK_EVERY);
        if is_wanted && s.pinged_at.is_none_or(|at| self.now.saturating_sub(at) >= ASK_MS) {
            self.ask();
        }
    }

    pub(super) fn ponged(&mut self, frame: &Members<'_>) {
        let Some(ping) = self.state.ping.filter(|ping| frame.whole("n") == Some(ping.n)) else { return };
        self.state.ping = None;
        self.sample(ping.sent_at, frame.text("timestamp").as_deref());
    }

    /// The gateway's clock was read in the middle of the round trip, to within half of it.
    pub(super) fn sample(&mut self, sent: u64, timestamp: Option<&str>) {
        let Some(server) = timestamp.and_then(parse_rfc3339) else { return };
        let rtt = self.now.saturating_sub(sent);
        let offset = server.saturating_sub_unsigned(sent).saturating_sub_unsigned(rtt / 2);
        if self.state.samples.len() == SAMPLES_MAX {
            self.state.samples.remove(0);
        }
        self.state.samples.push(ClockSample { rtt, offset });
    }

    /// How long ago the gateway accepted an event, by its clock. If that is beyond the bound of a report, in
    /// either direction, a clock was set, and nothing is known.
    pub(super) fn latency(&self, appended: Option<i64>) -> Option<u64> {
        let clock = self.state.clock()?;
        let here = clock.offset.saturating_add_unsigned(self.now);
        let ms = here.saturating_sub(appended?);
        (ms.unsigned_abs() <= u64::from(HealthReport::LATENCY_MS_MAX)).then(|| u64::try_from(ms).unwrap_or(0))
    }

    /// At most one report in [`REPORT_MS`], over all connections.
    pub(super) fn report_later(&mut self) {
        self.state.timers.report = Some(self.now.max(self.state.reported_at.unwrap_or(0)) + REPORT_MS);
    }

    pub(super) fn report(&mut self) {
        let report = std::mem::take(&mut self.state.unreported);
        let Unreported { latencies_ms, disconnects, duplicates, holes, gaps } = report;
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX).min(HealthReport::COUNT_MAX);
        self.send(ClientFrame::Health(HealthReport {
            // The gateway lowers what is above its bound, which is far below that of the type.
            latencies_ms: latencies_ms.into_iter().map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)).collect(),
            disconnects: count(disconnects),
            duplicates: count(duplicates),
            holes: count(holes),
            gaps: count(gaps),
            is_clamped: false,
        }));
        self.state.reported_at = Some(self.now);
        self.state.timers.report = Some(self.now + REPORT_MS);
    }
}
