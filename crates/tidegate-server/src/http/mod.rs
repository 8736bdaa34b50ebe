//! The public listener: which address answers what.
//!
//! Requests come from a worker's connections and are answered on its thread. This file only finds the
//! handler; handlers take grants as arguments.

mod answer;
mod body;
mod client_address;
mod cloudevents;
mod connection;
mod credentials;
mod history;
mod http1_body;
mod http2;
mod large;
pub mod openapi;
mod origins;
mod parts;
mod problem;
mod publish;
pub mod query;
mod stream;
mod table;

use std::{convert::Infallible, net::IpAddr, rc::Rc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use http_body_util::Either;
use tidegate_protocol::{Code, OrgId, Refusal};

pub use answer::Answer;
pub use connection::serve;
pub use problem::{refuse, refuse_whole};

use table::{Endpoint, Found, ROUTES, Route};

use crate::{
    metrics::{Metrics, Operation},
    node::Node,
    page,
    transport::upgrade,
    worker::{Peer, Worker},
};

/// The body of a request, over either version of HTTP.
pub type Incoming = Either<http1_body::Http1Body, http2::Received>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Answer {
    Answer::whole(bytes)
}

/// Answers one request.
pub async fn answer(
    worker: Rc<Worker>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let began = Instant::now();
    let peer = {
        let trusted = &worker.node.config().listen.trusted_proxies;
        Peer { address: client_address::of(peer.address, request.headers(), trusted), ..peer }
    };
    let origin = origins::of(&worker.node, &request);
    // After an upgrade request come frames, not requests.
    let mut is_over = worker.node.is_draining() || upgrade::is_asked(&request);
    let node = worker.node.clone();
    let address = peer.address.ip();
    let path = request.uri().path().to_owned();
    let found = table::find(request.method(), &path);
    let is_guarded = table::is_guarded(&path);
    let answered = match sound(&request) {
        Err(refusal) => {
            is_over = true;
            Err(refusal)
        }
        // A WebSocket gets the refusal as a frame, because a page cannot see why an upgrade failed.
        Ok(())
            if is_guarded
                && origin == origins::PageOrigin::Other
                && !(matches!(found, Found::Route(Route { endpoint: Endpoint::Stream, .. }, _))
                    && upgrade::is_asked(&request)) =>
        {
            Err(origins::refuse(&node, &request))
        }
        Ok(()) => match found {
            Found::Route(route, org) => dispatch(route, org, worker, peer, request).await,
            Found::OtherMethod(path) => Ok(other_method(request.method(), path)),
            Found::Nothing if node.has_page && matches!(*request.method(), Method::GET | Method::HEAD) => {
                asset(&request)
            }
            Found::Nothing => Err(nothing_here()),
        },
    };
    let mut detail = None;
    let mut response = answered.unwrap_or_else(|refusal| {
        node.metrics.refused(&refusal);
        if matches!(found, Found::Route(Route { endpoint: Endpoint::Stream, .. }, _)) {
            node.metrics.close(refusal.code);
        }
        let response = refuse(&refusal);
        detail = Some(refusal.message);
        response
    });
    let operation = operation_of(&found);
    record(&node, operation, address, &response, detail.as_deref());
    node.metrics.request_took(operation, began.elapsed());
    if let Found::Route(route, _) = found {
        // In debug builds, and so in every test: each answer must be in the description.
        debug_assert!(
            openapi::describes(route, &response),
            "openapi/operation.rs does not describe {} {:?} as an answer of {}",
            response.status(),
            response.extensions().get::<Code>(),
            route.id
        );
    }
    origins::allow(&node, &mut response, origin);
    if is_guarded || matches!(found, Found::Route(..)) {
        // Even if the request had no Origin, or none that is listed: the next one may have one.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
    }
    // HTTP/2 has a frame for this and removes the header.
    if is_over && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // A refused upgrade says `upgrade, close` itself (RFC 9110 7.8).
        response.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What a request asks for, as metrics and log lines name it.
fn operation_of(found: &Found<'_>) -> Operation {
    let Found::Route(route, _) = found else { return Operation::Other };
    match route.endpoint {
        Endpoint::Publish | Endpoint::PublishToOrgs => Operation::Publish,
        Endpoint::History => Operation::History,
        Endpoint::Cursor => Operation::Cursor,
        Endpoint::Stream => Operation::Stream,
        Endpoint::Description => Operation::Description,
        Endpoint::Preflight => Operation::Preflight,
    }
}

/// Makes the series of every answer that the description has, and of those outside of the API, so that each
/// is there before the first such answer.
pub fn expect_requests(metrics: &Metrics) {
    for route in &ROUTES {
        let operation = operation_of(&Found::Route(route, ""));
        let codes = openapi::codes_of(route).map(Some);
        codes.chain([None]).for_each(|code| metrics.expect_request(operation, code));
    }
    let codes = [Code::BadRequest, Code::Forbidden, Code::NotFound, Code::MethodNotAllowed, Code::TooLarge];
    let codes = codes.into_iter().map(Some);
    codes.chain([None]).for_each(|code| metrics.expect_request(Operation::Other, code));
}

/// Counts an answer, and logs it if it is a refusal. `detail` says why, or else the answer's
/// [`problem::LogDetail`]. Without both, the meaning of the code is logged.
fn record<B>(
    node: &Node,
    operation: Operation,
    address: IpAddr,
    response: &Response<B>,
    detail: Option<&str>,
) {
    let extensions = response.extensions();
    let in_stream = extensions.get::<problem::InStream>().map(|problem::InStream(code)| *code);
    let code = extensions.get::<Code>().copied().or(in_stream);
    node.metrics.request(operation, code);
    if let Some(code) = code {
        let detail = detail.or(extensions.get::<problem::LogDetail>().map(|detail| detail.0.as_str()));
        node.log_refused(operation, code, address, detail.unwrap_or(code.meaning()));
    }
}

async fn dispatch(
    route: &Route,
    org: &str,
    worker: Rc<Worker>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    match route.endpoint {
        Endpoint::Publish => publish::answer(&worker.node, Some(org_of(org)?), &peer.quiet, request).await,
        Endpoint::PublishToOrgs => publish::answer(&worker.node, None, &peer.quiet, request).await,
        Endpoint::History => history::events(&worker, peer.address.ip(), org_of(org)?, &request).await,
        Endpoint::Cursor => history::cursor(&worker.node, peer.address.ip(), org_of(org)?, &request).await,
        Endpoint::Stream => stream::answer(worker, peer, org, request).await,
        Endpoint::Description => Ok(openapi::answer(&worker.node, &request)),
        Endpoint::Preflight => Ok(origins::preflight(&table::allowed(route.path))),
    }
}

/// The path exists, but only with other methods.
fn other_method(method: &Method, path: &str) -> Response<Answer> {
    let allowed = table::allowed(path);
    let message = format!("{:.20} is not allowed here; {allowed} are", method.as_str());
    let mut response = refuse(&Refusal::new(Code::MethodNotAllowed, message.clone()));
    response.extensions_mut().insert(problem::LogDetail(message));
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// What RFC 9112 (3.2, 6.1) requires of every request: it states its host and its end once and in one way. If
/// two parties read such a request differently, it may be served to the wrong one, or they may see another
/// request after it (request smuggling).
fn sound<B>(request: &Request<B>) -> Result<(), Refusal> {
    let bad = |message| Err(Refusal::new(Code::BadRequest, message));
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("Host appears more than once in the headers");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return bad("a request of HTTP/1.1 must have a Host header");
    }
    if let Some(host) = host {
        let is_one = |text: &str| text.parse::<Authority>().is_ok_and(|one| !one.as_str().contains('@'));
        if !host.to_str().is_ok_and(is_one) {
            return bad("Host must be one host name or address, and a port if it is not the default one");
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
    let message = "nothing is at this address; the API is at /v1/orgs/{org}/events, /cursor and /stream, \
                   and at /v1/events, and described at /openapi.json";
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

/// The only value of a header, if it is there.
fn header_once<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(Code::BadRequest, format!("{name} appears more than once in the headers")));
    }
    Ok(value)
}

/// A JSON answer that no cache keeps.
fn json(body: impl Into<Bytes>) -> Response<Answer> {
    json_of(full(body))
}

/// The same, of a body that may not be whole yet.
fn json_of(body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
