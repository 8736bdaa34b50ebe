//! A WebSocket client, byte by byte (RFC 6455): it can send what a library would not.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use flate2::{Decompress, FlushDecompress};
use serde_json::Value;

use crate::secrets;

use super::{
    http::{Answer, Request},
    stream::Frames,
};

/// The client's key of every handshake; the example of the RFC.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// One frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame.
    Close(u16, String),
    /// The end of the connection.
    End,
}

/// An open connection.
pub struct Ws {
    /// The server's response to the handshake.
    pub handshake: Answer,
    stream: BufReader<TcpStream>,
    /// Set if permessage-deflate was agreed on.
    inflater: Option<Inflater>,
    /// Whether the last text message was compressed.
    pub was_compressed: bool,
}

/// The server's side of permessage-deflate (RFC 7692).
struct Inflater {
    stream: Decompress,
    keeps_context: bool,
}

impl Inflater {
    fn of(handshake: &Answer) -> Option<Self> {
        let extension = handshake.header("sec-websocket-extensions")?;
        assert!(extension.starts_with("permessage-deflate"), "{extension}");
        let keeps_context = !extension.contains("server_no_context_takeover");
        Some(Self { stream: Decompress::new(false), keeps_context })
    }

    fn inflate(&mut self, mut payload: Vec<u8>) -> Vec<u8> {
        if !self.keeps_context {
            self.stream.reset(false);
        }
        payload.extend([0, 0, 0xff, 0xff]);
        let mut text = Vec::with_capacity(1 << 20);
        let (before, mut taken) = (self.stream.total_in(), 0);
        while taken < payload.len() {
            text.reserve(1 << 16);
            let rest = &payload[taken..];
            self.stream.decompress_vec(rest, &mut text, FlushDecompress::Sync).expect("deflate");
            taken = usize::try_from(self.stream.total_in() - before).expect("a length");
        }
        text
    }
}

/// A masked frame with `payload`; `first` is its first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ MASK[index % 4]));
    frame
}

/// The handshake for `path`.
pub fn handshake(to: SocketAddr, path: &str) -> Request {
    Request::new(to, "GET", path)
        .with("connection", "Upgrade")
        .with("upgrade", "websocket")
        .with("sec-websocket-version", "13")
        .with("sec-websocket-key", KEY)
}

impl Ws {
    /// Opens a connection; these headers are added to those of the handshake.
    pub fn open(to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let request =
            headers.iter().fold(handshake(to, path), |request, (name, value)| request.with(name, value));
        Self::switch(request.begin())
    }

    /// Reads the server's response to a handshake.
    pub fn switch(mut stream: BufReader<TcpStream>) -> Self {
        let handshake = Answer::read_head(&mut stream).expect("an answer");
        assert_eq!(handshake.status, 101, "{handshake:?}");
        assert_eq!(handshake.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let inflater = Inflater::of(&handshake);
        Self { handshake, stream, inflater, was_compressed: false }
    }

    /// The next frame from the server, which is never fragmented or masked.
    pub fn message(&mut self) -> Message {
        let mut head = [0; 2];
        if self.stream.read_exact(&mut head).is_err() {
            return Message::End;
        }
        let is_compressed = head[0] & 0x40 != 0 && self.inflater.is_some();
        let flags = if is_compressed { 0xc0 } else { 0x80 };
        assert_eq!(head[0] & 0xf0, flags, "fragmented, or with a reserved bit");
        assert_eq!(head[1] & 0x80, 0, "masked");
        let length = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.take())),
            127 => u64::from_be_bytes(self.take()),
            length => u64::from(length),
        };
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut payload).expect("a whole frame");
        match head[0] & 0x0f {
            1 => {
                self.was_compressed = is_compressed;
                if let (true, Some(inflater)) = (is_compressed, &mut self.inflater) {
                    payload = inflater.inflate(payload);
                }
                let text = String::from_utf8(payload).expect("UTF-8");
                secrets::heard_frame(&text);
                Message::Text(text)
            }
            8 if payload.is_empty() => Message::Close(1005, String::new()),
            8 => {
                let reason = String::from_utf8(payload.split_off(2)).expect("UTF-8");
                Message::Close(u16::from_be_bytes([payload[0], payload[1]]), reason)
            }
            10 => Message::Pong(payload),
            other => panic!("opcode {other}"),
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("a whole head");
        bytes
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("send");
    }

    /// Sends a text message.
    pub fn send(&mut self, text: &str) {
        self.send_raw(&masked(0x81, text.as_bytes()));
    }

    /// Sends `auth`.
    pub fn authenticate(&mut self, token: &str) {
        self.send(&format!(r#"{{"type":"auth","token":"{token}"}}"#));
    }

    /// Reads to the `error` frame and the close frame after it; returns both.
    pub fn refusal(&mut self) -> (Value, u16) {
        let error = loop {
            let frame = self.frame();
            if frame["type"] == "error" {
                break frame;
            }
        };
        let sentence = error["message"].as_str().expect("a message");
        assert!(sentence.len() > 10 && sentence.contains(' '), "no sentence: {sentence}");
        match self.message() {
            Message::Close(code, reason) => {
                assert_eq!(error["code"], reason, "the close frame names the code");
                (error, code)
            }
            other => panic!("{other:?} behind {error}"),
        }
    }

    /// The socket under it.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}

impl Frames for Ws {
    fn try_frame(&mut self) -> Option<String> {
        match self.message() {
            Message::Text(text) => Some(text),
            Message::Close(..) | Message::End => None,
            Message::Pong(_) => panic!("a pong"),
        }
    }

    fn transport(&self) -> &'static str {
        "ws"
    }
}
