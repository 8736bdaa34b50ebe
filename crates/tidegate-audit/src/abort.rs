//! Broken connections: clients disconnect at every stage of a connection, most of them with a reset, while
//! events are published and the oldest connections of users are evicted for new ones. In the end every
//! counter of the gateway must be zero, and its memory must not have grown.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    Common, account,
    findings::Findings,
    gateway::{Announced, Gateway},
    report::{Report, progress},
};

/// How long one response may take, even on a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How long the gateway may take to notice that the last clients have disconnected.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// How much the gateway's memory may grow between a tenth of the cycles and their end.
const GROWTH_MAX: u64 = 4 << 20;

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of connections to open and break
    #[arg(long, default_value_t = 100_000)]
    cycles: u64,
    /// Number of connections at the same time
    #[arg(long, default_value_t = 32)]
    clients: u64,
}

/// The stage of a connection at which its client disconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Connected,
    HalfAHead,
    HalfAPublish,
    UpgradeSent,
    Upgraded,
    HalfAnAuth,
    Greeted,
    EventsSent,
    EventsRefused,
    EventsGreeted,
}

impl Stage {
    const ALL: [(Stage, &str); 10] = [
        (Stage::Connected, "before the request"),
        (Stage::HalfAHead, "half a request"),
        (Stage::HalfAPublish, "half a publish"),
        (Stage::UpgradeSent, "upgrade requested"),
        (Stage::Upgraded, "after the upgrade"),
        (Stage::HalfAnAuth, "half an auth frame"),
        (Stage::Greeted, "after hello"),
        (Stage::EventsSent, "SSE requested"),
        (Stage::EventsRefused, "SSE refused"),
        (Stage::EventsGreeted, "SSE, after hello"),
    ];

    /// What the client sends first, what it waits for, and what it sends after that.
    fn script(self, gateway: &Announced) -> (String, &'static str, &'static [u8]) {
        let Announced { org, token, publish_key, .. } = gateway;
        let stream = |more: &str| format!("GET /v1/orgs/{org}/stream HTTP/1.1\r\nhost: audit\r\n{more}\r\n");
        let bearer = format!("authorization: Bearer {token}\r\n");
        let upgrade = |more: &str| {
            stream(&format!(
                "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}"
            ))
        };
        const HELLO: &str = "\"type\":\"hello\"";
        match self {
            Stage::Connected => (String::new(), "", b""),
            Stage::HalfAHead => (stream(&bearer).trim_end().to_owned(), "", b""),
            Stage::HalfAPublish => {
                let head = format!("POST /v1/orgs/{org}/events HTTP/1.1\r\nhost: audit\r\n");
                let key = format!("authorization: Bearer {publish_key}\r\n");
                let rest = "content-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"service\":";
                (format!("{head}{key}{rest}"), "", b"")
            }
            Stage::UpgradeSent => (upgrade(&bearer), "", b""),
            Stage::Upgraded => (upgrade(""), "\r\n\r\n", b""),
            // A masked text frame that declares 100 bytes, with only three of them.
            Stage::HalfAnAuth => (upgrade(""), "\r\n\r\n", b"\x81\xe4\0\0\0\0{\"t"),
            Stage::Greeted => (upgrade(&bearer), HELLO, b""),
            Stage::EventsSent => (stream(&bearer), "", b""),
            Stage::EventsRefused => (stream("authorization: Bearer nobody\r\n"), "\r\n\r\n", b""),
            Stage::EventsGreeted => (stream(&bearer), HELLO, b""),
        }
    }
}

/// The state that all clients share.
struct Load {
    gateway: Announced,
    to: SocketAddr,
    findings: Arc<Findings>,
    next: AtomicU64,
    resets: AtomicU64,
}

/// Opens connection `number` and breaks it.
async fn cycle(load: &Load, number: u64) -> anyhow::Result<()> {
    let (stage, _) = Stage::ALL[(number % 10) as usize];
    let socket = TcpSocket::new_v4()?;
    // Many source addresses, so that ports in TIME_WAIT do not run out.
    let from = [127, 0, 0, 2 + (number % 200) as u8];
    socket.bind(SocketAddr::from((from, 0)))?;
    let mut stream = socket.connect(load.to).await.context("connect")?;
    let (request, awaited, more) = stage.script(&load.gateway);
    stream.write_all(request.as_bytes()).await.context("send the request")?;
    if !awaited.is_empty() {
        let read = read_to(&mut stream, awaited.as_bytes());
        timeout(ANSWER_MAX, read).await.context("no response came")??;
        stream.write_all(more).await.context("send more")?;
    }
    // Seven of eight with a reset, as a lost network looks to the gateway when it notices.
    if !(number / 10).is_multiple_of(8) {
        stream.set_zero_linger().context("set the socket to reset")?;
        load.resets.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn read_to(stream: &mut TcpStream, awaited: &[u8]) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    loop {
        if stream.read_buf(&mut seen).await.context("read the response")? == 0 {
            bail!("the connection ended after {:?}", String::from_utf8_lossy(&seen));
        }
        if seen.windows(awaited.len()).any(|window| window == awaited) {
            return Ok(());
        }
    }
}

async fn client(load: Arc<Load>, end: u64, bar: indicatif::ProgressBar) {
    loop {
        let number = load.next.fetch_add(1, Ordering::Relaxed);
        if number >= end || load.findings.count() > 0 {
            return;
        }
        if let Err(error) = cycle(&load, number).await {
            let (_, stage) = Stage::ALL[(number % 10) as usize];
            load.findings.add(format!("connection {number} ({stage})"), format!("{error:#}"));
        }
        bar.inc(1);
    }
}

/// Breaks connections up to number `end`, `clients` at the same time.
async fn run_to(
    load: &Arc<Load>,
    end: u64,
    clients: u64,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<()> {
    load.next.store(bar.position(), Ordering::Relaxed);
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client(load.clone(), end, bar.clone()))).collect();
    for task in tasks {
        task.await?;
    }
    Ok(())
}

/// The gauges of `/metrics` that count held resources, by name and labels.
async fn held(client: &reqwest::Client, admin_url: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut held = account::samples(&account::metrics(client, admin_url).await?)?;
    held.retain(|name, _| {
        ["tidegate_connection_slots{", "tidegate_connections{"].iter().any(|start| name.starts_with(start))
    });
    Ok(held)
}

/// Waits until nothing is held. Returns what is still held after [`SETTLE_MAX`].
async fn settled(client: &reqwest::Client, admin_url: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let by = Instant::now() + SETTLE_MAX;
    let mut look = tokio::time::interval(Duration::from_millis(20));
    loop {
        look.tick().await;
        let mut held = held(client, admin_url).await?;
        // Sockets, streams, addresses, orgs, users, registered; WebSocket and SSE.
        if held.len() < 8 {
            bail!("/metrics has only these counters: {held:?}");
        }
        held.retain(|_, count| *count != 0.0);
        if held.is_empty() || Instant::now() >= by {
            return Ok(held);
        }
    }
}

async fn publish(client: reqwest::Client, gateway: Announced, stop: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let url = format!("{}/v1/orgs/{}/events", gateway.url, gateway.org);
    let mut published = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let body = format!(r#"{{"service":"s","event":"e","data":{published}}}"#);
        let request = client.post(&url).bearer_auth(&gateway.publish_key);
        let answer = request.header("content-type", "application/json").body(body).send().await?;
        if !answer.status().is_success() {
            bail!("a publish was answered {}: {}", answer.status(), answer.text().await?);
        }
        published += 1;
    }
    Ok(published)
}

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, cycles, clients } = options;
    let settings = [
        "limits.handshakes_per_second=1000000",
        "limits.connections_per_address=20000",
        "limits.waiting_sockets_per_address=20000",
        // Fewer than connect at the same time: most are evicted, about when their clients disconnect.
        "limits.connections_per_user=8",
        "limits.connections_per_user_policy=evict_oldest",
        // Without pings, only the end of the socket shows the gateway that a client is gone.
        "ping.interval=\"1h\"",
        "log.engine=memory",
        // A log that is full after a few events, so that it does not grow between the two measurements.
        "tail.max_bytes=\"64KiB\"",
        "tail.org_max_bytes=\"64KiB\"",
        "limits.request_bytes=\"1KiB\"",
        "limits.event_bytes=\"1KiB\"",
    ];
    let mut gateway = Gateway::start(&common.gateway, common.dir, &settings).await?;
    let announced = gateway.announced().clone();
    let to = announced.url.strip_prefix("http://").context("find the gateway's address")?.parse()?;
    let pid = gateway.pid().context("find the gateway's process")?;
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build()?;
    let findings = Arc::new(Findings::default());
    let load = Arc::new(Load {
        gateway: announced.clone(),
        to,
        findings: findings.clone(),
        next: AtomicU64::new(0),
        resets: AtomicU64::new(0),
    });
    let bar = progress(cycles, "connections");
    let began = Instant::now();
    let (mut accounts, mut published, mut leaks) = (Vec::new(), 0, BTreeMap::new());
    for end in [cycles / 10, cycles] {
        let stop = Arc::new(AtomicBool::new(false));
        // A separate client, whose connection closes when it is dropped and so is not counted below.
        let publisher = reqwest::Client::builder().no_proxy().build()?;
        let publishing = tokio::spawn(publish(publisher, announced.clone(), stop.clone()));
        run_to(&load, end, clients, &bar).await?;
        stop.store(true, Ordering::Relaxed);
        match publishing.await? {
            Ok(count) => published += count,
            Err(error) => findings.add("publisher", format!("{error:#}")),
        }
        leaks = settled(&client, &announced.admin_url).await?;
        accounts.push(account::memory_and_files(pid)?);
        if !leaks.is_empty() || findings.count() > 0 {
            break;
        }
    }
    bar.finish_and_clear();
    for (counter, count) in &leaks {
        findings.add("counters", format!("{counter} is {count} after the last client has disconnected"));
    }
    let listed = format!("{}/v1/orgs/{}/connections", announced.admin_url, announced.org);
    let listed = client.get(listed).send().await?.error_for_status()?.text().await?;
    if listed.trim() != r#"{"connections":[]}"# {
        findings.add("the list of connections", format!("not empty: {listed}"));
    }
    let mut report = Report::default();
    let broken = load.next.load(Ordering::Relaxed).min(cycles);
    report
        .row("connections broken", broken)
        .row("by a reset", load.resets.load(Ordering::Relaxed))
        .row("events published meanwhile", published)
        .row("seconds", format!("{:.1}", began.elapsed().as_secs_f64()));
    if let [(before, files_before), (after, files_after)] = accounts[..] {
        let growth = after.saturating_sub(before);
        report
            .row("memory after a tenth", format!("{:.1} MiB", before as f64 / 1048576.0))
            .row("memory after all", format!("{:.1} MiB", after as f64 / 1048576.0));
        if growth > GROWTH_MAX {
            findings.add("memory", format!("grew by {growth} bytes, {GROWTH_MAX} are allowed"));
        }
        if files_after > files_before {
            findings.add("files", format!("{files_after} are open, {files_before} were after a tenth"));
        }
    }
    if broken < cycles && findings.count() == 0 {
        findings.add("audit", format!("only {broken} of {cycles} connections were opened"));
    }
    // The gateway must still serve.
    let mut last = TcpStream::connect(to).await?;
    let (request, hello, _) = Stage::Greeted.script(&announced);
    last.write_all(request.as_bytes()).await?;
    match timeout(ANSWER_MAX, read_to(&mut last, hello.as_bytes())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => findings.add("a stream afterwards", format!("{error:#}")),
        Err(_) => findings.add("a stream afterwards", "got no hello"),
    }
    if !gateway.is_running() {
        findings.add("audit", "the gateway ended unexpectedly");
    }
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("abort", &findings, kept.as_deref()))
}
