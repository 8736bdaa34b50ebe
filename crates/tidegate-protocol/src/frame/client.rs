//! The frames that a client sends, over WebSocket only: one JSON object in each text message.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::health::{self, HealthReport};
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
    /// The client's own metrics.
    Health(HealthReport),
}

/// What all frames of a client are read through: any JSON value may stand for each field at first, so that a
/// faulty one is refused with a sentence of its own.
#[derive(Deserialize)]
struct Draft<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    token: Option<Value>,
    n: Option<Value>,
    latencies_ms: Option<Value>,
    disconnects: Option<Value>,
    duplicates: Option<Value>,
    holes: Option<Value>,
    gaps: Option<Value>,
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
            "health" => {
                let Draft { latencies_ms, disconnects, duplicates, holes, gaps, .. } = draft;
                let draft = health::Draft { latencies_ms, disconnects, duplicates, holes, gaps };
                draft.read().map(ClientFrame::Health).map_err(bad)
            }
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
/// [`Code::BadFrame`] for text that is not a JSON object with a string `type`, for an unknown type, for a member
/// of the table of frames that stands twice, whatever the type, for an
/// `auth` frame without a string `token`, for a `ping` frame without a whole number `n` below 2^53, and for a
/// `health` frame whose fields have other types, or more than [`HealthReport::LATENCIES_MAX`] latencies.
pub fn read_client_frame(text: &str) -> Result<ClientFrame, Refusal> {
    // The sentence has the position of the fault but not the text: that may be a token, and the sentence is
    // logged.
    let draft: Draft<'_> = serde_json::from_str(text).map_err(|error| {
        let place = format!("(line {}, column {})", error.line(), error.column());
        bad(match name_of_repeated(&error) {
            Some(name) => format!("the member `{name}` stands twice in the frame {place}"),
            None => format!("a frame must be a JSON object with a string `type` {place}"),
        })
    })?;
    draft.try_into()
}

/// The field of [`Draft`] that the text has twice. Its name comes from serde's sentence, in which nothing of the
/// text stands.
fn name_of_repeated(error: &serde_json::Error) -> Option<String> {
    let sentence = error.to_string();
    let (name, _) = sentence.strip_prefix("duplicate field `")?.split_once('`')?;
    Some(name.to_owned())
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
            ClientFrame::Health(HealthReport::default()),
            ClientFrame::Health(HealthReport {
                latencies_ms: vec![0, 7, HealthReport::LATENCY_MS_MAX],
                disconnects: 1,
                duplicates: 2,
                holes: 3,
                gaps: HealthReport::COUNT_MAX,
                is_clamped: false,
            }),
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
            (
                "{\"type\":\"auth\",\"token\":\"secret\",\"token\":\"secret\"}",
                "the member `token` stands twice in the frame (line 1, column 39)",
            ),
            (
                "{\"type\":\"ping\",\"type\":1}",
                "the member `type` stands twice in the frame (line 1, column 21)",
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

    #[test]
    fn a_health_frame_is_clamped_to_its_bounds_and_refused_for_other_types() {
        let read = |fields: &str| read_client_frame(&format!("{{\"type\":\"health\"{fields}}}"));
        let taken = |fields: &str| match read(fields) {
            Ok(ClientFrame::Health(report)) => report,
            other => panic!("{fields}: {other:?}"),
        };
        assert_eq!(taken(",\"eventsReceived\":7.5,\"gaps\":null"), HealthReport::default());
        for (sent, count) in [("-5", 0), ("1000001", 1_000_000), ("18446744073709551615", 1_000_000)] {
            for name in ["disconnects", "duplicates", "holes", "gaps"] {
                let report = taken(&format!(",\"{name}\":{sent}"));
                let sum = report.disconnects + report.duplicates + report.holes + report.gaps;
                assert_eq!((sum, report.is_clamped), (count, true), "{name} {sent}");
            }
        }
        let report = taken(",\"latencies_ms\":[-1,5,3600000,3600001]");
        assert_eq!((report.latencies_ms, report.is_clamped), (vec![0, 5, 3_600_000, 3_600_000], true));
        let most = vec!["1"; HealthReport::LATENCIES_MAX].join(",");
        assert!(!taken(&format!(",\"latencies_ms\":[{most}]")).is_clamped);
        let list = "`latencies_ms` of a health frame must be a list of at most 100 whole numbers";
        for (fields, says) in [
            (format!(",\"latencies_ms\":[{most},1]"), list),
            (",\"latencies_ms\":7".into(), list),
            (",\"latencies_ms\":[1.5]".into(), list),
            (",\"latencies_ms\":[\"1\"]".into(), list),
            (",\"holes\":\"1\"".into(), "`holes` of a health frame must be a whole number"),
            (",\"gaps\":1.5".into(), "`gaps` of a health frame must be a whole number"),
            (",\"disconnects\":1e300".into(), "`disconnects` of a health frame must be a whole number"),
            (",\"duplicates\":[]".into(), "`duplicates` of a health frame must be a whole number"),
        ] {
            let refusal = read(&fields).expect_err(&fields);
            assert_eq!((refusal.code, refusal.message.as_str()), (Code::BadFrame, says));
        }
    }
}
