//! One connection that asks for the stream of a run: the request as a gateway reads it, then what the run does,
//! byte for byte.

use std::{io, time::Duration};

use bytes::Bytes;
use tidegate_protocol::{Code, ws};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    frames,
    live::{Live, linger, lock, wall},
    request::{self, Request},
    run::{Asked, Do, Received},
    scenario::Transport,
    wire::Wire,
};

/// Between the pieces of a frame that is written in pieces, so that they arrive as pieces.
const BETWEEN_PIECES: Duration = Duration::from_micros(200);

/// The parameters of a stream; a gateway refuses any other.
const PARAMETERS: [&str; 11] = [
    "services",
    "cursor",
    "lastEventId",
    "last_event_id",
    "Last-Event-ID",
    "tail",
    "access_token",
    "replaces",
    "slow",
    "deflate",
    "batch",
];

/// What ends the task of a connection: its stream is over, or the client is gone.
enum Over {
    /// Everything is written.
    InOrder,
    /// The client has closed, or cannot be written to.
    Gone,
}

/// Serves one request for the stream of this run.
pub async fn serve(live: &Live, mut stream: TcpStream, request: Request) -> io::Result<()> {
    let (asked, handshake) = match asked(&request) {
        Ok(asked) => asked,
        Err(fault) => {
            live.with(|run, now| run.broken(now, fault.clone()));
            request::problem(&mut stream, 400, Code::BadRequest.name(), &fault).await?;
            linger(stream).await;
            return Ok(());
        }
    };
    let transport = if asked.is_websocket { Transport::Ws } else { Transport::Sse };
    let connection = live.with(|run, now| run.asked(now, wall(), asked));
    let early = request.rest;
    let mut conversation = Conversation {
        live,
        connection,
        wire: Wire::new(transport, false),
        reader: None,
        is_open: false,
        early,
        stream,
    };
    let over = conversation.hold(transport, handshake).await;
    if matches!(over, Err(_) | Ok(Over::Gone)) {
        live.with(|run, now| run.received(now, wall(), connection, Received::End));
    }
    linger(conversation.stream).await;
    Ok(())
}

/// What the answer to a WebSocket handshake needs.
struct Handshake {
    accept_key: String,
    has_protocol: bool,
    deflate: Option<ws::extension::Deflate>,
}

/// Reads a request for a stream as a gateway would. The error is a sentence on what a gateway would refuse.
fn asked(request: &Request) -> Result<(Asked, Option<Handshake>), String> {
    if let Some((name, _)) = request.query.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
        return Err(format!("the request has the parameter {name}, which a gateway refuses"));
    }
    let lines = request.lines();
    let bearer = request.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
    let mut token = bearer.map(|token| token.trim().to_owned());
    let mut handshake = None;
    if ws::handshake::is_asked(&lines) {
        let checked = ws::handshake::check(ws::handshake::Request {
            method: &request.method,
            is_http11: true,
            headers: &lines,
        })
        .map_err(|error| format!("the request is no WebSocket handshake: {error}"))?;
        let has_protocol = checked.protocols.offers("tidegate.v1");
        if !has_protocol && checked.protocols.iter().next().is_some() {
            return Err("the request offers subprotocols without tidegate.v1 among them".to_owned());
        }
        token = token.or_else(|| checked.protocols.after("tidegate.bearer.").map(str::to_owned));
        handshake =
            Some(Handshake { accept_key: checked.accept_key, has_protocol, deflate: checked.deflate });
    } else {
        let accept = request.header("accept").unwrap_or("*/*");
        if !["text/event-stream", "text/*", "*/*"].iter().any(|kind| accept.contains(kind)) {
            return Err(format!("the request accepts {accept}, and no text/event-stream"));
        }
        token = token.or_else(|| request.parameter("access_token").map(str::to_owned));
    }
    let cursor = request.header("last-event-id").filter(|cursor| !cursor.is_empty());
    let cursor = ["lastEventId", "last_event_id", "Last-Event-ID", "cursor"]
        .into_iter()
        .fold(cursor, |found, name| found.or_else(|| request.parameter(name)));
    let asked = Asked {
        is_websocket: handshake.is_some(),
        cursor: cursor.map(str::to_owned),
        token,
        deflate: handshake.as_ref().is_some_and(|handshake| handshake.deflate.is_some()),
        gzip: request.header("accept-encoding").is_some_and(|codings| codings.contains("gzip")),
        gzip_batch: request.parameter("batch") == Some("gzip"),
    };
    Ok((asked, handshake))
}

/// One connection of a run.
struct Conversation<'a> {
    live: &'a Live,
    connection: u64,
    wire: Wire,
    /// Of what the client sends (WebSocket).
    reader: Option<ws::MessageReader>,
    is_open: bool,
    early: Vec<u8>,
    stream: TcpStream,
}

impl Conversation<'_> {
    async fn hold(&mut self, transport: Transport, handshake: Option<Handshake>) -> io::Result<Over> {
        let mut changed = self.live.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (what, due) = {
                let mut run = lock(&self.live.run);
                (run.next(self.live.now(), wall(), self.connection), run.due())
            };
            if what != Do::Wait {
                self.live.changed.send_modify(|count| *count += 1);
            }
            match what {
                Do::Open { compressed } => {
                    let head = match &handshake {
                        Some(handshake) => switching(handshake, compressed),
                        None => request::event_stream(compressed),
                    };
                    self.stream.write_all(head.as_bytes()).await?;
                    self.wire = Wire::new(transport, compressed);
                    self.is_open = true;
                    if handshake.is_some() {
                        let limits = ws::Limits { deflate: compressed, ..ws::Limits::default() };
                        self.reader = Some(ws::MessageReader::new(limits));
                        let early = std::mem::take(&mut self.early);
                        if !early.is_empty() && !self.take(early).await? {
                            return Ok(Over::Gone);
                        }
                    }
                }
                Do::Refuse(refusal) => {
                    request::refuse(&mut self.stream, &refusal).await?;
                    return Ok(Over::InOrder);
                }
                Do::Send { frame, torn } => {
                    let pieces = self.wire.frame(&frame, torn);
                    self.write(pieces).await?;
                }
                Do::Text(text) => {
                    let pieces = self.wire.text(&text);
                    self.write(pieces).await?;
                }
                Do::ControlPing(payload) => {
                    let pieces = self.wire.control(&ws::ping(&payload));
                    self.write(pieces).await?;
                }
                Do::Set(setting) => {
                    let pieces = self.wire.set(setting);
                    self.write(pieces).await?;
                }
                Do::Close(code) => {
                    self.close(code).await?;
                    return Ok(Over::InOrder);
                }
                Do::Dismiss(why) => {
                    if self.is_open {
                        let code = Code::BadRequest;
                        let message = format!("tidegate conformance: {why}");
                        let json = frames::error(code.name(), &message, None);
                        let frame =
                            frames::Written { json, sse_id: None, events: Vec::new(), is_ping: false };
                        let pieces = self.wire.frame(&frame, None);
                        self.write(pieces).await?;
                        self.close(code.close().map(|close| (close, code.name()))).await?;
                    } else {
                        request::problem(&mut self.stream, 400, Code::BadRequest.name(), &why).await?;
                    }
                    return Ok(Over::InOrder);
                }
                Do::Cut => return Ok(Over::InOrder),
                Do::Gone => {
                    if !self.is_open {
                        let why = "this run is over; its verdict says why";
                        request::problem(&mut self.stream, 410, Code::BadRequest.name(), why).await?;
                    }
                    return Ok(Over::InOrder);
                }
                Do::Wait => {
                    let mut bytes = Vec::with_capacity(4096);
                    let read = tokio::select! {
                        read = self.stream.read_buf(&mut bytes) => Some(read?),
                        _ = changed.changed() => None,
                        () = self.live.until(due) => None,
                    };
                    match read {
                        None => {}
                        Some(0) => return Ok(Over::Gone),
                        Some(_) if !self.take(bytes).await? => return Ok(Over::Gone),
                        Some(_) => {}
                    }
                }
            }
        }
    }

    /// Takes bytes of the client. Returns whether the connection goes on.
    async fn take(&mut self, mut bytes: Vec<u8>) -> io::Result<bool> {
        // A client has nothing to say on an event stream.
        let Some(mut reader) = self.reader.take() else { return Ok(true) };
        let mut input = &mut bytes[..];
        loop {
            match reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(ws::Received::Text(text))) => self.tell(Received::Text(&text)),
                Ok(Some(ws::Received::Binary(_))) => {
                    self.tell(Received::Violation("a binary message; all frames are text".to_owned()));
                }
                Ok(Some(ws::Received::Ping(payload))) => {
                    self.stream.write_all(&ws::pong(&payload)).await?;
                }
                Ok(Some(ws::Received::Pong(payload))) => self.tell(Received::ControlPong(&payload)),
                Ok(Some(ws::Received::Close(close))) => {
                    let answer = ws::close(close.code.unwrap_or(1005), "");
                    self.stream.write_all(&answer).await?;
                    return Ok(false);
                }
                Err(violation) => {
                    self.tell(Received::Violation(format!("a message that breaks it: {violation}")));
                    break;
                }
            }
        }
        self.reader = Some(reader);
        Ok(true)
    }

    fn tell(&self, received: Received<'_>) {
        self.live.with(|run, now| run.received(now, wall(), self.connection, received));
    }

    async fn close(&mut self, code: Option<(u16, &'static str)>) -> io::Result<()> {
        let bytes = match (&self.reader, code) {
            (Some(_), Some((code, reason))) => vec![ws::close(code, reason)],
            (Some(_), None) => vec![ws::close(1005, "")],
            (None, _) => self.wire.end_of_body(),
        };
        self.write(bytes).await
    }

    async fn write(&mut self, pieces: Vec<Bytes>) -> io::Result<()> {
        let is_in_pieces = pieces.len() > 1;
        for piece in pieces {
            self.stream.write_all(&piece).await?;
            if is_in_pieces {
                tokio::time::sleep(BETWEEN_PIECES).await;
            }
        }
        Ok(())
    }
}

/// The answer to a handshake (RFC 6455, 4.2.2).
fn switching(handshake: &Handshake, compressed: bool) -> String {
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {}\r\n",
        handshake.accept_key
    );
    if handshake.has_protocol {
        head += "sec-websocket-protocol: tidegate.v1\r\n";
    }
    if let Some(deflate) = handshake.deflate.filter(|_| compressed) {
        head += &format!("sec-websocket-extensions: {}\r\n", deflate.answer());
    }
    head + "\r\n"
}
