//! Filters: every reader gets every event, through one filter for all or through many different ones. The
//! difference is what filters cost.

use anyhow::ensure;
use clap::Args;

use super::Outcome;
use crate::{
    options::{Common, Load, Setting, positive},
    peers::Peer,
    reader::Seat,
    result::{Row, Table},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many readers
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// How many different filters they have, several runs with commas between them
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,200", value_parser = positive::<usize>)]
    pub filters: Vec<usize>,
    /// Events per second and publishers
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "200x4")]
    pub load: Load,
}

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        for filters in &options.filters {
            outcome.add(peer, one(setting, options, peer, *filters).map(Some));
        }
    }
    Ok(outcome)
}

fn one(setting: &Setting, options: &Options, peer: &Peer, filters: usize) -> anyhow::Result<Row> {
    ensure!(peer.is_tidegate(), "it has no services to filter by; filters is for tidegate");
    let label = format!("{filters} filter{}", if filters == 1 { "" } else { "s" });
    let mut plan = Plan::of(setting, options.connections, options.load.publishers, label);
    // All see `orders`, where the events are; each filter has a service of its own beside it.
    for (index, seat) in plan.seats.iter_mut().enumerate() {
        let services = format!("orders,own-{}", index % filters);
        *seat = Seat { services: Some(services.into()), ..Seat::default() };
    }
    let mut session = Session::open(setting, peer, plan)?;
    let work = session.work(options.load, Arrivals::Even);
    session.measure(&work)
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    super::table(rows)
}
