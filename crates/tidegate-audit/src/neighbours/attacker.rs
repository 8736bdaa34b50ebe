//! An attack as a process of its own, at the lowest priority: what it takes of the processor for itself must
//! not slow the gateway or its victim down, only what it makes the gateway do. It ends with its standard
//! input, and its sockets end with it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
};

use super::{
    attack::Attack,
    wire::{self, Http2},
};

/// How long one part of an attack waits after an error, so that a closed port is not what it attacks.
const RETRY: Duration = Duration::from_millis(5);

/// How often the process says how much it has done.
const REPORT: Duration = Duration::from_millis(50);

/// Where attackers go, and what they have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Site {
    /// The address for publishers and readers.
    pub public: SocketAddr,
    /// The address for operators.
    pub admin: SocketAddr,
    /// One for each org that attacks.
    pub accounts: Vec<Account>,
}

/// What one org has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub org: String,
    /// A key that publishes to it.
    pub key: String,
    /// Tokens of its users, for all services.
    pub tokens: Vec<String>,
    /// The address that it connects from.
    pub from: Ipv4Addr,
}

/// One org that attacks.
#[derive(Debug)]
pub struct Attacker {
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub account: Account,
    /// How many orgs attack.
    pub orgs: u32,
    done: Arc<AtomicU64>,
}

impl Attacker {
    /// Counts what the attack has done: requests, connections, frames.
    pub fn did(&self, count: usize) {
        self.done.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Connects.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        wire::connect(self.account.from, self.public, false).await
    }

    /// Connects with the smallest receive buffer.
    pub async fn connect_small(&self) -> io::Result<TcpStream> {
        wire::connect(self.account.from, self.public, true).await
    }

    /// Connects and begins HTTP/2.
    pub async fn http2(&self, window: u32) -> io::Result<Http2> {
        Http2::begin(self.connect().await?, window).await
    }

    /// One of its tokens.
    pub fn token(&self, number: usize) -> &str {
        &self.account.tokens[number % self.account.tokens.len()]
    }

    /// The path of a resource of its org.
    pub fn path(&self, resource: &str) -> String {
        format!("/v1/orgs/{}/{resource}", self.account.org)
    }

    /// A request for a resource of its org, by one of its users.
    pub fn get(&self, number: usize, resource: &str, headers: &str) -> String {
        let (path, token) = (self.path(resource), self.token(number));
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{headers}\r\n")
    }

    /// The head of a request that publishes.
    pub fn post(&self, length: usize, headers: &str) -> String {
        let (path, key) = (self.path("events"), &self.account.key);
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n"
        )
    }

    /// The same two as header lines of HTTP/2.
    pub fn lines(&self, number: usize, method: &str, resource: &str) -> Vec<(&'static str, String)> {
        let credentials = if method == "POST" { self.account.key.as_str() } else { self.token(number) };
        vec![
            (":method", method.to_owned()),
            (":scheme", "http".to_owned()),
            (":authority", "a".to_owned()),
            (":path", self.path(resource)),
            ("authorization", format!("Bearer {credentials}")),
        ]
    }

    /// Publishes a body, and returns the answer's status.
    pub async fn publish(&self, stream: &mut TcpStream, body: &[u8], headers: &str) -> io::Result<u16> {
        stream.write_all(self.post(body.len(), headers).as_bytes()).await?;
        stream.write_all(body).await?;
        wire::answer(stream).await
    }
}

/// The header block of these lines.
pub fn block(lines: &[(&'static str, String)]) -> Vec<u8> {
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
    wire::block(&lines)
}

/// The orgs of a site, and the number of things that they have done.
fn attackers(site: &Site) -> (Vec<Arc<Attacker>>, Arc<AtomicU64>) {
    let done = Arc::<AtomicU64>::default();
    let attacker = |account: &Account| {
        let (public, admin, orgs) = (site.public, site.admin, site.accounts.len() as u32);
        Arc::new(Attacker { public, admin, account: account.clone(), orgs, done: done.clone() })
    };
    (site.accounts.iter().map(attacker).collect(), done)
}

/// Publishes what the attack needs in the logs of its orgs, before anything is measured.
pub async fn prepare(attack: Attack, site: &Site) -> anyhow::Result<()> {
    for attacker in attackers(site).0 {
        for part in attack.parts() {
            part.prepare(&attacker).await.with_context(|| format!("prepare {}", attack.name()))?;
        }
    }
    Ok(())
}

/// An attack that goes on.
#[derive(Debug)]
pub struct Process {
    child: Child,
    done: Arc<AtomicU64>,
    _open: ChildStdin,
}

impl Process {
    /// Starts it.
    pub async fn start(attack: Attack, site: &Site) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find this program")?;
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(own).args(["attack", &attack.name()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.context("run the attack (by nice, of coreutils)")?;
        let mut stdin = child.stdin.take().context("write to the attack")?;
        let stdout = child.stdout.take().context("read from the attack")?;
        let line = format!("{}\n", serde_json::to_string(site).context("write the site")?);
        stdin.write_all(line.as_bytes()).await.context("write to the attack")?;
        let done = Arc::<AtomicU64>::default();
        let count = done.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                count.store(line.parse().unwrap_or(0), Ordering::Relaxed);
            }
        });
        Ok(Self { child, done, _open: stdin })
    }

    /// Ends it. Returns how much it has done.
    pub async fn end(mut self) -> anyhow::Result<u64> {
        anyhow::ensure!(self.child.try_wait()?.is_none(), "the attack had ended by itself");
        self.child.kill().await.context("end the attack")?;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

/// Options of the process.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The attack
    attack: Attack,
}

/// The process itself: reads its site from the first line of standard input, and attacks until that ends.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("read the site")?;
    let site: Site = serde_json::from_str(&line).context("read the site")?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    let (attackers, done) = attackers(&site);
    for part in options.attack.parts() {
        // The orgs share the work, so that ten of them do as much as one.
        let parallel = part.parallel().div_ceil(attackers.len());
        for attacker in &attackers {
            for number in 0..parallel {
                let attacker = attacker.clone();
                tokio::spawn(async move {
                    loop {
                        if part.once(&attacker, number).await.is_err() {
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                });
            }
        }
    }
    let mut report = tokio::time::interval(REPORT);
    loop {
        report.tick().await;
        println!("{}", done.load(Ordering::Relaxed));
    }
}
