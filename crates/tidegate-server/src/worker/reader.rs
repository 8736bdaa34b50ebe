//! One reader: a session, the socket it writes to, and where it stands.
//!
//! A reader is *live* while it is in its worker's walk, and *parked* otherwise: then its own task
//! serves it from the tail or the log until it is level, and puts it back. Both write through the
//! same sink and never at the same time, for both run on the worker's thread (R7).

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tidegate_core::{
    Batch, Code, Cursor, Filter, Framing, LogState, Next, OrgId, Refusal, Seq, ServiceName, Session, UserId,
    View, frame,
    opening::{self, From},
    session::{Audience, Greeting},
};
use tokio::sync::Notify;

use super::{
    live::{Local, Membership},
    sse::Slot,
    websocket::Socket,
};
use crate::{
    admission,
    auth::StreamGrant,
    engine::{AppendError, PageLimit, ReadError},
    hub::Org,
    metrics::Transport,
    node::{Node, millis, random, refused},
};

/// Frames that a reader takes in one go: what one vectored write carries.
const FRAMES_MAX: usize = 16;

/// What a client asks of a stream, beside its credentials.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The org of the address.
    pub org: OrgId,
    /// `services=`; `None` for all that the grant allows.
    pub services: Option<BTreeSet<ServiceName>>,
    /// `Last-Event-ID` or `cursor=`.
    pub cursor: Option<Cursor>,
    /// `tail=`.
    pub tail: Option<usize>,
}

/// What a reader writes to.
pub enum Sink {
    /// A WebSocket.
    WebSocket(Rc<Socket>),
    /// The body of a response.
    Sse(Rc<Slot>),
}

/// The socket has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Sink {
    /// Whether all that it was given has been taken.
    fn is_ready(&self) -> bool {
        match self {
            Sink::WebSocket(socket) => socket.is_ready(),
            Sink::Sse(slot) => slot.is_ready(),
        }
    }

    /// Gives it whole frames; whether it has taken them all. What it has not taken it keeps, and is
    /// not ready until that is gone.
    fn send(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        match self {
            Sink::WebSocket(socket) => socket.send(frames),
            Sink::Sse(slot) => slot.send(frames),
        }
    }

    /// Waits until it is ready.
    async fn ready(&self) -> Result<(), Gone> {
        match self {
            Sink::WebSocket(socket) => socket.ready().await,
            Sink::Sse(slot) => slot.ready().await,
        }
    }

    /// When it last took bytes, or had none to take.
    fn progress(&self, now: Instant) -> Instant {
        match self {
            Sink::WebSocket(socket) => socket.progress(now),
            Sink::Sse(slot) => slot.progress(now),
        }
    }

    fn is_websocket(&self) -> bool {
        matches!(self, Sink::WebSocket(_))
    }
}

/// What became of a round that was offered to a live reader.
pub enum Offer {
    /// It took this many events and stays live.
    Taken(usize),
    /// It took this many, and has to leave the live loop.
    Parked(usize),
}

/// One stream.
pub struct Reader {
    local: Rc<Local>,
    org: Arc<Org>,
    session: RefCell<Session>,
    sink: Sink,
    membership: RefCell<Option<Membership>>,
    /// Rings for the reader's own task: parked, or to end.
    bell: Notify,
    end: RefCell<Option<Refusal>>,
    clock: Cell<ReaderClock>,
    grant_ends: Cell<u64>,
    name: String,
    services: Option<BTreeSet<ServiceName>>,
    /// Held for its `Drop`.
    _slot: admission::Slot,
}

#[derive(Clone, Copy)]
struct ReaderClock {
    next_ping: Instant,
    /// When the ping went out that is not answered yet.
    pinged: Option<Instant>,
    /// When the client last showed that it is there.
    heard: Instant,
    /// Since when a message or frame of the client's is only partly here.
    partial: Option<Instant>,
    /// Frames that the client sent since the clock last looked.
    frames: u32,
    looked: Instant,
    leave: Leave,
}

/// How far the reader is with going away.
#[derive(Clone, Copy)]
enum Leave {
    Stay,
    /// Told at this time...
    At(Instant),
    /// ...and closed at this one.
    By(Instant),
}

/// How often a client may send frames.
const CLIENT_FRAMES_PER_SECOND: f64 = 50.0;

/// How long a client has to leave after `goaway`.
const GOAWAY: Duration = Duration::from_secs(1);

impl Reader {
    /// Opens a stream: finds its place, makes its session and hands `hello` to the sink. `slot` must
    /// be its place in the counters already.
    pub async fn open(
        local: Rc<Local>,
        grant: StreamGrant,
        request: StreamRequest,
        slot: admission::Slot,
        sink: Sink,
    ) -> Result<Rc<Self>, Refusal> {
        let node = local.node.clone();
        let filter = grant.filter_for(request.services.clone()).map_err(refused)?;
        let org_id = grant.org();
        let log = node.engine.open(org_id).await.map_err(|error| no_log(&error))?;
        let from = match (request.cursor, request.tail) {
            (Some(cursor), _) => From::Cursor(cursor),
            (None, Some(0)) | (None, None) => From::Head,
            (None, Some(count)) => From::Seq(
                find_tail(&node, &log, org_id, grant.user(), &filter, count).await.map_err(unreadable)?,
            ),
        };
        let opening = opening::open(&log, &filter, from);
        let org = node.hub.org(org_id, log.head);
        org.arrive(local.id);
        let framing = if sink.is_websocket() { Framing::WebSocket } else { Framing::Sse };
        let audience = Audience { org: org_id.clone(), user: grant.user().clone(), filter, framing };
        let name = node.name_connection();
        let mut frames = Vec::new();
        let session =
            Session::open(audience, opening, &greeting(&node, &name, &grant, log.head), &mut frames);
        let now = Instant::now();
        let clock = ReaderClock {
            // Spread over the interval, so that readers who came together do not ping together.
            next_ping: now + node.config.ping.interval.mul_f64(0.5 + fraction() / 2.0),
            pinged: None,
            heard: now,
            partial: None,
            frames: 0,
            looked: now,
            leave: Leave::Stay,
        };
        let reader = Rc::new(Self {
            org,
            session: RefCell::new(session),
            sink,
            membership: RefCell::default(),
            bell: Notify::new(),
            end: RefCell::default(),
            clock: Cell::new(clock),
            grant_ends: Cell::new(grant.expires_at()),
            name,
            services: request.services,
            _slot: slot,
            local,
        });
        tracing::debug!(connection = reader.name, org = %reader.org.id, transport = reader.transport(), "open a stream");
        reader.local.add(&reader);
        // The socket is fresh: whatever it does not take now waits in the sink.
        let _ = reader.sink.send(&mut frames);
        Ok(reader)
    }

    /// The org.
    pub fn org(&self) -> &Arc<Org> {
        &self.org
    }

    fn transport(&self) -> &'static str {
        if self.sink.is_websocket() { "websocket" } else { "sse" }
    }

    /// Looks at its session.
    pub fn with_session<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.session.borrow())
    }

    /// Says that it is live.
    pub fn set_membership(&self, membership: Membership) {
        self.membership.replace(Some(membership));
    }

    /// Its place in the live loop moved.
    pub fn set_index(&self, index: usize) {
        if let Some(membership) = &*self.membership.borrow() {
            membership.set_index(index);
        }
    }

    /// Says that it is parked; gives where it was.
    pub fn take_membership(&self) -> Option<Membership> {
        self.membership.take()
    }

    fn is_live(&self) -> bool {
        self.membership.borrow().is_some()
    }

    /// Rings for its task.
    pub fn call(&self) {
        self.bell.notify_one();
    }

    /// Waits for the bell.
    pub async fn called(&self) {
        self.bell.notified().await;
    }

    /// Asks its task to end the stream. The first reason counts.
    pub fn end(&self, refusal: Refusal) {
        self.end.borrow_mut().get_or_insert(refusal);
        self.local.leave(self);
        self.call();
    }

    /// Why it is to end, if it is.
    pub fn ending(&self) -> Option<Refusal> {
        self.end.borrow().clone()
    }

    /// Whether its task has to serve it.
    pub fn is_parked(&self) -> bool {
        !self.is_live() && self.end.borrow().is_none()
    }

    /// Takes a round of batches, as far as it can. Called for live readers.
    pub fn offer(&self, round: &[(&Batch, View)], now: u64, frames: &mut Vec<Bytes>) -> Offer {
        let mut session = self.session.borrow_mut();
        let mut events = 0;
        let seen = round.partition_point(|(batch, _)| batch.seq <= session.scanned());
        for chunk in round[seen..].chunks(FRAMES_MAX) {
            if !self.sink.is_ready() {
                return Offer::Parked(events);
            }
            frames.clear();
            for (batch, view) in chunk {
                if batch.prev > session.scanned() {
                    // The tail was shortened past it.
                    let _ = self.sink.send(frames);
                    return Offer::Parked(events);
                }
                events += session.take(batch, view, now, frames);
            }
            match self.sink.send(frames) {
                Ok(true) => {}
                Ok(false) | Err(Gone) => return Offer::Parked(events),
            }
        }
        Offer::Taken(events)
    }

    /// Serves it until it is level and live again, or its socket is gone. Called by its task while
    /// it is parked.
    pub async fn catch_up(self: Rc<Self>) -> Result<(), Gone> {
        let node = self.local.node.clone();
        let mut frames = Vec::new();
        loop {
            self.sink.ready().await?;
            if self.ending().is_some() {
                return Ok(());
            }
            frames.clear();
            let gaps = self.session.borrow_mut().take_gaps(node.now(), &mut frames);
            gaps.into_iter().for_each(|reason| node.metrics.gap(reason));
            if frames.is_empty() {
                let at = self.session.borrow().scanned();
                let next = self.org.tail().next(at);
                match next {
                    Next::Level => {
                        self.local.join(&self);
                        return Ok(());
                    }
                    Next::Batch(batch) => self.take_batch(&batch, &mut frames),
                    Next::Behind(start) => {
                        if let Err(error) = self.take_page(start, &mut frames).await {
                            self.end(unreadable(error));
                            return Ok(());
                        }
                    }
                }
            }
            self.sink.send(&mut frames)?;
            // A fast reader with a long way to go lets the others have their turn.
            tokio::task::yield_now().await;
        }
    }

    fn take_batch(&self, batch: &Batch, frames: &mut Vec<Bytes>) {
        let mut session = self.session.borrow_mut();
        let view = batch.view(&self.org.id, &session.view_key(), batch.prev);
        let events = session.take(batch, &view, self.local.node.now(), frames);
        self.local.node.metrics.delivered.inc_by(events as u64);
    }

    async fn take_page(&self, start: Seq, frames: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let node = &self.local.node;
        let (after, stop) = self.with_session(|session| (session.scanned(), session.stop()));
        let batch = tidegate_core::BatchLimits::default();
        let limit = PageLimit {
            events: batch.events,
            bytes: batch.bytes,
            to: stop.map_or(start, |stop| stop.min(start)),
        };
        let page = node.engine.read(&self.org.id, after, limit).await?;
        let mut session = self.session.borrow_mut();
        let (events, gap) = session.take_page(page.after, page.to, &page.events, node.now(), frames);
        if let Some(reason) = gap {
            node.metrics.gap(reason);
        }
        node.metrics.delivered.inc_by(events as u64);
        Ok(())
    }

    /// Renews its grant in place (R6).
    pub fn renew(&self, token: &str) -> Result<(), Refusal> {
        let node = &self.local.node;
        let grant = node.authorize(token, &self.org.id)?;
        let filter = grant.filter_for(self.services.clone()).map_err(refused)?;
        // Its views change; it goes back to the live loop as another kind of reader.
        self.local.leave(self);
        let mut frames = Vec::new();
        let head = self.org.tail().head();
        let greeting = greeting(node, &self.name, &grant, head);
        self.session.borrow_mut().renew(grant.org(), grant.user(), filter, &greeting, &mut frames)?;
        self.grant_ends.set(grant.expires_at());
        self.push(frames);
        self.call();
        Ok(())
    }

    /// Puts frames of the protocol on the sink, behind whatever is half written there.
    pub fn push(&self, mut frames: Vec<Bytes>) {
        match &self.sink {
            Sink::WebSocket(socket) if !socket.is_ready() => {
                if socket.queue(frames).is_err() {
                    let message = "the client takes no bytes, but sends frames that want answers";
                    return self.end(Refusal::new(Code::SlowConsumer, message));
                }
            }
            // An SSE client sends nothing, so what waits for it here is a goaway at most.
            sink => {
                if sink.send(&mut frames) == Ok(true) {
                    return;
                }
            }
        }
        self.local.leave(self);
        self.call();
    }

    /// The client sent something.
    pub fn heard(&self, is_pong: bool, frames: u32) {
        let mut clock = self.clock.get();
        clock.heard = Instant::now();
        clock.frames += frames;
        if is_pong {
            clock.pinged = None;
        }
        self.clock.set(clock);
    }

    /// Whether what the client sent ends in the middle of a message.
    pub fn heard_partly(&self, is_partial: bool) {
        let mut clock = self.clock.get();
        clock.partial = is_partial.then(|| clock.partial.unwrap_or_else(Instant::now));
        self.clock.set(clock);
    }

    /// Looks at the clock: pings, timeouts, expiry, leaving.
    pub fn tick(&self, now: Instant, draining: Option<Instant>) {
        if self.end.borrow().is_some() {
            return;
        }
        let node = &self.local.node;
        let config = &node.config;
        let mut clock = self.clock.get();
        let since = |then: Instant| now.saturating_duration_since(then);

        if node.now() >= self.grant_ends.get() {
            return self
                .end(Refusal::new(Code::TokenExpired, "the token has expired; renew it and come back"));
        }
        if since(self.sink.progress(now)) > config.limits.write_timeout {
            let message = "the client took no bytes for limits.write_timeout";
            return self.end(Refusal::new(Code::SlowConsumer, message).limited_by("limits.write_timeout"));
        }
        if clock.pinged.is_some_and(|pinged| since(pinged.max(clock.heard)) > config.ping.timeout) {
            return self.end(Refusal::new(Code::PingTimeout, "no pong came within ping.timeout"));
        }
        if clock.partial.is_some_and(|then| since(then) > config.limits.first_frame_timeout) {
            return self.end(Refusal::new(Code::BadFrame, "a message that was begun did not end in time"));
        }
        let seconds = since(clock.looked).as_secs_f64().max(1.0);
        if f64::from(clock.frames) > CLIENT_FRAMES_PER_SECOND * seconds {
            let message = "the client sends more than 50 frames a second";
            return self.end(Refusal::new(Code::RateLimited, message).retry_in(10_000));
        }
        if since(clock.looked) >= Duration::from_secs(1) {
            (clock.looked, clock.frames) = (now, 0);
        }
        clock.leave = match (clock.leave, draining) {
            (Leave::Stay, Some(begun)) => {
                let spread = config.drain.window.saturating_sub(GOAWAY).mul_f64(fraction());
                Leave::At(begun + spread)
            }
            (Leave::At(at), _) if at <= now => {
                let framing = self.with_session(|session| session.audience().framing);
                let patience = GOAWAY.min(config.drain.window);
                self.push(vec![frame::goaway(framing, Code::Draining, millis(patience))]);
                Leave::By(now + patience)
            }
            (Leave::By(by), _) if by <= now => {
                self.clock.set(clock);
                let refusal = Refusal::new(Code::Draining, "the gateway is going away; come back");
                return self.end(refusal.retry_in(1000 + random() % 4000));
            }
            (leave, _) => leave,
        };
        if now >= clock.next_ping {
            clock.next_ping = now + config.ping.interval;
            // A parked reader is being written to; the write timeout looks after it.
            if self.is_live() && self.sink.is_ready() {
                if self.sink.is_websocket() {
                    clock.pinged = clock.pinged.or(Some(now));
                }
                let mut frames = Vec::new();
                self.session.borrow_mut().ping(node.now(), &mut frames);
                self.clock.set(clock);
                self.push(frames);
            }
        }
        self.clock.set(clock);
    }

    /// The last frame, for the reason it ends with; counts and logs it.
    pub fn last_frame(&self, refusal: &Refusal) -> Bytes {
        self.local.node.metrics.close(refusal.code);
        tracing::info!(
            connection = self.name,
            org = %self.org.id,
            transport = self.transport(),
            code = refusal.code.name(),
            "end a stream: {refusal}"
        );
        self.session.borrow().error(refusal)
    }

    /// The gauge of streams over `transport`.
    pub fn connections(&self, transport: Transport) -> Gauge {
        self.local.node.metrics.connections(transport)
    }

    /// Takes it off the worker's lists. Must be called when its task ends.
    pub fn close(self: &Rc<Self>) {
        self.local.remove(self);
        tracing::debug!(connection = self.name, org = %self.org.id, "close a stream");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.org.leave(self.local.id);
    }
}

fn greeting<'a>(node: &'a Node, name: &'a str, grant: &StreamGrant, head: Seq) -> Greeting<'a> {
    let now = node.now();
    Greeting {
        connection_id: name,
        head,
        token_expires_in_ms: grant.expires_at().saturating_sub(now),
        now,
        terms: &node.terms,
    }
}

/// Uniform over [0, 1).
fn fraction() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A log that cannot be opened, in the words of a stream.
pub fn no_log(error: &AppendError) -> Refusal {
    match error {
        AppendError::TooManyOrgs => {
            Refusal::new(Code::Overloaded, "the gateway holds as many orgs as it may")
                .limited_by("limits.orgs")
                .retry_in(60_000)
        }
        error => {
            Refusal::new(Code::Overloaded, format!("the log cannot be opened now: {error}")).retry_in(5_000)
        }
    }
}

/// A log that cannot be read, in the words of a stream.
pub fn unreadable(error: ReadError) -> Refusal {
    tracing::error!(%error, "read for a stream");
    match error {
        ReadError::NoLog => Refusal::new(Code::Internal, "the log of this org is gone; come back"),
        ReadError::Store(_) => Refusal::new(Code::Internal, "the log cannot be read"),
    }
}

/// The place behind which the last `count` events stand that this reader may see. Looks through a
/// bounded number of events; where that does not find enough, the stream starts where it looked.
async fn find_tail(
    node: &Node,
    log: &LogState,
    org: &OrgId,
    user: &UserId,
    filter: &Filter,
    count: usize,
) -> Result<Seq, ReadError> {
    let limits = &node.config.limits;
    let count = count.min(limits.tail_events);
    // From the head backwards, in stretches; seqs need not be dense, so a stretch of seqs holds at
    // most as many events.
    const STRETCH: Seq = 1000;
    let mut found: Vec<Seq> = Vec::new();
    let mut searched = 0;
    let mut end = log.head;
    while end > log.floor && found.len() < count && searched < limits.tail_search_events {
        let begin = end.saturating_sub(STRETCH).max(log.floor);
        let mut at = begin;
        let mut here: Vec<Seq> = Vec::new();
        while at < end {
            let limit = PageLimit { events: STRETCH as usize, bytes: limits.page_bytes.bytes(), to: end };
            let page = node.engine.read(org, at, limit).await?;
            searched += page.events.len();
            here.extend(
                page.events
                    .iter()
                    .filter(|event| filter.admits(&event.service) && event.is_for(user))
                    .map(|event| event.seq),
            );
            if page.to <= at {
                break;
            }
            at = page.to;
        }
        here.append(&mut found);
        found = here;
        end = begin;
    }
    Ok(match found.len().checked_sub(count) {
        Some(first) => found.get(first).map_or(log.head, |seq| seq - 1),
        None => end,
    })
}
