//! Stalled readers: some stop reading while events continue. The server's memory must stay constant, and the
//! other readers must not be delayed; a control run without stalled readers is measured for comparison.

use std::time::Duration;

use clap::Args;

use super::{
    Outcome,
    columns::{
        self, CPU, Column, DELIVERED, GAPS, LOAD, MAX, MISSING, P50, P99, RATE, RESIDENT, SERVER, TWICE,
    },
};
use crate::{
    options::{Common, Load, Setting, positive, seconds},
    peers::Peer,
    reader::ReaderSpec,
    result::{Row, Table, grouped, maybe},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of readers that keep reading
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Number of readers that stop reading
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<usize>)]
    pub stalled: usize,
    /// Events per second and number of publishers
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "500x4")]
    pub load: Load,
    /// Duration of the control run, without stalled readers [default: the value of --seconds]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub control_seconds: Option<Duration>,
}

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut control = setting.clone();
    control.common.seconds = options.control_seconds.unwrap_or(setting.common.seconds);
    for peer in &setting.common.peer {
        outcome.add(peer, measure_peer(&control, options, peer, 0).map(Some));
        outcome.add(peer, measure_peer(setting, options, peer, options.stalled).map(Some));
    }
    Ok(outcome)
}

fn measure_peer(setting: &Setting, options: &Options, peer: &Peer, stalled: usize) -> anyhow::Result<Row> {
    let label = match stalled {
        0 => "control".to_owned(),
        stalled => format!("{} stalled", grouped(stalled as u64)),
    };
    let mut plan = Plan::of(setting, options.connections, options.load.publishers, label);
    // Spread among the others, so that every part of a fan-out pass meets them.
    let every = options.connections.div_ceil(stalled.max(1));
    for index in (0..stalled).rev() {
        let at = (index * every).min(plan.readers.len());
        plan.readers.insert(at, ReaderSpec { stalls: true, ..ReaderSpec::default() });
    }
    let mut session = Session::open(setting, peer, plan)?;
    let work = session.work(options.load, Arrivals::Even);
    session.warm_up(&work)?;
    let mut memory = Vec::new();
    let mut row = session.measured(&work, |session, at| {
        let due = memory.last().is_none_or(|(last, _): &(f64, u64)| at.as_secs_f64() - last >= 0.5);
        if due && let Some(costs) = session.running.server.costs() {
            memory.push((at.as_secs_f64(), costs.resident_kib));
        }
    })?;
    row.memory = memory;
    Ok(row)
}

/// How much the server's memory grew over the second half of a run, in KiB.
pub fn growth_kib(row: &Row) -> Option<f64> {
    let half = row.memory.get(row.memory.len() / 2..)?;
    let ((_, first), (_, last)) = half.first().zip(half.last())?;
    Some(*last as f64 - *first as f64)
}

/// The columns of its table.
const COLUMNS: &[Column] = &[
    SERVER,
    ("run", LOAD.1),
    RATE,
    DELIVERED,
    MISSING,
    TWICE,
    GAPS,
    P50,
    P99,
    MAX,
    CPU,
    ("resident MiB at the end", RESIDENT.1),
    ("grown in the second half, MiB", |row| maybe(growth_kib(row).map(|kib| kib / 1024.0))),
];

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::table(COLUMNS, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_second_half() {
        let memory = vec![(0.0, 100), (0.5, 900), (1.0, 1000), (1.5, 1010)];
        assert_eq!(growth_kib(&Row { memory, ..Row::default() }), Some(10.0));
        assert_eq!(growth_kib(&Row::default()), None);
    }
}
