//! How a client is doing: its status for user interfaces, its metrics for operators, notices for logs.

use std::time::{Duration, SystemTime};

use tidegate_protocol::{
    Seq,
    client::{ConnectionState, Phase, State, Transport},
};

use crate::delivery::sentence;

/// What a client is doing now. [`crate::Client::status`] watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The state as users see it.
    pub state: ConnectionState,
    /// The same in more detail.
    pub phase: Phase,
    /// Attempts since the last connection that lasted 10 s.
    pub attempt: u32,
    /// When the next attempt begins, while the client waits for it.
    pub retry_at: Option<SystemTime>,
    /// The transport of this connection or of the next.
    pub transport: Transport,
    /// What went wrong last, until the stream is open again.
    pub error: Option<Failure>,
}

/// Something went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The gateway's code (PROTOCOL.md, "Codes"), or one of this client's own: `closed`, `timeout`, `silence`,
    /// `hole`, `protocol`, `refused`, `token`, `auth`, `overflow`, `sse_buffered`.
    pub code: String,
    /// One sentence for people. It may hold the gateway's text, control characters included.
    pub message: String,
    /// Whether the client has given up.
    pub is_final: bool,
    /// The delay until the next attempt, if there is one.
    pub retry_in: Option<Duration>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&sentence(&self.code, &self.message))
    }
}

/// What is worth a line in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The stream is open.
    #[non_exhaustive]
    Connected {
        /// The gateway's name for the connection.
        connection_id: String,
        /// The transport.
        transport: Transport,
        /// The services that it shows; `["*"]` for all.
        services: Vec<String>,
        /// The end of the log: events up to it are replay.
        head: Seq,
        /// Whether the stream continues at the cursor without a gap.
        resumed: bool,
    },
    /// A remark of the gateway; the stream goes on.
    #[non_exhaustive]
    Status {
        /// Its code (PROTOCOL.md, "Frames").
        code: String,
        /// One sentence for people; it may hold control characters.
        message: String,
    },
    /// Something went wrong; the client says in it what it does next.
    Failed(Failure),
}

/// A client's health, with the names that all Tidegate clients use (docs/clients.md).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// The state as users see it.
    pub connection_state: ConnectionState,
    /// When the stream was last opened.
    pub last_connected_at: Option<SystemTime>,
    /// When it was last lost or left.
    pub last_disconnected_at: Option<SystemTime>,
    /// Connections that were lost.
    pub total_disconnects: u64,
    /// Attempts since the last connection that lasted 10 s.
    pub reconnect_attempts: u32,
    /// Events received, without repeats.
    pub events_received: u64,
    /// Times from the gateway's acceptance to here, of the last 100 events that were no replay, in ms.
    pub event_latency_ms: Vec<u64>,
    /// Events that came again and were dropped.
    pub duplicates_detected: u64,
    /// When the last event came.
    pub last_event_at: Option<SystemTime>,
    /// Missing frames that this client noticed; each made it resume.
    pub holes: u64,
    /// Gaps that were delivered.
    pub gaps: u64,
    /// The shortest of the last round trips to the gateway, in ms.
    pub rtt_ms: Option<u64>,
    /// Items that wait for the application.
    pub queue: usize,
}

impl Metrics {
    pub(crate) fn of(state: &State, queue: usize) -> Self {
        let at = |wall: Option<u64>| wall.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        Self {
            connection_state: state.connection_state(),
            last_connected_at: at(state.connected_wall),
            last_disconnected_at: at(state.disconnected_wall),
            total_disconnects: state.disconnects,
            reconnect_attempts: state.attempt,
            events_received: state.events,
            event_latency_ms: state.latencies.clone(),
            duplicates_detected: state.overlaps + state.repeats,
            last_event_at: at(state.event_wall),
            holes: state.holes,
            gaps: state.gaps,
            rtt_ms: state.clock().map(|sample| sample.rtt),
            queue,
        }
    }
}
