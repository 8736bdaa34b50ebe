//! The body of an answer: whole, in pieces that are made as the peer takes them, or a stream.
//!
//! What an answer holds is charged to who asked for it ([`Ledger`](crate::admission::Ledger)) until its bytes are
//! dropped, wherever the HTTP libraries keep them until then.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::{
    admission::Charge,
    worker::sse::{Cut, SseBody},
};

/// The body of an answer.
#[derive(Debug)]
pub enum Answer {
    /// All of it.
    Whole(Full<Bytes>),
    /// The first piece, and what makes the others.
    Pieces(Pieces),
    /// The frames of a stream.
    Stream(SseBody),
}

impl Answer {
    /// A whole body.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Pieces(body) => body.poll_waiting(context).map(|waiting| match waiting {
                Ok(Some(length)) => Some(Ok(Frame::data(body.take(length)))),
                Ok(None) => None,
                Err(cut) => Some(Err(cut)),
            }),
            Self::Stream(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Pieces(_) => false,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Pieces(_) => SizeHint::default(),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// An answer that is made piece by piece. If it cannot be made to its end it is cut, so that its client sees that
/// it is not whole.
pub struct Pieces {
    front: Bytes,
    rest: Pin<Box<dyn Stream<Item = Result<Bytes, Cut>>>>,
}

impl Pieces {
    /// The first piece, and the others.
    pub fn new(first: Bytes, rest: impl Stream<Item = Result<Bytes, Cut>> + 'static) -> Self {
        Self { front: first, rest: Box::pin(rest.fuse()) }
    }

    /// How many bytes wait at its front; `None` at its end.
    pub fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<usize>, Cut>> {
        while self.front.is_empty() {
            match ready!(self.rest.as_mut().poll_next(context)) {
                Some(Ok(piece)) => self.front = piece,
                Some(Err(cut)) => return Poll::Ready(Err(cut)),
                None => return Poll::Ready(Ok(None)),
            }
        }
        Poll::Ready(Ok(Some(self.front.len())))
    }

    /// Takes up to `length` bytes from its front.
    pub fn take(&mut self, length: usize) -> Bytes {
        if length < self.front.len() { self.front.split_to(length) } else { mem::take(&mut self.front) }
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces").field("front", &self.front.len()).finish_non_exhaustive()
    }
}

/// Bytes with what is charged for them.
struct Charged {
    bytes: Vec<u8>,
    charge: Option<Charge>,
    /// Who gets the charge when the bytes are dropped.
    back: Option<oneshot::Sender<Charge>>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.bytes = Vec::new();
        if let (Some(charge), Some(back)) = (self.charge.take(), self.back.take()) {
            // If nobody waits for it, it is dropped here.
            let _ = back.send(charge);
        }
    }
}

/// Bytes that are charged until the last part of them is dropped.
pub fn charged(bytes: Vec<u8>, charge: Charge) -> Bytes {
    Bytes::from_owner(Charged { bytes, charge: Some(charge), back: None })
}

/// The same; the charge comes back when the last part of them is dropped.
pub fn lent(bytes: Vec<u8>, charge: Charge) -> (Bytes, oneshot::Receiver<Charge>) {
    let (back, returned) = oneshot::channel();
    (Bytes::from_owner(Charged { bytes, charge: Some(charge), back: Some(back) }), returned)
}
