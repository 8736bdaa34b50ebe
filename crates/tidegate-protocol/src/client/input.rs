//! What goes into a session: its configuration and the facts that its driver reports. Test vectors have them
//! as JSON under the same names; times are whole milliseconds.

use serde::{Deserialize, Serialize};

use super::output::Transport;

/// How a session behaves; it never changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The transports in order of preference; not empty.
    pub transports: Vec<Transport>,
    /// The one to begin with, if an earlier session found out that the preferred one does not work here.
    pub transport: Option<Transport>,
    /// The cursor to start after, as text; one that is none counts as absent.
    pub cursor: Option<String>,
    /// Without a cursor: start with the last events, at most so many.
    pub tail: Option<u32>,
    /// Whether gaps of slow readers are filled from history.
    pub fill: bool,
    /// Whether the session sends `health` frames.
    pub health: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            transports: vec![Transport::Ws, Transport::Sse],
            transport: None,
            cursor: None,
            tail: None,
            fill: false,
            health: false,
        }
    }
}

/// A fact. `g` is the generation of the [`super::Output`] that it answers; with any other generation it is
/// late, and dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum Input {
    /// The application wants the stream.
    Connect,
    /// The application does not want it any more.
    Disconnect,
    /// The token callback's answer.
    Token {
        /// That of the `get_token`.
        g: u64,
        /// The token; empty if the callback returned none.
        token: String,
        /// How long it is good, if the callback knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<i64>,
    },
    /// The token callback failed.
    TokenFailed {
        /// That of the `get_token`.
        g: u64,
        /// Nobody is logged in, so that another try is of no use.
        r#final: bool,
        /// Why, for people.
        message: String,
    },
    /// The transport is open. Over SSE: the answer is 200 and an event stream.
    Opened {
        /// That of the `open`.
        g: u64,
    },
    /// The connection, which tabs of a browser share, is one of this kind from here on.
    Switched {
        /// That of the `open`.
        g: u64,
        /// What carries it now.
        transport: Transport,
    },
    /// A frame came.
    Frame {
        /// That of the `open`.
        g: u64,
        /// Its JSON, as the gateway sent it.
        text: String,
    },
    /// The transport failed or ended.
    Closed {
        /// That of the `open`.
        g: u64,
        /// The WebSocket close code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        close: Option<u16>,
        /// The HTTP status of a refused request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// The code of its problem.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// Its `retry_in_ms`, or `Retry-After` in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// The connection may be dead, or may work again.
    Wake {
        /// What says so.
        reason: WakeReason,
    },
    /// The network is said to be gone.
    Offline,
    /// The machine or page is about to sleep: leave the connection.
    Suspend,
    /// [`super::Session::deadline`] has come.
    Tick,
    /// The application is too far behind.
    Overflow,
    /// The application has handled all that was waiting.
    Drained,
    /// A page of history.
    Page {
        /// That of the `history`.
        g: u64,
        /// Its JSON, as the gateway sent it.
        text: String,
    },
    /// The page cannot be had.
    PageFailed {
        /// That of the `history`.
        g: u64,
    },
}

/// Why a session is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeReason {
    /// The page is visible again.
    Visible,
    /// The network is back.
    Online,
    /// The page came out of the back-forward cache.
    Pageshow,
    /// The page was thawed, or the machine slept.
    Resume,
    /// The application asks for it.
    App,
}
