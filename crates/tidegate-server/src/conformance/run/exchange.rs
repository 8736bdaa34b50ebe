//! What a connection and its run tell each other: the request, what to do next, what came from the client.

use super::super::{
    frames::Written,
    scenario::Offer,
    step::{Setting, Torn},
};

/// A request for the stream.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Over WebSocket, not SSE.
    pub is_websocket: bool,
    /// The cursor that counts among those in the request.
    pub cursor: Option<String>,
    /// The token, if the request has one; over WebSocket it may follow in a frame.
    pub token: Option<String>,
    /// It offers permessage-deflate.
    pub deflate: bool,
    /// It accepts gzip.
    pub gzip: bool,
    /// It asks for compressed batches.
    pub gzip_batch: bool,
}

/// What a connection does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Do {
    /// Answer 101 or 200: the stream is open.
    Open {
        /// With compression of the transport.
        compressed: bool,
    },
    /// Answer with a status instead.
    Refuse(Refusal),
    /// Write a frame, or a part of one.
    Send {
        /// The frame.
        frame: Written,
        /// How much of it.
        torn: Option<Torn>,
    },
    /// Write these bytes (SSE).
    Text(String),
    /// Write a ping of WebSocket.
    ControlPing(Vec<u8>),
    /// Change how bytes are written.
    Set(Setting),
    /// End in order: with a close frame of this code and reason, or with the end of the body.
    Close(Option<(u16, &'static str)>),
    /// End, because the run is over, and say why to who reads the client's log.
    Dismiss(String),
    /// End without a word.
    Cut,
    /// Wait for the client, or until [`Run::due`].
    Wait,
    /// Nothing: another connection has taken its place, or the run is over.
    Gone,
}

/// An answer that refuses a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The code and `retry_in_ms` of a problem; a page of HTML, if there is none.
    pub problem: Option<(&'static str, Option<u64>)>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

/// What came from the client on its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received<'a> {
    /// A text message.
    Text(&'a str),
    /// The answer to a ping of WebSocket.
    ControlPong(&'a [u8]),
    /// The end of the connection.
    End,
    /// Something that RFC 6455 or HTTP forbids.
    Violation(String),
}

impl Asked {
    /// Whether the request has this offer.
    pub(super) fn has(&self, offer: Offer) -> bool {
        match offer {
            Offer::Deflate => self.deflate,
            Offer::Gzip => self.gzip,
            Offer::GzipBatch => self.gzip_batch,
        }
    }
}

/// A frame that moves no cursor.
pub(super) fn said(json: String) -> Do {
    Do::Send { frame: Written { json, sse_id: None, events: Vec::new(), is_ping: false }, torn: None }
}
