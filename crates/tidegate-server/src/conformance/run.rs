//! One run: one scenario played to one client over one transport, sans-IO.
//!
//! The server asks [`Run::next`] what the connection does next and tells what came from the client; who runs
//! the client tells what it printed. Time is an argument, in milliseconds since any moment. The run is over
//! once [`Run::verdict`] is there.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;
use serde_json::{Value, json};
use tidegate_protocol::{Code, Cursor, Seq, UnixMillis};

use super::{
    frames::{self, Place, Scene, Sent, Written},
    scenario::{Delivery, Need, Offer, Scenario, Transport},
    step::{Attempt, Expect, Frame, Setting, Shape, Step, Torn},
};

/// Timers may fire this much early.
const TIMER_MS: u64 = 20;

/// How much later than the client itself we may see that it closed its connection.
const SEEN_LATE_MS: u64 = 500;

/// How much later than its window an attempt may come: machines are busy.
const LATE_MS: u64 = 5000;

/// How long a client that must not come back is watched: longer than the longest first delay, 6 s.
const QUIET_MS: u64 = 8000;

/// How long the client may be ahead of the script: it may act on a frame before the script is past it.
const AHEAD_MS: u64 = 2000;

/// How long a client may take to send its `auth` frame.
const AUTH_MS: u64 = 10_000;

/// The id of the last event of a script that ends with `done`.
const DONE_ID: &str = "done";

/// The most that is shown of what the client sends or prints.
const SHOWN_CHARS: usize = 300;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The client did what it must.
    Passed,
    /// It did not.
    Failed,
    /// The scenario says nothing about this client.
    Skipped,
}

/// The end of a run, for people and as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The name of the scenario.
    pub scenario: String,
    /// Over what.
    pub transport: Transport,
    /// How it ended.
    pub verdict: Outcome,
    /// What was expected, if it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// What was seen instead, or why it was skipped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seen: String,
    /// The rule that asks for it.
    pub rule: String,
    /// What happens in the scenario.
    pub about: String,
    /// How often the client asked for the stream.
    pub attempts: u32,
    /// How long it took.
    pub took_ms: u64,
    /// The last words that the client wrote to its standard error, if it failed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_says: String,
}

/// A request for the stream.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Over WebSocket, not SSE.
    pub is_websocket: bool,
    /// The cursor that counts among those in the request.
    pub cursor: Option<String>,
    /// The token, if the request has one; over WebSocket it may follow in a frame.
    pub token: Option<String>,
    /// It offers permessage-deflate.
    pub deflate: bool,
    /// It accepts gzip.
    pub gzip: bool,
    /// It asks for compressed batches.
    pub gzip_batch: bool,
}

/// What a connection does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Do {
    /// Answer 101 or 200: the stream is open.
    Open {
        /// With compression of the transport.
        compressed: bool,
    },
    /// Answer with a status instead.
    Refuse(Refusal),
    /// Write a frame, or a part of one.
    Send {
        /// The frame.
        frame: Written,
        /// How much of it.
        torn: Option<Torn>,
    },
    /// Write these bytes (SSE).
    Text(String),
    /// Write a ping of WebSocket.
    ControlPing(Vec<u8>),
    /// Change how bytes are written.
    Set(Setting),
    /// End in order: with a close frame of this code and reason, or with the end of the body.
    Close(Option<(u16, &'static str)>),
    /// End, because the run is over, and say why to who reads the client's log.
    Dismiss(String),
    /// End without a word.
    Cut,
    /// Wait for the client, or until [`Run::due`].
    Wait,
    /// Nothing: another connection has taken its place, or the run is over.
    Gone,
}

/// An answer that refuses a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The code and `retry_in_ms` of a problem; a page of HTML, if there is none.
    pub problem: Option<(&'static str, Option<u64>)>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

/// What came from the client on its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// The answer to a ping of WebSocket.
    ControlPong(&'a [u8]),
    /// The end of the connection.
    End,
    /// Something that RFC 6455 or HTTP forbids.
    Violation(String),
}

/// Why the client will print nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Over {
    /// It printed a line `end`; with this code, if it said.
    Said(Option<String>),
    /// It reported without such a line.
    Reported,
    /// Its process ended.
    Exited(String),
}

/// One run.
#[derive(Debug)]
pub struct Run {
    scenario: Arc<Scenario>,
    transport: Transport,
    org: String,
    began: Option<u64>,
    /// The step that is next or under way, and since when.
    at: usize,
    since: u64,
    /// What is left to do of that step, and whether the script goes on after it.
    left: VecDeque<Do>,
    goes_on: bool,
    /// Answers to frames of the client.
    answers: VecDeque<Do>,
    /// The number of the current connection, what it asked for, and whether it is open.
    connection: u64,
    asked: Asked,
    is_open: bool,
    is_auth_due: bool,
    attempts: u32,
    /// What was sent: where the client must be, the events, when the last frame was sent.
    place: Option<Place>,
    extras: bool,
    sent: Vec<Sent>,
    last: Option<Seq>,
    sent_at: u64,
    /// When the connection before ended, or the last frame that could have made the client end it was sent.
    ended_at: Option<u64>,
    final_code: Option<&'static str>,
    pongs_due: u32,
    control_pongs_due: Vec<Vec<u8>>,
    /// The tokens given, how many of them have expired, which is in use, and whether the end under way is its end.
    tokens: Vec<String>,
    expired: usize,
    token_in_use: usize,
    expires_token: bool,
    /// What the client has done: how much it delivered, and whether it is over.
    delivered: usize,
    over: Option<(u64, Over)>,
    verdict: Option<Verdict>,
}

impl Run {
    /// A run that has not begun, in an org of its own.
    pub fn new(scenario: Arc<Scenario>, transport: Transport, org: String) -> Self {
        Self {
            scenario,
            transport,
            org,
            began: None,
            at: 0,
            since: 0,
            left: VecDeque::new(),
            goes_on: false,
            answers: VecDeque::new(),
            connection: 0,
            asked: Asked::default(),
            is_open: false,
            is_auth_due: false,
            attempts: 0,
            place: None,
            extras: false,
            sent: Vec::new(),
            last: None,
            sent_at: 0,
            ended_at: None,
            final_code: None,
            pongs_due: 0,
            control_pongs_due: Vec::new(),
            tokens: Vec::new(),
            expired: 0,
            token_in_use: 0,
            expires_token: false,
            delivered: 0,
            over: None,
            verdict: None,
        }
    }

    /// What is played.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Over what.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The org of this run alone.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// How many lines the client delivers, the last event included.
    pub fn deliveries(&self) -> usize {
        (0..).take_while(|number| self.expected(*number).is_some()).count()
    }

    /// How it ended, if it has.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The time counts from the first call; later ones change nothing.
    pub fn begin(&mut self, now: u64) {
        if self.began.is_none() {
            self.began = Some(now);
            self.since = now;
        }
    }

    /// A new token. It is good until the script says otherwise.
    pub fn token(&mut self) -> String {
        use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
        // It looks like a JWT, but nobody except a gateway looks into one.
        let part = |json: Value| BASE64.encode(json.to_string());
        let claims = json!({ "sub": "kit", "org": self.org, "services": ["*"], "jti": self.tokens.len() });
        let token = format!("{}.{}.{}", part(json!({ "alg": "HS256" })), part(claims), BASE64.encode("kit"));
        self.tokens.push(token.clone());
        token
    }

    /// Skips the run if the client cannot do what it needs.
    pub fn skip_without(&mut self, without: &[Need]) {
        if let Some(need) = self.scenario.needs.iter().find(|need| without.contains(need)) {
            let why = format!("--without {}", need.name());
            self.end(0, Outcome::Skipped, String::new(), why);
        }
    }

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

    fn take_token(&mut self, now: u64, token: &str) {
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

    /// What the connection of this number does next.
    pub fn next(&mut self, now: u64, wall: UnixMillis, connection: u64) -> Do {
        self.tick(now);
        if connection != self.connection {
            return Do::Gone;
        }
        if let Some(verdict) = &self.verdict {
            if !std::mem::take(&mut self.is_open) {
                return Do::Gone;
            }
            return Do::Dismiss(match verdict.verdict {
                Outcome::Failed => format!("expected {}, seen {}", verdict.expected, verdict.seen),
                Outcome::Passed | Outcome::Skipped => "the scenario is over".to_owned(),
            });
        }
        loop {
            let opens = matches!(self.left.front(), Some(Do::Open { .. }));
            if !self.is_open || (self.is_auth_due && !opens) {
                return Do::Wait;
            }
            if let Some(answer) = self.answers.pop_front() {
                return answer;
            }
            if let Some(what) = self.left.pop_front() {
                if matches!(what, Do::Close(_) | Do::Cut | Do::Refuse(_)) {
                    self.is_open = false;
                    self.ended_at = Some(now);
                    // Over WebSocket the token may have come after the request.
                    if std::mem::take(&mut self.expires_token) {
                        self.expired = self.token_in_use + 1;
                    }
                } else {
                    self.sent_at = now;
                }
                if self.left.is_empty() && self.goes_on {
                    self.advance(now);
                }
                return what;
            }
            match self.step().cloned() {
                None | Some(Step::Accept(_) | Step::Refuse { .. } | Step::Deny { .. }) => return Do::Wait,
                Some(Step::Send(frame)) => {
                    let frame = self.write(wall, &frame);
                    self.plan(vec![Do::Send { frame, torn: None }], true);
                }
                Some(Step::Tear(torn, frame)) => {
                    // It does not arrive, so it moves nothing.
                    let place = self.place.clone();
                    let frame = self.write(wall, &frame);
                    self.place = place;
                    self.plan(vec![Do::Send { frame, torn: Some(torn) }], true);
                }
                Some(Step::Text(text)) => self.plan(vec![Do::Text(text)], true),
                Some(Step::ControlPing(text)) => {
                    self.control_pongs_due.push(text.clone().into_bytes());
                    self.plan(vec![Do::ControlPing(text.into_bytes())], true);
                }
                Some(Step::Set(setting)) => self.plan(vec![Do::Set(setting)], true),
                Some(Step::Extras) => {
                    self.extras = true;
                    self.advance(now);
                }
                Some(Step::Error { code, retry_in_ms }) => {
                    let plan = self.error(code, retry_in_ms);
                    self.plan(plan, true);
                }
                Some(Step::Close(code)) => self.plan(vec![Do::Close(code.map(|code| (code, "")))], true),
                Some(Step::Cut) => self.plan(vec![Do::Cut], true),
                Some(Step::Expect(Expect::Pong(_))) if self.pongs_due == 0 => self.advance(now),
                Some(Step::Expect(Expect::ControlPong(_))) if self.control_pongs_due.is_empty() => {
                    self.advance(now);
                }
                Some(Step::Expect(_)) => return Do::Wait,
                Some(Step::Renew { within_ms }) => {
                    if now < self.since + within_ms {
                        return Do::Wait;
                    }
                    // The script stays at this step: the attempt that follows belongs to it.
                    let plan = self.error(Code::TokenExpired, None);
                    self.plan(plan, false);
                }
                Some(Step::Done) => {
                    let seq = self.place.as_ref().map_or(0, |place| place.seq) + 1;
                    self.last = Some(seq);
                    let shape = Shape { id: Some(DONE_ID.to_owned()), ..Shape::default() };
                    let mut frame = self.write(wall, &Frame::Event(seq, shape));
                    frame.json = frame.json.replace("invoice.paid", "conformance.done");
                    self.plan(vec![Do::Send { frame, torn: None }], true);
                }
            }
        }
    }

    /// Something came on the connection of this number.
    pub fn received(&mut self, now: u64, wall: UnixMillis, connection: u64, received: Received<'_>) {
        self.tick(now);
        if connection != self.connection || !self.is_open || self.verdict.is_some() {
            return;
        }
        match received {
            Received::End => self.left_by_client(now),
            Received::Violation(what) => {
                self.fail(now, "a client that keeps to RFC 6455".to_owned(), what);
            }
            Received::ControlPong(payload) => self.control_pongs_due.retain(|due| due != payload),
            Received::Text(text) => self.take_frame(now, wall, text),
        }
        self.settle(now);
    }

    fn take_frame(&mut self, now: u64, wall: UnixMillis, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let is_silent = matches!(self.step(), Some(Step::Expect(Expect::Close(least, _))) if *least > 0);
        match frame["type"].as_str() {
            Some("auth") => {
                self.take_token(now, frame["token"].as_str().unwrap_or_default());
                if self.verdict.is_none() && !std::mem::take(&mut self.is_auth_due) {
                    let cursor = self.place.as_ref().and_then(|place| place.at(place.seq).parse().ok());
                    self.asked.cursor = None;
                    let hello = self.hello(wall, cursor);
                    self.answers.push_back(hello);
                    if matches!(self.step(), Some(Step::Renew { .. })) {
                        self.advance(now);
                    }
                }
            }
            _ if self.is_auth_due => {
                let expected = "an auth frame first, because the request has no token".to_owned();
                self.fail(now, expected, format!("the frame {}", shown(text)));
            }
            Some("pong") => self.pongs_due = self.pongs_due.saturating_sub(1),
            Some("ping") if is_silent => {}
            Some("ping") => {
                let answer = frames::pong(frame["n"].as_u64().unwrap_or(0), wall);
                self.answers.push_back(said(answer));
            }
            Some("health") => {}
            _ => {
                let expected = "frames of the types auth, pong, ping and health alone".to_owned();
                self.fail(now, expected, format!("the frame {}", shown(text)));
            }
        }
    }

    /// The client ended its connection.
    fn left_by_client(&mut self, now: u64) {
        self.is_open = false;
        match self.step() {
            Some(Step::Expect(Expect::Close(least, _))) => {
                let kept = now.saturating_sub(self.sent_at);
                if kept + TIMER_MS < *least {
                    let expected = format!("the connection kept for at least {} of silence", seconds(*least));
                    return self.fail(now, expected, format!("closed after {}", seconds(kept)));
                }
                // The client's delay began before we saw this, but not before the last frame.
                self.ended_at = Some(self.sent_at.max(now.saturating_sub(SEEN_LATE_MS)));
                self.advance(now);
            }
            Some(Step::Renew { .. }) => self.ended_at = Some(now),
            None => {}
            Some(_) => {
                let expected = self.awaited();
                self.fail(now, expected, "the client closed the connection".to_owned());
            }
        }
    }

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
                return self.fail(now, expected, format!("the line {}", shown(text)));
            }
        };
        let seq = |name: &str| line[name].as_u64();
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let seen = match line["type"].as_str() {
            Some("event") => Delivery::Event { seq: seq("seq").unwrap_or(0), id: word("id") },
            Some("gap") => Delivery::Gap {
                prev: seq("prev").unwrap_or(0),
                seq: seq("seq").unwrap_or(0),
                reason: word("reason"),
            },
            Some("end") => {
                self.over.get_or_insert((now, Over::Said(line["code"].as_str().map(str::to_owned))));
                return self.settle(now);
            }
            _ => return,
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
    fn is_stopped(&self) -> bool {
        self.step() == Some(&Step::Expect(Expect::Stop)) && self.expected(self.delivered).is_none()
    }

    /// Passes, if everything is done; fails, if the client is over and something is missing.
    fn settle(&mut self, now: u64) {
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
                    return self.fail(now, expected.to_owned(), "a report without one".to_owned());
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
    fn awaited(&self) -> String {
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
    fn expected(&self, number: usize) -> Option<Delivery> {
        let delivers = &self.scenario.delivers;
        let done = || {
            let has_done = number == delivers.len() && self.scenario.steps.last() == Some(&Step::Done);
            has_done.then(|| Delivery::Event { seq: self.last.unwrap_or(0), id: DONE_ID.to_owned() })
        };
        delivers.get(number).cloned().or_else(done)
    }

    fn step(&self) -> Option<&Step> {
        self.scenario.steps.get(self.at)
    }

    fn advance(&mut self, now: u64) {
        self.at += 1;
        self.since = now;
        // What is for the other transport does nothing on this one.
        while matches!(
            (self.step(), self.transport),
            (Some(Step::Text(_) | Step::Set(Setting::Lines(_))), Transport::Ws)
                | (
                    Some(Step::ControlPing(_) | Step::Expect(Expect::Pong(_) | Expect::ControlPong(_))),
                    Transport::Sse
                )
        ) {
            self.at += 1;
        }
        self.settle(now);
    }

    fn plan(&mut self, plan: Vec<Do>, goes_on: bool) {
        self.left = plan.into();
        self.goes_on = goes_on;
    }

    fn write(&mut self, wall: UnixMillis, frame: &Frame) -> Written {
        let presented = self.asked.cursor.clone();
        let scene = Scene {
            org: &self.org,
            wall,
            presented: presented.as_deref(),
            connection: self.connection,
            extras: self.extras,
        };
        let written = frames::write(frame, &scene, &mut self.place);
        self.sent.extend(written.events.iter().cloned());
        self.pongs_due += u32::from(written.is_ping);
        written
    }

    /// A `hello` at this cursor, or at the one that was presented.
    fn hello(&mut self, wall: UnixMillis, cursor: Option<Cursor>) -> Do {
        let frame = Frame::Hello { cursor, head: None, filter: None, ping_ms: 25_000, expires_ms: 3_600_000 };
        Do::Send { frame: self.write(wall, &frame), torn: None }
    }

    /// An error frame and the end of the connection.
    fn error(&mut self, code: Code, retry_in_ms: Option<u64>) -> Vec<Do> {
        self.note_end(code);
        let mut plan = Vec::new();
        if self.transport == Transport::Sse && !code.is_retryable() {
            // A native EventSource comes back after any end, unless it is told to wait for 25 days.
            plan.push(Do::Text("retry: 2147483647\n".to_owned()));
        }
        plan.push(said(frames::error(code.name(), code.meaning(), retry_in_ms)));
        plan.push(Do::Close(code.close().map(|close| (close, code.name()))));
        plan
    }

    fn note_end(&mut self, code: Code) {
        self.final_code = (!code.is_retryable()).then(|| code.name());
        self.expires_token = code == Code::TokenExpired;
    }

    fn fail(&mut self, now: u64, expected: String, seen: String) {
        self.end(now, Outcome::Failed, expected, seen);
    }

    fn end(&mut self, now: u64, verdict: Outcome, expected: String, seen: String) {
        if self.verdict.is_some() {
            return;
        }
        self.verdict = Some(Verdict {
            scenario: self.scenario.name.clone(),
            transport: self.transport,
            verdict,
            expected,
            seen,
            rule: self.scenario.rule.clone(),
            about: self.scenario.about.clone(),
            attempts: self.attempts,
            took_ms: now.saturating_sub(self.began.unwrap_or(now)),
            client_says: String::new(),
        });
    }
}

impl Asked {
    fn has(&self, offer: Offer) -> bool {
        match offer {
            Offer::Deflate => self.deflate,
            Offer::Gzip => self.gzip,
            Offer::GzipBatch => self.gzip_batch,
        }
    }
}

/// A frame that moves no cursor.
fn said(json: String) -> Do {
    Do::Send { frame: Written { json, sse_id: None, events: Vec::new(), is_ping: false }, torn: None }
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
fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The client's text, short and without control characters.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
