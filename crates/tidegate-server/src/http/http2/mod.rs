//! One HTTP/2 connection: cleartext, by prior knowledge (RFC 9113, section 3.3), for everything except
//! WebSocket.
//!
//! It uses the `h2` crate itself, not hyper's server on top of it. Hyper gives `h2` a whole chunk of an
//! answer once a single byte has room, and cannot take back the waiting rest. Here an answer leaves in pieces
//! that have room, and an answer that the peer does not take is reset ([`exchange`]).
//!
//! `h2` itself bounds: header blocks and their CONTINUATION frames, small DATA frames, resets that the peer
//! provokes, and the answers to PING and SETTINGS, each of which is written before the next frame is read. How
//! many such frames come is bounded by [`Windows::flooded`].

mod exchange;
mod received;

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, server::Connection};
use tidegate_protocol::{Code, Refusal};
use tokio::sync::Notify;

pub use received::Received;

use exchange::OpenAnswer;

use crate::{
    admission::Quiet,
    config::{LimitSettings, config_key},
    node::Node,
    transport::{
        guarded::{Guarded, RequestState, Slow},
        windows::{Observed, Windows},
    },
    worker::{Peer, Worker, timers},
};

/// The bytes with which a client with prior knowledge begins (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of a request's body may arrive before it is read: enough for a publish to fill a line of 40
/// Mbit/s at a round trip of 50 ms.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same for all requests of a connection together.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// The largest piece of an answer, and how much of one may wait for the socket.
const PIECE: usize = 16 << 10;

/// How many requests a client may reset before they were handled, and how many resets it may provoke by
/// breaking rules. More is an attack ("rapid reset", CVE-2023-44487; "made you reset", CVE-2025-8671).
const PENDING_RESETS: usize = 20;
const PROVOKED_RESETS: usize = 100;

/// The exchanges that are open on one connection.
#[derive(Debug)]
struct Exchanges {
    open: Cell<usize>,
    /// Since when none is open, or since when the peer has been asked to leave.
    quiet: Cell<Instant>,
    /// Whether the last one has ended, and the end of its answer may still wait for the socket.
    is_ending: Cell<bool>,
    ended: Notify,
}

/// One exchange; dropping it ends its count.
struct Exchange(Rc<Exchanges>);

impl Exchanges {
    fn begin(self: &Rc<Self>) -> Exchange {
        self.open.set(self.open.get() + 1);
        self.is_ending.set(false);
        Exchange(self.clone())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Exchange(exchanges) = self;
        exchanges.open.set(exchanges.open.get() - 1);
        if exchanges.open.get() == 0 {
            exchanges.quiet.set(Instant::now());
            exchanges.is_ending.set(true);
            exchanges.ended.notify_one();
        }
    }
}

/// Serves a connection whose client begins with [`PREFACE`], until it ends.
pub async fn serve(worker: Rc<Worker>, peer: Peer, socket: Guarded, state: Arc<RequestState>, quiet: &Quiet) {
    let node = worker.node.clone();
    if let Some(wait) = wait_of(&node, &peer) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = quiet.closing() => return made_room(&peer),
        }
    }
    let windows = Rc::<Windows>::default();
    peer.bodies.set_windows(windows.clone());
    let socket = Observed::new(socket, windows.clone());
    let served = match builder(&node.config().limits).handshake(socket).await {
        Ok(connection) => run(worker, &peer, connection, &windows, &state, quiet).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        handle_end(&node, &peer, &error, state.passed());
    }
}

/// How long a connection waits before it is served, because others of its address have flooded.
fn wait_of(node: &Node, peer: &Peer) -> Option<Duration> {
    let address = peer.address.ip();
    node.floods.wait(address, Instant::now()).filter(|_| !node.is_proxy(address))
}

fn made_room(peer: &Peer) {
    tracing::debug!(peer = %peer.address, "close an HTTP/2 connection that is quiet, to make room");
}

/// A flood is an attempt to get more streams, or more work per stream, than a connection may have.
fn handle_flood(node: &Node, peer: &Peer) {
    node.metrics.refusal(config_key!(limits.streams_per_connection));
    node.floods.add(peer.address.ip(), Instant::now());
}

fn builder(limits: &LimitSettings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    // Small: checked when the configuration was read.
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

/// Has seven inputs: requests, the answer to our ping, a flood, the drain of the node, the end of the last exchange, the
/// need for room, and the clock.
async fn run(
    worker: Rc<Worker>,
    peer: &Peer,
    mut connection: Connection<Observed<Guarded>, Bytes>,
    windows: &Rc<Windows>,
    state: &Arc<RequestState>,
    quiet: &Quiet,
) -> Result<(), h2::Error> {
    let node = worker.node.clone();
    let mut pulse = Pulse::new(connection.ping_pong());
    let exchanges = Rc::new(Exchanges {
        open: Cell::new(0),
        quiet: Cell::new(Instant::now()),
        is_ending: Cell::new(false),
        ended: Notify::new(),
    });
    let mut draining = node.draining.subscribe();
    let (mut is_draining, mut is_leaving) = (false, false);
    loop {
        // A client that has only just connected still gets one answer.
        if is_draining && !is_leaving && state.has_asked() {
            is_leaving = true;
            exchanges.quiet.set(Instant::now());
            connection.graceful_shutdown();
        }
        let due = pulse.due(&node, &exchanges, is_leaving);
        let accepted = async {
            let mut accepted = pin!(connection.accept());
            let accepted = poll_fn(|context| {
                let accepted = accepted.as_mut().poll(context);
                // All that may be sent has been offered to the socket.
                if accepted.is_pending() && exchanges.is_ending.get() && !state.is_shut() {
                    exchanges.is_ending.set(false);
                    quiet.answered();
                }
                accepted
            });
            accepted.await
        };
        tokio::select! {
            asked = peer.bodies.counted(&worker, accepted) => match asked {
                None => return Ok(()),
                Some(asked) => {
                    let (request, respond) = asked?;
                    // From here on the guard does not wait for a request's head: frames of many kinds come.
                    if !state.has_asked() {
                        state.asked();
                    }
                    quiet.asked(false);
                    let (exchange, worker, peer) = (exchanges.begin(), worker.clone(), peer.clone());
                    let answer = OpenAnswer::open(windows, state, respond.stream_id());
                    tokio::task::spawn_local(async move {
                        exchange::run(worker, peer, request, respond, answer).await;
                        drop(exchange);
                    });
                }
            },
            answered = pulse.answered() => answered?,
            () = windows.flooded() => {
                handle_flood(&node, peer);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let _ = poll_fn(|context| connection.poll_closed(context)).await;
                tracing::debug!(peer = %peer.address, "end an HTTP/2 connection that floods");
                return Ok(());
            }
            _ = draining.wait_for(Option::is_some), if !is_draining => is_draining = true,
            // From now on it waits for the idle timeout.
            () = exchanges.ended.notified() => {}
            () = quiet.closing() => {
                made_room(peer);
                return Ok(());
            }
            () = tokio::time::sleep_until(due.into()) => match pulse.act(&node, &exchanges, is_leaving)? {
                Act::Ping => {}
                Act::Leave => {
                    is_leaving = true;
                    exchanges.quiet.set(Instant::now());
                    connection.graceful_shutdown();
                }
                Act::End => {
                    end_silent(&node, peer);
                    return Ok(());
                }
                Act::Forget => {
                    tracing::debug!(peer = %peer.address, "let go of an HTTP/2 connection that is silent");
                    return Ok(());
                }
            },
        }
    }
}

/// The timers of a connection. With something open, pings are sent and must be answered; with nothing open,
/// the connection ends after `limits.idle_timeout`.
struct Pulse {
    pings: Option<PingPong>,
    next_ping: Instant,
    /// When the unanswered ping was sent.
    pinged: Option<Instant>,
}

/// What the timer did, or what the caller must do.
enum Act {
    /// A ping was sent.
    Ping,
    /// Nothing has been open for long: ask the peer to leave.
    Leave,
    /// The peer does not answer a ping: close.
    End,
    /// Nothing is open, and the peer does not close the connection: close.
    Forget,
}

impl Pulse {
    fn new(pings: Option<PingPong>) -> Self {
        Self { pings, next_ping: Instant::now(), pinged: None }
    }

    /// When [`Pulse::act`] must be called.
    fn due(&mut self, node: &Node, exchanges: &Exchanges, is_leaving: bool) -> Instant {
        let config = node.config();
        if exchanges.open.get() == 0 {
            // A living peer that was asked to leave closes the connection by itself.
            let patience = if is_leaving { config.ping.timeout } else { config.limits.idle_timeout };
            self.next_ping = Instant::now() + config.ping.interval;
            return exchanges.quiet.get() + patience;
        }
        self.pinged.map_or(self.next_ping, |pinged| pinged + config.ping.timeout)
    }

    fn act(&mut self, node: &Node, exchanges: &Exchanges, is_leaving: bool) -> Result<Act, h2::Error> {
        if exchanges.open.get() == 0 {
            return Ok(if is_leaving { Act::Forget } else { Act::Leave });
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

    /// Waits for the answer to a ping; for ever, if none was sent.
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

/// Ends the streams of a peer that answers no PING.
fn end_silent(node: &Node, peer: &Peer) {
    let refusal = timers::unanswered();
    let streams = peer.bodies.end(&refusal);
    if streams == 0 {
        // The readers of streams count their ends.
        node.metrics.refusal(config_key!(ping.timeout));
    }
    tracing::info!(peer = %peer.address, streams, "end an HTTP/2 connection: {refusal}");
}

/// What the peer did wrong if a stream ended with this code; `None` if it only left. The codes do not say whose
/// they are. Clients leave with others than those for a breach of the protocol (RFC 9113, section 7), so one of
/// these is `h2`'s.
fn fault(reason: Reason) -> Option<Refusal> {
    match reason {
        Reason::ENHANCE_YOUR_CALM => {
            Some(Refusal::new(Code::RateLimited, "the client floods its HTTP/2 connection"))
        }
        Reason::PROTOCOL_ERROR
        | Reason::FLOW_CONTROL_ERROR
        | Reason::SETTINGS_TIMEOUT
        | Reason::STREAM_CLOSED
        | Reason::FRAME_SIZE_ERROR
        | Reason::COMPRESSION_ERROR => {
            Some(Refusal::new(Code::BadFrame, format!("the client broke a rule of HTTP/2: {reason}")))
        }
        _ => None,
    }
}

/// Counts and logs the failure of a connection, and ends its streams if the peer took nothing. (If the peer broke a
/// rule, each exchange has ended its own.)
fn handle_end(node: &Node, peer: &Peer, error: &h2::Error, passed: Option<Slow>) {
    match passed {
        Some(slow @ (Slow::Answer | Slow::Vanished)) => {
            let refusal = if slow == Slow::Answer { timers::stalled() } else { timers::vanished() };
            if peer.bodies.end(&refusal) == 0 {
                node.metrics.refused(&refusal);
            }
        }
        Some(Slow::Head) => node.metrics.refusal(config_key!(limits.first_frame_timeout)),
        None if !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) => {
            handle_flood(node, peer);
        }
        None => {}
    }
    // Usually the peer's doing. Our own answers were logged where they were made.
    tracing::debug!(%error, peer = %peer.address, "end an HTTP/2 connection");
}
