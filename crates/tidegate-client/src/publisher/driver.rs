//! The task of a publisher: it sends one request at a time, and does what the queue says.
//!
//! What happens is one of four things: a handle asks for something, an answer comes, the queue's deadline comes, or
//! the time to close is over.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use reqwest::{
    Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tidegate_protocol::time::millis;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::sleep,
};

use super::{
    answer::{Among, Answer, Sent, Verdict, Why, read},
    fault::verdict_of,
    handle::Gate,
    outcome::Outcome,
    queue::{Entry, Limits, Queue, Settled},
};
use crate::random::unit;

/// The answer to a request with 1,000 events is a tenth of that. A longer one is no gateway's.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// A difference that is no rounding and no slow correction of the wall clock.
const JUMP_MS: i64 = 1000;

/// What a publisher is made of.
pub(super) struct Setup {
    pub(super) http: reqwest::Client,
    pub(super) url: Url,
    /// The value of `Authorization`.
    pub(super) key: HeaderValue,
    pub(super) limits: Limits,
    pub(super) retry_for_ms: u64,
    pub(super) hooks: Hooks,
}

type Observer<T> = Arc<dyn Fn(&T) + Send + Sync>;
type Warn = Arc<dyn Fn(&str) + Send + Sync>;

/// Functions of the application.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) outcome: Option<Observer<Outcome>>,
    pub(super) warning: Option<Warn>,
}

/// What is kept with an event until it is settled.
pub(super) struct Kept {
    pub(super) reply: oneshot::Sender<Outcome>,
    /// Its place in the order in which events were accepted.
    pub(super) number: u64,
    pub(super) _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// What a handle asks for.
#[expect(clippy::large_enum_variant, reason = "nearly all commands are events")]
pub(super) enum Command {
    Event(Entry<Kept>),
    Flush(oneshot::Sender<()>),
    Close(Duration, oneshot::Sender<Vec<Outcome>>),
    /// An event no longer waits for room.
    Look,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Event(_) => "Event",
            Command::Flush(_) => "Flush",
            Command::Close(..) => "Close",
            Command::Look => "Look",
        })
    }
}

/// What came of a request.
enum Attempt {
    Answer(Answer),
    /// No answer came.
    Broken(reqwest::Error),
}

/// Events whose outcomes are waited for: `left` of those up to `last`.
struct Flush {
    last: u64,
    left: usize,
    reply: oneshot::Sender<()>,
}

type Request = Pin<Box<dyn Future<Output = Attempt> + Send>>;

pub(super) struct Driver {
    setup: Setup,
    commands: mpsc::UnboundedReceiver<Command>,
    gate: Arc<Gate>,
    clock: Clock,
    queue: Queue<Kept>,
    /// The request on its way, and its events.
    request: Option<(Request, Vec<Entry<Kept>>)>,
    accepted: u64,
    unsettled: usize,
    flushes: Vec<Flush>,
    /// All handles are gone.
    is_abandoned: bool,
    closes: Vec<oneshot::Sender<Vec<Outcome>>>,
    /// When what is left is given up, and whether it has been: nothing is sent after that.
    close_at: Option<tokio::time::Instant>,
    is_over: bool,
    given_up: Vec<Outcome>,
}

impl Driver {
    pub(super) fn new(setup: Setup, commands: mpsc::UnboundedReceiver<Command>, gate: Arc<Gate>) -> Self {
        Self {
            queue: Queue::new(setup.limits),
            setup,
            commands,
            gate,
            clock: Clock::new(),
            request: None,
            accepted: 0,
            unsettled: 0,
            flushes: Vec::new(),
            is_abandoned: false,
            closes: Vec::new(),
            close_at: None,
            is_over: false,
            given_up: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        while !self.is_done() {
            if self.is_over {
                self.give_up();
            }
            let now = self.clock.now();
            let mut due = None;
            if self.request.is_none() {
                let late = self.queue.expire(now);
                self.settle(late);
                due = self.queue.deadline(now, !self.flushes.is_empty() || self.is_ending());
                if due.is_some_and(|due| due <= now) {
                    self.begin(now);
                    continue;
                }
            }
            // If the last event has just been settled, nothing may come any more.
            if self.is_done() {
                break;
            }
            let wait = due.map_or(Duration::MAX, |due| Duration::from_millis(due - now));
            let close_at = self.close_at.unwrap_or_else(tokio::time::Instant::now);
            tokio::select! {
                command = self.commands.recv(), if !self.is_abandoned => self.commanded(command),
                attempt = answered(&mut self.request), if self.request.is_some() => self.answered(attempt),
                () = sleep(wait), if due.is_some() => {}
                () = tokio::time::sleep_until(close_at), if self.close_at.is_some() && !self.is_over => self.is_over = true,
            }
        }
        for reply in self.closes {
            // Whoever closes may have stopped waiting.
            let _ = reply.send(self.given_up.clone());
        }
    }

    fn is_ending(&self) -> bool {
        self.is_abandoned || self.close_at.is_some()
    }

    fn is_done(&self) -> bool {
        self.is_ending() && self.unsettled == 0 && self.commands.is_empty() && self.gate.waiting() == 0
    }

    fn commanded(&mut self, command: Option<Command>) {
        let Some(command) = command else {
            self.is_abandoned = true;
            return;
        };
        self.obey(command);
        // What has come meanwhile may share a request.
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Event(mut entry) => {
                self.accepted += 1;
                self.unsettled += 1;
                entry.at = self.clock.now();
                entry.deadline = entry.at.saturating_add(self.setup.retry_for_ms);
                entry.kept.number = self.accepted;
                self.queue.push(entry);
            }
            Command::Flush(reply) if self.unsettled == 0 => drop(reply.send(())),
            Command::Flush(reply) => {
                self.flushes.push(Flush { last: self.accepted, left: self.unsettled, reply });
            }
            Command::Close(timeout, reply) => {
                let at = tokio::time::Instant::now() + timeout.min(Duration::from_secs(86_400));
                self.close_at = Some(self.close_at.map_or(at, |before| before.min(at)));
                self.closes.push(reply);
            }
            Command::Look => {}
        }
    }

    /// Sends the next batch.
    fn begin(&mut self, now: u64) {
        let entries = self.queue.take(now);
        let Setup { http, url, key, .. } = &self.setup;
        let request = http
            .post(url.clone())
            .header(AUTHORIZATION, key.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body(&entries));
        self.request = Some((Box::pin(exchange(request)), entries));
    }

    fn answered(&mut self, attempt: Attempt) {
        let Some((_, entries)) = self.request.take() else { return };
        let verdicts = match attempt {
            Attempt::Answer(answer) => {
                let sent: Vec<Sent<'_>> = entries.iter().map(Entry::sent).collect();
                read(&answer, &sent, wall())
            }
            Attempt::Broken(error) => vec![verdict_of(error, &self.setup.url); entries.len()],
        };
        self.warn(&verdicts);
        // The clock counts whole milliseconds; the delay begins at the end of this one.
        let settled = self.queue.settle(entries, verdicts, self.clock.now() + 1, unit);
        self.settle(settled);
    }

    fn settle(&mut self, settled: Vec<Settled<Kept>>) {
        for (Entry { kept, .. }, outcome) in settled {
            self.unsettled -= 1;
            for flush in self.flushes.iter_mut().filter(|flush| kept.number <= flush.last) {
                flush.left -= 1;
            }
            if let Some(observer) = &self.setup.hooks.outcome {
                observer(&outcome);
            }
            // The receipt may have been dropped.
            let _ = kept.reply.send(outcome);
        }
        for flush in std::mem::take(&mut self.flushes) {
            match flush.left {
                0 => drop(flush.reply.send(())),
                _ => self.flushes.push(flush),
            }
        }
    }

    /// Settles all events: the time to close is over.
    fn give_up(&mut self) {
        if let Some((request, entries)) = self.request.take() {
            drop(request);
            let why = Why::new("closed", "the publisher was closed while the request was on its way");
            let verdict = Verdict::Again { why, is_known: false, asked_ms: 0, among: Among::Request };
            let verdicts = vec![verdict; entries.len()];
            let settled = self.queue.settle(entries, verdicts, self.clock.now(), unit);
            self.settle(settled);
        }
        let why = Why::new("closed", "the publisher was closed before it was stored");
        let left = self.queue.give_up(&why);
        self.given_up.extend(left.iter().map(|(_, outcome)| outcome.clone()));
        self.settle(left);
    }

    fn warn(&self, verdicts: &[Verdict]) {
        let Some(observer) = &self.setup.hooks.warning else { return };
        let again = verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Again { why, .. } | Verdict::Split { why, .. } => Some((why, "are sent again")),
            _ => None,
        });
        let refused = verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Refused { why, .. } => Some((why, "are refused")),
            _ => None,
        });
        for (Why { code, detail, .. }, end) in [again, refused].into_iter().flatten() {
            observer(&format!("of {} events some {end}: {code}: {detail}", verdicts.len()));
        }
    }
}

/// The events as a JSON array.
fn body(entries: &[Entry<Kept>]) -> Bytes {
    let length = entries.iter().map(|entry| entry.bytes.len() + 1).sum::<usize>() + 1;
    let mut body = Vec::with_capacity(length);
    body.push(b'[');
    for (at, entry) in entries.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&entry.bytes);
    }
    body.push(b']');
    body.into()
}

async fn answered(request: &mut Option<(Request, Vec<Entry<Kept>>)>) -> Attempt {
    match request {
        Some((request, _)) => request.await,
        None => std::future::pending().await,
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Attempt {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Attempt::Broken(error),
    };
    let text = |headers: &HeaderMap, name: HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after: text(response.headers(), reqwest::header::RETRY_AFTER),
        location: text(response.headers(), reqwest::header::LOCATION),
        body: Vec::new(),
    };
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if answer.body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                answer.body.extend_from_slice(&chunk);
            }
            // Cut short, it is no answer of a gateway.
            Ok(_) => return Attempt::Answer(answer),
            Err(error) => return Attempt::Broken(error),
        }
    }
}

/// Milliseconds since 1970.
fn wall() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Milliseconds that only rise. While a machine sleeps, `Instant` stands still on many systems, and a retry after
/// that could come later than the gateway remembers the id. So a jump of the wall clock counts as time that has
/// passed.
struct Clock {
    began: Instant,
    apart: i64,
    slept: u64,
}

impl Clock {
    fn new() -> Self {
        Self { began: Instant::now(), apart: wall().cast_signed(), slept: 0 }
    }

    fn now(&mut self) -> u64 {
        let steady = millis(self.began.elapsed());
        let apart = wall().cast_signed() - steady.cast_signed();
        if apart - self.apart > JUMP_MS {
            self.slept += (apart - self.apart).unsigned_abs();
        }
        self.apart = apart;
        steady + self.slept
    }
}
