//! `POST /v1/orgs/{org}/events`: a batch in, its places out.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use tidegate_core::{
    Code, Cursor, EventId, NewEvent, OrgId, Refusal,
    publish::{BodyForm, Fault, PublishError, read_body},
};

use super::{Answer, bearer, header_once, json, problem};
use crate::{
    auth::PublishGrant,
    engine::{AppendError, Appended},
    node::Node,
    refusals::refused,
};

/// When a publisher is asked to come back where no better time is known.
const RETRY_MS: u64 = 1000;

/// Answers a publish request: who may, then what, then where.
pub async fn answer(
    node: &Arc<Node>,
    org: OrgId,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let Some(key) = bearer(request.headers())? else {
        return Err(Refusal::new(Code::Unauthorized, "publish with Authorization: Bearer <API key>"));
    };
    let grant = node.publishers.verify(key, &org, node.now()).map_err(refused)?;
    node.publish_rates.take(grant.key_id())?;
    if node.is_draining() {
        return Err(Refusal::new(Code::Draining, "the gateway is going away; send again").retry_in(RETRY_MS));
    }
    let Ok(_place) = node.publishes.try_acquire() else {
        let refusal = Refusal::new(Code::Overloaded, "the gateway is answering as many publishes as it may");
        return Err(refusal.limited_by("limits.publishes_in_flight").retry_in(RETRY_MS));
    };
    let form = body_form(request.headers())?;
    let prefix = idempotency_key(request.headers())?;
    let body = read(node, request).await?;
    let began = Instant::now();
    let response = publish(node, grant, form, prefix.as_deref(), &body).await;
    node.metrics.publish(began.elapsed());
    response
}

fn body_form(headers: &HeaderMap) -> Result<BodyForm, Refusal> {
    let value = header_once(headers, "content-type")?.map(|value| value.to_str().unwrap_or_default());
    let kind = value.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match kind.as_deref() {
        Some("application/json") => Ok(BodyForm::Json),
        Some("application/x-ndjson" | "application/jsonl" | "application/ndjson") => Ok(BodyForm::Ndjson),
        _ => {
            let message =
                "publish with Content-Type application/json (an event or an array) or application/x-ndjson";
            Err(Refusal::new(Code::UnsupportedMedia, message))
        }
    }
}

/// The prefix of the ids of events that bring none.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = header_once(headers, "idempotency-key")? else { return Ok(None) };
    // Room for the index behind it (`EventId`).
    let key = value.to_str().ok().filter(|key| key.len() <= 120 && EventId::parse(key).is_ok());
    match key {
        Some(key) => Ok(Some(key.to_owned())),
        None => {
            let message = "Idempotency-Key must be 1 to 120 printable ASCII characters without space";
            Err(Refusal::new(Code::BadRequest, message))
        }
    }
}

async fn read(node: &Node, request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let max = node.config().limits.request_bytes.bytes();
    let too_large = || {
        let message = format!("the body is larger than limits.request_bytes, which allows {max} bytes");
        Refusal::new(Code::TooLarge, message).limited_by("limits.request_bytes")
    };
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > max as u64) {
        return Err(too_large());
    }
    let collected = Limited::new(request.into_body(), max).collect();
    match tokio::time::timeout(node.config().limits.request_timeout, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(Code::BadRequest, "the body ended before it was whole")),
        Err(_) => {
            let message = "the body did not arrive within limits.request_timeout";
            let refusal = Refusal::new(Code::RequestTimeout, message);
            Err(refusal.limited_by("limits.request_timeout").retry_in(RETRY_MS))
        }
    }
}

async fn publish(
    node: &Arc<Node>,
    grant: PublishGrant,
    form: BodyForm,
    prefix: Option<&str>,
    body: &[u8],
) -> Result<Response<Answer>, Refusal> {
    let mut assign = |index: usize| match prefix {
        // A printable prefix and digits, within the length: always an id.
        Some(prefix) => (parse_id(&format!("{prefix}-{index}")), true),
        None => (parse_id(&uuid::Uuid::now_v7().to_string()), false),
    };
    let events = match read_body(grant.org(), form, body, &node.publish_limits(), &mut assign) {
        Ok(events) => events,
        Err(PublishError::Invalid(faults)) => {
            faults.iter().filter_map(problem::limit_of).for_each(|limit| node.metrics.refusal(limit));
            return Ok(problem::invalid(faults));
        }
        Err(error @ PublishError::NotJson(_)) => {
            return Err(Refusal::new(Code::BadRequest, error.to_string()));
        }
        Err(error @ PublishError::TooLarge { limit, .. }) => {
            return Err(Refusal::new(Code::TooLarge, error.to_string()).limited_by(limit));
        }
    };
    for event in &events {
        grant.check(&event.service).map_err(refused)?;
    }
    let ids: Vec<(String, String)> = events
        .iter()
        .map(|event: &NewEvent| (event.service.as_str().to_owned(), event.id.as_str().to_owned()))
        .collect();
    let appended = node.engine.append(grant.org(), events);
    match tokio::time::timeout(node.config().limits.publish_timeout, appended).await {
        Ok(Ok(appended)) => Ok(placed(node, &ids, &appended)),
        Ok(Err(error)) => refusal_of(&ids, error, None),
        Err(_) => {
            let limit = "limits.publish_timeout";
            node.metrics.refusal(limit);
            refusal_of(&ids, AppendError::Unknown, Some(limit))
        }
    }
}

fn parse_id(text: &str) -> EventId {
    EventId::parse(text).unwrap_or_else(|_| unreachable!("ids that the gateway makes are ids"))
}

fn placed(node: &Node, ids: &[(String, String)], appended: &Appended) -> Response<Answer> {
    let last = appended.places.iter().map(|place| place.seq).max().unwrap_or(0);
    let cursor = Cursor::untagged(appended.epoch.clone(), last);
    let mut body = format!("{{\"cursor\":\"{cursor}\",\"events\":[");
    let mut duplicates = 0;
    for (index, (place, (service, id))) in appended.places.iter().zip(ids).enumerate() {
        duplicates += u64::from(place.duplicate);
        let comma = if index == 0 { "" } else { "," };
        // Ids may hold quotes and backslashes; services cannot.
        let id = serde_json::Value::from(id.as_str());
        let _ = write!(
            body,
            "{comma}{{\"service\":\"{service}\",\"id\":{id},\"seq\":{},\"duplicate\":{}}}",
            place.seq, place.duplicate
        );
    }
    body.push_str("]}");
    node.metrics.published.inc_by(appended.places.len() as u64 - duplicates);
    node.metrics.duplicates.inc_by(duplicates);
    json(body)
}

fn refusal_of(
    ids: &[(String, String)],
    error: AppendError,
    timeout: Option<&'static str>,
) -> Result<Response<Answer>, Refusal> {
    let limited =
        |code| Refusal { limit: error.limit(), ..Refusal::new(code, error.to_string()).retry_in(RETRY_MS) };
    Err(match &error {
        AppendError::IdConflict { index, .. } => {
            let (service, id) = ids.get(*index).cloned().unwrap_or_default();
            let fault =
                Fault { pointer: format!("/{index}/id"), code: "id_conflict", detail: error.to_string() };
            tracing::debug!(service, id, "refuse an id with other content");
            Refusal::new(Code::IdConflict, format!("{}: send other content under another id", fault.detail))
        }
        AppendError::DedupFull | AppendError::OrgDedupFull => limited(Code::DedupFull),
        AppendError::TooManyWaiting | AppendError::TooMuchWaiting | AppendError::TooManyOrgs => {
            limited(Code::Overloaded)
        }
        AppendError::Halted => Refusal::new(Code::LogHalted, error.to_string()).retry_in(30_000),
        AppendError::SeqsUsedUp => Refusal::new(Code::LogHalted, error.to_string()).retry_in(3_600_000),
        AppendError::Unknown => {
            let message =
                "whether the events were stored is not known; sending them again with these ids is safe";
            let ids: Vec<String> = ids.iter().map(|(_, id)| id.clone()).collect();
            let refusal =
                Refusal { limit: timeout, ..Refusal::new(Code::Unknown, message).retry_in(RETRY_MS) };
            return Ok(problem::unknown(&refusal, &ids));
        }
    })
}
