//! Any body is refused or taken; every event of one that is taken is valid JSON in which `data` is
//! what was sent, token for token, and it comes back as the same event when it is published again.
//!
//! The first byte of an input chooses the form and the limits; the body is the rest. Of a CloudEvent
//! in binary mode the rest begins with its headers, one a line, up to an empty one.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tidegate_core::{
    NewEvent,
    publish::{
        BodyForm, PublishError, PublishLimits, To,
        cloudevents::{self, Headers, Mode},
        read_body,
    },
};
use tidegate_protocol::{EventId, OrgId};

/// The limits of half of the inputs, and of events that are published again.
const LIMITS: PublishLimits = PublishLimits { event_bytes: 256 << 10, events: 1000, orgs: 1, depth: 64, users: 1000 };

fn read_events(mode: &Mode<'_>, body: &[u8], limits: &PublishLimits) -> Result<Vec<NewEvent>, PublishError> {
    let org = OrgId::parse("acme").expect("a name");
    let parts = cloudevents::read(To::Org(&org), mode, body, None, limits)?;
    Ok(parts.into_iter().flat_map(|part| part.events).collect())
}

fn read(form: BodyForm, body: &[u8], limits: &PublishLimits) -> Result<Vec<NewEvent>, PublishError> {
    let org = OrgId::parse("acme").expect("a name");
    read_body(&org, form, body, limits, &mut |index| {
        (EventId::parse(&format!("drawn-{index}")).expect("an id"), false)
    })
}

/// Removes white space between tokens, by another algorithm than the gateway's.
fn compact(json: &str) -> String {
    let (mut out, mut is_string, mut is_escaped) = (String::new(), false, false);
    for character in json.chars() {
        if is_string || !matches!(character, ' ' | '\t' | '\n' | '\r') {
            out.push(character);
        }
        if is_escaped {
            is_escaped = false;
        } else if is_string && character == '\\' {
            is_escaped = true;
        } else if character == '"' {
            is_string = !is_string;
        }
    }
    out
}

fn members(json: &str) -> HashMap<String, &RawValue> {
    serde_json::from_str(json).expect("an object")
}

/// The headers that `text` begins with, and the rest after them.
fn headers(text: &[u8]) -> (Headers<'_>, &[u8]) {
    let (mut headers, mut rest) = (Headers::default(), text);
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let Ok(name) = std::str::from_utf8(&line[..colon]) else { continue };
        headers.attributes.push((name, line.get(colon + 1..).unwrap_or_default()));
    }
    (headers, rest)
}

/// The accepted events; checks the form of a refusal.
fn taken(read: Result<Vec<NewEvent>, PublishError>, limits: &PublishLimits) -> Option<Vec<NewEvent>> {
    match read {
        Ok(events) => {
            assert!((1..=limits.events).contains(&events.len()));
            Some(events)
        }
        Err(PublishError::Invalid(faults)) => {
            assert!((1..=100).contains(&faults.len()));
            let is_pointer = |pointer: &str| pointer.is_empty() || pointer.starts_with(['/', 'c']);
            assert!(faults.iter().all(|fault| is_pointer(&fault.pointer)));
            assert!(faults.iter().all(|fault| fault.detail.contains(' ')));
            None
        }
        Err(_) => None,
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    let limits = if choice & 2 == 0 {
        LIMITS
    } else {
        PublishLimits { event_bytes: 64, events: 2, orgs: 1, depth: 3, users: 2 }
    };
    let (sent, events): (Vec<Option<&str>>, _) = if choice & 12 == 0 {
        let form = if choice & 1 == 0 { BodyForm::Json } else { BodyForm::Ndjson };
        let Some(events) = taken(read(form, body, &limits), &limits) else { return };
        let text = std::str::from_utf8(body).expect("UTF-8");
        let sent: Vec<&str> = match form {
            BodyForm::Json if text.trim_ascii_start().starts_with('[') => array(text),
            BodyForm::Json => vec![text],
            BodyForm::Ndjson => text.split('\n').filter(|line| !line.trim_ascii().is_empty()).collect(),
        };
        (sent.into_iter().map(|event| Some(members(event)["data"].get())).collect(), events)
    } else if choice & 8 == 0 {
        let mode = if choice & 1 == 0 { Mode::Structured } else { Mode::Batch };
        let Some(events) = taken(read_events(&mode, body, &limits), &limits) else { return };
        let text = std::str::from_utf8(body).expect("UTF-8");
        let sent = if choice & 1 == 0 { vec![text] } else { array(text) };
        (sent.into_iter().map(|event| members(event).get("data").map(|data| data.get())).collect(), events)
    } else {
        let (headers, data) = headers(body);
        let mode = Mode::Binary(headers);
        let Some(events) = taken(read_events(&mode, data, &limits), &limits) else { return };
        let data = std::str::from_utf8(data).expect("UTF-8");
        (vec![Some(data).filter(|data| !data.is_empty())], events)
    };
    assert_eq!(sent.len(), events.len());
    for (sent, event) in sent.into_iter().zip(&events) {
        assert!(event.body.len() <= limits.event_bytes);
        let fragment = event.fragment(7, 0);
        let fragment = format!("{{{}}}", std::str::from_utf8(&fragment).expect("UTF-8"));
        // A line end would end an SSE event.
        assert!(!fragment.contains(['\n', '\r']));
        let stored = members(&fragment);
        assert_eq!(stored["seq"].get(), "7");
        assert_eq!(stored["data"].get(), sent.map_or("null".to_owned(), compact));
        assert_eq!(stored.contains_key("targeted"), event.users.is_some());
        assert!(!stored.contains_key("users"));
        assert_eq!(stored.contains_key("source"), choice & 12 != 0);
        if event.users.is_some() {
            continue;
        }
        let again = if choice & 12 == 0 {
            read(BodyForm::Json, fragment.as_bytes(), &LIMITS)
        } else {
            // Its own fragment, apart from the two members that CloudEvents name differently.
            let named = stored.iter().map(|(name, value)| match name.as_str() {
                "event" => format!("\"type\":{value}"),
                "key" => format!("\"partitionkey\":{value}"),
                name => format!("\"{name}\":{value}"),
            });
            let envelope = format!("{{\"specversion\":\"1.0\",{}}}", named.collect::<Vec<_>>().join(","));
            read_events(&Mode::Structured, envelope.as_bytes(), &LIMITS)
        };
        let again = again.expect("an event");
        assert_eq!((again[0].content, &again[0].body), (event.content, &event.body));
        assert!(event.dedup.is_none() || again[0].dedup == event.dedup);
    }
});

fn array(text: &str) -> Vec<&str> {
    serde_json::from_str::<Vec<&RawValue>>(text).expect("an array").into_iter().map(RawValue::get).collect()
}
