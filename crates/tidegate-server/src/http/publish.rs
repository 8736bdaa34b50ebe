//! `POST /v1/orgs/{org}/events`: takes a batch and answers where each event was stored.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use tidegate_core::{
    NewEvent,
    publish::{
        BodyForm, PublishError,
        cloudevents::{Mode, read as read_cloudevents},
        read_body,
    },
};
use tidegate_engine::{AppendError, Appended};
use tidegate_protocol::{Code, Cursor, EventId, OrgId, Refusal, ServiceName};

use super::{
    Answer, Incoming,
    body::{self, RETRY_MS},
    cloudevents,
    credentials::bearer,
    header_once, json, problem,
    query::Query,
};
use crate::{
    auth::PublishGrant,
    config::{ConfigKey, config_key},
    node::Node,
    refusals::{LimitedBy as _, bound_of, key_of, refused},
};

/// Answers a publish request. It checks the key first, then the body, then appends.
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
        return Err(
            Refusal::new(Code::Draining, "the gateway is shutting down; send again").retry_in(RETRY_MS)
        );
    }
    let Ok(_slot) = node.publishes.try_acquire() else {
        let refusal = Refusal::new(Code::Overloaded, "too many publishes are in flight");
        return Err(refusal.limited_by(config_key!(limits.publishes_in_flight)).retry_in(RETRY_MS));
    };
    // A body may take long to arrive. The share keeps one org's slow bodies from blocking all others.
    let Some(_share) = node.publish_shares.take(&org, node.config().limits.publishes_in_flight) else {
        let message = "too many publishes of this org are in flight";
        let refusal = Refusal::new(Code::Overloaded, message);
        return Err(refusal.limited_by(config_key!(limits.publishes_in_flight)).retry_in(RETRY_MS));
    };
    let query = Query::of(&request);
    let (parts, body) = request.into_parts();
    let form = form(&parts.headers, &query)?;
    let Some(coding) = body::coding(&parts.headers) else { return Ok(body::refuse_coding()) };
    let body = body::read(node, &parts.headers, coding, body).await?;
    let began = Instant::now();
    let response = publish(node, grant, &parts.headers, &form, body).await;
    node.metrics.publish(began.elapsed());
    response
}

/// The form of a request's events.
enum Form<'h> {
    /// The gateway's own form. Events without an id get one that begins with `prefix`.
    Own { form: BodyForm, prefix: Option<String> },
    /// CloudEvents. Those without a service belong to this one.
    CloudEvents { mode: Mode<'h>, service: Option<ServiceName> },
}

fn form<'h>(headers: &'h HeaderMap, query: &Query) -> Result<Form<'h>, Refusal> {
    let value = header_once(headers, "content-type")?.map(|value| value.to_str().unwrap_or_default());
    // A faulty key is refused even if the request is one of CloudEvents, which ignore it.
    let prefix = idempotency_key(headers)?;
    if let Some(mode) = cloudevents::mode(headers, value)? {
        let service = query.one("service")?.map(ServiceName::parse).transpose();
        let service = service.map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
        return Ok(Form::CloudEvents { mode, service });
    }
    let kind = value.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let form = match kind.as_deref() {
        Some("application/json") => BodyForm::Json,
        Some("application/x-ndjson" | "application/jsonl" | "application/ndjson") => BodyForm::Ndjson,
        _ => {
            let message = "publish with Content-Type application/json (an event or an array), \
                           application/x-ndjson, or as CloudEvents 1.0";
            return Err(Refusal::new(Code::UnsupportedMedia, message));
        }
    };
    Ok(Form::Own { form, prefix })
}

/// The prefix for the ids of events that have none.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = header_once(headers, "idempotency-key")? else { return Ok(None) };
    // `EventId` has room for the index after the key.
    let key = value.to_str().ok().filter(|key| key.len() <= 120 && EventId::parse(key).is_ok());
    match key {
        Some(key) => Ok(Some(key.to_owned())),
        None => {
            let message = "Idempotency-Key must be 1 to 120 printable ASCII characters without space";
            Err(Refusal::new(Code::BadRequest, message))
        }
    }
}

async fn publish(
    node: &Arc<Node>,
    grant: PublishGrant,
    headers: &HeaderMap,
    form: &Form<'_>,
    body: Bytes,
) -> Result<Response<Answer>, Refusal> {
    let events = match events_of(node, &grant, headers, form, &body) {
        Ok(events) => events,
        Err(PublishError::Invalid(faults)) => {
            let bounds = faults.iter().filter_map(|fault| fault.bound);
            bounds.for_each(|bound| node.metrics.refusal(key_of(bound)));
            return Ok(problem::invalid(faults));
        }
        Err(PublishError::UnsupportedMedia(fault)) => return Ok(problem::unsupported(fault)),
        Err(error @ PublishError::NotJson(_)) => {
            return Err(Refusal::new(Code::BadRequest, error.to_string()));
        }
        Err(PublishError::TooLarge { what, bound, max }) => {
            let key = key_of(bound);
            let message = format!("{what} is larger than {key}, which allows {max}");
            return Err(Refusal::new(Code::TooLarge, message).limited_by(key));
        }
    };
    // A body that was compressed may be much larger than what its sender sent: it does not wait for the log.
    drop(body);
    for event in &events {
        grant.check(&event.service).map_err(refused)?;
    }
    let ids: Vec<(String, String)> = events
        .iter()
        .map(|event: &NewEvent| (event.service.as_str().to_owned(), event.id.as_str().to_owned()))
        .collect();
    let appended = node.engine.append(grant.org(), events);
    match tokio::time::timeout(node.config().limits.publish_timeout, appended).await {
        Ok(Ok(appended)) => {
            let cursor = count(node, &appended);
            Ok(match form {
                Form::Own { .. } => json(places(&cursor, &ids, &appended)),
                Form::CloudEvents { .. } => cloudevents::accepted(&cursor),
            })
        }
        Ok(Err(error)) => refusal_of(&ids, error, None),
        Err(_) => {
            let limit = config_key!(limits.publish_timeout);
            node.metrics.refusal(limit);
            refusal_of(&ids, AppendError::Unknown, Some(limit))
        }
    }
}

/// The events of a body of this form.
fn events_of(
    node: &Node,
    grant: &PublishGrant,
    headers: &HeaderMap,
    form: &Form<'_>,
    body: &[u8],
) -> Result<Vec<NewEvent>, PublishError> {
    let limits = node.publish_limits();
    match form {
        Form::Own { form, prefix } => {
            let mut assign = |index: usize| match prefix {
                // A printable prefix and digits, within the length: always a valid id.
                Some(prefix) => (parse_id(&format!("{prefix}-{index}")), true),
                None => (parse_id(&uuid::Uuid::now_v7().to_string()), false),
            };
            cloudevents::refuse_users(headers)?;
            read_body(grant.org(), *form, body, &limits, &mut assign)
        }
        Form::CloudEvents { mode, service } => {
            let events = read_cloudevents(grant.org(), mode, body, service.as_ref(), &limits)?;
            cloudevents::check_users(headers, mode, &events)?;
            Ok(events)
        }
    }
}

fn parse_id(text: &str) -> EventId {
    EventId::parse(text).unwrap_or_else(|_| unreachable!("ids that the gateway makes are valid"))
}

/// Counts the appended events and returns their highest position.
fn count(node: &Node, appended: &Appended) -> Cursor {
    let duplicates = appended.stored.iter().filter(|place| place.duplicate).count() as u64;
    node.metrics.published.inc_by(appended.stored.len() as u64 - duplicates);
    node.metrics.duplicates.inc_by(duplicates);
    let last = appended.stored.iter().map(|place| place.seq).max().unwrap_or(0);
    Cursor::untagged(appended.epoch.clone(), last)
}

fn places(cursor: &Cursor, ids: &[(String, String)], appended: &Appended) -> String {
    let mut body = format!("{{\"cursor\":\"{cursor}\",\"events\":[");
    for (index, (place, (service, id))) in appended.stored.iter().zip(ids).enumerate() {
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
    body
}

fn refusal_of(
    ids: &[(String, String)],
    error: AppendError,
    timeout: Option<ConfigKey>,
) -> Result<Response<Answer>, Refusal> {
    let limited =
        |code| Refusal::new(code, error.to_string()).limited_by(bound_of(&error)).retry_in(RETRY_MS);
    Err(match &error {
        AppendError::IdConflict { index, .. } => {
            let (service, id) = ids.get(*index).cloned().unwrap_or_default();
            tracing::debug!(service, id, "refuse an id with other content");
            Refusal::new(Code::IdConflict, format!("{error}: other content needs another id"))
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
            let refusal = Refusal::new(Code::Unknown, message).limited_by(timeout).retry_in(RETRY_MS);
            return Ok(problem::unknown(&refusal, &ids));
        }
    })
}
