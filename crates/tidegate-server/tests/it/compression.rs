//! Compression over sockets: who gets which, by offer, query and configuration; what stays uncompressed; and
//! what a client may not do with its half.

use std::io::Write as _;

use flate2::{Compression, write::DeflateEncoder};
use serde_json::{Value, json};
use tidegate_protocol::gzip_batch;

use crate::{
    client::{
        http::{Answer, Chunked},
        sse::Sse,
        stream::{Follower, Frames},
        ws::{Message, Ws, masked},
    },
    gateway::{Gateway, eventually},
};

const EXTENSIONS: &str = "sec-websocket-extensions";
pub const OFFER: &str = "permessage-deflate; client_max_window_bits";
const PLAIN: Option<&str> = Some("permessage-deflate; client_no_context_takeover");
const ALONE: Option<&str> =
    Some("permessage-deflate; client_no_context_takeover; server_no_context_takeover");

/// A WebSocket with this offer.
pub fn offering(gateway: &Gateway, query: &str, offer: &str) -> Ws {
    let bearer = format!("Bearer {}", gateway.token);
    let headers = [("authorization", bearer.as_str()), (EXTENSIONS, offer)];
    Ws::open(gateway.public, &gateway.path(&format!("stream{query}")), &headers)
}

fn agreed(stream: &Ws) -> Option<&str> {
    stream.handshake.header(EXTENSIONS)
}

/// An event stream of a client that accepts this.
fn accepting(gateway: &Gateway, query: &str, codings: &str) -> Sse {
    Sse::open(gateway.getting(&format!("stream{query}")).with("accept-encoding", codings))
}

fn coded(stream: &Sse) -> Option<&str> {
    stream.head.header("content-encoding")
}

/// Events that compress well.
fn events(service: &str, count: usize) -> String {
    let event = |number: usize| json!({"service": service, "event": "paid", "data": {"number": number, "note": "paid in full ".repeat(8)}});
    Value::from((0..count).map(event).collect::<Vec<_>>()).to_string()
}

fn publish(gateway: &Gateway, body: &str) {
    let answer = gateway.publish(body);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn offers_are_answered_and_kept() {
    let gateway = Gateway::with(&["limits.connections_per_user=100"]);
    let table = [
        ("permessage-deflate", PLAIN),
        (OFFER, PLAIN),
        ("permessage-deflate; client_max_window_bits=9", PLAIN),
        ("permessage-deflate; client_no_context_takeover", PLAIN),
        ("permessage-deflate; server_no_context_takeover; client_max_window_bits", ALONE),
        (
            "permessage-deflate; server_max_window_bits=15",
            Some("permessage-deflate; client_no_context_takeover; server_max_window_bits=15"),
        ),
        // Frames are shared, so no client can have its own window.
        ("permessage-deflate; server_max_window_bits=14", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=16", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; made_up", None),
        ("permessage-deflate; made_up=1; server_no_context_takeover", None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; server_max_window_bits=10, permessage-deflate", PLAIN),
        ("x-made-up; a=1, permessage-deflate; server_no_context_takeover, permessage-deflate", ALONE),
        ("permessage-deflate; made_up, permessage-deflate; server_max_window_bits=9", None),
    ];
    let mut streams: Vec<_> =
        table.iter().map(|(offer, answer)| (offering(&gateway, "", offer), *offer, *answer)).collect();
    for (stream, offer, answer) in &mut streams {
        assert_eq!(agreed(stream), *answer, "{offer}");
        stream.next("hello");
        assert!(!stream.was_compressed, "what is for one alone");
    }
    let mut clients: Vec<Follower> = streams.iter().map(|_| Follower::default()).collect();
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    clients.iter_mut().for_each(|client| *client = Follower::at(&start));
    let mut sent = 0;
    for round in 0..30 {
        let count = 1 + round % 5;
        publish(&gateway, &events("s", count));
        for ((stream, offer, answer), client) in streams.iter_mut().zip(&mut clients) {
            let read = stream.events(client, count);
            assert_eq!(read.last().expect("events")["seq"], sent + count, "{offer}");
            assert_eq!(stream.was_compressed, answer.is_some(), "{offer}");
        }
        sent += count;
    }
}

#[test]
fn r19_answers_to_pings_come_uncompressed_between_compressed_frames() {
    let gateway = Gateway::start();
    for (query, offer) in [
        ("", Some(OFFER)),
        ("", Some("permessage-deflate; server_no_context_takeover")),
        ("?batch=gzip", None),
    ] {
        let mut stream = offer.map_or_else(|| gateway.ws(query), |offer| offering(&gateway, query, offer));
        let mut client = Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor"));
        for n in 0..20 {
            publish(&gateway, &events("s", 12));
            stream.send(&json!({"type": "ping", "n": n}).to_string());
            let (mut is_answered, mut seen) = (false, 0);
            while !is_answered || seen < 12 {
                let text = stream.try_frame().expect("a frame");
                let is_pong = text.starts_with(r#"{"type":"pong""#);
                let events = client.hear(&text).len();
                assert!(!(is_pong && stream.was_compressed));
                assert!(events == 0 || stream.was_compressed == offer.is_some(), "{text}");
                is_answered |= is_pong;
                seen += events;
            }
            assert_eq!(seen, 12);
        }
    }
}

#[test]
fn one_header_line_or_several_are_the_same_offers() {
    let gateway = Gateway::start();
    let request = crate::client::ws::handshake(gateway.public, &gateway.path("stream"))
        .with("authorization", &format!("Bearer {}", gateway.token))
        .adding(EXTENSIONS, "permessage-deflate; server_max_window_bits=10")
        .adding(EXTENSIONS, "permessage-deflate; server_no_context_takeover");
    let mut stream = Ws::switch(request.begin());
    assert_eq!(agreed(&stream), ALONE);
    stream.next("hello");
}

#[test]
fn a_stream_is_compressed_where_it_is_wanted_and_allowed() {
    for (settings, query, is_on) in [
        (&[][..], "", true),
        (&[], "?deflate=1", true),
        (&[], "?deflate=0", false),
        (&["compression.enabled=false"], "", false),
        (&["compression.enabled=false"], "?deflate=1", false),
        (&["compression.exclude_orgs=[\"other\"]"], "", true),
        (&["compression.exclude_orgs=[\"other\", \"dev\"]"], "", false),
    ] {
        let gateway = Gateway::with(settings);
        let mut ws = offering(&gateway, query, OFFER);
        let mut sse = accepting(&gateway, query, "br, gzip");
        let what = format!("{settings:?} {query}");
        assert_eq!(agreed(&ws), PLAIN.filter(|_| is_on), "{what}");
        assert_eq!(coded(&sse), is_on.then_some("gzip"), "{what}");
        for stream in [&mut ws as &mut dyn Frames, &mut sse] {
            stream.next("hello");
        }
        publish(&gateway, &events("s", 3));
        for stream in [&mut ws as &mut dyn Frames, &mut sse] {
            assert_eq!(stream.next("batch")["events"].as_array().map(Vec::len), Some(3), "{what}");
        }
        assert_eq!(ws.was_compressed, is_on, "{what}");
    }
    let gateway = Gateway::start();
    for (codings, coding) in [
        ("gzip", Some("gzip")),
        ("GZIP;q=0.5, br", Some("gzip")),
        ("deflate, gzip;q=1.0", Some("gzip")),
        ("gzip;q=0", None),
        ("gzip; q=0.000", None),
        ("identity", None),
        ("br, deflate, zstd", None),
        ("", None),
    ] {
        let mut stream = accepting(&gateway, "", codings);
        assert_eq!(coded(&stream), coding, "{codings}");
        assert!(stream.head.header("vary").is_some_and(|vary| vary.contains("Accept-Encoding")));
        stream.next("hello");
    }
    let (error, close) = offering(&gateway, "?deflate=2", OFFER).refusal();
    assert_eq!((&error["code"], close), (&json!("bad_request"), 4553));
    assert_eq!(gateway.getting("stream?deflate=no").send().refusal(), "bad_request");
}

#[test]
fn excluded_services_and_private_frames_stay_uncompressed() {
    let gateway = Gateway::with(&["compression.exclude_services=[\"secret\"]"]);
    let mut all = offering(&gateway, "", OFFER);
    let mut few = offering(&gateway, "?services=s", OFFER);
    all.next("hello");
    few.next("hello");
    let both = |first: &str, second: &str| {
        let mut events: Vec<Value> = serde_json::from_str(first).expect("JSON");
        events.extend(serde_json::from_str::<Vec<Value>>(second).expect("JSON"));
        Value::from(events).to_string()
    };
    let targeted = json!([{"service": "s", "event": "paid", "users": ["dev"], "data": "paid ".repeat(40)}]);
    // Between frames in a shared context, so that a reader with one more or less would show it.
    for _ in 0..5 {
        for (body, of_all, of_few) in [
            (events("s", 3), true, true),
            (events("secret", 3), false, true),
            (both(&events("s", 2), &events("secret", 1)), false, true),
            (targeted.to_string(), false, false),
        ] {
            publish(&gateway, &body);
            let heard = all.frame();
            assert_eq!(all.was_compressed, of_all, "{heard}");
            if body.contains("\"s\"") {
                let heard = few.frame();
                assert_eq!(few.was_compressed, of_few, "{heard}");
            }
        }
    }
    // Over SSE, events that are left out are stored uncompressed in the body.
    let stream =
        gateway.getting("stream").with("accept", "text/event-stream").with("accept-encoding", "gzip");
    let mut connection = stream.begin();
    assert_eq!(Answer::read_head(&mut connection).expect("an answer").status, 200);
    publish(&gateway, &events("s", 3));
    publish(&gateway, &events("secret", 3));
    let (mut body, mut raw, mut text) =
        (Chunked::new(connection), Vec::new(), flate2::write::GzDecoder::new(Vec::new()));
    let has = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|window| window == word.as_bytes());
    let is_whole = |text: &[u8]| text.windows(7).filter(|window| window == b"\"number").count() == 6;
    while !is_whole(text.get_ref()) {
        let mut piece = [0; 4096];
        let read = std::io::Read::read(&mut body, &mut piece).expect("more");
        raw.extend_from_slice(&piece[..read]);
        text.write_all(&piece[..read]).expect("gzip");
        text.flush().expect("gzip");
    }
    let said = |service: &str| format!("\"service\":\"{service}\"");
    assert!(has(text.get_ref(), &said("s")) && has(text.get_ref(), &said("secret")));
    assert!(has(&raw, &said("secret")) && !has(&raw, &said("s")), "stored, and compressed");
}

fn deflated(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).expect("memory");
    encoder.flush().expect("memory");
    let mut payload = encoder.get_ref().clone();
    assert!(payload.ends_with(&[0, 0, 0xff, 0xff]));
    payload.truncate(payload.len() - 4);
    payload
}

/// A pong with this many bytes of JSON, as a compressed message.
fn pong(bytes: usize) -> Vec<u8> {
    let word = "{\"type\":\"pong\"";
    deflated(format!("{word}{}}}", " ".repeat(bytes - word.len() - 1)).as_bytes())
}

fn resident_kib(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_bomb_of_a_client_is_refused_unopened() {
    let gateway = Gateway::with(&["limits.client_frame_bytes=16KiB", "limits.connections_per_user=1000"]);
    // The most that 16 KiB can inflate to, and the largest that fits.
    let (bomb, fits, over) = (pong(15 << 20), pong(16 << 10), pong((16 << 10) + 1));
    assert!(bomb.len() < 16 << 10, "{} bytes", bomb.len());
    let mut good = offering(&gateway, "", OFFER);
    good.next("hello");
    let throw = |payload: &[u8], pieces: usize| {
        let mut stream = offering(&gateway, "", OFFER);
        stream.next("hello");
        let pieces: Vec<&[u8]> = payload.chunks(payload.len().div_ceil(pieces)).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let first = if at == 0 { 0x41 } else { 0 } | if at + 1 == pieces.len() { 0x80 } else { 0 };
            stream.send_raw(&masked(first, piece));
        }
        let (error, close) = stream.refusal();
        assert_eq!((&error["code"], close), (&json!("too_large"), 1009));
        assert_eq!(error["limit"], "limits.client_frame_bytes");
    };
    throw(&over, 1);
    throw(&bomb, 1);
    let before = resident_kib(&gateway);
    (0..40).for_each(|_| throw(&bomb, 1));
    (0..40).for_each(|_| throw(&bomb, 7));
    let grown = resident_kib(&gateway).saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more");
    // Data that is not deflate breaks the protocol.
    let mut broken = offering(&gateway, "", OFFER);
    broken.next("hello");
    broken.send_raw(&masked(0xc1, &[0xff; 20]));
    assert_eq!(broken.refusal().0["code"], "bad_frame");
    // Without an agreement the bit has no meaning.
    let mut plain = gateway.ws("");
    plain.next("hello");
    plain.send_raw(&masked(0xc1, &fits));
    assert_eq!(plain.refusal().0["code"], "bad_frame");
    good.send_raw(&masked(0xc1, &fits));
    good.send_raw(&masked(0x89, b"still there"));
    assert_eq!(good.message(), Message::Pong(b"still there".to_vec()));
    eventually("the places given back", || {
        (gateway.metric("tidegate_connection_slots{scope=\"registered\"}") == 1.0).then_some(())
    });
}

/// Both transports, with and without envelopes, for the same user; `query` begins with `&`.
fn pairs(gateway: &Gateway, query: &str) -> [(Box<dyn Frames>, Box<dyn Frames>); 2] {
    let [ws, sse] = gateway.both(&format!("?deflate=0{query}"));
    // Even if compression is offered, nothing is compressed twice.
    let gzip_ws = offering(gateway, &format!("?batch=gzip{query}"), OFFER);
    let gzip_sse = accepting(gateway, &format!("?batch=gzip{query}"), "gzip");
    assert_eq!((agreed(&gzip_ws), coded(&gzip_sse)), (None, None));
    [(ws, Box::new(gzip_ws)), (sse, Box::new(gzip_sse))]
}

/// Reads one frame of both; the plain one, and the content of the other one if it is an envelope.
fn frame_of(pair: &mut (Box<dyn Frames>, Box<dyn Frames>)) -> (String, String, Option<String>) {
    let (plain, other) = (pair.0.try_frame().expect("a frame"), pair.1.try_frame().expect("a frame"));
    let outer: Value = serde_json::from_str(&other).expect("JSON");
    let inside = (outer["compressed"] == true).then(|| {
        assert_eq!((&outer["type"], &outer["encoding"]), (&json!("batch"), &json!("gzip")), "{outer}");
        let text = gzip_batch::open(outer["data"].as_str().expect("text")).expect("gzip in base64");
        let inner: Value = serde_json::from_str(&text).expect("JSON");
        for name in ["prev", "seq", "timestamp"] {
            assert_eq!(outer[name], inner[name], "{name}");
        }
        assert_eq!(outer["count"], inner["events"].as_array().expect("events").len());
        assert!(other.len() < plain.len());
        text
    });
    (plain, other, inside)
}

#[test]
fn long_batches_come_in_envelopes_byte_for_byte() {
    let gateway = Gateway::with(&["compression.exclude_services=[\"secret\"]"]);
    let mut streams = pairs(&gateway, "");
    for (plain, other) in &mut streams {
        let (plain, other) = (plain.next("hello"), other.next("hello"));
        assert_eq!(plain["cursor"], other["cursor"]);
    }
    let one =
        |service: &str, data: &str| json!([{"service": service, "event": "e", "data": data}]).to_string();
    let long = "paid ".repeat(400);
    let (short_batch, mixed) = (
        json!([{"service": "s", "event": "e", "data": 1}, {"service": "s", "event": "e", "data": 2}]).to_string(),
        json!([{"service": "s", "event": "e", "data": long}, {"service": "secret", "event": "e", "data": long}]).to_string(),
    );
    let targeted = json!([
        {"service": "s", "event": "e", "data": long},
        {"service": "s", "event": "e", "users": ["dev"], "data": long},
    ]);
    for _ in 0..3 {
        for (what, body, is_enveloped) in [
            ("a long batch", events("s", 20), true),
            ("a short one", short_batch.clone(), false),
            ("a batch of an excluded service", events("secret", 20), false),
            ("one that holds one of its events", mixed.clone(), false),
            ("one that holds a targeted event", targeted.to_string(), false),
            ("a single event, short", one("s", "short"), false),
        ] {
            publish(&gateway, &body);
            for pair in &mut streams {
                let (plain, other, inside) = frame_of(pair);
                assert_eq!(inside.is_some(), is_enveloped, "{what}: {other}");
                assert_eq!(inside.unwrap_or(other), plain, "{what}");
            }
        }
        publish(&gateway, &one("s", &long));
        for pair in &mut streams {
            let (plain, other, inside) = frame_of(pair);
            let batch: Value = serde_json::from_str(&inside.expect("an envelope")).expect("JSON");
            let event: Value = serde_json::from_str(&plain).expect("JSON");
            assert_eq!((&batch["type"], &event["type"]), (&json!("batch"), &json!("event")), "{other}");
            assert_eq!(batch["events"][0]["data"], event["data"], "a single event is a batch of one");
        }
    }
}

#[test]
fn replays_come_in_envelopes_from_the_tail_and_from_the_log() {
    let gateway =
        Gateway::with(&["compression.exclude_services=[\"secret\"]", "limits.connections_per_user=100"]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    publish(&gateway, &events("secret", 30));
    for _ in 0..5 {
        publish(&gateway, &events("s", 30));
    }
    let replay = |gateway: &Gateway, query: &str, count: usize| {
        for mut pair in pairs(gateway, query) {
            let [mut plain_client, mut client] = [Follower::default(), Follower::default()];
            let (plain, other) = (pair.0.try_frame().expect("hello"), pair.1.try_frame().expect("hello"));
            plain_client.hear(&plain);
            client.hear(&other);
            let (mut seen, mut envelopes) = (Vec::new(), 0);
            while seen.len() < count {
                let (plain, other, inside) = frame_of(&mut pair);
                let is_excluded = plain.contains("\"secret\"");
                assert_eq!(inside.is_some(), plain.len() > 1024 && !is_excluded, "{plain}");
                envelopes += usize::from(inside.is_some());
                assert_eq!(inside.as_ref().unwrap_or(&other), &plain);
                seen.extend(client.hear_seqs(&other));
                assert_eq!(plain_client.hear_seqs(&plain).last(), seen.last());
            }
            assert!(envelopes > 0 && seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
            assert_eq!(client.seq(), plain_client.seq());
        }
    };
    replay(&gateway, &format!("&cursor={start}"), 180);
    // A cursor inside a batch: the batch is cut there, even in an envelope.
    replay(&gateway, "&tail=47", 47);
    let gateway = gateway.killed_and_started_again();
    replay(&gateway, &format!("&cursor={start}"), 180);
    replay(&gateway, "&tail=47", 47);
}

#[test]
fn envelopes_follow_threshold_and_switches() {
    for (settings, is_enveloped) in [
        (&["compression.threshold=100B"][..], true),
        (&["compression.threshold=64KiB"], false),
        (&["compression.enabled=false"], false),
        (&["compression.exclude_orgs=[\"dev\"]"], false),
    ] {
        let gateway = Gateway::with(settings);
        let mut streams = pairs(&gateway, "");
        for (plain, other) in &mut streams {
            plain.next("hello");
            other.next("hello");
        }
        publish(&gateway, &events("s", 4));
        for pair in &mut streams {
            let (plain, other, inside) = frame_of(pair);
            assert_eq!(inside.is_some(), is_enveloped, "{settings:?}: {other}");
            assert_eq!(inside.unwrap_or(other), plain);
        }
    }
    let gateway = Gateway::start();
    for query in ["?batch=", "?batch=br", "?batch=GZIP", "?batch=gzip&batch=gzip"] {
        let (error, close) = gateway.ws(query).refusal();
        assert_eq!((&error["code"], close), (&json!("bad_request"), 4553), "{query}");
        assert_eq!(gateway.getting(&format!("stream{query}")).send().refusal(), "bad_request", "{query}");
    }
}
