//! Looking through the log for one user, for a page of history or for `tail=`: page by page, with a break between
//! pages when a slice of time is over, and paid for by the user ([`Scans`](crate::admission::Scans)).

use std::{rc::Rc, sync::Arc, time::Instant};

use tidegate_core::{Batch, Event, replay::SLICE};
use tidegate_engine::ReadError;
use tidegate_protocol::{Epoch, Filter, OrgId, Seq, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{PageKey, Worker};
use crate::{config::LimitSettings, metrics::LongSlice, worker::thread_cpu};

/// One search through a log.
pub struct Scan {
    worker: Rc<Worker>,
    /// The org whose log it is.
    pub org: OrgId,
    /// Who sees what is found.
    pub user: UserId,
    /// The services that they see.
    pub filter: Filter,
    epoch: Epoch,
    at: Seq,
    to: Seq,
    /// How many times as wide as usual the next page is.
    factor: Seq,
    events: usize,
    bytes: usize,
    since_break: Instant,
    turns: Arc<Semaphore>,
}

impl Scan {
    /// A search for this user, which begins with [`Scan::seek`]. `epoch` tells the log from earlier ones of the org
    /// (R10).
    pub fn new(worker: &Rc<Worker>, org: OrgId, user: UserId, filter: Filter, epoch: Epoch) -> Self {
        Self {
            turns: worker.catch_up.searches_of(&org),
            worker: worker.clone(),
            org,
            user,
            filter,
            epoch,
            at: 0,
            to: 0,
            factor: 1,
            events: 0,
            bytes: 0,
            since_break: Instant::now(),
        }
    }

    /// Goes on after `after`, and up to `to`, which must not be above the head of the log: a page that ended at
    /// the head would be kept, and still end there after the log has grown.
    pub fn seek(&mut self, after: Seq, to: Seq) {
        (self.at, self.to) = (after, to);
    }

    /// Waits for a turn, which lasts until this is dropped. Only one search of an org runs at a time on a worker: so
    /// many of one org do not stand between the worker and the readers of the others.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.turns.clone().acquire_owned().await.ok()
    }

    /// The next page, to be asked for in a turn; `None` if there is none.
    pub async fn next(&mut self) -> Result<Option<Rc<Batch>>, ReadError> {
        if self.at >= self.to {
            return Ok(None);
        }
        if self.since_break.elapsed() >= SLICE {
            tokio::task::yield_now().await;
            self.since_break = Instant::now();
        }
        let deletions = self.worker.node.hub.deletions();
        let key = PageKey::next(self.org.clone(), self.epoch.clone(), deletions, self.at, self.to);
        let page = self.worker.page(key.widened(self.factor, self.to)).await?;
        // If few of its seqs are events, the next page may be as sparse.
        let is_sparse = (page.events.len() as Seq).saturating_mul(4) < page.seq - page.prev;
        self.factor = if is_sparse { self.factor.saturating_mul(2) } else { 1 };
        match page.seq > self.at {
            true => self.at = page.seq,
            // A page that leads no further means that the log has ended.
            false => self.to = self.at,
        }
        let bytes = page.events.iter().map(|event| event.fragment.len()).sum();
        self.events += page.events.len().max(1);
        self.bytes += bytes;
        let per_second = self.worker.node.config().limits.scan_bytes_per_second.bytes();
        self.worker.node.scans.pay(&self.org, &self.user, bytes, per_second);
        Ok(Some(page))
    }

    /// Does something with a page, which must take no long time.
    pub fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let cpu = thread_cpu();
        let done = work();
        self.worker.node.metrics.piece_took(LongSlice::Scan, thread_cpu().saturating_sub(cpu));
        done
    }

    /// Whether its user sees this event.
    pub fn shows(&self, event: &Arc<Event>) -> bool {
        self.filter.admits(&event.service) && event.is_for(&self.user)
    }

    /// How many events it has looked through.
    pub fn events(&self) -> usize {
        self.events
    }

    /// How many bytes of events it has looked through.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one request may look through more.
    pub fn is_within(&self, limits: &LimitSettings) -> bool {
        self.events < limits.tail_search_events && self.bytes < limits.scan_bytes.bytes()
    }

    /// Whether one request may look through more now. It has always looked through something before it ends.
    pub fn may_go_on(&self, limits: &LimitSettings) -> bool {
        let per_second = limits.scan_bytes_per_second.bytes();
        let is_too_fast = || self.worker.node.scans.missing(&self.org, &self.user, per_second).is_err();
        self.is_within(limits) && (self.events == 0 || !is_too_fast())
    }

    /// Waits until its user may have more looked through. The turn goes to others meanwhile.
    pub async fn pace(&self, turn: &mut Option<OwnedSemaphorePermit>) {
        let per_second = self.worker.node.config().limits.scan_bytes_per_second.bytes();
        while let Err(wait) = self.worker.node.scans.missing(&self.org, &self.user, per_second) {
            turn.take();
            tokio::time::sleep(wait).await;
        }
        if turn.is_none() {
            *turn = self.turn().await;
        }
    }
}
