//! The client's side of continuity: one cursor, moved by frames (R2), and the delays between
//! attempts to come back.
//!
//! Pure: frames in, what to do out. `tidegate tail` drives it over SSE; the model test drives it
//! against [`crate::Session`].

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Code, Cursor, Epoch, FilterTag, GapReason, Seq};

/// What a frame means to a client.
#[derive(Debug)]
pub enum Heard {
    /// The stream is open; `head` is where it gets live.
    Hello {
        /// The log's end at that moment.
        head: Seq,
    },
    /// Events to deliver, in order, none seen before. May be empty.
    Events(Vec<Received>),
    /// A stretch will not come.
    Gap(Gap),
    /// A frame is missing: leave, and resume from the cursor held.
    Hole {
        /// What the client had.
        cursor: Seq,
        /// What the frame followed on.
        prev: Seq,
    },
    /// Answer with `pong` (WebSocket).
    Ping,
    /// Something worth showing.
    Status {
        /// A stable word.
        code: String,
        /// A sentence.
        message: String,
    },
    /// Leave within the time and come back.
    GoAway {
        /// Why.
        code: String,
        /// Within which time.
        retry_in_ms: u64,
    },
    /// The stream ends.
    Error {
        /// Why.
        code: String,
        /// A sentence.
        message: String,
        /// Whether coming back makes sense.
        retryable: bool,
        /// When.
        retry_in_ms: Option<u64>,
    },
}

/// One event as it came.
#[derive(Debug)]
pub struct Received {
    /// Its place.
    pub seq: Seq,
    /// Its JSON object; in a batch without `type`, `org` and `prev`.
    pub json: Box<RawValue>,
}

/// A declared gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The last place before it.
    pub prev: Seq,
    /// Where the stream goes on.
    pub seq: Seq,
    /// The life of the log from there on.
    pub epoch: Epoch,
    /// Why; `None` for a reason that this client does not know.
    pub reason: Option<GapReason>,
}

/// The server broke the protocol: leave, and resume from the cursor held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The text is not a frame.
    #[error("the server sent what is not a frame: {0}")]
    NotAFrame(String),
    /// `hello` stands behind the cursor held without declaring a gap (R3).
    #[error("hello starts at {hello} but this client stood at {cursor}, and no gap was declared")]
    Jump {
        /// What the client had.
        cursor: Seq,
        /// Where hello starts.
        hello: Seq,
    },
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type")]
    kind: String,
    cursor: Option<String>,
    head: Option<Seq>,
    prev: Option<Seq>,
    seq: Option<Seq>,
    epoch: Option<String>,
    filter: Option<String>,
    reason: Option<String>,
    code: Option<String>,
    message: Option<String>,
    retry_in_ms: Option<u64>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
}

/// The place of a client in its stream.
#[derive(Debug, Default)]
pub struct Reader {
    cursor: Option<Cursor>,
}

impl Reader {
    /// A client that starts at `cursor`, or wherever hello says.
    pub fn new(cursor: Option<Cursor>) -> Self {
        Self { cursor }
    }

    /// What to resume from.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// Takes one frame.
    pub fn hear(&mut self, text: &str) -> Result<Heard, Broken> {
        let not_a_frame = |detail: &str| Broken::NotAFrame(detail.to_owned());
        let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| not_a_frame(&error.to_string()))?;
        match raw.kind.as_str() {
            "hello" => {
                let cursor = raw.cursor.as_deref().and_then(|text| text.parse::<Cursor>().ok());
                let (Some(cursor), Some(head)) = (cursor, raw.head) else {
                    return Err(not_a_frame("hello without cursor or head"));
                };
                if let Some(held) = self.cursor.as_ref().filter(|held| held.seq < cursor.seq) {
                    return Err(Broken::Jump { cursor: held.seq, hello: cursor.seq });
                }
                self.cursor = Some(cursor);
                Ok(Heard::Hello { head })
            }
            "gap" => {
                let epoch = raw.epoch.as_deref().and_then(Epoch::parse);
                let tag = raw.filter.as_deref().and_then(FilterTag::parse);
                let (Some(prev), Some(seq), Some(epoch), Some(reason)) =
                    (raw.prev, raw.seq, epoch, raw.reason)
                else {
                    return Err(not_a_frame("gap without prev, seq, epoch or reason"));
                };
                self.cursor = Some(Cursor { epoch: epoch.clone(), seq, tag });
                Ok(Heard::Gap(Gap { prev, seq, epoch, reason: GapReason::from_name(&reason) }))
            }
            "event" | "batch" | "ping" => {
                let (Some(prev), Some(seq), Some(cursor)) = (raw.prev, raw.seq, &mut self.cursor) else {
                    return Err(not_a_frame("no prev or seq, or no hello before"));
                };
                let held = cursor.seq;
                if prev > held {
                    return Ok(Heard::Hole { cursor: held, prev });
                }
                cursor.seq = held.max(seq);
                if raw.kind == "ping" {
                    return Ok(Heard::Ping);
                }
                let received = match (raw.kind.as_str(), raw.events) {
                    ("batch", Some(events)) => {
                        events.into_iter().map(receive).collect::<Result<Vec<_>, _>>()?
                    }
                    ("batch", None) => return Err(not_a_frame("batch without events")),
                    _ => {
                        let json = RawValue::from_string(text.to_owned());
                        vec![Received { seq, json: json.map_err(|error| not_a_frame(&error.to_string()))? }]
                    }
                };
                Ok(Heard::Events(received.into_iter().filter(|event| event.seq > held).collect()))
            }
            "status" => Ok(Heard::Status {
                code: raw.code.unwrap_or_default(),
                message: raw.message.unwrap_or_default(),
            }),
            "goaway" => Ok(Heard::GoAway {
                code: raw.code.unwrap_or_default(),
                retry_in_ms: raw.retry_in_ms.unwrap_or(0),
            }),
            "error" => {
                let code = raw.code.unwrap_or_default();
                Ok(Heard::Error {
                    retryable: Code::from_name(&code).is_some_and(Code::is_retryable),
                    code,
                    message: raw.message.unwrap_or_default(),
                    retry_in_ms: raw.retry_in_ms,
                })
            }
            // Frames of a later minor version.
            _ => Ok(Heard::Events(Vec::new())),
        }
    }
}

fn receive(raw: &RawValue) -> Result<Received, Broken> {
    #[derive(Deserialize)]
    struct Place {
        seq: Seq,
    }
    let place: Place = serde_json::from_str(raw.get())
        .map_err(|error| Broken::NotAFrame(format!("an event without seq: {error}")))?;
    Ok(Received { seq: place.seq, json: raw.to_owned() })
}

/// The delays between attempts, in seconds, before jitter.
const BASE_S: [u64; 9] = [1, 2, 5, 10, 30, 60, 120, 240, 300];

/// How long a stream must have been live before the delays begin anew.
pub const STABLE_MS: u64 = 10_000;

/// Delays between attempts to connect: 1, 2, 5, 10, 30, 60, 120, 240, 300 s, each drawn uniformly
/// from 5 s around it, never under 1 s nor over 305 s.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: usize,
}

impl Backoff {
    /// The delay before the next attempt. `random` is uniform over all of `u64`; `hint_ms` is what
    /// the server asked for, and is never undercut.
    pub fn next_ms(&mut self, random: u64, hint_ms: Option<u64>) -> u64 {
        let base = BASE_S[self.attempts.min(BASE_S.len() - 1)] * 1000;
        self.attempts += 1;
        let low = base.saturating_sub(5000).max(1000);
        let span = base + 5000 - low;
        let jitter = u64::try_from((u128::from(random) * u128::from(span + 1)) >> 64).unwrap_or(span);
        (low + jitter).max(hint_ms.unwrap_or(0))
    }

    /// Called once a stream has been live for [`STABLE_MS`].
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Attempts since the last reset.
    pub fn attempts(&self) -> usize {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_continuity_is_an_inequality() {
        let mut reader = Reader::new(Some("e-10-t".parse().expect("a cursor")));
        let mut hear = |text: &str| match reader.hear(text).expect("a frame") {
            Heard::Events(events) => {
                events.iter().map(|event| event.seq.to_string()).collect::<Vec<_>>().join(",")
            }
            Heard::Hole { cursor, prev } => format!("hole {cursor} {prev}"),
            other => format!("{other:?}").chars().take(4).collect(),
        };
        assert_eq!(hear(r#"{"type":"event","prev":10,"seq":11}"#), "11");
        assert_eq!(hear(r#"{"type":"event","prev":10,"seq":11}"#), "");
        assert_eq!(
            hear(r#"{"type":"batch","prev":9,"seq":15,"events":[{"seq":10},{"seq":12},{"seq":14}]}"#),
            "12,14"
        );
        assert_eq!(hear(r#"{"type":"ping","prev":16,"seq":20}"#), "hole 15 16");
        assert_eq!(hear(r#"{"type":"ping","prev":12,"seq":20}"#), "Ping");
        assert_eq!(hear(r#"{"type":"event","prev":20,"seq":21}"#), "21");
        // A gap is handled before any comparison, and may lead to a lower seq of another life.
        assert_eq!(
            hear(r#"{"type":"gap","prev":21,"seq":3,"epoch":"f","filter":"t","reason":"epoch"}"#),
            "Gap("
        );
        assert_eq!(hear(r#"{"type":"event","prev":3,"seq":4}"#), "4");
        assert_eq!(hear(r#"{"type":"novelty","prev":90,"seq":99}"#), "");
        assert_eq!(reader.cursor().expect("a cursor").to_string(), "f-4-t");
    }

    #[test]
    fn r3_hello_ahead_of_the_cursor_is_an_error() {
        let mut reader = Reader::new(Some("e-10".parse().expect("a cursor")));
        assert!(reader.hear(r#"{"type":"hello","cursor":"e-10-t","head":20}"#).is_ok());
        assert_eq!(
            reader.hear(r#"{"type":"hello","cursor":"e-20-t","head":20}"#).expect_err("a jump"),
            Broken::Jump { cursor: 10, hello: 20 }
        );
    }

    #[test]
    fn delays_grow_to_the_cap_and_keep_their_windows() {
        for (random, expected) in [
            (0, [1, 1, 1, 5, 25, 55, 115, 235, 295, 295].map(|s| s * 1000)),
            (u64::MAX, [6, 7, 10, 15, 35, 65, 125, 245, 305, 305].map(|s| s * 1000)),
        ] {
            let mut backoff = Backoff::default();
            assert_eq!(expected.map(|_| backoff.next_ms(random, None)), expected);
            backoff.reset();
            assert_eq!(backoff.next_ms(0, Some(9999)), 9999);
        }
    }
}
