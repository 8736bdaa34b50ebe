//! Every code of the table is produced for real, each with the close code and the status that the table gives
//! it. A code that nothing here produces fails the test.

use std::collections::BTreeSet;

use serde_json::json;
use tidegate_protocol::Code;

use crate::{
    client::{
        http::{Answer, Request},
        stream::Frames as _,
        ws::{Ws, masked},
    },
    gateway::{Gateway, eventually, now_s},
    held_node::HeldNode,
};

/// The codes that have come over the wire.
#[derive(Default)]
struct Seen(BTreeSet<Code>);

impl Seen {
    fn code(&mut self, name: &str) -> Code {
        let code = Code::from_name(name).unwrap_or_else(|| panic!("{name} is not of the table"));
        self.0.insert(code);
        code
    }

    /// A request that is refused with this code.
    fn answered(&mut self, expected: Code, answer: &Answer) {
        let code = self.code(&answer.refusal());
        assert_eq!((code, answer.status), (expected, expected.status()), "{answer:?}");
        let comes_back = answer.json()["retry_in_ms"].is_u64();
        assert!(code.is_retryable() || !comes_back, "a final code names a time: {answer:?}");
    }

    /// A stream that ends with this code.
    fn ended(&mut self, expected: Code, mut stream: Ws) {
        let (error, close) = stream.refusal();
        let code = self.code(error["code"].as_str().expect("a code"));
        assert_eq!((code, Some(close)), (expected, expected.close()), "{error}");
        assert!(code.is_retryable() || error.get("retry_in_ms").is_none(), "{error}");
    }
}

fn bare(gateway: &Gateway) -> Ws {
    Ws::open(gateway.public, &gateway.path("stream"), &[])
}

fn greeted(gateway: &Gateway) -> (Ws, String) {
    let mut stream = gateway.ws("");
    let id = stream.next("hello")["connection_id"].as_str().expect("an id").to_owned();
    (stream, id)
}

/// A fault of a request or a token.
fn refused_at_once(seen: &mut Seen) {
    let gateway = Gateway::with(&[
        "auth.leeway=0s",
        "limits.request_timeout=100ms",
        "limits.connections_per_user=1",
        "limits.orgs=1",
        "limits.event_bytes=1KiB",
        "limits.request_bytes=2KiB",
        "dedup.max_entries_per_org=1",
    ]);
    let event = |id: &str, data: &str| format!(r#"{{"service":"s","event":"e","id":"{id}","data":{data}}}"#);
    assert_eq!(gateway.publish(&event("a", "1")).status, 200);
    seen.answered(Code::IdConflict, &gateway.publish(&event("a", "2")));
    seen.answered(Code::DedupFull, &gateway.publish(&event("b", "1")));
    let named = Gateway::start();
    let named = |data: &str| named.publishing().with("idempotency-key", "k").body(event("a", data)).send();
    assert_eq!(named("1").status, 200);
    seen.answered(Code::RequestConflict, &named("2"));
    seen.answered(Code::Invalid, &gateway.publish("{}"));
    seen.answered(Code::BadRequest, &gateway.publish("{"));
    seen.answered(Code::TooLarge, &gateway.publish(&" ".repeat(3000)));
    let text = gateway.publishing().with("content-type", "text/plain").body("x").send();
    seen.answered(Code::UnsupportedMedia, &text);
    let slow = gateway.publishing().with("content-length", "100").body("{").begin();
    seen.answered(Code::RequestTimeout, &Answer::read(&mut { slow }).expect("an answer"));
    seen.answered(Code::NotFound, &Request::new(gateway.public, "GET", "/nowhere").send());
    seen.answered(Code::MethodNotAllowed, &gateway.getting("stream").by("PUT").send());
    let key = gateway.key_for("other", "*");
    let other =
        gateway.publishing().to("/v1/orgs/other/events").with("authorization", &format!("Bearer {key}"));
    seen.answered(Code::Overloaded, &other.body(event("a", "1")).send());

    for (token, query, code) in [
        ("nonsense", "", Code::Unauthorized),
        (gateway.token_with(&json!({"org": "other"})).as_str(), "", Code::Forbidden),
        (gateway.token_with(&json!({"exp": now_s() - 10})).as_str(), "", Code::TokenExpired),
        (gateway.token.as_str(), "?cursor=x", Code::BadRequest),
        (gateway.token.as_str(), "?slow=fastest", Code::Unsupported),
    ] {
        seen.ended(code, gateway.ws_as(token, query));
        let sse =
            gateway.getting(&format!("stream{query}")).with("authorization", &format!("Bearer {token}"));
        seen.answered(code, &sse.send());
    }
    let (first, _) = greeted(&gateway);
    seen.ended(Code::TooManyConnections, gateway.ws(""));
    seen.answered(Code::TooManyConnections, &gateway.getting("stream").send());
    drop(first);
}

/// A reason for which an open stream ends.
fn ended_later(seen: &mut Seen) {
    let gateway =
        Gateway::with(&["limits.client_frame_bytes=8KiB", "limits.write_timeout=200ms", "log.engine=memory"]);
    let hasty = Gateway::with(&["limits.first_frame_timeout=100ms"]);
    seen.ended(Code::AuthTimeout, bare(&hasty));
    let mut broken = bare(&gateway);
    broken.send("{");
    seen.ended(Code::BadFrame, broken);
    let (mut large, _) = greeted(&gateway);
    large.send(&"x".repeat(9000));
    seen.ended(Code::TooLarge, large);
    let (mut flood, _) = greeted(&gateway);
    flood.send_raw(&masked(0x81, br#"{"type":"pong"}"#).repeat(500));
    seen.ended(Code::RateLimited, flood);

    let (replaced, id) = greeted(&gateway);
    let mut new = gateway.ws(&format!("?replaces={id}"));
    let id = new.next("hello")["connection_id"].as_str().expect("an id").to_owned();
    seen.ended(Code::Evicted, replaced);
    let path = gateway.path(&format!("connections/{id}"));
    assert_eq!(Request::new(gateway.admin, "DELETE", &path).send().status, 200);
    seen.ended(Code::Revoked, new);

    let slow = crate::slow::narrow_ws(&gateway);
    let closes = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    std::thread::scope(|scope| {
        // In the background, because a closed reader is not waited for as long as a busy machine may need.
        scope.spawn(|| crate::slow::fill(&gateway));
        eventually("the slow one closed", || (closes() == 1.0).then_some(()));
        seen.ended(Code::SlowConsumer, slow);
    });

    let quiet = Gateway::with(&["ping.interval=200ms", "ping.timeout=100ms"]);
    seen.ended(Code::PingTimeout, greeted(&quiet).0);
    // The drain waits for readers that are still connected.
    let mut kept = quiet.sse("");
    kept.next("hello");
    quiet.terminate();
    eventually("the drain", || (quiet.operators("/readyz").status == 503).then_some(()));
    seen.answered(Code::Draining, &quiet.publish("{}"));
}

/// The codes for failures of the gateway's own parts, which no request can cause.
fn failed_inside(seen: &mut Seen) {
    let node = HeldNode::start();
    let event = r#"{"service":"s","event":"e","id":"a","data":1}"#;
    seen.answered(Code::Unknown, &node.publishing().body(event).send());
    let mut stream = node.ws("");
    let hello = stream.next("hello");
    let epoch = hello["epoch"].as_str().expect("an epoch").to_owned();
    node.fail_reads();
    seen.answered(Code::Internal, &node.getting("events").send());
    seen.ended(Code::Internal, node.ws(&format!("?cursor={epoch}-0")));
    let patient = HeldNode::with(&[("limits.publish_timeout", "1h")]);
    let keyed = || patient.publishing().with("idempotency-key", "k").body(event);
    let first = keyed().begin();
    eventually("the first", || (patient.appends() == 1).then_some(()));
    seen.answered(Code::InProgress, &keyed().send());
    drop(first);
    let full = Gateway::with(&["log.min_free=1000000GiB"]);
    seen.answered(Code::LogFull, &full.publish(event));
    node.halt();
    seen.answered(Code::LogHalted, &node.publishing().body(event).send());
}

#[test]
fn every_code_of_the_table_is_produced() {
    let mut seen = Seen::default();
    refused_at_once(&mut seen);
    ended_later(&mut seen);
    failed_inside(&mut seen);
    let missing: Vec<&str> =
        Code::ALL.into_iter().filter(|code| !seen.0.contains(code)).map(Code::name).collect();
    assert_eq!(missing, Vec::<&str>::new(), "no scenario here provokes these");
}
