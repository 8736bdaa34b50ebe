//! Orgs: many busy orgs on one worker, and small ones beside them. Pacing (R15) must neither starve one
//! nor swing, and a small org must not wait for the big ones: it is measured alone first.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::{Outcome, percent};
use crate::{
    event::Marks,
    latency::Latencies,
    options::{Common, Load, Setting, positive},
    peers::Peer,
    reader::Seat,
    result::{self, Orgs, Row, Table, grouped, maybe, short},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many big orgs there are
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = positive::<u16>)]
    pub orgs: u16,
    /// How many readers each of them has
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Events per second and publishers of each
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "200x4")]
    pub load: Load,
    /// How many small orgs stand beside them
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = positive::<u16>)]
    pub small: u16,
    /// How many readers each small one has
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = positive::<usize>)]
    pub small_connections: usize,
    /// Events per second and publishers of each small one
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "10x1")]
    pub small_load: Load,
}

/// How often a look is taken at how many events a message holds.
const SAMPLE: Duration = Duration::from_millis(500);

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        outcome.add(peer, one(setting, options, peer));
    }
    Ok(outcome)
}

/// An org: its session, and what goes to it.
struct Org {
    session: Session,
    load: Load,
}

fn one(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Vec<Row>> {
    ensure!(peer.is_tidegate(), "it has no orgs; orgs is for tidegate");
    ensure!(
        !matches!(peer, Peer::Address(_)),
        "a gateway that runs already has one org to be measured with; give tidegate, or tidegate+KEY=VALUE"
    );
    let Options { orgs: big, small, .. } = *options;
    let mut all: Vec<Org> = Vec::new();
    for number in 0..small + big {
        let is_small = number < small;
        let (name, connections, load) = if is_small {
            (format!("small-{}", number + 1), options.small_connections, options.small_load)
        } else {
            (format!("big-{}", number - small + 1), options.connections, options.load)
        };
        let plan = Plan {
            settings: vec!["node.workers=1".to_owned()],
            room: room(options),
            compress: false,
            ..Plan::of(setting, connections, load.publishers, name.replace('-', " "))
        };
        let session = match all.first() {
            None => Session::open(setting, peer, plan)?,
            Some(first) => {
                let running = &first.session.running;
                let orgs = running.orgs.as_ref().context("make further orgs")?;
                let running = orgs.make(&name, running, &Marks::of_run(rand::random()))?;
                let mut session = Session::on(setting, peer, running, plan)?;
                session.stand_beside();
                session.seat(vec![Seat::default(); connections])?;
                session.probe()?;
                session
            }
        };
        all.push(Org { session, load });
    }
    let small = usize::from(small);
    let (alone, latencies) = measure(&mut all[..small])?;
    let mut rows = vec![together("small orgs, alone", &alone, &latencies)];
    let (beside, _) = measure(&mut all)?;
    let (small, big) = beside.split_at(small);
    let of = |orgs: &[Org]| sum_of_latencies(orgs);
    let label = format!("small orgs, beside {} big", options.orgs);
    let mut small_row = together(&label, small, &of(&all[..small.len()])?);
    let mut big_row = together("big orgs, all", big, &of(&all[small.len()..])?);
    // One process served both: its costs stand once, over what it delivered to both.
    let delivered = small_row.counts.delivered + big_row.counts.delivered;
    let share = big_row.counts.delivered as f64 / delivered.max(1) as f64;
    big_row.cpu_us_per_delivery = big_row.cpu_us_per_delivery.map(|us| us * share);
    (small_row.cpu_us_per_delivery, small_row.cpu_share, small_row.resident_kib) = (None, None, None);
    rows.extend([small_row, big_row]);
    rows.extend(big.iter().cloned().map(|mut row| {
        (row.cpu_us_per_delivery, row.cpu_share, row.resident_kib) = (None, None, None);
        row.kib_per_connection = None;
        row
    }));
    // The first one's server goes last.
    while all.pop().is_some() {}
    Ok(rows)
}

/// Connections and files beside an org's own readers: all that the others have.
fn room(options: &Options) -> usize {
    let Options { orgs, connections, load, small, small_connections, small_load, .. } = *options;
    let each = |readers: usize, load: Load| readers + usize::from(load.publishers) + 8;
    usize::from(orgs) * each(connections, load) + usize::from(small) * each(small_connections, small_load)
}

/// Measures all of them at the same time, after a warm-up together; their rows, and all latencies.
fn measure(orgs: &mut [Org]) -> anyhow::Result<(Vec<Row>, Latencies)> {
    at_once(orgs, |Org { session, load }| {
        let work = session.work(*load, Arrivals::Even);
        session.warm_up(&work)
    })?;
    let rows = at_once(orgs, |Org { session, load }| {
        let work = session.work(*load, Arrivals::Even);
        let (mut points, mut last) = (Vec::new(), (Duration::ZERO, 0, 0));
        let mut row = session.measured(&work, |session, at| {
            let Ok(standing) = session.crowd.standing() else { return };
            let (before, delivered, frames) = last;
            if at < before + SAMPLE {
                return;
            }
            last = (at, standing.delivered, standing.frames);
            // Nothing to say where none came, nor just after the counts began anew.
            if let Some(frames @ 1..) = standing.frames.checked_sub(frames) {
                let delivered = standing.delivered.saturating_sub(delivered);
                points.push((at.as_secs_f64(), delivered as f64 / frames as f64));
            }
        })?;
        row.frame_events = points;
        Ok(row)
    })?;
    Ok((rows, sum_of_latencies(orgs)?))
}

/// Does the same with each, all at the same time.
fn at_once<T: Send>(
    orgs: &mut [Org],
    each: impl Fn(&mut Org) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    thread::scope(|scope| {
        let each = &each;
        let threads: Vec<_> = orgs.iter_mut().map(|org| scope.spawn(move || each(org))).collect();
        let done = threads.into_iter().map(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("an org's thread panicked"),
        });
        // All are waited for, whoever fails first.
        done.collect::<Vec<_>>().into_iter().collect()
    })
}

fn sum_of_latencies(orgs: &[Org]) -> anyhow::Result<Latencies> {
    let mut all = Latencies::default();
    for org in orgs {
        all.add(&org.session.counted()?.latencies);
    }
    Ok(all)
}

/// The rows of several orgs as one.
fn together(label: &str, rows: &[Row], latencies: &Latencies) -> Row {
    let Some(first) = rows.first() else { return Row::default() };
    let medians = || rows.iter().filter_map(|row| row.latency.map(|latency| latency.p50_ms));
    let mut all = Row {
        label: label.to_owned(),
        latency: latencies.summary(),
        publish_latency: None,
        frame_events: Vec::new(),
        kib_per_connection: None,
        orgs: Some(Orgs {
            count: rows.len() as u64,
            p50_best_ms: medians().reduce(f64::min).unwrap_or(0.0),
            p50_worst_ms: medians().reduce(f64::max).unwrap_or(0.0),
            drift: rows.iter().filter_map(Row::drift).reduce(f64::max),
        }),
        ..first.clone()
    };
    let wire_bytes = |row: &Row| row.wire_bytes_per_delivery * row.counts.delivered as f64;
    let cpu_us = |row: &Row| row.cpu_us_per_delivery.map(|us| us * row.counts.delivered as f64);
    let (mut bytes, mut us) = (wire_bytes(first), cpu_us(first));
    for row in &rows[1..] {
        all.connections += row.connections;
        all.publishers += row.publishers;
        all.rate = all.rate.zip(row.rate).map(|(one, other)| one + other);
        all.published += row.published;
        all.published_per_s += row.published_per_s;
        all.unsent += row.unsent;
        all.refused += row.refused;
        all.expected += row.expected;
        all.missing += row.missing;
        all.counts.add(&row.counts);
        all.ended += row.ended;
        // Each has watched the same process over its own time.
        all.cpu_share = all.cpu_share.into_iter().chain(row.cpu_share).reduce(f64::max);
        us = us.into_iter().chain(cpu_us(row)).reduce(f64::max);
        bytes += wire_bytes(row);
    }
    let delivered = all.counts.delivered.max(1) as f64;
    all.wire_bytes_per_delivery = bytes / delivered;
    all.cpu_us_per_delivery = us.map(|us| us / delivered);
    // What all say is said once.
    let notes: BTreeSet<_> = rows.iter().flat_map(|row| &row.notes).collect();
    let notes = notes.into_iter().filter(|note| !note.starts_with(result::SATURATED)).cloned();
    all.notes = all.saturation().into_iter().chain(notes).collect();
    all.events_per_frame = all.counts.events_per_frame();
    all.frame_deviation = all.counts.frame_deviation();
    all
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "orgs",
        "readers",
        "events/s",
        "delivered",
        "missing",
        "twice",
        "gaps",
        "p50 ms",
        "p99",
        "max",
        "worst/best p50",
        "events/frame",
        "± from frame to frame",
        "± over time",
        "CPU us/delivery",
        "of a core",
    ]);
    for row in rows {
        let spread = row.orgs.filter(|orgs| orgs.count > 1 && orgs.p50_best_ms > 0.0);
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            grouped(row.connections),
            super::rate_of(row),
            grouped(row.counts.delivered),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            maybe(row.latency.map(|latency| latency.p50_ms)),
            maybe(row.latency.map(|latency| latency.p99_ms)),
            maybe(row.latency.map(|latency| latency.max_ms)),
            maybe(spread.map(|orgs| orgs.p50_worst_ms / orgs.p50_best_ms)),
            short(row.events_per_frame),
            short(row.frame_deviation),
            percent(row.orgs.map_or_else(|| row.drift(), |orgs| orgs.drift)),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            percent(row.cpu_share),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{books::Counts, latency::Summary};

    #[test]
    fn several_orgs_as_one() {
        let row = |p50_ms, frame_events: &[f64]| Row {
            connections: 10,
            rate: Some(50.0),
            counts: Counts { delivered: 100, frames: 50, frame_squares: 250, ..Counts::default() },
            latency: Some(Summary { mean_ms: 1.0, p50_ms, p99_ms: 1.0, p999_ms: 1.0, max_ms: 1.0 }),
            frame_events: frame_events.iter().map(|events| (0.5, *events)).collect(),
            cpu_us_per_delivery: Some(4.0),
            ..Row::default()
        };
        let rows = [row(2.0, &[2.0, 2.0]), row(3.0, &[1.0, 3.0])];
        let all = together("all", &rows, &Latencies::default());
        let orgs = all.orgs.expect("orgs");
        assert_eq!((orgs.count, orgs.p50_worst_ms / orgs.p50_best_ms, orgs.drift), (2, 1.5, Some(0.5)));
        assert_eq!((all.connections, all.rate, all.counts.delivered), (20, Some(100.0), 200));
        assert_eq!((all.events_per_frame, all.frame_deviation), (2.0, 1.0));
        // The same process: twice the deliveries, and no more time.
        assert_eq!(all.cpu_us_per_delivery, Some(2.0));
        assert_eq!(row(1.0, &[4.0]).drift(), None, "one look is no swing");
    }
}
