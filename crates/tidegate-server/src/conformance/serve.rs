//! The listener of the kit: who connects gets the stream of a run, a token, the list of scenarios, or the verdict
//! on a report. What a stream does is decided by [`super::run`].

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tidegate_protocol::{Code, UnixMillis, time::millis, ws};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use super::{
    frames,
    request::{self, Request},
    run::{Asked, Do, Received, Run, Verdict},
    scenario::{Need, Scenario, Transport},
    wire::Wire,
};

/// How long a client may take to send its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long we wait, after our last byte, until the client has closed as well. If we closed first while bytes of
/// the client are unread, the kernel would answer with a reset, and the client could lose our last frames.
const LINGER: Duration = Duration::from_secs(2);

/// Between the pieces of a frame that is written in pieces, so that they arrive as pieces.
const BETWEEN_PIECES: Duration = Duration::from_micros(200);

/// The parameters of a stream; a gateway refuses any other.
const PARAMETERS: [&str; 11] = [
    "services",
    "cursor",
    "lastEventId",
    "last_event_id",
    "Last-Event-ID",
    "tail",
    "access_token",
    "replaces",
    "slow",
    "deflate",
    "batch",
];

/// Runs that are kept. A page that asks for the list again and again must not fill the memory.
const RUNS_MAX: usize = 4096;

/// Which scenarios are played, and to what client.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The scenarios.
    pub scenarios: Vec<Arc<Scenario>>,
    /// The transports.
    pub transports: Vec<Transport>,
    /// What the client cannot do.
    pub without: Vec<Need>,
}

impl Choice {
    /// All runs that this makes, those that take longest first.
    pub fn runs(&self) -> Vec<(Arc<Scenario>, Transport)> {
        let mut runs = Vec::new();
        for scenario in &self.scenarios {
            for transport in scenario.transports.iter().filter(|one| self.transports.contains(one)) {
                runs.push((Arc::clone(scenario), *transport));
            }
        }
        runs.sort_by_key(|(scenario, _)| std::cmp::Reverse(scenario.deadline_ms));
        runs
    }
}

/// The server.
#[derive(Debug)]
pub struct Kit {
    choice: Choice,
    url: String,
    began: Instant,
    runs: Mutex<BTreeMap<u64, Arc<Live>>>,
    count: AtomicU64,
    verdicts: mpsc::UnboundedSender<Verdict>,
}

/// One run, shared by its connections and by who waits for its verdict.
#[derive(Debug)]
pub struct Live {
    run: Mutex<Run>,
    began: Instant,
    changed: watch::Sender<u64>,
    is_watched: AtomicBool,
}

/// What a client must know to take part in a run.
#[derive(Debug, Clone, Serialize)]
pub struct Invitation {
    /// The scenario.
    pub scenario: String,
    /// The transport that the client must use.
    pub transport: Transport,
    /// What happens.
    pub about: String,
    /// Which rule asks for it.
    pub rule: String,
    /// The org of this run.
    pub org: String,
    /// The gateway's address.
    pub url: String,
    /// The address of the stream.
    pub stream: String,
    /// The first token.
    pub token: String,
    /// Where a new token is had, as text.
    pub token_url: String,
    /// The cursor to start with, if there is one.
    pub cursor: Option<String>,
    /// Where the deliveries are reported.
    pub report_url: String,
    /// How long the run may take after its first request.
    pub deadline_ms: u64,
    /// How many lines the client delivers, the last event included.
    pub deliveries: usize,
    /// What the server does.
    pub script: String,
}

impl Kit {
    /// Listens. The verdicts of all runs are sent to `verdicts`.
    pub async fn bind(
        address: SocketAddr,
        choice: Choice,
        verdicts: mpsc::UnboundedSender<Verdict>,
    ) -> io::Result<(Arc<Self>, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let kit = Self {
            choice,
            url,
            began: Instant::now(),
            runs: Mutex::default(),
            count: AtomicU64::new(0),
            verdicts,
        };
        Ok((Arc::new(kit), listener))
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which scenarios are played.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // No file descriptor is left, for a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let kit = Arc::clone(&self);
            tokio::spawn(async move {
                // The client has gone: its run sees that, if it has one.
                let _ = kit.connection(stream).await;
            });
        }
    }

    /// A new run in an org of its own.
    pub fn start(&self, scenario: &Arc<Scenario>, transport: Transport) -> (Arc<Live>, Invitation) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let org = format!("{}.{transport}.{number}", scenario.name);
        let mut run = Run::new(Arc::clone(scenario), transport, org.clone());
        run.skip_without(&self.choice.without);
        let token = run.token();
        let url = &self.url;
        let scheme = if transport == Transport::Ws { url.replacen("http", "ws", 1) } else { url.clone() };
        let invitation = Invitation {
            scenario: scenario.name.clone(),
            transport,
            about: scenario.about.clone(),
            rule: scenario.rule.clone(),
            url: url.clone(),
            stream: format!("{scheme}/v1/orgs/{org}/stream"),
            token,
            token_url: format!("{url}/conformance/{org}/token"),
            cursor: scenario.start.clone(),
            report_url: format!("{url}/conformance/{org}/report"),
            deadline_ms: scenario.deadline_ms,
            deliveries: run.deliveries(),
            script: scenario.script.clone(),
            org,
        };
        let live = Arc::new(Live {
            run: Mutex::new(run),
            began: self.began,
            changed: watch::Sender::new(0),
            is_watched: AtomicBool::new(false),
        });
        let mut runs = lock(&self.runs);
        runs.insert(number, Arc::clone(&live));
        if runs.len() > RUNS_MAX {
            runs.pop_first();
        }
        (live, invitation)
    }

    fn find(&self, org: &str) -> Option<Arc<Live>> {
        let number = org.rsplit('.').next()?.parse().ok()?;
        let live = lock(&self.runs).get(&number).cloned()?;
        let is_its_own = lock(&live.run).org() == org;
        is_its_own.then_some(live)
    }

    /// Sends the verdict on when it is there, once for each run.
    fn watch(&self, live: &Arc<Live>) {
        if !live.is_watched.swap(true, Ordering::Relaxed) {
            let (live, verdicts) = (Arc::clone(live), self.verdicts.clone());
            tokio::spawn(async move {
                // Nobody may be left to read it.
                let _ = verdicts.send(live.verdict().await);
            });
        }
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let head = tokio::time::timeout(HEAD_TIMEOUT, Request::read(&mut stream)).await;
        let Ok(Ok(Some(mut request))) = head else { return Ok(()) };
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (request.method.as_str(), &parts[..]) {
            ("OPTIONS", _) => request::answer(&mut stream, 204, "", "").await?,
            ("GET", ["v1", "orgs", org, "stream"]) => match self.find(org) {
                Some(live) => {
                    self.watch(&live);
                    return live.stream(stream, request).await;
                }
                None => not_found(&mut stream).await?,
            },
            ("GET", ["conformance"]) => {
                let runs: Vec<_> = self.choice.runs();
                let runs: Vec<_> = runs.iter().map(|(scenario, on)| self.invite(scenario, *on)).collect();
                let list = json!({ "runs": runs }).to_string();
                request::answer(&mut stream, 200, "application/json", &list).await?;
            }
            ("GET", ["conformance", org, "token"]) => match self.find(org) {
                Some(live) => {
                    let token = live.with(|run, _| run.token());
                    request::answer(&mut stream, 200, "text/plain", &token).await?;
                }
                None => not_found(&mut stream).await?,
            },
            ("POST", ["conformance", org, "report"]) => match self.find(org) {
                Some(live) => {
                    self.watch(&live);
                    match request.body(&mut stream).await? {
                        Some(body) => {
                            let verdict = json!(live.report(&String::from_utf8_lossy(&body)).await);
                            request::answer(&mut stream, 200, "application/json", &verdict.to_string())
                                .await?;
                        }
                        None => {
                            let detail = "a report has a Content-Length of at most 16 MiB";
                            request::problem(&mut stream, 413, "too_large", detail).await?;
                        }
                    }
                }
                None => not_found(&mut stream).await?,
            },
            _ => not_found(&mut stream).await?,
        }
        linger(stream).await;
        Ok(())
    }

    fn invite(&self, scenario: &Arc<Scenario>, transport: Transport) -> serde_json::Value {
        match scenario.needs.iter().find(|need| self.choice.without.contains(need)) {
            Some(need) => json!({
                "scenario": scenario.name, "transport": transport, "about": scenario.about,
                "skipped": format!("--without {}", need.name()),
            }),
            None => json!(self.start(scenario, transport).1),
        }
    }
}

async fn not_found(stream: &mut TcpStream) -> io::Result<()> {
    let detail = "there is /conformance, /conformance/<org>/token, /conformance/<org>/report, and \
                  /v1/orgs/<org>/stream; each run has an org of its own";
    request::problem(stream, 404, "not_found", detail).await
}

/// What ends the task of a connection: its stream is over, or the client is gone.
enum Over {
    /// Everything is written.
    InOrder,
    /// The client has closed, or cannot be written to.
    Gone,
}

impl Live {
    /// Looks at the run, or changes it, and lets all that wait for it look again.
    pub fn with<T>(&self, change: impl FnOnce(&mut Run, u64) -> T) -> T {
        let done = change(&mut lock(&self.run), self.now());
        self.changed.send_modify(|count| *count += 1);
        done
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Waits for the verdict.
    pub async fn verdict(&self) -> Verdict {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let due = {
                let mut run = lock(&self.run);
                run.tick(self.now());
                if let Some(verdict) = run.verdict() {
                    return verdict.clone();
                }
                run.due()
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = self.until(due) => {}
            }
        }
    }

    /// Until a time of the run; at least a moment, if it is past.
    async fn until(&self, due: u64) {
        let left = due.saturating_sub(self.now()).clamp(10, 3_600_000);
        tokio::time::sleep(Duration::from_millis(left)).await;
    }

    /// Takes a report, and waits for the verdict.
    async fn report(&self, lines: &str) -> Verdict {
        self.with(|run, now| {
            run.begin(now);
            lines.lines().for_each(|line| run.line(now, line));
            run.reported(now);
        });
        self.verdict().await
    }

    /// Serves one request for the stream of this run.
    async fn stream(&self, mut stream: TcpStream, request: Request) -> io::Result<()> {
        let (asked, handshake) = match asked(&request) {
            Ok(asked) => asked,
            Err(fault) => {
                self.with(|run, now| run.broken(now, fault.clone()));
                request::problem(&mut stream, 400, Code::BadRequest.name(), &fault).await?;
                linger(stream).await;
                return Ok(());
            }
        };
        let transport = if asked.is_websocket { Transport::Ws } else { Transport::Sse };
        let connection = self.with(|run, now| run.asked(now, wall(), asked));
        let early = request.rest;
        let mut conversation = Conversation {
            live: self,
            connection,
            wire: Wire::new(transport, false),
            reader: None,
            is_open: false,
            early,
            stream,
        };
        let over = conversation.hold(transport, handshake).await;
        if matches!(over, Err(_) | Ok(Over::Gone)) {
            self.with(|run, now| run.received(now, wall(), connection, Received::End));
        }
        linger(conversation.stream).await;
        Ok(())
    }
}

/// What the answer to a WebSocket handshake needs.
struct Handshake {
    accept_key: String,
    has_protocol: bool,
    deflate: Option<ws::extension::Deflate>,
}

/// Reads a request for a stream as a gateway would. The error is a sentence on what a gateway would refuse.
fn asked(request: &Request) -> Result<(Asked, Option<Handshake>), String> {
    if let Some((name, _)) = request.query.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
        return Err(format!("the request has the parameter {name}, which a gateway refuses"));
    }
    let lines = request.lines();
    let bearer = request.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
    let mut token = bearer.map(|token| token.trim().to_owned());
    let mut handshake = None;
    if ws::handshake::is_asked(&lines) {
        let checked = ws::handshake::check(ws::handshake::Request {
            method: &request.method,
            is_http11: true,
            headers: &lines,
        })
        .map_err(|error| format!("the request is no WebSocket handshake: {error}"))?;
        let has_protocol = checked.protocols.offers("tidegate.v1");
        if !has_protocol && checked.protocols.iter().next().is_some() {
            return Err("the request offers subprotocols without tidegate.v1 among them".to_owned());
        }
        token = token.or_else(|| checked.protocols.after("tidegate.bearer.").map(str::to_owned));
        handshake =
            Some(Handshake { accept_key: checked.accept_key, has_protocol, deflate: checked.deflate });
    } else {
        let accept = request.header("accept").unwrap_or("*/*");
        if !["text/event-stream", "text/*", "*/*"].iter().any(|kind| accept.contains(kind)) {
            return Err(format!("the request accepts {accept}, and no text/event-stream"));
        }
        token = token.or_else(|| request.parameter("access_token").map(str::to_owned));
    }
    let cursor = request.header("last-event-id").filter(|cursor| !cursor.is_empty());
    let cursor = ["lastEventId", "last_event_id", "Last-Event-ID", "cursor"]
        .into_iter()
        .fold(cursor, |found, name| found.or_else(|| request.parameter(name)));
    let asked = Asked {
        is_websocket: handshake.is_some(),
        cursor: cursor.map(str::to_owned),
        token,
        deflate: handshake.as_ref().is_some_and(|handshake| handshake.deflate.is_some()),
        gzip: request.header("accept-encoding").is_some_and(|codings| codings.contains("gzip")),
        gzip_batch: request.parameter("batch") == Some("gzip"),
    };
    Ok((asked, handshake))
}

/// One connection of a run.
struct Conversation<'a> {
    live: &'a Live,
    connection: u64,
    wire: Wire,
    /// Of what the client sends (WebSocket).
    reader: Option<ws::MessageReader>,
    is_open: bool,
    early: Vec<u8>,
    stream: TcpStream,
}

impl Conversation<'_> {
    async fn hold(&mut self, transport: Transport, handshake: Option<Handshake>) -> io::Result<Over> {
        let mut changed = self.live.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (what, due) = {
                let mut run = lock(&self.live.run);
                (run.next(self.live.now(), wall(), self.connection), run.due())
            };
            if what != Do::Wait {
                self.live.changed.send_modify(|count| *count += 1);
            }
            match what {
                Do::Open { compressed } => {
                    let head = match &handshake {
                        Some(handshake) => switching(handshake, compressed),
                        None => request::event_stream(compressed),
                    };
                    self.stream.write_all(head.as_bytes()).await?;
                    self.wire = Wire::new(transport, compressed);
                    self.is_open = true;
                    if handshake.is_some() {
                        let limits = ws::Limits { deflate: compressed, ..ws::Limits::default() };
                        self.reader = Some(ws::MessageReader::new(limits));
                        let early = std::mem::take(&mut self.early);
                        if !early.is_empty() && !self.take(early).await? {
                            return Ok(Over::Gone);
                        }
                    }
                }
                Do::Refuse(refusal) => {
                    request::refuse(&mut self.stream, &refusal).await?;
                    return Ok(Over::InOrder);
                }
                Do::Send { frame, torn } => {
                    let pieces = self.wire.frame(&frame, torn);
                    self.write(pieces).await?;
                }
                Do::Text(text) => {
                    let pieces = self.wire.text(&text);
                    self.write(pieces).await?;
                }
                Do::ControlPing(payload) => {
                    let pieces = self.wire.control(&ws::ping(&payload));
                    self.write(pieces).await?;
                }
                Do::Set(setting) => {
                    let pieces = self.wire.set(setting);
                    self.write(pieces).await?;
                }
                Do::Close(code) => {
                    self.close(code).await?;
                    return Ok(Over::InOrder);
                }
                Do::Dismiss(why) => {
                    if self.is_open {
                        let code = Code::BadRequest;
                        let message = format!("tidegate conformance: {why}");
                        let json = frames::error(code.name(), &message, None);
                        let frame =
                            frames::Written { json, sse_id: None, events: Vec::new(), is_ping: false };
                        let pieces = self.wire.frame(&frame, None);
                        self.write(pieces).await?;
                        self.close(code.close().map(|close| (close, code.name()))).await?;
                    } else {
                        request::problem(&mut self.stream, 400, Code::BadRequest.name(), &why).await?;
                    }
                    return Ok(Over::InOrder);
                }
                Do::Cut => return Ok(Over::InOrder),
                Do::Gone => {
                    if !self.is_open {
                        let why = "this run is over; its verdict says why";
                        request::problem(&mut self.stream, 410, Code::BadRequest.name(), why).await?;
                    }
                    return Ok(Over::InOrder);
                }
                Do::Wait => {
                    let mut bytes = Vec::with_capacity(4096);
                    let read = tokio::select! {
                        read = self.stream.read_buf(&mut bytes) => Some(read?),
                        _ = changed.changed() => None,
                        () = self.live.until(due) => None,
                    };
                    match read {
                        None => {}
                        Some(0) => return Ok(Over::Gone),
                        Some(_) if !self.take(bytes).await? => return Ok(Over::Gone),
                        Some(_) => {}
                    }
                }
            }
        }
    }

    /// Takes bytes of the client. Returns whether the connection goes on.
    async fn take(&mut self, mut bytes: Vec<u8>) -> io::Result<bool> {
        // A client has nothing to say on an event stream.
        let Some(mut reader) = self.reader.take() else { return Ok(true) };
        let mut input = &mut bytes[..];
        loop {
            match reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(ws::Received::Text(text))) => self.tell(Received::Text(&text)),
                Ok(Some(ws::Received::Binary(_))) => {
                    self.tell(Received::Violation("a binary message; all frames are text".to_owned()));
                }
                Ok(Some(ws::Received::Ping(payload))) => {
                    self.stream.write_all(&ws::pong(&payload)).await?;
                }
                Ok(Some(ws::Received::Pong(payload))) => self.tell(Received::ControlPong(&payload)),
                Ok(Some(ws::Received::Close(close))) => {
                    let answer = ws::close(close.code.unwrap_or(1005), "");
                    self.stream.write_all(&answer).await?;
                    return Ok(false);
                }
                Err(violation) => {
                    self.tell(Received::Violation(format!("a message that breaks it: {violation}")));
                    break;
                }
            }
        }
        self.reader = Some(reader);
        Ok(true)
    }

    fn tell(&self, received: Received<'_>) {
        self.live.with(|run, now| run.received(now, wall(), self.connection, received));
    }

    async fn close(&mut self, code: Option<(u16, &'static str)>) -> io::Result<()> {
        let bytes = match (&self.reader, code) {
            (Some(_), Some((code, reason))) => vec![ws::close(code, reason)],
            (Some(_), None) => vec![ws::close(1005, "")],
            (None, _) => self.wire.end_of_body(),
        };
        self.write(bytes).await
    }

    async fn write(&mut self, pieces: Vec<Bytes>) -> io::Result<()> {
        let is_in_pieces = pieces.len() > 1;
        for piece in pieces {
            self.stream.write_all(&piece).await?;
            if is_in_pieces {
                tokio::time::sleep(BETWEEN_PIECES).await;
            }
        }
        Ok(())
    }
}

/// The answer to a handshake (RFC 6455, 4.2.2).
fn switching(handshake: &Handshake, compressed: bool) -> String {
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {}\r\n",
        handshake.accept_key
    );
    if handshake.has_protocol {
        head += "sec-websocket-protocol: tidegate.v1\r\n";
    }
    if let Some(deflate) = handshake.deflate.filter(|_| compressed) {
        head += &format!("sec-websocket-extensions: {}\r\n", deflate.answer());
    }
    head + "\r\n"
}

/// Ends our direction, and reads until the client has ended its own.
async fn linger(mut stream: TcpStream) {
    // The client may be gone already.
    let _ = stream.shutdown().await;
    let mut bytes = [0; 4096];
    let read = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// A lock whose content is whole even if its last holder panicked: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock.
fn wall() -> UnixMillis {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
