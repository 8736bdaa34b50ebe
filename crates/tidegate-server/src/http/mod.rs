//! The public listener: which address answers what.
//!
//! Requests come from a worker's connections and are answered on its thread. Handlers take grants as
//! arguments; this file only finds the handler.

mod cloudevents;
mod connection;
mod history;
mod http2;
pub mod openapi;
mod origins;
mod problem;
mod publish;
mod query;
mod stream;
mod table;

use std::{convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use tidegate_core::{Code, OrgId, Refusal};

pub use connection::serve;
pub use problem::refuse;

use table::{Endpoint, Found, Route};

use crate::{
    page,
    worker::{Local, Peer, sse::SseBody},
};

/// The body of a request, over either version of HTTP.
pub type Incoming = Either<hyper::body::Incoming, http2::Received>;

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
    let origin = origins::listed(&local.node, &request);
    let is_draining = local.node.is_draining();
    let node = local.node.clone();
    let path = request.uri().path().to_owned();
    let found = table::find(request.method(), &path);
    let answered = match found {
        Found::Route(route, org) => dispatch(route, org, local, peer, request).await,
        Found::ByOther(path) => Ok(by_other(request.method(), path)),
        Found::Nothing if node.has_page && matches!(*request.method(), Method::GET | Method::HEAD) => {
            asset(&request)
        }
        Found::Nothing => Err(nothing_here()),
    };
    let mut response = answered.unwrap_or_else(|refusal| {
        node.metrics.refused(&refusal);
        refuse(&refusal)
    });
    if let Found::Route(route, _) = found {
        // In debug builds, so in every test: no answer that the description does not know.
        debug_assert!(
            openapi::tells(route, &response),
            "openapi/operation.rs does not tell of {} {:?} as an answer of {}",
            response.status(),
            response.extensions().get::<Code>(),
            route.id
        );
    }
    if let Some(origin) = origin {
        origins::allow(&mut response, origin);
    }
    // HTTP/2 says it with a frame of its own, and takes this one off.
    if is_draining && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn dispatch(
    route: &Route,
    org: &str,
    local: Rc<Local>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    match route.endpoint {
        Endpoint::Publish => publish::answer(&local.node, org_of(org)?, request).await,
        Endpoint::History => history::events(&local.node, org_of(org)?, &request).await,
        Endpoint::Cursor => history::cursor(&local.node, org_of(org)?, &request).await,
        Endpoint::Stream => stream::answer(local, peer, org, request).await,
        Endpoint::Description => Ok(openapi::answer(&local.node.description, local.node.config(), &request)),
        Endpoint::Preflight => origins::preflight(&local.node, &request, &table::allowed(route.path)),
    }
}

/// Something is at this address, by other methods.
fn by_other(method: &Method, path: &str) -> Response<Answer> {
    let allowed = table::allowed(path);
    let message = format!("{method:.20} is not taken here; {allowed} are");
    let mut response = refuse(&Refusal::new(Code::MethodNotAllowed, message));
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn nothing_here() -> Refusal {
    let message = "nothing is at this address; the API is at /v1/orgs/{org}/events, /cursor and /stream, \
                   and described at /openapi.json";
    Refusal::new(Code::NotFound, message)
}

fn org_of(text: &str) -> Result<OrgId, Refusal> {
    OrgId::parse(text).map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))
}

fn asset(request: &Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let asset = page::asset(request.uri().path()).ok_or_else(nothing_here)?;
    let is_known = knows(request, asset.etag);
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

/// Whether the client has what `etag` names (`If-None-Match`, RFC 9110, section 13.1.2).
fn knows<B>(request: &Request<B>, etag: impl AsRef<[u8]>) -> bool {
    let etag = etag.as_ref();
    let of_line = |line: &HeaderValue| {
        let mut listed = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        listed.any(|known| known == b"*" || known.strip_prefix(b"W/").unwrap_or(known) == etag)
    };
    request.headers().get_all(header::IF_NONE_MATCH).iter().any(of_line)
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
