//! Centrifugo with its memory engine, history and recovery enabled: one channel, the JSON protocol.
//!
//! A message is one or several JSON objects, one per line: replies with the `id` of a command, pushes, and
//! an empty object as ping.

use std::{fs, process::Command};

use anyhow::Context as _;
use serde::Deserialize;

use super::{
    Dialect, Request, Running, Start, StreamRequest,
    process::{Server, free_port, need},
    upgrade,
};
use crate::{
    digest::{Digest, MessageKind, ReadMessage, Refused},
    event::Marks,
};

/// Starts the server.
pub fn start(start: &Start) -> anyhow::Result<Running> {
    let program = std::path::absolute(start.peers.join("centrifugo")).context("find the peers' directory")?;
    need(&program, "centrifugo")?;
    let dir = tempfile::tempdir().context("create a directory for the server")?;
    let port = free_port()?;
    let config = serde_json::json!({
        "http_server": { "address": "127.0.0.1", "port": port.to_string() },
        "client": { "insecure": true, "allowed_origins": ["*"], "connection_limit": 0 },
        "http_api": { "insecure": true },
        "channel": { "without_namespace": {
            "allow_subscribe_for_client": true,
            "history_size": 10_000, "history_ttl": "600s", "force_recovery": true, "force_positioning": true,
        } },
        "websocket": { "compression": start.compress, "compression_min_size": 0 },
        "usage_stats": { "enabled": false },
        "log": { "level": "error" },
    });
    let file = dir.path().join("config.json");
    fs::write(&file, config.to_string()).context("write config.json")?;
    let mut command = Command::new(&program);
    command.arg("--config").arg(&file).current_dir(dir.path());
    let server = Server::listening(&mut command, start.cores.as_ref(), dir, port)?;
    let dialect = Centrifugo { compress: start.compress, marks: start.marks.clone() };
    let version = format!("Centrifugo {}", VERSION);
    Running::other(port, version, "memory engine, history and recovery on, JSON", server, dialect)
}

/// The version that `scripts/bench-peers` installs. A program built from the module proxy does not know its
/// version.
const VERSION: &str = "6.9.1";

struct Centrifugo {
    compress: bool,
    marks: Marks,
}

impl Dialect for Centrifugo {
    fn stream(&self, _: StreamRequest<'_>) -> Request {
        Request { path: "/connection/websocket".to_owned(), headers: upgrade(self.compress) }
    }

    fn greeting(&self) -> &'static [&'static str] {
        &["{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"all\"}}"]
    }

    fn is_ready_at_once(&self) -> bool {
        false
    }

    fn publish(&self) -> Request {
        Request::of_json("/api/publish")
    }

    fn wrap(&self) -> (&'static str, &'static str) {
        (r#"{"channel":"all","data":"#, "}")
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl ReadMessage for Centrifugo {
    fn read(&self, message: &[u8]) -> Digest {
        #[derive(Deserialize)]
        struct Reply {
            id: Option<u32>,
            error: Option<Problem>,
        }
        #[derive(Deserialize)]
        struct Problem {
            code: u32,
            message: String,
        }
        let mut digest = Digest::default();
        digest.scan(&self.marks, message);
        if !digest.marks.is_empty() || digest.has_probe {
            return digest;
        }
        for line in message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Reply>(line) {
                _ if line == b"{}" => digest.kind = MessageKind::Reply("{}".to_owned()),
                Ok(Reply { error: Some(Problem { code, message }), .. }) => {
                    digest.kind = MessageKind::Refused(Refused {
                        code: code.to_string(),
                        message,
                        limit: None,
                        retry_in_ms: None,
                    });
                }
                Ok(Reply { id: Some(2), .. }) => digest.kind = MessageKind::Ready { cursor: None, head: 0 },
                Ok(_) => {}
                Err(error) => digest.kind = MessageKind::Broken(format!("a reply is not JSON: {error}")),
            }
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Mark;

    #[test]
    fn the_version_is_the_one_that_is_installed() {
        let script = include_str!("../../../../scripts/bench-peers");
        assert!(script.contains(&format!("centrifugo=v{VERSION}\n")));
    }

    #[test]
    fn replies_and_pushes() {
        let marks = Marks::of_run(1);
        let dialect = Centrifugo { compress: false, marks: marks.clone() };
        let read = |text: &str| dialect.read(text.as_bytes());
        let both = "{\"id\":1,\"connect\":{\"client\":\"c\",\"ping\":25}}\n{\"id\":2,\"subscribe\":{\"epoch\":\"e\"}}";
        assert_eq!(read(both).kind, MessageKind::Ready { cursor: None, head: 0 });
        assert_eq!(read(r#"{"id":1,"connect":{}}"#).kind, MessageKind::Events);
        assert_eq!(read("{}").kind, MessageKind::Reply("{}".into()));
        assert!(matches!(
            read(r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#).kind,
            MessageKind::Refused(_)
        ));
        let mut text = String::new();
        for number in 0..2 {
            text.push_str(r#"{"push":{"channel":"all","pub":{"data":{"data":{"mark":""#);
            marks.write(&mut text, Mark { publisher: 0, number, intended_us: 1 });
            text.push_str("\"}},\"offset\":1}}}\n");
        }
        assert_eq!((read(&text).marks.len(), read(&text).kind), (2, MessageKind::Events));
        assert!(matches!(read("x").kind, MessageKind::Broken(_)));
    }
}
