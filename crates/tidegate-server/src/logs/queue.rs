//! The log lines that wait for standard error: a bounded queue, which a thread of its own writes out.
//!
//! No thread that logs waits for standard error: a pipe that nobody reads would stop the workers. Lines that do not
//! fit are dropped and counted. (`tracing-appender` bounds the number of lines, not their bytes, does not count
//! the lines whose write failed, and may print to standard output when the process ends.)

use std::{
    io,
    os::fd::AsFd as _,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::io::Errno;

/// How many bytes of lines may wait; as many again may be on their way out.
const BYTES_MAX: usize = 4 << 20;

/// How long a standard error that takes nothing now is left alone, if it does not block (`O_NONBLOCK`).
const NOT_NOW: Duration = Duration::from_millis(10);

/// The queue.
#[derive(Debug)]
pub(super) struct LineQueue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// Whether lines that were taken out of `bytes` are being written.
    is_writing: bool,
    /// LineQueue that were not written.
    dropped: u64,
    /// How many of them the log itself has reported.
    reported: u64,
}

impl LineQueue {
    pub(super) const fn new() -> Self {
        let waiting = Waiting { bytes: Vec::new(), is_writing: false, dropped: 0, reported: 0 };
        Self { waiting: Mutex::new(waiting), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a whole line, or drops and counts it if there is no room.
    pub(super) fn add(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > BYTES_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// How many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits until every line is written or dropped, but not longer than `within`.
    pub(super) fn flush(&self, within: Duration) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.bytes.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), within, is_busy));
    }

    /// Waits for lines and writes all that wait. Returns how many were dropped and not reported before, once
    /// lines are written again and none waits.
    pub(super) fn write_waiting(
        &self,
        batch: &mut Vec<u8>,
        write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> Option<u64> {
        let waiting = self.changed.wait_while(self.lock(), |waiting| waiting.bytes.is_empty());
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.bytes, batch);
        waiting.is_writing = true;
        drop(waiting);
        let lost = write_all(batch, write);
        // The buffers of a burst are not kept.
        batch.clear();
        batch.shrink_to(64 << 10);
        let mut waiting = self.lock();
        waiting.is_writing = false;
        waiting.dropped += lost;
        let unreported = waiting.dropped - waiting.reported;
        let is_moving = lost == 0 && waiting.bytes.is_empty();
        if is_moving {
            waiting.reported = waiting.dropped;
        }
        drop(waiting);
        self.changed.notify_all();
        (is_moving && unreported > 0).then_some(unreported)
    }
}

/// Writes `bytes`; returns how many lines were not written, at least in part.
fn write_all(mut bytes: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> u64 {
    while !bytes.is_empty() {
        match write(bytes) {
            Ok(count) if count > 0 => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(NOT_NOW),
            // Closed (`EPIPE`), or a file on a full disk: the next lines are tried again.
            Ok(_) | Err(_) => return bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
    0
}

/// Writes to standard error without its lock, so that nobody else waits for it while this does.
pub(super) fn write_to_stderr(bytes: &[u8]) -> io::Result<usize> {
    rustix::io::write(io::stderr().as_fd(), bytes).map_err(|error: Errno| error.into())
}

/// A line comes with one call: the subscriber formats it whole before it writes.
impl io::Write for &LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_reported_once_lines_are_written_again() {
        let lines = LineQueue::new();
        let line = [b"a".repeat(BYTES_MAX / 2 - 1), b"\n".to_vec()].concat();
        for _ in 0..5 {
            lines.add(&line);
        }
        assert_eq!(lines.dropped(), 3);
        lines.flush(Duration::ZERO);
        let (mut written, mut batch) = (Vec::new(), Vec::new());
        let mut write = |bytes: &[u8]| {
            written.extend_from_slice(&bytes[..bytes.len().min(1000)]);
            Ok(bytes.len().min(1000))
        };
        assert_eq!(lines.write_waiting(&mut batch, &mut write), Some(3));
        lines.add(b"b\n");
        assert_eq!(lines.write_waiting(&mut batch, &mut write), None);
        assert!(written == [line.clone(), line, b"b\n".to_vec()].concat(), "whole lines, in order");
        assert!(batch.capacity() <= 64 << 10);
    }

    #[test]
    fn the_lines_of_a_failed_write_count_as_dropped() {
        let lines = LineQueue::new();
        lines.add(b"first\n");
        lines.add(b"second\n");
        let mut batch = Vec::new();
        let mut results = [
            Err(io::ErrorKind::Interrupted.into()),
            Err(io::ErrorKind::WouldBlock.into()),
            Ok(3),
            Err(io::ErrorKind::BrokenPipe.into()),
            Ok(6),
        ]
        .into_iter();
        let mut write = |_: &[u8]| results.next().unwrap_or(Ok(0));
        assert_eq!(lines.write_waiting(&mut batch, &mut write), None);
        assert_eq!(lines.dropped(), 2);
        lines.add(b"third\n");
        assert_eq!(lines.write_waiting(&mut batch, &mut write), Some(2));
        lines.flush(Duration::MAX);
    }
}
