//! A publish whose outcome is not known: a node in this process, over an engine that holds appends
//! back until it is told to go on.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tidegate_core::{Filter, LogState, NewEvent, OrgId, Seq};
use tidegate_server::{
    auth::{KeysFile, Publishers, TokenVerifier},
    config::{self, Sources},
    engine::{
        AppendError, Appended, Clock, Durability, Engine, LocalEngine, MemoryOptions, Page, PageLimit,
        ReadError, Surroundings, SystemClock,
    },
    hub::Hub,
    metrics::Metrics,
    node::{Node, Parts},
    worker::{Accepted, Worker},
};
use tokio::sync::watch;

use crate::client::http::Request;

/// An engine that appends, and answers when it may.
struct HeldBack {
    engine: LocalEngine<tidegate_server::engine::MemoryStore>,
    may_answer: watch::Receiver<bool>,
}

impl Engine for HeldBack {
    fn append(
        &self,
        org: &OrgId,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let appended = self.engine.append(org, events);
        let mut may_answer = self.may_answer.clone();
        Box::pin(async move {
            let appended = appended.await;
            may_answer.wait_for(|may| *may).await.map_err(|_| AppendError::Unknown)?;
            appended
        })
    }

    fn open(&self, org: &OrgId) -> BoxFuture<'static, Result<LogState, AppendError>> {
        self.engine.open(org)
    }

    fn head(&self, org: &OrgId) -> Option<LogState> {
        self.engine.head(org)
    }

    fn read(&self, org: &OrgId, after: Seq, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        self.engine.read(org, after, limit)
    }

    fn sweep(&self) {
        self.engine.sweep();
    }

    fn halted(&self) -> Option<Arc<str>> {
        self.engine.halted()
    }

    fn durability(&self) -> Durability {
        self.engine.durability()
    }

    fn close(&self) {
        self.engine.close();
    }
}

#[test]
fn an_unknown_outcome_names_the_ids_and_sending_again_is_safe() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut sources = Sources::default();
    sources.command("test", "log.dir", format!("{:?}", dir.path()));
    sources.command("test", "auth.keys", format!("[{{ secret = \"{}\" }}]", "s".repeat(32)));
    sources.command("test", "limits.publish_timeout", "100ms");
    let loaded = config::load(&sources).expect("a configuration");
    let config = loaded.config;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let keys = KeysFile::at(config.keys_file());
    let org = OrgId::parse("acme").expect("a name");
    let key = keys.create(org, &Filter::all(), None, clock.now()).expect("a key").plain;
    let hub = Arc::new(Hub::new(1, Node::hub_limits(&config), clock.clone()));
    let (answers, may_answer) = watch::channel(false);
    let around = Surroundings { feed: hub.clone(), clock: clock.clone(), observer: Arc::new(()) };
    let engine = LocalEngine::memory(MemoryOptions::default(), around).expect("an engine");
    let parts = Parts {
        engine: Arc::new(HeldBack { engine, may_answer }),
        metrics: Arc::new(Metrics::new(hub.budget().clone())),
        tokens: TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes()),
        publishers: Arc::new(Publishers::open(keys, clock.now()).expect("keys")),
        has_page: false,
        clock,
        hub,
    };
    let node = Arc::new(Node::new(config, parts));
    let worker = Worker::start(0, node.clone(), tidegate_server::http::serve).expect("a worker");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound");
    let send = |to: SocketAddr| {
        let request = Request::new(to, "POST", "/v1/orgs/acme/events")
            .with("authorization", &format!("Bearer {key}"))
            .with("content-type", "application/json")
            .body(
                r#"[{"service":"s","event":"e","id":"given","data":1},{"service":"s","event":"e","data":2}]"#,
            );
        let request = request.with("idempotency-key", "k");
        let mut connection = request.begin();
        let (stream, peer) = listener.accept().expect("accept");
        stream.set_nonblocking(true).expect("non-blocking");
        let place = node.take_socket().expect("room");
        worker.hand(Accepted { stream, peer, place }).expect("room");
        crate::client::http::Answer::read(&mut connection).expect("an answer")
    };

    let answer = send(address);
    assert_eq!((answer.status, answer.refusal().as_str()), (504, "unknown"));
    assert_eq!(answer.json()["ids"], serde_json::json!(["given", "k-1"]), "assigned ones, too");
    answers.send_replace(true);
    let again = send(address).json();
    assert_eq!(again["events"][1]["id"], "k-1");
    assert_eq!(again["events"][1]["duplicate"], true, "it had been stored: {again}");
    worker.stop();
}
