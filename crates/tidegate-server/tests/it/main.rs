//! The gateway over real sockets: the built binary on free ports of the loopback, and clients that
//! speak HTTP and WebSocket byte by byte, so that they can also speak them wrongly.
//!
//! Nothing here sleeps to wait for a state and nothing is timed: a test asks again until the state is
//! there, under a deadline that only a hang meets.

mod client;
mod gateway;
mod held_node;

mod admin;
mod auth;
mod bad_input;
mod bounds;
mod codes;
mod connections;
mod drain;
mod evict;
mod history;
mod limits;
mod memory;
mod proxies;
mod publish;
mod seam;
mod slow;
mod stream_resume;
mod stream_sse;
mod stream_ws;
mod unknown;
