//! Any body is refused or taken; every event of one that is taken is valid JSON in which `data` is
//! what was sent, token for token, and it comes back as the same event when it is published again.
//!
//! The first byte of an input chooses the form and the limits; the body is the rest.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tidegate_core::{
    EventId, NewEvent, OrgId,
    publish::{BodyForm, PublishError, PublishLimits, read_body},
};

fn read(form: BodyForm, body: &[u8], limits: &PublishLimits) -> Result<Vec<NewEvent>, PublishError> {
    let org = OrgId::parse("acme").expect("a name");
    read_body(&org, form, body, limits, &mut |index| {
        (EventId::parse(&format!("drawn-{index}")).expect("an id"), false)
    })
}

/// White space between tokens taken out, by another way than the gateway's.
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

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    let form = if choice & 1 == 0 { BodyForm::Json } else { BodyForm::Ndjson };
    let limits = if choice & 2 == 0 {
        PublishLimits::default()
    } else {
        PublishLimits { event_bytes: 64, events: 2, depth: 3, users: 2 }
    };
    let events = match read(form, body, &limits) {
        Ok(events) => events,
        Err(PublishError::Invalid(faults)) => {
            assert!((1..=100).contains(&faults.len()));
            assert!(faults.iter().all(|fault| fault.pointer.is_empty() || fault.pointer.starts_with('/')));
            assert!(faults.iter().all(|fault| fault.detail.contains(' ')));
            return;
        }
        Err(_) => return,
    };
    assert!((1..=limits.events).contains(&events.len()));
    let text = std::str::from_utf8(body).expect("UTF-8");
    let sent: Vec<&str> = match form {
        BodyForm::Json if text.trim_ascii_start().starts_with('[') => {
            serde_json::from_str::<Vec<&RawValue>>(text).expect("an array").into_iter().map(RawValue::get).collect()
        }
        BodyForm::Json => vec![text],
        BodyForm::Ndjson => text.split('\n').filter(|line| !line.trim_ascii().is_empty()).collect(),
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
        assert_eq!(stored["data"].get(), compact(members(sent)["data"].get()));
        assert_eq!(stored.contains_key("targeted"), event.users.is_some());
        assert!(!stored.contains_key("users"));
        if event.users.is_none() {
            let again = read(BodyForm::Json, fragment.as_bytes(), &PublishLimits::default()).expect("an event");
            assert_eq!((again[0].content, &again[0].body), (event.content, &event.body));
        }
    }
});
