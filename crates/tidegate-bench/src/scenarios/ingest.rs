//! Ingest: as many events as the server accepts, in batches (from one publisher, if nothing else is asked for)
//! and one by one from many. One reader checks that all of them arrive.

use clap::Args;

use super::{
    Outcome,
    columns::{self, CORE_SHARE, CPU, Column, GAPS, LOAD, MISSING, SERVER, TWICE},
};
use crate::{
    options::{Common, Load, Setting, positive},
    peers::Peer,
    result::{Row, Table, grouped, maybe, short},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of publishers of single events
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = positive::<u16>)]
    pub publishers: u16,
    /// Number of events in a batch
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = positive::<u32>)]
    pub batch: u32,
    /// Number of publishers of batches
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = positive::<u16>)]
    pub batch_publishers: u16,
}

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        if peer.is_tidegate() {
            let label = format!("batches of {}, {}", options.batch, publishers(options.batch_publishers));
            let row = measure_peer(setting, peer, options.batch_publishers, options.batch, label);
            outcome.add(peer, row.map(Some));
        }
        let label = format!("single events, {}", publishers(options.publishers));
        outcome.add(peer, measure_peer(setting, peer, options.publishers, 1, label).map(Some));
    }
    Ok(outcome)
}

fn publishers(count: u16) -> String {
    if count == 1 { "1 publisher".to_owned() } else { format!("{count} publishers") }
}

fn measure_peer(
    setting: &Setting,
    peer: &Peer,
    publishers: u16,
    batch: u32,
    label: String,
) -> anyhow::Result<Row> {
    let mut session = Session::open(setting, peer, Plan::of(setting, 1, publishers, label))?;
    let mut work = session.work(Load { rate: None, publishers }, Arrivals::Even);
    work.batch = batch;
    session.warm_up(&work)?;
    session.measured(&work, |_, _| {})
}

/// The columns of its table.
const COLUMNS: &[Column] = &[
    SERVER,
    LOAD,
    ("events/s", |row| short(row.published_per_s)),
    ("published", |row| grouped(row.published)),
    MISSING,
    TWICE,
    GAPS,
    ("answer p50 ms", |row| maybe(row.publish_latency.map(|latency| latency.p50_ms))),
    ("p99", |row| maybe(row.publish_latency.map(|latency| latency.p99_ms))),
    ("max", |row| maybe(row.publish_latency.map(|latency| latency.max_ms))),
    ("CPU us/event", CPU.1),
    CORE_SHARE,
    ("events/sync", |row| maybe(row.syncs.map(|syncs| row.published as f64 / syncs.count as f64))),
    ("ms/sync", |row| maybe(row.syncs.map(|syncs| syncs.mean_ms))),
];

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::table(COLUMNS, rows)
}
