//! The public listener: which address answers what.
//!
//! Requests come from a worker's connections and are answered on its thread. Handlers take grants as
//! arguments; this file only finds the handler.

mod connection;
mod credentials;
mod history;
mod origins;
mod problem;
mod publish;
mod query;
mod stream;

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tidegate_core::{Code, OrgId, Refusal};

pub use connection::serve;
pub use problem::refuse;

use crate::{
    page,
    transport::upgrade,
    worker::{Local, Peer, sse::SseBody},
};

/// The body of an answer: whole, or a stream.
pub type Answer = Either<Full<Bytes>, SseBody>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Answer {
    Either::Left(Full::new(bytes.into()))
}

/// Answers one request.
pub async fn answer(
    local: Rc<Local>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let origin = origins::of(&local.node, &request);
    let is_api = request.uri().path().starts_with("/v1/");
    // Behind a request to switch come frames, which are no requests.
    let mut is_over = local.node.is_draining() || upgrade::is_asked(&request);
    let node = local.node.clone();
    let mut response = match sound(&request) {
        Ok(()) => route(local, peer, request).await,
        Err(refusal) => {
            is_over = true;
            Err(refusal)
        }
    }
    .unwrap_or_else(|refusal| {
        node.metrics.refused(&refusal);
        refuse(&refusal)
    });
    if let origins::Of::Listed(origin) = origin {
        origins::allow(&node, &mut response, origin);
    }
    if is_api {
        // Also where there was no Origin, or none that is listed: the next one may be.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if is_over && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn route(
    local: Rc<Local>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    // A WebSocket is told by a frame, for a page cannot see why an upgrade failed.
    if matches!(segments.as_slice(), ["v1", ..]) && !upgrade::is_asked(&request) {
        origins::check(&local.node, &request)?;
    }
    match (request.method(), segments.as_slice()) {
        (&Method::POST, ["v1", "orgs", org, "events"]) => {
            publish::answer(&local.node, org_of(org)?, request).await
        }
        (&Method::GET, ["v1", "orgs", org, "events"]) => {
            history::events(&local.node, org_of(org)?, &request).await
        }
        (&Method::GET, ["v1", "orgs", org, "cursor"]) => {
            history::cursor(&local.node, org_of(org)?, &request).await
        }
        (&Method::GET, ["v1", "orgs", org, "stream"]) => stream::answer(local, peer, org, request).await,
        (&Method::OPTIONS, ["v1", "orgs", _, "events" | "cursor" | "stream"]) => Ok(origins::preflight()),
        (method, ["v1", "orgs", _, resource @ ("events" | "cursor" | "stream")]) => {
            let allowed = if *resource == "events" { "GET, POST, OPTIONS" } else { "GET, OPTIONS" };
            let message = format!("{method} is not taken here; {allowed} are");
            let mut response = refuse(&Refusal::new(Code::MethodNotAllowed, message));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
            Ok(response)
        }
        (&Method::GET | &Method::HEAD, _) if local.node.has_page => asset(&request),
        _ => Err(nothing_here()),
    }
}

/// What RFC 9112 (3.2, 6.1) asks of every request: it says once, and in one way, whom it is for and where
/// it ends. Two parties that read such a request each in their own way serve it to the wrong one, or see
/// another request behind it.
fn sound<B>(request: &Request<B>) -> Result<(), Refusal> {
    let bad = |message| Err(Refusal::new(Code::BadRequest, message));
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("Host stands more than once in the headers");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return bad("a request of HTTP/1.1 must have a Host header");
    }
    if let Some(host) = host {
        let is_one = |text: &str| text.parse::<Authority>().is_ok_and(|one| !one.as_str().contains('@'));
        if !host.to_str().is_ok_and(is_one) {
            return bad("Host must be one host name or address, and a port where it is not the usual one");
        }
        if request.uri().authority().is_some_and(|authority| authority.as_str() != *host) {
            return bad("the address and the Host header name different hosts");
        }
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return bad("Transfer-Encoding must be chunked and nothing else");
    }
    Ok(())
}

fn nothing_here() -> Refusal {
    let message = "nothing is at this address; the API is at /v1/orgs/{org}/events, /cursor and /stream";
    Refusal::new(Code::NotFound, message)
}

fn org_of(text: &str) -> Result<OrgId, Refusal> {
    OrgId::parse(text).map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))
}

fn asset(request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let asset = page::asset(request.uri().path()).ok_or_else(nothing_here)?;
    let is_known = request.headers().get(header::IF_NONE_MATCH).is_some_and(|etag| etag == asset.etag);
    let mut response = Response::new(full(if is_known { &[][..] } else { asset.bytes }));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    for (name, value) in page::HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    if let Ok(etag) = HeaderValue::from_str(asset.etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// The only value of a header; `None` where there is none.
fn header_once<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(Code::BadRequest, format!("{name} stands more than once in the headers")));
    }
    Ok(value)
}

/// A JSON answer that no cache keeps.
fn json(body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
