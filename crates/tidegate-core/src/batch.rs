//! A batch: a run of events that is *sealed* (no event is added any more), the unit of fan-out. A *view* is
//! what one filter shows of a batch, encoded once and shared by all readers that see the same (R8).

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use tidegate_protocol::{Filter, OrgId, Seq, ServiceName, UnixMillis, UserId, ws};

use crate::{
    Event,
    deflate::{Deflated, Generations, LARGE_FROM_BYTES, MadeForm, Pieces, count_compression},
    envelope::{self, Enveloping},
    frame::{Framing, Run, Side, ViewKey},
    gzip,
    window::compress_parts,
};

/// How many views one batch keeps: a bound for the search by key. Further views are not kept: each is made again
/// whenever it is asked for, so its bytes are shared within one group of readers of a worker, but not between
/// workers.
const VIEWS_MAX: usize = 256;

/// Counts the bytes that the batches of one tail (or one cache of pages) and their views hold. A budget made
/// by [`Budget::part_of`] also counts them in a larger budget, such as that of all tails. Bytes are charged
/// when a batch is made or a view is added, and released when the batch is dropped. A view that its batch does
/// not keep is charged as long as it exists. The owner of the batches drops those that are too many; a budget
/// only says whether there is room for another view.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    /// The bytes that its owner keeps to.
    max: usize,
    views_unkept: AtomicU64,
    whole: Option<Arc<Budget>>,
}

impl Default for Budget {
    /// A budget without a bound.
    fn default() -> Self {
        Self::within(usize::MAX)
    }
}

impl Budget {
    /// A budget whose owner keeps to `max` bytes.
    pub fn within(max: usize) -> Self {
        Self { used: AtomicUsize::default(), max, views_unkept: AtomicU64::default(), whole: None }
    }

    /// The same budget, with its bytes also charged to `whole`.
    #[must_use]
    pub fn part_of(self, whole: Arc<Budget>) -> Self {
        Self { whole: Some(whole), ..self }
    }

    /// How many bytes are held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many views were made but not kept: their batch already kept the most that it may, or the budget had
    /// no room.
    pub fn views_unkept(&self) -> u64 {
        self.views_unkept.load(Ordering::Relaxed)
    }

    /// Whether another view of so many bytes may be kept. Views may take a quarter of the bound more than the
    /// bound: a busy tail is always full, and its new batches need views. Its owner makes room when the next
    /// events come.
    fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.max.saturating_add(self.max / 4)
            && self.whole.as_ref().is_none_or(|whole| whole.has_room(bytes))
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

/// The bytes of a view that its batch does not keep. They are charged as long as this exists.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Charge {
    fn new(bytes: usize, budget: &Arc<Budget>) -> Arc<Self> {
        budget.charge(bytes);
        Arc::new(Self { bytes, budget: budget.clone() })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
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

/// A compressed form that was made; `None` if the frame is sent plain.
type Made = Option<Arc<Compressed>>;

/// A view that a batch keeps, in the forms that were asked for so far.
#[derive(Debug)]
struct KeptView {
    key: ViewKey,
    plain: View,
    compressed: Form,
    enveloped: Form,
}

/// One compressed form of a view.
#[derive(Debug, Default)]
struct Form {
    made: Option<Made>,
    /// How far it is, if it is large and nobody compresses the next piece now.
    begun: Option<Pieces>,
}

/// Names a compressed form.
#[derive(Debug, Clone, Copy)]
enum FormName {
    Compressed,
    Enveloped,
}

impl KeptView {
    fn form(&mut self, name: FormName) -> &mut Form {
        match name {
            FormName::Compressed => &mut self.compressed,
            FormName::Enveloped => &mut self.enveloped,
        }
    }

    /// The bytes of its forms.
    fn memory(&self) -> usize {
        let forms = [&self.compressed.made, &self.enveloped.made].into_iter().flatten().flatten();
        size_of::<Self>() + self.plain.plain_bytes() + forms.map(|form| form.memory()).sum::<usize>()
    }
}

/// What [`Batch::compress_piece`] did.
enum Pressed {
    /// It compressed the last piece. This is what [`compress_alone`](crate::deflate::compress_alone) returns.
    Whole(Vec<u8>),
    /// It compressed a piece; there are more.
    InPart,
    /// Nothing: the view is not kept, so its pieces could not be kept either. The frame is sent plain.
    Unkept,
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
        /// Its bytes, if its batch does not keep it.
        charge: Option<Arc<Charge>>,
    },
}

impl View {
    /// The bytes of its plain form.
    pub fn plain_bytes(&self) -> usize {
        if let View::Frame { bytes, .. } = self { bytes.len() } else { 0 }
    }

    /// The same view in the form `made`.
    fn with(mut self, made: Made) -> Self {
        if let View::Frame { compressed, .. } = &mut self {
            *compressed = made;
        }
        self
    }

    /// Compresses a WebSocket frame alone, if it has a form for the members of a generation only so far.
    pub fn deflate_alone(&self) {
        if let View::Frame { compressed: Some(compressed), .. } = self
            && let Compressed::Deflated(forms) = &**compressed
        {
            forms.deflate_alone();
        }
    }

    /// Whether its batch keeps it.
    pub fn is_kept(&self) -> bool {
        !matches!(self, View::Frame { charge: Some(_), .. })
    }

    /// About how many bytes are sent to one reader. Compresses nothing.
    pub fn wire_bytes(&self) -> usize {
        match self {
            View::Empty { .. } => 0,
            View::Frame { bytes, compressed, .. } => match compressed.as_deref() {
                None => bytes.len(),
                Some(Compressed::Block(block)) => block.bytes().len(),
                Some(Compressed::Enveloped(frame)) => frame.len(),
                Some(Compressed::Deflated(forms)) => forms.wire_bytes(),
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
    pub generations: Option<&'a Generations>,
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
        self.plain_view(org, key, start.into())
    }

    /// Like [`Batch::view`], with the form that is compressed for the framing: a deflated message or a block
    /// of a gzip body. `None` if only a piece of a large frame was compressed: call it again. Call it for the
    /// batches in order, because a generation compresses each frame with the frames before it as context. There
    /// is no compressed form if the filter admits an event of an excluded service, nor of a large frame with
    /// events of several services.
    pub fn compressed_view(
        &self,
        org: &OrgId,
        key: &ViewKey,
        start: impl Into<Start>,
        by: Compressor<'_>,
    ) -> Option<View> {
        let plain = self.plain_view(org, key, start.into());
        let View::Frame { start, bytes, .. } = &plain else { return Some(plain) };
        if let Some(made) = self.made(key, FormName::Compressed) {
            return Some(plain.with(made));
        }
        let shared = self.shared(key);
        let parts = self.run(org, key, start.seq, &shared).frame_parts(key.framing, bytes);
        let keep = |plain: View, form: Option<Compressed>| {
            Some(self.keep_form(key, plain, FormName::Compressed, form.map(Arc::new)))
        };
        let is_excluded = |event: &Event| by.excluded.contains(&event.service);
        if self.admitted(key).any(is_excluded) {
            return keep(plain, None);
        }
        let mut large = None;
        if bytes.len() > LARGE_FROM_BYTES {
            if parts.only().is_none() {
                return keep(plain, None);
            }
            let around = match key.framing {
                Framing::WebSocket => ws::header_length(bytes),
                Framing::Sse => 0,
            };
            match self.compress_piece(key, FormName::Compressed, bytes.slice(around..)) {
                Pressed::Whole(payload) => large = Some(payload),
                Pressed::InPart => return None,
                Pressed::Unkept => return Some(plain),
            }
        }
        if key.framing == Framing::Sse {
            count_compression(MadeForm::Block);
            let block = match large {
                Some(payload) => gzip::Block::compressed(bytes, payload),
                None => gzip::Block::new(bytes, &parts),
            };
            return keep(plain, Some(Compressed::Block(block)));
        }
        let large = large.map(|payload| {
            count_compression(MadeForm::Alone);
            Deflated::alone(bytes, parts.clone(), &payload)
        });
        let Some(generation) = by.generations.and_then(|generations| generations.of(key)) else {
            let alone = large.unwrap_or_else(|| Deflated::without_context(bytes, parts));
            return keep(plain, Some(Compressed::Deflated(alone)));
        };
        let mut generation = generation.lock();
        // Another worker may have made it while this one waited for the lock. The form is kept before the lock
        // is given back, so that each worker finds it here: this frame does not go through the stream again.
        if let Some(made) = self.made(key, FormName::Compressed) {
            return Some(plain.with(made));
        }
        let deflated = match large {
            Some(large) => generation.go_on_after(self.seq, large),
            None => generation.deflate(self.seq, bytes, parts),
        };
        keep(plain, Some(Compressed::Deflated(deflated)))
    }

    /// Like [`Batch::view`], with the frame in an envelope (`?batch=gzip`), if `by` puts this frame into one.
    /// `None` if only a piece of a large frame was compressed: call it again.
    pub fn enveloped_view(
        &self,
        org: &OrgId,
        key: &ViewKey,
        start: impl Into<Start>,
        by: &Enveloping,
    ) -> Option<View> {
        let plain = self.plain_view(org, key, start.into());
        let View::Frame { start, bytes, .. } = &plain else { return Some(plain) };
        if let Some(made) = self.made(key, FormName::Enveloped) {
            return Some(plain.with(made));
        }
        let shared = self.shared(key);
        let run = self.run(org, key, start.seq, &shared);
        let frame = match by.text(key.framing, &run, bytes) {
            None => None,
            Some(text) if text.len() > LARGE_FROM_BYTES => {
                if run.parts(text.len(), 0).only().is_none() {
                    return Some(self.keep_form(key, plain, FormName::Enveloped, None));
                }
                match self.compress_piece(key, FormName::Enveloped, text.clone()) {
                    Pressed::Whole(compressed) => {
                        envelope::framed(key.framing, &run, bytes, &text, compressed)
                    }
                    Pressed::InPart => return None,
                    Pressed::Unkept => return Some(plain),
                }
            }
            Some(text) => {
                let compressed = compress_parts(&text, &run.parts(text.len(), 0));
                envelope::framed(key.framing, &run, bytes, &text, compressed)
            }
        };
        let made = frame.map(|frame| Arc::new(Compressed::Enveloped(frame)));
        Some(self.keep_form(key, plain, FormName::Enveloped, made))
    }

    /// Compresses the next piece of a large form of a view. What is made so far is kept with the view. If two
    /// workers compress the same piece, what the one makes is dropped.
    fn compress_piece(&self, key: &ViewKey, name: FormName, text: Bytes) -> Pressed {
        let mut pieces = {
            let mut views = self.views();
            let Some(kept) = views.iter_mut().find(|kept| kept.key == *key) else { return Pressed::Unkept };
            kept.form(name).begun.take().unwrap_or_else(|| Pieces::new(text))
        };
        if pieces.compress() {
            return Pressed::Whole(pieces.into_compressed());
        }
        if let Some(kept) = self.views().iter_mut().find(|kept| kept.key == *key) {
            let begun = &mut kept.form(name).begun;
            if begun.as_ref().is_none_or(|other| other.taken() < pieces.taken()) {
                *begun = Some(pieces);
            }
        }
        Pressed::InPart
    }

    fn views(&self) -> MutexGuard<'_, Vec<KeptView>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plain view. It is made without the lock on the views, as every form is: others may want other views
    /// of this batch meanwhile. If two make the same, the first to be kept is the one that both get.
    fn plain_view(&self, org: &OrgId, key: &ViewKey, start: Start) -> View {
        debug_assert!(start.seq <= self.prev);
        if let Some(kept) = self.views().iter().find(|kept| kept.key == *key) {
            return kept.plain.clone();
        }
        let shared = self.shared(key);
        let plain = if shared.is_empty() {
            View::Empty { targeted: self.admitted(key).next().is_some() }
        } else {
            let bytes = self.run(org, key, start.seq, &shared).framed(key.framing);
            View::Frame { start, bytes, count: shared.len(), compressed: None, charge: None }
        };
        self.keep(key, plain)
    }

    /// Keeps a plain view, if there is room.
    fn keep(&self, key: &ViewKey, mut plain: View) -> View {
        let mut views = self.views();
        if let Some(kept) = views.iter().find(|kept| kept.key == *key) {
            return kept.plain.clone();
        }
        let kept = KeptView {
            key: key.clone(),
            plain: plain.clone(),
            compressed: Form::default(),
            enveloped: Form::default(),
        };
        let bytes = kept.memory();
        // Its compressed forms may double it.
        if views.len() < VIEWS_MAX && self.budget.has_room(2 * bytes) {
            self.charge(bytes);
            views.push(kept);
        } else {
            self.budget.pass_over_view();
            if let View::Frame { charge, .. } = &mut plain {
                *charge = Some(Charge::new(bytes, &self.budget));
            }
        }
        plain
    }

    /// A form that was made before.
    fn made(&self, key: &ViewKey, name: FormName) -> Option<Made> {
        self.views().iter_mut().find(|kept| kept.key == *key)?.form(name).made.clone()
    }

    /// Keeps a form of the view `plain`, if the view is kept, and returns the view in this form. If another has
    /// kept this form meanwhile, that one is returned.
    fn keep_form(&self, key: &ViewKey, plain: View, name: FormName, made: Made) -> View {
        let mut views = self.views();
        if let Some(kept) = views.iter_mut().find(|kept| kept.key == *key) {
            let before = kept.memory();
            let form = kept.form(name);
            form.begun = None;
            let made = form.made.get_or_insert(made).clone();
            self.charge(kept.memory() - before);
            return plain.with(made);
        }
        drop(views);
        let mut view = plain.with(made);
        let plain_bytes = view.plain_bytes();
        if let View::Frame { compressed: Some(made), charge, .. } = &mut view {
            *charge = Some(Charge::new(plain_bytes + made.memory(), &self.budget));
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
}
