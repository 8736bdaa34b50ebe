//! Fan-out passes over real sockets: what seals a batch, and what does not.

use serde_json::json;

use crate::{
    client::stream::{Follower, Frames},
    gateway::Gateway,
};

/// Long enough for everything that a test does within one window, even on a busy machine.
const FIXED: [&str; 3] = ["batch.mode=fixed", "batch.window=4s", "node.workers=1"];

fn seqs(frame: &serde_json::Value) -> Vec<u64> {
    let events = frame["events"].as_array().unwrap_or_else(|| panic!("no batch: {frame}"));
    events.iter().map(|event| event["seq"].as_u64().expect("a seq")).collect()
}

#[test]
fn r15_readers_that_come_level_take_no_round_apart() {
    let gateway = Gateway::with(&FIXED);
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let mut first = gateway.ws("");
    first.next("hello");
    let mut later = Vec::new();
    for seq in 1..=3 {
        assert_eq!(gateway.say("s", "0"), seq);
        // One reader at the head, where no batch ends, and one that is owed events that no pass has taken
        // yet.
        let mut streams = [gateway.ws(""), gateway.ws(&format!("?cursor={start}"))];
        streams.iter_mut().for_each(|stream| assert_eq!(stream.next("hello")["head"], json!(seq)));
        later.push((seq, streams));
    }
    let batch = first.next("batch");
    assert_eq!((&batch["prev"], seqs(&batch)), (&json!(0), vec![1, 2, 3]), "sealed before its time");
    for (joined, [mut fresh, mut resumed]) in later {
        assert_eq!(seqs(&resumed.next("batch")), [1, 2, 3]);
        // Its first event is inside the batch: it gets a frame of its own, cut there (R5).
        if joined < 3 {
            let frame = fresh.frame();
            assert_eq!(frame["prev"], json!(joined), "{frame}");
        }
    }
    let mut client = Follower::at(&start);
    assert_eq!(gateway.say("s", "1"), 4);
    let mut last = gateway.ws(&format!("?cursor={start}"));
    last.next("hello");
    assert_eq!(last.events(&mut client, 4).len(), 4, "those sealed at once, the open one with its round");
}

#[test]
fn r15_size_seals_and_no_round_starts_before_its_time() {
    let gateway = Gateway::with(&[&FIXED[..], &["batch.max_events=2"]].concat());
    let mut stream = gateway.ws("");
    stream.next("hello");
    (1..=5).for_each(|seq| assert_eq!(gateway.say("s", "0"), seq));
    // All in one pass; the full batches were sealed by size.
    assert_eq!(seqs(&stream.next("batch")), [1, 2]);
    assert_eq!(seqs(&stream.next("batch")), [3, 4]);
    assert_eq!(stream.next("event")["seq"], json!(5));
}
