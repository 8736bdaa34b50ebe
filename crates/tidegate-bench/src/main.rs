//! `tidegate-bench`: loads a gateway and its peers in the same way, and says what that cost them.
//!
//! Publishers follow a schedule that waits for nobody (`schedule`, `publisher`), readers are real sockets
//! on few threads (`crowd`, `reader`) that keep books of every event (`event`, `digest`, `books`), and a
//! server is a process whose processor time and memory the kernel counts (`peers`). A `session` is one
//! server under one load; `scenarios` are made of sessions, `report` makes a page of their results.
//!
//! Threads and epoll rather than an async runtime: the load shares a machine with what it measures, and
//! must not be what limits it.

mod affinity;
mod books;
mod clock;
mod crowd;
mod digest;
mod event;
mod http;
mod latency;
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

/// Measures a Tidegate gateway, and other servers in the same way
///
/// Every event carries who published it, as which of its events, and when it was meant to go; every
/// connection's events are checked one by one. Latency counts from the moment that the schedule says, so a
/// server that stalls does not hide it. Server and load get a processor core each where there are two.
///
/// Exit code: 0 all events arrived once, 1 not, or the run failed, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench", version, max_term_width = 100)]
#[command(after_help = "Examples:
  tidegate-bench fanout                                    Tidegate, 1,000 readers, two loads
  tidegate-bench fanout --peer tidegate,bun,floor          beside uWebSockets and the bare loop
  tidegate-bench idle --connections 10000                  memory of connections that only stand
  tidegate-bench fanout --peer http://127.0.0.1:8080 --token ... --publish-key ...
  tidegate-bench report fanout.json idle.json --out docs   a page with tables and plots")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every event to every reader, at several rates: latency, processor time a delivery
    Fanout(fanout::Options),
    /// Connections that only stand: memory of each, in the server and in the kernel
    Idle(idle::Options),
    /// All connections cut and back at once, each behind: time until all are live, none missing
    Storm(storm::Options),
    /// Readers that stop reading: the server's memory, and whether the others notice
    Stalled(stalled::Options),
    /// What the wire carries of the events' bytes, plain and compressed
    Bandwidth(bandwidth::Options),
    /// One filter for all readers against many different ones
    Filters(filters::Options),
    /// Publishing alone: batches, and single events from many publishers
    Ingest(ingest::Options),
    /// Many busy orgs on one worker beside small ones: whether any starves, swings, or makes others wait
    Orgs(orgs::Options),
    /// Make a page with tables and plots of results that --json kept
    Report(report::Options),
    /// The bare loop that peers are compared with; started by the tool itself
    #[command(hide = true)]
    Floor {
        /// How long a batch waits; 0: every event at once
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

/// Runs a scenario, shows and keeps its figures. True if every event arrived once.
fn measure(
    scenario: &str,
    common: Common,
    run: impl FnOnce(&Setting) -> anyhow::Result<Outcome>,
    table: fn(&[Row]) -> Table,
) -> anyhow::Result<bool> {
    let json = common.json.clone();
    // Not after ten minutes of measuring.
    if let Some(parent) = json.as_deref().and_then(Path::parent).filter(|parent| *parent != Path::new("")) {
        ensure!(parent.is_dir(), "--json: {} is no directory; make it first", parent.display());
    }
    let setting = common.resolve()?;
    session::watch_interrupts()?;
    if let Some(cores) = &setting.load_cores {
        affinity::pin(cores)?;
    }
    let (machine, started) = (machine::Machine::this(), machine::now());
    println!("{scenario} on {}", report::in_words(&machine));
    match (&setting.server_cores, &setting.load_cores) {
        (Some(server), Some(load)) if !server.overlaps(load) => {
            println!("server on core {server}, load on core {load}");
        }
        _ => println!("server and load share cores: the load's work shows in the server's latencies"),
    }
    if machine.profile == "debug" {
        println!("this is a debug build: its figures are worth nothing (cargo build --release)");
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
        println!("  {} ({}): not one event arrived", row.peer, row.label);
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
    let judged = report::judged(&run);
    if !judged.is_empty() {
        print!("\n{judged}");
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

/// The command as it was typed, but for the program's directory, credentials and the result's file.
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
