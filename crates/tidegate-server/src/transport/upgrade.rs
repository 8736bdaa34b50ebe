//! From an HTTP/1.1 request to a bare TCP socket that speaks WebSocket.
//!
//! [`tidegate_protocol::ws::handshake`] has the rules; this file applies them to hyper. The HTTP listener
//! calls it for requests that ask for WebSocket, sends its response, and gives the socket to a connection
//! loop.

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tidegate_protocol::{
    Code,
    ws::{
        self,
        extension::Deflate,
        handshake::{self, HandshakeError},
    },
};
use tokio::net::TcpStream;

use super::guarded::Guarded;

/// A valid handshake that has not been answered yet.
#[derive(Debug)]
pub struct Upgrade {
    accept_key: String,
    deflate: Option<Deflate>,
    on_upgrade: OnUpgrade,
}

/// Why a request is not upgraded. The caller makes the response from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// The request is at fault.
    #[error(transparent)]
    Refused(#[from] HandshakeError),
    /// The connection is served without upgrades: a fault of ours.
    #[error("this listener cannot switch to WebSocket")]
    NotUpgradable,
}

impl UpgradeError {
    /// The status of the response.
    pub fn status(self) -> StatusCode {
        let status = match self {
            UpgradeError::Refused(refusal) => refusal.status(),
            UpgradeError::NotUpgradable => self.code().status(),
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST)
    }

    /// The code of the response.
    pub fn code(self) -> Code {
        match self {
            UpgradeError::Refused(refusal) => refusal.code(),
            UpgradeError::NotUpgradable => Code::Internal,
        }
    }

    /// The headers that the response needs. One of them closes the connection. It is required, because a
    /// refused client may already have sent frames.
    pub fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            UpgradeError::Refused(refusal) => refusal.headers(),
            UpgradeError::NotUpgradable => &[("connection", "close")],
        }
    }
}

/// Whether the request asks for WebSocket; if not, it may still be right for SSE. HTTP/2 has no Upgrade
/// header, so the other headers decide there.
pub fn is_asked<B>(request: &Request<B>) -> bool {
    let is_http2 = request.version() == Version::HTTP_2;
    handshake::is_asked(&lines(request))
        || (is_http2 && request.headers().contains_key(header::SEC_WEBSOCKET_VERSION))
}

impl Upgrade {
    /// Checks the handshake (RFC 6455 4.2.1). Returns the offered subprotocols too.
    pub fn of<B>(request: &Request<B>) -> Result<(Self, handshake::Protocols<'_>), UpgradeError> {
        let checked = handshake::check(handshake::Request {
            method: request.method().as_str(),
            is_http11: request.version() == Version::HTTP_11,
            headers: &lines(request),
        })?;
        let on_upgrade = request.extensions().get::<OnUpgrade>().cloned();
        let on_upgrade = on_upgrade.ok_or(UpgradeError::NotUpgradable)?;
        let upgrade = Self { accept_key: checked.accept_key, deflate: checked.deflate, on_upgrade };
        Ok((upgrade, checked.protocols))
    }

    /// The compression that can be agreed on.
    pub fn deflate(&self) -> Option<Deflate> {
        self.deflate
    }

    /// The 101 response (RFC 6455 4.2.2), and the socket once the response is sent. `protocol` and `deflate`
    /// must have been offered, or be `None`.
    pub fn accept(
        self,
        protocol: Option<&'static str>,
        deflate: Option<Deflate>,
    ) -> (Response<()>, Switching) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        // Base64 is always a header value.
        if let Ok(key) = HeaderValue::try_from(self.accept_key) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
        }
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        if let Some(deflate) = deflate {
            let answer = HeaderValue::from_static(deflate.answer());
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, answer);
        }
        (response, Switching(self.on_upgrade))
    }
}

fn lines<B>(request: &Request<B>) -> Vec<ws::HeaderLine<'_>> {
    request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

/// A socket that becomes available when the 101 response has been sent.
#[derive(Debug)]
pub struct Switching(OnUpgrade);

/// A socket that speaks WebSocket from here on.
#[derive(Debug)]
pub struct Switched {
    /// The bare socket, without any layer of HTTP.
    pub stream: TcpStream,
    /// Bytes that the client sent after its request without waiting for the answer. Read them first. Usually
    /// there are none.
    pub early: Vec<u8>,
}

/// Why the socket did not become available.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The connection ended before the 101 response was sent, or the response was replaced.
    #[error("switch the connection: {0}")]
    Ended(#[source] hyper::Error),
    /// The listener serves something other than bare TCP: a fault of ours.
    #[error("the connection is not a TCP socket")]
    NotTcp,
}

impl Switching {
    /// Waits for the socket. Await it in a separate task, after the response was returned to hyper.
    pub async fn socket(self) -> Result<Switched, SwitchError> {
        let upgraded = self.0.await.map_err(SwitchError::Ended)?;
        let parts = upgraded.downcast::<TokioIo<Guarded>>().map_err(|_| SwitchError::NotTcp)?;
        // Copied, because it would keep hyper's whole read buffer alive.
        Ok(Switched { stream: parts.io.into_inner().into_inner(), early: parts.read_buf.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

    use http_body_util::Empty;
    use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::*;
    use crate::transport::guarded::Timeouts;

    /// Longer than any of these exchanges takes.
    const TIMEOUTS: Timeouts = Timeouts { head: Duration::from_secs(10), write: Duration::from_secs(10) };

    type Outcome = Result<Switched, Option<SwitchError>>;

    /// Serves one connection; resolves to its socket, or to nothing if it was refused.
    async fn serve_one() -> (SocketAddr, JoinHandle<Outcome>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let (switched_in, mut switched) = tokio::sync::mpsc::unbounded_channel();
            let stream = Guarded::new(stream, Arc::default(), TIMEOUTS);
            let service = service_fn(move |request: Request<Incoming>| {
                let response = match Upgrade::of(&request) {
                    Ok((upgrade, protocols)) => {
                        let protocol = protocols.offers("tidegate.v1").then_some("tidegate.v1");
                        let (response, switching) = upgrade.accept(protocol, None);
                        let switched_in = switched_in.clone();
                        tokio::spawn(async move { switched_in.send(switching.socket().await) });
                        response
                    }
                    Err(error) => {
                        let mut response = Response::builder().status(error.status());
                        for (name, value) in error.headers() {
                            response = response.header(*name, *value);
                        }
                        response.body(()).expect("a response")
                    }
                };
                std::future::ready(Ok::<_, Infallible>(response.map(|()| Empty::<Bytes>::new())))
            });
            let served =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
            let _ = served.await;
            match switched.recv().await {
                Some(switched) => switched.map_err(Some),
                None => Err(None),
            }
        });
        (addr, task)
    }

    const HANDSHAKE: &str = "GET /stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    #[tokio::test]
    async fn the_socket_comes_back_with_what_was_sent_early() {
        let (addr, served) = serve_one().await;
        let mut client = TcpStream::connect(addr).await.expect("connect");
        let request =
            format!("{HANDSHAKE}Sec-WebSocket-Protocol: tidegate.v1, tidegate.bearer.x\r\n\r\nearly");
        client.write_all(request.as_bytes()).await.expect("write");
        let mut switched = served.await.expect("served").expect("a socket");
        assert_eq!(switched.early, b"early");
        switched.stream.write_all(b"frames").await.expect("write");
        drop(switched);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read");
        let (head, rest) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(head.contains("sec-websocket-protocol: tidegate.v1"), "{head}");
        assert_eq!(rest, "frames");
    }

    #[tokio::test]
    async fn refusals_end_the_connection() {
        for (lines, status) in [
            ("Content-Length: 5\r\n\r\nhello", "400"),
            ("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
            ("Sec-WebSocket-Version: 8\r\n\r\n", "426"),
            ("Sec-WebSocket-Protocol: t\u{e4}\r\n\r\n", "400"),
        ] {
            let (addr, served) = serve_one().await;
            let mut client = TcpStream::connect(addr).await.expect("connect");
            // Followed by a second request, which must not be answered.
            let request = format!("{HANDSHAKE}{lines}{HANDSHAKE}\r\n");
            client.write_all(request.as_bytes()).await.expect("write");
            let mut answer = Vec::new();
            // The server may reset the connection because of bytes that it did not read.
            let _ = client.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{lines:?}: {answer}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{lines:?}: {answer}");
            assert!(matches!(served.await.expect("served"), Err(None)), "{lines:?}");
        }
    }
}
