//! What the client delivers, against what the script says, and when a run has passed or failed.

use serde_json::Value;

use super::super::{
    scenario::Delivery,
    step::{Expect, Step},
};
use super::{AUTH_MS, DONE_ID, Outcome, Run};

/// How long a client that must not come back is watched: longer than the longest first delay, 6 s.
const QUIET_MS: u64 = 8000;

/// How long the client may be ahead of the script: it may act on a frame before the script is past it.
const AHEAD_MS: u64 = 2000;

/// The most that is shown of what the client sends or prints.
const SHOWN_CHARS: usize = 300;

/// What asks for lines of a certain form.
const PRINTS: &str = "spec/README.md, \"What your client prints\"";

/// Why the client will print nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// It printed a line `end`; with this code, if it said.
    Said(Option<String>),
    /// It reported without such a line.
    Reported,
    /// Its process ended.
    Exited(String),
}

impl Run {
    /// The client printed or reported a line.
    pub fn line(&mut self, now: u64, text: &str) {
        self.tick(now);
        if self.verdict.is_some() || text.trim().is_empty() {
            return;
        }
        let line: Value = match serde_json::from_str(text) {
            Ok(line @ Value::Object(_)) => line,
            _ => {
                let expected = "lines of JSON objects on standard output, and nothing else".to_owned();
                return self.fail_by(PRINTS, now, expected, format!("the line {}", shown(text)));
            }
        };
        let seen = match line["type"].as_str() {
            Some("event") => event_of(&line),
            Some("gap") => gap_of(&line),
            Some("end") => {
                self.over.get_or_insert((now, Over::Said(line["code"].as_str().map(str::to_owned))));
                return self.settle(now);
            }
            _ => return,
        };
        let seen = match seen {
            Ok(seen) => seen,
            Err(expected) => {
                return self.fail_by(PRINTS, now, expected, format!("the line {}", shown(text)));
            }
        };
        let expected = self.expected(self.delivered);
        if expected.as_ref() != Some(&seen) {
            let number = self.delivered + 1;
            let expected = expected.map_or("no further delivery".to_owned(), |delivery| {
                format!("{delivery} as delivery {number}")
            });
            let again = (0..self.delivered).any(|at| self.expected(at).as_ref() == Some(&seen));
            let seen = if again { format!("{seen} again") } else { seen.to_string() };
            return self.fail(now, expected, seen);
        }
        if let Delivery::Event { seq, id } = &seen {
            let sent = self.sent.iter().rev().find(|sent| sent.seq == *seq && sent.id == *id);
            let fault = match sent {
                None => Some(("an event that was sent".to_owned(), "it before it was sent".to_owned())),
                Some(sent) if !same(&sent.data, &line["data"]) => Some((
                    format!("{seen} with the data {}", shown(&sent.data.to_string())),
                    format!("it with {}", shown(&line["data"].to_string())),
                )),
                Some(sent) if line["service"] != sent.service.as_str() => Some((
                    format!("{seen} with the service {}", sent.service),
                    format!("it with {}", shown(&line["service"].to_string())),
                )),
                Some(_) => None,
            };
            if let Some((expected, seen)) = fault {
                return self.fail(now, expected, seen);
            }
        }
        self.delivered += 1;
        self.settle(now);
    }

    /// The client's process ended: `how`, in words. All its lines were taken.
    pub fn exited(&mut self, now: u64, how: String) {
        self.tick(now);
        self.over = Some((now, Over::Exited(how)));
        self.settle(now);
    }

    /// The client has reported all that it will.
    pub fn reported(&mut self, now: u64) {
        self.tick(now);
        self.over.get_or_insert((now, Over::Reported));
        self.settle(now);
    }

    /// The client sent a request that no gateway takes.
    pub fn broken(&mut self, now: u64, what: String) {
        self.begin(now);
        self.attempts += 1;
        self.fail(now, "a request for the stream as PROTOCOL.md has it".to_owned(), what);
    }

    /// What is due by time.
    pub fn tick(&mut self, now: u64) {
        let Some(began) = self.began else { return };
        if self.verdict.is_some() {
            return;
        }
        let waited = now.saturating_sub(self.since);
        let late = match self.step() {
            _ if self.is_auth_due => (waited > AUTH_MS).then_some(AUTH_MS),
            Some(Step::Expect(
                Expect::Close(_, longest) | Expect::Pong(longest) | Expect::ControlPong(longest),
            )) => (waited > *longest).then_some(*longest),
            _ => None,
        };
        if let Some(longest) = late {
            let expected = format!("{} within {}", self.awaited(), seconds(longest));
            return self.fail(now, expected, "nothing of the kind".to_owned());
        }
        if now >= began + self.scenario.deadline_ms {
            let seen = format!("nothing of the kind within {}", seconds(self.scenario.deadline_ms));
            return self.fail(now, self.awaited(), seen);
        }
        self.settle(now);
    }

    /// When [`Run::tick`] or [`Run::next`] may have something to do, if nothing comes before.
    pub fn due(&self) -> u64 {
        let Some(began) = self.began else { return u64::MAX };
        let step = match self.step() {
            _ if self.is_auth_due => self.since + AUTH_MS + 1,
            Some(Step::Expect(
                Expect::Close(_, longest) | Expect::Pong(longest) | Expect::ControlPong(longest),
            )) => self.since + longest + 1,
            // While it is closed, the step waits for an attempt.
            Some(Step::Renew { within_ms }) if self.is_open => self.since + within_ms,
            _ => u64::MAX,
        };
        let over = match &self.over {
            // It is watched until it is sure that it does not come back.
            Some((_, Over::Said(_))) if self.is_stopped() => self.since + QUIET_MS,
            Some((at, _)) => at + AHEAD_MS,
            None => u64::MAX,
        };
        (began + self.scenario.deadline_ms).min(step).min(over)
    }

    /// Whether the end was final, and everything before it was delivered.
    pub(super) fn is_stopped(&self) -> bool {
        self.step() == Some(&Step::Expect(Expect::Stop)) && self.expected(self.delivered).is_none()
    }

    /// Passes, if everything is done; fails, if the client is over and something is missing.
    pub(super) fn settle(&mut self, now: u64) {
        if self.verdict.is_some() {
            return;
        }
        if self.step().is_none() && self.expected(self.delivered).is_none() {
            return self.end(now, Outcome::Passed, String::new(), String::new());
        }
        let Some((at, over)) = self.over.clone() else { return };
        if self.is_stopped() {
            let code = self.final_code.unwrap_or_default();
            match &over {
                Over::Said(Some(said)) if !code.is_empty() && said != code => {
                    let expected = format!("the end with the code {code}");
                    return self.fail(now, expected, format!("the end with the code {}", shown(said)));
                }
                Over::Reported => {
                    let expected = "a line {\"type\":\"end\"} in the report, because the end was final";
                    return self.fail_by(PRINTS, now, expected.to_owned(), "a report without one".to_owned());
                }
                Over::Exited(_) => return self.end(now, Outcome::Passed, String::new(), String::new()),
                Over::Said(_) if now >= self.since + QUIET_MS => {
                    return self.end(now, Outcome::Passed, String::new(), String::new());
                }
                Over::Said(_) => return,
            }
        }
        if now >= at + AHEAD_MS {
            let expected = self.awaited();
            let seen = match over {
                Over::Said(code) => {
                    format!(
                        "the client said that the stream has ended ({})",
                        code.as_deref().unwrap_or("no code")
                    )
                }
                Over::Reported => "the report came before that".to_owned(),
                Over::Exited(how) => format!("the client's process ended ({how})"),
            };
            self.fail(now, expected, seen);
        }
    }

    /// What the run waits for, in words.
    pub(super) fn awaited(&self) -> String {
        let next = |otherwise: &str| {
            let next = self.expected(self.delivered);
            next.map_or(otherwise.to_owned(), |delivery| {
                format!("{delivery} as delivery {}", self.delivered + 1)
            })
        };
        match self.step() {
            _ if self.is_auth_due => "an auth frame, because the request has no token".to_owned(),
            Some(Step::Accept(_) | Step::Refuse { .. } | Step::Deny { .. } | Step::Renew { .. })
                if !self.is_open =>
            {
                format!("attempt {} to open the stream", self.attempts + 1)
            }
            Some(Step::Expect(Expect::Close(..))) => "the client to close the connection".to_owned(),
            Some(Step::Expect(Expect::Pong(_))) => "a pong for each ping".to_owned(),
            Some(Step::Expect(Expect::ControlPong(_))) => {
                "a pong of WebSocket with the payload of the ping".to_owned()
            }
            Some(Step::Expect(Expect::Stop)) => next(
                "the client to say that the stream has ended (a line {\"type\":\"end\"}, or the end of its \
                 process)",
            ),
            _ => next("the connection to be read on"),
        }
    }

    /// The delivery of this number; after the last comes the event of `done`.
    pub(super) fn expected(&self, number: usize) -> Option<Delivery> {
        let delivers = &self.scenario.delivers;
        let done = || {
            let has_done = number == delivers.len() && self.scenario.steps.last() == Some(&Step::Done);
            has_done.then(|| Delivery::Event { seq: self.last.unwrap_or(0), id: DONE_ID.to_owned() })
        };
        delivers.get(number).cloned().or_else(done)
    }
}

/// The event that a line reports. An error says how the line must be.
fn event_of(line: &Value) -> Result<Delivery, String> {
    let event = || Some(Delivery::Event { seq: line["seq"].as_u64()?, id: line["id"].as_str()?.to_owned() });
    event().ok_or_else(|| "a line of type event with a whole number `seq` and a string `id`".to_owned())
}

/// The gap that a line reports. An error says how the line must be.
fn gap_of(line: &Value) -> Result<Delivery, String> {
    let gap = || {
        let reason = line["reason"].as_str()?.to_owned();
        Some(Delivery::Gap { prev: line["prev"].as_u64()?, seq: line["seq"].as_u64()?, reason })
    };
    gap().ok_or_else(|| {
        "a line of type gap with whole numbers `prev` and `seq` and a string `reason`".to_owned()
    })
}

/// Whether two values are the same JSON to a reader of numbers as doubles.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

/// Milliseconds for people.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The client's text, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
