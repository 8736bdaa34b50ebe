//! The node: what all requests and readers of one process share.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderValue;
use tidegate_core::{LogState, envelope::Enveloping, frame::Terms, publish::PublishLimits, shares::Pool};
use tidegate_engine::{AppendError, Clock, Engine, Health};
use tidegate_protocol::{Code, Epoch, OrgId, Refusal, UnixMillis, time::millis, ws};
use tokio::sync::watch;

use crate::{
    admission::{
        Admission, ChargedTo, ConnectionLimits, FailedAuths, Floods, InProgress, Ledger, PublishRates,
        QuietConnections, Replays, Scans, Turns,
    },
    auth::{Publishers, StreamGrant, TokenVerifier},
    config::{Config, LimitSettings, OwnQuotas, PerConfig, config_key},
    heartbeats::Heartbeats,
    hub::{Hub, HubLimits},
    log_limiter::LogLimiter,
    metrics::{LogState as LogSays, Metrics, Operation},
    quotas::Quotas,
    random::random,
    refusals::{LimitedBy as _, refused},
};

/// How often a refused origin is logged at most.
const REFUSED_ORIGINS_EVERY: Duration = Duration::from_secs(10);

/// How often a refusal with the same code is logged at `warn` at most.
const REFUSED_REQUESTS_EVERY: Duration = Duration::from_secs(60);

/// From how many sockets on below the most that may be accepted, quiet connections make room for new ones.
const SOCKETS_SPARE: usize = 128;

/// The parts of a node, shared by all threads. It holds no connection.
pub struct Node {
    config: ArcSwap<Config>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Stores the logs.
    pub engine: Arc<dyn Engine>,
    /// Holds the tails.
    pub hub: Arc<Hub>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// The quotas of orgs, and how much of them is used.
    pub quotas: Arc<Quotas>,
    /// Admits connections.
    pub admission: Arc<Admission>,
    /// The connections of the public listener that wait for a request.
    pub quiet: Arc<QuietConnections>,
    tokens: ArcSwap<TokenVerifier>,
    /// Verifies publishers' API keys.
    pub publishers: Arc<Publishers>,
    /// The part of `hello` that is the same for all readers.
    pub terms: Terms,
    /// The settings of `?batch=gzip`, including what is never compressed.
    pub enveloping: Arc<Enveloping>,
    /// Whether the dev page is served at `/`.
    pub has_page: bool,
    /// The document of `/openapi.json` and its `ETag`; the `http` module makes them.
    pub description: PerConfig<(Bytes, HeaderValue)>,
    /// Limits how often a refused origin is logged.
    pub refused_origins: LogLimiter,
    /// Limits how often refused requests are logged at `warn`, for each code in the order of [`Code::ALL`].
    refused_requests: Vec<LogLimiter>,
    /// The publish rate of each API key to each org.
    pub publish_rates: PublishRates,
    /// The rate of bad credentials of each address.
    pub failed_auths: FailedAuths,
    /// How often connections of each address were ended because they flooded.
    pub floods: Floods,
    /// What is held because a client sends or takes something right now (`limits.in_flight_bytes`).
    pub ledger: Ledger,
    /// How much of the log is looked through for each user.
    pub scans: Scans,
    /// The places of publish requests whose body has come (`limits.publishes_in_flight`).
    pub publishes: Pool<OrgId>,
    /// The publish requests with an `Idempotency-Key` that are being answered.
    pub in_progress: InProgress,
    /// The readers that wait for their replay.
    pub replays: Replays,
    /// The turns at inflating and parsing large publish bodies.
    pub large_bodies: Turns<ChargedTo>,
    /// When each worker made progress.
    pub heartbeats: Heartbeats,

    /// Held while something is deleted for an operator: one deletion at a time.
    pub deleting: tokio::sync::Mutex<()>,
    /// Notified when a sweep should not wait for its minute: something is to be erased.
    pub sweep_soon: tokio::sync::Notify,
    /// Files of the log that the start did not find.
    missing_files: u64,
    /// When draining began.
    pub draining: watch::Sender<Option<Instant>>,
    sockets: Arc<AtomicUsize>,
}

/// The parts of a node that are made elsewhere.
pub struct Parts {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Stores the logs.
    pub engine: Arc<dyn Engine>,
    /// Holds the tails.
    pub hub: Arc<Hub>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Verifies subscribers' tokens.
    pub tokens: TokenVerifier,
    /// Verifies publishers' API keys.
    pub publishers: Arc<Publishers>,
    /// Whether the dev page is served at `/`.
    pub has_page: bool,
    /// Files of the log that the start did not find.
    pub missing_files: u64,
}

impl Node {
    /// Assembles a node.
    pub fn new(config: Config, parts: Parts) -> Self {
        let Parts { clock, engine, hub, metrics, tokens, publishers, has_page, missing_files } = parts;
        metrics.set_health_orgs(&[], &config.metrics.health_orgs);
        let terms = Terms {
            dedup_window_ms: millis(config.dedup.window),
            ping_interval_ms: millis(config.ping.interval),
            sync: engine.durability().weaker(),
        };
        let enveloping = Enveloping {
            threshold: config.compression.threshold.bytes(),
            excluded: config.compression.exclude_services.clone(),
        };
        let quotas = Arc::new(Quotas::new(&config));
        quotas.pass_on(&*engine, hub.contexts());
        Self {
            // Connection ids begin with a random name of this start.
            quiet: Arc::default(),
            admission: Admission::new(
                ConnectionLimits::fitting(&config),
                quotas.clone(),
                Epoch::from_random(random()),
            ),
            ledger: Ledger::default(),
            scans: Scans::new(config.limits.scan_bytes_per_second.bytes()),
            quotas,
            publishes: Pool::default(),
            large_bodies: Turns::new(hub.workers()),
            in_progress: InProgress::default(),
            replays: Replays::new(metrics.replays_waiting.clone()),
            publish_rates: PublishRates::new(config.limits.publishes_per_second),
            failed_auths: FailedAuths::new(config.limits.failed_auths_per_second),
            floods: Floods::default(),
            deleting: tokio::sync::Mutex::default(),
            sweep_soon: tokio::sync::Notify::new(),
            missing_files,
            draining: watch::channel(None).0,
            description: PerConfig::default(),
            sockets: Arc::default(),
            heartbeats: Heartbeats::new(hub.workers()),
            config: ArcSwap::from_pointee(config),
            clock,
            engine,
            hub,
            metrics,
            tokens: ArcSwap::from_pointee(tokens),
            publishers,
            terms,
            enveloping: Arc::new(enveloping),
            has_page,
            refused_origins: LogLimiter::every(REFUSED_ORIGINS_EVERY),
            refused_requests: Code::ALL.map(|_| LogLimiter::every(REFUSED_REQUESTS_EVERY)).into(),
        }
    }

    /// The limits of the hub's tails and compressors.
    pub fn hub_limits(config: &Config) -> HubLimits {
        HubLimits {
            window: config.tail.window,
            bytes: config.tail.max_bytes.bytes(),
            org_bytes: config.tail.org_max_bytes.bytes(),
            batch: config.batch.limits(),
            contexts: config.compression.max_contexts,
        }
    }

    /// The present configuration. The keys that `config::keys` marks with `reread` can change while the node
    /// runs, so do not keep it for long.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The present verifier of tokens.
    pub fn tokens(&self) -> Arc<TokenVerifier> {
        self.tokens.load_full()
    }

    /// Applies another configuration. The caller has made sure that it differs only in what can change while
    /// the node runs ([`crate::config::reread`]). Whoever asks for [`Node::config`] each time gets the new
    /// values. If a part keeps a copy of a value, its copy is renewed here.
    pub fn reconfigure(&self, config: Config) {
        let tokens = TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes());
        tokens.inherit(&self.tokens());
        tokens.keep_fresh(&self.metrics);
        self.admission.set_limits(ConnectionLimits::fitting(&config));
        self.publish_rates.set_limit(config.limits.publishes_per_second);
        self.quotas.reconfigure(&config);
        self.pass_on_quotas();
        self.metrics.set_health_orgs(&self.config().metrics.health_orgs, &config.metrics.health_orgs);
        self.config.store(Arc::new(config));
        self.tokens.store(Arc::new(tokens));
    }

    /// Sets quotas of `org` in place of those of the configuration; `None` takes that back.
    pub fn set_quotas(&self, org: &OrgId, own: Option<OwnQuotas>) {
        self.quotas.set(org, own);
        self.pass_on_quotas();
    }

    /// Gives the engine and the hub their copies of quotas.
    fn pass_on_quotas(&self) {
        self.quotas.pass_on(&*self.engine, self.hub.contexts());
    }

    /// The time now, by the wall clock.
    pub fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// The state of the log for operators, and the reason if it is not `ok`.
    pub fn log_state(&self) -> (LogSays, Option<String>) {
        match &*self.engine.health().borrow() {
            Health::Halted(reason) => return (LogSays::Halted, Some(reason.to_string())),
            Health::Full(reason) => return (LogSays::Full, Some(reason.to_string())),
            Health::Degraded(reason) => return (LogSays::Degraded, Some(reason.to_string())),
            Health::Ok => {}
        }
        let (missing, damaged) = (self.missing_files, self.engine.usage().damaged);
        if missing == 0 && damaged == 0 {
            return (LogSays::Ok, None);
        }
        let reason = format!(
            "since the start, {missing} files of the log were missing and {damaged} stretches damaged: their \
             readers get a gap, and all else works; the log lines say where"
        );
        (LogSays::Degraded, Some(reason))
    }

    /// The time by which batches age, which does not step.
    pub fn steady(&self) -> u64 {
        self.clock.steady()
    }

    /// Whether it is draining.
    pub fn is_draining(&self) -> bool {
        self.draining.borrow().is_some()
    }

    /// The grant of `token` for `org`, or why there is none.
    pub async fn authorize(&self, token: &str, org: &OrgId) -> Result<StreamGrant, Refusal> {
        let longest = self.config().limits.token_bytes.bytes();
        if token.len() > longest {
            let message = format!("the token is longer than {longest} bytes");
            return Err(Refusal::new(Code::Unauthorized, message).limited_by(config_key!(limits.token_bytes)));
        }
        let tokens = self.tokens();
        let grant = tokens.verify(token, self.now()).await.map_err(refused)?;
        grant.check_org(org).map_err(refused)?;
        Ok(grant)
    }

    /// Runs `verify` for credentials in a request from `address`, unless the address has sent too many bad
    /// ones. It is for history and cursors only: streams are bounded by `limits.handshakes_per_second`, and
    /// an API key costs only a hash. So one broken program cannot block the streams and publishers of
    /// everyone who shares its address.
    pub async fn within_rate<G>(
        &self,
        address: IpAddr,
        verify: impl Future<Output = Result<G, Refusal>>,
    ) -> Result<G, Refusal> {
        self.failed_auths.check(address, self.config().limits.failed_auths_per_second)?;
        let verified = verify.await;
        // Not counted: genuine credentials that are expired or for something else, which are not guesses, and
        // credentials whose keys are not available, which nobody can judge.
        if let Err(Refusal { code: Code::Unauthorized, .. }) = verified {
            self.failed_auths.add(address, self.config().limits.failed_auths_per_second);
        }
        verified
    }

    /// Logs a request that was refused, or a stream: at `debug`, but the first of each code in a minute at `warn`,
    /// with how many others had the same code since the last such line. `detail` says what was wrong without
    /// any part of a token or payload.
    pub fn log_refused(&self, operation: Operation, code: Code, address: IpAddr, detail: &str) {
        let (operation, name) = (operation.name(), code.name());
        let limiter = Code::ALL.iter().zip(&self.refused_requests).find(|(of, _)| **of == code);
        match limiter.and_then(|(_, limiter)| limiter.say()) {
            Some(others) => {
                tracing::warn!(operation, code = name, %address, others, "refuse a request: {detail}");
            }
            None => tracing::debug!(operation, code = name, %address, "refuse a request: {detail}"),
        }
    }

    /// The state of an org's log, which is created if there is none. If the engine does not answer in time,
    /// the request is refused as if its queue were full, so that nobody waits for a hanging disk.
    pub async fn open_log(&self, org: &OrgId) -> Result<LogState, AppendError> {
        let opened = tokio::time::timeout(self.config().limits.publish_timeout, self.engine.open(org));
        opened.await.unwrap_or(Err(AppendError::Unknown))
    }

    /// Counts an accepted socket; `None` if there are as many as all streams and publishes can need.
    pub fn take_socket(&self) -> Option<OpenSocket> {
        let config = self.config();
        let socket = OpenSocket(self.sockets.clone());
        let before = self.sockets.fetch_add(1, Ordering::SeqCst);
        (before < sockets_max(&config.limits)).then_some(socket)
    }

    /// Whether so few more sockets may be accepted that a connection without a request must make room.
    pub fn has_few_sockets_left(&self) -> bool {
        let most = sockets_max(&self.config().limits);
        self.sockets() > most - SOCKETS_SPARE.min(most / 4)
    }

    /// How many more sockets may be accepted.
    pub fn sockets_left(&self) -> usize {
        sockets_max(&self.config().limits).saturating_sub(self.sockets())
    }

    /// Whether an address is that of a trusted proxy, which stands for many clients.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.config().listen.trusted_proxies.iter().any(|proxy| proxy.contains(address))
    }

    /// The number of open sockets.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::SeqCst)
    }

    /// Whether every socket is closed.
    pub fn is_idle(&self) -> bool {
        self.sockets() == 0
    }

    /// The limits of a publish request.
    pub fn publish_limits(&self) -> PublishLimits {
        let config = self.config();
        let limits = &config.limits;
        PublishLimits {
            event_bytes: limits.event_bytes.bytes(),
            events: limits.events_per_batch,
            orgs: limits.orgs_per_batch,
            depth: limits.json_depth,
            users: limits.users_per_event,
        }
    }

    /// The limits of what a client sends over WebSocket.
    pub fn ws_limits(&self) -> ws::Limits {
        ws::Limits {
            message_bytes_max: self.config().limits.client_frame_bytes.bytes(),
            ..ws::Limits::default()
        }
    }
}

/// As many as all streams and publishes can need.
fn sockets_max(limits: &LimitSettings) -> usize {
    limits.connections + limits.publishes_in_flight
}

/// Counts one accepted socket; dropping it ends the count.
#[derive(Debug)]
pub struct OpenSocket(Arc<AtomicUsize>);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
