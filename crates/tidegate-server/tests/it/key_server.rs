//! A web server for the tests: it serves key sets, or what a hostile one would serve, and records the
//! requests.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::signer::Signer;

type Answer = Arc<dyn Fn(&mut TcpStream) + Send + Sync>;

/// A server on a free port of the loopback. Ends when it goes out of scope.
pub struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
}

/// A whole answer with `body`.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

impl KeyServer {
    /// A server that gives an empty set.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let nothing: Answer = Arc::new(|_| {});
        let server = Self {
            address: listener.local_addr().expect("an address"),
            answer: Arc::new(Mutex::new(nothing)),
            asked: Arc::default(),
            is_over: Arc::default(),
        };
        server.gives(&json!({"keys": []}));
        let (answer, asked, is_over) = (server.answer.clone(), server.asked.clone(), server.is_over.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), answer, asked) = (stream, answer.clone(), asked.clone()) else { continue };
                std::thread::spawn(move || serve(stream, &answer, &asked));
            }
        });
        server
    }

    /// A server that gives the keys of `signers`.
    pub fn of(signers: &[&Signer]) -> Self {
        let server = Self::start();
        server.publishes(signers);
        server
    }

    /// An address of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Answers by this function from now on.
    pub fn answers(&self, answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) {
        *self.answer.lock().expect("a lock") = Arc::new(answer);
    }

    /// Answers with these bytes from now on.
    pub fn sends(&self, bytes: Vec<u8>) {
        self.answers(move |stream| drop(stream.write_all(&bytes)));
    }

    /// Answers with this JSON from now on.
    pub fn gives(&self, body: &Value) {
        self.sends(answer("200 OK", "content-type: application/json\r\n", body.to_string().as_bytes()));
    }

    /// Answers with the keys of `signers` from now on.
    pub fn publishes(&self, signers: &[&Signer]) {
        self.gives(&json!({"keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>()}));
    }

    /// The heads of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("a lock").clone()
    }
}

fn serve(stream: TcpStream, answer: &Mutex<Answer>, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
    asked.lock().expect("a lock").push(head);
    let answer = answer.lock().expect("a lock").clone();
    let mut stream = reader.into_inner();
    answer(&mut stream);
    // The last bytes must not be lost to a reset.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// An answer that is held back until it is released.
pub struct Held(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Held {
    /// Holds the answers of `server`, which are `bytes`.
    pub fn back(server: &KeyServer, bytes: Vec<u8>) -> Self {
        let gate: Arc<(Mutex<bool>, std::sync::Condvar)> = Arc::default();
        let held = gate.clone();
        server.answers(move |stream| {
            let (is_open, opened) = &*gate;
            let is_open = is_open.lock().expect("a lock");
            drop(opened.wait_while(is_open, |is_open| !*is_open).expect("a lock"));
            let _ = stream.write_all(&bytes);
        });
        Self(held)
    }

    /// Releases the answers.
    pub fn let_go(&self) {
        *self.0.0.lock().expect("a lock") = true;
        self.0.1.notify_all();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}
