//! A log that does not answer in time, or accepts no writes any more.

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
