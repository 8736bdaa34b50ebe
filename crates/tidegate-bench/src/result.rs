//! What a run found: rows of figures, kept as JSON and shown as tables.

use serde::{Deserialize, Serialize};

use crate::{books::Counts, latency::Summary, machine::Machine, peers::Transport};

/// One call of the tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The format of this file.
    pub format: u32,
    pub tool: String,
    pub scenario: String,
    /// As it was typed, but for credentials.
    pub command: String,
    pub started: String,
    pub machine: Machine,
    pub server_cores: Option<String>,
    pub load_cores: Option<String>,
    pub rows: Vec<Row>,
}

/// The format that this version writes and reads.
pub const FORMAT: u32 = 2;

/// One measurement of one server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub peer: String,
    /// Its version and how it was set up.
    pub version: String,
    pub setup: String,
    /// What sets this row apart within the run, in words.
    pub label: String,
    pub connections: u64,
    pub transport: Option<Transport>,
    /// Connections that the server compresses to.
    pub compressed: u64,
    pub payload: String,
    pub publishers: u64,
    /// Events a second that were asked for; none: as many as go.
    pub rate: Option<f64>,
    /// Events in one request.
    pub batch: u64,
    pub seconds: f64,
    pub published: u64,
    pub published_per_s: f64,
    /// Events that fell due and were not taken in time.
    pub unsent: u64,
    /// Events that were refused.
    pub refused: u64,
    pub expected: u64,
    pub missing: u64,
    pub counts: Counts,
    /// Connections that ended though nobody asked for it.
    pub ended: u64,
    /// From when an event was due to each reader's read.
    pub latency: Option<Summary>,
    /// From when an event was due to its publisher's answer.
    pub publish_latency: Option<Summary>,
    /// The server's processor time for one delivery.
    pub cpu_us_per_delivery: Option<f64>,
    /// The server's processor time, of one core.
    pub cpu_share: Option<f64>,
    /// The load side's, of the cores that it has.
    pub load_cpu_share: f64,
    pub wire_bytes_per_delivery: f64,
    /// The size of an event as JSON, as it was published.
    pub event_bytes: f64,
    pub events_per_frame: f64,
    /// Its standard deviation, from message to message.
    pub frame_deviation: f64,
    /// Seconds into the run, and how many events a message held on average since the entry before.
    pub frame_events: Vec<(f64, f64)>,
    pub resident_kib: Option<u64>,
    /// What it grew by since before the readers, for each of them: buffers and tails included.
    pub kib_per_connection: Option<f64>,
    pub idle: Option<Idle>,
    pub storm: Option<Storm>,
    pub orgs: Option<Orgs>,
    /// The p99 of another org during the storm, by that without it.
    pub p99_ratio: Option<f64>,
    /// Seconds into the run, and the server's resident memory in KiB.
    pub memory: Vec<(f64, u64)>,
    pub syncs: Option<Syncs>,
    /// What the reader of these figures must know.
    pub notes: Vec<String>,
}

/// What connections that only stand cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// The server's resident memory a connection.
    pub kib_per_connection: Option<f64>,
    /// The kernel's, of both ends: TCP buffers, and slabs.
    pub tcp_kib_per_connection: f64,
    pub slab_kib_per_connection: f64,
    pub connects_per_s: f64,
    pub cpu_us_per_connect: Option<f64>,
}

/// How all came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Storm {
    /// Events that each was behind.
    pub behind: u64,
    /// Until the last was live again, with all its events.
    pub back_ms: f64,
    pub cpu_seconds: Option<f64>,
    /// Attempts that were refused or broke on the way.
    pub retries: u64,
}

/// How often Tidegate synced its log meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Syncs {
    pub count: u64,
    /// Writing and syncing one group of events.
    pub mean_ms: f64,
}

/// How alike several orgs of one gateway fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Orgs {
    pub count: u64,
    /// The median of the org that fared best, and worst.
    pub p50_best_ms: f64,
    pub p50_worst_ms: f64,
    /// How the number of events in a message wandered in the org where it did most: the standard deviation
    /// of `frame_events` as a share of their mean.
    pub drift: Option<f64>,
}

/// How a note begins that says so.
pub const SATURATED: &str = "saturated";

impl Row {
    /// How the number of events in a message wandered over the run, as a share of it.
    pub fn drift(&self) -> Option<f64> {
        let count = self.frame_events.len() as f64;
        let mean = self.frame_events.iter().map(|(_, events)| events).sum::<f64>() / count;
        let square = self.frame_events.iter().map(|(_, events)| (events - mean).powi(2)).sum::<f64>() / count;
        (count >= 2.0).then(|| square.sqrt() / mean)
    }

    /// What share of the published bytes the wire carried.
    pub fn bandwidth_share(&self) -> Option<f64> {
        (self.event_bytes > 0.0 && self.counts.delivered > 0)
            .then(|| self.wire_bytes_per_delivery / self.event_bytes)
    }

    /// Whether the server could not keep the pace that was asked.
    pub fn is_saturated(&self) -> bool {
        // One in fifty: less is the end of the window, and no queue.
        self.unsent * 50 > self.published + self.unsent
    }

    /// The same in words.
    pub fn saturation(&self) -> Option<String> {
        let unsent = grouped(self.unsent);
        self.is_saturated()
            .then(|| format!("{SATURATED}: {unsent} events fell due and were not taken in time"))
    }

    /// What the server did wrong, in words; empty if nothing.
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

/// A table: for the terminal, or as Markdown.
#[derive(Debug, Default)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// How many columns, from the left, are words.
    pub words: usize,
}

impl Table {
    /// One with these columns.
    pub fn new(head: &[&str]) -> Self {
        Self { head: head.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new(), words: 2 }
    }

    /// The table for a terminal: words to the left, numbers to the right.
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

/// A whole number with commas between thousands.
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

/// A number with as many digits as it is worth.
pub fn short(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size < 1.0 => format!("{number:.2}"),
        size if size < 100.0 => format!("{number:.1}"),
        _ => grouped(number.round().max(0.0) as u64),
    }
}

/// A figure that may not be there.
pub fn maybe(number: Option<f64>) -> String {
    number.map_or_else(|| "–".to_owned(), short)
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
