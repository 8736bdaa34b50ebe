//! What a node gives to an engine.

use std::{sync::Arc, time::Duration};

use crate::{Clock, Feed};

/// Is called after each sync, for metrics.
pub trait SyncObserver: Send + Sync + 'static {
    /// A group of `events` events was written and synced in `took`.
    fn on_sync(&self, took: Duration, events: usize);
}

/// Observes nothing.
impl SyncObserver for () {
    fn on_sync(&self, _: Duration, _: usize) {}
}

/// What an engine needs of the node around it.
#[derive(Clone)]
pub struct Hooks {
    /// Takes what is committed.
    pub feed: Arc<dyn Feed>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts the syncs.
    pub observer: Arc<dyn SyncObserver>,
}
