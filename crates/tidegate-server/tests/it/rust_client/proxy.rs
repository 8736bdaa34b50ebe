//! A TCP proxy between a client and a gateway, with the faults of a network.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// What goes wrong with the bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// They are lost, and nobody is told: a half-open connection.
    Vanish,
    /// They arrive one by one.
    OneByOne,
    /// Each piece waits for so long.
    Delay(Duration),
    /// A connection whose first bytes ask for WebSocket is closed.
    NoWebSocket,
}

struct Shared {
    upstream: SocketAddr,
    fault: Fault,
    open: Vec<TcpStream>,
}

/// A running proxy.
pub struct Proxy {
    /// Where clients connect to.
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

impl Proxy {
    /// A proxy that leads to `upstream`.
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(Shared { upstream, fault: Fault::None, open: Vec::new() }));
        let for_clients = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&for_clients);
                thread::spawn(move || serve(client, &shared));
            }
        });
        Self { address, shared }
    }

    /// From here on, new connections lead there.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.shared.lock().expect("no panic").upstream = upstream;
    }

    /// From here on, this goes wrong, also for connections that are open.
    pub fn set(&self, fault: Fault) {
        self.shared.lock().expect("no panic").fault = fault;
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for socket in self.shared.lock().expect("no panic").open.drain(..) {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn serve(client: TcpStream, shared: &Arc<Mutex<Shared>>) {
    let (upstream, fault) = {
        let shared = shared.lock().expect("no panic");
        (shared.upstream, shared.fault)
    };
    if fault == Fault::NoWebSocket {
        let mut head = [0; 4096];
        let length = client.peek(&mut head).unwrap_or(0);
        if String::from_utf8_lossy(&head[..length]).to_lowercase().contains("upgrade: websocket") {
            return;
        }
    }
    let Ok(gateway) = TcpStream::connect(upstream) else { return };
    for socket in [&client, &gateway] {
        socket.set_nodelay(true).expect("a socket");
        shared.lock().expect("no panic").open.push(socket.try_clone().expect("a socket"));
    }
    let other = (gateway.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
    let for_other = Arc::clone(shared);
    let back = thread::spawn(move || pump(other.0, other.1, &for_other));
    pump(client, gateway, shared);
    back.join().expect("it ends");
}

/// Carries bytes one way until an end closes.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Mutex<Shared>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..length];
        let fault = shared.lock().expect("no panic").fault;
        let sent = match fault {
            Fault::Vanish => Ok(()),
            Fault::OneByOne => bytes.iter().try_for_each(|byte| to.write_all(&[*byte])),
            Fault::Delay(time) => {
                thread::sleep(time);
                to.write_all(bytes)
            }
            Fault::None | Fault::NoWebSocket => to.write_all(bytes),
        };
        if sent.is_err() {
            break;
        }
    }
    // The end goes on, too. An error means that the other side is closed already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
