//! Positions in a log: epoch, seq, and the cursor text that carries both.
//!
//! A cursor is written `<epoch>-<seq>` or `<epoch>-<seq>-<tag>` (R4). Applications treat it as
//! opaque; clients and gateways compose it.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, de::Error as _};

/// The position of an event in its org's log. It only rises, need not be dense, and stays below 2^53, so
/// that a JavaScript number holds it exactly.
pub type Seq = u64;

/// The highest seq that a log may assign (2^53 - 1, `Number.MAX_SAFE_INTEGER`).
pub const SEQ_MAX: Seq = (1 << 53) - 1;

const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

fn base36(mut value: u64, width: usize) -> String {
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        *digit = BASE36[(value % 36) as usize];
        value /= 36;
    }
    digits.into_iter().map(char::from).collect()
}

fn is_token(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// One incarnation of a log: a random word, new at each start of the engine that keeps the log (R10, R11).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The grammar as a regular expression (ECMA-262), for descriptions of the API.
    pub const PATTERN: &'static str = "^[0-9a-z]{1,32}$";

    /// An epoch from 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self(base36(bits, 13).into())
    }

    /// Parses `[0-9a-z]{1,32}`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        is_token(text, 32).then(|| Self(text.into()))
    }

    /// The epoch as it stands in cursors.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A short hash of the services that a cursor accounts for (R4): 8 base-36 digits (41 bits) of BLAKE3. It
/// finds a change of filter; it does not protect against forgery, because a cursor grants nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FilterTag(Arc<str>);

impl FilterTag {
    /// The grammar as a regular expression (ECMA-262), for descriptions of the API.
    pub const PATTERN: &'static str = "^[0-9a-z]{1,16}$";

    /// The tag of a canonical filter text (see [`crate::Filter`]).
    pub(crate) fn of(canonical: &str) -> Self {
        let hash = blake3::hash(canonical.as_bytes());
        let mut bits = [0; 8];
        bits.copy_from_slice(&hash.as_bytes()[..8]);
        Self(base36(u64::from_be_bytes(bits) % 36u64.pow(8), 8).into())
    }

    /// Parses `[0-9a-z]{1,16}`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        is_token(text, 16).then(|| Self(text.into()))
    }

    /// The tag as it stands in cursors.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FilterTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilterTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reader's position: all that it may see up to `seq` of `epoch` has been seen.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The incarnation of the log that `seq` belongs to.
    pub epoch: Epoch,
    /// The last position accounted for.
    pub seq: Seq,
    /// Which services it accounts for; absent (from a publish answer), it matches any filter.
    pub tag: Option<FilterTag>,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cursor must be <epoch>-<seq> or <epoch>-<seq>-<tag>, as hello, gap or a publish answer gave it")]
pub struct CursorError;

impl Cursor {
    /// The grammar as a regular expression (ECMA-262), for descriptions of the API. It allows seqs below
    /// 10^15: the exact bound, 2^53 - 1, would make it unreadable, and no log gets there.
    pub const PATTERN: &'static str = "^[0-9a-z]{1,32}-(0|[1-9][0-9]{0,14})(-[0-9a-z]{1,16})?$";

    /// A cursor without a filter tag.
    pub fn untagged(epoch: Epoch, seq: Seq) -> Self {
        Self { epoch, seq, tag: None }
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let mut parts = text.split('-');
        let epoch = parts.next().and_then(Epoch::parse).ok_or(CursorError)?;
        let digits = parts.next().ok_or(CursorError)?;
        // `u64::from_str` accepts a sign, and a leading zero would give one position two texts.
        let canonical =
            digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        let seq = digits.parse::<Seq>().ok().filter(|seq| canonical && *seq <= SEQ_MAX).ok_or(CursorError)?;
        let tag = match parts.next() {
            None => None,
            Some(tag) => Some(FilterTag::parse(tag).ok_or(CursorError)?),
        };
        if parts.next().is_some() {
            return Err(CursorError);
        }
        Ok(Self { epoch, seq, tag })
    }
}

/// Reads a string that `parse` accepts.
fn deserialize_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Option<T>,
    error: impl fmt::Display,
) -> Result<T, D::Error> {
    let text = Cow::<str>::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom(error))
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, Self::parse, "epoch must be 1 to 32 of 0-9 a-z")
    }
}

impl<'de> Deserialize<'de> for FilterTag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, Self::parse, "filter must be 1 to 16 of 0-9 a-z")
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, |text| text.parse().ok(), CursorError)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)?;
        match &self.tag {
            Some(tag) => write!(f, "-{tag}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn r4_cursor_text_has_one_form() {
        for good in ["a-0", "0z9-12", "abc-9007199254740991-f00"] {
            assert_eq!(good.parse::<Cursor>().expect(good).to_string(), good);
        }
        for bad in [
            "",
            "-",
            "a",
            "a-",
            "-1",
            "a-01",
            "a-+1",
            "a--1",
            "a-1-",
            "a-1-b-c",
            "A-1",
            "a-1-B",
            "a-9007199254740992",
            "a-18446744073709551616",
            "a-1 ",
            " a-1",
            "é-1",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn patterns_are_the_grammars(text in "[0-9a-zA]{1,34}(-[01]?[0-9]{0,15}){0,2}(-[0-9a-z]{0,17})?\n?") {
            let agrees = |pattern: &str, parsed: bool| {
                regex::Regex::new(pattern).expect(pattern).is_match(&text) == parsed
            };
            let cursor = text.parse::<Cursor>();
            prop_assume!(cursor.as_ref().map_or(true, |cursor| cursor.seq < 1_000_000_000_000_000));
            prop_assert!(agrees(Cursor::PATTERN, cursor.is_ok()));
            prop_assert!(agrees(Epoch::PATTERN, Epoch::parse(&text).is_some()));
            prop_assert!(agrees(FilterTag::PATTERN, FilterTag::parse(&text).is_some()));
        }

        #[test]
        fn cursor_text_round_trips(bits: u64, seq in 0..=SEQ_MAX, tag in proptest::option::of("[0-9a-z]{1,16}")) {
            let cursor = Cursor { epoch: Epoch::from_random(bits), seq, tag: tag.as_deref().and_then(FilterTag::parse) };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }

        #[test]
        fn any_text_parses_or_is_refused(text: String) {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
