//! Key sets of an attacker, or of a broken server. None lets anybody in or leads elsewhere, and other
//! issuers' tokens are accepted.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::{
    client::stream::Frames as _,
    gateway::{Gateway, eventually},
    hostile::{claims, refused, with},
    key_server::{KeyServer, answer},
    signer::Signer,
};

/// A name, the server's behaviour, and the refusal of a token by the key that the set should have had.
type SetCase = (&'static str, Box<dyn Fn(&mut std::net::TcpStream) + Send + Sync>, &'static str);

fn sets(signer: &Signer, elsewhere: &str) -> Vec<SetCase> {
    let key = signer.jwk();
    let mut cases: Vec<SetCase> = Vec::new();
    let mut add = |name, bytes: Vec<u8>, outcome| {
        cases.push((name, Box::new(move |stream| drop(stream.write_all(&bytes))), outcome));
    };
    let good = json!({"keys": [key]}).to_string();
    let json =
        |value: &Value| answer("200 OK", "content-type: application/json\r\n", value.to_string().as_bytes());
    for (name, status) in [
        ("404", "404 Not Found"),
        ("500", "500 Internal Server Error"),
        ("503", "503 Service Unavailable"),
        ("401", "401 Unauthorized"),
        ("206", "206 Partial Content"),
        ("203", "203 Non-Authoritative Information"),
    ] {
        add(name, answer(status, "", good.as_bytes()), "status");
    }
    add("204", b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec(), "status");
    for (name, status) in [
        ("301", "301 Moved Permanently"),
        ("302", "302 Found"),
        ("303", "303 See Other"),
        ("307", "307 Temporary Redirect"),
        ("308", "308 Permanent Redirect"),
    ] {
        add(name, answer(status, &format!("location: {elsewhere}\r\n"), good.as_bytes()), "redirect");
    }
    add("a redirect to itself", answer("302 Found", "location: jwks\r\n", b""), "redirect");
    add("300 without an address", answer("300 Multiple Choices", "", b""), "redirect");
    add("2 MiB", answer("200 OK", "", format!("{good}{}", " ".repeat(2 << 20)).as_bytes()), "too_large");
    add("HTML", answer("200 OK", "content-type: text/html\r\n", b"<!doctype html><p>Sign in"), "malformed");
    add("nothing", answer("200 OK", "", b""), "malformed");
    add("no answer", Vec::new(), "unreachable");
    add("half a head", b"HTTP/1.1 200 OK\r\ncontent-le".to_vec(), "unreachable");
    add("no HTTP", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "unreachable");
    let lie = format!("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{good}");
    add("a length that is too long", lie.into_bytes(), "unreachable");
    let lie = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{good}", good.len() - 2);
    add("a length that is too short", lie.into_bytes(), "malformed");
    add(
        "a length of 2^63",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n{".to_vec(),
        "unreachable",
    );
    // 10 MiB of zeros, compressed to 10 KiB.
    add("gzip", answer("200 OK", "content-encoding: gzip\r\n", good.as_bytes()), "malformed");
    add("brotli", answer("200 OK", "content-encoding: br\r\n", good.as_bytes()), "malformed");
    for (name, value) in [
        ("a list", json!([key])),
        ("null", Value::Null),
        ("keys: null", json!({"keys": null})),
        ("keys: an object", json!({"keys": {"a": key}})),
        ("keys: text", json!({"keys": "x"})),
        ("a key alone", key.clone()),
        ("10,000 keys", json!({"keys": vec![key.clone(); 10_000]})),
        ("33 keys", json!({"keys": vec![key.clone(); 33]})),
    ] {
        let outcome = if name == "10,000 keys" { "too_large" } else { "malformed" };
        add(name, json(&value), outcome);
    }
    let twice = format!("{{\"keys\":[],\"keys\":[{key}]}}");
    add("keys twice", answer("200 OK", "", twice.as_bytes()), "malformed");
    // Sets without a usable key.
    for (name, value) in [
        ("no keys", json!({"keys": []})),
        ("null for a key", json!({"keys": [null]})),
        ("one name twice", json!({"keys": [key, key]})),
        ("a secret", json!({"keys": [Signer::secret("key", [7; 32]).jwk()]})),
        ("a private key", json!({"keys": [with(key.clone(), "d", json!("AQ"))]})),
        ("use: enc", json!({"keys": [with(key.clone(), "use", json!("enc"))]})),
        ("key_ops: sign", json!({"keys": [with(key.clone(), "key_ops", json!(["sign"]))]})),
        ("another alg", json!({"keys": [with(key.clone(), "alg", json!("ES384"))]})),
        ("another curve", json!({"keys": [with(key.clone(), "crv", json!("P-384"))]})),
        ("off the curve", json!({"keys": [with(key.clone(), "y", key["x"].clone())]})),
        ("short", json!({"keys": [with(key.clone(), "x", json!("AQ"))]})),
        ("no base64", json!({"keys": [with(key.clone(), "x", json!("not base64!"))]})),
        ("an algorithm that is not listed", json!({"keys": [Signer::ed25519("key").jwk()]})),
    ] {
        add(name, json(&value), "ok");
    }
    let endless = |head: &'static [u8], piece: &'static [u8]| {
        move |stream: &mut std::net::TcpStream| {
            let _ = stream.write_all(head);
            while stream.write_all(piece).is_ok() {}
        }
    };
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    cases.push(("a body without end", Box::new(endless(head, &[b' '; 4096])), "too_large"));
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    cases.push(("chunks without end", Box::new(endless(chunked, b"8\r\n        \r\n")), "too_large"));
    cases.push(("a head without end", Box::new(endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")), "unreachable"));
    for (name, bytes) in
        [("a body that stops", &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"[..]), ("silence", b"")]
    {
        let waits = move |stream: &mut std::net::TcpStream| {
            let _ = stream.write_all(bytes);
            // Until the gateway has had enough requests.
            let _ = stream.read_to_end(&mut Vec::new());
        };
        cases.push((name, Box::new(waits), "timeout"));
    }
    cases
}

#[test]
fn hostile_key_sets_open_nothing_and_lead_nowhere() {
    let (signer, elsewhere) = (Signer::p256("key"), KeyServer::start());
    elsewhere.publishes(&[&signer]);
    let good = KeyServer::of(&[&signer]);
    let cases = sets(&signer, &elsewhere.url("jwks"));
    assert!(cases.len() >= 50, "{}", cases.len());
    let mut config = "[auth]\njwks_timeout = \"1s\"\njwks_cooldown = \"1h\"\n".to_owned();
    let mut add = |name: &str, url: &str| {
        config += &format!(
            "[[auth.issuers]]\nissuer = \"{name}\"\nalgorithms = [\"ES256\"]\norgs = [\"*\"]\njwks = \"{url}\"\n"
        );
    };
    let mut expected = std::collections::BTreeMap::from([("ok", 1.0)]);
    let mut servers = Vec::new();
    for (name, hostile, outcome) in cases {
        let server = KeyServer::start();
        server.answers(hostile);
        add(name, &server.url("jwks"));
        *expected.entry(outcome).or_default() += 1.0;
        servers.push((name, server));
    }
    add("good", &good.url("jwks"));
    let gateway = Gateway::serving(&format!(
        "{config}[limits]\nhandshakes_per_second = 100_000\nfailed_auths_per_second = 100_000\n"
    ));
    // A failed fetch is retried after about a second: the counts may have grown, but no other request may
    // appear.
    let fetches =
        |outcome: &str| gateway.metric(&format!("tidegate_jwks_fetches_total{{outcome=\"{outcome}\"}}"));
    for (outcome, count) in &expected {
        eventually(outcome, || (fetches(outcome) >= *count).then_some(()));
    }
    for (name, _) in &servers {
        for token in [
            signer.token(&claims(name)),
            signer.token_of("{\"alg\":\"ES256\"}", claims(name).to_string()),
            Signer::secret("key", [7; 32]).token(&claims(name)),
        ] {
            refused(&gateway, &((*name).to_owned(), token, "overloaded"));
        }
    }
    assert_eq!(gateway.metric("tidegate_jwks_keys"), 1.0);
    assert!(elsewhere.asked().is_empty(), "a redirect was followed: {:?}", elsewhere.asked());
    for (name, server) in servers.iter().chain([&("good", good)]) {
        for head in server.asked() {
            let head = head.to_ascii_lowercase();
            assert!(head.starts_with("get /jwks http/1.1\r\n"), "{name}: {head}");
            assert!(head.contains("accept-encoding: identity\r\n"), "{name}: {head}");
            assert!(!head.contains("authorization") && !head.contains("cookie"), "{name}: {head}");
        }
    }
    gateway.ws_as(&signer.token(&claims("good")), "").next("hello");
}
