//! A client's half of the transports: bytes, cut anywhere, to frames. Written for these tests from the
//! standards, with inflaters of its own.

use std::{collections::VecDeque, io::Write as _};

use flate2::{Decompress, FlushDecompress, Status, write::GzDecoder};

/// A frame as the client reads it.
#[derive(Debug)]
pub struct Read {
    /// Its JSON.
    pub text: String,
    /// `id:` of SSE.
    pub id: Option<String>,
    /// Whether it came as a compressed message.
    pub is_deflated: bool,
}

/// How a client reads its bytes.
pub enum Decoder {
    WebSocket {
        bytes: Vec<u8>,
        inflater: Decompress,
        /// The client forgets every message before the next (`server_no_context_takeover`).
        is_alone: bool,
    },
    Sse {
        gzip: Option<Box<GzDecoder<Vec<u8>>>>,
        text: Vec<u8>,
    },
}

impl Decoder {
    pub fn websocket(is_alone: bool) -> Self {
        Self::WebSocket { bytes: Vec::new(), inflater: Decompress::new(false), is_alone }
    }

    pub fn sse(is_gzip: bool) -> Self {
        Self::Sse { gzip: is_gzip.then(|| Box::new(GzDecoder::new(Vec::new()))), text: Vec::new() }
    }

    /// Takes a piece of the stream; gives the frames that are whole with it.
    pub fn feed(&mut self, piece: &[u8]) -> VecDeque<Read> {
        let mut frames = VecDeque::new();
        match self {
            Self::WebSocket { bytes, inflater, is_alone } => {
                bytes.extend_from_slice(piece);
                while let Some((first, payload, rest)) = message(bytes) {
                    assert_eq!(first & 0xBF, 0x81, "a whole text message: {first:#x}");
                    let is_deflated = first & 0x40 != 0;
                    let text = if is_deflated { inflate(inflater, payload) } else { payload.to_vec() };
                    if is_deflated && *is_alone {
                        inflater.reset(false);
                    }
                    let text = String::from_utf8(text).expect("R19: what is inflated is UTF-8");
                    frames.push_back(Read { text, id: None, is_deflated });
                    let taken = bytes.len() - rest;
                    bytes.drain(..taken);
                }
            }
            Self::Sse { gzip, text } => {
                let mut looked = text.len().saturating_sub(1);
                match gzip {
                    None => text.extend_from_slice(piece),
                    Some(gzip) => {
                        gzip.write_all(piece).expect("R18: a body of blocks");
                        gzip.flush().expect("R18: a body of blocks");
                        text.append(gzip.get_mut());
                    }
                }
                while let Some(end) = text[looked..].windows(2).position(|pair| pair == b"\n\n") {
                    let event: Vec<u8> = text.drain(..looked + end + 2).collect();
                    looked = 0;
                    let event = String::from_utf8(event).expect("UTF-8");
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                    let (text, id) = (field("data: ").expect("data"), field("id: ").map(str::to_owned));
                    frames.push_back(Read { text: text.to_owned(), id, is_deflated: false });
                }
            }
        }
        frames
    }

    /// The stream has ended: nothing is half read, and a gzip body has a valid end.
    pub fn finish(self) {
        match self {
            Self::WebSocket { bytes, .. } => assert!(bytes.is_empty(), "half a frame"),
            Self::Sse { gzip, text } => {
                assert!(text.is_empty(), "half an event: {:?}", String::from_utf8_lossy(&text));
                if let Some(gzip) = gzip {
                    let rest = gzip.finish().expect("R18: the final block, the checksum, the length");
                    assert!(rest.is_empty());
                }
            }
        }
    }
}

/// The first byte and the payload of the first message in `bytes`, and how many bytes follow it (RFC 6455 5.2).
fn message(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (head, length) = match second {
        0..126 => (2, usize::from(second)),
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        _ => panic!("a server's frame with a mask"),
    };
    Some((first, bytes.get(head..head + length)?, bytes.len() - head - length))
}

/// RFC 7692, section 7.2.2.
fn inflate(inflater: &mut Decompress, payload: &[u8]) -> Vec<u8> {
    let payload = [payload, &[0, 0, 0xFF, 0xFF]].concat();
    let mut text = Vec::with_capacity(1 << 12);
    let began = inflater.total_in();
    loop {
        let taken = usize::try_from(inflater.total_in() - began).expect("small");
        if taken == payload.len() {
            return text;
        }
        text.reserve(1 << 12);
        let status = inflater.decompress_vec(&payload[taken..], &mut text, FlushDecompress::Sync);
        assert_ne!(
            status.expect("R19: what is sent can be inflated"),
            Status::StreamEnd,
            "R18: no final block"
        );
    }
}
