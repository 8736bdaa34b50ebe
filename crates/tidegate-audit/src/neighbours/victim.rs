//! The victim: an org that publishes at a steady rate and reads over both transports, while visitors open new
//! connections. It measures how long each publish and each delivery takes, from the time at which the event
//! was due, so that a gateway that stalls is not asked less. It counts what is refused and what is lost.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

use super::wire;
use crate::{
    cursor::Cursor,
    gateway::Announced,
    raw,
    transport::{Stream, Transport},
};

/// Publishers, and how often each publishes an event.
const PUBLISHERS: usize = 2;
const PACE: Duration = Duration::from_millis(20);

/// The long-lived readers.
const READERS: [Transport; 4] = [
    Transport::WebSocketHeader,
    Transport::SseCursor,
    Transport::WebSocketProtocol,
    Transport::SseLastEventId,
];

/// How often a visitor comes.
const VISITS: Duration = Duration::from_millis(100);

/// A visitor that is not served within this time counts as refused.
const VISIT_MAX: Duration = Duration::from_secs(2);

/// A publish that is not answered, or an event that has not come, within this time counts as refused or lost.
const LATE_MAX: Duration = Duration::from_secs(10);

/// How many refusals are kept as text.
const KEPT_MAX: usize = 3;

/// What was measured in one phase.
#[derive(Debug, Default)]
pub struct Measured {
    /// How long each publish took.
    pub publish: Vec<Duration>,
    /// How long each event took to each reader.
    pub delivery: Vec<Duration>,
    /// Publishes, streams, pages and visits that were refused, or ended.
    pub refused: usize,
    /// The first of them.
    pub refusals: Vec<String>,
    /// Events that were acknowledged and did not come, counted for each reader, and gaps.
    pub lost: usize,
    /// Bytes of compressed frames for each event that a reader with permessage-deflate got.
    pub compressed: Option<f64>,
}

impl Measured {
    /// The time below which 99 of 100 stay.
    pub fn p99(times: &[Duration]) -> Duration {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or(LATE_MAX)
    }

    fn refuse(&mut self, what: String) {
        self.refused += 1;
        if self.refusals.len() < KEPT_MAX && !self.refusals.contains(&what) {
            self.refusals.push(what);
        }
    }
}

/// What all tasks of the victim share.
struct Load {
    gateway: Announced,
    began: Instant,
    is_running: AtomicBool,
    next: AtomicU64,
    in_flight: AtomicUsize,
    /// The start of the phase. Events from before it are not measured.
    since: Mutex<Instant>,
    measured: Mutex<Measured>,
    /// The events that were acknowledged in this phase.
    acknowledged: Mutex<HashSet<u64>>,
    /// The events that each reader has got since the start.
    received: [Mutex<HashSet<u64>>; READERS.len()],
    /// The readers that have got their `hello`.
    connected: AtomicUsize,
    /// Where the log was when the first reader came.
    start: Mutex<Option<Cursor>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The victim, with its tasks.
pub struct Victim {
    load: Arc<Load>,
    tasks: JoinSet<()>,
}

impl Victim {
    /// Opens its streams and waits for each `hello`.
    pub async fn start(gateway: &Announced) -> anyhow::Result<Self> {
        let load = Arc::new(Load {
            gateway: gateway.clone(),
            began: Instant::now(),
            is_running: AtomicBool::new(false),
            next: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
            measured: Mutex::default(),
            acknowledged: Mutex::default(),
            received: Default::default(),
            connected: AtomicUsize::new(0),
            start: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (reader, transport) in READERS.into_iter().enumerate() {
            tasks.spawn(read(load.clone(), reader, transport));
        }
        let deadline = Instant::now() + LATE_MAX;
        while load.connected.load(Ordering::Relaxed) < READERS.len() {
            anyhow::ensure!(Instant::now() < deadline, "the victim's readers did not connect");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..PUBLISHERS {
            // One connection stays open between publishes; what a stall opens beside it is closed at once.
            let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build()?;
            tasks.spawn(publish_steadily(load.clone(), client));
        }
        tasks.spawn(visit(load.clone(), new_connections()?));
        Ok(Self { load, tasks })
    }

    /// Publishes, reads and visits for this long, and then until everything has come or is too late.
    pub async fn phase(&self, time: Duration) -> anyhow::Result<Measured> {
        let load = &self.load;
        *lock(&load.since) = Instant::now();
        *lock(&load.measured) = Measured::default();
        lock(&load.acknowledged).clear();
        let compressed = tokio::spawn(compressed_bytes(load.clone()));
        load.is_running.store(true, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        load.is_running.store(false, Ordering::Relaxed);
        let deadline = Instant::now() + LATE_MAX;
        let lost = loop {
            let lost = self.missing();
            let is_done = lost == 0 && load.in_flight.load(Ordering::Relaxed) == 0;
            if is_done || Instant::now() >= deadline {
                break lost;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let events = lock(&load.acknowledged).len();
        let mut measured = std::mem::take(&mut *lock(&load.measured));
        measured.lost += lost;
        match compressed.await? {
            Ok(bytes) => measured.compressed = (events > 0).then(|| bytes as f64 / events as f64),
            Err(error) => measured.refuse(format!("a stream with compression: {error:#}")),
        }
        Ok(measured)
    }

    fn missing(&self) -> usize {
        let acknowledged = lock(&self.load.acknowledged);
        self.load.received.iter().map(|got| acknowledged.difference(&lock(got)).count()).sum()
    }

    /// Whether the first event of its log can still be read.
    pub async fn has_its_first_event(&self) -> anyhow::Result<bool> {
        let Announced { url, org, token, .. } = &self.load.gateway;
        let request = new_connections()?.get(format!("{url}/v1/orgs/{org}/events?limit=1"));
        let answer = request.bearer_auth(token).timeout(LATE_MAX).send().await.context("read the log")?;
        let text = answer.text().await.context("read the log")?;
        let events = raw::elements(raw::member(&text, "events").unwrap_or("[]"));
        let seq = events.first().and_then(|event| raw::member(event, "seq"));
        Ok(raw::member(&text, "gap").is_none() && seq == Some("1"))
    }

    /// Ends it.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Load {
    fn refuse(&self, what: String) {
        lock(&self.measured).refuse(what);
    }

    fn address(&self, resource: &str) -> String {
        format!("{}/v1/orgs/{}/{resource}", self.gateway.url, self.gateway.org)
    }

    /// Publishes one event that was due at a time. Returns when it is answered.
    async fn publish(&self, client: &reqwest::Client, due: Instant) -> Result<(), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = due.duration_since(self.began).as_micros();
        let body = format!(
            "{{\"service\":\"victim\",\"event\":\"order.paid\",\"id\":\"v-{number}\",\
             \"data\":{{\"number\":{number},\"at\":{at},\"status\":\"paid\",\"currency\":\"EUR\"}}}}"
        );
        let request = client.post(self.address("events")).bearer_auth(&self.gateway.publish_key);
        let request = request.header("content-type", "application/json").body(body).timeout(LATE_MAX);
        let answer = request.send().await.map_err(|error| format!("a publish: {error:#}"))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| format!("a publish: {error:#}"))?;
        if status != 200 {
            let code = raw::word(&text, "code").unwrap_or(&text);
            let limit = raw::word(&text, "limit").unwrap_or("none");
            return Err(format!("a publish: {status} {code}, limit {limit}"));
        }
        lock(&self.acknowledged).insert(number);
        Ok(())
    }

    /// Takes an event that a reader got.
    fn receive(&self, reader: usize, event: &str) {
        let data = raw::member(event, "data").unwrap_or_default();
        let number = |name| raw::member(data, name).and_then(|number| number.parse::<u64>().ok());
        let (Some(number), Some(at)) = (number("number"), number("at")) else {
            return self.refuse(format!("a stream: a strange event {event}"));
        };
        if !lock(&self.received[reader]).insert(number) {
            return self.refuse(format!("a stream: event {number} came twice"));
        }
        let due = self.began + Duration::from_micros(at);
        if due >= *lock(&self.since) {
            lock(&self.measured).delivery.push(due.elapsed());
        }
    }
}

/// A client that opens a connection for each request.
fn new_connections() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?)
}

async fn publish_steadily(load: Arc<Load>, client: reqwest::Client) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let due = pace.tick().await;
        if !load.is_running.load(Ordering::Relaxed) {
            continue;
        }
        let (load, client) = (load.clone(), client.clone());
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            match load.publish(&client, due).await {
                Ok(()) => lock(&load.measured).publish.push(due.elapsed()),
                Err(refusal) => load.refuse(refusal),
            }
            load.in_flight.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Reads, and resumes if the stream ends.
async fn read(load: Arc<Load>, reader: usize, transport: Transport) {
    let Ok(client) = new_connections() else { return };
    let mut cursor: Option<Cursor> = None;
    loop {
        let (query, header) = match &cursor {
            None => (String::new(), None),
            Some(at) if transport == Transport::SseLastEventId => (String::new(), Some(at.to_string())),
            Some(at) => (format!("?cursor={at}"), None),
        };
        let address = load.address(&format!("stream{query}"));
        match Stream::open_at(transport, &client, address, &load.gateway.token, header).await {
            Ok(stream) => follow(&load, reader, stream, &mut cursor).await,
            Err(error) => load.refuse(format!("a stream: {error}")),
        }
        tokio::time::sleep(VISITS).await;
    }
}

/// Reads a stream to its end.
async fn follow(load: &Load, reader: usize, mut stream: Stream, cursor: &mut Option<Cursor>) {
    while let Some(incoming) = stream.next().await {
        let text = incoming.text();
        match raw::word(text, "type").unwrap_or_default() {
            "hello" => {
                load.connected.fetch_add(1, Ordering::Relaxed);
                let at = raw::word(text, "cursor").and_then(Cursor::parse);
                lock(&load.start).get_or_insert_with(|| at.clone().unwrap_or_else(nowhere));
                cursor.get_or_insert_with(|| at.unwrap_or_else(nowhere));
            }
            "event" => load.receive(reader, text),
            "batch" => raw::elements(raw::member(text, "events").unwrap_or("[]"))
                .iter()
                .for_each(|event| load.receive(reader, event)),
            "ping" => stream.pong().await,
            "status" => {}
            "gap" => lock(&load.measured).lost += 1,
            _ => {
                load.refuse(format!("a stream ended: {}", raw::word(text, "code").unwrap_or(text)));
                return;
            }
        }
        if let (Some(cursor), Some(seq)) = (cursor.as_mut(), raw::member(text, "seq")) {
            cursor.seq = seq.parse().unwrap_or(cursor.seq);
        }
    }
    load.refuse("a stream ended without a code".into());
}

/// A cursor that resumes nothing: the gateway answers it with a gap, which counts as a loss.
fn nowhere() -> Cursor {
    Cursor { epoch: "0000000000000".into(), seq: 0, tag: None }
}

async fn visit(load: Arc<Load>, client: reqwest::Client) {
    let mut pace = tokio::time::interval(VISITS);
    let mut number = 0;
    loop {
        let due = pace.tick().await;
        if !load.is_running.load(Ordering::Relaxed) {
            continue;
        }
        number += 1;
        let (load, client) = (load.clone(), client.clone());
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let (what, visit) = match number % 5 {
                0 => ("publish", tokio::time::timeout(VISIT_MAX, load.publish(&client, due)).await),
                1 => ("page of history", timely(get(&load, &client, "events?limit=10")).await),
                2 => ("stream with tail=", timely(greeted(&load, &client, "stream?tail=5")).await),
                3 => ("stream with cursor=", timely(resumed(&load, &client)).await),
                _ => ("/healthz", timely(healthz(&load, &client)).await),
            };
            match visit {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => load.refuse(format!("a new connection, {what}: {refusal}")),
                Err(_) => load.refuse(format!("a new connection, {what}: not served within {VISIT_MAX:?}")),
            }
            load.in_flight.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn timely(
    visit: impl Future<Output = Result<(), String>>,
) -> Result<Result<(), String>, tokio::time::error::Elapsed> {
    tokio::time::timeout(VISIT_MAX, visit).await
}

async fn ok(request: reqwest::RequestBuilder) -> Result<(), String> {
    let answer = request.send().await.map_err(|error| format!("{error:#}"))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| format!("{error:#}"))?;
    if status == 200 {
        Ok(())
    } else {
        Err(format!("{status} {}", raw::word(&text, "code").unwrap_or(&text)))
    }
}

async fn get(load: &Load, client: &reqwest::Client, resource: &str) -> Result<(), String> {
    ok(client.get(load.address(resource)).bearer_auth(&load.gateway.token)).await
}

async fn healthz(load: &Load, client: &reqwest::Client) -> Result<(), String> {
    ok(client.get(format!("{}/healthz", load.gateway.admin_url))).await
}

/// Opens a stream over WebSocket, to its `hello`.
async fn greeted(load: &Load, client: &reqwest::Client, resource: &str) -> Result<(), String> {
    first(load, client, Transport::WebSocketHeader, resource).await
}

/// Resumes a stream over SSE from before the first event, to its `hello`.
async fn resumed(load: &Load, client: &reqwest::Client) -> Result<(), String> {
    let start = lock(&load.start).clone().unwrap_or_else(nowhere);
    first(load, client, Transport::SseCursor, &format!("stream?cursor={start}")).await
}

async fn first(
    load: &Load,
    client: &reqwest::Client,
    transport: Transport,
    resource: &str,
) -> Result<(), String> {
    let opened = Stream::open_at(transport, client, load.address(resource), &load.gateway.token, None).await;
    let mut stream = opened.map_err(|error| error.to_string())?;
    let incoming = stream.next().await.ok_or("the stream ended without a frame")?;
    match raw::word(incoming.text(), "type") {
        Some("hello") => Ok(()),
        _ => Err(raw::word(incoming.text(), "code").unwrap_or(incoming.text()).to_owned()),
    }
}

/// Reads a stream with permessage-deflate while the phase lasts, and counts its bytes after the handshake.
async fn compressed_bytes(load: Arc<Load>) -> anyhow::Result<usize> {
    let Announced { url, org, token, .. } = &load.gateway;
    let to = url.strip_prefix("http://").context("find the gateway's address")?.parse()?;
    let head = format!(
        "GET /v1/orgs/{org}/stream HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{}\r\n",
        wire::UPGRADE
    );
    let upgraded = tokio::time::timeout(LATE_MAX, async {
        let mut stream = wire::connect(Ipv4Addr::LOCALHOST, to, false).await?;
        stream.write_all(head.as_bytes()).await?;
        wire::read_to(&mut stream, b"\r\n\r\n").await?;
        std::io::Result::Ok(stream)
    });
    let mut stream = upgraded.await.context("no answer came")?.context("connect")?;
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    // The frames have come when nothing more comes for a while after the phase.
    let quiet = Duration::from_millis(150);
    loop {
        match tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
            Ok(read) => match read.context("read")? {
                0 => anyhow::bail!("the stream ended"),
                read => bytes += read,
            },
            Err(_) if load.is_running.load(Ordering::Relaxed) => {}
            Err(_) => return Ok(bytes),
        }
    }
}
