//! Storm: every connection is cut, events are published, and all readers reconnect at once. Each must receive
//! the events that it missed, exactly once. Another org on the same gateway continues: its latency is
//! measured without the storm and during it, and its p99 should at most double.

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

use super::{
    Outcome,
    columns::{self, CPU, Column, DELIVERED, GAPS, LOAD, MISSING, P50, P99, RESIDENT, SERVER, TWICE},
};
use crate::{
    event::Marks,
    options::{Common, Load, Setting, positive},
    peers::Peer,
    reader::ReaderSpec,
    result::{Row, Storm, Table, dash, grouped, maybe},
    schedule::{Arrivals, Schedule},
    session::{LONG_PATIENCE, PATIENCE, Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of readers
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Number of events that each reader has missed when it reconnects
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = positive::<u32>)]
    pub behind: u32,
    /// Number of readers of another org on the same gateway, which receive 50 events per second; 0 for none
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub bystanders: usize,
}

/// Events in one request while all readers are disconnected.
const BATCH: u32 = 50;

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        outcome.add(peer, measure_peer(setting, options, peer));
    }
    Ok(outcome)
}

/// The session of the other org. None if it cannot be created or is not wanted.
fn open_bystanders(
    setting: &Setting,
    options: &Options,
    peer: &Peer,
    first: &Session,
) -> anyhow::Result<Option<Session>> {
    let Some(orgs) = first.running.orgs.as_ref().filter(|_| options.bystanders > 0) else { return Ok(None) };
    let plan = Plan { compress: false, ..Plan::of(setting, options.bystanders, 1, "another org, no storm") };
    let running = orgs.second(&first.running, &Marks::of_run(rand::random()))?;
    let mut session = Session::on_server(setting, peer, running, plan)?;
    session.add_readers(vec![ReaderSpec::default(); options.bystanders])?;
    session.probe()?;
    Ok(Some(session))
}

fn measure_peer(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Vec<Row>> {
    ensure!(peer.is_tidegate(), "it has no cursor to resume from; storm is for tidegate");
    let label = format!("{} behind", grouped(u64::from(options.behind)));
    let plan = Plan {
        reconnects: true,
        room: options.bystanders,
        ..Plan::of(setting, options.connections, 1, label)
    };
    let mut session = Session::open(setting, peer, plan)?;
    let all = options.connections as u64;

    let mut bystanders = open_bystanders(setting, options, peer, &session)?;
    let load = Load { rate: Some(50.0), publishers: 1 };
    let control = match &mut bystanders {
        None => None,
        Some(beside) => {
            let work = beside.work(load, Arrivals::Even);
            Some(beside.measure(&work)?)
        }
    };

    // All readers receive some events first, so that each has a cursor.
    let mut work = session.work(Load { rate: Some(100.0), publishers: 1 }, Arrivals::Even);
    work.schedule.each_max = 20;
    session.warm_up(&work)?;
    session.pool.cut();
    session.wait("cut", all, PATIENCE, |s| all - s.connected, |s| s.connected == 0)?;

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

    // The other org continues from here until all readers are back.
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
    session.pool.reconnect();
    let took = session.wait(
        "back",
        expected,
        LONG_PATIENCE,
        |s| s.delivered,
        |s| s.live == all && s.delivered >= expected,
    )?;
    let spent = session.spent(&meter);
    is_back.store(true, Ordering::Relaxed);
    let mut row = session.row(&meter, &work, &done)?;
    let counted = session.counted()?;
    let status = session.pool.status()?;
    if status.live < all {
        row.notes.push(format!("{} readers are not live again", grouped(all - status.live)));
    }
    // From the first attempt to the last event; a reader may become live a little later.
    let back_ms = (counted.last_us.saturating_sub(began_us) as f64 / 1000.0).max(0.0);
    row.storm = Some(Storm {
        behind: done.answered,
        back_ms: if status.live == all { took.as_secs_f64() * 1000.0 } else { back_ms },
        cpu_seconds: spent.server.map(|costs| costs.cpu_seconds),
        retries: counted.retries,
    });
    // The events were published while no reader was connected, so their latencies mean nothing.
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
    // These rows are of the same process, whose costs are shown in the storm's row.
    for row in &mut rows[1..] {
        (row.cpu_us_per_delivery, row.cpu_share, row.resident_kib) = (None, None, None);
        row.notes.clear();
    }
    Ok(rows)
}

/// The columns of its table.
const COLUMNS: &[Column] = &[
    SERVER,
    LOAD,
    ("connections", |row| grouped(row.connections)),
    ("all live again after ms", |row| maybe(row.storm.map(|storm| storm.back_ms))),
    DELIVERED,
    MISSING,
    TWICE,
    GAPS,
    ("CPU s", |row| maybe(row.storm.and_then(|storm| storm.cpu_seconds))),
    CPU,
    RESIDENT,
    ("live p50 ms", P50.1),
    P99,
    ("of its quiet p99", |row| row.p99_ratio.map_or_else(dash, |ratio| format!("{ratio:.2}x"))),
];

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::table(COLUMNS, rows)
}
