//! The state of a session: one plain value, the same in Rust and TypeScript, which can be written down and
//! read back. Times are whole milliseconds of the caller's monotonic clock; those that end in `_wall` are
//! since 1970.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    cursor_json,
    input::Config,
    output::{ConnectionState, TokenReason, Transport},
};
use crate::{Cursor, Seq};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not wanted.
    Idle,
    /// Waits for the application's token.
    Auth,
    /// Waits for the transport.
    Opening,
    /// Waits for the first frame.
    Hello,
    /// Frames come.
    Live,
    /// As live, but the connection may be dead.
    Probe,
    /// Waits until the next attempt.
    Backoff,
    /// Ended for good.
    Stopped,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 8] = [
        Phase::Idle,
        Phase::Auth,
        Phase::Opening,
        Phase::Hello,
        Phase::Live,
        Phase::Probe,
        Phase::Backoff,
        Phase::Stopped,
    ];

    /// The name in vectors.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Auth => "auth",
            Phase::Opening => "opening",
            Phase::Hello => "hello",
            Phase::Live => "live",
            Phase::Probe => "probe",
            Phase::Backoff => "backoff",
            Phase::Stopped => "stopped",
        }
    }
}

/// When what is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// The token callback takes too long.
    pub token: Option<u64>,
    /// Opening, hello and probe last at most until then.
    pub phase: Option<u64>,
    /// Nothing was heard for too long.
    pub silence: Option<u64>,
    /// The delays start over.
    pub stable: Option<u64>,
    /// A new token is needed.
    pub refresh: Option<u64>,
    /// Leave, after a `goaway`.
    pub leave: Option<u64>,
    /// The next attempt.
    pub retry: Option<u64>,
    /// A page of history takes too long.
    pub page: Option<u64>,
    /// Forget old ids.
    pub sweep: Option<u64>,
    /// Send a `health` frame.
    pub report: Option<u64>,
}

impl Timers {
    /// The first of all.
    pub fn first(&self) -> Option<u64> {
        let Self { token, phase, silence, stable, refresh, leave, retry, page, sweep, report } = *self;
        [token, phase, silence, stable, refresh, leave, retry, page, sweep, report]
            .into_iter()
            .flatten()
            .min()
    }
}

/// What happened since the last `health` frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreported {
    /// The last latencies of events, at most 100.
    pub latencies_ms: Vec<u64>,
    /// Connections that were lost.
    pub disconnects: u64,
    /// Events that came again and were dropped.
    pub duplicates: u64,
    /// Missing frames that the session noticed.
    pub holes: u64,
    /// Gaps that the application was told of.
    pub gaps: u64,
}

/// All that a session knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Where it stands.
    pub phase: Phase,
    /// The last generation given out: connections, requests for tokens and pages have one counter.
    pub generation: u64,
    /// What is due.
    pub timers: Timers,
    /// Delays drawn since the last stable connection.
    pub attempt: u32,
    /// An attempt has failed, or a connection was lost, since `connect`.
    pub tried: bool,
    /// The gateway asked not to come back before.
    pub not_before: Option<u64>,
    /// The application is behind.
    pub paused: bool,
    /// Late timers got more time.
    pub postponed: bool,

    /// The generation of the connection.
    pub connection: Option<u64>,
    /// The transport of this connection or the next.
    pub transport: Transport,
    /// The transport to begin an attempt with.
    pub home: Transport,
    /// The one that the driver was told to keep.
    pub kept: Transport,
    /// When the last connection was opened.
    pub open_at: Option<u64>,
    /// When its first `hello` came.
    pub hello_at: Option<u64>,
    /// From one connection to the next without a loss.
    pub moving: bool,
    /// Failures before `hello` without a word of the gateway, in a row.
    pub before_hello: u32,
    /// Such ends soon after `hello`, in a row.
    pub short_lives: u32,

    /// The last token.
    pub token: Option<String>,
    /// A new connection may use it until then.
    pub token_until: u64,
    /// The request for a token that is under way.
    pub request: Option<TokenRequest>,
    /// Tokens that the gateway called expired, in a row.
    pub refusals: u32,
    /// A token was had once.
    pub asked: bool,

    /// All up to here was seen.
    #[serde(with = "cursor_json::as_optional_parts")]
    pub cursor: Option<Cursor>,
    /// The gateway's name for the last connection.
    pub connection_id: Option<String>,
    /// `hello.head`.
    pub head: Seq,
    /// `hello.ping_interval_ms`.
    pub ping_interval_ms: u64,
    /// `hello.dedup_window_ms`.
    pub dedup_window_ms: u64,
    /// The gap that is being filled from history.
    pub fill: Option<Fill>,

    /// Ids are compared until then (R14).
    pub dedup_until: u64,
    /// The ids of events that were delivered; the oldest generation first.
    pub remembered: Vec<Remembered>,

    /// The ping that waits for its answer.
    pub ping: Option<SentPing>,
    /// Pings sent.
    pub pings_sent: u64,
    /// Pings of the gateway heard on this connection.
    pub pings_heard: u64,
    /// When the last ping was sent, on this connection or an earlier one.
    pub pinged_at: Option<u64>,
    /// The last eight samples of the gateway's clock.
    pub samples: Vec<ClockSample>,
    /// `now` of the last step.
    pub last_now: u64,
    /// `wall` of the last step.
    pub last_wall: u64,

    /// When the stream was last opened.
    pub connected_wall: Option<u64>,
    /// When it was last lost or left.
    pub disconnected_wall: Option<u64>,
    /// When the last event came.
    pub event_wall: Option<u64>,
    /// Connections that were lost.
    pub disconnects: u64,
    /// Events delivered.
    pub events: u64,
    /// Events at or below the cursor.
    pub overlaps: u64,
    /// Events known by id, after a gap of reason `epoch`.
    pub repeats: u64,
    /// Missing frames.
    pub holes: u64,
    /// Gaps delivered.
    pub gaps: u64,
    /// The last 100 latencies.
    pub latencies: Vec<u64>,
    /// What the next `health` frame will say.
    pub unreported: Unreported,
    /// When the last one was sent.
    pub reported_at: Option<u64>,
}

impl State {
    /// The state of a new session.
    pub fn new(config: &Config) -> Self {
        let home = config.transport.or(config.transports.first().copied()).unwrap_or(Transport::Ws);
        Self {
            phase: Phase::Idle,
            generation: 0,
            timers: Timers::default(),
            attempt: 0,
            tried: false,
            not_before: None,
            paused: false,
            postponed: false,
            connection: None,
            transport: home,
            home,
            kept: home,
            open_at: None,
            hello_at: None,
            moving: false,
            before_hello: 0,
            short_lives: 0,
            token: None,
            token_until: 0,
            request: None,
            refusals: 0,
            asked: false,
            cursor: config.cursor.as_deref().and_then(|text| text.parse().ok()),
            connection_id: None,
            head: 0,
            ping_interval_ms: super::session::PING_INTERVAL_MS,
            dedup_window_ms: super::session::DEDUP_MS,
            fill: None,
            dedup_until: 0,
            remembered: Vec::new(),
            ping: None,
            pings_sent: 0,
            pings_heard: 0,
            pinged_at: None,
            samples: Vec::new(),
            last_now: 0,
            last_wall: 0,
            connected_wall: None,
            disconnected_wall: None,
            event_wall: None,
            disconnects: 0,
            events: 0,
            overlaps: 0,
            repeats: 0,
            holes: 0,
            gaps: 0,
            latencies: Vec::new(),
            unreported: Unreported::default(),
            reported_at: None,
        }
    }

    /// Whether a connection is open as far as is known: live or probe.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Probe)
    }

    /// The state as applications see it.
    pub fn connection_state(&self) -> ConnectionState {
        if self.is_open() || self.moving {
            ConnectionState::Connected
        } else if self.tried && !matches!(self.phase, Phase::Idle | Phase::Stopped) {
            ConnectionState::Reconnecting
        } else {
            ConnectionState::Disconnected
        }
    }

    /// The clock sample with the shortest round trip.
    pub fn clock(&self) -> Option<ClockSample> {
        // The first of equal ones.
        self.samples.iter().min_by_key(|sample| sample.rtt).copied()
    }
}

/// A request for a token that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// Its generation.
    pub g: u64,
    /// Why.
    pub reason: TokenReason,
}

/// A gap that is being filled from history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fill {
    /// The generation of the page that was requested.
    pub g: u64,
    /// All up to here was delivered.
    #[serde(with = "cursor_json::as_parts")]
    pub after: Cursor,
    /// The end of the gap.
    pub to: Seq,
    /// The gap's reason.
    pub reason: String,
    /// Events after the gap, held back.
    pub held: Vec<Held>,
    /// The cursor after them.
    #[serde(with = "cursor_json::as_parts")]
    pub cursor: Cursor,
}

/// An event before it is delivered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// Its JSON.
    pub event: Box<RawValue>,
    /// Whether it was in the log before the connection was open.
    pub replay: bool,
    /// Its latency, if that is known.
    pub latency_ms: Option<u64>,
}

/// Ids of events that were delivered within one minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// When the first one was.
    pub born: u64,
    /// Service, source and id, separated by U+0000; and when the gateway accepted the event.
    pub keys: BTreeMap<String, i64>,
}

/// A ping that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentPing {
    /// The number in it.
    pub n: u64,
    /// When it was sent.
    pub sent_at: u64,
}

/// One reading of the gateway's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockSample {
    /// The round trip; the reading is right to within half of it.
    pub rtt: u64,
    /// The gateway's clock less `now`.
    pub offset: i64,
}
