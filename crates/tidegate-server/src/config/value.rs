//! The types of values: how each is read from TOML, what it takes in words, how it is shown.

use std::{fmt, net::SocketAddr, ops::Range, path::PathBuf, time::Duration};

use tidegate_protocol::{OrgId, ServiceName};

pub use super::raw::{Raw, Value};

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// Where in the source, if not the whole value.
    pub span: Option<Range<usize>>,
    /// The rest of a sentence: `must be ...`.
    pub reason: String,
    /// Further faults of a list or a table, which reports those of all its parts at once.
    pub others: Vec<BadValue>,
}

impl BadValue {
    /// A fault of the whole value.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { span: None, reason: reason.into(), others: Vec::new() }
    }

    /// Every fault, alone.
    pub fn each(mut self) -> Vec<Self> {
        let others = std::mem::take(&mut self.others);
        std::iter::once(self).chain(others.into_iter().flat_map(Self::each)).collect()
    }

    /// The same faults, each changed by `change`.
    pub(super) fn map(self, change: impl Fn(Self) -> Self) -> Self {
        let mut faults = Faults(self.each().into_iter().map(change).collect());
        faults.joined().unwrap_or_else(|| unreachable!("there is one fault at least"))
    }

    /// The same faults; those without a place of their own are at `span`.
    pub(super) fn at(self, span: &Range<usize>) -> Self {
        self.map(|fault| Self { span: fault.span.or_else(|| Some(span.clone())), ..fault })
    }
}

/// Collects the faults of the parts of a value, so that all of them are reported at once.
#[derive(Default)]
pub(super) struct Faults(Vec<BadValue>);

impl Faults {
    /// The part that was read; `None` if it is faulty.
    pub(super) fn take<T>(&mut self, read: Result<T, BadValue>) -> Option<T> {
        read.map_err(|fault| self.0.push(fault)).ok()
    }

    /// Adds a fault.
    pub(super) fn add(&mut self, fault: BadValue) {
        self.0.push(fault);
    }

    /// The faults as one; `None` if there are none.
    pub(super) fn joined(&mut self) -> Option<BadValue> {
        let mut faults = std::mem::take(&mut self.0).into_iter().flat_map(BadValue::each);
        let first = faults.next()?;
        Some(BadValue { others: faults.collect(), ..first })
    }
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// Whether a value may be or hold a secret.
    const SECRET: bool = false;
    /// Whether any text is a value. If it opens like a list or a table and is none, it is a slip.
    const ANY_TEXT: bool = false;

    /// What values it takes, to stand after "must be".
    fn kind() -> String;

    /// Reads a value.
    fn read(raw: &Raw) -> Result<Self, BadValue>;

    /// The value as TOML, secrets redacted.
    fn show(&self) -> String;
}

/// `text` as a TOML string.
pub fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A fault that says what was given and which values the key takes.
pub(super) fn mismatch<T: Setting>(raw: &Raw) -> BadValue {
    let shown = if T::SECRET { "the value".to_owned() } else { describe(&raw.value) };
    BadValue::new(format!("{shown} must be {}", T::kind()))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Text(text) if text.chars().count() > 80 => "the text".to_owned(),
        Value::Text(text) => quoted(text),
        Value::Integer(integer) => integer.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Other(text) => text.clone(),
        Value::List(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

/// The most that a count may be: enough for anything, and safe to add and multiply in 64 bits.
const LARGEST_COUNT: i64 = u32::MAX as i64;

impl Setting for usize {
    fn kind() -> String {
        format!("a whole number from 1 to {LARGEST_COUNT}")
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match raw.value {
            Value::Integer(count @ 1..=LARGEST_COUNT) => {
                usize::try_from(count).map_err(|_| mismatch::<Self>(raw))
            }
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    fn kind() -> String {
        "true or false".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match raw.value {
            Value::Boolean(truth) => Ok(truth),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! names {
    ($($Name:ident: $what:literal),*) => { $(
        impl Setting for $Name {
            fn kind() -> String {
                concat!("the name of ", $what).to_owned()
            }

            fn read(raw: &Raw) -> Result<Self, BadValue> {
                let Value::Text(text) = &raw.value else { return Err(mismatch::<Self>(raw)) };
                $Name::parse(text).map_err(|error| BadValue::new(error.to_string()))
            }

            fn show(&self) -> String {
                quoted(self.as_str())
            }
        }
    )* };
}

names! { OrgId: "an org", ServiceName: "a service" }

impl Setting for String {
    const ANY_TEXT: bool = true;

    fn kind() -> String {
        "text in quotes".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const ANY_TEXT: bool = true;

    fn kind() -> String {
        "a path in quotes".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text) if !text.is_empty() => Ok(PathBuf::from(text)),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl<T: Setting> Setting for Option<T> {
    const SECRET: bool = T::SECRET;
    const ANY_TEXT: bool = T::ANY_TEXT;

    fn kind() -> String {
        format!("{}, or \"\" for none", T::kind())
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text) if text.is_empty() => Ok(None),
            _ => T::read(raw).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "\"\"".to_owned(), T::show)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn kind() -> String {
        format!("a list, each {}", T::kind())
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let Value::List(items) = &raw.value else {
            return Err(mismatch::<Self>(raw));
        };
        let mut faults = Faults::default();
        let read = |item: &Raw| T::read(item).map_err(|fault| fault.at(&item.span));
        let values = items.iter().filter_map(|item| faults.take(read(item))).collect();
        faults.joined().map_or(Ok(values), Err)
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

impl Setting for SocketAddr {
    fn kind() -> String {
        "an IP address and port such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        match &raw.value {
            Value::Text(text) => text.parse().map_err(|_| mismatch::<Self>(raw)),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Parses text that is a run of numbers with units; `None` if it is not one, or is too large.
fn sum_of_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0u64;
    let mut last = u64::MAX;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = rest[..digits].parse::<u64>().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (_, factor) = units.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        // Largest unit first, each once: `1h30m`, not `30m1h`.
        if *factor >= last {
            return None;
        }
        last = *factor;
        sum = sum.checked_add(number.checked_mul(*factor)?)?;
    }
    Some(sum)
}

const TIME_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Ten years: a longer time is a mistake, and would overflow clocks later.
const LONGEST_MILLIS: u64 = 3653 * 86_400_000;

impl Setting for Duration {
    fn kind() -> String {
        "a time with its unit such as \"50ms\", \"30s\", \"5m\", \"1h30m\" or \"7d\"".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let Value::Text(text) = &raw.value else {
            return Err(mismatch::<Self>(raw));
        };
        match sum_of_units(text, TIME_UNITS) {
            Some(millis) if millis <= LONGEST_MILLIS => Ok(Duration::from_millis(millis)),
            Some(_) => Err(BadValue::new(format!("{} is more than ten years", quoted(text)))),
            None => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&humane(*self))
    }
}

/// Reads a time with its unit, as the file has it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::read(&Raw::text(text)).map_err(|fault| fault.reason)
}

/// A duration as the file would have it, in the largest unit that gives a whole number.
pub fn humane(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // Nothing is "0s", and a day is how people say "24h".
    let fits = |(unit, factor): &&(&str, u64)| match *unit {
        "d" => millis > *factor && millis.is_multiple_of(*factor),
        _ => millis >= *factor && millis.is_multiple_of(*factor),
    };
    let (unit, factor) = TIME_UNITS.iter().find(fits).unwrap_or(&("s", 1000));
    format!("{}{unit}", millis / factor)
}

const BYTE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// As a file size.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As a size in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            BYTE_UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor)).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Setting for ByteSize {
    fn kind() -> String {
        "a size with its unit such as \"512B\", \"64KiB\", \"4MiB\" or \"1GiB\", more than nothing".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let Value::Text(text) = &raw.value else {
            return Err(mismatch::<Self>(raw));
        };
        match sum_of_units(text, BYTE_UNITS) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(mismatch::<Self>(raw)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}
