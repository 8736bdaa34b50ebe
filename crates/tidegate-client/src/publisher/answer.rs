//! What an answer of the gateway means for each event of the request. It has no IO; the same table is tested in
//! TypeScript (spec/publish-answers.json).

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tidegate_protocol::{Cursor, Seq};

use super::{
    delay::{ASKED_MS_MAX, retry_after_ms},
    outcome::FieldError,
};

/// What is asked about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent<'a> {
    pub(super) id: &'a str,
    pub(super) service: &'a str,
    /// Only if the events name their orgs.
    pub(super) org: Option<&'a str>,
}

impl Sent<'_> {
    /// Whether a key covers both or neither.
    fn is_like(&self, other: &Sent<'_>) -> bool {
        (self.org, self.service) == (other.org, other.service)
    }
}

#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Why an event was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Why {
    pub(super) code: String,
    pub(super) detail: String,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub(super) limit: Option<String>,
}

impl Why {
    pub(super) fn new(code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code: code.into(), detail: detail.into(), limit: None }
    }
}

/// What becomes of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize), serde(tag = "kind", rename_all = "lowercase"))]
pub(super) enum Verdict {
    /// The gateway has it.
    Stored {
        seq: Seq,
        #[cfg_attr(test, serde(serialize_with = "tests::as_text"))]
        cursor: Cursor,
        duplicate: bool,
    },
    /// Final, and because of this event alone.
    Refused {
        why: Why,
        #[cfg_attr(test, serde(skip_serializing_if = "Vec::is_empty"))]
        errors: Vec<FieldError>,
    },
    /// Refused with others, without a fault of its own: send it again at once.
    Rest,
    /// Send it again after a delay. `is_known`: it is certainly not stored by this request.
    Again { why: Why, is_known: bool, asked_ms: u64, among: Among },
    /// One of its `among` has a fault, and which is not said: send fewer at a time.
    Split { by: Split, why: Why, among: Among },
}

/// The events that share a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub(super) enum Among {
    Request,
    Org,
}

/// How events are taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub(super) enum Split {
    /// In halves.
    Half,
    /// The events of each service on their own.
    Service,
    /// From now on never so many in one request.
    Events,
    Bytes,
    Orgs,
}

type Json = Map<String, Value>;

struct Problem<'a> {
    why: Why,
    status: u16,
    /// Whether the gateway itself has answered.
    is_ours: bool,
    asked_ms: u64,
    errors: Vec<&'a Json>,
}

impl<'a> Problem<'a> {
    fn of(body: Option<&'a Json>, status: u16, asked_ms: u64) -> Self {
        let text = |name: &str| body.and_then(|body| body.get(name)?.as_str()).map(str::to_owned);
        let asked = body.and_then(|body| body.get("retry_in_ms")?.as_u64()).unwrap_or(0);
        let ours = text("code").zip(text("detail"));
        let is_ours = ours.is_some();
        let why = match ours {
            Some((code, detail)) => Why { code, detail, limit: text("limit") },
            None => Why::new(
                format!("http_{status}"),
                format!(
                    "HTTP {status} without a code of Tidegate; something before the gateway may have sent it"
                ),
            ),
        };
        let errors = objects(body.and_then(|body| body.get("errors")));
        Self { why, status, is_ours, asked_ms: asked.max(asked_ms).min(ASKED_MS_MAX), errors }
    }

    fn is_again(&self) -> bool {
        matches!(self.status, 408 | 425 | 429) || self.status >= 500 || self.why.code == "in_progress"
    }

    /// How events that were refused together are taken apart; `None` if that is of no use.
    fn split(&self, events: &[Sent<'_>]) -> Option<Split> {
        let [first, others @ ..] = events else { return None };
        if others.is_empty() {
            return None;
        }
        match (self.status, self.why.limit.as_deref()) {
            // What a key covers depends on org and service alone.
            (403, _) if self.is_ours => {
                others.iter().any(|other| !other.is_like(first)).then_some(Split::Service)
            }
            (413, Some("limits.events_per_batch")) => Some(Split::Events),
            (413, Some("limits.request_bytes")) => Some(Split::Bytes),
            (413, Some("limits.orgs_per_batch")) => Some(Split::Orgs),
            (409 | 413 | 422, _) => Some(Split::Half),
            _ => None,
        }
    }

    /// The faults of each of `count` events, by its index, with pointers into the event.
    fn faults(&self, count: usize) -> BTreeMap<usize, Vec<FieldError>> {
        let mut faults: BTreeMap<usize, Vec<FieldError>> = BTreeMap::new();
        for error in &self.errors {
            let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            let Some(path) = text("pointer").strip_prefix('/') else { continue };
            let (index, pointer) = path.split_at(path.find('/').unwrap_or(path.len()));
            let is_index = index.bytes().all(|byte| byte.is_ascii_digit());
            let at = index.parse::<usize>().ok().filter(|at| is_index && *at < count);
            let Some(at) = at else { continue };
            faults.entry(at).or_default().push(FieldError {
                pointer: pointer.to_owned(),
                code: text("code").to_owned(),
                detail: text("detail").to_owned(),
                limit: error.get("limit").and_then(Value::as_str).map(str::to_owned),
            });
        }
        faults
    }

    /// What the refusal of `events`, which were refused together, means for each.
    fn judge(self, events: &[Sent<'_>], among: Among) -> Vec<Verdict> {
        if self.is_again() {
            let is_known =
                self.status == 429 || (self.is_ours && self.status != 504 && self.why.code != "internal");
            let Self { why, asked_ms, .. } = self;
            return vec![Verdict::Again { why, is_known, asked_ms, among }; events.len()];
        }
        let mut faults = self.faults(events.len());
        if !faults.is_empty() {
            let verdict = |at| match faults.remove(&at) {
                Some(errors) => {
                    let (detail, limit) = errors
                        .first()
                        .map(|first| (first.detail.clone(), first.limit.clone()))
                        .unwrap_or_default();
                    let why = Why { code: self.why.code.clone(), detail, limit };
                    Verdict::Refused { why, errors }
                }
                None => Verdict::Rest,
            };
            return (0..events.len()).map(verdict).collect();
        }
        let by = self.split(events);
        let mut why = self.why;
        if self.is_ours {
            why.detail = without_index(&why.detail, if events.len() == 1 { "the event" } else { "an event" });
        }
        let verdict = match by {
            Some(by) => Verdict::Split { by, why, among },
            None => Verdict::Refused { why, errors: Vec::new() },
        };
        vec![verdict; events.len()]
    }
}

/// One verdict for each event, in the order of the request. `wall` is now, in milliseconds since 1970.
pub(super) fn read(answer: &Answer, sent: &[Sent<'_>], wall: u64) -> Vec<Verdict> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let body = body.as_ref().and_then(Value::as_object);
    let asked_ms = retry_after_ms(answer.retry_after.as_deref(), wall);
    let status = answer.status;
    if (200..300).contains(&status) {
        let places = matches!(status, 200 | 207).then(|| read_places(body?, sent)).flatten();
        return places.unwrap_or_else(|| {
            let why = Why::new(
                format!("http_{status}"),
                "something answered that is no Tidegate gateway: check the url",
            );
            let asked_ms = asked_ms.min(ASKED_MS_MAX);
            vec![Verdict::Again { why, is_known: false, asked_ms, among: Among::Request }; sent.len()]
        });
    }
    let whole = Problem::of(body, status, asked_ms);
    if status < 400 {
        let location = answer.location.as_deref().unwrap_or("another");
        let detail = format!("the address redirects to {location}: give that one as the url");
        let why = Why::new(whole.why.code, detail);
        return vec![Verdict::Refused { why, errors: Vec::new() }; sent.len()];
    }
    let orgs: BTreeMap<Option<&str>, Option<&Json>> = objects(body.and_then(|body| body.get("orgs")))
        .into_iter()
        .map(|entry| (text(entry, "org"), entry.get("problem").and_then(Value::as_object)))
        .collect();
    if orgs.is_empty() {
        return whole.judge(sent, Among::Request);
    }
    by_org(sent, |org, events| {
        let problem = orgs.get(&org).copied().flatten().or(body);
        Problem::of(problem, status, asked_ms).judge(events, Among::Org)
    })
}

/// A sentence of the gateway with `name` for each "event 7": the gateway counts the events of one request, which the
/// application does not know.
fn without_index(sentence: &str, name: &str) -> String {
    let mut parts = sentence.split("event ");
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let after = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let ends = !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let begins = !said.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let is_index = after.len() < part.len() && begins && ends;
        said.push_str(if is_index { name } else { "event " });
        said.push_str(if is_index { after } else { part });
    }
    said
}

/// An answer with a place for each event; `None` if it is not that.
fn read_places(body: &Json, sent: &[Sent<'_>]) -> Option<Vec<Verdict>> {
    let places = objects(body.get("events"));
    if places.len() != sent.len()
        || places.iter().zip(sent).any(|(place, sent)| text(place, "id") != Some(sent.id))
    {
        return None;
    }
    let orgs: BTreeMap<Option<&str>, &Json> =
        objects(body.get("orgs")).into_iter().map(|entry| (text(entry, "org"), entry)).collect();
    let refused = |org: Option<&str>| {
        let problem = orgs.get(&org)?.get("problem")?.as_object()?;
        let status =
            problem.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
        Some(Problem::of(Some(problem), status.unwrap_or(0), 0))
    };
    let mut verdicts = by_org(sent, |org, events| match org.and_then(|_| refused(org)) {
        Some(problem) => problem.judge(events, Among::Org),
        None => vec![Verdict::Rest; events.len()],
    });
    for ((verdict, sent), place) in verdicts.iter_mut().zip(sent).zip(places) {
        let Some(seq) = place.get("seq").and_then(Value::as_u64) else {
            if *verdict == Verdict::Rest {
                return None;
            }
            continue;
        };
        let cursor = match sent.org {
            None => text(body, "cursor"),
            org => orgs.get(&org).and_then(|entry| text(entry, "cursor")),
        };
        let Cursor { epoch, .. } = cursor?.parse().ok()?;
        let duplicate = place.get("duplicate").and_then(Value::as_bool).unwrap_or(false);
        *verdict = Verdict::Stored { seq, cursor: Cursor::untagged(epoch, seq), duplicate };
    }
    Some(verdicts)
}

/// `judge` sees the events of each org together; the verdicts come in the order of the request.
fn by_org<'a>(
    sent: &[Sent<'a>],
    mut judge: impl FnMut(Option<&'a str>, &[Sent<'a>]) -> Vec<Verdict>,
) -> Vec<Verdict> {
    let mut parts: BTreeMap<Option<&str>, (Vec<Sent<'a>>, Vec<usize>)> = BTreeMap::new();
    for (at, event) in sent.iter().enumerate() {
        let (events, places) = parts.entry(event.org).or_default();
        events.push(*event);
        places.push(at);
    }
    let mut verdicts = vec![Verdict::Rest; sent.len()];
    for (org, (events, places)) in parts {
        for (at, verdict) in places.into_iter().zip(judge(org, &events)) {
            verdicts[at] = verdict;
        }
    }
    verdicts
}

fn objects(value: Option<&Value>) -> Vec<&Json> {
    value
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |list| list.iter().filter_map(Value::as_object).collect())
}

fn text<'a>(object: &'a Json, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    pub(super) fn as_text<S: serde::Serializer>(cursor: &Cursor, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(cursor)
    }

    #[derive(Deserialize)]
    struct Table {
        wall: u64,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        sent: Vec<(String, String, Option<String>)>,
        answer: Given,
        verdicts: Vec<Value>,
    }

    #[derive(Deserialize)]
    struct Given {
        status: u16,
        retry_after: Option<String>,
        location: Option<String>,
        body: Value,
    }

    /// The table of spec/, which the publisher in TypeScript runs, too.
    #[test]
    fn each_answer_means_what_the_shared_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/publish-answers.json");
        let table = std::fs::read_to_string(path).expect("the table");
        let Table { wall, cases } = serde_json::from_str(&table).expect("a table");
        assert!(cases.len() > 40);
        for Case { name, sent, answer, verdicts } in cases {
            let body = match &answer.body {
                Value::String(text) => text.clone(),
                json => json.to_string(),
            };
            let Given { status, retry_after, location, .. } = answer;
            let answer = Answer { status, retry_after, location, body: body.into_bytes() };
            let sent: Vec<_> =
                sent.iter().map(|(id, service, org)| Sent { id, service, org: org.as_deref() }).collect();
            let found = serde_json::to_value(read(&answer, &sent, wall)).expect("JSON");
            assert_eq!(found, Value::Array(verdicts), "{name}");
        }
    }
}
