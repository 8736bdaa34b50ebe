//! Reads a publish body into events that a log can append (PROTOCOL.md, "Publishing"): one event, an array,
//! or NDJSON of the gateway's own form (`json`), or CloudEvents ([`cloudevents`]). They are for one org, or each
//! names its own ([`To`]).
//!
//! A body is accepted whole or refused whole. All faulty fields are reported at once, each with a JSON
//! pointer (RFC 6901). A syntax error is reported with its position in the body.

pub mod cloudevents;

mod draft;
mod encode;
mod fields;
mod json;
mod parts;
#[cfg(test)]
mod tests;

pub use encode::{dedup_key, name_request};
pub use parts::{Part, To};

use crate::NewEvent;
use fields::Faults;
use parts::Parts;
use tidegate_protocol::{EventId, OrgId};

/// The limits of one publish request.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// The largest size of one event as stored, in bytes.
    pub event_bytes: usize,
    /// The largest number of events in one request.
    pub events: usize,
    /// The largest number of orgs in one request.
    pub orgs: usize,
    /// How many arrays and objects may be nested in `data`.
    pub depth: usize,
    /// The largest number of users that one event may be targeted at.
    pub users: usize,
}

/// A bound of [`PublishLimits`]. The server names its configuration key to the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// [`PublishLimits::event_bytes`].
    EventBytes,
    /// [`PublishLimits::events`].
    Events,
    /// [`PublishLimits::orgs`].
    Orgs,
    /// [`PublishLimits::depth`].
    Depth,
    /// [`PublishLimits::users`].
    Users,
}

/// The form of the body, from its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// `application/json`: an event or an array of events.
    Json,
    /// `application/x-ndjson`: one event in each line.
    Ndjson,
}

/// One faulty field: an entry of `errors` in a problem (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A JSON pointer into the body (RFC 6901); in NDJSON its first part is the event's index. Without a
    /// leading slash it is the name of a header; empty, it is the whole body.
    pub pointer: String,
    /// The kind of fault: one of the words of `errors[].code` in PROTOCOL.md.
    pub code: &'static str,
    /// The bound that the field is over, if that is the fault.
    pub bound: Option<Bound>,
    /// One sentence for people: what is wrong, and what would be right.
    pub detail: String,
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is not JSON (400).
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// It is over a size limit (413).
    #[error("{what} is larger than the {max} that are allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The bound.
        bound: Bound,
        /// Its value.
        max: usize,
    },
    /// An event carries data that is not JSON (415).
    #[error("{}", .0.detail)]
    UnsupportedMedia(Fault),
    /// It has faulty fields (422).
    #[error("the body has {} faulty field(s)", .0.len())]
    Invalid(Vec<Fault>),
}

/// Assigns ids to events that have none.
pub trait IdSource {
    /// The id of the event at `index` (from 0), and whether the publisher can send it again (then it enters the
    /// dedup window).
    fn id(&mut self, index: usize) -> (EventId, bool);
}

impl<F: FnMut(usize) -> (EventId, bool)> IdSource for F {
    fn id(&mut self, index: usize) -> (EventId, bool) {
        self(index)
    }
}

/// Reads `body` into events of `org`. `ids` assigns the ids of events that have none.
///
/// # Errors
/// [`PublishError`] if any event is faulty or too large: then no event is accepted.
pub fn read_body(
    org: &OrgId,
    form: BodyForm,
    body: &[u8],
    limits: &PublishLimits,
    ids: &mut impl IdSource,
) -> Result<Vec<NewEvent>, PublishError> {
    let parts = read_parts(To::Org(org), form, body, limits, ids)?;
    Ok(parts.into_iter().flat_map(|part| part.events).collect())
}

/// Reads `body` into the events of each org, in the order in which the orgs first appear. There is at least one
/// part.
///
/// # Errors
/// [`PublishError`] if any event is faulty or too large: then no event is accepted.
pub fn read_parts(
    to: To<'_>,
    form: BodyForm,
    body: &[u8],
    limits: &PublishLimits,
    ids: &mut impl IdSource,
) -> Result<Vec<Part>, PublishError> {
    let text = utf8(body)?;
    let (drafts, is_list) = match form {
        BodyForm::Json => json::read(text, limits)?,
        BodyForm::Ndjson => (json::read_lines(text, limits)?, true),
    };
    take(&drafts, is_list, limits, |index, draft, at, faults| {
        Ok(json::check(to, draft, at, limits, faults, || ids.id(index)))
    })
}

/// The reason to refuse a text that begins with U+FEFF. RFC 8259 (8.1) forbids to send it, and JSON parsers
/// refuse it in words of their own.
const BOM: &str = "it begins with a byte order mark (U+FEFF), which JSON must not have; leave it out";

fn utf8(body: &[u8]) -> Result<&str, PublishError> {
    let not_json = |why: String| PublishError::NotJson(why);
    if body.starts_with(b"\xff\xfe") || body.starts_with(b"\xfe\xff") {
        return Err(not_json("it begins with a byte order mark of UTF-16; send UTF-8 without one".into()));
    }
    let text = simdutf8::compat::from_utf8(body);
    let text = text.map_err(|error| not_json(format!("byte {} is not UTF-8", error.valid_up_to())))?;
    if text.starts_with('\u{feff}') { Err(not_json(BOM.into())) } else { Ok(text) }
}

/// Makes events of all `drafts`, or of none: `check` gets an event's index and its JSON pointer.
fn take<D>(
    drafts: &[D],
    is_list: bool,
    limits: &PublishLimits,
    mut check: impl FnMut(usize, &D, &str, &mut Faults) -> Result<Option<(OrgId, NewEvent)>, PublishError>,
) -> Result<Vec<Part>, PublishError> {
    let mut faults = Faults::default();
    if drafts.is_empty() {
        faults.add(String::new(), "empty", "send at least one event".into());
    }
    let mut parts = Parts::default();
    for (index, draft) in drafts.iter().enumerate() {
        let at = if is_list { format!("/{index}") } else { String::new() };
        let Some((org, event)) = check(index, draft, &at, &mut faults)? else { continue };
        if event.body.len() > limits.event_bytes {
            return Err(PublishError::TooLarge {
                what: format!("event {index} ({} bytes)", event.body.len()),
                bound: Bound::EventBytes,
                max: limits.event_bytes,
            });
        }
        parts.add(index, org, event, limits.orgs)?;
    }
    if faults.list.is_empty() { Ok(parts.list) } else { Err(PublishError::Invalid(faults.list)) }
}

fn too_many(limits: &PublishLimits) -> PublishError {
    PublishError::TooLarge { what: "the batch".into(), bound: Bound::Events, max: limits.events }
}
