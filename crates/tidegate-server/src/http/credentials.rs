//! How a request brings its credentials, and on which road: a reader's token, a publisher's key.
//!
//! Not here: what they are worth ([`crate::auth`]), nor the ways that WebSocket alone has (subprotocol,
//! first frame).

use http::{HeaderMap, HeaderValue, Request, header};
use tidegate_protocol::{Code, Refusal};

use super::{header_once, origins, query::Query};
use crate::node::Node;

/// A reader's token.
#[derive(Debug)]
pub struct Token {
    /// The token, not looked at yet.
    pub text: String,
    /// How it came.
    pub road: Road,
}

/// The ways that a request can bring a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// `Authorization: Bearer`: a client that is somebody's code.
    Header,
    /// `?access_token=`: a native EventSource, which can set no header.
    Address,
    /// The cookie that `auth.cookie` names: a native EventSource, and whatever else a page asks for.
    Cookie,
}

impl Road {
    /// Whether the answer to a refusal has to be 200 for the client to come back: a native EventSource
    /// gives up for good at every other status (R22).
    pub fn comes_back_by_200(self, code: Code) -> bool {
        match (self, code) {
            (Road::Header, _) => false,
            // The address of an EventSource stays as it is, and so does the token in it: whoever has a
            // new token makes a new EventSource. A cookie may have been renewed in the meantime.
            (Road::Address, Code::TokenExpired) => false,
            (Road::Address | Road::Cookie, code) => code.is_retryable(),
        }
    }
}

/// The credentials of `Authorization: Bearer`; `None` where there is no such header.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
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

/// The token of a request for a stream over SSE: by header, else in the address, else by cookie.
pub fn of_stream<B>(node: &Node, request: &Request<B>, query: &Query) -> Result<Token, Refusal> {
    let in_address = query.one("access_token")?;
    if let Some(token) = bearer(request.headers())? {
        return Ok(Token { text: token.to_owned(), road: Road::Header });
    }
    if let Some(token) = in_address {
        return Ok(Token { text: token.to_owned(), road: Road::Address });
    }
    by_cookie(node, request)?.ok_or_else(|| {
        let message = "read with Authorization: Bearer <token>, or ?access_token= where no header can be set";
        Refusal::new(Code::Unauthorized, message)
    })
}

/// The token of a request for history or a cursor: by header, else by cookie.
pub fn of_page<B>(node: &Node, request: &Request<B>) -> Result<Token, Refusal> {
    if let Some(token) = bearer(request.headers())? {
        return Ok(Token { text: token.to_owned(), road: Road::Header });
    }
    by_cookie(node, request)?
        .ok_or_else(|| Refusal::new(Code::Unauthorized, "read with Authorization: Bearer <token>"))
}

/// The token in the cookie that `auth.cookie` names. A browser adds its cookies to whatever any page
/// makes it ask for, so this road is open only to a page that may use it.
fn by_cookie<B>(node: &Node, request: &Request<B>) -> Result<Option<Token>, Refusal> {
    let config = node.config();
    let Some(name) = &config.auth.cookie else { return Ok(None) };
    let Some(text) = cookie(request.headers(), name.as_str())? else { return Ok(None) };
    prove_page(node, request)?;
    Ok(Some(Token { text, road: Road::Cookie }))
}

/// Whether the browser says that one of our own pages asks, or one of a listed origin.
fn prove_page<B>(node: &Node, request: &Request<B>) -> Result<(), Refusal> {
    let site = header_once(request.headers(), "sec-fetch-site")?.map(HeaderValue::as_bytes);
    let message = match origins::of(node, request) {
        // Browsers leave Origin out where a page asks its own origin by GET, and then say this.
        origins::Of::Nobody if site == Some(b"same-origin") => return Ok(()),
        origins::Of::Nobody => {
            "a cookie is taken only from a browser that says which page asks (Origin, or Sec-Fetch-Site: \
             same-origin); use Authorization: Bearer <token>"
        }
        origins::Of::Listed(_) => return Ok(()),
        // `http://` in front of our name is not `https://`: a browser that can tell them apart says so.
        origins::Of::Ours if matches!(site, None | Some(b"same-origin")) => return Ok(()),
        origins::Of::Ours => "a cookie is taken from this page only if auth.origins lists its origin",
        origins::Of::Stranger => origins::REFUSED,
    };
    Err(Refusal::new(Code::Forbidden, message))
}

/// The only value of a cookie, over all `Cookie` lines (HTTP/2 clients may send one for each). Which of
/// two of the same name is meant, nobody can know: a page of another subdomain can add one.
fn cookie(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refusal> {
    let mut found = None;
    for line in headers.get_all(header::COOKIE) {
        // Other cookies may hold what is no text.
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
            if pair[..at].trim_ascii() != name.as_bytes() {
                continue;
            }
            let value = std::str::from_utf8(pair[at + 1..].trim_ascii()).map_err(|_| {
                Refusal::new(Code::Unauthorized, format!("the cookie {name} must hold a token"))
            })?;
            if found.replace(value.to_owned()).is_some() {
                let message = format!("the cookie {name} (auth.cookie) stands more than once in the headers");
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
        // A value keeps its own `=`; what others hold is not looked at.
        assert_eq!(found(&[b"tg=a=b; x=\xff"]), Ok(Some("a=b".to_owned())));
        assert_eq!(found(&[b"tg=\xff"]), Err(Code::Unauthorized));
        assert_eq!(found(&[b"tg=a; tg=a"]), Err(Code::BadRequest));
        assert_eq!(found(&[b"tg=a", b"x=1; tg=b"]), Err(Code::BadRequest));
    }

    #[test]
    fn r22_what_a_native_eventsource_comes_back_for() {
        for (road, code, by_200) in [
            (Road::Header, Code::Overloaded, false),
            (Road::Address, Code::Overloaded, true),
            (Road::Cookie, Code::TooManyConnections, true),
            (Road::Address, Code::TokenExpired, false),
            (Road::Cookie, Code::TokenExpired, true),
            (Road::Address, Code::Unauthorized, false),
            (Road::Cookie, Code::Forbidden, false),
        ] {
            assert_eq!(road.comes_back_by_200(code), by_200, "{road:?} {code:?}");
        }
    }
}
