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
    /// It is listed, but pages of anybody send it (`null`, `file://`).
    Anybody(HeaderValue),
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
    let config = node.config();
    if let Some(allowed) = config.auth.origins.iter().find(|allowed| allowed.admits(origin.as_bytes())) {
        let origin = origin.clone();
        return if allowed.is_anybody() { PageOrigin::Anybody(origin) } else { PageOrigin::Listed(origin) };
    }
    match (origin.to_str(), host(request)) {
        (Ok(origin), Some(host)) if is_own(origin, host) => PageOrigin::Own,
        _ => PageOrigin::Other,
    }
}

/// Whether a page of `origin` was served under `host`. Case does not matter, and the port may be left out if it
/// is the scheme's own (RFC 9110, section 4.2.3). A proxy may end TLS, so both schemes are accepted.
fn is_own(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    match (host_and_port(authority, port), host_and_port(host, port)) {
        (Some((page, its_port)), Some((ours, our_port))) => {
            page.eq_ignore_ascii_case(ours) && its_port == our_port
        }
        _ => false,
    }
}

fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    // Colons before the bracket belong to an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    let port = match port {
        "" => default,
        port if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
        _ => return None,
    };
    (!host.is_empty()).then_some((host, port))
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
    let is_one = origins.next().is_none();
    if is_one && matches!(text, "null" | "file://") {
        tracing::warn!(
            others,
            "refuse a page without an origin of its own ({text}); auth.origins can list that word, and says \
             whom else it lets in"
        );
    } else if is_one && config::is_origin(text) {
        tracing::warn!(
            others,
            "refuse a page of another origin; to let it in, add \"{text}\" to auth.origins"
        );
    } else {
        // Escaped: a header value may hold quotes and bytes that are not text.
        let shown: String = format!("{first:?}").chars().take(SHOWN_MAX).collect();
        tracing::warn!(others, "refuse a page of an origin that auth.origins cannot list: {shown}");
    }
}

/// Lets a page of a listed origin read the answer. Credentials are allowed only if a cookie can hold a token, and
/// the origin says who made the page.
pub fn allow(node: &Node, response: &mut Response<Answer>, origin: PageOrigin) {
    let (origin, may_prove) = match origin {
        PageOrigin::Listed(origin) => (origin, true),
        PageOrigin::Anybody(origin) => (origin, false),
        PageOrigin::Absent | PageOrigin::Own | PageOrigin::Other => return,
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let names = HeaderValue::from_static("Retry-After, Tidegate-Cursor");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    if may_prove && node.config().auth.cookie.is_some() {
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
    // Some libraries add X-Requested-With to every request.
    let names = "Authorization, Content-Type, Content-Encoding, Idempotency-Key, Last-Event-ID, Cache-Control, \
                 X-Requested-With";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(names));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateways_own_origin_is_compared_as_rfc_9110_says() {
        for (origin, host) in [
            ("https://gw.example.com", "gw.example.com"),
            ("https://gw.example.com", "gw.example.com:443"),
            ("https://gw.example.com:443", "gw.example.com"),
            ("http://gw.example.com", "gw.example.com:80"),
            ("http://gw.example.com:80", "gw.example.com"),
            ("https://gw.example.com", "GW.Example.COM"),
            ("HTTPS://GW.EXAMPLE.COM", "gw.example.com"),
            ("https://gw.example.com", "gw.example.com:"),
            ("https://gw_1.example.com:8443", "gw_1.example.com:8443"),
            ("https://[2001:db8::1]", "[2001:DB8::1]:443"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(is_own(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("https://gw.example.com", "gw.example.com:80"),
            ("http://gw.example.com", "gw.example.com:443"),
            ("http://gw.example.com:443", "gw.example.com"),
            ("https://gw.example.com:8443", "gw.example.com"),
            ("https://gw.example.com", "gw.example.com:8443"),
            ("https://gw.example.com.", "gw.example.com"),
            ("https://gw.example.com/", "gw.example.com"),
            ("https://gw.example.com:443/", "gw.example.com"),
            ("https://gw.example.com:+443", "gw.example.com"),
            ("https://gw.example.com:65979", "gw.example.com"),
            ("https://evil.example", "gw.example.com"),
            ("https://u@gw.example.com", "gw.example.com"),
            ("https://gw.example.com@evil.example", "gw.example.com"),
            ("https://[2001:db8::1]", "[2001:db8::1]:8443"),
            ("https://2001:db8::1", "[2001:db8::1]"),
            ("wss://gw.example.com", "gw.example.com"),
            ("capacitor://gw.example.com", "gw.example.com"),
            ("gw.example.com", "gw.example.com"),
            ("https://", ""),
            ("https://:443", ":443"),
            ("null", "null"),
        ] {
            assert!(!is_own(origin, host), "{origin} {host}");
        }
    }
}
