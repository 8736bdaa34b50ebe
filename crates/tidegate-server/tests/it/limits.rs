//! Every limit refuses by its name, in each way, and its slots are released.

use std::{
    io::{BufRead as _, Read as _, Write as _},
    net::Shutdown,
};

use crate::{
    client::{
        http::{Answer, connect},
        stream::Frames as _,
        ws::Ws,
    },
    gateway::{Gateway, eventually},
};

#[test]
fn each_bound_on_connections_refuses_by_its_name_and_gives_places_back() {
    for (settings, name, code, status) in [
        (vec!["limits.connections_per_user=2"], "connections_per_user", ("too_many_connections", 4004), 429),
        (
            vec!["limits.connections_per_user=2", "limits.connections_per_org=2"],
            "connections_per_org",
            ("too_many_connections", 4004),
            429,
        ),
        (
            vec!["limits.connections_per_address=2"],
            "connections_per_address",
            ("too_many_connections", 4004),
            429,
        ),
        (
            vec!["limits.connections_per_user=2", "limits.connections_per_org=2", "limits.connections=2"],
            "connections",
            ("overloaded", 1013),
            503,
        ),
    ] {
        let gateway = Gateway::with(&settings);
        let mut held: Vec<Ws> = (0..2).map(|_| gateway.ws("")).collect();
        held.iter_mut().for_each(|stream| drop(stream.next("hello")));
        // Another user reaches the org's limit first.
        let token =
            if name == "connections_per_org" { gateway.token_of("v", &["*"]) } else { gateway.token.clone() };
        let limit = format!("limits.{name}");
        let (error, close) = gateway.ws_as(&token, "").refusal();
        assert_eq!((error["code"].as_str(), close), (Some(code.0), code.1), "{error}");
        assert_eq!(error["limit"], limit.as_str());
        assert!(error["retry_in_ms"].as_u64() > Some(0), "{error}");
        let sse = gateway.getting("stream").with("authorization", &format!("Bearer {token}"));
        let answer = sse.with("accept", "text/event-stream").send();
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code.0), "{name}");
        assert_eq!(answer.json()["limit"], limit.as_str());
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")) >= 2.0);

        drop(held);
        let mut next = eventually("a place given back", || {
            let mut stream = gateway.ws_as(&token, "");
            (stream.frame()["type"] == "hello").then_some(stream)
        });
        gateway.say("s", "1");
        next.next("event");
    }
}

#[test]
fn handshakes_have_a_rate() {
    let gateway = Gateway::with(&["limits.handshakes_per_second=1"]);
    let refused = eventually("a refusal", || {
        let frame = gateway.ws("").frame();
        (frame["type"] == "error").then_some(frame)
    });
    assert_eq!(refused["code"], "rate_limited");
    assert_eq!(refused["limit"], "limits.handshakes_per_second");
    eventually("another second", || (gateway.ws("").frame()["type"] == "hello").then_some(()));
}

#[test]
fn refused_and_broken_connections_give_their_places_back() {
    let gateway = Gateway::with(&[
        "limits.connections_per_user=1",
        "limits.connections_per_org=1",
        "limits.connections=1",
        "limits.handshakes_per_second=100000",
        "limits.connections_per_address=1",
        // No ping notices clients that have gone.
        "ping.interval=1h",
    ]);
    let is_free = || {
        eventually("the only place", || {
            let mut stream = gateway.ws("");
            (stream.frame()["type"] == "hello").then_some(())
        });
    };
    is_free();
    // Gone before auth; gone in the middle of a frame; refused; gone without a close; over SSE.
    drop(Ws::open(gateway.public, &gateway.path("stream"), &[]));
    is_free();
    Ws::open(gateway.public, &gateway.path("stream"), &[]).send_raw(&[0x81]);
    is_free();
    gateway.ws("?services=a%20b").refusal();
    is_free();
    gateway.ws_as("nonsense", "").refusal();
    is_free();
    eventually("the only place, over SSE", || {
        let answer = Answer::read_head(&mut gateway.getting("stream").begin()).expect("an answer");
        (answer.status == 200).then_some(())
    });
    is_free();
}

#[test]
fn publishes_are_bounded_in_size_number_and_depth() {
    let gateway = Gateway::with(&[
        "limits.event_bytes=1KiB",
        "limits.request_bytes=8KiB",
        "limits.events_per_batch=3",
        "limits.json_depth=4",
        "limits.users_per_event=2",
    ]);
    let event = |data: &str| format!(r#"{{"service":"s","event":"e","data":{data}}}"#);
    let three = [event("1"), event("2"), event("3")].join(",");
    for (what, body, status, limit) in [
        ("an event", event(&format!("\"{}\"", "x".repeat(1100))), 413, "limits.event_bytes"),
        ("a request", " ".repeat(9000), 413, "limits.request_bytes"),
        ("a batch", format!("[{three},{}]", event("4")), 413, "limits.events_per_batch"),
        ("depth", event("[[[[[1]]]]]"), 422, ""),
        ("users", r#"{"service":"s","event":"e","data":1,"users":["a","b","c"]}"#.to_owned(), 422, ""),
    ] {
        let answer = gateway.publish(&body);
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        answer.refusal();
        if status == 413 {
            assert_eq!(answer.json()["limit"], limit, "{what}");
            assert!(
                gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")) >= 1.0,
                "{what}"
            );
        }
    }
    // A body without a length.
    let chunk = format!("{:x}\r\n{}\r\n", 5000, " ".repeat(5000));
    let chunked =
        gateway.publishing().with("transfer-encoding", "chunked").body(format!("{chunk}{chunk}0\r\n\r\n"));
    assert_eq!(chunked.send().refusal(), "too_large");
    assert_eq!(gateway.publish(&format!("[{three}]")).status, 200);
}

#[test]
fn orgs_and_the_dedup_window_are_bounded() {
    let gateway = Gateway::with(&["limits.orgs=1", "dedup.max_entries=2", "dedup.max_entries_per_org=1"]);
    let answer = gateway.publish(r#"{"service":"s","event":"e","id":"a","data":1}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    let full = gateway.publish(r#"{"service":"s","event":"e","id":"b","data":1}"#);
    assert_eq!((full.status, full.refusal().as_str()), (503, "dedup_full"));
    assert!(full.header("retry-after").is_some());
    gateway.say("s", "2");
    let key = gateway.key_for("other", "*");
    let other = gateway
        .publishing()
        .to("/v1/orgs/other/events")
        .with("authorization", &format!("Bearer {key}"))
        .body(r#"{"service":"s","event":"e","data":1}"#)
        .send();
    assert_eq!((other.status, other.refusal().as_str()), (503, "overloaded"));
    assert_eq!(other.json()["limit"], "limits.orgs");
    let token = gateway.token_with(&serde_json::json!({"org": "other"}));
    let stream =
        Ws::open(gateway.public, "/v1/orgs/other/stream", &[("authorization", &format!("Bearer {token}"))])
            .refusal();
    assert_eq!((stream.0["limit"].as_str(), stream.1), (Some("limits.orgs"), 1013));
}

#[test]
fn headers_are_bounded() {
    let gateway = Gateway::with(&["limits.headers=16", "limits.header_bytes=16KiB"]);
    let many =
        (0..40).fold(gateway.getting("cursor"), |request, index| request.with(&format!("x-{index}"), "y"));
    assert_eq!(many.send().status, 431);
    let large = gateway.getting("cursor").with("x", &"y".repeat(64 << 10));
    assert_eq!(large.send().status, 431);
    let token = gateway.getting("cursor").with("authorization", &format!("Bearer {}", "y".repeat(10 << 10)));
    assert_eq!(token.send().status, 401);
    assert_eq!(gateway.getting("cursor").send().status, 200);
}

#[test]
fn who_sends_a_head_or_a_body_too_slowly_is_let_go() {
    let gateway = Gateway::with(&["limits.first_frame_timeout=300ms", "limits.request_timeout=300ms"]);
    // A head that never ends.
    let mut slow = connect(gateway.public);
    slow.write_all(b"GET /v1/orgs/dev/cursor HTTP/1.1\r\nhost: x\r\n").expect("send");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the end");
    // A body that never ends.
    let request = gateway.publishing().with("content-length", "100").body("{");
    let mut connection = request.begin();
    let answer = Answer::read(&mut connection).expect("an answer");
    assert_eq!((answer.status, answer.refusal().as_str()), (408, "request_timeout"));
    let mut rest = String::new();
    let _ = connection.read_line(&mut rest);
    assert_eq!(rest, "", "the connection ends with it");
    // A pause between two requests is not a slow head.
    let mut kept = std::io::BufReader::new(connect(gateway.public));
    for _ in 0..2 {
        kept.get_mut().write_all(&gateway.getting("cursor").bytes()).expect("send");
        assert_eq!(Answer::read(&mut kept).expect("an answer").status, 200);
    }
    // A frame that never ends.
    let mut stream = gateway.ws("");
    stream.next("hello");
    stream.send_raw(&[0x81]);
    let (error, code) = stream.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("bad_frame"), 4553));
}

#[test]
fn frames_of_a_client_have_a_rate() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws("");
    stream.next("hello");
    let pong = crate::client::ws::masked(0x81, br#"{"type":"pong"}"#);
    stream.send_raw(&pong.repeat(500));
    let (error, code) = stream.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("rate_limited"), 4005));
    stream.socket().shutdown(Shutdown::Write).expect("shut down");
}

#[test]
fn a_key_that_publishes_too_often_is_told_when_to_come_back() {
    let gateway = Gateway::with(&["limits.publishes_per_second=1"]);
    let body = r#"{"service":"s","event":"e","data":1}"#;
    let answer = eventually("a publish over the rate", || {
        let answer = gateway.publish(body);
        (answer.status == 429).then_some(answer)
    });
    assert_eq!(answer.refusal(), "rate_limited");
    assert_eq!(answer.json()["limit"], "limits.publishes_per_second");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(eventually("the next second", || (gateway.publish(body).status == 200).then_some(())), ());
}
