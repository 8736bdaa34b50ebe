//! CloudEvents 1.0 in the three content modes of their HTTP binding (CloudEvents 1.0.2: HTTP protocol
//! binding, JSON event format, JSON batch format).
//!
//! A mode yields attributes as text (`envelope` from JSON, `headers` from headers); they are parsed in one
//! place, the function `check`.

mod envelope;
mod headers;
mod media;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::de::IgnoredAny;
use tidegate_protocol::{EventId, EventName, Key, NameError, OrgId, ServiceName, Source, Subject};

pub use super::fields::is_meant_as_users;
pub use headers::Headers;

use super::{
    Fault, Part, PublishError, PublishLimits, To, draft, encode::Checked, fields::Faults, take, utf8,
};
use crate::NewEvent;

/// How a request carries CloudEvents.
#[derive(Debug)]
pub enum Mode<'a> {
    /// `application/cloudevents+json`: one event with its attributes, in the body.
    Structured,
    /// `application/cloudevents-batch+json`: an array of such events.
    Batch,
    /// Attributes in headers, `data` in the body.
    Binary(Headers<'a>),
}

/// Reads `body` into the events of each org; `service` is that of events which do not name one.
///
/// # Errors
/// [`PublishError`] if any event is faulty or too large: then no event is accepted.
pub fn read(
    to: To<'_>,
    mode: &Mode<'_>,
    body: &[u8],
    service: Option<&ServiceName>,
    limits: &PublishLimits,
) -> Result<Vec<Part>, PublishError> {
    let text = utf8(body)?;
    let target = Target { to, service, limits };
    match mode {
        Mode::Structured => take(&[draft::read_one(text)?], false, limits, |_, draft, at, faults| {
            envelope::check(&target, draft, at, faults)
        }),
        Mode::Batch => {
            let is_array = text.trim_ascii_start().starts_with('[');
            if !is_array && serde_json::from_str::<IgnoredAny>(text).is_ok() {
                let mut faults = Faults::default();
                let detail = "a batch is an array of events; send one alone as application/cloudevents+json";
                faults.add(String::new(), "type", detail.into());
                return Err(PublishError::Invalid(faults.list));
            }
            take(&draft::read_array(text, limits)?, true, limits, |_, draft, at, faults| {
                envelope::check(&target, draft, at, faults)
            })
        }
        Mode::Binary(headers) => {
            take(&[headers], false, limits, |_, headers, _, faults| headers.check(&target, text, faults))
        }
    }
}

/// Whose log the events are for, the default service, and the limits of events.
struct Target<'t> {
    to: To<'t>,
    service: Option<&'t ServiceName>,
    limits: &'t PublishLimits,
}

/// The value of an attribute, as the request has it.
enum Given<'a> {
    Unset,
    /// It is not text, and why.
    Faulty {
        code: &'static str,
        detail: String,
    },
    Text(Cow<'a, str>),
}

/// The attributes of one event, by name.
trait Attributes {
    fn get(&self, name: &'static str) -> Given<'_>;

    /// The pointer to the value of `name`.
    fn pointer(&self, name: &str) -> String;
}

/// Makes an event of its attributes and its `data`, which is known to be JSON.
fn check(
    target: &Target<'_>,
    attributes: &impl Attributes,
    data: &str,
    faults: &mut Faults,
) -> Option<(OrgId, NewEvent)> {
    let before = faults.list.len();
    let mut fields = Fields { attributes, faults };
    if let Some(version) = fields.required("specversion")
        && version != "1.0"
    {
        // The attributes may mean something else in another version.
        fields.fault(
            "specversion",
            "format",
            "specversion must be 1.0; no other version of CloudEvents is accepted here",
        );
        return None;
    }
    let id = fields.required("id").and_then(|text| fields.parse("id", &text, EventId::parse));
    let source = fields.required("source").and_then(|text| fields.parse("source", &text, Source::parse));
    let name = fields.required("type").and_then(|text| fields.parse("type", &text, EventName::parse));
    let org = org(target.to, &mut fields);
    let service = service(target, &mut fields, source.as_ref());
    let key =
        fields.optional("partitionkey").and_then(|text| fields.parse("partitionkey", &text, Key::parse));
    let subject = fields.optional("subject").and_then(|text| fields.parse("subject", &text, Subject::parse));
    let time = fields.optional("time");
    let time = time.and_then(|text| fields.faults.time(|| attributes.pointer("time"), &text));
    let users = fields.optional("users").and_then(|text| {
        // An empty text names no user, not one with an empty name.
        let texts: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(',').collect() };
        fields.faults.users(&texts, target.limits, |_| attributes.pointer("users"))
    });
    let (org, id, source, name, service) = (org?, id?, source?, name?, service?);
    if faults.list.len() > before {
        return None;
    }
    let source = Some(source);
    let event = Checked { service, name, id, is_given: true, key, source, subject, time, users, data };
    let event = event.encode(&org, target.limits, faults, || attributes.pointer("data"))?;
    Some((org, event))
}

/// The org of an event: CloudEvents have no attribute for it, so it is an extension.
fn org<A: Attributes>(to: To<'_>, fields: &mut Fields<'_, '_, A>) -> Option<OrgId> {
    let named = match fields.attributes.get("org") {
        Given::Unset => None,
        _ => {
            let text = fields.optional("org")?;
            Some(fields.parse("org", &text, OrgId::parse)?)
        }
    };
    to.org_of(named, fields.faults, || fields.attributes.pointer("org"))
}

/// The service of an event: CloudEvents have no attribute for it.
fn service<A: Attributes>(
    target: &Target<'_>,
    fields: &mut Fields<'_, '_, A>,
    source: Option<&Source>,
) -> Option<ServiceName> {
    match fields.attributes.get("service") {
        Given::Unset => {}
        _ => {
            let text = fields.optional("service")?;
            return fields.parse("service", &text, ServiceName::parse);
        }
    }
    let found = target
        .service
        .cloned()
        .or_else(|| source.and_then(|source| ServiceName::parse(source.as_str()).ok()));
    if found.is_none() {
        let detail = "the event names no service: name it by the extension attribute \
                      `service`, by `?service=` in the address, or by a `source` that is the name of a service";
        fields.fault("service", "required", detail);
    }
    found
}

/// Parses attributes, and reports the faulty ones.
struct Fields<'f, 'l, A> {
    attributes: &'f A,
    faults: &'l mut Faults,
}

impl<'f, A: Attributes> Fields<'f, '_, A> {
    fn fault(&mut self, name: &str, code: &'static str, detail: &str) {
        self.faults.add(self.attributes.pointer(name), code, detail.to_owned());
    }

    fn optional(&mut self, name: &'static str) -> Option<Cow<'f, str>> {
        match self.attributes.get(name) {
            Given::Unset => None,
            Given::Text(text) => Some(text),
            Given::Faulty { code, detail } => {
                self.fault(name, code, &detail);
                None
            }
        }
    }

    fn required(&mut self, name: &'static str) -> Option<Cow<'f, str>> {
        if let Given::Unset = self.attributes.get(name) {
            self.fault(name, "required", &format!("{name} is missing"));
        }
        self.optional(name)
    }

    fn parse<T>(&mut self, name: &str, text: &str, parse: fn(&str) -> Result<T, NameError>) -> Option<T> {
        match parse(text) {
            Ok(parsed) => Some(parsed),
            // With the attribute's name, which may differ from that of the name's kind.
            Err(error) => {
                self.fault(name, "format", &format!("{name} must be {}", error.rule));
                None
            }
        }
    }
}

/// Refuses data that is not JSON.
fn unsupported(pointer: String, detail: String) -> PublishError {
    PublishError::UnsupportedMedia(Fault { pointer, code: "media", bound: None, detail })
}
