//! The columns of result tables: a heading and the figure below it. Most scenarios share them.

use crate::result::{Row, Table, dash, grouped, maybe, short};

/// A heading, and the text of its cell in a row.
pub type Column = (&'static str, fn(&Row) -> String);

pub const SERVER: Column = ("server", |row| row.peer.clone());
pub const LOAD: Column = ("load", |row| row.label.clone());
pub const RATE: Column = ("events/s", rate);
pub const DELIVERED: Column = ("delivered", |row| grouped(row.counts.delivered));
pub const MISSING: Column = ("missing", |row| grouped(row.missing));
pub const TWICE: Column = ("twice", |row| grouped(row.counts.duplicates));
/// Declared gaps and undeclared holes.
pub const GAPS: Column = ("gaps", |row| grouped(row.counts.gaps + row.counts.holes));
pub const P50: Column = ("p50 ms", |row| maybe(row.latency.map(|latency| latency.p50_ms)));
pub const P99: Column = ("p99", |row| maybe(row.latency.map(|latency| latency.p99_ms)));
pub const MAX: Column = ("max", |row| maybe(row.latency.map(|latency| latency.max_ms)));
pub const CPU: Column = ("CPU us/delivery", |row| hundredths(row.cpu_us_per_delivery));
pub const CORE_SHARE: Column = ("of a core", |row| percent(row.cpu_share));
pub const EVENTS_PER_FRAME: Column = ("events/frame", |row| short(row.events_per_frame));
pub const RESIDENT: Column = ("resident MiB", |row| maybe(row.resident_kib.map(|kib| kib as f64 / 1024.0)));

/// A table with these columns.
pub fn table(columns: &[Column], rows: &[Row]) -> Table {
    let headings: Vec<_> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut table = Table::new(&headings);
    table.rows = rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()).collect();
    table
}

/// The table of the scenarios without special figures.
pub fn common(rows: &[Row]) -> Table {
    let columns: [Column; 19] = [
        SERVER,
        LOAD,
        RATE,
        DELIVERED,
        MISSING,
        TWICE,
        GAPS,
        ("mean ms", |row| maybe(row.latency.map(|latency| latency.mean_ms))),
        ("p50", P50.1),
        P99,
        ("p99.9", |row| maybe(row.latency.map(|latency| latency.p999_ms))),
        MAX,
        CPU,
        CORE_SHARE,
        ("KiB/connection", |row| maybe(row.kib_per_connection)),
        ("bytes/delivery", |row| short(row.wire_bytes_per_delivery)),
        EVENTS_PER_FRAME,
        ("answer p50 ms", |row| maybe(row.publish_latency.map(|latency| latency.p50_ms))),
        ("answer p99", |row| maybe(row.publish_latency.map(|latency| latency.p99_ms))),
    ];
    table(&columns, rows)
}

/// Events per second, with a mark if the server did not keep up.
fn rate(row: &Row) -> String {
    let mark = if row.is_saturated() { " (sat.)" } else { "" };
    format!("{}{mark}", short(row.published_per_s))
}

/// A figure with two decimals, or a dash if there is none.
pub fn hundredths(number: Option<f64>) -> String {
    number.map_or_else(dash, |number| format!("{number:.2}"))
}

/// A share in percent, or a dash if there is none.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(dash, |share| format!("{:.0} %", share * 100.0))
}
