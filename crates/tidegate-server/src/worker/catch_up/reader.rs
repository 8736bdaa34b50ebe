//! One reader that catches up: what its own task does, and what its worker does in its turns.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{Batch, Next, Session, View, pace::Written, slow::Escalation};

use super::{InHand, PageKey, Reader, Served, Step, Waiter, Waiting};
use crate::{
    admission::{InFlightLimits, Payer},
    metrics::{InFlight, ReplayPage},
    refusals::unreadable_for_stream,
    transport::socket::WRITE_FRAMES_MAX,
    worker::reader::Gone,
};

/// About how many bytes a reader gets in one turn: as many as one write carries.
const TURN_BYTES: usize = 64 << 10;

/// How many batches and pages are looked through for one write. A reader that sees nothing of them would
/// never fill one.
const LOOKED_THROUGH_MAX: usize = 64;

/// Why no more frames were gathered for a write.
enum Gathered {
    /// The frames fill one write, or enough was looked through, or the time is over.
    Full,
    /// There are no more: the reader has caught up.
    CaughtUp,
    /// This page is next, and it is not in the cache.
    Page(PageKey),
    /// A page is next, and there is no memory for what the reader may leave of it.
    NoMemory,
    /// The reader's own task has something to do for it first.
    Task,
}

impl Reader {
    /// Lets its worker serve it until it is live again, is to end, or its socket is closed. Called by its
    /// task while it lags.
    pub async fn catch_up(self: Rc<Self>) -> Result<(), Gone> {
        loop {
            self.sink.ready().await?;
            if self.ending().is_some() {
                return Ok(());
            }
            if self.is_to_act.get() {
                let mut frames = Vec::new();
                if let Err(error) = self.act(&mut frames).await {
                    self.end(unreadable_for_stream(error));
                    return Ok(());
                }
                self.hand(&mut frames)?;
                // This may go on for as long as the client is slow. Other tasks must have their turn.
                tokio::task::yield_now().await;
                continue;
            }
            match self.worker().turn_for(&self).await {
                Ok(Served::CaughtUp) => return Ok(()),
                Ok(Served::Gone) => return Err(Gone),
                // Look again: its socket is full, its policy is to act, or it is to end (perhaps because a
                // page could not be read).
                Ok(Served::Waits) | Err(_) => {}
            }
        }
    }

    /// Its turn: writes to it until its socket is full, or it has had its share, or the time is `until`.
    /// `in_hand` is a page that it has waited for. Nothing here is async, so no pass runs after the tail was found to have nothing more
    /// for it and before it is in its group (R7).
    pub(super) fn replay(
        self: &Rc<Self>,
        in_hand: Option<&InHand>,
        frames: &mut Vec<Bytes>,
        until: Instant,
        written: &mut Written,
    ) -> Step {
        let mut given = 0;
        loop {
            frames.clear();
            if self.is_live() {
                return Step::Done(Served::CaughtUp);
            }
            if self.ending().is_some() || !self.sink.is_ready() {
                return Step::Done(Served::Waits);
            }
            // All that it was given before has been taken.
            self.unread.take();
            let gathered = self.gather(in_hand, frames, until);
            if frames.is_empty() {
                self.unread.take();
                return match gathered {
                    Gathered::Full => Step::More,
                    Gathered::Page(key) => Step::Page(key),
                    Gathered::NoMemory => Step::Later,
                    Gathered::Task => Step::Done(Served::Waits),
                    Gathered::CaughtUp => {
                        self.go_live();
                        Step::Done(Served::CaughtUp)
                    }
                };
            }
            let bytes = frames.iter().map(Bytes::len).sum::<usize>();
            written.sends += 1;
            written.bytes += bytes as u64;
            given += bytes;
            let sent = self.hand(frames);
            self.charge_unread(bytes);
            match sent {
                Ok(true) if given >= TURN_BYTES || Instant::now() >= until => return Step::More,
                Ok(true) => {}
                Ok(false) => return Step::Done(Served::Waits),
                Err(Gone) => return Step::Done(Served::Gone),
            }
        }
    }

    /// Lets it wait for a page of the log: at once, or when its user may have more looked through.
    pub(super) fn ask_for(&self, key: PageKey, waiting: Waiting) {
        let worker = self.worker().clone();
        match self.may_be_read_for() {
            Ok(()) => worker.ask_for(key, Waiter::Reader(waiting)),
            Err(wait) => drop(tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                // Else its task waits no more.
                if !waiting.done.is_closed() {
                    worker.ask_for(key, Waiter::Reader(waiting));
                }
            })),
        }
    }

    /// `Err` says in what time its user may have more looked through.
    fn may_be_read_for(&self) -> Result<(), Duration> {
        let node = &self.worker().node;
        let per_second = node.config().limits.scan_bytes_per_second.bytes();
        self.with_session(|session| {
            node.scans.missing(self.org().id(), &session.subscriber().user, per_second)
        })
    }

    /// A page was read from the log for it.
    pub(super) fn handle_read(&self, bytes: usize) {
        let node = &self.worker().node;
        let per_second = node.config().limits.scan_bytes_per_second.bytes();
        self.with_session(|session| {
            node.scans.pay(self.org().id(), &session.subscriber().user, bytes, per_second);
        });
    }

    /// Charges for what it may leave unread of a page. It is charged before its session takes the page; if that is
    /// refused, it takes nothing. Batches of the tail are shared, and the tail pays for them.
    fn charge_page(&self) -> bool {
        if let Some(charge) = self.unread.take() {
            self.unread.set(Some(charge));
            return true;
        }
        let node = &self.worker().node;
        let user = self.with_session(|session| session.subscriber().user.clone());
        let payer = Payer::User(self.org().id().clone(), user);
        let limits = InFlightLimits::from(&node.config().limits);
        match node.ledger.charge(InFlight::Unread, payer, TURN_BYTES, limits) {
            Ok(charge) => self.unread.set(Some(Box::new(charge))),
            Err(refusal) => {
                node.metrics.refused(&refusal);
                return false;
            }
        }
        true
    }

    /// So many bytes were given to the sink, and it may have kept some.
    fn charge_unread(&self, bytes: usize) {
        let Some(mut charge) = self.unread.take().filter(|_| !self.sink.is_ready()) else { return };
        charge.shrink_to(bytes);
        // One frame may be larger than a turn. It is kept in any case, so the result is ignored.
        let limits = InFlightLimits::from(&self.worker().node.config().limits);
        let _ = charge.grow(bytes - charge.bytes(), limits);
        self.unread.set(Some(charge));
    }

    /// It has caught up: adds it to its group, which fan-out passes serve.
    fn go_live(self: &Rc<Self>) {
        self.with_escalation(Escalation::handle_caught_up);
        let org = self.org();
        org.join(self);
        let has_open = org.tail().has_open();
        if has_open {
            // When these events were committed there may have been no caught-up reader here, and so no pass.
            // Ask for one now. They are not sealed here: a thousand readers that come back one after the
            // other would cut the log into a thousand batches.
            self.worker().handle_news(org);
        }
    }

    /// Gathers frames for one write, as far as that needs no read of the log and the time is before `until`. The
    /// clock is looked at after each batch and page: its frame may have to be made, and compressed.
    fn gather(&self, in_hand: Option<&InHand>, frames: &mut Vec<Bytes>, until: Instant) -> Gathered {
        let node = &self.worker().node;
        for looked_through in 0..LOOKED_THROUGH_MAX {
            if looked_through > 0 && Instant::now() >= until {
                break;
            }
            let gaps = self.session.borrow_mut().take_gaps(node.now(), frames);
            gaps.into_iter().for_each(|reason| node.metrics.gap(reason));
            if self.is_to_act.get() {
                return Gathered::Task;
            }
            if frames.len() >= WRITE_FRAMES_MAX || frames.iter().map(Bytes::len).sum::<usize>() >= TURN_BYTES
            {
                return Gathered::Full;
            }
            let at = self.with_session(Session::scanned);
            let next = self.org().tail().next(at);
            match next {
                Next::CaughtUp => {
                    // The last events of a replay may be hidden from it. Then a ping moves its client on.
                    self.session.borrow_mut().bridge_to_scanned(node.now(), frames);
                    return Gathered::CaughtUp;
                }
                Next::Batch(batch) => {
                    if !self.take_batch(&batch, frames, until) {
                        break;
                    }
                }
                Next::BeforeTail(start) => {
                    let key = self.with_session(|session| {
                        let most = session.stop().map_or(start, |stop| stop.min(start));
                        let deletions = node.hub.deletions();
                        PageKey::next(self.org().id().clone(), session.view_key().epoch, deletions, at, most)
                    });
                    let page = match in_hand.filter(|in_hand| in_hand.key == key) {
                        Some(in_hand) => in_hand.page.clone(),
                        None => match self.worker().catch_up.page(&key) {
                            Some(page) => page,
                            None => return Gathered::Page(key),
                        },
                    };
                    if !self.charge_page() {
                        return Gathered::NoMemory;
                    }
                    if !self.take_page(&page, frames, until) {
                        break;
                    }
                    if self.with_session(Session::scanned) == at {
                        // The tail begins later, but the page leads no further: the log has no events in
                        // between, so the reader would ask for ever.
                        self.fail();
                        return Gathered::Task;
                    }
                }
            }
        }
        Gathered::Full
    }

    /// Takes a batch. Returns false if it did not, because its frame takes more work than there is time for.
    fn take_batch(&self, batch: &Batch, frames: &mut Vec<Bytes>, until: Instant) -> bool {
        let mut session = self.session.borrow_mut();
        let form = session.subscriber().coding.form();
        let (worker, org) = (self.worker(), &self.org().shared);
        let view = worker.view(org, batch, &session.view_key(), form, batch.prev);
        let Some(view) = view.filter(|view| is_ready(&session, batch, view, until)) else { return false };
        let events = session.take(batch, &view, worker.node.now(), frames);
        worker.node.metrics.delivered.inc_by(events as u64);
        true
    }

    /// Takes a page. Returns false if it did not, because its frame takes more work than there is time for.
    fn take_page(&self, page: &Batch, frames: &mut Vec<Bytes>, until: Instant) -> bool {
        let node = &self.worker().node;
        let (metrics, now) = (&node.metrics, node.now());
        let mut session = self.session.borrow_mut();
        if let Some(reason) = session.take_removed(page.prev, now, frames) {
            metrics.gap(reason);
        }
        if page.seq <= session.scanned() {
            return true;
        }
        let view = if session.shares(page) {
            let form = session.subscriber().coding.form();
            let view = self.worker().page_view(&self.org().shared, page, &session.view_key(), form);
            let Some(view) = view.filter(|view| is_ready(&session, page, view, until)) else { return false };
            metrics.replay_page(ReplayPage::Shared);
            view
        } else {
            metrics.replay_page(ReplayPage::Private);
            // The session does not look at it: it makes a frame for this reader.
            View::Empty { targeted: true }
        };
        let events = session.take_shared_page(page, &view, now, frames);
        metrics.delivered.inc_by(events as u64);
        true
    }
}

/// Whether a reader can take `view` now. If the view must be compressed alone for it, that is a piece of work by
/// itself: if the time is over before or after it, the reader takes the view in its next turn, if it is still there.
fn is_ready(session: &Session, batch: &Batch, view: &View, until: Instant) -> bool {
    if !session.lacks(batch, view) {
        return true;
    }
    let must_wait = || view.is_kept() && Instant::now() >= until;
    if must_wait() {
        return false;
    }
    view.deflate_alone();
    !must_wait()
}
