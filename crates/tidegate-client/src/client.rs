//! The application's handle on a running client.

use std::sync::{Arc, Mutex, PoisonError};

use tidegate_protocol::{
    Cursor,
    client::{Session, WakeReason},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{Builder, Ended, Metrics, Status, queue::Queue};

/// What the application asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Wake(WakeReason),
    Shutdown(oneshot::Sender<()>),
}

/// A running client. Clones are handles on the same one; dropping them does not end it, dropping its
/// [`crate::Deliveries`] does.
#[derive(Clone)]
pub struct Client {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) end: watch::Receiver<Option<Option<Ended>>>,
    pub(crate) session: Arc<Mutex<Session>>,
    pub(crate) queue: Arc<Queue>,
}

/// Without the session, which holds the token.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl Client {
    /// Configures a client of the gateway at `url`, such as `https://events.example.com`; a path in it is kept.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    /// What the client is doing, to be watched. A receiver sees the latest status, not each one.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The client's health.
    pub fn metrics(&self) -> Metrics {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        Metrics::of(session.state(), self.queue.len())
    }

    /// The position after all that [`crate::Deliveries`] has given: keep it once that has been handled, and
    /// begin there after a restart. It may be ahead of the last event's own cursor, by events that this client
    /// may not see. `None` until the stream was open for the first time, if it began without a cursor.
    pub fn cursor(&self) -> Option<Cursor> {
        self.queue.given()
    }

    /// Tells the client that the network is back, or that it should look whether its connection still lives:
    /// it does not wait for the end of a long delay.
    pub fn wake(&self) {
        // If there is no room, it is being told already; and a client that has ended cannot be woken.
        let _ = self.commands.try_send(Command::Wake(WakeReason::App));
    }

    /// Ends the client: closes the connection, and returns when it is closed. What had been received can still
    /// be taken from [`crate::Deliveries`].
    pub async fn shutdown(&self) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).await.is_ok() {
            // An error means that the client has ended otherwise meanwhile.
            let _ = is_done.await;
        }
    }

    /// Waits for the client's end: why it ended, or `None` after [`Client::shutdown`] or after
    /// [`crate::Deliveries`] was dropped.
    pub async fn closed(&self) -> Option<Ended> {
        let mut end = self.end.clone();
        // An error means that the runtime is gone.
        let end = end.wait_for(Option::is_some).await.ok()?;
        end.clone().flatten()
    }
}
