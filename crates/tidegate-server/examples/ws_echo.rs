//! Echoes what a WebSocket client sends, on the gateway's own codec and socket code: the gateway
//! itself never echoes, and `scripts/autobahn` needs a server that does.
//!
//! `ws_echo [ADDRESS]` listens there (default: a free port of 127.0.0.1) and prints the address.
//! Limits are raised to what the suite sends.

use std::{convert::Infallible, io, ops::ControlFlow, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tidegate_core::deflate::compress_alone;
use tidegate_protocol::ws::{self, Limits, MessageReader, Received};
use tidegate_server::transport::{
    guarded::{Guarded, Timeouts},
    socket::{self, Leftover, ReadFault, SocketRead},
    upgrade::{Switched, Upgrade},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const LIMITS: Limits = Limits { message_bytes_max: 32 << 20, message_fragments_max: 1 << 17, deflate: false };

/// Longer than the suite's slowest cases take.
const TIMEOUTS: Timeouts = Timeouts { head: Duration::from_secs(10), write: Duration::from_secs(33) };

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let stream = Guarded::new(stream, Default::default(), TIMEOUTS);
            let served = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(|request| async { answer(request) }))
                .with_upgrades();
            if let Err(error) = served.await {
                eprintln!("serve a connection: {error}");
            }
        });
    }
}

fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match Upgrade::of(&request) {
        Ok((upgrade, _)) => {
            let deflate = upgrade.deflate();
            let (response, switching) = upgrade.accept(None, deflate);
            tokio::spawn(async move {
                match switching.socket().await {
                    // That a client is gone is no news to an echo.
                    Ok(switched) => drop(echo(switched, deflate.is_some()).await),
                    Err(error) => eprintln!("{error}"),
                }
            });
            response.map(|()| Full::default())
        }
        Err(error) => {
            let mut response = Response::new(Full::from(error.to_string()));
            *response.status_mut() = error.status();
            for (name, value) in error.headers() {
                response.headers_mut().insert(*name, http::HeaderValue::from_static(value));
            }
            response
        }
    })
}

async fn echo(Switched { mut stream, mut early }: Switched, deflate: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = MessageReader::new(Limits { deflate, ..LIMITS });
    let mut leftover = Leftover::new(usize::MAX);
    let mut taken = socket::feed(&mut reader, &mut early, |event| reply(event, deflate, &mut leftover))
        .map(|flow| if flow.is_break() { SocketRead::Stopped } else { SocketRead::Bytes(early.len()) })
        .map_err(ReadFault::from);
    loop {
        let closing = match taken {
            Ok(SocketRead::Bytes(_) | SocketRead::Blocked) => false,
            Ok(SocketRead::Ended) => return Ok(()),
            Ok(SocketRead::Stopped) => true,
            Err(ReadFault::Broken(error)) => {
                leftover.push(ws::close(error.close_code(), &error.to_string())).map_err(io::Error::other)?;
                true
            }
            Err(ReadFault::Io(error)) => return Err(error),
        };
        while !leftover.flush(&stream)? {
            stream.writable().await?;
        }
        if closing {
            return linger(&mut stream).await;
        }
        stream.readable().await?;
        taken = socket::try_read(&stream, &mut reader, |event| reply(event, deflate, &mut leftover));
    }
}

fn reply(event: Received<'_>, deflate: bool, leftover: &mut Leftover) -> ControlFlow<()> {
    let frame = match event {
        // Without context, as those who are no members of a generation get it.
        Received::Text(text) if deflate => ws::deflated_frame(true, &compress_alone(text.as_bytes())),
        Received::Binary(bytes) if deflate => ws::deflated_frame(false, &compress_alone(&bytes)),
        Received::Text(text) => ws::text_frame(&text),
        Received::Binary(bytes) => ws::binary_frame(&bytes),
        Received::Ping(payload) => ws::pong(&payload),
        Received::Pong(_) => return ControlFlow::Continue(()),
        Received::Close(close) => {
            // The bound is the address space.
            let _ = leftover.push(ws::close(close.code.unwrap_or(1000), ""));
            return ControlFlow::Break(());
        }
    };
    match leftover.push(frame) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Shuts down our half and reads on until the client has taken the close frame: closing at once
/// with unread input would reset the connection and may cost the client that frame.
async fn linger(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut dropped = [0; 4096];
    let drained = async {
        while stream.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), drained).await.unwrap_or(Ok(()))
}
