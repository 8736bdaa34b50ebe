//! The wire of Tidegate, for both of its sides: names, cursors, filters, codes, frames, the WebSocket
//! codec, and what a client does with each frame.
//!
//! No IO, no clock, no randomness: bytes and text come in, values go out. What a client needs, and
//! nothing of a gateway: what a gateway decides is `tidegate-core`. The text that all of this follows is
//! PROTOCOL.md.
//!
//! Reading order: names and cursors, then what travels, then the client.

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
pub use code::{Code, Retry};
pub use cursor::{Cursor, CursorError, Epoch, FilterTag, SEQ_MAX, Seq};
pub use filter::Filter;
pub use frame::GapReason;
pub use names::{EventId, EventName, Key, NameError, OrgId, ServiceName, Source, Subject, UserId};
pub use refusal::Refusal;
