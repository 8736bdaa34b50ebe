//! The bytes that the streams of one worker have sent since its last tick.
//!
//! They are counted in cells of the worker's own thread, so that a send to one of ten thousand readers touches
//! no counter that other threads write to. Each tick adds them to the metrics.

use std::cell::Cell;

use crate::{metrics::Metrics, transport::Transport};

/// The bytes by transport.
#[derive(Debug, Default)]
pub struct SentBytes {
    websocket: Cell<u64>,
    sse: Cell<u64>,
}

impl SentBytes {
    fn of(&self, transport: Transport) -> &Cell<u64> {
        match transport {
            Transport::WebSocket => &self.websocket,
            Transport::Sse => &self.sse,
        }
    }

    /// Counts bytes.
    pub fn add(&self, transport: Transport, bytes: u64) {
        let cell = self.of(transport);
        cell.set(cell.get() + bytes);
    }

    /// Adds what was counted to the metrics.
    pub fn report(&self, metrics: &Metrics) {
        for transport in [Transport::WebSocket, Transport::Sse] {
            let bytes = self.of(transport).take();
            if bytes > 0 {
                metrics.sent(transport, bytes);
            }
        }
    }
}
