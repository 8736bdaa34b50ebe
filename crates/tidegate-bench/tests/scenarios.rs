//! Runs the tool as a user does: every scenario for a moment against the built gateway, and against servers
//! that lose, duplicate or skip an event, which the tool must report.

mod faulty;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Once,
};

use faulty::{Fault, Faulty};
use serde_json::Value;

/// The gateway in the directory of the tool. It is built only if it does not exist, because building it alone
/// would build it again with fewer features than the workspace enables.
fn gateway() -> PathBuf {
    static BUILT: Once = Once::new();
    let beside = Path::new(env!("CARGO_BIN_EXE_tidegate-bench")).with_file_name("tidegate");
    BUILT.call_once(|| {
        if beside.exists() {
            return;
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "-p", "tidegate-server", "--bin", "tidegate"])
            .status();
        assert!(built.expect("cargo runs").success(), "the gateway is built");
    });
    assert!(beside.exists(), "{} is built", beside.display());
    beside
}

/// Runs the tool. Returns its output, and the rows that it saved.
fn bench(arguments: &[&str]) -> (Output, Vec<Value>) {
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("run.json");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .args(arguments)
        .arg("--json")
        .arg(&json)
        // Tests run in parallel, so they share the cores.
        .args(["--server-cores", "none", "--load-cores", "none"])
        .output()
        .expect("the tool runs");
    let rows = std::fs::read_to_string(&json).ok().map(|text| {
        let run: Value = serde_json::from_str(&text).expect("JSON");
        run["rows"].as_array().expect("rows").clone()
    });
    (output, rows.unwrap_or_default())
}

/// Runs a scenario against the built gateway; every event must arrive once.
fn clean(arguments: &[&str]) -> Vec<Value> {
    let gateway = gateway();
    let mut all = arguments.to_vec();
    all.extend(["--gateway", gateway.to_str().expect("a path")]);
    let (output, rows) = bench(&all);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{errors}");
    assert!(said.contains("every event arrived once"), "{said}");
    assert!(!rows.is_empty());
    for row in &rows {
        assert_eq!((&row["missing"], &row["counts"]["duplicates"]), (&0.into(), &0.into()), "{row}");
        assert_eq!(row["ended"], 0, "{row}");
    }
    rows
}

fn number(row: &Value, path: &str) -> f64 {
    row.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {row}"))
}

const SHORT: [&str; 4] = ["--seconds", "1", "--warmup", "0.2"];

fn with_short<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    arguments.iter().copied().chain(SHORT).collect()
}

#[test]
fn fanout_beside_the_floors() {
    let peers = "tidegate,floor,floor-batched";
    let rows = clean(&with_short(&["fanout", "--peer", peers, "--connections", "8", "--load", "40x2,maxx2"]));
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let (published, delivered) = (number(row, "/published"), number(row, "/counts/delivered"));
        assert!(published > 0.0, "{row}");
        assert_eq!(delivered, published * 8.0, "{row}");
        assert!(number(row, "/latency/max_ms") >= number(row, "/latency/p50_ms"));
        assert!(number(row, "/wire_bytes_per_delivery") > 100.0);
        assert!(row["cpu_us_per_delivery"].is_number() && row["resident_kib"].is_number(), "{row}");
    }
}

#[test]
fn fanout_over_sse() {
    let rows = clean(&with_short(&["fanout", "--transport", "sse", "--connections", "5", "--load", "30x1"]));
    assert_eq!(rows[0]["transport"], "sse");
    assert_eq!(number(&rows[0], "/counts/delivered"), number(&rows[0], "/published") * 5.0);
}

#[test]
fn idle() {
    let rows = clean(&["idle", "--peer", "tidegate,floor", "--connections", "60", "--hold", "0.1"]);
    for row in &rows {
        assert_eq!(row["connections"], 60);
        assert!(row["idle"]["kib_per_connection"].is_number() && number(row, "/idle/connects_per_s") > 0.0);
    }
}

#[test]
fn storm() {
    let numbers = ["--connections", "20", "--behind", "150", "--bystanders", "5"];
    let rows = clean(&with_short(&[&["storm"][..], &numbers].concat()));
    let storm = &rows[0];
    assert_eq!(number(storm, "/storm/behind"), 150.0);
    assert_eq!(number(storm, "/counts/delivered"), 150.0 * 20.0, "{storm}");
    assert!(number(storm, "/storm/back_ms") > 0.0);
    assert!(!storm["notes"].to_string().contains("not live"), "{storm}");
    let labels: Vec<_> = rows.iter().map(|row| row["label"].as_str().unwrap_or_default()).collect();
    assert!(rows[2]["latency"].is_null() || number(&rows[2], "/p99_ratio") > 0.0, "{}", rows[2]);
    assert_eq!(labels, ["150 behind", "another org, no storm", "another org, during the storm"]);
    for row in &rows[1..] {
        assert_eq!(number(row, "/counts/delivered"), number(row, "/published") * 5.0, "{row}");
    }
}

#[test]
fn stalled() {
    let rows = clean(&with_short(&["stalled", "--connections", "6", "--stalled", "4", "--load", "100x2"]));
    assert_eq!(
        (rows.len(), &rows[0]["label"], &rows[1]["label"]),
        (2, &"control".into(), &"4 stalled".into())
    );
    for row in &rows {
        assert_eq!(number(row, "/counts/delivered"), number(row, "/published") * 6.0, "{row}");
        assert!(!row["memory"].as_array().expect("samples").is_empty());
    }
}

#[test]
fn bandwidth() {
    let dir = tempfile::tempdir().expect("a directory");
    let webhooks = dir.path().join("index.json");
    let examples =
        r#"[{"name":"push","examples":[{"ref": "refs/heads/main", "commits": [1, 2]}, {"ref": "x"}]}]"#;
    std::fs::write(&webhooks, examples).expect("written");
    let webhooks = webhooks.to_str().expect("a path");
    let rows =
        clean(&with_short(&["bandwidth", "--connections", "4", "--load", "30x1", "--webhooks", webhooks]));
    let labels: Vec<_> = rows.iter().map(|row| row["label"].as_str().unwrap_or_default()).collect();
    let expected = ["280 B, plain", "280 B, compressed", "2 webhooks, plain", "2 webhooks, compressed"];
    assert_eq!(labels, expected);
    assert!((250.0..310.0).contains(&number(&rows[0], "/event_bytes")), "{}", rows[0]);
    // Without compression, the wire carries the event and its envelope.
    assert!(number(&rows[0], "/wire_bytes_per_delivery") > number(&rows[0], "/event_bytes"));
}

#[test]
fn filters() {
    let rows = clean(&with_short(&["filters", "--connections", "6", "--filters", "1,6", "--load", "40x2"]));
    for row in &rows {
        assert_eq!(number(row, "/counts/delivered"), number(row, "/published") * 6.0, "{row}");
    }
}

#[test]
fn ingest_counts_events_and_syncs() {
    let rows = clean(&with_short(&["ingest", "--publishers", "4", "--batch", "10"]));
    assert_eq!(rows.len(), 2);
    for row in &rows {
        assert_eq!(number(row, "/counts/delivered"), number(row, "/published"), "{row}");
        assert!(
            number(row, "/syncs/count") > 0.0
                && number(row, "/syncs/mean_ms") > 0.0
                && number(row, "/publish_latency/p50_ms") > 0.0,
            "{row}"
        );
    }
}

#[test]
fn orgs() {
    let big = ["--orgs", "3", "--connections", "4", "--load", "60x2"];
    let small = ["--small", "2", "--small-connections", "2", "--small-load", "20x1"];
    let rows = clean(&with_short(&[&["orgs"][..], &big, &small].concat()));
    let labels: Vec<_> = rows.iter().map(|row| row["label"].as_str().unwrap_or_default()).collect();
    let together = ["small orgs, alone", "small orgs, beside 3 big", "big orgs, all"];
    assert_eq!(labels, [&together[..], &["big 1", "big 2", "big 3"]].concat());
    for (row, readers) in rows.iter().zip([2.0, 2.0, 4.0, 4.0, 4.0, 4.0]) {
        assert_eq!(number(row, "/counts/delivered"), number(row, "/published") * readers, "{row}");
    }
    let of_all = |name: &str| rows[3..].iter().map(|row| number(row, name)).sum::<f64>();
    assert_eq!(number(&rows[2], "/counts/delivered"), of_all("/counts/delivered"));
    assert!(number(&rows[2], "/orgs/p50_worst_ms") >= number(&rows[2], "/orgs/p50_best_ms"));
    assert!(number(&rows[2], "/cpu_us_per_delivery") > 0.0);
    assert!(!rows[3]["frame_events"].as_array().expect("looks").is_empty());
}

/// Runs the tool against a server with this fault. Returns its exit code, its row and its output.
fn against(fault: Fault) -> (Option<i32>, Value, String) {
    let server = Faulty::start(fault);
    let address = server.address();
    let arguments =
        ["fanout", "--peer", &address, "--token", "t", "--publish-key", "k", "--connections", "3"];
    let load = ["--load", "50x1", "--seconds", "0.5", "--warmup", "0"];
    let (output, rows) = bench(&[&arguments[..], &load].concat());
    let said = [output.stdout, output.stderr].concat();
    let row = rows.into_iter().next().unwrap_or_default();
    (output.status.code(), row, String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_sound_server_passes() {
    let (code, row, said) = against(Fault::None);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((number(&row, "/published"), number(&row, "/counts/delivered")), (25.0, 75.0));
    assert!(said.contains("limits.connections_per_user=103"), "it says what the gateway must allow: {said}");
}

#[test]
fn an_event_that_one_reader_never_gets_is_missing() {
    let (code, row, said) = against(Fault::Loses);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!((&row["missing"], &row["counts"]["holes"]), (&1.into(), &0.into()), "{row}");
    assert!(said.contains("1 missing"), "{said}");
}

#[test]
fn an_event_that_comes_twice_is_a_duplicate() {
    let (code, row, said) = against(Fault::Doubles);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!((&row["missing"], &row["counts"]["duplicates"]), (&0.into(), &1.into()), "{row}");
}

#[test]
fn a_hole_between_frames_is_seen_by_its_prev() {
    let (code, row, said) = against(Fault::Skips);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!((&row["missing"], &row["counts"]["holes"]), (&1.into(), &1.into()), "{row}");
}

#[test]
fn a_limit_that_is_hit_is_named() {
    let (code, _, said) = against(Fault::Refuses);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("raise the server's limits.connections_per_user"), "{said}");
}

#[test]
fn a_server_that_is_not_there_is_said_to_be_away() {
    let arguments = ["fanout", "--peer", "http://127.0.0.1:1", "--token", "t", "--publish-key", "k"];
    let (output, _) = bench(&arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("no server can be reached at 127.0.0.1:1"), "{said}");
    assert_eq!(said.matches("can be reached").count(), 1, "once, not for each load: {said}");
    let (output, _) = bench(&["fanout", "--peer", "http://127.0.0.1:1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--token"), "{output:?}");
}

#[test]
fn what_cannot_be_run_is_refused_with_what_to_do() {
    for (arguments, words) in [
        (&["fanout", "--connections", "0"][..], "whole number from 1"),
        (&["fanout", "--connections", "many"], "whole number from 1"),
        (&["fanout", "--seconds", "-1"], "not a time"),
        (&["fanout", "--seconds", "0"], "in no time"),
        (&["fanout", "--load", "1000"], "1000x4"),
        (&["fanout", "--peer", "uws"], "floor-batched"),
        (&["fanout", "--peer", "https://a"], "http://"),
        (&["fanout", "--server-cores", "x"], "0 or 2-3,6"),
        (&["orgs", "--small", "0"], "whole number from 1"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench")).args(arguments).output();
        let output = output.expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
    for (arguments, words) in [
        (&["fanout", "--peer", "floor", "--json", "/nonexistent/a.json"][..], "make it first"),
        (&["fanout", "--peer", "floor", "--server-cores", "1000"], "may use"),
        (&["fanout", "--peer", "floor", "--connections", "4000000"], "take fewer --connections"),
        (&["orgs", "--peer", "bun"], "orgs is for tidegate"),
        (&["orgs", "--peer", "http://127.0.0.1:1"], "has one org"),
        (&["storm", "--peer", "floor"], "storm is for tidegate"),
        (&["fanout", "--peer", "floor", "--transport", "sse"], "tidegate and nchan"),
        (&["bandwidth", "--webhooks", "/nonexistent"], "npm ci"),
        (&["fanout", "--gateway", "/nonexistent"], "cargo build --release"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate-bench")).args(arguments).output();
        let output = output.expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn a_server_that_cannot_be_measured_costs_its_own_rows() {
    let load = ["--connections", "2", "--load", "20x1", "--seconds", "0.3", "--warmup", "0"];
    let peers = ["fanout", "--peer", "bun,floor", "--peers", "/nonexistent"];
    let (output, rows) = bench(&[&peers[..], &load].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!((rows.len(), &rows[0]["peer"]), (1, &"floor".into()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("not measured: bun") && said.contains("scripts/bench-peers"), "{said}");
}

#[test]
fn a_report_is_made_of_what_was_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("run.json");
    let run = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .args(["fanout", "--peer", "floor", "--connections", "2", "--load", "20x1,40x1"])
        .args([
            "--seconds",
            "0.5",
            "--warmup",
            "0",
            "--server-cores",
            "none",
            "--load-cores",
            "none",
            "--json",
        ])
        .arg(&json)
        .output()
        .expect("the tool runs");
    assert!(run.status.success(), "{run:?}");
    let report = Command::new(env!("CARGO_BIN_EXE_tidegate-bench"))
        .arg("report")
        .arg(&json)
        .arg("--out")
        .arg(dir.path())
        .output()
        .expect("the tool runs");
    assert!(report.status.success(), "{report:?}");
    let page = std::fs::read_to_string(dir.path().join("BENCHMARKS.md")).expect("a page");
    assert!(page.contains("tidegate-bench fanout --peer floor --connections 2"), "{page}");
    assert!(!page.contains("run.json"), "the file's name says nothing to a reader");
    assert!(page.contains("| floor | 20/s x 1 |"), "{page}");
    assert!(dir.path().join("bench/fanout-cpu.svg").exists());
}
