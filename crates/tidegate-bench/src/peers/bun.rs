//! Bun's WebSocket server, which is uWebSockets: `peers/bun.ts`, with one topic for all readers.

use std::process::Command;

use super::{
    Dialect, Request, Running, Start, StreamRequest,
    process::{self, Announcement, Server, need},
    upgrade,
};
use crate::{
    digest::{Digest, ReadMessage},
    event::Marks,
};

const SCRIPT: &str = include_str!("../../peers/bun.ts");

/// Starts the server.
pub fn start(start: &Start) -> anyhow::Result<Running> {
    // The npm package creates its launcher when it is installed; the program is in a package of its own.
    let program = start.peers.join("node_modules/@oven/bun-linux-x64/bin/bun");
    need(&program, "bun")?;
    let (dir, script) = process::script("bun.ts", SCRIPT)?;
    let mut command = Command::new(program);
    command.arg("run").arg(&script).arg(if start.compress { "compress" } else { "plain" });
    let (server, announcement): (_, Announcement) =
        Server::announcing_json(&mut command, start.cores.as_ref(), dir)?;
    let dialect = Raw { compress: start.compress, marks: start.marks.clone() };
    let version = format!("Bun {} (uWebSockets)", announcement.version);
    Running::other(announcement.port, version, "peers/bun.ts", server, dialect)
}

/// The protocol: a message is one or several events as they were published. The floors use it too.
pub struct Raw {
    pub compress: bool,
    pub marks: Marks,
}

impl Dialect for Raw {
    fn stream(&self, _: StreamRequest<'_>) -> Request {
        Request { path: "/stream".to_owned(), headers: upgrade(self.compress) }
    }

    fn publish(&self) -> Request {
        Request::of_json("/publish")
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl ReadMessage for Raw {
    fn read(&self, message: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.scan(&self.marks, message);
        digest
    }
}
