//! Bandwidth: bytes on the wire compared with bytes published, plain and compressed, for small events and for
//! real webhooks. Events are sent one at a time, which is the hardest case for compression.

use std::path::PathBuf;

use clap::Args;

use super::{
    Outcome,
    columns::{self, CPU, Column, DELIVERED, EVENTS_PER_FRAME, GAPS, LOAD, MISSING, SERVER, TWICE, percent},
};
use crate::{
    event::Payload,
    options::{Common, Load, Setting, positive},
    peers::Peer,
    result::{Row, Table, maybe, short},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of readers
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Events per second and number of publishers
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "50x1")]
    pub load: Load,
    /// Real webhooks to measure too: api.github.com/index.json of the npm package @octokit/webhooks-examples
    #[arg(long, value_name = "FILE")]
    pub webhooks: Option<PathBuf>,
}

/// The size of a small event; the bandwidth target is defined for it.
const SMALL_BYTES: usize = 280;

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut payloads = vec![Payload::Order { bytes: SMALL_BYTES }];
    if let Some(path) = &options.webhooks {
        payloads.push(Payload::webhooks(path)?);
    }
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        for payload in &payloads {
            for compress in [false, true] {
                outcome.add(peer, measure_peer(setting, options, peer, payload, compress).map(Some));
            }
        }
    }
    Ok(outcome)
}

fn measure_peer(
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

/// The columns of its table.
const COLUMNS: &[Column] = &[
    SERVER,
    ("events", LOAD.1),
    DELIVERED,
    MISSING,
    TWICE,
    GAPS,
    ("bytes/event, JSON", |row| short(row.event_bytes)),
    ("bytes/delivery, wire", |row| short(row.wire_bytes_per_delivery)),
    ("bandwidth (<= 30 % of raw)", |row| percent(row.bandwidth_share())),
    EVENTS_PER_FRAME,
    CPU,
    ("compressed", |row| if row.compressed > 0 { "yes" } else { "no" }.to_owned()),
    ("mean latency (<= 30 ms)", |row| maybe(row.latency.map(|latency| latency.mean_ms))),
];

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::table(COLUMNS, rows)
}
