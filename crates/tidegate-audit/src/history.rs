//! Reads the whole log through the history API, page by page.

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{continuity::Entry, cursor::Cursor, event::Planned, findings::Findings, gateway::Announced};

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    cursor: String,
    has_more: bool,
    gap: Option<serde_json::Value>,
}

/// A log from its oldest event to its end.
#[derive(Debug, Default)]
pub struct Log {
    /// Each event with its seq, in order.
    pub events: Vec<(u64, Planned)>,
    /// The seq up to which the pages account.
    pub head: u64,
}

/// Reads the log of an audit, and checks its events and their order.
pub async fn read(client: &reqwest::Client, gateway: &Announced) -> anyhow::Result<Log> {
    let mut events: Vec<(u64, Planned)> = Vec::new();
    let mut scratch = String::new();
    let head = pages(client, gateway, "", |texts| {
        for text in texts {
            let entry: Entry<'_> =
                serde_json::from_str(text).with_context(|| format!("read an event of history: {text}"))?;
            let planned = entry.check(&mut scratch).context("history")?;
            if events.last().is_some_and(|(before, _)| *before >= entry.seq) {
                bail!("history has event {} after an event with the same or a higher seq", entry.seq);
            }
            events.push((entry.seq, planned));
        }
        Ok(())
    })
    .await?;
    ensure!(events.last().is_none_or(|(seq, _)| *seq <= head), "history's cursor is before its last event");
    Ok(Log { events, head })
}

/// The same; an error is a finding, and the log is then empty.
pub async fn read_or_add_finding(client: &reqwest::Client, gateway: &Announced, findings: &Findings) -> Log {
    read(client, gateway).await.unwrap_or_else(|error| {
        findings.add("history", format!("{error:#}"));
        Log::default()
    })
}

/// Reads all pages of history, and calls `take` with the text of each page's events. Returns the last seq.
pub async fn pages(
    client: &reqwest::Client,
    gateway: &Announced,
    query: &str,
    mut take: impl FnMut(&[&str]) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut after: Option<Cursor> = None;
    loop {
        let mut url = format!("{}/v1/orgs/{}/events?limit=1000{query}", gateway.url, gateway.org);
        if let Some(after) = &after {
            url.push_str(&format!("&after={after}"));
        }
        let answer = client.get(url).bearer_auth(&gateway.token).send().await;
        let answer = answer.context("request history")?;
        let status = answer.status();
        let text = answer.text().await.context("read history")?;
        ensure!(status == 200, "history was answered with {status}: {text}");
        let page: Page<'_> = serde_json::from_str(&text).context("read a page of history")?;
        ensure!(page.gap.is_none(), "history declares a gap: {:?}", page.gap);
        let cursor = Cursor::parse(&page.cursor);
        let cursor = cursor.with_context(|| format!("read history's cursor {}", page.cursor))?;
        let texts: Vec<&str> = page.events.iter().map(|event| event.get()).collect();
        take(&texts)?;
        if !page.has_more {
            return Ok(cursor.seq);
        }
        let before = after.as_ref().map_or(0, |after| after.seq);
        ensure!(
            cursor.seq > before,
            "history has more events after {cursor}, but its cursor does not advance"
        );
        after = Some(cursor);
    }
}
