//! Random requests (tries) check who may see what. `model` says in fifty lines what each try must show;
//! `world` creates the orgs, users and events, and draws tries from a seed; `look` makes them over WebSocket,
//! SSE and history.

mod look;
mod model;
mod world;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use clap::Args;
use rand::Rng as _;

use crate::{
    Common,
    findings::Findings,
    gateway::Gateway,
    report::{Report, progress},
    transport::Transport,
};
use look::{Door, Seen};
use model::{Start, Verdict, verdict};
use world::World;

/// Tries that run at the same time.
const AT_A_TIME: usize = 24;

/// Of a hundred tries, so many use WebSocket and as many use SSE; the rest use history.
const STREAMS: u32 = 15;

/// The audit stops after so many findings, because each may have waited for a timeout.
const FINDINGS_MAX: usize = 10;

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of tries
    #[arg(long, default_value_t = 100_000)]
    tries: u64,
    /// Random seed; the same seed draws the same tries
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Counters by name, shared by all tasks.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    fn add(&self, name: impl Into<String>, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default() += count;
    }
}

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, tries, seed } = options;
    let settings = [
        "limits.connections_per_user=20000",
        "limits.connections_per_address=20000",
        "limits.waiting_sockets_per_address=20000",
        "limits.handshakes_per_second=1000000",
        "limits.failed_auths_per_second=1000000",
        // Pings show that a stream is at its end, so they come often.
        "ping.interval=\"1s\"",
        "ping.timeout=\"900ms\"",
        // A small tail: most of the log is older, so that streams are served from both.
        "limits.event_bytes=\"4KiB\"",
        "limits.request_bytes=\"8KiB\"",
        "tail.org_max_bytes=\"8KiB\"",
        // The most detailed log, to search it for tokens.
        "logs.level=trace",
    ];
    let gateway = Gateway::start(&common.gateway, common.dir, &settings).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let world = World::make(&gateway, &client, &mut world::rng(seed, u64::MAX)).await?;
    let url = gateway.announced().url.clone();
    let door = Door { client: &client, url: &url };
    let (findings, tally, next) = (Findings::default(), Tally::default(), AtomicU64::new(0));
    let bar = progress(tries, "tries");
    let trying = || async {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= tries || findings.count() > FINDINGS_MAX {
                break;
            }
            if let Err(error) = make_try(&world, &door, seed, number, &tally).await {
                findings.add(format!("seed {seed}, try {number}"), format!("{error:#}"));
            }
            bar.inc(1);
        }
    };
    futures_util::future::join_all((0..AT_A_TIME).map(|_| trying())).await;
    bar.finish_and_clear();
    let mut report = Report::default();
    let tally = tally.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Every case of these names must have occurred.
    for name in NAMES {
        if tries >= 1000 && !tally.contains_key(*name) {
            findings.add("the tries", format!("none of them covered: {name}"));
        }
    }
    let log = gateway.log().context("read the gateway's log")?;
    report.row("lines of log without a token", log.lines().count());
    if let Some(signature) = world.signatures().find(|signature| log.contains(signature)) {
        findings.add("the gateway's log", format!("it shows a token, by its signature {signature}"));
    }
    for (name, count) in tally {
        report.row(name, count);
    }
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("access", &findings, kept.as_deref()))
}

/// The cases that must occur in a run.
const NAMES: &[&str] = &[
    "history: tries",
    "websocket: tries",
    "sse: tries",
    "refused: bad_request",
    "refused: forbidden",
    "refused: unauthorized",
    "gaps: filter",
    "gaps: epoch",
    "events seen",
    "events seen, targeted",
    "events hidden",
];

/// Makes one try, and compares the result with the model.
async fn make_try(
    world: &World,
    door: &Door<'_>,
    seed: u64,
    number: u64,
    tally: &Tally,
) -> anyhow::Result<()> {
    let mut rng = world::rng(seed, number);
    let mut asking = world.asking(&mut rng);
    let turn = rng.random_range(0..100);
    let is_page = turn >= 2 * STREAMS;
    if is_page && !matches!(asking.tried.start, Start::Cursor { .. } | Start::Faulty) {
        asking.tried.start = Start::Oldest;
    } else if matches!(asking.tried.start, Start::Oldest) {
        asking.tried.start = Start::Head;
    }
    let nothing = world::Log::default();
    let log = world.logs.get(asking.tried.org).unwrap_or(&nothing);
    let must = verdict(&asking.tried, &log.events, log.head);
    let kind = rng.random_range(0..3);
    let limit = [1, 3, 10, 100, 1000][rng.random_range(0..5)];
    let (name, seen) = if is_page {
        ("history", look::page(door, &asking, limit).await?)
    } else if turn >= STREAMS {
        let transport = if kind == 0 { Transport::SseCursor } else { Transport::SseLastEventId };
        ("sse", look::stream(door, &asking, transport, &log.epoch).await?)
    } else {
        let transport =
            [Transport::WebSocketHeader, Transport::WebSocketFrame, Transport::WebSocketProtocol][kind];
        ("websocket", look::stream(door, &asking, transport, &log.epoch).await?)
    };
    tally.add(format!("{name}: tries"), 1);
    let asked = || {
        let grant = asking.tried.grant.map_or_else(
            || "no genuine token".to_owned(),
            |grant| format!("{} of {} with {}", grant.user, grant.org, grant.services.join(",")),
        );
        format!(
            "{name}, {grant}, requests {} with services={:?} cursor={:?}",
            asking.tried.org, asking.services, asking.cursor
        )
    };
    match (&must, &seen) {
        (Verdict::Refused(codes), Seen::Refused(code)) => {
            anyhow::ensure!(codes.contains(&code.as_str()), "{}: refused as {code}, not {codes:?}", asked());
            tally.add(format!("refused: {code}"), 1);
        }
        (Verdict::Sees { seqs, gaps }, Seen::Events { events, gaps: reported, reached, is_end }) => {
            let data = |seq: u64| {
                let number = log.events.iter().position(|event| event.seq == seq);
                number.map(|number| format!("{} {number}", asking.tried.org))
            };
            // A page ends at its limit, and reports several gaps as one, the most serious.
            let most = if is_page { limit } else { usize::MAX };
            let wanted: Vec<u64> = seqs.iter().copied().take(most).collect();
            let got: Vec<u64> = events.iter().map(|(seq, _)| *seq).collect();
            anyhow::ensure!(got == wanted, "{}: saw {got:?}, not {wanted:?}", asked());
            for (seq, text) in events {
                anyhow::ensure!(data(*seq).as_ref() == Some(text), "{}: {seq} is {text}", asked());
            }
            let gaps = if is_page { &gaps[gaps.len().saturating_sub(1)..] } else { &gaps[..] };
            anyhow::ensure!(reported == gaps, "{}: reported the gaps {reported:?}, not {gaps:?}", asked());
            // The range that it has accounted for holds no visible event that it has not shown.
            let left = seqs.get(wanted.len());
            anyhow::ensure!(left.is_none_or(|left| left > reached), "{}: {left:?} was skipped", asked());
            anyhow::ensure!(!is_end || left.is_none(), "{}: it ends before {left:?}", asked());
            gaps.iter().for_each(|gap| tally.add(format!("gaps: {gap}"), 1));
            let targeted =
                log.events.iter().filter(|event| event.users.is_some() && got.contains(&event.seq));
            tally.add("events seen, targeted", targeted.count() as u64);
            tally.add("events seen", got.len() as u64);
            tally.add("events hidden", (log.events.len() - seqs.len()) as u64);
        }
        (must, seen) => anyhow::bail!("{}: the result was {seen:?}, not {must:?}", asked()),
    }
    Ok(())
}
