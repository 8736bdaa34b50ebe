//! Clients of the tests: plain sockets and no library, so that every byte is the test's own; but for
//! HTTP/2, which has a library's client beside frames written by hand.

pub mod http;
pub mod http2;
pub mod sse;
pub mod stream;
pub mod wire;
pub mod ws;
