//! The client's side of a stream: one cursor, and what each frame does to it (R2 to R4); and the delays
//! between attempts to come back.
//!
//! Pure: frames in, what to do out. `tidegate tail` drives it over SSE; the model test of `tidegate-core`
//! drives it against the gateway's sessions.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Cursor, Epoch, FilterTag, Seq, gzip_batch};

/// A frame, as far as a reader looks into it.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: String,
    prev: Option<Seq>,
    seq: Option<Seq>,
    cursor: Option<String>,
    head: Option<Seq>,
    epoch: Option<String>,
    filter: Option<String>,
    ping_interval_ms: Option<u64>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
    /// Of an event, whatever its publisher said; of a compressed batch, the frame inside.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    compressed: Option<bool>,
    encoding: Option<String>,
    reason: Option<String>,
    code: Option<String>,
    message: Option<String>,
    retry_in_ms: Option<u64>,
}

impl<'a> Frame<'a> {
    /// The events of a batch with a seq above this.
    fn events_above(&self, above: Seq) -> Option<Vec<&'a RawValue>> {
        let events = self.events.as_ref()?;
        let mut fresh = Vec::with_capacity(events.len());
        for event in events {
            if serde_json::from_str::<HasSeq>(event.get()).ok()?.seq > above {
                fresh.push(*event);
            }
        }
        Some(fresh)
    }

    /// The frame inside of one that was compressed for `?batch=gzip`.
    fn opened(&self) -> Option<String> {
        let data: &str = serde_json::from_str(self.data?.get()).ok()?;
        gzip_batch::open(data).filter(|_| self.encoding.as_deref() == Some("gzip"))
    }
}

#[derive(Deserialize)]
struct HasSeq {
    seq: Seq,
}

/// What a frame came to.
#[derive(Debug)]
pub enum Taken<'a> {
    /// Nothing to show.
    Nothing,
    /// The stream is open, and live once it reaches this seq.
    Hello {
        /// The log's end at that moment.
        head: Seq,
    },
    /// The gateway asks for a sign of life: answer with `pong` (WebSocket).
    Ping,
    /// Events that were not seen before, in order.
    Events(Vec<Cow<'a, RawValue>>),
    /// What is between is not to be had.
    Gap {
        /// Everything up to here was seen.
        prev: Seq,
        /// The stream goes on behind this.
        seq: Seq,
        /// Why.
        reason: String,
    },
    /// A word on the state of things.
    Status(String),
    /// Something between the cursor and this frame is missing: resume from the cursor.
    Hole,
    /// A frame that no gateway may send.
    Broken(&'static str),
    /// The gateway asks us to leave, and when to be back.
    Leave {
        /// Within which time, in milliseconds.
        retry_in_ms: Option<u64>,
    },
    /// The gateway refuses or ends the stream.
    Error {
        /// The code of the table.
        code: String,
        /// In words.
        message: String,
        /// When to be back, in milliseconds.
        retry_in_ms: Option<u64>,
    },
}

/// What an event, batch or ping frame over `(prev, seq]` means to a reader (R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something between the cursor and the frame is missing.
    Hole,
    /// The reader has everything up to `seq` already.
    Seen,
    /// The frame moves the cursor to `seq`.
    Advance,
}

impl Step {
    /// Compares a frame with the reader's cursor.
    pub fn of(cursor: Seq, prev: Seq, seq: Seq) -> Self {
        if prev > cursor {
            Self::Hole
        } else if seq <= cursor {
            Self::Seen
        } else {
            Self::Advance
        }
    }
}

/// The state of a reader over all its connections.
#[derive(Debug)]
pub struct StreamReader {
    cursor: Option<Cursor>,
    greeted: bool,
    silence_ms: u64,
}

impl StreamReader {
    /// A reader that begins behind `cursor`, or wherever the first hello says.
    pub fn new(cursor: Option<Cursor>) -> Self {
        Self { cursor, greeted: false, silence_ms: 60_000 }
    }

    /// Where the reader stands: what to resume from.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// How long a connection may be silent before it counts as gone.
    pub fn silence_ms(&self) -> u64 {
        self.silence_ms
    }

    /// A new connection is up; its hello comes first.
    pub fn connected(&mut self) {
        self.greeted = false;
    }

    /// Takes one frame.
    pub fn take<'a>(&mut self, text: &'a str) -> Taken<'a> {
        let Ok(frame) = serde_json::from_str::<Frame<'a>>(text) else {
            return Taken::Broken("a frame is not a JSON object as PROTOCOL.md has it");
        };
        let retry_in_ms = frame.retry_in_ms;
        let words = |frame: &Frame<'_>| {
            (frame.code.clone().unwrap_or_default(), frame.message.clone().unwrap_or_default())
        };
        match frame.kind.as_str() {
            "hello" => self.hello(&frame),
            "error" => {
                let (code, message) = words(&frame);
                Taken::Error { code, message, retry_in_ms }
            }
            "goaway" => Taken::Leave { retry_in_ms },
            "status" => {
                let (code, message) = words(&frame);
                Taken::Status(format!("{code}: {message}"))
            }
            "event" | "batch" | "ping" | "gap" if !self.greeted => Taken::Broken("a frame came before hello"),
            "gap" => self.gap(frame),
            "ping" => match self.advance(&frame, |_| Some(Vec::new())) {
                Taken::Nothing => Taken::Ping,
                hole => hole,
            },
            "event" => self.advance(&frame, |_| {
                let event: &RawValue = serde_json::from_str(text).ok()?;
                Some(vec![Cow::Borrowed(event)])
            }),
            "batch" if frame.compressed == Some(true) => self.advance(&frame, |above| {
                let inside = frame.opened()?;
                let batch: Frame<'_> = serde_json::from_str(&inside).ok()?;
                let is_same = batch.kind == "batch" && (batch.prev, batch.seq) == (frame.prev, frame.seq);
                let fresh = batch.events_above(above).filter(|_| is_same)?;
                Some(fresh.into_iter().map(|event| Cow::Owned(event.to_owned())).collect())
            }),
            "batch" => self.advance(&frame, |above| {
                Some(frame.events_above(above)?.into_iter().map(Cow::Borrowed).collect())
            }),
            // A later protocol may add frames that an older reader need not know.
            _ => Taken::Nothing,
        }
    }

    /// R3: hello says where this connection starts accounting, which is never past the cursor.
    fn hello<'a>(&mut self, frame: &Frame<'_>) -> Taken<'a> {
        let Some(start) = frame.cursor.as_ref().and_then(|text| text.parse::<Cursor>().ok()) else {
            return Taken::Broken("hello has no cursor");
        };
        match &mut self.cursor {
            Some(cursor) if start.seq > cursor.seq => {
                return Taken::Broken("hello skips what was not seen");
            }
            Some(cursor) => {
                cursor.epoch = start.epoch;
                cursor.tag = start.tag;
            }
            None => self.cursor = Some(start),
        }
        if let Some(interval) = frame.ping_interval_ms {
            self.silence_ms = interval.min(3_600_000) + 10_000;
        }
        self.greeted = true;
        Taken::Hello { head: frame.head.unwrap_or_default() }
    }

    /// R2: one with reason `epoch` sets the cursor, whichever way the seq goes.
    fn gap<'a>(&mut self, frame: Frame<'_>) -> Taken<'a> {
        let epoch = frame.epoch.as_deref().and_then(Epoch::parse);
        let tag = frame.filter.as_deref().and_then(FilterTag::parse);
        let (Some(prev), Some(seq), Some(epoch), Some(cursor)) =
            (frame.prev, frame.seq, epoch, &mut self.cursor)
        else {
            return Taken::Broken("a gap has no prev, seq or epoch");
        };
        let reason = frame.reason.unwrap_or_default();
        // `prev` is on this side of any border: what lies before it was lost on the way here, and is
        // to be had by resuming; the gap comes again then.
        if prev > cursor.seq {
            return Taken::Hole;
        }
        if reason == "epoch" {
            *cursor = Cursor { epoch, seq, tag };
            return Taken::Gap { prev, seq, reason };
        }
        // Behind the cursor it tells nothing new, unless it is the filter that changed.
        let news = seq > cursor.seq || reason == "filter";
        *cursor = Cursor { epoch, seq: seq.max(cursor.seq), tag };
        if news { Taken::Gap { prev, seq, reason } } else { Taken::Nothing }
    }

    /// R2: a hole, seen already, or the events above the cursor.
    fn advance<'a>(
        &mut self,
        frame: &Frame<'_>,
        above: impl FnOnce(Seq) -> Option<Vec<Cow<'a, RawValue>>>,
    ) -> Taken<'a> {
        let (Some(prev), Some(seq), Some(cursor)) = (frame.prev, frame.seq, &mut self.cursor) else {
            return Taken::Broken("a frame has no prev or no seq");
        };
        match Step::of(cursor.seq, prev, seq) {
            Step::Hole => return Taken::Hole,
            Step::Seen => return Taken::Nothing,
            Step::Advance => {}
        }
        let Some(events) = above(cursor.seq) else {
            return Taken::Broken("an event has no seq, or a batch cannot be read");
        };
        cursor.seq = seq;
        if events.is_empty() { Taken::Nothing } else { Taken::Events(events) }
    }
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
    use std::io::Write as _;

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzipped(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    /// Runs frames and says what each came to, and where the cursor stands.
    fn run(cursor: Option<&str>, frames: &[&str]) -> Vec<String> {
        let mut reader = StreamReader::new(cursor.map(|text| text.parse().expect("a cursor")));
        reader.connected();
        let word = |taken: Taken<'_>| match taken {
            Taken::Nothing => "nothing".to_owned(),
            Taken::Hello { .. } => "hello".to_owned(),
            Taken::Ping => "ping".to_owned(),
            Taken::Events(events) => format!("{} events", events.len()),
            Taken::Gap { prev, seq, reason } => format!("gap {prev} {seq} {reason}"),
            Taken::Status(text) => text,
            Taken::Hole => "hole".to_owned(),
            Taken::Broken(what) => format!("broken: {what}"),
            Taken::Leave { retry_in_ms } => format!("leave {retry_in_ms:?}"),
            Taken::Error { code, message, .. } => format!("error {code} {message}"),
        };
        frames
            .iter()
            .map(|frame| {
                let taken = word(reader.take(frame));
                let cursor = reader.cursor().map(Cursor::to_string).unwrap_or_default();
                format!("{taken} @{cursor}")
            })
            .collect()
    }

    const HELLO: &str = r#"{"type":"hello","cursor":"a-5-t","ping_interval_ms":25000}"#;

    #[test]
    fn r2_a_reader_takes_what_is_new_and_finds_holes() {
        let done = run(
            None,
            &[
                HELLO,
                r#"{"type":"event","prev":5,"seq":7,"data":1}"#,
                r#"{"type":"event","prev":5,"seq":7,"data":1}"#,
                r#"{"type":"batch","prev":6,"seq":9,"events":[{"seq":7},{"seq":8},{"seq":9}]}"#,
                r#"{"type":"ping","prev":9,"seq":12}"#,
                r#"{"type":"event","prev":13,"seq":14}"#,
                r#"{"type":"from_the_future","prev":13,"seq":14}"#,
            ],
        );
        let expected = [
            "hello @a-5-t",
            "1 events @a-7-t",
            "nothing @a-7-t",
            "2 events @a-9-t",
            "ping @a-12-t",
            "hole @a-12-t",
            "nothing @a-12-t",
        ];
        assert_eq!(done, expected);
    }

    #[test]
    fn r2_a_compressed_batch_is_what_is_in_it() {
        let put = |outer: &str, inner: &str| {
            let data = STANDARD.encode(gzipped(inner));
            format!(r#"{{"type":"batch","compressed":true,"data":"{data}",{outer},"count":2}}"#)
        };
        let good = r#"{"type":"batch","prev":5,"seq":9,"events":[{"seq":8},{"seq":9}]}"#;
        let gzip = |seqs: &str| format!(r#""encoding":"gzip",{seqs}"#);
        let cannot = "broken: an event has no seq, or a batch cannot be read @a-5-t";
        for (frame, expected) in [
            (put(&gzip(r#""prev":5,"seq":9"#), good), "2 events @a-9-t"),
            (put(&gzip(r#""prev":6,"seq":9"#), good), "hole @a-5-t"),
            (put(&gzip(r#""prev":4,"seq":5"#), "not looked at"), "nothing @a-5-t"),
            (put(&gzip(r#""prev":4,"seq":9"#), good), cannot),
            (put(&gzip(r#""prev":5,"seq":10"#), good), cannot),
            (put(r#""encoding":"zstd","prev":5,"seq":9"#, good), cannot),
            (put(&gzip(r#""prev":5,"seq":9"#), r#"{"type":"event","prev":5,"seq":9}"#), cannot),
            (put(&gzip(r#""prev":5,"seq":9"#), &good.replace(r#""seq":8"#, "")), cannot),
            (put(&gzip(r#""prev":5,"seq":9"#), "[]"), cannot),
        ] {
            assert_eq!(run(None, &[HELLO, &frame])[1], expected, "{frame}");
        }
    }

    #[test]
    fn r2_gaps_come_before_comparisons() {
        let done = run(
            Some("a-5-t"),
            &[
                HELLO,
                r#"{"type":"gap","prev":5,"seq":9,"epoch":"a","filter":"t","reason":"retention"}"#,
                r#"{"type":"gap","prev":9,"seq":9,"epoch":"a","filter":"u","reason":"filter"}"#,
                r#"{"type":"gap","prev":9,"seq":2,"epoch":"b","filter":"u","reason":"epoch"}"#,
                r#"{"type":"event","prev":2,"seq":3}"#,
                r#"{"type":"gap","prev":8,"seq":9,"epoch":"b","filter":"u","reason":"retention"}"#,
            ],
        );
        let expected = [
            "hello @a-5-t",
            "gap 5 9 retention @a-9-t",
            "gap 9 9 filter @a-9-u",
            "gap 9 2 epoch @b-2-u",
            "1 events @b-3-u",
            "hole @b-3-u",
        ];
        assert_eq!(done, expected);
    }

    #[test]
    fn r3_hello_may_not_skip_and_may_change_the_epoch() {
        assert_eq!(run(Some("a-4"), &[HELLO]), ["broken: hello skips what was not seen @a-4"]);
        assert_eq!(run(Some("z-6"), &[HELLO]), ["hello @a-6-t"]);
        assert_eq!(
            run(None, &[r#"{"type":"ping","prev":1,"seq":1}"#]),
            ["broken: a frame came before hello @"]
        );
        assert_eq!(run(None, &["[1]"]).len(), 1);
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
