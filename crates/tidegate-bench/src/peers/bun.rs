//! Bun's WebSocket server, which is uWebSockets: `peers/bun.ts`, a topic that every reader has.

use std::{process::Command, sync::Arc};

use anyhow::Context as _;

use super::{
    Asked, Dialect, Request, Running, Start,
    process::{Announced, Server, need},
    upgrade,
};
use crate::{
    digest::{Digest, Read},
    event::Marks,
    http::Target,
};

const SCRIPT: &str = include_str!("../../peers/bun.ts");

/// Starts one.
pub fn start(start: &Start) -> anyhow::Result<Running> {
    // The npm package's own launcher is written at its installation; the program is beside it.
    let program = start.peers.join("node_modules/@oven/bun-linux-x64/bin/bun");
    need(&program, "run scripts/bench-peers bun, or name its directory by --peers")?;
    let dir = tempfile::tempdir().context("make a directory for the server")?;
    let script = dir.path().join("bun.ts");
    std::fs::write(&script, SCRIPT).context("write the server's script")?;
    let mut command = Command::new(program);
    command.arg("run").arg(&script).arg(if start.compress { "compress" } else { "plain" });
    let (server, line) = Server::announcing(&mut command, start.cores.as_ref(), dir)?;
    let announced: Announced =
        serde_json::from_str(&line).with_context(|| format!("read the server's line: {line}"))?;
    Ok(Running {
        target: Target::parse(&format!("http://127.0.0.1:{}", announced.port))?,
        admin: None,
        orgs: None,
        version: format!("Bun {} (uWebSockets)", announced.version),
        setup: "peers/bun.ts".to_owned(),
        server,
        dialect: Arc::new(Raw { compress: start.compress, marks: start.marks.clone() }),
    })
}

/// Messages are the published events as they are, one or several; the floors speak it too.
pub struct Raw {
    pub compress: bool,
    pub marks: Marks,
}

impl Dialect for Raw {
    fn stream(&self, _: Asked<'_>) -> Request {
        Request { path: "/stream".to_owned(), headers: upgrade(self.compress) }
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

impl Read for Raw {
    fn read(&self, message: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.scan(&self.marks, message);
        digest
    }
}
