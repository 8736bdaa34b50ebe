//! The performance targets of Tidegate, and whether the runs meet them. Shown on the page, and after a run.
//! The figures come from results; the targets are defined here.

use crate::{
    peers::Transport,
    result::{Row, Run, Table, grouped, short},
    scenarios::{columns::percent, stalled},
};

/// One target, and the figure measured for it.
#[derive(Debug)]
struct Check {
    /// The name of the figure, with its target.
    name: &'static str,
    /// None if no run has this figure.
    found: Option<Measured>,
}

#[derive(Debug)]
struct Measured {
    with: String,
    value: String,
    is_met: bool,
}

/// The targets that the runs have figures for; all targets if `with_unmeasured`.
pub fn table(runs: &[Run], with_unmeasured: bool) -> Option<Table> {
    let mut table = Table::new(&["figure (target)", "measured with", "value", "met"]);
    table.words = 4;
    for Check { name, found } in targets(runs) {
        table.rows.push(match found {
            Some(Measured { with, value, is_met }) => {
                let verdict = if is_met { "yes" } else { "**no**" };
                vec![name.to_owned(), with, value, verdict.to_owned()]
            }
            None if with_unmeasured => {
                vec![name.to_owned(), "not measured".to_owned(), "–".to_owned(), "–".to_owned()]
            }
            None => continue,
        });
    }
    (!table.rows.is_empty()).then_some(table)
}

const DEFAULT: &str = "tidegate";
const FIXED: &str = "tidegate+batch.mode=fixed";
const EAGER: &str = "tidegate+batch.fanout_share=0.9";
const IN_MEMORY: &str = "tidegate+log.engine=memory";

/// All targets, the most important first.
fn targets(runs: &[Run]) -> Vec<Check> {
    let mut targets = Vec::new();
    let mut target = |name, found| targets.push(Check { name, found });
    let fanout = |peer: &'static str, rate: f64| {
        move |row: &Row| {
            row.peer == peer
                && row.rate == Some(rate)
                && !is_search(row)
                && row.connections > 1
                && row.transport == Some(Transport::Ws)
        }
    };

    // Latency and bandwidth.
    let slowest = rows(runs, "fanout")
        .filter(|row| fanout(DEFAULT, row.rate.unwrap_or(0.0))(row))
        .filter_map(|row| Some((row, row.latency?.mean_ms)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other));
    let found = slowest.map(|(row, ms)| found(row, format!("{} ms", short(ms)), ms <= 30.0));
    target("mean latency (<= 30 ms), at the slowest rate", found);
    let small = |row: &Row| row.peer == DEFAULT && row.compressed > 0 && !row.payload.contains("webhooks");
    let webhooks = |row: &Row| row.peer == DEFAULT && row.compressed > 0 && row.payload.contains("webhooks");
    let share = |is: &dyn Fn(&Row) -> bool, bar: f64| {
        let row = rows(runs, "bandwidth").find(|row| is(row))?;
        let share = row.bandwidth_share()?;
        Some(self::found(row, percent(Some(share)), share <= bar))
    };
    target("bandwidth (<= 30 % of raw), small events one at a time", share(&small, 0.30));
    target("bandwidth (<= 8 % of raw), webhooks", share(&webhooks, 0.08));
    for (name, is) in [
        ("CPU of compressing small events (<= 1.3x plain)", &small as &dyn Fn(&Row) -> bool),
        ("CPU of compressing webhooks (<= 1.3x plain)", &webhooks),
    ] {
        let pair = pair(runs, "bandwidth", is, |row, ours| {
            row.peer == ours.peer && row.compressed == 0 && row.payload == ours.payload
        });
        target(name, pair.and_then(|(ours, plain)| cpu_ratio(ours, plain, "plain", 1.3)));
    }

    // Fan-out.
    let thousand = |peer: &'static str| fanout(peer, 1000.0);
    let batched = pair(runs, "fanout", thousand(FIXED), |row, _| thousand("floor-batched")(row));
    target(
        "fan-out at 1,000/s, fixed 50 ms (<= 1.5x the CPU of the batched floor)",
        batched.and_then(|(ours, floor)| cpu_ratio(ours, floor, "the floor", 1.5)),
    );
    let bun = |peer| pair(runs, "fanout", thousand(peer), |row, _| thousand("bun")(row));
    target(
        "fan-out at 1,000/s, paced (<= 0.5x the CPU of uWebSockets)",
        bun(DEFAULT).and_then(|(ours, bun)| cpu_ratio(ours, bun, "uWebSockets", 0.5)),
    );
    let row = rows(runs, "fanout").find(|row| thousand(DEFAULT)(row));
    target("the same, median (<= 8 ms)", row.and_then(|row| median(row, 8.0)));
    let eager = bun(EAGER).and_then(|(ours, bun)| {
        let (one, other) = (ours.latency?, bun.latency?);
        let (us, bun_us) = (ours.cpu_us_per_delivery?, bun.cpu_us_per_delivery?);
        let value = format!(
            "{} ms against {} ms, {us:.2} us against {bun_us:.2} us",
            short(one.p50_ms),
            short(other.p50_ms)
        );
        Some(self::found(ours, value, one.p50_ms <= other.p50_ms && us < bun_us))
    });
    target("the same, share 0.9 (median and CPU no higher than uWebSockets)", eager);
    let most = rows(runs, "fanout").find(|row| row.peer == DEFAULT && is_search(row));
    let most = most.and_then(|row| {
        let mut value = format!("{}/s, p99 {} ms", short(row.published_per_s), short(row.latency?.p99_ms));
        if let Some(syncs) = row.syncs {
            value.push_str(&format!(", a sync {} ms", short(syncs.mean_ms)));
        }
        Some(self::found(row, value, row.published_per_s >= 12_000.0))
    });
    target("highest rate, synced to disk, p99 <= 50 ms (>= 12,000 events/s)", most);
    let most = pair(
        runs,
        "fanout",
        |row| row.peer == DEFAULT && is_search(row),
        |row, _| row.peer == "bun" && is_search(row),
    );
    let most = most.map(|(ours, bun)| {
        let ratio = ours.published_per_s / bun.published_per_s.max(1.0);
        let value = format!("{ratio:.2}x, {}/s against {}/s", rate(ours), rate(bun));
        self::found(ours, value, ratio >= 3.0)
    });
    target("the same against uWebSockets, which stores nothing (>= 3x)", most);
    let bare = pair(runs, "fanout", fanout(DEFAULT, 50.0), |row, _| fanout("floor", 50.0)(row));
    target(
        "fan-out at 50/s, without batching (<= 1.15x the CPU of the bare loop)",
        bare.and_then(|(ours, floor)| cpu_ratio(ours, floor, "the floor", 1.15)),
    );
    let alone = rows(runs, "fanout").find(|row| row.peer == IN_MEMORY && row.connections == 1);
    let alone = alone.and_then(|row| {
        let latency = row.latency?;
        let value = format!("{} ms, p99 {} ms", short(latency.p50_ms), short(latency.p99_ms));
        Some(self::found(row, value, latency.p50_ms < 0.3 && latency.p99_ms < 2.0))
    });
    target("latency without the log, one reader (p50 < 0.3 ms, p99 < 2 ms)", alone);

    // Idle connections, storms, and stalled readers.
    let held = rows(runs, "idle").filter(|row| row.peer == DEFAULT).max_by_key(|row| row.connections);
    let held = held.and_then(|row| {
        let kib = row.idle?.kib_per_connection?;
        Some(self::found(row, format!("{kib:.2} KiB"), kib <= 2.0))
    });
    target("resident memory of an idle connection (<= 2 KiB)", held);
    let back = rows(runs, "storm").find(|row| row.peer == DEFAULT && row.storm.is_some());
    let back = back.and_then(|row| {
        let storm = row.storm?;
        let all_live = !row.notes.iter().any(|note| note.contains("not live again"));
        let mut value = format!("{} s", short(storm.back_ms / 1000.0));
        if let Some(seconds) = storm.cpu_seconds {
            value.push_str(&format!(", {} s of CPU", short(seconds)));
        }
        value.push_str(&format!("; {} missing, {} twice", row.missing, row.counts.duplicates));
        Some(self::found(row, value, all_live && row.faults().is_empty()))
    });
    target("storm (every reader live again, no event missing or twice)", back);
    let quiet = pair(
        runs,
        "storm",
        |row| row.peer == DEFAULT && row.label.contains("during the storm"),
        |row, _| row.peer == DEFAULT && row.label.contains("no storm"),
    );
    target(
        "another org during the storm, p99 (<= 2x)",
        quiet.and_then(|(ours, other)| p99_ratio(ours, other, 2.0)),
    );
    let is_stalled = |row: &Row| row.peer == DEFAULT && row.label != "control";
    let flat = rows(runs, "stalled").find(|row| is_stalled(row)).and_then(|row| {
        let (grown, resident) = (stalled::growth_kib(row)?, row.resident_kib? as f64);
        let value = format!("{} MiB of {} MiB", short(grown / 1024.0), short(resident / 1024.0));
        Some(self::found(row, value, grown <= resident * 0.02))
    });
    target("growth of resident memory with stalled readers, second half (<= 2 %)", flat);
    let control = pair(runs, "stalled", is_stalled, |row, ours| row.peer == ours.peer && !is_stalled(row));
    target(
        "p99 of the other readers with stalled ones (<= 1.2x)",
        control.and_then(|(ours, other)| p99_ratio(ours, other, 1.2)),
    );

    // Filters, orgs, publishing.
    let filters = pair(
        runs,
        "filters",
        |row| row.peer == DEFAULT && row.label != "1 filter",
        |row, ours| row.peer == ours.peer && row.label == "1 filter",
    );
    target(
        "200 filters in one org (<= 2x the CPU of one)",
        filters.and_then(|(ours, one)| cpu_ratio(ours, one, "one filter", 2.0)),
    );
    let big = rows(runs, "orgs").find(|row| row.peer == DEFAULT && row.label.starts_with("big orgs"));
    let alike = big.and_then(|row| {
        let ratio = row.orgs?.p50_worst_ms / row.orgs?.p50_best_ms.max(0.001);
        let value = format!("{ratio:.2}x; {} missing", row.missing);
        Some(self::found(row, value, ratio <= 1.5 && row.missing == 0 && !row.is_saturated()))
    });
    target("busy orgs on one worker, none starved (highest median <= 1.5x the lowest)", alike);
    let drift = big.and_then(|row| {
        let drift = row.orgs?.drift?;
        Some(self::found(row, format!("± {}", percent(Some(drift))), drift <= 0.25))
    });
    target("the same, no oscillation (events per frame over time, ± <= 25 %)", drift);
    let beside = pair(
        runs,
        "orgs",
        |row| row.peer == DEFAULT && row.label.contains("beside"),
        |row, ours| row.peer == ours.peer && row.label.contains("alone"),
    );
    let beside = beside.and_then(|(ours, alone)| {
        let (ms, alone_ms) = (ours.latency?.p50_ms, alone.latency?.p50_ms);
        let value = format!("{} ms against {} ms", short(ms), short(alone_ms));
        Some(self::found(ours, value, ms - alone_ms <= 2.2))
    });
    target("small orgs on the same worker, median (<= 2.2 ms more than alone)", beside);
    for (name, is_batch, bar) in [
        ("durable publishing in batches of 100 (>= 100,000 events/s)", true, 100_000.0),
        ("durable publishing one by one, 64 publishers (>= 30,000 events/s)", false, 30_000.0),
    ] {
        let row = rows(runs, "ingest").find(|row| row.peer == DEFAULT && (row.batch > 1) == is_batch);
        let found = row.map(|row| {
            let mut value = format!("{}/s", rate(row));
            if let Some(syncs) = row.syncs.filter(|syncs| syncs.count > 0) {
                let events = row.published as f64 / syncs.count as f64;
                value.push_str(&format!(", {} events a sync", short(events)));
            }
            self::found(row, value, row.published_per_s >= bar)
        });
        target(name, found);
    }
    targets
}

/// Whether the row is the result of a search for the highest rate.
fn is_search(row: &Row) -> bool {
    row.label.starts_with("most") && row.rate.is_some()
}

fn rows<'a>(runs: &'a [Run], scenario: &'static str) -> impl Iterator<Item = &'a Row> {
    runs.iter().filter(move |run| run.scenario == scenario).flat_map(|run| &run.rows)
}

/// The first row of `ours` that has a row of `theirs` in the same run.
fn pair<'a>(
    runs: &'a [Run],
    scenario: &'static str,
    ours: impl Fn(&Row) -> bool,
    theirs: impl Fn(&Row, &Row) -> bool,
) -> Option<(&'a Row, &'a Row)> {
    runs.iter().filter(|run| run.scenario == scenario).find_map(|run| {
        let ours = run.rows.iter().find(|row| ours(row))?;
        Some((ours, run.rows.iter().find(|row| theirs(row, ours))?))
    })
}

fn found(row: &Row, value: String, is_met: bool) -> Measured {
    let readers = if row.connections == 1 { "reader" } else { "readers" };
    let with = format!("{} {readers}, {}, {}", grouped(row.connections), row.label, row.peer);
    Measured { with, value, is_met }
}

fn cpu_ratio(ours: &Row, theirs: &Row, of: &str, bar: f64) -> Option<Measured> {
    let (us, their_us) = (ours.cpu_us_per_delivery?, theirs.cpu_us_per_delivery?);
    let ratio = us / their_us;
    let value = format!("{ratio:.2}x, {us:.2} us against {their_us:.2} us of {of}");
    ratio.is_finite().then(|| found(ours, value, ratio <= bar))
}

fn p99_ratio(ours: &Row, theirs: &Row, bar: f64) -> Option<Measured> {
    let (ms, their_ms) = (ours.latency?.p99_ms, theirs.latency?.p99_ms);
    let ratio = ms / their_ms.max(0.001);
    Some(found(ours, format!("{ratio:.2}x, {} ms against {} ms", short(ms), short(their_ms)), ratio <= bar))
}

fn median(row: &Row, bar_ms: f64) -> Option<Measured> {
    let latency = row.latency?;
    let value = format!("{} ms, p99 {} ms", short(latency.p50_ms), short(latency.p99_ms));
    Some(found(row, value, latency.p50_ms <= bar_ms))
}

fn rate(row: &Row) -> String {
    short(row.published_per_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{latency::Summary, ledger::Counts, machine::Machine, result};

    fn run(scenario: &str, rows: Vec<Row>) -> Run {
        Run {
            format: result::FORMAT,
            tool: String::new(),
            scenario: scenario.to_owned(),
            command: String::new(),
            started: String::new(),
            machine: Machine::this(),
            server_cores: None,
            load_cores: None,
            rows,
        }
    }

    fn row(peer: &str, label: &str, rate: Option<f64>, us: f64) -> Row {
        Row {
            peer: peer.to_owned(),
            label: label.to_owned(),
            rate,
            connections: 1000,
            transport: Some(Transport::Ws),
            cpu_us_per_delivery: Some(us),
            published_per_s: rate.unwrap_or(0.0),
            latency: Some(Summary { mean_ms: 31.0, p50_ms: 7.0, p99_ms: 20.0, p999_ms: 30.0, max_ms: 40.0 }),
            ..Row::default()
        }
    }

    /// The value and the verdict of the first figure whose name begins with `name`.
    fn figure(runs: &[Run], name: &str) -> Option<(String, String)> {
        let table = table(runs, false)?;
        let row = table.rows.into_iter().find(|row| row[0].starts_with(name))?;
        Some((row[2].clone(), row[3].clone()))
    }

    #[test]
    fn servers_are_compared_within_a_run_alone() {
        let ours = || row(FIXED, "1,000/s x 4", Some(1000.0), 0.18);
        let floor = || row("floor-batched", "1,000/s x 4", Some(1000.0), 0.10);
        let name = "fan-out at 1,000/s, fixed";
        let apart = [run("fanout", vec![ours()]), run("fanout", vec![floor()])];
        assert_eq!(figure(&apart, name), None);
        let together = [run("fanout", vec![floor(), ours()])];
        let expected = ("1.80x, 0.18 us against 0.10 us of the floor".to_owned(), "**no**".to_owned());
        assert_eq!(figure(&together, name), Some(expected));
        let slower = row("floor-batched", "50/s x 1", Some(50.0), 0.10);
        assert_eq!(figure(&[run("fanout", vec![slower, ours()])], name), None, "at the same rate");
    }

    #[test]
    fn a_figure_is_held_against_its_bar() {
        let most = row(DEFAULT, "most x 64", Some(12_500.0), 0.1);
        let runs = [run("fanout", vec![row(DEFAULT, "1,000/s x 4", Some(1000.0), 0.5), most])];
        for (name, value, verdict) in [
            ("mean latency", "31.0 ms", "**no**"),
            ("the same, median", "7.0 ms, p99 20.0 ms", "yes"),
            ("highest rate", "12,500/s, p99 20.0 ms", "yes"),
        ] {
            assert_eq!(figure(&runs, name), Some((value.to_owned(), verdict.to_owned())), "{name}");
        }
        assert_eq!(figure(&runs, "bandwidth"), None, "what was not measured is not shown");
    }

    #[test]
    fn a_loss_is_never_reached() {
        let back = |missing, note: &str| {
            let mut row = row(DEFAULT, "1,000 behind", None, 1.0);
            row.storm = Some(result::Storm { behind: 1000, back_ms: 2500.0, ..result::Storm::default() });
            (row.missing, row.notes) = (missing, vec![note.to_owned()]);
            figure(&[run("storm", vec![row])], "storm").map(|(_, verdict)| verdict)
        };
        assert_eq!(back(0, "").as_deref(), Some("yes"));
        assert_eq!(back(1, "").as_deref(), Some("**no**"));
        assert_eq!(back(0, "3 readers are not live again").as_deref(), Some("**no**"));
        let big = |missing| {
            let mut row = row(DEFAULT, "big orgs, all", Some(2000.0), 1.0);
            row.orgs =
                Some(result::Orgs { count: 10, p50_best_ms: 2.0, p50_worst_ms: 2.5, drift: Some(0.1) });
            row.missing = missing;
            figure(&[run("orgs", vec![row])], "busy orgs").map(|(_, verdict)| verdict)
        };
        assert_eq!((big(0).as_deref(), big(1).as_deref()), (Some("yes"), Some("**no**")));
    }

    #[test]
    fn compressing_is_compared_with_sending_the_same_plain() {
        let of = |payload: &str, compressed, us, bytes| Row {
            payload: payload.to_owned(),
            compressed,
            event_bytes: 1000.0,
            wire_bytes_per_delivery: bytes,
            counts: Counts { delivered: 1, ..Counts::default() },
            ..row(DEFAULT, payload, Some(50.0), us)
        };
        let rows = vec![
            of("280 B", 0, 4.0, 1100.0),
            of("280 B", 1000, 5.0, 290.0),
            of("329 webhooks", 0, 10.0, 1010.0),
            of("329 webhooks", 1000, 20.0, 70.0),
        ];
        let runs = [run("bandwidth", rows)];
        for (name, value, verdict) in [
            ("bandwidth (<= 30 %", "29 %", "yes"),
            ("bandwidth (<= 8 %", "7 %", "yes"),
            ("CPU of compressing small", "1.25x, 5.00 us against 4.00 us of plain", "yes"),
            ("CPU of compressing webhooks", "2.00x, 20.00 us against 10.00 us of plain", "**no**"),
        ] {
            assert_eq!(figure(&runs, name), Some((value.to_owned(), verdict.to_owned())), "{name}");
        }
    }
}
