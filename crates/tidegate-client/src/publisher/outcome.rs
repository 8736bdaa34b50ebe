//! What became of an event.

use tidegate_protocol::{Cursor, Seq};

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an event may be refused"]
pub enum Outcome {
    /// The gateway has stored it: on disk, unless it is configured otherwise.
    Stored(Stored),
    /// An event with this id was stored before, with the same content. The place is that of the first one.
    Duplicate(Stored),
    /// It may be stored or not: the last answers were 504, or the connection broke, until the time was over. To
    /// find out, publish it again with this id: it is stored once.
    Unknown(Unknown),
    /// It is not stored.
    Refused(Refused),
}

impl Outcome {
    /// The event's id.
    pub fn id(&self) -> &str {
        match self {
            Outcome::Stored(stored) | Outcome::Duplicate(stored) => &stored.id,
            Outcome::Unknown(unknown) => &unknown.id,
            Outcome::Refused(refused) => &refused.id,
        }
    }

    /// In how many requests it was sent.
    pub fn attempts(&self) -> u32 {
        match self {
            Outcome::Stored(stored) | Outcome::Duplicate(stored) => stored.attempts,
            Outcome::Unknown(unknown) => unknown.attempts,
            Outcome::Refused(refused) => refused.attempts,
        }
    }

    /// Where the event is in the log, if it is certainly stored.
    pub fn stored(&self) -> Option<&Stored> {
        match self {
            Outcome::Stored(stored) | Outcome::Duplicate(stored) => Some(stored),
            Outcome::Unknown(_) | Outcome::Refused(_) => None,
        }
    }
}

/// Where a stored event is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The event's id.
    pub id: String,
    /// Its position in the org's log.
    pub seq: Seq,
    /// The same as a cursor: a reader that starts there sees what follows the event.
    pub cursor: Cursor,
    /// In how many requests it was sent.
    pub attempts: u32,
}

/// It is not known whether an event is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unknown {
    /// The event's id.
    pub id: String,
    /// What the last try ended with: a code as in [`Refused::code`].
    pub code: String,
    /// One sentence. It may hold the gateway's text, control characters included.
    pub detail: String,
    /// In how many requests it was sent.
    pub attempts: u32,
}

/// An event is not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The event's id.
    pub id: String,
    /// A code of the gateway (PROTOCOL.md, "Codes"); `http_<status>` if something else answered; or a code of this
    /// crate: `unreachable` (no answer came), `certificate` (the gateway's TLS certificate is not accepted, so
    /// nothing was sent), `expired` (the time was over while it waited), `closed`, `not_an_event` (its data cannot
    /// be JSON).
    pub code: String,
    /// One sentence. It may hold the gateway's text, control characters included.
    pub detail: String,
    /// False: the same event would be refused again. True: the publisher has given up, later it may be stored.
    pub is_retryable: bool,
    /// All faulty fields of this event.
    pub errors: Vec<FieldError>,
    /// The key of the gateway's configuration whose limit was reached.
    pub limit: Option<String>,
    /// In how many requests it was sent.
    pub attempts: u32,
}

impl Refused {
    /// The first faulty field: an RFC 6901 pointer into this event, such as `/data/amount`.
    pub fn pointer(&self) -> Option<&str> {
        self.errors.first().map(|error| error.pointer.as_str())
    }
}

/// One faulty field of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
#[non_exhaustive]
pub struct FieldError {
    /// An RFC 6901 pointer into this event: `/service`, `/data/amount`. Empty: the event itself.
    pub pointer: String,
    /// The kind of fault (PROTOCOL.md, "Publishing").
    pub code: String,
    /// One sentence.
    pub detail: String,
    /// The key of the gateway's configuration, if the field is over a limit.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub limit: Option<String>,
}
