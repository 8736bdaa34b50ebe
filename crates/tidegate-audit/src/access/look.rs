//! One look: over a transport, until all has come that was there. What was seen, or why nothing.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::{model::Start, world::Asking};
use crate::{
    cursor::Cursor,
    raw,
    transport::{OpenError, Stream, Transport},
};

/// How long one look may take, on however slow a machine.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// Pings that bring nothing, until a stream is taken to be at its end; two would be enough but for one
/// that falls between a slow start's frames.
const QUIET_PINGS_MAX: u32 = 3;

/// What came.
#[derive(Debug)]
pub enum Seen {
    /// This code.
    Refused(String),
    /// Events, each by its place and its data, and the reasons of gaps, in order.
    Events {
        events: Vec<(u64, String)>,
        gaps: Vec<String>,
        /// Where it got to, and whether that is the end.
        reached: u64,
        is_end: bool,
    },
}

/// Where tries go.
pub struct Door<'a> {
    pub client: &'a reqwest::Client,
    pub url: &'a str,
}

/// The address of an org's thing, with what is asked for.
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

/// One page of history with at most `limit` events. Nothing but a cursor says where it starts.
pub async fn page(door: &Door<'_>, asking: &Asking<'_>, limit: usize) -> anyhow::Result<Seen> {
    let more = [("after", asking.cursor.clone()), ("limit", Some(limit.to_string()))];
    let url = address(door, asking, "events", &more);
    let answer = door.client.get(url).bearer_auth(&asking.token).timeout(LOOK_MAX).send().await;
    let answer = answer.context("ask for a page")?;
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

/// A stream, until it is live: at the head, in the log's present life, with the tag of its filter.
pub async fn stream(
    door: &Door<'_>,
    asking: &Asking<'_>,
    transport: Transport,
    epoch: &str,
) -> anyhow::Result<Seen> {
    tokio::time::timeout(LOOK_MAX, follow(door, asking, transport, epoch)).await.context("it hangs")?
}

async fn follow(
    door: &Door<'_>,
    asking: &Asking<'_>,
    transport: Transport,
    epoch: &str,
) -> anyhow::Result<Seen> {
    let by_header = transport == Transport::SseLastEventId;
    let (in_address, last_event_id) = match &asking.cursor {
        // What stands in the header wins over what stands in the address.
        Some(cursor) if by_header => (Some("0000000000000-0".to_owned()), Some(cursor.clone())),
        cursor => (cursor.clone(), None),
    };
    // A cursor wins over `tail=`.
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
        let incoming = stream.next().await.context("the stream ended without a word")?;
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
            "it rests at {at:?}, but should get to {goal:?} of the life {epoch}, with {events:?} and {gaps:?}"
        );
    }
}
