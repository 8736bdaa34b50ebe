//! Socket.IO over WebSocket: `peers/socketio.mjs`, with all readers in the default namespace.
//!
//! Engine.IO 4 puts a digit before a message (`0` open, `2` ping, `3` pong, `4` message); Socket.IO 5 adds
//! another (`40` connect, `42` event).

use std::process::Command;

use anyhow::Context as _;

use super::{
    Dialect, Request, Running, Start, StreamRequest,
    process::{self, Announcement, Server, need},
    upgrade,
};
use crate::{
    digest::{Digest, MessageKind, ReadMessage, Refused},
    event::Marks,
};

const SCRIPT: &str = include_str!("../../peers/socketio.mjs");

/// Starts the server.
pub fn start(start: &Start) -> anyhow::Result<Running> {
    let peers = std::path::absolute(&start.peers).context("find the peers' directory")?;
    need(&peers.join("node_modules/socket.io"), "socketio")?;
    let (dir, script) = process::script("socketio.mjs", SCRIPT)?;
    let mut command = Command::new("node");
    command.arg(&script).arg(&peers).arg(if start.compress { "compress" } else { "plain" });
    let (server, announcement): (_, Announcement) =
        Server::announcing_json(&mut command, start.cores.as_ref(), dir)?;
    let dialect = SocketIo { compress: start.compress, marks: start.marks.clone() };
    let version = format!("Socket.IO {}", announcement.version);
    Running::other(announcement.port, version, "peers/socketio.mjs, WebSocket only", server, dialect)
}

struct SocketIo {
    compress: bool,
    marks: Marks,
}

impl Dialect for SocketIo {
    fn stream(&self, _: StreamRequest<'_>) -> Request {
        Request { path: "/socket.io/?EIO=4&transport=websocket".to_owned(), headers: upgrade(self.compress) }
    }

    fn is_ready_at_once(&self) -> bool {
        false
    }

    fn publish(&self) -> Request {
        Request::of_json("/publish")
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl ReadMessage for SocketIo {
    fn read(&self, message: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.kind = match message {
            // Open: the client connects to a namespace now.
            [b'0', ..] => MessageKind::Reply("40".to_owned()),
            [b'2', ..] => MessageKind::Reply("3".to_owned()),
            [b'4', b'0', ..] => MessageKind::Ready { cursor: None, head: 0 },
            [b'4', b'2', ..] => {
                digest.scan(&self.marks, message);
                MessageKind::Events
            }
            [b'1' | b'4', rest @ ..] => MessageKind::Refused(Refused {
                code: "closed".to_owned(),
                message: String::from_utf8_lossy(rest).into_owned(),
                limit: None,
                retry_in_ms: None,
            }),
            _ => MessageKind::Broken("a message is not Engine.IO 4".to_owned()),
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
        assert_eq!(read(r#"0{"sid":"x","pingInterval":25000}"#).kind, MessageKind::Reply("40".into()));
        assert_eq!(read(r#"40{"sid":"y"}"#).kind, MessageKind::Ready { cursor: None, head: 0 });
        assert_eq!(read("2").kind, MessageKind::Reply("3".into()));
        let mut text = String::from(r#"42["event",{"data":{"mark":""#);
        marks.write(&mut text, Mark { publisher: 1, number: 2, intended_us: 3 });
        text.push_str(r#""}}]"#);
        assert_eq!((read(&text).kind, read(&text).marks.len()), (MessageKind::Events, 1));
        assert!(matches!(read(r#"44{"message":"no"}"#).kind, MessageKind::Refused(_)));
        assert!(matches!(read("hello").kind, MessageKind::Broken(_)));
    }
}
