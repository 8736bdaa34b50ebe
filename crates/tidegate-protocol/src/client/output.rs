//! What comes out of a session: what its driver must do, in this order. Test vectors have outputs as JSON
//! under the same names; times are whole milliseconds.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{cursor_json, state::Phase};
use crate::{Cursor, Epoch, Seq, frame::ClientFrame};

/// How a stream is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// WebSocket.
    Ws,
    /// Server-sent events.
    Sse,
}

/// Why the application is asked for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenReason {
    /// It is the first one.
    Initial,
    /// The one before has expired, or may have.
    Expired,
    /// The one before will expire soon; the stream goes on meanwhile.
    Refresh,
}

/// The state as applications see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Frames come.
    Connected,
    /// Not wanted, ended for good, or the first attempt is under way.
    Disconnected,
    /// An attempt has failed or a connection was lost, and the session goes on trying.
    Reconnecting,
}

impl ConnectionState {
    /// The name in vectors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Reconnecting => "reconnecting",
        }
    }
}

/// What the driver must do, or tell the application.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Output {
    /// Ask the application for a token.
    GetToken {
        /// The answer carries it.
        g: u64,
        /// Why.
        reason: TokenReason,
    },
    /// Open a connection.
    Open {
        /// All that is reported of this connection carries it.
        g: u64,
        /// Over this transport.
        transport: Transport,
        /// With this token.
        token: String,
        /// The query's `cursor`.
        #[serde(serialize_with = "cursor_json::as_optional_text")]
        cursor: Option<Cursor>,
        /// The query's `tail`.
        tail: Option<u32>,
        /// The query's `replaces`.
        replaces: Option<String>,
    },
    /// Close that connection and forget it, without waiting for the peer.
    Close {
        /// That of the `open`.
        g: u64,
        /// The WebSocket close code.
        code: u16,
    },
    /// Give up that request for a token or a page.
    Cancel {
        /// That of the `get_token` or `history`.
        g: u64,
    },
    /// Send a frame over the connection.
    Send {
        /// The frame.
        frame: ClientFrame,
    },
    /// Request a page of history.
    History {
        /// The answer carries it.
        g: u64,
        /// The query's `after`.
        #[serde(serialize_with = "cursor_json::as_text")]
        after: Cursor,
        /// Events above it are not needed.
        to: Seq,
    },
    /// Begin with this transport from now on, also after a restart of the application.
    Transport {
        /// The one that works.
        transport: Transport,
    },
    /// The stream is open, or its token was renewed.
    Hello {
        /// The gateway's name for the connection.
        connection_id: String,
        /// The services that it shows; `["*"]` for all.
        services: Vec<String>,
        /// Events up to it are replay.
        head: Seq,
        /// Whether the presented cursor continues without a gap.
        resumed: bool,
        /// Whether this answers a renewal.
        renewed: bool,
        /// `hello.sync`: `interval` or `memory` if acknowledged events are not synced to disk first.
        sync: Option<String>,
        /// Where the stream starts.
        #[serde(serialize_with = "cursor_json::as_text")]
        cursor: Cursor,
    },
    /// An event for the application.
    Event {
        /// Its JSON, as the gateway sent it: an entry of a batch, or the whole `event` frame.
        event: Box<RawValue>,
        /// Whether it was in the log before the connection was open.
        replay: bool,
        /// The time from the gateway's acceptance to here, if the clock is known and it is no replay.
        latency_ms: Option<u64>,
    },
    /// Events in (`prev`, `seq`] will not come.
    Gap {
        /// All before it was delivered.
        prev: Seq,
        /// The stream continues after it; with reason `epoch` it may be lower than `prev`.
        seq: Seq,
        /// The epoch of `seq`.
        #[serde(serialize_with = "cursor_json::epoch_as_text")]
        epoch: Epoch,
        /// The name of a [`crate::GapReason`].
        reason: String,
        /// With reason `filter`: the services from here on.
        services: Option<Vec<String>>,
    },
    /// All before this was handed over: the position to keep.
    Cursor {
        /// The position.
        #[serde(serialize_with = "cursor_json::as_text")]
        cursor: Cursor,
    },
    /// A remark of the gateway; the stream goes on.
    Status {
        /// The name of a [`crate::StatusCode`], or of a [`crate::Code`] after a `goaway`.
        code: String,
        /// One sentence for people.
        message: String,
    },
    /// Something went wrong.
    Error {
        /// The name of a [`crate::Code`], or one of the session's own.
        code: String,
        /// One sentence for people.
        message: String,
        /// Whether the session has stopped.
        fatal: bool,
        /// When the next attempt begins.
        retry_in_ms: Option<u64>,
    },
    /// The state has changed. It comes last.
    State {
        /// As applications see it.
        state: ConnectionState,
        /// As the session sees it.
        phase: Phase,
        /// Delays drawn since the last stable connection.
        attempt: u32,
        /// When the next attempt begins.
        retry_in_ms: Option<u64>,
    },
}
