//! An attempt to open the stream, against what the script asks for: the transport, the cursor, the token, the time
//! since the end of the connection before.

use tidegate_protocol::UnixMillis;

use super::super::{
    scenario::{Offer, Transport},
    step::{Attempt, Expect, Step},
};
use super::{Asked, Do, Outcome, Refusal, Run, TIMER_MS, seconds, shown};

/// How much later than its window an attempt may come: machines are busy.
const LATE_MS: u64 = 5000;

impl Run {
    /// A request for the stream came. Returns the number of its connection, for [`Run::next`].
    pub fn asked(&mut self, now: u64, wall: UnixMillis, asked: Asked) -> u64 {
        self.begin(now);
        self.tick(now);
        self.connection += 1;
        self.attempts += 1;
        if self.verdict.is_none() {
            self.take_attempt(now, wall, asked);
        }
        self.connection
    }

    fn take_attempt(&mut self, now: u64, wall: UnixMillis, asked: Asked) {
        let name = if asked.is_websocket { Transport::Ws } else { Transport::Sse };
        if name != self.transport {
            let seen = format!("a request for one over {name}; tell the client to use no other transport");
            return self.fail(now, format!("a stream over {}", self.transport), seen);
        }
        if let Some(offer) = self.scenario.offers.filter(|offer| self.attempts == 1 && !asked.has(*offer)) {
            let why = format!("the client does not offer {}", offer.name());
            return self.end(now, Outcome::Skipped, String::new(), why);
        }
        // It opens the next connection before we see the end of this one, which it has left.
        if self.is_open && matches!(self.step(), Some(Step::Expect(Expect::Close(..)))) {
            self.left_by_client(now);
        }
        if self.verdict.is_some() {
            return;
        }
        let attempt = match self.step() {
            Some(Step::Accept(attempt) | Step::Refuse { attempt, .. } | Step::Deny { attempt, .. }) => {
                attempt.clone()
            }
            // The stream is opened anew with the new token, before or after its end.
            Some(Step::Renew { .. }) => {
                let cursor = self.place.as_ref().map(|place| place.at(place.seq));
                Attempt { cursor: Some(cursor), wait: Some((0, None)), is_plain: false }
            }
            Some(Step::Expect(Expect::Stop)) => {
                let after = seconds(now.saturating_sub(self.ended_at.unwrap_or(now)));
                let expected = "no further attempt, because the end was final".to_owned();
                return self.fail(now, expected, format!("another attempt, {after} after the end"));
            }
            _ => {
                let expected = "one connection at a time".to_owned();
                let seen = "another attempt while the connection before it is open".to_owned();
                return self.fail(now, expected, seen);
            }
        };
        self.check(now, &attempt, &asked);
        self.is_auth_due = asked.is_websocket && asked.token.is_none();
        if self.verdict.is_none() && !self.is_auth_due {
            self.take_token(now, asked.token.as_deref().unwrap_or_default());
        }
        if self.verdict.is_some() {
            return;
        }
        self.asked = asked;
        self.answers.clear();
        self.pongs_due = 0;
        self.control_pongs_due.clear();
        self.is_open = true;
        self.since = now;
        let open =
            Do::Open { compressed: self.scenario.offers.is_some_and(|offer| offer != Offer::GzipBatch) };
        let plan = match self.step().cloned() {
            Some(Step::Refuse { status, retry_after_s, .. }) => {
                vec![Do::Refuse(Refusal { status, problem: None, retry_after_s })]
            }
            Some(Step::Deny { code, retry_in_ms, .. }) if self.transport == Transport::Sse => {
                self.note_end(code);
                let retry_after_s = retry_in_ms.map(|ms| ms.div_ceil(1000));
                let problem = Some((code.name(), retry_in_ms));
                vec![Do::Refuse(Refusal { status: code.status(), problem, retry_after_s })]
            }
            Some(Step::Deny { code, retry_in_ms, .. }) => {
                let mut plan = vec![open];
                plan.extend(self.error(code, retry_in_ms));
                plan
            }
            Some(Step::Renew { .. }) => vec![open, self.hello(wall, None)],
            _ => vec![open],
        };
        self.plan(plan, true);
    }

    /// Compares an attempt with what the step asks for.
    fn check(&mut self, now: u64, attempt: &Attempt, asked: &Asked) {
        if let Some(ended_at) = self.ended_at {
            let (least, longest) = attempt.wait.unwrap_or((1000, None));
            let waited = now.saturating_sub(ended_at);
            if waited + TIMER_MS < least {
                let expected = format!("at least {} before the next attempt", seconds(least));
                return self.fail(now, expected, format!("an attempt after {}", seconds(waited)));
            }
            if longest.is_some_and(|longest| waited > longest + LATE_MS) {
                let expected = format!("the next attempt within {}", seconds(longest.unwrap_or(0)));
                return self.fail(now, expected, format!("an attempt after {}", seconds(waited)));
            }
        }
        if attempt.is_plain && asked.gzip_batch {
            let expected = "an attempt without batch=gzip, because such a batch could not be read".to_owned();
            return self.fail(now, expected, "an attempt with it".to_owned());
        }
        let first = (self.attempts == 1).then(|| self.scenario.start.clone());
        let Some(expected) = attempt.cursor.clone().or(first) else { return };
        if expected != asked.cursor {
            let named = |cursor: Option<&String>| {
                cursor.map_or("no cursor".to_owned(), |cursor| format!("the cursor {}", shown(cursor)))
            };
            let expected = format!("attempt {} with {}", self.attempts, named(expected.as_ref()));
            let seen = format!("an attempt with {}", named(asked.cursor.as_ref()));
            self.fail(now, expected, seen);
        }
    }

    pub(super) fn take_token(&mut self, now: u64, token: &str) {
        match self.tokens.iter().position(|given| given == token) {
            None => {
                let expected = "the token of this run, or a newer one of its token_url".to_owned();
                let seen = if token.is_empty() { "no token".to_owned() } else { "another token".to_owned() };
                self.fail(now, expected, seen);
            }
            Some(number) if number < self.expired => {
                let expected = "a new token, because the one before has expired".to_owned();
                self.fail(now, expected, "the expired token again".to_owned());
            }
            Some(number) => self.token_in_use = number,
        }
    }
}
