//! A publish whose outcome is not known.

use crate::held_node::HeldNode;

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
