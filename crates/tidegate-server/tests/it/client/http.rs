//! HTTP/1.1, one request per connection.

use std::{
    io::{BufRead, BufReader, Read, Write as _},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::{gateway::DEADLINE, secrets};

/// A connection that gives up after the deadline.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// A request that is being built.
#[derive(Debug, Clone)]
pub struct Request {
    to: SocketAddr,
    line: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request without headers but Host.
    pub fn new(to: SocketAddr, method: &str, path: &str) -> Self {
        let headers = vec![("host".to_owned(), to.to_string())];
        Self { to, line: format!("{method} {path} HTTP/1.1"), headers, body: None }
    }

    /// The same for another path.
    pub fn to(mut self, path: &str) -> Self {
        let method = self.line.split(' ').next().expect("a method").to_owned();
        self.line = format!("{method} {path} HTTP/1.1");
        self
    }

    /// The same by another method.
    pub fn by(mut self, method: &str) -> Self {
        let (_, rest) = self.line.split_once(' ').expect("a method");
        self.line = format!("{method} {rest}");
        self
    }

    /// The same in another version of HTTP.
    pub fn over(mut self, version: &str) -> Self {
        let (rest, _) = self.line.rsplit_once(' ').expect("a version");
        self.line = format!("{rest} {version}");
        self
    }

    /// Sets a header; replaces one of the same name.
    pub fn with(self, name: &str, value: &str) -> Self {
        let mut request = self.without(name);
        request.headers.push((name.to_owned(), value.to_owned()));
        request
    }

    /// Adds a header beside those of the same name.
    pub fn adding(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// Gives it a body.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// The request's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let has_length =
            self.headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding");
        if let (Some(body), false) = (&self.body, has_length) {
            text += &format!("content-length: {}\r\n", body.len());
        }
        text += "\r\n";
        let mut bytes = text.into_bytes();
        bytes.extend(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Its parts: method, path, headers and body.
    pub fn parts(&self) -> (&str, &str, &[(String, String)], &[u8]) {
        let mut words = self.line.split(' ');
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        (method, path, &self.headers, self.body.as_deref().unwrap_or_default())
    }

    /// Sends it and returns the connection to read the answer from.
    pub fn begin(&self) -> BufReader<TcpStream> {
        let mut stream = connect(self.to);
        // A request that is refused early may be cut while it is being sent.
        let _ = stream.write_all(&self.bytes());
        BufReader::new(stream)
    }

    /// Sends it and reads the answer.
    pub fn send(&self) -> Answer {
        Answer::read(&mut self.begin()).expect("an answer")
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Reads an answer with its body; `None` if the connection ends before.
    pub fn read(from: &mut impl BufRead) -> Option<Self> {
        let mut answer = Self::read_head(from)?;
        let mut body = Vec::new();
        if answer.header("transfer-encoding") == Some("chunked") {
            let _ = Chunked::new(from).read_to_end(&mut body);
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().expect("a length");
            from.take(length).read_to_end(&mut body).expect("the body");
        }
        answer.body = String::from_utf8(body).expect("UTF-8");
        secrets::heard(&answer.body);
        Some(answer)
    }

    /// Reads the head alone.
    pub fn read_head(from: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            from.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            secrets::heard(value);
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Self { status, headers, body: String::new() })
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of a refusal, which must be problem JSON with a sentence.
    pub fn refusal(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.len() > 10 && detail.contains(' '), "no sentence: {detail}");
        problem["code"].as_str().expect("a code").to_owned()
    }
}

/// A chunked body (RFC 9112, section 7.1).
pub struct Chunked<R> {
    from: R,
    left: u64,
    is_ended: bool,
}

impl<R: BufRead> Chunked<R> {
    /// The body after a head.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, is_ended: false }
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.is_ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut line = String::new();
            if self.from.read_line(&mut line)? == 0 {
                self.is_ended = true;
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let size = u64::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
            if size == 0 {
                self.is_ended = true;
                self.from.read_line(&mut line)?;
                return Ok(0);
            }
            // The line end after the chunk is read with it.
            self.left = size;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let read = self.from.read(&mut out[..most])?;
        self.left -= read as u64;
        if self.left == 0 {
            self.from.read_line(&mut String::new())?;
        }
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }
}
