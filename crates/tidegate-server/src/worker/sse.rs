//! A reader over server-sent events (WHATWG HTML, section 9.2): its sink is the body of an HTTP
//! response, which hyper takes frame by frame, and an HTTP/2 connection by as many bytes as its peer has
//! room for.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tidegate_core::pace::Written;
use tidegate_protocol::Refusal;
use tokio::sync::Notify;

use super::{
    Worker,
    org::OrgState,
    reader::{Attendance, Gone, Reader},
};
use crate::transport::windows::Windows;

/// A buffer between a reader and the body of its response: frames go in when it is empty, HTTP takes them
/// out when the peer has room.
#[derive(Debug)]
pub struct BodyBuffer {
    sent: Rc<Bodies>,
    org: Rc<OrgState>,
    frames: RefCell<VecDeque<Bytes>>,
    body: RefCell<Option<Waker>>,
    emptied: Notify,
    /// Whether the body ends after `frames`, and whether that is a clean end.
    end: Cell<Option<bool>>,
    is_gone: Cell<bool>,
    /// When something was last taken, or when what waits was put into the empty buffer.
    taken: Cell<Option<Instant>>,
    /// Its stream of an HTTP/2 connection; 0 over HTTP/1.1.
    stream: Cell<u32>,
    reader: OnceCell<Weak<Reader>>,
}

impl BodyBuffer {
    fn new(org: Rc<OrgState>, sent: Rc<Bodies>) -> Self {
        Self {
            sent,
            org,
            frames: RefCell::default(),
            body: RefCell::default(),
            emptied: Notify::new(),
            end: Cell::default(),
            is_gone: Cell::default(),
            taken: Cell::default(),
            stream: Cell::default(),
            reader: OnceCell::new(),
        }
    }

    /// Names its reader, once there is one.
    pub fn set_reader(&self, reader: &Rc<Reader>) {
        // Called once for each stream.
        let _ = self.reader.set(Rc::downgrade(reader));
    }

    /// Whether all that was put in has been taken.
    pub fn is_ready(&self) -> bool {
        self.frames.borrow().is_empty()
    }

    /// Puts frames in.
    pub fn send(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        if self.is_gone.get() {
            return Err(Gone);
        }
        if self.is_ready() {
            // The wait begins here, and frames that are put behind others, such as warnings, do not begin it anew.
            self.taken.set(Some(Instant::now()));
        }
        self.frames.borrow_mut().extend(frames.drain(..));
        self.wake_body();
        Ok(true)
    }

    fn wake_body(&self) {
        if let Some(waker) = self.body.take() {
            waker.wake();
        }
    }

    /// Waits until all has been taken.
    pub async fn ready(&self) -> Result<(), Gone> {
        loop {
            if self.is_gone.get() {
                return Err(Gone);
            }
            if self.is_ready() {
                return Ok(());
            }
            self.emptied.notified().await;
        }
    }

    /// Whether it has to end because the peer takes nothing: of this stream, or of others for want of room that
    /// this one holds ([`Windows`]).
    pub fn is_stalled(&self, now: Instant, patience: Duration) -> bool {
        let (stream, windows) = (self.stream.get(), self.sent.windows.get());
        if self.is_ready() {
            return windows.is_some_and(|windows| windows.must_go(stream));
        }
        let taken = self.taken.get().unwrap_or(now);
        match windows {
            Some(windows) => windows.is_stalled(stream, taken, now, patience),
            None => now.saturating_duration_since(taken) > patience,
        }
    }

    /// Ends the body after what is in it, or cuts the connection there.
    pub fn end(&self, cleanly: bool) {
        self.end.set(Some(cleanly));
        self.wake_body();
    }
}

/// A body that must not end has ended: its connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Cut;

/// The body of a stream's response.
#[derive(Debug)]
pub struct SseBody {
    slot: Rc<BodyBuffer>,
}

impl SseBody {
    /// A body of a stream of `org`, and the slot that fills it. What is taken out is noted in `sent`, which
    /// belongs to its connection.
    pub fn new(org: Rc<OrgState>, sent: Rc<Bodies>) -> (Self, Rc<BodyBuffer>) {
        let slot = Rc::new(BodyBuffer::new(org, sent));
        slot.sent.add(&slot);
        (Self { slot: slot.clone() }, slot)
    }

    /// Names its stream of an HTTP/2 connection.
    pub fn set_stream(&self, stream: u32) {
        self.slot.stream.set(stream);
    }

    /// Its stream was reset: its reader ends for this reason.
    pub fn end_reader(&self, refusal: Refusal) {
        if let Some(reader) = self.slot.reader.get().and_then(Weak::upgrade) {
            reader.end(refusal);
        }
    }

    /// Ready once its reader has put its last frame in.
    pub fn poll_ended(&self, context: &Context<'_>) -> Poll<()> {
        if self.slot.end.get().is_some() {
            return Poll::Ready(());
        }
        self.slot.body.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    /// How many bytes wait at its front; `None` at its end.
    pub fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<Option<usize>> {
        let slot = &self.slot;
        if let Some(frame) = slot.frames.borrow().front() {
            return Poll::Ready(Some(frame.len()));
        }
        if slot.end.get().is_some() {
            return Poll::Ready(None);
        }
        slot.body.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Whether its connection is to be cut at its end.
    pub fn is_cut(&self) -> bool {
        self.slot.end.get() == Some(false)
    }

    /// Takes up to `length` bytes from its front, never from two frames at once.
    pub fn take(&mut self, length: usize) -> Bytes {
        let slot = &self.slot;
        let taken = {
            let mut frames = slot.frames.borrow_mut();
            match frames.front_mut() {
                Some(front) if length < front.len() => front.split_to(length),
                _ => frames.pop_front().unwrap_or_default(),
            }
        };
        slot.taken.set(Some(Instant::now()));
        slot.sent.handle_taken(&slot.org, taken.len());
        if slot.is_ready() {
            // Idle readers own no buffer.
            slot.frames.take();
            slot.emptied.notify_one();
        }
        taken
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = self.get_mut();
        this.poll_waiting(context).map(|waiting| match waiting {
            Some(length) => Some(Ok(Frame::data(this.take(length)))),
            None => this.is_cut().then_some(Err(Cut)),
        })
    }
}

impl Drop for SseBody {
    fn drop(&mut self) {
        self.slot.is_gone.set(true);
        self.slot.emptied.notify_one();
    }
}

/// The bodies of streams on the HTTP connection of one peer: what it took out of them and has not been charged
/// for yet, and how they end with it.
///
/// A fan-out pass only puts the frames of an SSE reader into its slot; the system call that sends them is
/// made when the runtime comes to the task of the connection. That is most of what the pass costs, so it
/// counts for the pace (R15) as if the pass had made it.
#[derive(Debug, Default)]
pub struct Bodies {
    taken: RefCell<Option<(Rc<OrgState>, Written)>>,
    open: RefCell<Vec<Weak<BodyBuffer>>>,
    /// Over HTTP/2.
    windows: OnceCell<Rc<Windows>>,
}

impl Bodies {
    /// The windows of the connection, which is one of HTTP/2.
    pub fn set_windows(&self, windows: Rc<Windows>) {
        // Called once for each connection.
        let _ = self.windows.set(windows);
    }

    fn add(&self, slot: &Rc<BodyBuffer>) {
        let mut open = self.open.borrow_mut();
        open.retain(|other| other.strong_count() > 0);
        open.push(Rc::downgrade(slot));
    }

    /// The connection ends: so do its streams, for this reason if they have none yet. Returns how many of them
    /// were not sent to their end.
    pub fn end(&self, refusal: &Refusal) -> usize {
        let open: Vec<_> = self.open.take().iter().filter_map(Weak::upgrade).collect();
        for slot in &open {
            if let Some(reader) = slot.reader.get().and_then(Weak::upgrade) {
                reader.end(refusal.clone());
            }
        }
        open.len()
    }

    fn handle_taken(&self, org: &Rc<OrgState>, length: usize) {
        let mut taken = self.taken.borrow_mut();
        // They are streams of one org, unless a client mixes orgs over HTTP/2.
        let (_, written) = taken.get_or_insert_with(|| (org.clone(), Written::default()));
        // One call sends all that was taken.
        written.sends = 1;
        written.bytes += length as u64;
    }

    /// Drives `connection`, which sends what was taken, and charges the time that this takes.
    pub async fn counted<F: Future>(&self, worker: &Worker, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        poll_fn(|context| {
            // Not the CPU time: asking for it is a system call, and two more a send would show.
            let began = Instant::now();
            let polled = connection.as_mut().poll(context);
            worker.sent.add_sse(self.bytes());
            if let Some((org, cost)) = self.take_cost(began.elapsed()) {
                worker.charge(&org, cost);
            }
            polled
        })
        .await
    }

    /// How many bytes were taken.
    fn bytes(&self) -> u64 {
        self.taken.borrow().as_ref().map_or(0, |(_, written)| written.bytes)
    }

    /// The org to charge for what was sent in `took`, and how much; `None` if nothing was taken.
    fn take_cost(&self, took: Duration) -> Option<(Rc<OrgState>, Duration)> {
        let (org, written) = self.taken.take()?;
        Some((org, written.saved_by_waiting(took)))
    }
}

/// The task of a reader over SSE. It has two inputs: notifications and the body. Ends with the stream.
pub async fn run(attendance: Attendance, slot: Rc<BodyBuffer>) {
    let reader = attendance.reader();
    loop {
        if let Some(refusal) = reader.ending() {
            let _ = slot.send(&mut reader.last_frame(refusal));
            slot.end(reader.ends_cleanly());
            break;
        }
        if slot.is_gone.get() {
            break;
        }
        if reader.lags() {
            tokio::select! {
                caught_up = reader.clone().catch_up() => if caught_up.is_err() { break },
                () = reader.notified() => {}
            }
            continue;
        }
        tokio::select! {
            () = reader.notified() => {}
            () = slot.emptied.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_core::pace::{Pacing, Passes};
    use tidegate_engine::SystemClock;
    use tidegate_protocol::OrgId;

    use super::*;
    use crate::{
        config::Config,
        hub::{Hub, HubLimits},
        quotas::Quotas,
    };

    fn org() -> Rc<OrgState> {
        let limits = HubLimits {
            window: Duration::from_secs(1),
            bytes: 1 << 20,
            org_bytes: 1 << 20,
            batch: tidegate_core::BatchLimits { events: 100, bytes: 64 << 10 },
            contexts: 1,
        };
        let hub = Hub::new(1, limits, Arc::new(SystemClock));
        let acme = OrgId::parse("acme").expect("a name");
        let quotas = Quotas::new(&Config::for_tests(&[]).expect("a configuration"));
        Rc::new(OrgState::new(hub.org(&acme, 0), quotas.used_by(&acme)))
    }

    #[test]
    fn what_is_put_behind_what_waits_does_not_restart_the_clock() {
        let (mut body, slot) = SseBody::new(org(), Rc::default());
        let put = || slot.send(&mut vec![Bytes::from_static(b"frame")]).expect("open");
        let patience = Duration::from_millis(1);
        let is_stalled = || slot.is_stalled(Instant::now(), patience);
        assert!(!is_stalled(), "nothing waits");
        put();
        let began = slot.taken.get().expect("it waits");
        // Warnings, pings, status.
        put();
        assert_eq!(slot.taken.get(), Some(began));
        assert!(slot.is_stalled(began + 2 * patience, patience));
        body.take(2);
        assert!(!slot.is_stalled(slot.taken.get().expect("taken") + patience, patience));
        body.take(3);
        body.take(5);
        assert!(!slot.is_stalled(began + Duration::from_secs(60), patience), "all is taken");
    }

    #[test]
    fn r15_what_http_sends_after_the_walk_makes_its_org_wait() {
        let ms = Duration::from_millis;
        let waits = |taken: Option<usize>| {
            let (bodies, mut passes) = (Bodies::default(), Passes::new(Pacing::default()));
            let (org, now) = (org(), ms(5));
            passes.handle_news(now, &org);
            assert!(passes.poll_pass(now).is_some_and(|polled| Rc::ptr_eq(&polled, &org)));
            if let Some(length) = taken {
                bodies.handle_taken(&org, length);
            }
            if let Some((charged, cost)) = bodies.take_cost(ms(10)) {
                passes.handle_cost(now, &charged, cost);
            }
            assert!(bodies.take_cost(ms(10)).is_none(), "it is charged once");
            passes.handle_slice(now, org.clone(), ms(1), true);
            passes.handle_news(now, &org);
            passes.poll_timeout().expect("news") - now
        };
        assert_eq!(waits(None), ms(1), "a poll that takes nothing costs no org anything");
        assert_eq!(waits(Some(0)), ms(11));
        assert!(waits(Some(1 << 20)) < ms(2), "bytes have to go either way");
    }
}
