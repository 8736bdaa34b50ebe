//! How a gateway drains: readers are asked to leave, publishers are refused, and admitted requests are
//! finished.

use std::io::Write as _;

use crate::{
    client::{
        http::{Answer, Request},
        stream::Frames as _,
        ws::{Message, masked},
    },
    gateway::{Gateway, eventually},
};

fn is_draining(gateway: &Gateway) {
    eventually("readyz to say no", || (gateway.operators("/readyz").status == 503).then_some(()));
}

#[test]
fn sigterm_tells_readers_turns_publishers_away_and_exits_with_zero() {
    let mut gateway = Gateway::with(&["drain.window=3s"]);
    gateway.say("s", "1");
    let (mut ws, mut sse) = (gateway.ws(""), gateway.sse(""));
    let cursor = ws.next("hello")["cursor"].as_str().expect("a cursor").to_owned();
    sse.next("hello");
    gateway.terminate();
    is_draining(&gateway);
    assert_eq!(gateway.operators("/readyz").json()["ready"], false);
    assert_eq!(gateway.operators("/healthz").status, 200, "it lives");

    let publish = gateway.publish(r#"{"service":"s","event":"e","data":2}"#);
    assert_eq!((publish.status, publish.refusal().as_str()), (503, "draining"));
    assert!(publish.header("retry-after").is_some());
    let (error, code) = gateway.ws("").refusal();
    assert_eq!((error["code"].as_str(), code), (Some("draining"), 1012));
    let refused = gateway.getting("stream").with("accept", "text/event-stream").send();
    assert_eq!((refused.status, refused.refusal().as_str()), (503, "draining"));
    let native =
        Request::new(gateway.public, "GET", &gateway.path(&format!("stream?access_token={}", gateway.token)));
    let native = native.send();
    assert_eq!(native.status, 200, "R22");
    assert!(native.body.starts_with("retry: ") && native.body.contains("\"draining\""), "{native:?}");

    let goaway = ws.next("goaway");
    assert_eq!(goaway["code"], "draining");
    assert!(goaway["retry_in_ms"].as_u64() > Some(0), "{goaway}");
    let (error, code) = ws.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("draining"), 1012));
    assert!(error["retry_in_ms"].as_u64() >= Some(1000));
    ws.send_raw(&masked(0x88, &[]));
    assert_eq!(ws.message(), Message::End);
    assert_eq!(sse.next("goaway")["code"], "draining");
    assert_eq!(sse.next("error")["code"], "draining");
    assert_eq!(sse.try_frame(), None);
    assert_eq!(gateway.exit_code(), Some(0));

    // The stop was clean: the cursor continues in the next incarnation without a gap.
    let gateway = gateway.started_again();
    let mut again = gateway.ws(&format!("?cursor={cursor}"));
    let hello = again.next("hello");
    assert_eq!(hello["resumed"], true);
    assert!(!cursor.starts_with(hello["epoch"].as_str().expect("an epoch")), "R11: every start is an epoch");
    gateway.say("s", "3");
    again.next("event");
}

#[test]
fn a_client_that_leaves_at_goaway_is_let_go_by_the_closing_handshake() {
    let mut gateway = Gateway::with(&["drain.window=2s"]);
    let mut stream = gateway.ws("");
    stream.next("hello");
    gateway.terminate();
    stream.next("goaway");
    stream.send_raw(&masked(0x88, &[0x03, 0xe8]));
    assert_eq!(stream.message(), Message::Close(1000, String::new()));
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn a_second_signal_leaves_at_once() {
    let mut gateway = Gateway::with(&["drain.window=1h"]);
    gateway.ws("").next("hello");
    let mut stream = gateway.ws("");
    stream.next("hello");
    gateway.terminate();
    is_draining(&gateway);
    gateway.terminate();
    assert_eq!(gateway.exit_code(), Some(0));
    while stream.try_frame().is_some() {}
}

#[test]
fn the_keyboard_interrupts() {
    let mut gateway = Gateway::start();
    gateway.interrupt();
    assert_eq!(gateway.exit_code(), Some(130));
}

#[test]
fn a_publish_that_was_let_in_is_answered() {
    let mut gateway = Gateway::start();
    let body = r#"{"service":"s","event":"e","data":1}"#;
    let request =
        gateway.publishing().with("expect", "100-continue").with("content-length", &body.len().to_string());
    let mut connection = request.begin();
    let go_on = Answer::read_head(&mut connection).expect("an answer");
    assert_eq!(go_on.status, 100, "the body is being waited for");
    gateway.terminate();
    is_draining(&gateway);
    connection.get_mut().write_all(body.as_bytes()).expect("send");
    let answer = Answer::read(&mut connection).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(gateway.exit_code(), Some(0));
    let gateway = gateway.started_again();
    assert_eq!(gateway.getting("events").send().json()["events"][0]["data"], 1);
}
