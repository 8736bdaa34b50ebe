//! The parts of messages and frames that are not whole yet.

use std::borrow::Cow;

use super::{
    error::Violation,
    head::{Frame, Opcode},
    inflate::Inflate,
    received::Received,
    utf8::Utf8,
};

/// A message or frame that is partly here. A [`super::MessageReader`] has one only while something is open.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// The frame whose payload is still arriving.
    pub(super) frame: Option<Frame>,
    /// The data message whose frames are still arriving. Control frames may come between them.
    pub(super) message: Option<Message>,
    /// The payload so far of a control frame.
    control: Vec<u8>,
}

impl Partial {
    pub(super) fn is_empty(&self) -> bool {
        self.frame.is_none() && self.message.is_none()
    }

    /// The heap that this holds, itself included.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + self.control.capacity()
            + self.message.as_ref().map_or(0, |message| message.body.capacity())
    }

    /// Takes `payload`, the next piece of `frame` (whose `left` counts the bytes after it). Returns the event
    /// that it completes.
    pub(super) fn take(
        &mut self,
        frame: Frame,
        payload: &[u8],
        bytes_max: usize,
        inflate: &mut Inflate<'_>,
    ) -> Result<Option<Received<'static>>, Violation> {
        if frame.opcode.is_control() {
            self.control.extend_from_slice(payload);
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            let payload = std::mem::take(&mut self.control);
            return Received::of_control(frame.opcode, Cow::Owned(payload)).map(Some);
        }
        let message = self.message.get_or_insert_with(|| Message {
            body: match frame.opcode {
                opcode if frame.is_deflated => {
                    Body::Deflated { bytes: Vec::new(), is_text: opcode == Opcode::Text }
                }
                Opcode::Text => Body::Text(Utf8::default()),
                _ => Body::Binary(Vec::new()),
            },
            fragments: 1,
        });
        // The length of the last frame bounds what will be needed. But never allocate more than has arrived:
        // announcing a length costs the sender nothing.
        let most = if frame.fin {
            Some(payload.len().saturating_add(usize::try_from(frame.left).unwrap_or(usize::MAX)))
        } else {
            None
        };
        message.body.push(payload, most)?;
        if frame.left > 0 {
            self.frame = Some(frame);
            return Ok(None);
        }
        if !frame.fin {
            return Ok(None);
        }
        self.message.take().map(|message| message.body.finish(bytes_max, inflate)).transpose()
    }
}

/// A data message, partly here.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) body: Body,
    /// Data frames begun.
    pub(super) fragments: usize,
}

/// One buffer per message, however many fragments it comes in: a fragment costs its bytes and
/// nothing else. A compressed one (RFC 7692) is inflated, with a limit, when it is whole.
#[derive(Debug)]
pub(super) enum Body {
    Text(Utf8),
    Binary(Vec<u8>),
    Deflated { bytes: Vec<u8>, is_text: bool },
}

impl Body {
    pub(super) fn len(&self) -> usize {
        match self {
            Body::Text(utf8) => utf8.len(),
            Body::Binary(bytes) | Body::Deflated { bytes, .. } => bytes.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Body::Text(utf8) => utf8.text.capacity(),
            Body::Binary(bytes) | Body::Deflated { bytes, .. } => bytes.capacity(),
        }
    }

    /// Adds `payload`; `most` is how many bytes will be added from here on, if that is known.
    fn push(&mut self, payload: &[u8], most: Option<usize>) -> Result<(), Violation> {
        let (needed, capacity) = (self.len() + payload.len(), self.capacity());
        if needed > capacity {
            // Doubling keeps the copying linear.
            let end = most.map_or(usize::MAX, |most| self.len().saturating_add(most));
            let target = needed.max(capacity.saturating_mul(2).min(end));
            match self {
                Body::Text(utf8) => utf8.text.reserve_exact(target - utf8.text.len()),
                Body::Binary(bytes) | Body::Deflated { bytes, .. } => {
                    bytes.reserve_exact(target - bytes.len());
                }
            }
        }
        match self {
            Body::Text(utf8) => utf8.push(payload).map_err(|_| Violation::TextNotUtf8),
            Body::Binary(bytes) | Body::Deflated { bytes, .. } => {
                bytes.extend_from_slice(payload);
                Ok(())
            }
        }
    }

    fn finish(self, bytes_max: usize, inflate: &mut Inflate<'_>) -> Result<Received<'static>, Violation> {
        Ok(match self {
            Body::Text(utf8) => {
                Received::Text(Cow::Owned(utf8.finish().map_err(|_| Violation::TextNotUtf8)?))
            }
            Body::Binary(bytes) => Received::Binary(Cow::Owned(bytes)),
            Body::Deflated { bytes, is_text } => return inflate.message(&bytes, is_text, bytes_max),
        })
    }
}
