//! The listener of the kit: who connects gets the stream of a run, a token, the list of scenarios, or the verdict
//! on a report. What a stream does is decided by [`super::run`].

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{
    conversation,
    live::{Live, linger, lock},
    request::{self, Request},
    run::{Run, Verdict},
    scenario::{Need, Scenario, Transport},
};

/// How long a client may take to send its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs that are kept. A page that asks for the list again and again must not fill the memory.
const RUNS_MAX: usize = 4096;

/// Which scenarios are played, and to what client.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The scenarios.
    pub scenarios: Vec<Arc<Scenario>>,
    /// The transports.
    pub transports: Vec<Transport>,
    /// What the client cannot do.
    pub without: Vec<Need>,
}

impl Choice {
    /// All runs that this makes, those that take longest first.
    pub fn runs(&self) -> Vec<(Arc<Scenario>, Transport)> {
        let mut runs = Vec::new();
        for scenario in &self.scenarios {
            for transport in scenario.transports.iter().filter(|one| self.transports.contains(one)) {
                runs.push((Arc::clone(scenario), *transport));
            }
        }
        runs.sort_by_key(|(scenario, _)| std::cmp::Reverse(scenario.deadline_ms));
        runs
    }
}

/// The server.
#[derive(Debug)]
pub struct Kit {
    choice: Choice,
    url: String,
    began: Instant,
    runs: Mutex<BTreeMap<u64, Arc<Live>>>,
    count: AtomicU64,
    verdicts: mpsc::UnboundedSender<Verdict>,
}

/// What a client must know to take part in a run.
#[derive(Debug, Clone, Serialize)]
pub struct Invitation {
    /// The scenario.
    pub scenario: String,
    /// The transport that the client must use.
    pub transport: Transport,
    /// What happens.
    pub about: String,
    /// Which rule asks for it.
    pub rule: String,
    /// The org of this run.
    pub org: String,
    /// The gateway's address.
    pub url: String,
    /// The address of the stream.
    pub stream: String,
    /// The first token.
    pub token: String,
    /// Where a new token is had, as text.
    pub token_url: String,
    /// The cursor to start with, if there is one.
    pub cursor: Option<String>,
    /// Where the deliveries are reported.
    pub report_url: String,
    /// How long the run may take after its first request.
    pub deadline_ms: u64,
    /// How many lines the client delivers, the last event included.
    pub deliveries: usize,
    /// What the server does.
    pub script: String,
}

impl Kit {
    /// Listens. The verdicts of all runs are sent to `verdicts`.
    pub async fn bind(
        address: SocketAddr,
        choice: Choice,
        verdicts: mpsc::UnboundedSender<Verdict>,
    ) -> io::Result<(Arc<Self>, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let kit = Self {
            choice,
            url,
            began: Instant::now(),
            runs: Mutex::default(),
            count: AtomicU64::new(0),
            verdicts,
        };
        Ok((Arc::new(kit), listener))
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Which scenarios are played.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // No file descriptor is left, for a moment.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let kit = Arc::clone(&self);
            tokio::spawn(async move {
                // The client has gone: its run sees that, if it has one.
                let _ = kit.connection(stream).await;
            });
        }
    }

    /// A new run in an org of its own.
    pub fn start(&self, scenario: &Arc<Scenario>, transport: Transport) -> (Arc<Live>, Invitation) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let org = format!("{}.{transport}.{number}", scenario.name);
        let mut run = Run::new(Arc::clone(scenario), transport, org.clone());
        run.skip_without(&self.choice.without);
        let token = run.token();
        let url = &self.url;
        let scheme = if transport == Transport::Ws { url.replacen("http", "ws", 1) } else { url.clone() };
        let invitation = Invitation {
            scenario: scenario.name.clone(),
            transport,
            about: scenario.about.clone(),
            rule: scenario.rule.clone(),
            url: url.clone(),
            stream: format!("{scheme}/v1/orgs/{org}/stream"),
            token,
            token_url: format!("{url}/conformance/{org}/token"),
            cursor: scenario.start.clone(),
            report_url: format!("{url}/conformance/{org}/report"),
            deadline_ms: scenario.deadline_ms,
            deliveries: run.deliveries(),
            script: scenario.script.clone(),
            org,
        };
        let live = Arc::new(Live::new(run, self.began));
        let mut runs = lock(&self.runs);
        runs.insert(number, Arc::clone(&live));
        if runs.len() > RUNS_MAX {
            runs.pop_first();
        }
        (live, invitation)
    }

    fn find(&self, org: &str) -> Option<Arc<Live>> {
        let number = org.rsplit('.').next()?.parse().ok()?;
        let live = lock(&self.runs).get(&number).cloned()?;
        let is_its_own = lock(&live.run).org() == org;
        is_its_own.then_some(live)
    }

    /// Sends the verdict on when it is there, once for each run.
    fn watch(&self, live: &Arc<Live>) {
        if live.is_first_watch() {
            let (live, verdicts) = (Arc::clone(live), self.verdicts.clone());
            tokio::spawn(async move {
                // Nobody may be left to read it.
                let _ = verdicts.send(live.verdict().await);
            });
        }
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let head = tokio::time::timeout(HEAD_TIMEOUT, Request::read(&mut stream)).await;
        let Ok(Ok(Some(mut request))) = head else { return Ok(()) };
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (request.method.as_str(), &parts[..]) {
            ("OPTIONS", _) => request::answer(&mut stream, 204, "", "").await?,
            ("GET", ["v1", "orgs", org, "stream"]) => match self.find(org) {
                Some(live) => {
                    self.watch(&live);
                    return conversation::serve(&live, stream, request).await;
                }
                None => not_found(&mut stream).await?,
            },
            ("GET", ["conformance"]) => {
                let runs: Vec<_> = self.choice.runs();
                let runs: Vec<_> = runs.iter().map(|(scenario, on)| self.invite(scenario, *on)).collect();
                let list = json!({ "runs": runs }).to_string();
                request::answer(&mut stream, 200, "application/json", &list).await?;
            }
            ("GET", ["conformance", org, "token"]) => match self.find(org) {
                Some(live) => {
                    let token = live.with(|run, _| run.token());
                    request::answer(&mut stream, 200, "text/plain", &token).await?;
                }
                None => not_found(&mut stream).await?,
            },
            ("POST", ["conformance", org, "report"]) => match self.find(org) {
                Some(live) => {
                    self.watch(&live);
                    match request.body(&mut stream).await? {
                        Some(body) => {
                            let verdict = json!(live.report(&String::from_utf8_lossy(&body)).await);
                            request::answer(&mut stream, 200, "application/json", &verdict.to_string())
                                .await?;
                        }
                        None => {
                            let detail = "a report has a Content-Length of at most 16 MiB";
                            request::problem(&mut stream, 413, "too_large", detail).await?;
                        }
                    }
                }
                None => not_found(&mut stream).await?,
            },
            _ => not_found(&mut stream).await?,
        }
        linger(stream).await;
        Ok(())
    }

    fn invite(&self, scenario: &Arc<Scenario>, transport: Transport) -> serde_json::Value {
        match scenario.needs.iter().find(|need| self.choice.without.contains(need)) {
            Some(need) => json!({
                "scenario": scenario.name, "transport": transport, "about": scenario.about,
                "skipped": format!("--without {}", need.name()),
            }),
            None => json!(self.start(scenario, transport).1),
        }
    }
}

async fn not_found(stream: &mut TcpStream) -> io::Result<()> {
    let detail = "there is /conformance, /conformance/<org>/token, /conformance/<org>/report, and \
                  /v1/orgs/<org>/stream; each run has an org of its own";
    request::problem(stream, 404, "not_found", detail).await
}
