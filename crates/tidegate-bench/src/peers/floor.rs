//! The floor: the minimum cost of a fan-out. One thread runs a bare loop of `send` calls over the same
//! sockets, without any of Tidegate's rules: each event at once, or in batches of 50 ms.
//!
//! It runs as a process of its own, so that it is measured in the same way as the others.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use tidegate_protocol::ws::{FrameBuilder, handshake};

use super::{
    Running, Start,
    bun::Raw,
    process::{Announcement, Server},
};
use crate::poll::{Poll, Ready};

/// How long the batched floor collects a batch.
pub const WINDOW_MS: u64 = 50;

/// Starts this program with the subcommand `floor`.
pub fn start(start: &Start, window_ms: u64) -> anyhow::Result<Running> {
    let program = std::env::current_exe().context("find this program")?;
    let dir = tempfile::tempdir().context("create a directory for the floor")?;
    let mut command = Command::new(program);
    command.args(["floor", "--window-ms", &window_ms.to_string()]);
    let (server, announcement): (_, Announcement) =
        Server::announcing_json(&mut command, start.cores.as_ref(), dir)?;
    let setup = match window_ms {
        0 => "a bare loop of send calls, each event at once".to_owned(),
        _ => format!("a bare loop of send calls, batches of {window_ms} ms"),
    };
    let dialect = Raw { compress: false, marks: start.marks.clone() };
    let version = format!("tidegate-bench {}", env!("CARGO_PKG_VERSION"));
    Running::other(announcement.port, version, &setup, server, dialect)
}

const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;

/// One connection: a publisher, or after its upgrade a reader.
struct Connection {
    socket: TcpStream,
    is_reader: bool,
    input: Vec<u8>,
    /// Output that the socket has not accepted yet.
    rest: Vec<u8>,
}

/// Serves until standard input ends. If `window_ms` is 0, each event is sent at once.
pub fn serve(window_ms: u64) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen on 127.0.0.1")?;
    // The standard library's backlog is 128, too short for thousands of connections at once.
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    println!("{}", serde_json::json!({ "port": listener.local_addr()?.port() }));
    let stdin = std::io::stdin();
    let poll = Poll::new()?;
    poll.watch_reads(&listener, LISTENER)?;
    // A file or /dev/null cannot be watched; it then has no end to wait for.
    let _ = poll.watch_reads(&stdin, INPUT);
    let window = Duration::from_millis(window_ms);
    let mut floor = Floor { connections: Vec::new(), free: Vec::new(), scratch: vec![0; 64 * 1024] };
    let (mut ready, mut batch, mut sealed_at) = (Vec::<Ready>::new(), Vec::<Bytes>::new(), None);
    loop {
        let limit = sealed_at
            .map_or(Duration::from_secs(1), |at: Instant| at.saturating_duration_since(Instant::now()));
        ready.clear();
        poll.wait(limit, &mut ready)?;
        for ready in &ready {
            match ready.token {
                LISTENER => floor.accept(&listener, &poll)?,
                INPUT => match stdin.lock().read(&mut floor.scratch) {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(_) => {}
                },
                token => floor.turn(token as usize, *ready, window_ms == 0, &mut batch),
            }
        }
        if window_ms > 0 && !batch.is_empty() {
            match sealed_at {
                None => sealed_at = Some(Instant::now() + window),
                Some(at) if at <= Instant::now() => {
                    let mut frame = FrameBuilder::with_capacity(batch.iter().map(Bytes::len).sum::<usize>());
                    for (index, event) in batch.drain(..).enumerate() {
                        frame.payload_mut().extend_from_slice(if index == 0 { b"[" } else { b"," });
                        frame.payload_mut().extend_from_slice(&event);
                    }
                    frame.payload_mut().extend_from_slice(b"]");
                    floor.send(&frame.finish());
                    sealed_at = None;
                }
                Some(_) => {}
            }
        }
    }
}

struct Floor {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
}

impl Floor {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> anyhow::Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept a connection"),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            poll.watch(&socket, index as u64)?;
            self.connections[index] =
                Some(Connection { socket, is_reader: false, input: Vec::new(), rest: Vec::new() });
        }
    }

    /// Handles one connection that became ready.
    fn turn(&mut self, index: usize, ready: Ready, at_once: bool, batch: &mut Vec<Bytes>) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else { return };
        let mut is_open = !ready.writable || connection.flush();
        let mut events = Vec::new();
        while is_open && ready.readable {
            match connection.socket.read(&mut self.scratch) {
                Ok(0) => is_open = false,
                Ok(read) => {
                    // Frames of readers are ignored.
                    if !connection.is_reader {
                        connection.input.extend_from_slice(&self.scratch[..read]);
                        is_open = connection.requests(&mut events);
                    }
                    if read < self.scratch.len() && !ready.ended {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => is_open = false,
            }
        }
        if !is_open {
            self.connections[index] = None;
            self.free.push(index);
        }
        for event in events {
            if at_once {
                let mut frame = FrameBuilder::with_capacity(event.len());
                frame.payload_mut().extend_from_slice(&event);
                self.send(&frame.finish());
            } else {
                batch.push(event);
            }
        }
    }

    /// The send loop over all readers, whose cost is the floor.
    fn send(&mut self, frame: &Bytes) {
        for (index, slot) in self.connections.iter_mut().enumerate() {
            let Some(connection) = slot.as_mut().filter(|connection| connection.is_reader) else { continue };
            if !connection.send(frame) {
                *slot = None;
                self.free.push(index);
            }
        }
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = if self.rest.is_empty() {
            match self.socket.write(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            }
        } else {
            0
        };
        self.rest.extend_from_slice(&bytes[sent..]);
        true
    }

    fn flush(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.socket.write(&self.rest) {
                Ok(sent) => drop(self.rest.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        self.rest = Vec::new();
        true
    }

    /// Answers the complete requests in `input`. An upgrade makes the connection a reader; a POST is an
    /// event.
    fn requests(&mut self, events: &mut Vec<Bytes>) -> bool {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut request = httparse::Request::new(&mut headers);
            let Ok(parsed) = request.parse(&self.input) else { return false };
            let httparse::Status::Complete(head) = parsed else { return true };
            let lines: Vec<_> = request.headers.iter().map(|header| (header.name, header.value)).collect();
            if handshake::is_asked(&lines) {
                let asked = handshake::Request { method: "GET", is_http11: true, headers: &lines };
                let Ok(agreed) = handshake::check(asked) else { return false };
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
                    agreed.accept_key
                );
                (self.is_reader, self.input) = (true, Vec::new());
                return self.send(answer.as_bytes());
            }
            let length = lines
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
            let end = head + length.unwrap_or(0);
            if self.input.len() < end {
                return true;
            }
            events.push(Bytes::copy_from_slice(&self.input[head..end]));
            self.input.drain(..end);
            if !self.send(b"HTTP/1.1 204 No Content\r\n\r\n") {
                return false;
            }
        }
    }
}
