//! `GET /v1/orgs/{org}/stream`: from a request to a reader, over WebSocket or SSE.
//!
//! A well-formed WebSocket upgrade is always accepted and then refused by an `error` frame and a close code:
//! browsers see a failed upgrade as 1006 and would reconnect for ever.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tidegate_core::{Framing, frame, gzip, session::Coding, slow::Policy};
use tidegate_protocol::{Code, Cursor, CursorError, OrgId, Refusal, ws::handshake::Protocols};

use super::{
    Answer, Incoming,
    credentials::{self, Token, bearer},
    full, header_once, org_of, origins, problem,
    query::Query,
};
use crate::{
    admission::{ConnectionId, Slot},
    auth::StreamGrant,
    config::config_key,
    node::Node,
    random::random,
    transport::{
        Transport,
        upgrade::{self, Upgrade},
    },
    worker::{
        Peer, Reader, Sink, StreamRequest, Worker,
        sse::{self, Bodies},
        websocket::{self, Asked, Upgraded},
    },
};

/// The subprotocol of version 1.
const PROTOCOL: &str = "tidegate.v1";
/// Carries the token, because browsers cannot set headers on a WebSocket.
const TOKEN_PROTOCOL: &str = "tidegate.bearer.";
/// The parameters of a stream. Another one is refused: a misspelt `cursor` would start at the head in silence.
const PARAMETERS: [&str; 11] = [
    "services",
    "cursor",
    "tail",
    "replaces",
    "slow",
    "deflate",
    "batch",
    "access_token",
    LAST_EVENT_ID[0],
    LAST_EVENT_ID[1],
    LAST_EVENT_ID[2],
];
/// What EventSource polyfills that set no header call `Last-Event-ID` in the query.
const LAST_EVENT_ID: [&str; 3] = ["lastEventId", "last_event_id", "Last-Event-ID"];
/// How long an EventSource whose cookie has expired waits before it tries again. A page that renews the
/// cookie has usually done so by its first attempt, 1 to 6 s after the stream ended.
const COOKIE_RENEWAL_MS: u64 = 30_000;

/// Opens a stream.
pub async fn answer(
    worker: Rc<Worker>,
    peer: Peer,
    org: &str,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    if upgrade::is_asked(&request) {
        upgrade(worker, peer, org, request)
    } else {
        events(worker, peer, org, request).await
    }
}

fn upgrade(
    worker: Rc<Worker>,
    peer: Peer,
    org: &str,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let node = worker.node.clone();
    let query = Query::of(&request);
    let origin = origins::check(&node, &request);
    let wanted = query
        .only(&PARAMETERS)
        .and_then(|()| org_of(org))
        .and_then(|org| wanted(&node, org, &query, request.headers()));
    let header = bearer(request.headers()).map(|token| token.map(str::to_owned));
    let (upgrade, protocols) = match Upgrade::of(&request) {
        Ok(upgrade) => upgrade,
        Err(error) => {
            let refusal = Refusal::new(error.code(), error.to_string());
            let mut response = problem::refuse_as(error.status(), &refusal);
            for (name, value) in error.headers() {
                response.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            return Ok(response);
        }
    };
    let protocol = protocols.offers(PROTOCOL).then_some(PROTOCOL);
    let token = subprotocol(&protocols).and_then(|offered| Ok(header?.or(offered)));
    // A connection that is refused because of the number of connections must not take a slot. Everything else
    // is checked while the slot is held, so that it is counted.
    let slot = node.admission.admit(peer.address.ip());
    let wanted = origin.and(wanted).and_then(|wanted| Ok((wanted, token?)));
    let deflate = match &wanted {
        Ok((wanted, _)) if may_compress(&node, wanted, &query) => upgrade.deflate(),
        _ => None,
    };
    let (response, switching) = upgrade.accept(protocol, deflate);
    let upgraded = Upgraded { switching, deflates: deflate.is_some() };
    match (wanted, slot) {
        (Ok((mut request, token)), Ok(slot)) => {
            if let Some(deflate) = deflate {
                request.coding = Coding::Deflate(deflate);
            }
            let asked = Asked { request, token, slot };
            tokio::task::spawn_local(websocket::run(worker, peer, upgraded, asked));
        }
        // A refused connection is counted while it closes.
        (Err(refusal), slot) => {
            tokio::task::spawn_local(websocket::refuse(worker, peer, upgraded, refusal, slot.ok()));
        }
        (Ok(_), Err(refusal)) => {
            tokio::task::spawn_local(websocket::refuse(worker, peer, upgraded, refusal, None));
        }
    }
    Ok(response.map(|()| full("")))
}

/// The token in the subprotocols. Other subprotocols than that and version 1 are not supported.
fn subprotocol(protocols: &Protocols<'_>) -> Result<Option<String>, Refusal> {
    let token = protocols.after(TOKEN_PROTOCOL).map(str::to_owned);
    if protocols.iter().filter(|protocol| protocol.starts_with(TOKEN_PROTOCOL)).count() > 1 {
        let message = "only one of the subprotocols may carry a token";
        return Err(Refusal::new(Code::BadRequest, message));
    }
    if protocols.iter().next().is_some() && !protocols.offers(PROTOCOL) {
        let message = "tidegate.v1 is the only subprotocol of this gateway";
        return Err(Refusal::new(Code::Unsupported, message));
    }
    Ok(token)
}

async fn events(
    worker: Rc<Worker>,
    peer: Peer,
    org: &str,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let node = worker.node.clone();
    let query = Query::of(&request);
    // As over WebSocket: every attempt costs a handshake, and holds a slot while it is checked.
    let slot = node.admission.admit(peer.address.ip());
    // Before the credentials, which may have come under a misspelt name.
    let token = query.only(&PARAMETERS).and_then(|()| credentials::of_stream(&node, &request, &query));
    let token = match token {
        Ok(token) => token,
        Err(refusal) => return Err(slot.err().unwrap_or(refusal)),
    };
    let source = token.source;
    let opened = async {
        let wanted = wanted_events(&node, org, &query, request.headers())?;
        open_events(&worker, wanted, &token, slot?, peer.bodies).await
    };
    match opened.await {
        Err(refusal) if source.retries_after_200(refusal.code) => {
            node.metrics.close(refusal.code);
            node.metrics.refused(&refusal);
            let again_ms = match refusal.code {
                Code::TokenExpired => COOKIE_RENEWAL_MS,
                _ => refusal.retry_in_ms.unwrap_or(5000).max(1000),
            };
            let mut body = format!("retry: {again_ms}\n").into_bytes();
            body.extend_from_slice(&frame::error(Framing::Sse, &refusal));
            let mut response = sse_response(full(body));
            response.extensions_mut().insert(problem::InStream(refusal.code));
            Ok(response)
        }
        answered => answered,
    }
}

/// What a request for an SSE stream asks for.
fn wanted_events(
    node: &Node,
    org: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<StreamRequest, Refusal> {
    accepts_event_stream(headers)?;
    let mut wanted = wanted(node, org_of(org)?, query, headers)?;
    if may_compress(node, &wanted, query) && accepts_gzip(headers) {
        wanted.coding = Coding::Gzip(gzip::GzipBody::default());
    }
    Ok(wanted)
}

async fn open_events(
    worker: &Rc<Worker>,
    mut wanted: StreamRequest,
    token: &Token,
    mut slot: Slot,
    bodies: Rc<Bodies>,
) -> Result<Response<Answer>, Refusal> {
    let is_gzip = matches!(wanted.coding, Coding::Gzip(_));
    let grant: StreamGrant = worker.node.authorize(&token.text, &wanted.org).await?;
    let entered = wanted.enter(worker, &grant, Transport::Sse, &mut slot).await?;
    let (body, frames) = sse::SseBody::new(entered.org.clone(), bodies);
    // Random for each connection, so that clients that lost a node do not all come back at once. The line
    // belongs to the first frame: many clients hand over an event without data, too, and it is not JSON.
    let retry = Bytes::from(format!("retry: {}\n", 1000 + random() % 5000));
    let mut first = Vec::new();
    if let Coding::Gzip(body) = &mut wanted.coding {
        *body = gzip::GzipBody::begin(&mut first);
        body.store(&retry, &mut first);
    } else {
        first.push(retry);
    }
    let _ = frames.send(&mut first);
    let attendance = Reader::open(worker.clone(), grant, wanted, (slot, entered), Sink::Sse(frames.clone()));
    frames.set_reader(attendance.reader());
    tokio::task::spawn_local(sse::run(attendance, frames));
    let mut response = sse_response(Answer::Stream(body));
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if is_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

fn sse_response(body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Whether the transport may compress this stream, by configuration and query. Frames that are compressed
/// inside their JSON are not compressed again.
fn may_compress(node: &Node, wanted: &StreamRequest, query: &Query) -> bool {
    node.config().compression.is_on_for(&wanted.org)
        && query.one("deflate") != Ok(Some("0"))
        && wanted.coding == Coding::Plain
}

/// Whether the client accepts gzip (RFC 9110, section 12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let accepts = |part: &str| {
        let (coding, weight) = part.split_once(';').unwrap_or((part, ""));
        let is_off = |weight: &str| {
            weight.trim().strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty())
        };
        coding.trim().eq_ignore_ascii_case("gzip") && !is_off(weight)
    };
    values.flat_map(|value| value.split(',')).any(accepts)
}

fn accepts_event_stream(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut accepts = headers.get_all(header::ACCEPT).iter().peekable();
    let fits = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default().to_ascii_lowercase();
        value.split(',').any(|part| {
            matches!(
                part.split(';').next().unwrap_or_default().trim(),
                "text/event-stream" | "text/*" | "*/*"
            )
        })
    };
    if accepts.peek().is_none() || accepts.any(fits) {
        return Ok(());
    }
    let message = "a stream is a WebSocket upgrade or Accept: text/event-stream";
    Err(Refusal::new(Code::BadRequest, message))
}

/// The cursor in the query under the first of the names of `Last-Event-ID` that has a value. A faulty value is
/// refused under each of them.
fn last_event_id(query: &Query) -> Result<Option<Cursor>, Refusal> {
    let mut found = None;
    for name in LAST_EVENT_ID {
        if let Some(text) = query.one(name)?.filter(|text| !text.is_empty()) {
            let cursor = text.parse::<Cursor>().map_err(|error| bad_cursor(name, error))?;
            found = found.or(Some(cursor));
        }
    }
    Ok(found)
}

fn bad_cursor(name: &str, error: CursorError) -> Refusal {
    Refusal::new(Code::BadRequest, format!("{name}: {error}"))
}

/// What the request asks for. Precedence: the header `Last-Event-ID`, then its names in the query, then
/// `cursor=`, then `tail=` (R4).
fn wanted(node: &Node, org: OrgId, query: &Query, headers: &HeaderMap) -> Result<StreamRequest, Refusal> {
    let in_header = match header_once(headers, "last-event-id")?.map(HeaderValue::to_str) {
        Some(Ok("")) | None => None,
        Some(text) => {
            let cursor = text.ok().unwrap_or_default().parse::<Cursor>();
            Some(cursor.map_err(|error| bad_cursor("Last-Event-ID", error))?)
        }
    };
    let in_query = last_event_id(query)?;
    let cursor = match query.one("cursor")? {
        // A page that has no cursor yet may send an empty one.
        Some("") | None => None,
        Some(text) => Some(text.parse::<Cursor>().map_err(|error| bad_cursor("cursor", error))?),
    };
    let slow = match query.one("slow")? {
        None => node.config().slow.policy,
        Some(policy) => Policy::from_name(policy).ok_or_else(|| {
            Refusal::new(
                Code::Unsupported,
                "the policies for slow readers (slow=) are catch_up, skip and latest",
            )
        })?,
    };
    if query.one("deflate")?.is_some_and(|flag| !matches!(flag, "0" | "1")) {
        return Err(Refusal::new(Code::BadRequest, "deflate must be 0, for no compression, or 1"));
    }
    let coding = match query.one("batch")? {
        None => Coding::Plain,
        Some("gzip") if node.config().compression.is_on_for(&org) => {
            Coding::Enveloped(node.enveloping.clone())
        }
        Some("gzip") => Coding::Plain,
        Some(_) => {
            let message = "batch must be gzip, for batches that are compressed inside their JSON";
            return Err(Refusal::new(Code::BadRequest, message));
        }
    };
    let replaces = match query.one("replaces")? {
        Some("") | None => None,
        Some(text) => Some(
            text.parse::<ConnectionId>()
                .map_err(|error| Refusal::new(Code::BadRequest, format!("replaces: {error}")))?,
        ),
    };
    let config = node.config();
    Ok(StreamRequest {
        org,
        services: query.services(config.limits.services_per_filter)?,
        cursor: in_header.or(in_query).or(cursor),
        tail: query.number("tail", 0..=config.limits.tail_events, Some(config_key!(limits.tail_events)))?,
        replaces,
        slow,
        coding,
    })
}
