//! Idle: connections without events, and what each costs in the server and in the kernel.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::{
    Outcome,
    columns::{self, CORE_SHARE, Column, LOAD, RESIDENT, SERVER, hundredths},
};
use crate::{
    options::{Common, Setting, positive},
    peers::{Peer, process::Kernel},
    reader::ReaderSpec,
    result::{Idle, Row, Table, grouped, maybe, short},
    session::{Plan, Session},
};

/// Options of the scenario.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Number of connections
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = positive::<usize>)]
    pub connections: usize,
    /// Number of Tidegate users that the connections belong to, in turn; each gets a token from `tidegate
    /// token create`
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = positive::<usize>)]
    pub users: usize,
    /// How long to hold the connections before memory is read
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = crate::options::seconds)]
    pub hold: Duration,
}

/// Connections that are opened before memory is read for the first time, so that what the server allocates
/// once is not counted.
const FIRST: usize = 16;

/// Runs the scenario.
pub fn run(setting: &Setting, options: &Options) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for peer in &setting.common.peer {
        outcome.add(peer, measure_peer(setting, options, peer).map(Some));
    }
    Ok(outcome)
}

fn measure_peer(setting: &Setting, options: &Options, peer: &Peer) -> anyhow::Result<Row> {
    let label = match options.users {
        ..=1 => format!("{} held", grouped(options.connections as u64)),
        users => format!("{} held, {} users", grouped(options.connections as u64), grouped(users as u64)),
    };
    let plan = Plan { users: options.users, ..Plan::of(setting, options.connections, 1, label) };
    let mut session = Session::start(setting, peer, plan)?;
    session.add_readers(vec![ReaderSpec::default(); FIRST.min(options.connections)])?;
    let (before, kernel_before) = (session.running.server.costs(), Kernel::now());
    let meter = session.meter();
    let more = options.connections.saturating_sub(FIRST);
    let began = Instant::now();
    session.add_readers(vec![ReaderSpec::default(); more])?;
    let took = began.elapsed().as_secs_f64();
    let spent = session.spent(&meter);
    // All readers are connected; this wait lets the server free temporary memory before it is measured.
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
        ..session.empty_row()
    };
    let status = session.pool.status()?;
    if status.ready < row.connections {
        row.notes.push(format!("{} connections were left at the end", grouped(status.ready)));
    }
    session.add_notes(&mut row, None, &counted);
    Ok(row)
}

/// The columns of its table.
const COLUMNS: &[Column] = &[
    SERVER,
    ("connections", LOAD.1),
    ("KiB each, resident", |row| hundredths(row.idle.and_then(|idle| idle.kib_per_connection))),
    RESIDENT,
    ("kernel slab KiB each, both ends", |row| {
        hundredths(Some(row.idle.unwrap_or_default().slab_kib_per_connection))
    }),
    ("TCP KiB each", |row| hundredths(Some(row.idle.unwrap_or_default().tcp_kib_per_connection))),
    ("connects/s", |row| short(row.idle.unwrap_or_default().connects_per_s)),
    ("CPU us/connect", |row| maybe(row.idle.and_then(|idle| idle.cpu_us_per_connect))),
    CORE_SHARE,
];

/// Its table.
pub fn table(rows: &[Row]) -> Table {
    columns::table(COLUMNS, rows)
}
