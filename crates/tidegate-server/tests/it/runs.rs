//! What the log says of a run as a whole: its first and last lines.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::gateway::eventually;

const CONFIG: &str =
    "[[auth.keys]]\nsecret = \"0123456789abcdef0123456789abcdef\"\n[logs]\nformat = \"json\"\n";

/// Runs `tidegate serve` over `dir`, ends it with `signal`, and returns the lines of its log.
fn run(dir: &std::path::Path, signal: rustix::process::Signal) -> Vec<Value> {
    let (file, errors) = (dir.join("tidegate.toml"), dir.join("stderr"));
    std::fs::write(&file, CONFIG).expect("a file");
    let mut node = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&file)
        .env("TIDEGATE_LOG__DIR", dir.join("data"))
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&errors).expect("a file"))
        .spawn()
        .expect("start it");
    let lines = || -> Vec<Value> {
        let log = std::fs::read_to_string(&errors).expect("a log");
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    eventually("its start", || lines().iter().any(|line| line["message"] == "serve").then_some(()));
    let pid = rustix::process::Pid::from_raw(node.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("a signal");
    eventually("its end", || node.try_wait().expect("a child"));
    lines()
}

#[test]
fn the_first_and_the_last_line_say_what_ran_and_how_it_ended() {
    use rustix::process::Signal;
    let dir = tempfile::tempdir().expect("a directory");
    for (signal, start, stopped_before) in
        [(Signal::TERM, 1, "never"), (Signal::KILL, 2, "cleanly"), (Signal::INT, 3, "uncleanly")]
    {
        // A machine that lets a process open few files is warned of first.
        let lines: Vec<Value> =
            run(dir.path(), signal).into_iter().filter(|line| line["level"] != "WARN").collect();
        let (first, second, last) = (&lines[0], &lines[1], &lines[lines.len() - 1]);
        assert_eq!(
            (&first["message"], &second["message"]),
            (&"open the log".into(), &"serve".into()),
            "{lines:?}"
        );
        for line in [first, second] {
            assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
            let address = line["public"].as_str().expect("an address");
            assert!(
                address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.port() != 0),
                "{line}"
            );
        }
        assert_eq!((&second["start"], &second["stopped_before"]), (&start.into(), &stopped_before.into()));
        assert_eq!((&second["lossy"], &second["recovered_events"]), (&false.into(), &0.into()), "{second}");
        assert!(second["recovery_ms"].is_number(), "{second}");
        assert_eq!(second["api_keys"], 0, "{second}");
        if signal == Signal::KILL {
            continue;
        }
        let name = if signal == Signal::TERM { "SIGTERM" } else { "SIGINT" };
        assert_eq!((&last["message"], &last["signal"]), (&"stopped".into(), &name.into()), "{last}");
        assert_eq!((&last["public"], &last["version"]), (&second["public"], &second["version"]));
        assert_eq!((&last["drain"], &last["log"]), (&"complete".into(), &"closed cleanly".into()), "{last}");
        assert_eq!((&last["streams"], &last["cut_off"]), (&0.into(), &0.into()), "{last}");
    }
}
