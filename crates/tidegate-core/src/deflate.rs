//! permessage-deflate (RFC 7692), the server's half, shared: one compressor for all connections that see the
//! same, instead of one for each.
//!
//! A *generation* is one deflate stream. An org has one for each view key (epoch, filter, framing). The frame
//! of every batch for that key is compressed once, in the generation, and the result goes to all *members*:
//! the connections whose inflater has the same window as the compressor. All other connections get the frame
//! compressed alone: it refers to nothing before it. A member that gets any other compressed frame is no
//! longer a member (R18, R19). In either form, text of one service refers to no text of another
//! (module `window`).
//!
//! A connection becomes a member when it has inflated a whole window of the generation's own text, or when it
//! takes the first frame of a generation. So connections that are not members become members at once if the
//! generation *rolls*: the compressor is reset, and a new generation begins. This costs the members bytes, so
//! it is done only if the other connections have cost more.
//!
//! Not here: the negotiation ([`tidegate_protocol::ws::extension`]), and inflating what clients send
//! ([`tidegate_protocol::ws::MessageReader`]).

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tidegate_protocol::{OrgId, Seq, ws};

pub use crate::window::{Parts, compress_alone};
use crate::{
    ViewKey,
    shares::Pool,
    window::{Context, WINDOW_BYTES, Window, compress_parts, compress_piece},
};

/// A whole window, as [`Place::held`] counts it.
const HELD_MAX: u32 = WINDOW_BYTES as u32;

/// How many bytes a roll costs each member: until the window is full again, frames are compressed with less
/// context and are therefore longer. For JSON this adds up to about a tenth of a window.
const ROLL_COST_BYTES: u64 = 3 << 10;

/// A longer frame is large: it is compressed piece by piece, so that a worker can do something else in between.
/// Only a single large event is longer, unless `batch.max_bytes` is raised.
pub const LARGE_FROM_BYTES: usize = 64 << 10;

/// Which form a compression made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MadeForm {
    /// A message of a generation.
    Generation,
    /// A message without context.
    Alone,
    /// A block of a gzip body.
    Block,
    /// An envelope (`?batch=gzip`).
    Envelope,
}

impl MadeForm {
    /// All forms, in the order of [`take_compressions`].
    pub const ALL: [Self; 4] = [Self::Generation, Self::Alone, Self::Block, Self::Envelope];
}

thread_local! {
    /// How many times this thread has compressed, by form, since [`take_compressions`] was called.
    static COMPRESSIONS: [Cell<u64>; MadeForm::ALL.len()] = const { [const { Cell::new(0) }; MadeForm::ALL.len()] };
}

/// How many times this thread has compressed since the last call, by form ([`MadeForm::ALL`]).
pub fn take_compressions() -> [u64; MadeForm::ALL.len()] {
    COMPRESSIONS.with(|counts| std::array::from_fn(|form| counts[form].take()))
}

pub(crate) fn count_compression(form: MadeForm) {
    COMPRESSIONS.with(|counts| {
        let count = &counts[form as usize];
        count.set(count.get() + 1);
    });
}

/// A large text that is being compressed.
#[derive(Debug)]
pub(crate) struct Pieces {
    text: Bytes,
    taken: usize,
    out: Vec<u8>,
}

impl Pieces {
    /// Nothing of `text` is compressed yet.
    pub(crate) fn new(text: Bytes) -> Self {
        Self { text, taken: 0, out: Vec::new() }
    }

    /// How many bytes of the text are compressed.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Compresses the next piece. Returns whether it was the last.
    pub(crate) fn compress(&mut self) -> bool {
        compress_piece(&self.text, &mut self.taken, &mut self.out)
    }

    /// What [`compress_alone`] returns for the text.
    pub(crate) fn into_compressed(self) -> Vec<u8> {
        self.out
    }
}

/// Counts the compressors of a node, each of about 260 KiB, and bounds their number, of all orgs and of each
/// one ([`shares`](crate::shares)). Frames for which there is no compressor are compressed without context.
#[derive(Debug)]
pub struct Contexts {
    used: Pool<OrgId>,
    missed: AtomicU64,
    max: usize,
    quotas: Mutex<Quotas>,
}

/// The most compressors of an org, if its share is more.
#[derive(Debug, Default)]
struct Quotas {
    of_each: Option<usize>,
    /// Those of single orgs, in place of `of_each`.
    of_orgs: BTreeMap<OrgId, Option<usize>>,
}

impl Quotas {
    fn of(&self, org: &OrgId) -> usize {
        self.of_orgs.get(org).copied().unwrap_or(self.of_each).unwrap_or(usize::MAX)
    }
}

impl Contexts {
    /// At most `max` compressors, none of them in use.
    pub fn new(max: usize) -> Self {
        Self { used: Pool::default(), missed: AtomicU64::new(0), max, quotas: Mutex::default() }
    }

    /// How many compressors are in use now.
    pub fn used(&self) -> usize {
        self.used.used()
    }

    /// How many of them `org` has.
    pub fn used_by(&self, org: &OrgId) -> usize {
        self.used.held(org)
    }

    /// Bounds the compressors of each org, and of single ones in place of that; `None` is no bound but the share.
    /// If an org has more, the next sweep drops some.
    pub fn set_quotas(&self, of_each: Option<usize>, of_orgs: BTreeMap<OrgId, Option<usize>>) {
        *self.quotas() = Quotas { of_each, of_orgs };
    }

    fn quotas(&self) -> MutexGuard<'_, Quotas> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many batches were compressed without context because all compressors were in use, or all of the
    /// org's share or quota.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn take(&self, org: &OrgId) -> Option<Context> {
        // Held until one is taken, so that two threads do not take the last one both.
        let quotas = self.quotas();
        let is_within = self.used.held(org) < quotas.of(org);
        let Some(share) = is_within.then(|| self.used.take(org, 1, self.max).ok()).flatten() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Context::new(Some(share)))
    }

    /// Whether `org` has more compressors than it would be given now.
    fn is_over(&self, org: &OrgId) -> bool {
        self.used.is_over(org, self.max) || self.used.held(org) > self.quotas().of(org)
    }
}

/// The current generations of one org, one for each view key (epoch, filter, framing).
pub struct Generations {
    current: Mutex<Vec<(ViewKey, SharedGeneration)>>,
    ids: Arc<AtomicU64>,
    contexts: Arc<Contexts>,
    org: OrgId,
}

/// A generation that the workers share.
///
/// Its lock is held while a frame is compressed, because a generation is one stream: each frame goes through it
/// once, and refers to all frames before it (R18). A worker that needs the next frame of this generation waits
/// for that one. A worker that needs a frame of another generation does not.
#[derive(Clone)]
pub struct SharedGeneration(Arc<Mutex<Generation>>);

impl SharedGeneration {
    /// Locks it.
    pub fn lock(&self) -> MutexGuard<'_, Generation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One deflate stream.
pub struct Generation {
    ids: Arc<AtomicU64>,
    id: u64,
    next_index: u32,
    /// The seq up to which it has compressed.
    reached: Seq,
    window: Window,
    contexts: Arc<Contexts>,
    org: OrgId,
    usage: Arc<Usage>,
    /// Whether it has compressed a frame since the last sweep.
    is_used: bool,
}

/// Counts how the frames of a generation were sent, to decide when to roll.
#[derive(Debug, Default)]
struct Usage {
    /// How many times a member took a frame.
    taken: AtomicU64,
    /// How many bytes more were sent to the other connections than if they had been members.
    extra: AtomicU64,
}

/// The compressed form of a frame for the members of a generation.
#[derive(Debug)]
struct Shared {
    generation: u64,
    index: u32,
    frame: Bytes,
    usage: Arc<Usage>,
}

/// A frame in its compressed forms.
#[derive(Debug)]
pub struct Deflated {
    plain: Bytes,
    parts: Parts,
    /// For members of the generation; `None` if no generation has compressed it.
    shared: Option<Shared>,
    /// For all others; made when the first of them takes it ([`Deflated::deflate_alone`]).
    alone: OnceLock<Bytes>,
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generations").field("current", &self.lock().len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SharedGeneration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedGeneration").finish_non_exhaustive()
    }
}

impl Generations {
    /// No generation of `org` yet; `contexts` counts the compressors.
    pub fn new(contexts: Arc<Contexts>, org: OrgId) -> Self {
        Self { current: Mutex::default(), ids: Arc::default(), contexts, org }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(ViewKey, SharedGeneration)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation of `key`, which may be a new one. `None` if no compressor is free.
    pub fn of(&self, key: &ViewKey) -> Option<SharedGeneration> {
        let mut current = self.lock();
        if let Some((_, generation)) = current.iter().find(|(of, _)| of == key) {
            return Some(generation.clone());
        }
        let generation = Generation {
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            ids: self.ids.clone(),
            next_index: 0,
            reached: 0,
            window: Window::new(Some(self.contexts.take(&self.org)?)),
            contexts: self.contexts.clone(),
            org: self.org.clone(),
            usage: Arc::default(),
            is_used: true,
        };
        let generation = SharedGeneration(Arc::new(Mutex::new(generation)));
        current.push((key.clone(), generation.clone()));
        Some(generation)
    }

    /// Drops the generations that have compressed nothing since the last call, and so frees their
    /// compressors. If the org then still has more than its share, because others have come, or more than its
    /// quota, the newest generations are dropped too: compressors are kept for long, and those who come later need some.
    pub fn sweep(&self) {
        let mut current = self.lock();
        current.retain(|(_, generation)| match generation.0.try_lock() {
            Ok(mut generation) => generation.sweep(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().sweep(),
            // It compresses a frame now.
            Err(TryLockError::WouldBlock) => true,
        });
        // One that a worker holds now would free nothing.
        while self.contexts.is_over(&self.org)
            && current.pop_if(|(_, generation)| Arc::strong_count(&generation.0) == 1).is_some()
        {}
    }

    /// Drops all generations, and so frees their compressors: nobody is left to take a frame.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

impl Generation {
    /// Compresses `plain`, the WebSocket frame of its view key that ends at `seq`. `parts` are those of its
    /// payload. The result has no form for members if it has already compressed a frame that ends at `seq` or later (for example because another
    /// worker was faster).
    pub fn deflate(&mut self, seq: Seq, plain: &Bytes, parts: Parts) -> Deflated {
        if self.is_worth_rolling() {
            self.roll();
            self.window.restart();
        }
        let shared = self.reaches(seq).then(|| {
            count_compression(MadeForm::Generation);
            let Self { window, contexts, org, .. } = self;
            let payload = window.message(payload_of(plain), &parts, || contexts.take(org));
            self.shared(ws::deflated_frame(true, &payload))
        });
        Deflated { shared, ..Deflated::without_context(plain, parts) }
    }

    /// The same for a frame that was compressed alone, because it is large. All who take it have the end of its
    /// text in their windows. So a new generation begins with it: it goes on as if the text had gone through its
    /// stream, and all who take the frame are members.
    pub fn go_on_after(&mut self, seq: Seq, large: Deflated) -> Deflated {
        // A frame that is sent plain is in nobody's window.
        let is_plain = *large.deflate_alone() == large.plain;
        let Some(service) = large.parts.only().filter(|_| !is_plain) else { return large };
        if !self.reaches(seq) {
            return large;
        }
        self.roll();
        let Self { window, contexts, org, .. } = self;
        window.go_on_after(service, payload_of(&large.plain), || contexts.take(org));
        let frame = large.deflate_alone().clone();
        Deflated { shared: Some(self.shared(frame)), ..large }
    }

    /// Notes that a frame which ends at `seq` goes through it. Returns false if that frame, or a later one, did
    /// so before.
    fn reaches(&mut self, seq: Seq) -> bool {
        let is_next = self.reached < seq;
        if is_next {
            self.reached = seq;
            self.is_used = true;
        }
        is_next
    }

    /// Whether it has compressed a frame since the last call. Gives up compressors that it does not need now.
    fn sweep(&mut self) -> bool {
        self.window.give_up_idle();
        std::mem::take(&mut self.is_used)
    }

    /// Begins a new generation. The caller restarts the window.
    fn roll(&mut self) {
        self.id = self.ids.fetch_add(1, Ordering::Relaxed);
        self.next_index = 0;
        self.usage = Arc::default();
    }

    /// The form for members of its next frame.
    fn shared(&mut self, frame: Bytes) -> Shared {
        let index = self.next_index;
        self.next_index += 1;
        Shared { generation: self.id, index, frame, usage: self.usage.clone() }
    }

    /// Whether a roll is worth its cost: the other connections have been sent more extra bytes than a roll
    /// costs all members together.
    fn is_worth_rolling(&self) -> bool {
        if self.next_index == 0 {
            return false;
        }
        let frames = u64::from(self.next_index);
        let members = self.usage.taken.load(Ordering::Relaxed) / frames;
        self.usage.extra.load(Ordering::Relaxed) > members.max(1) * ROLL_COST_BYTES
    }
}

fn payload_of(frame: &Bytes) -> &[u8] {
    &frame[ws::header_length(frame)..]
}

/// The frame for all who are no members: `plain`, or a shorter frame with its text compressed to `payload`.
fn alone_frame(plain: &Bytes, payload: &[u8]) -> Bytes {
    if payload.len() < payload_of(plain).len() { ws::deflated_frame(true, payload) } else { plain.clone() }
}

impl Deflated {
    /// The forms of `plain`, a WebSocket frame with a payload of these parts, without a generation.
    pub fn without_context(plain: &Bytes, parts: Parts) -> Self {
        Self { plain: plain.clone(), parts, shared: None, alone: OnceLock::new() }
    }

    /// The forms of `plain`, whose payload was compressed alone ([`compress_alone`]).
    pub fn alone(plain: &Bytes, parts: Parts, payload: &[u8]) -> Self {
        let forms = Self::without_context(plain, parts);
        // It is empty: it has just been made.
        let _ = forms.alone.set(alone_frame(plain, payload));
        forms
    }

    /// Compresses the frame alone, unless that was done before. Returns the result, or the plain frame if
    /// compression does not make it shorter.
    pub fn deflate_alone(&self) -> &Bytes {
        self.alone.get_or_init(|| {
            count_compression(MadeForm::Alone);
            alone_frame(&self.plain, &compress_parts(payload_of(&self.plain), &self.parts))
        })
    }

    /// Whether it has been compressed alone.
    pub fn has_alone(&self) -> bool {
        self.alone.get().is_some()
    }

    /// About how many bytes are sent to one reader. Compresses nothing.
    pub fn wire_bytes(&self) -> usize {
        let made = self.shared.as_ref().map(|shared| &shared.frame).or_else(|| self.alone.get());
        made.unwrap_or(&self.plain).len()
    }

    /// The bytes of its compressed forms, for the accounting of the batch that keeps it.
    pub fn memory(&self) -> usize {
        // The form for all others (`alone`) is made on demand. It is counted from the start, as half of the
        // plain one.
        let shared = self.shared.as_ref().map_or(0, |shared| shared.frame.len());
        size_of::<Self>() + self.parts.memory() + shared + self.plain.len() / 2
    }
}

/// What one connection's inflater has in its window, as far as it is known (R19).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Membership {
    /// The place in the generation whose frame the connection took last.
    at: Option<Place>,
}

/// How far a connection is in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    generation: u64,
    /// The index of the frame after the one that it took last.
    next: u32,
    /// How many bytes of the generation's text the inflater has received up to now, with nothing missing and
    /// nothing else in between; it stops at the largest `u32`. With a whole window ([`HELD_MAX`]) or more
    /// the connection is a member. One that took the first frame of the generation has all its text, and is
    /// given the value of a whole window.
    held: u32,
}

impl Membership {
    /// Whether [`Membership::take`] would have to compress the frame alone first.
    pub fn lacks(&self, frame: &Deflated) -> bool {
        !frame.has_alone() && frame.shared.as_ref().is_none_or(|shared| !self.takes(shared))
    }

    /// Whether it is a member for this frame.
    fn takes(&self, shared: &Shared) -> bool {
        shared.index == 0 || self.held_before(shared) >= HELD_MAX
    }

    fn held_before(&self, shared: &Shared) -> u32 {
        let follows = |at: &Place| (at.generation, at.next) == (shared.generation, shared.index);
        self.at.filter(follows).map_or(0, |at| at.held)
    }

    /// Returns the form of a frame for this connection, and records that it is sent. The caller must send it.
    pub fn take(&mut self, frame: &Deflated) -> Bytes {
        let Some(shared) = &frame.shared else {
            let alone = frame.deflate_alone();
            if *alone != frame.plain {
                *self = Self::default();
            }
            return alone.clone();
        };
        let (generation, next) = (shared.generation, shared.index + 1);
        let held = self.held_before(shared);
        if self.takes(shared) {
            shared.usage.taken.fetch_add(1, Ordering::Relaxed);
            self.at = Some(Place { generation, next, held: HELD_MAX });
            return shared.frame.clone();
        }
        let alone = frame.deflate_alone();
        let extra = alone.len().saturating_sub(shared.frame.len()) as u64;
        shared.usage.extra.fetch_add(extra, Ordering::Relaxed);
        let held = if *alone == frame.plain {
            // A plain frame is in the generation's window, but does not enter the inflater's. From here on
            // the two windows differ, so the connection has to collect a whole window anew.
            0
        } else {
            held.saturating_add(u32::try_from(payload_of(&frame.plain).len()).unwrap_or(u32::MAX))
        };
        self.at = Some(Place { generation, next, held });
        alone.clone()
    }

    /// Ends the membership: something else was compressed for this connection, or its filter changed.
    pub fn leave(&mut self) {
        *self = Self::default();
    }

    /// Whether the connection can take the next frame of its generation in the form for members.
    pub fn is_member(&self) -> bool {
        self.at.is_some_and(|at| at.held >= HELD_MAX)
    }
}
