//! Stalled readers: some stop reading while events go on. The server's memory must stay flat, and the
//! others must not notice; a control run without the stalled ones stands beside it.

use std::time::Duration;

use clap::Args;

use super::Outcome;
use crate::{
    options::{Common, Load, Setting, positive, seconds},
    peers::Peer,
    reader::Seat,
    result::{Row, Table, grouped, maybe, short},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many readers read
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// How many stop reading
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<usize>)]
    pub stalled: usize,
    /// Events per second and publishers
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "500x4")]
    pub load: Load,
    /// How long the run without stalled readers is measured; as long as the other if not given
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub control_seconds: Option<Duration>,
}

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut control = setting.clone();
    control.common.seconds = options.control_seconds.unwrap_or(setting.common.seconds);
    for peer in &setting.common.peer {
        outcome.add(peer, one(&control, options, peer, 0).map(Some));
        outcome.add(peer, one(setting, options, peer, options.stalled).map(Some));
    }
    Ok(outcome)
}

fn one(setting: &Setting, options: &Options, peer: &Peer, stalled: usize) -> anyhow::Result<Row> {
    let label = match stalled {
        0 => "control".to_owned(),
        stalled => format!("{} stalled", grouped(stalled as u64)),
    };
    let mut plan = Plan::of(setting, options.connections, options.load.publishers, label);
    // Among the others, not behind them: every walk over the readers meets them.
    let every = options.connections.div_ceil(stalled.max(1));
    for index in (0..stalled).rev() {
        let at = (index * every).min(plan.seats.len());
        plan.seats.insert(at, Seat { stalls: true, ..Seat::default() });
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

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "run",
        "events/s",
        "delivered",
        "missing",
        "twice",
        "gaps",
        "p50 ms",
        "p99",
        "max",
        "CPU us/delivery",
        "resident MiB at the end",
        "grown in the second half, MiB",
    ]);
    for row in rows {
        let mib = |kib: f64| kib / 1024.0;
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            super::rate_of(row),
            grouped(row.counts.delivered),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            maybe(row.latency.map(|latency| latency.p50_ms)),
            maybe(row.latency.map(|latency| latency.p99_ms)),
            maybe(row.latency.map(|latency| latency.max_ms)),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            maybe(row.resident_kib.map(|kib| mib(kib as f64))),
            growth_kib(row).map_or_else(|| "–".to_owned(), |kib| short(mib(kib))),
        ]);
    }
    table
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
