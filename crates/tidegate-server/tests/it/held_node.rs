//! A node in this process, over an engine that can be held back in two places: before it answers a
//! publisher, and before it feeds the tails. For what the built binary does only by chance.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tidegate_core::{Event, LogState, NewEvent};
use tidegate_engine::{
    AppendError, Appended, Clock, DeleteError, Durability, Engine, Feed, Health, Hooks, LocalEngine,
    MemoryStore, OrgLog, Page, PageLimit, ReadError, StoredQuotas, SystemClock, store::Usage,
};
use tidegate_protocol::{Filter, OrgId, Seq};
use tidegate_server::{
    admin,
    auth::{KeysFile, Orgs, Publishers, TokenVerifier},
    config::{self, Sources},
    engines,
    hub::Hub,
    metrics::Metrics,
    node::{Node, Parts},
    worker::{Accepted, WorkerThread},
};
use tokio::sync::watch;

use crate::{
    client::{
        http::{Answer, Request},
        sse::Sse,
        ws::Ws,
    },
    gateway::now_s,
};

const SECRET: &str = "a secret of thirty-two bytes....";

/// An engine that appends, and answers when it may.
struct HeldBack {
    engine: LocalEngine<MemoryStore>,
    may_answer: watch::Receiver<bool>,
    may_read: watch::Receiver<bool>,
    breaks: Arc<AtomicBool>,
    loses: Arc<AtomicBool>,
    health: Arc<watch::Sender<Health>>,
    calls: Arc<Mutex<Vec<String>>>,
    appends: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
    quotas: Arc<Mutex<StoredQuotas>>,
}

impl HeldBack {
    fn note(&self, call: &str, org: &OrgId) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{call} {org}"));
    }
}

impl Engine for HeldBack {
    fn append(
        &self,
        org: &OrgId,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        if matches!(*self.health.borrow(), Health::Halted(_)) {
            return Box::pin(async { Err(AppendError::Halted) });
        }
        let appended = self.engine.append(org, events);
        self.appends.fetch_add(1, Ordering::SeqCst);
        let mut may_answer = self.may_answer.clone();
        Box::pin(async move {
            let appended = appended.await;
            may_answer.wait_for(|may| *may).await.map_err(|_| AppendError::Unknown)?;
            appended
        })
    }

    fn set_stored_quotas(&self, quotas: StoredQuotas) {
        *self.quotas.lock().expect("no panic") = quotas;
    }

    fn open(&self, org: &OrgId) -> BoxFuture<'static, Result<LogState, AppendError>> {
        self.note("open", org);
        if matches!(*self.health.borrow(), Health::Full(_)) {
            return Box::pin(async { Err(AppendError::LogFull) });
        }
        self.engine.open(org)
    }

    fn head(&self, org: &OrgId) -> Option<LogState> {
        self.engine.head(org)
    }

    fn read(&self, org: &OrgId, after: Seq, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        assert!(!self.breaks.load(Ordering::SeqCst), "an invariant broken on purpose");
        if self.loses.load(Ordering::SeqCst) {
            return Box::pin(async { Err(ReadError::Store("lost on purpose".into())) });
        }
        let (read, mut may_read) = (self.engine.read(org, after, limit), self.may_read.clone());
        self.reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let _ = may_read.wait_for(|may| *may).await;
            read.await
        })
    }

    fn sweep(&self) {
        self.engine.sweep();
    }

    fn list_orgs(&self) -> BoxFuture<'static, Vec<OrgLog>> {
        self.engine.list_orgs()
    }

    fn delete_org(&self, org: &OrgId) -> BoxFuture<'static, Result<(), DeleteError>> {
        self.engine.delete_org(org)
    }

    fn delete_events(&self, org: &OrgId, seqs: Vec<Seq>) -> BoxFuture<'static, Result<(), DeleteError>> {
        self.engine.delete_events(org, seqs)
    }

    fn watch(&self, org: &OrgId) {
        self.note("watch", org);
        self.engine.watch(org);
    }

    fn unwatch(&self, org: &OrgId) {
        self.note("unwatch", org);
        self.engine.unwatch(org);
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn usage(&self) -> Usage {
        self.engine.usage()
    }

    fn durability(&self) -> Durability {
        self.engine.durability()
    }

    fn close(&self) {
        self.engine.close();
    }
}

type Commit = (OrgId, Seq, Vec<Arc<Event>>);

/// A way from the engine to the tails, closed until it is opened.
struct HeldFeed {
    hub: Arc<Hub>,
    held: Mutex<Option<Vec<Commit>>>,
}

impl Feed for HeldFeed {
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]) {
        match &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(held) => held.push((org.clone(), prev, events.to_vec())),
            None => self.hub.committed(org, prev, events),
        }
    }

    fn org_deleted(&self, org: &OrgId) {
        self.hub.org_deleted(org);
    }

    fn events_deleted(&self, org: &OrgId, seqs: &[Seq]) {
        self.hub.events_deleted(org, seqs);
    }
}

/// The node, with one worker, and an org `acme`.
pub struct HeldNode {
    /// The public address.
    pub address: SocketAddr,
    key: String,
    wide_key: String,
    token: String,
    answers: watch::Sender<bool>,
    reads: watch::Sender<bool>,
    breaks: Arc<AtomicBool>,
    loses: Arc<AtomicBool>,
    health: Arc<watch::Sender<Health>>,
    calls: Arc<Mutex<Vec<String>>>,
    appends: Arc<AtomicUsize>,
    reads_begun: Arc<AtomicUsize>,
    /// The quotas that its engine was given last.
    pub quotas: Arc<Mutex<StoredQuotas>>,
    /// Its parts, for a look at their counters.
    pub node: Arc<Node>,
    feed: Arc<HeldFeed>,
    _dir: tempfile::TempDir,
}

impl HeldNode {
    /// Starts one. Publishers wait for an answer for a second and no longer.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with settings.
    pub fn with(settings: &[(&'static str, &'static str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut sources = Sources::default();
        sources.command("test", "log.dir", format!("{:?}", dir.path()));
        sources.command("test", "auth.keys", format!("[{{ secret = \"{SECRET}\" }}]"));
        sources.command("test", "limits.publish_timeout", "1s");
        for (key, value) in settings {
            sources.command("test", key, *value);
        }
        let config = config::load(&sources).expect("a configuration").config;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let keys = KeysFile::at(config.keys_file());
        let org = OrgId::parse("acme").expect("a name");
        let key = keys.create(&Orgs::from(org), &Filter::all(), None, clock.now()).expect("a key").plain;
        let all = keys.create(&Orgs::All, &Filter::all(), None, clock.now()).expect("a key");
        let hub = Arc::new(Hub::new(1, Node::hub_limits(&config), clock.clone()));
        let feed = Arc::new(HeldFeed { hub: hub.clone(), held: Mutex::new(Some(Vec::new())) });
        let (answers, may_answer) = watch::channel(false);
        let (reads, may_read) = watch::channel(true);
        let [breaks, loses] = <[Arc<AtomicBool>; 2]>::default();
        let health = Arc::new(watch::Sender::new(Health::Ok));
        let calls = Arc::<Mutex<Vec<String>>>::default();
        let quotas = Arc::<Mutex<StoredQuotas>>::default();
        let [appends, reads_begun] = <[Arc<AtomicUsize>; 2]>::default();
        let hooks = Hooks { feed: feed.clone(), clock: clock.clone(), observer: Arc::new(()) };
        let engine = LocalEngine::memory(engines::memory_options(&config), hooks).expect("an engine");
        let parts = Parts {
            engine: Arc::new(HeldBack {
                engine,
                may_answer,
                may_read,
                breaks: breaks.clone(),
                loses: loses.clone(),
                health: health.clone(),
                calls: calls.clone(),
                appends: appends.clone(),
                reads: reads_begun.clone(),
                quotas: quotas.clone(),
            }),
            metrics: Arc::new(Metrics::new(hub.budget().clone(), hub.contexts().clone())),
            tokens: TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes()),
            publishers: Arc::new(Publishers::open(keys, clock.now()).expect("keys")),
            has_page: false,
            missing_files: 0,
            clock,
            hub,
        };
        let node = Arc::new(Node::new(config, parts));
        let worker = WorkerThread::start(0, node.clone(), tidegate_server::http::serve).expect("a worker");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let counted = node.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accept");
                stream.set_nonblocking(true).expect("non-blocking");
                let peer = stream.peer_addr().expect("a peer");
                let slot = counted.take_socket().expect("room");
                let quiet = counted.quiet.arrive(peer.ip());
                worker.hand(Accepted { stream, peer, slot, quiet }).expect("room");
            }
        });
        let claims = serde_json::json!({"sub": "u", "org": "acme", "services": ["*"], "exp": now_s() + 3600});
        let signer = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        let token = jsonwebtoken::encode(&header, &claims, &signer).expect("a token");
        Self {
            address,
            key,
            wide_key: all.plain,
            token,
            answers,
            reads,
            breaks,
            loses,
            health,
            calls,
            appends,
            reads_begun,
            quotas,
            node,
            feed,
            _dir: dir,
        }
    }

    /// Lets publishers have their answers.
    pub fn let_answer(&self) {
        self.answers.send_replace(true);
    }

    /// Lets no page of the log be read, from now on, or all those that wait.
    pub fn let_read(&self, may: bool) {
        self.reads.send_replace(may);
    }

    /// The value of a metric; zero where it has no such line.
    pub fn metric(&self, line: &str) -> f64 {
        let text = self.node.metrics.open_metrics();
        let value = text.lines().find_map(|of| of.strip_prefix(line)?.trim().parse().ok());
        value.unwrap_or_default()
    }

    /// Makes every read of the log panic.
    pub fn break_reads(&self) {
        self.breaks.store(true, Ordering::SeqCst);
    }

    /// Makes every read of the log fail.
    pub fn fail_reads(&self) {
        self.loses.store(true, Ordering::SeqCst);
    }

    /// Leaves the log no room, not even to open an org.
    pub fn fill(&self) {
        self.set_health(Health::Full("filled on purpose".into()));
    }

    /// Makes the log take no more writes, as after a failed sync.
    pub fn halt(&self) {
        self.set_health(Health::Halted("a sync failed on purpose".into()));
    }

    /// Makes the engine report how it works.
    pub fn set_health(&self, health: Health) {
        self.health.send_replace(health);
    }

    /// The calls of `watch`, `open` and `unwatch` so far, each with its org.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many batches have come to the engine.
    pub fn appends(&self) -> usize {
        self.appends.load(Ordering::SeqCst)
    }

    /// How many reads of the log have begun.
    pub fn reads(&self) -> usize {
        self.reads_begun.load(Ordering::SeqCst)
    }

    /// Asks the operators' listener, which is started for it.
    pub fn operators(&self, path: &str) -> Answer {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("bound");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).expect("a listener")
        };
        runtime.spawn(admin::serve(listener, self.node.clone()));
        Request::new(address, "GET", path).send()
    }

    /// Lets the tails have what was committed, and what will be.
    pub fn let_feed(&self) {
        let mut held = self.feed.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (org, prev, events) in held.take().unwrap_or_default() {
            self.feed.hub.committed(&org, prev, &events);
        }
    }

    /// A publish request without a body yet.
    pub fn publishing(&self) -> Request {
        Request::new(self.address, "POST", "/v1/orgs/acme/events")
            .with("authorization", &format!("Bearer {}", self.key))
            .with("content-type", "application/json")
    }

    /// The same for orgs that its events name.
    pub fn publishing_to_all(&self) -> Request {
        self.publishing().to("/v1/events").with("authorization", &format!("Bearer {}", self.wide_key))
    }

    /// A request for something of the org, with its token.
    pub fn getting(&self, endpoint: &str) -> Request {
        Request::new(self.address, "GET", &format!("/v1/orgs/acme/{endpoint}"))
            .with("authorization", &format!("Bearer {}", self.token))
    }

    /// A stream over SSE.
    pub fn sse(&self, query: &str) -> Sse {
        Sse::open(self.getting(&format!("stream{query}")))
    }

    /// A stream over WebSocket.
    pub fn ws(&self, query: &str) -> Ws {
        let bearer = format!("Bearer {}", self.token);
        Ws::open(self.address, &format!("/v1/orgs/acme/stream{query}"), &[("authorization", &bearer)])
    }
}
