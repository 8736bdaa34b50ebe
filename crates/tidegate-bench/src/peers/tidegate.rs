//! Tidegate: started as `tidegate dev` without its feed (a log of its own, one org, token and key), or a
//! gateway that runs already.

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
use serde_json::value::RawValue;
use tidegate_protocol::Cursor;

use super::{Asked, Dialect, Request, Running, Start, Transport, event_stream, process::Server, upgrade};
use crate::{
    digest::{Digest, Read, Refused, Word},
    event::Marks,
    http::{self, Target},
    result,
};

/// What a gateway that runs already must be told.
#[derive(Debug, Clone, Default, Args)]
pub struct Attached {
    /// For --peer http://...: the org
    #[arg(long, env = "TIDEGATE_ORG", default_value = "dev", help_heading = "A gateway that runs already")]
    pub org: String,
    /// A token that reads all its services
    #[arg(
        long,
        env = "TIDEGATE_TOKEN",
        hide_env_values = true,
        help_heading = "A gateway that runs already"
    )]
    pub token: Option<String>,
    /// A key that publishes to all its services
    #[arg(
        long,
        env = "TIDEGATE_PUBLISH_KEY",
        hide_env_values = true,
        help_heading = "A gateway that runs already"
    )]
    pub publish_key: Option<String>,
    /// Its process, for processor time and memory (on this machine)
    #[arg(long, value_name = "PID", help_heading = "A gateway that runs already")]
    pub pid: Option<u32>,
}

/// The line that `tidegate dev --json` prints.
#[derive(Debug, Deserialize)]
struct Announced {
    url: String,
    admin_url: String,
    org: String,
    token: String,
    publish_key: String,
}

/// The limits that a run of so many connections needs raised, as `--set` takes them: one user, one
/// address and one moment have them all.
pub fn needs(connections: usize) -> Vec<String> {
    let room = connections + 100;
    [
        ("limits.connections", room),
        ("limits.connections_per_org", room),
        ("limits.connections_per_user", room),
        ("limits.connections_per_address", room + 200),
        ("limits.handshakes_per_second", 1_000_000),
        ("limits.replays_waiting", 2 * room),
        ("limits.publishes_per_second", 1_000_000),
        ("dedup.max_entries", 20_000_000),
    ]
    .map(|(key, value)| format!("{key}={value}"))
    .into()
}

/// How often a gateway has synced its log, and how long that took in all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Syncs {
    count: u64,
    seconds: f64,
}

impl Syncs {
    /// What came since; none where nothing was synced.
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

/// Asks for them where operators look; none where that cannot be had.
pub fn syncs(admin: &Target) -> Option<Syncs> {
    let request = http::request("GET", "/metrics", admin, &[("connection", "close")], b"");
    let answer = http::ask(admin, &request, Duration::from_secs(5)).ok()?;
    Syncs::read(std::str::from_utf8(&answer.body).ok()?)
}

/// Makes further orgs of a gateway, by its own commands.
#[derive(Debug, Clone)]
pub struct Orgs {
    gateway: PathBuf,
    data: PathBuf,
    pid: Option<u32>,
}

impl Orgs {
    /// A second org on the gateway that `first` is one of: a token and a key for it. The key is known to the
    /// gateway a moment later.
    pub fn second(&self, first: &Running, marks: &Marks) -> anyhow::Result<Running> {
        self.make("beside", first, marks)
    }

    /// The same for an org of this name.
    pub fn make(&self, org: &str, first: &Running, marks: &Marks) -> anyhow::Result<Running> {
        let run = |arguments: &[&str]| tell(&self.gateway, &self.data, org, arguments);
        #[derive(Deserialize)]
        struct Made {
            key: String,
        }
        let token = run(&["token", "create", "--user", "bench", "--services", "*"])?;
        let made = run(&["key", "create", "--json"])?;
        let Made { key } = serde_json::from_str(&made)
            .with_context(|| format!("read what tidegate key create said: {made}"))?;
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

/// What a gateway's own command `arguments` prints, of `org`.
fn tell(gateway: &Path, data: &Path, org: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(gateway);
    let output = command.args(arguments).args(["--org", org, "--data-dir"]).arg(data).output();
    let output = output.with_context(|| format!("run tidegate {}", arguments.join(" ")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tidegate {} failed: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What readers come with, in turn.
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

/// Starts one, with `settings` beside those that all have.
pub fn start(start: &Start, settings: &[String]) -> anyhow::Result<Running> {
    let gateway = &start.gateway;
    ensure!(
        gateway.exists(),
        "{} is not there: build it (cargo build --release), or name another by --gateway",
        gateway.display()
    );
    let version = Command::new(gateway).arg("version").output();
    let version = version.with_context(|| format!("run {}", gateway.display()))?;
    let version = String::from_utf8_lossy(&version.stdout);
    let dir = tempfile::tempdir().context("make a directory for the log")?;
    let mut command = Command::new(gateway);
    command.args(["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir"]);
    let data = dir.path().join("data");
    command.arg(&data);
    // It is over when the run is: nobody is left to be told.
    command.args(["--set", "drain.window=\"0s\""]);
    let chosen: Vec<_> = start.settings.iter().chain(settings).cloned().collect();
    for setting in needs(start.connections).iter().chain(&chosen) {
        command.args(["--set", setting]);
    }
    let (server, line) = Server::announcing(&mut command, start.cores.as_ref(), dir)?;
    let announced: Announced =
        serde_json::from_str(&line).with_context(|| format!("read the gateway's line: {line}"))?;
    let setup = match chosen.as_slice() {
        [] => "its defaults, limits raised for the run".to_owned(),
        chosen => format!("{}, limits raised for the run", chosen.join(", ")),
    };
    let mut tokens = Tokens::one(announced.token);
    for user in 1..start.users {
        let user = format!("bench-{user}");
        let create = ["token", "create", "--user", &user, "--services", "*"];
        tokens.each.push(tell(gateway, &data, &announced.org, &create)?);
    }
    Ok(Running {
        target: Target::parse(&announced.url)?,
        admin: Some(Target::parse(&announced.admin_url)?),
        orgs: Some(Orgs { gateway: gateway.clone(), data, pid: server.pid() }),
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

/// Takes one that runs.
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
    fn stream(&self, asked: Asked<'_>) -> Request {
        let mut query = Vec::new();
        if let Some(services) = asked.services {
            query.push(format!("services={services}"));
        }
        if let Some(cursor) = asked.cursor {
            query.push(format!("cursor={cursor}"));
        }
        if !self.compress && asked.transport == Transport::Ws {
            query.push("deflate=0".to_owned());
        }
        let mut headers = match asked.transport {
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

/// A frame, as far as it is looked into (PROTOCOL.md, "Frames").
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    prev: Option<u64>,
    seq: Option<u64>,
    head: Option<u64>,
    cursor: Option<&'a str>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
    code: Option<&'a str>,
    message: Option<String>,
    limit: Option<&'a str>,
    reason: Option<&'a str>,
    retry_in_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Placed {
    seq: u64,
}

impl Read for Tidegate {
    fn read(&self, message: &[u8]) -> Digest {
        read(&self.marks, message)
    }
}

fn read(marks: &Marks, message: &[u8]) -> Digest {
    let mut digest = Digest::default();
    let frame: Frame<'_> = match serde_json::from_slice(message) {
        Ok(frame) => frame,
        Err(error) => {
            digest.word = Word::Broken(format!("a frame is not as PROTOCOL.md has it: {error}"));
            return digest;
        }
    };
    let place = frame.prev.zip(frame.seq);
    match (frame.kind, place) {
        ("hello", _) => match frame.cursor.and_then(|text| text.parse::<Cursor>().ok()) {
            Some(cursor) => {
                digest.word = Word::Ready { cursor: Some(cursor), head: frame.head.unwrap_or(0) };
            }
            None => digest.word = Word::Broken("hello has no cursor".to_owned()),
        },
        ("event", Some((_, seq))) => {
            (digest.place, digest.seqs) = (place, vec![seq]);
            digest.scan(marks, message);
        }
        ("batch", Some(_)) => {
            digest.place = place;
            // One by one: events that are not this run's, and probes, may stand between ours.
            for event in frame.events.unwrap_or_default() {
                let before = digest.marks.len();
                digest.scan(marks, event.get().as_bytes());
                if digest.marks.len() > before {
                    match serde_json::from_str::<Placed>(event.get()) {
                        Ok(Placed { seq }) => digest.seqs.push(seq),
                        Err(_) => digest.word = Word::Broken("an event in a batch has no seq".to_owned()),
                    }
                }
            }
        }
        ("ping", Some(_)) => {
            digest.place = place;
            digest.word = Word::Answer(r#"{"type":"pong"}"#.to_owned());
        }
        ("gap", Some((_, seq))) => {
            digest.place = place;
            digest.word = Word::Gap { seq, reason: frame.reason.unwrap_or_default().to_owned() };
        }
        ("error" | "goaway", _) => digest.word = Word::Refused(refused(frame)),
        ("event" | "batch" | "ping" | "gap", None) => {
            digest.word = Word::Broken(format!("a {} frame has no prev and seq", frame.kind));
        }
        // Others move nothing.
        _ => {}
    }
    digest
}

fn refused(frame: Frame<'_>) -> Refused {
    Refused {
        code: frame.code.unwrap_or_default().to_owned(),
        message: frame.message.unwrap_or_default(),
        limit: frame.limit.map(str::to_owned),
        retry_in_ms: frame.retry_in_ms,
    }
}

/// What a problem's body says (RFC 9457, PROTOCOL.md "Publishing").
pub fn problem(status: u16, body: &[u8]) -> Refused {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
        #[serde(default)]
        detail: String,
        limit: Option<String>,
        retry_in_ms: Option<u64>,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { code, detail, limit, retry_in_ms }) => {
            Refused { code, message: detail, limit, retry_in_ms }
        }
        Err(_) => {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
            Refused { code: format!("HTTP {status}"), message: text, limit: None, retry_in_ms: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Mark;

    fn event(marks: &Marks, number: u32, seq: u64) -> String {
        let mut mark = String::new();
        marks.write(&mut mark, Mark { publisher: 0, number, intended_us: 7 });
        format!(
            r#""service":"s","event":"e","id":"{number}","seq":{seq},"timestamp":"t","data":{{"mark":"{mark}"}}"#
        )
    }

    #[test]
    fn frames() {
        let marks = Marks::of_run(1);
        let read = |text: &str| read(&marks, text.as_bytes());
        let hello = read(r#"{"type":"hello","cursor":"a-5-t","head":9,"services":["*"],"new":{}}"#);
        assert_eq!(hello.word, Word::Ready { cursor: "a-5-t".parse().ok(), head: 9 });
        let one = read(&format!(r#"{{"type":"event","org":"o","prev":5,{}}}"#, event(&marks, 0, 6)));
        assert_eq!((one.place, one.seqs.as_slice(), one.marks.len()), (Some((5, 6)), &[6][..], 1));
        let events = [event(&marks, 1, 7), event(&marks, 2, 8)];
        let batch = read(&format!(
            r#"{{"type":"batch","org":"o","prev":6,"seq":9,"timestamp":"t","events":[{{{}}},{{{}}}]}}"#,
            events[0], events[1]
        ));
        assert_eq!((batch.place, batch.seqs.as_slice(), batch.runs.len()), (Some((6, 9)), &[7, 8][..], 1));
        let mixed = read(&format!(
            r#"{{"type":"batch","prev":6,"seq":9,"events":[{{{}}},{{"seq":8,"data":{{"mark":"none"}}}},{{{}}}]}}"#,
            event(&marks, 1, 7),
            event(&marks, 2, 9)
        ));
        assert_eq!(
            (mixed.seqs.as_slice(), mixed.marks.len()),
            (&[7, 9][..], 2),
            "what is not ours is passed over"
        );
        let ping = read(r#"{"type":"ping","prev":9,"seq":12,"timestamp":"t"}"#);
        assert_eq!((ping.place, ping.word), (Some((9, 12)), Word::Answer(r#"{"type":"pong"}"#.into())));
        let gap = read(r#"{"type":"gap","prev":3,"seq":6,"epoch":"a","filter":"t","reason":"retention"}"#);
        assert_eq!(gap.word, Word::Gap { seq: 6, reason: "retention".into() });
        let error = read(
            r#"{"type":"error","code":"too_many_connections","message":"no \"more\"","limit":"limits.connections_per_user","retry_in_ms":5000}"#,
        );
        let Word::Refused(refused) = error.word else { panic!("{error:?}") };
        assert_eq!(
            (refused.limit.as_deref(), refused.retry_in_ms, refused.message.as_str()),
            (Some("limits.connections_per_user"), Some(5000), "no \"more\"")
        );
        assert_eq!(read(r#"{"type":"from_the_future","prev":1}"#), Digest::default());
        for broken in [r#"{"type":"event","seq":1}"#, "[1]", r#"{"type":"hello"}"#] {
            assert!(matches!(read(broken).word, Word::Broken(_)), "{broken}");
        }
    }

    #[test]
    fn syncs_among_metrics() {
        let metrics = |count, sum| {
            let name = "tidegate_log_sync_duration_seconds";
            format!("# TYPE x histogram\nx_count 7\n{name}_sum {sum}\n{name}_count {count}\n")
        };
        let before = Syncs::read(&metrics(1, 0.5)).expect("syncs");
        let after = Syncs::read(&metrics(41, 0.58)).expect("syncs");
        let since = after.since(before).expect("some");
        assert!(since.count == 40 && (since.mean_ms - 2.0).abs() < 1e-6, "{since:?}");
        assert_eq!((after.since(after), Syncs::read("x_count 7\n")), (None, None));
    }

    #[test]
    fn problems_name_the_key_to_change() {
        let refused = problem(
            429,
            br#"{"status":429,"code":"rate_limited","detail":"d","limit":"limits.publishes_per_second"}"#,
        );
        assert_eq!(
            (refused.code.as_str(), refused.limit.as_deref()),
            ("rate_limited", Some("limits.publishes_per_second"))
        );
        assert_eq!(problem(502, b"<html>").code, "HTTP 502");
    }
}
