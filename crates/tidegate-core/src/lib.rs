//! The sans-IO core of Tidegate: what decides lives here, what touches the world lives in
//! `tidegate-server`.
//!
//! Nothing here reads a clock, draws a random number, opens a socket or logs. Time and randomness
//! are arguments; iteration order is fixed.
//!
//! Comments cite promises and rules by number (P3, R7): `docs/rules.md` has them all, with their tests.
//!
//! Reading order: names and places, events and logs, then what travels.

pub mod code;
pub mod cursor;
pub mod event;
pub mod filter;
pub mod log;
pub mod names;

pub mod json;
pub mod publish;

pub mod batch;
pub mod client;
pub mod deflate;
pub mod envelope;
pub mod frame;
pub mod gzip;
pub mod opening;
pub mod pace;
pub mod replay;
pub mod session;
pub mod slow;
pub mod tail;
mod witness;
pub mod ws;

pub use batch::{Batch, Budget, View, ViewKey};
pub use code::Code;
pub use cursor::{Cursor, CursorError, Epoch, FilterTag, SEQ_MAX, Seq};
pub use event::{ContentHash, DedupKey, Event, NewEvent, UnixMillis};
pub use filter::Filter;
pub use frame::{Framing, GapReason, Refusal};
pub use log::{Ancestor, LogState};
pub use names::{EventId, EventName, Key, NameError, OrgId, ServiceName, Source, Subject, UserId};
pub use session::Session;
pub use tail::{BatchLimits, Next, Tail};
