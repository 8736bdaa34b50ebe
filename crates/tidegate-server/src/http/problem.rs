//! Refusals over HTTP: problem details (RFC 9457) with the codes of the one table.

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use bytes::Bytes;
use http_body_util::{Either, Full};
use tidegate_core::publish::Fault;
use tidegate_protocol::{Code, Refusal};

use super::Answer;
use crate::refusals::key_of;

/// The body of a refusal.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_in_ms: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ids: &'a [String],
}

/// One faulty field.
#[derive(Debug, Serialize)]
struct FieldError {
    pointer: String,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
}

/// An extension of an answer that begins as a stream and refuses it in its first frame. It is not sent.
#[derive(Debug, Clone, Copy)]
pub struct InStream(pub Code);

/// Answers with a refusal.
pub fn refuse(refusal: &Refusal) -> Response<Answer> {
    refuse_whole(refusal).map(Either::Left)
}

/// The same, for a listener that answers no streams.
pub fn refuse_whole(refusal: &Refusal) -> Response<Full<Bytes>> {
    problem(status_of(refusal.code), refusal, &[], &[])
}

/// Answers with a refusal and a status that is more precise than its code's.
pub fn refuse_as(status: StatusCode, refusal: &Refusal) -> Response<Answer> {
    problem(status, refusal, &[], &[]).map(Either::Left)
}

fn status_of(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Answers that this type of data is not accepted.
pub fn unsupported(fault: Fault) -> Response<Answer> {
    with_errors(Code::UnsupportedMedia, vec![fault])
}

/// Answers with faulty fields.
pub fn invalid(faults: Vec<Fault>) -> Response<Answer> {
    with_errors(Code::Invalid, faults)
}

fn with_errors(code: Code, faults: Vec<Fault>) -> Response<Answer> {
    let errors: Vec<_> = faults
        .into_iter()
        .map(|fault| {
            let Fault { pointer, code, bound, detail } = fault;
            FieldError { pointer, code, detail, limit: bound.map(|bound| key_of(bound).name()) }
        })
        .collect();
    let detail = match errors.as_slice() {
        [only] => only.detail.clone(),
        several => format!("{} fields are faulty; see errors", several.len()),
    };
    problem(status_of(code), &Refusal::new(code, detail), &errors, &[]).map(Either::Left)
}

/// Answers that the outcome is unknown. The ids make a retry safe.
pub fn unknown(refusal: &Refusal, ids: &[String]) -> Response<Answer> {
    problem(status_of(refusal.code), refusal, &[], ids).map(Either::Left)
}

fn problem(
    status: StatusCode,
    refusal: &Refusal,
    errors: &[FieldError],
    ids: &[String],
) -> Response<Full<Bytes>> {
    let body = Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        code: refusal.code.name(),
        detail: &refusal.message,
        limit: refusal.limit,
        retry_in_ms: refusal.retry_in_ms,
        errors,
        ids,
    };
    // Strings and numbers always serialise.
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Full::new(json.into()));
    *response.status_mut() = status;
    // For metrics, and for the check against the description. It is not sent.
    response.extensions_mut().insert(refusal.code);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let seconds = refusal.retry_in_ms.unwrap_or(1000).div_ceil(1000).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
