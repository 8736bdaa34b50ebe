//! A reader over server-sent events (WHATWG HTML, section 9.2): its sink is the body of an HTTP
//! response, which hyper takes frame by frame, and an HTTP/2 connection by as many bytes as its peer has
//! room for.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::Notify;

use super::reader::{Attendance, Gone, Reader};
use crate::metrics::Transport;

/// The place between a reader and the body of its response: frames go in when it is empty, HTTP
/// takes them out when the peer has room.
#[derive(Debug, Default)]
pub struct Slot {
    frames: RefCell<VecDeque<Bytes>>,
    body: RefCell<Option<Waker>>,
    emptied: Notify,
    /// Whether there is an end, and a clean one.
    end: Cell<Option<bool>>,
    is_gone: Cell<bool>,
    taken: Cell<Option<Instant>>,
}

impl Slot {
    /// Whether all that was put in has been taken.
    pub fn is_ready(&self) -> bool {
        self.frames.borrow().is_empty()
    }

    /// Puts frames in.
    pub fn send(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        if self.is_gone.get() {
            return Err(Gone);
        }
        self.frames.borrow_mut().extend(frames.drain(..));
        self.taken.set(Some(Instant::now()));
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

    /// When something was last taken; now, where nothing waits.
    pub fn progress(&self, now: Instant) -> Instant {
        if self.is_ready() { now } else { self.taken.get().unwrap_or(now) }
    }

    /// Ends the body behind what is in it, or cuts the connection there.
    pub fn end(&self, cleanly: bool) {
        self.end.set(Some(cleanly));
        self.wake_body();
    }
}

/// A body that is not to end, but has: its connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Cut;

/// The body of a stream's response.
#[derive(Debug)]
pub struct SseBody {
    slot: Rc<Slot>,
}

impl SseBody {
    /// A body and the slot that fills it.
    pub fn new() -> (Self, Rc<Slot>) {
        let slot = Rc::new(Slot::default());
        (Self { slot: slot.clone() }, slot)
    }
}

impl SseBody {
    /// How many bytes wait at its front; `None` at the end.
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

    /// Takes up to `length` bytes from its front, never of two frames at once.
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

/// The task of a reader over SSE: two inputs, the bell and the body. Ends with the stream.
pub async fn run(reader: Rc<Reader>, slot: Rc<Slot>) {
    let _attendance = Attendance::begin(reader.clone(), Transport::Sse);
    loop {
        if let Some(refusal) = reader.ending() {
            let _ = slot.send(&mut reader.last_frame(refusal));
            slot.end(reader.ends_cleanly());
            break;
        }
        if slot.is_gone.get() {
            break;
        }
        if reader.is_parked() {
            tokio::select! {
                caught_up = reader.clone().catch_up() => if caught_up.is_err() { break },
                () = reader.called() => {}
            }
            continue;
        }
        tokio::select! {
            () = reader.called() => {}
            () = slot.emptied.notified() => {}
        }
    }
}
