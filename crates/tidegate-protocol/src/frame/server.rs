//! The frames that a gateway sends, as a client reads them: borrowed from the text of the frame.
//!
//! Reading is tolerant, because later versions of the protocol may add fields and types: unknown fields are
//! ignored, a frame of an unknown type is [`ServerFrame::Unknown`], and words of open lists (codes, reasons)
//! stay text. Only the fields that a client's cursor depends on must be there, and `n` of `pong`; of the others,
//! an absent one reads as empty, zero, false or `None`.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{Cursor, Epoch, FilterTag, Seq, gzip_batch};

/// A frame that a gateway sends (PROTOCOL.md, "Frames"). The text is the data of one WebSocket text message
/// or of one server-sent event.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerFrame<'a> {
    /// `hello`: always the first frame, and the answer to a renewal.
    Hello(HelloFrame<'a>),
    /// `event`: one event.
    Event(EventFrame<'a>),
    /// `batch`: several events, or one and a stretch without visible events.
    Batch(BatchFrame<'a>),
    /// `batch` with `compressed`, to a stream with `batch=gzip`.
    CompressedBatch(CompressedBatchFrame<'a>),
    /// `gap`: a part of the log that will not come.
    Gap(GapFrame<'a>),
    /// `ping`: nothing was visible up to here; also asks for a `pong`.
    Ping(PingFrame<'a>),
    /// `pong`: the answer to a client's `ping`.
    Pong(PongFrame<'a>),
    /// `status`: a remark; the stream goes on.
    Status(StatusFrame<'a>),
    /// `goaway`: the client is to leave, and to come back.
    Goaway(GoawayFrame<'a>),
    /// `error`: the last frame.
    Error(ErrorFrame<'a>),
    /// A type of a later protocol. Ignore it.
    Unknown,
}

/// Why a text is not a frame that a gateway may send.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It is not a JSON object with a string `type`.
    #[error("a frame must be a JSON object with a string `type`: {0}")]
    NotAFrame(#[source] serde_json::Error),
    /// A field that PROTOCOL.md requires is absent, or one has another type.
    #[error("a frame of type {kind} is not as PROTOCOL.md has it: {source}")]
    Fields {
        /// The frame's type.
        kind: &'static str,
        /// The first faulty field.
        source: serde_json::Error,
    },
}

impl<'a> ServerFrame<'a> {
    /// Reads one frame. It borrows from `text`; strings with escapes are copied.
    ///
    /// # Errors
    /// [`FrameError`] if the text is not a frame that PROTOCOL.md allows. Unknown types and fields are none.
    pub fn parse(text: &'a str) -> Result<Self, FrameError> {
        #[derive(Deserialize)]
        struct Kind<'a> {
            #[serde(rename = "type", borrow)]
            name: Cow<'a, str>,
            #[serde(borrow)]
            compressed: Option<&'a RawValue>,
        }
        fn fields<'a, T: Deserialize<'a>>(kind: &'static str, text: &'a str) -> Result<T, FrameError> {
            serde_json::from_str(text).map_err(|source| FrameError::Fields { kind, source })
        }
        // The type first, then the fields of that type: what a field means depends on it.
        let kind: Kind<'a> = serde_json::from_str(text).map_err(FrameError::NotAFrame)?;
        Ok(match &*kind.name {
            "hello" => Self::Hello(fields("hello", text)?),
            "event" => Self::Event(fields("event", text)?),
            "batch" if kind.compressed.is_some_and(|value| value.get() == "true") => {
                Self::CompressedBatch(fields("batch", text)?)
            }
            "batch" => Self::Batch(fields("batch", text)?),
            "gap" => Self::Gap(fields("gap", text)?),
            "ping" => Self::Ping(fields("ping", text)?),
            "pong" => Self::Pong(fields("pong", text)?),
            "status" => Self::Status(fields("status", text)?),
            "goaway" => Self::Goaway(fields("goaway", text)?),
            "error" => Self::Error(fields("error", text)?),
            _ => Self::Unknown,
        })
    }

    /// The range `(prev, seq]` of the log that the frame accounts for: of an event, a batch, a ping and a
    /// gap. Other frames do not move a cursor.
    pub fn range(&self) -> Option<(Seq, Seq)> {
        match self {
            Self::Event(event) => Some((event.prev, event.event.seq)),
            Self::Batch(batch) => Some((batch.prev, batch.seq)),
            Self::CompressedBatch(batch) => Some((batch.prev, batch.seq)),
            Self::Gap(gap) => Some((gap.prev, gap.seq)),
            Self::Ping(ping) => Some((ping.prev, ping.seq)),
            Self::Hello(_)
            | Self::Pong(_)
            | Self::Status(_)
            | Self::Goaway(_)
            | Self::Error(_)
            | Self::Unknown => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ServerFrame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&'a RawValue>::deserialize(deserializer)?;
        Self::parse(text.get()).map_err(serde::de::Error::custom)
    }
}

/// `hello`: the terms of a stream, and where it starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HelloFrame<'a> {
    /// Where this stream starts: the cursor that was presented, or the start that was asked for. Never
    /// after the presented one. It always has a tag. The frame's `epoch` repeats the cursor's.
    pub cursor: Cursor,
    /// The end of the log at this moment. What comes up to it is replay; after it the stream is live.
    #[serde(default)]
    pub head: Seq,
    /// Names the connection, in the gateway's log and in `replaces=`.
    #[serde(default, borrow)]
    pub connection_id: Cow<'a, str>,
    /// The version of the protocol, 1.
    #[serde(default)]
    pub protocol: u32,
    /// The org whose log this stream shows.
    #[serde(default, borrow)]
    pub org: Cow<'a, str>,
    /// The services that this stream shows; `["*"]` for all.
    #[serde(default)]
    pub services: Vec<Cow<'a, str>>,
    /// The tag of those services.
    pub filter: Option<FilterTag>,
    /// How long the gateway remembers ids of events to find duplicates, in milliseconds.
    pub dedup_window_ms: Option<u64>,
    /// The time between pings, in milliseconds. 10 s more without a frame means a dead connection.
    pub ping_interval_ms: Option<u64>,
    /// Whether the presented cursor continues without a gap at its position, apart from a change of
    /// filter; false if none was presented.
    #[serde(default)]
    pub resumed: bool,
    /// The time until the token expires, in milliseconds: the stream ends then unless it is renewed.
    pub token_expires_in_ms: Option<u64>,
    /// The gateway's time, RFC 3339 in UTC.
    #[serde(default, borrow)]
    pub server_time: Cow<'a, str>,
    /// `interval` or `memory` if acknowledged events are not synced to disk first.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub sync: Option<Cow<'a, str>>,
}

/// `event`: one event, and all that the reader may see in `(prev, event.seq]`.
#[derive(Debug, Clone)]
pub struct EventFrame<'a> {
    /// The org.
    pub org: Cow<'a, str>,
    /// The position that the frame follows on.
    pub prev: Seq,
    /// The event.
    pub event: BatchEvent<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for EventFrame<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Rest<'a> {
            #[serde(default, borrow)]
            org: Cow<'a, str>,
            prev: Seq,
        }
        // Twice over the same text: serde's `flatten` cannot borrow `data`.
        let text = <&'a RawValue>::deserialize(deserializer)?;
        let Rest { org, prev } = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        let event = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        Ok(Self { org, prev, event })
    }
}

/// An event as it stands in `events` of a batch; an `event` frame has the same fields.
#[derive(Debug, Clone, Deserialize)]
pub struct BatchEvent<'a> {
    /// Its position in the log.
    pub seq: Seq,
    /// When the gateway accepted it, RFC 3339 in UTC.
    #[serde(default, borrow)]
    pub timestamp: Cow<'a, str>,
    /// The service that it belongs to.
    #[serde(default, borrow)]
    pub service: Cow<'a, str>,
    /// What happened.
    #[serde(default, borrow, rename = "event")]
    pub name: Cow<'a, str>,
    /// The publisher's identity of it, or one that the gateway assigned.
    #[serde(default, borrow)]
    pub id: Cow<'a, str>,
    /// What the event is about.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub key: Option<Cow<'a, str>>,
    /// `source` of a CloudEvent.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub source: Option<Cow<'a, str>>,
    /// `subject` of a CloudEvent.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub subject: Option<Cow<'a, str>>,
    /// When it happened, as its publisher said: RFC 3339 in UTC.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub time: Option<Cow<'a, str>>,
    /// Whether only some users see it.
    #[serde(default)]
    pub targeted: bool,
    /// The publisher's JSON value, token for token; `null` is a value too.
    #[serde(default, borrow, deserialize_with = "raw")]
    pub data: Option<&'a RawValue>,
}

/// `batch`: all events that the reader may see in `(prev, seq]`, apart from omitted ones.
#[derive(Debug, Clone, Deserialize)]
pub struct BatchFrame<'a> {
    /// The org.
    #[serde(default, borrow)]
    pub org: Cow<'a, str>,
    /// The position that the frame follows on.
    pub prev: Seq,
    /// The position that it accounts for; may be after that of the last event.
    pub seq: Seq,
    /// When the last of the events was accepted, RFC 3339 in UTC.
    #[serde(default, borrow)]
    pub timestamp: Cow<'a, str>,
    /// The events in the order of their seqs, each the JSON of a [`BatchEvent`].
    #[serde(borrow)]
    pub events: Vec<&'a RawValue>,
    /// How many events are left out because a later one of the same service and key is in the batch.
    #[serde(default)]
    pub omitted: u64,
    /// Why events are left out: `conflated`.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub reason: Option<Cow<'a, str>>,
}

/// `batch` with `compressed`: a [`BatchFrame`] as gzip (RFC 1952) in base64 (RFC 4648, section 4).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CompressedBatchFrame<'a> {
    /// As in the batch inside.
    pub prev: Seq,
    /// As in the batch inside.
    pub seq: Seq,
    /// As in the batch inside.
    #[serde(default, borrow)]
    pub timestamp: Cow<'a, str>,
    /// The compression: `gzip`.
    #[serde(default, borrow)]
    pub encoding: Cow<'a, str>,
    /// The compressed text.
    #[serde(borrow)]
    pub data: Cow<'a, str>,
    /// How many events the batch inside has.
    #[serde(default)]
    pub count: u64,
}

impl CompressedBatchFrame<'_> {
    /// The text of the `batch` frame inside; `None` if it cannot be read: another encoding, faulty data, or
    /// more than [`gzip_batch::OPENED_BYTES_MAX`].
    pub fn open(&self) -> Option<String> {
        if self.encoding != "gzip" {
            return None;
        }
        gzip_batch::open(&self.data)
    }
}

/// `gap`: the events in `(prev, seq]` will not come (PROTOCOL.md, "Gaps"). The cursor is now `epoch`, `seq`
/// and `filter`; after a gap with reason `epoch`, `seq` may be lower than before.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GapFrame<'a> {
    /// The position that the frame follows on, in the epoch before the gap.
    pub prev: Seq,
    /// The position after which the stream continues.
    pub seq: Seq,
    /// The epoch of `seq`.
    pub epoch: Epoch,
    /// The tag of the services from here on.
    pub filter: Option<FilterTag>,
    /// The name of a [`super::GapReason`].
    #[serde(default, borrow)]
    pub reason: Cow<'a, str>,
    /// With reason `filter`: the services that the stream shows from here on.
    pub services: Option<Vec<Cow<'a, str>>>,
}

/// `ping`: all that the reader may see in `(prev, seq]` has been sent. Over WebSocket it is answered with
/// `pong`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PingFrame<'a> {
    /// The position that the frame follows on.
    pub prev: Seq,
    /// The position that it accounts for.
    pub seq: Seq,
    /// The gateway's time, RFC 3339 in UTC.
    #[serde(default, borrow)]
    pub timestamp: Cow<'a, str>,
}

/// `pong`: the answer to a client's `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PongFrame<'a> {
    /// `n` of the ping that it answers.
    pub n: u64,
    /// The gateway's time when it read the ping, RFC 3339 in UTC.
    #[serde(default, borrow)]
    pub timestamp: Cow<'a, str>,
}

/// `status`: a remark; the stream goes on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatusFrame<'a> {
    /// What it reports: the name of a [`crate::StatusCode`]. A later protocol may add names.
    #[serde(default, borrow)]
    pub code: Cow<'a, str>,
    /// One sentence for people.
    #[serde(default, borrow)]
    pub message: Cow<'a, str>,
}

/// `goaway`: leave and come back; the gateway closes the stream otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GoawayFrame<'a> {
    /// The name of a [`crate::Code`].
    #[serde(default, borrow)]
    pub code: Cow<'a, str>,
    /// Leave within this time, in milliseconds.
    pub retry_in_ms: Option<u64>,
}

/// `error`: the last frame of a stream that was refused or ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ErrorFrame<'a> {
    /// The name of a [`crate::Code`].
    #[serde(default, borrow)]
    pub code: Cow<'a, str>,
    /// One sentence for people.
    #[serde(default, borrow)]
    pub message: Cow<'a, str>,
    /// The configuration key of the limit that was reached.
    #[serde(default, borrow, deserialize_with = "optional_text")]
    pub limit: Option<Cow<'a, str>>,
    /// Come back no earlier than after this time, in milliseconds.
    pub retry_in_ms: Option<u64>,
}

/// Reads an optional string that borrows if it has no escapes (serde borrows only a plain `Cow`).
fn optional_text<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Text<'a>>::deserialize(deserializer)?.map(|Text(text)| text))
}

/// Reads a value of any kind, `null` too.
fn raw<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_a_frame_must_have() {
        for least in [
            r#"{"type":"hello","cursor":"a-5-t"}"#,
            r#"{"type":"event","prev":5,"seq":7}"#,
            r#"{"type":"batch","prev":5,"seq":7,"events":[]}"#,
            r#"{"type":"batch","compressed":true,"prev":5,"seq":7,"data":""}"#,
            r#"{"type":"gap","prev":5,"seq":7,"epoch":"a"}"#,
            r#"{"type":"ping","prev":5,"seq":7}"#,
            r#"{"type":"pong","n":5}"#,
            r#"{"type":"status"}"#,
            r#"{"type":"goaway"}"#,
            r#"{"type":"error"}"#,
            r#"{"type":"from_the_future","prev":"x","compressed":[]}"#,
        ] {
            let frame = ServerFrame::parse(least).expect(least);
            let again: ServerFrame<'_> = serde_json::from_str(least).expect(least);
            assert_eq!(format!("{frame:?}"), format!("{again:?}"));
            let is_unknown = least.contains("future");
            assert_eq!(matches!(frame, ServerFrame::Unknown), is_unknown, "{least}");
            // Each of its members is required, if the type is known.
            if is_unknown {
                continue;
            }
            for name in ["type", "cursor", "prev", "seq", "events", "data", "epoch", "n"] {
                let without = least.replace(&format!("\"{name}\""), "\"other\"");
                assert!(without == least || ServerFrame::parse(&without).is_err(), "{without}");
            }
        }
        for bad in ["", "[1]", "7", "{}", r#"{"type":7}"#] {
            assert!(matches!(ServerFrame::parse(bad), Err(FrameError::NotAFrame(_))), "{bad}");
        }
        for bad in [
            r#"{"type":"hello","cursor":"a-5-t","head":"9"}"#,
            r#"{"type":"hello","cursor":"A-5"}"#,
            r#"{"type":"gap","prev":5,"seq":7,"epoch":"A"}"#,
            r#"{"type":"ping","prev":-1,"seq":7}"#,
        ] {
            assert!(matches!(ServerFrame::parse(bad), Err(FrameError::Fields { .. })), "{bad}");
        }
    }

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        let text = r#"{"type":"event","prev":1,"seq":2,"key":"k","id":"\u0061","data":{"n":1.0}}"#;
        let Ok(ServerFrame::Event(frame)) = ServerFrame::parse(text) else { panic!("an event") };
        assert!(matches!(&frame.event.key, Some(Cow::Borrowed("k"))));
        assert!(matches!(&frame.event.id, Cow::Owned(id) if id == "a"));
        assert_eq!(frame.event.data.map(RawValue::get), Some("{\"n\":1.0}"));
    }
}
