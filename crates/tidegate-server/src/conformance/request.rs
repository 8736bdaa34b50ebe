//! HTTP/1.1 as far as the kit needs it, on a bare socket: the head of a request, and whole answers. It is not
//! the gateway's: that one never writes half a frame, and cannot.

use std::{fmt::Write as _, io};

use serde_json::json;
use tidegate_protocol::ws;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::run::Refusal;

/// The longest head, and the longest body.
const HEAD_BYTES: usize = 32 << 10;
const BODY_BYTES: usize = 16 << 20;

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The parameters of the query, decoded.
    pub query: Vec<(String, String)>,
    /// The header lines.
    pub headers: Vec<(String, Vec<u8>)>,
    /// What came after the head.
    pub rest: Vec<u8>,
}

impl Request {
    /// Reads the head of the first request of a connection; `None` if there is none.
    pub async fn read(stream: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                return Ok(parse(&bytes, end + 4));
            }
            if bytes.len() > HEAD_BYTES || stream.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The header lines as the codec takes them.
    pub fn lines(&self) -> Vec<ws::HeaderLine<'_>> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
    }

    /// The value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(line, _)| line.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// The value of a parameter that is not empty.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.query.iter().find(|(key, value)| key == name && !value.is_empty())?;
        Some(value)
    }

    /// Reads the body. `None` if its length is not given, or too large.
    pub async fn body(&mut self, stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
        let length = self.header("content-length").and_then(|text| text.parse::<usize>().ok());
        let Some(length) = length.filter(|length| *length <= BODY_BYTES) else { return Ok(None) };
        let mut body = std::mem::take(&mut self.rest);
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        body.truncate(length);
        Ok(Some(body))
    }
}

fn parse(bytes: &[u8], end: usize) -> Option<Request> {
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Request::new(&mut lines);
    head.parse(&bytes[..end]).ok()?;
    let target = head.path?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request {
        method: head.method?.to_owned(),
        path: path.to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers: head.headers.iter().map(|line| (line.name.to_owned(), line.value.to_vec())).collect(),
        rest: bytes[end..].to_vec(),
    })
}

/// What every answer has, so that a page from anywhere may use the kit.
const OPEN_TO_PAGES: &str = "access-control-allow-origin: *\r\n\
    access-control-allow-methods: GET, POST, OPTIONS\r\n\
    access-control-allow-headers: authorization, content-type, last-event-id, cache-control, x-requested-with\r\n\
    access-control-expose-headers: retry-after\r\ncache-control: no-store, no-transform\r\n";

/// The head that opens an event stream.
pub fn event_stream(is_gzip: bool) -> String {
    let coding = if is_gzip { "content-encoding: gzip\r\n" } else { "" };
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{OPEN_TO_PAGES}x-accel-buffering: no\r\n{coding}\
         transfer-encoding: chunked\r\n\r\n"
    )
}

/// A whole answer; the connection ends after it.
pub async fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &str) -> io::Result<()> {
    write(stream, status, kind, "", body).await
}

/// A problem (RFC 9457) with this code.
pub async fn problem(stream: &mut TcpStream, status: u16, code: &str, detail: &str) -> io::Result<()> {
    let body = json!({ "type": "about:blank", "status": status, "code": code, "detail": detail }).to_string();
    write(stream, status, "application/problem+json", "", &body).await
}

/// The answer that refuses a stream: a problem of a gateway, or the page of a proxy.
pub async fn refuse(stream: &mut TcpStream, refusal: &Refusal) -> io::Result<()> {
    let mut headers = String::new();
    if let Some(retry_after_s) = refusal.retry_after_s {
        // Writing to a `String` cannot fail.
        let _ = write!(headers, "retry-after: {retry_after_s}\r\n");
    }
    match refusal.problem {
        Some((code, retry_in_ms)) => {
            let mut body = json!({
                "type": "about:blank", "title": "Refused", "status": refusal.status, "code": code,
                "detail": "the script of the scenario says so",
            });
            if let Some(retry_in_ms) = retry_in_ms {
                body["retry_in_ms"] = json!(retry_in_ms);
            }
            write(stream, refusal.status, "application/problem+json", &headers, &body.to_string()).await
        }
        None if refusal.status == 204 => write(stream, 204, "text/html", &headers, "").await,
        None => {
            let page = format!("<html><body><h1>{}</h1>A proxy says so.</body></html>\n", refusal.status);
            write(stream, refusal.status, "text/html", &headers, &page).await
        }
    }
}

async fn write(stream: &mut TcpStream, status: u16, kind: &str, headers: &str, body: &str) -> io::Result<()> {
    let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let mut text = format!(
        "HTTP/1.1 {status} {}\r\n{OPEN_TO_PAGES}{headers}connection: close\r\n",
        reason.unwrap_or("Unknown")
    );
    // RFC 9110, 8.6: an answer 204 has no length.
    if status != 204 {
        let _ = write!(text, "content-type: {kind}\r\ncontent-length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body;
    stream.write_all(text.as_bytes()).await
}
