//! A log without room for more events (R32), and a log that is damaged: what publishers, readers and operators
//! get.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{
    client::{stream::Frames, ws::Ws},
    gateway::{Gateway, eventually},
};

const EVENT: &str = r#"{"service":"s","event":"e","data":1}"#;

/// Looks at a gateway whose log is full: `because` is in the reason.
fn is_full(gateway: &Gateway, because: &str) {
    let refused = gateway.publish(EVENT);
    assert_eq!((refused.status, refused.refusal().as_str()), (503, "log_full"), "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("5"));
    let ready = gateway.operators("/readyz");
    let body = ready.json();
    assert_eq!((ready.status, &body["ready"], &body["reason"]), (200, &json!(true), &json!(null)));
    assert_eq!(body["log"]["state"], "full", "{body}");
    assert!(body["log"]["reason"].as_str().expect("a reason").contains(because), "{body}");
    assert_eq!(gateway.metric("tidegate_log_state{state=\"full\"}"), 1.0);
    assert_eq!(gateway.metric("tidegate_log_state{state=\"ok\"}"), 0.0);
    assert!(gateway.metric("tidegate_requests_total{operation=\"publish\",code=\"log_full\"}") > 0.0);
    // Readers come as ever, also those of an org that has no log yet.
    let token = gateway.token_with(&json!({"org": "another"}));
    let path = "/v1/orgs/another/stream";
    let mut other = Ws::open(gateway.public, path, &[("authorization", &format!("Bearer {token}"))]);
    other.next("hello");
    assert_eq!(other.next("status")["code"], "log_full");
    assert_eq!(gateway.getting("events").send().status, 200);
}

#[test]
fn r32_publishes_leave_log_min_free_alone_and_readers_go_on() {
    let gateway = Gateway::with(&["log.min_free=1000000GiB"]);
    is_full(&gateway, "log.min_free");
    assert!(gateway.metric("tidegate_log_free_bytes") > 0.0);
    let limit = gateway.metric("tidegate_limit{limit=\"log.min_free\"}");
    assert!(limit > gateway.metric("tidegate_log_free_bytes"), "{limit}");
}

#[test]
fn r32_p8_a_log_that_is_full_takes_events_again_by_itself_and_says_both() {
    // 5 MiB are full, and what is older than two seconds makes room.
    let gateway = Gateway::with(&[
        "tail.org_max_bytes=4MiB",
        "tail.max_bytes=4MiB",
        "log.max_bytes=4MiB",
        "dedup.window=2s",
    ]);
    // They see nothing of what fills the log.
    let mut readers = gateway.both("?services=quiet");
    readers.iter_mut().for_each(|reader| drop(reader.next("hello")));
    let large = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(200_000));
    eventually("a full log", || (gateway.publish(&large).status == 503).then_some(()));
    for reader in &mut readers {
        assert_eq!(beside_pings(reader, "status")["code"], "log_full");
    }
    is_full(&gateway, "log.max_bytes");
    for reader in &mut readers {
        assert_eq!(beside_pings(reader, "status")["code"], "recovered");
    }
    let seq = gateway.say("quiet", "1");
    for reader in &mut readers {
        assert_eq!(beside_pings(reader, "event")["seq"], seq);
    }
    let ready = gateway.operators("/readyz").json();
    assert_eq!((&ready["log"]["state"], &ready["log"]["reason"]), (&json!("ok"), &json!(null)));
    for line in ["the log is full", "the log has room for events again"] {
        assert_eq!(gateway.log().matches(line).count(), 1, "{line}");
    }
}

#[test]
fn p5_the_burst_of_one_org_is_refused_alone_and_takes_nothing_from_the_others() {
    let gateway = Gateway::with(&[
        "log.max_bytes=16MiB",
        "log.min_free=1MiB",
        "tail.org_max_bytes=4MiB",
        "tail.max_bytes=4MiB",
    ]);
    let quiet = format!("Bearer {}", gateway.key_for("quiet", "*"));
    let publish_quiet = |n: usize| {
        let request = gateway.publishing().to("/v1/orgs/quiet/events").with("authorization", &quiet);
        let answer = request.body(format!(r#"{{"service":"s","event":"e","data":{n}}}"#)).send();
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let large = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(100_000));
    let batch = format!("[{}]", [&*large; 10].join(","));
    publish_quiet(0);
    // 40 MB at once.
    let answers: Vec<_> = (1..=40)
        .map(|n| {
            let answer = gateway.publish(&batch);
            publish_quiet(n);
            answer
        })
        .collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!((29..=35).contains(&refused.len()), "{}", refused.len());
    for answer in refused {
        assert_eq!((answer.status, answer.refusal().as_str()), (503, "log_full"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert_eq!(answer.json()["limit"], "log.max_bytes");
    }
    assert_eq!(gateway.operators("/readyz").json()["log"]["state"], "ok");
    let gateway = gateway.killed_and_started_again();
    let token = gateway.token_with(&json!({"org": "quiet"}));
    let page = gateway.getting("").to("/v1/orgs/quiet/events");
    let page = page.with("authorization", &format!("Bearer {token}")).send().json();
    let events = page["events"].as_array().expect("events");
    assert_eq!((events.len(), &page["gap"]), (41, &json!(null)), "{page}");
}

/// The next frame that is no ping, which must be of this type.
fn beside_pings(reader: &mut Box<dyn Frames>, kind: &str) -> Value {
    loop {
        let frame = reader.frame();
        if frame["type"] != "ping" {
            assert_eq!(frame["type"], kind, "{frame}");
            return frame;
        }
    }
}

/// The files of a log.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(segments(&path));
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            found.push(path);
        }
    }
    found
}

#[test]
fn damage_is_said_at_the_start_and_the_node_stays_ready() {
    let gateway = Gateway::start();
    for data in ["\"before\"", "\"damage-me\"", "\"after\""] {
        gateway.say("s", data);
    }
    let gateway = gateway.killed_and_started_again_after(|dir| {
        for path in segments(dir) {
            let mut bytes = std::fs::read(&path).expect("a segment");
            let at = bytes.windows(9).position(|bytes| bytes == b"damage-me").expect("the event");
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).expect("a segment");
        }
    });
    let ready = gateway.operators("/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    assert_eq!(ready.json()["log"]["state"], "degraded");
    assert!(ready.json()["log"]["reason"].as_str().expect("a reason").contains("1 stretches damaged"));
    assert_eq!(gateway.metric("tidegate_log_damaged_stretches_total"), 1.0);
    assert_eq!(gateway.metric("tidegate_log_missing_files_total"), 0.0);
    assert_eq!(gateway.metric("tidegate_log_state{state=\"degraded\"}"), 1.0);
    assert!(gateway.metric("tidegate_log_bytes{what=\"damaged\"}") > 0.0);
    assert!(gateway.metric("tidegate_log_recovery_duration_seconds") > 0.0);
    assert!(gateway.log().contains("damaged_stretches=1"), "{}", gateway.log());
    gateway.say("s", "4");
}
