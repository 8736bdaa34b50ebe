//! How bytes reach readers: sockets, the upgrade to WebSocket, timeouts.

pub mod guarded;
mod kind;
pub mod socket;
pub mod upgrade;
pub mod vanished;

pub use kind::Transport;
