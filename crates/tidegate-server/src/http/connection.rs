//! One connection of the public listener: HTTP/1.1, or HTTP/2 if the client begins with it. The socket below
//! it has timeouts.

use std::{
    cell::Cell, convert::Infallible, future::poll_fn, net::SocketAddr, pin::pin, rc::Rc, sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, Version, header, header::Entry};
use http_body_util::Either;
use hyper::{body::Body as _, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_protocol::Code;
use tokio::net::TcpStream;

use super::{
    answer,
    http1_body::{Http1Answer, Http1Body},
    http2,
};
use crate::{
    admission::Quiet,
    config::{ConfigKey, LimitSettings, config_key},
    metrics::Operation,
    transport::guarded::{Guarded, RequestState, Slow, Timeouts},
    worker::{Accepted, Peer, Worker, timers},
};

/// How much longer than `limits.write_timeout` a socket under HTTP may take nothing.
pub const STALL_GRACE: Duration = Duration::from_secs(3);

/// Serves an accepted socket on the thread of its worker.
pub fn serve(worker: Rc<Worker>, accepted: Accepted) {
    tokio::task::spawn_local(connection(worker, accepted));
}

/// One connection, until it ends or state into a WebSocket.
async fn connection(worker: Rc<Worker>, accepted: Accepted) {
    let Accepted { stream, peer, slot, quiet } = accepted;
    let quiet = Rc::new(quiet);
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "take over an accepted socket");
            return;
        }
    };
    // Every write is a whole frame or answer, so waiting for more would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let state = Arc::new(RequestState::default());
    // An upgraded socket keeps its slot in the count.
    let peer = Peer { address: peer, slot: Rc::new(slot), bodies: Rc::default(), quiet: quiet.clone() };
    let (timeouts, idle) = {
        let limits = &worker.node.config().limits;
        // Longer than a reader's own timeout, which has a code and a metric.
        let write = limits.write_timeout + STALL_GRACE;
        (Timeouts { head: limits.first_frame_timeout, write }, limits.idle_timeout)
    };
    let node = worker.node.clone();
    let mut socket = Guarded::new(stream, state.clone(), timeouts);
    let begins = tokio::select! {
        // What has come is read first, or one whose request is here already would close.
        biased;
        begins = tokio::time::timeout(idle, socket.begins_with(http2::PREFACE)) => begins,
        () = quiet.closing() => return made_room(peer.address),
    };
    quiet.heard();
    // Boxed, so that each uses only the memory it needs, only while it runs.
    match begins {
        Ok(Ok(true)) => Box::pin(http2::serve(worker, peer, socket, state, &quiet)).await,
        Ok(Ok(false)) => Box::pin(http1(worker, peer, socket, state, quiet)).await,
        Ok(Err(error)) => {
            if Slow::cause_of(&error) == Some(Slow::Head) {
                node.metrics.refusal(config_key!(limits.first_frame_timeout));
            }
            tracing::debug!(%error, peer = %peer.address, "end a connection that has sent no request");
        }
        Err(_) => {
            node.metrics.refusal(config_key!(limits.idle_timeout));
            tracing::debug!(peer = %peer.address, "close an idle connection");
        }
    }
}

async fn http1(worker: Rc<Worker>, peer: Peer, socket: Guarded, state: Arc<RequestState>, quiet: Rc<Quiet>) {
    let mut builder = http1::Builder::new();
    let keep_alive = {
        let limits = &worker.node.config().limits;
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle_timeout)
            .max_buf_size(limits.header_bytes.bytes())
            .max_headers(limits.headers);
        keep_alive(limits)
    };
    let (address, bodies) = (peer.address, peer.bodies.clone());
    // Whether hyper has taken all of the last answer.
    let is_given = Rc::<Cell<bool>>::default();
    let service = hyper::service::service_fn({
        let (worker, state, quiet, is_given) =
            (worker.clone(), state.clone(), quiet.clone(), is_given.clone());
        move |request: Request<hyper::body::Incoming>| {
            state.asked();
            is_given.set(false);
            quiet.asked(!request.body().is_end_stream());
            let hint = keep_alive.clone().filter(|_| keeps(&request));
            let is_read = Rc::<Cell<bool>>::default();
            let request =
                request.map(|body| Either::Left(Http1Body::new(body, is_read.clone(), quiet.clone())));
            let answered = answer(worker.clone(), peer.clone(), request);
            let (state, node, is_given) = (state.clone(), worker.node.clone(), is_given.clone());
            async move {
                let Ok(mut answered) = answered.await;
                state.answered();
                // On a WebSocket no request follows.
                let is_switched = answered.status() == StatusCode::SWITCHING_PROTOCOLS;
                // Answers that end the connection, or switch it, say so themselves.
                if let Some(hint) = hint.filter(|_| is_read.get() && !node.is_draining())
                    && let Entry::Vacant(connection) = answered.headers_mut().entry(header::CONNECTION)
                {
                    connection.insert(HeaderValue::from_static("keep-alive"));
                    answered.headers_mut().insert("keep-alive", hint);
                }
                if !is_read.get() && answered.status().is_client_error() {
                    // The rest of the body is not waited for, so the connection ends (RFC 9112, 9.6).
                    let close = HeaderValue::from_static("close");
                    answered.headers_mut().entry(header::CONNECTION).or_insert(close);
                }
                let is_given = Some(is_given).filter(|_| !is_switched);
                Ok::<_, Infallible>(answered.map(|body| Http1Answer::new(body, is_given)))
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let mut draining = worker.node.draining.subscribe();
    let mut is_leaving = false;
    let ended = loop {
        let served = poll_fn(|context| {
            let served = connection.as_mut().poll(context);
            // Hyper has offered all that it has to the socket.
            if served.is_pending() && is_given.get() && !state.is_shut() {
                is_given.set(false);
                quiet.answered();
            }
            served
        });
        tokio::select! {
            biased;
            ended = bodies.counted(&worker, served) => break ended,
            _ = draining.wait_for(Option::is_some), if !is_leaving => {
                is_leaving = true;
                // Running requests finish and idle connections close; streams end by their own drain. A
                // client that has only just connected still gets one answer (with `Connection: close`).
                if state.has_asked() {
                    connection.as_mut().graceful_shutdown();
                }
            }
            // Not gracefully: that would keep the socket for another while.
            () = quiet.closing() => return made_room(address),
        }
    };
    if let Err(error) = ended {
        let limit = bound_of(&error, &state, &worker.node.config().limits);
        // If the answer is a stream, its reader counts the end.
        let reason = match state.passed() {
            Some(Slow::Answer) => Some(timers::stalled()),
            Some(Slow::Vanished) => Some(timers::vanished()),
            Some(Slow::Head) | None => None,
        };
        let is_counted = reason.is_some_and(|reason| bodies.end(&reason) > 0);
        if let Some(limit) = limit.filter(|_| !is_counted) {
            worker.node.metrics.refusal(limit);
        }
        if error.is_parse() {
            // The HTTP library has answered by itself.
            let code = if error.is_parse_too_large() { Code::TooLarge } else { Code::BadRequest };
            let node = &worker.node;
            node.metrics.request(Operation::Other, Some(code));
            node.log_refused(Operation::Other, code, address.ip(), "the request could not be read as HTTP");
        }
        // Usually the peer's doing. Our own answers were logged where they were made.
        tracing::debug!(%error, peer = %address, "end an HTTP connection");
    }
}

/// A connection that waits for a request was closed for a new one, and counted where it was chosen.
fn made_room(peer: SocketAddr) {
    tracing::debug!(%peer, "close a connection that waits for a request, to make room");
}

/// How long a client may keep an idle connection and still be sure that its next request is served
/// (`Keep-Alive: timeout=`, RFC 2068, section 19.7.1.1), in whole seconds; `None` if there is no such time. A
/// request that begins within it has all of `limits.first_frame_timeout` for its head before the connection
/// closes.
fn keep_alive(limits: &LimitSettings) -> Option<HeaderValue> {
    let seconds = limits.idle_timeout.saturating_sub(limits.first_frame_timeout).as_secs();
    let hint = (seconds > 0).then(|| format!("timeout={seconds}"));
    hint.and_then(|hint| HeaderValue::try_from(hint).ok())
}

/// Whether the client keeps the connection after this request.
fn keeps(request: &Request<hyper::body::Incoming>) -> bool {
    let values = request.headers().get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = values.flat_map(|value| value.split(',')).map(str::trim);
    request.version() == Version::HTTP_11 && !options.any(|option| option.eq_ignore_ascii_case("close"))
}

/// The key of the limit that ended the connection, if one did. Counted here because hyper answers these
/// itself, or no peer is left to answer.
fn bound_of(error: &hyper::Error, state: &RequestState, limits: &LimitSettings) -> Option<ConfigKey> {
    if error.is_parse_too_large() {
        let is_large = state.head_bytes() >= limits.header_bytes.bytes();
        return Some(if is_large { config_key!(limits.header_bytes) } else { config_key!(limits.headers) });
    }
    if error.is_timeout() {
        return Some(config_key!(limits.idle_timeout));
    }
    match Slow::cause_of(error)? {
        Slow::Head => Some(config_key!(limits.first_frame_timeout)),
        Slow::Answer | Slow::Vanished => Some(config_key!(limits.write_timeout)),
    }
}
