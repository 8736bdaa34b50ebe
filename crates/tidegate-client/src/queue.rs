//! What waits between the connection and the application: a bounded queue. When it is full, the driver stops
//! to read the connection.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use tidegate_protocol::Cursor;
use tokio::sync::Notify;

use crate::delivery::{Delivery, Ended};

/// How much may wait before the connection is no longer read. One more frame may be over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { items: 1000, bytes: 8 << 20 }
    }
}

impl QueueLimits {
    fn has_room(self, state: &State) -> bool {
        state.items.len() < self.items && state.bytes < self.bytes
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Delivery>,
    bytes: usize,
    /// The position after all that waits, if hidden events have moved it since the last item.
    moved: Option<Cursor>,
    /// The position after all that the application was given.
    given: Option<Cursor>,
    /// Set once nothing more comes.
    end: Option<Option<Ended>>,
    waker: Option<Waker>,
    is_abandoned: bool,
}

/// The queue of one client; the driver and [`Deliveries`] share it.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    /// Told if the application takes something from a full queue, takes the last item, or goes away.
    taken: Notify,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits, start: Option<Cursor>) -> Arc<Self> {
        let state = State { given: start, ..State::default() };
        Arc::new(Self { limits, state: Mutex::new(state), taken: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, delivery: Delivery) {
        let mut state = self.lock();
        state.bytes += size(&delivery);
        state.moved = None;
        state.items.push_back(delivery);
        wake(state);
    }

    /// The stream has moved to `cursor`, perhaps without an event.
    pub(crate) fn moved(&self, cursor: Cursor) {
        let mut state = self.lock();
        if state.items.is_empty() {
            state.given = Some(cursor);
        } else {
            state.moved = Some(cursor);
        }
    }

    /// Nothing more comes, for this reason if it is not the application's wish.
    pub(crate) fn end(&self, why: Option<Ended>) {
        let mut state = self.lock();
        state.end.get_or_insert(why);
        wake(state);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.limits.has_room(&self.lock())
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether the application has let go of its end.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().is_abandoned
    }

    /// Returns if the application has taken something from a full queue, or all, since the last call.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// The position after all that the application was given.
    pub(crate) fn given(&self) -> Option<Cursor> {
        self.lock().given.clone()
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The memory that an item takes, about.
fn size(delivery: &Delivery) -> usize {
    size_of::<Delivery>()
        + match delivery {
            // The fields repeat a part of the JSON.
            Delivery::Event(event) => event.json().get().len() + 200,
            Delivery::Gap(_) => 0,
        }
}

/// The stream of deliveries. It yields an `Err` once, as the last item, if the stream has ended for good; and
/// `None` after that, or after [`crate::Client::shutdown`] and what had been received before it.
///
/// Dropping it ends the client.
#[derive(Debug)]
#[must_use = "nothing is received once it is dropped"]
pub struct Deliveries {
    queue: Arc<Queue>,
}

impl Deliveries {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// The next item; `None` after the end. Cancel safe: an item is taken only if it is returned.
    pub async fn next(&mut self) -> Option<Result<Delivery, Ended>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Deliveries {
    /// The next item, if one is here already.
    pub fn next_ready(&mut self) -> Option<Result<Delivery, Ended>> {
        match Pin::new(self).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(item) => item,
            Poll::Pending => None,
        }
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery, Ended>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.queue.lock();
        let was_full = !self.queue.limits.has_room(&state);
        if let Some(delivery) = state.items.pop_front() {
            state.bytes -= size(&delivery);
            state.given = Some(delivery.cursor().clone());
            let is_empty = state.items.is_empty();
            if is_empty && let Some(cursor) = state.moved.take() {
                state.given = Some(cursor);
            }
            drop(state);
            if was_full || is_empty {
                self.queue.taken.notify_one();
            }
            return Poll::Ready(Some(Ok(delivery)));
        }
        match &mut state.end {
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(why) => Poll::Ready(why.take().map(Err)),
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.is_abandoned = true;
        state.items.clear();
        drop(state);
        self.queue.taken.notify_one();
    }
}
