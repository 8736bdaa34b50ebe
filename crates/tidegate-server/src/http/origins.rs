//! Pages of other origins: which may connect, and the headers that let a browser hand them the answer
//! (CORS, WHATWG Fetch section 3.2). WebSockets need only the first, all else needs both.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use tidegate_core::{Code, Refusal};

use super::{Answer, full};
use crate::node::Node;

/// Pages of other origins may not connect unless they are listed; what sends no Origin is no browser.
pub fn check_origin(node: &Node, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Which of the two schemes is ours depends on what stands in front.
    let is_same = ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host));
    let is_listed = node.config().auth.origins.iter().any(|allowed| allowed.as_str() == origin);
    if origins.next().is_none() && ((is_same && !host.is_empty()) || is_listed) {
        return Ok(());
    }
    tracing::warn!(origin, "refuse a page of an origin that auth.origins does not list");
    Err(Refusal::new(
        Code::Forbidden,
        "pages of this origin may not connect; auth.origins lists those that may",
    ))
}

/// The `Origin` of a request, if `auth.origins` lists it.
pub fn listed<B>(node: &Node, request: &Request<B>) -> Option<HeaderValue> {
    let origin = request.headers().get(header::ORIGIN)?;
    node.config().auth.origins.iter().any(|allowed| origin == allowed.as_str()).then(|| origin.clone())
}

/// Lets a page of a listed origin read the answer. No credentials: tokens are not cookies.
pub fn allow(response: &mut Response<Answer>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Retry-After, Tidegate-Cursor"),
    );
}

/// Answers what a browser asks before a request with headers of its own. `allowed` are the methods that
/// are taken at its address.
pub fn preflight<B>(node: &Node, request: &Request<B>, allowed: &str) -> Result<Response<Answer>, Refusal> {
    check_origin(node, request.headers())?;
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
    Ok(response)
}
