//! A gateway for one test: `tidegate dev` with its own directory and ports.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{
    http::{Answer, Request},
    sse::Sse,
    stream::Frames,
    ws::Ws,
};
use crate::secrets;

/// The deadline of everything in a test; only a hang reaches it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Calls `look` until it returns something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::yield_now();
    }
}

/// A running gateway. Killed when it goes out of scope.
pub struct Gateway {
    child: Option<Child>,
    dir: TempDir,
    settings: Vec<String>,
    secret: String,
    /// Texts that must not appear in logs, metrics and answers: tokens, keys, and whatever a test adds.
    secrets: Mutex<Vec<String>>,
    /// The public address.
    pub public: SocketAddr,
    /// The operators' address.
    pub admin: SocketAddr,
    /// Its org.
    pub org: String,
    /// A token for all services of the org.
    pub token: String,
    /// A key for all services of the org.
    pub key: String,
}

impl Gateway {
    /// Starts one with the defaults.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with settings of the form `key=value`.
    pub fn with(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self::spawn(dir, settings)
    }

    /// Starts one that may open `soft` files, or `hard` if it asks for them.
    pub fn with_files(soft: u64, hard: u64, settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -Sn $1 && ulimit -Hn $2 && shift 2 && exec \"$@\"", "sh"]);
        limited.args([soft.to_string(), hard.to_string(), env!("CARGO_BIN_EXE_tidegate").to_owned()]);
        Self::run(limited, dir, settings.iter().map(|setting| (*setting).to_owned()).collect())
    }

    /// Starts `tidegate serve` with this configuration and a log; its org is `acme`, and it has no token.
    pub fn serving(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tidegate.toml");
        write_config(&file, dir.path(), config);
        let errors = std::fs::File::create(dir.path().join("stderr")).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file);
        let child = command.stderr(errors).stdin(Stdio::null()).spawn().expect("start it");
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self {
            child: Some(child),
            dir,
            settings: Vec::new(),
            secrets: Mutex::default(),
            secret: String::new(),
            public: unknown,
            admin: unknown,
            org: "acme".to_owned(),
            token: String::new(),
            key: String::new(),
        };
        let said = eventually("its addresses", || {
            let ended = gateway.child.as_mut().expect("a child").try_wait().expect("a child");
            assert!(ended.is_none(), "it did not start");
            gateway.logged("serve")
        });
        let address = |name: &str| said[name].as_str().expect(name).parse().expect("an address");
        (gateway.public, gateway.admin) = (address("public"), address("admin"));
        gateway.key = gateway.key_for("acme", "*");
        gateway
    }

    /// The first line of its log with this message.
    pub fn logged(&self, message: &str) -> Option<Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["message"] == message)
    }

    /// Rewrites its configuration; [`Gateway::hang_up`] makes it reread.
    pub fn configure(&self, config: &str) {
        write_config(&self.dir.path().join("tidegate.toml"), self.dir.path(), config);
    }

    /// Sends it SIGHUP and waits until it has reread its configuration. Returns whether it accepted it.
    pub fn hang_up(&self) -> bool {
        let count = |outcome| self.metric(&format!("tidegate_config_rereads_total{{outcome=\"{outcome}\"}}"));
        let before = (count("taken"), count("refused"));
        self.signal(rustix::process::Signal::HUP);
        let is_taken = eventually("the configuration read again", || {
            let now = (count("taken"), count("refused"));
            (now != before).then_some(now.0 > before.0)
        });
        let successful = self.metric("tidegate_config_last_reread_successful");
        assert_eq!(successful, f64::from(u8::from(is_taken)));
        is_taken
    }

    fn spawn(dir: TempDir, settings: Vec<String>) -> Self {
        Self::run(Command::new(env!("CARGO_BIN_EXE_tidegate")), dir, settings)
    }

    fn run(mut command: Command, dir: TempDir, settings: Vec<String>) -> Self {
        let errors = std::fs::File::create(dir.path().join("stderr")).expect("a file");
        command.args(["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
        // At the most verbose level: its log is searched for secrets.
        command.args(["--set", "logs.level=trace"]);
        for setting in &settings {
            command.args(["--set", setting]);
        }
        let mut child =
            command.stdout(Stdio::piped()).stderr(errors).stdin(Stdio::null()).spawn().expect("start it");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!(
                "it did not start: {}",
                std::fs::read_to_string(dir.path().join("stderr")).expect("stderr")
            )
        });
        let text = |name: &str| said[name].as_str().expect(name).to_owned();
        let address = |name: &str| -> SocketAddr {
            text(name).strip_prefix("http://").expect("http").parse().expect("an address")
        };
        let admin = text("admin_url").strip_prefix("http://").expect("http").parse().expect("an address");
        // Prometheus scrapes a new gateway before anything happens there.
        if let Some(first) = secrets::metrics(admin).as_deref().and_then(series) {
            let _ = SERIES.set(first);
        }
        let saved = std::fs::read_to_string(dir.path().join("dev.toml")).expect("dev.toml");
        let saved: toml::Table = saved.parse().expect("TOML");
        let secret = saved["secret"].as_str().expect("a secret").to_owned();
        Self {
            secrets: Mutex::new(vec![secret.clone(), text("token"), text("publish_key")]),
            secret,
            public: address("url"),
            admin,
            org: text("org"),
            token: text("token"),
            key: text("publish_key"),
            child: Some(child),
            dir,
            settings,
        }
    }

    /// Kills it (SIGKILL) and starts it again over the same directory.
    pub fn killed_and_started_again(mut self) -> Self {
        self.kill();
        self.look_for_secrets();
        self.started_again()
    }

    /// Kills it, changes its directory, and starts a new one over it.
    pub fn killed_and_started_again_after(mut self, change: impl FnOnce(&std::path::Path)) -> Self {
        self.kill();
        change(self.dir.path());
        self.started_again()
    }

    /// Starts a new one over the directory of this one, which has ended.
    pub fn started_again(mut self) -> Self {
        assert!(self.child.is_none(), "it still runs");
        let spare = tempfile::tempdir().expect("a directory");
        let dir = std::mem::replace(&mut self.dir, spare);
        Self::spawn(dir, std::mem::take(&mut self.settings))
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let metrics = secrets::metrics(self.admin).unwrap_or_default();
            child.kill().expect("kill it");
            child.wait().expect("wait for it");
            if !std::thread::panicking() {
                secrets::heard(&metrics);
                look_for_late_series(&metrics);
            }
        }
    }

    /// From here on, `secret` must not appear in logs, metrics and answers.
    pub fn keep_secret(&self, secret: &str) {
        self.secrets.lock().expect("no panic").push(secret.to_owned());
    }

    /// Searches everything that it sent to this thread for every secret that it was given or gave.
    fn look_for_secrets(&self) {
        if !std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
            secrets::look(&self.secrets.lock().expect("no panic"), &log);
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// How many sockets it has open.
    pub fn sockets(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("its descriptors");
        fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends it SIGINT.
    pub fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("a signal");
    }

    /// Waits for its end and returns the exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        eventually("the end of the process", || child.try_wait().expect("a child")).code()
    }

    /// Its log, with all lines of what has happened so far. A thread of the gateway writes them, and sleeps
    /// when none is left.
    pub fn log(&self) -> String {
        if let Some(child) = &self.child {
            eventually("its lines written", || is_asleep(child.id(), "tidegate-logs").then_some(()));
        }
        std::fs::read_to_string(self.dir.path().join("stderr")).expect("stderr")
    }

    /// A command of the same binary, over the same directory.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).arg("--data-dir").arg(PathBuf::from(self.dir.path()));
        command.output().expect("run it")
    }

    /// A token of `user` for `services`.
    pub fn token_of(&self, user: &str, services: &[&str]) -> String {
        self.token_with(&json!({"sub": user, "services": services}))
    }

    /// A token with these claims added to ordinary ones; null removes a claim.
    pub fn token_with(&self, changes: &Value) -> String {
        let mut claims = json!({"sub": "u", "org": self.org, "services": ["*"], "exp": now_s() + 3600});
        for (name, value) in changes.as_object().expect("claims") {
            if value.is_null() {
                claims.as_object_mut().expect("claims").remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some("dev".into());
        let key = jsonwebtoken::EncodingKey::from_secret(self.secret.as_bytes());
        let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
        self.keep_secret(&token);
        token
    }

    /// An API key of this org for `services`.
    pub fn key_for(&self, org: &str, services: &str) -> String {
        let made = self.command(&["key", "create", "--org", org, "--services", services, "--json"]);
        let made: Value = serde_json::from_slice(&made.stdout).expect("a line of JSON");
        let key = made["key"].as_str().expect("a key").to_owned();
        self.keep_secret(&key);
        key
    }

    /// The path of an endpoint of the org.
    pub fn path(&self, endpoint: &str) -> String {
        format!("/v1/orgs/{}/{endpoint}", self.org)
    }

    /// A publish request without a body yet.
    pub fn publishing(&self) -> Request {
        Request::new(self.public, "POST", &self.path("events"))
            .with("authorization", &format!("Bearer {}", self.key))
            .with("content-type", "application/json")
    }

    /// Publishes `body`.
    pub fn publish(&self, body: &str) -> Answer {
        self.publishing().body(body).send()
    }

    /// Publishes `data` as an event of `service`; its seq.
    pub fn say(&self, service: &str, data: &str) -> u64 {
        let answer = self.publish(&format!(r#"{{"service":"{service}","event":"said","data":{data}}}"#));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["events"][0]["seq"].as_u64().expect("a seq")
    }

    /// A request for something of the org, with the org's token.
    pub fn getting(&self, endpoint: &str) -> Request {
        Request::new(self.public, "GET", &self.path(endpoint))
            .with("authorization", &format!("Bearer {}", self.token))
    }

    /// The operators' answer.
    pub fn operators(&self, path: &str) -> Answer {
        Request::new(self.admin, "GET", path).send()
    }

    /// The value of a line of `/metrics`.
    pub fn metric(&self, line: &str) -> f64 {
        let metrics = self.operators("/metrics").body;
        let found = metrics.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// A stream over WebSocket with the org's token; `query` begins with `?` or is empty.
    pub fn ws(&self, query: &str) -> Ws {
        self.ws_as(&self.token, query)
    }

    /// A stream over WebSocket with this token.
    pub fn ws_as(&self, token: &str, query: &str) -> Ws {
        Ws::open(
            self.public,
            &self.path(&format!("stream{query}")),
            &[("authorization", &format!("Bearer {token}"))],
        )
    }

    /// A stream over SSE with the org's token.
    pub fn sse(&self, query: &str) -> Sse {
        self.sse_as(&self.token, query)
    }

    /// A stream over SSE with this token.
    pub fn sse_as(&self, token: &str, query: &str) -> Sse {
        Sse::open(
            Request::new(self.public, "GET", &self.path(&format!("stream{query}")))
                .with("authorization", &format!("Bearer {token}")),
        )
    }

    /// The status with which a stream over SSE is answered.
    pub fn sse_status(&self, token: &str) -> u16 {
        let request = self.getting("stream").with("authorization", &format!("Bearer {token}"));
        Answer::read_head(&mut request.begin()).expect("an answer").status
    }

    /// The same stream over both transports.
    pub fn both_as(&self, token: &str, query: &str) -> [Box<dyn Frames>; 2] {
        [Box::new(self.ws_as(token, query)), Box::new(self.sse_as(token, query))]
    }

    /// The same stream over both transports with the org's token.
    pub fn both(&self, query: &str) -> [Box<dyn Frames>; 2] {
        self.both_as(&self.token, query)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log());
        }
        self.look_for_secrets();
    }
}

/// The series of a gateway that has just started.
static SERIES: OnceLock<BTreeSet<String>> = OnceLock::new();

/// The names and labels in the text of `/metrics`; `None` if it is not whole.
fn series(metrics: &str) -> Option<BTreeSet<String>> {
    let (head, body) = metrics.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    // Each org of `metrics.health_orgs`, or near a quota, has series of its own, and not every gateway here has such
    // orgs.
    let of_orgs = ["tidegate_client_org_", "tidegate_org_quota_"];
    let common = samples.filter(|line| !of_orgs.iter().any(|name| line.starts_with(name)));
    let series = common.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
    (length == Some(body.len())).then(|| series.collect())
}

/// Fails if a series was not there from the start: `increase()` and `rate()` do not see its first count. So
/// each test provokes what it is about, and all of them together everything.
fn look_for_late_series(metrics: &str) {
    let (Some(first), Some(last)) = (SERIES.get(), series(metrics)) else { return };
    let late: Vec<&String> = last.difference(first).collect();
    assert!(late.is_empty(), "these series are not there from the start: {late:?}");
}

fn write_config(file: &std::path::Path, dir: &std::path::Path, config: &str) {
    let dir = dir.display();
    let log = format!("[log]\nengine = \"memory\"\ndir = \"{dir}\"\n[logs]\nformat = \"json\"\n");
    std::fs::write(file, format!("{log}{config}\n")).expect("a file");
}

/// Whether the thread of this name sleeps, or is not there (`proc(5)`).
fn is_asleep(pid: u32, name: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    let found = stats.find(|stat| stat.contains(&format!("({name})")));
    found.is_none_or(|stat| stat.contains(") S "))
}

/// Now, in seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
