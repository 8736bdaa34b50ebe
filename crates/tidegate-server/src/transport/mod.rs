//! How bytes reach readers: sockets, the upgrade to WebSocket, timeouts, the windows of HTTP/2.

pub mod guarded;
mod kind;
pub mod socket;
pub mod upgrade;
pub mod vanished;
pub mod windows;

pub use kind::Transport;
