//! nchan, a module of nginx: one channel, one worker, WebSocket and SSE subscribers.

use std::{fs, process::Command};

use anyhow::Context as _;

use super::{
    Dialect, Request, Running, Start, StreamRequest, Transport, event_stream,
    process::{Server, free_port, need},
    upgrade,
};
use crate::{
    digest::{Digest, ReadMessage},
    event::Marks,
};

/// Starts the server.
pub fn start(start: &Start) -> anyhow::Result<Running> {
    let root = std::path::absolute(start.peers.join("nchan")).context("find the peers' directory")?;
    let program = root.join("usr/sbin/nginx");
    need(&program, "nchan")?;
    let dir = tempfile::tempdir().context("create a directory for the server")?;
    let port = free_port()?;
    let at = dir.path().display();
    // The buffer is larger than any run needs: a message that leaves it too early would be lost.
    let config = format!(
        "load_module {module};
daemon off; worker_processes 1; pid {at}/pid; error_log {at}/nginx.log warn;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 1h;
  client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
  nchan_shared_memory_size 512M; nchan_message_buffer_length 100000; nchan_message_timeout 60s;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /stream {{ nchan_subscriber websocket eventsource; nchan_channel_id all;
      nchan_subscriber_first_message newest; {deflate} }}
    location = /publish {{ nchan_publisher http; nchan_channel_id all; client_max_body_size 4m;
      client_body_buffer_size 4m; {compress} }}
  }}
}}
",
        module = root.join("usr/lib/nginx/modules/ngx_nchan_module.so").display(),
        files = start.connections + 200,
        deflate = "",
        compress = if start.compress { "nchan_deflate_message_for_websocket on;" } else { "" },
    );
    let file = dir.path().join("nginx.conf");
    fs::write(&file, config).context("write nginx.conf")?;
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let version = Command::new(&program).arg("-v").output().context("run nginx")?;
    let version = String::from_utf8_lossy(&version.stderr);
    let mut command = Command::new(&program);
    command.arg("-c").arg(&file).arg("-p").arg(dir.path()).env("LD_LIBRARY_PATH", libraries);
    let server = Server::listening(&mut command, start.cores.as_ref(), dir, port)?;
    let dialect = Nchan { compress: start.compress, marks: start.marks.clone() };
    let version = format!("nchan 1.3.6 ({})", version.trim().trim_start_matches("nginx version: "));
    Running::other(port, version, "one worker, messages in memory", server, dialect)
}

struct Nchan {
    compress: bool,
    marks: Marks,
}

impl Dialect for Nchan {
    fn stream(&self, stream: StreamRequest<'_>) -> Request {
        let headers = match stream.transport {
            Transport::Ws => upgrade(self.compress),
            Transport::Sse => event_stream(self.compress),
        };
        Request { path: "/stream".to_owned(), headers }
    }

    fn publish(&self) -> Request {
        Request::of_json("/publish")
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl ReadMessage for Nchan {
    fn read(&self, message: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.scan(&self.marks, message);
        digest
    }
}
