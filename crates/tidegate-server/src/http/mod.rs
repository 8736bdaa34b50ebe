//! The public listener: which address answers what.
//!
//! Requests come from a worker's connections and are answered on its thread. Handlers take grants as
//! arguments; this file only finds the handler.

mod client_address;
mod connection;
mod history;
mod origins;
mod problem;
mod publish;
pub mod query;
mod stream;

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tidegate_core::{Code, OrgId, Refusal};

pub use connection::serve;
pub use problem::{refuse, refuse_whole};

use crate::{
    page,
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
    let trusted = &local.node.config().listen.trusted_proxies;
    let peer = Peer { address: client_address::of(peer.address, request.headers(), trusted), ..peer };
    let origin = origins::listed(&local.node, &request);
    let is_draining = local.node.is_draining();
    let node = local.node.clone();
    let mut response = route(local, peer, request).await.unwrap_or_else(|refusal| {
        node.metrics.refused(&refusal);
        refuse(&refusal)
    });
    if let Some(origin) = origin {
        origins::allow(&mut response, origin);
    }
    if is_draining && response.status() != StatusCode::SWITCHING_PROTOCOLS {
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
        (&Method::OPTIONS, ["v1", "orgs", _, "events" | "cursor" | "stream"]) => {
            origins::preflight(&local.node, &request)
        }
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

/// The credentials of `Authorization: Bearer`; `None` where there is no such header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad =
        || Refusal::new(Code::Unauthorized, "Authorization must be one header of the form Bearer <token>");
    if values.next().is_some() {
        return Err(bad());
    }
    let (scheme, token) = value.to_str().map_err(|_| bad())?.split_once(' ').ok_or_else(bad)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
        return Err(bad());
    }
    Ok(Some(token))
}

/// A JSON answer that no cache keeps.
fn json(body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
