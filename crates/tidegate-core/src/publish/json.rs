//! The gateway's own form of events: an object, an array of them, or one in each line (NDJSON).

use std::{borrow::Cow, sync::Arc};

use serde_json::value::RawValue;
use tidegate_protocol::{EventId, EventName, Key, NameError, OrgId, ServiceName, UserId};

use super::{
    BOM, PublishError, PublishLimits, To,
    draft::{Draft, Members, read_array, read_one},
    encode::Checked,
    fields::{Faults, Text},
    too_many,
};
use crate::NewEvent;

/// The members of an event.
#[derive(Default)]
pub(super) struct Fields<'a> {
    org: Option<&'a RawValue>,
    service: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    users: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
}

impl<'a> Members<'a> for Fields<'a> {
    const NAMES: &'static [&'static str] = &["org", "service", "event", "data", "id", "key", "users", "time"];

    fn slot(&mut self, name: &str) -> Option<(&mut Option<&'a RawValue>, &'static str)> {
        Some(match name {
            "org" => (&mut self.org, "org"),
            "service" => (&mut self.service, "service"),
            "event" => (&mut self.event, "event"),
            "data" => (&mut self.data, "data"),
            "id" => (&mut self.id, "id"),
            "key" => (&mut self.key, "key"),
            "users" => (&mut self.users, "users"),
            "time" => (&mut self.time, "time"),
            _ => return None,
        })
    }

    /// A misspelt name would be lost without a word, and a misspelt `users` would show the event to everybody.
    fn refuses(_name: &str) -> bool {
        true
    }
}

/// The events of a JSON body, and whether it is an array.
pub(super) fn read<'a>(
    text: &'a str,
    limits: &PublishLimits,
) -> Result<(Vec<Draft<'a, Fields<'a>>>, bool), PublishError> {
    if text.trim_ascii_start().starts_with('[') {
        Ok((read_array(text, limits)?, true))
    } else {
        Ok((vec![read_one(text)?], false))
    }
}

/// The events of an NDJSON body.
pub(super) fn read_lines<'a>(
    text: &'a str,
    limits: &PublishLimits,
) -> Result<Vec<Draft<'a, Fields<'a>>>, PublishError> {
    let mut drafts = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if drafts.len() == limits.events {
            return Err(too_many(limits));
        }
        let not_json = |why: &str| PublishError::NotJson(format!("line {}: {why}", number + 1));
        if line.starts_with('\u{feff}') {
            // Files that were written with one each have been joined.
            return Err(not_json(BOM));
        }
        drafts.push(serde_json::from_str(line).map_err(|error| {
            // The parser counts lines, too, and has seen one.
            let said = error.to_string();
            let why = said.split(" at line ").next().unwrap_or_default();
            PublishError::NotJson(format!("line {}, column {}: {why}", number + 1, error.column()))
        })?);
    }
    Ok(drafts)
}

/// Makes an event of `draft`, whose JSON pointer is `at`.
pub(super) fn check(
    to: To<'_>,
    draft: &Draft<'_, Fields<'_>>,
    at: &str,
    limits: &PublishLimits,
    faults: &mut Faults,
    assign: impl FnOnce() -> (EventId, bool),
) -> Option<(OrgId, NewEvent)> {
    let Some(members) = &draft.members else {
        faults.add(at.to_owned(), "type", "an event must be an object with service, event and data".into());
        return None;
    };
    draft.report(at, faults);
    let before = faults.list.len();
    let org = match members.org {
        Some(value) => name(faults, at, "org", value, OrgId::parse).map(Some),
        None => Some(None),
    };
    let org = org.and_then(|named| to.org_of(named, faults, || format!("{at}/org")));
    let service = required(faults, at, "service", members.service);
    let service = service.and_then(|v| name(faults, at, "service", v, ServiceName::parse));
    let event = required(faults, at, "event", members.event);
    let event = event.and_then(|v| name(faults, at, "event", v, EventName::parse));
    let data = required(faults, at, "data", members.data);
    let id = members.id.and_then(|v| name(faults, at, "id", v, EventId::parse));
    let key = members.key.and_then(|v| name(faults, at, "key", v, Key::parse));
    let users = members.users.and_then(|v| users(v, at, limits, faults));
    let time = members.time.and_then(|v| {
        let text = text(faults, at, "time", v)?;
        faults.time(|| format!("{at}/time"), &text)
    });
    let (org, service, name, data) = (org?, service?, event?, data?);
    if faults.list.len() > before {
        return None;
    }
    let (id, is_given) = id.map_or_else(assign, |id| (id, true));
    let event = Checked {
        service,
        name,
        id,
        is_given,
        key,
        source: None,
        subject: None,
        time,
        users,
        data: data.get(),
    };
    let event = event.encode(&org, limits, faults, || format!("{at}/data"))?;
    Some((org, event))
}

fn required<'a>(
    faults: &mut Faults,
    at: &str,
    name: &str,
    value: Option<&'a RawValue>,
) -> Option<&'a RawValue> {
    if value.is_none() {
        faults.add(format!("{at}/{name}"), "required", format!("{name} is missing"));
    }
    value
}

fn text<'a>(faults: &mut Faults, at: &str, name: &str, value: &'a RawValue) -> Option<Cow<'a, str>> {
    match serde_json::from_str::<Text<'a>>(value.get()) {
        Ok(text) => Some(text.0),
        // Valid JSON, so a string that cannot be read has half of a surrogate pair.
        Err(_) if value.get().starts_with('"') => {
            faults.lone_surrogate(format!("{at}/{name}"));
            None
        }
        Err(_) => {
            faults.add(format!("{at}/{name}"), "type", format!("{name} must be a string"));
            None
        }
    }
}

fn name<T>(
    faults: &mut Faults,
    at: &str,
    name: &str,
    value: &RawValue,
    parse: fn(&str) -> Result<T, NameError>,
) -> Option<T> {
    let text = text(faults, at, name, value)?;
    match parse(&text) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            faults.add(format!("{at}/{name}"), "format", error.to_string());
            None
        }
    }
}

fn users(value: &RawValue, at: &str, limits: &PublishLimits, faults: &mut Faults) -> Option<Arc<[UserId]>> {
    let Ok(texts) = serde_json::from_str::<Vec<Text<'_>>>(value.get()) else {
        let is_list = serde_json::from_str::<Vec<&RawValue>>(value.get())
            .is_ok_and(|list| list.iter().all(|user| user.get().starts_with('"')));
        if is_list {
            faults.unfit(value.get(), &format!("{at}/users"), None);
        } else {
            faults.add(format!("{at}/users"), "type", "users must be an array of strings".into());
        }
        return None;
    };
    faults.users(&texts, limits, |index| match index {
        Some(index) => format!("{at}/users/{index}"),
        None => format!("{at}/users"),
    })
}
