//! Estimates of memory for holders that do not count their own bytes.

use crate::transport::Transport;

/// A shared compressor (`core::deflate`).
pub(super) const COMPRESSOR: u64 = 260 << 10;

/// A reader with its connection and its tasks, idle, as measured (docs/measurements.md).
pub(super) fn of_reader(transport: Transport) -> u64 {
    match transport {
        Transport::WebSocket => 2 << 10,
        Transport::Sse => 32 << 10,
    }
}

/// The resident pages of the program's file; 0 on a system without /proc.
pub(super) fn of_program() -> u64 {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    // proc(5): size, resident, shared.
    let pages = statm.split(' ').nth(2).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}
