//! Workers: each a thread with a runtime of its own that owns the connections it was handed, from
//! the first byte to the last (R7).
//!
//! A sealed batch wakes a worker once; the worker walks its readers that stand at the head and hands
//! each the shared bytes without waiting. Who cannot take them leaves the walk for its own task.
//!
//! Reading order: this file (the thread), `live` (the walk), `reader` (one stream), then the two
//! transports, `websocket` and `sse`.

mod live;
mod reader;
pub mod sse;
pub mod websocket;

use std::{
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::mpsc::{self, error::TrySendError},
    task::LocalSet,
};

pub use live::Local;
pub use reader::{Reader, Sink, StreamRequest, no_log, unreadable};

use crate::{
    http,
    node::{Node, OpenSocket},
    transport::guarded::{Guarded, Patience, Turns},
};

/// How many accepted sockets may wait for a worker to take them.
const HANDOVER_MAX: usize = 1024;

/// How much longer than `limits.write_timeout` a socket under HTTP may take nothing.
const STALL_GRACE: Duration = Duration::from_secs(3);

/// A socket on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: std::net::TcpStream,
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// Its place in the count of sockets.
    pub place: OpenSocket,
}

/// Who asks, and what its socket is counted by.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address at the other end.
    pub address: SocketAddr,
    /// Kept as long as the socket is.
    pub place: Rc<OpenSocket>,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    sockets: mpsc::Sender<Accepted>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread of worker `id`.
    pub fn start(id: usize, node: Arc<Node>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sockets, handed) = mpsc::channel(HANDOVER_MAX);
        let thread = std::thread::Builder::new().name(format!("tidegate-worker-{id}")).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, run(Rc::new(Local::new(id, node)), handed));
        })?;
        Ok(Self { sockets, thread })
    }

    /// Hands it a socket; gives it back where the worker has too many waiting.
    pub fn hand(&self, accepted: Accepted) -> Result<(), Accepted> {
        self.sockets.try_send(accepted).map_err(TrySendError::into_inner)
    }

    /// Ends it: no more sockets; the ones it has are dropped.
    pub fn stop(self) {
        drop(self.sockets);
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
}

/// The worker's thread: sockets come, batches come, time passes. Ends when no more sockets can come.
async fn run(local: Rc<Local>, mut sockets: mpsc::Receiver<Accepted>) {
    let calls = local.node.hub.calls(local.id);
    let mut tick = tokio::time::interval(local.tick());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            orgs = calls.next(local.id) => {
                for org in orgs {
                    local.walk(&org);
                }
                // Others on this thread get their turn between two rounds.
                tokio::task::yield_now().await;
            }
            _ = tick.tick() => local.tick_all(Instant::now()),
            socket = sockets.recv() => match socket {
                Some(accepted) => drop(tokio::task::spawn_local(serve(local.clone(), accepted))),
                None => return,
            },
        }
    }
}

/// One HTTP connection, until it ends or turns into a WebSocket.
async fn serve(local: Rc<Local>, accepted: Accepted) {
    let Accepted { stream, peer, place } = accepted;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "take over an accepted socket");
            return;
        }
    };
    let limits = &local.node.config.limits;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(limits.header_bytes.bytes().max(8192))
        .max_headers(limits.headers);
    let turns = Arc::new(Turns::default());
    // Longer than a reader's own timeout, which is the one that has a code and a count.
    let patience = Patience { head: limits.first_frame_timeout, write: limits.write_timeout + STALL_GRACE };
    let guarded = Guarded::new(stream, turns.clone(), patience);
    // An upgraded socket takes its place in the count along.
    let place = Rc::new(place);
    let service = hyper::service::service_fn({
        let local = local.clone();
        move |request| {
            turns.asked();
            let peer = Peer { address: peer, place: place.clone() };
            let (answer, turns) = (http::answer(local.clone(), peer, request), turns.clone());
            async move {
                let answer = answer.await;
                turns.answered();
                answer
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(guarded), service).with_upgrades());
    let mut draining = local.node.draining.subscribe();
    let mut is_leaving = false;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            _ = draining.wait_for(Option::is_some), if !is_leaving => {
                // What is being answered is finished; streams end by their own drain.
                is_leaving = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        // The peer's doing, mostly; what we answered was logged where it was answered.
        tracing::debug!(%error, %peer, "end an HTTP connection");
    }
}
