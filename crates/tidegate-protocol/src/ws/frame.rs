//! Writes server frames: each is one [`Bytes`] that any number of sockets share.
//!
//! A server's frames have no mask (RFC 6455 5.1), and are never fragmented here.

use std::{fmt, io};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    close::{REASON_BYTES_MAX, is_sendable},
    head::{CONTROL_BYTES_MAX, Opcode},
};

/// The longest header of a server's frame, in bytes (RFC 6455 5.2, without a mask).
pub const HEADER_BYTES_MAX: usize = 10;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// The length of the header of a frame with this much payload: 2, 4 or 10 bytes (RFC 6455 5.2). The payload
/// follows it.
pub const fn header_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// A text frame that is written in place: the payload is encoded directly after the room that the header
/// will need, so that it is never copied.
///
/// ```
/// use std::fmt::Write as _;
/// # use tidegate_protocol::ws::FrameBuilder;
/// let mut frame = FrameBuilder::with_capacity(64);
/// write!(frame, "[{}]", 1)?;
/// frame.payload_mut().extend_from_slice(b" ");
/// assert_eq!(&frame.finish()[..], b"\x81\x04[1] ");
/// # Ok::<(), std::fmt::Error>(())
/// ```
#[derive(Debug)]
pub struct FrameBuilder {
    /// [`HEADER_BYTES_MAX`] bytes of room, then the payload.
    buffer: BytesMut,
}

impl FrameBuilder {
    /// An empty frame with room for this much payload.
    pub fn with_capacity(payload_bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES_MAX + payload_bytes);
        buffer.extend_from_slice(&[0; HEADER_BYTES_MAX]);
        Self { buffer }
    }

    /// The buffer to append the payload to. Its content must stay: the room for the header comes first.
    pub fn payload_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The length of the payload so far.
    pub fn payload_bytes(&self) -> usize {
        self.buffer.len().saturating_sub(HEADER_BYTES_MAX)
    }

    /// The finished text frame. The payload must be UTF-8.
    pub fn finish(self) -> Bytes {
        debug_assert!(
            std::str::from_utf8(&self.buffer[HEADER_BYTES_MAX..]).is_ok(),
            "the payload of a text frame is UTF-8"
        );
        self.finish_as(Opcode::Text)
    }

    fn finish_as(self, opcode: Opcode) -> Bytes {
        self.finish_with(FIN | opcode.bits())
    }

    fn finish_with(mut self, flags: u8) -> Bytes {
        debug_assert!(self.buffer.len() >= HEADER_BYTES_MAX, "the room for the header was kept");
        if self.buffer.len() < HEADER_BYTES_MAX {
            self.buffer.resize(HEADER_BYTES_MAX, 0);
        }
        let payload_bytes = self.payload_bytes();
        let start = HEADER_BYTES_MAX - header_bytes(payload_bytes);
        let header = &mut self.buffer[start..HEADER_BYTES_MAX];
        header[0] = flags;
        match header.len() {
            2 => header[1] = payload_bytes as u8,
            4 => {
                header[1] = 126;
                header[2..].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            }
            _ => {
                header[1] = 127;
                header[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            }
        }
        self.buffer.advance(start);
        self.buffer.freeze()
    }
}

impl fmt::Write for FrameBuilder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.buffer.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// For encoders that write bytes (`serde_json::to_writer`). Never fails.
impl io::Write for FrameBuilder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn frame(opcode: Opcode, payload: &[&[u8]]) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(payload.iter().map(|part| part.len()).sum());
    for part in payload {
        frame.buffer.extend_from_slice(part);
    }
    frame.finish_as(opcode)
}

/// A finished text frame (RFC 6455 5.6).
pub fn text_frame(payload: &str) -> Bytes {
    frame(Opcode::Text, &[payload.as_bytes()])
}

/// A finished text or binary frame whose payload is compressed already: RSV1 is set (RFC 7692 6).
pub fn deflated_frame(is_text: bool, payload: &[u8]) -> Bytes {
    let mut frame = FrameBuilder::with_capacity(payload.len());
    frame.buffer.extend_from_slice(payload);
    let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
    frame.finish_with(FIN | RSV1 | opcode.bits())
}

/// Whether the payload of a finished frame is compressed (RSV1 is set).
pub fn is_deflated(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & RSV1 != 0)
}

/// The length of the header of a finished server frame, in bytes, read from the frame.
pub fn header_length(frame: &[u8]) -> usize {
    match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    }
}

/// A finished binary frame (RFC 6455 5.6).
pub fn binary_frame(payload: &[u8]) -> Bytes {
    frame(Opcode::Binary, &[payload])
}

/// A finished ping (RFC 6455 5.5.2). A payload is cut after [`CONTROL_BYTES_MAX`] bytes.
pub fn ping(payload: &[u8]) -> Bytes {
    frame(Opcode::Ping, &[&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// A finished pong (RFC 6455 5.5.3), the answer to a ping with this payload.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(Opcode::Pong, &[&payload[..payload.len().min(CONTROL_BYTES_MAX)]])
}

/// A finished close frame (RFC 6455 5.5.1). A reason longer than [`REASON_BYTES_MAX`] is cut at a character
/// boundary. A code that must not be sent (none of [`crate::Code`]'s) gives an empty body, which means 1005.
pub fn close(code: u16, reason: &str) -> Bytes {
    if !is_sendable(code) {
        return frame(Opcode::Close, &[]);
    }
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()])
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn headers_have_their_shortest_form() {
        for (payload_bytes, header) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (0xFFFF, &[0x81, 126, 0xFF, 0xFF]),
            (0x1_0000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let payload = "x".repeat(payload_bytes);
            let frame = text_frame(&payload);
            assert_eq!(&frame[..header.len()], header);
            assert_eq!(&frame[header_bytes(payload_bytes)..], payload.as_bytes());
        }
        assert_eq!(&binary_frame(&[0xFF])[..], [0x82, 1, 0xFF]);
        assert_eq!(&ping(b"a")[..], b"\x89\x01a");
        assert_eq!(&pong(&[7; 200])[..2], [0x8A, 125]);
    }

    #[test]
    fn the_payload_stays_where_it_was_written() {
        let mut frame = FrameBuilder::with_capacity(300);
        frame.write_all(&[b'x'; 300]).expect("never fails");
        let at = frame.payload_mut()[HEADER_BYTES_MAX..].as_ptr();
        assert_eq!(frame.payload_bytes(), 300);
        assert_eq!(frame.finish()[4..].as_ptr(), at);
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!(&close(1000, "bye")[..], b"\x88\x05\x03\xE8bye");
        assert_eq!(&close(1005, "bye")[..], b"\x88\x00");
        let frame = close(1002, &"ä".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122, "61 of two bytes each; the 62nd would end at 124");
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
