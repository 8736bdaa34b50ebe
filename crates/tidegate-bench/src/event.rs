//! The events that are published. Each carries a mark: its publisher, its number and its scheduled time.
//! Every event of a run is unique, so readers can count them.
//!
//! The mark is inside the event's `data`, as text that no server changes, so one scan finds it whatever the
//! server wraps around it.

use std::{fmt::Write as _, path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use memchr::memmem::Finder;
use serde_json::value::RawValue;

/// Identifies an event: its publisher, its number, and its scheduled time (microseconds on the run's clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub publisher: u16,
    pub number: u32,
    pub intended_us: u64,
}

/// The publisher number of probes: events that check whether readers receive anything. They are not counted.
pub const PROBE: u16 = u16::MAX;

/// Finds the marks of one run.
#[derive(Debug, Clone)]
pub struct Marks {
    run: Arc<str>,
    finder: Finder<'static>,
}

impl Marks {
    /// The marks of the run with this number. The number is part of each mark, so that an event left over
    /// from another run is not counted.
    pub fn of_run(run: u32) -> Self {
        let run: Arc<str> = format!("{run:08x}").into();
        let finder = Finder::new(&format!("tgb~{run}~")).into_owned();
        Self { run, finder }
    }

    /// Appends the mark's text.
    pub fn write(&self, out: &mut String, mark: Mark) {
        // Writing to a `String` cannot fail.
        let _ = write!(out, "tgb~{}~{}~{}~{}~", self.run, mark.publisher, mark.number, mark.intended_us);
    }

    /// Calls `each` with every mark in `text`, in order.
    pub fn scan(&self, text: &[u8], mut each: impl FnMut(Mark)) {
        let mut rest = text;
        while let Some(at) = self.finder.find(rest) {
            rest = &rest[at + self.finder.needle().len()..];
            let mut digits = Digits(rest);
            let mark = (|| {
                let publisher = digits.next()?.try_into().ok()?;
                let number = digits.next()?.try_into().ok()?;
                Some(Mark { publisher, number, intended_us: digits.next()? })
            })();
            if let Some(mark) = mark {
                each(mark);
            }
            rest = digits.0;
        }
    }
}

/// Decimal numbers, each ended by `~`.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn next(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for (index, byte) in self.0.iter().enumerate() {
            match byte {
                b'0'..=b'9' => number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
                b'~' if index > 0 => {
                    self.0 = &self.0[index + 1..];
                    return Some(number);
                }
                _ => return None,
            }
        }
        None
    }
}

/// What events contain.
#[derive(Debug, Clone)]
pub enum Payload {
    /// An update of an order, of about this many bytes.
    Order { bytes: usize },
    /// Real webhooks, in turn.
    Webhooks(Arc<[Webhook]>),
}

/// One webhook as it was sent.
#[derive(Debug)]
pub struct Webhook {
    name: String,
    body: Box<RawValue>,
}

impl Payload {
    /// Reads `index.json` of the npm package `@octokit/webhooks-examples`: a list of `{name, examples}`.
    pub fn webhooks(path: &Path) -> anyhow::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Kind {
            name: String,
            examples: Vec<Box<RawValue>>,
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read {} (npm ci --prefix tests/npm installs it)", path.display()))?;
        let kinds: Vec<Kind> = serde_json::from_str(&text)
            .with_context(|| format!("read {} as a list of {{name, examples}}", path.display()))?;
        let mut webhooks = Vec::new();
        for kind in kinds {
            for example in kind.examples {
                // In the form that servers send: without white space between tokens.
                let value: serde_json::Value = serde_json::from_str(example.get())?;
                let body = serde_json::value::to_raw_value(&value)?;
                webhooks.push(Webhook { name: kind.name.clone(), body });
            }
        }
        ensure!(!webhooks.is_empty(), "{} holds no examples", path.display());
        Ok(Self::Webhooks(webhooks.into()))
    }

    /// Its name in a report.
    pub fn name(&self) -> String {
        match self {
            Self::Order { bytes } => format!("{bytes} B"),
            Self::Webhooks(webhooks) => format!("{} webhooks", webhooks.len()),
        }
    }

    /// Writes an event as it is published: JSON, the mark in its data.
    pub fn write(&self, out: &mut String, marks: &Marks, service: &str, mark: Mark) {
        let begin = out.len();
        let Mark { publisher, number, .. } = mark;
        let _ = write!(out, r#"{{"service":"{service}","event":""#);
        match self {
            Self::Order { bytes } => {
                let _ = write!(out, r#"order.updated","id":"{publisher}-{number}","data":{{"mark":""#);
                marks.write(out, mark);
                out.push('"');
                let mut random = Mixed(u64::from(number) << 16 | u64::from(publisher));
                pad(out, begin + bytes.saturating_sub(2), &mut random);
                out.push_str("}}");
            }
            Self::Webhooks(webhooks) => {
                let index = (number as usize).wrapping_mul(31).wrapping_add(usize::from(publisher) * 7);
                let webhook = &webhooks[index % webhooks.len()];
                let _ = write!(out, r#"{}","id":"{publisher}-{number}","data":{{"mark":""#, webhook.name);
                marks.write(out, mark);
                let _ = write!(out, r#"","body":{}}}}}"#, webhook.body.get());
            }
        }
    }
}

/// Adds members until `out` is about `end` bytes long. Their values vary as the fields of real orders do, so
/// that the events are not easier to compress than real ones.
fn pad(out: &mut String, end: usize, random: &mut Mixed) {
    const STATES: [&str; 6] = ["created", "paid", "packed", "shipped", "delivered", "returned"];
    const WORDS: [&str; 16] = [
        "leave",
        "ring",
        "front",
        "desk",
        "fragile",
        "gift",
        "call",
        "before",
        "noon",
        "floor",
        "gate",
        "left",
        "deliver",
        "to",
        "neighbour",
        "box",
    ];
    const WAREHOUSES: [&str; 4] = ["north-3", "north-7", "east-1", "harbour-2"];
    let order = random.next();
    let fields = [
        format!(r#","state":"{}""#, STATES[(random.next() % 6) as usize]),
        format!(r#","order":"ORD-2026-{:07}""#, order % 10_000_000),
        format!(r#","total":{}.{:02}"#, random.next() % 900, random.next() % 100),
        format!(r#","customer":"cus_{:08x}""#, random.next() as u32),
        format!(r#","warehouse":"{}""#, WAREHOUSES[(random.next() % 4) as usize]),
        format!(r#","items":{}"#, 1 + random.next() % 12),
    ];
    for field in fields {
        if out.len() + field.len() <= end {
            out.push_str(&field);
        }
    }
    let open = r#","note":""#;
    if out.len() + open.len() + 2 > end {
        return;
    }
    out.push_str(open);
    while out.len() + 1 < end {
        let word = WORDS[(random.next() % 16) as usize];
        let room = end - 1 - out.len();
        out.push_str(&word[..word.len().min(room)]);
        if word.len() < room {
            out.push(' ');
        }
    }
    out.push('"');
}

/// Pseudo-random numbers that are the same in every run (SplitMix64, Steele et al. 2014).
struct Mixed(u64);

impl Mixed {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(marks: &Marks, text: &str) -> Vec<Mark> {
        let mut found = Vec::new();
        marks.scan(text.as_bytes(), |mark| found.push(mark));
        found
    }

    #[test]
    fn marks_are_found_in_whatever_is_around_them() {
        let marks = Marks::of_run(0xBEEF);
        let one = Mark { publisher: 3, number: 41, intended_us: 9_000_000_001 };
        let two = Mark { publisher: 0, number: 0, intended_us: 0 };
        let mut text = String::from("42[\"event\",{\"mark\":\"");
        marks.write(&mut text, one);
        text.push_str("\"}]\n{\"mark\":\"");
        marks.write(&mut text, two);
        assert_eq!(found(&marks, &text), [one, two]);
        assert_eq!(found(&Marks::of_run(0xBEE0), &text), [], "those of another run are not ours");
        for end in 0..text.len() {
            let cut = found(&marks, &text[..end]);
            assert!(cut.iter().all(|mark| [one, two].contains(mark)), "a cut mark is no mark: {cut:?}");
        }
    }

    #[test]
    fn an_order_is_json_of_the_size_that_was_asked() {
        let marks = Marks::of_run(1);
        for bytes in [100, 150, 200, 280, 1000] {
            for number in [0, 1, 99_999] {
                let mark = Mark { publisher: 12, number, intended_us: 12_345_678 };
                let mut text = String::new();
                Payload::Order { bytes }.write(&mut text, &marks, "orders", mark);
                serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
                assert_eq!(found(&marks, &text), [mark]);
                if bytes >= 150 {
                    assert!(text.len().abs_diff(bytes) <= 20, "{} for {bytes}: {text}", text.len());
                }
            }
        }
    }
}
