//! A server that implements enough of the protocol to be measured, with one fault that the tool must find.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use tidegate_protocol::ws::{FrameBuilder, handshake};

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The first reader does not get one event, and the `prev` of the next frame hides this.
    Loses,
    /// The first reader gets one event twice, the second time with a new seq.
    Doubles,
    /// The first reader does not get one event, and the `prev` of the next frame shows this.
    Skips,
    /// All readers are refused.
    Refuses,
}

/// The number of the event with the fault: neither the first nor the last of the run.
const FAULTY_EVENT: u64 = 7;

/// The server.
pub struct Faulty(SocketAddr);

struct Log {
    fault: Fault,
    seq: u64,
    /// Events that are not probes.
    events: u64,
    readers: Vec<Reader>,
}

struct Reader {
    socket: TcpStream,
    /// The seq of the last frame that was sent to it.
    seq: u64,
}

impl Faulty {
    /// Starts a server; its threads end with the test process.
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let log = Arc::new(Mutex::new(Log { fault, seq: 0, events: 0, readers: Vec::new() }));
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, log) = (socket.expect("a connection"), log.clone());
                thread::spawn(move || connection(&socket, &log));
            }
        });
        Self(address)
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("http://{}", self.0)
    }
}

fn connection(socket: &TcpStream, log: &Mutex<Log>) {
    let mut input = BufReader::new(socket);
    loop {
        let (mut request, mut length, mut key) = (String::new(), 0, None);
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a length");
            }
            if let Some(value) = line.strip_prefix("sec-websocket-key: ") {
                key = Some(value.trim().to_owned());
            }
            if line == "\r\n" {
                break;
            }
            if request.is_empty() {
                request = line;
            }
        }
        if let Some(key) = key {
            reader(socket, log, &key);
            // Its pongs are ignored.
            let _ = input.read_to_end(&mut Vec::new());
            return;
        }
        assert!(request.starts_with("POST /v1/orgs/dev/events "), "{request}");
        let mut body = vec![0; length];
        input.read_exact(&mut body).expect("a body");
        log.lock().expect("no panic").publish(&String::from_utf8(body).expect("UTF-8"));
        (&*socket).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").expect("answered");
    }
}

fn reader(socket: &TcpStream, log: &Mutex<Log>, key: &str) {
    let lines: [(&str, &[u8]); 5] = [
        ("host", b"h"),
        ("upgrade", b"websocket"),
        ("connection", b"Upgrade"),
        ("sec-websocket-version", b"13"),
        ("sec-websocket-key", key.as_bytes()),
    ];
    let request = handshake::Request { method: "GET", is_http11: true, headers: &lines };
    let accept = handshake::check(request).expect("a handshake").accept_key;
    let mut log = log.lock().expect("no panic");
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    );
    let mut socket = socket.try_clone().expect("cloned");
    socket.write_all(head.as_bytes()).expect("answered");
    if log.fault == Fault::Refuses {
        let error = r#"{"type":"error","code":"too_many_connections","message":"no more","limit":"limits.connections_per_user"}"#;
        send(&mut socket, error);
        socket.shutdown(std::net::Shutdown::Both).expect("closed");
        return;
    }
    let seq = log.seq;
    send(&mut socket, &format!(r#"{{"type":"hello","cursor":"a-{seq}-t","head":{seq}}}"#));
    log.readers.push(Reader { socket, seq });
}

fn send(socket: &mut TcpStream, text: &str) {
    let mut frame = FrameBuilder::with_capacity(text.len());
    frame.payload_mut().extend_from_slice(text.as_bytes());
    // The reader may have disconnected.
    let _ = socket.write_all(&frame.finish());
}

impl Log {
    fn publish(&mut self, event: &str) {
        self.seq += 1;
        // Probes have the highest publisher number.
        let is_probe = event.contains(r#""id":"65535-"#);
        self.events += u64::from(!is_probe);
        let meets = !is_probe && self.events == FAULTY_EVENT;
        let (seq, fault) = (self.seq, self.fault);
        let members = event.trim_start_matches('{').trim_end_matches('}');
        let members = format!("{members}}}");
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let prev = reader.seq;
            let frame = |prev: u64, seq: u64| {
                format!(
                    r#"{{"type":"event","org":"dev","prev":{prev},"seq":{seq},"timestamp":"t",{members}}}"#
                )
            };
            match (fault, meets && index == 0) {
                (Fault::Loses, true) => continue,
                (Fault::Skips, true) => {}
                (Fault::Doubles, true) => {
                    send(&mut reader.socket, &frame(prev, seq));
                    send(&mut reader.socket, &frame(seq, seq + 1));
                }
                _ => send(&mut reader.socket, &frame(prev, seq)),
            }
            reader.seq = seq;
        }
        if fault == Fault::Doubles && meets {
            // The seq of the duplicate is used for the first reader only.
            self.seq += 1;
            self.readers[0].seq = self.seq;
        }
    }
}
