//! How long an idle HTTP/1.1 connection is kept, and the `Keep-Alive` header that tells its client.

use std::{
    io::{BufReader, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{
    client::{
        http::{Answer, Request, connect},
        http2::Http2,
        ws::handshake,
    },
    gateway::{DEADLINE, Gateway},
};

fn seconds(answer: &Answer) -> Option<u64> {
    let hint = answer.header("keep-alive")?;
    assert_eq!(answer.header("connection"), Some("keep-alive"), "{answer:?}");
    Some(hint.strip_prefix("timeout=").expect("timeout=").parse().expect("seconds"))
}

fn ask(connection: &mut BufReader<TcpStream>, request: &Request) -> Answer {
    connection.get_mut().write_all(&request.bytes()).expect("send");
    Answer::read(connection).expect("an answer")
}

#[test]
fn an_answer_says_how_long_its_connection_is_kept() {
    let gateway = Gateway::start();
    let event = gateway.publishing().body(r#"{"service":"s","event":"e","data":1}"#);
    let mut connection = BufReader::new(connect(gateway.public));
    let chunked = event.clone().with("transfer-encoding", "chunked").body("2\r\n{}\r\n0\r\n\r\n");
    for request in [&event, &chunked, &gateway.getting("cursor"), &gateway.getting("nothing")] {
        // More than the 90 s of Go's pool and the 120 s of Caddy's.
        assert_eq!(seconds(&ask(&mut connection, request)), Some(125));
    }
    let stream = gateway.getting("stream").with("accept", "text/event-stream");
    assert_eq!(seconds(&Answer::read_head(&mut stream.begin()).expect("an answer")), Some(125));

    let path = gateway.path("stream");
    for (what, answer) in [
        ("the client closes", event.clone().with("connection", "close").send()),
        ("HTTP/1.0", event.clone().over("HTTP/1.0").send()),
        ("a refused upgrade", handshake(gateway.public, &path).with("sec-websocket-key", "x").send()),
        ("an upgrade", Answer::read_head(&mut handshake(gateway.public, &path).begin()).expect("an answer")),
        // The rest of its body may still have to be read.
        ("a refusal before the body", event.clone().with("authorization", "Bearer x").send()),
        ("no Host", event.clone().without("host").send()),
        ("HTTP/2", Http2::connect(gateway.public).send(&event)),
    ] {
        assert_eq!(answer.header("keep-alive"), None, "{what}: {answer:?}");
        assert_ne!(answer.header("connection"), Some("keep-alive"), "{what}: {answer:?}");
    }
    let unread = event.clone().with("authorization", "Bearer x").send();
    assert_eq!(
        (unread.status, unread.header("connection")),
        (401, Some("close")),
        "its body is not waited for"
    );
    let short = Gateway::with(&["limits.idle_timeout=1s", "limits.first_frame_timeout=1s"]);
    assert_eq!(short.getting("cursor").send().header("keep-alive"), None, "nothing to rely on");
}

/// A request that a client begins when the time that it was told is nearly over is served.
#[test]
fn a_connection_is_kept_for_as_long_as_was_said() {
    let gateway = Gateway::with(&["limits.idle_timeout=3s", "limits.first_frame_timeout=2s"]);
    let mut connection = BufReader::new(connect(gateway.public));
    for _ in 0..2 {
        let told = seconds(&ask(&mut connection, &gateway.getting("cursor"))).expect("a time");
        assert_eq!(told, 1);
        // The end of the connection would end this wait.
        connection.get_mut().set_read_timeout(Some(Duration::from_secs(told))).expect("a timeout");
        let waited = connection.read(&mut [0]).expect_err("the end before the time that was said");
        assert!(matches!(waited.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waited}");
        connection.get_mut().set_read_timeout(Some(DEADLINE)).expect("a timeout");
    }
    assert_eq!(ask(&mut connection, &gateway.getting("cursor")).status, 200);
    assert_eq!(connection.read(&mut [0]).expect("a clean end"), 0);
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"limits.idle_timeout\"}"), 1.0);
}
