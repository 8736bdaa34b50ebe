//! The servers that can be measured, one file each: how to start it, and its protocol.

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

use crate::{affinity::Cores, digest::ReadMessage, event::Marks, http::Target};
use process::Server;

/// A server to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Tidegate, started by this tool with these settings.
    Tidegate(Vec<String>),
    /// Bun's WebSocket server, which is uWebSockets.
    Bun,
    SocketIo,
    Nchan,
    Centrifugo,
    /// A bare loop of `send` calls, one event each.
    Floor,
    /// The same loop with batches of 50 ms.
    FloorBatched,
    /// A Tidegate gateway that is already running.
    Address(String),
}

impl Peer {
    /// The servers with a name.
    pub const NAMED: [(&'static str, Peer); 7] = [
        ("tidegate", Peer::Tidegate(Vec::new())),
        ("bun", Peer::Bun),
        ("socketio", Peer::SocketIo),
        ("nchan", Peer::Nchan),
        ("centrifugo", Peer::Centrifugo),
        ("floor", Peer::Floor),
        ("floor-batched", Peer::FloorBatched),
    ];

    /// Whether it is Tidegate. Only Tidegate has cursors, services and orgs.
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
            return Err("TLS is not supported: give http:// and the gateway's own port".to_owned());
        }
        let names: Vec<_> = Self::NAMED.iter().map(|(name, _)| *name).collect();
        Err(format!(
            "{text:?} is not a known server; give one of {}, or an address http://...",
            names.join(", ")
        ))
    }
}

/// The transport of readers.
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

/// What one reader subscribes to.
#[derive(Debug, Clone, Copy)]
pub struct StreamRequest<'a> {
    pub transport: Transport,
    /// The services of the subscription; all if none.
    pub services: Option<&'a str>,
    /// The cursor to resume from.
    pub cursor: Option<&'a Cursor>,
}

/// A request's path and headers.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
}

/// The protocol of a server.
pub trait Dialect: ReadMessage + Send + Sync {
    /// The request that opens a stream.
    fn stream(&self, stream: StreamRequest<'_>) -> Request;
    /// The messages that a reader sends first.
    fn greeting(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether a connected reader is subscribed at once. If not, a message of kind `Ready` says when it is.
    fn is_ready_at_once(&self) -> bool {
        true
    }
    /// The request that publishes events, without its body.
    fn publish(&self) -> Request;
    /// Text before and after a published event; most servers need none.
    fn wrap(&self) -> (&'static str, &'static str) {
        ("", "")
    }
    /// The marks of this run's events.
    fn marks(&self) -> &Marks;
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Start {
    /// Path of the tidegate program.
    pub gateway: PathBuf,
    /// Directory in which `scripts/bench-peers` installed the other servers.
    pub peers: PathBuf,
    /// Additional settings of Tidegate, as for `--set`.
    pub settings: Vec<String>,
    /// How many connections the server must hold.
    pub connections: usize,
    /// How many users these connections belong to, on Tidegate.
    pub users: usize,
    pub compress: bool,
    pub cores: Option<Cores>,
    pub marks: Marks,
    /// For a gateway that is already running.
    pub attached: tidegate::Attached,
}

/// A running server.
pub struct Running {
    pub dialect: Arc<dyn Dialect>,
    pub target: Target,
    /// Its name and version.
    pub version: String,
    /// Its setup, as text for a report.
    pub setup: String,
    pub server: Server,
    /// The operators' address, on Tidegate.
    pub admin: Option<Target>,
    /// Creates further orgs, on a Tidegate that this tool started.
    pub orgs: Option<tidegate::OrgCreator>,
}

impl Request {
    /// A request whose body is JSON.
    pub fn of_json(path: &str) -> Self {
        Self { path: path.to_owned(), headers: vec![("content-type", "application/json".to_owned())] }
    }
}

impl Running {
    /// A server other than Tidegate, at `port` of this machine.
    pub fn other(
        port: u16,
        version: String,
        setup: &str,
        server: Server,
        dialect: impl Dialect + 'static,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            dialect: Arc::new(dialect),
            target: Target::parse(&format!("http://127.0.0.1:{port}"))?,
            version,
            setup: setup.to_owned(),
            server,
            admin: None,
            orgs: None,
        })
    }
}

/// Starts a server, or attaches to a running one.
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
        // The key may be constant: each connection sends one request only, so no response can be confused.
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
    ];
    if compress {
        headers.push(("sec-websocket-extensions", "permessage-deflate".to_owned()));
    }
    headers
}

/// The request headers of a stream of server-sent events.
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
