//! The servers that can be measured, one file each: how it is started, what its protocol says.

pub mod bun;
pub mod centrifugo;
pub mod floor;
pub mod nchan;
pub mod process;
pub mod socketio;
pub mod tidegate;

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use serde::Serialize;
use tidegate_protocol::Cursor;

use crate::{affinity::Cores, digest::Read, event::Marks, http::Target};
use process::Server;

/// A server to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Tidegate, started here with these settings.
    Tidegate(Vec<String>),
    /// Bun's WebSocket server, which is uWebSockets.
    Bun,
    SocketIo,
    Nchan,
    Centrifugo,
    /// A bare loop of `send` calls, an event each.
    Floor,
    /// The same loop over batches of 50 ms.
    FloorBatched,
    /// A Tidegate gateway that runs already.
    Address(String),
}

impl Peer {
    /// Those with a name.
    pub const NAMED: [(&'static str, Peer); 7] = [
        ("tidegate", Peer::Tidegate(Vec::new())),
        ("bun", Peer::Bun),
        ("socketio", Peer::SocketIo),
        ("nchan", Peer::Nchan),
        ("centrifugo", Peer::Centrifugo),
        ("floor", Peer::Floor),
        ("floor-batched", Peer::FloorBatched),
    ];

    /// Whether it is Tidegate, which alone has cursors, services and an answer that names places.
    pub fn is_tidegate(&self) -> bool {
        matches!(self, Self::Tidegate(_) | Self::Address(_))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => f.write_str(address),
            Self::Tidegate(settings) if !settings.is_empty() => {
                write!(f, "tidegate+{}", settings.join("+"))
            }
            named => {
                let name = Self::NAMED.iter().find(|(_, peer)| peer == named).map(|(name, _)| *name);
                f.write_str(name.unwrap_or_default())
            }
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((_, peer)) = Self::NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(peer.clone());
        }
        if let Some(settings) = text.strip_prefix("tidegate+") {
            let settings: Vec<_> = settings.split('+').map(str::to_owned).collect();
            if let Some(wrong) = settings.iter().find(|setting| !setting.contains('=')) {
                return Err(format!("{wrong:?} is not a setting such as batch.mode=fixed"));
            }
            return Ok(Self::Tidegate(settings));
        }
        if text.starts_with("http://") {
            return Ok(Self::Address(text.to_owned()));
        }
        if text.starts_with("https://") {
            return Err("TLS is not spoken here: give http:// and the gateway's own port".to_owned());
        }
        let names: Vec<_> = Self::NAMED.iter().map(|(name, _)| *name).collect();
        Err(format!("no peer is called {text:?}; there are {}, or an address http://...", names.join(", ")))
    }
}

/// How readers are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket
    Ws,
    /// Server-sent events
    Sse,
}

impl Transport {
    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "WebSocket",
            Self::Sse => "SSE",
        }
    }
}

/// What one reader asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub transport: Transport,
    /// The services it wants to see; all if none.
    pub services: Option<&'a str>,
    /// Where it wants to go on.
    pub cursor: Option<&'a Cursor>,
}

/// A request's path and headers.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
}

/// A peer's protocol.
pub trait Dialect: Read + Send + Sync {
    /// What opens a stream.
    fn stream(&self, asked: Asked<'_>) -> Request;
    /// What a reader says first, once it is connected.
    fn greeting(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether a reader that is connected is subscribed too; otherwise a message says so.
    fn is_ready_at_once(&self) -> bool {
        true
    }
    /// Where events are published, as JSON.
    fn publish(&self) -> Request;
    /// What is put around a published event; nothing for most.
    fn wrap(&self) -> (&'static str, &'static str) {
        ("", "")
    }
    /// Which events are this run's.
    fn marks(&self) -> &Marks;
}

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Start {
    /// Tidegate's program.
    pub gateway: PathBuf,
    /// Where `scripts/bench-peers` has put the others.
    pub peers: PathBuf,
    /// More settings of Tidegate, as `--set` takes them.
    pub settings: Vec<String>,
    /// How many connections it must hold.
    pub connections: usize,
    /// How many users these belong to, on Tidegate.
    pub users: usize,
    pub compress: bool,
    pub cores: Option<Cores>,
    pub marks: Marks,
    /// For a gateway that runs already.
    pub attached: tidegate::Attached,
}

/// A server that runs.
pub struct Running {
    pub dialect: Arc<dyn Dialect>,
    pub target: Target,
    /// Its program and version.
    pub version: String,
    /// How it was set up, in words for a report.
    pub setup: String,
    pub server: Server,
    /// Where operators look, on Tidegate.
    pub admin: Option<Target>,
    /// What makes further orgs, on a Tidegate that was started here.
    pub orgs: Option<tidegate::Orgs>,
}

/// Starts a peer, or finds the one that runs.
pub fn start(peer: &Peer, start: &Start) -> anyhow::Result<Running> {
    match peer {
        Peer::Tidegate(settings) => tidegate::start(start, settings),
        Peer::Bun => bun::start(start),
        Peer::SocketIo => socketio::start(start),
        Peer::Nchan => nchan::start(start),
        Peer::Centrifugo => centrifugo::start(start),
        Peer::Floor => floor::start(start, 0),
        Peer::FloorBatched => floor::start(start, floor::WINDOW_MS),
        Peer::Address(address) => tidegate::attach(address, start),
    }
}

/// The headers of a WebSocket upgrade.
pub fn upgrade(compress: bool) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("upgrade", "websocket".to_owned()),
        ("connection", "Upgrade".to_owned()),
        ("sec-websocket-version", "13".to_owned()),
        // Whose answer it is stands in no doubt: each connection asks once.
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
    ];
    if compress {
        headers.push(("sec-websocket-extensions", "permessage-deflate".to_owned()));
    }
    headers
}

/// The headers of a stream of server-sent events.
pub fn event_stream(compress: bool) -> Vec<(&'static str, String)> {
    let mut headers = vec![("accept", "text/event-stream".to_owned())];
    if compress {
        headers.push(("accept-encoding", "gzip".to_owned()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_as_they_are_read() {
        for (name, peer) in Peer::NAMED {
            assert_eq!((name.parse(), peer.to_string()), (Ok(peer.clone()), name.to_owned()));
        }
        let fixed = Peer::Tidegate(vec!["batch.mode=fixed".to_owned(), "log.engine=memory".to_owned()]);
        let text = "tidegate+batch.mode=fixed+log.engine=memory";
        assert_eq!((text.parse(), fixed.to_string().as_str()), (Ok(fixed), text));
        assert!("tidegate+fixed".parse::<Peer>().is_err());
        assert_eq!("http://127.0.0.1:1".parse(), Ok(Peer::Address("http://127.0.0.1:1".to_owned())));
        assert!("uws".parse::<Peer>().expect_err("no such peer").contains("floor-batched"));
    }
}
