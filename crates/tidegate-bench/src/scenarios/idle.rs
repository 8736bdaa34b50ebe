//! Idle: connections that only stand, and what each costs in the server and in the kernel.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{Outcome, percent};
use crate::{
    options::{Common, Setting, positive},
    peers::{Peer, process::Kernel},
    reader::Seat,
    result::{Idle, Row, Table, grouped, maybe, short},
    session::{Plan, Session},
};

/// What is run.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How many connections
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// How many users of Tidegate they belong to, in turn; a token is made for each by its own command
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = positive::<usize>)]
    pub users: usize,
    /// How long they stand before memory is read
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = crate::options::seconds)]
    pub hold: Duration,
}

/// Connections that the server has had before memory is first read, so that what it makes once is made.
const FIRST: usize = 16;

/// Runs it.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        outcome.add(peer, one(setting, options, peer).map(Some));
    }
    Ok(outcome)
}

fn one(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Row> {
    let label = match options.users {
        ..=1 => format!("{} held", grouped(options.connections as u64)),
        users => format!("{} held, {} users", grouped(options.connections as u64), grouped(users as u64)),
    };
    let plan = Plan { users: options.users, ..Plan::of(setting, options.connections, 1, label) };
    let mut session = Session::start(setting, peer, plan)?;
    session.seat(vec![Seat::default(); FIRST.min(options.connections)])?;
    let (before, kernel_before) = (session.running.server.costs(), Kernel::now());
    let meter = session.meter();
    let more = options.connections.saturating_sub(FIRST);
    let began = Instant::now();
    session.seat(vec![Seat::default(); more])?;
    let took = began.elapsed().as_secs_f64();
    let spent = session.spent(&meter);
    // Not for readers to come: they are all here. What the server frees late is not counted against it.
    thread::sleep(options.hold);
    let (after, kernel_after) = (session.running.server.costs(), Kernel::now());
    let each = |kib: f64| kib / more.max(1) as f64;
    let grown = |before: u64, after: u64| after as f64 - before as f64;
    let counted = session.counted()?;
    let mut row = Row {
        connections: options.connections as u64,
        missing: 0,
        counts: counted.counts,
        compressed: counted.compressed,
        load_cpu_share: 0.0,
        resident_kib: after.map(|costs| costs.resident_kib),
        cpu_share: spent.server.map(|costs| costs.cpu_seconds / spent.seconds),
        idle: Some(Idle {
            kib_per_connection: before
                .zip(after)
                .map(|(before, after)| each(grown(before.resident_kib, after.resident_kib))),
            tcp_kib_per_connection: each(grown(kernel_before.tcp_kib, kernel_after.tcp_kib)),
            slab_kib_per_connection: each(grown(kernel_before.slab_kib, kernel_after.slab_kib)),
            connects_per_s: more as f64 / took,
            cpu_us_per_connect: spent.server.map(|costs| costs.cpu_seconds * 1e6 / more.max(1) as f64),
        }),
        ..session.blank()
    };
    let standing = session.crowd.standing()?;
    if standing.ready < row.connections {
        row.notes.push(format!("{} connections were left at the end", grouped(standing.ready)));
    }
    session.remark(&mut row, None, &counted);
    Ok(row)
}

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "server",
        "connections",
        "KiB each, resident",
        "resident MiB",
        "kernel slab KiB each, both ends",
        "TCP KiB each",
        "connects/s",
        "CPU us/connect",
        "of a core",
    ]);
    for row in rows {
        let idle = row.idle.unwrap_or_default();
        table.rows.push(vec![
            row.peer.clone(),
            row.label.clone(),
            idle.kib_per_connection.map_or_else(|| "–".to_owned(), |kib| format!("{kib:.2}")),
            maybe(row.resident_kib.map(|kib| kib as f64 / 1024.0)),
            format!("{:.2}", idle.slab_kib_per_connection),
            format!("{:.2}", idle.tcp_kib_per_connection),
            short(idle.connects_per_s),
            maybe(idle.cpu_us_per_connect),
            percent(row.cpu_share),
        ]);
    }
    table
}
