//! permessage-deflate (RFC 7692), the server's half, shared: one compressor for everybody who sees the same,
//! in place of one for each connection.
//!
//! A *generation* is one deflate stream. Every batch of a filter is compressed once, in its generation, and
//! the same frame goes to all *members*: the connections whose inflater has the same window as the
//! compressor. All others get the batch compressed alone, which refers to nothing before it. A member that
//! gets any other compressed frame is no longer a member (R18, R19).
//!
//! Not here: the negotiation ([`tidegate_protocol::ws::extension`]), and inflating what clients send
//! ([`tidegate_protocol::ws::Reader`]).

use std::{
    cell::RefCell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use tidegate_protocol::{Seq, ws};

use crate::ViewKey;

/// The window of deflate, in bytes: how far a back-reference can reach (RFC 1951, section 2).
const WINDOW_BYTES: u64 = 32 << 10;

/// What a new generation costs each member, in bytes: until the new window is full, frames are compressed
/// with less context. For a window of JSON that is about a tenth of it.
const ROLL_COST_BYTES: u64 = 3 << 10;

/// The end of every sync flush, which a message leaves out (RFC 7692, section 7.2.1).
const FLUSH_END: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// A deflate stream that yields one message at a time.
struct Stream(Compress);

impl Stream {
    fn new() -> Self {
        Self(Compress::new(Compression::default(), false))
    }

    /// The payload of a compressed message (RFC 7692, section 7.2.1).
    fn message(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() / 2 + 64);
        let began = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - began).unwrap_or(plain.len());
            // Raw deflate with room to write to has no errors.
            let _ = self.0.compress_vec(&plain[taken.min(plain.len())..], &mut out, FlushCompress::Sync);
            let is_taken = self.0.total_in() - began == plain.len() as u64;
            if is_taken && out.len() < out.capacity() {
                break;
            }
            out.reserve(out.capacity().max(64));
        }
        debug_assert!(out.ends_with(&FLUSH_END), "a sync flush ends with an empty stored block");
        if out.ends_with(&FLUSH_END) {
            out.truncate(out.len() - FLUSH_END.len());
        }
        out
    }
}

/// The payload of a compressed message (RFC 7692, section 7.2.1) that refers to nothing before it.
pub fn compress_alone(plain: &[u8]) -> Vec<u8> {
    thread_local! {
        /// Reused, because a new one allocates 260 KiB.
        static ALONE: RefCell<Stream> = RefCell::new(Stream::new());
    }
    ALONE.with_borrow_mut(|stream| {
        stream.0.reset();
        stream.message(plain)
    })
}

/// Counts the compressors of a node, each of about 260 KiB, up to a bound. A filter that gets none is
/// compressed without context.
#[derive(Debug)]
pub struct Contexts {
    used: AtomicUsize,
    missed: AtomicU64,
    max: usize,
}

impl Contexts {
    /// Room for `max` of them.
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), missed: AtomicU64::new(0), max }
    }

    /// How many there are now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many batches were compressed without context because all compressors were in use.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn take(self: &Arc<Self>) -> Option<Context> {
        let raised = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < self.max).then_some(used + 1));
        if raised.is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Context { stream: Stream::new(), count: self.clone() })
    }
}

/// A compressor, and the count that it is part of.
struct Context {
    stream: Stream,
    count: Arc<Contexts>,
}

impl Drop for Context {
    fn drop(&mut self) {
        self.count.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The generations of one org, one for each filter.
pub struct Generations {
    current: Vec<(ViewKey, Generation)>,
    next_id: u64,
    contexts: Arc<Contexts>,
}

struct Generation {
    id: u64,
    next_index: u32,
    /// The seq up to which it has compressed.
    reached: Seq,
    context: Context,
    usage: Arc<Usage>,
    is_used: bool,
}

/// What the frames of a generation saved, and what those who are not members paid.
#[derive(Debug, Default)]
struct Usage {
    /// Frames taken by members.
    taken: AtomicU64,
    /// How many bytes others received more than members did.
    extra: AtomicU64,
}

/// A batch's frame for the members of a generation.
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
    shared: Option<Shared>,
    alone: OnceLock<Bytes>,
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generations").field("current", &self.current.len()).finish_non_exhaustive()
    }
}

impl Generations {
    /// No generation yet; `contexts` counts the compressors.
    pub fn new(contexts: Arc<Contexts>) -> Self {
        Self { current: Vec::new(), next_id: 0, contexts }
    }

    /// Compresses `plain`, the WebSocket frame up to `seq` for `key`, in the generation of `key`. If the
    /// generation is past it already, because another worker was quicker, it has no form with context.
    pub fn deflate(&mut self, key: &ViewKey, seq: Seq, plain: &Bytes) -> Deflated {
        let shared = self.generation(key).and_then(|generation| {
            if generation.reached >= seq {
                return None;
            }
            generation.reached = seq;
            generation.is_used = true;
            let payload = generation.context.stream.message(payload_of(plain));
            let index = generation.next_index;
            generation.next_index += 1;
            Some(Shared {
                generation: generation.id,
                index,
                frame: ws::deflated_frame(true, &payload),
                usage: generation.usage.clone(),
            })
        });
        Deflated { shared, ..Deflated::without_context(plain) }
    }

    fn generation(&mut self, key: &ViewKey) -> Option<&mut Generation> {
        let at = match self.current.iter().position(|(of, _)| of == key) {
            Some(at) => at,
            None => {
                let context = self.contexts.take()?;
                let generation = Generation {
                    id: self.next_id,
                    next_index: 0,
                    reached: 0,
                    context,
                    usage: Arc::default(),
                    is_used: true,
                };
                self.next_id += 1;
                self.current.push((key.clone(), generation));
                self.current.len() - 1
            }
        };
        let generation = &mut self.current[at].1;
        if generation.is_worth_rolling() {
            generation.id = self.next_id;
            self.next_id += 1;
            generation.next_index = 0;
            generation.usage = Arc::default();
            generation.context.stream.0.reset();
        }
        Some(generation)
    }

    /// Evicts the compressors that were not used since the last call.
    pub fn sweep(&mut self) {
        self.current.retain_mut(|(_, generation)| std::mem::take(&mut generation.is_used));
    }
}

impl Generation {
    /// Whether the connections that are not members have paid more than a new generation costs all members.
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

impl Deflated {
    /// The forms of `plain`, a WebSocket frame, without a generation.
    pub fn without_context(plain: &Bytes) -> Self {
        Self { plain: plain.clone(), shared: None, alone: OnceLock::new() }
    }

    /// The frame compressed alone, or plain if that is not longer. Compressed with the first call.
    pub fn alone(&self) -> &Bytes {
        self.alone.get_or_init(|| {
            let payload = payload_of(&self.plain);
            let compressed = compress_alone(payload);
            if compressed.len() < payload.len() {
                ws::deflated_frame(true, &compressed)
            } else {
                self.plain.clone()
            }
        })
    }

    /// The bytes of its compressed forms, for the accounting of the batch that keeps it.
    pub fn memory(&self) -> usize {
        // The form without context is made on demand; it is counted ahead, as half of the plain one.
        size_of::<Self>() + self.shared.as_ref().map_or(0, |shared| shared.frame.len()) + self.plain.len() / 2
    }
}

/// What one connection's inflater has in its window, as far as it is known (R19).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Membership {
    /// The generation, and the index of its next frame.
    at: Option<(u64, u32)>,
    /// How many bytes of the generation's text are in the window, with nothing else between. A whole window,
    /// or all text since the start of the generation, makes a member.
    held: u64,
}

impl Membership {
    /// The form of a frame for this connection, which is now sent to it.
    pub fn take(&mut self, frame: &Deflated) -> Bytes {
        let Some(shared) = &frame.shared else {
            let alone = frame.alone();
            if *alone != frame.plain {
                *self = Self::default();
            }
            return alone.clone();
        };
        let follows = self.at == Some((shared.generation, shared.index));
        let length = payload_of(&frame.plain).len() as u64;
        if shared.index == 0 || (follows && self.held >= WINDOW_BYTES) {
            shared.usage.taken.fetch_add(1, Ordering::Relaxed);
            self.at = Some((shared.generation, shared.index + 1));
            self.held = WINDOW_BYTES;
            return shared.frame.clone();
        }
        let alone = frame.alone();
        let extra = alone.len().saturating_sub(shared.frame.len()) as u64;
        shared.usage.extra.fetch_add(extra, Ordering::Relaxed);
        if *alone == frame.plain {
            // The generation's window has this frame, but the inflater's has not: there is a hole.
            if follows || self.at.is_some_and(|(generation, _)| generation == shared.generation) {
                self.held = 0;
            }
        } else {
            self.held = if follows { self.held + length } else { length };
        }
        self.at = Some((shared.generation, shared.index + 1));
        alone.clone()
    }

    /// Something else was compressed for this connection, or its filter changed.
    pub fn leave(&mut self) {
        *self = Self::default();
    }

    /// Whether it can take the next frame of its generation.
    pub fn is_member(&self) -> bool {
        self.at.is_some() && self.held >= WINDOW_BYTES
    }
}
