//! One reader: a session, the socket it writes to, and how far it is.
//!
//! A reader is *live* while it is caught up: it is in a group of its org, and fan-out passes serve it.
//! Otherwise it *lags*: its own task asks the worker for turns, and in each turn the worker serves it, from
//! the tail or the log, until it has caught up and is back in its group ([`super::catch_up`]). Passes and
//! turns write through the same sink and never at the same time, for both run on the worker's thread (R7).

mod sink;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tidegate_core::{
    Batch, Framing, Session, View, ViewKey, frame,
    session::{Coding, Greeting, Subscriber},
    slow::{Escalation, Policy},
};
use tidegate_engine::Health;
use tidegate_protocol::{Code, Refusal, Seq, StatusCode, frame::HealthReport, time::millis};

use super::{
    Worker,
    org::{GroupMembership, OrgState},
    start::{Entered, StreamRequest},
    timers::{DueAction, Facts, Tick, Timers},
};
use crate::{
    admission::{self, Charge, Connection, ConnectionId, ReplaySlot},
    auth::StreamGrant,
    config::Config,
    node::Node,
    refusals::refused,
    transport::socket::LeftoverFull,
};

pub use sink::{Gone, Sink};

/// The result of offering a pass to a live reader.
pub enum Offer {
    /// It took this many events and stays live.
    Taken(usize),
    /// It took this many events. Before it can take the view with this index, the view must be compressed
    /// ([`View::deflate_alone`]).
    Lacks(usize, usize),
    /// It took this many events, and lags from now on.
    Lags(usize),
}

/// One stream.
pub struct Reader {
    worker: Rc<Worker>,
    org: Rc<OrgState>,
    pub(super) session: RefCell<Session>,
    pub(super) sink: Sink,
    membership: RefCell<Option<GroupMembership>>,
    /// Its index in its worker's list of readers ([`super::readers`]).
    registry_slot: Cell<u32>,
    /// What other threads see of it; they end it through this.
    connection: Arc<Connection>,
    timers: Cell<Timers>,
    /// Whether the client named services (`services=`). Then its filter stays those services when the grant
    /// is renewed, and a grant that does not cover them is refused. Otherwise its filter becomes all that the
    /// new grant allows.
    names_services: bool,
    escalation: Cell<Escalation>,
    pub(super) policy: Policy,
    /// Whether it was warned that it is slow (R16), and its policy for slow readers (`slow=`) has not acted
    /// on the warning yet.
    pub(super) is_to_act: Cell<bool>,
    /// Held while the reader waits to catch up after its hello (its replay); the number of such readers is
    /// limited.
    waits: Cell<Option<ReplaySlot>>,
    /// What is charged for frames of the log that it was given and has not taken.
    pub(super) unread: Cell<Option<Box<Charge>>>,
    /// Counts its connection for the node, its address, its org and its user.
    slot: admission::Slot,
}

impl Reader {
    /// Opens a stream: makes its session, counts it, and hands `hello` to the sink. `slot` and `entered` belong
    /// together: `slot` was passed to [`StreamRequest::enter`], which returned `entered`.
    pub fn open(
        worker: Rc<Worker>,
        grant: StreamGrant,
        request: StreamRequest,
        (slot, entered): (admission::Slot, Entered),
        sink: Sink,
    ) -> Attendance {
        let node = worker.node.clone();
        let Entered { org, filter, connection, log, opening, replay, watch } = entered;
        org.shared.arrive(worker.id);
        let framing = sink.framing();
        let subscriber = Subscriber {
            org: org.id().clone(),
            user: connection.user.clone(),
            filter,
            framing,
            coding: request.coding,
        };
        let mut frames = Vec::new();
        let name = node.admission.id_of(&connection).to_string();
        let session =
            Session::open(subscriber, opening, &greeting(&node, &name, &grant, log.head), &mut frames);
        let now = Instant::now();
        let timers = Timers::new(now, node.config().ping.interval);
        let reader = Rc::new(Self {
            org,
            session: RefCell::new(session),
            sink,
            membership: RefCell::default(),
            registry_slot: Cell::default(),
            connection,
            timers: Cell::new(timers),
            names_services: request.services.is_some(),
            escalation: Cell::default(),
            policy: request.slow,
            is_to_act: Cell::default(),
            waits: Cell::new(replay),
            unread: Cell::default(),
            slot,
            worker,
        });
        // From here on `Reader::drop` ends the watch.
        watch.hand_over();
        tracing::debug!(
            connection = name,
            org = %reader.org.id(),
            address = %reader.connection.address,
            transport = reader.transport(),
            "open a stream"
        );
        // Reports a changed health to all readers that are registered. This reader is registered after that
        // and gets it below; in the other order it would get it twice.
        let health = reader.worker.readers.report_health(&node);
        reader.worker.readers.add(&reader);
        if health != Health::Ok {
            reader.session.borrow_mut().put(health_status(framing, &health), &mut frames);
        }
        // Before the hello: a client that has it finds itself counted.
        let attendance = Attendance::begin(reader);
        // The result is ignored: whatever the new socket does not take now waits in the sink.
        let _ = attendance.reader.sink.send(&mut frames);
        attendance
    }

    /// The state of its org on its worker.
    pub fn org(&self) -> &Rc<OrgState> {
        &self.org
    }

    fn transport(&self) -> &'static str {
        self.connection.transport.name()
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.worker.node.admission.id_of(&self.connection)
    }

    /// Its worker.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Whether it has been caught up since its hello.
    pub fn has_been_caught_up(&self) -> bool {
        self.with_escalation(|escalation| escalation.was_caught_up())
    }

    /// Gives back its slot among the readers that wait for a replay: it has caught up, or it is now held up
    /// by its client or its own task, not by the worker.
    pub fn end_wait(&self) {
        self.waits.take();
    }

    /// Looks at its session.
    pub fn with_session<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.session.borrow())
    }

    /// Replaces its epoch and filter by the equal ones of the group that it joins, so that all readers of the
    /// group share one copy of them in memory.
    pub fn share(&self, key: &ViewKey) {
        self.session.borrow_mut().share(key);
        self.connection.share(&key.filter);
    }

    /// It is in a group now: it is live.
    pub fn set_membership(&self, membership: GroupMembership) {
        self.membership.replace(Some(membership));
    }

    /// It moved within its group.
    pub fn set_index(&self, index: usize) {
        if let Some(membership) = &*self.membership.borrow() {
            membership.set_index(index);
        }
    }

    /// Its index in its worker's list of readers.
    pub fn registry_slot(&self) -> usize {
        self.registry_slot.get() as usize
    }

    /// It moved to this index.
    pub fn set_registry_slot(&self, slot: usize) {
        // A `u32` is enough: there cannot be 2^32 open sockets.
        self.registry_slot.set(u32::try_from(slot).unwrap_or(u32::MAX));
    }

    /// It is in no group any more: it lags. Returns where it was.
    pub fn take_membership(&self) -> Option<GroupMembership> {
        self.membership.take()
    }

    /// Whether fan-out passes serve it.
    pub(super) fn is_live(&self) -> bool {
        self.membership.borrow().is_some()
    }

    /// Notifies its task.
    pub fn notify(&self) {
        self.connection.notify();
    }

    /// Whether its task was notified ([`Connection::poll_notified`]).
    pub fn poll_notified(&self, context: &Context<'_>) -> Poll<()> {
        self.connection.poll_notified(context)
    }

    /// Waits for a notification of its task.
    pub async fn notified(&self) {
        poll_fn(|context| self.poll_notified(context)).await;
    }

    /// Asks its task to end the stream. The first reason counts.
    pub fn end(&self, refusal: Refusal) {
        self.connection.end(refusal);
        self.org.leave(self);
    }

    /// Ends it because something that was done for it panicked, or found an invariant broken.
    pub fn fail(&self) {
        self.end(Refusal::new(Code::Internal, "an invariant of the gateway broke; this stream ends"));
    }

    /// Why it is to end; `None` if it is not.
    pub fn ending(&self) -> Option<&Refusal> {
        self.connection.ending()
    }

    /// Whether its task has to let it catch up.
    pub fn lags(&self) -> bool {
        !self.is_live() && self.ending().is_none()
    }

    /// Takes what a pass has for its group, with one write, if its socket has room. Called for live readers.
    pub fn offer(&self, views: &[(Arc<Batch>, View)], now: u64, frames: &mut Vec<Bytes>) -> Offer {
        let mut session = self.session.borrow_mut();
        let mut events = 0;
        let own = session.own();
        let seen = views.partition_point(|(batch, _)| batch.seq <= session.scanned());
        if seen == views.len() {
            return Offer::Taken(0);
        }
        if !self.sink.is_ready() {
            return Offer::Lags(events);
        }
        frames.clear();
        let mut lacks = None;
        for (index, (batch, view)) in views.iter().enumerate().skip(seen) {
            if batch.prev > session.scanned() {
                // The tail was shortened past its position: what is missing is in the log.
                let _ = self.hand(frames);
                return Offer::Lags(events);
            }
            if session.lacks(batch, view) {
                lacks = Some(index);
                break;
            }
            events += session.take(batch, view, now, frames);
        }
        if session.own() != own
            && let Some(membership) = &*self.membership.borrow()
        {
            membership.handle_own(session.own());
        }
        let took_nothing = lacks.is_some() && frames.is_empty();
        if !took_nothing && !matches!(self.hand(frames), Ok(true)) {
            return Offer::Lags(events);
        }
        match lacks {
            Some(index) => Offer::Lacks(events, index),
            None => Offer::Taken(events),
        }
    }

    /// Gives frames to its sink, and counts their bytes for its org.
    pub(super) fn hand(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        self.org.add_sent(frames.iter().map(|frame| frame.len() as u64).sum());
        self.sink.send(frames)
    }

    /// Renews its grant in place (R6).
    pub async fn renew(&self, token: &str) -> Result<(), Refusal> {
        let node = &self.worker.node;
        let grant = match node.authorize(token, self.org.id()).await {
            Err(refusal) if refusal.code == Code::Overloaded => {
                // The issuer's keys cannot be had now, so nobody can say whether the new token is good. The
                // old token stays good until it expires: an issuer that is away for a while ends no stream.
                let seconds = refusal.retry_in_ms.unwrap_or_default().div_ceil(1000);
                let message = format!(
                    "{refusal}; the stream goes on with the token that it has: send auth again in {seconds} s"
                );
                let code = StatusCode::Overloaded.name();
                self.say(&frame::status(self.sink.framing(), code, &message));
                return Ok(());
            }
            answered => answered?,
        };
        // There is no `await` from here on, so no pass or turn sends anything while only a part of the grant
        // is replaced.
        let named = self
            .names_services
            .then(|| self.with_session(|session| session.subscriber().filter.services().cloned()));
        let filter = grant.filter_for(named.flatten()).map_err(refused)?;
        // It may see something else from now on. It catches up, and joins the group of those that see the
        // same.
        self.org.leave(self);
        let mut frames = Vec::new();
        let head = self.org.tail().head();
        let name = self.id().to_string();
        let greeting = greeting(node, &name, &grant, head);
        let mut session = self.session.borrow_mut();
        session.renew(grant.org(), grant.user(), filter.clone(), &greeting, &mut frames)?;
        drop(session);
        node.admission.renew(&self.connection, filter, grant.expires_at())?;
        self.push(frames);
        self.notify();
        Ok(())
    }

    /// Sends a frame that the session did not make, such as `status` or `goaway`. [`Session::put`] gives it
    /// the form that the compression of the stream requires; [`Reader::push`] sends it.
    pub(super) fn say(&self, frame: &Bytes) {
        let mut frames = Vec::new();
        self.session.borrow_mut().put(frame.clone(), &mut frames);
        self.push(frames);
    }

    /// Answers a client's `ping`. Of a client that takes no bytes, only so many answers wait as
    /// [`Reader::push`] allows.
    pub fn answer_ping(&self, n: u64) {
        self.say(&frame::pong(self.sink.framing(), n, self.worker.node.now()));
    }

    /// Takes its client's own metrics into those of the node, unless they come too soon.
    pub fn take_report(&self, report: &HealthReport) {
        let metrics = &self.worker.node.metrics;
        if self.with_timers(|timers| timers.takes_report(self.worker.since_start())) {
            metrics.client_report(self.org.id(), report);
        } else {
            metrics.client_report_ignored(self.org.id());
        }
    }

    /// Sends frames outside of passes and turns, after whatever is half written. The frames must be ready for
    /// the wire: made by the session, or WebSocket pongs.
    pub fn push(&self, mut frames: Vec<Bytes>) {
        let sent = match &self.sink {
            Sink::WebSocket(socket) if !socket.is_ready() => socket.queue(frames).map(|()| Ok(false)),
            sink => Ok(sink.send(&mut frames)),
        };
        match sent {
            Ok(Ok(true)) => {}
            // Its task writes the rest, or finds the socket closed.
            Ok(Ok(false) | Err(Gone)) => {
                self.org.leave(self);
                self.notify();
            }
            Err(LeftoverFull) => {
                self.end(takes_no_answers());
            }
        }
    }

    /// Notes that the client sent bytes.
    pub fn heard_bytes(&self) {
        self.with_timers(|timers| timers.heard(Instant::now(), false, 0));
    }

    /// Notes that the client sent a frame, and whether it is a pong. An answer to a ping does not count
    /// against the rate of its frames (R29).
    pub fn heard_frame(&self, is_pong: bool) {
        let is_free = is_pong && self.session.borrow_mut().take_answer();
        self.with_timers(|timers| timers.heard(Instant::now(), is_pong, u32::from(!is_free)));
    }

    /// Notes whether what the client sent ends in the middle of a message.
    pub fn heard_partly(&self, is_partial: bool) {
        self.with_timers(|timers| timers.heard_partly(Instant::now(), is_partial));
    }

    pub(super) fn with_escalation<T>(&self, act: impl FnOnce(&mut Escalation) -> T) -> T {
        let mut escalation = self.escalation.get();
        let result = act(&mut escalation);
        self.escalation.set(escalation);
        result
    }

    fn with_timers<T>(&self, act: impl FnOnce(&mut Timers) -> T) -> T {
        let mut timers = self.timers.get();
        let result = act(&mut timers);
        self.timers.set(timers);
        result
    }

    /// Does what is due: pings, timeouts, expiry, leaving.
    pub fn tick(&self, config: &Config, tick: Tick) {
        if self.ending().is_some() {
            return;
        }
        let Tick { now, wall, draining } = tick;
        let facts = Facts {
            now,
            draining,
            is_stalled: self.sink.is_stalled(now, config.limits.write_timeout),
            is_granted: wall < self.connection.expires_at(),
            // Also a lagging reader, whose turn may come late (for its org's quota, its user's searches): a client
            // that hears nothing gives up the stream.
            is_quiet: self.sink.is_ready(),
            // A lagging reader may read much before the ping, and the write timeout ends it if its client is gone.
            answers_pings: self.sink.is_websocket() && self.is_live(),
        };
        match self.with_timers(|timers| timers.tick(config, &facts)) {
            None => self.look_at_lag(config),
            Some(DueAction::End(refusal)) => self.end(refusal),
            Some(DueAction::GoAway(patience)) => {
                self.slot.release();
                self.say(&frame::goaway(self.sink.framing(), Code::Draining, millis(patience)));
            }
            Some(DueAction::Ping) => {
                let mut frames = Vec::new();
                self.session.borrow_mut().ping(wall, &mut frames);
                self.push(frames);
            }
        }
    }

    /// Reports to the client that the log's health has changed.
    pub fn report_health(&self, health: &Health) {
        self.say(&health_status(self.sink.framing(), health));
    }

    /// The last frame, with the reason for the end.
    pub fn last_frame(&self, refusal: &Refusal) -> Vec<Bytes> {
        let mut frames = Vec::new();
        let mut session = self.session.borrow_mut();
        session.put(frame::error(self.sink.framing(), refusal), &mut frames);
        session.end(&mut frames);
        frames
    }

    /// Whether its transport ends cleanly. After an internal error the state of the session cannot be relied
    /// on, so only an uncompressed stream can end cleanly. A gzip body, for example, ends with a checksum
    /// over all that was sent, which is not known then.
    pub fn ends_cleanly(&self) -> bool {
        let is_broken = self.ending().is_some_and(|refusal| refusal.code == Code::Internal);
        !is_broken || self.with_session(|session| session.subscriber().coding == Coding::Plain)
    }

    /// Takes it off its worker's lists. Counts and logs its end (R33).
    fn close(self: &Rc<Self>) {
        self.org.leave(self);
        self.worker.readers.remove(self);
        if std::thread::panicking() {
            // The reader's own task panicked, so the reader ends as `internal`.
            self.fail();
        }
        let metrics = &self.worker.node.metrics;
        let Some(refusal) = self.ending() else {
            metrics.client_left();
            tracing::debug!(connection = %self.id(), org = %self.org.id(), "close a stream: its client has left");
            return;
        };
        metrics.close(refusal.code);
        metrics.refused(refusal);
        tracing::info!(
            connection = %self.id(),
            org = %self.org.id(),
            address = %self.connection.address,
            transport = self.transport(),
            code = refusal.code.name(),
            "end a stream: {refusal}"
        );
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.org.shared.leave(self.worker.id);
        self.worker.node.engine.unwatch(self.org.id());
        self.worker.handle_reader_gone();
    }
}

/// The refusal of a client whose unread answers have used up their room.
pub fn takes_no_answers() -> Refusal {
    Refusal::new(Code::SlowConsumer, "the client takes no bytes, but sends frames that want answers")
}

fn greeting<'a>(node: &'a Node, name: &'a str, grant: &StreamGrant, head: Seq) -> Greeting<'a> {
    let now = node.now();
    Greeting {
        connection_id: name,
        head,
        token_expires_in_ms: grant.expires_at().saturating_sub(now).min(tidegate_protocol::SEQ_MAX),
        now,
        terms: &node.terms,
    }
}

/// The `status` frame for a log's health. The frame does not say the reason. Operators find it at `/readyz`.
fn health_status(framing: Framing, health: &Health) -> Bytes {
    let (code, message) = match health {
        Health::Ok => (StatusCode::Recovered, "the log works again"),
        Health::Degraded(_) => {
            (StatusCode::Degraded, "the log is degraded: new events may be late until it has recovered")
        }
        Health::Full(_) => {
            (StatusCode::LogFull, "the log has no room: no new events will come until there is some")
        }
        Health::Halted(_) => (
            StatusCode::LogHalted,
            "the log takes no writes: no new events will come until the gateway is restarted",
        ),
    };
    frame::status(framing, code.name(), message)
}

/// Takes a reader off its worker's lists, and out of the gauge, and counts its end, however its task ends.
pub struct Attendance {
    reader: Rc<Reader>,
    gauge: Gauge,
}

impl Attendance {
    /// Counts the reader in the gauge of its transport.
    fn begin(reader: Rc<Reader>) -> Self {
        let gauge = reader.worker.node.metrics.connections(reader.connection.transport);
        gauge.inc();
        Self { reader, gauge }
    }

    /// The reader.
    pub fn reader(&self) -> &Rc<Reader> {
        &self.reader
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.reader.close();
        self.gauge.dec();
    }
}
