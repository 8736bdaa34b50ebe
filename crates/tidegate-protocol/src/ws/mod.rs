//! WebSocket (RFC 6455), the server's side, sans-IO.
//!
//! Ours because a server frame depends on nothing but its message, so that one [`bytes::Bytes`]
//! can go to every socket, and because an idle connection may own no buffer: no library on offer
//! allows either. Bytes go in and events come out ([`Reader`]); finished frames are made once and
//! shared ([`FrameBuilder`], [`text_frame`]). Reading sockets, answering pings and time limits are
//! the caller's: `tidegate-server`'s `transport`.
//!
//! One extension is spoken, permessage-deflate (RFC 7692): [`extension`] agrees on it, [`Reader`]
//! inflates what clients send, `tidegate_core::deflate` compresses what they get.

mod close;
pub mod extension;
mod frame;
pub mod handshake;
mod head;
mod message;
mod reader;
mod utf8;

pub use close::{Close, REASON_BYTES_MAX, is_sendable};
pub use frame::{
    FrameBuilder, HEADER_BYTES_MAX, binary_frame, close, deflated_frame, header_bytes, header_length,
    is_deflated, ping, pong, text_frame,
};
pub use head::CONTROL_BYTES_MAX;
pub use reader::{Event, Limits, ReadError, Reader};

/// A header line: its name, in any case, and its value.
pub type HeaderLine<'a> = (&'a str, &'a [u8]);
