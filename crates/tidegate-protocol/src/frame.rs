//! Frames (PROTOCOL.md, "Frames"): the reasons of gaps, and the frames that a client sends.
//!
//! A gateway writes its own frames straight into their framing (`tidegate_core::frame`); a client reads
//! them through [`crate::client`].

use crate::{Code, Refusal};

/// The version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Why a stretch of the stream is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// Retention removed it.
    Retention,
    /// The reader was too slow and asked to skip.
    SlowConsumer,
    /// The log lost it, or never had it: the cursor is of another life of the log.
    Epoch,
    /// The cursor was made for other services.
    Filter,
}

impl GapReason {
    /// Every reason.
    pub const ALL: [GapReason; 4] =
        [GapReason::Retention, GapReason::SlowConsumer, GapReason::Epoch, GapReason::Filter];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            GapReason::Retention => "retention",
            GapReason::SlowConsumer => "slow_consumer",
            GapReason::Epoch => "epoch",
            GapReason::Filter => "filter",
        }
    }

    /// The reason with this wire name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// A frame that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientFrame {
    /// Credentials: the first frame, or renewal in place.
    Auth {
        /// The token.
        token: String,
    },
    /// The answer to `ping`.
    Pong,
    /// The client's own metrics. Taken and not looked into.
    Health,
}

/// Reads a client's text message.
pub fn read_client_frame(text: &str) -> Result<ClientFrame, Refusal> {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        #[serde(rename = "type", borrow)]
        kind: std::borrow::Cow<'a, str>,
        token: Option<serde_json::Value>,
    }
    let bad = |message: String| Refusal::new(Code::BadFrame, message);
    // Where, not what: what the client sent may be its token, and this sentence is logged.
    let head: Head<'_> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad(format!("a frame must be a JSON object with a string `type` (line {line}, column {column})"))
    })?;
    match &*head.kind {
        "auth" => match head.token {
            Some(serde_json::Value::String(token)) => Ok(ClientFrame::Auth { token }),
            _ => Err(bad("an auth frame must have a string `token`".into())),
        },
        "pong" => Ok(ClientFrame::Pong),
        "health" => Ok(ClientFrame::Health),
        other => Err(bad(format!(
            "frames of type {:?} are not known; a client sends auth, pong and health",
            other.chars().take(32).collect::<String>()
        ))),
    }
}
