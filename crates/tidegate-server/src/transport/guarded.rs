//! A TCP socket under HTTP that does not wait for ever: not for the rest of a request's head, and not
//! for a peer that takes nothing of its answer. hyper bounds neither of the two: its one timeout for
//! heads also covers the rest between two requests, which is longer.
//!
//! A worker serves HTTP over it, and lets it look at the first bytes to know which version; a WebSocket
//! takes the bare socket out again.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// What the service above knows and the socket below has to: whose turn it is.
#[derive(Debug, Default)]
pub struct Turns {
    requests: AtomicU64,
    is_answering: AtomicBool,
    /// Bytes that have come since the last request was answered.
    head_bytes: AtomicUsize,
}

/// What a peer was too slow with. Comes inside an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Slow {
    /// The rest of a request's head.
    #[error("a request's head did not come in time")]
    Head,
    /// Taking what it is sent.
    #[error("the peer takes no bytes")]
    Taking,
}

impl Slow {
    /// What an error came of, if it was that.
    pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
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

impl Turns {
    /// The head of a request is whole.
    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
        self.is_answering.store(true, Ordering::Relaxed);
    }

    /// How much of a head that is not whole yet has come.
    pub fn head_bytes(&self) -> usize {
        self.head_bytes.load(Ordering::Relaxed)
    }

    /// Whether a request has come.
    pub fn has_asked(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// The request is answered; what comes now is the head of the next.
    pub fn answered(&self) {
        self.is_answering.store(false, Ordering::Relaxed);
    }
}

/// How long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a request's head, from its first byte to its last.
    pub head: Duration,
    /// For the peer to take a byte.
    pub write: Duration,
}

/// The socket.
#[derive(Debug)]
pub struct Guarded {
    stream: TcpStream,
    turns: Arc<Turns>,
    patience: Patience,
    /// While a head is begun: which request's, and how long it may take.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// While the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Once we have said our last word: how long the peer may go on speaking.
    leaving: Option<Pin<Box<Sleep>>>,
    /// What was read to see how the peer begins, to be read again.
    early: Vec<u8>,
}

/// How long what still comes is taken in and thrown away behind our last word. A socket that is closed
/// over bytes that nobody has read tells the peer's system to forget our answer: whoever was refused in
/// the middle of a large body would never learn why.
const LINGER: Duration = Duration::from_secs(2);

impl Guarded {
    /// Guards `stream`.
    pub fn new(stream: TcpStream, turns: Arc<Turns>, patience: Patience) -> Self {
        Self { stream, turns, patience, head: None, stalled: None, leaving: None, early: Vec::new() }
    }

    /// Whether the peer begins with `words`; waits for as many bytes as it takes to tell. They count as
    /// the beginning of a head, and are read again.
    pub async fn begins_with(&mut self, words: &[u8]) -> io::Result<bool> {
        debug_assert!(self.early.is_empty(), "asked once");
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
        let (before, request) = (buffer.filled().len(), self.turns.requests.load(Ordering::Relaxed));
        self.head.take_if(|(of, _)| *of != request);
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let is_answering = self.turns.is_answering.load(Ordering::Relaxed);
        if !is_answering {
            self.turns.head_bytes.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        }
        if buffer.filled().len() > before && self.head.is_none() && !is_answering {
            self.head = Some((request, Box::pin(sleep(self.patience.head))));
        }
        if let (Poll::Pending, Some((_, head))) = (&read, &mut self.head) {
            ready!(head.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Slow::Head)));
        }
        read
    }

    fn wrote<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let patience = self.patience.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Slow::Taking)))
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
        // Of a bare TCP socket: never waits.
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaving.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let leaving = this.leaving.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut scratch = [0; 8192];
        while leaving.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            // The peer has gone, one way or the other.
            if ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)).is_err()
                || buffer.filled().is_empty()
            {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
