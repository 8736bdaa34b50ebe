//! One reader: a connection that is opened, read and counted, over all its lives. Owns no buffer while
//! nothing is partly here, so that ten thousand idle ones cost the load side little.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tidegate_protocol::Cursor;

use crate::{
    books::{Books, Counts},
    digest::{Digests, Refused, Word},
    http::{self, Head, Target},
    latency::Latencies,
    peers::{Asked, Dialect, Transport, tidegate},
    sse::Sse,
    websocket::{Frames, Incoming, Opcode, client_frame},
};

/// What a reader is to be.
#[derive(Debug, Clone, Default)]
pub struct Seat {
    /// The services that it asks for; all if none.
    pub services: Option<Arc<str>>,
    /// Whether it stops reading once it is ready.
    pub stalls: bool,
}

/// Where and how readers connect.
#[derive(Clone)]
pub struct Line {
    pub target: Target,
    pub dialect: Arc<dyn Dialect>,
    pub transport: Transport,
}

/// What came of the bytes at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The server said no.
    Refused(Refused),
    /// The connection broke, or ended without a word.
    Broken(String),
}

enum Phase {
    Away,
    /// The request is written, or will be once the socket is connected.
    Opening(Vec<u8>),
    Frames(Frames),
    Events(Sse),
}

/// One reader.
pub struct Reader {
    pub seat: Seat,
    books: Books,
    socket: Option<TcpStream>,
    phase: Phase,
    /// What the socket has not taken yet.
    out: Vec<u8>,
    /// Epoch and tag of its place; the seq is in the books.
    place: Option<Cursor>,
    head: u64,
    refused: Option<Refused>,
    pub is_ready: bool,
    pub is_live: bool,
    pub is_probed: bool,
    pub is_compressed: bool,
}

/// What readers of one thread share.
pub struct Room {
    pub scratch: Vec<u8>,
    inflated: Vec<u8>,
    digests: Digests,
    pub counts: Counts,
    pub latencies: Latencies,
    pub wire_bytes: u64,
    /// When the last event came.
    pub last_us: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            // Large enough that one read empties a socket's buffer as a rule.
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
    /// One that is not connected yet.
    pub fn new(seat: Seat) -> Self {
        Self {
            seat,
            books: Books::default(),
            socket: None,
            phase: Phase::Away,
            out: Vec::new(),
            place: None,
            head: 0,
            refused: None,
            is_ready: false,
            is_live: false,
            is_probed: false,
            is_compressed: false,
        }
    }

    /// Its books.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Whether it has a connection, or is opening one.
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Begins to connect, from where it stands; the caller watches the socket.
    pub fn open(&mut self, line: &Line) -> anyhow::Result<&TcpStream> {
        let at = line.target.address;
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))
            .context("open a socket (is the limit of file descriptors reached? see ulimit -n)")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if self.seat.stalls {
            // What a stalled reader does not take must not disappear in its own kernel buffers.
            socket.set_recv_buffer_size(8 * 1024)?;
        }
        match socket.connect(&SockAddr::from(at)) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error).with_context(|| format!("connect to {at}"));
            }
            _ => {}
        }
        let cursor = self.place.as_ref().map(|place| Cursor {
            epoch: place.epoch.clone(),
            seq: self.books.cursor().unwrap_or(place.seq),
            tag: place.tag.clone(),
        });
        let request = line.dialect.stream(Asked {
            transport: line.transport,
            services: self.seat.services.as_deref(),
            cursor: cursor.as_ref(),
        });
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.out = http::request("GET", &request.path, &line.target, &headers, b"");
        self.phase = Phase::Opening(Vec::new());
        (self.is_ready, self.is_live) = (false, false);
        Ok(self.socket.insert(socket.into()))
    }

    /// Cuts the connection as a lost network does: with a reset, without a word.
    pub fn cut(&mut self) {
        if let Some(socket) = self.socket.take() {
            // What cannot be reset is closed, which the server sees as well.
            let _ = socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO));
        }
        self.gone();
    }

    fn gone(&mut self) {
        self.socket = None;
        self.phase = Phase::Away;
        (self.out, self.is_ready, self.is_live) = (Vec::new(), false, false);
    }

    /// Writes what waits, now that the socket takes something.
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
        self.gone();
        Err(End::Broken(format!("it cannot be connected or written to: {error}")))
    }

    /// Reads all that is there and counts it; `to_the_end` where the server has closed. `now_us` is asked
    /// once bytes are here.
    pub fn read(
        &mut self,
        line: &Line,
        room: &mut Room,
        to_the_end: bool,
        now_us: impl Fn() -> u64,
    ) -> Result<(), End> {
        if self.seat.stalls && self.is_ready {
            if to_the_end {
                self.gone();
                return Err(End::Broken("the server has closed it".to_owned()));
            }
            return Ok(());
        }
        loop {
            let Some(socket) = &mut self.socket else { return Ok(()) };
            let read = match socket.read(&mut room.scratch) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.gone();
                    return Err(self.ended(&format!("the connection broke: {error}")));
                }
            };
            if read == 0 {
                self.gone();
                return Err(self.ended("the server ended the connection without a word"));
            }
            room.wire_bytes += read as u64;
            // Out of the room while it is used, so that the room can be written to.
            let scratch = std::mem::take(&mut room.scratch);
            let taken = self.take(&scratch[..read], line, room, now_us());
            let whole = read < scratch.len();
            room.scratch = scratch;
            if let Err(end) = taken {
                self.gone();
                return Err(end);
            }
            // A read that leaves room has emptied the socket; what comes later is another edge.
            if (whole && !to_the_end) || (self.seat.stalls && self.is_ready) {
                return Ok(());
            }
        }
    }

    /// The refusal that came before the end, if one did.
    fn ended(&mut self, words: &str) -> End {
        match self.refused.take() {
            Some(refused) => End::Refused(refused),
            None => End::Broken(words.to_owned()),
        }
    }

    fn take(&mut self, input: &[u8], line: &Line, room: &mut Room, now_us: u64) -> Result<(), End> {
        let mut phase = std::mem::replace(&mut self.phase, Phase::Away);
        let result = match &mut phase {
            Phase::Away => Ok(()),
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
                self.phase = self.opened(&head, &rest, line)?;
                if line.dialect.is_ready_at_once() {
                    (self.is_ready, self.is_live) = (true, true);
                }
                for text in line.dialect.greeting() {
                    self.say(Opcode::Text, text.as_bytes())?;
                }
                return if rest.is_empty() { Ok(()) } else { self.take(&rest, line, room, now_us) };
            }
            Phase::Frames(frames) => {
                let mut inflated = std::mem::take(&mut room.inflated);
                let mut outcome = Ok(());
                let taken = frames.take(input, &mut inflated, |incoming| {
                    if outcome.is_err() {
                        return;
                    }
                    outcome = match incoming {
                        Incoming::Message(text) => self.message(text, line, room, now_us),
                        Incoming::Ping(payload) => self.say(Opcode::Pong, payload),
                        Incoming::Close(code, reason) => Err(self.ended(&format!(
                            "the server closed it with {code} {}",
                            String::from_utf8_lossy(reason)
                        ))),
                    };
                });
                room.inflated = inflated;
                outcome.and(taken.map_err(|broken| End::Broken(broken.to_string())))
            }
            Phase::Events(sse) => {
                let mut outcome = Ok(());
                let ended = sse.take(input, |data| {
                    if outcome.is_ok() {
                        outcome = self.message(data, line, room, now_us);
                    }
                });
                match ended {
                    Err(broken) => Err(End::Broken(broken.to_string())),
                    Ok(true) => outcome.and(Err(self.ended("the server ended the stream without a word"))),
                    Ok(false) => outcome,
                }
            }
        };
        self.phase = phase;
        result
    }

    /// Judges the answer to the request.
    fn opened(&mut self, head: &Head, rest: &[u8], line: &Line) -> Result<Phase, End> {
        match (line.transport, head.status) {
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
            (_, status) => Err(End::Refused(tidegate::problem(status, rest))),
        }
    }

    fn message(&mut self, text: &[u8], line: &Line, room: &mut Room, now_us: u64) -> Result<(), End> {
        let digest = room.digests.of(text, &*line.dialect);
        match &digest.word {
            Word::Events => {}
            Word::Ready { cursor, head } => {
                self.is_ready = true;
                self.head = *head;
                match cursor {
                    None => self.is_live = true,
                    Some(cursor) => {
                        self.books.begin(cursor.seq, &mut room.counts);
                        self.place = Some(cursor.clone());
                    }
                }
            }
            Word::Answer(text) => {
                let text = text.clone();
                self.books.take(digest, &mut room.counts, |_| {});
                self.live_at_its_head();
                return if line.transport == Transport::Ws {
                    self.say(Opcode::Text, text.as_bytes())
                } else {
                    Ok(())
                };
            }
            Word::Gap { .. } => {}
            Word::Refused(refused) => {
                // The end comes behind it.
                self.refused = Some(refused.clone());
                return Ok(());
            }
            Word::Broken(words) => return Err(End::Broken(words.clone())),
        }
        self.is_probed |= digest.has_probe;
        let before = room.counts.delivered;
        let latencies = &mut room.latencies;
        self.books.take(digest, &mut room.counts, |mark| {
            latencies.record(now_us.saturating_sub(mark.intended_us));
        });
        if room.counts.delivered > before {
            room.last_us = now_us;
        }
        self.live_at_its_head();
        Ok(())
    }

    fn live_at_its_head(&mut self) {
        if self.is_ready && !self.is_live {
            self.is_live = self.books.cursor().is_some_and(|cursor| cursor >= self.head);
        }
    }

    fn say(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), End> {
        self.out.extend(client_frame(opcode, payload));
        self.write()
    }
}
