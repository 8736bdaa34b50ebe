//! A TCP socket under HTTP that does not wait for ever: not for the rest of a request's head, and not
//! for a peer that takes nothing of its answer. hyper bounds neither of the two: its one timeout for
//! heads also covers the rest between two requests, which is longer.
//!
//! A worker serves HTTP over it; a WebSocket takes the bare socket out again.

use std::{
    future::Future as _,
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

impl Default for Patience {
    /// What the configuration's defaults come to.
    fn default() -> Self {
        Self { head: Duration::from_secs(10), write: Duration::from_secs(33) }
    }
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
}

impl Guarded {
    /// Guards `stream`.
    pub fn new(stream: TcpStream, turns: Arc<Turns>, patience: Patience) -> Self {
        Self { stream, turns, patience, head: None, stalled: None }
    }

    /// The bare socket.
    pub fn into_inner(self) -> TcpStream {
        self.stream
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
        let (before, request) = (buffer.filled().len(), this.turns.requests.load(Ordering::Relaxed));
        this.head.take_if(|(of, _)| *of != request);
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let is_answering = this.turns.is_answering.load(Ordering::Relaxed);
        if !is_answering {
            this.turns.head_bytes.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        }
        if buffer.filled().len() > before && this.head.is_none() && !is_answering {
            this.head = Some((request, Box::pin(sleep(this.patience.head))));
        }
        if let (Poll::Pending, Some((_, head))) = (&read, &mut this.head) {
            ready!(head.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Slow::Head)));
        }
        read
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
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
