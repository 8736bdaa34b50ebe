//! How a reader authenticates, in each way, and how that ends.

use serde_json::{Value, json};

use crate::{
    client::{
        http::Request,
        sse::Sse,
        stream::{Follower, Frames as _},
        ws::{Message, Ws},
    },
    gateway::{Gateway, now_s},
};

fn bare(gateway: &Gateway, headers: &[(&str, &str)]) -> Ws {
    Ws::open(gateway.public, &gateway.path("stream"), headers)
}

#[test]
fn a_token_comes_by_header_first_frame_subprotocol_or_address() {
    let gateway = Gateway::start();
    gateway.ws("").next("hello");

    let mut stream = bare(&gateway, &[]);
    stream.authenticate(&gateway.token);
    stream.next("hello");

    let pair = format!("tidegate.v1, tidegate.bearer.{}", gateway.token);
    let mut stream = bare(&gateway, &[("sec-websocket-protocol", &pair)]);
    assert_eq!(stream.handshake.header("sec-websocket-protocol"), Some("tidegate.v1"), "never the token");
    stream.next("hello");

    let url = gateway.path(&format!("stream?access_token={}", gateway.token));
    Sse::open(Request::new(gateway.public, "GET", &url)).next("hello");
    assert!(!gateway.log().contains(&gateway.token), "tokens are never logged");
}

/// RFC 9110 11.4: one or more spaces stand between scheme and credentials.
#[test]
fn bearer_may_be_followed_by_more_than_one_space() {
    let gateway = Gateway::start();
    let (token, key) = (format!("Bearer   {}", gateway.token), format!("bearer  {}", gateway.key));
    assert_eq!(gateway.getting("cursor").with("authorization", &token).send().status, 200);
    let event = r#"{"service":"s","event":"e","data":1}"#;
    assert_eq!(gateway.publishing().with("authorization", &key).body(event).send().status, 200);
    bare(&gateway, &[("authorization", &token)]).next("hello");
    Sse::open(gateway.getting("stream").with("authorization", &token)).next("hello");
}

#[test]
fn no_auth_frame_in_time_is_told_and_closed() {
    let gateway = Gateway::with(&["limits.first_frame_timeout=100ms"]);
    let (error, code) = bare(&gateway, &[]).refusal();
    assert_eq!((error["code"].as_str(), code), (Some("auth_timeout"), 4006));
}

#[test]
fn the_first_frame_must_be_auth() {
    let gateway = Gateway::start();
    for (frame, name, code) in [
        (r#"{"type":"pong"}"#, "unauthorized", 4551),
        (r#"{"type":"auth","token":"x.y.z"}"#, "unauthorized", 4551),
        (r#"{"type":"auth","token":null}"#, "bad_frame", 4553),
        ("{", "bad_frame", 4553),
    ] {
        let mut stream = bare(&gateway, &[]);
        stream.send(frame);
        let (error, close) = stream.refusal();
        assert_eq!((error["code"].as_str(), close), (Some(name), code), "{frame}");
    }
}

#[test]
fn refusals_of_websockets_come_as_frames_so_that_browsers_see_them() {
    let gateway = Gateway::with(&["auth.leeway=0s"]);
    let other = gateway.token_with(&json!({"org": "other"}));
    let expired = gateway.token_with(&json!({"exp": now_s() - 10}));
    let narrow = gateway.token_of("u", &["open"]);
    for (token, query, name, code) in [
        ("nonsense", "", "unauthorized", 4551),
        (&other, "", "forbidden", 4552),
        (&expired, "", "token_expired", 4001),
        (&narrow, "?services=open,secret", "forbidden", 4552),
        (&gateway.key, "", "unauthorized", 4551),
        (&gateway.token, "?cursor=x", "bad_frame", 4553),
        (&gateway.token, "?tail=-1", "bad_frame", 4553),
        (&gateway.token, "?services=a%20b", "bad_frame", 4553),
        (&gateway.token, "?slow=fastest", "unsupported", 4556),
    ] {
        let (error, close) = gateway.ws_as(token, query).refusal();
        let is_named = error["code"] == name || (name == "bad_frame" && error["code"] == "bad_request");
        assert!(is_named && close == code, "{query}: {error} {close}");
    }
    let protocol = [("sec-websocket-protocol", "graphql-ws")];
    let (error, close) = bare(&gateway, &protocol).refusal();
    assert_eq!((error["code"].as_str(), close), (Some("unsupported"), 4556));
}

#[test]
fn pages_of_other_origins_may_not_connect() {
    let gateway = Gateway::with(&["auth.origins=[\"https://app.example.com\"]"]);
    let token = format!("Bearer {}", gateway.token);
    let own = format!("http://{}", gateway.public);
    let near = format!("http://{}.evil.example", gateway.public);
    for (origin, may) in [
        (own.as_str(), true),
        ("https://app.example.com", true),
        ("http://app.example.com", false),
        ("https://app.example.com.evil.example", false),
        ("https://app.example.com:8443", false),
        (&near, false),
        ("null", false),
        ("", false),
    ] {
        let mut stream = bare(&gateway, &[("authorization", &token), ("origin", origin)]);
        let sse = gateway.getting("stream").with("accept", "text/event-stream").with("origin", origin);
        if may {
            stream.next("hello");
            Sse::open(sse).next("hello");
        } else {
            let (error, close) = stream.refusal();
            assert_eq!((error["code"].as_str(), close), (Some("forbidden"), 4552), "{origin}");
            let answer = sse.send();
            assert_eq!((answer.status, answer.refusal().as_str()), (403, "forbidden"), "{origin}");
        }
    }
}

#[test]
fn an_expired_token_ends_the_stream_and_a_renewed_one_keeps_it() {
    let gateway = Gateway::with(&["auth.leeway=0s"]);
    let short = gateway.token_with(&json!({"exp": now_s() + 2}));
    let mut kept = gateway.ws_as(&short, "");
    kept.next("hello");
    kept.authenticate(&gateway.token_of("u", &["*"]));
    let renewed = kept.next("hello");
    assert!(renewed["token_expires_in_ms"].as_u64().expect("a number") > 1_000_000, "{renewed}");
    let mut ended = gateway.ws_as(&short, "");
    ended.next("hello");
    let (error, code) = ended.refusal();
    assert_eq!((error["code"].as_str(), code), (Some("token_expired"), 4001));
    gateway.say("s", "1");
    kept.next("event");
    // SSE has no renewal: a new stream begins where this one ends.
    let short = gateway.token_with(&json!({"exp": now_s() + 2}));
    let mut ended = gateway.sse_as(&short, "");
    ended.next("hello");
    let error = loop {
        let frame = ended.frame();
        if frame["type"] == "error" {
            break frame;
        }
    };
    assert_eq!(error["code"], "token_expired");
    assert_eq!(ended.try_frame(), None);
}

fn seqs(frame: &Value) -> Vec<u64> {
    match frame["events"].as_array() {
        Some(events) => events.iter().filter_map(|event| event["seq"].as_u64()).collect(),
        None => frame["seq"].as_u64().into_iter().collect(),
    }
}

#[test]
fn r6_renewal_widens_and_narrows_behind_its_hello() {
    let gateway = Gateway::start();
    let (narrow, wide) = (gateway.token_of("u", &["a"]), gateway.token_of("u", &["a", "b"]));
    let mut stream = gateway.ws_as(&narrow, "");
    let mut client = Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor"));
    gateway.say("b", "1");
    gateway.say("a", "2");
    assert_eq!(stream.events(&mut client, 1)[0]["seq"], 2);

    gateway.say("b", "3");
    stream.authenticate(&wide);
    let hello = loop {
        let frame = stream.frame();
        client.hear(&frame.to_string());
        match frame["type"].as_str() {
            Some("hello") => break frame,
            Some("ping") => assert_eq!(frame["seq"], 3, "R1: what was hidden is bridged: {frame}"),
            _ => panic!("nothing of the new services comes before the new hello: {frame}"),
        }
    };
    assert_eq!(hello["services"], json!(["a", "b"]));
    let at = hello["cursor"].as_str().expect("a cursor");
    assert!(at.contains("-3-") && at.ends_with(hello["filter"].as_str().expect("a tag")), "{hello}");
    gateway.say("b", "4");
    assert_eq!(stream.events(&mut client, 1)[0]["seq"], 4);

    stream.authenticate(&narrow);
    let hello = stream.next("hello");
    client.hear(&hello.to_string());
    gateway.say("b", "5");
    gateway.say("a", "6");
    assert_eq!(seqs(&stream.next("event")), [6], "narrowing takes effect at once");
}

#[test]
fn r6_renewal_keeps_org_and_user() {
    let gateway = Gateway::start();
    for (token, name, code) in [
        (gateway.token_of("somebody-else", &["*"]), "forbidden", 4552),
        (gateway.token_with(&json!({"org": "other"})), "forbidden", 4552),
        (gateway.token_with(&json!({"exp": 1000})), "token_expired", 4001),
        (gateway.token_of("u", &["b"]), "forbidden", 4552),
    ] {
        let mut stream = gateway.ws_as(&gateway.token_of("u", &["a"]), "?services=a");
        stream.next("hello");
        stream.authenticate(&token);
        let (error, close) = stream.refusal();
        assert_eq!((error["code"].as_str(), close), (Some(name), code), "{error}");
        stream.socket().shutdown(std::net::Shutdown::Write).expect("shut down");
        assert_eq!(stream.message(), Message::End);
    }
}

/// The classic mistake: `exp` in milliseconds, which makes a token for 50,000 years.
#[test]
fn a_token_that_is_valid_for_too_long_is_refused_by_name_on_every_road_and_as_a_renewal() {
    let gateway = Gateway::start();
    let long = gateway.token_with(&json!({"exp": now_s() + 31 * 86_400}));
    let millis = gateway.token_with(&json!({"exp": (now_s() + 600) * 1000}));
    for (token, words) in [
        (&long, &["auth.max_token_life (30d)"][..]),
        (&millis, &["auth.max_token_life (30d)", "milliseconds", "in seconds"]),
    ] {
        let has_words = |text: &str| assert!(words.iter().all(|word| text.contains(word)), "{text}");
        let bearer = format!("Bearer {token}");
        for end in ["events", "cursor", "stream"] {
            let answer = gateway.getting(end).with("authorization", &bearer).send();
            assert_eq!((answer.status, answer.refusal().as_str()), (401, "unauthorized"), "{end}");
            has_words(&answer.body);
        }
        let (error, close) = gateway.ws_as(token, "").refusal();
        assert_eq!((error["code"].as_str(), close), (Some("unauthorized"), 4551));
        has_words(&error.to_string());
        let mut open = gateway.ws("");
        open.next("hello");
        open.authenticate(token);
        let (error, close) = open.refusal();
        assert_eq!((error["code"].as_str(), close), (Some("unauthorized"), 4551), "a renewal");
        has_words(&error.to_string());
    }
}
