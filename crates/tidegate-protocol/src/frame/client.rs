//! The frames that a client sends, over WebSocket only: one JSON object in each text message.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Code, Refusal, SEQ_MAX};

/// A frame that a client sends. Serializes to the JSON that [`read_client_frame`] reads.
///
/// ```
/// use tidegate_protocol::frame::{ClientFrame, read_client_frame};
///
/// let text = serde_json::to_string(&ClientFrame::Pong)?;
/// assert_eq!(text, r#"{"type":"pong"}"#);
/// assert_eq!(read_client_frame(&text), Ok(ClientFrame::Pong));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Credentials: as the first frame of a stream, or later to renew the grant in place.
    Auth {
        /// A JWT in compact form (RFC 7515).
        token: String,
    },
    /// The answer to a `ping` frame.
    Pong,
    /// Asks for a `pong` frame of the gateway: is the connection alive, and what is the gateway's time.
    Ping {
        /// Comes back in the answer; at most 2^53 - 1.
        n: u64,
    },
    /// The client's own metrics. A gateway accepts the frame and ignores its other fields.
    Health,
}

/// What all frames of a client are read through: any JSON value may stand for a token at first, so that a
/// faulty one is refused with a sentence of its own.
#[derive(Deserialize)]
struct Draft<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    token: Option<Value>,
    n: Option<Value>,
}

impl TryFrom<Draft<'_>> for ClientFrame {
    type Error = Refusal;

    fn try_from(draft: Draft<'_>) -> Result<Self, Refusal> {
        match &*draft.kind {
            "auth" => match draft.token {
                Some(Value::String(token)) => Ok(ClientFrame::Auth { token }),
                _ => Err(bad("an auth frame must have a string `token`".into())),
            },
            "pong" => Ok(ClientFrame::Pong),
            "ping" => match draft.n.and_then(|n| n.as_u64()) {
                // The bound of a seq: every JSON parser keeps such a number exactly.
                Some(n) if n <= SEQ_MAX => Ok(ClientFrame::Ping { n }),
                _ => Err(bad("a ping frame must have a whole number `n` from 0 to 2^53 - 1".into())),
            },
            "health" => Ok(ClientFrame::Health),
            other => Err(bad(format!(
                "frames of type {:?} are not known; a client sends auth, pong, ping and health",
                other.chars().take(32).collect::<String>()
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for ClientFrame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Draft::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

/// Reads a client's text message. Unknown fields are ignored.
///
/// # Errors
/// [`Code::BadFrame`] for text that is not a JSON object with a string `type`, for an unknown type, for an
/// `auth` frame without a string `token`, and for a `ping` frame without a whole number `n` below 2^53.
pub fn read_client_frame(text: &str) -> Result<ClientFrame, Refusal> {
    // The sentence has the position of the fault but not the text: that may be a token, and the sentence is
    // logged.
    let draft: Draft<'_> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad(format!("a frame must be a JSON object with a string `type` (line {line}, column {column})"))
    })?;
    draft.try_into()
}

fn bad(message: String) -> Refusal {
    Refusal::new(Code::BadFrame, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_client_read_back_as_written() {
        for frame in [
            ClientFrame::Auth { token: "a.\"b\".c".into() },
            ClientFrame::Pong,
            ClientFrame::Ping { n: 0 },
            ClientFrame::Ping { n: SEQ_MAX },
            ClientFrame::Health,
        ] {
            let text = serde_json::to_string(&frame).expect("JSON");
            assert_eq!(read_client_frame(&text).as_ref(), Ok(&frame));
            assert_eq!(serde_json::from_str::<ClientFrame>(&text).expect("a frame"), frame);
            let more = text.replace("{\"type\"", "{\"from_the_future\":{\"token\":[]},\"type\"");
            assert_eq!(read_client_frame(&more), Ok(frame));
        }
    }

    #[test]
    fn other_text_is_refused_and_not_repeated() {
        for (text, says) in [
            ("secret", "a frame must be a JSON object with a string `type` (line 1, column 1)"),
            (
                "{\"token\":\"secret\"}",
                "a frame must be a JSON object with a string `type` (line 1, column 18)",
            ),
            ("{\"type\":\"auth\"}", "an auth frame must have a string `token`"),
            ("{\"type\":\"auth\",\"token\":7}", "an auth frame must have a string `token`"),
            (
                "{\"type\":\"hello\",\"token\":\"secret\"}",
                "frames of type \"hello\" are not known; a client sends auth, pong, ping and health",
            ),
        ] {
            let refusal = read_client_frame(text).expect_err(text);
            assert_eq!((refusal.code, refusal.message.as_str()), (Code::BadFrame, says));
        }
        for n in ["", ",\"n\":null", ",\"n\":-1", ",\"n\":1.5", ",\"n\":\"1\"", ",\"n\":9007199254740992"] {
            let refusal = read_client_frame(&format!("{{\"type\":\"ping\"{n}}}")).expect_err(n);
            let says = "a ping frame must have a whole number `n` from 0 to 2^53 - 1";
            assert_eq!((refusal.code, refusal.message.as_str()), (Code::BadFrame, says));
        }
    }
}
