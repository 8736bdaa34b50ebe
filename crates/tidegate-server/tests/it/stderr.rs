//! A standard error that nobody reads, or that is closed, holds up nothing: log lines are dropped and counted.

use std::{
    io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use crate::{
    client::{
        http::{Answer, Request, connect},
        stream::Frames as _,
        ws::Ws,
    },
    gateway::eventually,
};

/// The bytes that a pipe takes before its reader must read (`pipe(7)`).
const PIPE_BYTES: usize = 64 << 10;

/// A gateway whose standard error is a pipe that was full before it started.
struct Node {
    child: Child,
    /// Where it announced itself. A closed one is not what is tested.
    _stdout: BufReader<ChildStdout>,
    /// The other end of its standard error.
    stderr: Option<PipeReader>,
    _dir: tempfile::TempDir,
    public: SocketAddr,
    admin: SocketAddr,
    token: String,
    key: String,
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(&vec![b'\n'; PIPE_BYTES]).expect("room");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--set", "logs.level=trace"])
            .args(["--set", "drain.window=1s"])
            .arg("--data-dir")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(writer)
            .spawn()
            .expect("start it");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line).expect("its addresses");
        let text = |name: &str| said[name].as_str().expect(name).to_owned();
        let address = |name: &str| text(name)["http://".len()..].parse().expect("an address");
        Self {
            public: address("url"),
            admin: address("admin_url"),
            token: text("token"),
            key: text("publish_key"),
            child,
            _stdout: stdout,
            stderr: Some(reader),
            _dir: dir,
        }
    }

    fn stream(&self) -> Ws {
        let mut stream = Ws::open(
            self.public,
            "/v1/orgs/dev/stream",
            &[("authorization", &format!("Bearer {}", self.token))],
        );
        stream.next("hello");
        stream
    }

    fn publish(&self) -> Answer {
        Request::new(self.public, "POST", "/v1/orgs/dev/events")
            .with("authorization", &format!("Bearer {}", self.key))
            .with("content-type", "application/json")
            .body(r#"{"service":"s","event":"e","data":1}"#)
            .send()
    }

    fn dropped(&self) -> u64 {
        let metrics = Request::new(self.admin, "GET", "/metrics").send().body;
        let value = metrics.lines().find_map(|line| line.strip_prefix("tidegate_log_lines_dropped_total "));
        value.expect("the metric").parse().expect("a number")
    }

    /// Makes it log more lines than may wait.
    fn flood(&self) {
        let request = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
        let mut requests = connect(self.public);
        let mut answers = requests.try_clone().expect("a socket");
        std::thread::scope(|scope| {
            // A client that does not read its answers is served no more requests.
            scope.spawn(|| std::io::copy(&mut answers, &mut std::io::sink()));
            eventually("lines that were dropped", || {
                requests.write_all(&request).expect("it reads");
                (self.dropped() > 0).then_some(())
            });
            requests.shutdown(std::net::Shutdown::Both).expect("a connection");
        });
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    /// It drains: its reader is told to leave, and it ends as it should.
    fn drains(&mut self, mut stream: Ws) {
        self.terminate();
        stream.next("goaway");
        drop(stream);
        let code = eventually("its end", || self.child.try_wait().expect("a child")).code();
        assert_eq!(code, Some(0));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn p8_a_standard_error_that_nobody_reads_holds_up_nobody() {
    let mut node = Node::start();
    let mut stream = node.stream();
    node.flood();
    assert_eq!(node.publish().status, 200);
    stream.next("event");
    assert_eq!(Request::new(node.admin, "GET", "/healthz").send().status, 200);
    // It is read again, and says what is missing.
    let mut stderr = BufReader::new(node.stderr.take().expect("a pipe"));
    let dropped = eventually("the line about dropped lines", || {
        let mut line = String::new();
        stderr.read_line(&mut line).expect("text");
        line.contains("log lines were dropped: standard error did not take them").then_some(line)
    });
    assert!(dropped.contains(&format!("dropped={}", node.dropped())), "{dropped}");
    // Nobody reads from here on, and it ends nevertheless.
    node.drains(stream);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).expect("text");
    assert!(rest.lines().last().is_some_and(|line| line.contains("stopped")), "the last lines are written");
}

#[test]
fn a_full_standard_error_does_not_keep_it_from_ending() {
    let mut node = Node::start();
    let stream = node.stream();
    node.drains(stream);
}

#[test]
fn p8_a_closed_standard_error_is_no_reason_to_panic() {
    let mut node = Node::start();
    let mut stream = node.stream();
    drop(node.stderr.take());
    assert_eq!(node.publish().status, 200);
    stream.next("event");
    assert!(eventually("lines that were dropped", || Some(node.dropped()).filter(|lines| *lines > 0)) > 0);
    node.drains(stream);
    // Nor is it for a node that does not start.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--set", "limits.nothing=1"]).stderr(writer);
    assert_eq!(command.status().expect("it runs").code(), Some(2));
}
