//! The seam between replay and live: many connections start and resume, each at its own seq, while events are
//! published.

use std::{
    sync::{Arc, atomic::Ordering},
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

/// Publishers that share the rate.
const PUBLISHERS: u32 = 4;

/// Events in a batch.
const BATCH: usize = 10;

/// How long publishing may take, even on a slow machine.
const LOAD_MAX: Duration = Duration::from_secs(180);

/// How long readers may take to reach the log's end after that.
const END_MAX: Duration = Duration::from_secs(90);

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of connections
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Number of events published per second
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Duration of publishing, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Number of events in the log before the first connection
    #[arg(long, default_value_t = 5000)]
    before: usize,
}

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, connections, rate, seconds, before } = options;
    let settings = [
        "limits.connections_per_user=20000",
        "limits.connections_per_address=20000",
        "limits.waiting_sockets_per_address=20000",
        "limits.handshakes_per_second=100000",
        // A tail of about one second: most connections resume from a seq that only the log holds, and the
        // boundary between log and tail moves meanwhile.
        "tail.org_max_bytes=\"512KiB\"",
        "limits.request_bytes=\"512KiB\"",
        "ping.interval=\"5s\"",
        "ping.timeout=\"4500ms\"",
    ];
    let mut gateway = Gateway::start(&common.gateway, common.dir, &settings).await?;
    let deadline = Instant::now() + LOAD_MAX;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (ledger, findings) = (Arc::new(Ledger::new(SEQS_MAX)), Arc::new(Findings::default()));
    let (end, ended) = watch::channel(None);
    let reading = reader::Shared::new(&client, gateway.announced(), &ledger, &findings, ended, deadline);
    let publish = |plan: publisher::Plan| {
        let (stop, stopped) = watch::channel(false);
        let shared =
            publisher::Shared::new(&client, gateway.announced(), &ledger, &findings, stopped, deadline);
        (stop, tokio::spawn(publisher::run(plan, shared)))
    };
    let until = async |holds: &dyn Fn() -> bool| {
        let mut look = tokio::time::interval(Duration::from_millis(5));
        while !holds() && Instant::now() < deadline && findings.count() == 0 {
            look.tick().await;
        }
    };

    // First some events in the log, then the load.
    let (stop, first) = publish(publisher::Plan { number: 0, batch: 50..101, every: None });
    until(&|| ledger.acknowledged() >= before).await;
    stop.send_replace(true);
    first.await?;
    let every = Duration::from_secs_f64(f64::from(PUBLISHERS) * BATCH as f64 / rate.max(1) as f64);
    let load: Vec<_> = (1..=PUBLISHERS)
        .map(|number| publish(publisher::Plan { number, batch: BATCH..BATCH + 1, every: Some(every) }))
        .collect();

    let bar = progress(connections as u64, "connections");
    let target = before + (rate * seconds) as usize;
    let mut tasks = Vec::new();
    for index in 0..connections {
        // Spread over the first half of the load, so that each meets the seam at a different moment.
        let due = before + (target - before) / 2 * index / connections.max(1);
        until(&|| ledger.acknowledged() >= due).await;
        let plan = plan(index, &ledger);
        tasks.push(tokio::spawn(reader::run(plan, reading.clone())));
        bar.set_position(reading.greeted.load(Ordering::Relaxed) as u64);
    }
    until(&|| {
        bar.set_position(reading.greeted.load(Ordering::Relaxed) as u64);
        bar.set_message(format!("{} events", ledger.acknowledged()));
        ledger.acknowledged() >= target && reading.greeted.load(Ordering::Relaxed) >= connections
    })
    .await;
    for (stop, publisher) in load {
        stop.send_replace(true);
        publisher.await?;
    }
    bar.finish_and_clear();

    let history::Log { events, head } =
        history::read_or_add_finding(&client, gateway.announced(), &findings).await;
    end.send_replace(Some(reader::End { seq: head, by: Instant::now() + END_MAX }));
    let (mut starts, mut delivered) = (std::collections::BTreeSet::new(), 0);
    for (index, task) in tasks.into_iter().enumerate() {
        let continuity = task.await?;
        for fault in continuity.settle(&events) {
            findings.add(name(index), fault);
        }
        starts.extend(continuity.began());
        delivered += continuity.events();
    }
    ledger.settle(&events, &findings);
    let resumed = reading.resumed.load(Ordering::Relaxed);
    let greeted = reading.greeted.load(Ordering::Relaxed);
    let mut report = Report::default();
    report
        .row("connections", format!("{greeted} of {connections}"))
        .row("different seqs they started after", starts.len())
        .row("times they resumed", resumed)
        .row("events in the log", events.len())
        .row("events read", delivered);
    findings.require(greeted == connections, "not every connection got its hello");
    findings.require(events.len() >= target, "too few events were published");
    findings.require(starts.len() * 4 >= connections, "most connections started after the same seqs");
    findings.require(resumed * 2 >= connections, "too few connections resumed");
    findings.require(gateway.is_running(), "the gateway ended unexpectedly");
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("seam", &findings, kept.as_deref()))
}

fn name(index: usize) -> String {
    format!("connection {index} ({})", Transport::of(index).name())
}

/// The plan of connection `index`: a start anywhere in the log, all services or a few; most disconnect and
/// resume.
fn plan(index: usize, ledger: &Ledger) -> reader::Plan {
    let mut random = rand::rng();
    let start = match ledger.cursor() {
        Some(cursor) if !index.is_multiple_of(10) => {
            let seq = random.random_range(0..=cursor.seq);
            Start::Cursor(Cursor { seq, ..cursor })
        }
        _ if index.is_multiple_of(20) => Start::Head,
        _ => Start::Tail(1 + index % 100),
    };
    // A load that a machine with two cores can verify: a few read all services, the others one to four.
    let services = match index % 8 {
        0 => Services::ALL,
        other => {
            let first = random.random_range(0..SERVICES);
            Services::of((0..1 + other % 4).map(|step| (first + step * 5) % SERVICES))
        }
    };
    let cuts = if services == Services::ALL { 1000..12_000 } else { 100..1500 };
    reader::Plan { name: name(index), transport: Transport::of(index), services, start, cuts: Some(cuts) }
}
