//! The operators' listener: `/healthz`, `/readyz`, `/metrics`, the orgs, and the connections of an org. It
//! needs no credentials, so it is bound to loopback by default. It answers no pages, because a browser can
//! reach loopback too.

mod connections;
mod orgs;
mod quotas;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tidegate_engine::Health;
use tidegate_protocol::{Code, OrgId, Refusal, UnixMillis, UserId, time::write_rfc3339};
use tokio::net::TcpListener;

pub use orgs::Shown as OrgShown;

use crate::{
    admission::{self, QuietConnections},
    heartbeats::Stalled,
    http::{query::Query, refuse_whole},
    log_limiter::LogLimiter,
    node::Node,
    transport::vanished,
};

/// How many operators' connections are served at once.
const CONNECTIONS_MAX: usize = 64;

/// The longest life of such a connection, unless a deletion is under way; a scraper connects again.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

/// The maximum of connections or orgs in one answer, and the default.
const LISTED_MAX: usize = 1000;
const LISTED: usize = 100;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves operators until the task is dropped.
pub async fn serve(listener: TcpListener, node: Arc<Node>) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let quiet_ones = Arc::<QuietConnections>::default();
    let failed = LogLimiter::every(Duration::from_secs(60));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(others) = failed.say() {
                    tracing::warn!(%error, others, "accept an operator's connection");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        vanished::bound(&stream, node.config().limits.write_timeout);
        // One that waits for a request makes room for an operator who has one.
        if slots.available_permits() == 0 {
            quiet_ones.close_one();
        }
        let quiet = quiet_ones.arrive(admission::counted_as(peer.ip()));
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let node = node.clone();
        tokio::spawn(async move {
            let _slot = slot;
            let timeout = node.config().limits.first_frame_timeout;
            let is_loopback = stream.local_addr().map_or(true, |at| at.ip().to_canonical().is_loopback());
            let deletes = Arc::<AtomicBool>::default();
            let quiet = Arc::new(quiet);
            let service = {
                let (deletes, quiet) = (deletes.clone(), quiet.clone());
                hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (node, deletes, quiet) = (node.clone(), deletes.clone(), quiet.clone());
                    quiet.asked(false);
                    // No request here has a body.
                    let request = request.map(drop);
                    async move {
                        deletes.store(request.method() == Method::DELETE, Ordering::SeqCst);
                        let response = answer(&node, &request, is_loopback).await;
                        deletes.store(false, Ordering::SeqCst);
                        quiet.answered();
                        Ok::<_, Infallible>(response)
                    }
                })
            };
            let mut connection = std::pin::pin!(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(timeout)
                    .serve_connection(TokioIo::new(stream), service)
            );
            loop {
                // A client that does not read its answers must not hold its slot for ever. A deletion may take
                // as long as the log takes to be read.
                let ended = tokio::select! {
                    biased;
                    ended = tokio::time::timeout(CONNECTION_AGE_MAX, connection.as_mut()) => ended,
                    () = quiet.closing() => {
                        tracing::debug!("end an operator's connection that waits for a request, to make room");
                        break;
                    }
                };
                match ended {
                    Err(_) if deletes.load(Ordering::SeqCst) => continue,
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "end an operator's connection"),
                    Err(_) => tracing::debug!("end an operator's connection: it is old"),
                }
                break;
            }
        });
    }
}

/// Refuses all pages. A page of another origin, and one that does more than read, is recognised by its
/// `Origin`. A page whose name was made to resolve to this listener (DNS rebinding) is recognised by its
/// `Host`: on loopback it must be an address or `localhost`. Elsewhere, such as in a container, the node may
/// have names that it does not know.
fn refuse_pages(headers: &HeaderMap, is_loopback: bool) -> Result<(), Refusal> {
    if headers.contains_key(header::ORIGIN) {
        return Err(Refusal::new(
            Code::Forbidden,
            "this listener serves no pages, and Origin shows that this is one",
        ));
    }
    if is_loopback && !headers.get_all(header::HOST).iter().all(is_no_name) {
        let message = "on loopback, Host must be this listener's address or localhost";
        return Err(Refusal::new(Code::Forbidden, message));
    }
    Ok(())
}

/// Whether `host` is an address or `localhost`, which no name server can redirect.
fn is_no_name(host: &HeaderValue) -> bool {
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

async fn answer(node: &Arc<Node>, request: &Request<()>, is_loopback: bool) -> Response<Full<Bytes>> {
    if let Err(refusal) = refuse_pages(request.headers(), is_loopback) {
        return refuse_whole(&refusal);
    }
    let path = request.uri().path();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let allowed = match segments.as_slice() {
        ["healthz" | "readyz" | "metrics"] => "GET, HEAD",
        ["v1", "orgs"] => "GET, HEAD",
        ["v1", "orgs", _] => "GET, HEAD, DELETE",
        ["v1", "orgs", _, "events"] => "DELETE",
        ["v1", "orgs", _, "quotas"] => "GET, HEAD, PUT, DELETE",
        ["v1", "orgs", _, "connections"] => "GET, DELETE",
        ["v1", "orgs", _, "connections", _] => "DELETE",
        _ => {
            let message = "nothing is at this address; try /healthz, /readyz, /metrics, /v1/orgs or \
                           /v1/orgs/{org}/connections";
            return refuse_whole(&Refusal::new(Code::NotFound, message));
        }
    };
    let method = request.method();
    if !allowed.split(", ").any(|name| name == method.as_str()) {
        let message = format!("{method} is not allowed here; {allowed} are");
        let mut response = refuse_whole(&Refusal::new(Code::MethodNotAllowed, message));
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
        return response;
    }
    let answered = match (segments.as_slice(), method) {
        (["v1", "orgs"], _) => orgs::list(node, request).await,
        (["v1", "orgs", org], &Method::DELETE) => orgs::delete(node, org, request).await,
        (["v1", "orgs", org], _) => orgs::one(node, org, request).await,
        (["v1", "orgs", org, "events"], _) => orgs::delete_some(node, org, request).await,
        (["v1", "orgs", org, "quotas"], &Method::PUT) => quotas::set(node, org, request).await,
        (["v1", "orgs", org, "quotas"], &Method::DELETE) => quotas::reset(node, org, request).await,
        (["v1", "orgs", org, "quotas"], _) => quotas::show(node, org, request).await,
        (["v1", "orgs", org, "connections"], &Method::DELETE) => connections::close_all(node, org, request),
        (["v1", "orgs", org, "connections"], _) => connections::list(node, org, request),
        (["v1", "orgs", org, "connections", id], _) => connections::close(node, org, id, request),
        (["readyz"], _) => Ok(ready(node)),
        (["metrics"], _) => Ok(metrics(node, request.headers()).await),
        _ => Ok(healthy(node.heartbeats.stalled())),
    };
    answered.unwrap_or_else(|refusal| refuse_whole(&refusal))
}

async fn metrics(node: &Node, headers: &HeaderMap) -> Response<Full<Bytes>> {
    quotas::report_near(node).await;
    node.metrics.orgs.set(i64::try_from(node.hub.len()).unwrap_or(i64::MAX));
    node.metrics.connection_slots(node.sockets(), &node.admission.slots_held());
    node.metrics.waiting(node.quiet.states());
    node.metrics.limits(&node.config());
    node.metrics.log_state(node.log_state().0);
    node.metrics.log_usage(&node.engine.usage(), node.now());
    node.metrics.publishes(node.publishes.used());
    node.metrics.in_flight(&node.ledger.held());
    if prefers_open_metrics(headers) {
        text(StatusCode::OK, OPEN_METRICS, node.metrics.open_metrics())
    } else {
        text(StatusCode::OK, PROMETHEUS_TEXT, node.metrics.prometheus_text())
    }
}

/// Whether `Accept` asks for OpenMetrics, and for the text format no more than that (RFC 9110, section
/// 12.5.1). Who states no preference, like curl, gets the text format, which every tool reads.
fn prefers_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open, mut plain) = (0.0_f32, 0.0_f32);
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        match kind.as_str() {
            "application/openmetrics-text" => open = weight.max(open),
            "text/plain" => plain = weight.max(plain),
            _ => {}
        }
    }
    open > 0.0 && open >= plain
}

/// Whether the process works: a worker that hangs serves none of its readers, and a restart helps.
fn healthy(stalled: Option<Stalled>) -> Response<Full<Bytes>> {
    let (status, body) = match stalled {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(Stalled { worker, since }) => {
            let reason = format!("worker {worker} has made no progress for {} s\n", since.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, reason)
        }
    };
    text(status, "text/plain; charset=utf-8", body)
}

/// Why no traffic should come here, if there is a reason, and how the log is.
fn ready(node: &Node) -> Response<Full<Bytes>> {
    let reason = match &*node.engine.health().borrow() {
        Health::Halted(reason) => Some(format!("the log takes no writes: {reason}")),
        Health::Degraded(reason) => Some(format!("the log is degraded: {reason}")),
        // Readers are served as ever, so a full log is no reason to send them elsewhere.
        Health::Full(_) | Health::Ok => node.is_draining().then(|| "the node is draining".to_owned()),
    };
    let (state, why) = node.log_state();
    let body = serde_json::json!({
        "ready": reason.is_none(),
        "reason": reason,
        "log": {
            "engine": node.config().log.engine.word(),
            "sync": node.terms.sync.unwrap_or("always"),
            "state": state.name(),
            "reason": why,
        },
    });
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, "application/json", format!("{body}\n"))
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BadRequest, error.to_string())
}

fn org_of(text: &str) -> Result<OrgId, Refusal> {
    OrgId::parse(text).map_err(bad)
}

fn user_of(query: &Query) -> Result<Option<UserId>, Refusal> {
    query.one("user")?.map(|user| UserId::parse(user).map_err(bad)).transpose()
}

fn time(at: UnixMillis) -> String {
    let mut out = BytesMut::new();
    write_rfc3339(&mut out, at);
    String::from_utf8_lossy(&out).into_owned()
}

fn json(body: &impl Serialize) -> Response<Full<Bytes>> {
    // Strings and numbers always serialise.
    text(StatusCode::OK, "application/json", serde_json::to_string(body).unwrap_or_default() + "\n")
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_worker_that_hangs_shows_in_healthz() {
        let stalled = Stalled { worker: 1, since: Duration::from_millis(12_900) };
        for (stalled, status, body) in
            [(None, 200, "ok\n"), (Some(stalled), 503, "worker 1 has made no progress for 12 s\n")]
        {
            let answer = healthy(stalled);
            assert_eq!(answer.status(), status);
            let Ok(said) = answer.into_body().collect().await;
            assert_eq!(said.to_bytes(), body);
        }
    }
}
