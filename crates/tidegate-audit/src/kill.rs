//! The kill loop: publishers and readers at work, and the gateway killed under them again and again.

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

/// Places that a log may have here.
const PLACES_MAX: usize = 1 << 23;

/// A life counts if so many events were acknowledged in it.
const LIFE_EVENTS_MIN: usize = 100;

/// How long a life may take to get there, on however slow a machine.
const LIFE_MAX: Duration = Duration::from_secs(60);

/// How long readers may take to the end of the log, and publishers to bring home their last batch.
const END_MAX: Duration = Duration::from_secs(90);

/// How the loop runs.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// How often the gateway is killed
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// For how long, about: the lives of the gateway together
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Concurrent publishers
    #[arg(long, default_value_t = 8)]
    publishers: u32,
    /// Readers: half WebSocket, half SSE, from different starts and with different filters
    #[arg(long, default_value_t = 16)]
    readers: usize,
}

/// Runs it; false if something was found.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, kills, seconds, publishers, readers } = options;
    let settings = [
        "limits.connections_per_user=10000",
        "limits.handshakes_per_second=100000",
        // Runs of minutes publish millions of ids within the window.
        "dedup.max_entries=50000000",
        "dedup.max_entries_per_org=50000000",
        // Often enough for the pings' own accounting to be seen.
        "ping.interval=\"4s\"",
        "ping.timeout=\"3500ms\"",
    ];
    let mut gateway = Gateway::start(&common.gateway, common.dir, &settings).await?;
    let deadline = Instant::now() + Duration::from_secs(seconds) + LIFE_MAX * kills as u32 + END_MAX;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (ledger, findings) = (Arc::new(Ledger::new(PLACES_MAX)), Arc::new(Findings::default()));
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(None);
    let (life, in_flight) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let publishing = publisher::Surroundings {
        client: client.clone(),
        gateway: gateway.announced().clone(),
        ledger: ledger.clone(),
        findings: findings.clone(),
        stop: stopped,
        deadline,
        life: life.clone(),
        in_flight: in_flight.clone(),
    };
    let reading = reader::Surroundings {
        client: client.clone(),
        gateway: gateway.announced().clone(),
        ledger: ledger.clone(),
        findings: findings.clone(),
        end: ended,
        deadline,
        resumed: Arc::default(),
        delivered: Arc::default(),
        greeted: Arc::default(),
    };
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
        // New readers come in every life, so that each way to start meets logs of every age.
        let due = readers * number / (kills + 1);
        while tasks.len() < due && ledger.cursor().is_some() {
            let plan = plan(tasks.len(), &ledger);
            tasks.push(tokio::spawn(reader::run(plan, reading.clone())));
        }
        let mut look = tokio::time::interval(Duration::from_millis(1));
        let is_enough = || ledger.acknowledged() >= began.1 + LIFE_EVENTS_MIN;
        while (Instant::now() < until || !is_enough()) && Instant::now() < began.0 + LIFE_MAX {
            look.tick().await;
        }
        if !is_enough() {
            findings.add("audit", format!("life {number} of the gateway acknowledged too little to count"));
        }
        bar.set_message(format!("{} events", ledger.acknowledged()));
        if number > kills {
            break;
        }
        loaded_kills += usize::from(in_flight.load(Ordering::Relaxed) > 0);
        if let Err(error) = gateway.kill().await {
            findings.add("gateway", format!("{error:#}"));
            break;
        }
        bar.inc(1);
        let killed = Instant::now();
        life.fetch_add(1, Ordering::Relaxed);
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
    let log = history::read(&client, gateway.announced()).await;
    let (events, head) = match log {
        Ok(log) => (log.events, log.head),
        Err(error) => {
            findings.add("history", format!("{error:#}"));
            (Vec::new(), 0)
        }
    };
    // Readers go on to the log's end, over whatever is hidden from them, but not for ever.
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
        findings.add("gateway", "it has ended by itself");
    }

    let counts = ledger.counts();
    let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let resumed = load(&reading.resumed);
    let lives = life.load(Ordering::Relaxed) + 1;
    report
        .row("kills", format!("{} of {kills}", lives - 1))
        .row("kills with publishes in flight", loaded_kills)
        .row("slowest restart (ms)", restart_max.as_millis())
        .row("events acknowledged", ledger.acknowledged())
        .row("events in the log", events.len())
        .row("publishes ok", load(&counts.ok))
        .row("publishes unknown", load(&counts.unknown))
        .row("  of them found stored", load(&counts.recovered))
        .row("publishes refused", load(&counts.refused))
        .row("publishes not sent (gateway away)", load(&counts.unsent))
        .row("acknowledged ones sent again", load(&counts.resent))
        .row("  over a restart", load(&counts.resent_over_restart))
        .row("epochs", ledger.epochs())
        .row("readers (websocket, sse)", format!("{}, {}", by_transport[0].0, by_transport[1].0))
        .row("events read (websocket, sse)", format!("{}, {}", by_transport[0].1, by_transport[1].1))
        .row("streams resumed", resumed);
    // An audit in which nothing happened proves nothing.
    let require = |holds: bool, what: &str| {
        if !holds {
            findings.add("audit", what);
        }
    };
    require(lives == kills + 1, "fewer kills happened than were asked for");
    require(ledger.epochs() == lives, "there were not as many epochs as lives of the gateway (R11)");
    require(loaded_kills * 2 >= kills, "most kills met no publish in flight");
    require(ledger.acknowledged() >= LIFE_EVENTS_MIN * (kills + 1), "too few events were acknowledged");
    let attempts = load(&counts.ok) + load(&counts.refused) + load(&counts.unknown);
    require(load(&counts.ok) * 5 >= attempts * 4, "fewer than four in five publishes were ok");
    require(kills == 0 || load(&counts.resent_over_restart) > 0, "no publish was repeated over a restart");
    require(kills == 0 || resumed >= readers, "readers hardly had to resume");
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("kill", &findings, kept.as_deref()))
}

fn name(index: usize) -> String {
    format!("reader {index} ({})", Transport::of(index).name())
}

/// Reader `index`: every mix of transport, filter, start and steadiness, in turn.
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
