//! How bytes reach readers.

pub mod guarded;
mod kind;
pub mod socket;
pub mod upgrade;

pub use kind::Transport;
