//! `tidegate publish`: one event from flags, or a file of them.
//!
//! Every event gets an id before it is first sent, so that a batch can be sent again after an unknown outcome
//! without storing anything twice. Batches are sent one after the other, in the order of the file.

use std::{
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_client::gateway::{Gateway, Refused, delay, transport};
use tidegate_protocol::{EventId, EventName, Key, ServiceName, UserId, client::Backoff};
use tokio::sync::mpsc;

use super::{
    Failure,
    args::duration,
    lines::{Line, Lines, open},
    print,
    remote::{RemoteArgs, block_on, client, printable},
};
use crate::logs;

/// Publishes events.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["file", "service"]))]
pub(super) struct Publish {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The API key [default: the one of `tidegate dev`]
    #[arg(long, env = "TIDEGATE_KEY", hide_env_values = true)]
    key: Option<String>,
    /// A file with one event per line (NDJSON), or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["event", "data", "id", "event_key", "users"])]
    file: Option<PathBuf>,
    /// The service of one event
    #[arg(long, requires = "event")]
    service: Option<ServiceName>,
    /// What happened, such as invoice.paid
    #[arg(long, requires = "service")]
    event: Option<EventName>,
    /// Its data, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    data: String,
    /// Its id; an event that is sent again with the same id is stored once [default: a new id]
    #[arg(long)]
    id: Option<EventId>,
    /// What it is about
    #[arg(long)]
    event_key: Option<Key>,
    /// The only users who may see it, separated by commas
    #[arg(long, value_delimiter = ',')]
    users: Vec<UserId>,
    /// Events per request
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// How long to retry if the gateway cannot be reached or has no room. Must be less than the gateway's
    /// dedup.window, or a repeated event could be stored twice
    #[arg(long, value_name = "TIME", default_value = "4m", value_parser = duration)]
    retry_for: Duration,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Less than half of what gateways accept by default, to leave room for one long event.
const BATCH_BYTES: usize = 1 << 20;
const LINE_TIMEOUT: Duration = Duration::from_millis(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Answer {
    cursor: String,
    events: Vec<StoredAt>,
}

#[derive(Deserialize)]
struct StoredAt {
    duplicate: bool,
}

/// The results so far.
#[derive(Default)]
struct Summary {
    events: u64,
    duplicates: u64,
    retries: u64,
    cursor: Option<String>,
}

/// The events of one request, each a line of JSON, with their line numbers in the file.
#[derive(Default)]
struct Batch {
    lines: Vec<u64>,
    body: String,
    /// How many bytes they took in the file.
    taken: u64,
}

impl Publish {
    pub(super) fn run(self) -> Result<(), Failure> {
        let remote = self.remote.resolve()?;
        let key = self.key.clone().or_else(|| remote.saved.as_ref()?.publish_key.clone());
        let key =
            key.ok_or_else(|| Failure::Usage("--key (or TIDEGATE_KEY) must give an API key".to_owned()))?;
        let sender = Sender { client: client()?, gateway: remote.gateway, key, retry_for: self.retry_for };
        let (source, name, length) = match &self.file {
            Some(path) => open(path)?,
            None => {
                let event = self.single()?;
                let length = event.len() as u64;
                (
                    Box::new(std::io::Cursor::new(event)) as Box<dyn Read + Send>,
                    "the event".to_owned(),
                    Some(length),
                )
            }
        };
        let bar = progress(length.filter(|_| self.file.is_some()), self.file.is_none());
        let lines = Lines::new(source, name.clone());
        let began = Instant::now();
        let mut summary = Summary::default();
        let done = block_on(sender.send_all(lines.follow(), &name, self.batch as usize, &bar, &mut summary));
        bar.finish_and_clear();
        self.report(&summary, began.elapsed(), &done)?;
        done
    }

    /// The event of the flags as a line of JSON; its data is sent as typed.
    fn single(&self) -> Result<String, Failure> {
        let data: &RawValue = serde_json::from_str(&self.data)
            .map_err(|error| Failure::Usage(format!("--data is not JSON: {error}")))?;
        // One line per event, so line breaks are removed; they can only be between tokens.
        let data = data.get().replace(['\n', '\r'], " ");
        let mut fields = serde_json::Map::new();
        fields.insert("service".to_owned(), serde_json::json!(self.service));
        fields.insert("event".to_owned(), serde_json::json!(self.event));
        if let Some(id) = &self.id {
            fields.insert("id".to_owned(), serde_json::json!(id));
        }
        if let Some(key) = &self.event_key {
            fields.insert("key".to_owned(), serde_json::json!(key));
        }
        if !self.users.is_empty() {
            fields.insert("users".to_owned(), serde_json::json!(self.users));
        }
        let mut text = serde_json::Value::Object(fields).to_string();
        text.pop();
        Ok(format!("{text},\"data\":{data}}}"))
    }

    fn report(&self, summary: &Summary, took: Duration, done: &Result<(), Failure>) -> Result<(), Failure> {
        let Summary { events, duplicates, retries, cursor } = summary;
        if self.json {
            let line = serde_json::json!({
                "events": events, "duplicates": duplicates, "retries": retries, "cursor": cursor,
                "seconds": took.as_secs_f64(), "complete": done.is_ok(),
            });
            return print(format_args!("{line}\n"));
        }
        let cursor =
            cursor.as_ref().map_or_else(String::new, |cursor| format!("; cursor {}", printable(cursor)));
        let seconds = took.as_secs_f64();
        let noun = if *events == 1 { "event" } else { "events" };
        print(format_args!(
            "published {events} {noun}, {duplicates} of them duplicates, in {seconds:.2} s{cursor}\n"
        ))
    }
}

/// A progress bar on standard error; hidden if that is not a terminal.
fn progress(length: Option<u64>, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => {
            (ProgressBar::new(length), "{bar:32} {bytes}/{total_bytes}  {msg}  {bytes_per_sec}  {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {msg}  {bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Sender {
    client: reqwest::Client,
    gateway: Gateway,
    key: String,
    retry_for: Duration,
}

impl Sender {
    async fn send_all(
        &self,
        mut lines: mpsc::Receiver<Result<Line, Failure>>,
        name: &str,
        most: usize,
        bar: &ProgressBar,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        let mut batch = Batch::default();
        // A bad line ends the run, but events above it are sent first.
        let mut broken = Ok(());
        loop {
            let next = if batch.lines.is_empty() {
                Some(lines.recv().await)
            } else {
                // A pipe that pauses must not hold back events that it has given.
                tokio::time::timeout(LINE_TIMEOUT, lines.recv()).await.ok()
            };
            match next {
                Some(Some(Ok(line))) => {
                    if !batch.lines.is_empty() && batch.body.len() + line.event.len() > BATCH_BYTES {
                        self.send(std::mem::take(&mut batch), name, bar, summary).await?;
                    }
                    batch.lines.push(line.number);
                    batch.body.push_str(&line.event);
                    batch.body.push('\n');
                    batch.taken += line.bytes;
                    if batch.lines.len() < most {
                        continue;
                    }
                }
                Some(Some(Err(failure))) => broken = Err(failure),
                Some(None) if batch.lines.is_empty() => return broken,
                Some(None) | None => {}
            }
            if !batch.lines.is_empty() {
                self.send(std::mem::take(&mut batch), name, bar, summary).await?;
            }
        }
    }

    /// Sends one batch, with retries, until the gateway's answer is final.
    async fn send(
        &self,
        batch: Batch,
        name: &str,
        bar: &ProgressBar,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        let body = bytes::Bytes::from(batch.body);
        let began = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let (why, asked) = match self.attempt(body.clone()).await {
                Ok(Ok(answer)) => {
                    summary.events += answer.events.len() as u64;
                    summary.duplicates +=
                        answer.events.iter().filter(|stored| stored.duplicate).count() as u64;
                    summary.cursor = Some(answer.cursor);
                    bar.inc(batch.taken);
                    bar.set_message(format!("{} events", summary.events));
                    return Ok(());
                }
                Ok(Err(refused)) if is_retryable(refused.status) => {
                    (refused.to_string(), refused.retry_after)
                }
                Ok(Err(refused)) => return Err(final_refusal(&refused, &batch.lines, name)),
                Err(error) => (error, None),
            };
            let wait = delay(&mut backoff, asked);
            if began.elapsed() + wait > self.retry_for {
                let tried = crate::config::humane(self.retry_for);
                return Err(Failure::Failed(printable(&format!(
                    "gave up within {tried} (--retry-for): {why}"
                ))));
            }
            summary.retries += 1;
            bar.suspend(|| {
                logs::say(format_args!(
                    "tidegate: {}; trying again in {:.1} s",
                    printable(&why),
                    wait.as_secs_f64()
                ));
            });
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends one request. The outer error is one of the transport: the outcome is unknown.
    async fn attempt(&self, body: bytes::Bytes) -> Result<Result<Answer, Refused>, String> {
        let response = self
            .client
            .post(self.gateway.address("events"))
            .timeout(REQUEST_TIMEOUT)
            .bearer_auth(&self.key)
            .header("content-type", "application/x-ndjson")
            .body(body)
            .send()
            .await
            .map_err(transport)?;
        if response.status() != StatusCode::OK {
            return Ok(Err(Refused::read(response).await));
        }
        response.json().await.map(Ok).map_err(transport)
    }
}

/// 503 means certainly not stored, 504 that the outcome is unknown. Every event has an id, so both are safe
/// to repeat.
fn is_retryable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The gateway's refusal, with pointers into the batch turned into lines of the file.
fn final_refusal(refused: &Refused, lines: &[u64], name: &str) -> Failure {
    let mut text = printable(&refused.to_string());
    for error in refused.problem.errors.iter().take(10) {
        let mut parts = error.pointer.trim_start_matches('/').splitn(2, '/');
        let line =
            parts.next().and_then(|index| index.parse::<usize>().ok()).and_then(|index| lines.get(index));
        let at = match line {
            Some(line) => format!("{name}, line {line}, /{}", parts.next().unwrap_or_default()),
            None => error.pointer.clone(),
        };
        text.push_str(&format!("\n  {}: {}", printable(&at), printable(&error.detail)));
    }
    let more = refused.problem.errors.len().saturating_sub(10);
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    Failure::Failed(text)
}
