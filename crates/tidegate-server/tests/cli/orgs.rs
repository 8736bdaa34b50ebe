//! `org` and `event`, against a gateway that runs and on the log of one that is stopped.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
};

use serde_json::{Value, json};

use super::{Ran, dir, run, tidegate};

/// A gateway over the directory `d`. Killed when it goes out of scope.
struct Running(Child);

impl Running {
    fn start(dir: &Path) -> Self {
        let args = ["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir", "d"];
        let mut command = tidegate(dir, &args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
        let stdout = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with('{'), "{line}");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

fn at_d(dir: &Path, args: &[&str]) -> Ran {
    run(dir, &[args, &["--data-dir", "d"]].concat())
}

fn publish(dir: &Path, id: &str, user: Option<&str>) {
    let mut args = vec!["publish", "--service", "s", "--event", "e", "--id", id, "--data", "1"];
    args.extend(user.map(|user| ["--users", user]).into_iter().flatten());
    let ran = at_d(dir, &args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

fn listed(dir: &Path) -> Vec<Value> {
    let ran = at_d(dir, &["org", "list", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn delete_event(dir: &Path, org: &str, which: &[&str]) -> Ran {
    at_d(dir, &[&["event", "delete", "--yes", "--org", org][..], which].concat())
}

#[test]
fn orgs_and_events_are_deleted_whether_the_gateway_runs_or_not() {
    let dir = dir();
    let dir = dir.path();
    let running = Running::start(dir);
    for (id, user) in [("a", None), ("b", Some("ann")), ("c", Some("ann")), ("d", None)] {
        publish(dir, id, user);
    }
    let shown = listed(dir);
    let org = shown[0]["org"].as_str().expect("a name");
    assert_eq!((shown.len(), &shown[0]["head"], &shown[0]["readers"]), (1, &json!(4), &json!(0)));
    assert!(shown[0]["epoch"].is_string(), "a running gateway knows it: {shown:?}");
    let table = at_d(dir, &["org", "list"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    let lines: Vec<&str> = table.out.lines().collect();
    assert!(lines[0].starts_with("org") && lines[1].starts_with(org) && lines.len() == 2, "{lines:?}");
    let one = at_d(dir, &["org", "show", org]);
    assert!(
        one.out.contains(&format!("org         {org}\n")) && one.out.contains("head        4\n"),
        "{one:?}"
    );
    let nobody = at_d(dir, &["org", "show", "nobody"]);
    assert_eq!(
        (nobody.code, nobody.err.as_str()),
        (Some(1), "tidegate: there is no log of an org nobody here\n")
    );
    let ran = delete_event(dir, org, &["--service", "s", "--id", "a"]);
    assert_eq!((ran.code, ran.err), (Some(0), format!("tidegate: 1 event of {org} is deleted\n")));
    let ran = delete_event(dir, org, &["--service", "s", "--id", "a"]);
    assert_eq!(
        (ran.code, ran.err),
        (Some(1), format!("tidegate: org {org} has no event a of the service s\n"))
    );

    drop(running);
    let opened = "tidegate: no gateway runs over d: its log is opened here\n";
    assert_eq!((&listed(dir)[0]["head"], &listed(dir)[0]["epoch"]), (&json!(4), &Value::Null));
    let ran = delete_event(dir, org, &["--user", "ann", "--json"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "{\"deleted\":2}\n", opened));
    let ran = delete_event(dir, org, &["--service", "s", "--id", "b"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.ends_with(&format!("tidegate: org {org} has no event b of the service s\n")), "{ran:?}");

    // What a command left behind is a log that a gateway opens as one that was stopped.
    let running = Running::start(dir);
    assert_eq!(listed(dir)[0]["head"], 4);
    publish(dir, "e", None);
    drop(running);
    let ran = at_d(dir, &["org", "delete", org]);
    assert_eq!(ran.code, Some(2), "nobody can be asked: {ran:?}");
    assert_eq!(listed(dir).len(), 1);
    let ran = at_d(dir, &["org", "delete", "--yes", org]);
    let gone = format!("{opened}tidegate: org {org} is deleted: 0 readers closed, 1 API key removed\n");
    assert_eq!((ran.code, ran.err), (Some(0), gone));
    assert_eq!(listed(dir), [] as [Value; 0]);
    assert_eq!(at_d(dir, &["key", "list"]).out, "");
    let ran = at_d(dir, &["org", "delete", "--yes", org]);
    assert!(ran.err.ends_with(&format!("tidegate: there is no log of an org {org} here\n")), "{ran:?}");
}

#[test]
fn without_a_gateway_and_without_a_log_it_says_what_to_name() {
    let dir = dir();
    for args in [
        &["org", "list", "--admin", "127.0.0.1:0"][..],
        &["org", "list", "--data-dir", "none", "--set", "listen.admin=127.0.0.1:0"],
    ] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(
            ran.err.starts_with("tidegate: no gateway answers at 127.0.0.1:0: start it, or name"),
            "{ran:?}"
        );
    }
    assert!(!dir.path().join("none").exists(), "nothing is created");
}
