//! Tidegate: started as `tidegate dev` without its feed (with its own log, one org, one token and one key),
//! or a gateway that is already running.

pub mod frame;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Deserialize;

use super::{
    Dialect, Request, Running, Start, StreamRequest, Transport, event_stream, process::Server, upgrade,
};
use crate::{
    digest::{Digest, ReadMessage},
    event::Marks,
    http::{self, Target},
    result,
};

const HEADING: &str = "For a running gateway (--peer http://...)";

/// Options for a gateway that is already running.
#[derive(Debug, Clone, Default, Args)]
pub struct Attached {
    /// Org
    #[arg(long, env = "TIDEGATE_ORG", default_value = "dev", help_heading = HEADING)]
    pub org: String,
    /// Token that may read all services of the org
    #[arg(
        long,
        env = "TIDEGATE_TOKEN",
        hide_env_values = true,
        help_heading = HEADING
    )]
    pub token: Option<String>,
    /// Key that may publish to all services of the org
    #[arg(
        long,
        env = "TIDEGATE_PUBLISH_KEY",
        hide_env_values = true,
        help_heading = HEADING
    )]
    pub publish_key: Option<String>,
    /// Process id of the gateway on this machine, to measure its CPU time and memory
    #[arg(long, value_name = "PID", help_heading = HEADING)]
    pub pid: Option<u32>,
}

/// The line that `tidegate dev --json` prints.
#[derive(Debug, Deserialize)]
struct Announcement {
    url: String,
    admin_url: String,
    org: String,
    token: String,
    publish_key: String,
}

/// The limits that a run with this many connections needs, as for `--set`. They are high because all
/// connections come from one user and one address, at almost the same time.
pub fn required_limits(connections: usize) -> Vec<String> {
    let room = connections + 100;
    [
        ("limits.connections", room),
        ("limits.connections_per_org", room),
        ("limits.connections_per_user", room),
        ("limits.connections_per_address", room + 200),
        ("limits.waiting_sockets_per_address", room + 200),
        ("limits.handshakes_per_second", 1_000_000),
        ("limits.replays_waiting", 2 * room),
        ("limits.publishes_per_second", 1_000_000),
        ("dedup.max_entries", 20_000_000),
    ]
    .map(|(key, value)| format!("{key}={value}"))
    .into()
}

/// How often a gateway has synced its log, and how long this took in total.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyncTotals {
    count: u64,
    seconds: f64,
}

impl SyncTotals {
    /// The difference to an earlier reading. None if nothing was synced in between.
    pub fn since(self, before: Self) -> Option<result::Syncs> {
        let count = self.count.saturating_sub(before.count);
        let mean_ms = (self.seconds - before.seconds) * 1000.0 / count.max(1) as f64;
        (count > 0).then_some(result::Syncs { count, mean_ms })
    }

    fn read(metrics: &str) -> Option<Self> {
        let value =
            |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some(Self {
            count: value("tidegate_log_sync_duration_seconds_count")? as u64,
            seconds: value("tidegate_log_sync_duration_seconds_sum")?,
        })
    }
}

/// Reads the totals from the operators' metrics. None if they are not available.
pub fn syncs(admin: &Target) -> Option<SyncTotals> {
    let request = http::request("GET", "/metrics", admin, &[("connection", "close")], b"");
    let answer = http::ask(admin, &request, Duration::from_secs(5)).ok()?;
    SyncTotals::read(std::str::from_utf8(&answer.body).ok()?)
}

/// Creates further orgs of a gateway, with its own commands.
#[derive(Debug, Clone)]
pub struct OrgCreator {
    gateway: PathBuf,
    data: PathBuf,
    pid: Option<u32>,
}

impl OrgCreator {
    /// Creates a second org on the gateway of `first`, with a token and a key. The gateway accepts the key
    /// only a moment later.
    pub fn second(&self, first: &Running, marks: &Marks) -> anyhow::Result<Running> {
        self.create("beside", first, marks)
    }

    /// The same with this name.
    pub fn create(&self, org: &str, first: &Running, marks: &Marks) -> anyhow::Result<Running> {
        let run = |arguments: &[&str]| run_command(&self.gateway, &self.data, org, arguments);
        #[derive(Deserialize)]
        struct Made {
            key: String,
        }
        let token = run(&["token", "create", "--user", "bench", "--services", "*"])?;
        let made = run(&["key", "create", "--json"])?;
        let Made { key } = serde_json::from_str(&made)
            .with_context(|| format!("read the output of tidegate key create: {made}"))?;
        Ok(Running {
            target: first.target.clone(),
            admin: None,
            orgs: None,
            version: first.version.clone(),
            setup: first.setup.clone(),
            server: Server::attached(self.pid),
            dialect: Arc::new(Tidegate {
                org: org.to_owned(),
                tokens: Tokens::one(token),
                publish_key: key,
                compress: false,
                marks: marks.clone(),
            }),
        })
    }
}

/// Runs the gateway's command `arguments` for `org`, and returns what it prints.
fn run_command(gateway: &Path, data: &Path, org: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(gateway);
    let output = command.args(arguments).args(["--org", org, "--data-dir"]).arg(data).output();
    let output = output.with_context(|| format!("run tidegate {}", arguments.join(" ")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tidegate {} failed: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Tokens that readers use in turn.
struct Tokens {
    each: Vec<String>,
    given: AtomicUsize,
}

impl Tokens {
    fn one(token: String) -> Self {
        Self { each: vec![token], given: AtomicUsize::new(0) }
    }

    fn next(&self) -> &str {
        &self.each[self.given.fetch_add(1, Ordering::Relaxed) % self.each.len()]
    }
}

/// Starts a gateway with `settings` in addition to those of `start`.
pub fn start(start: &Start, settings: &[String]) -> anyhow::Result<Running> {
    let gateway = &start.gateway;
    ensure!(
        gateway.exists(),
        "{} does not exist: build it (cargo build --release), or give another path with --gateway",
        gateway.display()
    );
    let version = Command::new(gateway).arg("version").output();
    let version = version.with_context(|| format!("run {}", gateway.display()))?;
    let version = String::from_utf8_lossy(&version.stdout);
    let dir = tempfile::tempdir().context("create a directory for the log")?;
    let mut command = Command::new(gateway);
    command.args(["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir"]);
    let data = dir.path().join("data");
    command.arg(&data);
    // No client needs to be drained when the run ends.
    command.args(["--set", "drain.window=\"0s\""]);
    let chosen: Vec<_> = start.settings.iter().chain(settings).cloned().collect();
    for setting in required_limits(start.connections).iter().chain(&chosen) {
        command.args(["--set", setting]);
    }
    let (server, announced): (_, Announcement) =
        Server::announcing_json(&mut command, start.cores.as_ref(), dir)?;
    let setup = match chosen.as_slice() {
        [] => "its defaults, limits raised for the run".to_owned(),
        chosen => format!("{}, limits raised for the run", chosen.join(", ")),
    };
    let mut tokens = Tokens::one(announced.token);
    for user in 1..start.users {
        let user = format!("bench-{user}");
        let create = ["token", "create", "--user", &user, "--services", "*"];
        tokens.each.push(run_command(gateway, &data, &announced.org, &create)?);
    }
    Ok(Running {
        target: Target::parse(&announced.url)?,
        admin: Some(Target::parse(&announced.admin_url)?),
        orgs: Some(OrgCreator { gateway: gateway.clone(), data, pid: server.pid() }),
        version: version.lines().next().unwrap_or("tidegate").to_owned(),
        setup,
        server,
        dialect: Arc::new(Tidegate {
            org: announced.org,
            tokens,
            publish_key: announced.publish_key,
            compress: start.compress,
            marks: start.marks.clone(),
        }),
    })
}

/// Attaches to a running gateway.
pub fn attach(address: &str, start: &Start) -> anyhow::Result<Running> {
    let attached = &start.attached;
    let (Some(token), Some(publish_key)) = (&attached.token, &attached.publish_key) else {
        anyhow::bail!(
            "--peer {address} needs --token and --publish-key (`tidegate token create`, `tidegate key create`; `tidegate dev --json` prints both)"
        );
    };
    Ok(Running {
        target: Target::parse(address)?,
        admin: None,
        orgs: None,
        version: "tidegate".to_owned(),
        setup: format!("as it runs at {address}"),
        server: Server::attached(attached.pid),
        dialect: Arc::new(Tidegate {
            org: attached.org.clone(),
            tokens: Tokens::one(token.clone()),
            publish_key: publish_key.clone(),
            compress: start.compress,
            marks: start.marks.clone(),
        }),
    })
}

struct Tidegate {
    org: String,
    tokens: Tokens,
    publish_key: String,
    compress: bool,
    marks: Marks,
}

impl Dialect for Tidegate {
    fn stream(&self, stream: StreamRequest<'_>) -> Request {
        let mut query = Vec::new();
        if let Some(services) = stream.services {
            query.push(format!("services={services}"));
        }
        if let Some(cursor) = stream.cursor {
            query.push(format!("cursor={cursor}"));
        }
        if !self.compress && stream.transport == Transport::Ws {
            query.push("deflate=0".to_owned());
        }
        let mut headers = match stream.transport {
            Transport::Ws => upgrade(self.compress),
            Transport::Sse => event_stream(self.compress),
        };
        headers.push(("authorization", format!("Bearer {}", self.tokens.next())));
        Request { path: format!("/v1/orgs/{}/stream?{}", self.org, query.join("&")), headers }
    }

    fn is_ready_at_once(&self) -> bool {
        false
    }

    fn publish(&self) -> Request {
        Request {
            path: format!("/v1/orgs/{}/events", self.org),
            headers: vec![
                ("authorization", format!("Bearer {}", self.publish_key)),
                ("content-type", "application/json".to_owned()),
            ],
        }
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl ReadMessage for Tidegate {
    fn read(&self, message: &[u8]) -> Digest {
        frame::read(&self.marks, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_among_metrics() {
        let metrics = |count, sum| {
            let name = "tidegate_log_sync_duration_seconds";
            format!("# TYPE x histogram\nx_count 7\n{name}_sum {sum}\n{name}_count {count}\n")
        };
        let before = SyncTotals::read(&metrics(1, 0.5)).expect("syncs");
        let after = SyncTotals::read(&metrics(41, 0.58)).expect("syncs");
        let since = after.since(before).expect("some");
        assert!(since.count == 40 && (since.mean_ms - 2.0).abs() < 1e-6, "{since:?}");
        assert_eq!((after.since(after), SyncTotals::read("x_count 7\n")), (None, None));
    }
}
