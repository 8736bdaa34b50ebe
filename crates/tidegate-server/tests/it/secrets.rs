//! Secrets of the whole suite: every gateway of a test logs at level trace. When it ends, its log, its
//! metrics, and its answers are searched for each token, key and secret of the test, in every form that it
//! may have taken.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose};
use serde_json::json;

use crate::{
    client::{http::Request, sse::Sse, stream::Frames as _, ws::Ws},
    gateway::{Gateway, now_s},
};

thread_local! {
    /// The answers of gateways to this thread, which runs one test.
    static HEARD: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps a part of an answer for the search.
pub fn heard(text: &str) {
    HEARD.with_borrow_mut(|heard| {
        heard.push_str(text);
        heard.push('\n');
    });
}

/// Keeps a frame for the search, if it is about the reader: publishers wrote the events.
pub fn heard_frame(text: &str) {
    if !text.starts_with("{\"type\":\"event\"") && !text.starts_with("{\"type\":\"batch\"") {
        heard(text);
    }
}

/// `/metrics`, from a gateway that may be shutting down.
pub fn metrics(admin: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    // Bytes before a failure are searched too.
    let _ = stream.read_to_string(&mut text);
    Some(text)
}

/// The texts that reveal a secret: itself, each part of it that is long enough to be one, and both encoded.
fn needles(secret: &str) -> BTreeSet<String> {
    // Of a token: its claims and its signature; its header is not secret. Of a key: its last part.
    let is_key = secret.starts_with("tgk_");
    let parts: Vec<&str> =
        if is_key { secret.rsplitn(2, '_').take(1).collect() } else { secret.split('.').collect() };
    let parts = if parts.len() == 3 { parts[1..].to_vec() } else { parts };
    let mut needles = BTreeSet::new();
    for text in parts.into_iter().chain([secret]).filter(|text| text.len() >= 12) {
        needles.insert(text.to_owned());
        // Base64 of a text inside another depends on where it begins; its middle is the same.
        for shift in 0..3 {
            let whole =
                general_purpose::STANDARD_NO_PAD.encode(text.as_bytes().get(shift..).unwrap_or_default());
            let middle = whole[..whole.len() - whole.len() % 4].to_owned();
            needles.insert(middle.replace('+', "-").replace('/', "_"));
            needles.insert(middle);
        }
        needles.insert(text.bytes().map(|byte| format!("{byte:02x}")).collect());
        needles.insert(text.replace('.', "%2E").replace('_', "%5F").replace('-', "%2D"));
        if let Ok(bytes) = general_purpose::URL_SAFE_NO_PAD.decode(text)
            && let Ok(text) = String::from_utf8(bytes)
        {
            needles.insert(text);
        }
    }
    needles.retain(|needle| needle.len() >= 12);
    needles
}

/// The first needle of `secrets` that is in `text`.
fn found<'s>(secrets: &'s [String], text: &str) -> Option<(&'s str, String)> {
    secrets.iter().find_map(|secret| {
        needles(secret)
            .into_iter()
            .find(|needle| text.contains(needle))
            .map(|needle| (secret.as_str(), needle))
    })
}

/// Fails if a secret is in the log or in the answers.
pub fn look(secrets: &[String], log: &str) {
    let heard = HEARD.with_borrow_mut(std::mem::take);
    for (place, text) in [("the log", log), ("metrics or answers", heard.as_str())] {
        if let Some((secret, needle)) = found(secrets, text) {
            let line = text.lines().find(|line| line.contains(&needle)).unwrap_or_default();
            panic!("the secret {secret} stands in {place}, as {needle}: {line}");
        }
    }
}

#[test]
fn a_secret_is_found_in_every_form() {
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1IiwieCI6MX0.c2lnbmF0dXJlLW9mLXRoaXMtdG9rZW4".to_owned();
    let key = "tgk_0123456789_abcdefghijklmnopqrstuvwxyz".to_owned();
    let secrets = [token.clone(), key.clone()];
    for text in [
        format!("GET /?access_token={token} HTTP/1.1"),
        "signature c2lnbmF0dXJlLW9mLXRoaXMtdG9rZW4".to_owned(),
        "claims {\"sub\":\"u\",\"x\":1}".to_owned(),
        format!("access_token={}", token.replace('.', "%2E")),
        format!("in a key {}", key.rsplit('_').next().expect("a part")),
        general_purpose::STANDARD.encode(format!("Bearer {key}")),
        general_purpose::STANDARD.encode(format!("x{token}")),
    ] {
        assert!(found(&secrets, &text).is_some(), "{text}");
    }
    for text in ["tgk_0123456789", "eyJhbGciOiJIUzI1NiJ9", "{\"sub\":\"u\"}"] {
        assert_eq!(found(&secrets, text), None, "{text}");
    }
}

/// Every way in which a secret can be sent, right and wrong, and payloads in every way that refuses them. The
/// search follows when the gateway ends.
#[test]
fn no_secret_and_no_payload_is_ever_shown() {
    let gateway =
        Gateway::with(&["auth.cookie=\"session\"", "limits.connections_per_user=3", "auth.leeway=0s"]);
    let forged = {
        let (signed, _) = gateway.token.rsplit_once('.').expect("a token");
        format!("{signed}.{}", general_purpose::URL_SAFE_NO_PAD.encode(b"not the signature of it at all!!"))
    };
    let expired = gateway.token_with(&json!({"exp": now_s() - 10}));
    let others = gateway.token_with(&json!({"org": "other"}));
    let nameless =
        gateway.token_with(&json!({"services": ["a b"], "sub": "a name that is none, secret-claim"}));
    let cut = gateway.token[..gateway.token.len() - 5].to_owned();
    let long = format!("{}.{}", gateway.token, "secretsecretsecret".repeat(600));
    let wrong_key = format!("{}x", gateway.key);
    let right = gateway.token.clone();
    let url = |query: &str| gateway.path(&format!("stream{query}"));
    let own = format!("http://{}", gateway.public);
    for token in [&right, &forged, &expired, &others, &nameless, &cut, &long, &wrong_key, &gateway.key] {
        gateway.keep_secret(token);
        let bearer = format!("Bearer {token}");
        let get = |endpoint: &str| Request::new(gateway.public, "GET", &gateway.path(endpoint));
        for endpoint in ["events", "cursor", "events?limit=x", "cursor?services=a,,b", "nowhere"] {
            get(endpoint).with("authorization", &bearer).send();
            get(endpoint).with("authorization", &format!("Basic {token}")).send();
            get(endpoint).with("cookie", &format!("session={token}")).with("origin", &own).send();
            get(endpoint)
                .with("cookie", &format!("session={token}; session={token}"))
                .with("origin", &own)
                .send();
            get(endpoint)
                .with("cookie", &format!("session={token}"))
                .with("origin", "https://evil.example")
                .send();
        }
        get(&format!("events?access_token={token}")).send();
        get(&format!("stream?services={token}&cursor={token}&slow={token}&tail={token}")).send();
        get(&format!("stream?slow={token}")).with("authorization", &bearer).send();
        // Without the `=`, or with it percent-encoded, a token is the name of a parameter.
        for query in [token.clone(), format!("access_token%3D{token}"), format!("a%0a{token}")] {
            get(&format!("stream?{query}")).send();
            get(&format!("events?{query}")).with("authorization", &bearer).send();
        }
        Request::new(gateway.public, "GET", &format!("/v1/orgs/{token}/cursor"))
            .with("authorization", &bearer)
            .send();
        Request::new(gateway.public, "GET", &format!("/{token}")).send();
        for query in [format!("?access_token={token}"), format!("?access_token={token}&access_token={token}")]
        {
            let head =
                Request::new(gateway.public, "GET", &url(&query)).with("origin", "https://evil.example");
            head.send();
        }
        gateway.publishing().with("authorization", &bearer).body("{}").send();
        gateway
            .publishing()
            .with("idempotency-key", &format!("{token} "))
            .body(format!("{{\"a\":\"{token}\"}}"))
            .send();
        let mut streams = vec![
            Ws::open(gateway.public, &url(""), &[("authorization", &bearer)]),
            Ws::open(
                gateway.public,
                &url(""),
                &[("sec-websocket-protocol", &format!("tidegate.v1, tidegate.bearer.{token}"))],
            ),
            Ws::open(
                gateway.public,
                &url(""),
                &[("sec-websocket-protocol", &format!("tidegate.bearer.{token}"))],
            ),
        ];
        if token.len() < 5000 {
            // Twice in one head, which has a size limit.
            streams.push(Ws::open(
                gateway.public,
                &url(&format!("?services={token}")),
                &[("authorization", &bearer)],
            ));
        }
        let mut first = Ws::open(gateway.public, &url(""), &[]);
        first.send(&format!(r#"{{"type":"auth","token":"{token}"}}"#));
        streams.push(first);
        let mut unknown = Ws::open(gateway.public, &url(""), &[]);
        unknown.send(&format!(r#"{{"type":"{token}","token":7}}"#));
        streams.push(unknown);
        for stream in &mut streams {
            // The right one gets `hello`; all others an error.
            let _ = stream.message();
        }
    }
    let mut by_address =
        Sse::open(Request::new(gateway.public, "GET", &url(&format!("?access_token={right}"))));
    by_address.next("hello");

    let payload = "a payload that nobody may log xyzzy";
    let body = |more: &str| format!(r#"{{"service":"s","event":"e","id":"one","data":"{payload}"{more}}}"#);
    let mut refused = 0;
    for text in [
        body(""),
        body(",\"key\":7"),
        body(",\"users\":\"u\"").replace("one", "two"),
        body("")[..40].to_owned(),
        body("").replace(payload, &payload.repeat(10_000)),
        body("").replace(payload, &format!("another, {payload}")),
        format!("{} {payload}", body("")),
        payload.to_owned(),
        format!("[{payload}]"),
        body("").replace('"', "'"),
        body("").replace("\"s\"", &format!("\"{payload}\"")),
    ] {
        let answer = gateway.publish(&text);
        refused += usize::from(answer.status != 200);
    }
    assert_eq!(refused, 10);
    assert!(!gateway.log().contains("xyzzy"), "{}", gateway.log());
    assert!(!gateway.operators("/metrics").body.contains("xyzzy"));
    assert!(gateway.log().contains("refuse a page of another origin"), "it speaks of what it refuses");
    assert!(gateway.log().contains("refuse a request"), "at level trace");
}
