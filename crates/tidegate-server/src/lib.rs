//! The Tidegate node.

pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod dev;
pub mod engine;
mod logs;
