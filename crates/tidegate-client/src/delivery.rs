//! What the application gets: events, declared gaps, and the end of the stream.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tidegate_protocol::{Code, Cursor, Epoch, Seq};

/// One item of the stream.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// An event that was not seen before. Events come in the order of their seqs.
    Event(Event),
    /// Events that will not come, and why.
    Gap(Gap),
}

impl Delivery {
    /// The position to keep once this item has been handled.
    pub fn cursor(&self) -> &Cursor {
        match self {
            Delivery::Event(event) => &event.cursor,
            Delivery::Gap(gap) => &gap.cursor,
        }
    }
}

/// An event (PROTOCOL.md, "Frames").
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// Its position in the org's log.
    pub seq: Seq,
    /// The service that it belongs to.
    pub service: String,
    /// What happened, such as `invoice.paid`.
    pub event: String,
    /// Identifies it to its publisher.
    pub id: String,
    /// What it is about.
    pub key: Option<String>,
    /// The source of a CloudEvent.
    pub source: Option<String>,
    /// The subject of a CloudEvent.
    pub subject: Option<String>,
    /// When the gateway accepted it (RFC 3339).
    pub timestamp: String,
    /// When it happened, if the publisher said so (RFC 3339).
    pub time: Option<String>,
    /// Whether only some users see it.
    pub targeted: bool,
    /// Whether it was in the log before this connection was open.
    pub replay: bool,
    /// The time from the gateway's acceptance to here, corrected for the difference of the clocks; `None` for a
    /// replay, and before the difference is known.
    pub latency: Option<Duration>,
    /// The position to keep once this event has been handled: a stream that starts there continues after it.
    pub cursor: Cursor,
    json: Box<RawValue>,
    data: Range<usize>,
}

/// The fields as they stand in JSON. Each may be of any type, so that a faulty one costs itself alone.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
    #[serde(borrow)]
    service: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    subject: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    targeted: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn read<T: DeserializeOwned>(field: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(field?.get()).ok()
}

impl Event {
    /// The event in `json`. `cursor` is a position at or after it.
    pub(crate) fn new(json: Box<RawValue>, replay: bool, latency: Option<Duration>, cursor: Cursor) -> Self {
        let text = json.get();
        let fields: Fields<'_> = serde_json::from_str(text).unwrap_or_default();
        let data = fields.data.map_or(0..0, |data| {
            // `data` is borrowed from `text`.
            let start = data.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + data.get().len()
        });
        Self {
            seq: read(fields.seq).unwrap_or(cursor.seq),
            service: read(fields.service).unwrap_or_default(),
            event: read(fields.event).unwrap_or_default(),
            id: read(fields.id).unwrap_or_default(),
            key: read(fields.key),
            source: read(fields.source),
            subject: read(fields.subject),
            timestamp: read(fields.timestamp).unwrap_or_default(),
            time: read(fields.time),
            targeted: read(fields.targeted).unwrap_or_default(),
            replay,
            latency,
            cursor,
            data,
            json,
        }
    }

    /// Its data as a type of yours.
    ///
    /// # Errors
    /// If the data is not of that type.
    pub fn data<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.data_json())
    }

    /// Its data as JSON, token for token as it was published: long numbers keep their digits.
    pub fn data_json(&self) -> &str {
        match self.json.get().get(self.data.clone()) {
            Some(data) if !data.is_empty() => data,
            _ => "null",
        }
    }

    /// The whole event as it came: an entry of a batch, or the `event` frame.
    pub fn json(&self) -> &RawValue {
        &self.json
    }
}

/// Events after `prev` up to `seq` will not come (PROTOCOL.md, "Gaps"). Load what your application shows anew
/// if it cannot do without them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Gap {
    /// All events up to here were delivered.
    pub prev: Seq,
    /// The stream continues after this; with reason `epoch` it may be lower than `prev`.
    pub seq: Seq,
    /// The epoch of `seq`.
    pub epoch: Epoch,
    /// The name of a [`tidegate_protocol::GapReason`].
    pub reason: String,
    /// With reason `filter`: the services that are shown from here on.
    pub services: Option<Vec<String>>,
    /// The position to keep once the gap has been handled.
    pub cursor: Cursor,
}

/// The stream has ended for good: another attempt would not help.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The gateway's code (PROTOCOL.md, "Codes"), or one of this client's own: `auth` (no token that is good),
    /// `refused` (an HTTP status or close code without a code of the gateway), `aborted` (the runtime has ended).
    pub code: String,
    /// One sentence for people. It may hold the gateway's text, control characters included.
    pub message: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&sentence(&self.code, &self.message))
    }
}

impl std::error::Error for Ended {}

/// `<code>: <message>` for the gateway's codes; the message of this client's own says everything.
pub(crate) fn sentence(code: &str, message: &str) -> String {
    match (Code::from_name(code), message) {
        (_, "") => code.to_owned(),
        (Some(_), message) => format!("{code}: {message}"),
        (None, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Event {
        let cursor = "e-9-t".parse().expect("a cursor");
        Event::new(serde_json::from_str(json).expect("JSON"), false, None, cursor)
    }

    #[test]
    fn data_keeps_its_digits_and_becomes_a_type() {
        let one = event(
            r#"{"seq":7,"service":"s","event":"e","id":"i","data": {"n": 12345678901234567890, "d": 1.10} }"#,
        );
        assert_eq!(one.data_json(), r#"{"n": 12345678901234567890, "d": 1.10}"#);
        #[derive(Deserialize)]
        struct Data {
            n: u64,
        }
        assert_eq!(one.data::<Data>().expect("data").n, 12_345_678_901_234_567_890);
        assert_eq!((one.seq, one.service.as_str(), one.key), (7, "s", None));
    }

    #[test]
    fn a_faulty_field_costs_itself_alone() {
        let one = event(r#"{"seq":7,"service":5,"id":"ü","targeted":"yes"}"#);
        assert_eq!((one.service.as_str(), one.id.as_str(), one.targeted), ("", "ü", false));
        assert_eq!(one.data_json(), "null");
    }

    #[test]
    fn an_end_names_the_gateways_code_alone() {
        let said = |code: &str, message: &str| sentence(code, message);
        assert_eq!(said("evicted", "another tab"), "evicted: another tab");
        assert_eq!(said("refused", "the gateway answered 404"), "the gateway answered 404");
        assert_eq!(said("evicted", ""), "evicted");
    }
}
