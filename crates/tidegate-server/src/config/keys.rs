//! Every key of the configuration: its type, its default, and what it means.
//!
//! This list is the single definition; `docs/config.md` is generated from it. A new key goes here
//! and nowhere else (relations between keys stand in [`super::check`]).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tidegate_core::slow::Policy;
use tidegate_protocol::{OrgId, ServiceName};

use super::{
    choice::{
        BatchMode, ClaimName, CookieName, LogEngine, LogFormat, LogLevel, LogSync, Network, Origin, Share,
        UserPolicy, Workers,
    },
    define::{Change, KeyInfo, Reader, SectionInfo, sections},
    issuer::Issuer,
    jwt_key::JwtKey,
    value::{ByteSize, Setting},
};

sections! {
    /// Where the node listens.
    listen: Listen {
        /// The address for publishers and readers. Port 0 takes any free port and prints it.
        public: SocketAddr = "0.0.0.0:8080", restart;
        /// The address for operators: `/healthz`, `/readyz`, `/metrics`, and the connections of an org.
        /// It asks for no credentials, so it stays on loopback unless something else guards it.
        admin: SocketAddr = "127.0.0.1:8081", restart;
        /// The networks of the proxies in front. A connection from one of them counts for the client that
        /// `X-Forwarded-For` names: the rightmost address there that is in none of these networks. All
        /// other connections count for the address that they come from, whatever they send.
        trusted_proxies: Vec<Network> = [], restart;
    }

    /// The process as a whole.
    node: Node {
        /// Threads that own readers and write to their sockets; `"auto"` is one per core.
        workers: Workers = "auto", restart;
    }

    /// Where events are kept, and how long.
    log: Log {
        /// `disk` keeps events over restarts; `memory` keeps them while the process lives.
        engine: LogEngine = "disk", restart;
        /// The data directory: the disk engine's files, and `keys.toml` with both engines. Relative
        /// paths start at the working directory.
        dir: PathBuf = "tidegate-data", restart;
        /// When an acknowledged publish is on disk: `always` before the answer; `interval` within about a
        /// second of it, which a power cut can lose (readers are told by `hello.sync`).
        sync: LogSync = "always", restart;
        /// How long events can be read back, on disk. Not less than `dedup.window`. (The memory engine
        /// keeps `tail.window`.)
        retention: Duration = "24h", restart;
        /// The size of all logs of the node together; past it, the oldest events go first, but none
        /// that is younger than `dedup.window`. The memory engine is held to the smaller of this and
        /// `tail.max_bytes`, and under that drops younger ones too (readers are told; ids stay known).
        max_bytes: ByteSize = "16GiB", restart;
    }

    /// How repeated publishes are recognised.
    dedup: Dedup {
        /// How long the id of an event is remembered: sent again within it, the event is stored once.
        window: Duration = "5m", restart;
        /// Ids remembered at a time, over all orgs. When it is full, publishes with ids of their
        /// own are refused (`dedup_full`), never let through unchecked. About 110 bytes each.
        max_entries: usize = 2_000_000, restart;
        /// Ids remembered at a time of one org, so that no org can fill the window of all. By default
        /// half of it; a node with one org may give it all.
        max_entries_per_org: usize = 1_000_000, restart;
    }

    /// Who may read and who may publish.
    auth: Auth {
        /// The keys of subscribers' tokens, where one issuer speaks for all orgs. To rotate, list the
        /// new key beside the old one, move the signer over, then remove the old one. Each is a table:
        /// `[[auth.keys]]`, then `secret_file = "/run/secrets/tidegate"` (32 bytes or more), or
        /// `algorithm = "ES256"` and `public_key_file = "/etc/tidegate/id.pem"`, and optionally `kid`.
        /// Algorithms are `HS256` (by `secret` or `secret_file`), `RS256` (2048 bits or more), `ES256` and
        /// `EdDSA` (by `public_key` or `public_key_file`, PEM); each key is for its own alone.
        keys: Vec<JwtKey> = [], reread;
        /// Issuers that each sign with keys of their own: `[[auth.issuers]]`, then
        /// `issuer = "https://id.example.com/"` (what its tokens have as `iss`, byte for byte),
        /// `algorithms = ["RS256"]`, `orgs = ["acme"]` (for which it may speak; `["*"]` is every one),
        /// `keys = [...]` as in `auth.keys` or `jwks = "https://id.example.com/jwks.json"`, and optionally
        /// `audience = "tidegate"` (or a list). Where `auth.keys` stands beside them, `auth.issuer` must be
        /// set. At most 64. Key sets are fetched through the proxy that the environment names
        /// (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), which sees no more than whose they are, for it is TLS
        /// through it; a set on loopback never is.
        issuers: Vec<Issuer> = [], reread;
        /// How often key sets are fetched again, give or take a tenth. A key that has gone from its set
        /// is taken no longer from then on.
        jwks_refresh: Duration = "10m", reread;
        /// How long after a fetch a token with an unknown `kid` may bring about the next.
        jwks_cooldown: Duration = "30s", reread;
        /// How long a fetch may take, and a token wait for it.
        jwks_timeout: Duration = "5s", reread;
        /// How long keys are still good after the last fetch that succeeded. Whoever stole a key, and
        /// keeps the gateway from hearing that it was taken back, has this long.
        jwks_stale_if_error: Duration = "6h", reread;
        /// Where publishers' API keys are kept (hashed); `""` is `keys.toml` in `log.dir`.
        keys_file: Option<PathBuf> = "", restart;
        /// The origins of web pages that may connect, such as `"https://app.example.com"`, exactly
        /// as browsers send them. The gateway's own origin always may.
        origins: Vec<Origin> = [], reread;
        /// The name of an HttpOnly cookie in which a reader's token may come, for pages that use the
        /// browser's own EventSource: SSE, history and cursors, of pages of `auth.origins` and of the
        /// gateway's own origin alone. `""` takes no cookie. Set it with `Secure`, `HttpOnly` and
        /// `SameSite`; best under a name that begins with `__Host-`.
        cookie: Option<CookieName> = "", reread;
        /// The claim that names the user.
        user_claim: ClaimName = "sub", reread;
        /// The claim that names the org.
        org_claim: ClaimName = "org", reread;
        /// The claim that lists the services; `["*"]` there means all, absent means refused.
        services_claim: ClaimName = "services", reread;
        /// The issuer (`iss`) that tokens by `auth.keys` must name; `""` asks for none.
        issuer: Option<String> = "", reread;
        /// The audience (`aud`) that tokens by `auth.keys` must name; `""` is for tokens that name none.
        audience: Option<String> = "", reread;
        /// How far the signer's clock may be off, for `exp` and `nbf`. At most 5 minutes.
        leeway: Duration = "30s", reread;
    }

    /// The in-memory end of each log, from which readers are served and resume.
    tail: Tail {
        /// How long events stay in memory. Longer than the longest time between two tries of a
        /// client to reconnect (305 s), or those would come back to a disk read.
        window: Duration = "10m", restart;
        /// The memory of all tails together.
        max_bytes: ByteSize = "256MiB", restart;
        /// The memory of one org's tail.
        org_max_bytes: ByteSize = "32MiB", restart;
        /// The memory of pages of the log before the tails, encoded for readers that come back: of each
        /// worker. Many that ask for the same are served from one page; over it, those used least recently
        /// go first.
        page_bytes: ByteSize = "16MiB", restart;
    }

    /// How events are joined on their way to readers.
    batch: Batch {
        /// `paced` sends at once to few readers, and to many as often as keeps sending under
        /// `batch.fanout_share`; `fixed` waits `batch.window` for the least CPU; `immediate` sends at
        /// once always.
        mode: BatchMode = "paced", restart;
        /// The longest that an event waits for others.
        window: Duration = "50ms", restart;
        /// Events in one batch.
        max_events: usize = 100, restart;
        /// Bytes of events in one batch; a larger single event goes alone.
        max_bytes: ByteSize = "64KiB", restart;
        /// The share of a worker's time that sends to readers may take, where that can be had by
        /// letting events wait up to `batch.window`. More is sooner, less is cheaper. Counted is what
        /// waiting saves: what each send costs whatever it carries, not the bytes, which have to go.
        fanout_share: Share = 0.5, restart;
    }

    /// What is compressed on its way to readers.
    compression: Compression {
        /// Whether WebSockets that offer permessage-deflate get it, and event streams whose clients
        /// accept gzip that; and `?batch=gzip` what it asks for. A client can do without by `?deflate=0`.
        enabled: bool = true, restart;
        /// The length of a frame's JSON above which `?batch=gzip` compresses it. Other codings have no
        /// such bound: most of what is short is in their context already.
        threshold: ByteSize = "1KiB", restart;
        /// Services whose events are never compressed: what an attacker can write and a secret that
        /// are compressed together can be told by their length.
        exclude_services: Vec<ServiceName> = [], restart;
        /// Orgs whose streams are never compressed.
        exclude_orgs: Vec<OrgId> = [], restart;
        /// Shared compressors at a time, over all orgs and filters, of about 260 KiB each. Filters past
        /// it are compressed without context.
        max_contexts: usize = 64, restart;
    }

    /// How a quiet connection is known to be alive.
    ping: Ping {
        /// How often a quiet connection gets a ping.
        interval: Duration = "25s", restart;
        /// How long a client has to answer it (`ping_timeout`). Less than `ping.interval`.
        timeout: Duration = "10s", restart;
    }

    /// What happens to readers that do not keep up.
    slow: Slow {
        /// `catch_up` gives them everything in order, at their own pace; `skip` goes on at the head, and
        /// declares the gap; `latest` gives the last event of each service and key, and tells how many
        /// are left out. A connection may ask for another by `?slow=`.
        policy: Policy = "catch_up", restart;
        /// Events that a reader, once level, may be behind before it is warned.
        max_behind: usize = 500, restart;
        /// Warnings, one each five seconds while it does not gain, before it is closed
        /// (`slow_consumer`).
        max_warnings: usize = 10, restart;
    }

    /// How the node stops.
    drain: Drain {
        /// The time over which connections are asked to leave after SIGTERM. `"0s"` closes at once.
        window: Duration = "10s", restart;
    }

    /// What the node says on standard error.
    logs: Logs {
        /// `human` for a terminal, `json` with an object a line for machines.
        format: LogFormat = "human", restart;
        /// `error`, `warn`, `info`, `debug` or `trace`. Payloads and tokens are never logged.
        level: LogLevel = "info", restart;
    }

    /// A bound on everything that grows. What is over one is refused with a code, and counted.
    limits: Limits {
        /// Connections at a time, over all orgs. Each needs a file descriptor.
        connections: usize = 50_000, reread;
        /// Requests and streams at a time over one HTTP/2 connection; how many in all is told by the
        /// other keys. What they all may hold in answers is this times `limits.page_bytes`. A client is told
        /// it at the start; more streams than that (`REFUSED_STREAM`), and heads that grow past
        /// `limits.header_bytes` over HTTP/2 (431), are refused below what counts, so no metric shows them.
        streams_per_connection: usize = 100, reread;
        /// Connections at a time of one org.
        connections_per_org: usize = 20_000, reread;
        /// Connections at a time of one user of an org.
        connections_per_user: usize = 10, reread;
        /// What happens to a connection over `limits.connections_per_user`: `reject_new` refuses it,
        /// `evict_oldest` lets it in and ends the user's oldest one (`evicted`).
        connections_per_user_policy: UserPolicy = "reject_new", reread;
        /// Connections at a time from one client address; IPv6 counts by /64. See
        /// `listen.trusted_proxies` for who a client behind a proxy is.
        connections_per_address: usize = 1000, reread;
        /// New connections per second, over all orgs and addresses, whether they are let in or not. There
        /// is none per address: an office behind one address comes back as a whole after a restart, and
        /// behind a proxy that is not in `listen.trusted_proxies` all clients are one. Where one address
        /// must not keep others away, limit its rate in front of the gateway, where that is known.
        handshakes_per_second: usize = 2000, reread;
        /// Readers at a time, over all orgs, that have come back and wait for the gateway to replay what
        /// they missed; one org gets at most half. One whose own socket is full waits for its client, and
        /// does not count. Over it, streams that begin behind the head are refused, and told to come back
        /// at different times.
        replays_waiting: usize = 10_000, reread;
        /// How often per second one client address may bring a token that is not valid with a request for
        /// history or a cursor; a second's worth may come at once, IPv6 counts by /64. Over it, such
        /// requests are refused before their tokens are looked at, good ones too. Expired ones do not
        /// count. Behind a proxy that is not in `listen.trusted_proxies` all clients share one address,
        /// and so this rate: list the proxy there, or raise this. Streams are held to
        /// `limits.handshakes_per_second`.
        failed_auths_per_second: usize = 20, reread;
        /// Orgs that the node holds a log of at a time.
        orgs: usize = 20_000, restart;
        /// Publish requests per second of one API key; a second's worth may come at once.
        publishes_per_second: usize = 20_000, reread;
        /// Publish requests being answered at a time, of one org at most half.
        publishes_in_flight: usize = 4096, restart;
        /// The bytes of events that wait for the log at a time.
        publish_queue_bytes: ByteSize = "64MiB", restart;
        /// The size of one event as it is stored: its JSON members, without white space between tokens.
        event_bytes: ByteSize = "256KiB", reread;
        /// The size of a publish request's body.
        request_bytes: ByteSize = "4MiB", reread;
        /// Events in one publish request.
        events_per_batch: usize = 1000, restart;
        /// Users that one event may be targeted at.
        users_per_event: usize = 100, reread;
        /// How deep objects and arrays of an event may nest.
        json_depth: usize = 64, reread;
        /// The size of a request's line and headers together. At least 8 KiB.
        header_bytes: ByteSize = "16KiB", reread;
        /// Headers of a request.
        headers: usize = 64, reread;
        /// The size of a token, wherever it stands.
        token_bytes: ByteSize = "8KiB", reread;
        /// Services that one connection may name in `services=`.
        services_per_filter: usize = 100, reread;
        /// The size of a frame that a client sends.
        client_frame_bytes: ByteSize = "16KiB", reread;
        /// Frames per second that a client sends.
        client_frames_per_second: usize = 50, reread;
        /// Events that `tail=` may ask for.
        tail_events: usize = 1000, reread;
        /// Events that are looked through to find the ones that `tail=` asks for.
        tail_search_events: usize = 10_000, reread;
        /// Events in one page of history.
        page_events: usize = 1000, reread;
        /// The size of one page of history or replay; its first event comes whole.
        page_bytes: ByteSize = "1MiB", reread;
        /// How long a connection may take to send its first frame, or a request its headers.
        first_frame_timeout: Duration = "10s", reread;
        /// How long a request's body may take to arrive.
        request_timeout: Duration = "30s", reread;
        /// How long a reader may take no byte of what waits for it (`slow_consumer`). Set anew by SIGHUP,
        /// a longer one is for connections that come after it.
        write_timeout: Duration = "30s", reread;
        /// How long an HTTP connection may rest without a request or stream.
        idle_timeout: Duration = "75s", reread;
        /// How long a publish waits for the log before it is answered 504 `unknown`.
        publish_timeout: Duration = "5s", reread;
    }
}
