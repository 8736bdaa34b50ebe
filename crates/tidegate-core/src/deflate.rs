//! permessage-deflate (RFC 7692), the server's half, shared: one compressor for all connections that see the
//! same, instead of one for each.
//!
//! A *generation* is one deflate stream. An org has one for each view key (epoch, filter, framing). The frame
//! of every batch for that key is compressed once, in the generation, and the result goes to all *members*:
//! the connections whose inflater has the same window as the compressor. All other connections get the frame
//! compressed alone: it refers to nothing before it. A member that gets any other compressed frame is no
//! longer a member (R18, R19).
//!
//! A connection becomes a member when it has inflated a whole window of the generation's own text, or when it
//! takes the first frame of a generation. So connections that are not members become members at once if the
//! generation *rolls*: the compressor is reset, and a new generation begins. This costs the members bytes, so
//! it is done only if the other connections have cost more.
//!
//! Not here: the negotiation ([`tidegate_protocol::ws::extension`]), and inflating what clients send
//! ([`tidegate_protocol::ws::MessageReader`]).

use std::{
    cell::RefCell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use tidegate_protocol::{OrgId, Seq, ws};

use crate::{
    ViewKey,
    shares::{Pool, Share},
};

/// The window of deflate, in bytes: how far a back-reference can reach (RFC 1951, section 2).
const WINDOW_BYTES: u32 = 32 << 10;

/// How many bytes a roll costs each member: until the window is full again, frames are compressed with less
/// context and are therefore longer. For JSON this adds up to about a tenth of a window.
const ROLL_COST_BYTES: u64 = 3 << 10;

/// The end of every sync flush. A message does not include it (RFC 7692, section 7.2.1).
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
            // The result is ignored: raw deflate cannot fail while it has room to write to.
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

/// Counts the compressors of a node, each of about 260 KiB, and bounds their number, of all orgs and of each
/// one ([`shares`](crate::shares)). Frames for which there is no compressor are compressed without context.
#[derive(Debug)]
pub struct Contexts {
    used: Pool<OrgId>,
    missed: AtomicU64,
    max: usize,
}

impl Contexts {
    /// At most `max` compressors, none of them in use.
    pub fn new(max: usize) -> Self {
        Self { used: Pool::default(), missed: AtomicU64::new(0), max }
    }

    /// How many compressors are in use now.
    pub fn used(&self) -> usize {
        self.used.used()
    }

    /// How many batches were compressed without context because all compressors were in use, or all of the
    /// org's share.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn take(&self, org: &OrgId) -> Option<Context> {
        let Ok(share) = self.used.take(org, 1, self.max) else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Context { stream: Stream::new(), _share: share })
    }

    /// Whether `org` has more compressors than it would be given now.
    fn is_over(&self, org: &OrgId) -> bool {
        self.used.is_over(org, self.max)
    }
}

/// A compressor, and the share of its org that it is part of.
struct Context {
    stream: Stream,
    _share: Share<OrgId>,
}

/// The current generations of one org, one for each view key (epoch, filter, framing).
pub struct Generations {
    current: Vec<(ViewKey, Generation)>,
    next_id: u64,
    contexts: Arc<Contexts>,
    org: OrgId,
}

struct Generation {
    id: u64,
    next_index: u32,
    /// The seq up to which it has compressed.
    reached: Seq,
    context: Context,
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
    /// For members of the generation; `None` if no generation has compressed it.
    shared: Option<Shared>,
    /// For all others; see [`Deflated::alone`].
    alone: OnceLock<Bytes>,
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generations").field("current", &self.current.len()).finish_non_exhaustive()
    }
}

impl Generations {
    /// No generation of `org` yet; `contexts` counts the compressors.
    pub fn new(contexts: Arc<Contexts>, org: OrgId) -> Self {
        Self { current: Vec::new(), next_id: 0, contexts, org }
    }

    /// Compresses `plain`, the WebSocket frame for `key` that ends at `seq`, in the generation of `key`. The
    /// result has no form for members if no compressor is free, or if the generation has already compressed
    /// a frame that ends at `seq` or later (for example because another worker was faster).
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
                let context = self.contexts.take(&self.org)?;
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

    /// Drops the generations that have compressed nothing since the last call, and so frees their
    /// compressors. If the org then still has more than its share, because others have come, the newest
    /// generations are dropped too: compressors are kept for long, and those who come later need some.
    pub fn sweep(&mut self) {
        self.current.retain_mut(|(_, generation)| std::mem::take(&mut generation.is_used));
        while self.contexts.is_over(&self.org) && self.current.pop().is_some() {}
    }
}

impl Generation {
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

impl Deflated {
    /// The forms of `plain`, a WebSocket frame, without a generation.
    pub fn without_context(plain: &Bytes) -> Self {
        Self { plain: plain.clone(), shared: None, alone: OnceLock::new() }
    }

    /// The frame compressed alone, or the plain frame if compression does not make it shorter. It is
    /// compressed at the first call.
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
        // The form for all others (`alone`) is made on demand. It is counted from the start, as half of the
        // plain one.
        size_of::<Self>() + self.shared.as_ref().map_or(0, |shared| shared.frame.len()) + self.plain.len() / 2
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
    /// nothing else in between; it stops at the largest `u32`. With a whole window ([`WINDOW_BYTES`]) or more
    /// the connection is a member. One that took the first frame of the generation has all its text, and is
    /// given the value of a whole window.
    held: u32,
}

impl Membership {
    /// Returns the form of a frame for this connection, and records that it is sent. The caller must send it.
    pub fn take(&mut self, frame: &Deflated) -> Bytes {
        let Some(shared) = &frame.shared else {
            let alone = frame.alone();
            if *alone != frame.plain {
                *self = Self::default();
            }
            return alone.clone();
        };
        let (generation, next) = (shared.generation, shared.index + 1);
        let follows = |at: &Place| (at.generation, at.next) == (generation, shared.index);
        let held = self.at.filter(follows).map_or(0, |at| at.held);
        if shared.index == 0 || held >= WINDOW_BYTES {
            shared.usage.taken.fetch_add(1, Ordering::Relaxed);
            self.at = Some(Place { generation, next, held: WINDOW_BYTES });
            return shared.frame.clone();
        }
        let alone = frame.alone();
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
        self.at.is_some_and(|at| at.held >= WINDOW_BYTES)
    }
}
