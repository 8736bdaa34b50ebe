//! The Tidegate node.

pub mod engine;
