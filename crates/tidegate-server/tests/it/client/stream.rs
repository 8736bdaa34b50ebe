//! The common part of both transports: frames, and how a client follows them.

use serde_json::Value;
use tidegate_protocol::client::{Outcome, StreamReader};

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

    /// Reads events, single or in batches, until there are `count`, and follows them by the rules of
    /// PROTOCOL.md from the cursor where `hello` or the last call left the client.
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
pub struct Follower {
    reader: StreamReader,
    /// The gaps that it got: reason and the seq after which the stream continues.
    pub gaps: Vec<(String, u64)>,
}

impl Default for Follower {
    fn default() -> Self {
        Self { reader: StreamReader::new(None), gaps: Vec::new() }
    }
}

impl Follower {
    /// A client with this cursor that has got the hello that begins there.
    pub fn at(cursor: &str) -> Self {
        let mut follower = Self::default();
        follower.hear(&format!(r#"{{"type":"hello","cursor":"{cursor}","head":0}}"#));
        follower
    }

    /// Takes a frame; returns its new events.
    pub fn hear(&mut self, text: &str) -> Vec<Value> {
        match self.reader.take(text) {
            Outcome::Events(events) => {
                events.into_iter().map(|event| serde_json::from_str(event.get()).expect("an event")).collect()
            }
            Outcome::Gap { seq, reason, .. } => {
                self.gaps.push((reason, seq));
                Vec::new()
            }
            Outcome::Hole => panic!("a hole: {text}"),
            Outcome::Broken(why) => panic!("{why}: {text}"),
            Outcome::Error { .. } => panic!("the stream ends: {text}"),
            Outcome::Nothing
            | Outcome::Hello { .. }
            | Outcome::Ping
            | Outcome::Status(_)
            | Outcome::Leave { .. } => Vec::new(),
        }
    }

    /// Takes a frame; returns the seqs of its new events.
    pub fn hear_seqs(&mut self, text: &str) -> Vec<u64> {
        self.hear(text).iter().map(|event| event["seq"].as_u64().expect("a seq")).collect()
    }

    /// The seq of its cursor.
    pub fn seq(&self) -> u64 {
        self.reader.cursor().expect("a cursor").seq
    }
}
