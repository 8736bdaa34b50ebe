//! The Tidegate node.

pub mod config;
pub mod engine;
