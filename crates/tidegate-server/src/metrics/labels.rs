//! The labels: each a closed set of values.

use tidegate_core::deflate::MadeForm;
use tidegate_protocol::{Code, GapReason};

use super::declare::Label;
use crate::{
    config::{ConfigKey, config_key, keys::KEYS},
    transport::Transport,
};

macro_rules! labels {
    ($(
        $(#[doc = $doc:literal])*
        $Label:ident($name:literal) {
            $( $(#[doc = $value_doc:literal])* $Value:ident = $value:literal, )*
        }
    )*) => { $(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $Label {
            $( $(#[doc = $value_doc])* $Value, )*
        }

        impl $Label {
            /// The value of the label.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$Value => $value, )*
                }
            }
        }

        impl Label for $Label {
            const NAME: &'static str = $name;

            fn value(self) -> &'static str {
                self.name()
            }

            fn initial() -> impl Iterator<Item = Self> {
                [ $( Self::$Value, )* ].into_iter()
            }
        }
    )* };
}

labels! {
    /// What a request of the public listener asks for.
    Operation("operation") {
        /// Append events.
        Publish = "publish",
        /// Read a page of events.
        History = "history",
        /// Read the cursor at the head.
        Cursor = "cursor",
        /// Open a stream.
        Stream = "stream",
        /// Read the OpenAPI document.
        Description = "description",
        /// May this page send a request (CORS)?
        Preflight = "preflight",
        /// Anything else: the page of `tidegate dev`, an unknown address or method, a request that cannot be
        /// read.
        Other = "other",
    }

    /// Whether the log takes writes.
    LogState("state") {
        /// It does.
        Ok = "ok",
        /// It does not, because there is no room, until there is some.
        Full = "full",
        /// It does, with difficulty.
        Degraded = "degraded",
        /// It does not, until the gateway is restarted.
        Halted = "halted",
    }

    /// What bytes of the log are counted.
    LogPart("what") {
        /// The events that are kept, with the ids of the dedup window.
        Events = "events",
        /// The files of the log, the copies of damaged stretches included.
        Files = "files",
        /// Copies of damaged stretches.
        Damaged = "damaged",
    }

    /// What holds memory.
    MemoryHolder("holder") {
        /// The newest events of all orgs, with their encoded views.
        Tails = "tails",
        /// Pages of the log for readers that catch up.
        Pages = "pages",
        /// The dedup window.
        Dedup = "dedup",
        /// The state of all orgs, and the index of the newest file of the log.
        Log = "log",
        /// Bodies and answers in flight, as the ledger counts them.
        InFlight = "in_flight",
        /// Events that wait to be written.
        Queue = "queue",
        /// Shared compressors.
        Compressors = "compressors",
        /// Connections, estimated by their number.
        Connections = "connections",
        /// Pages of the program's own file.
        Program = "program",
    }

    /// How a request for an issuer's key set ended.
    JwksOutcome("outcome") {
        /// A key set.
        Ok = "ok",
        /// No connection, or one that broke.
        Unreachable = "unreachable",
        /// No whole answer in time.
        Timeout = "timeout",
        /// A redirect, which is not followed.
        Redirect = "redirect",
        /// Another status than 200.
        Status = "status",
        /// More bytes than a key set may have.
        TooLarge = "too_large",
        /// Something else than a key set.
        Malformed = "malformed",
    }

    /// What was done with a page of the log for readers that catch up.
    ReplayPage("of") {
        /// Read from the log.
        Read = "read",
        /// Sent to a reader in the same bytes as to others.
        Shared = "shared",
        /// Made for one reader: it began in the middle, or held events targeted at it.
        Private = "private",
    }

    /// What a quota of an org bounds: a key of `limits.org`.
    Quota("quota") {
        /// Connections.
        Connections = "connections",
        /// Events published per second.
        PublishEvents = "publish_events_per_second",
        /// Their bytes.
        PublishBytes = "publish_bytes_per_second",
        /// Bytes in the log.
        StoredBytes = "stored_bytes",
        /// Bytes of history per second.
        HistoryBytes = "history_bytes_per_second",
        /// Different filters.
        Filters = "filters",
        /// Compressors.
        Compressors = "compressors",
        /// Bytes that streams send per second.
        EgressBytes = "egress_bytes_per_second",
    }

    /// How a configuration that was read again ended.
    RereadOutcome("outcome") {
        /// Taken over.
        Taken = "taken",
        /// Refused, and nothing of it taken over.
        Refused = "refused",
    }

    /// What went wrong for a client.
    Incident("incident") {
        /// A connection that ended without the application's wish.
        Disconnect = "disconnect",
        /// An event that came again.
        Duplicate = "duplicate",
        /// A frame that followed on something the client did not have.
        Hole = "hole",
        /// A gap.
        Gap = "gap",
    }

    /// What was done with a client's report about itself.
    ReportOutcome("outcome") {
        /// Taken as it was.
        Taken = "taken",
        /// Taken with values moved to their bounds.
        Clamped = "clamped",
        /// Ignored: it came too soon after the one before.
        Early = "early",
    }

    /// What is held because a client sends or takes something right now.
    InFlight("kind") {
        /// Bodies of publish requests, until their events have been read.
        Body = "body",
        /// Answers of history, until they are taken.
        Answer = "answer",
        /// Searches for what `tail=` asks for.
        Search = "search",
        /// Frames of the log, for streams that catch up, until they are taken.
        Unread = "unread",
        /// Requests over HTTP/2, except streams, until they are answered and their answers taken.
        Request = "request",
    }

    /// What a worker did without a break.
    LongSlice("cause") {
        /// Made or compressed what a filter shows of a batch, in a fan-out pass.
        View = "view",
        /// Sent to readers, in a fan-out pass.
        Send = "send",
        /// Served readers that catch up.
        Replay = "replay",
        /// Looked at the timers of readers.
        Timers = "timers",
        /// Read a publish body.
        Body = "body",
        /// Looked through a page of the log, for history or `tail=`.
        Scan = "scan",
    }

    /// What a connection has sent that waits for a request, or for the rest of one.
    Waiting("state") {
        /// Nothing.
        Silent = "silent",
        /// The beginning of its first request.
        Head = "head",
        /// A request without the end of its body.
        Body = "body",
        /// Requests that were answered.
        Idle = "idle",
    }

    /// What a counter of slots counts.
    SlotScope("scope") {
        /// Accepted sockets.
        Sockets = "sockets",
        /// Streams.
        Streams = "streams",
        /// Client addresses that have streams.
        Addresses = "addresses",
        /// Orgs that have streams.
        Orgs = "orgs",
        /// Users that have streams.
        Users = "users",
        /// Streams in the registry of connections.
        Registered = "registered",
    }
}

impl InFlight {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Body, Self::Answer, Self::Search, Self::Unread, Self::Request];
}

impl Label for Transport {
    const NAME: &'static str = "transport";

    fn value(self) -> &'static str {
        self.name()
    }

    fn initial() -> impl Iterator<Item = Self> {
        [Transport::WebSocket, Transport::Sse].into_iter()
    }
}

impl Label for MadeForm {
    const NAME: &'static str = "form";

    fn value(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Alone => "alone",
            Self::Block => "block",
            Self::Envelope => "envelope",
        }
    }

    fn initial() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }
}

impl Label for GapReason {
    const NAME: &'static str = "reason";

    fn value(self) -> &'static str {
        self.name()
    }

    fn initial() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// The gateway ended or refused it.
    Code(Code),
    /// The client closed it, or its connection broke.
    ClientLeft,
}

impl Label for End {
    const NAME: &'static str = "code";

    fn value(self) -> &'static str {
        match self {
            End::Code(code) => code.name(),
            End::ClientLeft => "client_left",
        }
    }

    fn initial() -> impl Iterator<Item = Self> {
        let codes = Code::ALL.into_iter().filter(|code| code.close().is_some());
        codes.map(End::Code).chain([End::ClientLeft])
    }
}

/// How a request was answered: `ok`, or the code of its refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Outcome(pub(super) Option<Code>);

impl Label for Outcome {
    const NAME: &'static str = "code";

    fn value(self) -> &'static str {
        self.0.map_or("ok", Code::name)
    }

    fn initial() -> impl Iterator<Item = Self> {
        std::iter::once(Self(None)).chain(Code::ALL.into_iter().map(|code| Self(Some(code))))
    }
}

/// The configuration key of a bound, as a refusal names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Limit(pub(super) &'static str);

impl From<ConfigKey> for Limit {
    fn from(key: ConfigKey) -> Self {
        Self(key.name())
    }
}

impl Label for Limit {
    const NAME: &'static str = "limit";

    fn value(self) -> &'static str {
        self.0
    }

    /// All keys of `[limits]`, the quotas of orgs that refuse something, and those of other sections that refuse something.
    fn initial() -> impl Iterator<Item = Self> {
        let of_limits = KEYS.iter().filter(|key| key.section == "limits").map(|key| Self(key.name));
        let others = [
            config_key!(limits_org.connections),
            config_key!(limits_org.publish_events_per_second),
            config_key!(limits_org.publish_bytes_per_second),
            config_key!(limits_org.history_bytes_per_second),
            config_key!(limits_org.filters),
            config_key!(dedup.max_entries),
            config_key!(dedup.max_entries_per_org),
            config_key!(slow.max_warnings),
            config_key!(ping.timeout),
        ];
        of_limits.chain(others.map(Self::from))
    }
}

/// The configuration key of a bound that a gauge approaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Bound(pub(super) ConfigKey);

impl Label for Bound {
    const NAME: &'static str = "limit";

    fn value(self) -> &'static str {
        self.0.name()
    }

    fn initial() -> impl Iterator<Item = Self> {
        [
            config_key!(limits.connections),
            config_key!(limits.replays_waiting),
            config_key!(limits.publishes_in_flight),
            config_key!(limits.in_flight_bytes),
            config_key!(limits.publish_queue_bytes),
            config_key!(tail.max_bytes),
            config_key!(compression.max_contexts),
            config_key!(dedup.max_entries),
            config_key!(log.max_bytes),
            config_key!(log.min_free),
        ]
        .into_iter()
        .map(Self)
    }
}
