//! Streams over WebSocket: frames and their fields, pings, pongs, and how a connection ends.

use serde_json::json;
use tidegate_protocol::SEQ_MAX;

use crate::{
    client::{
        http::Answer,
        stream::{Follower, Frames as _},
        ws::{Message, Ws, handshake, masked},
    },
    gateway::{Gateway, eventually},
};

#[test]
fn hello_says_where_the_stream_starts() {
    let gateway = Gateway::start();
    gateway.say("finance", "1");
    let mut stream = gateway.ws("");
    let hello = stream.next("hello");
    let cursor: tidegate_protocol::Cursor =
        hello["cursor"].as_str().expect("text").parse().expect("a cursor");
    assert_eq!(hello["protocol"], 1);
    assert_eq!(hello["org"], gateway.org.as_str());
    assert_eq!(hello["services"], json!(["*"]));
    assert_eq!(hello["epoch"], cursor.epoch.as_str());
    assert_eq!(hello["filter"], cursor.tag.as_ref().expect("a tag").as_str());
    assert_eq!((&hello["head"], cursor.seq), (&json!(1), 1));
    assert_eq!(hello["dedup_window_ms"], 300_000);
    assert_eq!(hello["ping_interval_ms"], 25_000);
    assert_eq!(hello["resumed"], false);
    assert!(hello["token_expires_in_ms"].as_u64().expect("a number") > 1_000_000);
    assert!(hello["server_time"].as_str().expect("a time").ends_with('Z'));
    assert!(hello.get("sync").is_none(), "the disk engine syncs always: {hello}");
    let other = gateway.ws("").next("hello");
    assert_ne!(hello["connection_id"], other["connection_id"]);

    let weaker = Gateway::with(&["log.engine=memory"]);
    assert_eq!(weaker.ws("").next("hello")["sync"], "memory");
}

#[test]
fn a_quiet_stream_is_pinged_and_an_unanswered_ping_ends_it() {
    let gateway = Gateway::with(&["ping.interval=300ms", "ping.timeout=200ms"]);
    let mut stream = gateway.ws("");
    let cursor = stream.next("hello")["cursor"].clone();
    for _ in 0..3 {
        let ping = stream.next("ping");
        assert_eq!((&ping["prev"], &ping["seq"]), (&json!(0), &json!(0)), "from {cursor}");
        assert!(ping["timestamp"].as_str().expect("a time").ends_with('Z'));
        stream.send(r#"{"type":"pong"}"#);
    }
    stream.next("ping");
    let (error, code) = stream.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("ping_timeout"), 4003));
    eventually("the count", || {
        (gateway.metric("tidegate_closes_total{code=\"ping_timeout\"}") == 1.0).then_some(())
    });
}

#[test]
fn r1_a_ping_bridges_what_is_hidden() {
    let gateway = Gateway::with(&["ping.interval=300ms", "ping.timeout=200ms"]);
    let mut stream = gateway.ws("?services=finance");
    let hello = stream.next("hello");
    let mut client = Follower::at(hello["cursor"].as_str().expect("a cursor"));
    gateway.say("staff", "1");
    gateway.say("staff", "2");
    let ping = loop {
        let text = stream.try_frame().expect("a ping");
        client.hear(&text);
        stream.send(r#"{"type":"pong"}"#);
        let ping: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(ping["type"], "ping");
        if ping["seq"] == 2 {
            break ping;
        }
    };
    assert!(ping["prev"].as_u64() < Some(2), "{ping}");
    assert_eq!(client.seq(), 2, "the client need not come back from before what it cannot see");
    gateway.say("finance", "3");
    let frame = stream.next("event");
    assert!(frame["prev"].as_u64() <= Some(2), "{frame}");
    assert_eq!(client.hear(&frame.to_string()).len(), 1);
}

#[test]
fn r1_events_for_others_cost_a_reader_no_frames() {
    let gateway = Gateway::with(&["ping.interval=60s"]);
    let mut stream = gateway.ws("");
    let hello = stream.next("hello");
    let mut client = Follower::at(hello["cursor"].as_str().expect("a cursor"));
    gateway.say("s", "0");
    assert_eq!(stream.events(&mut client, 1).len(), 1);
    for _ in 0..100 {
        let hidden = gateway.publish(r#"{"service":"s","event":"e","users":["somebody-else"],"data":1}"#);
        assert_eq!(hidden.status, 200, "{hidden:?}");
        let seq = gateway.say("s", "1");
        let frame = stream.next("event");
        assert_eq!(client.hear_seqs(&frame.to_string()), [seq]);
    }
}

#[test]
fn a_client_that_says_goodbye_is_answered_in_kind() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws("");
    stream.next("hello");
    stream.send_raw(&masked(0x89, b"are you there"));
    assert_eq!(stream.message(), Message::Pong(b"are you there".to_vec()));
    stream.send_raw(&masked(0x88, &[0x03, 0xe8]));
    assert_eq!(stream.message(), Message::Close(1000, String::new()));
    assert_eq!(stream.message(), Message::End);
    eventually("the place given back", || {
        (gateway.metric("tidegate_connections{transport=\"websocket\"}") == 0.0).then_some(())
    });
}

/// RFC 6455 5.5.1: browsers show a page the code that comes back.
#[test]
fn a_close_code_is_sent_back() {
    let gateway = Gateway::start();
    for (sent, code) in [
        (&[][..], 1005),
        (&[0x03, 0xe9], 1001),
        (&[0x0b, 0xb8, b'b', b'y', b'e'], 3000),
        (&[0x13, 0x87], 4999),
    ] {
        let mut stream = gateway.ws("");
        stream.next("hello");
        stream.send_raw(&masked(0x88, sent));
        assert_eq!(stream.message(), Message::Close(code, String::new()));
        assert_eq!(stream.message(), Message::End);
        // Also to a client that has no stream yet.
        let mut waiting = Ws::open(gateway.public, &gateway.path("stream"), &[]);
        waiting.send_raw(&masked(0x88, sent));
        assert_eq!(waiting.message(), Message::Close(code, String::new()));
        assert_eq!(waiting.message(), Message::End);
    }
}

/// RFC 6455 5.5.2.
#[test]
fn pings_are_answered_before_auth() {
    let gateway = Gateway::start();
    let mut stream = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    stream.send_raw(&masked(0x89, b"first"));
    assert_eq!(stream.message(), Message::Pong(b"first".to_vec()));
    // In one segment with a pong, which needs no answer, and with the frame that it waits for.
    let auth = format!(r#"{{"type":"auth","token":"{}"}}"#, gateway.token);
    let together = [masked(0x8a, b""), masked(0x89, b"second"), masked(0x81, auth.as_bytes())].concat();
    stream.send_raw(&together);
    assert_eq!(stream.message(), Message::Pong(b"second".to_vec()));
    stream.next("hello");

    let mut flood = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    flood.send_raw(&masked(0x89, b"").repeat(1000));
    let mut pongs = 0;
    let error = loop {
        match flood.message() {
            Message::Pong(_) => pongs += 1,
            Message::Text(text) => break text,
            other => panic!("{other:?}"),
        }
    };
    assert!(error.contains("\"rate_limited\"") && pongs < 1000, "{pongs} pongs, then {error}");
    assert_eq!(flood.message(), Message::Close(4005, "rate_limited".to_owned()));
}

#[test]
fn what_a_client_may_send_is_heard_and_unknown_fields_are_ignored() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws("");
    stream.next("hello");
    for fine in [
        r#"{"type":"pong"}"#,
        r#"{"type":"health","eventsReceived":7}"#,
        r#"{"type":"pong","n":"of no ping"}"#,
        r#"{ "more": [1,{}], "type": "pong" }"#,
        r#"{"type":"\u0070ong"}"#,
    ] {
        stream.send(fine);
    }
    // In two fragments, with a ping between them.
    stream.send_raw(&masked(0x01, br#"{"type":"#));
    stream.send_raw(&masked(0x89, b"!"));
    stream.send_raw(&masked(0x80, br#""health"}"#));
    assert_eq!(stream.message(), Message::Pong(b"!".to_vec()));
    gateway.say("s", "1");
    stream.next("event");
}

#[test]
fn a_ping_of_a_client_is_answered_with_its_number_and_the_time() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws("");
    let hello = stream.next("hello");
    let mut client = Follower::at(hello["cursor"].as_str().expect("a cursor"));
    // Times of this form sort as text.
    let mut before = hello["server_time"].as_str().expect("a time").to_owned();
    for n in [0, 7, 7, SEQ_MAX] {
        stream.send(&json!({"type": "ping", "n": n}).to_string());
        let pong = stream.next("pong");
        client.hear(&pong.to_string());
        let timestamp = pong["timestamp"].as_str().expect("a time");
        assert_eq!(pong, json!({"type": "pong", "n": n, "timestamp": timestamp}));
        let after = gateway.ws("").next("hello")["server_time"].as_str().expect("a time").to_owned();
        assert!(before.as_str() <= timestamp && timestamp <= after.as_str(), "{before} {timestamp} {after}");
        assert_eq!(timestamp.len(), after.len());
        before = after;
    }
    assert_eq!(client.seq(), 0, "the cursor stays");
    // Nothing of the stream is lost to them.
    for n in 0..20 {
        stream.send(&json!({"type": "ping", "n": n}).to_string());
        gateway.say("s", "1");
    }
    let (mut answers, mut seqs) = (Vec::new(), Vec::new());
    while answers.len() < 20 || seqs.len() < 20 {
        let frame = stream.frame();
        match frame["type"].as_str() {
            Some("pong") => answers.push(frame["n"].as_u64().expect("a number")),
            _ => seqs.extend(client.hear_seqs(&frame.to_string())),
        }
    }
    assert!(answers.into_iter().eq(0..20) && seqs.into_iter().eq(1..=20));
}

#[test]
fn a_ping_before_auth_is_refused_and_one_after_it_waits_for_hello() {
    let gateway = Gateway::start();
    let ping = r#"{"type":"ping","n":1}"#;
    let mut early = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    early.send(ping);
    assert_eq!(early.refusal().0["code"], "unauthorized");
    let mut stream = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    let auth = format!(r#"{{"type":"auth","token":"{}"}}"#, gateway.token);
    stream.send_raw(&[masked(0x81, auth.as_bytes()), masked(0x81, ping.as_bytes())].concat());
    stream.next("hello");
    assert_eq!(stream.next("pong")["n"], 1);
}

#[test]
fn pings_of_a_client_count_as_its_frames() {
    let gateway = Gateway::with(&["limits.client_frames_per_second=20"]);
    let mut stream = gateway.ws("");
    stream.next("hello");
    stream.send_raw(&masked(0x81, br#"{"type":"ping","n":1}"#).repeat(100));
    let (error, close) = stream.refusal();
    assert_eq!(
        (&error["code"], &error["limit"], close),
        (&json!("rate_limited"), &json!("limits.client_frames_per_second"), 4005)
    );
}

#[test]
fn frames_that_break_the_protocol_end_the_stream_with_their_code() {
    let gateway = Gateway::start();
    let large = format!(r#"{{"type":"health","x":"{}"}}"#, "x".repeat(17 << 10));
    let latencies = json!({"type": "health", "latencies_ms": vec![1; 101]}).to_string();
    let text = |text: &str| masked(0x81, text.as_bytes());
    let mut unmasked = masked(0x81, b"{}");
    unmasked[1] &= 0x7f;
    for (what, bytes, name, code) in [
        ("not JSON", text("hello"), "bad_frame", 4553),
        ("not an object", text("[1]"), "bad_frame", 4553),
        ("no type", text("{}"), "bad_frame", 4553),
        ("a type that is no string", text(r#"{"type":1}"#), "bad_frame", 4553),
        ("an unknown type", text(r#"{"type":"subscribe"}"#), "bad_frame", 4553),
        ("a server's type", text(r#"{"type":"status"}"#), "bad_frame", 4553),
        ("a ping without n", text(r#"{"type":"ping"}"#), "bad_frame", 4553),
        ("a ping of the server", text(r#"{"type":"ping","prev":0,"seq":0}"#), "bad_frame", 4553),
        ("a ping with n that is text", text(r#"{"type":"ping","n":"1"}"#), "bad_frame", 4553),
        ("a ping with n below 0", text(r#"{"type":"ping","n":-1}"#), "bad_frame", 4553),
        ("a ping with n of 2^53", text(r#"{"type":"ping","n":9007199254740992}"#), "bad_frame", 4553),
        ("auth without a token", text(r#"{"type":"auth"}"#), "bad_frame", 4553),
        ("auth with a number", text(r#"{"type":"auth","token":1}"#), "bad_frame", 4553),
        ("101 latencies", text(&latencies), "bad_frame", 4553),
        (
            "a latency of half a millisecond",
            text(r#"{"type":"health","latencies_ms":[0.5]}"#),
            "bad_frame",
            4553,
        ),
        ("a list of no list", text(r#"{"type":"health","latencies_ms":1}"#), "bad_frame", 4553),
        ("a count that is text", text(r#"{"type":"health","holes":"1"}"#), "bad_frame", 4553),
        ("an empty message", text(""), "bad_frame", 4553),
        ("binary", masked(0x82, b"{}"), "bad_frame", 4553),
        ("unmasked", unmasked, "bad_frame", 4553),
        ("a reserved bit", masked(0xc1, b"{}"), "bad_frame", 4553),
        ("a reserved opcode", masked(0x83, b"{}"), "bad_frame", 4553),
        ("a continuation of nothing", masked(0x80, b"{}"), "bad_frame", 4553),
        ("a long control frame", masked(0x89, &[0; 126]), "bad_frame", 4553),
        ("a fragmented control frame", masked(0x09, b"!"), "bad_frame", 4553),
        ("not UTF-8", masked(0x81, b"\xff"), "bad_frame", 4553),
        ("a bad close code", masked(0x88, &[0x03, 0xed]), "bad_frame", 4553),
        ("over limits.client_frame_bytes", text(&large), "too_large", 1009),
        ("a token that is none", text(r#"{"type":"auth","token":"x"}"#), "unauthorized", 4551),
    ] {
        let mut stream = gateway.ws("");
        stream.next("hello");
        stream.send_raw(&bytes);
        let (error, close) = stream.refusal();
        assert_eq!((error["code"].as_str(), close), (Some(name), code), "{what}: {error}");
        stream.socket().shutdown(std::net::Shutdown::Write).expect("shut down");
        assert_eq!(stream.message(), Message::End, "{what}");
    }
    gateway.ws("").next("hello");
}

#[test]
fn what_is_no_handshake_is_answered_by_http() {
    let gateway = Gateway::start();
    let good = || {
        handshake(gateway.public, &gateway.path("stream"))
            .with("authorization", &format!("Bearer {}", gateway.token))
    };
    for (what, request, status) in [
        ("an old version", good().with("sec-websocket-version", "8"), 426),
        ("no version", good().without("sec-websocket-version"), 426),
        ("no key", good().without("sec-websocket-key"), 400),
        ("a short key", good().with("sec-websocket-key", "c2hvcnQ="), 400),
        ("two keys", good().adding("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="), 400),
        ("no Connection", good().without("connection"), 400),
        ("a body", good().body("hello"), 400),
        ("a chunked body", good().with("transfer-encoding", "chunked").body("0\r\n\r\n"), 400),
        ("two equal subprotocols", good().with("sec-websocket-protocol", "a, a"), 400),
        ("a subprotocol that is no token", good().with("sec-websocket-protocol", "a b"), 400),
        ("HTTP/1.0", good().over("HTTP/1.0"), 400),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        answer.refusal();
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{what}");
            // RFC 9110 7.8: a sender of Upgrade names it in Connection.
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{what}");
            assert_eq!(answer.header("connection"), Some("upgrade, close"), "{what}");
        }
    }
    gateway.ws("").next("hello");
}

/// The example of RFC 6455 4.1 is the base64 of 16 bytes, and its last digit holds bits that none of them uses.
#[test]
fn a_key_with_stray_bits_is_taken() {
    let gateway = Gateway::start();
    let request = handshake(gateway.public, &gateway.path("stream"))
        .with("sec-websocket-key", "AQIDBAUGBwgJCgsMDQ4PEC==");
    let answer = Answer::read_head(&mut request.begin()).expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.header("sec-websocket-accept"), Some("OfS0wDaT5NoxF2gqm7Zj2YtetzM="));
}

#[test]
fn an_independent_client_gets_on_with_the_handshake_and_the_frames() {
    use tokio_tungstenite::tungstenite::{ClientRequestBuilder, connect};
    let gateway = Gateway::start();
    let address = format!("ws://{}{}", gateway.public, gateway.path("stream"));
    let request = ClientRequestBuilder::new(address.parse().expect("an address"))
        .with_sub_protocol("tidegate.v1")
        .with_header("authorization", format!("Bearer {}", gateway.token));
    let (mut socket, answer) = connect(request).expect("connect");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "tidegate.v1");
    assert!(socket.read().expect("hello").to_text().expect("text").contains("\"hello\""));
    gateway.say("s", "1");
    assert!(socket.read().expect("an event").to_text().expect("text").contains("\"data\":1"));
    socket.close(None).expect("close");
}

#[test]
fn frames_may_come_before_the_handshake_is_answered() {
    let gateway = Gateway::start();
    let mut bytes = handshake(gateway.public, &gateway.path("stream")).bytes();
    bytes.extend(masked(0x81, format!(r#"{{"type":"auth","token":"{}"}}"#, gateway.token).as_bytes()));
    // After auth: a whole frame, and the first byte of another.
    bytes.extend(masked(0x89, b"early"));
    let last = masked(0x89, b"late");
    bytes.push(last[0]);
    let mut connection = std::io::BufReader::new(crate::client::http::connect(gateway.public));
    std::io::Write::write_all(connection.get_mut(), &bytes).expect("send");
    let mut stream = Ws::switch(connection);
    stream.next("hello");
    assert_eq!(stream.message(), Message::Pong(b"early".to_vec()));
    stream.send_raw(&last[1..]);
    assert_eq!(stream.message(), Message::Pong(b"late".to_vec()), "nothing between the frames was lost");
}

#[test]
fn a_stream_without_upgrade_or_event_stream_is_refused() {
    let gateway = Gateway::start();
    let answer: Answer = gateway.getting("stream").with("accept", "application/json").send();
    assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"));
}
