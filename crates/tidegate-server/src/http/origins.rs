//! The origins of pages: which may connect, and the CORS headers that let a browser give them the answer
//! (WHATWG Fetch section 3.2). WebSockets need only the first.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tidegate_protocol::{Code, Refusal};

use super::{Answer, full};
use crate::{config, node::Node};

/// The refusal for a page whose origin may not connect.
pub const REFUSED: &str = "pages of this origin may not connect; auth.origins lists those that may";

/// How many characters of a refused origin are logged.
const SHOWN_MAX: usize = 120;

/// Where the page behind a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOrigin {
    /// There is no Origin: the client is not a browser, or it is a page of ours that sends a GET.
    Absent,
    /// The page was served under the host that the request is sent to.
    Own,
    /// The page's origin is listed in `auth.origins`.
    Listed(HeaderValue),
    /// Any other origin, or one that cannot be read.
    Other,
}

/// The origin of a request as the browser states it.
pub fn of<B>(node: &Node, request: &Request<B>) -> PageOrigin {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return PageOrigin::Absent };
    if origins.next().is_some() {
        return PageOrigin::Other;
    }
    if node.config().auth.origins.iter().any(|allowed| allowed.admits(origin.as_bytes())) {
        return PageOrigin::Listed(origin.clone());
    }
    // A proxy may end TLS, so both schemes are accepted.
    let authority = origin.to_str().ok().and_then(|origin| {
        origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"))
            .filter(|text| !text.is_empty())
    });
    if authority.is_some() && authority == host(request) { PageOrigin::Own } else { PageOrigin::Other }
}

/// The host and port that a request is sent to, as its sender wrote them (over HTTP/2, `:authority`).
fn host<B>(request: &Request<B>) -> Option<&str> {
    request.headers().get(header::HOST).and_then(|host| host.to_str().ok())
}

/// Refuses a page of another origin, unless the origin is listed.
pub fn check<B>(node: &Node, request: &Request<B>) -> Result<(), Refusal> {
    if of(node, request) == PageOrigin::Other { Err(refuse(node, request)) } else { Ok(()) }
}

/// The refusal for a page whose origin may not connect. The log says how to allow it.
pub fn refuse<B>(node: &Node, request: &Request<B>) -> Refusal {
    log_refused(node, request.headers());
    Refusal::new(Code::Forbidden, REFUSED)
}

/// Logs which key to set to what value. Rate-limited, because anybody can send such requests.
fn log_refused(node: &Node, headers: &HeaderMap) {
    let Some(others) = node.refused_origins.say() else { return };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let first = origins.next();
    let text = first.and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    if origins.next().is_none() && config::is_origin(text) {
        let set = format!("auth.origins = [\"{text}\"]");
        tracing::warn!(others, "refuse a page of another origin; to let it in, set {set}");
    } else {
        // Escaped: a header value may hold quotes and bytes that are not text.
        let shown: String = format!("{first:?}").chars().take(SHOWN_MAX).collect();
        tracing::warn!(others, "refuse a page of an origin that auth.origins cannot list: {shown}");
    }
}

/// Lets a page of a listed origin read the answer. Credentials are allowed only if a cookie can hold a token.
pub fn allow(node: &Node, response: &mut Response<Answer>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let names = HeaderValue::from_static("Retry-After, Tidegate-Cursor");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    if node.config().auth.cookie.is_some() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Answers a CORS preflight; `allowed` are the methods of the path. `Access-Control-Allow-Private-Network` is
/// not sent: the browser asks its user instead.
pub fn preflight(allowed: &str) -> Response<Answer> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        headers.insert(header::ALLOW, allowed.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allowed);
    }
    let names =
        "Authorization, Content-Type, Content-Encoding, Idempotency-Key, Last-Event-ID, Cache-Control";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
