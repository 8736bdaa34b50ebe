//! Clients for the tests: plain sockets without a library, so that the test controls every byte; for HTTP/2
//! there are a library's client and frames written by hand.

pub mod http;
pub mod http2;
pub mod sse;
pub mod stream;
pub mod wire;
pub mod ws;
