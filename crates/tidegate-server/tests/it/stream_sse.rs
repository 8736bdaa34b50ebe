//! Streams over server-sent events: what a plain EventSource needs.

use std::io::{BufRead as _, BufReader, Read as _};

use flate2::bufread::GzDecoder;

use crate::{
    client::{
        http::{Answer, Chunked, Request},
        sse::Sse,
        stream::{Follower, Frames as _},
    },
    gateway::Gateway,
};

#[test]
fn the_answer_is_a_stream_that_nothing_in_between_holds_back() {
    let gateway = Gateway::start();
    let stream = gateway.sse("");
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(stream.head.header("x-accel-buffering"), Some("no"));
    for accept in ["text/event-stream", "*/*", "text/html, text/event-stream;q=0.9", "text/*"] {
        let answer = Answer::read_head(&mut gateway.getting("stream").with("accept", accept).begin());
        assert_eq!(answer.expect("an answer").status, 200, "{accept}");
    }
    let none = Answer::read_head(&mut gateway.getting("stream").begin());
    assert_eq!(none.expect("an answer").status, 200, "no Accept is anything");
}

#[test]
fn every_frame_is_one_message_and_those_that_move_the_cursor_have_its_id() {
    let gateway = Gateway::with(&["ping.interval=300ms", "ping.timeout=200ms"]);
    let mut retries = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let first = gateway.sse("").lines().expect("lines");
        let retry = first.retry.expect("the first event sets retry");
        assert!((1000..6000).contains(&retry), "{retry}");
        retries.insert(retry);
    }
    assert!(retries.len() > 1, "drawn for each connection: {retries:?}");

    let mut stream = gateway.sse("?services=finance");
    let hello = stream.lines().expect("hello, with nothing before it");
    let frame: serde_json::Value = serde_json::from_str(hello.data.as_deref().expect("data")).expect("JSON");
    assert_eq!(hello.id.as_deref(), frame["cursor"].as_str());
    gateway.say("finance", "1");
    gateway.say("staff", "2");
    let (mut event, mut ping) = (None, None);
    while ping.is_none() {
        let lines = stream.lines().expect("lines");
        assert_eq!((lines.others.len(), lines.retry), (0, None), "no event: line: {lines:?}");
        let data = lines.data.expect("one data line");
        let frame: serde_json::Value = serde_json::from_str(&data).expect("JSON");
        let id: tidegate_protocol::Cursor = lines.id.expect("an id").parse().expect("a cursor");
        assert_eq!(frame["seq"], id.seq, "{data}");
        assert!(id.tag.is_some(), "SSE ids carry the filter (R4)");
        match frame["type"].as_str() {
            Some("event") => event = Some(id),
            Some("ping") if frame["seq"] == 2 => ping = Some(id),
            _ => {}
        }
    }
    assert_eq!(event.expect("an event").seq, 1);
}

#[test]
fn a_plain_event_source_resumes_by_the_standard() {
    let gateway = Gateway::start();
    let mut first = gateway.sse("?services=s");
    first.next("hello");
    gateway.say("s", "1");
    first.next("event");
    let last = first.last_event_id.clone();
    drop(first);
    gateway.say("s", "2");
    gateway.say("other", "\"hidden\"");
    gateway.say("s", "3");
    // With the address of the first time, which asks for the head (R4).
    let request = Request::new(gateway.public, "GET", &gateway.path("stream?services=s&cursor=&tail=0"))
        .with("authorization", &format!("Bearer {}", gateway.token))
        .with("last-event-id", &last);
    let mut again = Sse::open(request);
    let hello = again.next("hello");
    assert_eq!((hello["cursor"].as_str(), hello["resumed"].as_bool()), (Some(last.as_str()), Some(true)));
    let events = again.events(&mut Follower::at(&last), 2);
    assert_eq!((&events[0]["data"], &events[1]["data"]), (&2.into(), &3.into()));
}

#[test]
fn lines_are_shorter_than_readers_of_lines_take_live_and_replayed() {
    const SCANNER_BYTES: usize = 64 << 10;
    let gateway = Gateway::start();
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let mut live = gateway.sse("");
    live.lines();
    let event = |data: String| format!(r#"{{"service":"s","event":"e","data":{data}}}"#);
    let mut events: Vec<_> = (0..600).map(|more| event(format!("\"{}\"", "x".repeat(200 + more)))).collect();
    let long = event(format!("[{}0]", "[1.5,\"a\"],".repeat(15_000)));
    events.insert(300, long);
    assert_eq!(gateway.publish(&format!("[{}]", events.join(","))).status, 200);
    let read = |stream: &mut Sse| {
        let mut seen = Vec::new();
        while seen.len() < events.len() {
            let lines = stream.lines().expect("lines");
            assert!(lines.longest < SCANNER_BYTES, "a line of {} bytes", lines.longest);
            let (data, id) = (lines.data.expect("data"), lines.id.expect("an id"));
            let frame: serde_json::Value = serde_json::from_str(&data).expect("JSON");
            let several = frame["events"].as_array().map_or(1, Vec::len) > 1;
            let bytes = "data: \nid: \n\n".len() + data.len() + id.len();
            assert!(!several || bytes < SCANNER_BYTES, "a frame of {bytes} bytes");
            match frame["type"].as_str() {
                Some("event") => seen.push(frame["data"].to_string()),
                _ => seen
                    .extend(frame["events"].as_array().into_iter().flatten().map(|e| e["data"].to_string())),
            }
        }
        let sent = events.iter().map(|event| event.split_once("data\":").expect("data").1.strip_suffix('}'));
        assert!(sent.eq(seen.iter().map(|data| Some(data.as_str()))), "token for token");
    };
    read(&mut live);
    let query = format!("?cursor={start}");
    read(&mut gateway.sse(&query));
    let gateway = gateway.killed_and_started_again();
    let mut pages = gateway.sse(&query);
    read(&mut pages);
    assert!(gateway.metric("tidegate_replay_pages_total{of=\"read\"}") > 1.0, "read from the log");
}

#[test]
fn r22_a_refusal_that_a_retry_may_cure_is_a_stream_to_a_native_event_source() {
    let gateway = Gateway::with(&["limits.connections_per_user=1"]);
    let mut holder = gateway.sse("");
    holder.next("hello");
    let by_url =
        Request::new(gateway.public, "GET", &gateway.path(&format!("stream?access_token={}", gateway.token)))
            .with("accept", "text/event-stream");
    let answer = by_url.send();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let (retry, frame) = answer.body.split_once('\n').expect("two lines");
    let retry: u64 = retry.strip_prefix("retry: ").expect("retry").parse().expect("a number");
    assert!(retry >= 1000);
    let frame = frame.strip_prefix("data: ").expect("data and no id").trim_end();
    let frame: serde_json::Value = serde_json::from_str(frame).expect("JSON");
    assert_eq!(
        (frame["type"].as_str(), frame["code"].as_str()),
        (Some("error"), Some("too_many_connections"))
    );

    let by_header = gateway.getting("stream").with("accept", "text/event-stream").send();
    assert_eq!((by_header.status, by_header.refusal().as_str()), (429, "too_many_connections"));
    assert!(by_header.header("retry-after").expect("Retry-After").parse::<u64>().expect("seconds") >= 1);

    for (token, status, code) in [
        ("nonsense".to_owned(), 401, "unauthorized"),
        (gateway.token_with(&serde_json::json!({"exp": 1000})), 401, "token_expired"),
        (gateway.token_with(&serde_json::json!({"org": "other"})), 403, "forbidden"),
    ] {
        let answer = by_url.clone().to(&gateway.path(&format!("stream?access_token={token}"))).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "a final one is a status");
    }
}

#[test]
fn an_ending_stream_says_why_and_ends_its_body() {
    let gateway = Gateway::with(&["auth.leeway=0s"]);
    let token = gateway.token_with(&serde_json::json!({"exp": crate::gateway::now_s() + 2}));
    let mut stream = gateway.sse_as(&token, "");
    stream.next("hello");
    let error = stream.next("error");
    assert_eq!(error["code"], "token_expired");
    assert_eq!(stream.try_frame(), None, "the body has ended");
}

#[test]
fn r18_a_gzip_body_ends_whole_behind_its_last_frame() {
    let gateway = Gateway::start();
    let stream = gateway.getting("stream?services=s,t").with("accept", "text/event-stream");
    let mut connection = stream.with("accept-encoding", "gzip").begin();
    assert_eq!(Answer::read_head(&mut connection).expect("an answer").status, 200);
    let mut text = BufReader::new(GzDecoder::new(BufReader::new(Chunked::new(connection))));
    let mut until = |word: &str| {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert!(text.read_line(&mut line).expect("a stream that goes on") > 0);
        }
    };
    until("hello");
    for number in 1..=20 {
        gateway.say("s", &format!("\"{}\"", "an event like the others ".repeat(number)));
    }
    until("\"seq\":20,");
    let closed = Request::new(gateway.admin, "DELETE", &gateway.path("connections?all=true")).send();
    assert_eq!(closed.status, 200, "{closed:?}");
    until("\"revoked\"");
    // The decoder checks checksum and length, and the body ends there.
    let mut rest = String::new();
    text.read_to_string(&mut rest).expect("a valid end");
    assert_eq!(rest, "\n");
    let mut behind = Vec::new();
    text.into_inner().into_inner().read_to_end(&mut behind).expect("a body that has ended");
    assert!(behind.is_empty(), "{behind:?}");
}
