//! The Tidegate node.

pub mod engine;
pub mod transport;
