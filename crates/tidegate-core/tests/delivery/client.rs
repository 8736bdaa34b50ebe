//! A client, and the oracle: every frame that it reads is held against the log. As each frame has exactly
//! what the reader may see in (prev, seq], and follows on the frame before, nothing is missing and nothing
//! comes twice from where it began to where it stands.

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
    /// By the last hello; what is asked for next stands in `asked`, in order.
    filter: Filter,
    asked: Vec<Filter>,
    /// Its cursor.
    at: Seq,
    is_greeted: bool,
    /// The last event seen by a client without any logic (R5).
    last_seen: Seq,
    /// On the way to it.
    wire: Vec<u8>,
    /// How many events it has had.
    pub events: u64,
    /// Frames of a kind, for the account of what was met.
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

    /// Bytes arrive, in pieces as `cuts` says; what is less than the next piece stays under way, but in the
    /// end.
    pub fn arrive(&mut self, log: &[Arc<Event>], cuts: &mut impl Iterator<Item = usize>, is_all: bool) {
        let wire = std::mem::take(&mut self.wire);
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let cut = cuts.next().unwrap_or(1).max(1);
            if cut > rest.len() && !is_all {
                break;
            }
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            rest = behind;
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
                    assert_eq!(seq, self.at, "R6: hello stands at the place reached");
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
            let place = id.split('-').nth(1).and_then(|seq| seq.parse().ok());
            assert_eq!(place, Some(self.at), "the id of {text}");
        }
    }

    /// All that it may see in (`prev`, `seq`].
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
        let told = frame["omitted"].as_u64().unwrap_or_default();
        assert_eq!(
            omitted.len() as u64,
            told,
            "R1, R17: of {:?} {shown:?} is shown: {text}",
            seqs(&expected)
        );
        assert_eq!(shown.len() + omitted.len(), expected.len(), "R1: {:?}: {text}", seqs(&expected));
        assert!(shown.is_sorted(), "{text}");
        if told > 0 {
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
