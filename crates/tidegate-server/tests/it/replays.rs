//! Many readers that return at once: what they get is read and encoded once, and is what each may see.

use serde_json::Value;

use crate::{
    client::{
        sse::Sse,
        stream::{Follower, Frames},
        ws::Ws,
    },
    gateway::{Gateway, eventually},
    held_node::HeldNode,
};

/// Events of the log, in pages of at most 128.
const EVENTS: usize = 600;
const PAGES: f64 = 5.0;

/// Numbers 1 to [`EVENTS`], alternating between `odd` and `even`; every fiftieth is only for ann.
fn publish(gateway: &Gateway) {
    let event = |number: usize| {
        let users = if number.is_multiple_of(50) { ",\"users\":[\"ann\"]" } else { "" };
        let service = if number.is_multiple_of(2) { "even" } else { "odd" };
        format!(r#"{{"service":"{service}","event":"e"{users},"data":{number}}}"#)
    };
    for first in (1..=EVENTS).step_by(100) {
        let events: Vec<String> = (first..first + 100).map(event).collect();
        assert_eq!(gateway.publish(&format!("[{}]", events.join(","))).status, 200);
    }
}

/// The events that this user sees.
fn seen(user: &str, query: &str) -> Vec<i64> {
    let of_filter = |number: &i64| !query.contains("services=even") || number % 2 == 0;
    let of_user = |number: &i64| user == "ann" || number % 50 != 0;
    (1..=EVENTS as i64).filter(of_filter).filter(of_user).collect()
}

/// One stream of each transport and coding.
fn streams(gateway: &Gateway, token: &str, query: &str) -> Vec<Box<dyn Frames>> {
    let bearer = format!("Bearer {token}");
    let path = gateway.path(&format!("stream{query}"));
    let deflated = [("authorization", bearer.as_str()), ("sec-websocket-extensions", "permessage-deflate")];
    let deflated = Ws::open(gateway.public, &path, &deflated);
    assert!(deflated.handshake.header("sec-websocket-extensions").is_some(), "agreed");
    let gzip = gateway.getting(&format!("stream{query}")).with("authorization", &bearer);
    let gzip = Sse::open(gzip.with("accept-encoding", "gzip"));
    assert_eq!(gzip.head.header("content-encoding"), Some("gzip"));
    let mut streams = Vec::from(gateway.both_as(token, query));
    streams.push(Box::new(deflated));
    streams.push(Box::new(gzip));
    streams
}

fn data(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["data"].as_i64().expect("a number")).collect()
}

#[test]
fn r8_many_that_come_back_at_once_share_what_they_may_and_see_no_more() {
    let gateway = Gateway::with(&[
        "node.workers=1",
        "limits.connections_per_user=1000",
        "limits.handshakes_per_second=100000",
    ]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let untagged = start.rsplit_once('-').expect("a tag").0.to_owned();
    publish(&gateway);
    // Empties the tail, so that everything comes from the log.
    let gateway = gateway.killed_and_started_again();
    let tokens = ["ann", "bob", "cid"].map(|user| (user, gateway.token_of(user, &["*"])));
    let mut all = Vec::new();
    for (user, token) in &tokens {
        for query in [format!("?cursor={untagged}"), format!("?services=even&cursor={untagged}")] {
            for _ in 0..3 {
                let streams = streams(&gateway, token, &query);
                all.extend(streams.into_iter().map(|stream| (*user, query.clone(), stream)));
            }
        }
    }
    for (user, query, stream) in &mut all {
        let (mut client, expected) = (Follower::at(&untagged), seen(user, query));
        let events = stream.events(&mut client, expected.len());
        assert_eq!(data(&events), expected, "{user} {query} {}", stream.transport());
        assert!(client.gaps.is_empty());
    }
    let pages = |of: &str| gateway.metric(&format!("tidegate_replay_pages_total{{of=\"{of}\"}}"));
    assert_eq!(pages("read"), PAGES, "once each, whoever asks");
    // Each page has events for ann; the others share what they get of it.
    assert_eq!((pages("private"), pages("shared")), (24.0 * PAGES, 48.0 * PAGES));
    // All have caught up.
    assert!(gateway.say("even", "700") > 0);
    for (user, query, stream) in &mut all {
        let event = std::iter::repeat_with(|| stream.frame()).find(|frame| frame["type"] != "ping");
        assert_eq!(event.expect("one comes")["data"], 700, "{user} {query} {}", stream.transport());
    }
}

#[test]
fn cursors_that_differ_meet_on_the_same_pages() {
    let gateway = Gateway::with(&["node.workers=1", "limits.connections_per_user=100"]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    publish(&gateway);
    let gateway = gateway.killed_and_started_again();
    let expected = seen("bob", "");
    let token = gateway.token_of("bob", &["*"]);
    for behind in 0..20 {
        let cursor = start.replacen("-0-", &format!("-{behind}-"), 1);
        let mut stream = gateway.ws_as(&token, &format!("?cursor={cursor}"));
        let events = stream.events(&mut Follower::at(&cursor), expected.len() - behind);
        assert_eq!(data(&events), expected[behind..]);
    }
    let read = gateway.metric("tidegate_replay_pages_total{of=\"read\"}");
    assert_eq!(read, 20.0 + PAGES - 1.0, "each its first, and then the same");
}

#[test]
fn pages_are_kept_to_their_bound() {
    let bound = 64 << 10;
    let gateway = Gateway::with(&["tail.page_bytes=64KiB", "node.workers=1"]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let wide = "x".repeat(500);
    let events: Vec<String> =
        (0..500).map(|_| format!(r#"{{"service":"s","event":"e","data":"{wide}"}}"#)).collect();
    (0..2).for_each(|_| assert_eq!(gateway.publish(&format!("[{}]", events.join(","))).status, 200));
    let gateway = gateway.killed_and_started_again();
    for stream in &mut streams(&gateway, &gateway.token, &format!("?cursor={start}")) {
        assert_eq!(stream.events(&mut Follower::at(&start), 1000).len(), 1000);
    }
    assert!(gateway.metric("tidegate_replay_pages_total{of=\"read\"}") >= 10.0, "too little to fill it");
    // Pages that were on their way to readers are freed with the last of them.
    let kept = || gateway.metric("tidegate_replay_page_bytes");
    eventually("no more than may be kept", || (kept() <= f64::from(bound)).then_some(()));
}

#[test]
fn a_page_that_many_ask_for_while_it_is_read_is_read_once() {
    let node = HeldNode::with(&[("limits.connections_per_user", "100")]);
    let start = node.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    node.let_answer();
    assert_eq!(node.publishing().body(r#"{"service":"s","event":"e","data":1}"#).send().status, 200);
    node.let_read(false);
    let mut streams: Vec<Ws> = (0..50).map(|_| node.ws(&format!("?cursor={start}"))).collect();
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    // A reader that gives up is not waited for.
    streams.pop();
    assert_eq!(node.metric("tidegate_replay_pages_total{of=\"read\"}"), 0.0);
    node.let_read(true);
    streams.iter_mut().for_each(|stream| assert_eq!(stream.next("event")["data"], 1));
    assert_eq!(node.metric("tidegate_replay_pages_total{of=\"read\"}"), 1.0);
}
