//! Which requests carry CloudEvents and in which mode (HTTP protocol binding of CloudEvents 1.0.2, section
//! 3), and the answer to them. For `publish`.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tidegate_core::publish::{
    Fault, Part, PublishError,
    cloudevents::{Headers, Mode, is_meant_as_users},
};
use tidegate_protocol::{Code, Cursor, Refusal};

use super::{Answer, full};

/// Carries the cursor of the published events.
pub const CURSOR: &str = "tidegate-cursor";

/// Attributes that every CloudEvent has, and that occur in headers of no other request.
const MARKS: [&str; 4] = ["specversion", "id", "source", "type"];

/// The mode of a request: by its content type, else by its headers; `None` if it carries no CloudEvents. The
/// content type wins, because a structured event may repeat its attributes in headers.
pub fn mode<'h>(headers: &'h HeaderMap, content_type: Option<&'h str>) -> Result<Option<Mode<'h>>, Refusal> {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/cloudevents+json" => return Ok(Some(Mode::Structured)),
        "application/cloudevents-batch+json" => return Ok(Some(Mode::Batch)),
        other if other.starts_with("application/cloudevents") => {
            let message = "of CloudEvents, application/cloudevents+json and application/cloudevents-batch+json \
                           are taken, and binary mode with data in JSON";
            return Err(Refusal::new(Code::UnsupportedMedia, message));
        }
        _ => {}
    }
    let attributes: Vec<_> = attributes(headers).collect();
    let is_event = attributes.iter().any(|(name, _)| MARKS.contains(name));
    Ok(is_event.then_some(Mode::Binary(Headers { content_type, attributes })))
}

fn attributes(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str().strip_prefix("ce-")?, value.as_bytes())))
}

/// Refuses events whose body is for everybody if a header names users. The specification requires all
/// attributes in the body too (section 3.2.3); for this one the gateway checks it.
pub fn check_users(headers: &HeaderMap, mode: &Mode<'_>, parts: &[Part]) -> Result<(), PublishError> {
    let at = |index| match mode {
        Mode::Structured => Some("/users".to_owned()),
        Mode::Batch => Some(format!("/{index}/users")),
        Mode::Binary(_) => None,
    };
    let Some((name, _)) = attributes(headers).find(|(name, _)| is_meant_as_users(name)) else {
        return Ok(());
    };
    let of_all = parts.iter().flat_map(|part| part.events.iter().zip(&part.places));
    let for_everybody = of_all.filter(|(event, _)| event.users.is_none()).map(|(_, place)| *place);
    let Some(pointer) = for_everybody.min().and_then(at) else {
        return Ok(());
    };
    let detail = format!("the header ce-{name} is set, but the body has no users; only the body counts");
    Err(PublishError::Invalid(vec![Fault { pointer, code: "required", bound: None, detail }]))
}

/// Refuses a header that names users beside a body that is not a CloudEvent. Nothing reads the header, so
/// events meant for some users would go to all.
pub fn refuse_users(headers: &HeaderMap) -> Result<(), PublishError> {
    let Some((name, _)) = attributes(headers).find(|(name, _)| is_meant_as_users(name)) else {
        return Ok(());
    };
    let detail = format!("ce-{name} is only for CloudEvents; put users into the event itself");
    let fault = Fault { pointer: format!("ce-{name}"), code: "unknown_field", bound: None, detail };
    Err(PublishError::Invalid(vec![fault]))
}

/// Answers that events were accepted. The body is empty, because routers take a body for an event to deliver.
pub fn accepted(cursor: &Cursor) -> Response<Answer> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    // A cursor is letters, digits and hyphens.
    if let Ok(cursor) = HeaderValue::from_str(&cursor.to_string()) {
        headers.insert(CURSOR, cursor);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
