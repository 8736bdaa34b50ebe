//! What is held because a client takes nothing, or asks for much: bytes in flight are counted for its user and org,
//! answers of history are made as they are taken, and searches through the log are bounded (P5).

use std::io::{BufReader, Read as _};

use serde_json::json;

use crate::{
    client::{
        http::{Answer, Request},
        stream::{Follower, Frames as _},
        wire::{self, Wire},
    },
    gateway::{Gateway, eventually},
    slow::{narrow, narrow_ws_with},
};

/// More than all buffers on the way hold together: 4 MB in 40 events.
fn fill(gateway: &Gateway) {
    let event = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(100_000));
    assert_eq!(gateway.publish(&format!("[{}]", vec![event; 40].join(","))).status, 200);
}

fn in_flight(gateway: &Gateway) -> f64 {
    gateway.metric("tidegate_in_flight_bytes{kind=\"answer\"}")
}

fn given_back(gateway: &Gateway) {
    eventually("all given back", || (in_flight(gateway) == 0.0).then_some(()));
}

/// A connection over HTTP/2 that grants no room, and asks for `count` pages; how many of them are answered 200.
fn ask_without_room(gateway: &Gateway, token: &str, count: u32) -> (Wire, usize) {
    let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 0)]);
    let (authority, bearer) = (gateway.public.to_string(), format!("Bearer {token}"));
    let path = gateway.path("events?limit=1000");
    let lines = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", &*authority),
        (":path", &*path),
        ("authorization", &*bearer),
    ];
    (0..count).for_each(|number| wire.ask(2 * number + 1, &lines));
    // The status comes first; 0x88 is 200 (RFC 7541, appendix A).
    let mut is_200 = || wire.until(wire::HEADERS).payload[0] == 0x88;
    let answered = (0..count).filter(|_| is_200()).count();
    (wire, answered)
}

#[test]
fn p5_pages_that_a_client_over_http2_grants_no_room_for_hold_little_and_all_is_given_back() {
    const BOUND: f64 = (1 << 20) as f64;
    let gateway = Gateway::with(&["limits.in_flight_bytes_per_user=1MiB", "limits.page_bytes=16MiB"]);
    fill(&gateway);
    let (first, answered) = ask_without_room(&gateway, &gateway.token, 100);
    // Each answer has 4 MB, and holds one event of them, about.
    assert!((8..=10).contains(&answered), "{answered}");
    let (second, answered) = ask_without_room(&gateway, &gateway.token, 100);
    assert_eq!(answered, 0, "of all connections of a user together");
    let held = in_flight(&gateway);
    assert!(held > 500_000.0 && held <= BOUND, "{held}");
    let requests = gateway.metric("tidegate_in_flight_bytes{kind=\"request\"}");
    assert_eq!(gateway.metric("tidegate_memory_bytes{holder=\"in_flight\"}"), held + requests);
    let refused = "tidegate_refusals_total{limit=\"limits.in_flight_bytes_per_user\"}";
    assert!(gateway.metric(refused) >= 190.0);
    let refused = gateway.getting("events").send();
    assert_eq!((refused.status, refused.refusal().as_str()), (503, "overloaded"));
    let another = format!("Bearer {}", gateway.token_of("another", &["*"]));
    let page = gateway.getting("events?limit=1000").with("authorization", &another).send().json();
    assert_eq!(page["events"].as_array().map(Vec::len), Some(40), "another user gets all of it");
    drop((first, second));
    given_back(&gateway);
    assert_eq!(gateway.getting("events").send().status, 200);
}

#[test]
fn p5_an_org_that_takes_nothing_leaves_memory_for_the_others() {
    let settings = ["limits.request_bytes=4MiB", "limits.in_flight_bytes=8MiB", "limits.page_bytes=16MiB"];
    let gateway = Gateway::with(&settings);
    fill(&gateway);
    let token_of = |user: usize| gateway.token_of(&format!("u{user}"), &["*"]);
    let held: Vec<_> = (0..3).map(|user| ask_without_room(&gateway, &token_of(user), 60)).collect();
    let answered: usize = held.iter().map(|(_, answered)| answered).sum();
    assert!((30..=45).contains(&answered), "half of the node's: {answered}");
    assert!(gateway.metric("tidegate_refusals_total{limit=\"limits.in_flight_bytes\"}") > 100.0);
    let key = gateway.key_for("other", "*");
    let theirs = gateway.publishing().to("/v1/orgs/other/events");
    let theirs = theirs.with("authorization", &format!("Bearer {key}"));
    let large = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(200_000));
    assert_eq!(theirs.body(format!("[{}]", vec![large; 10].join(","))).send().status, 200);
    drop(held);
    given_back(&gateway);
}

#[test]
fn p5_requests_of_one_address_over_http2_are_bounded_over_all_its_connections() {
    let gateway = Gateway::with(&["limits.in_flight_bytes=8MiB"]);
    let (authority, path) = (gateway.public.to_string(), gateway.path("events"));
    // They need no credentials, and no room to be answered in.
    let lines = [(":method", "GET"), (":scheme", "http"), (":authority", &*authority), (":path", &*path)];
    let mut refused = 0;
    let connections: Vec<Wire> = (0..12)
        .map(|_| {
            let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 0)]);
            (0..100).for_each(|number| wire.ask(2 * number + 1, &lines));
            let mut answered = 0;
            while answered < 100 {
                let frame = wire.next().expect("a frame");
                let is_refused = frame.kind == wire::RST_STREAM && frame.number() == wire::REFUSED_STREAM;
                refused += usize::from(is_refused);
                answered += usize::from(is_refused || frame.kind == wire::HEADERS);
            }
            wire
        })
        .collect();
    // Half of 8 MiB, 4 KiB each.
    assert_eq!(refused, 1200 - 1024);
    let held = || gateway.metric("tidegate_in_flight_bytes{kind=\"request\"}");
    assert_eq!(held(), f64::from(4 << 20));
    gateway.say("s", "1");
    drop(connections);
    eventually("all given back", || (held() == 0.0).then_some(()));
}

#[test]
fn p5_pages_that_sockets_leave_unread_hold_little_and_all_is_given_back() {
    let gateway = Gateway::with(&["limits.page_bytes=16MiB"]);
    fill(&gateway);
    let ask = || narrow(&gateway.getting("events?limit=1000"), gateway.public);
    let mut unread: Vec<_> = (0..30).map(|_| ask()).collect();
    // Each has begun.
    let mut byte = [0; 1];
    unread.iter_mut().for_each(|socket| socket.read_exact(&mut byte).expect("the answer begins"));
    let held = in_flight(&gateway);
    assert!((30.0 * 84_000.0..30.0 * 250_000.0).contains(&held), "{held}");
    // One that is read after all gets all of it.
    let last = unread.pop().expect("some");
    let whole = Answer::read(&mut after(b"H", last)).expect("an answer");
    assert_eq!(whole.json()["events"].as_array().map(Vec::len), Some(40));
    assert_eq!(
        (whole.header("transfer-encoding"), &whole.json()["has_more"]),
        (Some("chunked"), &json!(false))
    );
    drop(unread);
    given_back(&gateway);
}

/// What was read already, and the rest.
fn after<R: std::io::Read>(begun: &[u8], rest: R) -> BufReader<impl std::io::Read> {
    BufReader::new(std::io::Cursor::new(begun.to_vec()).chain(rest))
}

#[test]
fn a_page_whose_log_is_deleted_meanwhile_is_cut_and_not_ended() {
    let gateway = Gateway::with(&["limits.page_bytes=16MiB"]);
    fill(&gateway);
    let mut socket = narrow(&gateway.getting("events?limit=1000"), gateway.public);
    socket.read_exact(&mut [0; 1]).expect("the answer begins");
    let (mut wire, answered) = ask_without_room(&gateway, &gateway.token, 1);
    assert_eq!(answered, 1);
    assert_eq!(
        Request::new(gateway.admin, "DELETE", &format!("/v1/orgs/{}", gateway.org)).send().status,
        200
    );
    let mut rest = Vec::new();
    // The end may be an error.
    let _ = socket.read_to_end(&mut rest);
    let begun = String::from_utf8_lossy(&rest[..500]).to_lowercase();
    assert!(begun.contains("transfer-encoding: chunked"), "{begun}");
    assert!(!rest.ends_with(b"\r\n0\r\n\r\n"), "it looks whole");
    wire.give_room(0, 10 << 20);
    wire.give_room(1, 10 << 20);
    let reset = wire.until(wire::RST_STREAM);
    assert_eq!((reset.stream, reset.number()), (1, wire::INTERNAL_ERROR));
    given_back(&gateway);
}

#[test]
fn p5_a_search_for_a_quiet_service_is_bounded_and_goes_on_where_it_ended() {
    let gateway = Gateway::with(&["limits.scan_bytes=64KiB"]);
    let loud = format!(r#"{{"service":"loud","event":"e","data":"{}"}}"#, "x".repeat(1_000));
    assert_eq!(gateway.publish(&format!("[{}]", vec![loud; 500].join(","))).status, 200);
    gateway.say("quiet", "1");
    let (mut after, mut at, mut requests) = (String::new(), 0, 0);
    loop {
        let page = gateway.getting(&format!("events?services=quiet&limit=1{after}")).send().json();
        requests += 1;
        let cursor = page["cursor"].as_str().expect("a cursor").to_owned();
        let seq = cursor.parse::<tidegate_protocol::Cursor>().expect("a cursor").seq;
        // A whole page of the log more than it may look through.
        assert!(seq > at && seq - at <= 128, "{at} to {seq}");
        at = seq;
        if page["has_more"] == false {
            assert_eq!(page["events"][0]["service"], "quiet");
            break;
        }
        assert_eq!(page["events"], json!([]));
        after = format!("&after={cursor}");
    }
    assert_eq!((at, requests > 4), (501, true), "{requests}");
    assert!(gateway.metric("tidegate_replay_pages_total{of=\"read\"}") <= 20.0, "nothing is read twice");
    // All of it is looked through for a stream, and found.
    let wide = Gateway::start();
    wide.say("quiet", "1");
    let loud = r#"{"service":"loud","event":"e","data":1}"#;
    assert_eq!(wide.publish(&format!("[{}]", vec![loud; 900].join(","))).status, 200);
    let mut stream = wide.ws("?services=quiet&tail=1");
    stream.next("hello");
    assert_eq!(stream.next("event")["seq"], 1);
}

#[test]
fn p5_a_user_over_their_connections_has_nothing_searched_for() {
    let gateway = Gateway::with(&["limits.connections_per_user=1"]);
    gateway.say("s", "1");
    let mut stream = gateway.ws("");
    stream.next("hello");
    let read = || gateway.metric("tidegate_replay_pages_total{of=\"read\"}");
    let before = read();
    for _ in 0..3 {
        assert_eq!(gateway.ws("?tail=1").refusal().0["code"], "too_many_connections");
        assert_eq!(gateway.getting("stream?tail=1").send().status, 429);
    }
    assert_eq!(read(), before);
    drop(stream);
    let mut stream = eventually("its place", || {
        let mut stream = gateway.ws("?tail=1");
        (stream.frame()["type"] == "hello").then_some(stream)
    });
    assert_eq!(stream.next("event")["seq"], 1);
    assert_eq!(read(), before + 1.0);
}

#[test]
fn p5_streams_that_are_not_read_while_they_catch_up_hold_little_and_miss_nothing() {
    const EVENTS: usize = 80;
    let gateway = Gateway::with(&[
        "limits.event_bytes=128KiB",
        "limits.request_bytes=128KiB",
        "tail.org_max_bytes=128KiB",
        "limits.in_flight_bytes=256KiB",
        "limits.in_flight_bytes_per_user=256KiB",
    ]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let wide = format!("\"{}\"", "x".repeat(100_000));
    (0..EVENTS).for_each(|_| assert!(gateway.say("s", &wide) > 0));
    let mut streams: Vec<_> = (0..6).map(|_| narrow_ws_with(&gateway, &format!("?cursor={start}"))).collect();
    let refused = || gateway.metric("tidegate_refusals_total{limit=\"limits.in_flight_bytes\"}");
    eventually("some wait", || (refused() > 0.0).then_some(()));
    let held = || gateway.metric("tidegate_in_flight_bytes{kind=\"unread\"}");
    assert!(held() <= 256.0 * 1024.0, "{}", held());
    let wanted: Vec<_> = (1..=EVENTS as u64).map(Some).collect();
    std::thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(|| {
                let mut client = Follower::at(&start);
                let events = stream.events(&mut client, EVENTS);
                assert_eq!(events.iter().map(|event| event["seq"].as_u64()).collect::<Vec<_>>(), wanted);
            });
        }
    });
    eventually("all given back", || (held() == 0.0).then_some(()));
}

#[test]
fn p5_a_replay_for_a_user_who_has_had_much_read_waits_and_misses_nothing() {
    let gateway = Gateway::with(&[
        "limits.event_bytes=1KiB",
        "limits.request_bytes=1KiB",
        "tail.org_max_bytes=1KiB",
        "limits.scan_bytes_per_second=2KiB",
    ]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let wide = format!("\"{}\"", "x".repeat(800));
    (0..5).for_each(|_| assert!(gateway.say("s", &wide) > 0));
    let page = gateway.getting("events").send().json();
    assert_eq!(page["events"].as_array().map(Vec::len), Some(5));
    let refused = gateway.getting("events").send();
    assert_eq!(
        (refused.status, refused.refusal().as_str()),
        (429, "rate_limited"),
        "the user owes something"
    );
    for stream in &mut gateway.both(&format!("?cursor={start}")) {
        let mut client = Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor"));
        let seqs: Vec<_> = stream.events(&mut client, 5).iter().map(|event| event["seq"].as_u64()).collect();
        assert_eq!(seqs, (1..=5).map(Some).collect::<Vec<_>>());
    }
}
