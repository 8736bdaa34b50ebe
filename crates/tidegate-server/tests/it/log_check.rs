//! `tidegate log check`: what an operator does after damage.

use std::os::unix::fs::FileExt as _;

use serde_json::{Value, json};

use crate::gateway::Gateway;

/// Flips a bit of the first place of `needle` in the segments.
fn damage(gateway: &Gateway, needle: &str) {
    for entry in std::fs::read_dir(gateway.dir().join("segments")).expect("segments") {
        let path = entry.expect("a file").path();
        let bytes = std::fs::read(&path).expect("a segment");
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            let file = std::fs::OpenOptions::new().write(true).open(path).expect("a segment");
            return file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("damage");
        }
    }
    panic!("{needle} is in no segment");
}

#[test]
fn r31_a_damaged_log_is_found_mended_and_served_again() {
    let mut gateway = Gateway::start();
    for number in 1..=3 {
        gateway.say("s", &format!("\"payload-{number}\""));
    }
    let check = |gateway: &Gateway, more: &[&str]| {
        let ran = gateway.command(&[&["log", "check"][..], more].concat());
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (ran.status.code(), text(ran.stdout), text(ran.stderr))
    };
    for more in [&[][..], &["--repair"]] {
        let (code, out, err) = check(&gateway, more);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains("is in use by another process"), "{err}");
    }
    gateway.terminate();
    assert_eq!(gateway.exit_code(), Some(0));

    let (code, out, err) = check(&gateway, &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(
        out.starts_with("dev: whole, 3 events, 1 to 3\n") && out.ends_with("the log is whole\n"),
        "{out}"
    );

    damage(&gateway, "payload-2");
    let (code, out, err) = check(&gateway, &[]);
    assert_eq!(code, Some(1));
    assert!(out.starts_with("dev: 2 events, 1 to 3, 1 missing: 2\nsegments/0000000001.seg: "), "{out}");
    assert!(out.contains(" are damaged\n") && err.contains("--repair mends it"), "{out}{err}");
    assert!(!gateway.dir().join("damaged").exists(), "a check changes nothing");

    let (code, out, err) = check(&gateway, &["--repair", "--json"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&report["whole"], &report["whole_after_repair"]), (&json!(false), &json!(true)), "{report}");
    let org = json!([{ "org": "dev", "floor": 0, "head": 3, "events": 2, "missing": 1, "holes": [[2, 2]] }]);
    assert_eq!((&report["orgs"], &report["damaged_count"]), (&org, &json!(1)), "{report}");
    assert_eq!(std::fs::read_dir(gateway.dir().join("damaged")).expect("copies").count(), 1);
    let (code, out, _) = check(&gateway, &["--repair"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("1 missing: 2\n") && out.ends_with("there was nothing to repair\n"), "{out}");

    let gateway = gateway.started_again();
    let ready = gateway.operators("/readyz");
    assert_eq!(ready.status, 200, "{ready:?}");
    let log = gateway.log();
    for complaint in ["damaged", "missing", "lost acknowledged"] {
        let line = log.lines().find(|line| line.contains("\"WARN\"") && line.contains(complaint));
        assert_eq!(line, None, "the start has nothing to complain of");
    }
    let seqs = |page: &Value| -> Vec<u64> {
        page["events"].as_array().expect("events").iter().filter_map(|event| event["seq"].as_u64()).collect()
    };
    let page = gateway.getting("events").send().json();
    assert_eq!(seqs(&page), [1], "a page ends where events are missing: {page}");
    let cursor = page["cursor"].as_str().expect("a cursor");
    let page = gateway.getting(&format!("events?after={cursor}")).send().json();
    assert_eq!((&page["gap"]["prev"], &page["gap"]["seq"]), (&json!(1), &json!(2)), "{page}");
    assert_eq!(seqs(&page), [3], "{page}");
}
