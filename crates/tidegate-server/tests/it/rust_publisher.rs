//! The publisher of the Rust client (`tidegate_client::publisher`) against a real gateway, which is killed under
//! load. Its faults one by one are in that crate's own tests.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_client::publisher::{NewEvent, Outcome, Publisher};
use tokio::net::{TcpListener, TcpStream};

use crate::gateway::{DEADLINE, Gateway};

// The example that docs/clients.md shows.
#[path = "../../../tidegate-client/examples/publish.rs"]
#[expect(dead_code, reason = "its main is not called")]
mod example;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("it hangs") })
}

fn event(service: &str, number: u32) -> NewEvent {
    NewEvent::new(service, "counted", number)
}

fn refusal(outcome: &Outcome) -> (String, Option<String>) {
    match outcome {
        Outcome::Refused(refused) => (refused.code.clone(), refused.pointer().map(str::to_owned)),
        other => (format!("{other:?}"), None),
    }
}

/// All events of the log.
fn history(gateway: &Gateway) -> Vec<Value> {
    let mut events = Vec::new();
    let mut after = String::new();
    loop {
        let page = gateway.getting(&format!("events?limit=1000{after}")).send().json();
        assert_eq!(page["gap"], Value::Null);
        events.extend(page["events"].as_array().expect("events").iter().cloned());
        if page["has_more"] != true {
            return events;
        }
        after = format!("&after={}", page["cursor"].as_str().expect("a cursor"));
    }
}

#[test]
fn each_event_of_a_batch_gets_its_own_outcome() {
    let gateway = Gateway::start();
    let url = format!("http://{}", gateway.public);
    run(async {
        let publisher =
            Publisher::builder(&url, &gateway.key).org(&gateway.org).build().expect("a publisher");
        let first = publisher.publish(event("finance", 1).id("taken")).await;
        let first = first.stored().expect("it is stored").clone();
        let events = [
            event("finance", 1).id("taken"),
            event("finance", 2).id("taken"),
            event(".hidden", 3),
            event("finance", 4).org("other"),
            event("finance", 5).time("yesterday").users(["alice", ""]),
            event("finance", 6),
        ];
        let mut receipts = Vec::new();
        for event in events {
            receipts.push(publisher.send(event).await);
        }
        let mut outcomes = Vec::new();
        for receipt in receipts {
            outcomes.push(receipt.await);
        }
        let Outcome::Duplicate(again) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!((again.seq, &again.id), (first.seq, &first.id));
        let told: Vec<_> = outcomes[1..5].iter().map(refusal).collect();
        let said = |code: &str, pointer: Option<&str>| (code.to_owned(), pointer.map(str::to_owned));
        assert_eq!(told[0], said("id_conflict", None));
        assert_eq!(told[1], said("invalid", Some("/service")));
        assert_eq!(told[2], said("invalid", Some("/org")));
        let Outcome::Refused(two) = &outcomes[4] else { panic!("{outcomes:?}") };
        let mut pointers: Vec<_> = two.errors.iter().map(|error| error.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, ["/time", "/users/1"]);
        let last = outcomes[5].stored().expect("it is stored");
        let after = gateway.getting(&format!("events?after={}", first.cursor)).send().json();
        let ids: Vec<_> =
            after["events"].as_array().expect("events").iter().map(|event| &event["id"]).collect();
        assert_eq!(ids, [&json!(last.id)], "the cursor is a place to start");
        assert_eq!(publisher.close(Duration::from_secs(10)).await, []);
    });
}

#[test]
fn events_of_several_orgs_share_a_request_and_fail_alone() {
    let gateway = Gateway::start();
    let key = gateway.key_for("a,b", "finance");
    let url = format!("http://{}", gateway.public);
    run(async {
        let publisher = Publisher::builder(&url, &key).build().expect("a publisher");
        let events = [
            event("finance", 1).org("a").id("x"),
            event("finance", 2).org("b"),
            event("finance", 3).org("c"),
            event("staff", 4).org("a"),
            event("finance", 5),
            event("finance", 6).org("a").id("x"),
            event("finance", 7).org("b"),
        ];
        let mut receipts = Vec::new();
        for event in events {
            receipts.push(publisher.send(event).await);
        }
        let mut codes = Vec::new();
        for receipt in receipts {
            let outcome = receipt.await;
            codes.push(if outcome.stored().is_some() { "stored".to_owned() } else { refusal(&outcome).0 });
        }
        assert_eq!(codes, ["stored", "stored", "forbidden", "forbidden", "invalid", "id_conflict", "stored"]);
    });
}

/// Leads connections to the gateway that runs now: each start has another port.
async fn relay(upstream: Arc<Mutex<SocketAddr>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let upstream = *upstream.lock().expect("an address");
            tokio::spawn(async move {
                let mut server = TcpStream::connect(upstream).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

#[test]
fn a_gateway_that_is_killed_under_load_stores_each_event_once_and_in_order() {
    let mut gateway = Gateway::start();
    let upstream = Arc::new(Mutex::new(gateway.public));
    let (key, org) = (gateway.key.clone(), gateway.org.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let address = runtime.block_on(relay(Arc::clone(&upstream)));
    let publisher = runtime.block_on(async {
        let builder = Publisher::builder(format!("http://{address}"), key).org(org);
        builder.batch(50, 1 << 20).queue(300, 1 << 20).build().expect("a publisher")
    });
    let sent = Arc::new(Mutex::new(Vec::new()));
    let load = runtime.spawn({
        let (publisher, sent) = (publisher.clone(), Arc::clone(&sent));
        async move {
            for number in 0..6000 {
                let receipt = publisher.send(event(["a", "b", "c"][number as usize % 3], number)).await;
                sent.lock().expect("receipts").push(receipt);
            }
        }
    });
    for kill in 1..=3 {
        crate::gateway::eventually("load", || {
            (sent.lock().expect("receipts").len() > kill * 1500).then_some(())
        });
        gateway = gateway.killed_and_started_again();
        *upstream.lock().expect("an address") = gateway.public;
    }
    let outcomes = runtime.block_on(async {
        load.await.expect("the load");
        assert_eq!(publisher.close(DEADLINE).await, []);
        let receipts = std::mem::take(&mut *sent.lock().expect("receipts"));
        let mut outcomes = Vec::new();
        for receipt in receipts {
            outcomes.push(receipt.await);
        }
        outcomes
    });
    let log = history(&gateway);
    assert_eq!((outcomes.len(), log.len()), (6000, 6000));
    let places: BTreeMap<&str, &Value> =
        log.iter().map(|event| (event["id"].as_str().expect("an id"), event)).collect();
    for (number, outcome) in outcomes.iter().enumerate() {
        let stored = outcome.stored().unwrap_or_else(|| panic!("{outcome:?}"));
        let event = places[stored.id.as_str()];
        assert_eq!((&event["seq"], &event["data"]), (&json!(stored.seq), &json!(number)));
    }
    for service in ["a", "b", "c"] {
        let numbers: Vec<_> = log
            .iter()
            .filter(|event| event["service"] == service)
            .map(|event| event["data"].as_u64())
            .collect();
        assert!(numbers.is_sorted(), "an event of {service} was overtaken");
    }
    assert!(outcomes.iter().any(|outcome| outcome.attempts() > 1), "the kills hit requests");
}

#[test]
fn the_example_of_the_guide_runs() {
    let gateway = Gateway::start();
    let url = format!("http://{}", gateway.public);
    let mut lines = Vec::new();
    run(async {
        for _ in 0..2 {
            let published = example::publish(&url, &gateway.org, &gateway.key, |line| lines.push(line)).await;
            published.expect("it publishes");
        }
    });
    let expected = [
        "inv-70 is stored at 1",
        "inv-71 is stored at 2",
        "inv-70 was stored before, at 1",
        "inv-71 was stored before, at 2",
    ];
    assert_eq!(lines, expected);
}
