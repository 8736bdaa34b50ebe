//! HTTP/2 by the `h2` crate's client: a connection that many requests share.

use std::{io::Read, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest};
use tokio::{net::TcpStream, runtime::Runtime, task::JoinHandle, time::timeout};

use super::{
    http::{Answer, Request},
    sse::Sse,
};
use crate::gateway::DEADLINE;

/// A connection. It answers pings and settings by itself, on a thread of its own.
pub struct Http2 {
    runtime: Arc<Runtime>,
    send: SendRequest<Bytes>,
    driver: Option<JoinHandle<Result<(), h2::Error>>>,
    authority: String,
}

impl Http2 {
    /// Connects.
    pub fn connect(to: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime"));
        let (send, connection) = runtime.block_on(within(async {
            let stream = TcpStream::connect(to).await.expect("connect");
            h2::client::handshake(stream).await.expect("a handshake")
        }));
        let driver = Some(runtime.spawn(connection));
        Self { runtime, send, driver, authority: to.to_string() }
    }

    /// Sends a request and returns the head of its answer.
    pub fn begin(&self, request: &Request) -> Result<(Answer, Body), h2::Error> {
        let (method, path, headers, body) = request.parts();
        let mut head = http::Request::builder().method(method).version(http::Version::HTTP_2);
        let mut authority = self.authority.clone();
        for (name, value) in headers {
            match name.as_str() {
                "host" => authority.clone_from(value),
                _ => head = head.header(name, value),
            }
        }
        let head = head.uri(format!("http://{authority}{path}")).body(()).expect("a request");
        let body = Bytes::copy_from_slice(body);
        self.runtime.block_on(within(async {
            let mut send = self.send.clone().ready().await?;
            let (response, mut stream) = send.send_request(head, body.is_empty())?;
            if !body.is_empty() {
                // A request refused for its head may already have been answered and its stream reset.
                let _ = stream.send_data(body, true);
            }
            let (head, stream) = response.await?.into_parts();
            let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.as_str().to_owned(), value.to_str().expect("text").to_owned())
            };
            let answer = Answer {
                status: head.status.as_u16(),
                headers: head.headers.iter().map(header).collect(),
                body: String::new(),
            };
            Ok((answer, Body { runtime: self.runtime.clone(), stream, left: Bytes::new() }))
        }))
    }

    /// Sends a request and reads the answer.
    pub fn send(&self, request: &Request) -> Answer {
        let (mut answer, mut body) = self.begin(request).expect("an answer");
        body.read_to_string(&mut answer.body).expect("a body");
        answer
    }

    /// Sends a request that must be answered with a stream.
    pub fn sse(&self, request: Request) -> Sse {
        let (head, body) = self.begin(&request.with("accept", "text/event-stream")).expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        Sse::of(head, body)
    }

    /// Waits for the end of the connection; the code of the GOAWAY, if there was one.
    pub fn ended(&mut self) -> Option<Reason> {
        let driver = self.driver.take().expect("asked once");
        let ended = self.runtime.block_on(within(driver)).expect("no panic");
        ended.err().and_then(|error| error.reason())
    }
}

async fn within<T>(done: impl Future<Output = T>) -> T {
    timeout(DEADLINE, done).await.expect("within the deadline")
}

/// The body of an answer, read as it comes; the window opens as it is read.
pub struct Body {
    runtime: Arc<Runtime>,
    stream: RecvStream,
    left: Bytes,
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() {
            match self.runtime.block_on(within(self.stream.data())) {
                None => return Ok(0),
                Some(data) => self.left = data.map_err(std::io::Error::other)?,
            }
            let _ = self.stream.flow_control().release_capacity(self.left.len());
        }
        let count = out.len().min(self.left.len());
        out[..count].copy_from_slice(&self.left.split_to(count));
        Ok(count)
    }
}
