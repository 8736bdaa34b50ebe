//! Makes a row of figures from what a session has counted, with the notes that are needed to interpret them.

use super::Session;
use crate::{
    client_pool::Counted,
    meter::Meter,
    peers::Peer,
    publisher::{Published, Work},
    result::{Row, grouped},
};

/// If the load uses more than this share of its cores, it may be the bottleneck.
const LOAD_SHARE_MAX: f64 = 0.9;

/// With fewer connections than this, the server's memory says nothing about one connection.
const FEW: usize = 100;

impl Session {
    /// Makes a row from the figures since `meter`.
    pub fn row(&mut self, meter: &Meter, work: &Work, done: &Published) -> anyhow::Result<Row> {
        let spent = self.spent(meter);
        let counted = self.counted()?;
        let counts = counted.counts;
        // Shares refer to the time in which something happened, without a final wait for events that never
        // came.
        let busy_us = counted.last_us.max(done.ended_us).saturating_sub(done.began_us);
        let busy_seconds = (busy_us.max(1) as f64 / 1e6).min(spent.seconds);
        let per_delivery = |number: f64| number / counts.delivered.max(1) as f64;
        // The time to the last response; an open loop that kept up fills its window, so its time is the
        // window.
        let answered_seconds = (done.ended_us.saturating_sub(done.began_us)).max(1) as f64 / 1e6;
        let window = work.schedule.window.as_secs_f64();
        let fills = work.schedule.each_max == u32::MAX;
        let resident_kib = self.running.server.costs().map(|costs| costs.resident_kib);
        let held = self.pool.len();
        let published_seconds = if fills { answered_seconds.max(window) } else { answered_seconds };
        let mut row = Row {
            connections: self.listeners(),
            publishers: u64::from(self.plan.publishers),
            payload: work.payload.name(),
            rate: work.schedule.rate.map(|rate| rate * f64::from(work.batch)),
            batch: u64::from(work.batch),
            seconds: work.schedule.window.as_secs_f64(),
            published: done.answered,
            published_per_s: done.answered as f64 / published_seconds,
            unsent: done.unsent,
            refused: done.refused,
            expected: done.answered * self.listeners(),
            missing: counted.missing,
            counts,
            ended: counted.ended,
            compressed: counted.compressed,
            latency: counted.latencies.summary(),
            publish_latency: done.latencies.summary(),
            cpu_us_per_delivery: spent.server.map(|costs| per_delivery(costs.cpu_seconds * 1e6)),
            cpu_share: spent.server.map(|costs| costs.cpu_seconds / busy_seconds),
            load_cpu_share: spent.own_share * spent.seconds / busy_seconds,
            wire_bytes_per_delivery: per_delivery(counted.wire_bytes as f64),
            event_bytes: done.event_bytes as f64 / done.answered.max(1) as f64,
            events_per_frame: counts.events_per_frame(),
            frame_deviation: counts.frame_deviation(),
            resident_kib,
            kib_per_connection: resident_kib
                .zip(self.resident_kib_before)
                .filter(|_| held >= FEW)
                .map(|(now, before)| (now as f64 - before as f64) / held as f64),
            ..self.empty_row()
        };
        self.add_notes(&mut row, done.refusal.as_deref(), &counted);
        Ok(row)
    }

    /// A row without figures: it names only the server and its load.
    pub fn empty_row(&self) -> Row {
        Row {
            peer: self.peer.to_string(),
            version: self.running.version.clone(),
            setup: self.running.setup.clone(),
            label: self.plan.label.clone(),
            transport: Some(self.setting.common.transport),
            ..Row::default()
        }
    }

    /// Adds the notes that are needed to interpret the figures.
    pub fn add_notes(&mut self, row: &mut Row, refusal: Option<&str>, counted: &Counted) {
        let saturation = row.saturation();
        let notes = &mut row.notes;
        notes.extend(saturation);
        if row.refused > 0 {
            let why = refusal.unwrap_or("no reason was given");
            notes.push(format!("{} events were refused, the first with {why}", grouped(row.refused)));
        }
        if self.plan.compress && row.compressed == 0 {
            notes.push("the server did not agree to compression".to_owned());
        }
        if row.load_cpu_share > LOAD_SHARE_MAX && !self.has_joined {
            notes.push(format!(
                "the load used {:.0} % of its CPU cores: it may have caused part of the latency, and the server may be able to carry more",
                row.load_cpu_share * 100.0
            ));
        }
        if row.cpu_us_per_delivery.is_none() && matches!(self.peer, Peer::Address(_)) {
            notes.push("give --pid to measure the server's CPU time and memory".to_owned());
        }
        let stalled = self.plan.readers.iter().filter(|spec| spec.stalls).count();
        if counted.stalled_closed > 0 {
            notes.push(format!(
                "{} of {stalled} stalled readers were closed by the server",
                counted.stalled_closed
            ));
        }
        notes.extend(counted.findings.iter().cloned());
        if !self.running.server.is_running() {
            notes.push(format!("the server ended unexpectedly: {}", self.running.server.last_words()));
        }
    }
}
