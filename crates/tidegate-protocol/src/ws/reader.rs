//! Reads a peer's bytes, cut anywhere, into whole messages and control frames.
//!
//! Strict: whatever RFC 6455 forbids the peer is an error, found with the first byte that shows it. After an
//! error or a close frame nothing more is read. The connection loop of `tidegate-server` drives it, and the
//! WebSocket of `tidegate-client`; it answers nothing itself.

use std::{borrow::Cow, mem};

use super::{
    error::Violation,
    head::{Frame, Head, Opcode, unmask},
    inflate::{Inflate, Inflater},
    message::Partial,
    received::Received,
};

/// The limits of one message. The caller limits how long a message may stay open ([`MessageReader::is_idle`]) and
/// how many frames and messages come in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes in one message, all fragments together. Default 64 KiB.
    pub message_bytes_max: usize,
    /// Frames in one message, empty ones included. Default 64.
    pub message_fragments_max: usize,
    /// Whether permessage-deflate (RFC 7692) was negotiated. `message_bytes_max` also limits what a
    /// compressed message inflates to.
    pub deflate: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 64 * 1024, message_fragments_max: 64, deflate: false }
    }
}

/// Whether the reader still reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    Failed(Violation),
}

/// Reads what one peer sends (RFC 6455 5), however its bytes are cut: a client with
/// [`MessageReader::read`], a server with [`MessageReader::read_server`].
///
/// Between messages it owns no heap memory; while a message or a frame is partly here, it owns that part
/// ([`MessageReader::held_bytes`]). The work is linear in the bytes read.
#[derive(Debug)]
pub struct MessageReader {
    limits: Limits,
    head: Head,
    state: State,
    partial: Option<Box<Partial>>,
}

impl MessageReader {
    /// A reader for a connection that has just been upgraded.
    pub fn new(limits: Limits) -> Self {
        Self { limits, head: Head::default(), state: State::Open, partial: None }
    }

    /// Takes bytes from the front of `input` until they complete an event; returns `None` once the input is
    /// used up. Unmasks the input in place. Call it until it returns `None` or an error:
    ///
    /// ```
    /// # use tidegate_protocol::ws::{Received, Limits, MessageReader};
    /// # let mut scratch = *b"\x81\x82\0\0\0\0hi";
    /// # let mut reader = MessageReader::new(Limits::default());
    /// let mut input = &mut scratch[..];
    /// while let Some(event) = reader.read(&mut input)? {
    ///     assert_eq!(event, Received::Text("hi".into()));
    /// }
    /// # Ok::<(), tidegate_protocol::ws::Violation>(())
    /// ```
    ///
    /// After a close frame all input is taken and dropped (RFC 6455 5.5.1).
    ///
    /// # Errors
    /// [`Violation`] if the client breaks the protocol or a limit. Later calls return the same error.
    pub fn read<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<Received<'a>>, Violation> {
        self.read_peer(input, Inflate::Alone)
    }

    /// The same for what a server sends: its frames have no mask, and its compressed messages may refer to
    /// earlier ones, which `inflater` keeps.
    ///
    /// # Errors
    /// As for [`MessageReader::read`].
    pub fn read_server<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        inflater: &mut Inflater,
    ) -> Result<Option<Received<'a>>, Violation> {
        self.read_peer(input, Inflate::Shared(inflater))
    }

    fn read_peer<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        inflate: Inflate<'_>,
    ) -> Result<Option<Received<'a>>, Violation> {
        match self.state {
            State::Open => {}
            State::Closed => {
                *input = &mut [];
                return Ok(None);
            }
            State::Failed(error) => return Err(error),
        }
        let result = self.read_open(input, inflate);
        let ended = match &result {
            Ok(Some(Received::Close(_))) => State::Closed,
            Err(error) => State::Failed(*error),
            Ok(_) => return result,
        };
        self.state = ended;
        self.partial = None;
        result
    }

    /// Whether nothing is partly here: no frame and no message is open.
    pub fn is_idle(&self) -> bool {
        self.head.is_empty() && self.partial.is_none()
    }

    /// The heap memory of the open frame and message, in bytes: at most twice the payload received, however
    /// many fragments it came in, and about 150 bytes.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.held_bytes())
    }

    fn read_open<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        mut inflate: Inflate<'_>,
    ) -> Result<Option<Received<'a>>, Violation> {
        let is_masked = matches!(inflate, Inflate::Alone);
        loop {
            let begun = self.partial.as_mut().and_then(|partial| partial.frame.take());
            let is_fresh = begun.is_none();
            let mut frame = match begun {
                Some(frame) => frame,
                None => match self.head.read(input, self.limits.deflate, is_masked)? {
                    Some(frame) => self.admit(frame)?,
                    None => return Ok(None),
                },
            };
            let taken = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
            let (payload, rest) = mem::take(input).split_at_mut(taken);
            *input = rest;
            unmask(payload, frame.mask);
            frame.mask.rotate_left(taken % 4);
            frame.left -= taken as u64;

            let stands_alone =
                frame.opcode.is_control() || (frame.fin && frame.opcode != Opcode::Continuation);
            if is_fresh && stands_alone && frame.left == 0 {
                // The usual case: the input has the whole frame, and nothing is copied or allocated.
                if frame.is_deflated {
                    let is_text = frame.opcode == Opcode::Text;
                    return inflate.message(payload, is_text, self.limits.message_bytes_max).map(Some);
                }
                return of_whole_frame(frame.opcode, payload).map(Some);
            }
            let partial = self.partial.get_or_insert_default();
            let event = partial.take(frame, payload, self.limits.message_bytes_max, &mut inflate)?;
            if partial.is_empty() {
                self.partial = None;
            }
            if event.is_some() || input.is_empty() {
                return Ok(event);
            }
        }
    }

    /// Checks a frame against the open message and the limits, before any of its payload is taken.
    fn admit(&mut self, frame: Frame) -> Result<Frame, Violation> {
        if frame.opcode.is_control() {
            return Ok(frame);
        }
        let open = self.partial.as_mut().and_then(|partial| partial.message.as_mut());
        let (so_far, fragments) = match (open, frame.opcode) {
            (None, Opcode::Continuation) => return Err(Violation::LoneContinuation),
            (Some(message), Opcode::Continuation) => {
                message.fragments += 1;
                (message.body.len(), message.fragments)
            }
            (Some(_), _) => return Err(Violation::InterleavedMessage),
            (None, _) => (0, 1),
        };
        if frame.left > self.limits.message_bytes_max.saturating_sub(so_far) as u64 {
            return Err(Violation::MessageTooLarge);
        }
        if fragments > self.limits.message_fragments_max {
            return Err(Violation::TooManyFragments);
        }
        Ok(frame)
    }
}

fn of_whole_frame(opcode: Opcode, payload: &[u8]) -> Result<Received<'_>, Violation> {
    match opcode {
        Opcode::Text => match simdutf8::basic::from_utf8(payload) {
            Ok(text) => Ok(Received::Text(Cow::Borrowed(text))),
            Err(_) => Err(Violation::TextNotUtf8),
        },
        Opcode::Binary | Opcode::Continuation => Ok(Received::Binary(Cow::Borrowed(payload))),
        Opcode::Close | Opcode::Ping | Opcode::Pong => Received::of_control(opcode, Cow::Borrowed(payload)),
    }
}
