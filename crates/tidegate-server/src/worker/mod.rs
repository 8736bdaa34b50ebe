//! Workers: each a thread with a runtime of its own that owns the connections it was handed, from
//! the first byte to the last (R7).
//!
//! A sealed batch wakes a worker once; the worker walks its readers that stand at the head and hands
//! each the shared bytes without waiting. Who cannot take them leaves the walk for its own task, and
//! catches up in turns between the walks.
//!
//! Reading order: this file (the thread), `live` (the walk), `start` and `reader` (one stream, and
//! `clock`, what time brings to it), `replays` and `pages` (those that catch up), then the two transports,
//! `websocket` and `sse`.

mod clock;
mod live;
mod pages;
mod reader;
mod replays;
pub mod sse;
pub mod start;
pub mod websocket;

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::LocalSet,
};

pub use live::Worker;
pub use reader::{Reader, Sink};
pub use start::{Entered, StreamRequest};

use self::sse::Bodies;
use crate::node::{Node, OpenSocket};

/// How many accepted sockets may wait for a worker to take them.
const HANDOVER_MAX: usize = 1024;

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
    /// The client's address: of the socket's other end, or what a trusted proxy there says of it
    /// (`http::client_address`).
    pub address: SocketAddr,
    /// Kept as long as the socket is.
    pub place: Rc<OpenSocket>,
    /// What its connection takes out of bodies of streams.
    pub bodies: Rc<Bodies>,
}

/// What a worker does with a socket: serves it on its thread, in tasks of its own.
pub type Serve = fn(Rc<Worker>, Accepted);

/// A running worker.
#[derive(Debug)]
pub struct WorkerThread {
    sockets: mpsc::Sender<Accepted>,
    turns: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    /// Starts the thread of worker `id`, which gives each socket to `serve`.
    pub fn start(id: usize, node: Arc<Node>, serve: Serve) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sockets, handed) = mpsc::channel(HANDOVER_MAX);
        let turns = Arc::new(AtomicU64::new(0));
        let turned = turns.clone();
        let thread = std::thread::Builder::new().name(format!("tidegate-worker-{id}")).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, run(Rc::new(Worker::new(id, node)), handed, serve, &turned));
        })?;
        Ok(Self { sockets, turns, thread })
    }

    /// Hands it a socket; gives it back where the worker has too many waiting.
    pub fn hand(&self, accepted: Accepted) -> Result<(), Accepted> {
        self.sockets.try_send(accepted).map_err(TrySendError::into_inner)
    }

    /// How often its clock has looked at its readers: it grows several times a second, if the thread
    /// turns.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Ends it: no more sockets; the ones it has are dropped.
    pub fn stop(self) {
        drop(self.sockets);
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
}

/// The worker's thread: sockets come, orgs have news, rounds and turns are due, time passes. Ends when no more
/// sockets can come.
async fn run(worker: Rc<Worker>, mut sockets: mpsc::Receiver<Accepted>, serve: Serve, turns: &AtomicU64) {
    let calls = worker.node.hub.calls(worker.id);
    let mut tick = tokio::time::interval(worker.tick());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = worker.next_work();
        tokio::select! {
            // Rounds may be due all the time: the others come first, for they are never long.
            biased;
            _ = tick.tick(), if !worker.is_ticking() => {
                worker.begin_tick();
                turns.fetch_add(1, Ordering::Relaxed);
            }
            socket = sockets.recv() => match socket {
                Some(accepted) => serve(worker.clone(), accepted),
                None => break,
            },
            // Somebody waits for a turn.
            () = worker.replays.called() => {}
            () = calls.ring() => {
                // What the others of this turn bring goes along (R15).
                tokio::task::yield_now().await;
                calls.take(worker.id).iter().for_each(|org| worker.news(org));
            }
            () = at(due) => {
                worker.serve_slice();
                // Others on this thread get their turn between two slices.
                tokio::task::yield_now().await;
            }
        }
    }
    worker.replays.clear();
}

/// Waits for a time; for ever where there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
