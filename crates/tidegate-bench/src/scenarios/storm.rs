//! Storm: every connection is cut, events are published meanwhile, and all come back at once: each must
//! get what it missed, once. Another org on the same gateway goes on meanwhile: its latency is measured
//! without the storm and during it, and its p99 is to stay within twice the quiet one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{bail, ensure};
use clap::Args;

use super::Outcome;
use crate::{
    event::Marks,
    options::{Common, Load, Setting, positive},
    peers::Peer,
    reader::Seat,
    result::{Row, Storm, Table, grouped, maybe},
    schedule::{Arrivals, Schedule},
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many readers
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// How many events each is behind when it comes back
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<u32>)]
    pub behind: u32,
    /// How many readers another org has on the same gateway, 50 events a second going to them; 0: none
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub bystanders: usize,
}

/// Events in one request while all are away.
const BATCH: u32 = 50;

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        outcome.add(peer, one(setting, options, peer));
    }
    Ok(outcome)
}

/// The other org's session; none where it cannot be made or is not wanted.
fn beside(
    setting: &Setting,
    options: &Options,
    peer: &Peer,
    first: &Session,
) -> anyhow::Result<Option<Session>> {
    let Some(orgs) = first.running.orgs.as_ref().filter(|_| options.bystanders > 0) else { return Ok(None) };
    let plan = Plan { compress: false, ..Plan::of(setting, options.bystanders, 1, "another org, no storm") };
    let running = orgs.second(&first.running, &Marks::of_run(rand::random()))?;
    let mut session = Session::on(setting, peer, running, plan)?;
    session.seat(vec![Seat::default(); options.bystanders])?;
    session.probe()?;
    Ok(Some(session))
}

fn one(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Vec<Row>> {
    ensure!(peer.is_tidegate(), "it has no cursor to come back with; storm is for tidegate");
    let label = format!("{} behind", grouped(u64::from(options.behind)));
    let plan = Plan {
        comes_back: true,
        room: options.bystanders,
        ..Plan::of(setting, options.connections, 1, label)
    };
    let mut session = Session::open(setting, peer, plan)?;
    let all = options.connections as u64;

    let mut bystanders = beside(setting, options, peer, &session)?;
    let load = Load { rate: Some(50.0), publishers: 1 };
    let control = match &mut bystanders {
        None => None,
        Some(beside) => {
            let work = beside.work(load, Arrivals::Even);
            Some(beside.measure(&work)?)
        }
    };

    // Everybody sees some events first, so that everybody has a place.
    let mut work = session.work(Load { rate: Some(100.0), publishers: 1 }, Arrivals::Even);
    work.schedule.each_max = 20;
    session.warm_up(&work)?;
    session.crowd.cut();
    session.wait("cut", all, |s| all - s.connected, |s| s.connected == 0)?;

    work.batch = BATCH.min(options.behind.max(1));
    work.schedule = Schedule {
        rate: None,
        arrivals: Arrivals::Even,
        publishers: 1,
        window: Duration::from_secs(60),
        each_max: options.behind.div_ceil(work.batch),
    };
    let done = session.publish(&work, "published while all are away", |_, _| {})?;
    let expected = done.answered * all;

    // The others go on from here until all are back.
    let is_back = Arc::new(AtomicBool::new(false));
    let beside = match bystanders {
        None => None,
        Some(mut beside) => {
            let mut work = beside.work(load, Arrivals::Even);
            work.schedule.window = Duration::from_secs(600);
            work.until = Some(is_back.clone());
            beside.relabel("another org, during the storm");
            beside.forget()?;
            Some(thread::spawn(move || beside.measured(&work, |_, _| {})))
        }
    };

    let meter = session.meter();
    let began_us = session.clock().now_us();
    session.crowd.come_back();
    let took = session.wait_patiently(
        "back",
        expected,
        |s| s.delivered,
        |s| s.live == all && s.delivered >= expected,
    )?;
    let spent = session.spent(&meter);
    is_back.store(true, Ordering::Relaxed);
    let mut row = session.row(&meter, &work, &done)?;
    let counted = session.counted()?;
    let standing = session.crowd.standing()?;
    if standing.live < all {
        row.notes.push(format!("{} readers are not live again", grouped(all - standing.live)));
    }
    // From the first attempt to the last event; being live may come a little later.
    let back_ms = (counted.last_us.saturating_sub(began_us) as f64 / 1000.0).max(0.0);
    row.storm = Some(Storm {
        behind: done.answered,
        back_ms: if standing.live == all { took.as_secs_f64() * 1000.0 } else { back_ms },
        cpu_seconds: spent.server.map(|costs| costs.cpu_seconds),
        retries: counted.retries,
    });
    // Latencies are of events that were published while nobody was there.
    row.latency = None;
    row.expected = expected;
    let mut rows = vec![row];
    rows.extend(control);
    if let Some(beside) = beside {
        match beside.join() {
            Ok(row) => rows.push(row?),
            Err(_) => bail!("the other org's thread panicked"),
        }
    }
    if let [_, quiet, stormy] = rows.as_mut_slice()
        && let (Some(before), Some(during)) = (&quiet.latency, &stormy.latency)
        && before.p99_ms > 0.0
    {
        stormy.p99_ratio = Some(during.p99_ms / before.p99_ms);
    }
    // Theirs is the same process, whose costs are told with the storm.
    for row in &mut rows[1..] {
        (row.cpu_us_per_delivery, row.cpu_share, row.resident_kib) = (None, None, None);
        row.notes.clear();
    }
    Ok(rows)
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "load",
        "connections",
        "all live again after ms",
        "delivered",
        "missing",
        "twice",
        "gaps",
        "CPU s",
        "CPU us/delivery",
        "resident MiB",
        "live p50 ms",
        "p99",
        "of its quiet p99",
    ]);
    for row in rows {
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            grouped(row.connections),
            maybe(row.storm.map(|storm| storm.back_ms)),
            grouped(row.counts.delivered),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            maybe(row.storm.and_then(|storm| storm.cpu_seconds)),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            maybe(row.resident_kib.map(|kib| kib as f64 / 1024.0)),
            maybe(row.latency.map(|latency| latency.p50_ms)),
            maybe(row.latency.map(|latency| latency.p99_ms)),
            row.p99_ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}x")),
        ]);
    }
    table
}
