//! A TCP socket under HTTP with two timeouts that hyper lacks: for the rest of a request's head, and for a
//! peer that does not take its answer. (Hyper's one timeout for heads also covers the pause between two
//! requests, which is longer.)
//!
//! A worker serves HTTP over it, and reads its first bytes to learn the version. A WebSocket takes the bare
//! socket out.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// Shared by the service above and the socket below: whether a request is being read or answered.
#[derive(Debug, Default)]
pub struct RequestState {
    requests: AtomicU64,
    is_answering: AtomicBool,
    /// Bytes that have come since the last request was answered.
    head_bytes: AtomicUsize,
    passed: OnceLock<Slow>,
    /// Whether the last write found no room.
    is_shut: AtomicBool,
}

/// Which timeout has passed. It is wrapped in an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Slow {
    /// The rest of a request's head.
    #[error("a request's head did not arrive in time")]
    Head,
    /// Answer its answer.
    #[error("the peer takes no bytes")]
    Answer,
    /// The kernel's ([`super::vanished`]).
    #[error("the peer's system acknowledges nothing")]
    Vanished,
}

impl Slow {
    /// The timeout that caused `error`, if one did.
    pub fn cause_of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return error.get_ref()?.downcast_ref().copied();
            }
            cause = error.source();
        }
        None
    }
}

impl RequestState {
    /// The head of a request is complete.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
        self.is_answering.store(true, Ordering::Relaxed);
    }

    /// How much of an incomplete head has come.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes.load(Ordering::Relaxed)
    }

    /// Whether a request has come.
    pub fn has_asked(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// The timeout that has passed, if one has. HTTP/2 does not pass on the error that says so.
    pub fn passed(&self) -> Option<Slow> {
        self.passed.get().copied()
    }

    fn pass(&self, timeout: Slow) -> io::Error {
        let _ = self.passed.set(timeout);
        io::Error::new(io::ErrorKind::TimedOut, timeout)
    }

    /// An error of the socket; says so if the kernel has given up the peer.
    fn failed(&self, error: io::Error) -> io::Error {
        if super::vanished::is_cause_of(&error) { self.pass(Slow::Vanished) } else { error }
    }

    /// Whether the socket takes nothing right now. The HTTP libraries write all that they have each time that they
    /// are polled, so if this is false after that, the socket has taken all.
    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Relaxed)
    }

    /// The request is answered; the next bytes are the head of the next one.
    pub fn answered(&self) {
        self.is_answering.store(false, Ordering::Relaxed);
    }
}

/// The timeouts.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a request's head, from its first byte to its last.
    pub head: Duration,
    /// For the peer to take a byte.
    pub write: Duration,
}

/// A socket with timeouts.
#[derive(Debug)]
pub struct Guarded {
    stream: TcpStream,
    state: Arc<RequestState>,
    timeouts: Timeouts,
    /// While a head is incomplete: its request's number, and its timeout.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// While the peer takes nothing: its timeout.
    stalled: Option<Pin<Box<Sleep>>>,
    /// After our last byte.
    leaving: Option<Box<Leaving>>,
    /// Bytes that were read to learn the version, to be read again.
    early: Vec<u8>,
}

/// How long bytes are still read and discarded after our last answer. If a socket is closed with unread
/// bytes, the peer's system discards our answer (RST), so a client that was refused in the middle of a large
/// body would never learn why.
pub const LINGER: Duration = Duration::from_secs(2);

/// What the peer still sends after our last byte is discarded, at a bounded speed for all peers of a worker
/// together: peers that flood must not keep it busy with that, however often they come back.
#[derive(Debug)]
struct Leaving {
    /// How long the peer may still send.
    end: Pin<Box<Sleep>>,
    /// When the next bytes are taken.
    pause: Pin<Box<Sleep>>,
    /// How many bytes are taken before the next pause.
    left: usize,
    /// Set once the peer goes on sending.
    sender: Option<Sender>,
}

/// So many bytes are taken before the first pause. Most peers send less, and close.
const FIRST_DISCARDED: usize = 8 << 10;

/// So many bytes are taken between two pauses. Each pause is as many times as long as there are such peers, so that
/// a worker discards 25 MB a second.
const DISCARDED_AT_ONCE: usize = 256 << 10;
const DISCARD_PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    /// How many peers of this thread go on sending after our last byte.
    static SENDERS: Cell<u32> = const { Cell::new(0) };
}

/// One of [`SENDERS`]; dropping it ends its count.
#[derive(Debug)]
struct Sender;

impl Sender {
    fn new() -> Self {
        SENDERS.set(SENDERS.get() + 1);
        Self
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        SENDERS.set(SENDERS.get() - 1);
    }
}

impl Leaving {
    fn begin() -> Self {
        let (end, pause) = (Box::pin(sleep(LINGER)), Box::pin(sleep(Duration::ZERO)));
        Self { end, pause, left: FIRST_DISCARDED, sender: None }
    }

    /// Discards what comes, until the peer closes or its time is over.
    fn poll(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 8192];
        while self.end.as_mut().poll(context).is_pending() {
            if self.left == 0 {
                ready!(self.pause.as_mut().poll(context));
                self.left = DISCARDED_AT_ONCE;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            // The peer has closed or reset the connection.
            if ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)).is_err()
                || buffer.filled().is_empty()
            {
                break;
            }
            self.left = self.left.saturating_sub(buffer.filled().len());
            if self.left == 0 {
                self.sender.get_or_insert_with(Sender::new);
                self.pause.as_mut().reset(Instant::now() + SENDERS.get() * DISCARD_PAUSE);
            }
        }
        Poll::Ready(())
    }
}

impl Guarded {
    /// Guards `stream`.
    pub fn new(stream: TcpStream, state: Arc<RequestState>, timeouts: Timeouts) -> Self {
        Self { stream, state, timeouts, head: None, stalled: None, leaving: None, early: Vec::new() }
    }

    /// Whether the peer begins with `words`. Reads as many bytes as needed to tell; they count as the
    /// beginning of a head, and are read again.
    pub async fn begins_with(&mut self, words: &[u8]) -> io::Result<bool> {
        debug_assert!(self.early.is_empty(), "called once");
        let mut early = Vec::with_capacity(words.len());
        while early.len() < words.len() && words.starts_with(&early) {
            let mut byte = [0; 32];
            let room = byte.len().min(words.len() - early.len());
            let mut buffer = ReadBuf::new(&mut byte[..room]);
            poll_fn(|context| self.poll_socket(context, &mut buffer)).await?;
            if buffer.filled().is_empty() {
                break;
            }
            early.extend_from_slice(buffer.filled());
        }
        self.early = early;
        Ok(self.early == words)
    }

    /// The bare socket.
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn poll_socket(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, request) = (buffer.filled().len(), self.state.requests.load(Ordering::Relaxed));
        self.head.take_if(|(of, _)| *of != request);
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = read.map_err(|error| self.state.failed(error));
        let is_answering = self.state.is_answering.load(Ordering::Relaxed);
        if !is_answering {
            self.state.head_bytes.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        }
        if buffer.filled().len() > before && self.head.is_none() && !is_answering {
            self.head = Some((request, Box::pin(sleep(self.timeouts.head))));
        }
        if let (Poll::Pending, Some((_, head))) = (&read, &mut self.head) {
            ready!(head.as_mut().poll(context));
            return Poll::Ready(Err(self.state.pass(Slow::Head)));
        }
        read
    }

    fn wrote<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.state.is_shut.store(wrote.is_pending(), Ordering::Relaxed);
        if wrote.is_ready() {
            self.stalled = None;
            return wrote.map_err(|error| self.state.failed(error));
        }
        let timeouts = self.timeouts.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeouts)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(self.state.pass(Slow::Answer)))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return this.poll_socket(context, buffer);
        }
        let count = this.early.len().min(buffer.remaining());
        buffer.put_slice(&this.early[..count]);
        this.early.drain(..count);
        if this.early.is_empty() {
            // Idle connections own no buffers.
            this.early = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(context, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A bare TCP socket never waits here.
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaving.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let leaving = this.leaving.get_or_insert_with(|| Box::new(Leaving::begin()));
        leaving.poll(&mut this.stream, context).map(Ok)
    }
}
