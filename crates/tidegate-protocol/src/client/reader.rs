//! Continuity alone, for a reader that brings its own connections: one cursor, and what each frame means for
//! it (R2 to R4, PROTOCOL.md "Continuity"). The model test of `tidegate-core` drives it against the gateway's
//! sessions.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::continuity::{AfterGap, Continuity, after_gap, after_hello};
use crate::{
    Cursor, Seq,
    frame::{CompressedBatchFrame, FrameError, GapFrame, HelloFrame, ServerFrame},
};

/// What a frame means for the application.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Nothing to show.
    Nothing,
    /// The stream is open. It is live once the cursor reaches `head`.
    Hello {
        /// The end of the log at that moment.
        head: Seq,
    },
    /// The gateway asks for a sign of life: answer with `pong` (WebSocket).
    Ping,
    /// Events that were not seen before, in order: the JSON of each, as the gateway sent it.
    Events(Vec<Cow<'a, RawValue>>),
    /// Events in (`prev`, `seq`] will not come.
    Gap {
        /// All events up to here were seen.
        prev: Seq,
        /// The stream continues after this; with reason `epoch` it may be lower than `prev`.
        seq: Seq,
        /// The name of a [`GapReason`].
        reason: String,
    },
    /// A remark of the gateway, `<code>: <message>`; the stream goes on.
    Status(String),
    /// Something between the cursor and this frame is missing: close the connection and resume from the
    /// cursor.
    Hole,
    /// A frame that no gateway may send, and why: close the connection.
    Broken(&'static str),
    /// The gateway asks the client to reconnect.
    Leave {
        /// Within this time, in milliseconds.
        retry_in_ms: Option<u64>,
    },
    /// The gateway refuses the stream or ends it.
    Error {
        /// The name of a [`crate::Code`].
        code: String,
        /// One sentence for people.
        message: String,
        /// Reconnect no earlier than after this time, in milliseconds.
        retry_in_ms: Option<u64>,
    },
}

/// The longest ping interval that a client accepts: an hour. With a longer one, a dead connection would go
/// unnoticed for too long.
const PING_INTERVAL_MS_MAX: u64 = 3_600_000;

/// How long a connection may be silent before `hello` (PROTOCOL.md, "Silence").
const SILENCE_MS_BEFORE_HELLO: u64 = 20_000;

/// How long it may be silent after a `hello` that names no ping interval.
const SILENCE_MS_DEFAULT: u64 = 60_000;

/// How much longer than a ping interval a connection may be silent (PROTOCOL.md, "Silence").
const SILENCE_MARGIN_MS: u64 = 10_000;

/// The state of one reader over all its connections: its cursor. Keep one for as long as the application
/// reads the stream, and store [`StreamReader::cursor`] to continue after a restart.
///
/// Call [`StreamReader::connected`] for each new connection, then [`StreamReader::take`] for each frame.
#[derive(Debug)]
pub struct StreamReader {
    cursor: Option<Cursor>,
    is_greeted: bool,
    /// After `hello`.
    silence_ms: u64,
}

impl StreamReader {
    /// A reader that continues after `cursor`; with `None` it starts where the first `hello` says.
    pub fn new(cursor: Option<Cursor>) -> Self {
        Self { cursor, is_greeted: false, silence_ms: SILENCE_MS_DEFAULT }
    }

    /// The position to resume from; `None` before the first `hello`, if none was given.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// For how long a connection may be silent before it counts as dead, in milliseconds.
    pub fn silence_ms(&self) -> u64 {
        if self.is_greeted { self.silence_ms } else { SILENCE_MS_BEFORE_HELLO }
    }

    /// A new connection is open; its first frame must be `hello`.
    pub fn connected(&mut self) {
        self.is_greeted = false;
    }

    /// Takes one frame: moves the cursor and returns what the application has to know. [`Outcome::Hole`] and
    /// [`Outcome::Broken`] leave the cursor where it was.
    pub fn take<'a>(&mut self, text: &'a str) -> Outcome<'a> {
        let frame = match ServerFrame::parse(text) {
            Ok(frame) => frame,
            Err(error) => return Outcome::Broken(fault(&error)),
        };
        if !self.is_greeted && frame.range().is_some() {
            return Outcome::Broken("a frame came before hello");
        }
        match frame {
            ServerFrame::Hello(hello) => self.hello(hello),
            ServerFrame::Gap(gap) => self.gap(gap),
            ServerFrame::Ping(ping) => match self.advance(ping.prev, ping.seq, |_| Some(Vec::new())) {
                Outcome::Nothing => Outcome::Ping,
                hole => hole,
            },
            ServerFrame::Event(frame) => self.advance(frame.prev, frame.event.seq, |_| {
                let event: &RawValue = serde_json::from_str(text).ok()?;
                Some(vec![Cow::Borrowed(event)])
            }),
            ServerFrame::Batch(batch) => self.advance(batch.prev, batch.seq, |above| {
                Some(events_above(&batch.events, above)?.into_iter().map(Cow::Borrowed).collect())
            }),
            ServerFrame::CompressedBatch(batch) => {
                self.advance(batch.prev, batch.seq, |above| opened(&batch, above))
            }
            ServerFrame::Status(status) => Outcome::Status(format!("{}: {}", status.code, status.message)),
            ServerFrame::Goaway(goaway) => Outcome::Leave { retry_in_ms: goaway.retry_in_ms },
            ServerFrame::Error(error) => Outcome::Error {
                code: error.code.into_owned(),
                message: error.message.into_owned(),
                retry_in_ms: error.retry_in_ms,
            },
            ServerFrame::Pong(_) | ServerFrame::Unknown => Outcome::Nothing,
        }
    }

    /// R3: `hello.cursor` is where this connection starts to account for events. It must be at or before the
    /// client's cursor.
    fn hello<'a>(&mut self, hello: HelloFrame<'_>) -> Outcome<'a> {
        let Some(cursor) = after_hello(self.cursor.as_ref(), hello.cursor) else {
            return Outcome::Broken("hello skips what was not seen");
        };
        self.cursor = Some(cursor);
        if let Some(interval) = hello.ping_interval_ms {
            self.silence_ms = interval.min(PING_INTERVAL_MS_MAX) + SILENCE_MARGIN_MS;
        }
        self.is_greeted = true;
        Outcome::Hello { head: hello.head }
    }

    /// R2: a gap sets the cursor's epoch and filter tag, and moves its seq forward. Only a gap with reason
    /// `epoch` may lower the seq.
    fn gap<'a>(&mut self, gap: GapFrame<'_>) -> Outcome<'a> {
        let GapFrame { prev, seq, epoch, filter: tag, reason, .. } = gap;
        let Some(cursor) = &mut self.cursor else { return Outcome::Broken("a frame came before hello") };
        let after = after_gap(cursor, prev, Cursor { epoch, seq, tag }, &reason);
        let (after, outcome) = match after {
            AfterGap::Hole => return Outcome::Hole,
            AfterGap::Known(after) => (after, Outcome::Nothing),
            AfterGap::News(after) => (after, Outcome::Gap { prev, seq, reason: reason.into_owned() }),
        };
        *cursor = after;
        outcome
    }

    /// R2: takes an event, batch or ping frame over (`prev`, `seq`]. `above` is called only if the frame
    /// moves the cursor. It gets the seq of the old cursor and returns the frame's events after it, or `None`
    /// if the frame cannot be read.
    fn advance<'a>(
        &mut self,
        prev: Seq,
        seq: Seq,
        above: impl FnOnce(Seq) -> Option<Vec<Cow<'a, RawValue>>>,
    ) -> Outcome<'a> {
        let Some(cursor) = &mut self.cursor else { return Outcome::Broken("a frame came before hello") };
        match Continuity::of(cursor.seq, prev, seq) {
            Continuity::Hole => return Outcome::Hole,
            Continuity::Seen => return Outcome::Nothing,
            Continuity::Advance => {}
        }
        let Some(events) = above(cursor.seq) else {
            return Outcome::Broken("an event has no seq, or a batch cannot be read");
        };
        cursor.seq = seq;
        if events.is_empty() { Outcome::Nothing } else { Outcome::Events(events) }
    }
}

/// The sentence for a frame that cannot be read.
fn fault(error: &FrameError) -> &'static str {
    match error {
        FrameError::Fields { kind: "hello", .. } => "hello has no cursor, or a faulty field",
        FrameError::Fields { kind: "gap", .. } => "a gap has no prev, seq or epoch, or a faulty field",
        FrameError::Fields { .. } => "a frame has no prev or no seq, or a faulty field",
        FrameError::NotAFrame(_) => "a frame is not a JSON object as PROTOCOL.md has it",
    }
}

/// The events of a batch whose seq is above `above`; `None` if one has no seq.
fn events_above<'a>(events: &[&'a RawValue], above: Seq) -> Option<Vec<&'a RawValue>> {
    #[derive(Deserialize)]
    struct HasSeq {
        seq: Seq,
    }
    let mut fresh = Vec::with_capacity(events.len());
    for event in events {
        if serde_json::from_str::<HasSeq>(event.get()).ok()?.seq > above {
            fresh.push(*event);
        }
    }
    Some(fresh)
}

/// The events above `above` of a compressed batch; `None` if it cannot be read, or if the batch inside has
/// another range than the frame around it.
fn opened<'a>(outer: &CompressedBatchFrame<'_>, above: Seq) -> Option<Vec<Cow<'a, RawValue>>> {
    let text = outer.open()?;
    let Ok(ServerFrame::Batch(batch)) = ServerFrame::parse(&text) else { return None };
    if (batch.prev, batch.seq) != (outer.prev, outer.seq) {
        return None;
    }
    let fresh = events_above(&batch.events, above)?;
    Some(fresh.into_iter().map(|event| Cow::Owned(event.to_owned())).collect())
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

    /// Takes frames; shows what each meant, and the cursor after it.
    fn run(cursor: Option<&str>, frames: &[&str]) -> Vec<String> {
        let mut reader = StreamReader::new(cursor.map(|text| text.parse().expect("a cursor")));
        reader.connected();
        let word = |taken: Outcome<'_>| match taken {
            Outcome::Nothing => "nothing".to_owned(),
            Outcome::Hello { .. } => "hello".to_owned(),
            Outcome::Ping => "ping".to_owned(),
            Outcome::Events(events) => format!("{} events", events.len()),
            Outcome::Gap { prev, seq, reason } => format!("gap {prev} {seq} {reason}"),
            Outcome::Status(text) => text,
            Outcome::Hole => "hole".to_owned(),
            Outcome::Broken(what) => format!("broken: {what}"),
            Outcome::Leave { retry_in_ms } => format!("leave {retry_in_ms:?}"),
            Outcome::Error { code, message, .. } => format!("error {code} {message}"),
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
                r#"{"type":"pong","n":13,"timestamp":"2026-11-24T09:30:00.007Z"}"#,
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
            "nothing @a-12-t",
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
    fn silence_is_20_s_before_each_hello_and_a_ping_interval_and_10_s_after_it() {
        let mut reader = StreamReader::new(None);
        for _ in 0..2 {
            reader.connected();
            assert_eq!(reader.silence_ms(), 20_000);
            reader.take(HELLO);
            assert_eq!(reader.silence_ms(), 35_000);
        }
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
}
