//! The part of HTTP/1.1 that publishers and opening streams need. It is written by hand, so that a publish
//! costs the load little more than two system calls.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

/// The address of a server.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// For the `Host` header.
    pub host: String,
}

impl Target {
    /// Reads an address such as `http://127.0.0.1:8080`.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://"));
        let rest = rest.with_context(|| {
            format!("{url:?} must begin with http:// (this tool does not support TLS; measure the gateway directly, without the proxy)")
        })?;
        let host = rest.trim_end_matches('/');
        ensure!(!host.contains(['/', '?', '@']), "{url:?} must be an address without a path or credentials");
        let with_port = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses =
            with_port.to_socket_addrs().with_context(|| format!("find the address of {host:?}"))?;
        let address = addresses.next().with_context(|| format!("{host:?} has no address"))?;
        Ok(Self { address, host: host.to_owned() })
    }
}

/// A response that is not valid HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server's answer cannot be read as HTTP/1.1: {0}")]
pub struct HttpError(String);

impl HttpError {
    /// An error with this text.
    pub fn of(words: &str) -> Self {
        Self(words.to_owned())
    }
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// The length of the head; the body begins after it.
    pub bytes: usize,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Parses a head. None if it is incomplete.
    pub fn read(input: &[u8]) -> Result<Option<Self>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(input).map_err(|error| HttpError(error.to_string()))?;
        let httparse::Status::Complete(bytes) = parsed else { return Ok(None) };
        let headers = response.headers.iter().map(|header| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned())
        });
        Ok(Some(Self { status: response.code.unwrap_or(0), bytes, headers: headers.collect() }))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Whether the body has chunked transfer encoding.
    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Its length on the wire.
    pub bytes: usize,
    /// Whether the server closes the connection after it.
    pub is_last: bool,
    pub retry_after: Option<String>,
}

/// Parses a response. None if it is incomplete.
pub fn answer(input: &[u8]) -> Result<Option<Answer>, HttpError> {
    let Some(head) = Head::read(input)? else { return Ok(None) };
    let rest = &input[head.bytes..];
    let (body, length) = if head.is_chunked() {
        let (mut chunks, mut body) = (Chunks::default(), Vec::new());
        let used = chunks.take(rest, &mut body)?;
        if !chunks.has_ended() {
            return Ok(None);
        }
        (body, used)
    } else {
        let length = match head.header("content-length") {
            None => 0,
            Some(length) => length.parse().map_err(|_| HttpError("a faulty Content-Length".to_owned()))?,
        };
        if rest.len() < length {
            return Ok(None);
        }
        (rest[..length].to_vec(), length)
    };
    let is_last = head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let retry_after = head.header("retry-after").map(str::to_owned);
    Ok(Some(Answer { status: head.status, body, bytes: head.bytes + length, is_last, retry_after }))
}

/// Decoder of a chunked body (RFC 9112, section 7.1). Its input may be split anywhere.
#[derive(Debug, Default)]
pub struct Chunks {
    /// Bytes left of the current chunk.
    left: usize,
    line: Vec<u8>,
    part: Part,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    Data,
    DataEnd,
    Trailer,
    End,
}

impl Chunks {
    /// Whether the last chunk was received.
    pub fn has_ended(&self) -> bool {
        self.part == Part::End
    }

    /// Decodes `input` and appends the body's bytes to `out`. Returns how many bytes were used: fewer than
    /// given only at the end of the body.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, HttpError> {
        let mut at = 0;
        while at < input.len() && self.part != Part::End {
            if self.part == Part::Data {
                let taken = self.left.min(input.len() - at);
                out.extend_from_slice(&input[at..at + taken]);
                (at, self.left) = (at + taken, self.left - taken);
                if self.left == 0 {
                    self.part = Part::DataEnd;
                }
                continue;
            }
            let byte = input[at];
            at += 1;
            if byte != b'\n' {
                if self.line.len() > 1024 {
                    return Err(HttpError("a chunk's head is too long".to_owned()));
                }
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = line.trim_ascii();
            self.part = match self.part {
                Part::Size => {
                    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                    let size =
                        std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
                    self.left = size.ok_or_else(|| HttpError("a chunk has no size".to_owned()))?;
                    if self.left == 0 { Part::Trailer } else { Part::Data }
                }
                Part::Trailer if line.is_empty() => Part::End,
                Part::Trailer => Part::Trailer,
                _ => Part::Size,
            };
        }
        Ok(at)
    }
}

/// Sends one request and waits for the response. For the few requests that are not part of a measurement.
pub fn ask(target: &Target, request: &[u8], patience: Duration) -> anyhow::Result<Answer> {
    let at = target.address;
    let mut socket = TcpStream::connect_timeout(&at, patience)
        .with_context(|| format!("no server can be reached at {at}; is it running?"))?;
    socket.set_read_timeout(Some(patience))?;
    socket.write_all(request).with_context(|| format!("write to {at}"))?;
    let (mut input, mut scratch) = (Vec::new(), [0; 16 * 1024]);
    loop {
        if let Some(answer) = answer(&input)? {
            return Ok(answer);
        }
        match socket.read(&mut scratch).with_context(|| format!("read the response of {at}"))? {
            0 => bail!("{at} closed the connection without a response"),
            read => input.extend_from_slice(&scratch[..read]),
        }
    }
}

/// Encodes a request.
pub fn request(method: &str, path: &str, target: &Target, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", target.host).into_bytes();
    for (name, value) in headers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if method != "GET" {
        out.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_not_there() {
        for (text, body, is_last) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
            ("HTTP/1.1 204 No Content\r\nconnection: Close\r\n\r\n", "", true),
            (
                "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nt: v\r\n\r\n",
                "hello",
                false,
            ),
        ] {
            for end in 0..text.len() {
                assert_eq!(answer(&text.as_bytes()[..end]), Ok(None), "{}", &text[..end]);
            }
            let more = format!("{text}HTTP/1.1 500");
            let answer = answer(more.as_bytes()).expect("HTTP").expect("an answer");
            assert_eq!(
                (answer.body.as_slice(), answer.bytes, answer.is_last),
                (body.as_bytes(), text.len(), is_last)
            );
        }
        assert!(answer(b"SSH-2.0-OpenSSH_9.2\r\n").is_err());
    }

    #[test]
    fn addresses() {
        let target = Target::parse("http://127.0.0.1:8080/").expect("a target");
        assert_eq!((target.address.port(), target.host.as_str()), (8080, "127.0.0.1:8080"));
        assert_eq!(Target::parse("ws://[::1]:9").expect("a target").address.to_string(), "[::1]:9");
        for wrong in ["https://a.example", "127.0.0.1:80", "http://u:p@127.0.0.1", "http://127.0.0.1/x"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
