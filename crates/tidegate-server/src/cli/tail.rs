//! `tidegate tail`: follows a stream over SSE, resumes by itself, and proves that nothing is missing.

use std::time::{Duration, Instant};

use clap::Args;
use reqwest::{StatusCode, header};
use tidegate_protocol::{
    Code, Cursor,
    client::{Backoff, STABLE_MS, StreamReader, Taken},
};

use super::{
    Failure,
    printer::Printer,
    remote::{Refused, Remote, RemoteArgs, block_on, client, delay, printable, transport},
    sse::SseReader,
};

/// Follows a stream.
#[derive(Debug, Args)]
pub(super) struct Tail {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The token [default: the one of `tidegate dev`]
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The services to see, with commas between [default: all that the token allows]
    #[arg(long, value_name = "NAMES")]
    services: Option<String>,
    /// Begin with the last N events
    #[arg(long, value_name = "N", conflicts_with = "cursor")]
    tail: Option<u32>,
    /// Begin behind this place, as an earlier run or a publish answered it
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Stop after N events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print JSON, an event or a gap a line
    #[arg(long)]
    json: bool,
}

/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a connection ended.
enum End {
    /// It may be taken up again, not before the time that the gateway asked for.
    Again { why: String, asked: Option<Duration> },
    /// The gateway does not want to see us again.
    Final(String),
    /// All events that were asked for have been printed.
    Done,
}

impl Tail {
    pub(super) fn run(self) -> Result<(), Failure> {
        let remote = self.remote.resolve()?;
        let token = self.token.clone().or_else(|| remote.saved.as_ref()?.token.clone());
        let token = token
            .ok_or_else(|| Failure::Usage("--token (or TIDEGATE_TOKEN) must give a token".to_owned()))?;
        let mut follower = Follower {
            client: client()?,
            printer: Printer { json: self.json, left: self.count, org: remote.org.to_string() },
            reader: StreamReader::new(self.cursor.clone()),
            remote,
            token,
            services: self.services.clone(),
            tail: self.tail,
        };
        if self.count == Some(0) {
            return Ok(());
        }
        let done = block_on(follower.follow());
        if let Some(cursor) = follower.reader.cursor() {
            eprintln!("tidegate: go on later with --cursor {cursor}");
        }
        done
    }
}

struct Follower {
    client: reqwest::Client,
    remote: Remote,
    token: String,
    services: Option<String>,
    tail: Option<u32>,
    reader: StreamReader,
    printer: Printer,
}

impl Follower {
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let (why, asked) = match self.connect().await? {
                End::Done => return Ok(()),
                End::Final(why) => return Err(Failure::Failed(why)),
                End::Again { why, asked } => (why, asked),
            };
            if began.elapsed() >= Duration::from_millis(STABLE_MS) {
                backoff.reset();
            }
            let wait = delay(&mut backoff, asked);
            eprintln!("tidegate: {}; connecting again in {:.1} s", printable(&why), wait.as_secs_f64());
            tokio::time::sleep(wait).await;
        }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let mut url = self.remote.address("stream");
        {
            let mut query = url.query_pairs_mut();
            if let Some(services) = &self.services {
                query.append_pair("services", services);
            }
            match (self.reader.cursor(), self.tail) {
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
        self.client.get(url).bearer_auth(&self.token).header(header::ACCEPT, "text/event-stream")
    }

    /// One connection, from the request to its end.
    async fn connect(&mut self) -> Result<End, Failure> {
        let again = |why: String| End::Again { why, asked: None };
        let mut response = match tokio::time::timeout(PATIENCE, self.request().send()).await {
            Err(_) => return Ok(again("the gateway does not answer".to_owned())),
            Ok(Err(error)) => return Ok(again(transport(error))),
            Ok(Ok(response)) => response,
        };
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(End::Final("the gateway has ended this stream for good (204)".to_owned()));
        }
        if response.status() != StatusCode::OK {
            return Ok(refusal(Refused::read(response).await));
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Ok(End::Final(
                "what answers there is no gateway: it sends no text/event-stream".to_owned(),
            ));
        }
        self.reader.connected();
        let mut sse = SseReader::default();
        loop {
            // Silence past a ping means that the connection is gone and nobody told us.
            let silence = Duration::from_millis(self.reader.silence_ms());
            let chunk = match tokio::time::timeout(silence, response.chunk()).await {
                Err(_) => return Ok(again("nothing came for too long".to_owned())),
                Ok(Err(error)) => return Ok(again(transport(error))),
                Ok(Ok(None)) => {
                    let asked = sse.retry_ms().map(Duration::from_millis);
                    return Ok(End::Again { why: "the stream ended".to_owned(), asked });
                }
                Ok(Ok(Some(chunk))) => chunk,
            };
            let events = match sse.take(&chunk) {
                Ok(events) => events,
                Err(error) => return Ok(again(error.to_string())),
            };
            for event in events {
                if let Some(end) = self.take(&event.data)? {
                    return Ok(end);
                }
            }
        }
    }

    /// Takes one frame; an end where it ends the connection.
    fn take(&mut self, data: &str) -> Result<Option<End>, Failure> {
        Ok(match self.reader.take(data) {
            Taken::Nothing | Taken::Hello { .. } | Taken::Ping => None,
            Taken::Events(events) => self.printer.events(&events)?.then_some(End::Done),
            Taken::Gap { prev, seq, reason } => {
                self.printer.gap(prev, seq, &reason, data)?;
                None
            }
            Taken::Status(words) => {
                eprintln!("tidegate: {}", printable(&words));
                None
            }
            Taken::Hole => Some(End::Again { why: "a frame is missing, resuming".to_owned(), asked: None }),
            Taken::Broken(what) => Some(End::Final(format!("the gateway broke the protocol: {what}"))),
            Taken::Leave { .. } => {
                Some(End::Again { why: "the gateway asks to reconnect".to_owned(), asked: None })
            }
            Taken::Error { code, message, retry_in_ms } => {
                let why = format!("{}: {}", printable(&code), printable(&message));
                Some(if is_final(&code) {
                    End::Final(why)
                } else {
                    End::Again { why, asked: retry_in_ms.map(Duration::from_millis) }
                })
            }
        })
    }
}

/// An expired token is worth a retry to those who can renew it; we cannot.
fn is_final(code: &str) -> bool {
    code == Code::TokenExpired.name() || Code::from_name(code).is_some_and(|code| !code.is_retryable())
}

fn refusal(refused: Refused) -> End {
    let why = refused.sentence();
    let status = refused.status.as_u16();
    match refused.problem.code.as_deref() {
        Some(code) if is_final(code) => End::Final(why),
        Some(code) if Code::from_name(code).is_some() => End::Again { why, asked: refused.retry_after },
        // From something between us and the gateway.
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
    fn what_is_final_ends_the_command() {
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
