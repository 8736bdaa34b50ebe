//! Ingest: as many events as are taken, in batches of 100 from one publisher and one by one from many. One
//! reader checks that all of them are there.

use clap::Args;

use super::Outcome;
use crate::{
    options::{Common, Load, Setting, positive},
    peers::Peer,
    result::{Row, Table, grouped, maybe, short},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many publish single events
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = positive::<u16>)]
    pub publishers: u16,
    /// How many events are in a batch, where one publishes batches
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = positive::<u32>)]
    pub batch: u32,
}

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        if peer.is_tidegate() {
            let label = format!("batches of {}, 1 publisher", options.batch);
            outcome.add(peer, one(setting, peer, 1, options.batch, label).map(Some));
        }
        let label = format!("single events, {} publishers", options.publishers);
        outcome.add(peer, one(setting, peer, options.publishers, 1, label).map(Some));
    }
    Ok(outcome)
}

fn one(setting: &Setting, peer: &Peer, publishers: u16, batch: u32, label: String) -> anyhow::Result<Row> {
    let mut session = Session::open(setting, peer, Plan::of(setting, 1, publishers, label))?;
    let mut work = session.work(Load { rate: None, publishers }, Arrivals::Even);
    work.batch = batch;
    session.warm_up(&work)?;
    session.measured(&work, |_, _| {})
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "load",
        "events/s",
        "published",
        "missing",
        "twice",
        "gaps",
        "answer p50 ms",
        "p99",
        "max",
        "CPU us/event",
        "of a core",
        "events/sync",
        "ms/sync",
    ]);
    for row in rows {
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            short(row.published_per_s),
            grouped(row.published),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            maybe(row.publish_latency.map(|latency| latency.p50_ms)),
            maybe(row.publish_latency.map(|latency| latency.p99_ms)),
            maybe(row.publish_latency.map(|latency| latency.max_ms)),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            super::percent(row.cpu_share),
            maybe(row.syncs.map(|syncs| row.published as f64 / syncs.count as f64)),
            maybe(row.syncs.map(|syncs| syncs.mean_ms)),
        ]);
    }
    table
}
