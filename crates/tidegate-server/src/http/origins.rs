//! Pages and their origins: which may connect, and the headers that let a browser hand them the answer
//! (CORS, WHATWG Fetch section 3.2). WebSockets need only the first, all else needs both.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tidegate_protocol::{Code, Refusal};

use super::{Answer, full};
use crate::{config, node::Node};

/// What a page of an origin that may not connect is told.
pub const REFUSED: &str = "pages of this origin may not connect; auth.origins lists those that may";

/// How much of a refused origin is logged.
const SHOWN_MAX: usize = 120;

/// Whose page asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// No page: what sends no Origin is no browser, or a page of ours that asks by GET.
    Nobody,
    /// A page that was served under the name that the request is sent to.
    Ours,
    /// A page of an origin that `auth.origins` lists.
    Listed(HeaderValue),
    /// Any other, also one whose origin cannot be made out.
    Stranger,
}

/// Whose page asks, as the browser says. Compared byte for byte: browsers write an origin one way.
pub fn of<B>(node: &Node, request: &Request<B>) -> Of {
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Of::Nobody };
    if origins.next().is_some() {
        return Of::Stranger;
    }
    if node.config().auth.origins.iter().any(|allowed| origin == allowed.as_str()) {
        return Of::Listed(origin.clone());
    }
    // Which of the two schemes is ours depends on what stands in front.
    let authority = origin.to_str().ok().and_then(|origin| {
        origin
            .strip_prefix("https://")
            .or_else(|| origin.strip_prefix("http://"))
            .filter(|text| !text.is_empty())
    });
    if authority.is_some() && authority == host(request) { Of::Ours } else { Of::Stranger }
}

/// The name and port that a request is sent to, as its sender wrote them (over HTTP/2, `:authority`).
fn host<B>(request: &Request<B>) -> Option<&str> {
    request.headers().get(header::HOST).and_then(|host| host.to_str().ok())
}

/// Pages of other origins may do nothing here unless they are listed.
pub fn check<B>(node: &Node, request: &Request<B>) -> Result<(), Refusal> {
    if of(node, request) == Of::Stranger { Err(refuse(node, request)) } else { Ok(()) }
}

/// What a page of an origin that may not connect is told; the log says how to let it in.
pub fn refuse<B>(node: &Node, request: &Request<B>) -> Refusal {
    log_refused(node, request.headers());
    Refusal::new(Code::Forbidden, REFUSED)
}

/// Says which key to set, and to what; seldom, for whoever wants can send such requests without end.
fn log_refused(node: &Node, headers: &HeaderMap) {
    let Some(others) = node.refused_origins.say() else { return };
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let first = origins.next();
    let text = first.and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    if origins.next().is_none() && config::is_origin(text) {
        let set = format!("auth.origins = [\"{text}\"]");
        tracing::warn!(others, "refuse a page of another origin; to let it in, set {set}");
    } else {
        // Escaped: a header value may hold quotes and what is no text.
        let shown: String = format!("{first:?}").chars().take(SHOWN_MAX).collect();
        tracing::warn!(others, "refuse a page of an origin that auth.origins cannot list: {shown}");
    }
}

/// Lets a page of a listed origin read the answer. Its cookies count only where one may hold a token.
pub fn allow(node: &Node, response: &mut Response<Answer>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let names = HeaderValue::from_static("Retry-After, Tidegate-Cursor");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    if node.config().auth.cookie.is_some() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// Answers what a browser asks before a request with headers of its own; `allowed` are the methods that
/// are taken at its address. Whether a public page may reach a private network is asked of the user by
/// the browser, and not promised here.
pub fn preflight(allowed: &str) -> Response<Answer> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        headers.insert(header::ALLOW, allowed.clone());
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allowed);
    }
    let names = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Cache-Control";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
