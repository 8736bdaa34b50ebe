//! The Rust client (`tidegate-client`) against a real gateway: what it promises while nothing is wrong. The
//! faults of the network are in `faults`, those of tokens in `tokens`.

// The example that docs/clients.md shows.
#[path = "../../../../tidegate-client/examples/follow.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod example;
mod faults;
mod proxy;
mod script;
mod tokens;

use std::{future::Future, net::SocketAddr, ops::RangeInclusive};

use serde_json::json;
use tidegate_client::{
    Builder, Certificate, Client, ConnectionState, Deliveries, Delivery, Event, Gap, Transport,
};

use crate::gateway::{DEADLINE, Gateway};

const BOTH: [Transport; 2] = [Transport::Ws, Transport::Sse];

/// Runs a test beside its client: the test may block.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("it hangs") })
}

/// A client of the gateway behind `address`. A test waits for its delays, so they are short.
fn client(gateway: &Gateway, address: SocketAddr) -> Builder {
    Client::builder(format!("http://{address}"))
        .org(&gateway.org)
        .static_token(gateway.token.as_str())
        .impatient(true)
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    deliveries.next().await.expect("the stream goes on").expect("it has not ended")
}

async fn next_gap(deliveries: &mut Deliveries) -> Gap {
    match next(deliveries).await {
        Delivery::Gap(gap) => gap,
        Delivery::Event(event) => panic!("{event:?} came before a gap"),
    }
}

/// The next events, whose data must be these numbers: each once, in order, and no gap.
async fn expect(deliveries: &mut Deliveries, numbers: RangeInclusive<u64>) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for number in numbers {
        match next(deliveries).await {
            Delivery::Event(event) => {
                assert_eq!(event.data::<u64>().expect("a number"), number, "{event:?}");
                assert!(
                    events
                        .last()
                        .is_none_or(|last| last.seq < event.seq && last.cursor.seq < event.cursor.seq)
                );
                events.push(event);
            }
            Delivery::Gap(gap) => panic!("{gap:?} came before {number}"),
        }
    }
    events
}

/// Publishes these numbers, in batches.
fn count(gateway: &Gateway, numbers: RangeInclusive<u64>) {
    let numbers: Vec<u64> = numbers.collect();
    for numbers in numbers.chunks(500) {
        let events: Vec<_> = numbers
            .iter()
            .map(|number| json!({"service": "numbers", "event": "counted", "data": number}))
            .collect();
        let answer = gateway.publish(&json!(events).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Waits until the client is connected.
async fn connected(client: &Client) {
    let mut status = client.status();
    status.wait_for(|status| status.state == ConnectionState::Connected).await.expect("it runs");
}

#[test]
fn events_come_once_and_in_order_and_know_whether_they_are_replay() {
    for transport in BOTH {
        let gateway = Gateway::start();
        count(&gateway, 1..=5);
        run(async {
            let builder = client(&gateway, gateway.public).transports([transport]).tail(3);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            for event in expect(&mut deliveries, 3..=5).await {
                assert!(event.replay && event.latency.is_none(), "{event:?}");
                assert_eq!((event.service.as_str(), event.event.as_str()), ("numbers", "counted"));
            }
            count(&gateway, 6..=600);
            let events = expect(&mut deliveries, 6..=600).await;
            assert!(events.iter().all(|event| !event.replay && event.latency.is_some()));
            assert_eq!(client.cursor().as_ref(), Some(&events[594].cursor));
            let metrics = client.metrics();
            assert_eq!((metrics.events_received, metrics.total_disconnects), (598, 0), "{metrics:?}");
            assert_eq!(metrics.event_latency_ms.len(), 100);
            assert_eq!(client.status().borrow().transport, transport);
            client.shutdown().await;
            assert!(deliveries.next().await.is_none(), "nothing is wrong, so no error");
            assert_eq!(client.closed().await, None);
            assert_eq!(client.metrics().connection_state, ConnectionState::Disconnected);
        });
        crate::gateway::eventually("the end of the stream", || {
            (gateway.metric("tidegate_connections{transport=\"ws\"}")
                + gateway.metric("tidegate_connections{transport=\"sse\"}")
                == 0.0)
                .then_some(())
        });
    }
}

#[test]
fn a_cursor_continues_after_what_was_taken_wherever_the_client_stopped() {
    let gateway = Gateway::start();
    count(&gateway, 1..=300);
    run(async {
        let mut cursor: tidegate_client::Cursor = "none-0".parse().expect("a cursor");
        let mut from = 1;
        for taken in [1, 37, 100, 99, 63] {
            // Of an unknown epoch, the log in its first incarnation follows whole, after a gap.
            let builder = client(&gateway, gateway.public).cursor(cursor.clone());
            let (client, mut deliveries) = builder.connect().expect("it starts");
            if from == 1 {
                assert_eq!(next_gap(&mut deliveries).await.reason, "epoch");
            }
            let events = expect(&mut deliveries, from..=from + taken - 1).await;
            from += taken;
            cursor = client.cursor().expect("it was open");
            assert_eq!(events.last().map(|event| &event.cursor), Some(&cursor));
            client.shutdown().await;
            // What had been received is still there, and moves the position.
            let mut rest = from;
            while let Some(delivery) = deliveries.next().await {
                let Ok(Delivery::Event(event)) = delivery else { panic!("{delivery:?}") };
                assert_eq!(event.data::<u64>().expect("a number"), rest);
                assert_eq!(client.cursor(), Some(event.cursor));
                rest += 1;
            }
        }
        assert_eq!(from, 301);
    });
}

#[test]
fn the_example_continues_where_it_stopped() {
    let gateway = Gateway::start();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("follow.cursor");
    let url = format!("http://{}", gateway.public);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("text").to_owned();
    std::fs::write(&file, start).expect("written");
    run(async {
        for round in 0..3 {
            count(&gateway, round * 10 + 1..=round * 10 + 10);
            let (tell, mut lines) = tokio::sync::mpsc::unbounded_channel();
            let print = move |line: String| tell.send(line).expect("the test runs");
            let follow = example::follow(&url, &gateway.org, gateway.token.clone(), &file, print);
            let read = async {
                for number in round * 10 + 1..=round * 10 + 10 {
                    assert_eq!(lines.recv().await, Some(format!("counted {number}")));
                }
            };
            tokio::select! {
                ended = follow => panic!("{ended:?}"),
                () = read => {}
            }
        }
    });
}

#[test]
fn gaps_are_delivered_in_their_place_with_a_position() {
    let gateway = Gateway::start();
    count(&gateway, 1..=3);
    for transport in BOTH {
        run(async {
            let client = |cursor: &str| {
                let cursor: tidegate_client::Cursor = cursor.parse().expect("a cursor");
                client(&gateway, gateway.public).transports([transport]).cursor(cursor)
            };
            let (first, mut deliveries) = client("elsewhere-7").connect().expect("it starts");
            let gap = next_gap(&mut deliveries).await;
            assert_eq!((gap.reason.as_str(), gap.prev, gap.seq), ("epoch", 7, 0));
            assert_eq!(first.cursor(), Some(gap.cursor.clone()));
            expect(&mut deliveries, 1..=3).await;
            // From there on it is not said again.
            let (_second, mut deliveries) = client(&gap.cursor.to_string()).connect().expect("it starts");
            expect(&mut deliveries, 1..=3).await;
            // Other services: what they had before is not shown.
            let narrow = client(&gap.cursor.to_string()).services(["others"]).connect();
            let (_third, mut deliveries) = narrow.expect("it starts");
            let gap = next_gap(&mut deliveries).await;
            assert_eq!((gap.reason.as_str(), gap.services), ("filter", Some(vec!["others".to_owned()])));
            assert_eq!(first.metrics().gaps, 1);
        });
    }
}

#[test]
fn dropping_the_deliveries_ends_the_client() {
    let gateway = Gateway::start();
    run(async {
        let (client, deliveries) = client(&gateway, gateway.public).connect().expect("it starts");
        connected(&client).await;
        drop(deliveries);
        assert_eq!(client.closed().await, None);
        client.shutdown().await; // of what has ended: returns at once
    });
}

#[test]
fn what_is_final_ends_the_stream_with_an_error_once() {
    let gateway = Gateway::start();
    for (transport, org, token, code) in [
        (Transport::Ws, "other", gateway.token.as_str(), "forbidden"),
        (Transport::Sse, "other", &gateway.token, "forbidden"),
        (Transport::Ws, &gateway.org, "none", "unauthorized"),
        (Transport::Sse, &gateway.org, "none", "unauthorized"),
    ] {
        run(async {
            let builder =
                client(&gateway, gateway.public).transports([transport]).org(org).static_token(token);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            let ended = deliveries.next().await.expect("an item").expect_err("it is refused");
            assert_eq!(ended.code, code);
            assert!(ended.to_string().starts_with(code) && ended.message.contains(' '), "{ended}");
            assert!(deliveries.next().await.is_none(), "an error comes once");
            assert_eq!(client.closed().await, Some(ended));
            assert!(client.status().borrow().error.as_ref().expect("an error").is_final);
        });
    }
    // An address that is no gateway's.
    run(async {
        let builder = client(&gateway, gateway.admin).transports([Transport::Sse]);
        let (_client, mut deliveries) = builder.connect().expect("it starts");
        let ended = deliveries.next().await.expect("an item").expect_err("it is refused");
        assert_eq!(ended.code, "not_found");
    });
}

#[test]
fn both_transports_speak_tls_with_a_certificate_that_is_trusted() {
    const PEM: &[u8] = include_bytes!("../../keys/localhost.pem");
    let gateway = Gateway::start();
    count(&gateway, 1..=2);
    run(async {
        let address = tls_in_front_of(gateway.public, PEM).await;
        let client = |scheme: &str, transport| {
            let url = format!("{scheme}://localhost:{}", address.port());
            let builder = Client::builder(url).org(&gateway.org).static_token(gateway.token.as_str());
            builder.transports([transport]).tail(2)
        };
        for (scheme, transport) in
            [("wss", Transport::Ws), ("https", Transport::Sse), ("https", Transport::Ws)]
        {
            let trusted = Certificate::from_pem(PEM).expect("a certificate");
            let builder = client(scheme, transport).root_certificates([trusted]);
            let (_client, mut deliveries) = builder.connect().expect("it starts");
            expect(&mut deliveries, 1..=2).await;
        }
        for transport in BOTH {
            let (client, _deliveries) = client("https", transport).connect().expect("it starts");
            let mut status = client.status();
            let status = status.wait_for(|status| status.error.is_some()).await.expect("it runs").clone();
            let error = status.error.expect("an error");
            let said = error.to_string();
            assert!(said.contains("cannot reach the gateway: invalid peer certificate"), "{said}");
        }
    });
}

/// Takes TLS off in front of `upstream`; `pem` has the key and the certificate.
async fn tls_in_front_of(upstream: SocketAddr, pem: &[u8]) -> SocketAddr {
    use tokio_rustls::rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    let key = PrivateKeyDer::from_pem_slice(pem).expect("a key");
    let certificate = CertificateDer::from_pem_slice(pem).expect("a certificate");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config.expect("a pair")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut gateway = tokio::net::TcpStream::connect(upstream).await.expect("a gateway");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
            });
        }
    });
    address
}
