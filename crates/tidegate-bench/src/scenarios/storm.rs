//! Storm: every connection is cut, events are published meanwhile, and all come back at once: each must
//! get what it missed, once.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use crate::{
    options::{Common, Load, Setting},
    peers::Peer,
    result::{Row, Storm, Table, grouped, maybe, short},
    schedule::{Arrivals, Schedule},
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many readers
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub connections: usize,
    /// How many events each is behind when it comes back
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub behind: u32,
}

/// Events in one request while all are away.
const BATCH: u32 = 50;

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Vec<Row>> {
    setting.common.peer.iter().map(|peer| one(setting, options, peer)).collect()
}

fn one(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Row> {
    ensure!(peer.is_tidegate(), "{peer} has no cursor to come back with; storm is for tidegate");
    let label = format!("{} behind", grouped(u64::from(options.behind)));
    let plan = Plan { comes_back: true, ..Plan::of(setting, options.connections, 1, label) };
    let mut session = Session::open(setting, peer, plan)?;
    let all = options.connections as u64;

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

    let meter = session.meter();
    let began_us = session.clock().now_us();
    session.crowd.come_back();
    let took =
        session.wait("back", expected, |s| s.delivered, |s| s.live == all && s.delivered >= expected)?;
    let mut row = session.row(&meter, &work, &done)?;
    let counted = session.counted()?;
    let standing = session.crowd.standing()?;
    let spent = meter.spent(&session);
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
    Ok(row)
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
    ]);
    for row in rows {
        let storm = row.storm.unwrap_or_default();
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            grouped(row.connections),
            short(storm.back_ms),
            grouped(row.counts.delivered),
            grouped(row.missing),
            grouped(row.counts.duplicates),
            grouped(row.counts.gaps + row.counts.holes),
            maybe(storm.cpu_seconds),
            row.cpu_us_per_delivery.map_or_else(|| "–".to_owned(), |us| format!("{us:.2}")),
            maybe(row.resident_kib.map(|kib| kib as f64 / 1024.0)),
        ]);
    }
    table
}
