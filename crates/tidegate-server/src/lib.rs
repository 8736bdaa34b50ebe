//! The Tidegate node: everything that touches the world.
//!
//! Reading order: what a node is made of, how events get in and are kept, how they get out, and what
//! stands around it.

pub mod app;
pub mod config;
pub mod node;

pub mod auth;
pub mod engine;
pub mod http;

pub mod hub;
pub mod transport;
pub mod worker;

pub mod admission;
pub mod metrics;

pub mod feed;
pub mod page;
