//! A smoke run: so many readers at the head, events published one by one, and what that cost the
//! gateway. It counts like an audit (every reader must get every event, in order) and measures on top:
//! latency from the publisher's call to the reader, processor time a delivery, memory.
//!
//! Not a benchmark against others, and no test: its figures are the machine's of the moment.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;

use crate::{
    Common,
    continuity::Start,
    event::Services,
    findings::Findings,
    gateway::{Announced, Gateway},
    report::{Report, progress},
    transport::{Stream, Transport},
};

/// How long a reader may wait for the next frame before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the run goes.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// How many readers
    #[arg(long, default_value_t = 1000)]
    readers: usize,
    /// Events per second, published one by one
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// How many publish at a time
    #[arg(long, default_value_t = 4)]
    publishers: u64,
    /// For how long events are published
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Over SSE rather than WebSocket
    #[arg(long)]
    sse: bool,
    /// More settings of the gateway, as `--set` takes them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// What the readers share.
struct Reading {
    began: Instant,
    target: usize,
    greeted: AtomicUsize,
    delivered: AtomicUsize,
    latencies_us: Mutex<Vec<u32>>,
    findings: Findings,
}

/// Runs it; false if something was found.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, readers, rate, publishers, seconds, sse, settings } = options;
    let mut all = vec![
        "limits.connections_per_user=20000",
        "limits.connections_per_address=20000",
        "limits.handshakes_per_second=100000",
    ];
    all.extend(settings.iter().map(String::as_str));
    let mut gateway = Gateway::start(&common.gateway, common.dir, &all).await?;
    let announced = gateway.announced().clone();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (rate, publishers) = (rate.max(1), publishers.max(1));
    let each = rate * seconds / publishers;
    let reading = Arc::new(Reading {
        began: Instant::now(),
        target: (each * publishers) as usize,
        greeted: AtomicUsize::new(0),
        delivered: AtomicUsize::new(0),
        latencies_us: Mutex::default(),
        findings: Findings::default(),
    });
    let transport = if sse { Transport::SseCursor } else { Transport::WebSocketHeader };
    let mut tasks = Vec::new();
    let bar = progress(readers as u64, "readers");
    for index in 0..readers {
        let stream = Stream::open(transport, &client, &announced, Services::ALL, &Start::Head).await;
        let stream = stream.with_context(|| format!("open reader {index}"))?;
        tasks.push(tokio::spawn(read(index, stream, reading.clone())));
        bar.inc(1);
    }
    while reading.greeted.load(Ordering::Relaxed) < readers {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bar.finish_and_clear();

    let before = usage(&gateway)?;
    let started = Instant::now();
    let every = Duration::from_secs_f64(publishers as f64 / rate as f64);
    let publishing: Vec<_> = (0..publishers)
        .map(|number| {
            tokio::spawn(publish(number, each, every, client.clone(), announced.clone(), reading.clone()))
        })
        .collect();
    let bar = progress((reading.target * readers) as u64, "deliveries");
    for publisher in publishing {
        while !publisher.is_finished() {
            bar.set_position(reading.delivered.load(Ordering::Relaxed) as u64);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        publisher.await?;
    }
    let published_in = started.elapsed();
    for task in tasks {
        task.await?;
    }
    let took = started.elapsed();
    let after = usage(&gateway)?;
    bar.finish_and_clear();

    let delivered = reading.delivered.load(Ordering::Relaxed);
    let mut latencies =
        std::mem::take(&mut *reading.latencies_us.lock().unwrap_or_else(PoisonError::into_inner));
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        format!("{:.2} ms", latencies.get(index).map_or(0.0, |us| f64::from(*us) / 1000.0))
    };
    let cpu = after.cpu_seconds - before.cpu_seconds;
    let mut report = Report::default();
    report
        .row("readers", readers)
        .row("events published", reading.target)
        .row("events per second asked", rate)
        .row(
            "events per second published",
            format!("{:.0}", reading.target as f64 / published_in.as_secs_f64()),
        )
        .row("deliveries", delivered)
        .row("latency p50", at(0.5))
        .row("latency p99", at(0.99))
        .row("latency max", at(1.0))
        .row("gateway CPU per delivery", format!("{:.2} us", cpu / delivered.max(1) as f64 * 1e6))
        .row("gateway CPU, of one core", format!("{:.0} %", cpu / took.as_secs_f64() * 100.0))
        .row("gateway resident before load", format!("{:.1} MiB", before.resident_mib))
        .row("gateway resident after load", format!("{:.1} MiB", after.resident_mib));
    let findings = &reading.findings;
    if delivered != reading.target * readers {
        findings.add("audit", format!("{} deliveries are missing", reading.target * readers - delivered));
    }
    if !gateway.is_running() {
        findings.add("audit", "the gateway has ended by itself");
    }
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("smoke", findings, kept.as_deref()))
}

/// Publishes `count` events, one at a time, at a steady pace.
async fn publish(
    number: u64,
    count: u64,
    every: Duration,
    client: reqwest::Client,
    gateway: Announced,
    reading: Arc<Reading>,
) {
    let url = format!("{}/v1/orgs/{}/events", gateway.url, gateway.org);
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for index in 0..count {
        pace.tick().await;
        let mut body = String::with_capacity(160);
        let sent_us = reading.began.elapsed().as_micros();
        // About 150 bytes, as in the field's own comparisons. Writing to a `String` cannot fail.
        let _ = write!(
            body,
            r#"{{"service":"orders","event":"order.updated","id":"p{number}-{index}","data":{{"sent_us":{sent_us},"order":"ORD-2026-{index:06}","state":"packed"}}}}"#
        );
        let request =
            client.post(&url).bearer_auth(&gateway.publish_key).header("content-type", "application/json");
        match request.body(body).send().await {
            Ok(answer) if answer.status() == 200 => {}
            Ok(answer) => reading.findings.add(format!("publisher {number}"), answer.status()),
            Err(error) => reading.findings.add(format!("publisher {number}"), error),
        }
    }
}

/// Reads until every event has come; checks that places rise and counts.
async fn read(index: usize, mut stream: Stream, reading: Arc<Reading>) {
    let (mut got, mut last, mut latencies) = (0, 0_u64, Vec::new());
    while got < reading.target {
        let Ok(Some(frame)) = tokio::time::timeout(PATIENCE, stream.next()).await else {
            reading.findings.add(format!("reader {index}"), "the stream ended, or fell silent");
            break;
        };
        let text = frame.text();
        if text.starts_with(r#"{"type":"hello""#) {
            reading.greeted.fetch_add(1, Ordering::Relaxed);
        } else if text.starts_with(r#"{"type":"ping""#) {
            stream.pong().await;
        } else {
            let now_us = reading.began.elapsed().as_micros() as u64;
            let before = got;
            for sent in numbers(text, "\"sent_us\":") {
                got += 1;
                // One reader in ten is enough for percentiles.
                if index.is_multiple_of(10) {
                    latencies.push(u32::try_from(now_us.saturating_sub(sent)).unwrap_or(u32::MAX));
                }
            }
            let seqs: Vec<u64> = numbers(text, "{\"seq\":").chain(numbers(text, ",\"seq\":")).collect();
            let highest = seqs.iter().copied().max().unwrap_or(0);
            if got > before && highest <= last {
                reading.findings.add(format!("reader {index}"), format!("seq {highest} came after {last}"));
            }
            last = last.max(highest);
            reading.delivered.fetch_add(got - before, Ordering::Relaxed);
        }
    }
    reading.latencies_us.lock().unwrap_or_else(PoisonError::into_inner).append(&mut latencies);
}

fn numbers<'a>(text: &'a str, lead: &'static str) -> impl Iterator<Item = u64> + 'a {
    text.split(lead).skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

struct Usage {
    cpu_seconds: f64,
    resident_mib: f64,
}

/// What the gateway's process has used, from /proc (proc(5): fields 14, 15 and 24 of `stat`).
fn usage(gateway: &Gateway) -> anyhow::Result<Usage> {
    let pid = gateway.pid().context("the gateway has no process any more")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read /proc")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("read /proc")?.1.split(' ').collect();
    let field =
        |number: usize| -> anyhow::Result<f64> { Ok(fields.get(number - 3).context("read /proc")?.parse()?) };
    // Linux gives ticks of 10 ms and pages of 4 KiB on every machine this runs on.
    Ok(Usage {
        cpu_seconds: (field(14)? + field(15)?) / 100.0,
        resident_mib: field(24)? * 4096.0 / 1_048_576.0,
    })
}
