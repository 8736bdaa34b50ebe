//! Where a request carries its credentials: a reader's token, a publisher's key.
//!
//! Verification is in [`crate::auth`]. The two ways that only WebSocket has (subprotocol, first frame) are in
//! `stream` and in the worker.

use http::{HeaderMap, HeaderValue, Request, header};
use tidegate_protocol::{Code, Refusal};

use super::{header_once, origins, query::Query};
use crate::node::Node;

/// A reader's token.
#[derive(Debug)]
pub struct Token {
    /// The token, not verified yet.
    pub text: String,
    /// Where it was.
    pub source: TokenSource,
}

/// The places in a request that can hold a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer`: a client with code of its own.
    Header,
    /// `?access_token=`: a native EventSource, which can set no header.
    Address,
    /// The cookie that `auth.cookie` names: a native EventSource, or any other request that a page causes.
    Cookie,
}

impl TokenSource {
    /// Whether a refusal must be answered 200 for the client to retry: a native EventSource gives up for good
    /// after every other status (R22).
    pub fn retries_after_200(self, code: Code) -> bool {
        match (self, code) {
            (TokenSource::Header, _) => false,
            // An EventSource keeps its address, and so its token: a page with a new token opens a new
            // EventSource. A cookie may have been renewed in the meantime.
            (TokenSource::Address, Code::TokenExpired) => false,
            (TokenSource::Address | TokenSource::Cookie, code) => code.is_retryable(),
        }
    }
}

/// The credentials of `Authorization: Bearer`; `None` if there is no such header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad =
        || Refusal::new(Code::Unauthorized, "Authorization must be one header of the form Bearer <token>");
    if values.next().is_some() {
        return Err(bad());
    }
    let (scheme, token) = value.to_str().map_err(|_| bad())?.split_once(' ').ok_or_else(bad)?;
    // RFC 9110 11.4: one or more spaces.
    let token = token.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
        return Err(bad());
    }
    Ok(Some(token))
}

/// The token of a request for an SSE stream: from the header, else the query, else the cookie.
pub fn of_stream<B>(node: &Node, request: &Request<B>, query: &Query) -> Result<Token, Refusal> {
    let in_address = query.one("access_token")?;
    if let Some(token) = bearer(request.headers())? {
        return Ok(Token { text: token.to_owned(), source: TokenSource::Header });
    }
    if let Some(token) = in_address {
        return Ok(Token { text: token.to_owned(), source: TokenSource::Address });
    }
    by_cookie(node, request)?.ok_or_else(|| {
        let ways = "read with Authorization: Bearer <token>, or ?access_token= if you cannot set headers";
        no_token(node, request, ways)
    })
}

/// The refusal of a request without a token; `ways` are those that need no configuration. If a cookie could have
/// brought one, it says what keeps browsers from sending cookies.
fn no_token<B>(node: &Node, request: &Request<B>, ways: &str) -> Refusal {
    let config = node.config();
    let Some(name) = &config.auth.cookie else { return Refusal::new(Code::Unauthorized, ways) };
    let came = match request.headers().contains_key(header::COOKIE) {
        true => "the request has cookies, but none of that name",
        false => "the request has no cookie",
    };
    let message = format!(
        "no token: {ways}, or with the cookie {} (auth.cookie); {came}. A page of another origin must ask the \
         browser to send it (`withCredentials: true` of EventSource, `credentials: \"include\"` of fetch), and a \
         page of another site gets it only if it was set with SameSite=None and Secure",
        name.as_str()
    );
    Refusal::new(Code::Unauthorized, message)
}

/// The token of a request for history or a cursor: from the header, else the cookie.
pub fn of_page<B>(node: &Node, request: &Request<B>) -> Result<Token, Refusal> {
    if let Some(token) = bearer(request.headers())? {
        return Ok(Token { text: token.to_owned(), source: TokenSource::Header });
    }
    by_cookie(node, request)?
        .ok_or_else(|| no_token(node, request, "read with Authorization: Bearer <token>"))
}

/// The token in the cookie that `auth.cookie` names. A browser adds its cookies to every request that any
/// page causes, so the request must show that an allowed page caused it.
fn by_cookie<B>(node: &Node, request: &Request<B>) -> Result<Option<Token>, Refusal> {
    let config = node.config();
    let Some(name) = &config.auth.cookie else { return Ok(None) };
    let Some(text) = cookie(request.headers(), name.as_str())? else { return Ok(None) };
    prove_page(node, request)?;
    Ok(Some(Token { text, source: TokenSource::Cookie }))
}

/// Whether the browser reports that the request comes from one of our own pages, or from a listed origin.
fn prove_page<B>(node: &Node, request: &Request<B>) -> Result<(), Refusal> {
    let site = header_once(request.headers(), "sec-fetch-site")?.map(HeaderValue::as_bytes);
    let message = match origins::of(node, request) {
        // Browsers omit Origin if a page sends a GET to its own origin, and then send this header.
        origins::PageOrigin::Absent if site == Some(b"same-origin") => return Ok(()),
        origins::PageOrigin::Absent => {
            "a cookie is taken only from a browser that names the page's origin (Origin, or Sec-Fetch-Site: \
             same-origin); use Authorization: Bearer <token>"
        }
        origins::PageOrigin::Listed(_) => return Ok(()),
        origins::PageOrigin::Anybody(_) => {
            "a cookie is not taken from a page without an origin of its own (null, file://); use \
             Authorization: Bearer <token>"
        }
        // `http://` and our host is not `https://` and our host. A browser that sends Sec-Fetch-Site tells
        // them apart.
        origins::PageOrigin::Own if matches!(site, None | Some(b"same-origin")) => return Ok(()),
        origins::PageOrigin::Own => "a cookie is taken from this page only if auth.origins lists its origin",
        origins::PageOrigin::Other => origins::REFUSED,
    };
    Err(Refusal::new(Code::Forbidden, message))
}

/// The only value of a cookie, over all `Cookie` lines (HTTP/2 clients may send one for each). Two of the
/// same name are refused, because a page of another subdomain can add one and nobody knows which is meant.
fn cookie(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refusal> {
    let mut found = None;
    for line in headers.get_all(header::COOKIE) {
        // Other cookies may hold bytes that are not text.
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
            if pair[..at].trim_ascii() != name.as_bytes() {
                continue;
            }
            let value = std::str::from_utf8(pair[at + 1..].trim_ascii()).map_err(|_| {
                Refusal::new(Code::Unauthorized, format!("the cookie {name} must hold a token"))
            })?;
            if found.replace(value.to_owned()).is_some() {
                let message =
                    format!("the cookie {name} (auth.cookie) appears more than once in the headers");
                return Err(Refusal::new(Code::BadRequest, message));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[&[u8]]) -> Result<Option<String>, Code> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_bytes(line).expect("a value"));
        }
        cookie(&headers, "tg").map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_once() {
        for lines in [&[&b"tg=a.b.c"[..]][..], &[b"x=1; tg=a.b.c; y=2"], &[b"x=1", b" tg = a.b.c "]] {
            assert_eq!(found(lines), Ok(Some("a.b.c".to_owned())), "{lines:?}");
        }
        for lines in
            [&[][..], &[&b"TG=a"[..]], &[b"xtg=a"], &[b"tgx=a"], &[b"x=tg=a"], &[b"tg"], &[b"x=\"; y"]]
        {
            assert_eq!(found(lines), Ok(None), "{lines:?}");
        }
        // A value keeps its own `=`; other cookies are ignored.
        assert_eq!(found(&[b"tg=a=b; x=\xff"]), Ok(Some("a=b".to_owned())));
        assert_eq!(found(&[b"tg=\xff"]), Err(Code::Unauthorized));
        assert_eq!(found(&[b"tg=a; tg=a"]), Err(Code::BadRequest));
        assert_eq!(found(&[b"tg=a", b"x=1; tg=b"]), Err(Code::BadRequest));
    }

    #[test]
    fn the_scheme_is_followed_by_one_or_more_spaces() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("Bearer  a.b.c", Some("a.b.c")),
            ("bEARER     tgk_1_2", Some("tgk_1_2")),
            ("Bearer ", None),
            ("Bearer   ", None),
            ("Bearer a b", None),
            ("Bearer  a b", None),
            ("Bearer\ta", None),
            ("Bearera", None),
            ("Basic  a", None),
            (" Bearer a", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer(&headers).ok().flatten(), token, "{value:?}");
        }
    }

    #[test]
    fn r22_what_a_native_eventsource_comes_back_for() {
        for (source, code, by_200) in [
            (TokenSource::Header, Code::Overloaded, false),
            (TokenSource::Address, Code::Overloaded, true),
            (TokenSource::Cookie, Code::TooManyConnections, true),
            (TokenSource::Address, Code::TokenExpired, false),
            (TokenSource::Cookie, Code::TokenExpired, true),
            (TokenSource::Address, Code::Unauthorized, false),
            (TokenSource::Cookie, Code::Forbidden, false),
        ] {
            assert_eq!(source.retries_after_200(code), by_200, "{source:?} {code:?}");
        }
    }
}
