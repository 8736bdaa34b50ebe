//! Bandwidth: what the wire carries of the events' own bytes, plain and compressed, for small events and
//! for real webhooks. Events go one at a time, the hardest case for compression.

use std::path::PathBuf;

use clap::Args;

use super::{Outcome, percent};
use crate::{
    event::Payload,
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
    /// How many readers
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Events per second and publishers
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "50x1")]
    pub load: Load,
    /// Real webhooks: api.github.com/index.json of the npm package @octokit/webhooks-examples
    #[arg(long, value_name = "FILE")]
    pub webhooks: Option<PathBuf>,
}

/// The size of a small event here: the first wish's own.
const SMALL_BYTES: usize = 280;

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut payloads = vec![Payload::Order { bytes: SMALL_BYTES }];
    if let Some(path) = &options.webhooks {
        payloads.push(Payload::webhooks(path)?);
    }
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        for payload in &payloads {
            for compress in [false, true] {
                outcome.add(peer, one(setting, options, peer, payload, compress).map(Some));
            }
        }
    }
    Ok(outcome)
}

fn one(
    setting: &Setting,
    options: &Options,
    peer: &Peer,
    payload: &Payload,
    compress: bool,
) -> anyhow::Result<Row> {
    let label = format!("{}, {}", payload.name(), if compress { "compressed" } else { "plain" });
    let plan = Plan { compress, ..Plan::of(setting, options.connections, options.load.publishers, label) };
    let mut session = Session::open(setting, peer, plan)?;
    let mut work = session.work(options.load, Arrivals::Even);
    work.payload = payload.clone();
    session.measure(&work)
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "events",
        "delivered",
        "missing",
        "twice",
        "gaps",
        "bytes/event, JSON",
        "bytes/delivery, wire",
        "bandwidth (<= 30 % of raw)",
        "events/frame",
        "CPU us/delivery",
        "compressed",
        "mean latency (<= 30 ms)",
    ]);
    for row in rows {
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            grouped(row.counts.delivered),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            short(row.event_bytes),
            short(row.wire_bytes_per_delivery),
            percent(row.bandwidth_share()),
            short(row.events_per_frame),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            if row.compressed > 0 { "yes" } else { "no" }.to_owned(),
            maybe(row.latency.map(|latency| latency.mean_ms)),
        ]);
    }
    table
}
