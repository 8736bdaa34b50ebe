//! Deflate (RFC 1951) that keeps services apart: in what goes to one client, no text refers to text of another
//! service.
//!
//! The length of compressed text shows how much it has in common with the text that it may refer to (CRIME,
//! Rizzo and Duong 2012; BREACH, Gluck, Harris and Prado 2013). So a publisher to one
//! service who sees the lengths of what readers get could guess the events of another service.
//!
//! A client's inflater has one window, for the text of all services. So each service has a compressor of its own,
//! and its text is a message of it, or a part of one. In that compressor's window, *filler* stands in for the
//! text of all other services: a byte that no JSON text has. Distances are the client's, and no match can reach
//! into text of another service.
//!
//! Not here: who shares a window (module `deflate`).

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress};
use tidegate_protocol::{OrgId, ServiceName};

use crate::shares::Share;

/// The window of deflate, in bytes: how far a back-reference can reach (RFC 1951, section 2).
pub(crate) const WINDOW_BYTES: usize = 32 << 10;

/// The end of every sync flush. A message does not include it (RFC 7692, section 7.2.1).
pub(crate) const FLUSH_END: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// An empty stored block, which is not the last (RFC 1951, section 3.2.4).
pub(crate) const EMPTY_BLOCK: [u8; 5] = [0, 0, 0, 0xFF, 0xFF];

/// The longest stored block, in bytes.
pub(crate) const STORED_MAX: usize = 0xFFFF;

/// A text is compressed in pieces of this many bytes. One piece of JSON takes about 0.2 ms, one that hardly
/// shrinks 0.7 ms (zlib-rs, level 6).
const PIECE_BYTES: usize = 32 << 10;

/// How many services have compressors of their own in one window. Each byte goes through all of them, as text or
/// as filler (1.7 ns). With eight, 64 KiB of many services take about 1 ms.
const SERVICES_MAX: usize = 8;

/// How many parts of one text are compressed. The rest of it is stored: a part takes up to 10 us, however short
/// it is.
const PARTS_MAX: usize = 100;

/// Stands in for the text of other services. It is in no UTF-8 text (RFC 3629, section 3).
const FILLER_BYTE: u8 = 0xFF;
static FILLER: [u8; WINDOW_BYTES] = [FILLER_BYTE; WINDOW_BYTES];

/// Whose each part of a text is, from its beginning to its end. The text around events has nothing that a
/// publisher chooses; it belongs to the events beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts(Vec<(ServiceName, usize)>);

impl Parts {
    /// A text of one service alone.
    pub fn whole(service: &ServiceName, bytes: usize) -> Self {
        Self(vec![(service.clone(), bytes)])
    }

    /// Appends a part, which continues the last one if it is of the same service.
    pub fn push(&mut self, service: &ServiceName, bytes: usize) {
        match self.0.last_mut() {
            Some((last, length)) if last == service => *length += bytes,
            _ => self.0.push((service.clone(), bytes)),
        }
    }

    /// The one service of the text; `None` if there are several.
    pub fn only(&self) -> Option<&ServiceName> {
        if let [(service, _)] = &self.0[..] { Some(service) } else { None }
    }

    /// The parts of `text`, each with its service.
    fn of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (&'a ServiceName, &'a [u8])> {
        debug_assert_eq!(self.0.iter().map(|(_, bytes)| bytes).sum::<usize>(), text.len());
        self.0.iter().scan(text, |rest, (service, bytes)| {
            let (part, after) = rest.split_at(*bytes);
            *rest = after;
            Some((service, part))
        })
    }

    /// The bytes that it takes.
    pub fn memory(&self) -> usize {
        self.0.len() * size_of::<(ServiceName, usize)>()
    }
}

/// A deflate stream that yields one message at a time.
struct Stream(Compress);

impl Stream {
    fn new() -> Self {
        Self(Compress::new(Compression::default(), false))
    }

    /// Begins anew: what comes refers to nothing before it.
    fn reset(&mut self) {
        self.0.reset();
    }

    /// Begins anew, as if `text` had just been compressed: what comes may refer to the end of it.
    fn reset_after(&mut self, text: &[u8]) {
        self.reset();
        self.pass(&text[text.len().saturating_sub(WINDOW_BYTES)..]);
    }

    /// Takes `text`, at most a window, as if it had been compressed.
    fn pass(&mut self, text: &[u8]) {
        if !text.is_empty() && self.0.set_dictionary(text).is_err() {
            debug_assert!(false, "a stream takes a dictionary after each flush");
            // Without the text before it, what comes is compressed less well, and as right.
            self.reset();
        }
    }

    /// Appends `plain`, compressed. It ends with [`FLUSH_END`].
    fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        out.reserve(plain.len() / 2 + 64);
        let began = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - began).unwrap_or(plain.len());
            // The result is ignored: raw deflate cannot fail while it has room to write to.
            let _ = self.0.compress_vec(&plain[taken.min(plain.len())..], out, FlushCompress::Sync);
            let is_taken = self.0.total_in() - began == plain.len() as u64;
            if is_taken && out.len() < out.capacity() {
                break;
            }
            out.reserve(out.capacity().max(64));
        }
        debug_assert!(out.ends_with(&FLUSH_END), "a sync flush ends with an empty stored block");
    }
}

/// A compressor, and the share of its org that it is part of, if it is counted.
pub(crate) struct Context {
    stream: Stream,
    _share: Option<Share<OrgId>>,
}

impl Context {
    pub(crate) fn new(share: Option<Share<OrgId>>) -> Self {
        Self { stream: Stream::new(), _share: share }
    }
}

/// The window of an inflater, and the compressors of the services for it.
pub(crate) struct Window {
    /// How many bytes of text it has received.
    received: u64,
    services: Vec<Service>,
    /// For the first service.
    spare: Option<Context>,
}

/// The compressor of one service.
struct Service {
    name: ServiceName,
    context: Context,
    /// Where its last text ended.
    end: u64,
}

impl Window {
    /// Nothing was received. The first service to come gets `spare`.
    pub(crate) const fn new(spare: Option<Context>) -> Self {
        Self { received: 0, services: Vec::new(), spare }
    }

    /// What comes refers to nothing before it.
    pub(crate) fn restart(&mut self) {
        self.received += WINDOW_BYTES as u64;
    }

    /// Gives up the compressors of services that have sent nothing for a whole window, but the last one.
    pub(crate) fn give_up_idle(&mut self) {
        let received = self.received;
        let mut left = self.services.len();
        self.services.retain(|service| {
            let is_kept = service.is_within(received) || left == 1;
            left -= usize::from(!is_kept);
            is_kept
        });
    }

    /// The payload of a compressed message (RFC 7692, section 7.2.1). `take` gives a compressor for a service
    /// that has none; without one, a part refers to nothing before it.
    pub(crate) fn message(
        &mut self,
        text: &[u8],
        parts: &Parts,
        mut take: impl FnMut() -> Option<Context>,
    ) -> Vec<u8> {
        debug_assert!(!text.contains(&FILLER_BYTE));
        let mut out = Vec::with_capacity(text.len() / 2 + 64);
        let (mut passed, mut is_refused) = (0, false);
        for (service, part) in parts.of(text).take(PARTS_MAX) {
            let mut take = || if is_refused { None } else { take() };
            match self.compressor(service, &mut take) {
                Some(compressor) => compressor.compress(part, &mut out),
                None => {
                    is_refused = true;
                    compress_apart(&[], part, &mut out);
                }
            }
            self.enter(service, part.len());
            passed += part.len();
        }
        let rest = &text[passed..];
        if !rest.is_empty() {
            store(rest, &mut out);
            self.received += rest.len() as u64;
        }
        out.truncate(out.len().saturating_sub(FLUSH_END.len()));
        out
    }

    /// Goes on after `text` of `service`, which was compressed by other means.
    pub(crate) fn go_on_after(
        &mut self,
        service: &ServiceName,
        text: &[u8],
        take: impl FnMut() -> Option<Context>,
    ) {
        self.restart();
        if let Some(compressor) = self.compressor(service, take) {
            compressor.reset_after(text);
        }
        self.enter(service, text.len());
    }

    /// Notes that text of `service` was received.
    fn enter(&mut self, name: &ServiceName, bytes: usize) {
        self.received += bytes as u64;
        if let Some(service) = self.services.iter_mut().find(|service| service.name == *name) {
            service.end = self.received;
        }
    }

    /// The compressor of a service, which has taken all that was received: its own text, and filler for the rest.
    fn compressor(
        &mut self,
        name: &ServiceName,
        mut take: impl FnMut() -> Option<Context>,
    ) -> Option<&mut Stream> {
        let received = self.received;
        let at = self.services.iter().position(|service| service.name == *name).or_else(|| {
            // One whose text is out of reach has no use for it.
            let idle = self.services.iter().position(|service| !service.is_within(received));
            if let Some(idle) = idle {
                self.services[idle].name = name.clone();
                return Some(idle);
            }
            if self.services.len() == SERVICES_MAX {
                return None;
            }
            let context = self.spare.take().or_else(&mut take)?;
            // It has no text before this that it could refer to.
            self.services.push(Service { name: name.clone(), context, end: received });
            Some(self.services.len() - 1)
        })?;
        let service = &mut self.services[at];
        let stream = &mut service.context.stream;
        match usize::try_from(received - service.end) {
            Ok(others) if others < WINDOW_BYTES => stream.pass(&FILLER[..others]),
            _ => stream.reset(),
        }
        Some(stream)
    }
}

impl Service {
    /// Whether its last text can be referred to.
    fn is_within(&self, received: u64) -> bool {
        received - self.end < WINDOW_BYTES as u64
    }
}

/// The head of the stored block of `piece`, of at most [`STORED_MAX`] bytes.
pub(crate) fn stored_head(piece: &[u8]) -> [u8; 5] {
    let [low, high] = (piece.len() as u16).to_le_bytes();
    [0, low, high, !low, !high]
}

/// Appends `text` in stored blocks. It ends with [`FLUSH_END`].
fn store(text: &[u8], out: &mut Vec<u8>) {
    for piece in text.chunks(STORED_MAX) {
        out.extend_from_slice(&stored_head(piece));
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&EMPTY_BLOCK);
}

thread_local! {
    /// For texts that refer to nothing before them. Reused, because a new compressor allocates 260 KiB.
    static APART: RefCell<Stream> = RefCell::new(Stream::new());
    /// The same, for texts of several services.
    static MIXED: RefCell<Window> = const { RefCell::new(Window::new(None)) };
}

/// Appends `part`, compressed, which refers to nothing before it except `before`.
fn compress_apart(before: &[u8], part: &[u8], out: &mut Vec<u8>) {
    APART.with_borrow_mut(|stream| {
        stream.reset_after(before);
        stream.compress(part, out);
    });
}

/// The payload of a compressed message (RFC 7692, section 7.2.1) that refers to nothing before it.
pub(crate) fn compress_parts(text: &[u8], parts: &Parts) -> Vec<u8> {
    if parts.only().is_some() {
        return compress_alone(text);
    }
    MIXED.with_borrow_mut(|window| {
        window.restart();
        window.message(text, parts, || Some(Context::new(None)))
    })
}

/// The same, of a text of one service.
pub fn compress_alone(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut taken = 0;
    while !compress_piece(plain, &mut taken, &mut out) {}
    out
}

/// Compresses the next piece of `text` after the first `taken` bytes, which are in `out` already. Returns whether
/// it was the last.
pub(crate) fn compress_piece(text: &[u8], taken: &mut usize, out: &mut Vec<u8>) -> bool {
    let (before, rest) = text.split_at(*taken);
    let piece = &rest[..rest.len().min(PIECE_BYTES)];
    if *taken > 0 {
        out.extend_from_slice(&FLUSH_END);
    }
    compress_apart(before, piece, out);
    out.truncate(out.len() - FLUSH_END.len());
    *taken += piece.len();
    *taken == text.len()
}
