//! The scenarios as `spec/conformance.toml` has them: what the server does, and what the client must do and
//! deliver. Reading alone; [`super::run`] plays them.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tidegate_protocol::Seq;

use super::step::Step;

/// The file.
const FILE: &str = include_str!("../../../../spec/conformance.toml");

/// How long a scenario may take if it does not say.
const DEADLINE_S: u64 = 45;

/// One of the two ways to read a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket.
    Ws,
    /// Server-sent events.
    Sse,
}

impl Transport {
    /// Both of them.
    pub const ALL: [Transport; 2] = [Transport::Ws, Transport::Sse];

    /// The word of the command line and of the scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Ws => "ws",
            Transport::Sse => "sse",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What not every client can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// It gets a new token if the old one has expired.
    Token,
    /// After a new epoch it skips an event that it has delivered before.
    Dedup,
    /// It can be started with a cursor.
    Cursor,
}

impl Need {
    /// The word of the command line and of the scenarios.
    pub const fn name(self) -> &'static str {
        match self {
            Need::Token => "token",
            Need::Dedup => "dedup",
            Need::Cursor => "cursor",
        }
    }
}

/// What the client's request must offer, or a scenario says nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Offer {
    /// The WebSocket extension of RFC 7692.
    #[serde(rename = "permessage-deflate")]
    Deflate,
    /// In `Accept-Encoding`, for SSE.
    #[serde(rename = "gzip")]
    Gzip,
    /// The parameter of the address.
    #[serde(rename = "batch=gzip")]
    GzipBatch,
}

impl Offer {
    /// The words for people.
    pub const fn name(self) -> &'static str {
        match self {
            Offer::Deflate => "permessage-deflate",
            Offer::Gzip => "gzip in Accept-Encoding",
            Offer::GzipBatch => "batch=gzip in its address",
        }
    }
}

/// One thing that the client hands to its application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event {
        /// Its seq.
        seq: Seq,
        /// Its id.
        id: String,
    },
    /// A gap that the gateway has declared.
    Gap {
        /// The client has everything up to here.
        prev: Seq,
        /// The stream continues after this seq.
        seq: Seq,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delivery::Event { seq, id } => write!(f, "the event {id} (seq {seq})"),
            Delivery::Gap { prev, seq, reason } => {
                write!(f, "the gap from {prev} to {seq} (reason {reason})")
            }
        }
    }
}

/// The id that an event has if its step gives no other.
pub fn id_of(seq: Seq) -> String {
    format!("e-{seq}")
}

/// One scenario, checked.
#[derive(Debug)]
pub struct Scenario {
    /// Its name; also the first part of the org of each of its runs.
    pub name: String,
    /// What happens, for people.
    pub about: String,
    /// Which rule asks for it.
    pub rule: String,
    /// For which transports it is.
    pub transports: Vec<Transport>,
    /// The cursor that the client is started with.
    pub start: Option<String>,
    /// What a client must be able to do for it.
    pub needs: Vec<Need>,
    /// What the client must offer for it.
    pub offers: Option<Offer>,
    /// How long it may take, in milliseconds.
    pub deadline_ms: u64,
    /// The script as written.
    pub script: String,
    /// The same, read.
    pub steps: Vec<Step>,
    /// What must be delivered, in order, without the last event of `done`.
    pub delivers: Vec<Delivery>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    about: String,
    rule: String,
    #[serde(default = "both")]
    transports: Vec<Transport>,
    start: Option<String>,
    #[serde(default)]
    needs: Vec<Need>,
    offers: Option<Offer>,
    #[serde(default)]
    each: Vec<String>,
    deadline_s: Option<u64>,
    script: String,
    delivers: Vec<String>,
}

fn both() -> Vec<Transport> {
    Transport::ALL.to_vec()
}

/// All scenarios, in the order of the file.
///
/// # Errors
/// A sentence, if the file is faulty: a fault of ours, which a test finds.
pub fn all() -> Result<Vec<Scenario>, String> {
    let file: File = toml::from_str(FILE).map_err(|error| error.to_string())?;
    let mut scenarios = Vec::new();
    for written in file.scenario {
        if written.each.is_empty() {
            scenarios.push(read(&written, "")?);
        }
        for each in &written.each {
            scenarios.push(read(&written, each)?);
        }
    }
    let mut names = BTreeSet::new();
    match scenarios.iter().find(|scenario| !names.insert(&scenario.name)) {
        Some(twice) => Err(format!("{}: the name is used twice", twice.name)),
        None => Ok(scenarios),
    }
}

fn read(written: &Written, each: &str) -> Result<Scenario, String> {
    let fill = |text: &str| text.replace("{each}", each);
    let name = fill(&written.name);
    let script = fill(written.script.trim());
    let mut steps = Vec::new();
    for (at, line) in script.lines().enumerate() {
        for line in batches_of(line) {
            steps.push(Step::from_str(&line).map_err(|error| format!("{name}, step {}: {error}", at + 1))?);
        }
    }
    let mut delivers = Vec::new();
    for text in &written.delivers {
        deliveries(text, &mut delivers).ok_or_else(|| format!("{name}: delivers {text:?}"))?;
    }
    let mut needs = written.needs.clone();
    if written.start.is_some() {
        needs.push(Need::Cursor);
    }
    Ok(Scenario {
        about: fill(&written.about),
        rule: written.rule.clone(),
        transports: written.transports.clone(),
        start: written.start.clone(),
        needs,
        offers: written.offers,
        deadline_ms: written.deadline_s.unwrap_or(DEADLINE_S) * 1000,
        name,
        script,
        steps,
        delivers,
    })
}

/// Reads `4`, `4-9`, `4 id`, or `gap <prev> <seq> <reason>`.
fn deliveries(text: &str, into: &mut Vec<Delivery>) -> Option<()> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["gap", prev, seq, reason] => into.push(Delivery::Gap {
            prev: prev.parse().ok()?,
            seq: seq.parse().ok()?,
            reason: reason.to_owned(),
        }),
        [seqs] => into.extend(seqs_of(seqs)?.map(|seq| Delivery::Event { seq, id: id_of(seq) })),
        [seq, id] => into.push(Delivery::Event { seq: seq.parse().ok()?, id: id.to_owned() }),
        _ => return None,
    }
    Some(())
}

/// `storm <first>-<last> by=<n>` as many steps `batch`; any other line as it is.
fn batches_of(line: &str) -> Vec<String> {
    let storm = || {
        let (seqs, by) = line.strip_prefix("storm ")?.split_once(" by=")?;
        let (seqs, by) = (seqs_of(seqs)?, by.parse::<u64>().ok()?.max(1));
        let firsts = seqs.clone().step_by(usize::try_from(by).ok()?);
        Some(firsts.map(|first| format!("batch {first}-{}", (first + by - 1).min(*seqs.end()))).collect())
    };
    storm().unwrap_or_else(|| vec![line.to_owned()])
}

/// Reads `4` or `4-9`.
pub fn seqs_of(text: &str) -> Option<std::ops::RangeInclusive<Seq>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}
