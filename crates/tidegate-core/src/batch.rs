//! A batch: a sealed run of events, the unit of fan-out. And its views: what a filter sees of it,
//! encoded once and shared by everybody who sees the same.

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

/// How many views one batch keeps. Filters past it are encoded for each worker's round anew; the
/// bytes are the same, only not shared between workers.
const VIEWS_MAX: usize = 256;

/// The bytes that batches hold, their views included: of one tail, and with it of the node. Charged
/// when a batch is made or a view added, given back when the last holder of the batch lets go.
#[derive(Debug, Default)]
pub struct Budget {
    used: AtomicUsize,
    views_unkept: AtomicU64,
    whole: Option<Arc<Budget>>,
}

impl Budget {
    /// An account of its own that is also charged to `whole`.
    pub fn part_of(whole: Arc<Budget>) -> Self {
        Self { whole: Some(whole), ..Self::default() }
    }

    /// The bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many views were made and not kept, because their batch had as many as it may.
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

/// All events of an org's log in (`prev`, `seq`]: of its tail, or a page of what lies before.
#[derive(Debug)]
pub struct Batch {
    /// The border before it.
    pub prev: Seq,
    /// The border at its end.
    pub seq: Seq,
    /// When it was sealed.
    pub sealed: UnixMillis,
    /// Its events, in seq order.
    pub events: Vec<Arc<Event>>,
    has_targeted: bool,
    views: Mutex<Vec<Kept>>,
    charged: AtomicUsize,
    budget: Arc<Budget>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.budget.give_back(*self.charged.get_mut());
    }
}

/// A view in the forms that somebody has asked for.
#[derive(Debug)]
struct Kept {
    key: ViewKey,
    plain: View,
    compressed: Option<Arc<Compressed>>,
    /// Nothing inside where the frame goes plain.
    enveloped: Option<Option<Arc<Compressed>>>,
}

impl Kept {
    /// The bytes of its forms.
    fn memory(&self) -> usize {
        let plain = if let View::Frame { bytes, .. } = &self.plain { bytes.len() } else { 0 };
        let forms = [self.compressed.as_ref(), self.enveloped.as_ref().and_then(Option::as_ref)];
        size_of::<Self>() + plain + forms.into_iter().flatten().map(|form| form.memory()).sum::<usize>()
    }
}

/// A form that somebody asks for.
enum Wanted<'a> {
    Plain,
    Compressed(Compressor<'a>),
    Enveloped(&'a Enveloping),
}

/// What a filter sees of a batch, targeted events left out.
#[derive(Debug, Clone)]
pub enum View {
    /// Nothing; and whether there are targeted events that some users of the filter see.
    Empty {
        /// Whether the batch has targeted events in the filter's services.
        targeted: bool,
    },
    /// A finished frame over (`start`, batch.seq].
    Frame {
        /// The border that the frame follows on: the batch's own, or an earlier one behind which
        /// the filter has nothing to see.
        start: Seq,
        /// The frame in its envelope.
        bytes: Bytes,
        /// How many events it carries.
        count: usize,
        /// The form that was asked for, where that is not the plain one and may be had.
        compressed: Option<Arc<Compressed>>,
    },
}

impl View {
    /// About how many bytes a reader gets.
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

/// A frame compressed, as its framing has it.
#[derive(Debug)]
pub enum Compressed {
    /// A WebSocket message (RFC 7692).
    Deflated(Deflated),
    /// A block of a gzip body.
    Block(gzip::Block),
    /// A finished frame with the plain one inside.
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

/// What compresses an org's batches.
#[derive(Debug)]
pub struct Compressor<'a> {
    /// The org's generations; without them every frame refers to nothing before it.
    pub generations: Option<&'a mut Generations>,
    /// Services whose events are never compressed.
    pub excluded: &'a [ServiceName],
}

impl Batch {
    /// Seals `events`, which are all that the log holds in (`prev`, `seq`].
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

    /// Whether an event of it is targeted at `user` and passes `filter`.
    pub fn has_targeted_at(&self, user: &UserId, filter: &Filter) -> bool {
        self.has_targeted
            && self
                .events
                .iter()
                .any(|event| event.is_targeted() && event.is_for(user) && filter.admits(&event.service))
    }

    /// The events behind `after` that `user` with `filter` may see.
    pub fn visible<'a>(&'a self, after: Seq, user: &UserId, filter: &Filter) -> Vec<&'a Event> {
        let first = self.events.partition_point(|event| event.seq <= after);
        let seen = self.events[first..].iter();
        seen.map(|event| &**event)
            .filter(|event| filter.admits(&event.service) && event.is_for(user))
            .collect()
    }

    /// How many of them there are. Costs nothing where everybody sees all of it.
    pub fn count_visible(&self, after: Seq, user: &UserId, filter: &Filter) -> usize {
        if after <= self.prev && !self.has_targeted && filter.services().is_none() {
            return self.events.len();
        }
        self.visible(after, user, filter).len()
    }

    /// The shared view for `key`. `start` is the earliest border that the frame may follow on: the
    /// batch's own `prev`, or an earlier one where all batches in between showed the filter nothing
    /// (and held nothing targeted in its services). Whoever asks first fixes it.
    pub fn view(&self, org: &OrgId, key: &ViewKey, start: Seq) -> View {
        self.view_with(org, key, start, Wanted::Plain)
    }

    /// The same with its compressed form. Batches come in order. One with events of excluded services
    /// has none: they share no context with what an attacker may have written.
    pub fn compressed_view(&self, org: &OrgId, key: &ViewKey, start: Seq, by: Compressor<'_>) -> View {
        self.view_with(org, key, start, Wanted::Compressed(by))
    }

    /// The same as `?batch=gzip` has it, where it is to be compressed.
    pub fn enveloped_view(&self, org: &OrgId, key: &ViewKey, start: Seq, by: &Enveloping) -> View {
        self.view_with(org, key, start, Wanted::Enveloped(by))
    }

    fn view_with(&self, org: &OrgId, key: &ViewKey, start: Seq, wanted: Wanted<'_>) -> View {
        debug_assert!(start <= self.prev);
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
            let bytes = self.run(org, key, start, &shared).framed(key.framing);
            View::Frame { start, bytes, count: shared.len(), compressed: None }
        };
        let mut kept = Kept { key: key.clone(), plain, compressed: None, enveloped: None };
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

    /// A kept view in the form that is wanted, which is made where it is not there yet.
    fn formed(&self, org: &OrgId, kept: &mut Kept, wanted: Wanted<'_>) -> View {
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
                    let run = self.run(org, &kept.key, *start, &shared);
                    let form = Compressed::Enveloped(by.enveloped(kept.key.framing, &run, bytes)?);
                    Some(Arc::new(form))
                };
                kept.enveloped.get_or_insert_with(make).clone()
            }
        };
        view
    }
}
