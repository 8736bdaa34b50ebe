//! The Tidegate node: everything that does IO.
//!
//! The modules stand in reading order.

// How a node starts, and what its parts share.
pub mod app;
pub mod cli;
pub mod config;
mod heartbeats;
mod log_limiter;
mod logs;
pub mod node;
mod preflight;

// How requests come in: credentials, and the public listener.
pub mod auth;
pub mod http;

// How events get out: the tails, and the workers that write them to the readers' sockets.
pub mod hub;
pub mod transport;
pub mod worker;

// What the others need: the operators' listener, limits on connections, metrics, deletions, small parts.
pub mod admin;
pub mod admission;
mod deletion;
pub mod engines;
pub mod metrics;
pub mod quotas;
mod random;
mod refusals;
pub mod systemd;

// `tidegate dev` and its page; the client of `tidegate tail`; the kit of `tidegate conformance`.
pub mod conformance;
pub mod dev;
pub mod feed;
pub mod page;
