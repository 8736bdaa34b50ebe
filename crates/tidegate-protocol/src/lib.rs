//! The wire of Tidegate, for both of its sides: names, cursors, filters, codes, frames, the WebSocket codec,
//! and how a client follows a stream so that it notices every event that it misses.
//!
//! **What it is.** All that a client needs, and that a gateway and its clients must agree on. PROTOCOL.md
//! is the text that it implements; each item names the section or RFC that it follows.
//!
//! **What it is not.** There is no IO, no clock and no randomness: bytes and text go in, values come out, and
//! time and random numbers are arguments. Nothing here decides anything for a gateway: that is
//! `tidegate-core`. Sockets, HTTP and TLS are the caller's.
//!
//! **Reading order.** [`names`], [`cursor`] and [`filter`], then what travels ([`frame`], [`code`], [`ws`]),
//! then [`client`].
//!
//! # Example
//!
//! A client keeps one [`client::StreamReader`] over all its connections and feeds it every frame. Here a
//! stream resumes from a stored cursor, and one event arrives:
//!
//! ```
//! use tidegate_protocol::{Cursor, client::{StreamReader, Outcome}};
//!
//! let stored: Cursor = "0k3v9x1m2p4qz-41".parse()?;
//! let mut reader = StreamReader::new(Some(stored));
//! reader.connected();
//! reader.take(r#"{"type":"hello","cursor":"0k3v9x1m2p4qz-41-y3sgfaip","head":42}"#);
//! match reader.take(r#"{"type":"event","prev":40,"seq":42,"event":"invoice.paid","data":1}"#) {
//!     Outcome::Events(events) => assert_eq!(events.len(), 1),
//!     Outcome::Hole => unreachable!("a client would reconnect with reader.cursor()"),
//!     other => unreachable!("{other:?}"),
//! }
//! assert_eq!(reader.cursor().map(Cursor::to_string).as_deref(), Some("0k3v9x1m2p4qz-42-y3sgfaip"));
//! # Ok::<(), tidegate_protocol::CursorError>(())
//! ```

// The crate reads no clock, draws no random number, and iterates in no random order (`clippy.toml`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod code;
pub mod cursor;
pub mod filter;
pub mod names;
pub mod time;

pub mod frame;
pub mod gzip_batch;
mod refusal;
pub mod ws;

pub mod client;

pub use self::time::UnixMillis;
pub use code::{Code, Retry, StatusCode};
pub use cursor::{Cursor, CursorError, Epoch, FilterTag, SEQ_MAX, Seq};
pub use filter::Filter;
pub use frame::GapReason;
pub use names::{EventId, EventName, Key, NameError, OrgId, ServiceName, Source, Subject, UserId};
pub use refusal::Refusal;
