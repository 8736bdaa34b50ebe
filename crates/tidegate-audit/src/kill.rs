//! The kill loop: publishers and readers are active while the gateway is killed and restarted repeatedly.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::Args;
use rand::Rng as _;
use tokio::{sync::watch, time::Instant};

use crate::{
    Common,
    continuity::Start,
    cursor::Cursor,
    event::{SERVICES, Services},
    findings::Findings,
    gateway::Gateway,
    history,
    ledger::Ledger,
    publisher, reader,
    report::{Report, progress},
    transport::Transport,
};

/// The maximum number of events in a log of this audit.
const SEQS_MAX: usize = 1 << 23;

/// An incarnation of the gateway counts if it acknowledged at least so many events.
const INCARNATION_EVENTS_MIN: usize = 100;

/// How long an incarnation may take to do so, even on a slow machine.
const INCARNATION_MAX: Duration = Duration::from_secs(60);

/// How long readers may take to reach the end of the log, and publishers to complete their last batch.
const END_MAX: Duration = Duration::from_secs(90);

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of times the gateway is killed
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Approximate duration in seconds, over all runs of the gateway process
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Number of concurrent publishers
    #[arg(long, default_value_t = 8)]
    publishers: u32,
    /// Number of readers: half WebSocket, half SSE, with different starts and filters
    #[arg(long, default_value_t = 16)]
    readers: usize,
}

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, kills, seconds, publishers, readers } = options;
    let settings = [
        "limits.connections_per_user=10000",
        "limits.handshakes_per_second=100000",
        // Audits of several minutes publish millions of ids within the dedup window.
        "dedup.max_entries=50000000",
        "dedup.max_entries_per_org=50000000",
        // Often enough to check the accounting of pings too.
        "ping.interval=\"4s\"",
        "ping.timeout=\"3500ms\"",
    ];
    let mut gateway = Gateway::start(&common.gateway, common.dir, &settings).await?;
    let deadline = Instant::now() + Duration::from_secs(seconds) + INCARNATION_MAX * kills as u32 + END_MAX;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (ledger, findings) = (Arc::new(Ledger::new(SEQS_MAX)), Arc::new(Findings::default()));
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(None);
    let publishing =
        publisher::Shared::new(&client, gateway.announced(), &ledger, &findings, stopped, deadline);
    let reading = reader::Shared::new(&client, gateway.announced(), &ledger, &findings, ended, deadline);
    let publishers: Vec<_> = (0..publishers)
        .map(|number| {
            let plan = publisher::Plan { number, batch: 1..9, every: None };
            tokio::spawn(publisher::run(plan, publishing.clone()))
        })
        .collect();
    let mut tasks = Vec::new();
    let bar = progress(kills as u64, "kills");
    let mut loaded_kills = 0;
    let mut restart_max = Duration::ZERO;
    for number in 1..=kills + 1 {
        let began = (Instant::now(), ledger.acknowledged());
        let share = Duration::from_secs(seconds).div_f64(kills as f64 + 1.0);
        let until = began.0 + share.mul_f64(rand::rng().random_range(0.5..1.5));
        // New readers come in every incarnation, so that every kind of start meets logs of every age.
        let due = readers * number / (kills + 1);
        while tasks.len() < due && ledger.cursor().is_some() {
            let plan = plan(tasks.len(), &ledger);
            tasks.push(tokio::spawn(reader::run(plan, reading.clone())));
        }
        let mut look = tokio::time::interval(Duration::from_millis(1));
        let is_enough = || ledger.acknowledged() >= began.1 + INCARNATION_EVENTS_MIN;
        while (Instant::now() < until || !is_enough()) && Instant::now() < began.0 + INCARNATION_MAX {
            look.tick().await;
        }
        if !is_enough() {
            findings.add(
                "audit",
                format!("incarnation {number} of the gateway acknowledged too few events to count"),
            );
        }
        bar.set_message(format!("{} events", ledger.acknowledged()));
        if number > kills {
            break;
        }
        loaded_kills += usize::from(publishing.in_flight.load(Ordering::Relaxed) > 0);
        if let Err(error) = gateway.kill().await {
            findings.add("gateway", format!("{error:#}"));
            break;
        }
        bar.inc(1);
        let killed = Instant::now();
        publishing.incarnation.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = gateway.restart().await {
            findings.add("gateway", format!("{error:#}"));
            break;
        }
        restart_max = restart_max.max(killed.elapsed());
    }
    while tasks.len() < readers && gateway.is_running() && ledger.cursor().is_some() {
        let plan = plan(tasks.len(), &ledger);
        tasks.push(tokio::spawn(reader::run(plan, reading.clone())));
    }
    stop.send_replace(true);
    for publisher in publishers {
        publisher.await?;
    }
    bar.finish_and_clear();

    let mut report = Report::default();
    let history::Log { events, head } =
        history::read_or_add_finding(&client, gateway.announced(), &findings).await;
    // Readers continue to the log's end, past events that their filter hides, with a time limit.
    end.send_replace(Some(reader::End { seq: head, by: Instant::now() + END_MAX }));
    let mut by_transport = [(0, 0), (0, 0)];
    for (index, task) in tasks.into_iter().enumerate() {
        let continuity = task.await?;
        for fault in continuity.settle(&events) {
            findings.add(name(index), fault);
        }
        let at = usize::from(Transport::of(index).name() == "sse");
        by_transport[at].0 += 1;
        by_transport[at].1 += continuity.events();
    }
    ledger.settle(&events, &findings);
    if !gateway.is_running() {
        findings.add("gateway", "it ended unexpectedly");
    }

    let counts = ledger.counts();
    let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let resumed = load(&reading.resumed);
    let incarnations = publishing.incarnation.load(Ordering::Relaxed) + 1;
    report
        .row("kills", format!("{} of {kills}", incarnations - 1))
        .row("kills with publishes in flight", loaded_kills)
        .row("slowest restart (ms)", restart_max.as_millis())
        .row("events acknowledged", ledger.acknowledged())
        .row("events in the log", events.len())
        .row("publishes ok", load(&counts.ok))
        .row("publishes unknown", load(&counts.unknown))
        .row("  of them found stored", load(&counts.recovered))
        .row("publishes refused", load(&counts.refused))
        .row("publishes not sent (gateway not reachable)", load(&counts.unsent))
        .row("acknowledged ones sent again", load(&counts.resent))
        .row("  over a restart", load(&counts.resent_over_restart))
        .row("epochs", ledger.epochs())
        .row("readers (websocket, sse)", format!("{}, {}", by_transport[0].0, by_transport[1].0))
        .row("events read (websocket, sse)", format!("{}, {}", by_transport[0].1, by_transport[1].1))
        .row("streams resumed", resumed);
    // An audit in which too little happened proves nothing.
    findings.require(incarnations == kills + 1, "fewer kills happened than requested");
    findings.require(
        ledger.epochs() == incarnations,
        "there were not as many epochs as incarnations of the gateway (R11)",
    );
    findings.require(loaded_kills * 2 >= kills, "most kills happened without a publish in flight");
    findings.require(
        ledger.acknowledged() >= INCARNATION_EVENTS_MIN * (kills + 1),
        "too few events were acknowledged",
    );
    let attempts = load(&counts.ok) + load(&counts.refused) + load(&counts.unknown);
    findings.require(load(&counts.ok) * 5 >= attempts * 4, "fewer than four in five publishes were ok");
    findings.require(
        kills == 0 || load(&counts.resent_over_restart) > 0,
        "no publish was repeated over a restart",
    );
    findings.require(kills == 0 || resumed >= readers, "too few readers had to resume");
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("kill", &findings, kept.as_deref()))
}

fn name(index: usize) -> String {
    format!("reader {index} ({})", Transport::of(index).name())
}

/// The plan of reader `index`: all combinations of transport, filter, start and cuts, in turn.
fn plan(index: usize, ledger: &Ledger) -> reader::Plan {
    let acknowledged = ledger.cursor();
    let start = match (index / 2 % 4, acknowledged) {
        (0, Some(cursor)) => Start::Cursor(Cursor { seq: 0, ..cursor }),
        (1, Some(cursor)) => Start::Cursor(cursor),
        (2, _) => Start::Tail(1 + index % 50),
        _ => Start::Head,
    };
    let services = match index % 5 {
        0 | 3 => Services::ALL,
        count => Services::of((0..count * 2).map(|step| (index + step * 3) % SERVICES)),
    };
    let cuts = (index % 3 == 1).then_some(200..2000);
    reader::Plan { name: name(index), transport: Transport::of(index), services, start, cuts }
}
