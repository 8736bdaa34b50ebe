//! Orgs: many busy orgs and a few small ones on one worker. Pacing (R15) must not starve any org and must not
//! oscillate, and the small orgs must not wait for the big ones: they are measured alone first.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::{
    Outcome,
    columns::{
        self, CORE_SHARE, CPU, Column, DELIVERED, EVENTS_PER_FRAME, GAPS, LOAD, MAX, MISSING, P50, P99, RATE,
        SERVER, TWICE, percent,
    },
};
use crate::{
    event::Marks,
    latency::Latencies,
    options::{Common, Load, Setting, positive},
    peers::Peer,
    reader::ReaderSpec,
    result::{self, Orgs, Row, Table, grouped, maybe, short},
    schedule::Arrivals,
    session::{Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of big orgs
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = positive::<u16>)]
    pub orgs: u16,
    /// Number of readers of each big org
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Events per second and number of publishers of each big org
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "200x4")]
    pub load: Load,
    /// Number of small orgs
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = positive::<u16>)]
    pub small: u16,
    /// Number of readers of each small org
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = positive::<usize>)]
    pub small_connections: usize,
    /// Events per second and number of publishers of each small org
    #[arg(long, value_name = "RATExPUBLISHERS", default_value = "10x1")]
    pub small_load: Load,
}

/// How often the number of events in a message is sampled.
const SAMPLE: Duration = Duration::from_millis(500);

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        outcome.add(peer, measure_peer(setting, options, peer));
    }
    Ok(outcome)
}

/// An org: its session and its load.
struct Org {
    session: Session,
    load: Load,
}

fn measure_peer(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Vec<Row>> {
    ensure!(peer.is_tidegate(), "it has no orgs; orgs is for tidegate");
    ensure!(
        !matches!(peer, Peer::Address(_)),
        "a running gateway has one org for this tool; give tidegate, or tidegate+KEY=VALUE"
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
                let orgs = running.orgs.as_ref().context("create further orgs")?;
                let running = orgs.create(&name, running, &Marks::of_run(rand::random()))?;
                let mut session = Session::on_server(setting, peer, running, plan)?;
                session.join_run();
                session.add_readers(vec![ReaderSpec::default(); connections])?;
                session.probe()?;
                session
            }
        };
        all.push(Org { session, load });
    }
    let small = usize::from(small);
    let (alone, latencies) = measure(&mut all[..small])?;
    let mut rows = vec![combine("small orgs, alone", &alone, &latencies)];
    let (beside, _) = measure(&mut all)?;
    let (small, big) = beside.split_at(small);
    let of = |orgs: &[Org]| sum_of_latencies(orgs);
    let label = format!("small orgs, beside {} big", options.orgs);
    let mut small_row = combine(&label, small, &of(&all[..small.len()])?);
    let mut big_row = combine("big orgs, all", big, &of(&all[small.len()..])?);
    // One process served both, so its costs are shown once, divided by the deliveries to both.
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
    // The first session owns the server, so it is dropped last.
    while all.pop().is_some() {}
    Ok(rows)
}

/// Connections and files that the other orgs need, beside an org's own readers.
fn room(options: &Options) -> usize {
    let Options { orgs, connections, load, small, small_connections, small_load, .. } = *options;
    let each = |readers: usize, load: Load| readers + usize::from(load.publishers) + 8;
    usize::from(orgs) * each(connections, load) + usize::from(small) * each(small_connections, small_load)
}

/// Measures all orgs at the same time, after a common warm-up. Returns their rows, and the latencies of all.
fn measure(orgs: &mut [Org]) -> anyhow::Result<(Vec<Row>, Latencies)> {
    in_parallel(orgs, |Org { session, load }| {
        let work = session.work(*load, Arrivals::Even);
        session.warm_up(&work)
    })?;
    let rows = in_parallel(orgs, |Org { session, load }| {
        let work = session.work(*load, Arrivals::Even);
        let (mut points, mut last) = (Vec::new(), (Duration::ZERO, 0, 0));
        let mut row = session.measured(&work, |session, at| {
            let Ok(status) = session.pool.status() else { return };
            let (before, delivered, frames) = last;
            if at < before + SAMPLE {
                return;
            }
            last = (at, status.delivered, status.frames);
            // No sample if no message came, or if the counts were reset just before.
            if let Some(frames @ 1..) = status.frames.checked_sub(frames) {
                let delivered = status.delivered.saturating_sub(delivered);
                points.push((at.as_secs_f64(), delivered as f64 / frames as f64));
            }
        })?;
        row.frame_events = points;
        Ok(row)
    })?;
    Ok((rows, sum_of_latencies(orgs)?))
}

/// Calls `each` for every org, all at the same time.
fn in_parallel<T: Send>(
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
        // All threads are joined, even if one fails.
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

/// Combines the rows of several orgs.
fn combine(label: &str, rows: &[Row], latencies: &Latencies) -> Row {
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
        // Each row measured the same process over its own time.
        all.cpu_share = all.cpu_share.into_iter().chain(row.cpu_share).reduce(f64::max);
        us = us.into_iter().chain(cpu_us(row)).reduce(f64::max);
        bytes += wire_bytes(row);
    }
    let delivered = all.counts.delivered.max(1) as f64;
    all.wire_bytes_per_delivery = bytes / delivered;
    all.cpu_us_per_delivery = us.map(|us| us / delivered);
    // A note that all rows have is shown once.
    let notes: BTreeSet<_> = rows.iter().flat_map(|row| &row.notes).collect();
    let notes = notes.into_iter().filter(|note| !note.starts_with(result::SATURATED)).cloned();
    all.notes = all.saturation().into_iter().chain(notes).collect();
    all.events_per_frame = all.counts.events_per_frame();
    all.frame_deviation = all.counts.frame_deviation();
    all
}

/// The columns of its table.
const COLUMNS: &[Column] = &[
    SERVER,
    ("orgs", LOAD.1),
    ("readers", |row| grouped(row.connections)),
    RATE,
    DELIVERED,
    MISSING,
    TWICE,
    GAPS,
    P50,
    P99,
    MAX,
    ("worst/best p50", |row| {
        let spread = row.orgs.filter(|orgs| orgs.count > 1 && orgs.p50_best_ms > 0.0);
        maybe(spread.map(|orgs| orgs.p50_worst_ms / orgs.p50_best_ms))
    }),
    EVENTS_PER_FRAME,
    ("± from frame to frame", |row| short(row.frame_deviation)),
    ("± over time", |row| percent(row.orgs.map_or_else(|| row.drift(), |orgs| orgs.drift))),
    CPU,
    CORE_SHARE,
];

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::table(COLUMNS, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{latency::Summary, ledger::Counts};

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
        let all = combine("all", &rows, &Latencies::default());
        let orgs = all.orgs.expect("orgs");
        assert_eq!((orgs.count, orgs.p50_worst_ms / orgs.p50_best_ms, orgs.drift), (2, 1.5, Some(0.5)));
        assert_eq!((all.connections, all.rate, all.counts.delivered), (20, Some(100.0), 200));
        assert_eq!((all.events_per_frame, all.frame_deviation), (2.0, 1.0));
        // It is the same process: twice the deliveries in the same CPU time.
        assert_eq!(all.cpu_us_per_delivery, Some(2.0));
        assert_eq!(row(1.0, &[4.0]).drift(), None, "one sample has no deviation");
    }
}
