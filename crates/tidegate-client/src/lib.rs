//! A client of the Tidegate realtime gateway, for tokio.
//!
//! **What it is.** Sockets, HTTP and timers for clients of a gateway. What a client decides (what a frame
//! means, when to come back, when to ask for a token) is decided by `tidegate_protocol::client`, without IO.
//!
//! **What it is not.** It knows nothing of a gateway's inside, and it prints nothing.

pub mod gateway;
mod random;

pub use tidegate_protocol as protocol;
