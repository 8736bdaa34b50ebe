//! The lifecycle of a node, for the commands `serve` and `dev`.
//!
//! It binds the ports, opens the log, starts the workers, then accepts and sweeps. The first signal starts
//! the drain; a second one stops at once.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tidegate_core::{
    publish::{BodyForm, read_body},
    shares,
};
use tidegate_engine::{Clock, Health, Hooks, SystemClock};
use tidegate_protocol::{EventId, OrgId};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    admin, admission,
    auth::{Publishers, TokenVerifier},
    config::{self, ConfigError, ConfigKey, Loaded, LogEngine, Reread, Sources, config_key},
    dev::DevSession,
    engines,
    feed::{DevFeed, FeedEvent},
    http,
    hub::Hub,
    log_limiter::LogLimiter,
    metrics::{InFlight, Metrics, RereadOutcome},
    node::{Node, Parts},
    random::random,
    systemd,
    transport::{
        spare_files::{self, FilesInUse, Room},
        vanished,
    },
    worker::{Accepted, WorkerThread},
};

/// Everything that was read and checked before a port is bound.
#[derive(Debug)]
pub struct Prepared {
    /// The configuration.
    pub loaded: Loaded,
    /// Verifies subscribers' tokens.
    pub tokens: TokenVerifier,
    /// Verifies publishers' API keys.
    pub publishers: Publishers,
    /// The sources of the configuration, to be reread.
    pub sources: Sources,
    /// The command that started the node.
    pub mode: RunMode,
}

/// Which command started the node.
#[derive(Debug)]
pub enum RunMode {
    /// `tidegate serve`.
    Serve,
    /// `tidegate dev`.
    Dev {
        /// The development org, token and key. It prints the address once the port is bound.
        session: Box<DevSession>,
        /// Whether to publish made-up events.
        feed: bool,
    },
}

/// How a node ended, if it had started.
#[derive(Debug)]
struct Ended {
    reason: ExitReason,
    /// Its public address.
    public: SocketAddr,
    /// The streams that were open when the drain began, and those that were cut off at its end.
    streams: usize,
    cut_off: usize,
    /// How the drain ended.
    drain: &'static str,
    /// How the log was closed.
    log: String,
    ran: Duration,
}

/// Why a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// Stopped by SIGTERM after a drain: exit code 0.
    Drained,
    /// Interrupted from the keyboard: exit code 130.
    Interrupted,
}

impl ExitReason {
    fn signal(self) -> &'static str {
        match self {
            Self::Drained => "SIGTERM",
            Self::Interrupted => "SIGINT",
        }
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How often tails and logs are swept.
const SWEEP: Duration = Duration::from_secs(60);

/// How many unsent bytes a socket accepts.
const NOTSENT_BYTES: u32 = 32 << 10;

/// How often each line about connections that were not accepted is logged at most.
const ACCEPT_LINES_EVERY: Duration = Duration::from_secs(60);

/// How long the last answers may take to reach their sockets.
const FLUSH_GRACE: Duration = Duration::from_millis(500);

/// Runs a node until it is asked to stop.
pub fn run(start: Prepared) -> anyhow::Result<ExitReason> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("tidegate-main")
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(serve(start));
    // Does not wait for reads of the log that nobody needs any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let Ended { reason, public, streams, cut_off, drain, log, ran } = ended?;
    tracing::info!(
        version = VERSION,
        %public,
        signal = reason.signal(),
        drain,
        streams,
        cut_off,
        log,
        ran_s = ran.as_secs(),
        "stopped"
    );
    Ok(reason)
}

async fn serve(start: Prepared) -> anyhow::Result<Ended> {
    let began = Instant::now();
    let Prepared { loaded, tokens, publishers, sources, mode } = start;
    let config = loaded.config.clone();
    spare_files::raise();
    if matches!(mode, RunMode::Serve) {
        config::warnings(&loaded).iter().for_each(warn_of);
    }
    // Before anything else, so that no signal is lost during the start.
    let mut signals = Signals::listen()?;
    // In `dev`, SIGHUP comes from a closed terminal, and the default (exit) is right.
    let hangup = match mode {
        RunMode::Serve => Some(signal(SignalKind::hangup()).context("listen for SIGHUP")?),
        RunMode::Dev { .. } => None,
    };
    let public = bind(config_key!(listen.public), config.listen.public)?;
    let admin = bind(config_key!(listen.admin), config.listen.admin)?;
    let (public_at, admin_at) = (public.local_addr()?, admin.local_addr()?);
    tracing::info!(
        version = VERSION,
        public = %public_at,
        admin = %admin_at,
        engine = config.log.engine.word(),
        dir = %config.log.dir.display(),
        "open the log"
    );

    let workers = config.node.workers.count(std::thread::available_parallelism().map_or(1, usize::from));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let hub = Arc::new(Hub::new(workers, Node::hub_limits(&config), clock.clone()));
    let metrics = Arc::new(Metrics::new(hub.budget().clone(), hub.contexts().clone()));
    http::expect_requests(&metrics);
    let opening = Instant::now();
    let (engine, recovery) = {
        let (config, hub, clock, metrics) = (config.clone(), hub.clone(), clock.clone(), metrics.clone());
        // Recovery reads files. Nothing else runs on this thread yet.
        let hooks = Hooks { feed: hub, clock, observer: metrics };
        tokio::task::spawn_blocking(move || engines::open(&config, hooks)).await?.context("open the log")?
    };
    let recovery_took = opening.elapsed();
    metrics.log_start(&recovery, recovery_took);
    let publishers = Arc::new(publishers);
    let has_page = matches!(mode, RunMode::Dev { .. });
    let missing_files = recovery.missing;
    let node = Arc::new(Node::new(
        config,
        Parts { clock, engine, hub, metrics, tokens, publishers, has_page, missing_files },
    ));
    node.tokens().keep_fresh(&node.metrics);
    let workers = (0..workers)
        .map(|id| WorkerThread::start(id, node.clone(), http::serve))
        .collect::<std::io::Result<Vec<_>>>()
        .context("start the workers")?;
    let workers = Arc::new(workers);

    let admin = tokio::spawn(admin::serve(tokio::net::TcpListener::from_std(admin)?, node.clone()));
    let accept =
        tokio::spawn(accept(tokio::net::TcpListener::from_std(public)?, node.clone(), workers.clone()));
    let sweep = tokio::spawn(sweep(node.clone()));
    let status = format!("serve {public_at}, operators at {admin_at}");
    let rereads =
        hangup.map(|hangup| tokio::spawn(reread_on(hangup, node.clone(), sources, loaded, status.clone())));
    tracing::info!(
        version = VERSION,
        public = %public_at,
        admin = %admin_at,
        engine = node.config().log.engine.word(),
        workers = workers.len(),
        api_keys = node.publishers.count(),
        recovered_orgs = recovery.orgs,
        recovered_events = recovery.events,
        // Each start begins an epoch in every org that is used.
        start = recovery.start,
        stopped_before = recovery.stopped.word(),
        lossy = recovery.lossy,
        missing_files = recovery.missing,
        damaged_stretches = recovery.damaged,
        recovery_ms = u64::try_from(recovery_took.as_millis()).unwrap_or(u64::MAX),
        "serve"
    );
    systemd::ready(&status);
    let watchdog = tokio::spawn(watchdog(node.clone()));
    let mut feed = None;
    if let RunMode::Dev { mut session, feed: wants_feed } = mode {
        session.announce(&format!("http://{public_at}"), &format!("http://{admin_at}"))?;
        if wants_feed {
            feed = Some(tokio::spawn(run_feed(node.clone(), session.org().clone())));
        }
    }

    let reason = signals.next().await;
    let streams = node.admission.slots_held().streams;
    tracing::info!(window = ?node.config().drain.window, "drain; a second signal stops at once");
    // The service manager must not get a reload message after the message that the node stops.
    if let Some(rereads) = rereads {
        rereads.abort();
        drop(rereads.await);
    }
    systemd::stopping("drain");
    node.draining.send_replace(Some(Instant::now()));
    let drain = tokio::select! {
        is_drained = drained(&node) => if is_drained { "complete" } else { "out of time" },
        _ = signals.next() => {
            tracing::warn!("stop at once");
            "cut short by a second signal"
        }
    };
    let cut_off = node.admission.slots_held().streams;
    accept.abort();
    watchdog.abort();
    if let Some(feed) = feed {
        feed.abort();
    }
    let closing = node.clone();
    // The log stops last. Acknowledged events are synced already; this marks the stop as clean.
    tokio::task::spawn_blocking(move || closing.engine.close()).await?;
    let log = match &*node.engine.health().borrow() {
        Health::Halted(reason) => format!("halted: {reason}"),
        _ if node.config().log.engine == LogEngine::Memory => "gone with the process".to_owned(),
        _ => "closed cleanly".to_owned(),
    };
    // The last answers are on their way to their sockets.
    let deadline = tokio::time::Instant::now() + FLUSH_GRACE;
    while !node.is_idle() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sweep.abort();
    admin.abort();
    drop(accept.await);
    drop(watchdog.await);
    if let Ok(workers) = Arc::try_unwrap(workers) {
        workers.into_iter().for_each(WorkerThread::stop);
    }
    Ok(Ended { reason, public: public_at, streams, cut_off, drain, log, ran: began.elapsed() })
}

/// Logs a warning of the configuration.
fn warn_of(warning: &ConfigError) {
    let ConfigError { location, key, reason } = warning;
    tracing::warn!(key, %location, reason, "the configuration is valid, but look at this key");
}

/// A TCP socket that is bound to `address` and does not listen yet.
pub fn socket_at(address: SocketAddr) -> std::io::Result<socket2::Socket> {
    let kind = (socket2::Type::STREAM, Some(socket2::Protocol::TCP));
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind.0, kind.1)?;
    // A restart must not wait until the kernel forgets the connections of the last run (TIME_WAIT).
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind(key: ConfigKey, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = socket_at(address)?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().map_err(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{key}: {address} is in use; stop what listens there, or choose another address (--set {key}=127.0.0.1:0 takes any free port)"
        ),
        _ => anyhow::Error::new(error).context(format!("{key}: listen on {address}")),
    })
}

/// Accepts connections and distributes them over the workers in turn.
async fn accept(listener: tokio::net::TcpListener, node: Arc<Node>, workers: Arc<Vec<WorkerThread>>) {
    let mut turn = 0;
    let mut files = FilesInUse::default();
    // One for each line that many connections can cause at once.
    let [failed, full, spared, narrow, refused] = [(); 5].map(|()| LogLimiter::every(ACCEPT_LINES_EVERY));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually out of file descriptors: wait for some to become free instead of spinning.
                if let Some(others) = failed.say() {
                    tracing::warn!(%error, others, "accept a connection");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(socket) = node.take_socket() else {
            node.metrics.refusal(config_key!(limits.connections));
            if let Some(others) = full.say() {
                tracing::warn!(%peer, others, "drop a connection: the maximum of open sockets is reached");
            }
            continue;
        };
        let (room, files_left) = files.room_after(&stream, node.sockets());
        if room == Room::Nothing {
            node.metrics.refusal(config_key!(limits.connections));
            if let Some(others) = spared.say() {
                tracing::warn!(%peer, others, "drop a connection: few open files are left");
            }
            continue;
        }
        let address = admission::counted_as(peer.ip());
        let (held, is_over, makes_room, is_full) = {
            let config = node.config();
            let held = if node.is_proxy(peer.ip()) { 0 } else { node.quiet.new_of(address) };
            // Dynamic thresholds: an address has no more sockets that ask for nothing than are left for others.
            let is_over = !shares::may_take(held, 1, files_left.min(node.sockets_left()));
            let has_little = room == Room::Little || node.has_few_sockets_left();
            (held, is_over, has_little || is_over, held >= config.limits.waiting_sockets_per_address)
        };
        if makes_room {
            let has_closed = match is_over && held > 0 {
                true => node.quiet.close_new_of(address),
                false => node.quiet.close_one(),
            };
            if has_closed {
                node.metrics.refusal(config_key!(limits.connections));
            }
            if let Some(others) = narrow.say() {
                tracing::warn!(%peer, others, "few open files or sockets are left: new connections take the place of quiet ones");
            }
        } else if is_full && node.quiet.close_new_of(address) {
            node.metrics.refusal(config_key!(limits.waiting_sockets_per_address));
            if let Some(others) = node.quiet.say(address, Instant::now()) {
                tracing::warn!(%address, others, "an address has too many sockets that send no request: the oldest closes for each new one");
            }
        }
        let quiet = node.quiet.arrive(address);
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "hand over a connection");
                continue;
            }
        };
        // Data in the kernel's buffers is lag that nobody sees, so the kernel accepts only this much that it
        // cannot send yet.
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(NOTSENT_BYTES) {
            tracing::debug!(%error, "set TCP_NOTSENT_LOWAT");
        }
        vanished::bound(&stream, node.config().limits.write_timeout);
        turn = (turn + 1) % workers.len();
        // If a worker's queue is full, the next one is tried; if that is full too, the socket closes.
        let accepted = Accepted { stream, peer, slot: socket, quiet };
        if let Err(accepted) = workers[turn].hand(accepted)
            && workers[(turn + 1) % workers.len()].hand(*accepted).is_err()
            && let Some(others) = refused.say()
        {
            tracing::warn!(%peer, others, "drop a connection: no worker takes it");
        }
        if makes_room {
            // Not for a fixed time: who waits in the kernel behind many others would wait for each of them.
            node.quiet.have_closed().await;
        }
    }
}

/// Rereads the configuration at each SIGHUP, one reread at a time.
async fn reread_on(
    mut hangup: Signal,
    node: Arc<Node>,
    sources: Sources,
    mut running: Loaded,
    status: String,
) {
    while hangup.recv().await.is_some() {
        tracing::info!("read the configuration again");
        systemd::reloading();
        let (loaded, refused) = reread(&node, &sources, running).await;
        running = loaded;
        systemd::reread(&status, refused.as_deref());
    }
}

/// Rereads the configuration and applies what may change while the node runs: all of it, or nothing if
/// anything is wrong. Returns the configuration that the node runs with from then on, and why it is still the
/// old one.
async fn reread(node: &Node, sources: &Sources, running: Loaded) -> (Loaded, Option<String>) {
    let read = {
        let (sources, running) = (sources.clone(), running.clone());
        // It reads files, so it runs on the blocking pool.
        tokio::task::spawn_blocking(move || config::reread(&sources, &running)).await
    };
    let Reread { loaded, changed, waiting } = match read {
        Ok(Ok(read)) => read,
        Ok(Err(errors)) => {
            node.metrics.config_reread(RereadOutcome::Refused);
            let reason = errors.to_string().replace('\n', "; ");
            tracing::warn!(reason, "the configuration stays as it was: what was read again is not valid");
            return (running, Some(reason));
        }
        Err(error) => {
            node.metrics.config_reread(RereadOutcome::Refused);
            tracing::error!(%error, "the configuration stays as it was: it could not be read again");
            return (running, Some(error.to_string()));
        }
    };
    // Even if nothing has changed: this fetches the issuers' keys again.
    spare_files::raise();
    node.reconfigure(loaded.config.clone());
    node.metrics.config_reread(RereadOutcome::Taken);
    tracing::info!(changed = changed.join(", "), "the configuration is taken over");
    if !waiting.is_empty() {
        tracing::warn!(keys = waiting.join(", "), "these keys were changed and need a restart");
    }
    let is_new = |warning: &&ConfigError| warning.key.is_some_and(|key| changed.contains(&key));
    config::warnings(&loaded).iter().filter(is_new).for_each(warn_of);
    (loaded, None)
}

/// Sweeps tails and logs every minute, when the tails are over their budget, and after a deletion.
async fn sweep(node: Arc<Node>) {
    let mut minute = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = minute.tick() => {}
            () = node.hub.over_budget() => {}
            () = node.sweep_soon.notified() => {}
        }
        let node = node.clone();
        let swept = tokio::task::spawn_blocking(move || {
            node.hub.sweep();
            node.engine.sweep();
            node.failed_auths.sweep();
            node.floods.sweep();
            node.publishers.keep_reserve();
            node.publish_rates.sweep();
            node.scans.sweep();
            node.quotas.sweep();
        });
        if swept.await.is_err() {
            tracing::error!("a sweep panicked");
        }
    }
}

/// Notifies the service manager's watchdog as long as every worker makes progress. A hanging disk is no
/// reason to restart: `/readyz` and the answers to publishers report it.
async fn watchdog(node: Arc<Node>) {
    let Some(interval) = systemd::watchdog_interval() else { return };
    let mut look = tokio::time::interval(interval);
    let mut before = node.heartbeats.turns();
    // The first tick comes at once, before a worker can have made progress.
    look.tick().await;
    loop {
        look.tick().await;
        let turns = node.heartbeats.turns();
        if have_all_turned(&before, &turns) {
            before = turns;
            systemd::alive();
        } else {
            tracing::warn!(?before, ?turns, "a worker makes no progress; the watchdog is not notified");
        }
    }
}

fn have_all_turned(before: &[u64], now: &[u64]) -> bool {
    before.iter().zip(now).all(|(before, now)| now > before)
}

/// Waits until every stream has ended and every publish that was let in is answered, or until the drain window and
/// its grace are over. Returns whether all has ended.
async fn drained(node: &Node) -> bool {
    let config = node.config();
    let deadline = tokio::time::Instant::now() + config.drain.window + Duration::from_secs(5);
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let is_publishing = || node.ledger.held_of(InFlight::Body) > 0 || node.publishes.used() > 0;
    loop {
        if node.admission.is_idle() && !is_publishing() {
            return true;
        }
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        look.tick().await;
    }
}

/// Publishes the made-up events of an imaginary company, as a publisher's request would.
async fn run_feed(node: Arc<Node>, org: OrgId) {
    let mut feed = DevFeed::new(random());
    loop {
        tokio::time::sleep(feed.next_delay()).await;
        let FeedEvent { service, event, key, data } = feed.next(node.now());
        let body = format!(r#"{{"service":"{service}","event":"{event}","key":"{key}","data":{data}}}"#);
        let mut ids = |_| {
            (
                EventId::parse(&uuid::Uuid::now_v7().to_string())
                    .unwrap_or_else(|_| unreachable!("a UUID is an id")),
                false,
            )
        };
        match read_body(&org, BodyForm::Json, body.as_bytes(), &node.publish_limits(), &mut ids) {
            Ok(events) => match node.engine.append(&org, events).await {
                Ok(appended) => drop(node.metrics.published.inc_by(appended.stored.len() as u64)),
                Err(error) => tracing::warn!(%error, "publish a made-up event"),
            },
            Err(error) => tracing::error!(%error, "make up an event"),
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn next(&mut self) -> ExitReason {
        tokio::select! {
            _ = self.terminate.recv() => ExitReason::Drained,
            _ = self.interrupt.recv() => ExitReason::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::have_all_turned;

    #[test]
    fn one_worker_that_stands_still_is_enough_to_be_silent() {
        assert!(have_all_turned(&[0, 4], &[1, 5]));
        assert!(!have_all_turned(&[1, 5], &[2, 5]));
    }
}
