//! The node: what every request and every reader of one process shares.

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
use tidegate_core::{LogState, envelope::Enveloping, frame::Terms, publish::PublishLimits};
use tidegate_engine::{AppendError, Clock, Engine};
use tidegate_protocol::{Code, Epoch, OrgId, Refusal, UnixMillis, time::millis, ws};
use tokio::sync::watch;

use crate::{
    admission::{Admission, ConnectionLimits, FailedAuths, OrgShares, PublishRates, Replays},
    auth::{Publishers, StreamGrant, TokenVerifier},
    config::{Config, PerConfig, config_key},
    hub::{Hub, HubLimits},
    log_limiter::LogLimiter,
    metrics::Metrics,
    random::random,
    refusals::{LimitedBy as _, no_log, refused},
};

/// How often the log speaks of pages that are refused for their origin.
const REFUSED_ORIGINS_EVERY: Duration = Duration::from_secs(10);

/// A node's parts. Shared by all threads; holds no connection.
pub struct Node {
    config: ArcSwap<Config>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Keeps the logs.
    pub engine: Arc<dyn Engine>,
    /// Keeps the tails.
    pub hub: Arc<Hub>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Lets connections in.
    pub admission: Arc<Admission>,
    tokens: ArcSwap<TokenVerifier>,
    /// Knows publishers.
    pub publishers: Arc<Publishers>,
    /// What every hello says.
    pub terms: Terms,
    /// What `?batch=gzip` compresses; and, with it, what is never compressed.
    pub enveloping: Arc<Enveloping>,
    /// Whether the page is served at `/`.
    pub has_page: bool,
    /// What `/openapi.json` answers: the document and its `ETag`. The `http` module makes them.
    pub description: PerConfig<(Bytes, HeaderValue)>,
    /// How often the log speaks of pages that are refused for their origin.
    pub refused_origins: LogLimiter,
    /// Holds publishers to their rate.
    pub publish_rates: PublishRates,
    /// Holds addresses to their rate of bad credentials.
    pub failed_auths: FailedAuths,
    /// Each org's share of the publish requests being answered.
    pub publish_shares: OrgShares,
    /// Readers that wait for their replay.
    pub replays: Replays,
    /// Publish requests being answered.
    pub publishes: Arc<tokio::sync::Semaphore>,
    /// When draining began.
    pub draining: watch::Sender<Option<Instant>>,
    sockets: Arc<AtomicUsize>,
}

/// A node's parts that others have made.
pub struct Parts {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Keeps the logs.
    pub engine: Arc<dyn Engine>,
    /// Keeps the tails.
    pub hub: Arc<Hub>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Knows subscribers.
    pub tokens: TokenVerifier,
    /// Knows publishers.
    pub publishers: Arc<Publishers>,
    /// Whether the page is served at `/`.
    pub has_page: bool,
}

impl Node {
    /// Puts a node together.
    pub fn new(config: Config, parts: Parts) -> Self {
        let Parts { clock, engine, hub, metrics, tokens, publishers, has_page } = parts;
        let terms = Terms {
            dedup_window_ms: millis(config.dedup.window),
            ping_interval_ms: millis(config.ping.interval),
            sync: engine.durability().weaker(),
        };
        let enveloping = Enveloping {
            threshold: config.compression.threshold.bytes(),
            excluded: config.compression.exclude_services.clone(),
        };
        Self {
            // Connections are named after the start.
            admission: Admission::new(ConnectionLimits::from(&config.limits), Epoch::from_random(random())),
            publishes: Arc::new(tokio::sync::Semaphore::new(config.limits.publishes_in_flight)),
            publish_shares: OrgShares::default(),
            replays: Replays::new(metrics.replays_waiting.clone()),
            publish_rates: PublishRates::new(config.limits.publishes_per_second),
            failed_auths: FailedAuths::new(config.limits.failed_auths_per_second),
            draining: watch::channel(None).0,
            description: PerConfig::default(),
            sockets: Arc::default(),
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
        }
    }

    /// The bounds of its tails.
    pub fn hub_limits(config: &Config) -> HubLimits {
        HubLimits {
            window: config.tail.window,
            bytes: config.tail.max_bytes.bytes(),
            org_bytes: config.tail.org_max_bytes.bytes(),
            batch: config.batch.limits(),
            contexts: config.compression.max_contexts,
        }
    }

    /// What it is told, as of now: `auth` and `limits` can change while it runs.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Knows subscribers, as of now.
    pub fn tokens(&self) -> Arc<TokenVerifier> {
        self.tokens.load_full()
    }

    /// Goes on with another configuration. What its parts were built with is as before; the caller has
    /// seen to that ([`crate::config::reread`]).
    pub fn reconfigure(&self, config: Config) {
        let tokens = TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes());
        tokens.inherit(&self.tokens());
        tokens.keep_fresh(&self.metrics);
        self.admission.set_limits(ConnectionLimits::from(&config.limits));
        self.publish_rates.set_limit(config.limits.publishes_per_second);
        self.config.store(Arc::new(config));
        self.tokens.store(Arc::new(tokens));
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    /// Whether it is going away.
    pub fn is_draining(&self) -> bool {
        self.draining.borrow().is_some()
    }

    /// What `token` allows in `org`, or why nothing.
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

    /// What `verify` says of credentials that `address` brings with a request; not asked where the address
    /// has brought too many bad ones. For history and cursors: a stream's credentials are looked at as often
    /// as `limits.handshakes_per_second` lets streams knock, an API key costs a hash, and one broken program
    /// must not keep the streams and publishers of all that share its address away.
    pub async fn within_rate<G>(
        &self,
        address: IpAddr,
        verify: impl Future<Output = Result<G, Refusal>>,
    ) -> Result<G, Refusal> {
        self.failed_auths.check(address, self.config().limits.failed_auths_per_second)?;
        let verified = verify.await;
        // Those that are genuine, but for something else or too old, are no guesses; of those whose keys
        // cannot be had nobody knows.
        if let Err(Refusal { code: Code::Unauthorized, .. }) = verified {
            self.failed_auths.add(address, self.config().limits.failed_auths_per_second);
        }
        verified
    }

    /// The state of an org's log, which is made where there is none. What the log cannot say in time is
    /// refused like a full queue: nobody waits on a disk without end.
    pub async fn open_log(&self, org: &OrgId) -> Result<LogState, Refusal> {
        let opened = tokio::time::timeout(self.config().limits.publish_timeout, self.engine.open(org));
        opened.await.unwrap_or(Err(AppendError::Unknown)).map_err(|error| no_log(&error))
    }

    /// Counts an accepted socket; `None` where there are as many as streams and publishes may need.
    pub fn take_socket(&self) -> Option<OpenSocket> {
        let config = self.config();
        let limits = &config.limits;
        let socket = OpenSocket(self.sockets.clone());
        let before = self.sockets.fetch_add(1, Ordering::SeqCst);
        (before < limits.connections + limits.publishes_in_flight).then_some(socket)
    }

    /// Accepted sockets that are open.
    pub fn sockets(&self) -> usize {
        self.sockets.load(Ordering::SeqCst)
    }

    /// Whether every socket is closed.
    pub fn is_idle(&self) -> bool {
        self.sockets() == 0
    }

    /// The bounds of a publish request.
    pub fn publish_limits(&self) -> PublishLimits {
        let config = self.config();
        let limits = &config.limits;
        PublishLimits {
            event_bytes: limits.event_bytes.bytes(),
            events: limits.events_per_batch,
            depth: limits.json_depth,
            users: limits.users_per_event,
        }
    }

    /// The bounds of what a client sends over WebSocket.
    pub fn ws_limits(&self) -> ws::Limits {
        ws::Limits {
            message_bytes_max: self.config().limits.client_frame_bytes.bytes(),
            ..ws::Limits::default()
        }
    }
}

/// The place of one accepted socket in the count; given back when dropped.
#[derive(Debug)]
pub struct OpenSocket(Arc<AtomicUsize>);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
