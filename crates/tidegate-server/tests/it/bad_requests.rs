//! Requests that two parties could read in two ways, and invalid handshakes, byte by byte: each has one
//! answer, nothing after a refused one is answered, and the gateway serves as before.
//!
//! If hyper itself cannot read a request, it answers with a status and no body, and closes the connection.

use std::io::{Read as _, Write as _};

use crate::{
    client::{http::connect, stream::Frames as _},
    gateway::Gateway,
};

/// The expected result.
#[derive(Debug, Clone, Copy)]
enum Comes {
    /// One answer: a problem with this code.
    Problem(u16, &'static str),
    /// One answer without a body, by the HTTP library; or none, if the connection was reset with it.
    Bare(u16),
    /// This many answers, all 200: the bytes after the first request are another request to any reader.
    Served(usize),
    /// A WebSocket that gets an `error` frame with this code.
    Error(&'static str),
    /// A WebSocket that works.
    Open,
}
use Comes::{Bare, Error, Open, Problem, Served};

/// Parts of requests to one gateway.
struct Parts {
    host: String,
    read: String,
    publish: String,
    upgrade: String,
}

const EVENT: &str = r#"{"service":"s","event":"e","data":1}"#;
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const SWITCH: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

impl Parts {
    fn of(gateway: &Gateway) -> Self {
        let host = format!("Host: {}\r\n", gateway.public);
        let bearer = format!("Authorization: Bearer {}\r\n", gateway.token);
        let key = format!("Authorization: Bearer {}\r\n", gateway.key);
        let request = |line: &str, end: &str| format!("{line} {} HTTP/1.1\r\n", gateway.path(end));
        Self {
            read: format!("{}{host}{bearer}", request("GET", "cursor")),
            publish: format!("{}{host}{key}Content-Type: application/json\r\n", request("POST", "events")),
            upgrade: format!("{}{host}{bearer}", request("GET", "stream")),
            host,
        }
    }

    /// A second request, to follow another.
    fn behind(&self) -> String {
        format!("{}Connection: close\r\n\r\n", self.read)
    }

    /// Bodies with two ends, or none.
    fn framings(&self) -> Vec<(&'static str, String, Comes)> {
        let Self { publish, read, .. } = self;
        let behind = self.behind();
        let length = EVENT.len();
        let hex = format!("{length:x}");
        let chunked = "Transfer-Encoding: chunked\r\n";
        let sent = |headers: &str, body: &str| format!("{publish}{headers}\r\n{body}");
        let whole = format!("{hex}\r\n{EVENT}\r\n0\r\n\r\n");
        let smuggled = format!("0\r\n\r\n{behind}");
        let both = format!("Content-Length: {}\r\n", smuggled.len());
        vec![
            ("CL and TE", sent(&format!("{both}{chunked}"), &smuggled), Problem(400, "bad_request")),
            ("TE and CL", sent(&format!("{chunked}{both}"), &smuggled), Problem(400, "bad_request")),
            // Read by its chunks, as RFC 9112 (6.3) says, and then the connection closes.
            (
                "TE and the CL of a sound body",
                sent(&format!("Content-Length: {}\r\n{chunked}", whole.len()), &(whole.clone() + &behind)),
                Served(1),
            ),
            (
                "TE and a short CL",
                sent(&format!("{chunked}Content-Length: 4\r\n"), &(whole.clone() + &behind)),
                Served(1),
            ),
            (
                "two CL",
                sent(
                    &format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + behind.len()),
                    &format!("{EVENT}{behind}"),
                ),
                Bare(400),
            ),
            // The HTTP library takes them for one, as RFC 9110 (8.6) allows.
            (
                "two equal CL",
                sent(
                    &format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
                    &(EVENT.to_owned() + &behind),
                ),
                Served(2),
            ),
            (
                "a list of CL",
                sent(&format!("Content-Length: {length}, {length}\r\n"), &(EVENT.to_owned() + &behind)),
                Bare(400),
            ),
            ("a CL with a sign", sent(&format!("Content-Length: +{length}\r\n"), EVENT), Bare(400)),
            ("a CL in hex", sent("Content-Length: 0x24\r\n", EVENT), Bare(400)),
            ("a CL beyond 2^64", sent("Content-Length: 18446744073709551617\r\n", EVENT), Bare(400)),
            ("an empty CL", sent("Content-Length: \r\n", EVENT), Bare(400)),
            ("TE identity", sent("Transfer-Encoding: identity\r\n", EVENT), Bare(400)),
            ("TE chunked, identity", sent("Transfer-Encoding: chunked, identity\r\n", &whole), Bare(400)),
            (
                "TE identity, chunked",
                sent("Transfer-Encoding: identity, chunked\r\n", &(whole.clone() + &behind)),
                Problem(400, "bad_request"),
            ),
            (
                "TE gzip, chunked",
                sent("Transfer-Encoding: gzip, chunked\r\n", &(whole.clone() + &behind)),
                Problem(400, "bad_request"),
            ),
            (
                "TE twice",
                sent(&format!("{chunked}{chunked}"), &(whole.clone() + &behind)),
                Problem(400, "bad_request"),
            ),
            ("TE xchunked", sent("Transfer-Encoding: xchunked\r\n", &whole), Bare(400)),
            ("TE behind a vertical tab", sent("Transfer-Encoding: \x0bchunked\r\n", &whole), Bare(400)),
            ("TE of HTTP/1.0", sent(chunked, &whole).replacen("HTTP/1.1", "HTTP/1.0", 1), Bare(400)),
            ("a chunk extension", sent(chunked, &whole.replacen("\r\n", ";a=b\r\n", 1)) + &behind, Served(2)),
            (
                "a huge chunk extension",
                sent(chunked, &whole.replacen("\r\n", &format!(";a={}\r\n", "b".repeat(20_000)), 1))
                    + &behind,
                Problem(400, "bad_request"),
            ),
            (
                "a chunk without a size",
                sent(chunked, &format!("zz\r\n{behind}")),
                Problem(400, "bad_request"),
            ),
            ("a negative chunk", sent(chunked, &format!("-1\r\n{behind}")), Problem(400, "bad_request")),
            (
                "a chunk beyond 2^64",
                sent(chunked, &format!("fffffffffffffffff\r\n{behind}")),
                Problem(400, "bad_request"),
            ),
            (
                "a chunk that ends late",
                sent(chunked, &format!("{hex}\r\n{EVENT}XX0\r\n\r\n{behind}")),
                Problem(400, "bad_request"),
            ),
            (
                "chunks by bare LF",
                sent(chunked, &format!("{hex}\n{EVENT}\n0\n\n{behind}")),
                Problem(400, "bad_request"),
            ),
            (
                "trailers",
                sent(
                    chunked,
                    &format!("{hex}\r\n{EVENT}\r\n0\r\nContent-Length: 9\r\nHost: evil\r\n\r\n{behind}"),
                ),
                Served(2),
            ),
            (
                "huge trailers",
                sent(
                    chunked,
                    &format!("{hex}\r\n{EVENT}\r\n0\r\nX: {}\r\n\r\n{behind}", "y".repeat(100_000)),
                ),
                Problem(400, "bad_request"),
            ),
            (
                "GET with a body",
                format!("{read}Content-Length: {}\r\n\r\n{behind}{behind}", behind.len()),
                Served(2),
            ),
            ("GET with chunks", format!("{read}{chunked}\r\n0\r\n\r\n{behind}"), Served(2)),
            ("a body that nobody expects", format!("{read}\r\nhello{behind}"), Served(1)),
        ]
    }

    /// Invalid heads, and heads that name two hosts.
    fn heads(&self) -> Vec<(&'static str, String, Comes)> {
        let Self { read, host, .. } = self;
        let behind = self.behind();
        let (line, headers) = read.split_once("\r\n").expect("a line");
        let path = line.split(' ').nth(1).expect("a path");
        let without_host = read.replace(host.as_str(), "");
        let name = host["Host: ".len()..].trim_end();
        let with = |more: &str| format!("{read}{more}\r\n{behind}");
        let of = |line: &str| format!("{line}\r\n{headers}\r\n{behind}");
        let hosts = |hosts: &str| format!("{without_host}{hosts}\r\n\r\n{behind}");
        vec![
            ("a folded header", with("X: a\r\n b\r\n"), Bare(400)),
            ("a fold at the start", format!("{line}\r\n X: a\r\n{headers}\r\n{behind}"), Bare(400)),
            ("a bare CR", with("X: a\rb\r\n"), Bare(400)),
            ("a NUL in a value", with("X: a\0b\r\n"), Bare(400)),
            ("a NUL in a name", with("X\0: a\r\n"), Bare(400)),
            ("a space before a colon", with("Content-Length : 5\r\n"), Bare(400)),
            ("an empty name", with(": a\r\n"), Bare(400)),
            ("a name that is not ASCII", with("X\u{e4}: a\r\n"), Bare(400)),
            ("no colon", with("X\r\n"), Bare(400)),
            // Lenient, but not ambiguous: a line ends at LF.
            ("bare LFs", format!("{read}\r\n").replace("\r\n", "\n") + &behind, Served(2)),
            ("HTTP/1.0", of(&line.replace("1.1", "1.0")), Served(1)),
            ("HTTP/0.9", format!("GET {path}\r\n\r\n"), Bare(400)),
            ("HTTP/1.2", of(&line.replace("1.1", "1.2")), Bare(400)),
            ("HTTP/2.0 by its line", of(&line.replace("1.1", "2.0")), Bare(400)),
            ("http in small letters", of(&line.replace("HTTP", "http")), Bare(400)),
            ("a space in the path", of(&line.replace("cursor", "cur sor")), Bare(400)),
            ("a tab in the line", of(&line.replace(" HTTP", "\tHTTP")), Bare(400)),
            ("a NUL in the path", of(&line.replace("cursor", "cur\0sor")), Bare(400)),
            ("a path that is not ASCII", of(&line.replace("cursor", "curs\u{f6}r")), Bare(400)),
            ("a space in the method", of(&line.replace("GET", "G ET")), Bare(400)),
            ("garbage before", format!("\0\0{read}\r\n"), Bare(400)),
            ("the whole address", of(&line.replace(path, &format!("http://{name}{path}"))), Served(2)),
            (
                "another whole address",
                of(&line.replace(path, &format!("http://evil.example{path}"))),
                Problem(400, "bad_request"),
            ),
            (
                "a user in the address",
                of(&line.replace(path, &format!("http://u@{name}{path}"))),
                Problem(400, "bad_request"),
            ),
            (
                "an authority",
                format!("CONNECT {name} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
                Problem(404, "not_found"),
            ),
            (
                "an authority to GET",
                format!("GET {name} HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
                Problem(404, "not_found"),
            ),
            (
                "an asterisk",
                format!("OPTIONS * HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
                Problem(404, "not_found"),
            ),
            ("no Host", format!("{without_host}\r\n{behind}"), Problem(400, "bad_request")),
            ("two Hosts", hosts(&format!("Host: {name}\r\nHost: evil.example")), Problem(400, "bad_request")),
            (
                "the same Host twice",
                hosts(&format!("Host: {name}\r\nHost: {name}")),
                Problem(400, "bad_request"),
            ),
            ("a list of Hosts", hosts(&format!("Host: {name}, evil.example")), Problem(400, "bad_request")),
            ("an empty Host", hosts("Host: "), Problem(400, "bad_request")),
            ("a Host with a user", hosts(&format!("Host: u@{name}")), Problem(400, "bad_request")),
            ("a Host with a path", hosts(&format!("Host: {name}/x")), Problem(400, "bad_request")),
            ("a Host that is not ASCII", hosts("Host: h\u{f6}st"), Problem(400, "bad_request")),
            (
                "TRACE",
                format!("TRACE {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"),
                Problem(405, "method_not_allowed"),
            ),
            (
                "get in small letters",
                format!("get {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"),
                Problem(405, "method_not_allowed"),
            ),
            ("a huge header", with(&format!("X: {}\r\n", "y".repeat(20_000))), Bare(431)),
            (
                "a huge path",
                of(&line.replace("cursor", &format!("cursor?{}", "y".repeat(20_000)))),
                Bare(431),
            ),
            (
                "too many headers",
                with(&(0..70).map(|n| format!("X-{n}: y\r\n")).collect::<String>()),
                Bare(431),
            ),
        ]
    }

    /// WebSocket handshakes. To their sender, bytes after a refused one are frames, so they are not answered.
    fn handshakes(&self) -> Vec<(&'static str, String, Comes)> {
        let Self { upgrade, .. } = self;
        let behind = self.behind();
        let with = |headers: &str| format!("{upgrade}{headers}\r\n{behind}");
        let usual = format!("{SWITCH}{VERSION}{KEY}");
        let alone = |headers: &str| format!("{upgrade}{headers}\r\n");
        let protocols = |list: &str| format!("{usual}Sec-WebSocket-Protocol: {list}\r\n");
        let bad = Problem(400, "bad_request");
        let version = |text: &str| with(&format!("{SWITCH}{KEY}Sec-WebSocket-Version: {text}\r\n"));
        let old = Problem(426, "unsupported");
        let switch = |lines: &str| format!("{lines}{VERSION}{KEY}");
        let hundred: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
        vec![
            ("a right one", alone(&usual), Open),
            ("no key", with(&format!("{SWITCH}{VERSION}")), bad),
            ("a short key", with(&format!("{SWITCH}{VERSION}Sec-WebSocket-Key: AAAA\r\n")), bad),
            (
                "a key that is not base64",
                with(&format!("{SWITCH}{VERSION}Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==\r\n")),
                bad,
            ),
            ("two keys", with(&format!("{usual}{KEY}")), bad),
            ("no version", with(&format!("{SWITCH}{KEY}")), old),
            ("version 12", version("12"), old),
            ("version 14", version("14"), old),
            ("a list of versions", version("13, 8"), old),
            ("version 13 twice", with(&format!("{usual}{VERSION}")), old),
            ("version 013", version("013"), old),
            ("version -13", version("-13"), old),
            ("HTTP/1.0", with(&usual).replacen("HTTP/1.1", "HTTP/1.0", 1), Problem(400, "unsupported")),
            ("POST", with(&usual).replacen("GET", "POST", 1), Problem(405, "method_not_allowed")),
            (
                "POST with a body",
                alone(&format!("{usual}Content-Length: {}\r\n", behind.len())).replacen("GET", "POST", 1)
                    + &behind
                    + &behind,
                Problem(405, "method_not_allowed"),
            ),
            (
                "a body",
                alone(&format!("{usual}Content-Length: {}\r\n", behind.len())) + &behind + &behind,
                bad,
            ),
            ("a chunked body", with(&format!("{usual}Transfer-Encoding: chunked\r\n")), bad),
            (
                "Connection: keep-alive",
                with(&switch("Connection: keep-alive\r\nUpgrade: websocket\r\n")),
                bad,
            ),
            ("no Connection", with(&switch("Upgrade: websocket\r\n")), bad),
            ("Connection: xUpgrade", with(&switch("Connection: xUpgrade\r\nUpgrade: websocket\r\n")), bad),
            (
                "Connection: keep-alive, Upgrade",
                alone(&switch("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n")),
                Open,
            ),
            ("Upgrade: WebSocket", alone(&switch("Connection: upgrade\r\nUpgrade: WebSocket\r\n")), Open),
            (
                "h2c beside it",
                alone(&format!("{usual}Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n")),
                Open,
            ),
            ("another address", with(&usual).replacen("/stream ", "/nothing ", 1), Problem(404, "not_found")),
            ("protocols that are not ASCII", with(&protocols("tidegate.v1, t\u{e4}")), bad),
            ("protocols without commas", with(&protocols("tidegate.v1 other")), bad),
            ("a protocol twice", with(&protocols("tidegate.v1, tidegate.v1")), bad),
            ("an empty token among them", alone(&protocols("tidegate.v1, tidegate.bearer.")), Open),
            (
                "two tokens among them",
                alone(&protocols("tidegate.v1, tidegate.bearer.a, tidegate.bearer.b")),
                Error("bad_request"),
            ),
            ("100 protocols", alone(&protocols(&hundred.join(", "))), Error("unsupported")),
            ("an org that is none", alone(&usual).replacen("/dev/", "/%64ev/", 1), Error("bad_request")),
            ("another org", alone(&usual).replacen("/dev/", "/other/", 1), Error("forbidden")),
            (
                "two tokens by header",
                alone(&format!("{usual}Authorization: Bearer x\r\n")),
                Error("unauthorized"),
            ),
            ("a request behind it", with(&usual), Error("bad_frame")),
        ]
    }
}

/// Sends the request and reads everything that comes; of a WebSocket, the expected frames.
fn sent(gateway: &Gateway, bytes: &[u8], comes: Comes) -> String {
    let mut stream = connect(gateway.public);
    // The request may be refused, and the connection reset, before all of it is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        answer.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer);
        let is_there = match comes {
            Error(_) => text.contains("\"type\":\"error\""),
            Open => text.contains("\"type\":\"hello\""),
            _ => false,
        };
        if is_there {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn assert_comes(what: &str, answer: &str, comes: Comes) {
    let statuses: Vec<&str> = answer
        .match_indices("HTTP/1.")
        .filter_map(|(at, _)| answer.get(at + 9..at + 12))
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    let is_problem =
        |code: &str| answer.contains(&format!("\"code\":\"{code}\"")) && answer.contains("\"detail\":\"");
    let is_right = match comes {
        Problem(status, code) => statuses == [status.to_string()] && is_problem(code),
        Bare(status) => {
            (answer.is_empty() || statuses == [status.to_string()])
                && answer.split_once("\r\n\r\n").is_none_or(|(head, body)| {
                    body.is_empty() && head.to_ascii_lowercase().contains("connection: close")
                })
        }
        // Hyper's refusal of the remaining bytes may follow.
        Served(count) => statuses.iter().filter(|status| **status == "200").count() == count,
        Error(code) => statuses == ["101"] && answer.contains(&format!("\"code\":\"{code}\"")),
        Open => statuses == ["101"] && answer.contains("\"type\":\"hello\""),
    };
    assert!(is_right, "{what}: {comes:?} should come, not {answer:?}");
}

#[test]
fn every_request_has_one_reading() {
    let gateway =
        Gateway::with(&["limits.handshakes_per_second=100000", "limits.failed_auths_per_second=100000"]);
    let parts = Parts::of(&gateway);
    let mut witness = gateway.ws("");
    witness.next("hello");
    let tables = [parts.framings(), parts.heads(), parts.handshakes()];
    let refused = tables.iter().flatten().filter(|(_, _, comes)| !matches!(comes, Served(_) | Open)).count();
    assert!(refused >= 40, "{refused}");
    let mut published = 0;
    for (what, request, comes) in tables.into_iter().flatten() {
        // Latin-1, so that a header can hold a byte above 127 by itself.
        let bytes: Vec<u8> =
            request.chars().map(|char| u8::try_from(u32::from(char)).expect("Latin-1")).collect();
        assert_comes(what, &sent(&gateway, &bytes, comes), comes);
        published += usize::from(matches!(comes, Served(_)) && request.starts_with("POST"));
        assert_eq!(gateway.getting("cursor").send().status, 200, "serving behind: {what}");
    }
    let page = gateway.getting("events").send().json();
    assert_eq!(
        page["events"].as_array().map(Vec::len),
        Some(published),
        "nothing that was refused is stored"
    );
    gateway.say("s", "\"behind all\"");
    loop {
        let frame = witness.frame();
        if frame["data"] == "behind all" {
            break;
        }
    }
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}

/// A refused handshake closes its connection, because frames may follow; an accepted one reads them as
/// frames.
#[test]
fn a_refused_handshake_ends_the_connection() {
    let gateway = Gateway::start();
    let parts = Parts::of(&gateway);
    for (what, request, comes) in parts.handshakes() {
        if let Problem(..) = comes {
            let answer = sent(&gateway, request.as_bytes(), comes);
            let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
            // With Upgrade, Connection names it too (RFC 9110 7.8).
            let upgrades = if head.contains("\r\nupgrade:") { "upgrade, " } else { "" };
            let ends = head.contains(&format!("connection: {upgrades}close"));
            assert!(ends || head.starts_with("http/1.0"), "{what}: {answer}");
        }
    }
}
