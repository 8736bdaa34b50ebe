//! The opening handshake (RFC 6455 4.2), as pure functions of a request's head.
//!
//! Header values are bytes, because a client may send more than ASCII. `tidegate-server`'s
//! `transport::upgrade` has the HTTP around it.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use sha1::{Digest as _, Sha1};

use super::{HeaderLine, extension::Deflate};
use crate::Code;

/// Hashed together with the key, after it (RFC 6455 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The base64 of a client's key. The last of its digits holds four bits that no byte uses, and not every
/// client sets them to 0: the example in RFC 6455 4.1 (`AQIDBAUGBwgJCgsMDQ4PEC==`) does not.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The head of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'h, 'a> {
    /// The method, as sent.
    pub method: &'h str,
    /// Whether the version is HTTP/1.1.
    pub is_http11: bool,
    /// The header lines, in order.
    pub headers: &'h [HeaderLine<'a>],
}

/// A valid handshake, which may be answered with 101.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The value of `Sec-WebSocket-Accept` (RFC 6455 4.2.2).
    pub accept_key: String,
    /// The subprotocols that the client offers.
    pub protocols: Protocols<'a>,
    /// The compression to agree on, if the client offers one that is acceptable.
    pub deflate: Option<Deflate>,
}

/// The subprotocols that a client offers, in its order of preference (RFC 6455 4.1, item 10).
///
/// One of them may carry a token, so `Debug` shows only how many there are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Protocols<'a>(Vec<&'a str>);

impl<'a> Protocols<'a> {
    /// Whether `name` is offered. Case matters.
    pub fn offers(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    /// The rest of the first name that begins with `prefix`: the token in `tidegate.bearer.<token>`.
    pub fn after(&self, prefix: &str) -> Option<&'a str> {
        self.0.iter().find_map(|name| name.strip_prefix(prefix))
    }

    /// All names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.0.iter().copied()
    }
}

impl fmt::Debug for Protocols<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} offered", self.0.len())
    }
}

/// Why a request is not a handshake that this server accepts. The text is one sentence for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandshakeError {
    /// RFC 6455 4.2.1, item 1.
    #[error("a WebSocket handshake is a GET request")]
    NotGet,
    /// RFC 6455 4.2.1, item 1.
    #[error("a WebSocket handshake needs HTTP/1.1")]
    NotHttp11,
    /// RFC 6455 4.2.1, item 2; RFC 9112 3.2.
    #[error("a request needs exactly one Host header")]
    Host,
    /// RFC 6455 4.2.1, item 3.
    #[error("this address speaks WebSocket: the Upgrade header must name websocket")]
    NoUpgrade,
    /// RFC 6455 4.2.1, item 4.
    #[error("the Connection header of a WebSocket handshake must name Upgrade")]
    NoConnectionUpgrade,
    /// RFC 6455 4.2.1, item 5: sixteen bytes in base64, once.
    #[error("Sec-WebSocket-Key must be sent once and be 16 bytes in base64")]
    Key,
    /// RFC 6455 4.2.1, item 6, and 4.4.
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    /// RFC 6455 4.1, item 10.
    #[error("Sec-WebSocket-Protocol must be a list of different tokens, separated by commas")]
    Protocols,
    /// With a body, a proxy and the server might disagree on where the frames begin (request smuggling).
    #[error("a WebSocket handshake must not have a body")]
    Body,
}

impl HandshakeError {
    /// The code to answer with.
    pub const fn code(self) -> Code {
        match self {
            HandshakeError::NotGet => Code::MethodNotAllowed,
            HandshakeError::NotHttp11 | HandshakeError::NoUpgrade | HandshakeError::Version => {
                Code::Unsupported
            }
            HandshakeError::Host
            | HandshakeError::NoConnectionUpgrade
            | HandshakeError::Key
            | HandshakeError::Protocols
            | HandshakeError::Body => Code::BadRequest,
        }
    }

    /// The HTTP status to answer with: its code's, or 426 if another protocol or version would be accepted
    /// (RFC 6455 4.4, RFC 9110 15.5.22).
    pub const fn status(self) -> u16 {
        match self {
            HandshakeError::NoUpgrade | HandshakeError::Version => 426,
            HandshakeError::NotGet
            | HandshakeError::NotHttp11
            | HandshakeError::Host
            | HandshakeError::NoConnectionUpgrade
            | HandshakeError::Key
            | HandshakeError::Protocols
            | HandshakeError::Body => self.code().status(),
        }
    }

    /// The header lines that the answer needs. The connection always ends: the next bytes of a refused client
    /// may be frames, and must not be read as a request.
    pub const fn headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            HandshakeError::NotGet => &[("allow", "GET"), ("connection", "close")],
            HandshakeError::NoUpgrade => &[("upgrade", "websocket"), ("connection", "upgrade, close")],
            HandshakeError::Version => {
                &[("sec-websocket-version", "13"), ("upgrade", "websocket"), ("connection", "upgrade, close")]
            }
            HandshakeError::NotHttp11
            | HandshakeError::Host
            | HandshakeError::NoConnectionUpgrade
            | HandshakeError::Key
            | HandshakeError::Protocols
            | HandshakeError::Body => &[("connection", "close")],
        }
    }
}

/// Whether the request asks for WebSocket: its Upgrade header names it. If not, it may be meant for another
/// transport at the same address.
pub fn is_asked(headers: &[HeaderLine<'_>]) -> bool {
    has_token(headers, "upgrade", "websocket")
}

/// Checks a handshake (RFC 6455 4.2.1) and computes its answer (4.2.2).
///
/// # Errors
/// [`HandshakeError`] names the first rule that the request breaks.
pub fn check<'a>(request: Request<'_, 'a>) -> Result<Handshake<'a>, HandshakeError> {
    let Request { method, is_http11, headers } = request;
    if method != "GET" {
        return Err(HandshakeError::NotGet);
    }
    if !is_http11 {
        return Err(HandshakeError::NotHttp11);
    }
    if values(headers, "transfer-encoding").next().is_some()
        || values(headers, "content-length").any(|length| length != b"0")
    {
        return Err(HandshakeError::Body);
    }
    only(headers, "host").ok_or(HandshakeError::Host)?;
    if !is_asked(headers) {
        return Err(HandshakeError::NoUpgrade);
    }
    if !has_token(headers, "connection", "upgrade") {
        return Err(HandshakeError::NoConnectionUpgrade);
    }
    // Before the key, because other versions may have none.
    if only(headers, "sec-websocket-version") != Some(b"13") {
        return Err(HandshakeError::Version);
    }
    let key = only(headers, "sec-websocket-key").ok_or(HandshakeError::Key)?;
    // Room for 16 bytes, rounded up to whole groups of base64; a longer key does not fit.
    let mut nonce = [0; 18];
    if KEY_BASE64.decode_slice(key, &mut nonce) != Ok(16) {
        return Err(HandshakeError::Key);
    }
    Ok(Handshake {
        accept_key: accept_key(key),
        protocols: protocols(headers)?,
        deflate: Deflate::choose(headers),
    })
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455 4.2.2, item 5.4).
pub(super) fn accept_key(key: &[u8]) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

fn protocols<'a>(headers: &[HeaderLine<'a>]) -> Result<Protocols<'a>, HandshakeError> {
    let mut names = Vec::new();
    for name in values(headers, "sec-websocket-protocol").flat_map(elements) {
        let name =
            std::str::from_utf8(name).ok().filter(|name| is_token(name)).ok_or(HandshakeError::Protocols)?;
        names.push(name);
    }
    // Sorted, so that many names do not take quadratic time.
    let mut sorted = names.clone();
    sorted.sort_unstable();
    if sorted.is_sorted_by(|one, next| one < next) {
        Ok(Protocols(names))
    } else {
        Err(HandshakeError::Protocols)
    }
}

/// The trimmed values of all lines of this name (lower case).
fn values<'h, 'a>(headers: &'h [HeaderLine<'a>], name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
    headers
        .iter()
        .filter(move |(line, _)| line.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim_ascii())
}

/// The value of a header that may occur once; `None` if it is absent or repeated.
pub(super) fn only<'a>(headers: &[HeaderLine<'a>], name: &str) -> Option<&'a [u8]> {
    let mut values = values(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// The elements of a list (RFC 9110 5.6.1: empty ones do not count).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

pub(super) fn has_token(headers: &[HeaderLine<'_>], name: &str, token: &str) -> bool {
    values(headers, name).flat_map(elements).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Line = super::HeaderLine<'static>;

    const GOOD: [Line; 5] = [
        ("Host", b"a.example"),
        ("Upgrade", b"WebSocket"),
        ("Connection", b"keep-alive, Upgrade"),
        ("Sec-WebSocket-Version", b"13"),
        ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn check_lines(lines: &[Line]) -> Result<Handshake<'static>, HandshakeError> {
        check(Request { method: "GET", is_http11: true, headers: lines })
    }

    /// The good handshake without the lines of this name, with these instead.
    fn with(name: &str, lines: &[Line]) -> Result<Handshake<'static>, HandshakeError> {
        let kept = GOOD.iter().filter(|(line, _)| *line != name);
        check_lines(&kept.chain(lines).copied().collect::<Vec<_>>())
    }

    #[test]
    fn the_example_of_the_rfc() {
        let handshake = check_lines(&GOOD).expect("a handshake");
        assert_eq!(handshake.accept_key, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(handshake.protocols.iter().count(), 0);
    }

    #[test]
    fn a_key_may_have_bits_that_no_byte_uses() {
        let handshake = with("Sec-WebSocket-Key", &[("Sec-WebSocket-Key", b"AQIDBAUGBwgJCgsMDQ4PEC==")]);
        // Computed from the key's text, not from the 16 bytes that it means.
        assert_eq!(handshake.expect("a handshake").accept_key, "OfS0wDaT5NoxF2gqm7Zj2YtetzM=");
    }

    #[test]
    fn every_refusal() {
        for (method, is_http11, refusal) in [
            ("POST", true, HandshakeError::NotGet),
            ("get", true, HandshakeError::NotGet),
            ("GET", false, HandshakeError::NotHttp11),
        ] {
            let request = Request { method, is_http11, headers: &GOOD };
            assert_eq!(check(request), Err(refusal));
        }
        const KEY: Line = ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==");
        let table: &[(&str, &[Line], HandshakeError)] = &[
            ("Host", &[], HandshakeError::Host),
            ("", &[("host", b"b.example")], HandshakeError::Host),
            ("Upgrade", &[], HandshakeError::NoUpgrade),
            ("Upgrade", &[("Upgrade", b"h2c, websockets")], HandshakeError::NoUpgrade),
            ("Upgrade", &[("Upgrade", b"web\xC3\xA4socket")], HandshakeError::NoUpgrade),
            ("Connection", &[], HandshakeError::NoConnectionUpgrade),
            ("Connection", &[("Connection", b"keep-alive")], HandshakeError::NoConnectionUpgrade),
            ("Sec-WebSocket-Version", &[], HandshakeError::Version),
            ("Sec-WebSocket-Version", &[("Sec-WebSocket-Version", b"8")], HandshakeError::Version),
            ("", &[("Sec-WebSocket-Version", b"13")], HandshakeError::Version),
            ("Sec-WebSocket-Key", &[], HandshakeError::Key),
            ("", &[KEY], HandshakeError::Key),
            ("Sec-WebSocket-Key", &[("Sec-WebSocket-Key", b"")], HandshakeError::Key),
            ("Sec-WebSocket-Key", &[("Sec-WebSocket-Key", b"SGVsbG8sIHdvcmxkIQ==")], HandshakeError::Key),
            ("Sec-WebSocket-Key", &[("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZWFi")], HandshakeError::Key),
            (
                "Sec-WebSocket-Key",
                &[("Sec-WebSocket-Key", b"\xFFGhlIHNhbXBsZSBub25jZQ==")],
                HandshakeError::Key,
            ),
            ("", &[("Content-Length", b"1")], HandshakeError::Body),
            ("", &[("Content-Length", b"0"), ("Content-Length", b"7")], HandshakeError::Body),
            ("", &[("Transfer-Encoding", b"chunked")], HandshakeError::Body),
            ("", &[("Sec-WebSocket-Protocol", b"a b")], HandshakeError::Protocols),
            ("", &[("Sec-WebSocket-Protocol", b"a, a")], HandshakeError::Protocols),
            (
                "",
                &[("Sec-WebSocket-Protocol", b"a"), ("Sec-WebSocket-Protocol", b"b,a")],
                HandshakeError::Protocols,
            ),
            ("", &[("Sec-WebSocket-Protocol", b"t\xC3\xA4dgate")], HandshakeError::Protocols),
            ("", &[("Sec-WebSocket-Protocol", b"\xFF\xFE")], HandshakeError::Protocols),
        ];
        for (name, lines, refusal) in table {
            assert_eq!(with(name, lines), Err(*refusal), "{name:?} replaced by {lines:?}");
        }
        assert!(with("", &[("content-length", b"0")]).is_ok());
        assert_eq!(HandshakeError::Version.status(), 426);
        assert!(HandshakeError::Version.headers().contains(&("sec-websocket-version", "13")));
    }

    #[test]
    fn protocols_are_found_and_not_shown() {
        let handshake = with(
            "",
            &[
                ("sec-websocket-protocol", b"other , tidegate.v1,,"),
                ("Sec-WebSocket-Protocol", b"tidegate.bearer.aa.bb-_.cc"),
            ],
        )
        .expect("a handshake");
        assert!(handshake.protocols.offers("tidegate.v1"));
        assert!(!handshake.protocols.offers("Tidegate.v1"));
        assert_eq!(handshake.protocols.after("tidegate.bearer."), Some("aa.bb-_.cc"));
        assert_eq!(handshake.protocols.iter().count(), 3);
        assert!(!format!("{handshake:?}").contains("bearer"));
    }

    proptest! {
        #[test]
        fn no_value_makes_it_panic(
            lines in proptest::collection::vec((0usize..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..6),
        ) {
            const NAMES: [&str; 8] = [
                "host", "upgrade", "connection", "sec-websocket-version", "sec-websocket-key",
                "sec-websocket-protocol", "content-length", "transfer-encoding",
            ];
            let fuzzed = lines.iter().map(|(name, value)| (NAMES[*name], value.as_slice()));
            let headers: Vec<_> = GOOD.iter().copied().chain(fuzzed).collect();
            let _ = check(Request { method: "GET", is_http11: true, headers: &headers });
        }
    }
}
