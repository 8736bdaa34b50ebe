//! What a node gives to an engine.

use std::{sync::Arc, time::Duration};

use crate::{Clock, Feed};

/// Is called after each commit, for metrics.
pub trait SyncObserver: Send + Sync + 'static {
    /// A group of `events` events was committed in `took`. That includes the sync, if the policy is to
    /// sync before the answer.
    fn on_sync(&self, took: Duration, events: usize);
}

/// Observes nothing.
impl SyncObserver for () {
    fn on_sync(&self, _: Duration, _: usize) {}
}

/// What an engine needs from its node.
#[derive(Clone)]
pub struct Hooks {
    /// Gets the events that are committed.
    pub feed: Arc<dyn Feed>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Measures the commits.
    pub observer: Arc<dyn SyncObserver>,
}
