//! The Tidegate node: everything that does IO.
//!
//! The modules in reading order: how a node starts and its parts, how events get in and are kept, how they
//! get out, what surrounds that.

pub mod app;
pub mod cli;
pub mod config;
mod log_limiter;
mod logs;
pub mod node;

pub mod auth;
pub mod http;

pub mod hub;
pub mod transport;
pub mod worker;

pub mod admin;
pub mod admission;
pub mod metrics;
mod random;
mod refusals;
pub mod systemd;

pub mod dev;
pub mod feed;
mod follow;
pub mod page;
