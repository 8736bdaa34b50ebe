//! Reads the whole body of a request, within its limits, and undoes its content coding (RFC 9110, section
//! 8.4). For requests that publish.

use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tidegate_core::content_coding::{ContentCoding, DecodeError};
use tidegate_protocol::{Code, Refusal};

use super::{
    Answer, Incoming,
    large::{self, Decoded},
    problem,
};
use crate::{
    config::{ConfigKey, config_key},
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

/// Reads a body of this coding. `limits.request_bytes` bounds what comes, and what it inflates to.
///
/// It is inflated only when it has come whole. So it holds no more memory than its sender has sent, except
/// while the caller reads the events in it.
pub async fn read(
    node: &Node,
    headers: &HeaderMap,
    coding: ContentCoding,
    body: Incoming,
) -> Result<Decoded, Refusal> {
    let (key, max) = (config_key!(limits.request_bytes), node.config().limits.request_bytes.bytes());
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > max as u64) {
        return Err(too_large("is larger", key, max));
    }
    let collected = Limited::new(body, max).collect();
    let collected = match tokio::time::timeout(node.config().limits.request_timeout, collected).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large("is larger", key, max)),
        Ok(Err(_)) => return Err(Refusal::new(Code::BadRequest, "the body ended early")),
        Err(_) => {
            let key = config_key!(limits.request_timeout);
            let refusal = Refusal::new(Code::RequestTimeout, format!("the body did not arrive within {key}"));
            return Err(refusal.limited_by(key).retry_in(RETRY_MS));
        }
    };
    large::decode(node, coding, collected, max).await.map_err(|error| match error {
        DecodeError::TooLarge => too_large("inflates to more", key, max),
        error => Refusal::new(Code::BadRequest, error.to_string()),
    })
}

fn too_large(how: &str, key: ConfigKey, max: usize) -> Refusal {
    let message = format!("the body {how} than {key}, which allows {max} bytes");
    Refusal::new(Code::TooLarge, message).limited_by(key)
}
