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
    dir: tempfile::TempDir,
}

impl Manager {
    fn start(environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut service = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        service.args(["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
        Self::run(dir, service.envs(environment.iter().copied()))
    }

    /// Starts `tidegate serve` with `config`.
    fn serve(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tidegate.toml");
        std::fs::write(&file, config).expect("a file");
        let mut service = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        service.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&file);
        service.env("TIDEGATE_LOG__DIR", dir.path().join("data"));
        Self::run(dir, &mut service)
    }

    fn run(dir: tempfile::TempDir, service: &mut Command) -> Self {
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let service = service
            .env("NOTIFY_SOCKET", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start it");
        Self { socket, service, dir }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.service.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("a signal");
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
    manager.signal(rustix::process::Signal::TERM);
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

#[test]
fn a_refused_reload_shows_in_the_status_until_one_is_taken() {
    let secret = "0123456789abcdef0123456789abcdef";
    let config = |limits: &str| {
        format!("[[auth.keys]]\nsecret = \"{secret}\"\n[limits]\n{limits}\n[logs]\nlevel = \"error\"\n")
    };
    let manager = Manager::serve(&config(""));
    let serving = manager.hears()[1].clone();
    let file = manager.dir.path().join("tidegate.toml");
    let reload = |limits: &str| {
        std::fs::write(&file, config(limits)).expect("a file");
        manager.signal(rustix::process::Signal::HUP);
        assert_eq!(manager.hears()[0], "RELOADING=1");
        manager.hears()
    };
    let refused = reload("json_depth = 0\norgs = \"many\"");
    assert_eq!((refused.len(), refused[0].as_str()), (2, "READY=1"));
    let reason =
        refused[1].strip_prefix(&format!("{serving}; RELOAD REFUSED, the old configuration stays: "));
    let reason = reason.unwrap_or_else(|| panic!("{refused:?}"));
    assert!(reason.contains("limits.json_depth: 0 must be") && reason.contains("; "), "{reason}");
    assert_eq!(reload("json_depth = 9"), ["READY=1", &serving]);
}
