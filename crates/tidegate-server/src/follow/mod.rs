//! Follows a stream over SSE as a client: connects, reads frames, keeps continuity, reconnects after a
//! delay.
//!
//! [`Follower::next`] gives one [`Update`] after the other until the stream has ended for good. Nothing
//! here prints or reads the command line: `cli/tail.rs` does. What each frame means is decided by
//! `tidegate_protocol::client`.

mod sse;

use std::{
    borrow::Cow,
    collections::VecDeque,
    time::{Duration, Instant},
};

use reqwest::{Response, StatusCode, header};
use serde_json::value::RawValue;
use tidegate_client::gateway::{Gateway, Refused, delay, transport};
use tidegate_protocol::{
    Code, Cursor, Seq,
    client::{Backoff, Outcome, STABLE_MS, StreamReader},
};

use sse::{SseEvent, SseReader};

/// How long the gateway may take to answer a request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Which stream to follow.
#[derive(Debug, Clone)]
pub struct Target {
    /// The gateway and the org.
    pub gateway: Gateway,
    /// The subscriber's token.
    pub token: String,
    /// The services to see, with commas between; all that the token allows if not given.
    pub services: Option<String>,
    /// How many of the last events to begin with, if there is no cursor.
    pub tail: Option<u32>,
}

/// One step of a stream.
#[derive(Debug)]
pub enum Update {
    /// Events that were not seen before, in order.
    Events(Vec<Box<RawValue>>),
    /// A declared gap: the events after `prev` up to `seq` cannot be had.
    Gap {
        /// The reader has everything up to here.
        prev: Seq,
        /// The stream continues after this seq.
        seq: Seq,
        /// The reason in the frame.
        reason: String,
        /// The whole frame, as JSON.
        frame: String,
    },
    /// The gateway reports its state.
    Status(String),
    /// The connection has ended. The next call waits for `delay` and connects again.
    Reconnecting {
        /// Why it ended. It may hold the gateway's text, control characters included.
        why: String,
        /// How long the next call waits.
        delay: Duration,
    },
}

/// The stream has ended and another attempt would not help. The text may hold the gateway's own,
/// control characters included.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Ended(String);

/// Why a connection ended.
enum End {
    /// Connect again, and not before the time that the gateway asked for.
    Again { why: String, asked: Option<Duration> },
    /// The gateway refuses for good, or is none.
    Final(String),
}

impl End {
    fn again(why: impl Into<String>) -> Self {
        Self::Again { why: why.into(), asked: None }
    }
}

/// A reader of one stream over all its connections.
#[derive(Debug)]
pub struct Follower {
    client: reqwest::Client,
    target: Target,
    reader: StreamReader,
    backoff: Backoff,
    /// How long to wait before connecting.
    delay: Duration,
    /// When the last attempt to connect began.
    began: Instant,
    connection: Option<Connection>,
}

impl Follower {
    /// A follower of `target` that begins after `cursor`, or where the target says.
    pub fn new(client: reqwest::Client, target: Target, cursor: Option<Cursor>) -> Self {
        Self {
            client,
            target,
            reader: StreamReader::new(cursor),
            backoff: Backoff::default(),
            delay: Duration::ZERO,
            began: Instant::now(),
            connection: None,
        }
    }

    /// The cursor after everything that [`Follower::next`] has given.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.reader.cursor()
    }

    /// The next update. It connects first, if there is no connection.
    pub async fn next(&mut self) -> Result<Update, Ended> {
        loop {
            let done = match &mut self.connection {
                None => {
                    tokio::time::sleep(self.delay).await;
                    self.delay = Duration::ZERO;
                    self.began = Instant::now();
                    self.connect().await.map(|connection| {
                        self.reader.connected();
                        self.connection = Some(connection);
                        None
                    })
                }
                Some(connection) => {
                    let silence = Duration::from_millis(self.reader.silence_ms());
                    match connection.frame(silence).await {
                        Ok(frame) => self.take(frame),
                        Err(end) => Err(end),
                    }
                }
            };
            match done {
                Ok(None) => {}
                Ok(Some(update)) => return Ok(update),
                Err(End::Final(why)) => return Err(Ended(why)),
                Err(End::Again { why, asked }) => return Ok(self.reconnect(why, asked)),
            }
        }
    }

    fn reconnect(&mut self, why: String, asked: Option<Duration>) -> Update {
        self.connection = None;
        if self.began.elapsed() >= Duration::from_millis(STABLE_MS) {
            self.backoff.reset();
        }
        self.delay = delay(&mut self.backoff, asked);
        Update::Reconnecting { why, delay: self.delay }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let mut url = self.target.gateway.address("stream");
        {
            let mut query = url.query_pairs_mut();
            if let Some(services) = &self.target.services {
                query.append_pair("services", services);
            }
            match (self.reader.cursor(), self.target.tail) {
                (Some(cursor), _) => {
                    query.append_pair("cursor", &cursor.to_string());
                }
                (None, Some(tail)) => {
                    query.append_pair("tail", &tail.to_string());
                }
                (None, None) => {}
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        self.client.get(url).bearer_auth(&self.target.token).header(header::ACCEPT, "text/event-stream")
    }

    async fn connect(&self) -> Result<Connection, End> {
        let response = match tokio::time::timeout(ANSWER_TIMEOUT, self.request().send()).await {
            Err(_) => return Err(End::again("the gateway does not answer")),
            Ok(Err(error)) => return Err(End::again(transport(error))),
            Ok(Ok(response)) => response,
        };
        if response.status() == StatusCode::NO_CONTENT {
            return Err(End::Final("the gateway has ended this stream for good (204)".to_owned()));
        }
        if response.status() != StatusCode::OK {
            return Err(refusal(Refused::read(response).await));
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Err(End::Final(
                "the answer is not text/event-stream: this address is no gateway".to_owned(),
            ));
        }
        Ok(Connection { response, sse: SseReader::default(), events: VecDeque::new() })
    }

    /// Takes one frame; the update that it brings, if any.
    fn take(&mut self, frame: String) -> Result<Option<Update>, End> {
        Ok(match self.reader.take(&frame) {
            Outcome::Nothing | Outcome::Hello { .. } | Outcome::Ping => None,
            Outcome::Events(events) => {
                Some(Update::Events(events.into_iter().map(Cow::into_owned).collect()))
            }
            Outcome::Gap { prev, seq, reason } => Some(Update::Gap { prev, seq, reason, frame }),
            Outcome::Status(text) => Some(Update::Status(text)),
            Outcome::Hole => return Err(End::again("a frame is missing, resuming")),
            Outcome::Broken(reason) => {
                return Err(End::Final(format!("the gateway broke the protocol: {reason}")));
            }
            Outcome::Leave { .. } => return Err(End::again("the gateway asks to reconnect")),
            Outcome::Error { code, message, retry_in_ms } => {
                let why = format!("{code}: {message}");
                return Err(if is_final(&code) {
                    End::Final(why)
                } else {
                    End::Again { why, asked: retry_in_ms.map(Duration::from_millis) }
                });
            }
        })
    }
}

/// The body of one answer, frame by frame.
#[derive(Debug)]
struct Connection {
    response: Response,
    sse: SseReader,
    /// Events of the last chunk that have not been taken yet.
    events: VecDeque<SseEvent>,
}

impl Connection {
    /// The next frame. A connection that is silent for longer than `silence`, which is more than a ping
    /// interval, is dead even if the transport has reported nothing.
    async fn frame(&mut self, silence: Duration) -> Result<String, End> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event.data);
            }
            match tokio::time::timeout(silence, self.response.chunk()).await {
                Err(_) => return Err(End::again("nothing came for too long")),
                Ok(Err(error)) => return Err(End::again(transport(error))),
                Ok(Ok(None)) => {
                    let asked = self.sse.retry_ms().map(Duration::from_millis);
                    return Err(End::Again { why: "the stream ended".to_owned(), asked });
                }
                Ok(Ok(Some(chunk))) => match self.sse.take(&chunk) {
                    Ok(events) => self.events.extend(events),
                    Err(error) => return Err(End::again(error.to_string())),
                },
            }
        }
    }
}

/// Whether `code` ends the stream for good. `token_expired` does here: we cannot renew the token.
fn is_final(code: &str) -> bool {
    code == Code::TokenExpired.name() || Code::from_name(code).is_some_and(|code| !code.is_retryable())
}

fn refusal(refused: Refused) -> End {
    let why = refused.to_string();
    let status = refused.status.as_u16();
    match refused.problem.code.as_deref() {
        Some(code) if is_final(code) => End::Final(why),
        Some(code) if Code::from_name(code).is_some() => End::Again { why, asked: refused.retry_after },
        // The answer of a proxy in front of the gateway.
        _ if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) => {
            End::Again { why, asked: refused.retry_after }
        }
        _ => End::Final(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_codes_end_the_stream_and_others_do_not() {
        for code in ["unauthorized", "token_expired", "forbidden", "bad_frame", "evicted", "not_found"] {
            assert!(is_final(code), "{code}");
        }
        for code in
            ["draining", "overloaded", "slow_consumer", "ping_timeout", "rate_limited", "from_the_future"]
        {
            assert!(!is_final(code), "{code}");
        }
    }
}
