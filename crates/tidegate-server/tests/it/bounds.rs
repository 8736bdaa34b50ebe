//! Every limit under `[limits]` is reached by a scenario. A key without one fails the test.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tidegate_server::config::keys::KEYS;

use crate::{
    client::{
        http::{Answer, Request, connect},
        stream::Frames as _,
        ws::{Ws, masked},
    },
    gateway::{DEADLINE, Gateway, eventually},
    held_node::HeldNode,
    http2_abuse, slow,
};

/// The result of a scenario.
enum Hit {
    /// The gateway has refused something because of the limit, so it must have counted it.
    Counted(Gateway),
    /// The gateway has ended something without an answer; it will count it.
    Silent(Gateway),
    /// Nothing is refused: the scenario has seen the limit's effect.
    Seen,
}

use Hit::{Counted, Seen, Silent};

const EVENT: &str = r#"{"service":"s","event":"e","data":1}"#;

/// Sizes for small events.
fn small(more: &[&str]) -> Gateway {
    let sizes = ["limits.event_bytes=1KiB", "limits.request_bytes=8KiB"];
    Gateway::with(&sizes.iter().chain(more).copied().collect::<Vec<_>>())
}

/// Checks that a request was refused with this code and names the limit.
fn refused(answer: &Answer, limit: &str, status: u16, code: &str) {
    assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{answer:?}");
    assert_eq!(answer.json()["limit"], limit, "{answer:?}");
    let is_for_now = [429, 503, 504, 408].contains(&status);
    assert_eq!(answer.json()["retry_in_ms"].is_u64(), is_for_now, "when to come back: {answer:?}");
    assert_eq!(answer.header("retry-after").is_some(), [429, 503].contains(&status), "{answer:?}");
}

/// Checks that a stream ends with this code and names the limit.
fn ended(mut stream: Ws, limit: &str, close: u16, code: &str) {
    let (error, closed) = stream.refusal();
    assert_eq!((error["code"].as_str(), closed), (Some(code), close), "{error}");
    assert_eq!(error["limit"], limit, "{error}");
}

/// One connection within the limit and one above it, over both transports.
fn second_connection(settings: &[&str], limit: &str, (close, status, code): (u16, u16, &str)) -> Hit {
    let gateway = Gateway::with(settings);
    let mut first = gateway.ws("");
    first.next("hello");
    let other = gateway.token_of("v", &["*"]);
    let token = if limit.ends_with("_user") { &gateway.token } else { &other };
    ended(gateway.ws_as(token, ""), limit, close, code);
    let sse = gateway.getting("stream").with("authorization", &format!("Bearer {token}"));
    refused(&sse.send(), limit, status, code);
    Counted(gateway)
}

const ONE_USER: &str = "limits.connections_per_user=1";
const ONE_OF_ORG: &str = "limits.connections_per_org=1";
const TOO_MANY: (u16, u16, &str) = (4004, 429, "too_many_connections");

fn connections(limit: &str) -> Hit {
    second_connection(&[ONE_USER, ONE_OF_ORG, "limits.connections=1"], limit, (1013, 503, "overloaded"))
}

fn connections_per_org(limit: &str) -> Hit {
    second_connection(&[ONE_USER, ONE_OF_ORG], limit, TOO_MANY)
}

/// Streams over both transports, and one whose token is renewed for other services.
#[test]
fn p5_the_filters_of_an_org_have_a_bound() {
    let limit = "limits.org.filters";
    let gateway = Gateway::with(&["limits.org.filters=2"]);
    let of_ann = |services: &[&str]| gateway.token_of("ann", services);
    let mut ann = gateway.ws_as(&of_ann(&["a"]), "");
    ann.next("hello");
    let mut b = [gateway.ws("?services=b"), gateway.ws("?services=b")];
    b.iter_mut().for_each(|stream| drop(stream.next("hello")));
    ended(gateway.ws("?services=c"), limit, 1013, "overloaded");
    refused(&gateway.getting("stream?services=c").send(), limit, 503, "overloaded");
    // Nobody else had the set that the renewal replaces.
    ann.authenticate(&of_ann(&["c"]));
    ann.next("hello");
    let mut c = gateway.ws("?services=c");
    c.next("hello");
    ann.authenticate(&of_ann(&["d"]));
    ended(ann, limit, 1013, "overloaded");
    assert_eq!(gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")), 3.0);
}

fn connections_per_user(limit: &str) -> Hit {
    second_connection(&[ONE_USER], limit, TOO_MANY)
}

fn connections_per_address(limit: &str) -> Hit {
    second_connection(&["limits.connections_per_address=1"], limit, TOO_MANY)
}

fn streams_per_connection(_: &str) -> Hit {
    http2_abuse::streams_over_the_bound_are_refused();
    Seen
}

fn connections_per_user_policy(_: &str) -> Hit {
    let gateway = Gateway::with(&[ONE_USER, "limits.connections_per_user_policy=evict_oldest"]);
    let mut first = gateway.ws("");
    first.next("hello");
    gateway.ws("").next("hello");
    assert_eq!(first.refusal().0["code"], "evicted");
    Seen
}

/// Refused whether the token is good or not, and over SSE before the token is read.
fn handshakes_per_second(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.handshakes_per_second=1"]);
    let sse = gateway.getting("stream").with("authorization", "Bearer nonsense");
    let answer = eventually("a try over the rate", || {
        let answer = sse.send();
        (answer.status != 401).then_some(answer)
    });
    refused(&answer, limit, 429, "rate_limited");
    let close = eventually("a try over the rate", || {
        let (error, close) = gateway.ws_as("nonsense", "").refusal();
        (error["limit"] == limit).then_some(close)
    });
    assert_eq!(close, 4005);
    Counted(gateway)
}

/// A returning reader is refused while the maximum is waiting; a reader that begins at the head is not.
fn replays_waiting(limit: &str) -> Hit {
    let node = HeldNode::with(&[("limits.replays_waiting", "1")]);
    let start = node.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    node.let_answer();
    assert_eq!(node.publishing().body(EVENT).send().status, 200);
    node.let_read(false);
    let (behind, waiting) = (format!("?cursor={start}"), || node.metric("tidegate_replays_waiting"));
    let mut first = node.ws(&behind);
    first.next("hello");
    assert_eq!(waiting(), 1.0);
    ended(node.ws(&behind), limit, 1013, "overloaded");
    refused(&node.getting(&format!("stream{behind}")).send(), limit, 503, "overloaded");
    node.ws("").next("hello");
    node.let_read(true);
    first.next("event");
    // Caught up, or waiting for its own client: its slot is free.
    eventually("its place", || (waiting() == 0.0).then_some(()));
    let mut second = node.ws(&behind);
    second.next("hello");
    second.next("event");
    assert_eq!(node.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")), 2.0);
    Seen
}

/// Refused before the credentials are verified; requests without credentials, and streams, are not.
fn failed_auths_per_second(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.failed_auths_per_second=1"]);
    (0..50).for_each(|_| assert_eq!(gateway.getting("cursor").send().status, 200, "good ones cost nothing"));
    let bad = |request: Request| request.with("authorization", "Bearer nonsense");
    let requests = || [bad(gateway.getting("cursor")), bad(gateway.getting("events"))];
    for number in 0..requests().len() {
        let answer = eventually("a try over the rate", || {
            let answer = requests()[number].send();
            (answer.status != 401).then_some(answer)
        });
        refused(&answer, limit, 429, "rate_limited");
    }
    let good = eventually("a good token over the rate", || {
        bad(gateway.getting("cursor")).send();
        let answer = gateway.getting("cursor").send();
        (answer.status != 200).then_some(answer)
    });
    refused(&good, limit, 429, "rate_limited");
    gateway.ws("").next("hello");
    assert_eq!(gateway.getting("stream").with("authorization", "Bearer nonsense").send().status, 401);
    assert_eq!(gateway.publish(EVENT).status, 200, "nor are publishers");
    eventually("good ones again", || (gateway.getting("cursor").send().status == 200).then_some(()));
    Counted(gateway)
}

fn orgs(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.orgs=1"]);
    gateway.say("s", "1");
    let key = gateway.key_for("other", "*");
    let publish =
        gateway.publishing().to("/v1/orgs/other/events").with("authorization", &format!("Bearer {key}"));
    refused(&publish.body(EVENT).send(), limit, 503, "overloaded");
    Counted(gateway)
}

fn publishes_per_second(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.publishes_per_second=1"]);
    let answer = eventually("a publish over the rate", || {
        let answer = gateway.publish(EVENT);
        (answer.status != 200).then_some(answer)
    });
    refused(&answer, limit, 429, "rate_limited");
    Counted(gateway)
}

/// A publish has its place from when its body has come until it is answered.
fn publishes_in_flight(limit: &str) -> Hit {
    let node = HeldNode::with(&[("limits.publishes_in_flight", "1"), ("limits.publish_timeout", "1h")]);
    let mut first = node.publishing().body(EVENT).begin();
    eventually("it is at the log", || (node.appends() == 1).then_some(()));
    refused(&node.publishing().body(EVENT).send(), limit, 503, "overloaded");
    node.let_answer();
    assert_eq!(Answer::read(&mut first).expect("an answer").status, 200);
    assert_eq!(node.publishing().body(EVENT).send().status, 200, "the place is given back");
    assert_eq!(node.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")), 1.0);
    Seen
}

/// A body that stops half way, and another of its org.
fn in_flight_bytes(limit: &str) -> Hit {
    let sizes = ["limits.event_bytes=64KiB", "limits.request_bytes=64KiB"];
    let gateway = Gateway::with(&[sizes[0], sizes[1], "limits.in_flight_bytes=128KiB"]);
    let body = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(60_000));
    let mut first = gateway.publishing().with("content-length", &body.len().to_string()).begin();
    first.get_mut().write_all(&body.as_bytes()[..60_000]).expect("send");
    let held = || gateway.metric("tidegate_in_flight_bytes{kind=\"body\"}");
    eventually("what has come is charged", || (held() >= 60_000.0).then_some(()));
    refused(&gateway.publish(&body), limit, 503, "overloaded");
    first.get_mut().write_all(&body.as_bytes()[60_000..]).expect("send");
    assert_eq!(Answer::read(&mut first).expect("an answer").status, 200);
    assert_eq!(gateway.publish(&body).status, 200, "its memory is given back");
    Counted(gateway)
}

/// Pages that a user does not take.
fn in_flight_bytes_per_user(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.in_flight_bytes_per_user=512KiB", "limits.page_bytes=16MiB"]);
    slow::fill(&gateway);
    let ask = || slow::narrow(&gateway.getting("events?limit=1000"), gateway.public);
    let mut unread = Vec::new();
    let answer = loop {
        let mut asked = ask();
        let head = Answer::read_head(&mut asked).expect("an answer");
        if head.status != 200 {
            break gateway.getting("events").send();
        }
        unread.push(asked);
        assert!(unread.len() < 10, "nothing is refused");
    };
    refused(&answer, limit, 503, "overloaded");
    drop(unread);
    eventually("its memory given back", || (gateway.getting("events").send().status == 200).then_some(()));
    Counted(gateway)
}

/// Several at once, until they are at the log together.
fn publish_queue_bytes(limit: &str) -> Hit {
    let gateway = Gateway::with(&[
        "limits.event_bytes=64KiB",
        "limits.request_bytes=64KiB",
        "limits.publish_queue_bytes=64KiB",
        "limits.events_per_batch=1",
    ]);
    let body = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(60_000));
    let found: Mutex<Option<Answer>> = Mutex::new(None);
    let (is_found, began) = (AtomicBool::new(false), std::time::Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_found.load(Ordering::SeqCst) && began.elapsed() < DEADLINE {
                    let answer = gateway.publish(&body);
                    if answer.status != 200 {
                        *found.lock().expect("not poisoned") = Some(answer);
                        is_found.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let answer = found.into_inner().expect("not poisoned").expect("two that waited at once");
    refused(&answer, limit, 503, "overloaded");
    Counted(gateway)
}

fn event_bytes(limit: &str) -> Hit {
    let gateway = small(&[]);
    let body = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(2000));
    refused(&gateway.publish(&body), limit, 413, "too_large");
    Counted(gateway)
}

fn request_bytes(limit: &str) -> Hit {
    let gateway = small(&[]);
    refused(&gateway.publish(&" ".repeat(9000)), limit, 413, "too_large");
    Counted(gateway)
}

fn events_per_batch(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.events_per_batch=1"]);
    refused(&gateway.publish(&format!("[{EVENT},{EVENT}]")), limit, 413, "too_large");
    Counted(gateway)
}

fn orgs_per_batch(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.orgs_per_batch=1"]);
    let key = format!("Bearer {}", gateway.key_for("*", "*"));
    let of = |org: &str| format!(r#"{{"org":"{org}","service":"s","event":"e","data":1}}"#);
    let publishing = || gateway.publishing().to("/v1/events").with("authorization", &key);
    refused(&publishing().body(format!("[{},{}]", of("a"), of("b"))).send(), limit, 413, "too_large");
    assert_eq!(publishing().body(format!("[{},{}]", of("a"), of("a"))).send().status, 200);
    Counted(gateway)
}

/// A fault of a field that names its limit.
fn faulty_field(setting: &str, body: &str, limit: &str) -> Hit {
    let gateway = Gateway::with(&[setting]);
    let answer = gateway.publish(body);
    assert_eq!((answer.status, answer.refusal().as_str()), (422, "invalid"), "{answer:?}");
    assert_eq!(answer.json()["errors"][0]["limit"], limit, "{answer:?}");
    Counted(gateway)
}

fn users_per_event(limit: &str) -> Hit {
    let body = r#"{"service":"s","event":"e","data":1,"users":["a","b"]}"#;
    faulty_field("limits.users_per_event=1", body, limit)
}

fn json_depth(limit: &str) -> Hit {
    faulty_field("limits.json_depth=2", r#"{"service":"s","event":"e","data":[[[1]]]}"#, limit)
}

fn header_bytes(_: &str) -> Hit {
    let gateway = Gateway::with(&["limits.header_bytes=8KiB"]);
    let answer = gateway.getting("cursor").with("x", &"y".repeat(10_000)).send();
    assert_eq!(answer.status, 431, "{answer:?}");
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"limits.headers\"}"), 0.0);
    Silent(gateway)
}

fn headers(_: &str) -> Hit {
    let gateway = Gateway::with(&["limits.headers=8"]);
    let many = (0..20).fold(gateway.getting("cursor"), |request, n| request.with(&format!("x-{n}"), "y"));
    assert_eq!(many.send().status, 431);
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"limits.header_bytes\"}"), 0.0);
    Silent(gateway)
}

fn token_bytes(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.token_bytes=1KiB"]);
    let token = "y".repeat(2000);
    let header = gateway.getting("cursor").with("authorization", &format!("Bearer {token}"));
    refused(&header.send(), limit, 401, "unauthorized");
    let mut frame = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    frame.authenticate(&token);
    ended(frame, limit, 4551, "unauthorized");
    Counted(gateway)
}

fn services_per_filter(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.services_per_filter=1"]);
    refused(&gateway.getting("events?services=a,b").send(), limit, 400, "bad_request");
    ended(gateway.ws("?services=a,b"), limit, 4553, "bad_request");
    Counted(gateway)
}

fn client_frame_bytes(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.token_bytes=1KiB", "limits.client_frame_bytes=1KiB"]);
    let mut stream = gateway.ws("");
    stream.next("hello");
    stream.send(&"x".repeat(2000));
    ended(stream, limit, 1009, "too_large");
    Counted(gateway)
}

fn client_frames_per_second(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.client_frames_per_second=5"]);
    let mut stream = gateway.ws("");
    stream.next("hello");
    stream.send_raw(&masked(0x81, br#"{"type":"pong"}"#).repeat(500));
    ended(stream, limit, 4005, "rate_limited");
    Counted(gateway)
}

fn tail_events(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.tail_events=5"]);
    refused(&gateway.getting("stream?tail=6").send(), limit, 400, "bad_request");
    ended(gateway.ws("?tail=6"), limit, 4553, "bad_request");
    gateway.ws("?tail=5").next("hello");
    Counted(gateway)
}

/// An event too far back is not searched for.
fn tail_search_events(_: &str) -> Hit {
    let start = |settings: &[&str]| {
        let gateway = Gateway::with(settings);
        gateway.say("rare", "1");
        let other = r#"{"service":"other","event":"e","data":1}"#;
        let batch = format!("[{}]", vec![other; 1000].join(","));
        (0..2).for_each(|_| assert_eq!(gateway.publish(&batch).status, 200));
        let hello = gateway.ws("?tail=1&services=rare").next("hello");
        let cursor = hello["cursor"].as_str().expect("a cursor");
        cursor.parse::<tidegate_protocol::Cursor>().expect("a cursor").seq
    };
    assert_eq!(start(&[]), 0, "found");
    assert!(start(&["limits.tail_events=1", "limits.tail_search_events=1"]) > 0, "not found");
    Seen
}

/// The search for a page ends, and the next one goes on.
fn scan_bytes(_: &str) -> Hit {
    let gateway = Gateway::with(&["limits.scan_bytes=1KiB"]);
    let wide = format!("\"{}\"", "x".repeat(40_000));
    (0..3).for_each(|_| assert!(gateway.say("loud", &wide) > 0));
    let page = gateway.getting("events?services=quiet").send().json();
    assert_eq!(
        (page["events"].as_array().map(Vec::len), &page["has_more"]),
        (Some(0), &true.into()),
        "{page}"
    );
    Seen
}

fn scan_bytes_per_second(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.scan_bytes_per_second=1KiB"]);
    let wide = format!("\"{}\"", "x".repeat(40_000));
    (0..3).for_each(|_| assert!(gateway.say("s", &wide) > 0));
    let page = gateway.getting("events").send().json();
    assert_eq!((page["events"].as_array().map(Vec::len), &page["has_more"]), (Some(1), &true.into()));
    refused(&gateway.getting("events").send(), limit, 429, "rate_limited");
    ended(gateway.ws("?tail=1"), limit, 4005, "rate_limited");
    let another = format!("Bearer {}", gateway.token_of("another", &["*"]));
    assert_eq!(gateway.getting("events").with("authorization", &another).send().status, 200);
    Counted(gateway)
}

fn page_events(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.page_events=5"]);
    refused(&gateway.getting("events?limit=6").send(), limit, 400, "bad_request");
    assert_eq!(gateway.getting("events?limit=5").send().status, 200);
    Counted(gateway)
}

/// A full page ends and says that there is more.
fn page_bytes(_: &str) -> Hit {
    let gateway = Gateway::with(&["limits.page_bytes=1KiB"]);
    let wide = format!("\"{}\"", "x".repeat(900));
    (0..3).for_each(|_| assert!(gateway.say("s", &wide) > 0));
    let page = gateway.getting("events").send().json();
    let count = page["events"].as_array().expect("events").len();
    assert!(count < 3 && page["has_more"] == true, "{count}");
    Seen
}

fn first_frame_timeout(limit: &str) -> Hit {
    // Operators' requests are under it too, so it is not too short for a busy machine.
    let gateway = Gateway::with(&["limits.first_frame_timeout=1s"]);
    ended(Ws::open(gateway.public, &gateway.path("stream"), &[]), limit, 4006, "auth_timeout");
    let mut partial = gateway.ws("");
    partial.next("hello");
    partial.send_raw(&[0x81]);
    ended(partial, limit, 4553, "bad_frame");
    // A head that never ends is closed without an answer, but is counted.
    let mut head = connect(gateway.public);
    head.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").expect("send");
    let _ = head.read_to_end(&mut Vec::new());
    let count = || gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}"));
    eventually("all three counted", || (count() == 3.0).then_some(()));
    Counted(gateway)
}

fn waiting_sockets_per_address(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.waiting_sockets_per_address=2"]);
    let mut oldest = connect(gateway.public);
    let later: Vec<_> = (0..2).map(|_| connect(gateway.public)).collect();
    assert_eq!(oldest.read(&mut [0]).expect("its end"), 0);
    let count = || gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}"));
    eventually("it is counted", || (count() == 1.0).then_some(()));
    drop(later);
    Counted(gateway)
}

fn request_timeout(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.request_timeout=100ms"]);
    let mut request = gateway.publishing().with("content-length", "100").body("{").begin();
    refused(&Answer::read(&mut request).expect("an answer"), limit, 408, "request_timeout");
    Counted(gateway)
}

fn write_timeout(limit: &str) -> Hit {
    let gateway = Gateway::with(&["limits.write_timeout=200ms", "log.engine=memory"]);
    let stream = slow::narrow_ws(&gateway);
    let closed = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    std::thread::scope(|scope| {
        // In the background, because a closed reader is not waited for as long as a busy machine may need.
        scope.spawn(|| slow::fill(&gateway));
        eventually("it closed", || (closed() == 1.0).then_some(()));
        ended(stream, limit, 4002, "slow_consumer");
    });
    Counted(gateway)
}

fn idle_timeout(_: &str) -> Hit {
    let gateway = Gateway::with(&["limits.idle_timeout=100ms"]);
    let mut kept = std::io::BufReader::new(connect(gateway.public));
    kept.get_mut().write_all(&gateway.getting("cursor").bytes()).expect("send");
    assert_eq!(Answer::read(&mut kept).expect("an answer").status, 200);
    let _ = kept.read_to_end(&mut Vec::new());
    Silent(gateway)
}

/// A log that does not answer; no request can cause that.
fn publish_timeout(limit: &str) -> Hit {
    let node = HeldNode::start();
    refused(&node.publishing().body(EVENT).send(), limit, 504, "unknown");
    let text = node.node.metrics.open_metrics();
    assert!(text.contains(&format!("tidegate_refusals_total{{limit=\"{limit}\"}} 1")), "{text}");
    Seen
}

type Scenario = fn(&str) -> Hit;

/// Which scenario reaches which limit.
macro_rules! scenarios {
    ($($key:ident),* $(,)?) => {
        [$((concat!("limits.", stringify!($key)), $key as Scenario)),*]
    };
}

#[test]
fn p6_every_bound_is_hit_by_its_scenario() {
    let scenarios: BTreeMap<&str, Scenario> = BTreeMap::from(scenarios![
        connections,
        streams_per_connection,
        connections_per_org,
        connections_per_user,
        connections_per_user_policy,
        connections_per_address,
        waiting_sockets_per_address,
        handshakes_per_second,
        replays_waiting,
        failed_auths_per_second,
        orgs,
        publishes_per_second,
        publishes_in_flight,
        in_flight_bytes,
        in_flight_bytes_per_user,
        publish_queue_bytes,
        event_bytes,
        request_bytes,
        events_per_batch,
        orgs_per_batch,
        users_per_event,
        json_depth,
        header_bytes,
        headers,
        token_bytes,
        services_per_filter,
        client_frame_bytes,
        client_frames_per_second,
        tail_events,
        tail_search_events,
        scan_bytes,
        scan_bytes_per_second,
        page_events,
        page_bytes,
        first_frame_timeout,
        request_timeout,
        write_timeout,
        idle_timeout,
        publish_timeout,
    ]);
    let keys = || KEYS.iter().filter(|key| key.section == "limits");
    let without: Vec<_> = keys().map(|key| key.name).filter(|name| !scenarios.contains_key(name)).collect();
    assert_eq!(without, Vec::<&str>::new(), "these bounds have no scenario here");
    assert_eq!(scenarios.len(), keys().count(), "a scenario for a bound that is none");
    assert!(keys().all(|key| !key.docs.is_empty() && !key.default.is_empty()));

    let (names, next) = (scenarios.into_iter().collect::<Vec<_>>(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((limit, scenario)) = names.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let line = format!("tidegate_refusals_total{{limit=\"{limit}\"}}");
                    match scenario(limit) {
                        Seen => {}
                        Counted(gateway) => assert!(gateway.metric(&line) >= 1.0, "{limit} is not counted"),
                        Silent(gateway) => {
                            eventually("the count", || (gateway.metric(&line) >= 1.0).then_some(()));
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn p5_one_org_cannot_take_the_dedup_window_of_the_others() {
    let gateway = Gateway::with(&["dedup.max_entries=3", "dedup.max_entries_per_org=2"]);
    let key = gateway.key_for("other", "*");
    let give = |gateway: &Gateway, org: &str, key: &str, id: &str| {
        let body = format!(r#"{{"service":"s","event":"e","id":"{id}","data":1}}"#);
        let request = gateway.publishing().to(&format!("/v1/orgs/{org}/events"));
        request.with("authorization", &format!("Bearer {key}")).body(body).send()
    };
    let own = |gateway: &Gateway, id: &str| give(gateway, &gateway.org, &gateway.key, id);
    for id in ["a", "b"] {
        assert_eq!(own(&gateway, id).status, 200);
    }
    refused(&own(&gateway, "c"), "dedup.max_entries_per_org", 503, "dedup_full");
    let gateway = gateway.killed_and_started_again();
    refused(&own(&gateway, "c"), "dedup.max_entries_per_org", 503, "dedup_full");
    assert_eq!(own(&gateway, "b").json()["events"][0]["duplicate"], true, "what is known still is");
    assert_eq!(give(&gateway, "other", &key, "a").status, 200, "others have room");
    refused(&give(&gateway, "other", &key, "b"), "dedup.max_entries", 503, "dedup_full");
    for limit in ["dedup.max_entries_per_org", "dedup.max_entries"] {
        assert_eq!(gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")), 1.0);
    }
    gateway.say("s", "1");
}
