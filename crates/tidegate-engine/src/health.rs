//! How well an engine works.

use std::sync::Arc;

/// How well an engine works, as [`Engine::health`](crate::Engine::health) reports it. It may change
/// from any of these to any other; each change is reported to readers and shown by `/readyz`.
///
/// The reasons are sentences for the operator. They may name files and hosts, so readers do not get
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Health {
    /// Appends and reads work.
    #[default]
    Ok,
    /// Some appends or reads fail or are late, or the feed is late. The engine tries to recover by itself.
    Degraded(Arc<str>),
    /// Appends are refused, because there is no room for events (R32). Reads work. Ends by itself when there is
    /// room.
    Full(Arc<str>),
    /// No append is taken. What is in the log can be read. Usually an operator has to act: the local
    /// engines halt after a failed sync and recover by a restart.
    Halted(Arc<str>),
}
