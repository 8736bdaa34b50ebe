//! An event in structured or batch mode: its attributes and `data` are members of one JSON object.

use serde_json::value::RawValue;
use tidegate_protocol::OrgId;

use super::{
    super::{
        PublishError,
        draft::{Draft, Members},
        fields::{Faults, LONE_SURROGATE, Text, is_meant_as_users},
    },
    Attributes, Given, Target, media, unsupported,
};
use crate::NewEvent;

/// The known members; all others are extensions, which are not kept.
const NAMES: [&str; 13] = [
    "specversion",
    "id",
    "source",
    "type",
    "org",
    "service",
    "partitionkey",
    "subject",
    "time",
    "users",
    "datacontenttype",
    "data",
    "data_base64",
];

#[derive(Default)]
pub(super) struct Envelope<'a>([Option<&'a RawValue>; NAMES.len()]);

impl<'a> Members<'a> for Envelope<'a> {
    const NAMES: &'static [&'static str] = &NAMES;

    fn slot(&mut self, name: &str) -> Option<(&mut Option<&'a RawValue>, &'static str)> {
        let index = NAMES.iter().position(|known| *known == name)?;
        Some((&mut self.0[index], NAMES[index]))
    }

    fn refuses(name: &str) -> bool {
        is_meant_as_users(name)
    }
}

impl<'a> Envelope<'a> {
    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0[NAMES.iter().position(|known| *known == name)?]
    }
}

/// An envelope and its JSON pointer.
struct StoredAt<'e, 'a> {
    envelope: &'e Envelope<'a>,
    at: &'e str,
}

impl Attributes for StoredAt<'_, '_> {
    fn get(&self, name: &'static str) -> Given<'_> {
        let Some(raw) = self.envelope.raw(name) else { return Given::Unset };
        // Null means absent (JSON event format, section 2.2), apart from the one attribute that decides who
        // may see the event.
        if raw.get() == "null" && name != "users" {
            return Given::Unset;
        }
        match serde_json::from_str::<Text<'_>>(raw.get()) {
            Ok(text) => Given::Text(text.0),
            // Valid JSON, so a string that cannot be read has half of a surrogate pair.
            Err(_) if raw.get().starts_with('"') => {
                Given::Faulty { code: "format", detail: LONE_SURROGATE.into() }
            }
            Err(_) => {
                let what =
                    if name == "users" { "a string of users, separated by commas" } else { "a string" };
                Given::Faulty { code: "type", detail: format!("{name} must be {what}") }
            }
        }
    }

    fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }
}

/// Makes an event of `draft`, whose JSON pointer is `at`.
pub(super) fn check(
    target: &Target<'_>,
    draft: &Draft<'_, Envelope<'_>>,
    at: &str,
    faults: &mut Faults,
) -> Result<Option<(OrgId, NewEvent)>, PublishError> {
    let Some(envelope) = &draft.members else {
        let detail = "an event must be an object with specversion, id, source and type";
        faults.add(at.to_owned(), "type", detail.into());
        return Ok(None);
    };
    draft.report(at, faults);
    let attributes = StoredAt { envelope, at };
    if envelope.raw("data_base64").is_some_and(|value| value.get() != "null") {
        let detail = "data_base64 is not accepted: send JSON in data";
        return Err(unsupported(attributes.pointer("data_base64"), detail.into()));
    }
    match attributes.get("datacontenttype") {
        Given::Unset => {}
        Given::Text(media) if media::is_json(&media) => {}
        Given::Text(_) => {
            let detail = "datacontenttype is not that of JSON: only application/json and types that end in \
                          +json are accepted";
            return Err(unsupported(attributes.pointer("datacontenttype"), detail.into()));
        }
        Given::Faulty { code, detail } => faults.add(attributes.pointer("datacontenttype"), code, detail),
    }
    let data = envelope.raw("data").map_or("null", RawValue::get);
    Ok(super::check(target, &attributes, data, faults))
}
