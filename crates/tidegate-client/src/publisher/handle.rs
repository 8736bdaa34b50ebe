//! The application's handle on a publisher: it waits for room, and hands events to the driver.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    builder::Builder,
    driver::{Command, Driver, Kept, Setup},
    event::NewEvent,
    outcome::{Outcome, Refused, Unknown},
    queue::Entry,
};

/// How much may be without an outcome.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// Publishes events to one gateway. Clones are handles on the same publisher. When the last one is dropped, what
/// was accepted is still sent, as long as the runtime lives; [`Publisher::close`] waits for that.
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// How many permits `bytes` has.
    bytes_max: u32,
    has_org: bool,
    commands: mpsc::UnboundedSender<Command>,
    gate: Arc<Gate>,
}

/// What the driver of a publisher that closes has to know of the handles.
#[derive(Debug, Default)]
pub(super) struct Gate {
    is_closed: AtomicBool,
    /// Events that wait for room.
    waiting: AtomicUsize,
}

impl Gate {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

/// The queue was full; here is the event again.
#[derive(Debug)]
pub struct Full(pub NewEvent);

impl Publisher {
    /// Configures a publisher for the gateway at `url`, such as `https://events.example.com`; a path in it is
    /// kept. `key` is an API key (`tidegate key create`).
    pub fn builder(url: impl Into<String>, key: impl Into<String>) -> Builder {
        Builder::new(url.into(), key.into())
    }

    pub(super) fn start(setup: Setup, room: Room, has_org: bool) -> Self {
        let bytes_max = u32::try_from(room.bytes).unwrap_or(u32::MAX);
        let (commands, received) = mpsc::unbounded_channel();
        let gate = Arc::new(Gate::default());
        tokio::spawn(Driver::new(setup, received, Arc::clone(&gate)).run());
        let shared = Shared {
            events: Arc::new(Semaphore::new(room.events.min(Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            has_org,
            commands,
            gate,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Publishes an event and waits for its outcome. Once it is accepted, the event is sent even if this future is
    /// dropped.
    pub async fn publish(&self, event: NewEvent) -> Outcome {
        self.send(event).await.await
    }

    /// Hands over an event as soon as the queue has room, in the order of the calls. The outcome comes by the
    /// receipt; without it, by [`Builder::on_outcome`].
    pub async fn send(&self, event: NewEvent) -> Receipt {
        let ready = match self.ready(&event) {
            Ok(ready) => ready,
            Err(receipt) => return receipt,
        };
        let waiting = Waiting::new(&self.shared);
        let room = async {
            let events = Arc::clone(&self.shared.events).acquire_owned().await.ok()?;
            let bytes = Arc::clone(&self.shared.bytes).acquire_many_owned(self.permits(&ready)).await.ok()?;
            Some((events, bytes))
        };
        // The semaphores are closed when the publisher gives up.
        let Some(room) = room.await else { return Receipt::closed(ready.id) };
        let receipt = self.accept(ready, room);
        drop(waiting);
        receipt
    }

    /// Hands over an event if the queue has room now.
    ///
    /// # Errors
    /// [`Full`], with the event, if it has none.
    #[expect(clippy::result_large_err, reason = "the error gives the event back")]
    pub fn try_send(&self, event: NewEvent) -> Result<Receipt, Full> {
        let ready = match self.ready(&event) {
            Ok(ready) => ready,
            Err(receipt) => return Ok(receipt),
        };
        let events = Arc::clone(&self.shared.events).try_acquire_owned();
        let bytes = Arc::clone(&self.shared.bytes).try_acquire_many_owned(self.permits(&ready));
        match events.ok().zip(bytes.ok()) {
            Some(room) => Ok(self.accept(ready, room)),
            None => Err(Full(event)),
        }
    }

    /// Sends now what waits for others, and waits for the outcomes of all events that were accepted before.
    pub async fn flush(&self) {
        let (reply, flushed) = oneshot::channel();
        // A publisher that has ended has nothing to send.
        if self.shared.commands.send(Command::Flush(reply)).is_ok() {
            let _ = flushed.await;
        }
    }

    /// Takes no more events, and flushes. What is not stored after `timeout` is given up; the outcomes of these
    /// events are returned, in the order in which they were accepted. Their receipts have them, too.
    pub async fn close(&self, timeout: Duration) -> Vec<Outcome> {
        self.shared.gate.is_closed.store(true, Ordering::SeqCst);
        let (reply, closed) = oneshot::channel();
        let left = match self.shared.commands.send(Command::Close(timeout, reply)) {
            Ok(()) => closed.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        self.shared.events.close();
        self.shared.bytes.close();
        left
    }

    /// The event with its id, as JSON; or why it is not sent at all.
    #[expect(clippy::result_large_err, reason = "a receipt is what the caller returns")]
    fn ready(&self, event: &NewEvent) -> Result<Ready, Receipt> {
        let id = event.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        if self.shared.gate.is_closed.load(Ordering::SeqCst) {
            return Err(Receipt::closed(id));
        }
        // A publisher for one org keeps no order between orgs.
        let org = (!self.shared.has_org).then(|| event.org.clone().unwrap_or_default());
        match event.encode(&id) {
            Ok(json) => Ok(Ready { id, org, service: event.service.clone(), json: json.into() }),
            Err(detail) => Err(Receipt::refused(id, "not_an_event", detail, false)),
        }
    }

    fn permits(&self, ready: &Ready) -> u32 {
        // An event that is longer than the whole room gets all of it.
        u32::try_from(ready.json.len()).unwrap_or(u32::MAX).min(self.shared.bytes_max)
    }

    fn accept(&self, ready: Ready, room: (OwnedSemaphorePermit, OwnedSemaphorePermit)) -> Receipt {
        let (reply, outcome) = oneshot::channel();
        let Ready { id, org, service, json } = ready;
        let entry = Entry::new(id.clone(), org, service, json, Kept { reply, number: 0, _room: room });
        match self.shared.commands.send(Command::Event(entry)) {
            Ok(()) => Receipt { id, state: State::Pending(outcome) },
            Err(_) => Receipt::closed(id),
        }
    }
}

/// An event that can be sent.
struct Ready {
    id: String,
    org: Option<String>,
    service: String,
    json: Bytes,
}

/// Counts an event that waits for room, until it is accepted or its future is dropped.
struct Waiting<'a> {
    shared: &'a Shared,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.gate.waiting.fetch_add(1, Ordering::SeqCst);
        Self { shared }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.gate.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.shared.gate.is_closed.load(Ordering::SeqCst) {
            // The driver may wait for this one alone.
            let _ = self.shared.commands.send(Command::Look);
        }
    }
}

/// The outcome of an accepted event, to be awaited. If it is dropped, the event is sent all the same.
#[derive(Debug)]
#[must_use = "the event may be refused"]
pub struct Receipt {
    id: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Pending(oneshot::Receiver<Outcome>),
    Settled(Option<Outcome>),
}

impl Receipt {
    /// The event's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn refused(id: String, code: &str, detail: impl Into<String>, is_retryable: bool) -> Self {
        let outcome = Outcome::Refused(Refused {
            id: id.clone(),
            code: code.to_owned(),
            detail: detail.into(),
            is_retryable,
            errors: Vec::new(),
            limit: None,
            attempts: 0,
        });
        Self { id, state: State::Settled(Some(outcome)) }
    }

    fn closed(id: String) -> Self {
        Self::refused(id, "closed", "the publisher is closed", true)
    }
}

impl Future for Receipt {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let settled = match &mut self.state {
            State::Pending(outcome) => ready!(Pin::new(outcome).poll(context)).ok(),
            State::Settled(outcome) => outcome.take(),
        };
        Poll::Ready(settled.unwrap_or_else(|| {
            // The task of the publisher is gone, and only it knew more.
            let detail = "the runtime of the publisher has ended".to_owned();
            Outcome::Unknown(Unknown { id: self.id.clone(), code: "closed".to_owned(), detail, attempts: 0 })
        }))
    }
}
