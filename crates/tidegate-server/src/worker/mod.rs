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
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::mpsc, task::LocalSet};

pub use live::Local;
pub use reader::{Reader, Sink, StreamRequest, no_log, unreadable};

use crate::{
    http,
    node::Node,
    transport::guarded::{Guarded, Patience, Turns},
};

/// How many accepted sockets may wait for a worker to take them.
const HANDOVER_MAX: usize = 1024;

/// How much longer than `limits.write_timeout` a socket under HTTP may take nothing.
const STALL_GRACE: Duration = Duration::from_secs(3);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    sockets: mpsc::Sender<(std::net::TcpStream, SocketAddr)>,
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
    pub fn hand(&self, stream: std::net::TcpStream, peer: SocketAddr) -> Result<(), std::net::TcpStream> {
        self.sockets.try_send((stream, peer)).map_err(|error| error.into_inner().0)
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
async fn run(local: Rc<Local>, mut sockets: mpsc::Receiver<(std::net::TcpStream, SocketAddr)>) {
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
                Some((stream, peer)) => drop(tokio::task::spawn_local(serve(local.clone(), stream, peer))),
                None => return,
            },
        }
    }
}

/// One HTTP connection, until it ends or turns into a WebSocket.
async fn serve(local: Rc<Local>, stream: std::net::TcpStream, peer: SocketAddr) {
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "take over an accepted socket");
            return;
        }
    };
    let limits = &local.node.config.limits;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        .max_buf_size(limits.header_bytes.bytes().max(8192))
        .max_headers(limits.headers)
        // An SSE client that has gone must be found out now, not when a ping fails: its place is
        // one of its user's few.
        .half_close(false);
    let turns = Arc::new(Turns::default());
    // Longer than a reader's own timeout, which is the one that has a code and a count.
    let patience = Patience { head: limits.first_frame_timeout, write: limits.write_timeout + STALL_GRACE };
    let guarded = Guarded::new(stream, turns.clone(), patience);
    let service = hyper::service::service_fn({
        let local = local.clone();
        move |request| {
            turns.asked();
            let (answer, turns) = (http::answer(local.clone(), peer, request), turns.clone());
            async move {
                let answer = answer.await;
                turns.answered();
                answer
            }
        }
    });
    let connection = builder.serve_connection(TokioIo::new(guarded), service).with_upgrades();
    if let Err(error) = connection.await {
        // The peer's doing, mostly; what we answered was logged where it was answered.
        tracing::debug!(%error, %peer, "end an HTTP connection");
    }
}
