//! `tidegate-bench`: puts the same load on a gateway and on other servers, and measures what it costs them.
//!
//! Publishers follow a fixed schedule (an open loop: `schedule`, `publisher`). Readers are real sockets
//! on a few threads (`client_pool`, `reader`); each keeps a ledger of every event (`event`, `digest`,
//! `ledger`). A server is a process whose CPU time and memory the kernel counts (`peers`). A `session` is
//! one server under one load; `scenarios` are made of sessions; `report` makes a page of their results.
//!
//! It uses threads and epoll rather than an async runtime: the load shares a machine with the server that
//! it measures, and must not become the bottleneck.

mod affinity;
mod client_pool;
mod clock;
mod digest;
mod event;
mod http;
mod latency;
mod ledger;
mod limits;
mod machine;
mod meter;
mod options;
mod peers;
mod poll;
mod publisher;
mod reader;
mod report;
mod result;
mod scenarios;
mod schedule;
mod session;
mod sse;
mod websocket;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, Subcommand};

use options::{Common, Setting};
use result::{Row, Run, Table};
use scenarios::{Outcome, bandwidth, fanout, filters, idle, ingest, orgs, stalled, storm};

/// Measure a Tidegate gateway, and other servers under the same load
///
/// Every event carries its publisher, its number and its scheduled time; the events of every connection are
/// checked one by one. Latency counts from the scheduled time, so a stalled server cannot hide its delay (no
/// coordinated omission). If the machine has two CPU cores, the server and the load get one each.
///
/// Exit codes: 0 every event arrived exactly once; 1 events were lost or duplicated, or the run failed; 2
/// wrong usage.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench", version, max_term_width = 100)]
#[command(after_help = "Examples:
  tidegate-bench fanout                                    Tidegate with 1,000 readers, two loads
  tidegate-bench fanout --peer tidegate,bun,floor          compare with uWebSockets and a bare loop
  tidegate-bench idle --connections 10000                  memory of idle connections
  tidegate-bench fanout --peer http://127.0.0.1:8080 --token ... --publish-key ...
  tidegate-bench report fanout.json idle.json --out docs   write a page with tables and plots")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send every event to every reader, at several rates: latency, CPU time per delivery
    Fanout(fanout::Options),
    /// Hold idle connections: memory per connection, in the server and in the kernel
    Idle(idle::Options),
    /// Cut all connections, publish, reconnect all at once: time until all have caught up
    Storm(storm::Options),
    /// Let some readers stop reading: the server's memory, and the latency of the other readers
    Stalled(stalled::Options),
    /// Compare bytes on the wire with bytes published, plain and compressed
    Bandwidth(bandwidth::Options),
    /// Compare one filter for all readers with many different filters
    Filters(filters::Options),
    /// Publish as fast as possible: batches, and single events from many publishers
    Ingest(ingest::Options),
    /// Run many busy orgs and a few small ones on one worker: fairness and stability between orgs
    Orgs(orgs::Options),
    /// Write a page with tables and plots from results that were saved with --json
    Report(report::Options),
    /// The bare send loop that servers are compared with; the tool starts it itself
    #[command(hide = true)]
    Floor {
        /// How long to collect a batch before it is sent; 0 sends every event at once
        #[arg(long, default_value_t = 0)]
        window_ms: u64,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Fanout(o) => measure("fanout", o.common.clone(), |s| fanout::run(s, &o), fanout::table),
        Command::Idle(o) => measure("idle", o.common.clone(), |s| idle::run(s, &o), idle::table),
        Command::Storm(o) => measure("storm", o.common.clone(), |s| storm::run(s, &o), storm::table),
        Command::Stalled(o) => measure("stalled", o.common.clone(), |s| stalled::run(s, &o), stalled::table),
        Command::Bandwidth(o) => {
            measure("bandwidth", o.common.clone(), |s| bandwidth::run(s, &o), bandwidth::table)
        }
        Command::Filters(o) => measure("filters", o.common.clone(), |s| filters::run(s, &o), filters::table),
        Command::Ingest(o) => measure("ingest", o.common.clone(), |s| ingest::run(s, &o), ingest::table),
        Command::Orgs(o) => measure("orgs", o.common.clone(), |s| orgs::run(s, &o), orgs::table),
        Command::Report(options) => report::write(&options).map(|()| true),
        Command::Floor { window_ms } => peers::floor::serve(window_ms).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a scenario, prints its figures and saves them. True if every event arrived exactly once.
fn measure(
    scenario: &str,
    common: Common,
    run: impl FnOnce(&Setting) -> anyhow::Result<Outcome>,
    table: fn(&[Row]) -> Table,
) -> anyhow::Result<bool> {
    let json = common.json.clone();
    // Checked first, so that a wrong path does not waste ten minutes of measuring.
    if let Some(parent) = json.as_deref().and_then(Path::parent).filter(|parent| *parent != Path::new("")) {
        ensure!(parent.is_dir(), "--json: {} is not a directory; make it first", parent.display());
    }
    let setting = common.resolve()?;
    session::watch_interrupts()?;
    if let Some(cores) = &setting.load_cores {
        affinity::pin(cores)?;
    }
    let (machine, started) = (machine::Machine::this(), machine::now());
    println!("{scenario} on {}", report::describe(&machine));
    match (&setting.server_cores, &setting.load_cores) {
        (Some(server), Some(load)) if !server.overlaps(load) => {
            println!("server on core {server}, load on core {load}");
        }
        _ => println!("server and load share CPU cores: the load's own work adds to the measured latencies"),
    }
    if machine.profile == "debug" {
        println!("this is a debug build: its figures are meaningless (use cargo build --release)");
    }
    let Outcome { rows, failures } = run(&setting)?;
    if rows.is_empty() {
        bail!("nothing was measured");
    }
    print!("\n{}", table(&rows).text());
    for row in &rows {
        for note in &row.notes {
            println!("  {} ({}): {note}", row.peer, row.label);
        }
    }
    let faults: Vec<_> = rows.iter().filter(|row| !row.faults().is_empty()).collect();
    for row in &faults {
        println!("  {} ({}): {}", row.peer, row.label, row.faults().join(", "));
    }
    for failure in &failures {
        println!("  not measured: {failure}");
    }
    let silent: Vec<_> = rows.iter().filter(|row| row.published > 0 && row.counts.delivered == 0).collect();
    for row in &silent {
        println!("  {} ({}): no event arrived", row.peer, row.label);
    }
    let is_sound = faults.is_empty() && silent.is_empty();
    let verdict = match is_sound {
        true => "every event arrived once",
        false => "not every event arrived once",
    };
    let run = Run {
        format: result::FORMAT,
        tool: format!("tidegate-bench {}", env!("CARGO_PKG_VERSION")),
        scenario: scenario.to_owned(),
        command: typed(),
        started,
        machine,
        server_cores: setting.server_cores.as_ref().map(ToString::to_string),
        load_cores: setting.load_cores.as_ref().map(ToString::to_string),
        rows,
    };
    let targets = report::targets_text(&run);
    if !targets.is_empty() {
        print!("\n{targets}");
    }
    println!("\n{scenario}: {verdict}");
    if let Some(path) = json {
        keep(&path, &run)?;
    }
    Ok(is_sound && failures.is_empty())
}

fn keep(path: &PathBuf, run: &Run) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(run)?;
    fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// The command line as typed, without the program's directory, credentials and the name of the result file.
fn typed() -> String {
    let mut words = vec!["tidegate-bench".to_owned()];
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, _)) => (name.to_owned(), true),
            None => (argument.clone(), false),
        };
        if ["--token", "--publish-key", "--json", "--gateway", "--peers", "--pid"].contains(&name.as_str()) {
            if !value {
                arguments.next();
            }
            continue;
        }
        words.push(argument);
    }
    words.join(" ")
}
