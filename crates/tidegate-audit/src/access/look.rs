//! One look: a request over a transport, read until everything visible was received. Returns what was seen,
//! or the code of the refusal.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{model::Start, world::Asking};
use crate::{
    cursor::Cursor,
    raw,
    transport::{OpenError, Stream, Transport},
};

/// How long one look may take, even on a slow machine.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// After so many pings without progress, a stream counts as being at its end. Two would be enough, but one
/// ping can fall between the frames of a slow start.
const QUIET_PINGS_MAX: u32 = 3;

/// What a look has seen.
#[derive(Debug)]
pub enum Seen {
    /// A refusal with this code.
    Refused(String),
    /// Events as pairs of seq and data, and the reasons of gaps, in order.
    Events {
        events: Vec<(u64, String)>,
        gaps: Vec<String>,
        /// The seq that was reached.
        reached: u64,
        /// Whether that is the end.
        is_end: bool,
    },
}

/// The gateway that requests go to.
pub struct Door<'a> {
    pub client: &'a reqwest::Client,
    pub url: &'a str,
}

/// The URL of a resource of an org, with the query of the request.
fn address(door: &Door<'_>, asking: &Asking<'_>, thing: &str, more: &[(&str, Option<String>)]) -> String {
    let mut query = String::new();
    let services = ("services", asking.services.clone());
    for (name, value) in [services].iter().chain(more) {
        if let Some(value) = value {
            query.push_str(&format!("{}{name}={value}", if query.is_empty() { '?' } else { '&' }));
        }
    }
    format!("{}/v1/orgs/{}/{thing}{query}", door.url, asking.tried.org)
}

fn event(text: &str) -> anyhow::Result<(u64, String)> {
    let seq = raw::member(text, "seq").and_then(|seq| seq.parse().ok()).context("an event without seq")?;
    Ok((seq, raw::word(text, "data").unwrap_or_default().to_owned()))
}

/// One page of history with at most `limit` events. Only a cursor can set its start.
pub async fn page(door: &Door<'_>, asking: &Asking<'_>, limit: usize) -> anyhow::Result<Seen> {
    let more = [("after", asking.cursor.clone()), ("limit", Some(limit.to_string()))];
    let url = address(door, asking, "events", &more);
    let answer = door.client.get(url).bearer_auth(&asking.token).timeout(LOOK_MAX).send().await;
    let answer = answer.context("request a page")?;
    let status = answer.status();
    let text = answer.text().await.context("read a page")?;
    if status != 200 {
        return Ok(Seen::Refused(raw::word(&text, "code").unwrap_or_default().to_owned()));
    }
    let events = raw::elements(raw::member(&text, "events").context("a page without events")?);
    let events = events.into_iter().map(event).collect::<anyhow::Result<_>>()?;
    let gap = raw::member(&text, "gap").and_then(|gap| raw::word(gap, "reason"));
    let cursor = raw::word(&text, "cursor").and_then(Cursor::parse).context("a page without a cursor")?;
    Ok(Seen::Events {
        events,
        gaps: gap.into_iter().map(str::to_owned).collect(),
        reached: cursor.seq,
        is_end: raw::member(&text, "has_more") == Some("false"),
    })
}

/// A stream, read until it is live: at the head, in the log's current epoch, with the tag of its filter.
pub async fn stream(
    door: &Door<'_>,
    asking: &Asking<'_>,
    transport: Transport,
    epoch: &str,
) -> anyhow::Result<Seen> {
    tokio::time::timeout(LOOK_MAX, follow(door, asking, transport, epoch))
        .await
        .context("the stream did not become live in time")?
}

async fn follow(
    door: &Door<'_>,
    asking: &Asking<'_>,
    transport: Transport,
    epoch: &str,
) -> anyhow::Result<Seen> {
    let by_header = transport == Transport::SseLastEventId;
    let (in_address, last_event_id) = match &asking.cursor {
        // The header takes precedence over the query.
        Some(cursor) if by_header => (Some("0000000000000-0".to_owned()), Some(cursor.clone())),
        cursor => (cursor.clone(), None),
    };
    // A cursor takes precedence over `tail=`.
    let tail = match &asking.tried.start {
        Start::Tail(count) => Some(count.to_string()),
        Start::Cursor { seq, .. } if seq % 3 == 0 => Some("1000".to_owned()),
        _ => None,
    };
    let url = address(door, asking, "stream", &[("cursor", in_address), ("tail", tail)]);
    let mut stream = match Stream::open_at(transport, door.client, url, &asking.token, last_event_id).await {
        Ok(stream) => stream,
        Err(OpenError::Refused { body, .. }) => {
            return Ok(Seen::Refused(raw::word(&body, "code").unwrap_or_default().to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    let (mut events, mut gaps) = (Vec::new(), Vec::new());
    let mut at: Option<Cursor> = None;
    let mut goal = (0, String::new());
    let mut quiet_pings = 0;
    loop {
        let incoming = stream.next().await.context("the stream ended without an error frame")?;
        let text = incoming.text();
        let number = |name: &str| raw::member(text, name).and_then(|seq| seq.parse::<u64>().ok());
        match raw::word(text, "type").unwrap_or_default() {
            "error" => return Ok(Seen::Refused(raw::word(text, "code").unwrap_or_default().to_owned())),
            "hello" => {
                goal = (
                    number("head").context("a hello without head")?,
                    raw::word(text, "filter").unwrap_or_default().to_owned(),
                );
                at = raw::word(text, "cursor").and_then(Cursor::parse);
            }
            kind => {
                let at = at.as_mut().context("a frame before hello")?;
                quiet_pings =
                    if kind == "ping" && number("seq") == Some(at.seq) { quiet_pings + 1 } else { 0 };
                match kind {
                    "gap" => {
                        gaps.push(raw::word(text, "reason").unwrap_or_default().to_owned());
                        at.epoch = raw::word(text, "epoch").unwrap_or_default().to_owned();
                        at.tag = raw::word(text, "filter").map(str::to_owned);
                    }
                    "event" => {
                        ensure!(
                            raw::word(text, "org") == Some(asking.tried.org),
                            "an event of another org: {text}"
                        );
                        events.push(event(text)?);
                    }
                    "batch" => {
                        ensure!(
                            raw::word(text, "org") == Some(asking.tried.org),
                            "a batch of another org: {text}"
                        );
                        for text in raw::elements(raw::member(text, "events").unwrap_or("[]")) {
                            events.push(event(text)?);
                        }
                    }
                    "ping" => stream.pong().await,
                    _ => bail!("an unexpected frame: {text}"),
                }
                at.seq = number("seq").context("a frame without seq")?;
            }
        }
        if let Some(at) = &at
            && at.epoch == epoch
            && at.tag.as_deref() == Some(&goal.1)
            && at.seq == goal.0
        {
            return Ok(Seen::Events { events, gaps, reached: goal.0, is_end: true });
        }
        ensure!(
            quiet_pings < QUIET_PINGS_MAX,
            "it stays at {at:?}, but should reach {goal:?} of the epoch {epoch}, with {events:?} and {gaps:?}"
        );
    }
}
