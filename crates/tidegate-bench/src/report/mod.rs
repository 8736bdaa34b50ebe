//! The page of results: docs/BENCHMARKS.md with tables, plots and commands, made from results saved with
//! --json. Every figure on it comes from those files; conclusions are written elsewhere, by people.

mod plot;
mod targets;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    machine::Machine,
    result::{self, Row, Run, Table, grouped},
    scenarios::{bandwidth, fanout, filters, idle, ingest, orgs, stalled, storm},
};
use plot::{Bar, Bars, Line, Lines};

/// Options of the report.
#[derive(Debug, Args)]
pub struct Options {
    /// Result files that were saved with --json
    #[arg(required = true, value_name = "FILE")]
    runs: Vec<PathBuf>,
    /// Output directory: gets BENCHMARKS.md, and the plots in bench/
    #[arg(long, value_name = "DIR", default_value = "docs")]
    out: PathBuf,
}

/// A scenario on the page.
struct Section {
    scenario: &'static str,
    title: &'static str,
    /// What is measured, and how to read it.
    words: &'static str,
    table: fn(&[Row]) -> Table,
}

const SECTIONS: [Section; 8] = [
    Section {
        scenario: "fanout",
        title: "Fan-out",
        words: "Every event goes to every reader. The load is events per second x publishers, each event published by itself. `most` means that each publisher sends its next event when the last one was answered; if a bound on p99 is named, it means the highest rate within that bound. (sat.) marks a server that did not keep up with the rate: its latencies are those of a growing queue.",
        table: fanout::table,
    },
    Section {
        scenario: "idle",
        title: "Idle connections",
        words: "Connections without events. Resident memory is the server's growth divided by the number of connections. The kernel's memory is that of both ends of each connection, because both are on this machine.",
        table: idle::table,
    },
    Section {
        scenario: "storm",
        title: "Reconnect storm",
        words: "All connections are reset, events are published while no reader is connected, and all readers reconnect at once with their cursors. The time runs from the first attempt until the last reader is live and has every event. Another org on the same gateway continues meanwhile: the last rows show its latency before and during the storm.",
        table: storm::table,
    },
    Section {
        scenario: "stalled",
        title: "Stalled readers",
        words: "Some readers stop reading while events continue to the others. `control` is the same load without stalled readers.",
        table: stalled::table,
    },
    Section {
        scenario: "bandwidth",
        title: "Bandwidth",
        words: "Bytes read from the sockets, including frame headers and envelopes, compared with the bytes of the events as they were published. Events are sent one at a time, which is the hardest case for compression.",
        table: bandwidth::table,
    },
    Section {
        scenario: "filters",
        title: "Filters",
        words: "Every reader gets every event; the runs differ in the number of different `services=` filters.",
        table: filters::table,
    },
    Section {
        scenario: "orgs",
        title: "Many orgs on one worker",
        words: "Busy orgs share one worker, each with its own readers and publishers. A few small orgs are on the same worker; they are measured alone first. Pacing delays an org's next frame so that all orgs get their share: no org may starve, and the number of events per frame may not oscillate. Its deviation is shown from frame to frame, and over time (of averages over half a second, as a share of the mean). The cost of the process is shown once, in the row of all big orgs.",
        table: orgs::table,
    },
    Section {
        scenario: "ingest",
        title: "Ingest",
        words: "As many events as the server accepts; one reader checks that each arrives once. Tidegate answers a publish after its log is synced to disk (unless its setup says otherwise); servers that store nothing have nothing to sync.",
        table: ingest::table,
    },
];

const TARGETS_INTRO: &str = "\
Each target with the figure that Tidegate reached, taken from the runs below. Tidegate ran with its defaults (disk engine, synced; paced batches) unless the row names another setting. Ratios compare servers within one run. CPU is the server's CPU time per delivery.
";

const HOW_TO_READ: &str = "\
`tidegate-bench report` makes this page from measured runs; every figure comes from their result files. Each table comes with its command. The servers in one table were measured in one run, in the same way.

## How to read this

- **Latency** is the time from the moment at which an event was *scheduled* to the moment at which a reader has read it, over all deliveries. The schedule does not wait for the server, so the delay of a stalled server counts in full (no coordinated omission).
- **Delivered, missing, twice**: every event carries its publisher and its number, and the events of each connection are checked one by one. On Tidegate, `prev` and `seq` are checked too.
- **CPU us/delivery** is the server's CPU time, user and system, of all its threads and processes (`/proc/<pid>/stat`), divided by the number of deliveries. It includes the cost of publishing.
- **bytes/delivery** counts the bytes read from the sockets. **events/frame** is the average number of events in a message.
- **answer** is how long a publisher waited for the response to one publish. Tidegate syncs its log to disk before it responds; the others store nothing.
- **Resident** is the server's `VmRSS`. **KiB/connection** is its growth since before the readers connected, divided by the number of readers; it includes everything that the load made the server hold. Machines differ by a factor of two; ratios between servers hardly differ.
- **floor** is a bare loop of `send` calls over the same sockets, one event each, without a protocol, rules or storage; **floor-batched** is the same with batches of 50 ms. No server of the same kind can use much less CPU.
- Server and load had CPU cores of their own if the run says so. A note says if the load itself was the bottleneck.

## How to run it again

```sh
scripts/bench                  # all of this page, about 50 minutes; --quick checks in minutes that it works here
cargo build --release --workspace                               # or a single scenario
scripts/bench-peers            # the other servers, from public registries, into target/bench-peers
target/release/tidegate-bench fanout --peer tidegate,bun,floor,floor-batched --json fanout.json
target/release/tidegate-bench report fanout.json --out docs
```

`tidegate-bench --help` lists the scenarios; `--peer http://ADDRESS` measures a running gateway.
";

/// Writes the page and its plots.
pub fn write(options: &Options) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for path in &options.runs {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let run: Run = serde_json::from_str(&text)
            .with_context(|| format!("read {} as a result of tidegate-bench --json", path.display()))?;
        ensure!(
            run.format == result::FORMAT,
            "{} has format {}, and this version reads {}: measure again",
            path.display(),
            run.format,
            result::FORMAT
        );
        runs.push(run);
    }
    let (page, plots) = page(&runs);
    let at = options.out.join("bench");
    fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
    for (name, svg) in plots {
        let path = at.join(name);
        fs::write(&path, svg).with_context(|| format!("write {}", path.display()))?;
    }
    let path = options.out.join("BENCHMARKS.md");
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// A machine as one line of text.
pub fn describe(machine: &Machine) -> String {
    let Machine { processor, cores, memory_mib, kernel, system, .. } = machine;
    format!("{cores} cores ({processor}), {} GiB, {system}, {kernel}", (memory_mib + 512) / 1024)
}

/// The page, and its plots with their file names.
fn page(runs: &[Run]) -> (String, Vec<(String, String)>) {
    let (mut page, mut plots) = (format!("# Benchmarks\n\n{HOW_TO_READ}"), Vec::new());
    let machines: BTreeSet<String> = runs.iter().map(|run| describe(&run.machine)).collect();
    let _ = write!(page, "\n## Measured on\n\n");
    for machine in machines {
        let _ = writeln!(page, "- {machine}");
    }
    if runs.iter().any(|run| run.machine.profile == "debug") {
        let _ = writeln!(page, "- **Some runs used a debug build: their figures are meaningless.**");
    }
    let servers: BTreeSet<(String, String, String)> = runs
        .iter()
        .flat_map(|run| &run.rows)
        .map(|row| (row.peer.clone(), row.version.clone(), row.setup.clone()))
        .collect();
    let mut table = Table::new(&["server", "version", "setup"]);
    table.words = 3;
    table.rows = servers.into_iter().map(|(peer, version, setup)| vec![peer, version, setup]).collect();
    let _ = write!(page, "\n{}", table.markdown());
    write_targets(&mut page, runs);
    for section in &SECTIONS {
        let of: Vec<_> = runs.iter().filter(|run| run.scenario == section.scenario).collect();
        if of.is_empty() {
            continue;
        }
        let _ = write!(page, "\n## {}\n\n{}\n", section.title, section.words);
        for (index, run) in of.iter().enumerate() {
            write_run(&mut page, &mut plots, section, index, run);
        }
    }
    (page, plots)
}

/// Writes one run of a scenario: its command, plots, table and notes.
fn write_run(
    page: &mut String,
    plots: &mut Vec<(String, String)>,
    section: &Section,
    index: usize,
    run: &Run,
) {
    let _ = write!(page, "\n```sh\n{}\n```\n\n", run.command);
    let cores = match (&run.server_cores, &run.load_cores) {
        (Some(server), Some(load)) => format!("Server on core {server}, load on core {load}. "),
        _ => String::new(),
    };
    let first = run.rows.first();
    let what = first.map(|row| {
        let transport = row.transport.map_or("", |transport| transport.name());
        // If the rows differ, their table has a column for it.
        let readers = match run.rows.iter().all(|other| other.connections == row.connections) {
            true => format!("{} readers", grouped(row.connections)),
            false => "Readers".to_owned(),
        };
        format!("{readers} over {transport}, events of {}. ", row.payload)
    });
    let what = what.filter(|_| first.is_some_and(|row| !row.payload.is_empty())).unwrap_or_default();
    let _ = writeln!(page, "{what}{cores}{}.\n", run.started);
    for (name, title, svg) in plots_of(run) {
        let file = match index {
            0 => format!("{}-{name}.svg", section.scenario),
            index => format!("{}-{}-{name}.svg", section.scenario, index + 1),
        };
        let _ = writeln!(page, "![{title}](bench/{file})\n");
        plots.push((file, svg));
    }
    page.push_str(&(section.table)(&run.rows).markdown());
    let mut notes = Vec::new();
    for row in &run.rows {
        for note in row.notes.iter().chain(&row.faults()) {
            notes.push(format!("- {}, {}: {note}", row.peer, row.label));
        }
    }
    if !notes.is_empty() {
        let _ = write!(page, "\n{}\n", notes.join("\n"));
    }
}

/// Writes the targets, and whether they are met.
fn write_targets(page: &mut String, runs: &[Run]) {
    let Some(table) = targets::table(runs, true) else { return };
    let _ = write!(page, "\n## Targets\n\n{TARGETS_INTRO}\n{}", table.markdown());
}

/// The targets that a run has figures for, as text for a terminal; empty if there are none.
pub fn targets_text(run: &Run) -> String {
    let table = targets::table(std::slice::from_ref(run), false);
    table.map_or_else(String::new, |table| table.text().replace("**", ""))
}

/// The plots of a run: file name, title, SVG.
fn plots_of(run: &Run) -> Vec<(&'static str, String, String)> {
    // If only one server was measured, the bars are named by its loads.
    let is_alone = run.rows.iter().all(|row| row.peer == run.rows[0].peer);
    let bars = |title: &str, of: &dyn Fn(&Row) -> Option<f64>, unit: &'static str, log: bool| {
        let bars = run.rows.iter().filter_map(|row| {
            let (group, name) = if is_alone { ("", &row.label) } else { (row.label.as_str(), &row.peer) };
            Some(Bar {
                group: group.to_owned(),
                name: name.clone(),
                value: of(row)?,
                mark: if row.is_saturated() { "(sat.)" } else { "" },
                ours: row.peer.starts_with("tidegate"),
            })
        });
        let bars: Vec<_> = bars.collect();
        // A single bar compares nothing.
        (bars.len() > 1).then(|| {
            let title = title.to_owned();
            (title.clone(), Bars { title, unit, log, bars }.svg())
        })
    };
    let mut plots = Vec::new();
    let mut add = |name: &'static str, plot: Option<(String, String)>| {
        plots.extend(plot.map(|(title, svg)| (name, title, svg)));
    };
    match run.scenario.as_str() {
        "fanout" | "filters" => {
            add("cpu", bars("Server CPU time per delivery", &|row| row.cpu_us_per_delivery, "us", true));
            add("latency", bars("Latency, p99", &|row| Some(row.latency?.p99_ms), "ms", true));
            if run.rows.iter().any(|row| row.rate.is_none()) {
                add(
                    "rate",
                    bars("Events per second to every reader", &|row| Some(row.published_per_s), "/s", false),
                );
            }
        }
        "idle" => add(
            "memory",
            bars("Resident memory of an idle connection", &|row| row.idle?.kib_per_connection, "KiB", false),
        ),
        "storm" => {
            add(
                "time",
                bars(
                    "Time until all readers are live again",
                    &|row| Some(row.storm?.back_ms / 1000.0),
                    "s",
                    false,
                ),
            );
            add("latency", bars("Latency, p99", &|row| Some(row.latency?.p99_ms), "ms", false));
        }
        "stalled" => {
            let lines = run.rows.iter().map(|row| Line {
                name: format!("{}, {}", row.peer, row.label),
                points: row.memory.iter().map(|(at, kib)| (*at, *kib as f64 / 1024.0)).collect(),
            });
            let title = "The server's resident memory".to_owned();
            let lines = Lines { title: title.clone(), unit: "MiB", lines: lines.collect() };
            add("memory", lines.svg().map(|svg| (title, svg)));
        }
        "bandwidth" => add(
            "share",
            bars(
                "Bytes on the wire, as a share of the bytes published",
                &|row| Some(row.bandwidth_share()? * 100.0),
                "%",
                false,
            ),
        ),
        "orgs" => {
            let lines = run.rows.iter().filter(|row| !row.frame_events.is_empty());
            let lines = lines.map(|row| Line {
                name: if is_alone { row.label.clone() } else { format!("{}, {}", row.peer, row.label) },
                points: row.frame_events.clone(),
            });
            let title = "Events in a frame".to_owned();
            let lines = Lines { title: title.clone(), unit: "", lines: lines.collect() };
            add("frames", lines.svg().map(|svg| (title, svg)));
            add("latency", bars("Latency, p99", &|row| Some(row.latency?.p99_ms), "ms", false));
        }
        "ingest" => {
            add("rate", bars("Events accepted per second", &|row| Some(row.published_per_s), "/s", false));
        }
        _ => {}
    }
    plots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{latency::Summary, ledger::Counts};

    fn run(scenario: &str) -> Run {
        let row = |peer: &str, missing| Row {
            peer: peer.to_owned(),
            label: "50/s x 1".to_owned(),
            connections: 1000,
            missing,
            payload: "150 B".to_owned(),
            rate: Some(50.0),
            transport: Some(crate::peers::Transport::Ws),
            counts: Counts { delivered: 500_000, ..Counts::default() },
            latency: Some(Summary { mean_ms: 2.5, p50_ms: 2.0, p99_ms: 9.0, p999_ms: 12.0, max_ms: 15.0 }),
            cpu_us_per_delivery: Some(3.75),
            compressed: 1,
            event_bytes: 280.0,
            wire_bytes_per_delivery: 78.4,
            memory: vec![(0.0, 1024), (0.5, 2048)],
            notes: vec!["a word".to_owned()],
            ..Row::default()
        };
        Run {
            format: result::FORMAT,
            tool: "tidegate-bench 0".to_owned(),
            scenario: scenario.to_owned(),
            command: format!("tidegate-bench {scenario} --peer tidegate,bun"),
            started: "2026-01-01T00:00:00Z".to_owned(),
            machine: Machine {
                processor: "a processor".to_owned(),
                cores: 2,
                memory_mib: 24 * 1024,
                kernel: "Linux 6.1".to_owned(),
                system: "Debian".to_owned(),
                profile: "release".to_owned(),
            },
            server_cores: Some("0".to_owned()),
            load_cores: Some("1".to_owned()),
            rows: vec![row("tidegate", 0), row("bun", 3)],
        }
    }

    #[test]
    fn a_page_has_every_run_with_its_command_table_and_plots() {
        let runs: Vec<_> = SECTIONS.iter().map(|section| run(section.scenario)).collect();
        let text = serde_json::to_string(&runs).expect("JSON");
        let runs: Vec<Run> = serde_json::from_str(&text).expect("what was written is read");
        let (page, plots) = page(&runs);
        for run in &runs {
            assert!(page.contains(&run.command), "{}", run.command);
        }
        for words in [
            "| tidegate | 50/s x 1 |",
            "bun, 50/s x 1: 3 missing",
            "mean latency (<= 30 ms), at the slowest rate | 1,000 readers, 50/s x 1, tidegate | 2.5 ms | yes",
            "small events one at a time | 1,000 readers, 50/s x 1, tidegate | 28 % | yes",
            "200 filters in one org (<= 2x the CPU of one) | not measured | – | – |",
            "2 cores (a processor), 24 GiB, Debian, Linux 6.1",
            "Server on core 0, load on core 1",
        ] {
            assert!(page.contains(words), "{words}\n{page}");
        }
        for (name, svg) in &plots {
            assert!(page.contains(&format!("(bench/{name})")), "{name}");
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{name}");
        }
        assert!(plots.iter().any(|(name, _)| name == "fanout-cpu.svg"));
    }
}
