//! Every key of the configuration: its type, its default, and what it means.
//!
//! This list is the single definition: the settings that the node reads, `config print` and `docs/config.md`
//! are made from it. To add a key, add it here. Only three things stand elsewhere:
//!
//! - a word that a key takes (as `batch.mode` takes `paced`) is in [`super::choice`];
//! - what a key must not exceed, or how it relates to other keys, is in [`super::check`];
//! - if a part of the node keeps a copy of the value of a key that is marked `reread`, `Node::reconfigure`
//!   has to renew the copy. A part that asks for `Node::config` each time needs nothing.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tidegate_core::slow::Policy;
use tidegate_protocol::{OrgId, ServiceName};

use super::{
    choice::{
        BatchMode, ClaimName, CookieName, LogEngine, LogFormat, LogLevel, LogSync, Network, Origin, Share,
        UserPolicy, Workers,
    },
    define::{Change, KeyInfo, KeyReader, SectionInfo, sections},
    issuer::IssuerSettings,
    jwt_key::JwtKey,
    quotas::OrgTables,
    value::{ByteSize, Setting},
};

sections! {
    /// Where the node listens.
    listen: ListenSettings {
        /// The address for publishers and readers. Port 0 takes any free port and prints it.
        public: SocketAddr = "0.0.0.0:8080", restart;
        /// The address for operators: `/healthz`, `/readyz`, `/metrics`, and the connections of an org.
        /// It asks for no credentials, so it stays on loopback unless something else guards it.
        admin: SocketAddr = "127.0.0.1:8081", restart;
        /// The networks of the proxies in front of the gateway. A connection from one of them counts for the
        /// client that `X-Forwarded-For` names: the rightmost address there that is in none of these
        /// networks. Every other connection counts for the address that it comes from, whatever it sends.
        trusted_proxies: Vec<Network> = [], restart;
    }

    /// The process as a whole.
    node: NodeSettings {
        /// Threads that own readers and write to their sockets; `"auto"` is one per core.
        workers: Workers = "auto", restart;
    }

    /// Where events are kept, and how long.
    log: LogSettings {
        /// `disk` keeps events over restarts; `memory` keeps them while the process lives.
        engine: LogEngine = "disk", restart;
        /// The data directory: the disk engine's files, and `keys.toml` with both engines. Relative
        /// paths start at the working directory.
        dir: PathBuf = "tidegate-data", restart;
        /// When a publish that was answered is on disk: with `always` before the answer, with `interval`
        /// within about a second after it. A power cut can lose that second; `hello.sync` says so to readers.
        sync: LogSync = "always", restart;
        /// How long events can be read back, on disk. Not less than `dedup.window`. (The memory engine
        /// keeps `tail.window`.)
        retention: Duration = "24h", restart;
        /// What the files of the log may take, all orgs together; up to a sixteenth of it (64MiB at most) and
        /// 24MiB more are possible, and about 120 bytes for each org. Over it, the oldest events are removed
        /// of orgs that store more than their share, but none that is younger than `dedup.window`: if those
        /// alone need more, publishes are refused (`log_full`), first those of such an org alone. The bound of
        /// the memory engine is the smaller of this and `tail.max_bytes`, and it removes the oldest of all orgs,
        /// and younger events too: readers get a gap, and their ids stay known.
        max_bytes: ByteSize = "16GiB", restart;
        /// What publishers leave free on the file system of `log.dir`. With less, publishes are refused
        /// (`log_full`) until there is room again; readers go on.
        min_free: ByteSize = "64MiB", restart;
        /// Events that retention, `log.max_bytes` or a deletion has removed are gone from every file after this
        /// time. It bounds how much time one file of the log covers; at least 3 minutes.
        erase_within: Duration = "1h", restart;
    }

    /// How repeated publishes are recognised.
    dedup: DedupSettings {
        /// How long the id of an event is remembered. An event that is sent again within it is stored once.
        window: Duration = "5m", restart;
        /// Ids remembered at a time, over all orgs, of about 120 bytes each. When there are as many,
        /// publishes that bring ids are refused (`dedup_full`), never stored without the check.
        max_entries: usize = 2_000_000, restart;
        /// Ids remembered at a time of one org, at most. If that is less than `dedup.max_entries`, each org also
        /// gets no more than its share of `dedup.max_entries` (see `[limits]`), so that no two can use it up. A
        /// node with one org may set both to the same.
        max_entries_per_org: usize = 1_000_000, restart;
    }

    /// Who may read and who may publish.
    auth: AuthSettings {
        /// The keys of subscribers' tokens, if one issuer signs for all orgs. To rotate, add the new key
        /// beside the old one, let the signer use it, then remove the old one. Each is a table:
        /// `[[auth.keys]]`, then `secret_file = "/run/secrets/tidegate"` (32 bytes or more), or
        /// `algorithm = "ES256"` and `public_key_file = "/etc/tidegate/id.pem"`, and optionally `kid`.
        /// Algorithms are `HS256` (by `secret` or `secret_file`), `RS256` (2048 bits or more), `ES256` and
        /// `EdDSA` (by `public_key` or `public_key_file`, PEM); a key verifies its own algorithm only.
        keys: Vec<JwtKey> = [], reread;
        /// Issuers that each sign with keys of their own: `[[auth.issuers]]`, then
        /// `issuer = "https://id.example.com/"` (the `iss` of its tokens, byte for byte),
        /// `algorithms = ["RS256"]`, `orgs = ["acme"]` (the orgs that it may speak for; `["*"]` is all),
        /// `keys = [...]` as in `auth.keys` or `jwks = "https://id.example.com/jwks.json"`, and optionally
        /// `audience = "tidegate"` (or a list). If `auth.keys` is set too, `auth.issuer` must be set. At most
        /// 64. Key sets are fetched through the proxy that the environment names (`HTTPS_PROXY`, `ALL_PROXY`,
        /// `NO_PROXY`), except from loopback. The connection is TLS end to end, so the proxy sees only the
        /// name of the issuer's host.
        issuers: Vec<IssuerSettings> = [], reread;
        /// How often key sets are fetched again, give or take a tenth. A key that is no longer in its set is
        /// refused from then on.
        jwks_refresh: Duration = "10m", reread;
        /// The shortest time between a fetch and the next one that a token with an unknown `kid` causes.
        jwks_cooldown: Duration = "30s", reread;
        /// How long a fetch may take, and how long a token waits for it.
        jwks_timeout: Duration = "5s", reread;
        /// How long keys stay valid after the last fetch that succeeded. An attacker who has stolen a key,
        /// and keeps the gateway from fetching the set without it, can use it for this long.
        jwks_stale_if_error: Duration = "6h", reread;
        /// The file of publishers' API keys (hashed); `""` is `keys.toml` in `log.dir`.
        keys_file: Option<PathBuf> = "", restart;
        /// The origins of web pages that may connect, such as `"https://app.example.com"`, exactly
        /// as browsers send them. The gateway's own origin always may. `"http://localhost:*"` stands for any
        /// port (also with `https`, 127.0.0.1 and `[::1]`): `tidegate dev` lists these six unless you list
        /// others. In production, list no page of localhost. The pages of apps and extensions are listed in
        /// the same way: `capacitor://localhost`, `ionic://`, `tauri://`, `app://`, `chrome-extension://`,
        /// `moz-extension://` and `vscode-webview://`, each with its host. Two words stand for pages without an
        /// origin of their own, and let in pages of **anybody**: `"null"` is sent by sandboxed frames and `data:`
        /// pages, which any site can make, and by local files in most browsers; `"file://"` is sent by the local
        /// files of some apps and WebViews. With them the token alone says who connects; a cookie is taken from
        /// no such page.
        origins: Vec<Origin> = [], reread;
        /// The name of an HttpOnly cookie in which a reader's token may come, for pages that use the
        /// browser's own EventSource. It counts for SSE, history and cursors, and only for pages of
        /// `auth.origins` and of the gateway's own origin. `""` takes no cookie. Set the cookie with `Secure`,
        /// `HttpOnly` and `SameSite`, best under a name that begins with `__Host-`.
        cookie: Option<CookieName> = "", reread;
        /// The claim that names the user.
        user_claim: ClaimName = "sub", reread;
        /// The claim that names the org.
        org_claim: ClaimName = "org", reread;
        /// The claim that lists the services; `["*"]` there means all. A token without it is refused.
        services_claim: ClaimName = "services", reread;
        /// The issuer (`iss`) that tokens by `auth.keys` must name; `""` asks for none.
        issuer: Option<String> = "", reread;
        /// The audience (`aud`) that tokens by `auth.keys` must name; `""` is for tokens that name none.
        audience: Option<String> = "", reread;
        /// How far ahead a token's `exp` may be. A token that is valid for longer is refused: most often its
        /// signer wrote `exp` in milliseconds, which makes it valid for 50,000 years.
        max_token_life: Duration = "30d", reread;
        /// How far the signer's clock may differ, for `exp` and `nbf`. At most 5 minutes.
        leeway: Duration = "30s", reread;
    }

    /// The in-memory end of each log, from which readers are served and resume.
    tail: TailSettings {
        /// How long events stay in memory. It must be longer than the longest time between two tries of a
        /// client to reconnect (305 s), or such clients would be served from disk.
        window: Duration = "10m", restart;
        /// The memory of all tails together.
        max_bytes: ByteSize = "256MiB", restart;
        /// The memory of one org's tail.
        org_max_bytes: ByteSize = "32MiB", restart;
        /// The memory, for each worker, of encoded pages of the log that are older than the tails. Readers
        /// that come back and ask for the same events share a page. Over the bound, the least recently used
        /// page is dropped first.
        page_bytes: ByteSize = "16MiB", restart;
    }

    /// How events are joined on their way to readers.
    batch: BatchSettings {
        /// `paced` sends at once to few readers; to many readers it sends as often as keeps sending under
        /// `batch.fanout_share`. `fixed` always waits `batch.window`, for the least CPU. `immediate` always
        /// sends at once.
        mode: BatchMode = "paced", restart;
        /// The longest that an event waits for others.
        window: Duration = "50ms", restart;
        /// Events in one batch.
        max_events: usize = 100, restart;
        /// A batch is shorter than this as it is sent, with all that is around its events; a larger single
        /// event goes alone. With more than 64KiB, readers need a larger buffer for a line than many have.
        max_bytes: ByteSize = "64KiB", restart;
        /// The share of a worker's time that `paced` sending may take; to stay under it, events wait for
        /// others up to `batch.window`. A larger share is sooner, a smaller one cheaper. Only the fixed cost
        /// of each send counts, because waiting saves it; the cost of the bytes does not.
        fanout_share: Share = 0.5, restart;
    }

    /// Which streams and frames are compressed on their way to readers.
    compression: CompressionSettings {
        /// Whether to compress: permessage-deflate for WebSockets that offer it, gzip for event streams whose
        /// clients accept it, and `?batch=gzip` for readers that ask. A client can opt out by `?deflate=0`.
        enabled: bool = true, restart;
        /// The length of a frame's JSON above which `?batch=gzip` compresses it. Other codings have no
        /// such bound: they refer to earlier frames, so they shorten short frames too.
        threshold: ByteSize = "1KiB", restart;
        /// Services whose events are never compressed, for services in which one publisher's secrets stand
        /// beside text of another's choice: compressed together, their length tells of the secret (the BREACH
        /// attack). Services are never compressed together.
        exclude_services: Vec<ServiceName> = [], restart;
        /// Orgs whose streams are never compressed.
        exclude_orgs: Vec<OrgId> = [], restart;
        /// Shared compressors at a time, over all orgs, filters and services, of about 260 KiB each; each org
        /// gets its share (see `[limits]`). Each service of a filter has one, up to eight. Further ones are
        /// compressed without context.
        max_contexts: usize = 64, restart;
    }

    /// How a quiet connection is known to be alive.
    ping: PingSettings {
        /// How often a quiet connection gets a ping.
        interval: Duration = "25s", restart;
        /// How long a client has to answer it (`ping_timeout`). It must be less than `ping.interval`.
        timeout: Duration = "10s", restart;
    }

    /// What happens to readers that do not keep up.
    slow: SlowSettings {
        /// `catch_up` sends them everything in order, at their own pace; `skip` goes on at the head and
        /// declares the gap; `latest` sends the last event of each service and key, and says how many were
        /// left out. A connection may ask for another policy by `?slow=`.
        policy: Policy = "catch_up", restart;
        /// Events that a reader that had caught up may fall behind before it is warned.
        max_behind: usize = 500, restart;
        /// Warnings before a reader is closed (`slow_consumer`). It gets one every five seconds while it
        /// does not gain.
        max_warnings: usize = 10, restart;
    }

    /// How the node stops.
    drain: DrainSettings {
        /// After SIGTERM, connections are asked to leave one after another over this time. `"0s"` closes all
        /// at once.
        window: Duration = "10s", restart;
    }

    /// The log lines that the node writes to standard error.
    logs: LogsSettings {
        /// `human` is for a terminal; `json` writes an object a line, for machines.
        format: LogFormat = "human", restart;
        /// `error`, `warn`, `info`, `debug` or `trace`. Payloads and tokens are never logged.
        level: LogLevel = "info", restart;
    }

    /// What `/metrics` shows beside what it always does.
    metrics: MetricsSettings {
        /// The orgs whose clients' reports (`health` frames) are also shown for that org alone, at most 100:
        /// each makes 26 series. The reports of all orgs together are always shown.
        health_orgs: Vec<OrgId> = [], reread;
        /// How many orgs `tidegate_org_quota_used_ratio` shows at most: those that use most of a quota, of the
        /// orgs that use 80 % of one or more. At most 1,000.
        top_orgs: usize = 10, reread;
    }

    /// A bound on everything that grows. A request or connection over one is refused with a code, and
    /// counted. Where a key says that each org gets its *share*, an org may take more as long as it then has no
    /// more than was free: half of all if it is alone, a third if another org takes as much as it can, and so
    /// on. So something is always left for an org that comes.
    limits: LimitSettings {
        /// Connections at a time, over all orgs. Each needs a file descriptor. If the process may have fewer
        /// descriptors than these connections, `limits.publishes_in_flight` and the log need, only as many
        /// connections are let in as fit.
        connections: usize = 50_000, reread;
        /// Requests and streams at a time over one HTTP/2 connection; other keys bound their sum over all
        /// connections. The gateway sends the bound to a client at the start. The HTTP/2 library itself refuses more streams than that
        /// (`REFUSED_STREAM`), and heads over `limits.header_bytes` (431), so no metric counts those.
        streams_per_connection: usize = 100, reread;
        /// Connections at a time of one org, if `limits.org.connections` is not set.
        connections_per_org: usize = 20_000, reread;
        /// Connections at a time of one user of an org.
        connections_per_user: usize = 10, reread;
        /// What happens to a connection over `limits.connections_per_user`: `reject_new` refuses it,
        /// `evict_oldest` lets it in and ends the user's oldest one (`evicted`).
        connections_per_user_policy: UserPolicy = "reject_new", reread;
        /// Connections at a time from one client address; IPv6 counts by /64. See
        /// `listen.trusted_proxies` for clients that connect through a proxy.
        connections_per_address: usize = 1000, reread;
        /// Sockets at a time from one client address (IPv6: /64) that have never sent a request. For a further
        /// one, the oldest of them closes. An address also has no more of them than sockets or files are left
        /// for others. Addresses of `listen.trusted_proxies` may have any number.
        waiting_sockets_per_address: usize = 1000, reread;
        /// New connections per second, over all orgs and addresses, whether they are let in or not. Addresses
        /// share the rate: one that is alone may use all of it, of two that take all they can get each has
        /// half, and something is left for an address that comes. All clients of a proxy that is not in
        /// `listen.trusted_proxies` are one address.
        handshakes_per_second: usize = 2000, reread;
        /// Readers at a time, over all orgs, that have come back and wait for the gateway to replay what
        /// they missed; each org gets its share. A reader whose own socket is full waits for its client,
        /// and does not count. Over the bound, streams that begin before the head are refused, each with a
        /// different time to come back.
        replays_waiting: usize = 10_000, reread;
        /// Requests for history or a cursor per second with a token that is not valid, from one client
        /// address; a second's worth may come at once, and IPv6 counts by /64. Over it, such requests from
        /// that address are refused before their tokens are checked, valid ones too. Expired tokens do not
        /// count. All clients of a proxy that is not in `listen.trusted_proxies` share one address and so
        /// this rate: list the proxy there, or raise this. Streams are bounded by
        /// `limits.handshakes_per_second` instead.
        failed_auths_per_second: usize = 20, reread;
        /// Orgs that the node holds a log of at a time.
        orgs: usize = 20_000, restart;
        /// Publish requests per second of one API key to one org; a second's worth may come at once. A request
        /// for several orgs counts once for each. If it is over the rate of one, that org's events are refused
        /// and the others' are stored.
        publishes_per_second: usize = 20_000, reread;
        /// Publish requests at a time whose body has come and that are not answered yet; each org gets its share.
        /// A request for several orgs counts once for each.
        publishes_in_flight: usize = 4096, restart;
        /// The memory that is held because clients send or take something right now: bodies of publish requests,
        /// from when they arrive until their events have been read (a compressed one counts for what it
        /// inflates to), answers of history, and frames of the log for streams that catch up, until they are
        /// taken, and requests over HTTP/2. Each org gets its share; over it, requests are refused, and streams
        /// wait. A body whose events name their orgs (`/v1/events`) counts for its API key, and a request over
        /// HTTP/2 for its address, with 4 KiB (over it, it is refused with `REFUSED_STREAM`). At least twice
        /// `limits.request_bytes`.
        in_flight_bytes: ByteSize = "256MiB", reread;
        /// The same for the answers and streams of one user of an org. A request for history counts for about 84
        /// KiB until its answer is known to be shorter. At least 256 KiB, and at least twice `limits.event_bytes`.
        in_flight_bytes_per_user: ByteSize = "16MiB", reread;
        /// The bytes of events that wait for the log at a time; each org gets its share.
        publish_queue_bytes: ByteSize = "64MiB", restart;
        /// The size of one event as it is stored: its JSON members without white space between tokens.
        event_bytes: ByteSize = "256KiB", reread;
        /// The size of a publish request's body.
        request_bytes: ByteSize = "4MiB", reread;
        /// Events in one publish request.
        events_per_batch: usize = 1000, restart;
        /// Orgs in one publish request to `/v1/events`.
        orgs_per_batch: usize = 100, reread;
        /// Users that one event may be targeted at.
        users_per_event: usize = 100, reread;
        /// How deep objects and arrays of an event may nest.
        json_depth: usize = 64, reread;
        /// The size of a request's line and headers together. At least 8 KiB.
        header_bytes: ByteSize = "16KiB", reread;
        /// Headers of a request.
        headers: usize = 64, reread;
        /// The size of a token, in a header, a query, a cookie or a frame.
        token_bytes: ByteSize = "8KiB", reread;
        /// Services that one connection may name in `services=`.
        services_per_filter: usize = 100, reread;
        /// The size of a frame that a client sends.
        client_frame_bytes: ByteSize = "16KiB", reread;
        /// Frames per second that a client sends. A `pong` that answers a `ping` does not count.
        client_frames_per_second: usize = 50, reread;
        /// Events that `tail=` may ask for.
        tail_events: usize = 1000, reread;
        /// Events that one request looks through, hidden ones included: for the ones that `tail=` asks for, or for
        /// a page of history.
        tail_search_events: usize = 10_000, reread;
        /// Bytes of events that one request looks through, hidden ones included, in the same way. If a page of
        /// history ends for this reason, it has `has_more` and the cursor from which the next page goes on.
        scan_bytes: ByteSize = "8MiB", reread;
        /// Bytes of events per second that are looked through for one user of an org, hidden ones included: for
        /// pages of history, for `tail=`, and for what a stream replays from the log. A second's worth may come at
        /// once. Over it, requests are refused (`rate_limited`), and streams go on more slowly.
        scan_bytes_per_second: ByteSize = "64MiB", reread;
        /// Events in one page of history.
        page_events: usize = 1000, reread;
        /// The size of one page of history or replay. A first event that is larger is sent whole.
        page_bytes: ByteSize = "1MiB", reread;
        /// How long a connection may take to send its first frame, or a request its headers.
        first_frame_timeout: Duration = "10s", reread;
        /// How long a request's body may take to arrive.
        request_timeout: Duration = "30s", reread;
        /// How long a reader may take no byte although some wait for it (`slow_consumer`). The kernel ends a
        /// connection whose peer acknowledges nothing for 5 s more, so a client that has vanished is gone
        /// this long after the next ping. After a SIGHUP a longer time holds only for connections that come
        /// later.
        write_timeout: Duration = "30s", reread;
        /// How long an HTTP connection may be idle, without a request or stream. Answers over HTTP/1.1 say
        /// how long a client can rely on it, which is less by `limits.first_frame_timeout`
        /// (`Keep-Alive: timeout=`). The default is longer than the pools of usual clients keep a
        /// connection (Go 90 s, Caddy 120 s), so that they do not send into one that is being closed.
        idle_timeout: Duration = "135s", reread;
        /// How long a publish waits for the log before it is answered 504 `unknown`.
        publish_timeout: Duration = "5s", reread;
    }
    /// Quotas of each org: what holds for every org that has no table of its own (`[orgs.NAME]`). `""` is no
    /// quota: then the org is bounded only by what it shares with others (see `[limits]`). What an org may do in
    /// a second, it may do at once, and one request even if that is more. `tidegate org show` says how much of
    /// each quota an org uses.
    limits_org: QuotaSettings {
        /// Connections at a time. Without it, `limits.connections_per_org` holds.
        connections: Option<usize> = "", reread;
        /// Events that are published per second, by all API keys together. A request that brings more events than
        /// are left is refused whole (`rate_limited`). `limits.publishes_per_second` holds as well: it bounds the
        /// requests of each key.
        publish_events_per_second: Option<usize> = "", reread;
        /// The bytes of these events per second, as they are stored.
        publish_bytes_per_second: Option<ByteSize> = "", reread;
        /// What the log holds of the org. An org with more keeps it until `log.max_bytes` is reached. Then the
        /// oldest events of such orgs are removed first, and an org that publishes more than can be removed is
        /// refused (`log_full`). A quota that is more than the org's share of the log promises nothing: over its
        /// share, an org is cut like one without a quota.
        stored_bytes: Option<ByteSize> = "", reread;
        /// The bytes of answers to requests for history per second. A request is refused (`rate_limited`) while
        /// earlier answers have used up what was left.
        history_bytes_per_second: Option<ByteSize> = "", reread;
        /// Different sets of services that the connections see at a time. Events are encoded and compressed once
        /// for each set, so sets cost time and memory where connections with equal sets do not.
        filters: usize = 1000, reread;
        /// Shared compressors at a time, if the share of `compression.max_contexts` is more. Further filters are
        /// compressed without context.
        compressors: Option<usize> = "", reread;
        /// The bytes that streams send per second, to all readers together. Over it nothing is refused or lost:
        /// the readers get their events later. They are not slow (`slow.max_behind`) because of that, but events
        /// that retention removes before are a gap for them.
        egress_bytes_per_second: Option<ByteSize> = "", reread;
    }

    /// Quotas of single orgs. Each has a table in the file, named after the org, with keys of `[limits.org]`; for a
    /// key that it does not have, `[limits.org]` holds. `""` is no quota, whatever `[limits.org]` says.
    orgs: OrgsSettings {
        /// For example `[orgs.acme]`, and in it `connections = 50000` and `stored_bytes = "2GiB"`. On the command
        /// line all tables are given as a whole: `--set 'orgs={acme={connections=50000}}'`.
        NAME: OrgTables = {}, reread;
    }
}
