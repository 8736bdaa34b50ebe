//! A stream over WebSocket: a handshake over HTTP/1.1, then frames in both directions.
//!
//! The codec is `tidegate_protocol::ws`, which inflates what the gateway compresses; HTTP, TLS and proxies are
//! reqwest's, as they are for the other requests.

use std::{convert::Infallible, time::Duration};

use reqwest::{StatusCode, Upgraded, header};
use tidegate_protocol::ws::{
    HeaderLine, Inflater, Limits, MessageReader, Received,
    client::{self, DEFLATE_OFFER},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep_until, timeout},
};

use super::{Closed, Driver, Heard, Open, Said};
use crate::{
    gateway::{Refused, transport},
    random::random,
};

/// No frame of a gateway is nearly as long.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;
/// How long the socket may take nothing of what is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// While frames wait for the driver, the gateway's ping may wait among them or behind them. So the gateway gets
/// an unsolicited pong (RFC 6455 5.5.3) after this time. It waits 10 s for a sign of life (`ping.timeout`).
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Runs the connection until it ends or the driver closes it.
pub(super) async fn run(http: reqwest::Client, open: Open, mut driver: Driver) {
    let opened = tokio::select! {
        opened = connect(&http, open) => opened,
        _ = driver.said.recv() => return, // closed before it was open
    };
    let closed = match opened {
        Ok(mut socket) => socket.run(&mut driver).await,
        Err(closed) => closed,
    };
    // Nobody listens any more if it was the driver who closed it.
    let _ = driver.heard.send(Heard::Closed(closed)).await;
}

async fn connect(http: &reqwest::Client, open: Open) -> Result<Socket, Closed> {
    let key = client::key([random(), random()]);
    let request = http
        .get(open.url)
        .bearer_auth(&open.token)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_EXTENSIONS, DEFLATE_OFFER);
    let response = request.send().await.map_err(|error| Closed::cut(transport(error)))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(no_switch(Refused::read(response).await));
    }
    let headers: Vec<HeaderLine<'_>> =
        response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let deflate = client::check_answer(&headers, &key).map_err(|error| Closed::cut(error.to_string()))?;
    let stream = response.upgrade().await.map_err(|error| Closed::cut(transport(error)))?;
    let limits = Limits { message_bytes_max: MESSAGE_BYTES_MAX, message_fragments_max: 1 << 16, deflate };
    Ok(Socket {
        stream,
        reader: MessageReader::new(limits),
        inflater: Inflater::default(),
        shown_at: Instant::now(),
    })
}

/// A gateway accepts every well-formed handshake, so this is the answer of something in front of it. If it is
/// one that may pass, it is left as it is; any other may come of a proxy that does not know WebSocket, and SSE
/// will show whether the address itself is wrong. So the status is not reported.
fn no_switch(refused: Refused) -> Closed {
    let mut closed = Closed::refused(&refused);
    if !matches!(refused.status.as_u16(), 408 | 429 | 500..) {
        closed.status = None;
    }
    closed
}

/// An open connection.
struct Socket {
    stream: Upgraded,
    reader: MessageReader,
    inflater: Inflater,
    /// When something was last sent, or no frame waited for the driver.
    shown_at: Instant,
}

/// The error is why the connection is over.
type Done = Result<(), Closed>;

impl Driver {
    /// Tells the driver something, as soon as it takes it. What the driver says meanwhile is sent.
    async fn tell(&mut self, socket: &mut Socket, what: Heard) -> Done {
        if !self.is_behind() {
            socket.shown_at = Instant::now();
        }
        loop {
            tokio::select! {
                permit = self.heard.reserve(), if !self.heard.is_closed() => {
                    if let Ok(permit) = permit {
                        permit.send(what);
                        return Ok(());
                    }
                }
                said = self.said.recv() => socket.say(said).await?,
                () = sleep_until(socket.shown_at + HEARTBEAT) => socket.write(&client::pong(&[], mask())).await?,
            }
        }
    }

    /// Whether frames wait for the driver.
    fn is_behind(&self) -> bool {
        self.heard.capacity() < self.heard.max_capacity()
    }
}

impl Socket {
    /// Reads frames until the connection ends; returns why.
    async fn run(&mut self, driver: &mut Driver) -> Closed {
        let run = async {
            driver.tell(self, Heard::Opened).await?;
            self.frames(driver).await
        };
        match run.await {
            Ok(never) => match never {},
            Err(closed) => closed,
        }
    }

    async fn frames(&mut self, driver: &mut Driver) -> Result<Infallible, Closed> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = tokio::select! {
                said = driver.said.recv() => {
                    self.say(said).await?;
                    continue;
                }
                () = sleep_until(self.shown_at + HEARTBEAT), if driver.is_behind() => {
                    self.write(&client::pong(&[], mask())).await?;
                    continue;
                }
                read = self.stream.read(&mut buffer) => read,
            };
            let read = match read {
                Ok(0) => return Err(Closed::cut("the connection ended")),
                Ok(read) => read,
                Err(error) => return Err(Closed::cut(format!("the connection was cut: {error}"))),
            };
            let mut input = &mut buffer[..read];
            loop {
                let text = match self.reader.read_server(&mut input, &mut self.inflater) {
                    Ok(None) => break,
                    Ok(Some(Received::Text(text))) => text.into_owned(),
                    Ok(Some(Received::Ping(payload))) => {
                        let pong = client::pong(&payload, mask());
                        self.write(&pong).await?;
                        continue;
                    }
                    Ok(Some(Received::Close(close))) => {
                        let code = close.code.unwrap_or(1005);
                        let message = match &*close.reason {
                            "" => format!("the gateway closed the connection (close code {code})"),
                            reason => format!("the gateway closed the connection: {reason} ({code})"),
                        };
                        let _ = self.write(&client::close(code, mask())).await;
                        return Err(Closed { close: Some(code), message, ..Closed::default() });
                    }
                    // A gateway sends no binary messages, and a pong asks for nothing.
                    Ok(Some(Received::Binary(_) | Received::Pong(_))) => continue,
                    Err(violation) => {
                        let _ = self.write(&client::close(violation.close_code(), mask())).await;
                        return Err(Closed::cut(format!("the gateway broke WebSocket: {violation}")));
                    }
                };
                driver.tell(self, Heard::Frame(text)).await?;
            }
        }
    }

    /// Sends what the driver says. An error means that the connection is over.
    async fn say(&mut self, said: Option<Said>) -> Done {
        match said {
            Some(Said::Frame(text)) => self.write(&client::text_frame(&text, mask())).await,
            Some(Said::Close(code)) => {
                let _ = self.write(&client::close(code, mask())).await;
                let _ = self.stream.shutdown().await;
                Err(Closed::default())
            }
            None => Err(Closed::default()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Done {
        self.shown_at = Instant::now();
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Closed::cut(format!("the connection was cut: {error}"))),
            Err(_) => Err(Closed::cut("the gateway takes nothing")),
        }
    }
}

/// A mask (RFC 6455 5.3).
fn mask() -> [u8; 4] {
    let [a, b, c, d, ..] = random().to_be_bytes();
    [a, b, c, d]
}
