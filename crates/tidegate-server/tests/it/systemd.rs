//! Notifications to a service manager; a datagram socket stands in for it.

use std::{
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
};

use crate::gateway::{DEADLINE, eventually};

/// A service manager and its service.
struct Manager {
    socket: UnixDatagram,
    service: Child,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn start(environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let service = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path())
            .env("NOTIFY_SOCKET", &path)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start it");
        Self { socket, service, _dir: dir }
    }

    /// The next message, by lines.
    fn hears(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text").lines().map(str::to_owned).collect()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[test]
fn it_is_ready_when_it_can_be_reached_and_says_when_it_leaves() {
    let mut manager = Manager::start(&[]);
    let ready = manager.hears();
    assert_eq!(ready[0], "READY=1");
    let status = ready[1].strip_prefix("STATUS=serve ").expect("a status");
    let (public, admin) = status.split_once(", operators at ").expect("two addresses");
    for address in [public, admin] {
        std::net::TcpStream::connect(address).expect("it listens");
    }
    let pid = rustix::process::Pid::from_raw(manager.service.id().cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert_eq!(manager.hears(), ["STOPPING=1", "STATUS=drain"]);
    let service = &mut manager.service;
    let ended = eventually("its end", || service.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn it_says_that_it_lives_where_a_watchdog_asks() {
    let manager = Manager::start(&[("WATCHDOG_USEC", "1000000")]);
    assert_eq!(manager.hears()[0], "READY=1");
    for _ in 0..3 {
        assert_eq!(manager.hears(), ["WATCHDOG=1"]);
    }
}
