//! The gateway's clock, estimated from round trips (Cristian 1989), and the reports of health.

use super::Session;
use crate::{
    client::{
        members::Members,
        output::{HealthReport, SentFrame},
        state::{ClockSample, SentPing},
    },
    time::parse_rfc3339,
};

const SAMPLES_MAX: usize = 8;
const REPORT_MS: u64 = 30_000;
const COUNT_MAX: u64 = 1_000_000;

impl Session {
    /// Sends a ping, for a sign of life and for the clock.
    pub(super) fn ask(&mut self) {
        self.state.pings_sent += 1;
        let n = self.state.pings_sent;
        self.state.ping = Some(SentPing { n, sent_at: self.now });
        self.send(SentFrame::Ping { n });
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

    pub(super) fn has_all_samples(&self) -> bool {
        self.state.samples.len() >= SAMPLES_MAX
    }

    /// How long ago the gateway accepted an event, by its clock.
    pub(super) fn latency(&self, appended: Option<i64>) -> Option<u64> {
        let clock = self.state.clock()?;
        let here = clock.offset.saturating_add_unsigned(self.now);
        Some(u64::try_from(here.saturating_sub(appended?)).unwrap_or(0))
    }

    /// At most one report in [`REPORT_MS`], over all connections.
    pub(super) fn report_later(&mut self) {
        self.state.timers.report = Some(self.now.max(self.state.reported_at.unwrap_or(0)) + REPORT_MS);
    }

    pub(super) fn report(&mut self) {
        let report = std::mem::take(&mut self.state.unreported);
        let HealthReport { latencies_ms, disconnects, duplicates, holes, gaps } = report;
        self.send(SentFrame::Health(HealthReport {
            latencies_ms,
            disconnects: disconnects.min(COUNT_MAX),
            duplicates: duplicates.min(COUNT_MAX),
            holes: holes.min(COUNT_MAX),
            gaps: gaps.min(COUNT_MAX),
        }));
        self.state.reported_at = Some(self.now);
        self.state.timers.report = Some(self.now + REPORT_MS);
    }
}
