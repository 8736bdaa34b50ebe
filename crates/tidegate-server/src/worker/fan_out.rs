//! The fan-out passes of a worker: what was committed to an org goes to its caught-up readers.
//!
//! Everything here belongs to one thread. A pass hands each reader what was sealed since its own position,
//! as bytes shared with everybody who sees the same, by non-blocking vectored writes. A reader whose
//! socket does not take them leaves its group, and catches up in its own turns ([`super::catch_up`]).
//!
//! A pass is served in slices of time, and looks at the clock between any two pieces of work: one view of one
//! batch made, or a few readers slice. So the readers of other orgs wait for no more than a slice and a piece.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{
    Batch, Framing, View, ViewKey,
    batch::{Compressor, Start},
    pace::{SLICE, Written},
    session::Form,
};
use tidegate_protocol::OrgId;

use super::{
    Worker, guard,
    org::{Group, OrgState, Pass},
    reader::Offer,
    readers::READERS_BETWEEN_LOOKS,
    thread_cpu,
};
use crate::{
    hub::Org,
    metrics::LongSlice,
    transport::{Transport, socket::WRITE_FRAMES_MAX},
};

/// A frame may begin before targeted events (R1) unless more than one of so many readers of its group got some of
/// them. Each of those needs a frame of its own instead; without it, each of the others needs a ping before it.
const APART_SHARE: usize = 4;

/// How many batches a reader gets with one write: what one vectored write carries.
const VIEWS_AT_ONCE: usize = WRITE_FRAMES_MAX;

/// About how many bytes, before compression, a reader gets with one write. The kernel takes this many in about
/// 0.2 ms.
const VIEW_BYTES_AT_ONCE: usize = 512 << 10;

/// About how many bytes are sent between two looks at the clock.
const BYTES_BETWEEN_LOOKS: u64 = 64 << 10;

/// A slice of a pass.
#[derive(Debug)]
struct Slice {
    began: Instant,
    /// When the last piece of work began, counted from then.
    piece_began: Duration,
    /// What the last piece of work is. If the slice is too long, it is because of this piece.
    piece: Option<LongSlice>,
    written: Written,
    /// How many events were sent.
    events: usize,
    /// How many bytes may be sent.
    may_send: u64,
}

impl Slice {
    fn begin(may_send: u64) -> Self {
        let (began, piece_began) = (Instant::now(), Duration::ZERO);
        Self { began, piece_began, piece: None, written: Written::default(), events: 0, may_send }
    }

    /// A piece of work is done: looks at the clock, and at what was sent. Returns whether the slice is over.
    fn is_over(&mut self, org: &OrgState) -> bool {
        let passed = self.began.elapsed();
        let is_over = passed >= SLICE || org.sent() >= self.may_send;
        if !is_over {
            self.piece_began = passed;
        }
        is_over
    }
}

impl Worker {
    /// The org `id` has events that its readers here do not have yet.
    pub fn handle_commit(&self, id: &OrgId) {
        let org = self.orgs.borrow().get(id).cloned();
        if let Some(org) = org {
            self.handle_news(&org);
        }
    }

    /// The same, for a caller that has the org's state.
    pub fn handle_news(&self, org: &Rc<OrgState>) {
        // Its readers may have gone meanwhile.
        if org.has_groups() {
            org.has_news.set(true);
            self.passes.borrow_mut().handle_news(self.since_start(), org);
        }
    }

    /// Serves a slice of the pass of `org`, unless its streams have used up their quota of bytes.
    pub(super) fn serve_pass(&self, org: Rc<OrgState>) {
        let may_send = match org.may_send(true) {
            Ok(bytes) => bytes,
            Err(wait) => {
                if let Some(pass) = &mut *org.under_way.borrow_mut() {
                    pass.rest();
                }
                return self.passes.borrow_mut().handle_hold(org, self.since_start() + wait);
            }
        };
        let cpu = thread_cpu();
        let mut slice = Slice::begin(may_send);
        let is_done = self.go_on(&org, &mut slice);
        org.report_sent();
        let took = thread_cpu().saturating_sub(cpu);
        if let Some(piece) = slice.piece {
            // The time before the piece may be more than the CPU time of the thread then, but not less.
            self.node.metrics.piece_took(piece, took.saturating_sub(slice.piece_began));
        }
        let cost = slice.written.saved_by_waiting(took);
        self.passes.borrow_mut().handle_slice(self.since_start(), org, cost, is_done);
    }

    /// Goes on with the pass of `org`, or begins one, for a slice of time. Returns whether the pass is done.
    fn go_on(&self, org: &OrgState, slice: &mut Slice) -> bool {
        let begun = org.under_way.take();
        let Some(mut pass) = begun.or_else(|| self.begin(org)) else { return true };
        if std::mem::take(&mut pass.rests) {
            self.wake(org, &mut pass);
        }
        let is_done = loop {
            let Some(group) = pass.groups.last().cloned() else { break true };
            if !self.serve_group(org, &mut pass, &group, slice) {
                break false;
            }
            pass.groups.pop();
            pass.is_measured = false;
        };
        self.node.metrics.delivered.inc_by(slice.events as u64);
        if !is_done {
            org.under_way.replace(Some(pass));
        }
        is_done
    }

    /// Begins a pass: seals the open events. `None` if there is nothing new, or no reader is caught up.
    fn begin(&self, org: &OrgState) -> Option<Pass> {
        if !org.has_news.take() {
            return None;
        }
        // During a pass readers may leave their group, and a group that loses its last reader is removed from
        // the org's list. So the pass goes through a copy of the list.
        let groups = org.groups.borrow().clone();
        let from = groups.iter().map(|group| group.position.get()).min()?;
        let now = self.node.now();
        let deletions = self.node.hub.deletions();
        let (batches, head) = {
            let mut tail = org.tail();
            tail.seal(self.node.steady());
            (tail.since(from), tail.head())
        };
        Some(Pass { groups, batches, head, deletions, now, ..Pass::default() })
    }

    /// A pass goes on that was held.
    fn wake(&self, org: &OrgState, pass: &mut Pass) {
        if pass.deletions != self.node.hub.deletions() {
            // What was made for the group may hold what was deleted meanwhile.
            pass.views.clear();
            pass.is_made = false;
        }
        if let Some(from) = pass.groups.iter().map(|group| group.position.get()).min() {
            pass.batches = org.tail().since(from);
        }
        pass.now = self.node.now();
    }

    /// Serves a group for the rest of a slice: makes what its readers get next, sends it to each of them, and so
    /// on. Returns whether the group has all batches of the pass. At least one piece of work is done: a view is
    /// made, or a few readers are served.
    fn serve_group(&self, org: &OrgState, pass: &mut Pass, group: &Group, slice: &mut Slice) -> bool {
        loop {
            if !pass.is_made {
                let is_made = self.make_views(org, pass, group, slice);
                pass.is_made = is_made;
                if !is_made {
                    return false;
                }
            }
            if pass.views.is_empty() {
                pass.is_made = false;
                return true;
            }
            if !self.send_views(org, pass, group, slice) {
                return false;
            }
            group.next.set(0);
            pass.views.clear();
            pass.is_made = false;
            if pass.batches.last().is_none_or(|last| last.seq <= group.position.get()) {
                return true;
            }
            // HTTP takes what SSE readers got when their connections are polled, which is after this slice.
            if group.key.framing == Framing::Sse || slice.is_over(org) {
                return false;
            }
        }
    }

    /// Makes what `group` sees of the next batches, as many as one write carries. Each view is made once for all
    /// readers of the group, when the pass comes to it: an org with many filters, or with large events, makes its
    /// own readers wait, not those of other orgs. Returns whether all of them are made.
    fn make_views(&self, org: &OrgState, pass: &mut Pass, group: &Group, slice: &mut Slice) -> bool {
        let mut bytes = pass.views.iter().map(|(_, view)| view.plain_bytes()).sum::<usize>();
        let most = VIEW_BYTES_AT_ONCE.min(usize::try_from(slice.may_send).unwrap_or(usize::MAX));
        while pass.views.len() < VIEWS_AT_ONCE && bytes < most {
            let position = group.position.get();
            let batch = pass.batches.get(pass.batches.partition_point(|batch| batch.seq <= position));
            if group.readers.borrow().is_empty() {
                return true;
            }
            if pass.deletions != self.node.hub.deletions() || (batch.is_none() && position < pass.head) {
                // The batches may hold what was deleted since the pass began, or some have fallen out of the
                // tail. Its readers get the rest from the tail or the log as it is now.
                pass.views.clear();
                self.let_all_lag(org, group);
                return true;
            }
            let Some(batch) = batch.cloned() else { return true };
            let mut start = group.start.get();
            if batch.prev != position {
                // The batch does not begin where the group stands: the tail was shortened past it, or the group
                // began inside of this batch, while it was open. So the frame's `prev` is the batch's own.
                start = Start::at(batch.prev);
            }
            if start.passes_targeted && group.apart.get() * APART_SHARE > group.readers.borrow().len() {
                start = Start::at(batch.prev);
            }
            slice.piece = Some(LongSlice::View);
            let Some(view) = self.view(&org.shared, &batch, &group.key, group.form, start) else {
                // A piece of a large frame is compressed, and there are more.
                if slice.is_over(org) {
                    return false;
                }
                continue;
            };
            group.start.set(start.after(&batch, &view));
            group.position.set(batch.seq);
            if matches!(view, View::Frame { .. }) {
                group.apart.set(0);
            }
            bytes += view.plain_bytes();
            pass.views.push((batch, view));
            if slice.is_over(org) {
                return false;
            }
        }
        true
    }

    /// What `key` sees of a batch, in the form that is wanted. `start` is the lowest `prev` that the frame
    /// may have ([`Batch::view`]). `None` if only a piece of a large frame was compressed: call it again, after
    /// others have had their turn.
    pub fn view(
        &self,
        org: &Org,
        batch: &Batch,
        key: &ViewKey,
        form: Form,
        start: impl Into<Start>,
    ) -> Option<View> {
        match form {
            Form::Plain => Some(batch.view(&org.id, key, start)),
            Form::Compressed => {
                let excluded = &self.node.enveloping.excluded;
                let by = Compressor { generations: Some(org.generations()), excluded };
                batch.compressed_view(&org.id, key, start, by)
            }
            Form::Enveloped => batch.enveloped_view(&org.id, key, start, &self.node.enveloping),
        }
    }

    /// What `key` sees of a page of the log, in the form that is wanted, as [`Worker::view`] returns it. A page is
    /// compressed alone, without a generation: a generation compresses the batches of the tail, each once and in
    /// their order.
    pub fn page_view(&self, org: &Org, page: &Batch, key: &ViewKey, form: Form) -> Option<View> {
        if form != Form::Compressed {
            return self.view(org, page, key, form, page.prev);
        }
        let by = Compressor { generations: None, excluded: &self.node.enveloping.excluded };
        page.compressed_view(&org.id, key, page.prev, by)
    }

    /// Sends the views that were made to those readers of the group that have not got them yet, for the rest
    /// of the slice. Returns whether all readers have been served.
    fn send_views(&self, org: &OrgState, pass: &mut Pass, group: &Group, slice: &mut Slice) -> bool {
        let views = &pass.views;
        let bytes = views.iter().map(|(_, view)| view.wire_bytes() as u64).sum::<u64>();
        // A frame in an envelope may be compressed for one reader alone.
        let readers_between_looks = match group.form {
            Form::Enveloped => 1,
            Form::Plain | Form::Compressed => {
                (BYTES_BETWEEN_LOOKS / bytes.max(1)).clamp(1, READERS_BETWEEN_LOOKS.into())
            }
        };
        let mut frames: Vec<Bytes> = Vec::new();
        let mut readers_since_look = 0;
        loop {
            let Some(reader) = group.readers.borrow().get(group.next.get()).cloned() else { break };
            if bytes > 0 {
                slice.written.sends += 1;
                slice.written.bytes += bytes;
            }
            slice.piece = Some(LongSlice::Send);
            // A broken invariant ends the one stream, not the worker and everybody on it.
            let offered = guard(|| reader.offer(views, pass.now, &mut frames)).unwrap_or_else(|| {
                frames = Vec::new();
                reader.fail();
                Offer::Lags(0)
            });
            readers_since_look += 1;
            match offered {
                Offer::Taken(events) => {
                    slice.events += events;
                    group.next.set(group.next.get() + 1);
                }
                Offer::Lacks(events, index) => {
                    slice.events += events;
                    views[index].1.deflate_alone();
                    slice.piece = Some(LongSlice::View);
                    readers_since_look = readers_between_looks;
                }
                Offer::Lags(events) => {
                    slice.events += events;
                    reader.org().leave(&reader);
                    self.node.metrics.parked.inc();
                    reader.notify();
                }
            }
            if readers_since_look >= readers_between_looks {
                readers_since_look = 0;
                if slice.is_over(org) {
                    return false;
                }
            }
        }
        if bytes > 0 && !pass.is_measured && !group.readers.borrow().is_empty() {
            self.measure(group, views);
            pass.is_measured = true;
        }
        true
    }

    /// Measures how long the oldest event of `views` was on its way, now that the last reader of the group has
    /// it.
    fn measure(&self, group: &Group, views: &[(Arc<Batch>, View)]) {
        let shown = views.iter().find(|(_, view)| matches!(view, View::Frame { .. }));
        let Some(oldest) = shown.and_then(|(batch, _)| batch.events.first()) else { return };
        let transport = match group.key.framing {
            Framing::WebSocket => Transport::WebSocket,
            Framing::Sse => Transport::Sse,
        };
        let took = Duration::from_millis(self.node.now().saturating_sub(oldest.timestamp));
        self.node.metrics.delivery_took(transport, took);
    }

    /// Takes all readers out of a group: from now on they lag.
    fn let_all_lag(&self, org: &OrgState, group: &Group) {
        loop {
            let Some(reader) = group.readers.borrow().last().cloned() else { break };
            org.leave(&reader);
            self.node.metrics.parked.inc();
            reader.notify();
        }
    }
}
