//! HTTP/2 frame by frame (RFC 9113, section 4), so that a test can also violate it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use super::http::connect;
use crate::gateway::DEADLINE;

/// The types of frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Settings.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Codes (RFC 9113, section 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The number at the beginning of the payload.
    pub fn number(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().expect("four bytes"))
    }

    /// The code of a GOAWAY frame, after the last stream id.
    pub fn goaway_code(&self) -> u32 {
        assert_eq!(self.kind, GOAWAY);
        u32::from_be_bytes(self.payload[4..8].try_into().expect("four bytes"))
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block without compression: literals that are not indexed (RFC 7541, section 6.2.2).
pub fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in lines {
        bytes.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (section 5.1).
            match text.len().checked_sub(127) {
                None => bytes.push(u8::try_from(text.len()).expect("below 127")),
                Some(mut rest) => {
                    bytes.push(127);
                    while rest >= 128 {
                        bytes.push((rest % 128) as u8 | 128);
                        rest /= 128;
                    }
                    bytes.push(rest as u8);
                }
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A connection that does nothing by itself except acknowledge settings.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Connects and sends the preface, with these settings.
    pub fn open(to: SocketAddr, settings: &[(u16, u32)]) -> Self {
        Self::over(connect(to), settings)
    }

    /// The same over a socket that is connected.
    pub fn over(stream: TcpStream, settings: &[(u16, u32)]) -> Self {
        let mut wire = Self { stream };
        wire.send(PREFACE);
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        wire.frame(SETTINGS, 0, 0, &payload);
        wire
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Sends a frame.
    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&frame(kind, flags, stream, payload));
    }

    /// Sends a request without a body.
    pub fn ask(&mut self, stream: u32, lines: &[(&str, &str)]) {
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(lines));
    }

    /// Grants `bytes` more window on a stream, or on the connection (0).
    pub fn give_room(&mut self, stream: u32, bytes: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    /// Fills a buffer; `None` if the connection has ended, which is not the same as silence.
    fn read(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came, and it did not end")
            }
            read => read.ok(),
        }
    }

    /// The next frame; `None` if the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame.kind == SETTINGS && frame.flags & ACK == 0 {
            let _ = self.stream.write_all(&self::frame(SETTINGS, ACK, 0, &[]));
        }
        Some(frame)
    }

    /// The next frame of this type; others are skipped.
    pub fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().unwrap_or_else(|| panic!("the end before a frame of type {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end of the connection; the code of the last GOAWAY, if there was one.
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        let deadline = Instant::now() + DEADLINE;
        while let Some(frame) = self.next() {
            assert!(Instant::now() < deadline, "it did not end");
            if frame.kind == GOAWAY {
                code = Some(frame.goaway_code());
            }
        }
        code
    }
}
