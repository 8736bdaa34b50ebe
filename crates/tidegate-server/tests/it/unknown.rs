//! A log that does not answer in time, or accepts no writes any more.

use tidegate_engine::Health;

use crate::{client::stream::Frames as _, held_node::HeldNode};

#[test]
fn an_unknown_outcome_names_the_ids_and_sending_again_is_safe() {
    let node = HeldNode::start();
    let request = node
        .publishing()
        .with("idempotency-key", "k")
        .body(r#"[{"service":"s","event":"e","id":"given","data":1},{"service":"s","event":"e","data":2}]"#);
    let answer = request.send();
    assert_eq!((answer.status, answer.refusal().as_str()), (504, "unknown"));
    assert_eq!(answer.json()["ids"], serde_json::json!(["given", "k-1"]), "assigned ones, too");
    node.let_answer();
    let again = request.send().json();
    assert_eq!(again["events"][1]["id"], "k-1");
    assert_eq!(again["events"][1]["duplicate"], true, "it had been stored: {again}");
}

#[test]
fn readers_are_told_that_the_log_takes_no_writes_those_who_come_later_too() {
    let node = HeldNode::start();
    let mut early = node.ws("");
    early.next("hello");
    node.halt();
    assert_eq!(early.next("status")["code"], "log_halted");
    let mut late = node.ws("");
    late.next("hello");
    assert_eq!(late.next("status")["code"], "log_halted");
}

#[test]
fn readers_hear_that_the_log_is_degraded_and_that_it_has_recovered() {
    let node = HeldNode::start();
    let (mut early, mut sse) = (node.ws(""), node.sse(""));
    early.next("hello");
    sse.next("hello");
    assert_eq!(node.operators("/readyz").status, 200);

    node.set_health(Health::Degraded("no leader on purpose".into()));
    assert_eq!(
        [early.next("status"), sse.next("status")].map(|status| status["code"].clone()),
        ["degraded"; 2]
    );
    let mut late = node.ws("");
    late.next("hello");
    assert_eq!(late.next("status")["code"], "degraded");
    let ready = node.operators("/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &false.into()));
    assert_eq!(ready.json()["reason"], "the log is degraded: no leader on purpose");

    node.set_health(Health::Ok);
    for reader in [&mut early, &mut late] {
        let status = reader.next("status");
        assert_eq!(status["code"], "recovered");
        assert!(!status["message"].as_str().expect("a message").contains("on purpose"), "{status}");
    }
    assert_eq!(sse.next("status")["code"], "recovered");
    assert_eq!(node.operators("/readyz").status, 200);

    // Whoever comes now hears of no trouble that is over; a halt can end, too.
    let mut third = node.ws("");
    third.next("hello");
    node.halt();
    for reader in [&mut early, &mut late, &mut third] {
        assert_eq!(reader.next("status")["code"], "log_halted");
    }
    node.set_health(Health::Ok);
    for reader in [&mut early, &mut late, &mut third] {
        assert_eq!(reader.next("status")["code"], "recovered");
    }
}
