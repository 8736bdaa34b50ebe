//! A simulated world around one session: a gateway with its log, a network, the application with its token
//! callback, and the machine that it runs on. A seed decides everything. Faults happen for a while, then the
//! world is calm, and the session must be live again with all that was published. [`crate::oracle`] watches
//! what comes out. `network` has the network and the gateway, `faults` what goes wrong.

mod faults;
mod network;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use serde_json::value::RawValue;
use tidegate_protocol::{
    Cursor,
    client::{Config, Input, Output, Phase, Session, State, Transport},
    frame::ClientFrame,
};

use crate::{
    log::{Event, Grant, Log, Reader},
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
    Up(u64, ClientFrame),
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
#[allow(dead_code, reason = "the test and the example use different ones")]
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
