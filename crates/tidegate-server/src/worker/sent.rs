//! The bytes that the streams of one worker have sent since its last tick.
//!
//! They are counted in cells of the worker's own thread, so that a send to one of ten thousand readers touches
//! no counter that other threads write to. Each tick adds them to the metrics.

use std::cell::Cell;

use crate::{
    metrics::Metrics,
    transport::{Transport, socket},
};

/// The bytes by transport.
#[derive(Debug, Default)]
pub struct SentBytes {
    sse: Cell<u64>,
}

impl SentBytes {
    /// Counts bytes of event streams that HTTP has taken. Those of WebSockets are counted by the thread
    /// (`transport::socket`), so that an idle connection needs no pointer to this.
    pub fn add_sse(&self, bytes: u64) {
        self.sse.set(self.sse.get() + bytes);
    }

    /// Adds what was counted to the metrics.
    pub fn report(&self, metrics: &Metrics) {
        metrics.sent(Transport::WebSocket, socket::take_sent());
        metrics.sent(Transport::Sse, self.sse.take());
    }
}
