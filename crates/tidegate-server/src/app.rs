//! The node, started: what the commands `serve` and `dev` hand over to.

use crate::{
    auth::{Publishers, TokenVerifier},
    config::Loaded,
    dev::DevSession,
};

/// Everything that was read and checked before a port is bound.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub loaded: Loaded,
    /// Verifies subscribers' tokens.
    pub tokens: TokenVerifier,
    /// Verifies publishers' API keys.
    pub publishers: Publishers,
    /// Who started it, and what that adds.
    pub mode: RunMode,
}

/// Which command started the node.
#[derive(Debug)]
pub enum RunMode {
    /// `tidegate serve`.
    Serve,
    /// `tidegate dev`.
    Dev {
        /// The development org, token and key; announces the address once it is bound.
        session: Box<DevSession>,
        /// Whether events are made up, for something to be seen.
        feed: bool,
    },
}

/// How a node ended that had started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Asked to by SIGTERM, and everything was drained: exit code 0.
    Drained,
    /// Interrupted from the keyboard: exit code 130.
    Interrupted,
}

/// Runs a node until it is asked to stop.
pub fn run(start: Start) -> anyhow::Result<Ended> {
    // PLUG IN HERE: bind, run, drain. In dev mode, `session.announce` once both listeners are bound.
    let listen = start.loaded.config.listen.public;
    anyhow::bail!("this build has no listeners yet, so nothing listens on {listen}")
}
