//! Names of orgs, services, users and events: parsed once, then never checked again.
//!
//! Each type holds text that is known to obey its grammar (PROTOCOL.md, "Names"). Other text is refused with
//! a sentence that states the grammar; it is never cleaned up. A clone shares its memory with the original.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

/// The text is not a name; the sentence states what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {rule}")]
pub struct NameError {
    /// The kind of name, as users call it: `org`, `service`, ...
    pub kind: &'static str,
    /// The grammar in words.
    pub rule: &'static str,
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes[0] != b'.'
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn is_event_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

fn is_printable(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_user(text: &str) -> bool {
    is_printable(text) && !text.contains(',')
}

fn is_line(text: &str) -> bool {
    (1..=1024).contains(&text.len()) && !text.contains(char::is_control)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:path, $pattern:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The grammar as a regular expression (ECMA-262), for descriptions of the API.
            pub const PATTERN: &'static str = $pattern;
            /// The grammar in words.
            pub const RULE: &'static str = $rule;

            /// Parses `text`.
            ///
            /// # Errors
            /// [`NameError`] if it is outside the grammar, [`Self::RULE`].
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, rule: Self::RULE })
                }
            }

            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// A tenant. It has a log of its own; nothing crosses from one org to another.
    OrgId, "org", is_label,
    r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$",
    "1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with a dot"
}
name! {
    /// The part of the tenant's backend that an event belongs to (`finance`, `staff`). Grants and filters
    /// name services.
    ServiceName, "service", is_label,
    r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$",
    "1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with a dot"
}
name! {
    /// What happened (`invoice.paid`).
    EventName, "event", is_event_name,
    r"^[A-Za-z0-9._:-]{1,128}$",
    "1 to 128 characters of A-Z a-z 0-9 . _ : -"
}
name! {
    /// The publisher's identity of an event, unique per (org, service) within the dedup window.
    EventId, "id", is_printable,
    r"^[!-~]{1,128}$",
    "1 to 128 printable ASCII characters without space"
}
name! {
    /// What the event is about; the `latest` policy keeps the last event per (service, key).
    Key, "key", is_printable,
    r"^[!-~]{1,128}$",
    "1 to 128 printable ASCII characters without space"
}
name! {
    /// A subscriber, as its token's subject names it.
    UserId, "user", is_user,
    r"^[!-+\--~]{1,128}$",
    "1 to 128 printable ASCII characters without space or comma"
}

name! {
    /// `source` of a CloudEvent (1.0.2, "source"): where it comes from. Source and id identify the event.
    Source, "source", is_line,
    r"^[^\x00-\x1f\x7f-\x9f]{1,1024}$",
    "1 to 1024 bytes of text without control characters"
}
name! {
    /// `subject` of a CloudEvent (1.0.2, "subject"): what it is about, within its source.
    Subject, "subject", is_line,
    r"^[^\x00-\x1f\x7f-\x9f]{1,1024}$",
    "1 to 1024 bytes of text without control characters"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    proptest! {
        #[test]
        fn patterns_are_the_grammars(text in r"[ -~]{0,4}|[A-Za-z0-9._:,-]{60,68}|[!-~]{120,132}|\PC{0,3}\n?") {
            let agrees = |pattern: &str, parsed: bool| Regex::new(pattern).expect(pattern).is_match(&text) == parsed;
            prop_assert!(agrees(OrgId::PATTERN, OrgId::parse(&text).is_ok()), "org {text:?}");
            prop_assert!(agrees(ServiceName::PATTERN, ServiceName::parse(&text).is_ok()), "service {text:?}");
            prop_assert!(agrees(EventName::PATTERN, EventName::parse(&text).is_ok()), "event {text:?}");
            prop_assert!(agrees(EventId::PATTERN, EventId::parse(&text).is_ok()), "id {text:?}");
            prop_assert!(agrees(Key::PATTERN, Key::parse(&text).is_ok()), "key {text:?}");
            // Counted in characters, and parsed in bytes: the same for what is this short.
            prop_assert!(agrees(Source::PATTERN, Source::parse(&text).is_ok()), "source {text:?}");
            prop_assert!(agrees(Subject::PATTERN, Subject::parse(&text).is_ok()), "subject {text:?}");
            prop_assert!(agrees(UserId::PATTERN, UserId::parse(&text).is_ok()), "user {text:?}");
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused_not_cleaned() {
        for good in ["a", "A-b_c.9", "-x", "_", &"a".repeat(64)] {
            assert_eq!(OrgId::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", ".a", "a b", "ä", "a/b", "a%20", "a\n", &"a".repeat(65)] {
            let error = OrgId::parse(bad).expect_err(bad);
            assert!(error.to_string().starts_with("org must be 1 to 64"), "{error}");
        }
        assert!(EventName::parse("invoice.paid:v2").is_ok());
        assert!(EventName::parse("invoice paid").is_err());
        assert!(EventId::parse("a,b\"\\").is_ok());
        assert!(EventId::parse("a b").is_err());
        assert!(UserId::parse("a,b").is_err());
        assert!(UserId::parse("mail@example.org").is_ok());
        for good in ["/a b", "urn:ä", &"ä".repeat(512)] {
            assert!(Source::parse(good).is_ok() && Subject::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "\u{0}", "\u{7f}", "\u{85}", &"ä".repeat(513)] {
            assert!(Source::parse(bad).is_err() && Subject::parse(bad).is_err(), "{bad}");
        }
    }
}
