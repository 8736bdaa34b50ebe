//! Reading the log through the pages of a worker: once for all who ask for the same page at the same time.
//!
//! Lagging readers get pages in their turns. History and `tail=N` go through them one by one
//! ([`super::scan`]). What `slow=latest` looks through has bounds of its own, and [`Worker::read`] puts it
//! together from the same pages.

use std::{rc::Rc, sync::Arc};

use tidegate_core::{
    Batch, Event,
    frame::{AROUND_BYTES_MAX, EVENT_AROUND_BYTES, FRAME_BYTES_END},
};
use tidegate_engine::{Page, PageLimit, ReadError};
use tidegate_protocol::{Epoch, OrgId, Seq};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{PageKey, Waiting, Worker};
use crate::{metrics::ReplayPage, refusals::unreadable_for_stream};

/// How much one page holds: no more than one frame may have. A larger single event makes a page of its own.
const PAGE_EVENTS: usize = 128;
const PAGE_BYTES: usize = FRAME_BYTES_END - 1 - AROUND_BYTES_MAX - PAGE_EVENTS * EVENT_AROUND_BYTES;

/// Who waits for a page.
#[derive(Debug)]
pub enum Waiter {
    /// A lagging reader, which gets it in its next turn.
    Reader(Waiting),
    /// A task, by [`Worker::read`].
    Task(oneshot::Sender<Result<Rc<Batch>, ReadError>>),
}

/// A page that was just read, held until all readers that asked for it have had it: the cache may drop it
/// before.
#[derive(Debug)]
pub struct InHand {
    /// Which it is.
    pub key: PageKey,
    /// The page.
    pub page: Rc<Batch>,
    _room: OwnedSemaphorePermit,
}

impl Worker {
    /// Lets `waiter` wait for the page. Begins to read it, unless somebody waits for it already.
    pub(super) fn ask_for(self: &Rc<Self>, key: PageKey, waiter: Waiter) {
        if self.catch_up.pages.borrow_mut().ask(&key, waiter) {
            tokio::task::spawn_local(read(self.clone(), key));
        }
    }

    /// The page that `key` names, from the cache or the log.
    pub(super) async fn page(self: &Rc<Self>, key: PageKey) -> Result<Rc<Batch>, ReadError> {
        if let Some(page) = self.catch_up.page(&key) {
            return Ok(page);
        }
        let (done, page) = oneshot::channel();
        self.ask_for(key, Waiter::Task(done));
        page.await.unwrap_or_else(|_| Err(ReadError::Store("a read of a page ended early".into())))
    }

    /// Reads what [`tidegate_engine::Engine::read`] would return, put together from shared pages. `limit.to`
    /// must not be above the head of the log: a page that ended at the head would be kept, and still end
    /// there after the log has grown. `epoch` tells the log from earlier ones of the org (R10).
    pub async fn read(
        self: &Rc<Self>,
        org: &OrgId,
        epoch: &Epoch,
        after: Seq,
        limit: PageLimit,
    ) -> Result<Page, ReadError> {
        let mut stretch = Stretch::after(after);
        while stretch.to < limit.to {
            let page = self.page(stretch.next(org, epoch, self.node.hub.deletions(), limit)).await?;
            if !stretch.take(&page, limit) {
                break;
            }
        }
        Ok(Page { after: stretch.after, to: stretch.to, events: stretch.events })
    }
}

/// What was read so far: all events in (`after`, `to`].
#[derive(Debug)]
struct Stretch {
    after: Seq,
    to: Seq,
    events: Vec<Arc<Event>>,
    bytes: usize,
    /// How many times as wide as usual the next page is.
    factor: Seq,
}

impl Stretch {
    fn after(after: Seq) -> Self {
        Self { after, to: after, events: Vec::new(), bytes: 0, factor: 1 }
    }

    /// The page that comes next.
    fn next(&self, org: &OrgId, epoch: &Epoch, deletions: u64, limit: PageLimit) -> PageKey {
        let key = PageKey::next(org.clone(), epoch.clone(), deletions, self.to, limit.to);
        key.widened(self.factor, limit.to)
    }

    /// Takes the next page as far as `limit` allows. Returns whether the stretch may go on after it.
    fn take(&mut self, page: &Batch, limit: PageLimit) -> bool {
        // If few of its seqs are events, the next page may be as sparse.
        let is_sparse = (page.events.len() as Seq).saturating_mul(4) < page.seq - page.prev;
        self.factor = if is_sparse { self.factor.saturating_mul(2) } else { 1 };
        let begun = self.to;
        if page.prev > self.to {
            // Retention has removed what lay between. The stretch begins after that, or ends before it.
            if !self.events.is_empty() {
                return false;
            }
            (self.after, self.to) = (page.prev, page.prev);
        }
        let from = self.to;
        for event in page.events.iter().filter(|event| event.seq > from) {
            let bytes = self.bytes.saturating_add(event.fragment.len());
            if !self.events.is_empty() && (self.events.len() >= limit.events || bytes > limit.bytes) {
                return false;
            }
            self.bytes = bytes;
            self.to = event.seq;
            self.events.push(event.clone());
        }
        self.to = self.to.max(page.seq);
        // A page that leads no further means that the log has ended.
        self.to > begun && self.events.len() < limit.events
    }
}

/// Reads a page for all who have asked for it, and hands it to them.
async fn read(worker: Rc<Worker>, key: PageKey) {
    let reading = Reading { worker, key };
    let Reading { worker, key } = &reading;
    let catch_up = &worker.catch_up;
    // The semaphore is never closed.
    let Ok(room) = catch_up.room.clone().acquire_owned().await else { return };
    let limit = PageLimit { events: PAGE_EVENTS, bytes: PAGE_BYTES, to: key.to };
    let read = worker.node.engine.read(&key.org, key.from, limit).await;
    // If the org was deleted and has a new log, this may be a page of that.
    let is_same_log = || worker.node.engine.head(&key.org).is_some_and(|log| log.knows(&key.epoch));
    match read.and_then(|page| if is_same_log() { Ok(page) } else { Err(ReadError::NoLog) }) {
        Ok(page) => {
            worker.node.metrics.replay_page(ReplayPage::Read);
            let bytes = page.events.iter().map(|event| event.fragment.len()).sum();
            let mut pages = catch_up.pages.borrow_mut();
            let batch = Batch::new(page.after, page.to, worker.node.now(), page.events, pages.budget());
            let page = Rc::new(batch);
            let waiters = pages.handle_read(key.clone(), page.clone());
            drop(pages);
            // Of the readers that share it, the first pays for it. A task has its own account.
            let reader = waiters.iter().find_map(|waiter| match waiter {
                Waiter::Reader(waiting) => waiting.reader.upgrade(),
                Waiter::Task(_) => None,
            });
            if let Some(reader) = reader {
                reader.handle_read(bytes);
            }
            let in_hand = Rc::new(InHand { key: key.clone(), page, _room: room });
            for waiter in waiters {
                match waiter {
                    Waiter::Reader(waiting) => {
                        let Some(reader) = waiting.reader.upgrade() else { continue };
                        let waiting = Waiting { page: Some(in_hand.clone()), ..waiting };
                        catch_up.wait(reader.org(), waiting, false);
                    }
                    // The result is ignored: whoever asked may have gone.
                    Waiter::Task(done) => drop(done.send(Ok(in_hand.page.clone()))),
                }
            }
        }
        Err(error) => {
            let waiters = catch_up.pages.borrow_mut().handle_failed(key);
            for waiter in waiters {
                match waiter {
                    Waiter::Reader(waiting) => {
                        if let Some(reader) = waiting.reader.upgrade() {
                            reader.end(unreadable_for_stream(error.clone()));
                        }
                    }
                    Waiter::Task(done) => drop(done.send(Err(error.clone()))),
                }
            }
        }
    }
}

/// A page that is being read. Dropped when the read is over, also if it panics or is cancelled. Whoever still
/// waits then would wait for ever: readers are ended, and tasks get an error.
struct Reading {
    worker: Rc<Worker>,
    key: PageKey,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let waiters = self.worker.catch_up.pages.borrow_mut().handle_failed(&self.key);
        for waiter in waiters {
            if let Waiter::Reader(waiting) = waiter
                && let Some(reader) = waiting.reader.upgrade()
            {
                reader.fail();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidegate_protocol::ServiceName;

    use super::*;

    /// Reads as an engine does: in order, until a limit is reached, at least one event.
    fn read(log: &[Arc<Event>], after: Seq, limit: PageLimit) -> Page {
        let floor = log.first().map_or(0, |event| event.seq - 1);
        let head = log.last().map_or(0, |event| event.seq);
        let after = after.max(floor);
        let (mut events, mut room) = (Vec::new(), limit.bytes);
        let wanted = log.iter().filter(|event| event.seq > after && event.seq <= limit.to);
        for event in wanted.take(limit.events.max(1)) {
            if !events.is_empty() && event.fragment.len() > room {
                break;
            }
            room = room.saturating_sub(event.fragment.len());
            events.push(event.clone());
        }
        let is_short = events.len() >= limit.events || wanted_after(log, events.last(), limit.to);
        let last = events.last().filter(|_| is_short).map(|event| event.seq);
        let to = last.unwrap_or(limit.to.min(head));
        Page { after, to: to.max(after), events }
    }

    /// Whether the log has an event after `last` and up to `to`.
    fn wanted_after(log: &[Arc<Event>], last: Option<&Arc<Event>>, to: Seq) -> bool {
        last.is_some_and(|last| log.iter().any(|event| event.seq > last.seq && event.seq <= to))
    }

    proptest! {
        #[test]
        fn a_stretch_of_shared_pages_is_what_the_engine_reads(
            sizes in prop::collection::vec(1..2000_usize, 1..600),
            (floor, every) in (0..300_u64, prop_oneof![Just(1_u64), 2..50_u64]),
            after in 0..900_u64,
            (events, bytes, length) in (1..400_usize, 1..300_000_usize, 0..700_u64),
        ) {
            let log: Vec<_> = (floor + 1..)
                .step_by(every as usize)
                .zip(&sizes)
                .map(|(seq, size)| {
                    let service = ServiceName::parse("s").expect("a name");
                    let fragment = Bytes::from(vec![b'x'; *size]);
                    Arc::new(Event { seq, timestamp: 1, service, users: None, fragment })
                })
                .collect();
            let head = log.last().map_or(0, |event| event.seq);
            let limit = PageLimit { events, bytes, to: (after + length).min(head) };
            let (org, epoch) = (OrgId::parse("acme").expect("a name"), Epoch::parse("e").expect("an epoch"));
            let mut stretch = Stretch::after(after);
            while stretch.to < limit.to {
                let PageKey { from, to, .. } = stretch.next(&org, &epoch, 0, limit);
                let page = read(&log, from, PageLimit { events: PAGE_EVENTS, bytes: PAGE_BYTES, to });
                let page = Batch::new(page.after, page.to, 1, page.events, &Arc::default());
                if !stretch.take(&page, limit) {
                    break;
                }
            }
            // If nothing is asked for, nothing is read, and the floor is not found out.
            prop_assume!(after < limit.to);
            let expected = read(&log, after, limit);
            let seqs = |events: &[Arc<Event>]| events.iter().map(|event| event.seq).collect::<Vec<_>>();
            prop_assert_eq!(seqs(&stretch.events), seqs(&expected.events));
            prop_assert_eq!(stretch.after, expected.after);
            // Between two events there may be seqs that hold none.
            let passed = log.iter().filter(|event| event.seq > stretch.after && event.seq <= stretch.to);
            prop_assert_eq!(passed.count(), stretch.events.len());
            prop_assert!(every > 1 || stretch.to == expected.to);
        }
    }
}
