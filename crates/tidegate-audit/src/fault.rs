//! Faults: everything that a gateway can do wrong, as found by a reader or the ledger.

/// What the gateway did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a frame of the protocol.
    #[error("a frame cannot be read ({reason}): {frame}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// The beginning of the frame.
        frame: String,
    },
    /// A stream must begin with hello, or with an error.
    #[error("a frame of type {0} came before hello")]
    BeforeHello(String),
    /// R3: accounting starts at the presented cursor.
    #[error("hello starts at {hello}, but {presented} was presented")]
    HelloElsewhere {
        /// The presented seq.
        presented: u64,
        /// What hello says.
        hello: u64,
    },
    /// hello contradicts the request, or itself.
    #[error("hello is wrong about {field}: it says {said}, not {expected}")]
    HelloWrong {
        /// The wrong field.
        field: &'static str,
        /// Its value.
        said: String,
        /// The expected value.
        expected: String,
    },
    /// R11: every start is a new epoch, and no old epoch returns.
    #[error("the log is in epoch {0} again, which had ended")]
    OldEpoch(String),
    /// R1, R2: a frame follows events that were never received.
    #[error("a hole: a frame follows {prev}, but the reader had reached only {cursor}")]
    Hole {
        /// The frame's prev.
        prev: u64,
        /// The seq that the reader had reached.
        cursor: u64,
    },
    /// R5: on one connection no event comes twice.
    #[error("event {seq} came again: the reader had reached {cursor}")]
    Repeated {
        /// The event's seq.
        seq: u64,
        /// The seq that the reader had reached.
        cursor: u64,
    },
    /// P1: the seqs of a stream increase.
    #[error("event {seq} came after event {after}")]
    Disordered {
        /// The event's seq.
        seq: u64,
        /// The seq of the event before it.
        after: u64,
    },
    /// A frame accounts for (prev, seq] and must hold no other events.
    #[error("event {seq} is in a frame over ({prev}, {to}]")]
    OutsideFrame {
        /// The event's seq.
        seq: u64,
        /// The frame's prev.
        prev: u64,
        /// The frame's seq.
        to: u64,
    },
    /// A frame ends before it begins, or before the seq that was reached.
    #[error("a frame of type {kind} accounts for ({prev}, {to}], but the reader had reached {cursor}")]
    Backwards {
        /// Its type.
        kind: String,
        /// Its prev.
        prev: u64,
        /// Its seq.
        to: u64,
        /// The seq that the reader had reached.
        cursor: u64,
    },
    /// P5: only events of the subscription come.
    #[error("event {seq} of {service} came, which was not subscribed to")]
    Foreign {
        /// The event's seq.
        seq: u64,
        /// Its service.
        service: String,
    },
    /// The log's timestamps never decrease (R14).
    #[error("event {seq} has the timestamp {timestamp}, earlier than the event before it, {after}")]
    ClockFell {
        /// The event's seq.
        seq: u64,
        /// Its timestamp.
        timestamp: String,
        /// The timestamp of the event before it.
        after: String,
    },
    /// An event differs from what was published.
    #[error("event {seq} ({id}) has a different {field} than was published: {found}")]
    Altered {
        /// The event's seq.
        seq: u64,
        /// Its id.
        id: String,
        /// The altered field.
        field: &'static str,
        /// Its value.
        found: String,
    },
    /// A seq belongs to one event, the same for all readers and publishers.
    #[error("seq {seq} is {here} here, and {there} elsewhere")]
    Contradicted {
        /// The seq.
        seq: u64,
        /// What this reader saw.
        here: String,
        /// What another reader or publisher saw.
        there: String,
    },
    /// The `id:` of a server-sent event must be the cursor after it.
    #[error("a frame that moves to {expected} has the SSE id {id:?}")]
    WrongId {
        /// The id.
        id: Option<String>,
        /// The expected id.
        expected: String,
    },
    /// The log is complete, so no gap may be declared.
    #[error("a gap with reason {reason} over ({prev}, {seq}] was declared, but the log is complete")]
    Gap {
        /// Its reason.
        reason: String,
        /// Its prev.
        prev: u64,
        /// Its seq.
        seq: u64,
    },
    /// The gateway ended the stream.
    #[error("the gateway ended the stream with {code}: {message}")]
    Ended {
        /// Its code.
        code: String,
        /// Its message.
        message: String,
    },
    /// Found at the end, in comparison with the log's history.
    #[error("event {seq} ({id}) is in the log, but was never received")]
    Missing {
        /// Its seq.
        seq: u64,
        /// Its id.
        id: String,
    },
    /// Found at the end, in comparison with the log's history.
    #[error("event {0} was received, but is not in the log")]
    Phantom(u64),
    /// `tail=N` must start before the last N events.
    #[error("tail={asked} started before the last {given} events, but the log has {available}")]
    WrongTail {
        /// N.
        asked: usize,
        /// How many events it delivered.
        given: usize,
        /// How many events the log had.
        available: usize,
    },
}
