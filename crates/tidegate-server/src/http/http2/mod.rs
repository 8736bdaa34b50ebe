//! One HTTP/2 connection: cleartext, by prior knowledge (RFC 9113, section 3.3), for publishers, for
//! readers over SSE, and for all else but WebSocket.
//!
//! Over the `h2` crate itself and not hyper's server on top of it, for that hands an answer to `h2` a
//! chunk at a time once a single byte has room, and cannot take back what then waits: here an answer
//! leaves in pieces that have room, and one that its peer does not take is reset ([`exchange`]).
//!
//! What `h2` bounds by itself: header blocks and their CONTINUATION frames, small DATA frames, resets
//! that the peer provokes, and the answers to PING and SETTINGS, each of which is written before the
//! next frame is read.

mod exchange;
mod received;

use std::{cell::Cell, future::poll_fn, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, server::Connection};
use tokio::sync::Notify;

pub use received::Received;

use crate::{
    config::{LimitSettings, config_key},
    node::Node,
    transport::guarded::{Guarded, Turns},
    worker::{Peer, Worker},
};

/// What a client with prior knowledge begins with (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of a request's body may come before somebody reads it: enough for a publish to fill a line
/// of 40 Mbit/s over 50 ms.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same over all requests of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The largest piece of an answer, and how much of one may wait for its turn on the socket.
const PIECE: usize = 16 << 10;

/// Requests that a client may take back before they were looked at, and such that it may make us take
/// back by breaking rules: more is an attack ("rapid reset", CVE-2023-44487; "made you reset",
/// CVE-2025-8671).
const PENDING_RESETS: usize = 20;
const PROVOKED_RESETS: usize = 100;

/// What is open on one connection.
#[derive(Debug)]
struct Exchanges {
    open: Cell<usize>,
    /// Since when nothing is, or since when the peer knows that it should go.
    quiet: Cell<Instant>,
    ended: Notify,
}

/// One of them; counted out when dropped.
struct Exchange(Rc<Exchanges>);

impl Exchanges {
    fn begin(self: &Rc<Self>) -> Exchange {
        self.open.set(self.open.get() + 1);
        Exchange(self.clone())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Exchange(exchanges) = self;
        exchanges.open.set(exchanges.open.get() - 1);
        if exchanges.open.get() == 0 {
            exchanges.quiet.set(Instant::now());
            exchanges.ended.notify_one();
        }
    }
}

/// Serves a connection whose client begins with [`PREFACE`], until it ends.
pub async fn serve(worker: Rc<Worker>, peer: Peer, socket: Guarded, turns: Arc<Turns>) {
    let node = worker.node.clone();
    let connection = match builder(&node.config().limits).handshake(socket).await {
        Ok(connection) => connection,
        Err(error) => return log_end(&node, &peer, &error),
    };
    if let Err(error) = run(worker, &peer, connection, turns).await {
        log_end(&node, &peer, &error);
    }
}

fn builder(limits: &LimitSettings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    // Checked to be small when the configuration was read.
    let bounded = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(PIECE)
        .max_concurrent_streams(bounded(limits.streams_per_connection))
        .max_header_list_size(bounded(limits.header_bytes.bytes()))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PROVOKED_RESETS));
    builder
}

/// Five inputs: requests, the answer to our ping, the node going away, the end of the last exchange,
/// and the clock.
async fn run(
    worker: Rc<Worker>,
    peer: &Peer,
    mut connection: Connection<Guarded, Bytes>,
    turns: Arc<Turns>,
) -> Result<(), h2::Error> {
    let node = worker.node.clone();
    let mut pulse = Pulse::new(connection.ping_pong());
    let exchanges =
        Rc::new(Exchanges { open: Cell::new(0), quiet: Cell::new(Instant::now()), ended: Notify::new() });
    let mut draining = node.draining.subscribe();
    let (mut is_draining, mut is_leaving) = (false, false);
    loop {
        // Who has only just come is answered once.
        if is_draining && !is_leaving && turns.has_asked() {
            is_leaving = true;
            exchanges.quiet.set(Instant::now());
            connection.graceful_shutdown();
        }
        let due = pulse.due(&node, &exchanges, is_leaving);
        tokio::select! {
            asked = peer.bodies.counted(&worker, connection.accept()) => match asked {
                None => return Ok(()),
                Some(asked) => {
                    let (request, respond) = asked?;
                    // From here on the guard has no head to wait for: frames of many kinds come.
                    if !turns.has_asked() {
                        turns.asked();
                    }
                    let (exchange, worker, peer) = (exchanges.begin(), worker.clone(), peer.clone());
                    tokio::task::spawn_local(async move {
                        exchange::run(worker, peer, request, respond).await;
                        drop(exchange);
                    });
                }
            },
            answered = pulse.answered() => answered?,
            _ = draining.wait_for(Option::is_some), if !is_draining => is_draining = true,
            () = exchanges.ended.notified() => {}
            () = tokio::time::sleep_until(due.into()) => match pulse.act(&node, &exchanges, is_leaving)? {
                Act::Ping => {}
                Act::Leave => {
                    is_leaving = true;
                    exchanges.quiet.set(Instant::now());
                    connection.graceful_shutdown();
                }
                Act::End => {
                    tracing::debug!(peer = %peer.address, "let go of an HTTP/2 connection that is silent");
                    return Ok(());
                }
            },
        }
    }
}

/// What time brings to a connection: with something open, pings that must be answered; else the end
/// after `limits.idle_timeout`.
struct Pulse {
    pings: Option<PingPong>,
    next_ping: Instant,
    /// When the ping went out that is not answered yet.
    pinged: Option<Instant>,
}

/// What the clock has done, or asks for.
enum Act {
    /// It sent a ping.
    Ping,
    /// Nothing has been open for long: the peer is told.
    Leave,
    /// The peer does not answer.
    End,
}

impl Pulse {
    fn new(pings: Option<PingPong>) -> Self {
        Self { pings, next_ping: Instant::now(), pinged: None }
    }

    /// When [`Pulse::act`] is to be called.
    fn due(&mut self, node: &Node, exchanges: &Exchanges, is_leaving: bool) -> Instant {
        let config = node.config();
        if exchanges.open.get() == 0 {
            // A peer that was told to go closes the connection by itself, if it is there.
            let patience = if is_leaving { config.ping.timeout } else { config.limits.idle_timeout };
            self.next_ping = Instant::now() + config.ping.interval;
            return exchanges.quiet.get() + patience;
        }
        self.pinged.map_or(self.next_ping, |pinged| pinged + config.ping.timeout)
    }

    fn act(&mut self, node: &Node, exchanges: &Exchanges, is_leaving: bool) -> Result<Act, h2::Error> {
        if exchanges.open.get() == 0 {
            return Ok(if is_leaving { Act::End } else { Act::Leave });
        }
        let now = Instant::now();
        if self.pinged.is_some() {
            return Ok(Act::End);
        }
        self.next_ping = now + node.config().ping.interval;
        if let Some(pings) = &mut self.pings {
            pings.send_ping(Ping::opaque())?;
            self.pinged = Some(now);
        }
        Ok(Act::Ping)
    }

    /// Waits for the answer to a ping; for ever, where none went out.
    async fn answered(&mut self) -> Result<(), h2::Error> {
        match &mut self.pings {
            Some(pings) if self.pinged.is_some() => {
                poll_fn(|context| pings.poll_pong(context)).await?;
                self.pinged = None;
                Ok(())
            }
            _ => std::future::pending().await,
        }
    }
}

fn log_end(node: &Node, peer: &Peer, error: &h2::Error) {
    // Floods are all attempts at more streams, or more work for one, than a connection may have.
    if !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
        node.metrics.refusal(config_key!(limits.streams_per_connection));
    }
    // The peer's doing, mostly; what we answered was logged where it was answered.
    tracing::debug!(%error, peer = %peer.address, "end an HTTP/2 connection");
}
