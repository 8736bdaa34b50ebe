//! A client that compares every frame with the log: each must have exactly what the reader may see in
//! (prev, seq], and follow on the frame before. So nothing is missing and nothing comes twice from its start
//! to its position.
//!
//! It does not share `tidegate_protocol::client::StreamReader`, on purpose. That one accepts whatever a client
//! may accept: it drops frames that it has seen, resumes after holes, and reads gaps of any reason. This one
//! fails on them, because a gateway must not send them here, and a fault in the shared reader cannot hide a
//! fault of the gateway. `tests/model.rs` is the test that drives `StreamReader`.

use std::sync::Arc;

use serde_json::Value;
use tidegate_core::Event;
use tidegate_protocol::{Filter, Seq, UserId};

use super::decode::{Decoder, Read};

/// The service whose events are never compressed.
pub const EXCLUDED: &str = "x";

pub struct Client {
    decoder: Decoder,
    user: UserId,
    /// The services of the last hello; `asked` has those that were requested since, in order.
    filter: Filter,
    asked: Vec<Filter>,
    /// Its cursor.
    at: Seq,
    is_greeted: bool,
    /// The last event that a client without any logic has seen (R5).
    last_seen: Seq,
    /// The bytes on their way to it.
    wire: Vec<u8>,
    /// How many events it has received.
    pub events: u64,
    /// The kinds of frames that it met, for the coverage.
    pub met: Vec<&'static str>,
}

impl Client {
    pub fn new(decoder: Decoder, user: UserId, filter: Filter) -> Self {
        Self {
            decoder,
            user,
            filter: filter.clone(),
            asked: vec![filter],
            at: 0,
            is_greeted: false,
            last_seen: 0,
            wire: Vec::new(),
            events: 0,
            met: Vec::new(),
        }
    }

    pub fn at(&self) -> Seq {
        self.at
    }

    /// The services that its cursor accounts for.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// It has asked for other services.
    pub fn ask(&mut self, filter: Filter) {
        self.asked.push(filter);
    }

    /// Bytes are on their way.
    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.extend_from_slice(bytes);
    }

    /// Bytes arrive, in pieces of the lengths of `cuts`. A rest shorter than the next piece stays on its way,
    /// unless `is_all`.
    pub fn arrive(&mut self, log: &[Arc<Event>], cuts: &mut impl Iterator<Item = usize>, is_all: bool) {
        let wire = std::mem::take(&mut self.wire);
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let cut = cuts.next().unwrap_or(1).max(1);
            if cut > rest.len() && !is_all {
                break;
            }
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            for frame in self.decoder.feed(piece) {
                self.take(log, &frame);
            }
        }
        self.wire = rest.to_vec();
    }

    /// The stream has ended cleanly.
    pub fn finish(self) {
        self.decoder.finish();
    }

    fn take(&mut self, log: &[Arc<Event>], read: &Read) {
        let text = &read.text;
        let frame: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        let number = |name: &str| frame[name].as_u64().unwrap_or_else(|| panic!("{name} of {text}"));
        let kind = frame["type"].as_str().expect("a type");
        assert!(!text.contains("\"users\""), "R8: {text}");
        let is_data = matches!(kind, "event" | "batch");
        assert!(is_data || !read.is_deflated, "R19: a private frame is compressed: {text}");
        match kind {
            "hello" => {
                let cursor = frame["cursor"].as_str().expect("a cursor");
                let seq: Seq = cursor.split('-').nth(1).expect("a seq").parse().expect("a number");
                if self.is_greeted {
                    assert_eq!(seq, self.at, "R6: hello is at the position reached");
                }
                (self.at, self.is_greeted) = (seq, true);
                self.last_seen = self.last_seen.max(seq);
                self.filter = self.asked.remove(0);
                assert_eq!(frame["filter"].as_str(), Some(self.filter.tag().as_str()), "R6: {text}");
            }
            "event" | "batch" => self.take_events(log, read, &frame),
            "ping" => {
                let (prev, seq) = (number("prev"), number("seq"));
                assert!(prev <= self.at && self.at <= seq, "R1: ({prev}, {seq}] at {}: {text}", self.at);
                assert!(self.visible(log, prev, seq).is_empty(), "R1: hides something: {text}");
                self.at = seq;
                self.met.push("ping");
            }
            "gap" => {
                let (prev, seq) = (number("prev"), number("seq"));
                assert_eq!(prev, self.at, "{text}");
                match frame["reason"].as_str() {
                    Some("slow_consumer") => {
                        assert!(!self.visible(log, prev, seq).is_empty(), "R16: nothing is skipped: {text}");
                        self.met.push("skip");
                    }
                    Some("filter") => assert_eq!(seq, prev, "R4: {text}"),
                    other => panic!("a gap for {other:?}: {text}"),
                }
                self.at = seq;
                self.last_seen = self.last_seen.max(seq);
            }
            "status" | "error" => {}
            other => panic!("a frame of type {other}"),
        }
        if let Some(id) = read.id.as_deref().filter(|_| kind != "hello") {
            let seq = id.split('-').nth(1).and_then(|seq| seq.parse().ok());
            assert_eq!(seq, Some(self.at), "the id of {text}");
        }
    }

    /// The events that it may see in (`prev`, `seq`].
    fn visible<'a>(&self, log: &'a [Arc<Event>], prev: Seq, seq: Seq) -> Vec<&'a Event> {
        let first = log.partition_point(|event| event.seq <= prev);
        let seen = log[first..].iter().take_while(|event| event.seq <= seq);
        seen.map(|event| &**event)
            .filter(|event| self.filter.admits(&event.service) && event.is_for(&self.user))
            .collect()
    }

    fn take_events(&mut self, log: &[Arc<Event>], read: &Read, frame: &Value) {
        let text = &read.text;
        let (prev, seq) = (frame["prev"].as_u64().expect("prev"), frame["seq"].as_u64().expect("seq"));
        assert!(prev <= self.at && self.at < seq, "R1: ({prev}, {seq}] at {}: {text}", self.at);
        let shown: Vec<Seq> = match frame["events"].as_array() {
            Some(events) => events.iter().map(|event| event["seq"].as_u64().expect("a seq")).collect(),
            None => vec![seq],
        };
        let expected = self.visible(log, prev, seq);
        let omitted: Vec<&Event> =
            expected.iter().filter(|event| !shown.contains(&event.seq)).copied().collect();
        let reported = frame["omitted"].as_u64().unwrap_or_default();
        assert_eq!(
            omitted.len() as u64,
            reported,
            "R1, R17: of {:?} {shown:?} is shown: {text}",
            seqs(&expected)
        );
        assert_eq!(shown.len() + omitted.len(), expected.len(), "R1: {:?}: {text}", seqs(&expected));
        assert!(shown.is_sorted(), "{text}");
        if reported > 0 {
            assert_eq!(frame["reason"].as_str(), Some("conflated"), "R17: {text}");
            self.met.push("omitted");
        }
        for old in omitted {
            let key = old.key();
            let is_old = expected
                .iter()
                .any(|later| later.seq > old.seq && later.service == old.service && later.key() == key);
            assert!(key.is_some() && is_old, "R17: {} is left out of {text}", old.seq);
        }
        for event in expected.iter().filter(|event| shown.contains(&event.seq)) {
            let fragment = std::str::from_utf8(&event.fragment).expect("UTF-8");
            assert!(text.contains(fragment), "{fragment} is not in {text}");
            assert!(event.seq > self.last_seen, "R5: {} comes twice: {text}", event.seq);
            if read.is_deflated {
                assert_ne!(event.service.as_str(), EXCLUDED, "an excluded service is compressed: {text}");
                assert!(event.users.is_none(), "a targeted event is compressed: {text}");
            }
            self.last_seen = event.seq;
            self.events += 1;
        }
        self.met.push(if read.is_deflated { "deflated" } else { "plain" });
        self.at = seq;
    }
}

fn seqs(events: &[&Event]) -> Vec<Seq> {
    events.iter().map(|event| event.seq).collect()
}
