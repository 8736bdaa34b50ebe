//! Readers that do not read: they lag, are served when they read again, or are closed; and no other reader
//! loses anything.

use std::{io::BufReader, net::TcpStream};

use serde_json::Value;

use crate::{
    client::{
        http::Request,
        sse::Sse,
        stream::{Follower, Frames},
        ws::{Message, Ws, handshake, masked},
    },
    gateway::{DEADLINE, Gateway, eventually},
    held_node::HeldNode,
};

/// More than all buffers between the gateway and a client with a small window can hold.
const EVENTS: usize = 120;

/// A socket with a small receive buffer.
pub fn narrow_socket(to: std::net::SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("a small window");
    socket.connect(&to.into()).expect("connect");
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream
}

/// Sends a request over a connection with a small receive buffer.
pub fn narrow(request: &Request, to: std::net::SocketAddr) -> BufReader<TcpStream> {
    let mut stream = narrow_socket(to);
    std::io::Write::write_all(&mut stream, &request.bytes()).expect("send");
    BufReader::new(stream)
}

/// A stream with a small receive buffer.
pub fn narrow_ws(gateway: &Gateway) -> Ws {
    narrow_ws_with(gateway, "")
}

/// The same, with a query.
pub fn narrow_ws_with(gateway: &Gateway, query: &str) -> Ws {
    let request = handshake(gateway.public, &format!("{}{query}", gateway.path("stream")))
        .with("authorization", &format!("Bearer {}", gateway.token));
    let mut stream = Ws::switch(narrow(&request, gateway.public));
    stream.next("hello");
    stream
}

/// A stream over SSE with a small receive buffer.
pub fn narrow_sse(gateway: &Gateway) -> Sse {
    let request = gateway.getting("stream").with("accept", "text/event-stream");
    let mut stream = Sse::answered(narrow(&request, gateway.public));
    stream.next("hello");
    stream
}

/// Publishes more than the buffers on the way to it can hold.
pub fn fill(gateway: &Gateway) {
    let wide = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..EVENTS {
        gateway.say("s", &wide);
    }
}

fn parked(gateway: &Gateway, readers: f64) {
    let count = || gateway.metric("tidegate_readers_parked_total");
    eventually("the readers parked", || (count() >= readers).then_some(()));
}

fn gateway(settings: &[&str]) -> Gateway {
    let all: Vec<&str> = settings.iter().copied().chain(["log.engine=memory"]).collect();
    Gateway::with(&all)
}

#[test]
fn who_stops_reading_is_parked_and_misses_nothing_and_nobody_waits_for_it() {
    let gateway = gateway(&[]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let request = gateway.getting("stream").with("accept", "text/event-stream");
    let mut slow: [Box<dyn Frames>; 2] =
        [Box::new(narrow_ws(&gateway)), Box::new(Sse::answered(narrow(&request, gateway.public)))];
    slow[1].next("hello");
    let mut quick = gateway.ws("");
    quick.next("hello");
    let mut client = Follower::at(&start);
    let reads = std::thread::spawn(move || quick.events(&mut client, EVENTS).len());
    fill(&gateway);
    assert_eq!(reads.join().expect("it reads"), EVENTS, "while the others read nothing");
    parked(&gateway, 2.0);
    for stream in &mut slow {
        let mut client = Follower::at(&start);
        let events = stream.events(&mut client, EVENTS);
        assert!(events.iter().map(|event| event["seq"].as_u64()).eq((1..=EVENTS as u64).map(Some)));
        assert!(client.gaps.is_empty());
    }
    gateway.say("s", "1");
    slow.iter_mut().for_each(|stream| drop(stream.next("event")));
}

#[test]
fn r7_a_half_written_frame_is_finished_before_pongs_and_renewals() {
    let gateway = gateway(&[]);
    let mut stream = narrow_ws(&gateway);
    fill(&gateway);
    parked(&gateway, 1.0);
    for ping in [b"1", b"2", b"3"] {
        stream.send_raw(&masked(0x89, ping));
    }
    stream.authenticate(&gateway.token);
    // Every frame parses, the answers come whole and in order, and no event is lost to them.
    let (mut pongs, mut seqs, mut hellos) = (Vec::new(), Vec::new(), 0);
    while seqs.len() < EVENTS || pongs.len() < 3 || hellos < 1 {
        match stream.message() {
            Message::Pong(payload) => pongs.push(payload),
            Message::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                match frame["type"].as_str() {
                    Some("hello") => {
                        hellos += 1;
                        let cursor: tidegate_protocol::Cursor =
                            frame["cursor"].as_str().expect("text").parse().expect("a cursor");
                        let reached = seqs.last().copied().unwrap_or(Some(0));
                        assert_eq!(Some(cursor.seq), reached, "R6: hello stands where the client is");
                    }
                    Some("event") => seqs.push(frame["seq"].as_u64()),
                    Some("batch") => {
                        seqs.extend(
                            frame["events"].as_array().expect("events").iter().map(|e| e["seq"].as_u64()),
                        );
                    }
                    _ => {}
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pongs, [b"1", b"2", b"3"]);
    assert!(seqs.into_iter().eq((1..=EVENTS as u64).map(Some)));
}

#[test]
fn r7_answers_to_pings_come_after_the_half_written_frame_and_their_room_is_bounded() {
    let gateway = gateway(&["limits.client_frames_per_second=100000"]);
    let mut streams = [narrow_ws(&gateway), narrow_ws(&gateway)];
    fill(&gateway);
    parked(&gateway, 2.0);
    let ping = |n: usize| masked(0x81, format!(r#"{{"type":"ping","n":{n}}}"#).as_bytes());
    let [reads, floods] = &mut streams;
    // Together over the 16 KiB of answers that may wait.
    floods.send_raw(&(0..1000).flat_map(ping).collect::<Vec<_>>());
    let closed = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    eventually("the flood ends", || (closed() == 1.0).then_some(()));
    reads.send_raw(&(0..3).flat_map(ping).collect::<Vec<_>>());
    let (mut answers, mut seqs) = (Vec::new(), Vec::new());
    while seqs.len() < EVENTS || answers.len() < 3 {
        let frame = reads.frame();
        match frame["type"].as_str() {
            Some("pong") => answers.push(frame["n"].as_u64()),
            Some("event") => seqs.push(frame["seq"].as_u64()),
            Some("batch") => {
                seqs.extend(frame["events"].as_array().expect("events").iter().map(|e| e["seq"].as_u64()));
            }
            _ => {}
        }
    }
    assert!(answers.into_iter().eq((0..3).map(Some)));
    assert!(seqs.into_iter().eq((1..=EVENTS as u64).map(Some)), "no event is lost to them");
}

#[test]
fn r6_a_grant_that_shrinks_takes_effect_on_what_is_replayed() {
    let gateway = gateway(&[]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let wide = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..EVENTS / 2 {
        gateway.say("a", &wide);
        gateway.say("b", &wide);
    }
    let request = handshake(gateway.public, &gateway.path(&format!("stream?cursor={start}")))
        .with("authorization", &format!("Bearer {}", gateway.token_of("u", &["*"])));
    let mut stream = Ws::switch(narrow(&request, gateway.public));
    stream.next("hello");
    // It is in the middle of the replay, with more waiting than all buffers hold.
    stream.authenticate(&gateway.token_of("u", &["a"]));
    let (mut is_renewed, mut seen) = (false, Vec::new());
    while seen.iter().filter(|(_, service)| service == "a").count() < EVENTS / 2 {
        let frame = stream.frame();
        let events = match frame["type"].as_str() {
            Some("hello") => {
                is_renewed = true;
                assert_eq!(frame["services"], serde_json::json!(["a"]));
                continue;
            }
            Some("event") => vec![frame],
            Some("batch") => frame["events"].as_array().expect("events").clone(),
            _ => continue,
        };
        for event in events {
            let service = event["service"].as_str().expect("text").to_owned();
            assert!(!is_renewed || service == "a", "a replayed event of a service that was taken away");
            seen.push((event["seq"].as_u64().expect("a seq"), service));
        }
    }
    assert!(is_renewed);
    let of_b = seen.iter().filter(|(_, service)| service == "b").count();
    assert!(of_b < EVENTS / 2, "the renewal came too late to show anything");
}

#[test]
fn who_takes_no_byte_for_the_write_timeout_is_closed() {
    let gateway = gateway(&["limits.write_timeout=300ms"]);
    let mut stream = narrow_ws(&gateway);
    let mut sse = narrow_sse(&gateway);
    fill(&gateway);
    let closed = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    eventually("both closed", || (closed() == 2.0).then_some(()));
    // A frame that was begun is finished for a reader that soon reads again.
    let (error, code) = stream.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("slow_consumer"), 4002));
    assert_eq!(error["limit"], "limits.write_timeout");
    while sse.try_frame().is_some() {}
    gateway.ws("").next("hello");
}

#[test]
fn a_socket_under_http_that_takes_nothing_is_let_go() {
    let gateway = gateway(&["limits.write_timeout=100ms", "limits.page_bytes=16MiB"]);
    fill(&gateway);
    let mut connection = narrow(&gateway.getting("events?limit=1000"), gateway.public);
    assert!(std::io::Read::read(&mut connection, &mut [0; 1]).expect("the answer begins") == 1);
    let before = gateway.sockets();
    eventually("the connection closed", || (gateway.sockets() < before).then_some(()));
}

#[test]
fn a_live_reader_gets_what_the_tail_had_no_room_for() {
    // Each event alone is larger than the tail may be: it is only in the log.
    let gateway = Gateway::with(&[
        "limits.event_bytes=1KiB",
        "limits.request_bytes=1KiB",
        "tail.org_max_bytes=1KiB",
        "ping.interval=\"60s\"",
    ]);
    let mut streams = gateway.both("");
    let mut clients: Vec<Follower> = streams
        .iter_mut()
        .map(|stream| Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor")))
        .collect();
    let wide = format!("\"{}\"", "x".repeat(800));
    for _ in 0..5 {
        let seq = gateway.say("s", &wide);
        for (stream, client) in streams.iter_mut().zip(&mut clients) {
            assert_eq!(stream.events(client, 1)[0]["seq"], seq);
        }
    }
}

#[test]
fn a_client_that_floods_does_not_keep_the_worker_to_itself() {
    let gateway = Gateway::with(&["node.workers=1"]);
    let mut quiet = gateway.ws("");
    let mut client = Follower::at(quiet.next("hello")["cursor"].as_str().expect("a cursor"));
    let mut flooder = gateway.ws("");
    flooder.next("hello");
    let mut writing = flooder.socket().try_clone().expect("a second handle");
    let flood = std::thread::spawn(move || {
        let pings = masked(0x89, b"").repeat(10_000);
        // Until the gateway has had enough.
        while std::io::Write::write_all(&mut writing, &pings).is_ok() {}
    });
    let seq = gateway.say("s", "1");
    assert_eq!(quiet.events(&mut client, 1)[0]["seq"], seq);
    loop {
        match flooder.message() {
            Message::Pong(_) => {}
            Message::Text(text) if text.contains(r#""type":"error""#) => {
                assert!(text.contains("rate_limited"), "{text}");
                break;
            }
            Message::Text(_) => {}
            other => panic!("{other:?} before an error"),
        }
    }
    drop(flooder);
    flood.join().expect("the flooder ends");
}

/// The reader who sees what is hidden from the others: so much of the group gets events of its own that the frames
/// of the rest need pings before them (R1).
fn somebody_else(gateway: &Gateway) -> Ws {
    let mut stream = gateway.ws_as(&gateway.token_of("somebody-else", &["*"]), "");
    stream.next("hello");
    stream
}

/// Publishes an event that only somebody else sees, then one for all; the seq of the latter. A ping comes
/// before its frame, unless one batch has both events.
fn say_after_a_hidden_event(gateway: &Gateway) -> u64 {
    let hidden = gateway.publish(r#"{"service":"s","event":"said","users":["somebody-else"],"data":1}"#);
    assert_eq!(hidden.status, 200, "{hidden:?}");
    gateway.say("s", "1")
}

const PONG: &str = r#"{"type":"pong"}"#;

#[test]
fn r29_who_answers_every_ping_gets_everything_and_stays() {
    let gateway = gateway(&["node.workers=1", "limits.client_frames_per_second=5"]);
    let _other = somebody_else(&gateway);
    let mut obedient = gateway.ws("");
    let mut client = Follower::at(obedient.next("hello")["cursor"].as_str().expect("a cursor"));
    let mut pongs = 0;
    let mut round = || {
        let seq = say_after_a_hidden_event(&gateway);
        let mut seen = Vec::new();
        while client.seq() < seq {
            let text = obedient.try_frame().expect("it is never closed");
            assert!(!text.contains(r#""type":"error""#), "{text}");
            if text.contains(r#""type":"ping""#) {
                obedient.send(PONG);
                pongs += 1;
            }
            seen.extend(client.hear_seqs(&text));
        }
        assert_eq!(seen, [seq]);
        pongs
    };
    while round() < 100 {}
    // The gateway looks at the rates of all readers of a worker together, so it has looked at this one too
    // after it has closed another.
    let mut flooder = gateway.ws("");
    flooder.next("hello");
    flooder.send_raw(&masked(0x81, PONG.as_bytes()).repeat(500));
    assert_eq!(flooder.refusal().0["code"], "rate_limited");
    round();
}

#[test]
fn r29_pongs_that_no_ping_asked_for_count() {
    let gateway = gateway(&["node.workers=1", "limits.client_frames_per_second=5"]);
    let _other = somebody_else(&gateway);
    let mut stream = gateway.ws("");
    stream.next("hello");
    loop {
        say_after_a_hidden_event(&gateway);
        if stream.frame()["type"] == "ping" {
            break;
        }
    }
    stream.send_raw(&masked(0x81, PONG.as_bytes()).repeat(500));
    let (error, code) = stream.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("rate_limited"), 4005));
    assert_eq!(error["limit"], "limits.client_frames_per_second");
}

#[test]
fn a_panic_ends_the_one_stream_and_its_places_come_back() {
    let node = HeldNode::start();
    node.let_answer();
    let publish = |id: &str| {
        let body = format!(r#"{{"service":"s","event":"e","id":"{id}","data":1}}"#);
        let publish = || (node.publishing().body(&body).send().status == 200).then_some(());
        eventually("a publish answered", publish);
    };
    publish("one");
    let mut live = node.ws("");
    let hello = live.next("hello");
    let mut client = Follower::at(hello["cursor"].as_str().expect("a cursor"));
    // The tail begins at the head, so a reader with an earlier cursor needs a page of the log.
    node.break_reads();
    let epoch = hello["epoch"].as_str().expect("an epoch");
    let mut broken = node.ws(&format!("?cursor={epoch}-0"));
    broken.next("hello");
    let (error, close) = broken.refusal();
    assert_eq!((error["code"].as_str(), close), (Some("internal"), 1011), "{error}");
    drop(broken);

    node.let_feed();
    publish("two");
    assert_eq!(live.events(&mut client, 1)[0]["seq"], 2, "others do not notice");
    drop(live);
    eventually("all places given back", || node.node.admission.is_idle().then_some(()));
    let text = node.node.metrics.open_metrics();
    assert!(text.contains("tidegate_connections{transport=\"websocket\"} 0"), "{text}");
}

/// Publishes `count` events with ten keys, of 10 kB each.
fn fill_keyed(gateway: &Gateway, count: usize) {
    let wide = "x".repeat(10_000);
    for index in 0..count {
        let body = format!(
            r#"{{"service":"s","event":"e","key":"k{}","data":{{"index":{index},"wide":"{wide}"}}}}"#,
            index % 10
        );
        assert_eq!(gateway.publish(&body).status, 200);
    }
}

/// Reads until the event with this seq has come; returns the frames except hello and pings.
fn frames_until(stream: &mut Ws, seq: u64) -> Vec<Value> {
    let mut frames = Vec::new();
    loop {
        let Message::Text(text) = stream.message() else { panic!("the stream ended") };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        let is_last = frame["seq"].as_u64() >= Some(seq);
        if !matches!(frame["type"].as_str(), Some("ping" | "hello")) {
            frames.push(frame);
        }
        if is_last {
            return frames;
        }
    }
}

fn warned(gateway: &Gateway, count: f64) {
    let warnings = || gateway.metric("tidegate_slow_warnings_total");
    eventually("the warnings", || (warnings() >= count).then_some(()));
}

#[test]
fn r16_a_level_reader_that_falls_behind_is_warned_and_skips_where_it_asked_to() {
    let gateway = gateway(&["slow.max_behind=50"]);
    let mut slow = narrow_ws_with(&gateway, "?slow=skip");
    // It has caught up: from here on lag counts.
    gateway.say("s", "0");
    slow.next("event");
    fill_keyed(&gateway, 600);
    warned(&gateway, 1.0);
    let frames = frames_until(&mut slow, 601);
    let status = frames.iter().find(|frame| frame["type"] == "status").expect("it is told");
    assert_eq!(status["code"], "slow_consumer");
    let gap = frames.iter().find(|frame| frame["type"] == "gap").expect("what it skips is declared");
    assert_eq!(
        (gap["reason"].as_str(), gap["seq"].as_u64() > gap["prev"].as_u64()),
        (Some("slow_consumer"), true)
    );
    // All events that came, and the gap, form a chain without a hole.
    let mut at = 1;
    for frame in frames.iter().filter(|frame| frame["type"] != "status") {
        assert!(frame["prev"].as_u64() <= Some(at), "{at}: {}", frame["prev"]);
        at = frame["seq"].as_u64().expect("a seq");
    }
    assert_eq!(at, 601);
    assert_eq!(gateway.metric("tidegate_gaps_total{reason=\"slow_consumer\"}"), 1.0);
    gateway.say("s", "1");
    slow.next("event");
}

#[test]
fn r17_latest_gives_the_last_of_each_key_and_tells_how_many_are_left_out() {
    let gateway = gateway(&["slow.max_behind=50", "slow.policy=latest"]);
    let mut slow = narrow_ws(&gateway);
    gateway.say("s", "0");
    slow.next("event");
    fill_keyed(&gateway, 600);
    warned(&gateway, 1.0);
    let frames = frames_until(&mut slow, 601);
    assert!(frames.iter().all(|frame| frame["type"] != "gap"), "never a gap");
    let mut seen = std::collections::BTreeMap::new();
    let (mut events, mut omitted) = (0, 0);
    for frame in &frames {
        if let Some(count) = frame["omitted"].as_u64() {
            assert_eq!(frame["reason"], "conflated");
            omitted += count;
        }
        let inner = frame["events"].as_array().map_or(std::slice::from_ref(frame), Vec::as_slice);
        for event in inner.iter().filter(|event| event["data"].is_object()) {
            events += 1;
            seen.insert(event["key"].as_str().expect("a key").to_owned(), event["data"]["index"].as_u64());
        }
    }
    assert!(omitted > 0, "{events} events");
    assert_eq!(events + omitted, 600);
    assert!(seen.values().copied().eq((590..600).map(Some)), "{seen:?}");
    assert_eq!(gateway.metric("tidegate_events_omitted_total"), omitted as f64);
}

#[test]
fn r16_who_does_not_gain_after_the_last_warning_is_closed_and_a_replay_is_no_lag() {
    let gateway = gateway(&["slow.max_behind=50", "slow.max_warnings=1"]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let mut slow = narrow_ws(&gateway);
    gateway.say("s", "0");
    slow.next("event");
    fill_keyed(&gateway, 600);
    let closes = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    // A new reader has to take all of it, and never lags.
    let mut late = narrow_ws_with(&gateway, &format!("?cursor={start}"));
    eventually("the close", || (closes() >= 1.0).then_some(()));
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"slow.max_warnings\"}"), 1.0);
    assert_eq!(gateway.metric("tidegate_slow_warnings_total"), 1.0);
    let mut client = Follower::at(&start);
    assert_eq!(late.events(&mut client, 601).len(), 601);
    assert!(client.gaps.is_empty());
}

#[test]
fn a_policy_that_is_none_is_refused() {
    let gateway = gateway(&[]);
    let (error, close) = gateway.ws("?slow=fast").refusal();
    assert_eq!((error["code"].as_str(), close), (Some("unsupported"), 4556), "{error}");
}
