//! One reader: it opens a connection, reads it, counts its events in a ledger, and can reconnect. It holds no
//! buffer between messages, so that ten thousand idle readers cost the load little memory.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tidegate_protocol::Cursor;

use crate::{
    digest::{Digests, MessageKind, Refused},
    http::{self, Head, Target},
    latency::Latencies,
    ledger::{Counts, Ledger},
    peers::{Dialect, StreamRequest, Transport, tidegate::frame},
    sse::Sse,
    websocket::{Frames, Incoming, Opcode, client_frame},
};

/// How a reader behaves.
#[derive(Debug, Clone, Default)]
pub struct ReaderSpec {
    /// The services that it subscribes to; all if none.
    pub services: Option<Arc<str>>,
    /// Whether it stops reading when it is ready.
    pub stalls: bool,
}

/// Where and how readers connect.
#[derive(Clone)]
pub struct Endpoint {
    pub target: Target,
    pub dialect: Arc<dyn Dialect>,
    pub transport: Transport,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The server refused or ended the stream.
    Refused(Refused),
    /// The connection failed, or ended without an error frame.
    Broken(String),
}

enum Phase {
    Disconnected,
    /// The request is sent, or will be when the socket is connected. Holds the bytes of the response so far.
    Opening(Vec<u8>),
    Frames(Frames),
    Events(Sse),
}

/// One reader.
pub struct Reader {
    pub spec: ReaderSpec,
    ledger: Ledger,
    socket: Option<TcpStream>,
    phase: Phase,
    /// Output that the socket has not accepted yet.
    out: Vec<u8>,
    /// The cursor of the last hello. Its epoch and tag are still valid; the current seq is in the ledger.
    hello: Option<Cursor>,
    head: u64,
    refused: Option<Refused>,
    pub is_ready: bool,
    pub is_live: bool,
    pub is_probed: bool,
    pub is_compressed: bool,
}

/// What the readers of one thread share.
pub struct Shared {
    pub scratch: Vec<u8>,
    inflated: Vec<u8>,
    digests: Digests,
    pub counts: Counts,
    pub latencies: Latencies,
    pub wire_bytes: u64,
    /// When the last event was received.
    pub last_us: u64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            // Large enough that one read usually empties the socket's buffer.
            scratch: vec![0; 512 * 1024],
            inflated: Vec::new(),
            digests: Digests::default(),
            counts: Counts::default(),
            latencies: Latencies::default(),
            wire_bytes: 0,
            last_us: 0,
        }
    }
}

impl Reader {
    /// A reader without a connection.
    pub fn new(spec: ReaderSpec) -> Self {
        Self {
            spec,
            ledger: Ledger::default(),
            socket: None,
            phase: Phase::Disconnected,
            out: Vec::new(),
            hello: None,
            head: 0,
            refused: None,
            is_ready: false,
            is_live: false,
            is_probed: false,
            is_compressed: false,
        }
    }

    /// Its ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether it has a connection, or is opening one.
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Begins to connect, and resumes from its cursor if it has one. The caller watches the socket.
    pub fn open(&mut self, endpoint: &Endpoint) -> anyhow::Result<&TcpStream> {
        let at = endpoint.target.address;
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))
            .context("open a socket (is the limit of file descriptors reached? see ulimit -n)")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.spec.stalls {
            // The buffers of the kernel on this side must not hold what a stalled reader does not read.
            socket.set_recv_buffer_size(8 * 1024)?;
        }
        match socket.connect(&SockAddr::from(at)) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error).with_context(|| format!("connect to {at}"));
            }
            _ => {}
        }
        let cursor = self.hello.as_ref().map(|hello| Cursor {
            epoch: hello.epoch.clone(),
            seq: self.ledger.cursor().unwrap_or(hello.seq),
            tag: hello.tag.clone(),
        });
        let request = endpoint.dialect.stream(StreamRequest {
            transport: endpoint.transport,
            services: self.spec.services.as_deref(),
            cursor: cursor.as_ref(),
        });
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.out = http::request("GET", &request.path, &endpoint.target, &headers, b"");
        self.phase = Phase::Opening(Vec::new());
        (self.is_ready, self.is_live) = (false, false);
        Ok(self.socket.insert(socket.into()))
    }

    /// Ends the connection as a lost network does: with a reset, without a close frame.
    pub fn cut(&mut self) {
        if let Some(socket) = self.socket.take() {
            // If the option cannot be set, the socket is closed normally, which also ends the connection.
            let _ = socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
        }
        self.disconnected();
    }

    fn disconnected(&mut self) {
        self.socket = None;
        self.phase = Phase::Disconnected;
        (self.out, self.is_ready, self.is_live) = (Vec::new(), false, false);
    }

    /// Writes pending output when the socket is writable.
    pub fn write(&mut self) -> Result<(), End> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if self.out.is_empty() {
            return Ok(());
        }
        let error = match socket.write(&self.out) {
            Ok(sent) => {
                self.out.drain(..sent);
                if self.out.is_empty() {
                    self.out = Vec::new();
                }
                return Ok(());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                return Ok(());
            }
            Err(error) => error,
        };
        self.disconnected();
        Err(End::Broken(format!("connecting or writing failed: {error}")))
    }

    /// Reads and counts everything that was received; `to_the_end` if the server has closed the connection.
    /// `now_us` is called after each read, so that it is the time of receipt.
    pub fn read(
        &mut self,
        endpoint: &Endpoint,
        shared: &mut Shared,
        to_the_end: bool,
        now_us: impl Fn() -> u64,
    ) -> Result<(), End> {
        if self.spec.stalls && self.is_ready {
            if to_the_end {
                self.disconnected();
                return Err(End::Broken("the server closed the connection".to_owned()));
            }
            return Ok(());
        }
        loop {
            let Some(socket) = &mut self.socket else { return Ok(()) };
            let read = match socket.read(&mut shared.scratch) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.disconnected();
                    return Err(self.ended(&format!("the connection failed: {error}")));
                }
            };
            if read == 0 {
                self.disconnected();
                return Err(self.ended("the server ended the connection without an error frame"));
            }
            shared.wire_bytes += read as u64;
            // Taken out while it is used, so that `shared` can be changed.
            let scratch = std::mem::take(&mut shared.scratch);
            let taken = self.take(&scratch[..read], endpoint, shared, now_us());
            let whole = read < scratch.len();
            shared.scratch = scratch;
            if let Err(end) = taken {
                self.disconnected();
                return Err(end);
            }
            // A read that does not fill the buffer has emptied the socket; later data is a new edge.
            if (whole && !to_the_end) || (self.spec.stalls && self.is_ready) {
                return Ok(());
            }
        }
    }

    /// Why the connection ended: the refusal that came before, or else this text.
    fn ended(&mut self, words: &str) -> End {
        match self.refused.take() {
            Some(refused) => End::Refused(refused),
            None => End::Broken(words.to_owned()),
        }
    }

    fn take(
        &mut self,
        input: &[u8],
        endpoint: &Endpoint,
        shared: &mut Shared,
        now_us: u64,
    ) -> Result<(), End> {
        let mut phase = std::mem::replace(&mut self.phase, Phase::Disconnected);
        let result = match &mut phase {
            Phase::Disconnected => Ok(()),
            Phase::Opening(buffer) => {
                buffer.extend_from_slice(input);
                let head = match Head::read(buffer) {
                    Ok(Some(head)) => head,
                    Ok(None) => {
                        self.phase = phase;
                        return Ok(());
                    }
                    Err(error) => return Err(End::Broken(error.to_string())),
                };
                let rest = buffer.split_off(head.bytes);
                self.phase = self.opened(&head, &rest, endpoint)?;
                if endpoint.dialect.is_ready_at_once() {
                    (self.is_ready, self.is_live) = (true, true);
                }
                for text in endpoint.dialect.greeting() {
                    self.send(Opcode::Text, text.as_bytes())?;
                }
                return if rest.is_empty() { Ok(()) } else { self.take(&rest, endpoint, shared, now_us) };
            }
            Phase::Frames(frames) => {
                let mut inflated = std::mem::take(&mut shared.inflated);
                let mut outcome = Ok(());
                let taken = frames.take(input, &mut inflated, |incoming| {
                    if outcome.is_err() {
                        return;
                    }
                    outcome = match incoming {
                        Incoming::Message(text) => self.message(text, endpoint, shared, now_us),
                        Incoming::Ping(payload) => self.send(Opcode::Pong, payload),
                        Incoming::Close(code, reason) => Err(self.ended(&format!(
                            "the server closed the connection with {code} {}",
                            String::from_utf8_lossy(reason)
                        ))),
                    };
                });
                shared.inflated = inflated;
                outcome.and(taken.map_err(|broken| End::Broken(broken.to_string())))
            }
            Phase::Events(sse) => {
                let mut outcome = Ok(());
                let ended = sse.take(input, |data| {
                    if outcome.is_ok() {
                        outcome = self.message(data, endpoint, shared, now_us);
                    }
                });
                match ended {
                    Err(broken) => Err(End::Broken(broken.to_string())),
                    Ok(true) => {
                        outcome.and(Err(self.ended("the server ended the stream without an error frame")))
                    }
                    Ok(false) => outcome,
                }
            }
        };
        self.phase = phase;
        result
    }

    /// Takes the response to the opening request.
    fn opened(&mut self, head: &Head, rest: &[u8], endpoint: &Endpoint) -> Result<Phase, End> {
        match (endpoint.transport, head.status) {
            (Transport::Ws, 101) => {
                let extensions = head.header("sec-websocket-extensions").unwrap_or_default();
                let frames = Frames::new(extensions).map_err(|broken| End::Broken(broken.to_string()))?;
                self.is_compressed = frames.is_compressed();
                Ok(Phase::Frames(frames))
            }
            (Transport::Sse, 200) => {
                let sse = Sse::new(head);
                self.is_compressed = sse.is_compressed();
                Ok(Phase::Events(sse))
            }
            (_, status) => Err(End::Refused(frame::problem(status, rest))),
        }
    }

    fn message(
        &mut self,
        text: &[u8],
        endpoint: &Endpoint,
        shared: &mut Shared,
        now_us: u64,
    ) -> Result<(), End> {
        let digest = shared.digests.of(text, &*endpoint.dialect);
        match &digest.kind {
            MessageKind::Events => {}
            MessageKind::Ready { cursor, head } => {
                self.is_ready = true;
                self.head = *head;
                match cursor {
                    None => self.is_live = true,
                    Some(cursor) => {
                        self.ledger.begin(cursor.seq, &mut shared.counts);
                        self.hello = Some(cursor.clone());
                    }
                }
            }
            MessageKind::Reply(text) => {
                let text = text.clone();
                self.ledger.take(digest, &mut shared.counts, |_| {});
                self.update_live();
                return if endpoint.transport == Transport::Ws {
                    self.send(Opcode::Text, text.as_bytes())
                } else {
                    Ok(())
                };
            }
            MessageKind::Gap { .. } => {}
            MessageKind::Refused(refused) => {
                // The end of the connection follows.
                self.refused = Some(refused.clone());
                return Ok(());
            }
            MessageKind::Broken(words) => return Err(End::Broken(words.clone())),
        }
        self.is_probed |= digest.has_probe;
        let before = shared.counts.delivered;
        let latencies = &mut shared.latencies;
        self.ledger.take(digest, &mut shared.counts, |mark| {
            latencies.record(now_us.saturating_sub(mark.intended_us));
        });
        if shared.counts.delivered > before {
            shared.last_us = now_us;
        }
        self.update_live();
        Ok(())
    }

    fn update_live(&mut self) {
        if self.is_ready && !self.is_live {
            self.is_live = self.ledger.cursor().is_some_and(|cursor| cursor >= self.head);
        }
    }

    fn send(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), End> {
        self.out.extend(client_frame(opcode, payload));
        self.write()
    }
}
