//! HTTP/2 in clear text: the same answers as HTTP/1.1, over connections that many requests share.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::{
    client::{
        http::{Answer, Request, connect},
        http2::Http2,
        stream::{Follower, Frames as _},
        wire::{self, Wire, block},
    },
    gateway::{Gateway, eventually},
};

fn head<'a>(authority: &'a str, path: &'a str, bearer: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
        ("authorization", bearer),
    ]
}

#[test]
fn both_versions_are_served_at_one_port() {
    let gateway = Gateway::start();
    let connection = Http2::connect(gateway.public);
    let published = connection.send(&gateway.publishing().body(r#"{"service":"s","event":"e","data":1}"#));
    assert_eq!(published.status, 200, "{published:?}");
    assert!(published.header("date").is_some() && published.header("connection").is_none());
    let length = published.header("content-length").expect("a length");
    assert_eq!(length, published.body.len().to_string());
    gateway.say("s", "2");
    let page = connection.send(&gateway.getting("events"));
    assert_eq!(page.json(), gateway.getting("events").send().json());
    assert_eq!(page.json()["events"].as_array().map(Vec::len), Some(2));

    // A stream that resumes, over the connection of all other requests.
    let epoch =
        page.json()["cursor"].as_str().expect("a cursor").split('-').next().expect("an epoch").to_owned();
    let mut stream = connection.sse(gateway.getting("stream").with("last-event-id", &format!("{epoch}-1")));
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let first = stream.lines().expect("lines");
    assert!(first.retry.is_some());
    let hello: serde_json::Value = serde_json::from_str(&first.data.expect("data")).expect("JSON");
    assert_eq!(hello["resumed"], true, "{hello}");
    let mut client = Follower::at(hello["cursor"].as_str().expect("a cursor"));
    assert_eq!(stream.events(&mut client, 1)[0]["data"], 2);
    assert!(stream.last_event_id.starts_with(&format!("{epoch}-2")), "{}", stream.last_event_id);
    let mut socket = gateway.ws("");
    socket.next("hello");
    let again = connection.send(&gateway.publishing().body(r#"{"service":"s","event":"e","data":3}"#));
    assert_eq!(again.status, 200);
    assert_eq!(stream.events(&mut client, 1)[0]["data"], 3);
    socket.next("event");

    let refused = connection.send(&gateway.getting("nothing"));
    assert_eq!((refused.status, refused.refusal().as_str()), (404, "not_found"));
    let head_of_page = connection.send(&Request::new(gateway.public, "HEAD", "/"));
    assert_eq!((head_of_page.status, head_of_page.body.as_str()), (200, ""));
    assert!(head_of_page.header("content-length").is_some_and(|length| length != "0"));
    let preflight = connection.send(&gateway.getting("events").by("OPTIONS"));
    assert_eq!((preflight.status, preflight.header("content-length")), (204, None));
}

#[test]
fn a_large_body_comes_and_goes_whole() {
    let gateway = Gateway::start();
    let connection = Http2::connect(gateway.public);
    // Several times more than the windows of either side.
    let event = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(200_000));
    let events = vec![event; 15].join(",");
    let published = connection.send(&gateway.publishing().body(format!("[{events}]")));
    assert_eq!(published.status, 200, "{}", published.body);
    let page = connection.send(&gateway.getting("events?limit=4"));
    assert_eq!(page.json(), gateway.getting("events?limit=4").send().json());
    let mut stream = connection.sse(gateway.getting("stream?tail=15"));
    let mut client = Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor"));
    assert_eq!(stream.events(&mut client, 15).len(), 15);
    let large = connection.send(&gateway.publishing().body("x".repeat(5 << 20)));
    assert_eq!((large.status, large.refusal().as_str()), (413, "too_large"));
}

#[test]
fn the_first_bytes_may_come_one_by_one() {
    let gateway = Gateway::start();
    let mut lines = head("a", "/nothing", "");
    lines.truncate(4);
    let mut begin = wire::PREFACE.to_vec();
    begin.extend(wire::frame(wire::SETTINGS, 0, 0, &[]));
    begin.extend(wire::frame(wire::HEADERS, wire::END_HEADERS | wire::END_STREAM, 1, &block(&lines)));
    let mut connection = connect(gateway.public);
    for byte in begin {
        connection.write_all(&[byte]).expect("send");
    }
    let mut answer = [0; 9];
    connection.read_exact(&mut answer).expect("a frame");
    assert_eq!(answer[3], wire::SETTINGS);
    // Also for bytes that begin like the preface and are HTTP/1.1, or nothing.
    let body = r#"{"service":"s","event":"e","data":1}"#;
    let publish = gateway.publishing().body(body);
    for request in [publish.bytes(), b"PRI * HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()] {
        let mut connection = connect(gateway.public);
        for byte in &request {
            connection.write_all(&[*byte]).expect("send");
        }
        let answer = Answer::read(&mut std::io::BufReader::new(connection)).expect("an answer");
        assert!([200, 404].contains(&answer.status), "{answer:?}");
    }
    let mut connection = connect(gateway.public);
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n").expect("send");
    let refused = Answer::read_head(&mut std::io::BufReader::new(connection)).expect("an answer");
    assert!((400..=505).contains(&refused.status), "{refused:?}");
}

#[test]
fn many_streams_share_a_connection_and_each_is_counted_as_one() {
    let gateway = Gateway::with(&["limits.connections_per_address=30"]);
    let connection = Http2::connect(gateway.public);
    let token_of = |user: usize| format!("Bearer {}", gateway.token_of(&format!("u{user}"), &["*"]));
    let stream_of = |user| gateway.getting("stream").with("authorization", &token_of(user));
    let mut streams: Vec<_> = (0..30).map(|index| connection.sse(stream_of(index / 10))).collect();
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let full = connection.send(&stream_of(3));
    assert_eq!((full.status, full.json()["limit"].as_str()), (429, Some("limits.connections_per_address")));
    assert!(full.header("retry-after").is_some());
    gateway.say("s", "1");
    streams.iter_mut().for_each(|stream| drop(stream.next("event")));
    assert_eq!(gateway.metric("tidegate_connections{transport=\"sse\"}"), 30.0);
    // A dropped stream is reset, and its slot is free for another one of the same user.
    drop(streams.pop());
    let another = || {
        let (answer, body) = connection.begin(&stream_of(2)).expect("an answer");
        (answer.status == 200).then_some(body)
    };
    let another = eventually("the place", another);
    drop(streams.swap_remove(0));
    let per_user = || {
        let refused = connection.send(&stream_of(2));
        (refused.json()["limit"] == "limits.connections_per_user").then_some(())
    };
    eventually("the bound of the user", per_user);
    drop((another, streams));
    drop(connection);
    let left = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("all places given back", || (left() == 0.0).then_some(()));
}

#[test]
fn a_quiet_stream_is_pinged_in_words_and_in_frames() {
    let gateway = Gateway::with(&["ping.interval=300ms", "ping.timeout=200ms"]);
    let connection = Http2::connect(gateway.public);
    let mut stream = connection.sse(gateway.getting("stream"));
    stream.next("hello");
    (0..3).for_each(|_| drop(stream.next("ping")));

    // A client that does not answer the frames is closed, even if its TCP connection is alive.
    let bearer = format!("Bearer {}", gateway.token);
    let (authority, path) = (gateway.public.to_string(), gateway.path("stream"));
    let mut dead = Wire::open(gateway.public, &[]);
    dead.ask(1, &head(&authority, &path, &bearer));
    dead.until(wire::PING);
    assert_eq!(dead.end(), None);
    let left = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("its place given back", || (left() == 1.0).then_some(()));
    stream.next("ping");
}

#[test]
fn the_authority_is_what_an_origin_is_compared_with() {
    let gateway = Gateway::start();
    let connection = Http2::connect(gateway.public);
    let own = format!("http://{}", gateway.public);
    let stream = gateway.getting("stream");
    connection.sse(stream.clone().with("origin", &own)).next("hello");
    connection
        .sse(stream.clone().with("host", "a.example").with("origin", "https://a.example"))
        .next("hello");
    let foreign = connection.send(&stream.with("origin", "https://b.example"));
    assert_eq!((foreign.status, foreign.refusal().as_str()), (403, "forbidden"));

    // Two names for one host: something on the way may have checked only one of them.
    let bearer = format!("Bearer {}", gateway.token);
    let (authority, path) = (gateway.public.to_string(), gateway.path("cursor"));
    let mut lines = head(&authority, &path, &bearer);
    let mut status_of = |host: Option<&'static str>| {
        lines.truncate(5);
        lines.extend(host.map(|host| ("host", host)));
        let mut wire = Wire::open(gateway.public, &[]);
        wire.ask(1, &lines);
        // The status comes first, by its index in the static table (RFC 7541, appendix A).
        wire.until(wire::HEADERS).payload[0]
    };
    assert_eq!(status_of(None), 0x88, "200");
    assert_eq!(status_of(Some("b.example")), 0x8c, "400");
}

#[test]
fn headers_are_bounded_here_too() {
    let gateway = Gateway::with(&["limits.headers=16", "limits.header_bytes=16KiB"]);
    let connection = Http2::connect(gateway.public);
    let many =
        (0..40).fold(gateway.getting("cursor"), |request, index| request.with(&format!("x-{index}"), "y"));
    let refused = connection.send(&many);
    assert_eq!((refused.status, refused.json()["limit"].as_str()), (431, Some("limits.headers")));
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"limits.headers\"}"), 1.0);
    let large = connection.begin(&gateway.getting("cursor").with("x", &"y".repeat(20 << 10)));
    assert_eq!(large.map(|(answer, _)| answer.status).ok(), Some(431));
    // A cookie may come in several lines; they count as one header.
    let crumbs = (0..40)
        .fold(gateway.getting("cursor"), |request, index| request.adding("cookie", &format!("c{index}=1")));
    assert_eq!(connection.send(&crumbs).status, 200);
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_asked_for() {
    let gateway = Gateway::start();
    let bearer = format!("Bearer {}", gateway.key);
    let (authority, path) = (gateway.public.to_string(), gateway.path("events"));
    let mut lines = head(&authority, &path, &bearer);
    lines[0].1 = "POST";
    lines.extend([("content-type", "application/json"), ("expect", "100-continue")]);
    let mut wire = Wire::open(gateway.public, &[]);
    wire.frame(wire::HEADERS, wire::END_HEADERS, 1, &block(&lines));
    let go_on = wire.until(wire::HEADERS);
    assert_eq!(go_on.flags & wire::END_STREAM, 0);
    wire.frame(wire::DATA, wire::END_STREAM, 1, br#"{"service":"s","event":"e","data":1}"#);
    assert_eq!(wire.until(wire::HEADERS).payload[0], 0x88, "200");
    // A refused stream is not.
    lines[4].1 = "Bearer x";
    wire.frame(wire::HEADERS, wire::END_HEADERS, 3, &block(&lines));
    wire.until(wire::HEADERS);
    assert!(String::from_utf8_lossy(&wire.until(wire::DATA).payload).contains("unauthorized"));
}

#[test]
fn websocket_is_spoken_over_http_1_alone() {
    let gateway = Gateway::start();
    let connection = Http2::connect(gateway.public);
    let refused = connection.send(&gateway.getting("stream").with("sec-websocket-version", "13"));
    assert_eq!((refused.status, refused.refusal().as_str()), (400, "unsupported"));
    assert!(refused.json()["detail"].as_str().expect("a sentence").contains("HTTP/1.1"), "{refused:?}");
    // These are not valid requests by RFC 9113, section 8.2.2, and RFC 8441, section 3.
    let bearer = format!("Bearer {}", gateway.token);
    let (authority, path) = (gateway.public.to_string(), gateway.path("stream"));
    let lines = head(&authority, &path, &bearer);
    let mut upgrade = lines.clone();
    upgrade.extend([("connection", "upgrade"), ("upgrade", "websocket")]);
    let mut extended = lines;
    extended[0].1 = "CONNECT";
    extended.insert(1, (":protocol", "websocket"));
    let mut wire = Wire::open(gateway.public, &[]);
    for (stream, lines) in [(1, upgrade), (3, extended)] {
        wire.ask(stream, &lines);
        let reset = wire.until(wire::RST_STREAM);
        assert_eq!((reset.stream, reset.number()), (stream, wire::PROTOCOL_ERROR));
    }
    connection.sse(gateway.getting("stream")).next("hello");
}

#[test]
fn a_drain_ends_streams_in_words_and_connections_in_frames() {
    let mut gateway = Gateway::with(&["drain.window=2s"]);
    let mut busy = Http2::connect(gateway.public);
    let mut stream = busy.sse(gateway.getting("stream"));
    stream.next("hello");
    let mut resting = Http2::connect(gateway.public);
    assert_eq!(resting.send(&gateway.getting("cursor")).status, 200);
    let bearer = format!("Bearer {}", gateway.token);
    let (authority, path) = (gateway.public.to_string(), gateway.path("cursor"));
    let mut wire = Wire::open(gateway.public, &[]);
    wire.ask(1, &head(&authority, &path, &bearer));
    wire.until(wire::DATA);
    gateway.terminate();
    assert_eq!(wire.until(wire::GOAWAY).goaway_code(), wire::NO_ERROR);
    eventually("readyz to say no", || (gateway.operators("/readyz").status == 503).then_some(()));
    assert_eq!(resting.ended(), None, "one that rests is let go, and that is no error");
    assert_eq!(stream.next("goaway")["code"], "draining");
    assert_eq!(stream.next("error")["code"], "draining");
    assert_eq!(stream.try_frame(), None);
    assert_eq!(busy.ended(), None);
    assert_eq!(gateway.exit_code(), Some(0));
}

#[test]
fn who_comes_during_a_drain_is_answered_once() {
    let gateway = Gateway::with(&["drain.window=1h"]);
    let mut stream = gateway.ws("");
    stream.next("hello");
    gateway.terminate();
    eventually("readyz to say no", || (gateway.operators("/readyz").status == 503).then_some(()));
    let mut late = Http2::connect(gateway.public);
    let refused = late.send(&gateway.publishing().body(r#"{"service":"s","event":"e","data":1}"#));
    assert_eq!((refused.status, refused.refusal().as_str()), (503, "draining"));
    assert!(refused.header("retry-after").is_some() && refused.header("connection").is_none());
    assert_eq!(late.ended(), None);
}

#[test]
fn a_connection_without_anything_open_is_let_go() {
    let gateway = Gateway::with(&["limits.idle_timeout=300ms", "ping.interval=400ms", "ping.timeout=300ms"]);
    let mut connection = Http2::connect(gateway.public);
    assert_eq!(connection.send(&gateway.getting("cursor")).status, 200);
    assert_eq!(connection.ended(), None);
    // So is a client that does not answer.
    let bearer = format!("Bearer {}", gateway.token);
    let (authority, path) = (gateway.public.to_string(), gateway.path("cursor"));
    let mut deaf = Wire::open(gateway.public, &[]);
    deaf.ask(1, &head(&authority, &path, &bearer));
    assert_eq!(deaf.end(), Some(wire::NO_ERROR));
    // An open stream keeps its connection.
    let connection = Http2::connect(gateway.public);
    let mut stream = connection.sse(gateway.getting("stream"));
    stream.next("hello");
    (0..3).for_each(|_| drop(stream.next("ping")));
}

#[test]
fn who_does_not_ask_in_time_is_let_go() {
    let gateway = Gateway::with(&["limits.first_frame_timeout=300ms"]);
    let mut wire = Wire::open(gateway.public, &[]);
    wire.until(wire::SETTINGS);
    // Other frames are not requests.
    wire.frame(wire::PING, 0, 0, &[0; 8]);
    wire.until(wire::PING);
    wire.end();
    let mut half = connect(gateway.public);
    half.write_all(&wire::PREFACE[..10]).expect("send");
    assert_eq!(half.read(&mut [0; 1]).expect("the end"), 0);
    // A stream may be silent for longer.
    let connection = Http2::connect(gateway.public);
    connection.send(&gateway.getting("cursor"));
    let mut stream = connection.sse(gateway.getting("stream"));
    stream.next("hello");
    drop(half);
    gateway.say("s", "1");
    stream.next("event");
}

/// An answer to an upload that is refused early is not followed by a reset while the rest still comes.
#[test]
fn the_rest_of_a_refused_body_is_discarded() {
    let gateway = Gateway::start();
    let mut connection = Wire::open(gateway.public, &[]);
    let (authority, path) = (gateway.public.to_string(), gateway.path("events"));
    let mut lines = head(&authority, &path, "Bearer tgk_wrong");
    lines[0].1 = "POST";
    lines.push(("content-type", "application/json"));
    connection.frame(wire::HEADERS, wire::END_HEADERS, 1, &block(&lines));
    let answer = connection.until(wire::DATA);
    assert_eq!((answer.stream, answer.flags & wire::END_STREAM), (1, wire::END_STREAM));
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"unauthorized\""));
    // More than the window of a stream (256 KiB), so it must open again.
    let (mut room, piece) = (256 << 10, vec![b'x'; 16 << 10]);
    for _ in 0..40 {
        while room < piece.len() {
            let frame = connection.next().expect("an open connection");
            assert_ne!(frame.kind, wire::RST_STREAM, "the answer may be lost");
            if frame.kind == wire::WINDOW_UPDATE && frame.stream == 1 {
                room += frame.number() as usize;
            }
        }
        connection.frame(wire::DATA, 0, 1, &piece);
        room -= piece.len();
    }
    connection.frame(wire::DATA, wire::END_STREAM, 1, b"");
    connection.frame(wire::PING, 0, 0, b"all sent");
    while let frame = connection.next().expect("an open connection")
        && frame.kind != wire::PING
    {
        assert_ne!(frame.kind, wire::RST_STREAM, "the answer may be lost");
    }
    // One that does not stop is reset in the end.
    connection.frame(wire::HEADERS, wire::END_HEADERS, 3, &block(&lines));
    let reset = connection.until(wire::RST_STREAM);
    assert_eq!((reset.stream, reset.number()), (3, wire::NO_ERROR));
}

/// Runs curl over HTTP/2 with these arguments; its output ends with the version and the status. `None` if
/// there is no curl that speaks it.
fn curl(arguments: &[&str]) -> Option<std::process::Output> {
    let version = std::process::Command::new("curl").arg("--version").output();
    if !version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("HTTP2")) {
        eprintln!("no curl that speaks HTTP/2 here");
        return None;
    }
    let common =
        ["-sS", "--http2-prior-knowledge", "--max-time", "20", "-w", "\n%{http_version} %{http_code}"];
    Some(std::process::Command::new("curl").args(common).args(arguments).output().expect("curl runs"))
}

#[test]
fn curl_gets_the_answer_to_an_upload_that_is_refused() {
    let gateway = Gateway::start();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let data = format!("@{}", file.path().display());
    let url = format!("http://{}{}", gateway.public, gateway.path("events"));
    let key = format!("authorization: Bearer {}", gateway.key);
    for (bytes, key, kind, status, code) in [
        (300_000, "authorization: Bearer tgk_wrong", "application/json", 401, "unauthorized"),
        (300_000, &key, "text/plain", 415, "unsupported_media"),
        (5_000_000, &key, "application/json", 413, "too_large"),
    ] {
        std::fs::write(file.path(), "x".repeat(bytes)).expect("write");
        let kind = format!("content-type: {kind}");
        for _ in 0..4 {
            let Some(ran) = curl(&["-H", key, "-H", &kind, "-H", "expect:", "--data-binary", &data, &url])
            else {
                return;
            };
            let text = String::from_utf8(ran.stdout).expect("text");
            assert!(ran.status.success(), "{status}: {}", String::from_utf8_lossy(&ran.stderr));
            assert!(text.ends_with(&format!("\n2 {status}")) && text.contains(code), "{text}");
        }
    }
}

#[test]
fn curl_gets_what_it_asks_for() {
    let gateway = Gateway::start();
    let url = |endpoint: &str| format!("http://{}{}", gateway.public, gateway.path(endpoint));
    let (key, token) = (
        format!("authorization: Bearer {}", gateway.key),
        format!("authorization: Bearer {}", gateway.token),
    );
    let body = json!({"service": "s", "event": "e", "data": "x".repeat(100_000)}).to_string();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), body).expect("write");
    let data = format!("@{}", file.path().display());
    let publish = ["-H", &key, "-H", "content-type: application/json", "-d", &data, &url("events")];
    let Some(published) = curl(&publish) else { return };
    let text = String::from_utf8(published.stdout).expect("text");
    assert!(text.ends_with("\n2 200"), "{text}");
    let read = curl(&["-H", &token, &url("events")]).expect("curl runs");
    let text = String::from_utf8(read.stdout).expect("text");
    assert!(text.ends_with("\n2 200") && text.contains("xxxx"), "{text}");
}
