//! What a gateway can do that it must not: every finding of a reader or of the books.

/// What the gateway did that it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a frame of the protocol.
    #[error("a frame cannot be read ({reason}): {frame}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// How it begins.
        frame: String,
    },
    /// A stream begins with hello (or says why it does not).
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
    /// hello contradicts what was asked, or itself.
    #[error("hello is wrong about {field}: it says {said}, not {expected}")]
    HelloWrong {
        /// Which of its fields.
        field: &'static str,
        /// What it says.
        said: String,
        /// What it should.
        expected: String,
    },
    /// R11: every start is a new epoch, and no old one comes back.
    #[error("the log is in epoch {0} again, which it had left")]
    OldEpoch(String),
    /// R1, R2: a frame follows on something that never came.
    #[error("a hole: a frame follows on {prev}, but only {cursor} had been reached")]
    Hole {
        /// What the frame says it follows.
        prev: u64,
        /// What had been reached.
        cursor: u64,
    },
    /// R5: on one connection nothing comes twice.
    #[error("event {seq} came again: {cursor} had been reached")]
    Repeated {
        /// The event's place.
        seq: u64,
        /// What had been reached.
        cursor: u64,
    },
    /// P1: the places of a stream rise.
    #[error("event {seq} came after event {after}")]
    Disordered {
        /// The event's place.
        seq: u64,
        /// The one before it.
        after: u64,
    },
    /// A frame accounts for (prev, seq] and holds nothing else.
    #[error("event {seq} stands in a frame over ({prev}, {to}]")]
    OutsideFrame {
        /// The event's place.
        seq: u64,
        /// The frame's prev.
        prev: u64,
        /// The frame's seq.
        to: u64,
    },
    /// A frame ends before it begins, or behind what has been reached.
    #[error("a frame of type {kind} goes over ({prev}, {to}], but {cursor} had been reached")]
    Backwards {
        /// Its type.
        kind: String,
        /// Its prev.
        prev: u64,
        /// Its seq.
        to: u64,
        /// What had been reached.
        cursor: u64,
    },
    /// P5: only what was asked for comes.
    #[error("event {seq} of {service} came, which was not asked for")]
    Foreign {
        /// The event's place.
        seq: u64,
        /// Its service.
        service: String,
    },
    /// The log's timestamps never fall (R14).
    #[error("event {seq} is of {timestamp}, before the one in front of it, of {after}")]
    ClockFell {
        /// The event's place.
        seq: u64,
        /// Its timestamp.
        timestamp: String,
        /// The one before.
        after: String,
    },
    /// An event is not as it was published.
    #[error("event {seq} ({id}) has another {field} than was published: {found}")]
    Altered {
        /// The event's place.
        seq: u64,
        /// Its id.
        id: String,
        /// Which of its fields.
        field: &'static str,
        /// What stands there.
        found: String,
    },
    /// A place holds one event, the same for everybody.
    #[error("place {seq} holds {here} here, and {there} elsewhere")]
    Contradicted {
        /// The place.
        seq: u64,
        /// What this reader saw.
        here: String,
        /// What somebody else saw.
        there: String,
    },
    /// The `id:` of a server-sent event is the cursor behind it.
    #[error("a frame that moves to {expected} has the SSE id {id:?}")]
    WrongId {
        /// What stands there.
        id: Option<String>,
        /// What should.
        expected: String,
    },
    /// Nothing is missing from this log, so no gap may be declared.
    #[error("a gap of reason {reason} over ({prev}, {seq}] was declared, but the log has it all")]
    Gap {
        /// Why.
        reason: String,
        /// From.
        prev: u64,
        /// To.
        seq: u64,
    },
    /// The gateway ended the stream.
    #[error("the gateway ended the stream with {code}: {message}")]
    Ended {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// Told at the end, against the log's history.
    #[error("event {seq} ({id}) is in the log, and never came")]
    Missing {
        /// Its place.
        seq: u64,
        /// Its id.
        id: String,
    },
    /// Told at the end, against the log's history.
    #[error("event {0} came, and is not in the log")]
    Phantom(u64),
    /// `tail=N` starts in front of the last N.
    #[error("tail={asked} began with {given} events behind it, where the log has {available}")]
    WrongTail {
        /// N.
        asked: usize,
        /// What it gave.
        given: usize,
        /// What there was.
        available: usize,
    },
}
