//! A worker's thread: what wakes it, and in which order it does its work.

use std::{rc::Rc, sync::Arc, thread::JoinHandle, time::Instant};

use tokio::{sync::mpsc, task::LocalSet};

use super::{Accepted, Worker};
use crate::{metrics::LongSlice, node::Node};

/// How many accepted sockets may wait for a worker to take them.
const HANDOVER_MAX: usize = 1024;

/// The function that a worker calls with each socket. It serves the socket in tasks on the worker's thread.
pub type Serve = fn(Rc<Worker>, Accepted);

/// A running worker.
#[derive(Debug)]
pub struct WorkerThread {
    sockets: mpsc::Sender<Accepted>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    /// Starts the thread of worker `id`, which gives each socket to `serve`.
    pub fn start(id: usize, node: Arc<Node>, serve: Serve) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sockets, handed) = mpsc::channel(HANDOVER_MAX);
        let thread = std::thread::Builder::new().name(format!("tidegate-worker-{id}")).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, run(Rc::new(Worker::new(id, node)), handed, serve));
        })?;
        Ok(Self { sockets, thread })
    }

    /// Hands it a socket; gives the socket back if too many wait already.
    pub fn hand(&self, accepted: Accepted) -> Result<(), Box<Accepted>> {
        self.sockets.try_send(accepted).map_err(|error| Box::new(error.into_inner()))
    }

    /// Ends it: it gets no more sockets, and drops the ones it has.
    pub fn stop(self) {
        drop(self.sockets);
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
}

/// Runs until no more sockets can come. Five things wake it: a tick, a socket, a reader that waits to
/// catch up, a commit, and work that is due.
async fn run(worker: Rc<Worker>, mut sockets: mpsc::Receiver<Accepted>, serve: Serve) {
    let notifications = worker.node.hub.notifications(worker.id);
    let mut tick = tokio::time::interval(worker.tick_interval());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = worker.next_work();
        tokio::select! {
            // The branches are tried in this order. Work may be due all the time, so it comes last; the
            // others never take long.
            biased;
            _ = tick.tick(), if !worker.readers.is_ticking() => {
                worker.timed(LongSlice::Timers, || worker.begin_tick());
                worker.node.heartbeats.beat(worker.id);
            }
            socket = sockets.recv() => match socket {
                Some(accepted) => serve(worker.clone(), accepted),
                None => break,
            },
            // This only wakes the loop: from now on `next_work` returns work that is due.
            () = worker.catch_up.notified() => {}
            () = notifications.notified() => {
                // The other tasks that are ready have their turn first. So a burst of commits is served by
                // one pass (R15).
                tokio::task::yield_now().await;
                notifications.take(worker.id).iter().for_each(|org| worker.handle_commit(&org.id));
            }
            () = at(due) => {
                worker.serve_slice();
                // Other tasks of this thread get their turn between two slices.
                tokio::task::yield_now().await;
            }
        }
    }
    worker.catch_up.clear();
}

/// Waits for a time; for ever if there is none.
async fn at(due: Option<Instant>) {
    match due {
        Some(due) if due <= Instant::now() => {}
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
