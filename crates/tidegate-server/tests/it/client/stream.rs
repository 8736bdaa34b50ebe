//! What both transports have in common: frames, and how a client follows them.

use serde_json::Value;
use tidegate_core::client::{Heard, Reader, Received};

/// A stream of frames.
pub trait Frames {
    /// The next frame; `None` at the end.
    fn try_frame(&mut self) -> Option<String>;

    /// The name of the transport, for messages.
    fn transport(&self) -> &'static str;

    /// The next frame.
    fn frame(&mut self) -> Value {
        let text = self.try_frame().unwrap_or_else(|| panic!("{}: the stream ended", self.transport()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next frame, which must be of this type.
    fn next(&mut self, kind: &str) -> Value {
        let frame = self.frame();
        assert_eq!(frame["type"], kind, "{}: {frame}", self.transport());
        frame
    }

    /// Reads events, single or in batches, until there are `count`, following them by the rules of
    /// PROTOCOL.md from the place where `hello` or the last call left the client.
    fn events(&mut self, client: &mut Follower, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let text = self.try_frame().unwrap_or_else(|| panic!("ended after {}: {events:?}", events.len()));
            events.extend(client.hear(&text));
        }
        assert_eq!(events.len(), count, "more than asked for: {events:?}");
        events
    }
}

/// A client that follows a stream by R2 and panics at a hole.
#[derive(Default)]
pub struct Follower {
    reader: Reader,
    /// The gaps that it was told of: reason and the seq to go on from.
    pub gaps: Vec<(String, u64)>,
}

impl Follower {
    /// A client that holds this cursor.
    pub fn at(cursor: &str) -> Self {
        Self { reader: Reader::new(Some(cursor.parse().expect("a cursor"))), gaps: Vec::new() }
    }

    /// Takes a frame; the events that it brings.
    pub fn hear(&mut self, text: &str) -> Vec<Value> {
        let events = self.receive(text).into_iter();
        events.map(|event| serde_json::from_str(event.json.get()).expect("an event")).collect()
    }

    /// Takes a frame; the seqs of the events that it brings.
    pub fn hear_seqs(&mut self, text: &str) -> Vec<u64> {
        self.receive(text).into_iter().map(|event| event.seq).collect()
    }

    fn receive(&mut self, text: &str) -> Vec<Received> {
        match self.reader.hear(text).unwrap_or_else(|broken| panic!("{broken}: {text}")) {
            Heard::Events(events) => events,
            Heard::Gap(gap) => {
                let reason = gap.reason.map_or("?", |reason| reason.name()).to_owned();
                self.gaps.push((reason, gap.seq));
                Vec::new()
            }
            Heard::Hole { cursor, prev } => panic!("a hole from {cursor} to {prev}: {text}"),
            Heard::Error { .. } => panic!("the stream ends: {text}"),
            _ => Vec::new(),
        }
    }

    /// The seq of its cursor.
    pub fn seq(&self) -> u64 {
        self.reader.cursor().expect("a cursor").seq
    }
}
