//! What a reader writes to: a WebSocket, or the body of a response.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::Framing;

use crate::worker::{sse::BodyBuffer, websocket::Socket};

/// What a reader writes to.
pub enum Sink {
    /// A WebSocket.
    WebSocket(Rc<Socket>),
    /// The body of a response.
    Sse(Rc<BodyBuffer>),
}

/// The socket has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Sink {
    /// Whether all that it was given has been taken.
    pub fn is_ready(&self) -> bool {
        match self {
            Sink::WebSocket(socket) => socket.is_ready(),
            Sink::Sse(slot) => slot.is_ready(),
        }
    }

    /// Gives it whole frames. Returns whether it has taken them all; it keeps the rest, and is not ready
    /// until that is gone.
    pub fn send(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        match self {
            Sink::WebSocket(socket) => socket.send(frames),
            Sink::Sse(slot) => slot.send(frames),
        }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Result<(), Gone> {
        match self {
            Sink::WebSocket(socket) => socket.ready().await,
            Sink::Sse(slot) => slot.ready().await,
        }
    }

    /// Whether bytes wait, and it has taken none for longer than `patience`.
    pub fn is_stalled(&self, now: Instant, patience: Duration) -> bool {
        match self {
            Sink::WebSocket(socket) => socket.is_stalled(now, patience),
            Sink::Sse(slot) => slot.is_stalled(now, patience),
        }
    }

    /// Whether it is a WebSocket.
    pub fn is_websocket(&self) -> bool {
        matches!(self, Sink::WebSocket(_))
    }

    /// The envelope of its frames.
    pub fn framing(&self) -> Framing {
        if self.is_websocket() { Framing::WebSocket } else { Framing::Sse }
    }
}
