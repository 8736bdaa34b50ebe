//! One connection of the public listener, over a socket that does not wait for ever: HTTP/1.1, or
//! HTTP/2 where the client begins with that.

use std::{pin::pin, rc::Rc, sync::Arc, time::Duration};

use http::Request;
use http_body_util::Either;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{answer, http2};
use crate::{
    config::{ConfigKey, LimitSettings, config_key},
    transport::guarded::{Guarded, Patience, Slow, Turns},
    worker::{Accepted, Peer, Worker},
};

/// How much longer than `limits.write_timeout` a socket under HTTP may take nothing.
pub const STALL_GRACE: Duration = Duration::from_secs(3);

/// Serves an accepted socket on the thread of its worker.
pub fn serve(worker: Rc<Worker>, accepted: Accepted) {
    tokio::task::spawn_local(connection(worker, accepted));
}

/// One connection, until it ends or turns into a WebSocket.
async fn connection(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { stream, peer, place } = accepted;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "take over an accepted socket");
            return;
        }
    };
    // What is written is whole frames and answers; waiting for more would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let turns = Arc::new(Turns::default());
    // An upgraded socket takes its place in the count along.
    let peer = Peer { address: peer, place: Rc::new(place), bodies: Rc::default() };
    let (patience, idle) = {
        let limits = &worker.node.config().limits;
        // Longer than a reader's own timeout, which is the one that has a code and a count.
        let write = limits.write_timeout + STALL_GRACE;
        (Patience { head: limits.first_frame_timeout, write }, limits.idle_timeout)
    };
    let node = worker.node.clone();
    let mut socket = Guarded::new(stream, turns.clone(), patience);
    // Boxed, each is as large as it needs to be, for as long as it lasts.
    match tokio::time::timeout(idle, socket.begins_with(http2::PREFACE)).await {
        Ok(Ok(true)) => Box::pin(http2::serve(worker, peer, socket, turns)).await,
        Ok(Ok(false)) => Box::pin(http1(worker, peer, socket, turns)).await,
        Ok(Err(error)) => {
            if Slow::behind(&error).is_some() {
                node.metrics.refusal(config_key!(limits.first_frame_timeout));
            }
            tracing::debug!(%error, peer = %peer.address, "end a connection that has not asked");
        }
        Err(_) => {
            node.metrics.refusal(config_key!(limits.idle_timeout));
            tracing::debug!(peer = %peer.address, "let go of a connection that says nothing");
        }
    }
}

async fn http1(worker: Rc<Worker>, peer: Peer, socket: Guarded, turns: Arc<Turns>) {
    let mut builder = http1::Builder::new();
    {
        let limits = &worker.node.config().limits;
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle_timeout)
            .max_buf_size(limits.header_bytes.bytes())
            .max_headers(limits.headers);
    }
    let (address, bodies) = (peer.address, peer.bodies.clone());
    let service = hyper::service::service_fn({
        let (worker, turns) = (worker.clone(), turns.clone());
        move |request: Request<hyper::body::Incoming>| {
            turns.asked();
            let answered = answer(worker.clone(), peer.clone(), request.map(Either::Left));
            let turns = turns.clone();
            async move {
                let answered = answered.await;
                turns.answered();
                answered
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let mut draining = worker.node.draining.subscribe();
    let mut is_leaving = false;
    let ended = loop {
        tokio::select! {
            ended = bodies.counted(&worker, connection.as_mut()) => break ended,
            _ = draining.wait_for(Option::is_some), if !is_leaving => {
                is_leaving = true;
                // What is being answered is finished, and who rests is let go; streams end by their
                // own drain. Who has only just come is answered once (with `Connection: close`).
                if turns.has_asked() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    };
    if let Err(error) = ended {
        if let Some(limit) = bound_of(&error, &turns, &worker.node.config().limits) {
            worker.node.metrics.refusal(limit);
        }
        // The peer's doing, mostly; what we answered was logged where it was answered.
        tracing::debug!(%error, peer = %address, "end an HTTP connection");
    }
}

/// The bound that a connection was over when it ended, where it ended for one: hyper answers these
/// itself, or there is nobody left to answer.
fn bound_of(error: &hyper::Error, turns: &Turns, limits: &LimitSettings) -> Option<ConfigKey> {
    if error.is_parse_too_large() {
        let is_large = turns.head_bytes() >= limits.header_bytes.bytes();
        return Some(if is_large { config_key!(limits.header_bytes) } else { config_key!(limits.headers) });
    }
    if error.is_timeout() {
        return Some(config_key!(limits.idle_timeout));
    }
    match Slow::behind(error)? {
        Slow::Head => Some(config_key!(limits.first_frame_timeout)),
        Slow::Taking => Some(config_key!(limits.write_timeout)),
    }
}
