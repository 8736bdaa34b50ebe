//! One run: one scenario played to one client over one transport, sans-IO.
//!
//! The server asks [`Run::next`] what the connection does next and tells what came from the client; who runs
//! the client tells what it printed. Time is an argument, in milliseconds since any moment. The run is over
//! once [`Run::verdict`] is there. `attempt` compares an attempt with what the script asks for, `judge` what the
//! client delivers, and when.

mod attempt;
mod exchange;
mod judge;
mod verdict;

use std::{collections::VecDeque, sync::Arc};

use serde_json::{Value, json};
use tidegate_protocol::{Code, Cursor, Seq, UnixMillis};

use super::{
    frames::{self, Place, Scene, Sent, Written},
    scenario::{Need, Scenario, Transport},
    step::{Expect, Frame, Setting, Shape, Step},
};
use exchange::said;
pub use exchange::{Asked, Do, Received, Refusal};
use judge::{Over, seconds, shown};
pub use verdict::{Outcome, Verdict};

/// Timers may fire this much early.
const TIMER_MS: u64 = 20;

/// How much later than the client itself we may see that it closed its connection.
const SEEN_LATE_MS: u64 = 500;

/// How long a client may take to send its `auth` frame.
const AUTH_MS: u64 = 10_000;

/// The id of the last event of a script that ends with `done`.
const DONE_ID: &str = "done";

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

    /// Fails by the rule of the scenario, or, if the client has not even asked for the stream, by that which says so.
    fn fail(&mut self, now: u64, expected: String, seen: String) {
        if self.attempts == 0 {
            return self.fail_by("spec/README.md, \"Run your client\"", now, expected, seen);
        }
        self.end(now, Outcome::Failed, expected, seen);
    }

    fn fail_by(&mut self, rule: &str, now: u64, expected: String, seen: String) {
        self.end(now, Outcome::Failed, expected, seen);
        if let Some(verdict) = &mut self.verdict {
            rule.clone_into(&mut verdict.rule);
        }
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
