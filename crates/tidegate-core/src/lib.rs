//! What a Tidegate gateway decides, sans-IO. The wire itself, which a client needs too, is
//! `tidegate-protocol`; what touches the world is `tidegate-server`.
//!
//! Nothing here reads a clock, draws a random number, opens a socket or logs. Time and randomness
//! are arguments; iteration order is fixed.
//!
//! Comments cite promises and rules by number (P3, R7): `docs/rules.md` has them all, with their tests.
//!
//! Reading order: events and logs, how they get in, what one reader gets of them, and when.

// The crate reads no clock, draws no random number, and iterates in no random order (`clippy.toml`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod event;
pub mod log;

pub mod json;
pub mod publish;

pub mod batch;
pub mod frame;
pub mod tail;

pub mod opening;
pub mod session;
pub mod slow;

pub mod deflate;
pub mod envelope;
pub mod gzip;
mod verifier;

pub mod pace;
pub mod replay;

pub use batch::{Batch, Budget, View};
pub use event::{ContentHash, DedupKey, Event, NewEvent};
pub use frame::{Framing, ViewKey};
pub use log::{Ancestor, LogState};
pub use session::Session;
pub use tail::{BatchLimits, Next, Tail};
