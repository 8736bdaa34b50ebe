//! The gateway's process: it is started, killed, and restarted on the same port and directory.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rand::Rng as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(30);

/// Ports below those that systems use for outgoing connections. A client that repeatedly connects to a closed
/// port of that range can end up connected to itself (TCP simultaneous open), and then holds the port.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// The line that `tidegate dev --json` prints.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Announced {
    /// The URL of the API.
    pub url: String,
    /// The URL for operators.
    pub admin_url: String,
    /// The development org.
    pub org: String,
    /// A token that may read all services.
    pub token: String,
    /// A key that may publish to all services.
    pub publish_key: String,
}

/// A gateway on one directory and one port, over all its incarnations (runs of the process).
#[derive(Debug)]
pub struct Gateway {
    program: PathBuf,
    dir: PathBuf,
    settings: Vec<String>,
    child: Child,
    announced: Announced,
    kept: Option<tempfile::TempDir>,
}

impl Gateway {
    /// Its process id, while it is running.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Starts the first incarnation on a free port, in `dir` or in a temporary directory.
    pub async fn start(program: &Path, dir: Option<PathBuf>, settings: &[&str]) -> anyhow::Result<Self> {
        let kept = match dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().context("create a directory for the gateway")?),
        };
        let dir = match (&kept, dir) {
            (Some(kept), _) => kept.path().join("data"),
            (None, Some(dir)) => dir,
            (None, None) => bail!("no directory for the gateway"),
        };
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut tries = 0;
        let (child, announced) = loop {
            let port = rand::rng().random_range(PORTS);
            tries += 1;
            // The port may be in use, so failures before the last try are ignored.
            match launch(&[], program, &dir, port, &settings).await {
                Err(_) if tries < 5 => {}
                started => break started?,
            }
        };
        Ok(Self { program: program.to_owned(), dir, settings, child, announced, kept })
    }

    /// What it printed at its start.
    pub fn announced(&self) -> &Announced {
        &self.announced
    }

    /// Kills it with SIGKILL, as the kernel does when memory runs out: it cannot clean up.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("check the gateway's process")? {
            bail!("the gateway had ended unexpectedly, with {status}");
        }
        self.child.kill().await.context("kill the gateway")
    }

    /// Starts the next incarnation, on the same port and directory.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.restart_under(&[]).await
    }

    /// The same under a wrapper, a program that executes the given command in its own process (`strace -D
    /// ...`).
    pub async fn restart_under(&mut self, wrapper: &[&str]) -> anyhow::Result<()> {
        let port = self.announced.url.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.with_context(|| format!("find the port in {}", self.announced.url))?;
        let (child, announced) = launch(wrapper, &self.program, &self.dir, port, &self.settings).await?;
        let before = &self.announced;
        if (&announced.url, &announced.token, &announced.publish_key)
            != (&before.url, &before.token, &before.publish_key)
        {
            bail!("the gateway restarted with another address, token or key");
        }
        (self.child, self.announced) = (child, announced);
        Ok(())
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs another command of the program on the same directory, and returns what it prints.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data-dir").arg(&self.dir).stdin(Stdio::null());
        let output = command.output().await.with_context(|| format!("run {}", arguments.join(" ")))?;
        if !output.status.success() {
            bail!("{} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout).context("read what a command prints")?.trim().to_owned())
    }

    /// Its log output.
    pub fn log(&self) -> std::io::Result<String> {
        std::fs::read_to_string(self.dir.with_extension("log"))
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it. Returns its directory if that is kept: because of `keep`, or because the user named it.
    pub async fn finish(mut self, keep: bool) -> Option<PathBuf> {
        // The process may have ended already.
        let _ = self.child.kill().await;
        match self.kept.take() {
            Some(kept) if keep => Some(kept.keep()),
            Some(_) => None,
            None => Some(self.dir),
        }
    }
}

async fn launch(
    wrapper: &[&str],
    program: &Path,
    dir: &Path,
    port: u16,
    settings: &[String],
) -> anyhow::Result<(Child, Announced)> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let log = dir.with_extension("log");
    let log = std::fs::File::options().create(true).append(true).open(&log);
    let mut command = match wrapper {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.args(["dev", "--json", "--no-feed", "--data-dir"]).arg(dir);
    command.arg("--listen").arg(format!("127.0.0.1:{port}"));
    command.args(["--set", "listen.admin=\"127.0.0.1:0\""]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.context("open the file for the gateway's log")?)
        .kill_on_drop(true)
        .spawn();
    let mut child =
        child.with_context(|| format!("run {}", command.as_std().get_program().to_string_lossy()))?;
    let stdout = child.stdout.take().context("read what the gateway prints")?;
    let mut line = String::new();
    let mut lines = BufReader::new(stdout);
    let read = tokio::time::timeout(START_MAX, lines.read_line(&mut line));
    let read = read.await.context("the gateway did not start in time")?;
    read.context("read what the gateway prints")?;
    if line.is_empty() {
        let status = child.wait().await.context("wait for the gateway")?;
        let log = std::fs::read_to_string(dir.with_extension("log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it logged nothing");
        bail!("the gateway did not start ({status}): {last}");
    }
    let announced =
        serde_json::from_str(&line).with_context(|| format!("read the first line of the gateway: {line}"))?;
    Ok((child, announced))
}
