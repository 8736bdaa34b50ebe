//! What a client sent: whole messages and control frames.

use std::borrow::Cow;

use super::{close::Close, error::Violation, head::Opcode};

/// What a client sent. Borrowed from the input if it arrived in one piece, else owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole text message (RFC 6455 5.6); it is valid UTF-8.
    Text(Cow<'a, str>),
    /// A whole binary message (RFC 6455 5.6).
    Binary(Cow<'a, [u8]>),
    /// A ping (RFC 6455 5.5.2): answer it with a pong that has the same payload. If several are unanswered,
    /// one pong for the last is enough.
    Ping(Cow<'a, [u8]>),
    /// A pong (RFC 6455 5.5.3), solicited or not.
    Pong(Cow<'a, [u8]>),
    /// The client closes (RFC 6455 5.5.1): answer with a close frame if none was sent. The last event.
    Close(Close<'a>),
}

impl<'a> Received<'a> {
    /// The event of a whole control frame.
    pub(super) fn of_control(opcode: Opcode, payload: Cow<'a, [u8]>) -> Result<Self, Violation> {
        Ok(match opcode {
            Opcode::Ping => Received::Ping(payload),
            Opcode::Pong => Received::Pong(payload),
            _ => Received::Close(Close::parse(payload)?),
        })
    }
}
