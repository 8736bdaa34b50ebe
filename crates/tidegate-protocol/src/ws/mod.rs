//! WebSocket (RFC 6455), sans-IO: the server's side, and what a client of the gateway needs ([`client`]).
//!
//! Bytes go in and events come out ([`MessageReader`]); finished frames are made once and shared
//! ([`FrameBuilder`], [`text_frame`]). Reading sockets, answering pings and time limits are the caller's:
//! `tidegate-server`'s `transport`, and `tidegate-client`.
//!
//! Why not a library: a server frame depends only on its message, so one [`bytes::Bytes`] can go to every
//! socket, and an idle connection needs no buffer. No library known to us allows either.
//!
//! One extension is supported, permessage-deflate (RFC 7692): [`extension`] negotiates it, [`MessageReader`]
//! inflates what clients send, and `tidegate_core::deflate` compresses what they receive.

pub mod client;
mod close;
mod error;
pub mod extension;
mod frame;
pub mod handshake;
mod head;
mod inflate;
mod message;
mod reader;
mod received;
mod utf8;

pub use close::{Close, REASON_BYTES_MAX, is_sendable};
pub use error::Violation;
pub use frame::{
    FrameBuilder, HEADER_BYTES_MAX, binary_frame, close, deflated_frame, header_bytes, header_length,
    is_deflated, ping, pong, text_frame,
};
pub use head::CONTROL_BYTES_MAX;
pub use inflate::Inflater;
pub use reader::{Limits, MessageReader};
pub use received::Received;

/// A header line: its name, in any case, and its value.
pub type HeaderLine<'a> = (&'a str, &'a [u8]);
