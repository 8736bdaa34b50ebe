//! Reads a publish body: one event, an array, or NDJSON, into events that a log can append.
//!
//! A batch is taken whole or refused whole. Faulty fields are all reported at once, each with a
//! JSON pointer (RFC 6901) to it. What is not JSON is refused with its place in the body.

use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use crate::{
    ContentHash, DedupKey, EventId, EventName, Key, NameError, NewEvent, OrgId, ServiceName, UserId,
    event::write_datetime, json,
};

/// How many faulty fields one answer names.
const FAULTS_MAX: usize = 100;

/// Bounds of one publish request.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// Bytes of one event as stored.
    pub event_bytes: usize,
    /// Events in one request.
    pub events: usize,
    /// Nesting of `data`.
    pub depth: usize,
    /// Users that one event may be targeted at.
    pub users: usize,
}

impl Default for PublishLimits {
    fn default() -> Self {
        Self { event_bytes: 256 << 10, events: 1000, depth: 64, users: 1000 }
    }
}

/// The form of the body, from its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyForm {
    /// `application/json`: an event or an array of events.
    Json,
    /// `application/x-ndjson`: an event per line.
    Ndjson,
}

/// One field that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands in the body (RFC 6901); in NDJSON the first part is the event's index.
    pub pointer: String,
    /// A stable word for the kind of fault.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is not JSON (400).
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// It is over a size limit (413).
    #[error("{what} is larger than {limit}, which allows {max}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The configuration key of the bound.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// It has faulty fields (422).
    #[error("the body has {} faulty field(s)", .0.len())]
    Invalid(Vec<Fault>),
}

/// Where the ids of events come from that bring none.
pub trait IdSource {
    /// The id of the event at `index`, and whether the publisher can name it again (then it enters
    /// the dedup window).
    fn id(&mut self, index: usize) -> (EventId, bool);
}

impl<F: FnMut(usize) -> (EventId, bool)> IdSource for F {
    fn id(&mut self, index: usize) -> (EventId, bool) {
        self(index)
    }
}

/// Reads `body` into events of `org`.
pub fn read_body(
    org: &OrgId,
    form: BodyForm,
    body: &[u8],
    limits: &PublishLimits,
    ids: &mut impl IdSource,
) -> Result<Vec<NewEvent>, PublishError> {
    let text = simdutf8::compat::from_utf8(body)
        .map_err(|error| PublishError::NotJson(format!("byte {} is not UTF-8", error.valid_up_to())))?;
    let (drafts, is_list) = match form {
        BodyForm::Json => read_json(text, limits)?,
        BodyForm::Ndjson => (read_lines(text, limits)?, true),
    };
    let mut faults = Faults { list: Vec::new() };
    if drafts.is_empty() {
        faults.add(String::new(), "empty", "send at least one event".into());
    }
    let mut events = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        let at = if is_list { format!("/{index}") } else { String::new() };
        let Some(event) = check(org, draft, &at, limits, &mut faults, || ids.id(index)) else { continue };
        if event.body.len() > limits.event_bytes {
            return Err(PublishError::TooLarge {
                what: format!("event {index} ({} bytes)", event.body.len()),
                limit: "limits.event_bytes",
                max: limits.event_bytes,
            });
        }
        events.push(event);
    }
    if faults.list.is_empty() { Ok(events) } else { Err(PublishError::Invalid(faults.list)) }
}

fn read_json<'a>(text: &'a str, limits: &PublishLimits) -> Result<(Vec<Draft<'a>>, bool), PublishError> {
    let not_json = |error: serde_json::Error| PublishError::NotJson(error.to_string());
    if text.trim_ascii_start().starts_with('[') {
        let mut drafts = Vec::new();
        let mut reader = serde_json::Deserializer::from_str(text);
        let visitor = List { drafts: &mut drafts, max: limits.events };
        let whole = (&mut reader).deserialize_seq(visitor).map_err(not_json)?;
        reader.end().map_err(not_json)?;
        if whole { Ok((drafts, true)) } else { Err(too_many(limits)) }
    } else {
        Ok((vec![serde_json::from_str(text).map_err(not_json)?], false))
    }
}

fn read_lines<'a>(text: &'a str, limits: &PublishLimits) -> Result<Vec<Draft<'a>>, PublishError> {
    let mut drafts = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if drafts.len() == limits.events {
            return Err(too_many(limits));
        }
        drafts.push(
            serde_json::from_str(line)
                .map_err(|error| PublishError::NotJson(format!("line {}: {error}", number + 1)))?,
        );
    }
    Ok(drafts)
}

fn too_many(limits: &PublishLimits) -> PublishError {
    PublishError::TooLarge { what: "the batch".into(), limit: "limits.events_per_batch", max: limits.events }
}

/// The array of a body, read until it holds more than it may.
struct List<'v, 'a> {
    drafts: &'v mut Vec<Draft<'a>>,
    max: usize,
}

impl<'a> Visitor<'a> for List<'_, 'a> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<bool, A::Error> {
        while let Some(draft) = seq.next_element()? {
            if self.drafts.len() == self.max {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(false);
            }
            self.drafts.push(draft);
        }
        Ok(true)
    }
}

/// An event as it stands in the body: its members, not looked into yet.
#[derive(Default)]
struct Draft<'a> {
    is_object: bool,
    service: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    key: Option<&'a RawValue>,
    users: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
    repeated: Option<&'static str>,
    suspect: Option<String>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Draft<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A value of any kind: one that is no object is a faulty field, not a syntax error.
        let raw = <&RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Ok(Draft::default());
        }
        serde_json::Deserializer::from_str(raw.get())
            .deserialize_map(Members)
            .map_err(serde::de::Error::custom)
    }
}

struct Members;

impl<'a> Visitor<'a> for Members {
    type Value = Draft<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Draft<'a>, A::Error> {
        let mut draft = Draft { is_object: true, ..Draft::default() };
        while let Some(name) = map.next_key::<Cow<'a, str>>()? {
            let (slot, name) = match &*name {
                "service" => (&mut draft.service, "service"),
                "event" => (&mut draft.event, "event"),
                "data" => (&mut draft.data, "data"),
                "id" => (&mut draft.id, "id"),
                "key" => (&mut draft.key, "key"),
                "users" => (&mut draft.users, "users"),
                "time" => (&mut draft.time, "time"),
                other => {
                    // Unknown members are ignored, but for what is surely meant as `users`: ignoring
                    // it would show everybody what was meant for one.
                    if matches!(
                        &*other.to_ascii_lowercase(),
                        "user" | "users" | "user_id" | "user_ids" | "userid" | "userids"
                    ) {
                        draft.suspect = Some(other.to_owned());
                    }
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                draft.repeated = Some(name);
            }
        }
        Ok(draft)
    }
}

struct Faults {
    list: Vec<Fault>,
}

impl Faults {
    fn add(&mut self, pointer: String, code: &'static str, detail: String) {
        if self.list.len() < FAULTS_MAX {
            self.list.push(Fault { pointer, code, detail });
        }
    }

    fn required<'a>(&mut self, at: &str, name: &str, value: Option<&'a RawValue>) -> Option<&'a RawValue> {
        if value.is_none() {
            self.add(format!("{at}/{name}"), "required", format!("{name} is missing"));
        }
        value
    }

    fn text<'a>(&mut self, at: &str, name: &str, value: &'a RawValue) -> Option<Cow<'a, str>> {
        match serde_json::from_str::<Text<'a>>(value.get()) {
            Ok(text) => Some(text.0),
            Err(_) => {
                self.add(format!("{at}/{name}"), "type", format!("{name} must be a string"));
                None
            }
        }
    }

    fn name<T>(
        &mut self,
        at: &str,
        name: &str,
        value: &RawValue,
        parse: fn(&str) -> Result<T, NameError>,
    ) -> Option<T> {
        let text = self.text(at, name, value)?;
        match parse(&text) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.add(format!("{at}/{name}"), "format", error.to_string());
                None
            }
        }
    }
}

/// A string that borrows where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn check(
    org: &OrgId,
    draft: &Draft<'_>,
    at: &str,
    limits: &PublishLimits,
    faults: &mut Faults,
    assign: impl FnOnce() -> (EventId, bool),
) -> Option<NewEvent> {
    if !draft.is_object {
        faults.add(at.to_owned(), "type", "an event must be an object with service, event and data".into());
        return None;
    }
    if let Some(name) = draft.repeated {
        faults.add(format!("{at}/{name}"), "repeated", format!("{name} stands more than once"));
    }
    if let Some(name) = &draft.suspect {
        let detail =
            format!("{name} is not a field of an event; the list of users that alone may see it is `users`");
        faults.add(format!("{at}/{name}"), "unknown_field", detail);
    }
    let before = faults.list.len();
    let service = faults.required(at, "service", draft.service);
    let service = service.and_then(|v| faults.name(at, "service", v, ServiceName::parse));
    let name = faults.required(at, "event", draft.event);
    let name = name.and_then(|v| faults.name(at, "event", v, EventName::parse));
    let data = faults.required(at, "data", draft.data);
    let id = draft.id.and_then(|v| faults.name(at, "id", v, EventId::parse));
    let key = draft.key.and_then(|v| faults.name(at, "key", v, Key::parse));
    let users = draft.users.and_then(|v| check_users(v, at, limits, faults));
    let time = draft.time.and_then(|v| {
        let text = faults.text(at, "time", v)?;
        let parsed = OffsetDateTime::parse(&text, &Rfc3339)
            .ok()
            .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
            .filter(|time| (0..=9999).contains(&time.year()));
        if parsed.is_none() {
            let detail = "time must be an RFC 3339 date and time, like 2026-11-24T09:30:00.000Z";
            faults.add(format!("{at}/time"), "format", detail.into());
        }
        parsed
    });
    let (service, name, data) = (service?, name?, data?);
    if faults.list.len() > before {
        return None;
    }
    let (id, is_given) = id.map_or_else(assign, |id| (id, true));

    let mut body = BytesMut::with_capacity(data.get().len() + 128);
    write_member(&mut body, "\"service\":", service.as_str());
    write_member(&mut body, ",\"event\":", name.as_str());
    write_member(&mut body, ",\"id\":", id.as_str());
    if let Some(key) = &key {
        write_member(&mut body, ",\"key\":", key.as_str());
    }
    if let Some(time) = time {
        body.put_slice(b",\"time\":\"");
        write_datetime(&mut body, time);
        body.put_u8(b'"');
    }
    if users.is_some() {
        body.put_slice(b",\"targeted\":true");
    }
    body.put_slice(b",\"data\":");
    if json::write_compact(&mut body, data.get(), limits.depth).is_err() {
        let detail = format!("data nests deeper than limits.json_depth, which allows {}", limits.depth);
        faults.add(format!("{at}/data"), "depth", detail);
        return None;
    }
    let body: Bytes = body.freeze();
    Some(NewEvent {
        dedup: is_given.then(|| dedup_key(org, &service, &id, "")),
        content: content_hash(&body, users.as_deref()),
        service,
        id,
        users,
        body,
    })
}

fn write_member(out: &mut BytesMut, lead: &str, value: &str) {
    out.put_slice(lead.as_bytes());
    json::write_string(out, value);
}

fn check_users(
    value: &RawValue,
    at: &str,
    limits: &PublishLimits,
    faults: &mut Faults,
) -> Option<Arc<[UserId]>> {
    let Ok(texts) = serde_json::from_str::<Vec<Text<'_>>>(value.get()) else {
        faults.add(format!("{at}/users"), "type", "users must be an array of strings".into());
        return None;
    };
    if texts.is_empty() {
        let detail = "users must name at least one user; leave it out for an event that is for everybody";
        faults.add(format!("{at}/users"), "empty", detail.into());
    }
    if texts.len() > limits.users {
        let detail = format!("users names {} users, {} are allowed", texts.len(), limits.users);
        faults.add(format!("{at}/users"), "too_many", detail);
        return None;
    }
    let mut users = BTreeSet::new();
    for (index, text) in texts.iter().enumerate() {
        match UserId::parse(&text.0) {
            Ok(user) => drop(users.insert(user)),
            Err(error) => faults.add(format!("{at}/users/{index}"), "format", error.to_string()),
        }
    }
    Some(users.into_iter().collect())
}

/// The key of R12: a hash over length-prefixed parts, so that no two lists of parts read alike.
pub fn dedup_key(org: &OrgId, service: &ServiceName, id: &EventId, source: &str) -> DedupKey {
    let mut hasher = blake3::Hasher::new();
    for part in [org.as_str(), service.as_str(), id.as_str(), source] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    DedupKey(half(&hasher.finalize()))
}

/// The body holds service, event, id, key, time and data; who may see it stands beside it.
fn content_hash(body: &[u8], users: Option<&[UserId]>) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(body);
    for user in users.unwrap_or_default() {
        // No user holds a comma (`UserId`).
        hasher.update(b",").update(user.as_str().as_bytes());
    }
    ContentHash(half(&hasher.finalize()))
}

fn half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: BodyForm, body: &str) -> Result<Vec<NewEvent>, PublishError> {
        let org = OrgId::parse("acme").expect("a name");
        let limits = PublishLimits { event_bytes: 240, events: 3, depth: 4, users: 2 };
        read_body(&org, form, body.as_bytes(), &limits, &mut |index| {
            (EventId::parse(&format!("drawn-{index}")).expect("an id"), false)
        })
    }

    fn faults(body: &str) -> Vec<(String, &'static str)> {
        match read(BodyForm::Json, body) {
            Err(PublishError::Invalid(faults)) => faults.into_iter().map(|f| (f.pointer, f.code)).collect(),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn an_event_is_encoded_once_token_for_token() {
        let body = r#" { "data" : { "n" : 1.0, "n": 1e5 } , "event":"paid","service":"finance","id":"a","key":"k","time":"2026-11-24T10:00:00+01:00","users":["v","u"], "x": 1 } "#;
        let events = read(BodyForm::Json, body).expect("an event");
        assert_eq!(
            events[0].fragment(7, 0),
            r#""seq":7,"timestamp":"1970-01-01T00:00:00.000Z","service":"finance","event":"paid","id":"a","key":"k","time":"2026-11-24T09:00:00.000Z","targeted":true,"data":{"n":1.0,"n":1e5}"#
        );
        assert!(events[0].dedup.is_some());
        let users: Vec<_> =
            events[0].users.iter().flat_map(|users| users.iter()).map(UserId::as_str).collect();
        assert_eq!(users, ["u", "v"]);
    }

    #[test]
    fn ids_that_the_gateway_draws_stay_out_of_the_dedup_window() {
        let events = read(BodyForm::Ndjson, "{\"service\":\"s\",\"event\":\"e\",\"data\":null}\r\n\n{\"service\":\"s\",\"event\":\"e\",\"data\":1,\"id\":\"x\"}").expect("two events");
        assert_eq!((events[0].id.as_str(), events[0].dedup), ("drawn-0", None));
        assert!(events[1].dedup.is_some());
    }

    #[test]
    fn faulty_fields_are_all_named_with_their_pointers() {
        assert_eq!(faults("[]"), [(String::new(), "empty")]);
        assert_eq!(faults("7"), [(String::new(), "type")]);
        assert_eq!(faults("[{\"service\":\"s\",\"event\":\"e\",\"data\":1},7]"), [("/1".into(), "type")]);
        assert_eq!(
            faults(r#"{"service":"a b","event":7,"users":[],"id":"","key":"\u0000","time":"yesterday"}"#),
            [
                ("/service".into(), "format"),
                ("/event".into(), "type"),
                ("/data".into(), "required"),
                ("/id".into(), "format"),
                ("/key".into(), "format"),
                ("/users".into(), "empty"),
                ("/time".into(), "format"),
            ]
        );
        let good = r#""service":"s","event":"e","data":1"#;
        for (more, pointer, code) in [
            (r#""data":2"#, "/data", "repeated"),
            (r#""user":"u""#, "/user", "unknown_field"),
            (r#""users":["a","b","c"]"#, "/users", "too_many"),
            (r#""users":["a,b"]"#, "/users/0", "format"),
            (r#""users":null"#, "/users", "type"),
            (r#""id":null"#, "/id", "type"),
        ] {
            assert_eq!(faults(&format!("{{{good},{more}}}")), [(pointer.into(), code)], "{more}");
        }
        assert_eq!(faults(r#"{"service":"s","event":"e","data":[[[[[1]]]]]}"#), [("/data".into(), "depth")]);
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for (body, says) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[1", "EOF"),
            ("[]x", "trailing"),
            ("{}x", "trailing"),
            ("nul", "EOF"),
            ("nulx", "expected"),
        ] {
            match read(BodyForm::Json, body) {
                Err(PublishError::NotJson(detail)) => assert!(detail.contains(says), "{body}: {detail}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        let error = read(BodyForm::Ndjson, "{\"service\":\"s\",\"event\":\"e\",\"data\":1}\n{oops")
            .expect_err("not JSON");
        assert!(error.to_string().starts_with("the body is not JSON: line 2: "), "{error}");
    }

    #[test]
    fn sizes_are_bounded() {
        let event = "{\"service\":\"s\",\"event\":\"e\",\"data\":1}";
        let four = format!("[{event},{event},{event},{event}]");
        assert!(matches!(
            read(BodyForm::Json, &four),
            Err(PublishError::TooLarge { limit: "limits.events_per_batch", .. })
        ));
        assert!(matches!(read(BodyForm::Ndjson, &[event; 4].join("\n")), Err(PublishError::TooLarge { .. })));
        let large = format!("{{\"service\":\"s\",\"event\":\"e\",\"data\":\"{}\"}}", "x".repeat(240));
        assert!(matches!(
            read(BodyForm::Json, &large),
            Err(PublishError::TooLarge { limit: "limits.event_bytes", .. })
        ));
    }

    #[test]
    fn r12_dedup_keys_and_content_hashes_tell_all_parts_apart() {
        let org = |text| OrgId::parse(text).expect("a name");
        let service = |text| ServiceName::parse(text).expect("a name");
        let id = |text| EventId::parse(text).expect("an id");
        let one = dedup_key(&org("a"), &service("bc"), &id("d"), "");
        for other in [
            dedup_key(&org("ab"), &service("c"), &id("d"), ""),
            dedup_key(&org("a"), &service("b"), &id("cd"), ""),
            dedup_key(&org("a"), &service("bc"), &id("d"), "e"),
        ] {
            assert_ne!(one, other);
        }
        let content = |body: &str| read(BodyForm::Json, body).expect("an event")[0].content;
        let same = content(r#"{"service":"s","event":"e","id":"1","data":{"a": 1}}"#);
        assert_eq!(same, content(r#"{"data":{"a":1},"id":"1","event":"e","service":"s"}"#));
        for other in [
            r#"{"service":"s","event":"e","id":"1","data":{"a":1.0}}"#,
            r#"{"service":"s","event":"f","id":"1","data":{"a":1}}"#,
            r#"{"service":"s","event":"e","id":"1","data":{"a":1},"key":"k"}"#,
            r#"{"service":"s","event":"e","id":"1","data":{"a":1},"users":["u"]}"#,
        ] {
            assert_ne!(same, content(other), "{other}");
        }
    }
}
