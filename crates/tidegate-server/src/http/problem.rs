//! Refusals over HTTP: problem details (RFC 9457) with the codes of the one table.

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use bytes::Bytes;
use http_body_util::Full;
use tidegate_core::publish::Fault;
use tidegate_protocol::{Code, OrgId, Refusal};

use super::Answer;
use crate::refusals::key_of;

/// The body of a refusal.
#[derive(Debug, Serialize)]
pub struct Problem<'a> {
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
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    orgs: &'a [OrgProblem<'a>],
}

impl<'a> Problem<'a> {
    fn of(status: StatusCode, refusal: &'a Refusal) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: refusal.code.name(),
            detail: &refusal.message,
            limit: refusal.limit,
            retry_in_ms: refusal.retry_in_ms,
            errors: &[],
            ids: &[],
            orgs: &[],
        }
    }
}

/// Why the events of an org are refused, as one of several outcomes of a request.
#[derive(Debug, Serialize)]
pub struct OrgProblem<'a> {
    org: &'a OrgId,
    problem: Problem<'a>,
}

impl<'a> OrgProblem<'a> {
    /// The events of `org` are refused.
    pub fn of(org: &'a OrgId, refusal: &'a Refusal) -> Self {
        Self { org, problem: Problem::of(status_of(refusal.code), refusal) }
    }
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

/// An extension of a refusal: what the log says of it, without any part of a payload. It is not sent.
#[derive(Debug, Clone)]
pub struct LogDetail(pub String);

/// What the log says of faulty fields: where the first is, and what kind of fault it is. Its sentence may quote
/// the payload, and so may the rest of its pointer, from a name that is no field of an event on.
fn first_fault(errors: &[FieldError]) -> LogDetail {
    let Some(FieldError { pointer, code, .. }) = errors.first() else { return LogDetail(String::new()) };
    let others = match errors.len() {
        1 => String::new(),
        several => format!(", the first of {several} faulty fields"),
    };
    LogDetail(match loggable(pointer, code) {
        "" => format!("{code}{others}"),
        place => format!("{code}, at {place}{others}"),
    })
}

/// The beginning of a pointer that has only indexes and fields of an event, or the name of a header.
fn loggable<'a>(pointer: &'a str, code: &str) -> &'a str {
    if !pointer.starts_with('/') {
        return if pointer.len() <= LONGEST_HEADER { pointer } else { "a header" };
    }
    // A name that is no field may look like an index.
    let own =
        if code == "unknown_field" { pointer.rsplit_once('/').map_or("", |(own, _)| own) } else { pointer };
    let mut end = 0;
    for part in own.split('/').skip(1) {
        let is_index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_index && !EVENT_FIELDS.contains(&part) {
            break;
        }
        end += 1 + part.len();
        if part == "data" {
            break;
        }
    }
    &own[..end]
}

/// The longest name of a header that is logged, in bytes.
const LONGEST_HEADER: usize = 64;

/// The fields of an event and of a CloudEvent (PROTOCOL.md).
const EVENT_FIELDS: [&str; 13] = [
    "org",
    "service",
    "event",
    "id",
    "key",
    "users",
    "time",
    "data",
    "type",
    "source",
    "subject",
    "specversion",
    "datacontenttype",
];

/// Answers with a refusal.
pub fn refuse(refusal: &Refusal) -> Response<Answer> {
    refuse_whole(refusal).map(Answer::Whole)
}

/// The same, for a listener that answers no streams.
pub fn refuse_whole(refusal: &Refusal) -> Response<Full<Bytes>> {
    let status = status_of(refusal.code);
    problem(status, refusal.code, &Problem::of(status, refusal))
}

/// Answers with a refusal and a status that is more precise than its code's.
pub fn refuse_as(status: StatusCode, refusal: &Refusal) -> Response<Answer> {
    problem(status, refusal.code, &Problem::of(status, refusal)).map(Answer::Whole)
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
    let (status, refusal) = (status_of(code), Refusal::new(code, detail));
    let body = Problem { errors: &errors, ..Problem::of(status, &refusal) };
    let mut response = problem(status, code, &body).map(Answer::Whole);
    response.extensions_mut().insert(first_fault(&errors));
    response
}

/// Answers that the outcome is unknown. The ids make a retry safe.
pub fn unknown(refusal: &Refusal, ids: &[String]) -> Response<Answer> {
    of_orgs(refusal, ids, &[])
}

/// Answers that the events of several orgs are refused.
pub fn of_orgs(refusal: &Refusal, ids: &[String], orgs: &[OrgProblem<'_>]) -> Response<Answer> {
    let status = status_of(refusal.code);
    let body = Problem { ids, orgs, ..Problem::of(status, refusal) };
    problem(status, refusal.code, &body).map(Answer::Whole)
}

fn problem(status: StatusCode, code: Code, body: &Problem<'_>) -> Response<Full<Bytes>> {
    // Strings and numbers always serialise.
    let json = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(json.into()));
    *response.status_mut() = status;
    // For metrics, and for the check against the description. It is not sent.
    response.extensions_mut().insert(code);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let seconds = body.retry_in_ms.unwrap_or(1000).div_ceil(1000).max(1);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
