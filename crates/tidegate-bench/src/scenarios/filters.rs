//! Filters: every reader gets every event, through one filter for all or through many different filters. The
//! difference is the cost of filters.

use anyhow::ensure;
use clap::Args;

use super::{Outcome, columns};
use crate::{
    options::{Common, Load, Setting, positive},
    peers::Peer,
    reader::ReaderSpec,
    result::{Row, Table},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of readers
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Number of different filters; several runs separated by commas
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1,200", value_parser = positive::<usize>)]
    pub filters: Vec<usize>,
    /// Events per second and number of publishers
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "200x4")]
    pub load: Load,
}

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        for filters in &options.filters {
            outcome.add(peer, measure_peer(setting, options, peer, *filters).map(Some));
        }
    }
    Ok(outcome)
}

fn measure_peer(setting: &Setting, options: &Options, peer: &Peer, filters: usize) -> anyhow::Result<Row> {
    ensure!(peer.is_tidegate(), "it has no services to filter by; filters is for tidegate");
    let label = format!("{filters} filter{}", if filters == 1 { "" } else { "s" });
    let mut plan = Plan::of(setting, options.connections, options.load.publishers, label);
    // All subscribe to `orders`, the service of all events; each filter also has a service of its own.
    for (index, spec) in plan.readers.iter_mut().enumerate() {
        let services = format!("orders,own-{}", index % filters);
        *spec = ReaderSpec { services: Some(services.into()), ..ReaderSpec::default() };
    }
    let mut session = Session::open(setting, peer, plan)?;
    let work = session.work(options.load, Arrivals::Even);
    session.measure(&work)
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::common(rows)
}
