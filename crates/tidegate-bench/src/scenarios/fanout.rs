//! Fan-out: every event goes to every reader, at several rates; or a search for the highest rate.

use clap::Args;

use super::{Outcome, columns};
use crate::{
    options::{Common, Load, Setting, positive},
    peers::Peer,
    result::{Row, Table, short},
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
    /// Events per second and number of publishers; several separated by commas: 50x1,1000x4,maxx16. With max,
    /// each publisher sends its next event when the last one was answered
    #[arg(long, value_name = "RATExPUBLISHERS", value_delimiter = ',', default_value = "50x1,1000x4")]
    pub load: Vec<Load>,
    /// How publishers share the schedule: in turn, or all at the same moment
    #[arg(long, value_enum, default_value = "even")]
    pub arrivals: Arrivals,
    /// Number of measurements per load and server, in alternation; the one with the median CPU time is shown
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = positive::<u32>)]
    pub repeat: u32,
    /// Search for the highest rate at which p99 stays within this bound and the server keeps up
    #[arg(long, value_name = "MILLISECONDS")]
    pub search_p99: Option<f64>,
}

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for load in &options.load {
        let mut measured = vec![Vec::new(); setting.common.peer.len()];
        for _ in 0..options.repeat {
            for (peer, rows) in setting.common.peer.iter().zip(&mut measured) {
                let row = match options.search_p99 {
                    None => once(setting, options, peer, *load, load.to_string()),
                    Some(bound_ms) => search(setting, options, peer, *load, bound_ms),
                };
                match row {
                    Ok(row) => rows.push(row),
                    Err(error) => outcome.add(peer, Err::<Option<Row>, _>(error)),
                }
            }
        }
        outcome.rows.extend(measured.into_iter().filter_map(median));
    }
    Ok(outcome)
}

/// The run with the median CPU time per delivery, with a note on the range of all runs. The faults of the
/// other runs are added to it.
fn median(mut rows: Vec<Row>) -> Option<Row> {
    let us = |row: &Row| row.cpu_us_per_delivery.unwrap_or(0.0);
    rows.sort_by(|one, other| us(one).total_cmp(&us(other)));
    let (least, most) = (rows.first().map(us)?, rows.last().map(us)?);
    let count = rows.len();
    let mut row = rows.swap_remove(count / 2);
    if count > 1 {
        row.notes.push(format!("{count} runs, {least:.2} to {most:.2} us a delivery"));
    }
    for other in rows {
        row.missing += other.missing;
        row.counts.duplicates += other.counts.duplicates;
        row.counts.reordered += other.counts.reordered;
        row.counts.holes += other.counts.holes;
        row.counts.gaps += other.counts.gaps;
    }
    Some(row)
}

fn once(setting: &Setting, options: &Options, peer: &Peer, load: Load, label: String) -> anyhow::Result<Row> {
    let plan = Plan::of(setting, options.connections, load.publishers, label);
    let mut session = Session::open(setting, peer, plan)?;
    let work = session.work(load, options.arrivals);
    session.measure(&work)
}

/// Doubles the rate until the server no longer keeps up, then continues with a binary search. A rate counts
/// as too high only after two failures: otherwise one hiccup of the machine could end the search far too low.
fn search(
    setting: &Setting,
    options: &Options,
    peer: &Peer,
    load: Load,
    bound_ms: f64,
) -> anyhow::Result<Row> {
    let (mut carried, mut too_much): (Option<Row>, Option<f64>) = (None, None);
    let mut rate = load.rate.unwrap_or(250.0);
    let mut has_failed_once = false;
    for _ in 0..16 {
        let load = Load { rate: Some(rate), ..load };
        let mut row = once(setting, options, peer, load, format!("most x {}", load.publishers))?;
        let p99_ms = row.latency.map_or(f64::INFINITY, |latency| latency.p99_ms);
        if !row.is_saturated() && row.missing == 0 && p99_ms <= bound_ms {
            let mut note = format!("the highest rate with p99 up to {bound_ms} ms, within 10 %");
            if let Some(syncs) = row.syncs {
                let events = row.published as f64 / syncs.count as f64;
                note += &format!(
                    "; a sync of the log took {} ms for {} events",
                    short(syncs.mean_ms),
                    short(events)
                );
            }
            row.notes.push(note);
            carried = Some(row);
            has_failed_once = false;
        } else if !has_failed_once {
            has_failed_once = true;
            continue;
        } else {
            has_failed_once = false;
            if carried.is_none() && rate < 10.0 {
                return Ok(row);
            }
            too_much = Some(rate);
        }
        let carried_rate = carried.as_ref().and_then(|row| row.rate);
        rate = match (carried_rate, too_much) {
            (Some(low), Some(high)) if high / low < 1.1 => break,
            (Some(low), Some(high)) => (low + high) / 2.0,
            (Some(low), None) => low * 2.0,
            (None, _) => rate / 2.0,
        };
    }
    carried.ok_or_else(|| anyhow::anyhow!("{peer} keeps no rate with p99 up to {bound_ms} ms"))
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::common(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_shown_and_no_fault_is_lost() {
        let row = |us, missing| Row { cpu_us_per_delivery: Some(us), missing, ..Row::default() };
        let row = median(vec![row(9.0, 1), row(1.0, 0), row(2.0, 0)]).expect("a row");
        assert_eq!((row.cpu_us_per_delivery, row.missing), (Some(2.0), 1));
        assert_eq!(row.notes, ["3 runs, 1.00 to 9.00 us a delivery"]);
        assert_eq!(median(vec![]), None);
    }
}
