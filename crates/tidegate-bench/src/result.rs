//! The results of a run: rows of figures, saved as JSON and shown as tables.

use serde::{Deserialize, Serialize};

use crate::{latency::Summary, ledger::Counts, machine::Machine, peers::Transport};

/// One run of the tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The format of this file.
    pub format: u32,
    pub tool: String,
    pub scenario: String,
    /// The command line as typed, without credentials.
    pub command: String,
    pub started: String,
    pub machine: Machine,
    pub server_cores: Option<String>,
    pub load_cores: Option<String>,
    pub rows: Vec<Row>,
}

/// The format that this version reads and writes.
pub const FORMAT: u32 = 2;

/// One measurement of one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub peer: String,
    /// The server's version and setup.
    pub version: String,
    pub setup: String,
    /// What distinguishes this row within the run.
    pub label: String,
    pub connections: u64,
    pub transport: Option<Transport>,
    /// The number of connections that the server compresses.
    pub compressed: u64,
    pub payload: String,
    pub publishers: u64,
    /// The requested events per second; none for as many as possible.
    pub rate: Option<f64>,
    /// Events in one request.
    pub batch: u64,
    pub seconds: f64,
    pub published: u64,
    pub published_per_s: f64,
    /// Events that were due but not accepted in time.
    pub unsent: u64,
    /// Events that were refused.
    pub refused: u64,
    pub expected: u64,
    pub missing: u64,
    pub counts: Counts,
    /// Connections that ended unexpectedly.
    pub ended: u64,
    /// From an event's scheduled time to its receipt by each reader.
    pub latency: Option<Summary>,
    /// From an event's scheduled time to its publisher's response.
    pub publish_latency: Option<Summary>,
    /// The server's CPU time per delivery.
    pub cpu_us_per_delivery: Option<f64>,
    /// The server's CPU time, as a share of one core.
    pub cpu_share: Option<f64>,
    /// The load's CPU time, as a share of its cores.
    pub load_cpu_share: f64,
    pub wire_bytes_per_delivery: f64,
    /// The size of an event as published, as JSON.
    pub event_bytes: f64,
    pub events_per_frame: f64,
    /// The standard deviation of the number of events in a message.
    pub frame_deviation: f64,
    /// Seconds since the start, and the average number of events in a message since the previous entry.
    pub frame_events: Vec<(f64, f64)>,
    pub resident_kib: Option<u64>,
    /// The growth of the resident memory since before the readers came, per reader; buffers and tails are
    /// included.
    pub kib_per_connection: Option<f64>,
    pub idle: Option<Idle>,
    pub storm: Option<Storm>,
    pub orgs: Option<Orgs>,
    /// The p99 of another org during the storm, divided by its p99 without the storm.
    pub p99_ratio: Option<f64>,
    /// Seconds since the start, and the server's resident memory in KiB.
    pub memory: Vec<(f64, u64)>,
    pub syncs: Option<Syncs>,
    /// Notes that are needed to interpret the figures.
    pub notes: Vec<String>,
}

/// What idle connections cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// The server's resident memory per connection.
    pub kib_per_connection: Option<f64>,
    /// The kernel's memory for both ends of a connection: TCP buffers, and slabs.
    pub tcp_kib_per_connection: f64,
    pub slab_kib_per_connection: f64,
    pub connects_per_s: f64,
    pub cpu_us_per_connect: Option<f64>,
}

/// How the readers of a storm caught up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// How many events each reader was behind.
    pub behind: u64,
    /// The time until the last reader had all its events and was live again.
    pub back_ms: f64,
    pub cpu_seconds: Option<f64>,
    /// Attempts to connect that were refused or failed.
    pub retries: u64,
}

/// How often Tidegate synced its log during the measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Syncs {
    pub count: u64,
    /// The mean time to write and sync one group of events.
    pub mean_ms: f64,
}

/// How evenly several orgs of one gateway were served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Orgs {
    pub count: u64,
    /// The lowest and the highest median latency of an org.
    pub p50_best_ms: f64,
    pub p50_worst_ms: f64,
    /// How much the number of events in a message varied over time, in the org with the largest variation:
    /// the standard deviation of `frame_events` divided by their mean.
    pub drift: Option<f64>,
}

/// The first word of the note on a saturated server.
pub const SATURATED: &str = "saturated";

impl Row {
    /// How much the number of events in a message varied over the run: standard deviation divided by mean.
    pub fn drift(&self) -> Option<f64> {
        let count = self.frame_events.len() as f64;
        let mean = self.frame_events.iter().map(|(_, events)| events).sum::<f64>() / count;
        let square = self.frame_events.iter().map(|(_, events)| (events - mean).powi(2)).sum::<f64>() / count;
        (count >= 2.0).then(|| square.sqrt() / mean)
    }

    /// The bytes on the wire as a share of the bytes published.
    pub fn bandwidth_share(&self) -> Option<f64> {
        (self.event_bytes > 0.0 && self.counts.delivered > 0)
            .then(|| self.wire_bytes_per_delivery / self.event_bytes)
    }

    /// Whether the server could not keep up with the requested rate.
    pub fn is_saturated(&self) -> bool {
        // More than one event in fifty. A smaller share is due to the end of the window, not to a queue.
        self.unsent * 50 > self.published + self.unsent
    }

    /// The same as text.
    pub fn saturation(&self) -> Option<String> {
        let unsent = grouped(self.unsent);
        self.is_saturated().then(|| format!("{SATURATED}: {unsent} events were due but not accepted in time"))
    }

    /// What the server did wrong, as text; empty if nothing.
    pub fn faults(&self) -> Vec<String> {
        let Counts { duplicates, reordered, gaps, holes, .. } = self.counts;
        [
            (self.missing, "missing"),
            (duplicates, "duplicate"),
            (reordered, "out of order"),
            (holes, "undeclared holes"),
            (gaps, "declared gaps"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| format!("{} {words}", grouped(count)))
        .collect()
    }
}

/// A table, shown in a terminal or as Markdown.
#[derive(Debug, Default)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// How many of the first columns are text.
    pub words: usize,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new(), words: 2 }
    }

    /// The table for a terminal: text aligned left, numbers aligned right.
    pub fn text(&self) -> String {
        let all = std::iter::once(&self.head).chain(&self.rows);
        let mut widths = vec![0; self.head.len()];
        for row in all.clone() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut out = String::new();
        for row in all {
            let cells =
                row.iter().zip(&widths).enumerate().map(|(index, (cell, width))| match index < self.words {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                });
            out.push_str("  ");
            out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            out.push('\n');
        }
        out
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<_> =
            (0..self.head.len()).map(|i| if i < self.words { "---" } else { "--:" }.to_owned()).collect();
        let mut out = line(&self.head) + &line(&rule);
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out
    }
}

/// A whole number with commas as thousands separators.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number rounded to the digits that matter.
pub fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{number:.2}"),
        size if size < 100.0 => format!("{number:.1}"),
        _ => grouped(number.round().max(0.0) as u64),
    }
}

/// A figure, or a dash if there is none.
pub fn maybe(number: Option<f64>) -> String {
    number.map_or_else(dash, short)
}

/// The cell of a figure that does not exist.
pub fn dash() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
        for (number, text) in [(0.0, "0"), (0.123, "0.12"), (4.567, "4.6"), (1234.5, "1,235")] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn a_row_says_what_is_wrong() {
        let mut row = Row::default();
        assert_eq!(row.faults(), [""; 0]);
        (row.missing, row.counts.duplicates) = (2, 1);
        assert_eq!(row.faults(), ["2 missing", "1 duplicate"]);
        assert_eq!(row.bandwidth_share(), None);
        (row.event_bytes, row.wire_bytes_per_delivery, row.counts.delivered) = (100.0, 28.0, 1);
        assert_eq!(row.bandwidth_share(), Some(0.28));
    }

    #[test]
    fn tables() {
        let mut table = Table::new(&["server", "load", "ms"]);
        table.rows.push(vec!["a".into(), "50".into(), "2.1".into()]);
        assert_eq!(table.text(), "  server  load   ms\n  a       50    2.1\n");
        assert_eq!(table.markdown(), "| server | load | ms |\n| --- | --- | --: |\n| a | 50 | 2.1 |\n");
    }
}
