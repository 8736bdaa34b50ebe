//! Socket.IO over WebSocket: `peers/socketio.mjs`, every reader in the default namespace.
//!
//! Engine.IO 4 puts one digit before a message (`0` open, `2` ping, `3` pong, `4` message), Socket.IO 5
//! another (`40` connect, `42` event).

use std::{process::Command, sync::Arc};

use anyhow::Context as _;

use super::{
    Asked, Dialect, Request, Running, Start,
    process::{Announced, Server, need},
    upgrade,
};
use crate::{
    digest::{Digest, Read, Refused, Word},
    event::Marks,
    http::Target,
};

const SCRIPT: &str = include_str!("../../peers/socketio.mjs");

/// Starts one.
pub fn start(start: &Start) -> anyhow::Result<Running> {
    let peers = std::path::absolute(&start.peers).context("find the peers' directory")?;
    need(
        &peers.join("node_modules/socket.io"),
        "run scripts/bench-peers socketio, or name its directory by --peers",
    )?;
    let dir = tempfile::tempdir().context("make a directory for the server")?;
    let script = dir.path().join("socketio.mjs");
    std::fs::write(&script, SCRIPT).context("write the server's script")?;
    let mut command = Command::new("node");
    command.arg(&script).arg(&peers).arg(if start.compress { "compress" } else { "plain" });
    let (server, line) = Server::announcing(&mut command, start.cores.as_ref(), dir)?;
    let announced: Announced =
        serde_json::from_str(&line).with_context(|| format!("read the server's line: {line}"))?;
    Ok(Running {
        target: Target::parse(&format!("http://127.0.0.1:{}", announced.port))?,
        admin: None,
        orgs: None,
        version: format!("Socket.IO {}", announced.version),
        setup: "peers/socketio.mjs, WebSocket only".to_owned(),
        server,
        dialect: Arc::new(SocketIo { compress: start.compress, marks: start.marks.clone() }),
    })
}

struct SocketIo {
    compress: bool,
    marks: Marks,
}

impl Dialect for SocketIo {
    fn stream(&self, _: Asked<'_>) -> Request {
        Request { path: "/socket.io/?EIO=4&transport=websocket".to_owned(), headers: upgrade(self.compress) }
    }

    fn is_ready_at_once(&self) -> bool {
        false
    }

    fn publish(&self) -> Request {
        Request {
            path: "/publish".to_owned(),
            headers: vec![("content-type", "application/json".to_owned())],
        }
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl Read for SocketIo {
    fn read(&self, message: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.word = match message {
            // Open: a client connects to a namespace then.
            [b'0', ..] => Word::Answer("40".to_owned()),
            [b'2', ..] => Word::Answer("3".to_owned()),
            [b'4', b'0', ..] => Word::Ready { cursor: None, head: 0 },
            [b'4', b'2', ..] => {
                digest.scan(&self.marks, message);
                Word::Events
            }
            [b'1' | b'4', rest @ ..] => Word::Refused(Refused {
                code: "closed".to_owned(),
                message: String::from_utf8_lossy(rest).into_owned(),
                limit: None,
                retry_in_ms: None,
            }),
            _ => Word::Broken("a message is none of Engine.IO 4".to_owned()),
        };
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Mark;

    #[test]
    fn packets() {
        let marks = Marks::of_run(1);
        let dialect = SocketIo { compress: false, marks: marks.clone() };
        let read = |text: &str| dialect.read(text.as_bytes());
        assert_eq!(read(r#"0{"sid":"x","pingInterval":25000}"#).word, Word::Answer("40".into()));
        assert_eq!(read(r#"40{"sid":"y"}"#).word, Word::Ready { cursor: None, head: 0 });
        assert_eq!(read("2").word, Word::Answer("3".into()));
        let mut text = String::from(r#"42["event",{"data":{"mark":""#);
        marks.write(&mut text, Mark { publisher: 1, number: 2, intended_us: 3 });
        text.push_str(r#""}}]"#);
        assert_eq!((read(&text).word, read(&text).marks.len()), (Word::Events, 1));
        assert!(matches!(read(r#"44{"message":"no"}"#).word, Word::Refused(_)));
        assert!(matches!(read("hello").word, Word::Broken(_)));
    }
}
