//! The process of a server, which ends with the run, and its costs: CPU time and memory.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, de::DeserializeOwned};

use crate::affinity::{Cores, on_cores};

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// How long a server may take to end after SIGTERM.
const END_MAX: Duration = Duration::from_secs(5);

/// A process and all its children.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    root: Option<u32>,
    log: Option<std::path::PathBuf>,
    /// Removed after the process has ended.
    _dir: Option<tempfile::TempDir>,
}

/// The line of JSON that the servers in `peers/` and the floor print when they are ready.
#[derive(Debug, Deserialize)]
pub struct Announcement {
    pub port: u16,
    #[serde(default)]
    pub version: String,
}

impl Server {
    /// A server that is already running. Without `pid` its costs are unknown.
    pub fn attached(pid: Option<u32>) -> Self {
        Self { child: None, root: pid, log: None, _dir: None }
    }

    /// Runs `command` on `cores`, and returns the first line that it prints.
    pub fn announcing(
        command: &mut Command,
        cores: Option<&Cores>,
        dir: tempfile::TempDir,
    ) -> anyhow::Result<(Self, String)> {
        command.stdout(Stdio::piped());
        let mut server = Self::spawn(command, cores, dir)?;
        let stdout = server.child.as_mut().and_then(|child| child.stdout.take());
        let stdout = stdout.context("read what the server prints")?;
        let (sender, receiver) = mpsc::channel();
        // Keeps reading while the server runs: a full pipe would block it.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Only the first line is received.
                let _ = sender.send(line);
            }
        });
        match receiver.recv_timeout(START_MAX) {
            Ok(line) => Ok((server, line)),
            Err(error) => {
                // A server that has closed its output is about to end: wait for its exit status.
                if error == mpsc::RecvTimeoutError::Disconnected {
                    server.wait(END_MAX);
                }
                bail!("{} did not start: {}", name_of(command), server.last_words())
            }
        }
    }

    /// The same for a server whose first line is JSON.
    pub fn announcing_json<T: DeserializeOwned>(
        command: &mut Command,
        cores: Option<&Cores>,
        dir: tempfile::TempDir,
    ) -> anyhow::Result<(Self, T)> {
        let (server, line) = Self::announcing(command, cores, dir)?;
        let announcement = serde_json::from_str(&line)
            .with_context(|| format!("read the first line of {}: {line}", name_of(command)))?;
        Ok((server, announcement))
    }

    /// Runs `command` on `cores`, and waits until `port` accepts connections.
    pub fn listening(
        command: &mut Command,
        cores: Option<&Cores>,
        dir: tempfile::TempDir,
        port: u16,
    ) -> anyhow::Result<Self> {
        command.stdout(Stdio::null());
        let mut server = Self::spawn(command, cores, dir)?;
        let deadline = Instant::now() + START_MAX;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if !server.is_running() || Instant::now() > deadline {
                bail!("{} did not start: {}", name_of(command), server.last_words());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn spawn(command: &mut Command, cores: Option<&Cores>, dir: tempfile::TempDir) -> anyhow::Result<Self> {
        let log = dir.path().join("server.log");
        let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        // Its standard input closes when this process ends; the servers in `peers/` and the floor end then
        // too.
        command.stdin(Stdio::piped()).stderr(file);
        let name = name_of(command);
        let child = on_cores(cores, || command.spawn())?.with_context(|| format!("run {name}"))?;
        let root = Some(child.id());
        Ok(Self { child: Some(child), root, log: Some(log), _dir: Some(dir) })
    }

    /// Waits until it ends, no longer than `limit`.
    fn wait(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it is still running. Always true for a server that this tool did not start.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How it ended: its exit status and the last line of its log.
    pub fn last_words(&mut self) -> String {
        let status = match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => match status.signal() {
                Some(signal) => format!("it ended by signal {signal}; "),
                None => format!("it ended with {status}; "),
            },
            _ => String::new(),
        };
        let log = self.log.as_ref().and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it logged nothing");
        format!("{status}{last}")
    }

    /// Its process id, if known.
    pub fn pid(&self) -> Option<u32> {
        self.root
    }

    /// Its costs so far. None if its process is unknown.
    pub fn costs(&self) -> Option<Costs> {
        costs(self.root?)
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(child.stdin.take());
        let pids = tree(child.id());
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            // The process may have ended already.
            let _ = kill_process(pid, Signal::TERM);
        }
        self.child = Some(child);
        self.wait(END_MAX);
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
        // Worker processes that the main process left running.
        for pid in pids.into_iter().skip(1).filter(|pid| parent_and_ticks(*pid).is_some_and(|(p, _)| p == 1))
        {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The costs of a process and its children.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Costs {
    /// User and system CPU time of all threads.
    pub cpu_seconds: f64,
    pub resident_kib: u64,
}

/// The costs of a process and all its children. None if it has ended.
pub fn costs(root: u32) -> Option<Costs> {
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut costs = Costs::default();
    parent_and_ticks(root)?;
    for pid in tree(root) {
        let Some((_, ticks)) = parent_and_ticks(pid) else { continue };
        costs.cpu_seconds += ticks as f64 / ticks_per_second;
        costs.resident_kib += resident_kib(pid).unwrap_or(0);
    }
    Some(costs)
}

/// `root`, then its children and their children.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some((parent, _)) = parent_and_ticks(pid)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut pids = vec![root];
    let mut at = 0;
    while let Some(pid) = pids.get(at).copied() {
        pids.extend(children.remove(&pid).unwrap_or_default());
        at += 1;
    }
    pids
}

/// From /proc/pid/stat (proc_pid_stat(5)): fields 4, and 14 and 15 in clock ticks.
fn parent_and_ticks(pid: u32) -> Option<(u32, u64)> {
    read_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn read_stat(stat: &str) -> Option<(u32, u64)> {
    // The name, in parentheses, may contain any character.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some((number(1)? as u32, number(11)? + number(12)?))
}

fn resident_kib(pid: u32) -> Option<u64> {
    field_kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// The number of a `Name: N kB` line.
pub fn field_kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().split(' ').next()?.parse().ok())
}

/// The kernel's memory for sockets and slabs, in KiB, of the whole machine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Kernel {
    pub tcp_kib: u64,
    pub slab_kib: u64,
}

impl Kernel {
    /// Reads the current values.
    pub fn now() -> Self {
        let page_kib = rustix::param::page_size() as u64 / 1024;
        let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            tcp_kib: tcp_pages(&sockets).unwrap_or(0) * page_kib,
            slab_kib: field_kib(&memory, "Slab:").unwrap_or(0),
        }
    }
}

/// `mem` of the line `TCP: inuse 7 orphan 0 tw 0 alloc 9 mem 2`.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace();
    words.by_ref().find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

/// A free port, below the ports that systems use for outgoing connections.
pub fn free_port() -> anyhow::Result<u16> {
    use rand::Rng as _;
    for _ in 0..50 {
        let port = rand::rng().random_range(10_000..30_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port was found on 127.0.0.1");
}

/// A temporary directory with a server's script in it, and the path of the script.
pub fn script(name: &str, text: &str) -> anyhow::Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().context("create a directory for the server")?;
    let path = dir.path().join(name);
    fs::write(&path, text).context("write the server's script")?;
    Ok((dir, path))
}

/// Checks that the program of a peer exists. The error says how to install it.
pub fn need(path: &Path, peer: &str) -> anyhow::Result<()> {
    if !path.exists() {
        bail!(
            "{} does not exist: run scripts/bench-peers {peer}, or give its directory with --peers",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process() {
        let stat = "17 (a ) b) S 4 17 17 0 -1 4194560 1 0 0 0 250 31 0 0 20 0 3 0 1 2 3";
        assert_eq!(read_stat(stat), Some((4, 281)));
        assert_eq!(
            tcp_pages("sockets: used 9\nTCP: inuse 7 orphan 0 tw 0 alloc 9 mem 21\nUDP: mem 1\n"),
            Some(21)
        );
        assert_eq!(field_kib("VmPeak: 9 kB\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234));
        let own = costs(std::process::id()).expect("this process");
        assert!(own.resident_kib > 100);
        assert_eq!(costs(u32::MAX), None);
    }

    #[test]
    fn a_server_that_does_not_start_says_why() {
        let dir = || tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo the port is taken >&2; exit 3"]);
        let error = Server::announcing(&mut command, None, dir()).expect_err("it ends").to_string();
        assert!(error.contains("exit status: 3") && error.contains("the port is taken"), "{error}");
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; sleep 100 & sleep 100"]);
        let (server, line) = Server::announcing(&mut command, None, dir()).expect("it starts");
        assert_eq!(line, "ready");
        assert!(server.costs().is_some());
    }
}
