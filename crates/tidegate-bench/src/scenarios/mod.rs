//! The scenarios, one file each: what is run, and which figures are shown.

pub mod bandwidth;
pub mod fanout;
pub mod filters;
pub mod idle;
pub mod ingest;
pub mod orgs;
pub mod stalled;
pub mod storm;

use crate::{
    peers::Peer,
    result::{Row, Table, grouped, maybe, short},
};

/// What came of a scenario. A server that cannot be measured costs its own rows and no others.
#[derive(Debug, Default)]
pub struct Outcome {
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Adds a server's rows, or why there are none.
    pub fn add<R: IntoIterator<Item = Row>>(&mut self, peer: &Peer, measured: anyhow::Result<R>) {
        match measured {
            Ok(rows) => self.rows.extend(rows),
            Err(error) => {
                let words = format!("{peer}: {error:#}");
                // What fails at every load is said once.
                if !self.failures.contains(&words) {
                    eprintln!("tidegate-bench: {words}");
                    self.failures.push(words);
                }
            }
        }
    }
}

/// The columns that most scenarios show.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "load",
        "events/s",
        "delivered",
        "missing",
        "twice",
        "gaps",
        "mean ms",
        "p50",
        "p99",
        "p99.9",
        "max",
        "CPU us/delivery",
        "of a core",
        "KiB/connection",
        "bytes/delivery",
        "events/frame",
        "answer p50 ms",
        "answer p99",
    ]);
    for row in rows {
        let answer = |of: fn(&crate::latency::Summary) -> f64| maybe(row.publish_latency.as_ref().map(of));
        let ms = |of: fn(&crate::latency::Summary) -> f64| maybe(row.latency.as_ref().map(of));
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            rate_of(row),
            grouped(row.counts.delivered),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            ms(|l| l.mean_ms),
            ms(|l| l.p50_ms),
            ms(|l| l.p99_ms),
            ms(|l| l.p999_ms),
            ms(|l| l.max_ms),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            percent(row.cpu_share),
            maybe(row.kib_per_connection),
            short(row.wire_bytes_per_delivery),
            short(row.events_per_frame),
            answer(|l| l.p50_ms),
            answer(|l| l.p99_ms),
        ]);
    }
    table
}

/// Events a second, marked where the server did not keep up.
pub fn rate_of(row: &Row) -> String {
    let mark = if row.is_saturated() { " (sat.)" } else { "" };
    format!("{}{mark}", short(row.published_per_s))
}

/// A share in percent.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0))
}
