//! Reads the whole body of a request, within its limits, and undoes its content coding (RFC 9110, section
//! 8.4). For requests that publish.
//!
//! The memory that a body takes is charged to its org or API key ([`Ledger`](crate::admission::Ledger)). What is
//! announced and does not come takes no memory, and only the request itself is charged.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use tidegate_core::content_coding::{ContentCoding, DecodeError};
use tidegate_protocol::{Code, Refusal};

use super::{
    Answer, Incoming,
    large::{self, Decoded},
    problem,
};
use crate::{
    admission::{Charge, InFlightLimits, Payer},
    config::{ConfigKey, config_key},
    metrics::InFlight,
    node::Node,
    refusals::LimitedBy as _,
};

/// When a publisher should retry, if no better time is known.
pub const RETRY_MS: u64 = 1000;

/// The coding of a request's body; `None` if it must be answered by [`refuse_coding`].
pub fn coding(headers: &HeaderMap) -> Option<ContentCoding> {
    ContentCoding::of(headers.get_all(header::CONTENT_ENCODING).iter().map(HeaderValue::as_bytes))
}

/// Answers that the body's coding is not taken. `Accept-Encoding` says which are, and distinguishes this 415
/// from one because of the content type, which must not have it (RFC 9110, section 12.5.3).
pub fn refuse_coding() -> Response<Answer> {
    let message = "of Content-Encoding, gzip and deflate (zlib) are taken, and only one of them at a time";
    let mut response = problem::refuse(&Refusal::new(Code::UnsupportedMedia, message));
    response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ContentCoding::TAKEN));
    response
}

/// What a request is charged beside the bytes of its body or answer, about: its headers, and the state of its task.
pub const REQUEST_BYTES: usize = 4 << 10;

/// A body that has come whole.
pub struct WholeBody {
    /// It, without the content coding.
    pub decoded: Decoded,
    /// What is charged for it.
    pub charge: Charge,
}

/// Reads a body of this coding. `limits.request_bytes` bounds what comes, and what it inflates to.
///
/// It is inflated only when it has come whole. So it holds no more memory than its sender has sent, except
/// while the caller reads the events in it.
pub async fn read(
    node: &Node,
    headers: &HeaderMap,
    coding: ContentCoding,
    body: Incoming,
    payer: Payer,
) -> Result<WholeBody, Refusal> {
    let (key, max) = (config_key!(limits.request_bytes), node.config().limits.request_bytes.bytes());
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > max as u64) {
        return Err(too_large("is larger", key, max));
    }
    let limits = InFlightLimits::from(&node.config().limits);
    let of = payer.charged_to();
    let charge = node.ledger.charge(InFlight::Body, payer, REQUEST_BYTES, limits)?;
    let expected = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(max);
    let mut arriving = Arriving { charge, limits, max, expected, one: Bytes::new(), joined: Vec::new() };
    match tokio::time::timeout(node.config().limits.request_timeout, arriving.collect(body)).await {
        Ok(collected) => collected?,
        Err(_) => {
            let key = config_key!(limits.request_timeout);
            let refusal = Refusal::new(Code::RequestTimeout, format!("the body did not arrive within {key}"));
            return Err(refusal.limited_by(key).retry_in(RETRY_MS));
        }
    }
    let Arriving { mut charge, one, joined, .. } = arriving;
    let come = if joined.is_empty() { one } else { joined.into() };
    let decoded = large::decode(node, of, coding, come, max).await.map_err(|error| match error {
        DecodeError::TooLarge => too_large("inflates to more", key, max),
        error => Refusal::new(Code::BadRequest, error.to_string()),
    })?;
    if coding != ContentCoding::Identity {
        charge.shrink_to(REQUEST_BYTES);
        charge.grow(decoded.bytes.len(), limits)?;
    }
    Ok(WholeBody { decoded, charge })
}

/// A body on its way.
struct Arriving {
    charge: Charge,
    limits: InFlightLimits,
    max: usize,
    /// It is not longer than this, as far as is known.
    expected: usize,
    /// Its first piece, as long as that is all.
    one: Bytes,
    /// All of it, if it comes in pieces. They are joined as they come: a piece keeps a buffer of its connection,
    /// however little of it is the piece's.
    joined: Vec<u8>,
}

impl Arriving {
    async fn collect(&mut self, mut body: Incoming) -> Result<(), Refusal> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refusal::new(Code::BadRequest, "the body ended early"))?;
            if let Ok(piece) = frame.into_data() {
                self.add(piece)?;
            }
        }
        Ok(())
    }

    /// Adds the next piece, after its memory is charged.
    fn add(&mut self, piece: Bytes) -> Result<(), Refusal> {
        let length = self.one.len() + self.joined.len() + piece.len();
        if length > self.max {
            return Err(too_large("is larger", config_key!(limits.request_bytes), self.max));
        }
        if length == piece.len() {
            self.charge.grow(length, self.limits)?;
            self.one = piece;
            return Ok(());
        }
        let room = self.joined.capacity();
        if length > room {
            // Doubled, as vectors are, so that a body of many pieces is not copied for each of them.
            let wanted = length.max((2 * room).min(self.expected));
            let charged = if room == 0 { self.one.len() } else { room };
            self.charge.grow(wanted - charged, self.limits)?;
            self.joined.reserve_exact(wanted - self.joined.len());
            if room == 0 {
                self.joined.extend_from_slice(&std::mem::take(&mut self.one));
            }
        }
        self.joined.extend_from_slice(&piece);
        Ok(())
    }
}

fn too_large(how: &str, key: ConfigKey, max: usize) -> Refusal {
    let message = format!("the body {how} than {key}, which allows {max} bytes");
    Refusal::new(Code::TooLarge, message).limited_by(key)
}
