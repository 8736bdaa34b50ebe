//! A simulated world around one session: a gateway with its log, a network, the application with its token
//! callback, and the machine that it runs on. A seed decides everything. Faults happen for a while, then the
//! world is calm, and the session must be live again with all that was published. [`crate::oracle`] watches
//! what comes out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use serde_json::value::RawValue;
use tidegate_protocol::{
    Cursor,
    client::{Config, Input, Output, Phase, SentFrame, Session, State, Transport, WakeReason},
};

use crate::{
    log::{Event, Grant, Log, Reader, rfc3339},
    oracle::Oracle,
    prng::Prng,
    vector::{self, Step, Vector, WALL},
};

/// How long a world may take to be live and complete after its faults end, in milliseconds.
const RECOVERY_MS: u64 = 1_500_000;

/// What happens at some time.
#[derive(Debug)]
enum Happening {
    /// The driver gets this.
    Input(Input),
    /// The driver gets this of a connection, unless it was closed.
    Of(u64, Input),
    /// A frame arrives.
    Frame(u64, String),
    /// The gateway gets a frame of the client.
    Up(u64, SentFrame),
    /// The gateway accepts the connection.
    Greet(u64, Option<Cursor>, Option<u32>),
    /// The gateway has time for a reader.
    Serve(u64),
    /// The gateway pings a reader.
    Ping(u64),
    /// A token ends a stream.
    Expire(u64, u64),
    /// The gateway answers a request for history.
    Page(u64, Cursor),
    Publish,
    Republish(Vec<Event>),
    /// Something goes wrong.
    Fault,
    /// The application goes on.
    Drain,
    Calm,
}

/// A connection, as the world sees it.
#[derive(Debug)]
struct Connection {
    transport: Transport,
    token: u64,
    reader: Option<Reader>,
    /// The version of the log that it speaks for.
    version: Option<usize>,
    /// What the gateway sends arrives, and what the client sends.
    is_cut: bool,
    /// A proxy holds back what comes.
    is_buffered: bool,
    last_arrival: u64,
    is_serving: bool,
}

/// A token that the callback gave out.
#[derive(Debug, Clone, Copy)]
struct Token {
    until: u64,
    grant: Grant,
}

/// What is kept of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    Nothing,
    Steps,
    StepsAndStates,
}

/// One run of the world.
pub struct World {
    pub session: Session,
    prng: Prng,
    oracle: Oracle,
    config: Config,
    /// True time.
    time: u64,
    /// How long the machine slept so far: its monotonic clock stood still meanwhile.
    slept: u64,
    /// The machine's clock less the gateway's.
    skew: i64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_happening: u64,
    logs: Vec<Log>,
    connections: BTreeMap<u64, Connection>,
    /// The driver's connection.
    current: Option<u64>,
    tokens: Vec<Token>,
    cancelled: BTreeSet<u64>,
    tick_lateness: u64,
    uids: u64,
    faults_left: u64,
    is_calm: bool,
    calm_since: u64,
    blocked: Option<Transport>,
    is_hidden: bool,
    is_slow: bool,
    waiting: u64,
    is_behind: bool,
    ping_ms: u64,
    /// The steps, if they are recorded.
    pub steps: Option<Vec<Step>>,
    /// The state before each of them.
    pub states: Option<Vec<State>>,
}

impl World {
    pub fn new(seed: u32, record: Record) -> Self {
        let mut prng = Prng::new(seed);
        let transports = match prng.below(8) {
            0 => vec![Transport::Ws],
            1 => vec![Transport::Sse],
            2 => vec![Transport::Sse, Transport::Ws],
            _ => vec![Transport::Ws, Transport::Sse],
        };
        let has_two = transports.len() == 2;
        let mut log = Log::new(&mut prng);
        for uid in 0..prng.below(6) {
            log.append(&mut prng, WALL, uid, format!("a{uid}"), None);
        }
        let cursor = match prng.below(4) {
            0 => Some("unknown-3".to_owned()),
            _ => None,
        };
        let config = Config {
            transport: prng.chance(100).then(|| transports[transports.len() - 1]),
            transports,
            cursor,
            tail: prng.chance(300).then(|| u32::try_from(prng.below(5)).expect("small")),
            fill: prng.chance(500),
            health: prng.chance(300),
        };
        let blocked = if has_two {
            prng.pick(&[None, None, None, Some(Transport::Ws), Some(Transport::Sse)])
        } else {
            None
        };
        let faults_left = prng.between(3, 40);
        let mut world = Self {
            session: Session::new(config.clone()),
            oracle: Oracle::new(&config),
            config,
            time: prng.below(3) * 700,
            slept: 0,
            skew: i64::try_from(prng.below(4_000)).expect("small") - 2_000,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            logs: vec![log],
            connections: BTreeMap::new(),
            current: None,
            tokens: Vec::new(),
            cancelled: BTreeSet::new(),
            tick_lateness: 0,
            uids: 1_000,
            faults_left,
            is_calm: false,
            calm_since: 0,
            blocked,
            is_hidden: false,
            is_slow: false,
            waiting: 0,
            is_behind: false,
            ping_ms: prng.pick(&[5_000, 25_000, 25_000]),
            prng,
            steps: (record != Record::Nothing).then(Vec::new),
            states: (record == Record::StepsAndStates).then(Vec::new),
        };
        world.after(0, Happening::Input(Input::Connect));
        world.after(50, Happening::Publish);
        world.after(100, Happening::Fault);
        world
    }

    /// Runs to the end; says what went wrong.
    pub fn run(&mut self) -> Result<(), String> {
        let mut steps = 0;
        loop {
            steps += 1;
            if steps > 20_000 {
                return Err("it does not end".into());
            }
            if self.is_calm {
                if self.is_complete() {
                    break;
                }
                if self.time > self.calm_since + RECOVERY_MS {
                    return Err(format!(
                        "not live and complete after the faults ended: {:?}",
                        self.session.state()
                    ));
                }
            }
            self.advance()?;
        }
        self.feed(Input::Disconnect)?;
        match self.session.state().phase {
            Phase::Idle => Ok(()),
            other => Err(format!("{other:?} after disconnect")),
        }
    }

    /// What was recorded, as a vector.
    pub fn recorded(&self, name: String) -> Vector {
        let steps = self.steps.clone().unwrap_or_default();
        Vector { name, rules: Vec::new(), config: self.config.clone(), state: None, steps, metrics: None }
    }

    fn now(&self) -> u64 {
        self.time - self.slept
    }

    fn log(&self) -> &Log {
        &self.logs[self.logs.len() - 1]
    }

    fn log_mut(&mut self) -> &mut Log {
        self.logs.last_mut().expect("there is one")
    }

    fn is_complete(&self) -> bool {
        let state = self.session.state();
        let seq = state.cursor.as_ref().map(|cursor| cursor.seq);
        state.phase == Phase::Live
            && seq == Some(self.log().head)
            && state.fill.is_none()
            && self.oracle.place() == seq
            && self.oracle.version == self.logs.len() - 1
            && !self.happenings.values().any(|h| matches!(h, Happening::Publish | Happening::Republish(_)))
    }

    // --- Time.

    fn after(&mut self, wait: u64, happening: Happening) {
        let id = self.next_happening;
        self.next_happening += 1;
        self.heap.push(Reverse((self.time + wait, id)));
        self.happenings.insert(id, happening);
    }

    /// Lets the next thing happen: a timer of the driver or something of the world.
    fn advance(&mut self) -> Result<(), String> {
        let next = self.heap.peek().map(|Reverse((at, _))| *at);
        let tick = self.session.deadline().map(|at| (at + self.slept).max(self.time) + self.tick_lateness);
        if let Some(tick) = tick.filter(|tick| next.is_none_or(|next| *tick < next)) {
            self.time = tick;
            self.feed(Input::Tick)?;
            if self.session.deadline().is_some_and(|at| at <= self.now()) && self.tick_lateness == 0 {
                return Err(format!("a tick leaves something due: {:?}", self.session.state().timers));
            }
            self.tick_lateness = match (self.is_calm, self.is_hidden) {
                (true, _) | (_, false) => 0,
                (false, true) => self.prng.pick(&[0, 900, 2_001, 30_000, 60_000]),
            };
            return Ok(());
        }
        let Some(Reverse((at, id))) = self.heap.pop() else { return Err("nothing is left to happen".into()) };
        self.time = self.time.max(at);
        let happening = self.happenings.remove(&id).expect("it was planned");
        self.happen(happening)
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Input(input) => self.feed(input)?,
            Happening::Of(g, input) => {
                // Late callbacks of a connection that was closed come too: the session drops them.
                if self.connections.contains_key(&g) || self.prng.chance(500) {
                    self.feed(input)?;
                }
            }
            Happening::Frame(g, text) => {
                if self.connections.contains_key(&g) || self.prng.chance(300) {
                    self.feed(Input::Frame { g, text })?;
                }
            }
            Happening::Up(g, frame) => self.up(g, frame),
            Happening::Greet(g, cursor, tail) => self.greet(g, cursor.as_ref(), tail),
            Happening::Serve(g) => self.serve(g),
            Happening::Ping(g) => self.ping(g),
            Happening::Expire(g, token) => {
                if self.connections.get(&g).is_some_and(|connection| connection.token == token) {
                    self.end(g, "token_expired", 4001, None);
                }
            }
            Happening::Page(g, after) => self.page(g, &after)?,
            Happening::Publish => self.publish(),
            Happening::Republish(events) => {
                for event in events {
                    self.append(event.id, event.source, Some(event.service));
                }
                self.serve_all();
            }
            Happening::Fault => self.fault()?,
            Happening::Drain => {
                self.is_slow = false;
                self.waiting = 0;
                self.is_behind = false;
                self.feed(Input::Drained)?;
            }
            Happening::Calm => self.calm()?,
        }
        Ok(())
    }

    // --- The driver.

    fn feed(&mut self, input: Input) -> Result<(), String> {
        let (now, random) = (self.now(), self.prng.unit());
        let wall = (WALL + self.time).saturating_add_signed(self.skew);
        let version = self.version_of(&input);
        if let Some(states) = &mut self.states {
            states.push(self.session.state().clone());
        }
        let outputs = self.session.step(input.clone(), now, wall, random);
        let checked = self.oracle.check(&input, &outputs, &self.session, &self.logs, version, now);
        if let Some(steps) = &mut self.steps {
            steps.push(Step {
                at: now,
                wall: (wall != WALL + now).then_some(wall),
                random: (random != 0.5).then_some(random),
                input: input.clone(),
                out: vector::values(&outputs),
                phase: self.session.state().phase,
                deadline: self.session.deadline(),
            });
        }
        checked.map_err(|what| format!("at {now}, {input:?}: {what}"))?;
        for output in outputs {
            self.perform(output)?;
        }
        Ok(())
    }

    /// The version of the log that the events of this input come from.
    fn version_of(&self, input: &Input) -> Option<usize> {
        let connection = match input {
            Input::Frame { g, .. } => Some(*g),
            _ => self.session.state().connection,
        };
        self.connections.get(&connection?)?.version
    }

    fn perform(&mut self, output: Output) -> Result<(), String> {
        match output {
            Output::GetToken { g, .. } => self.token(g),
            Output::Open { g, transport, token, cursor, tail, .. } => {
                self.current = Some(g);
                self.open(g, transport, &token, cursor, tail);
            }
            Output::Close { g, .. } => {
                self.connections.remove(&g);
            }
            Output::Cancel { g } => {
                self.cancelled.insert(g);
            }
            Output::Send { frame } => {
                let Some((g, connection)) = self.current.and_then(|g| Some((g, self.connections.get(&g)?)))
                else {
                    return Err(format!("{frame:?} without a connection"));
                };
                if connection.transport != Transport::Ws {
                    return Err(format!("{frame:?} over an event stream"));
                }
                let wait = self.latency();
                self.after(wait, Happening::Up(g, frame));
            }
            Output::History { g, after, .. } => match if self.is_calm { 0 } else { self.prng.below(10) } {
                8 => {
                    let wait = self.prng.below(20_000);
                    self.after(wait, Happening::Input(Input::PageFailed { g }));
                }
                9 => {} // never answered
                _ => {
                    let wait = self.latency();
                    self.after(wait, Happening::Page(g, after));
                }
            },
            Output::Event { .. } => {
                if self.is_slow {
                    self.waiting += 1;
                    if self.waiting > 6 && !self.is_behind {
                        self.is_behind = true;
                        self.after(0, Happening::Input(Input::Overflow));
                        self.after(3_000, Happening::Drain);
                    }
                }
            }
            Output::Error { fatal: true, .. } => {
                // The application logs in again.
                let wait = self.prng.between(1_000, 5_000);
                self.after(wait, Happening::Input(Input::Connect));
            }
            Output::Transport { .. }
            | Output::Hello { .. }
            | Output::Gap { .. }
            | Output::Cursor { .. }
            | Output::Status { .. }
            | Output::Error { .. }
            | Output::State { .. } => {}
        }
        Ok(())
    }

    fn latency(&mut self) -> u64 {
        self.prng.pick(&[1, 5, 5, 20, 80, 300])
    }

    fn token(&mut self, g: u64) {
        let kind = if self.is_calm { 0 } else { self.prng.below(24) };
        let wait = self.latency();
        let life = self.prng.pick(&[5_000, 30_000, 60_000, 300_000, 3_600_000]);
        let life = if self.is_calm { life.max(300_000) } else { life };
        let grant = if self.prng.chance(200) { Grant::Less } else { Grant::More };
        let number = self.tokens.len() + 1;
        let token = format!("token-{number}");
        let expires_in_ms = self.prng.chance(500).then(|| i64::try_from(life).expect("small"));
        let (wait, input) = match kind {
            18 | 19 => (wait, Input::TokenFailed { g, r#final: false, message: "offline".into() }),
            20 => (wait, Input::Token { g, token: String::new(), expires_in_ms: None }),
            21 => (wait, Input::Token { g, token, expires_in_ms: Some(0) }),
            22 => return, // it hangs
            23 => {
                (wait, Input::TokenFailed { g, r#final: self.prng.chance(300), message: "logged out".into() })
            }
            17 => (self.prng.between(14_000, 25_000), Input::Token { g, token, expires_in_ms }),
            _ => (wait, Input::Token { g, token, expires_in_ms }),
        };
        // Some of them are expired, or the gateway calls them so.
        let until = if kind == 16 { 0 } else { self.time + wait + life };
        self.tokens.push(Token { until, grant });
        self.after(wait, Happening::Input(input));
    }

    // --- The network and the gateway.

    fn open(&mut self, g: u64, transport: Transport, token: &str, cursor: Option<Cursor>, tail: Option<u32>) {
        let token = token.strip_prefix("token-").and_then(|number| number.parse().ok()).unwrap_or(0);
        let connection = Connection {
            transport,
            token,
            reader: None,
            version: None,
            is_cut: false,
            is_buffered: false,
            last_arrival: self.time,
            is_serving: false,
        };
        self.connections.insert(g, connection);
        let (wait, answer) = (self.latency(), self.latency());
        let is_blocked = self.blocked == Some(transport);
        let kind = if self.is_calm { 99 } else { self.prng.below(30) };
        let closed = |close, status, code: Option<&str>, retry_in_ms| {
            let code = code.map(str::to_owned);
            Happening::Of(g, Input::Closed { g, close, status, code, retry_in_ms, message: None })
        };
        if is_blocked && (transport == Transport::Sse || self.prng.chance(300)) {
            // A proxy takes the request, and nothing comes of it.
            self.connection(g).is_buffered = true;
            self.after(wait, Happening::Of(g, Input::Opened { g }));
            return;
        }
        match kind {
            _ if is_blocked => self.after(wait, closed(Some(1006), None, None, None)),
            0 | 1 => self.after(wait, closed(Some(1006), None, None, None)),
            2 => {} // never answered
            3 => {
                self.connection(g).is_buffered = true;
                self.after(wait, Happening::Of(g, Input::Opened { g }));
            }
            4 => {
                let retry = self.prng.pick(&[None, Some(500), Some(20_000)]);
                self.refuse(g, wait, "overloaded", 1013, 503, retry);
            }
            5 => {
                let status = self.prng.pick(&[502, 504, 429, 408]);
                self.after(wait, closed(None, Some(status), None, None));
            }
            6 if self.prng.chance(200) => {
                let (code, close, status) = self.prng.pick(&[
                    ("evicted", 4555, 403),
                    ("forbidden", 4552, 403),
                    ("unauthorized", 4551, 401),
                ]);
                self.refuse(g, wait, code, close, status, None);
            }
            7 if self.prng.chance(200) => self.after(wait, closed(None, Some(404), None, None)),
            8 => {
                self.after(wait, Happening::Of(g, Input::Opened { g }));
                let slow = self.prng.between(1_000, 15_000);
                self.after(wait + slow, Happening::Greet(g, cursor, tail));
            }
            _ => {
                self.after(wait, Happening::Of(g, Input::Opened { g }));
                self.after(wait + answer, Happening::Greet(g, cursor, tail));
            }
        }
    }

    fn connection(&mut self, g: u64) -> &mut Connection {
        self.connections.get_mut(&g).expect("it is open")
    }

    /// The gateway refuses a stream: over WebSocket it opens first.
    fn refuse(&mut self, g: u64, wait: u64, code: &str, close: u16, status: u16, retry_in_ms: Option<u64>) {
        match self.connections.get(&g).map(|connection| connection.transport) {
            Some(Transport::Ws) => {
                self.after(wait, Happening::Of(g, Input::Opened { g }));
                self.end(g, code, close, retry_in_ms);
            }
            Some(Transport::Sse) => {
                let code = Some(code.to_owned());
                let status = Some(status);
                let closed = Input::Closed { g, close: None, status, code, retry_in_ms, message: None };
                self.after(wait, Happening::Of(g, closed));
            }
            None => {}
        }
    }

    /// Sends a frame, in order and through the faults of the network.
    fn send(&mut self, g: u64, text: String) {
        let latency = self.latency();
        let fault = if self.is_calm { 1_000 } else { self.prng.below(1_000) };
        let time = self.time;
        let Some(connection) = self.connections.get_mut(&g) else { return };
        if connection.is_cut || connection.is_buffered {
            return;
        }
        let stall = if fault < 10 { 8_000 } else { 0 };
        let arrival = connection.last_arrival.max(time + latency + stall);
        connection.last_arrival = arrival;
        let wait = arrival - time;
        // No transport loses a frame and goes on; a proxy that did would be found out by the next frame's `prev`,
        // unless it lost a gap that lowers the cursor.
        let lowers = text.contains(r#""reason":"epoch""#);
        match fault {
            10..20 if !lowers => return,                                   // lost
            20..30 => self.after(wait, Happening::Frame(g, text.clone())), // twice
            30..33 => {
                let half = text.chars().take(text.len() / 2).collect();
                return self.after(wait, Happening::Frame(g, half));
            }
            33..36 => self.after(wait, Happening::Frame(g, r#"{"type":"of_the_future","prev":9}"#.into())),
            36..40 => {
                self.after(wait, Happening::Frame(g, text));
                return self.cut(g);
            }
            _ => {}
        }
        self.after(wait, Happening::Frame(g, text));
    }

    /// The connection breaks; the client may never hear of it.
    fn cut(&mut self, g: u64) {
        let heard = self.prng.chance(600);
        let Some(connection) = self.connections.get_mut(&g) else { return };
        connection.is_cut = true;
        let wait = connection.last_arrival.saturating_sub(self.time);
        if heard {
            let close = self.prng.pick(&[Some(1006), Some(1006), Some(1001), None]);
            let closed =
                Input::Closed { g, close, status: None, code: None, retry_in_ms: None, message: None };
            self.after(wait, Happening::Of(g, closed));
        }
    }

    /// The gateway ends a stream with a code.
    fn end(&mut self, g: u64, code: &str, close: u16, retry_in_ms: Option<u64>) {
        let retry = retry_in_ms.map_or(String::new(), |retry| format!(",\"retry_in_ms\":{retry}"));
        if self.prng.chance(800) {
            self.send(g, format!(r#"{{"type":"error","code":"{code}","message":"it ends"{retry}}}"#));
        }
        let Some(connection) = self.connections.get_mut(&g) else { return };
        if connection.is_cut || connection.is_buffered {
            return;
        }
        connection.is_cut = true;
        let wait = connection.last_arrival.saturating_sub(self.time);
        let close = (connection.transport == Transport::Ws).then_some(close);
        let closed = Input::Closed { g, close, status: None, code: None, retry_in_ms: None, message: None };
        self.after(wait, Happening::Of(g, closed));
    }

    fn token_of(&self, number: u64) -> Token {
        let index = usize::try_from(number).expect("small").checked_sub(1);
        index.map_or(Token { until: 0, grant: Grant::Less }, |index| self.tokens[index])
    }

    fn greet(&mut self, g: u64, cursor: Option<&Cursor>, tail: Option<u32>) {
        let Some(connection) = self.connections.get(&g) else { return };
        let number = connection.token;
        let token = self.token_of(number);
        if token.until <= self.time {
            let is_ws = connection.transport == Transport::Ws;
            return if is_ws {
                self.end(g, "token_expired", 4001, None)
            } else {
                self.refuse(g, 1, "token_expired", 4001, 401, None)
            };
        }
        let version = self.logs.len() - 1;
        let reader = self.log().open(version, cursor, tail, token.grant);
        self.greeted(g, reader, number);
        let wait = self.ping_ms;
        self.after(wait, Happening::Ping(g));
        self.plan_serve(g, 0);
    }

    fn greeted(&mut self, g: u64, reader: Reader, number: u64) {
        let left = self.token_of(number).until - self.time;
        let hello = self.log().hello(&reader, g, left, WALL + self.time, self.ping_ms);
        let connection = self.connection(g);
        connection.version = Some(reader.version);
        connection.reader = Some(reader);
        connection.token = number;
        self.send(g, hello);
        self.after(left, Happening::Expire(g, number));
    }

    fn plan_serve(&mut self, g: u64, wait: u64) {
        let Some(connection) = self.connections.get_mut(&g) else { return };
        if connection.reader.is_some() && !connection.is_serving {
            connection.is_serving = true;
            self.after(wait, Happening::Serve(g));
        }
    }

    fn serve_all(&mut self) {
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            let wait = self.prng.below(20);
            self.plan_serve(g, wait);
        }
    }

    fn serve(&mut self, g: u64) {
        let is_skip = !self.is_calm && self.prng.chance(60);
        let now = WALL + self.time;
        let log = &self.logs[self.logs.len() - 1];
        let Some(connection) = self.connections.get_mut(&g) else { return };
        connection.is_serving = false;
        let Some(reader) = &mut connection.reader else { return };
        let skip = if is_skip { log.skip(reader) } else { None };
        let Some(text) = skip.or_else(|| log.next(reader, &mut self.prng, now)) else { return };
        self.send(g, text);
        self.plan_serve(g, 1);
    }

    fn ping(&mut self, g: u64) {
        let now = WALL + self.time;
        let Some(reader) = self.connections.get(&g).and_then(|connection| connection.reader.as_ref()) else {
            return;
        };
        let is_due = reader.due.is_some();
        let text = self.log().ping(reader, now);
        if !is_due {
            self.send(g, text);
        }
        let wait = self.ping_ms;
        self.after(wait, Happening::Ping(g));
    }

    fn up(&mut self, g: u64, frame: SentFrame) {
        let Some(connection) = self.connections.get(&g) else { return };
        if connection.is_cut || connection.is_buffered {
            return;
        }
        match frame {
            SentFrame::Pong | SentFrame::Health(_) => {}
            SentFrame::Ping { n } => {
                let timestamp = rfc3339(WALL + self.time);
                self.send(g, format!(r#"{{"type":"pong","n":{n},"timestamp":"{timestamp}"}}"#));
            }
            SentFrame::Auth { token } => {
                let number = token.strip_prefix("token-").and_then(|number| number.parse().ok()).unwrap_or(0);
                let Token { until, grant } = self.token_of(number);
                let Some(mut reader) = self.connection(g).reader.clone() else { return };
                if !self.is_calm && self.prng.chance(100) {
                    self.send(g, r#"{"type":"status","code":"overloaded","message":"later"}"#.into());
                } else if until <= self.time {
                    self.end(g, "token_expired", 4001, None);
                } else if reader.due.is_none() {
                    let version = reader.version;
                    self.logs[version].renew(&mut reader, grant);
                    self.greeted(g, reader, number);
                }
            }
        }
    }

    fn page(&mut self, g: u64, after: &Cursor) -> Result<(), String> {
        let reader = self.connections.values().last().and_then(|connection| connection.reader.as_ref());
        let grant = reader.map_or(Grant::Less, |reader| reader.grant);
        let limit = if self.prng.chance(500) { 2 } else { 50 };
        let text = match if self.is_calm { 99 } else { self.prng.below(20) } {
            0 => "[]".to_owned(),
            1 => r#"{"events":[{"seq":1},{"seq":1}],"cursor":"a-5","has_more":false}"#.to_owned(),
            _ => self.log().page(after, grant, limit),
        };
        if self.cancelled.contains(&g) && self.prng.chance(500) {
            return Ok(());
        }
        self.feed(Input::Page { g, text })
    }

    fn append(&mut self, id: String, source: Option<&'static str>, service: Option<usize>) {
        let (now, uid) = (WALL + self.time, self.uids);
        self.uids += 1;
        let mut prng = self.prng.clone();
        match service {
            Some(service) => self.log_mut().append_to(&mut prng, now, uid, id, source, service),
            None => self.log_mut().append(&mut prng, now, uid, id, source),
        }
        self.prng = prng;
    }

    fn publish(&mut self) {
        for _ in 0..self.prng.pick(&[1, 1, 1, 2, 5, 20]) {
            let id = format!("b{}", self.uids);
            let source = self.prng.pick(&[None, None, Some("/x")]);
            self.append(id, source, None);
        }
        self.serve_all();
        if self.faults_left > 0 {
            let wait = self.prng.pick(&[10, 100, 1_000, 8_000, 40_000]);
            self.after(wait, Happening::Publish);
        }
    }

    // --- Faults.

    fn fault(&mut self) -> Result<(), String> {
        self.faults_left -= 1;
        if self.faults_left == 0 {
            self.after(0, Happening::Calm);
        } else {
            let wait = self.prng.pick(&[10, 500, 3_000, 12_000, 60_000]);
            self.after(wait, Happening::Fault);
        }
        let open: Vec<u64> = self.connections.keys().copied().collect();
        match self.prng.below(26) {
            0..=3 => {
                for g in open {
                    self.cut(g);
                }
            }
            4 => {
                // Half open.
                for g in open {
                    self.connection(g).is_cut = true;
                }
            }
            5 | 6 => self.restart(false),
            7 | 8 => self.restart(true),
            9 => self.reset(),
            10 | 11 => {
                let floor = self.log().head.saturating_sub(self.prng.below(6));
                self.log_mut().remove_up_to(floor);
            }
            12 | 13 => self.sleep()?,
            14 => {
                let reason = self.prng.pick(&[
                    WakeReason::Visible,
                    WakeReason::Online,
                    WakeReason::Pageshow,
                    WakeReason::Resume,
                    WakeReason::App,
                ]);
                self.is_hidden = false;
                self.feed(Input::Wake { reason })?;
            }
            15 => self.is_hidden = true,
            16 => self.feed(Input::Offline)?,
            17 => self.feed(Input::Suspend)?,
            18 | 19 => self.is_slow = true,
            20 => {
                // Somebody sets the clock.
                self.skew = i64::try_from(self.prng.below(40_000)).expect("small") - 20_000;
            }
            21 => {
                let retry = self.prng.pick(&[0, 3_000, 20_000]);
                for g in open {
                    self.send(g, format!(r#"{{"type":"goaway","code":"draining","retry_in_ms":{retry}}}"#));
                }
            }
            22 | 23 => {
                let (code, close) = self.prng.pick(&[
                    ("internal", 1011),
                    ("slow_consumer", 4002),
                    ("token_expired", 4001),
                    ("ping_timeout", 4003),
                    ("too_many_connections", 4004),
                    ("of_the_future", 4123),
                    ("of_the_future", 4623),
                    ("evicted", 4555),
                ]);
                let is_final = close >= 4500;
                let retry = self.prng.pick(&[None, None, Some(15_000)]);
                for g in open {
                    if !is_final || self.prng.chance(300) {
                        self.end(g, code, close, retry);
                    }
                }
            }
            24 => {
                self.feed(Input::Disconnect)?;
                let wait = self.prng.between(0, 3_000);
                self.after(wait, Happening::Input(Input::Connect));
            }
            _ => {
                for g in open {
                    let (code, message) =
                        self.prng.pick(&[("degraded", "slowly"), ("log_halted", "no writes")]);
                    self.send(g, format!(r#"{{"type":"status","code":"{code}","message":"{message}"}}"#));
                }
            }
        }
        Ok(())
    }

    /// The gateway restarts; if it was killed, the end of its log may be lost.
    fn restart(&mut self, is_killed: bool) {
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            if is_killed {
                self.cut(g);
            } else {
                self.end(g, "draining", 1012, None);
            }
            self.forget(g);
        }
        let mut prng = self.prng.clone();
        if is_killed {
            let end = self.log().head.saturating_sub(prng.below(4));
            let (next, lost) = self.log().crash(self.logs.len() - 1, end, &mut prng);
            self.logs.push(next);
            if !lost.is_empty() && prng.chance(700) {
                let wait = prng.between(100, 5_000);
                self.after(wait, Happening::Republish(lost));
            }
        } else {
            self.log_mut().restart(&mut prng);
        }
        self.prng = prng;
    }

    /// The gateway knows the connection no more.
    fn forget(&mut self, g: u64) {
        if let Some(connection) = self.connections.get_mut(&g) {
            connection.is_cut = true;
            connection.reader = None;
        }
    }

    /// The log is new and counts from 1.
    fn reset(&mut self) {
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            self.cut(g);
            self.forget(g);
        }
        let mut log = Log::new(&mut self.prng);
        log.parent = Some((self.logs.len() - 1, 0));
        self.logs.push(log);
    }

    fn sleep(&mut self) -> Result<(), String> {
        let long = self.prng.pick(&[1_500, 20_000, 400_000]);
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            if long > 10_000 && self.prng.chance(800) {
                self.cut(g);
            }
        }
        self.time += long;
        self.slept += long;
        if self.prng.chance(500) {
            self.feed(Input::Wake { reason: WakeReason::Resume })?;
        }
        Ok(())
    }

    /// The faults end.
    fn calm(&mut self) -> Result<(), String> {
        self.is_calm = true;
        self.calm_since = self.time;
        self.is_hidden = false;
        self.is_slow = false;
        self.waiting = 0;
        self.tick_lateness = 0;
        if self.is_behind {
            self.is_behind = false;
            self.feed(Input::Drained)?;
        }
        if matches!(self.session.state().phase, Phase::Idle | Phase::Stopped) {
            self.feed(Input::Connect)?;
        }
        // Something new, so that every position is known to be served.
        self.after(10, Happening::Publish);
        Ok(())
    }
}

/// The uid in an event's `data`.
pub fn uid(event: &RawValue) -> (u64, u64) {
    #[derive(serde::Deserialize)]
    struct Seen {
        seq: u64,
        data: u64,
    }
    let Seen { seq, data } = serde_json::from_str(event.get()).expect("an event of this world");
    (seq, data)
}
