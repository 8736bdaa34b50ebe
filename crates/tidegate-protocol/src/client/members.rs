//! A JSON object read as a JavaScript client reads it: members in any form, each looked at when it is needed.
//! [`crate::frame::ServerFrame`] is strict about fields that do not move the cursor; a session is not,
//! because a later gateway may change them, and because both languages must agree on every frame.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{SEQ_MAX, Seq};

/// The members of one object, in the order of the text.
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; `None` for any other text.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The member of this name; of several the last. A `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(key, _)| key == name)?;
        (value.get() != "null").then_some(value)
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let value = self.get(name)?.get();
        // Serde borrows a plain `Cow` only inside of a struct.
        match serde_json::from_str::<&str>(value) {
            Ok(text) => Some(Cow::Borrowed(text)),
            Err(_) => serde_json::from_str::<String>(value).ok().map(Cow::Owned),
        }
    }

    /// A whole number from 0 to 2^53 - 1. JSON knows one kind of number: `7.0` and `7e0` are whole too.
    pub(super) fn whole(&self, name: &str) -> Option<u64> {
        whole(self.get(name)?.get())
    }

    /// Whether the member is `true`.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get() == "true")
    }

    /// A list.
    pub(super) fn list(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// The strings of a list.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        let list = self.list(name)?;
        Some(list.into_iter().filter_map(|value| serde_json::from_str(value.get()).ok()).collect())
    }
}

fn whole(text: &str) -> Option<Seq> {
    if let Ok(value) = text.parse::<u64>() {
        return (value <= SEQ_MAX).then_some(value);
    }
    // A string is not a number, though Rust would read some words as one.
    let number = text.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    let value: f64 = text.parse().ok().filter(|_| number)?;
    #[expect(clippy::cast_precision_loss)]
    let fits = value.fract() == 0.0 && (0.0..=SEQ_MAX as f64).contains(&value);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fits.then_some(value as u64)
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                #[derive(Deserialize)]
                struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut members = Vec::with_capacity(12);
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_javascript_reads_them() {
        let text = r#"{"a":1,"a":2,"b":"\u0078","c":[1,"x","y"],"d":null,"e":true,"f":"7","g":{"a":9}}"#;
        let members = Members::read(text).expect("an object");
        assert_eq!(members.whole("a"), Some(2));
        assert_eq!(members.text("b").as_deref(), Some("x"));
        assert_eq!(members.texts("c"), Some(vec!["x".to_owned(), "y".to_owned()]));
        assert!(members.get("d").is_none() && members.get("z").is_none());
        assert!(members.is_true("e") && !members.is_true("a"));
        assert_eq!((members.whole("f"), members.text("a"), members.list("g").is_some()), (None, None, false));
        for other in ["[]", "7", "null", "\"a\"", "", "{", "{} {}"] {
            assert!(Members::read(other).is_none(), "{other}");
        }
        for (number, value) in [
            ("7.0", Some(7)),
            ("7e0", Some(7)),
            ("-0", Some(0)),
            ("9007199254740991", Some(SEQ_MAX)),
            ("9007199254740992", None),
            ("1e300", None),
            ("-1", None),
            ("1.5", None),
            ("\"7\"", None),
            ("true", None),
        ] {
            assert_eq!(whole(number), value, "{number}");
        }
    }
}
