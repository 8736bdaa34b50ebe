//! A batch: a run of events that is *sealed* (no event is added any more), the unit of fan-out. A *view* is
//! what one filter shows of a batch, encoded once and shared by all readers that see the same (R8).

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tidegate_protocol::{Filter, OrgId, Seq, ServiceName, UnixMillis, UserId};

use crate::{
    Event,
    deflate::{Deflated, Generations},
    envelope::Enveloping,
    frame::{Framing, Run, Side, ViewKey},
    gzip,
};

/// How many views one batch keeps. An org with more different filters at a time is rare, and each view may be
/// as large as the batch. Further views are not kept: each is encoded again whenever it is asked for, so its
/// bytes are shared within one group of readers of a worker, but not between workers.
const VIEWS_MAX: usize = 256;

/// Counts the bytes that the batches of one tail (or one cache of pages) and their views hold. A budget made
/// by [`Budget::part_of`] also counts them in a larger budget, such as that of all tails. Bytes are charged
/// when a batch is made or a view is added, and released when the batch is dropped. A budget only counts; the
/// owner of the batches sets the limits.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
    views_unkept: AtomicU64,
    whole: Option<Arc<Budget>>,
}

impl Budget {
    /// A budget whose bytes are also charged to `whole`.
    pub fn part_of(whole: Arc<Budget>) -> Self {
        Self { whole: Some(whole), ..Self::default() }
    }

    /// How many bytes are held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many views were encoded but not kept, because their batch already kept the most that it may.
    pub fn views_unkept(&self) -> u64 {
        self.views_unkept.load(Ordering::Relaxed)
    }

    fn pass_over_view(&self) {
        self.views_unkept.fetch_add(1, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.pass_over_view();
        }
    }

    fn charge(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.charge(bytes);
        }
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// All events of an org's log in (`prev`, `seq`]: a part of its tail, or a page of the log before the tail.
#[derive(Debug)]
pub struct Batch {
    /// The position that it follows.
    pub prev: Seq,
    /// Its end: it has all events after `prev` up to here.
    pub seq: Seq,
    /// When it was sealed.
    pub sealed: UnixMillis,
    /// Its events, in seq order.
    pub events: Vec<Arc<Event>>,
    has_targeted: bool,
    views: Mutex<Vec<KeptView>>,
    charged: AtomicUsize,
    budget: Arc<Budget>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.budget.give_back(*self.charged.get_mut());
    }
}

/// A view that a batch keeps, in the forms that were asked for so far.
#[derive(Debug)]
struct KeptView {
    key: ViewKey,
    plain: View,
    compressed: Option<Arc<Compressed>>,
    /// The outer option is `None` until this form is asked for. The inner one is `None` if the frame is sent
    /// plain.
    enveloped: Option<Option<Arc<Compressed>>>,
}

impl KeptView {
    /// The bytes of its forms.
    fn memory(&self) -> usize {
        let plain = if let View::Frame { bytes, .. } = &self.plain { bytes.len() } else { 0 };
        let forms = [self.compressed.as_ref(), self.enveloped.as_ref().and_then(Option::as_ref)];
        size_of::<Self>() + plain + forms.into_iter().flatten().map(|form| form.memory()).sum::<usize>()
    }
}

/// The form that a caller asks for.
enum Wanted<'a> {
    Plain,
    Compressed(Compressor<'a>),
    Enveloped(&'a Enveloping),
}

/// Where a shared frame begins: at the `prev` of its batch, or earlier if nothing in between is for all who see the
/// same. So readers whose cursors stand anywhere in that range can take it, and need no ping before it (R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The position that the frame follows.
    pub seq: Seq,
    /// Whether there may be targeted events between there and the batch. A reader that got one of them since `seq`
    /// does not take the frame.
    pub passes_targeted: bool,
}

impl Start {
    /// The frame follows `seq`, and passes no events.
    pub fn at(seq: Seq) -> Self {
        Self { seq, passes_targeted: false }
    }

    /// Where the frame after this batch begins, if that of the batch would begin here. `view` is what the filter
    /// shows of the batch.
    pub fn after(self, batch: &Batch, view: &View) -> Self {
        match view {
            View::Frame { .. } => Self::at(batch.seq),
            View::Empty { targeted } => Self { passes_targeted: self.passes_targeted || *targeted, ..self },
        }
    }
}

impl From<Seq> for Start {
    fn from(seq: Seq) -> Self {
        Self::at(seq)
    }
}

/// What a filter shows of a batch, without targeted events.
#[derive(Debug, Clone)]
pub enum View {
    /// No event. The batch may still have targeted events for some users with this filter.
    Empty {
        /// Whether the batch has targeted events in the filter's services.
        targeted: bool,
    },
    /// A finished frame over (`start.seq`, `batch.seq`].
    Frame {
        /// The position that the frame follows.
        start: Start,
        /// The frame in its framing.
        bytes: Bytes,
        /// How many events it carries.
        count: usize,
        /// The compressed form that was asked for. `None` if the plain form was asked for, or if the frame is
        /// sent plain in any case: it is too short, or has events that must not be compressed.
        compressed: Option<Arc<Compressed>>,
    },
}

impl View {
    /// About how many bytes are sent to one reader.
    pub fn wire_bytes(&self) -> usize {
        match self {
            View::Empty { .. } => 0,
            View::Frame { bytes, compressed, .. } => match compressed.as_deref() {
                None => bytes.len(),
                Some(Compressed::Block(block)) => block.bytes().len(),
                Some(Compressed::Enveloped(frame)) => frame.len(),
                Some(Compressed::Deflated(forms)) => forms.alone().len(),
            },
        }
    }
}

/// The compressed form of a frame. Which one depends on the transport and on the compression that the reader
/// negotiated (`session::Coding`).
#[derive(Debug)]
pub enum Compressed {
    /// A WebSocket message (RFC 7692).
    Deflated(Deflated),
    /// A block of a gzip body (RFC 1952).
    Block(gzip::Block),
    /// A finished `batch` frame that has the compressed batch inside (`?batch=gzip`).
    Enveloped(Bytes),
}

impl Compressed {
    fn memory(&self) -> usize {
        match self {
            Compressed::Deflated(deflated) => deflated.memory(),
            Compressed::Block(block) => size_of::<Self>() + block.bytes().len(),
            Compressed::Enveloped(frame) => size_of::<Self>() + frame.len(),
        }
    }
}

/// How an org's batches are compressed.
#[derive(Debug)]
pub struct Compressor<'a> {
    /// The org's generations ([`crate::deflate`]); without them every frame is compressed alone.
    pub generations: Option<&'a mut Generations>,
    /// Services whose events are never compressed.
    pub excluded: &'a [ServiceName],
}

impl Batch {
    /// Seals `events`, which are all that the log has in (`prev`, `seq`], in the order of their seqs.
    pub fn new(
        prev: Seq,
        seq: Seq,
        sealed: UnixMillis,
        events: Vec<Arc<Event>>,
        budget: &Arc<Budget>,
    ) -> Self {
        debug_assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        debug_assert!(events.iter().all(|event| prev < event.seq && event.seq <= seq));
        let has_targeted = events.iter().any(|event| event.is_targeted());
        let bytes = size_of::<Self>() + events.iter().map(|event| event.memory()).sum::<usize>();
        let batch = Self {
            prev,
            seq,
            sealed,
            events,
            has_targeted,
            views: Mutex::default(),
            charged: AtomicUsize::new(0),
            budget: budget.clone(),
        };
        batch.charge(bytes);
        batch
    }

    fn charge(&self, bytes: usize) {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
        self.budget.charge(bytes);
    }

    /// The bytes charged for it: its events and the views kept so far.
    pub fn memory(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }

    /// Whether it has an event that is targeted at `user` and that `filter` admits.
    pub fn has_targeted_at(&self, user: &UserId, filter: &Filter) -> bool {
        self.has_targeted
            && self
                .events
                .iter()
                .any(|event| event.is_targeted() && event.is_for(user) && filter.admits(&event.service))
    }

    /// The events after `after` that `user` with `filter` may see.
    pub fn visible<'a>(&'a self, after: Seq, user: &UserId, filter: &Filter) -> Vec<&'a Event> {
        let first = self.events.partition_point(|event| event.seq <= after);
        let seen = self.events[first..].iter();
        seen.map(|event| &**event)
            .filter(|event| filter.admits(&event.service) && event.is_for(user))
            .collect()
    }

    /// The number of events in [`Batch::visible`]. It is known without a look at the events if the reader has
    /// none of them yet, its filter admits all services, and no event is targeted.
    pub fn count_visible(&self, after: Seq, user: &UserId, filter: &Filter) -> usize {
        if after <= self.prev && !self.has_targeted && filter.services().is_none() {
            return self.events.len();
        }
        self.visible(after, user, filter).len()
    }

    /// The shared view for `key`. `start` is the earliest position that the frame may follow: `prev` of the
    /// batch, or an earlier one ([`Start::after`]). Once a view is kept, later calls for its key get the `start`
    /// of the first call.
    pub fn view(&self, org: &OrgId, key: &ViewKey, start: impl Into<Start>) -> View {
        self.view_with(org, key, start.into(), Wanted::Plain)
    }

    /// Like [`Batch::view`], with the form that is compressed for the framing: a deflated message or a block
    /// of a gzip body. Call it for the batches in order, because a generation compresses each frame with the
    /// frames before it as context. There is no compressed form if the filter admits an event of an excluded
    /// service: such events must not be compressed together with text that an attacker can choose (CRIME,
    /// BREACH).
    pub fn compressed_view(
        &self,
        org: &OrgId,
        key: &ViewKey,
        start: impl Into<Start>,
        by: Compressor<'_>,
    ) -> View {
        self.view_with(org, key, start.into(), Wanted::Compressed(by))
    }

    /// Like [`Batch::view`], with the frame in an envelope (`?batch=gzip`), if `by` puts this frame into one.
    pub fn enveloped_view(
        &self,
        org: &OrgId,
        key: &ViewKey,
        start: impl Into<Start>,
        by: &Enveloping,
    ) -> View {
        self.view_with(org, key, start.into(), Wanted::Enveloped(by))
    }

    fn view_with(&self, org: &OrgId, key: &ViewKey, start: Start, wanted: Wanted<'_>) -> View {
        debug_assert!(start.seq <= self.prev);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = views.iter_mut().find(|kept| kept.key == *key) {
            let before = kept.memory();
            let view = self.formed(org, kept, wanted);
            self.charge(kept.memory() - before);
            return view;
        }
        let shared = self.shared(key);
        let plain = if shared.is_empty() {
            View::Empty { targeted: self.admitted(key).next().is_some() }
        } else {
            let bytes = self.run(org, key, start.seq, &shared).framed(key.framing);
            View::Frame { start, bytes, count: shared.len(), compressed: None }
        };
        let mut kept = KeptView { key: key.clone(), plain, compressed: None, enveloped: None };
        let view = self.formed(org, &mut kept, wanted);
        if views.len() < VIEWS_MAX {
            self.charge(kept.memory());
            views.push(kept);
        } else {
            self.budget.pass_over_view();
        }
        view
    }

    fn admitted(&self, key: &ViewKey) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|event| &**event).filter(|event| key.filter.admits(&event.service))
    }

    /// The events that everybody with this filter sees.
    fn shared(&self, key: &ViewKey) -> Vec<&Event> {
        self.admitted(key).filter(|event| !event.is_targeted()).collect()
    }

    fn run<'a>(&'a self, org: &'a OrgId, key: &'a ViewKey, prev: Seq, events: &'a [&'a Event]) -> Run<'a> {
        let side = Side { epoch: &key.epoch, tag: key.filter.tag() };
        Run { side, org, prev, seq: self.seq, events, omitted: 0 }
    }

    /// The view of `kept` in the form that is wanted. A form is made when it is first asked for, and stored
    /// in `kept`.
    fn formed(&self, org: &OrgId, kept: &mut KeptView, wanted: Wanted<'_>) -> View {
        let mut view = kept.plain.clone();
        let View::Frame { start, bytes, compressed, .. } = &mut view else { return view };
        *compressed = match wanted {
            Wanted::Plain => None,
            Wanted::Compressed(by) => {
                let is_excluded = |event: &Event| by.excluded.contains(&event.service);
                if kept.compressed.is_none() && !self.admitted(&kept.key).any(is_excluded) {
                    let form = match kept.key.framing {
                        Framing::WebSocket => Compressed::Deflated(match by.generations {
                            Some(generations) => generations.deflate(&kept.key, self.seq, bytes),
                            None => Deflated::without_context(bytes),
                        }),
                        Framing::Sse => Compressed::Block(gzip::Block::new(bytes)),
                    };
                    kept.compressed = Some(Arc::new(form));
                }
                kept.compressed.clone()
            }
            Wanted::Enveloped(by) => {
                let make = || {
                    let shared = self.shared(&kept.key);
                    let run = self.run(org, &kept.key, start.seq, &shared);
                    let form = Compressed::Enveloped(by.enveloped(kept.key.framing, &run, bytes)?);
                    Some(Arc::new(form))
                };
                kept.enveloped.get_or_insert_with(make).clone()
            }
        };
        view
    }
}
