//! The two transports, with third-party WebSocket and HTTP clients.

use std::{collections::VecDeque, pin::Pin};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, Utf8Bytes, client::IntoClientRequest as _},
};

use crate::{continuity::Start, event::Services, gateway::Announced};

/// A transport, with the way to authenticate and to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket, the token in a header.
    WebSocketHeader,
    /// WebSocket, the token in the first frame.
    WebSocketFrame,
    /// WebSocket, the token as a subprotocol, as browsers send it.
    WebSocketProtocol,
    /// Server-sent events, resumed by `Last-Event-ID` as browsers do.
    SseLastEventId,
    /// Server-sent events, resumed by `cursor=`.
    SseCursor,
}

impl Transport {
    /// A transport for each number: half WebSocket, half SSE, in all variants.
    pub fn of(number: usize) -> Self {
        const KINDS: [Transport; 6] = [
            Transport::WebSocketHeader,
            Transport::SseLastEventId,
            Transport::WebSocketFrame,
            Transport::SseCursor,
            Transport::WebSocketProtocol,
            Transport::SseLastEventId,
        ];
        KINDS[number % KINDS.len()]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::WebSocketHeader | Self::WebSocketFrame | Self::WebSocketProtocol => "websocket",
            Self::SseLastEventId | Self::SseCursor => "sse",
        }
    }
}

/// Why a stream did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The gateway is not reachable.
    #[error("the gateway cannot be reached: {0}")]
    Away(String),
    /// The gateway refused the stream.
    #[error("the gateway refused the stream with {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The response body.
        body: String,
    },
}

/// One received frame.
#[derive(Debug)]
pub enum Incoming {
    /// A WebSocket message.
    Message(Utf8Bytes),
    /// A server-sent event and its `id:`.
    Event {
        /// Its data.
        data: String,
        /// Its id, if it has one.
        id: Option<String>,
    },
}

impl Incoming {
    /// The frame.
    pub fn text(&self) -> &str {
        match self {
            Self::Message(text) => text.as_str(),
            Self::Event { data, .. } => data,
        }
    }

    /// Its id, on SSE.
    pub fn id(&self) -> Option<Option<&str>> {
        match self {
            Self::Message(_) => None,
            Self::Event { id, .. } => Some(id.as_deref()),
        }
    }
}

/// An open stream.
pub enum Stream {
    /// Over WebSocket.
    WebSocket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    /// Over SSE.
    Sse(Box<SseStream>),
}

/// The URL of a stream with its query, without `cursor=` if `by_header`.
fn address(gateway: &Announced, services: Services, start: &Start, by_header: bool) -> String {
    let mut query = Vec::new();
    let names = services.query();
    if !names.is_empty() {
        query.push(format!("services={names}"));
    }
    match start {
        Start::Head => {}
        Start::Tail(count) => query.push(format!("tail={count}")),
        Start::Cursor(_) if by_header => {}
        Start::Cursor(cursor) => query.push(format!("cursor={cursor}")),
    }
    format!("{}/v1/orgs/{}/stream?{}", gateway.url, gateway.org, query.join("&"))
}

impl Stream {
    /// Opens a stream.
    pub async fn open(
        transport: Transport,
        client: &reqwest::Client,
        gateway: &Announced,
        services: Services,
        start: &Start,
    ) -> Result<Self, OpenError> {
        let by_header = transport == Transport::SseLastEventId;
        let last_event_id = match start {
            Start::Cursor(cursor) if by_header => Some(cursor.to_string()),
            _ => None,
        };
        let url = address(gateway, services, start, by_header);
        Self::open_at(transport, client, url, &gateway.token, last_event_id).await
    }

    /// Opens a stream at a URL; `last_event_id` is for SSE.
    pub async fn open_at(
        transport: Transport,
        client: &reqwest::Client,
        url: String,
        token: &str,
        last_event_id: Option<String>,
    ) -> Result<Self, OpenError> {
        match transport {
            Transport::SseLastEventId | Transport::SseCursor => {
                let mut request = client.get(url).bearer_auth(token).header("accept", "text/event-stream");
                if let Some(cursor) = last_event_id {
                    request = request.header("last-event-id", cursor);
                }
                let answer = request.send().await.map_err(|error| OpenError::Away(format!("{error:#}")))?;
                let status = answer.status().as_u16();
                if status != 200 {
                    return Err(OpenError::Refused { status, body: answer.text().await.unwrap_or_default() });
                }
                let body = Box::pin(answer.bytes_stream().map(|chunk| chunk.ok().map(Into::into)));
                Ok(Self::Sse(Box::new(SseStream { body, parser: SseParser::default() })))
            }
            _ => {
                let url = url.replacen("http", "ws", 1);
                let request = || -> Result<_, tungstenite::Error> {
                    let mut request = url.into_client_request()?;
                    let headers = request.headers_mut();
                    match transport {
                        Transport::WebSocketHeader => {
                            headers.insert("authorization", format!("Bearer {}", token).parse()?);
                        }
                        Transport::WebSocketProtocol => {
                            let protocols = format!("tidegate.v1, tidegate.bearer.{}", token);
                            headers.insert("sec-websocket-protocol", protocols.parse()?);
                        }
                        _ => {}
                    }
                    Ok(request)
                };
                let away = |error: tungstenite::Error| match error {
                    tungstenite::Error::Http(answer) => OpenError::Refused {
                        status: answer.status().as_u16(),
                        body: String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default()).into(),
                    },
                    error => OpenError::Away(error.to_string()),
                };
                let (mut socket, _) = connect_async(request().map_err(away)?).await.map_err(away)?;
                if transport == Transport::WebSocketFrame {
                    let auth = format!(r#"{{"type":"auth","token":"{}"}}"#, token);
                    socket.send(Message::text(auth)).await.map_err(away)?;
                }
                Ok(Self::WebSocket(Box::new(socket)))
            }
        }
    }

    /// The next frame. None after the connection has ended for any reason.
    pub async fn next(&mut self) -> Option<Incoming> {
        match self {
            Self::WebSocket(socket) => loop {
                match socket.next().await? {
                    Ok(Message::Text(text)) => return Some(Incoming::Message(text)),
                    Ok(Message::Ping(_) | Message::Pong(_)) => {}
                    Ok(_) | Err(_) => return None,
                }
            },
            Self::Sse(stream) => stream.next().await,
        }
    }

    /// Answers a ping. SSE has no way to answer.
    pub async fn pong(&mut self) {
        if let Self::WebSocket(socket) = self {
            // The next read finds a lost connection.
            let _ = socket.send(Message::text(r#"{"type":"pong"}"#)).await;
        }
    }
}

type Chunks = Pin<Box<dyn futures_util::Stream<Item = Option<Vec<u8>>> + Send>>;

/// A response body that is read as server-sent events.
pub struct SseStream {
    body: Chunks,
    parser: SseParser,
}

impl SseStream {
    async fn next(&mut self) -> Option<Incoming> {
        loop {
            if let Some((data, id)) = self.parser.events.pop_front() {
                return Some(Incoming::Event { data, id });
            }
            let chunk = std::future::poll_fn(|context| self.body.as_mut().poll_next(context)).await??;
            self.parser.take(&chunk);
        }
    }
}

/// The part of the parser of WHATWG HTML, section 9.2.6, that the gateway's streams need.
#[derive(Debug, Default)]
struct SseParser {
    line: Vec<u8>,
    data: Option<String>,
    id: Option<String>,
    events: VecDeque<(String, Option<String>)>,
}

impl SseParser {
    fn take(&mut self, chunk: &[u8]) {
        let mut parts = chunk.split(|byte| *byte == b'\n');
        let mut part = parts.next();
        while let Some(text) = part {
            self.line.extend_from_slice(text);
            part = parts.next();
            if part.is_some() {
                let line = std::mem::take(&mut self.line);
                self.end_line(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).as_ref());
            }
        }
    }

    fn end_line(&mut self, line: &str) {
        if line.is_empty() {
            let id = self.id.take();
            if let Some(data) = self.data.take() {
                self.events.push_back((data, id));
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sse_is_read_however_it_is_cut() {
        let text = "retry: 1000\n\nid: e-1-t\ndata: {\"a\":1}\n\n: word\ndata: x\ndata:y\r\n\r\nid: late";
        let whole = [("{\"a\":1}".to_owned(), Some("e-1-t".to_owned())), ("x\ny".to_owned(), None)];
        for cut in 0..text.len() {
            let mut parser = SseParser::default();
            parser.take(&text.as_bytes()[..cut]);
            parser.take(&text.as_bytes()[cut..]);
            assert_eq!(parser.events, whole, "cut at {cut}");
        }
    }
}
