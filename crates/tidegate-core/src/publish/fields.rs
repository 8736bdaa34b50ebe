//! Parses fields, and collects the faulty ones.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use serde::Deserialize;
use tidegate_protocol::UserId;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{Bound, Fault, PublishLimits};
use crate::{
    closest::{did_you_mean, distance},
    json::{self, Unfit},
};

/// How many faulty fields one answer reports: enough for one fault in each event of a usual batch, and a
/// bound on the size of the answer.
pub(super) const FAULTS_MAX: usize = 100;

/// The longest name of an unknown field that an answer repeats, in bytes: another bound on its size.
pub(super) const NAME_MAX: usize = 128;

/// Words that publishers of other systems write for `users`.
const WORDS_FOR_USERS: [&str; 6] = ["recipients", "recipient", "to", "targets", "target", "audience"];

/// How many edits may be between a name and `users` for the name to be taken as a misspelling of it. Two, so
/// that `userids` is one.
const EDITS_MAX: usize = 2;

/// Whether a name other than `users` is probably meant as `users`: it is one of a few words, or nearly the
/// word `users`. Such a name is never ignored, because that would show everybody what was meant for some. Case,
/// hyphens and underscores do not count.
pub fn is_meant_as_users(name: &str) -> bool {
    // As long as the longest word. This is asked about each extension of a body, so nothing is allocated.
    let mut letters = [0; 10];
    let mut length = 0;
    for byte in name.bytes().filter(|byte| !matches!(byte, b'-' | b'_')) {
        let Some(letter) = letters.get_mut(length) else { return false };
        *letter = byte.to_ascii_lowercase();
        length += 1;
    }
    let Ok(letters) = std::str::from_utf8(&letters[..length]) else { return false };
    WORDS_FOR_USERS.contains(&letters)
        || (length.abs_diff("users".len()) <= EDITS_MAX
            && distance(letters, "users").is_some_and(|edits| edits <= EDITS_MAX))
}

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

    /// Whether more faults would not be reported.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= FAULTS_MAX
    }

    /// Reports the unknown member `name` of the object at `at`, which may have the members `known`. If the name
    /// is very long, the pointer is that of the object.
    pub(super) fn unknown(&mut self, at: &str, name: &str, known: &[&str]) {
        if name.len() > NAME_MAX {
            let detail =
                format!("a name of {} bytes is not a field of an event; {}", name.len(), all_of(known));
            self.add(at.to_owned(), "unknown_field", detail);
            return;
        }
        // Escaped, because people read the sentence on terminals.
        let said = name.escape_debug();
        if is_meant_as_users(name) {
            self.meant_as_users(format!("{at}/{}", escaped(name)), &said.to_string());
            return;
        }
        let letters: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect();
        let hint = did_you_mean(&letters.to_ascii_lowercase(), known.iter().copied());
        let hint = if hint.is_empty() { format!("; {}", all_of(known)) } else { hint };
        let detail = format!("`{said}` is not a field of an event{hint}");
        self.add(format!("{at}/{}", escaped(name)), "unknown_field", detail);
    }

    /// Reports a field that was probably meant as `users`.
    pub(super) fn meant_as_users(&mut self, pointer: String, name: &str) {
        let detail = format!(
            "`{name}` is not a field of an event; the list of the only users that may see it is `users`"
        );
        self.add(pointer, "unknown_field", detail);
    }

    /// Reports the strings and numbers of `json`, the value at `at`, that strict readers refuse. If there are
    /// none, it is nested deeper than `limits` allow.
    pub(super) fn unfit(&mut self, json: &str, at: &str, limits: Option<&PublishLimits>) {
        let before = self.list.len();
        json::find_unfit(json, at, |pointer, unfit| {
            self.add(pointer, "format", said(unfit).into());
            !self.is_full()
        });
        if let Some(limits) = limits
            && self.list.len() == before
        {
            let detail = format!("data nests deeper than the {} levels that are allowed", limits.depth);
            self.push(Fault { pointer: at.to_owned(), code: "depth", bound: Some(Bound::Depth), detail });
        }
    }

    /// Reports a string that is not text.
    pub(super) fn lone_surrogate(&mut self, pointer: String) {
        self.add(pointer, "format", LONE_SURROGATE.into());
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

/// The sentence for half of a surrogate pair.
pub(super) const LONE_SURROGATE: &str = "a string has half of a surrogate pair (an escape from \\ud800 to \\udfff \
    without its other half), which is no character; many readers could not parse the event";

fn said(unfit: Unfit) -> &'static str {
    match unfit {
        Unfit::LoneSurrogate => LONE_SURROGATE,
        Unfit::TooLarge | Unfit::TooDeep => {
            "the number is beyond the range of a double (about 1.8e308), so many readers could not parse the event; \
             send it as a string"
        }
    }
}

/// A name as a part of a JSON pointer (RFC 6901, section 3).
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn all_of(known: &[&str]) -> String {
    format!("its fields are {}", known.join(", "))
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
