//! Clients of the tests: plain sockets and no library, so that every byte is the test's own.

pub mod http;
pub mod sse;
pub mod stream;
pub mod ws;
