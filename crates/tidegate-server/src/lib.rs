//! The Tidegate node.

pub mod engine;
pub mod feed;
pub mod page;
