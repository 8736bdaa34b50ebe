//! Parses fields, and collects the faulty ones.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use serde::Deserialize;
use tidegate_protocol::UserId;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{Bound, Fault, PublishLimits};

/// How many faulty fields one answer reports: enough for one fault in each event of a usual batch, and a
/// bound on the size of the answer.
const FAULTS_MAX: usize = 100;

/// The faulty fields of a body so far.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) list: Vec<Fault>,
}

impl Faults {
    pub(super) fn add(&mut self, pointer: String, code: &'static str, detail: String) {
        self.push(Fault { pointer, code, bound: None, detail });
    }

    fn push(&mut self, fault: Fault) {
        if self.list.len() < FAULTS_MAX {
            self.list.push(fault);
        }
    }

    /// Reports a misspelling of `users`.
    pub(super) fn suspect(&mut self, pointer: String, name: &str) {
        let detail = format!(
            "{name} is not a field of an event; the list of the only users that may see it is `users`"
        );
        self.add(pointer, "unknown_field", detail);
    }

    /// Reports data that is nested deeper than allowed.
    pub(super) fn too_deep(&mut self, pointer: String, limits: &PublishLimits) {
        let detail = format!("data nests deeper than the {} levels that are allowed", limits.depth);
        self.push(Fault { pointer, code: "depth", bound: Some(Bound::Depth), detail });
    }

    /// Parses an RFC 3339 time, to UTC.
    pub(super) fn time(&mut self, pointer: impl FnOnce() -> String, text: &str) -> Option<OffsetDateTime> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
            .filter(|time| (0..=9999).contains(&time.year()));
        if parsed.is_none() {
            let detail = "time must be an RFC 3339 date and time, like 2026-11-24T09:30:00.000Z";
            self.add(pointer(), "format", detail.into());
        }
        parsed
    }

    /// Parses a list of users, to a sorted set; `pointer` is that of the list, or of one entry.
    pub(super) fn users<T: AsRef<str>>(
        &mut self,
        texts: &[T],
        limits: &PublishLimits,
        pointer: impl Fn(Option<usize>) -> String,
    ) -> Option<Arc<[UserId]>> {
        if texts.is_empty() {
            let detail = "users must name at least one user; leave it out for an event that is for everybody";
            self.add(pointer(None), "empty", detail.into());
        }
        if texts.len() > limits.users {
            let detail = format!("users names {} users, {} are allowed", texts.len(), limits.users);
            let bound = Some(Bound::Users);
            self.push(Fault { pointer: pointer(None), code: "too_many", bound, detail });
            return None;
        }
        let mut users = BTreeSet::new();
        for (index, text) in texts.iter().enumerate() {
            match UserId::parse(text.as_ref()) {
                Ok(user) => drop(users.insert(user)),
                Err(error) => self.add(pointer(Some(index)), "format", error.to_string()),
            }
        }
        Some(users.into_iter().collect())
    }
}

/// A string that borrows if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
