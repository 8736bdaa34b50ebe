//! When the client of an HTTP/2 connection floods it: by frames that ask for nothing and bring nothing (PING,
//! SETTINGS, PRIORITY and others). Each takes time, and `h2` takes any number of them (CVE-2019-9512, 9513 and
//! 9515). [`Windows`](super::windows::Windows), which reads along, counts them.

use std::time::Instant;

/// How many frames without use the peer may still send: a second's worth comes each second, and some for what it
/// has reason to answer.
#[derive(Debug)]
pub struct Spare {
    frames: f64,
    counted: Instant,
}

/// A client pings a few times a minute, and says at most twice for each 4 KiB how much room it has.
const SPARE_MAX: f64 = 1000.0;
const SPARE_PER_SECOND: f64 = 100.0;
/// A request may be given a priority, room, and an end before its time.
const SPARE_PER_REQUEST: f64 = 4.0;
/// What was sent may be answered by room for its stream and for the connection, unless it was a few bytes: they
/// were all that the peer had given room for.
const SPARE_PER_PIECE: f64 = 2.0;
const SMALL_PIECE_BYTES: f64 = 64.0;
const BYTES_PER_SPARE: f64 = 1024.0;

impl Spare {
    /// As many as may be.
    pub fn full() -> Self {
        Self { frames: SPARE_MAX, counted: Instant::now() }
    }

    fn add(&mut self, frames: f64) {
        self.frames = (self.frames + frames).min(SPARE_MAX);
    }

    /// So many requests and frames without use have come.
    pub fn received(&mut self, requests: u32, useless: u32) {
        self.add(f64::from(requests) * SPARE_PER_REQUEST - f64::from(useless));
    }

    /// So many bytes were sent.
    pub fn sent(&mut self, bytes: f64) {
        self.add(SPARE_PER_PIECE * (bytes / SMALL_PIECE_BYTES).min(1.0) + bytes / BYTES_PER_SPARE);
    }

    /// Whether the peer has sent more frames than it may.
    pub fn is_used_up(&mut self, now: Instant) -> bool {
        self.add(now.saturating_duration_since(self.counted).as_secs_f64() * SPARE_PER_SECOND);
        self.counted = now;
        self.frames < 0.0
    }
}
