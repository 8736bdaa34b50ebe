//! The Rust client against a gateway that answers from a script: what a real one does too rarely for a test.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{Receiver, channel},
    thread,
};

use tidegate_client::{Builder, Client, Delivery, Transport};

use super::{next, next_gap, run};

/// A gateway that reads a request from each connection and answers it with the next answer, the last one for
/// ever. Returns the requests. Connections stay open.
fn script(answers: Vec<String>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tell, requests) = channel();
    thread::spawn(move || {
        let mut open: Vec<TcpStream> = Vec::new();
        for (at, socket) in listener.incoming().enumerate() {
            let mut socket = socket.expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"\r\n\r\n") {
                let read = socket.read(&mut buffer).expect("a request");
                request.extend_from_slice(&buffer[..read]);
            }
            // The test has ended if nobody listens.
            let _ = tell.send(String::from_utf8(request).expect("UTF-8"));
            let answer = &answers[at.min(answers.len() - 1)];
            socket.write_all(answer.as_bytes()).expect("answered");
            open.push(socket);
        }
    });
    (address, requests)
}

fn stream(frames: &[&str]) -> String {
    let body: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{body}")
}

fn page(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn client(address: SocketAddr) -> Builder {
    Client::builder(format!("http://{address}"))
        .org("acme")
        .static_token("tok")
        .transports([Transport::Sse])
        .impatient(true)
}

const HELLO: &str = r#"{"type":"hello","cursor":"e-4-t","head":4,"connection_id":"c-1"}"#;
const GAP: &str = r#"{"type":"gap","prev":4,"seq":8,"epoch":"e","filter":"t","reason":"slow_consumer"}"#;
const LIVE: &str = r#"{"type":"event","prev":8,"seq":9,"service":"s","event":"x","id":"9","data":9}"#;

#[test]
fn a_gap_of_a_slow_reader_is_filled_from_history_in_its_place() {
    let first = r#"{"events":[{"seq":5,"id":"5","data":5},{"seq":6,"id":"6","data":6}],"cursor":"e-6-t","has_more":true}"#;
    let second = r#"{"events":[{"seq":8,"id":"8","data":8}],"cursor":"e-8-t","has_more":false}"#;
    let (address, requests) = script(vec![stream(&[HELLO, GAP, LIVE]), page(first), page(second)]);
    run(async {
        let builder = client(address).services(["s", "t"]).fill(true);
        let (client, mut deliveries) = builder.connect().expect("it starts");
        for (seq, replay) in [(5, true), (6, true), (8, true), (9, false)] {
            let Delivery::Event(event) = next(&mut deliveries).await else { panic!("a gap before {seq}") };
            assert_eq!((event.seq, event.replay, event.cursor.seq), (seq, replay, seq));
        }
        assert_eq!(client.metrics().gaps, 0);
    });
    let asked: Vec<String> = requests.try_iter().collect();
    assert!(asked[0].starts_with("GET /v1/orgs/acme/stream?services=s%2Ct HTTP/1.1\r\n"), "{}", asked[0]);
    for (request, after) in [(&asked[1], "e-4-t"), (&asked[2], "e-6-t")] {
        let line = format!("GET /v1/orgs/acme/events?after={after}&limit=1000&services=s%2Ct HTTP/1.1\r\n");
        assert!(request.starts_with(&line) && request.contains("authorization: Bearer tok\r\n"), "{request}");
    }
}

#[test]
fn a_gap_that_history_cannot_fill_is_delivered() {
    let (address, _requests) = script(vec![
        stream(&[HELLO, GAP, LIVE]),
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into(),
    ]);
    run(async {
        let (client, mut deliveries) = client(address).fill(true).connect().expect("it starts");
        let gap = next_gap(&mut deliveries).await;
        assert_eq!((gap.prev, gap.seq, gap.reason.as_str()), (4, 8, "slow_consumer"));
        let Delivery::Event(event) = next(&mut deliveries).await else { panic!("a second gap") };
        assert_eq!((event.seq, client.metrics().gaps), (9, 1));
    });
}

#[test]
fn a_refusal_says_how_long_to_wait_and_a_redirect_is_not_followed() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 3600\r\ncontent-type: application/problem+json\r\n\
                content-length: 49\r\n\r\n{\"code\":\"overloaded\",\"detail\":\"the node is full\"}";
    let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    run(async {
        let (address, _requests) = script(vec![busy.to_owned()]);
        let (client, _deliveries) = client(address).connect().expect("it starts");
        let mut status = client.status();
        let waits = status.wait_for(|status| status.error.is_some()).await.expect("it runs").clone();
        let error = waits.error.expect("an error");
        assert_eq!(error.to_string(), "overloaded: the node is full");
        assert!(error.retry_in.expect("a delay").as_secs() >= 3600, "{error:?}");
        client.shutdown().await; // does not wait for it
    });
    run(async {
        let (address, _requests) = script(vec![elsewhere.to_owned()]);
        let (_client, mut deliveries) = client(address).connect().expect("it starts");
        let ended = deliveries.next().await.expect("an item").expect_err("it leads elsewhere");
        assert_eq!(
            (ended.code.as_str(), ended.message.as_str()),
            ("refused", "the address answered 302 Found without a word of the gateway")
        );
    });
}
