//! The client's side of WebSocket (RFC 6455): the agreed extensions, the frames of a server, and
//! decompression (permessage-deflate, RFC 7692). `tidegate-protocol` implements only the server's side.

use flate2::{Decompress, FlushDecompress};

/// The maximum size of a message after decompression.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A complete message or control frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text or binary message.
    Message(&'a [u8]),
    /// A ping: the reply is a pong with the same payload.
    Ping(&'a [u8]),
    /// A close frame with its code and reason.
    Close(u16, &'a [u8]),
}

/// A violation of the WebSocket protocol by the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server violated the WebSocket protocol: {0}")]
pub struct WebSocketError(pub &'static str);

/// Decoder of a server's frames. Its input may be split anywhere. It holds no buffer between messages.
#[derive(Debug, Default)]
pub struct Frames {
    /// Bytes of a frame that is not complete yet.
    partial: Vec<u8>,
    /// An incomplete message of several frames, and whether it is compressed.
    message: Option<(Vec<u8>, bool)>,
    inflate: Option<Box<Inflate>>,
}

impl Frames {
    /// A decoder for a connection that was just upgraded; `extensions` is what the server agreed to.
    pub fn new(extensions: &str) -> Result<Self, WebSocketError> {
        let mut names = extensions.split(';').map(str::trim);
        let inflate = match names.next() {
            None | Some("") => None,
            Some("permessage-deflate") => {
                let mut without_context = false;
                for parameter in names {
                    match parameter.split('=').next().unwrap_or_default() {
                        "server_no_context_takeover" => without_context = true,
                        "client_no_context_takeover" | "client_max_window_bits" => {}
                        "server_max_window_bits" => {}
                        _ => return Err(WebSocketError("it agreed to an unknown parameter of an extension")),
                    }
                }
                Some(Box::new(Inflate { stream: Decompress::new(false), without_context }))
            }
            Some(_) => return Err(WebSocketError("it agreed to an extension that was not offered")),
        };
        Ok(Self { inflate, ..Self::default() })
    }

    /// Whether the server compresses its messages.
    pub fn is_compressed(&self) -> bool {
        self.inflate.is_some()
    }

    /// Decodes `input` and calls `each` with every complete message or control frame. `inflated` is a buffer
    /// for decompression that all readers of a thread share.
    pub fn take(
        &mut self,
        input: &[u8],
        inflated: &mut Vec<u8>,
        mut each: impl FnMut(Incoming<'_>),
    ) -> Result<(), WebSocketError> {
        if self.partial.is_empty() {
            let used = self.take_whole(input, inflated, &mut each)?;
            self.partial.extend_from_slice(&input[used..]);
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(input);
        let used = self.take_whole(&bytes, inflated, &mut each)?;
        if used < bytes.len() {
            bytes.drain(..used);
            self.partial = bytes;
        }
        Ok(())
    }

    /// Takes the complete frames at the front. Returns how many bytes they have.
    fn take_whole(
        &mut self,
        input: &[u8],
        inflated: &mut Vec<u8>,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<usize, WebSocketError> {
        let mut used = 0;
        while let Some(frame) = Frame::read(&input[used..])? {
            used += frame.length;
            self.frame(frame.head, frame.payload, inflated, each)?;
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        head: u8,
        payload: &[u8],
        inflated: &mut Vec<u8>,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), WebSocketError> {
        let (fin, compressed, opcode) = (head & 0x80 != 0, head & 0x40 != 0, head & 0x0F);
        if head & 0x30 != 0 || (compressed && self.inflate.is_none()) {
            return Err(WebSocketError("a reserved bit is set without an agreed extension"));
        }
        match opcode {
            1 | 2 if self.message.is_some() => Err(WebSocketError("a message began inside another")),
            1 | 2 if fin => self.message(payload, compressed, inflated, each),
            1 | 2 => {
                self.message = Some((payload.to_vec(), compressed));
                Ok(())
            }
            0 => {
                let Some((mut message, compressed)) = self.message.take() else {
                    return Err(WebSocketError("a continuation frame came outside a message"));
                };
                if message.len() + payload.len() > MESSAGE_BYTES_MAX {
                    return Err(WebSocketError("a message is larger than this tool accepts"));
                }
                message.extend_from_slice(payload);
                if fin {
                    return self.message(&message, compressed, inflated, each);
                }
                self.message = Some((message, compressed));
                Ok(())
            }
            8 => {
                let (code, reason) = match payload {
                    [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
                    _ => (1005, &[][..]),
                };
                each(Incoming::Close(code, reason));
                Ok(())
            }
            9 => {
                each(Incoming::Ping(payload));
                Ok(())
            }
            10 => Ok(()),
            _ => Err(WebSocketError("a frame has a reserved opcode")),
        }
    }

    fn message(
        &mut self,
        payload: &[u8],
        compressed: bool,
        inflated: &mut Vec<u8>,
        each: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), WebSocketError> {
        match &mut self.inflate {
            Some(inflate) if compressed => {
                inflate.message(payload, inflated)?;
                each(Incoming::Message(inflated));
            }
            _ => each(Incoming::Message(payload)),
        }
        Ok(())
    }
}

/// One frame (RFC 6455, section 5.2).
struct Frame<'a> {
    /// Its first byte.
    head: u8,
    payload: &'a [u8],
    /// The length of the frame with its header.
    length: usize,
}

impl<'a> Frame<'a> {
    /// Parses the frame at the front. None if it is incomplete.
    fn read(input: &'a [u8]) -> Result<Option<Self>, WebSocketError> {
        let [head, second, rest @ ..] = input else { return Ok(None) };
        if second & 0x80 != 0 {
            return Err(WebSocketError("a server must not mask its frames"));
        }
        let (length, rest) = match (second & 0x7F, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            (126 | 127, _) => return Ok(None),
            (length, rest) => (u64::from(length), rest),
        };
        if length > MESSAGE_BYTES_MAX as u64 {
            return Err(WebSocketError("a frame is larger than this tool accepts"));
        }
        let length = length as usize;
        if rest.len() < length {
            return Ok(None);
        }
        let whole = input.len() - rest.len() + length;
        Ok(Some(Self { head: *head, payload: &rest[..length], length: whole }))
    }
}

/// Decompresses messages (RFC 7692, section 7.2.2).
#[derive(Debug)]
struct Inflate {
    stream: Decompress,
    without_context: bool,
}

impl Inflate {
    fn message(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), WebSocketError> {
        out.clear();
        for mut input in [payload, &[0, 0, 0xFF, 0xFF]] {
            loop {
                if out.capacity() - out.len() < 4096 {
                    out.reserve((input.len() * 8).clamp(16 * 1024, 1024 * 1024));
                }
                let before = self.stream.total_in();
                self.stream
                    .decompress_vec(input, out, FlushDecompress::Sync)
                    .map_err(|_| WebSocketError("a compressed message cannot be inflated"))?;
                input = &input[(self.stream.total_in() - before) as usize..];
                if out.len() > MESSAGE_BYTES_MAX {
                    return Err(WebSocketError("a message is larger than this tool takes"));
                }
                if input.is_empty() && out.len() < out.capacity() {
                    break;
                }
            }
        }
        if self.without_context {
            self.stream.reset(false);
        }
        Ok(())
    }
}

/// Encodes a client's frame. Its mask is zero, which leaves the payload unchanged: the mask protects proxies
/// from browser scripts (RFC 6455, section 10.3), and neither exists here.
pub fn client_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    out.push(0x80 | opcode as u8);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// The kinds of frames that this client sends.
#[derive(Debug, Clone, Copy)]
pub enum Opcode {
    Text = 1,
    Pong = 10,
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    fn server_frame(head: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = client_frame(Opcode::Text, payload);
        frame[0] = head;
        frame[1] &= 0x7F;
        let header = frame.len() - payload.len();
        frame.drain(header - 4..header);
        frame
    }

    /// Decodes `bytes` in pieces of `piece` bytes.
    fn read(frames: &mut Frames, bytes: &[u8], piece: usize) -> Result<Vec<String>, WebSocketError> {
        let (mut found, mut inflated) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            frames.take(piece, &mut inflated, |incoming| {
                found.push(match incoming {
                    Incoming::Message(text) => String::from_utf8_lossy(text).into_owned(),
                    Incoming::Ping(payload) => format!("ping {}", payload.len()),
                    Incoming::Close(code, reason) => {
                        format!("close {code} {}", String::from_utf8_lossy(reason))
                    }
                });
            })?;
        }
        Ok(found)
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let long = "x".repeat(70_000);
        let middle = "y".repeat(300);
        let mut bytes = Vec::new();
        for (head, payload) in [
            (0x81, "one"),
            (0x01, "he"),
            (0x89, "p"),
            (0x80, "llo"),
            (0x82, &middle),
            (0x81, &long),
            (0x81, ""),
            (0x88, "\u{3}\u{e8}bye"),
        ] {
            let payload = if head == 0x88 { b"\x03\xe8bye".as_slice() } else { payload.as_bytes() };
            bytes.extend(server_frame(head, payload));
        }
        let expected = ["one", "ping 1", "hello", &middle, &long, "", "close 1000 bye"];
        for piece in [1, 2, 3, 7, 1000, usize::MAX] {
            assert_eq!(read(&mut Frames::default(), &bytes, piece).expect("frames"), expected, "{piece}");
        }
    }

    #[test]
    fn compressed_messages_are_inflated_in_one_context() {
        for (extensions, without_context) in
            [("permessage-deflate", false), ("permessage-deflate; server_no_context_takeover", true)]
        {
            let mut deflate = Compress::new(Compression::default(), false);
            let texts = [
                r#"{"order":17,"state":"packed"}"#.repeat(40),
                r#"{"order":17}"#.into(),
                "z".repeat(200_000),
            ];
            let mut bytes = server_frame(0x81, b"plain");
            for text in &texts {
                let mut out = Vec::with_capacity(text.len() + 1024);
                deflate.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).expect("deflated");
                assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]));
                out.truncate(out.len() - 4);
                bytes.extend(server_frame(0xC1, &out));
                if without_context {
                    deflate.reset();
                }
            }
            for piece in [5, usize::MAX] {
                let mut frames = Frames::new(extensions).expect("an extension");
                let found = read(&mut frames, &bytes, piece).expect("frames");
                assert!(frames.is_compressed());
                assert_eq!(found[0], "plain");
                assert_eq!(found[1..], texts);
            }
        }
    }

    #[test]
    fn what_a_server_must_not_send() {
        for (bytes, words) in [
            (client_frame(Opcode::Text, b"x"), "mask"),
            (server_frame(0xC1, b"x"), "reserved bit"),
            (server_frame(0x83, b"x"), "opcode"),
            (server_frame(0x80, b"x"), "continuation"),
            ([server_frame(0x01, b"x"), server_frame(0x81, b"y")].concat(), "inside"),
        ] {
            let error = read(&mut Frames::default(), &bytes, usize::MAX).expect_err(words);
            assert!(error.to_string().contains(words), "{error} for {words}");
        }
        assert!(Frames::new("x-webkit-deflate-frame").is_err());
    }
}
