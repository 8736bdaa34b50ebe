//! The publisher over real sockets, against a server that does what a test says. Nothing here asserts a time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};

use super::*;

/// What the server does with a request.
enum Act {
    Answer(u16, &'static str, Value),
    /// It closes the connection without an answer.
    Close,
    /// It closes the connection in the middle of its answer.
    CloseInTheMiddle,
    Hang,
    /// It stores the events once the test says so.
    StoreAfter(Arc<Notify>),
}

/// The head and the events of a request.
type Request = (String, Vec<Value>);

struct Server {
    url: String,
    acts: Arc<Mutex<VecDeque<Act>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            url: format!("http://{}", listener.local_addr().expect("an address")),
            acts: Arc::new(Mutex::new(acts.into_iter().collect())),
            requests: Arc::default(),
        };
        let (acts, requests) = (Arc::clone(&server.acts), Arc::clone(&server.requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&acts), Arc::clone(&requests)));
            }
        });
        server
    }

    fn publisher(&self) -> Builder {
        Publisher::builder(&self.url, "tgk_test_secret").org("acme").delay(Duration::ZERO)
    }

    fn requests(&self) -> Vec<(String, Vec<Value>)> {
        self.requests.lock().expect("requests").clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    acts: Arc<Mutex<VecDeque<Act>>>,
    requests: Arc<Mutex<Vec<Request>>>,
) -> Option<()> {
    loop {
        let (head, events) = request(&mut stream).await?;
        requests.lock().expect("requests").push((head, events.clone()));
        let act = acts.lock().expect("acts").pop_front();
        let (status, headers, body) = match act {
            Some(Act::Answer(status, headers, body)) => (status, headers, body),
            Some(Act::Close) => return None,
            Some(Act::CloseInTheMiddle) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"cursor\"").await.ok()?;
                return None;
            }
            Some(Act::Hang) => std::future::pending().await,
            Some(Act::StoreAfter(notify)) => {
                notify.notified().await;
                (200, "", stored(&events))
            }
            None => (200, "", stored(&events)),
        };
        let body = body.to_string();
        let answer = format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

fn stored(events: &[Value]) -> Value {
    let places = events.iter().enumerate();
    let places: Vec<_> =
        places.map(|(at, event)| json!({"id": event["id"], "seq": at + 1, "duplicate": false})).collect();
    json!({"cursor": format!("e-{}", events.len()), "events": places})
}

async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<Value>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let (_, length) = head.split_once("content-length: ")?;
            let length: usize = length.lines().next()?.parse().ok()?;
            if read.len() >= end + 4 + length {
                let events = serde_json::from_slice(&read[end + 4..]).expect("a JSON array");
                return Some((head, events));
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

fn event(number: u32) -> NewEvent {
    NewEvent::new("finance", "invoice.paid", json!({"n": number}))
}

fn problem(status: u16, code: &str) -> Value {
    json!({"status": status, "code": code, "detail": format!("the sentence of {code}")})
}

fn refused(outcome: Outcome) -> Refused {
    match outcome {
        Outcome::Refused(refused) => refused,
        other => panic!("it is not refused: {other:?}"),
    }
}

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["id"].as_str()).collect()
}

#[tokio::test]
async fn events_of_one_moment_share_a_request() {
    let server = Server::start([]).await;
    let publisher = server.publisher().build().expect("a publisher");
    let receipts =
        [publisher.send(event(1)).await, publisher.send(event(2).id("mine").key("k").users(["alice"])).await];
    let sent: Vec<_> = receipts.iter().map(|receipt| receipt.id().to_owned()).collect();
    for (seq, receipt) in (1..).zip(receipts) {
        let outcome = receipt.await;
        let stored = outcome.stored().expect("it is stored");
        assert_eq!((stored.seq, stored.cursor.to_string()), (seq, format!("e-{seq}")));
        assert_eq!(outcome.attempts(), 1);
    }
    let requests = server.requests();
    let [(head, events)] = requests.as_slice() else { panic!("one request: {requests:?}") };
    assert!(head.starts_with("post /v1/orgs/acme/events http/1.1"), "{head}");
    assert!(head.contains("authorization: bearer tgk_test_secret"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(ids(events), sent);
    assert_eq!(sent[1], "mine");
    let second = json!({"service": "finance", "event": "invoice.paid", "id": "mine", "key": "k", "users": ["alice"], "data": {"n": 2}});
    assert_eq!(events[1], second);
}

#[tokio::test]
async fn a_broken_connection_and_504_are_tried_again_with_the_same_bytes() {
    let unknown = Act::Answer(504, "", problem(504, "unknown"));
    let busy = Act::Answer(503, "retry-after: 0\r\n", problem(503, "draining"));
    let server = Server::start([Act::Close, Act::CloseInTheMiddle, unknown, busy]).await;
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let publisher =
        server.publisher().on_warning(move |line| heard.lock().expect("warnings").push(line.to_owned()));
    let publisher = publisher.build().expect("a publisher");
    let outcome = publisher.publish(event(1)).await;
    assert!(matches!(outcome, Outcome::Stored(_)), "{outcome:?}");
    assert_eq!(outcome.attempts(), 5);
    let requests = server.requests();
    assert!(requests.iter().all(|(_, events)| *events == requests[0].1));
    let warnings = warnings.lock().expect("warnings");
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert!(!warnings.iter().any(|line| line.contains("secret")), "{warnings:?}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_and_what_breaks_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let closed = Publisher::builder(url, "k").org("acme").retry_for(Duration::from_millis(300)).build();
    let outcome = refused(closed.expect("a publisher").publish(event(1)).await);
    assert_eq!((outcome.code.as_str(), outcome.is_retryable), ("unreachable", true), "{outcome:?}");

    let server = Server::start((0..20).map(|_| Act::Close)).await;
    let publisher = server.publisher().retry_for(Duration::from_millis(300)).build().expect("a publisher");
    let outcome = publisher.publish(event(1).id("mine")).await;
    let Outcome::Unknown(unknown) = outcome else { panic!("{outcome:?}") };
    assert_eq!((unknown.id.as_str(), unknown.code.as_str()), ("mine", "unreachable"));
}

/// A file of spec/certificates.
fn pem(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/certificates");
    std::fs::read(format!("{directory}/{name}.pem")).expect("a file")
}

/// An https server with this certificate, that stores what it gets.
async fn secure(name: &str) -> String {
    use tokio_rustls::rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    let key = PrivateKeyDer::from_pem_slice(&pem("key")).expect("a key");
    let certificate = CertificateDer::from_pem_slice(&pem(name)).expect("a certificate");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.expect("a pair")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not accept the certificate ends the handshake.
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serve(stream, Arc::default(), Arc::default()));
            }
        }
    });
    format!("https://{address}")
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_final_and_says_what_to_do() {
    let trusting = |url: &str| {
        let ca = reqwest::Certificate::from_pem(&pem("ca")).expect("a certificate");
        Publisher::builder(url, "k").org("acme").root_certificates([ca])
    };
    for (name, says) in [
        ("expired", "has expired: renew it"),
        ("early", "is not valid yet: replace it"),
        ("other_name", "is for another name: give the name that it is for as the url"),
        ("untrusted", "comes from no CA that this process trusts"),
    ] {
        let url = secure(name).await;
        let outcome = refused(trusting(&url).build().expect("a publisher").publish(event(1)).await);
        assert_eq!(
            (outcome.code.as_str(), outcome.is_retryable, outcome.attempts),
            ("certificate", false, 1)
        );
        let whole = format!("the certificate of {url} {says}");
        assert!(outcome.detail.starts_with(&whole), "{outcome:?}");
    }
    let outcome = trusting(&secure("good").await).build().expect("a publisher").publish(event(1)).await;
    assert!(outcome.stored().is_some(), "{outcome:?}");

    // A gateway that speaks no TLS, although the url says so, may speak it later.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain = format!("https://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"HTTP/1.1 400 x\r\ncontent-length: 0\r\n\r\n").await.expect("it is sent");
        }
    });
    let publisher = trusting(&plain).retry_for(Duration::from_millis(300)).build().expect("a publisher");
    let outcome = refused(publisher.publish(event(1)).await);
    assert_eq!((outcome.code.as_str(), outcome.is_retryable), ("unreachable", true), "{outcome:?}");
    assert!(outcome.detail.contains(&format!("the TLS handshake with {plain} failed")), "{outcome:?}");
}

#[tokio::test]
async fn a_faulty_event_takes_no_other_down() {
    let errors = json!([{"pointer": "/1/service", "code": "format", "detail": "service must be ..."}]);
    let mut invalid = problem(422, "invalid");
    invalid["errors"] = errors;
    let server = Server::start([Act::Answer(422, "", invalid)]).await;
    let publisher = server.publisher().build().expect("a publisher");
    let receipts =
        [publisher.send(event(1)).await, publisher.send(event(2)).await, publisher.send(event(3)).await];
    let [first, second, third] = receipts;
    let second = refused(second.await);
    assert_eq!((second.pointer(), second.detail.as_str()), (Some("/service"), "service must be ..."));
    assert!(!second.is_retryable);
    let (first, third) = (first.await, third.await);
    assert!(first.stored().is_some() && third.stored().is_some());
    assert_eq!(ids(&server.requests()[1].1), [first.id(), third.id()]);
}

#[tokio::test]
async fn what_is_final_is_not_tried_again() {
    for (status, code) in [
        (400, "bad_request"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (415, "unsupported_media"),
    ] {
        let server = Server::start([Act::Answer(status, "", problem(status, code))]).await;
        let publisher = server.publisher().build().expect("a publisher");
        let outcome = refused(publisher.publish(event(1)).await);
        assert_eq!((outcome.code.as_str(), outcome.is_retryable, outcome.attempts), (code, false, 1));
        assert_eq!(server.requests().len(), 1);
    }
    let moved = Act::Answer(307, "location: https://elsewhere.example/\r\n", Value::Null);
    let server = Server::start([moved]).await;
    let outcome = refused(server.publisher().build().expect("a publisher").publish(event(1)).await);
    assert!(outcome.detail.contains("redirects to https://elsewhere.example/"), "{outcome:?}");
    let unfit = NewEvent::new("s", "e", std::collections::BTreeMap::from([((1, 2), 3)]));
    let outcome = refused(server.publisher().build().expect("a publisher").publish(unfit).await);
    assert_eq!(outcome.code, "not_an_event");
}

#[tokio::test]
async fn a_full_queue_pushes_back() {
    let release = Arc::new(Notify::new());
    let server = Server::start([Act::StoreAfter(Arc::clone(&release))]).await;
    let publisher = server.publisher().queue(2, 1 << 20).build().expect("a publisher");
    let receipts = [publisher.send(event(1)).await, publisher.send(event(2)).await];
    let Full(back) = publisher.try_send(event(3)).expect_err("it is full");
    let mut third = Box::pin(publisher.send(back));
    tokio::select! {
        biased;
        _ = &mut third => panic!("there is no room"),
        () = async { while server.requests().is_empty() { tokio::task::yield_now().await } } => {}
    }
    release.notify_one();
    for receipt in receipts {
        assert!(receipt.await.stored().is_some());
    }
    assert!(third.await.await.stored().is_some());
    assert!(publisher.try_send(event(4)).expect("room").await.stored().is_some());

    // In bytes, too; an event that is longer than all of it goes alone.
    let publisher = server.publisher().queue(1000, 300).build().expect("a publisher");
    let long = NewEvent::new("s", "e", "x".repeat(1000));
    assert!(publisher.publish(long).await.stored().is_some());
}

#[tokio::test]
async fn flush_and_close_wait_for_what_was_accepted() {
    let server = Server::start([]).await;
    let outcomes = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&outcomes);
    let publisher = server.publisher().delay(Duration::from_secs(100));
    let publisher =
        publisher.on_outcome(move |_| *seen.lock().expect("a count") += 1).build().expect("a publisher");
    drop(publisher.send(event(1)).await);
    publisher.flush().await;
    assert_eq!(*outcomes.lock().expect("a count"), 1);
    let last = publisher.send(event(2)).await;
    assert_eq!(publisher.clone().close(Duration::from_secs(60)).await, []);
    assert!(last.await.stored().is_some());
    let late = refused(publisher.publish(event(3)).await);
    assert_eq!((late.code.as_str(), late.is_retryable), ("closed", true));
    publisher.flush().await;
    assert_eq!(publisher.close(Duration::ZERO).await, []);
    assert_eq!(*outcomes.lock().expect("a count"), 2);
}

#[tokio::test]
async fn close_with_work_left_says_what_became_of_it() {
    let server = Server::start([Act::Hang]).await;
    let publisher = server.publisher().batch(1, 1000).queue(2, 1 << 20).build().expect("a publisher");
    let receipts = [publisher.send(event(1)).await, publisher.send(event(2)).await];
    let waiting = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish(event(3)).await }
    });
    while server.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    let left = publisher.close(Duration::from_millis(20)).await;
    assert!(matches!(left.as_slice(), [Outcome::Unknown(_), Outcome::Refused(_), ..]), "{left:?}");
    for (receipt, left) in receipts.into_iter().zip(&left) {
        assert_eq!(receipt.await, *left);
    }
    assert_eq!(refused(waiting.await.expect("its task")).code, "closed");
}

#[tokio::test]
async fn close_sends_also_what_waits_for_room() {
    let release = Arc::new(Notify::new());
    let server = Server::start([Act::StoreAfter(Arc::clone(&release))]).await;
    let publisher = server.publisher().queue(1, 1 << 20).build().expect("a publisher");
    let first = publisher.send(event(1)).await;
    let mut second = Box::pin(publisher.publish(event(2)));
    tokio::select! {
        biased;
        outcome = &mut second => panic!("there is no room: {outcome:?}"),
        () = std::future::ready(()) => {}
    }
    let mut closing = Box::pin(publisher.close(Duration::from_secs(60)));
    tokio::select! {
        biased;
        left = &mut closing => panic!("there is work left: {left:?}"),
        () = std::future::ready(()) => {}
    }
    release.notify_one();
    let (left, second) = tokio::join!(closing, second);
    assert_eq!(left, []);
    assert!(first.await.stored().is_some() && second.stored().is_some(), "{second:?}");
}

#[tokio::test]
async fn a_dropped_publisher_sends_what_it_has() {
    let server = Server::start([Act::Close]).await;
    let publisher = server.publisher().build().expect("a publisher");
    let receipt = publisher.send(event(1)).await;
    drop(publisher);
    assert!(receipt.await.stored().is_some());
}

#[tokio::test]
async fn wrong_settings_are_named() {
    let builder = |key: &str| Publisher::builder("http://127.0.0.1:1", key);
    for (builder, says) in [
        (Publisher::builder("127.0.0.1", "k"), "not the address of a gateway"),
        (builder(""), "the key must be an API key"),
        (builder("tgk_1\n"), "the key must be an API key"),
        (builder("k").org("a/b"), "org must be"),
        (builder("k").retry_for(Duration::from_millis(5)), "retry_for(..) must be longer"),
        (
            builder("k").retry_for(Duration::from_secs(270)),
            "retry_for(270s) and request_timeout(30s) together must be less than dedup_window(300s), or a retry \
             could store an event twice",
        ),
        (builder("k").request_timeout(Duration::from_secs(60)), "request_timeout(60s)"),
        (builder("k").dedup_window(Duration::from_secs(60)), "dedup_window(60s)"),
    ] {
        let error = builder.build().expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_longer_dedup_window_allows_longer_retries() {
    let builder = Publisher::builder("http://127.0.0.1:1", "k").retry_for(Duration::from_secs(3600));
    assert!(builder.dedup_window(Duration::from_secs(7200)).build().is_ok());
}

/// What docs/clients.md shows is what is compiled, and run against a gateway (`it`, `rust_publisher`).
#[test]
fn the_guide_shows_the_example() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path| std::fs::read_to_string(root.join(path)).expect("a file");
    let between = |text: String, start: &str, end: &str| {
        let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start:?} is not there"));
        rest.split_once(end).expect("an end").0.trim().to_owned()
    };
    let runs = between(read("examples/publish.rs"), "// example: publish\n", "// end\n");
    let marker = "<!-- example: crates/tidegate-client/examples/publish.rs -->\n```rust\n";
    assert_eq!(between(read("../../docs/clients.md"), marker, "```\n"), runs);
}
