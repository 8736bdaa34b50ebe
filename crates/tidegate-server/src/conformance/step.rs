//! The steps of a script, one a line: what the server does next, or what it expects of the client.
//! `spec/README.md` describes them for people.

use std::{ops::RangeInclusive, str::FromStr};

use tidegate_protocol::{Code, Cursor, Seq};

use super::scenario::seqs_of;

/// What an attempt to open the stream must be like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attempt {
    /// The cursor that must be presented: `Some(None)` means none; `None`, that nothing is said.
    pub cursor: Option<Option<String>>,
    /// The least and the longest time since the end of the connection before it, in milliseconds.
    pub wait: Option<(u64, Option<u64>)>,
    /// Whether it must not ask for compressed batches (any more).
    pub is_plain: bool,
}

/// The fields of one event that a step may set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// `prev` of the frame; the place reached, if it is not given.
    pub prev: Option<Seq>,
    /// Another id than `e-<seq>`.
    pub id: Option<String>,
    /// Another service than `finance`.
    pub service: Option<String>,
    /// As of a CloudEvent.
    pub source: Option<String>,
    /// How many seconds ago the gateway took the event.
    pub age_s: u64,
    /// About how long the JSON of the data is.
    pub bytes: usize,
    /// Whether it has all optional fields.
    pub rich: bool,
    /// The data, as JSON.
    pub data: Option<String>,
}

/// How the data of a compressed batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gzip {
    /// As it should be.
    Whole,
    /// It cannot be inflated.
    Broken,
}

/// A frame that the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `hello`.
    Hello {
        /// `cursor`; the one presented, if it is not given.
        cursor: Option<Cursor>,
        /// `head`; the seq of the cursor, if it is not given.
        head: Option<Seq>,
        /// `filter`; the tag of the cursor, if it is not given.
        filter: Option<String>,
        /// `ping_interval_ms`.
        ping_ms: u64,
        /// `token_expires_in_ms`.
        expires_ms: u64,
    },
    /// `event`.
    Event(Seq, Shape),
    /// `batch`.
    Batch {
        /// The events.
        seqs: Vec<Seq>,
        /// What they are like.
        shape: Shape,
        /// `seq` of the batch, if it is above that of the last event.
        seq: Option<Seq>,
        /// Whether the events come compressed.
        gzip: Option<Gzip>,
    },
    /// `ping`.
    Ping {
        /// `seq`.
        seq: Seq,
        /// `prev`.
        prev: Option<Seq>,
    },
    /// `gap`.
    Gap {
        /// `seq`.
        seq: Seq,
        /// `prev`.
        prev: Option<Seq>,
        /// `reason`.
        reason: String,
        /// `epoch`; the present one, if it is not given.
        epoch: Option<String>,
        /// `filter`; the present one, if it is not given.
        filter: Option<String>,
    },
    /// `status`.
    Status(String),
    /// `goaway`.
    Goaway {
        /// `code`.
        code: Code,
        /// `retry_in_ms`.
        retry_in_ms: u64,
    },
    /// Any text.
    Raw(String),
}

/// How much of a frame is sent before the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torn {
    /// Half of its bytes.
    Half,
    /// All but the last byte.
    Last,
}

/// How the bytes are written from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// So many bytes at a time; 0: each frame whole.
    Pace(usize),
    /// Frames wait until `flush`.
    Hold,
    /// What waits is written in one piece.
    Flush,
    /// The lines of an event stream.
    Lines(Lines),
    /// Whether messages are compressed (WebSocket, if it was agreed on).
    Deflate(bool),
    /// The next compressed message does not refer to the ones before.
    Fresh,
}

/// The form of the lines of an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lines {
    /// As the gateway writes them.
    #[default]
    Plain,
    /// They end with CR and LF.
    Crlf,
    /// The JSON is split into short lines.
    Split,
    /// No space after the colons.
    Bare,
}

/// What the client has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It closes the connection, this long after the last frame, in milliseconds.
    Close(u64, u64),
    /// It answers each ping so far, within this many milliseconds.
    Pong(u64),
    /// It answers each ping of WebSocket itself.
    ControlPong(u64),
    /// It says that the stream has ended, and does not come back.
    Stop,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Waits for an attempt, and opens the stream.
    Accept(Attempt),
    /// Waits for an attempt, and answers with an HTTP status and a page, as a proxy would.
    Refuse {
        /// What the attempt must be like.
        attempt: Attempt,
        /// The status.
        status: u16,
        /// `Retry-After`, in seconds.
        retry_after_s: Option<u64>,
    },
    /// Waits for an attempt, and refuses it as the gateway does over this transport.
    Deny {
        /// What the attempt must be like.
        attempt: Attempt,
        /// Why.
        code: Code,
        /// `retry_in_ms`.
        retry_in_ms: Option<u64>,
    },
    /// Sends a frame.
    Send(Frame),
    /// Sends a part of a frame.
    Tear(Torn, Frame),
    /// Writes these bytes between frames (SSE alone).
    Text(String),
    /// Sends a ping of WebSocket itself (WebSocket alone).
    ControlPing(String),
    /// Changes how bytes are written.
    Set(Setting),
    /// Every frame gets fields that no client knows.
    Extras,
    /// Sends an error frame, and ends the connection as the transport does.
    Error {
        /// Why.
        code: Code,
        /// `retry_in_ms`.
        retry_in_ms: Option<u64>,
    },
    /// Ends the connection in order: with a close frame of this code, or with the end of the body.
    Close(Option<u16>),
    /// Ends the connection without a word.
    Cut,
    /// Waits for the client.
    Expect(Expect),
    /// Waits for a new token: in place, or with a new stream. If none comes in time, ends the stream with
    /// `token_expired` and waits for the client to come back. In place it is answered with `hello`.
    Renew {
        /// How long, in milliseconds.
        within_ms: u64,
    },
    /// Sends the last event, and waits until everything is delivered.
    Done,
}

/// The words of a line that are not read yet.
struct Words<'a> {
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str, String> {
        match self.words.iter().position(|word| !word.contains('=')) {
            Some(at) => Ok(self.words.remove(at)),
            None => Err("a word is missing".to_owned()),
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        let at = self.words.iter().position(|word| *word == name);
        at.map(|at| self.words.remove(at)).is_some()
    }

    fn key(&mut self, name: &str) -> Option<&'a str> {
        let at = self.words.iter().position(|word| word.split('=').next() == Some(name))?;
        self.words.remove(at).split_once('=').map(|(_, value)| value)
    }

    fn parsed<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        match self.key(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| format!("{name}={text} cannot be read")),
        }
    }

    fn range(&mut self, name: &str) -> Result<Option<(u64, Option<u64>)>, String> {
        let Some(text) = self.key(name) else { return Ok(None) };
        let wrong = |_| format!("{name}={text} cannot be read");
        match text.split_once("..") {
            None => Ok(Some((text.parse().map_err(wrong)?, None))),
            Some((low, high)) => Ok(Some((low.parse().map_err(wrong)?, Some(high.parse().map_err(wrong)?)))),
        }
    }

    fn attempt(&mut self) -> Result<Attempt, String> {
        let cursor = self.key("cursor").map(|text| (text != "none").then(|| text.to_owned()));
        Ok(Attempt { cursor, wait: self.range("wait")?, is_plain: self.flag("plain") })
    }

    fn shape(&mut self) -> Result<Shape, String> {
        Ok(Shape {
            prev: self.parsed("prev")?,
            id: self.parsed("id")?,
            service: self.parsed("service")?,
            source: self.parsed("source")?,
            age_s: self.parsed("age")?.unwrap_or(0),
            bytes: self.parsed("bytes")?.unwrap_or(0),
            rich: self.flag("rich"),
            data: None,
        })
    }

    fn seq(&mut self) -> Result<Seq, String> {
        let word = self.next()?;
        word.parse().map_err(|_| format!("{word} is no seq"))
    }

    fn code(&mut self) -> Result<Code, String> {
        let word = self.next()?;
        Code::from_name(word).ok_or_else(|| format!("{word} is no code"))
    }

    fn done<T>(self, value: T) -> Result<T, String> {
        match self.words.first() {
            None => Ok(value),
            Some(word) => Err(format!("{word} means nothing here")),
        }
    }
}

/// `\n` and `\r` as what they stand for.
fn unescaped(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\r", "\r")
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        // These take the rest of the line as it is.
        match verb {
            "frame" => return Ok(Step::Send(Frame::Raw(rest.to_owned()))),
            "sse" => return Ok(Step::Text(unescaped(rest))),
            "wsping" => return Ok(Step::ControlPing(rest.to_owned())),
            _ => {}
        }
        let (rest, data) = match rest.split_once("data=") {
            Some((rest, data)) => (rest, Some(data.to_owned())),
            None => (rest, None),
        };
        let mut words = Words { words: rest.split_whitespace().collect() };
        let step = match verb {
            "accept" => Step::Accept(words.attempt()?),
            "refuse" => Step::Refuse {
                attempt: words.attempt()?,
                retry_after_s: words.parsed("retry_after")?,
                status: words.next()?.parse().map_err(|_| "refuse takes an HTTP status".to_owned())?,
            },
            "deny" => Step::Deny {
                attempt: words.attempt()?,
                retry_in_ms: words.parsed("retry_in_ms")?,
                code: words.code()?,
            },
            "error" => Step::Error { retry_in_ms: words.parsed("retry_in_ms")?, code: words.code()? },
            "close" => Step::Close(match words.next()? {
                "none" => None,
                code => Some(code.parse().map_err(|_| format!("{code} is no close code"))?),
            }),
            "cut" => Step::Cut,
            "torn" => {
                let how = match words.next()? {
                    "half" => Torn::Half,
                    "last" => Torn::Last,
                    other => return Err(format!("torn {other}: takes half or last")),
                };
                let verb = words.next()?;
                Step::Tear(how, frame(verb, &mut words, data)?)
            }
            "pace" => Step::Set(Setting::Pace(
                words.next()?.parse().map_err(|_| "pace takes a number of bytes".to_owned())?,
            )),
            "hold" => Step::Set(Setting::Hold),
            "flush" => Step::Set(Setting::Flush),
            "style" => Step::Set(Setting::Lines(match words.next()? {
                "crlf" => Lines::Crlf,
                "lines" => Lines::Split,
                "bare" => Lines::Bare,
                other => return Err(format!("style {other}: takes crlf, lines or bare")),
            })),
            "deflate" => Step::Set(match words.next()? {
                "on" => Setting::Deflate(true),
                "off" => Setting::Deflate(false),
                "fresh" => Setting::Fresh,
                other => return Err(format!("deflate {other}: takes on, off or fresh")),
            }),
            "extras" => {
                words.next()?;
                Step::Extras
            }
            "expect" => {
                let what = words.next()?;
                let within = words.range("within")?;
                let longest = within.map_or(10_000, |(low, high)| high.unwrap_or(low));
                let least = within.and_then(|(low, high)| high.map(|_| low)).unwrap_or(0);
                Step::Expect(match what {
                    "close" => Expect::Close(least, longest),
                    "pong" => Expect::Pong(longest),
                    "wspong" => Expect::ControlPong(longest),
                    "stop" => Expect::Stop,
                    other => return Err(format!("expect {other}: takes close, pong, wspong or stop")),
                })
            }
            "renew" => Step::Renew { within_ms: words.parsed("within")?.unwrap_or(5000) },
            "done" => Step::Done,
            _ => Step::Send(frame(verb, &mut words, data)?),
        };
        words.done(step)
    }
}

fn frame(verb: &str, words: &mut Words<'_>, data: Option<String>) -> Result<Frame, String> {
    Ok(match verb {
        "hello" => Frame::Hello {
            head: words.parsed("head")?,
            filter: words.parsed("filter")?,
            ping_ms: words.parsed("ping")?.unwrap_or(25_000),
            expires_ms: words.parsed("expires")?.unwrap_or(3_600_000),
            cursor: match words.next() {
                Ok(text) => Some(text.parse().map_err(|_| format!("{text} is no cursor"))?),
                Err(_) => None,
            },
        },
        "event" => {
            let shape = words.shape()?;
            Frame::Event(words.seq()?, Shape { data, ..shape })
        }
        "batch" => {
            let shape = words.shape()?;
            let seq = words.parsed("seq")?;
            let gzip = match words.key("gzip") {
                Some("broken") => Some(Gzip::Broken),
                Some(other) => return Err(format!("gzip={other}: takes broken")),
                None => words.flag("gzip").then_some(Gzip::Whole),
            };
            let mut seqs = Vec::new();
            while let Ok(word) = words.next() {
                let range: RangeInclusive<Seq> =
                    seqs_of(word).ok_or_else(|| format!("{word} is no range of seqs"))?;
                seqs.extend(range);
            }
            if seqs.is_empty() {
                return Err("a batch has at least one event".to_owned());
            }
            Frame::Batch { seqs, shape, seq, gzip }
        }
        "ping" => Frame::Ping { prev: words.parsed("prev")?, seq: words.seq()? },
        "gap" => Frame::Gap {
            prev: words.parsed("prev")?,
            reason: words.key("reason").ok_or("gap needs a reason")?.to_owned(),
            epoch: words.parsed("epoch")?,
            filter: words.parsed("filter")?,
            seq: words.seq()?,
        },
        "status" => Frame::Status(words.next()?.to_owned()),
        "goaway" => Frame::Goaway {
            retry_in_ms: words.parsed("retry_in_ms")?.ok_or("goaway needs retry_in_ms")?,
            code: words.code()?,
        },
        other => return Err(format!("{other} is no step")),
    })
}
