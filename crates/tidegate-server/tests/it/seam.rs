//! The seam between replay and live: a thousand connections resume from different cursors while events are
//! published, and each counts them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    client::{
        stream::{Follower, Frames},
        ws::{Message, Ws, masked},
    },
    gateway::Gateway,
    held_node::HeldNode,
};

const CONNECTIONS: usize = 1000;
const HISTORY: usize = 400;
const LIVE: usize = 400;
const PUBLISHERS: usize = 2;

fn batch(count: usize) -> String {
    let event = r#"{"service":"s","event":"e","data":{"some":"thing of a usual size, as events are"}}"#;
    format!("[{}]", vec![event; count].join(","))
}

#[test]
fn a_thousand_connections_resume_under_load_without_hole_repeat_or_disorder() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("descriptors");
    let gateway = Gateway::with(&[
        "limits.connections_per_user=2000",
        "limits.connections_per_address=2000",
        "limits.waiting_sockets_per_address=2000",
        "limits.handshakes_per_second=100000",
        // A short tail: most readers begin in the log and reach the tail on their way.
        "tail.org_max_bytes=4MiB",
    ]);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    for _ in 0..HISTORY / 50 {
        assert_eq!(gateway.publish(&batch(50)).status, 200);
    }
    // Empties the tail, so that all of the history comes from the log.
    let gateway = gateway.killed_and_started_again();
    let last = (HISTORY + LIVE) as u64;
    let open = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (gateway, open) = (&gateway, &open);
            scope.spawn(move || {
                // Spread over the time in which the connections come: the next batch is published when more
                // of them are there.
                for round in 0..LIVE / PUBLISHERS / 4 {
                    let wanted = CONNECTIONS as u64 * round as u64 / (LIVE / PUBLISHERS / 4) as u64;
                    crate::gateway::eventually("more connections", || {
                        (open.load(Ordering::Relaxed) >= wanted).then_some(())
                    });
                    assert_eq!(gateway.publish(&batch(4)).status, 200, "publisher {publisher}");
                }
            });
        }
        for thread in 0..8 {
            let (gateway, start, open) = (&gateway, &start, &open);
            scope.spawn(move || {
                let mut streams = Vec::new();
                for index in (thread..CONNECTIONS).step_by(8) {
                    let from = (index * 7) % (HISTORY + 1);
                    let cursor = start.replacen("-0-", &format!("-{from}-"), 1);
                    let query = format!("?cursor={cursor}");
                    let mut stream: Box<dyn Frames> = if index % 4 == 0 {
                        Box::new(gateway.sse(&query))
                    } else {
                        Box::new(gateway.ws(&query))
                    };
                    let mut client = Follower::at(&cursor);
                    client.hear(&stream.try_frame().expect("hello"));
                    open.fetch_add(1, Ordering::Relaxed);
                    streams.push((stream, client, from as u64));
                }
                for (mut stream, mut client, from) in streams {
                    let mut next = from + 1;
                    while next <= last {
                        let text = stream.try_frame().expect("a frame");
                        for seq in client.hear_seqs(&text) {
                            assert_eq!(seq, next, "from {from} over {}", stream.transport());
                            next += 1;
                        }
                    }
                    assert!(client.gaps.is_empty(), "from {from}: {:?}", client.gaps);
                    assert_eq!(client.seq(), last);
                }
            });
        }
    });
}

/// Pings until the reader's task has surely run: then it is live.
fn settle(stream: &mut Ws) {
    for _ in 0..16 {
        stream.send_raw(&masked(0x89, b"?"));
        assert_eq!(stream.message(), Message::Pong(b"?".to_vec()));
    }
}

#[test]
fn a_reader_that_comes_between_commit_and_tail_gets_the_event_with_the_next_round() {
    let node = HeldNode::start();
    node.let_answer();
    let mut opener = node.ws("");
    let hello = opener.next("hello");
    let start = hello["cursor"].as_str().expect("a cursor").to_owned();
    drop(opener);
    let said = node.publishing().body(r#"{"service":"s","event":"e","data":1}"#).send();
    assert_eq!(said.status, 200, "committed, and not yet in the tail: {said:?}");
    // One cursor is ahead of the tail, at the log's head; then a reader comes whose cursor is at the tail's.
    let mut ahead = node.ws("");
    assert!(ahead.next("hello")["cursor"].as_str().expect("a cursor").contains("-1-"));
    settle(&mut ahead);
    let mut behind = node.ws(&format!("?cursor={start}"));
    assert_eq!(behind.next("hello")["resumed"], true);
    settle(&mut behind);
    node.let_feed();
    assert_eq!(behind.next("event")["seq"], 1);
    assert_eq!(node.publishing().body(r#"{"service":"s","event":"e","data":2}"#).send().status, 200);
    for stream in [&mut ahead, &mut behind] {
        assert_eq!(stream.next("event")["seq"], 2);
    }
}
