//! How bytes reach readers: sockets, the files they may take, the upgrade to WebSocket, timeouts, the windows of
//! HTTP/2.

mod floods;
pub mod guarded;
mod kind;
pub mod socket;
pub mod spare_files;
pub mod upgrade;
pub mod vanished;
pub mod windows;

pub use kind::Transport;
