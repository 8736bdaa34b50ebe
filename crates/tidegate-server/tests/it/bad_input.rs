//! Everything that can be wrong with a request, in one table. Each row is answered with a code and a
//! sentence; afterwards the gateway serves as before and has lost nothing.

use std::io::{BufReader, Read as _, Write as _};

use serde_json::Value;

use crate::{
    client::{
        http::{Answer, Request, connect},
        stream::{Follower, Frames as _},
        ws::Ws,
    },
    gateway::Gateway,
};

/// Sends raw bytes and reads the first answer.
fn raw(gateway: &Gateway, bytes: &[u8]) -> Option<Answer> {
    let mut stream = connect(gateway.public);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    Answer::read(&mut BufReader::new(stream))
}

/// A publish with this body that is otherwise valid.
fn bodies() -> Vec<(&'static str, Vec<u8>, u16, &'static str)> {
    let event = |more: &str| format!(r#"{{"service":"s","event":"e","data":1{more}}}"#).into_bytes();
    vec![
        ("nothing", b"".to_vec(), 400, "bad_request"),
        ("white space", b" \n ".to_vec(), 400, "bad_request"),
        ("half an object", br#"{"service":"s""#.to_vec(), 400, "bad_request"),
        ("two objects", br#"{}{}"#.to_vec(), 400, "bad_request"),
        ("a trailing comma", br#"[{"service":"s","event":"e","data":1},]"#.to_vec(), 400, "bad_request"),
        ("not UTF-8", b"{\"service\":\"\xff\"}".to_vec(), 400, "bad_request"),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec(), 400, "bad_request"),
        ("NaN", event("").iter().map(|b| if *b == b'1' { b'N' } else { *b }).collect(), 400, "bad_request"),
        ("a bare control character", event(",\"key\":\"\u{1}\""), 400, "bad_request"),
        ("deeper than any parser", format!("{}1", "[".repeat(200_000)).into_bytes(), 400, "bad_request"),
        ("a number", b"7".to_vec(), 422, "invalid"),
        ("null", b"null".to_vec(), 422, "invalid"),
        ("an empty array", b"[]".to_vec(), 422, "invalid"),
        ("an array of arrays", b"[[]]".to_vec(), 422, "invalid"),
        ("an empty object", b"{}".to_vec(), 422, "invalid"),
        ("a service with a space", br#"{"service":"a b","event":"e","data":1}"#.to_vec(), 422, "invalid"),
        ("a service with a dot first", br#"{"service":".a","event":"e","data":1}"#.to_vec(), 422, "invalid"),
        ("a service in full width", r#"{"service":"ｓ","event":"e","data":1}"#.into(), 422, "invalid"),
        ("a service with NUL", br#"{"service":"a\u0000","event":"e","data":1}"#.to_vec(), 422, "invalid"),
        ("an event with a slash", br#"{"service":"s","event":"a/b","data":1}"#.to_vec(), 422, "invalid"),
        ("an id with a line end", event(r#","id":"a\r\nb""#), 422, "invalid"),
        ("an id that is too long", event(&format!(r#","id":"{}""#, "x".repeat(129))), 422, "invalid"),
        ("a key that is a number", event(r#","key":7"#), 422, "invalid"),
        ("a time that is none", event(r#","time":"2026-02-30T00:00:00Z""#), 422, "invalid"),
        ("users that are none", event(r#","users":"u""#), 422, "invalid"),
        ("no users", event(r#","users":[]"#), 422, "invalid"),
        ("a user with a comma", event(r#","users":["a,b"]"#), 422, "invalid"),
        ("user for users", event(r#","user":"u""#), 422, "invalid"),
        ("a field that does not exist", event(r#","retain":true"#), 422, "invalid"),
        ("ID for id", event(r#","ID":"a""#), 422, "invalid"),
        ("data twice", event(r#","data":2"#), 422, "invalid"),
        (
            "65 deep",
            format!(r#"{{"service":"s","event":"e","data":{}1{}}}"#, "[".repeat(65), "]".repeat(65)).into(),
            422,
            "invalid",
        ),
        (
            "a large event",
            format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(300_000)).into(),
            413,
            "too_large",
        ),
        (
            "1,001 events",
            format!("[{}]", vec![r#"{"service":"s","event":"e","data":1}"#; 1001].join(",")).into(),
            413,
            "too_large",
        ),
    ]
}

/// Requests with faults outside the body.
fn requests(gateway: &Gateway) -> Vec<(&'static str, Request, u16, &'static str)> {
    let publish = |name: &str, value: &str| {
        gateway.publishing().with(name, value).body(r#"{"service":"s","event":"e","data":1}"#)
    };
    let get = |endpoint: &str| gateway.getting(endpoint);
    vec![
        ("an org with a space", get("").to("/v1/orgs/a%20b/events"), 400, "bad_request"),
        ("an org with a dot first", get("").to("/v1/orgs/.dev/events"), 400, "bad_request"),
        ("an org with a slash in it", get("").to("/v1/orgs/a%2fb/cursor"), 400, "bad_request"),
        (
            "an org that is too long",
            get("").to(&format!("/v1/orgs/{}/events", "a".repeat(65))),
            400,
            "bad_request",
        ),
        ("no org", get("").to("/v1/orgs//events"), 400, "bad_request"),
        ("a path upwards", get("").to("/v1/orgs/../events"), 400, "bad_request"),
        ("an idempotency key with a space", publish("idempotency-key", "a b"), 400, "bad_request"),
        ("an empty idempotency key", publish("idempotency-key", ""), 400, "bad_request"),
        ("a long idempotency key", publish("idempotency-key", &"x".repeat(121)), 400, "bad_request"),
        ("an idempotency key that is not ASCII", publish("idempotency-key", "ä"), 400, "bad_request"),
        ("an Authorization that is not ASCII", publish("authorization", "Bearer ä"), 401, "unauthorized"),
        ("an Authorization of two words", publish("authorization", "Bearer a b"), 401, "unauthorized"),
        ("an Authorization of one", publish("authorization", "Bearer"), 401, "unauthorized"),
        (
            "a large token",
            get("cursor").with("authorization", &format!("Bearer {}", "a.".repeat(5000))),
            401,
            "unauthorized",
        ),
        ("a cursor that is none", get("events?after=nonsense"), 400, "bad_request"),
        ("an empty cursor of a page", get("events?after="), 400, "bad_request"),
        ("a negative cursor", get("events?after=e--1"), 400, "bad_request"),
        ("a cursor beyond 2^53", get("events?after=e-9007199254740992"), 400, "bad_request"),
        ("a cursor with a leading zero", get("events?after=e-01"), 400, "bad_request"),
        ("a cursor in capitals", get("events?after=E-1"), 400, "bad_request"),
        ("a cursor twice", get("events?after=e-1&after=e-2"), 400, "bad_request"),
        ("a limit of words", get("events?limit=ten"), 400, "bad_request"),
        ("a negative limit", get("events?limit=-1"), 400, "bad_request"),
        ("a signed limit", get("events?limit=%2B1"), 400, "bad_request"),
        ("a limit over the most", get("events?limit=1001"), 400, "bad_request"),
        ("an empty service among others", get("events?services=a,,b"), 400, "bad_request"),
        ("a service that is none", get("events?services=a%00b"), 400, "bad_request"),
        (
            "too many services",
            get(&format!("events?services={}", vec!["a"; 101].join(","))),
            400,
            "bad_request",
        ),
        ("a stream's cursor", get("stream?cursor=x"), 400, "bad_request"),
        ("a stream's tail", get("stream?tail=1.5"), 400, "bad_request"),
        ("a tail over the most", get("stream?tail=1001"), 400, "bad_request"),
        ("a policy that is not spoken", get("stream?slow=fastest"), 400, "unsupported"),
        ("a Last-Event-ID", get("stream").with("last-event-id", "7"), 400, "bad_request"),
        ("a Last-Event-ID that is not ASCII", get("stream").with("last-event-id", "ä"), 400, "bad_request"),
        ("no Accept for a stream", get("stream").with("accept", "application/json"), 400, "bad_request"),
    ]
}

/// Requests that are not HTTP, or that two parties could read differently; answered by a status alone.
const NOT_HTTP: &[(&str, &str)] = &[
    ("a word", "hello\r\n\r\n"),
    ("TLS", "\x16\x03\x01\x02\0\x01\0\x01"),
    ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("a header without a colon", "GET / HTTP/1.1\r\nhost x\r\n\r\n"),
    ("a space before a colon", "GET / HTTP/1.1\r\nhost : x\r\n\r\n"),
    ("a NUL in a header", "GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n"),
    (
        "two lengths",
        "POST /v1/orgs/dev/events HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ),
    ("a length of words", "POST /v1/orgs/dev/events HTTP/1.1\r\nhost: x\r\ncontent-length: two\r\n\r\nab"),
    ("a negative length", "POST /v1/orgs/dev/events HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\nab"),
    (
        "an unknown transfer encoding",
        "POST /v1/orgs/dev/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nab",
    ),
];

#[test]
fn everything_wrong_is_answered_and_nothing_is_lost() {
    let gateway = Gateway::start();
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let mut witness = gateway.ws("");
    witness.next("hello");
    let mut acknowledged = Vec::new();
    let mut tried = 0;
    let keep =
        |acknowledged: &mut Vec<u64>| acknowledged.push(gateway.say("kept", &acknowledged.len().to_string()));
    for (what, body, status, code) in bodies() {
        let answer = gateway.publishing().body(&body).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{what}: {answer:?}");
        if status == 422 {
            let problem = answer.json();
            let errors = problem["errors"].as_array().expect("errors");
            assert!(
                errors.iter().all(|error| error["pointer"].is_string() && error["code"].is_string()),
                "{what}"
            );
        }
        keep(&mut acknowledged);
        tried += 1;
    }
    for (what, request, status, code) in requests(&gateway) {
        let answer = request.send();
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{what}: {answer:?}");
        keep(&mut acknowledged);
        tried += 1;
    }
    for (what, bytes) in NOT_HTTP {
        if let Some(answer) = raw(&gateway, bytes.as_bytes()) {
            assert!((400..=431).contains(&answer.status) || answer.status == 505, "{what}: {answer:?}");
        }
        tried += 1;
    }
    assert!(tried >= 70, "{tried}");
    // Cut at every kind of position.
    for bytes in [
        "POST /v1/orgs/dev/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        "GET /v1/orgs/dev/stream HTTP/1.1\r\nhost",
        "GET",
    ] {
        let mut stream = connect(gateway.public);
        stream.write_all(bytes.as_bytes()).expect("send");
        stream.shutdown(std::net::Shutdown::Write).expect("shut down");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    keep(&mut acknowledged);

    let mut client = Follower::at(&start);
    let live = witness.events(&mut client, acknowledged.len());
    let seqs = |events: &[Value]| events.iter().filter_map(|event| event["seq"].as_u64()).collect::<Vec<_>>();
    assert_eq!(seqs(&live), acknowledged, "a stream beside all that saw everything");
    let gateway = gateway.killed_and_started_again();
    let page = gateway.getting("events?limit=1000").send().json();
    assert_eq!(seqs(page["events"].as_array().expect("events")), acknowledged, "and so did the log");
    assert!(!gateway.log().contains("panicked"));
}

#[test]
fn lengths_that_two_parties_would_read_differently_make_no_second_request() {
    let gateway = Gateway::start();
    let smuggled = "GET /v1/orgs/dev/cursor HTTP/1.1\r\nhost: x\r\n\r\n";
    let bytes = format!(
        "POST /v1/orgs/dev/events HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        5 + smuggled.len()
    );
    let mut stream = connect(gateway.public);
    stream.write_all(bytes.as_bytes()).expect("send");
    let mut stream = BufReader::new(stream);
    Answer::read(&mut stream).expect("an answer");
    let _ = stream.get_mut().shutdown(std::net::Shutdown::Write);
    let mut more = String::new();
    let _ = stream.read_to_string(&mut more);
    assert_eq!(more, "", "a second answer");
}

#[test]
fn malformed_streams_are_refused_the_same_way_by_both_transports() {
    let gateway = Gateway::start();
    for query in ["?cursor=x", "?tail=x", "?services=a,,b", "?cursor=a-1&cursor=a-2", "?slow=fastest"] {
        let over_http = gateway.getting(&format!("stream{query}")).send();
        let (error, close) = gateway.ws(query).refusal();
        assert_eq!(error["code"], over_http.refusal().as_str(), "{query}");
        assert_eq!(error["message"], over_http.json()["detail"], "{query}");
        assert!((4500..5000).contains(&close), "a final code: {close}");
    }
    let bearer = format!("Bearer {}", gateway.token);
    let (error, _) =
        Ws::open(gateway.public, "/v1/orgs/a%20b/stream", &[("authorization", &bearer)]).refusal();
    assert_eq!(error["code"], "bad_request");
}
