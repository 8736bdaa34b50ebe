//! `POST /v1/orgs/{org}/events` takes events for an org, `POST /v1/events` events that each name their org. This
//! file reads a request; [`parts`](super::parts) appends what is for each org, and answers.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, Request, Response};
use tidegate_core::publish::{
    BodyForm, Part, PublishError, PublishLimits, To,
    cloudevents::{Mode, read as read_cloudevents},
    read_parts,
};
use tidegate_protocol::{Code, EventId, OrgId, Refusal, ServiceName};

use super::{
    Answer, Incoming,
    body::{self, RETRY_MS, WholeBody},
    cloudevents,
    credentials::bearer,
    header_once, large,
    parts::Entry,
    problem,
    query::Query,
};
use crate::{
    admission::Quiet,
    node::Node,
    refusals::{LimitedBy as _, key_of, refused},
};

/// Answers a request to publish to `org`, or to the orgs that its events name. It checks the key first, then the
/// body, then appends.
pub async fn answer(
    node: &Arc<Node>,
    org: Option<OrgId>,
    connection: &Quiet,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Refusal> {
    let Some(key) = bearer(request.headers())? else {
        return Err(Refusal::new(Code::Unauthorized, "publish with Authorization: Bearer <API key>"));
    };
    let key = node.publishers.verify(key, node.now()).map_err(refused)?;
    connection.publishes();
    if node.is_draining() {
        return Err(
            Refusal::new(Code::Draining, "the gateway is shutting down; send again").retry_in(RETRY_MS)
        );
    }
    let entry = Entry::of(node, key, org.as_ref())?;
    let query = Query::of(&request);
    // A misspelt `service` would give a CloudEvent the service that its source names.
    query.only(&["service"])?;
    let (parts, body) = request.into_parts();
    // A faulty key is refused whatever the body is.
    let name = idempotency_key(&parts.headers)?;
    let form = form(&parts.headers, &query)?;
    let Some(coding) = body::coding(&parts.headers) else { return Ok(body::refuse_coding()) };
    let body = body::read(node, &parts.headers, coding, body, entry.payer()).await?;
    let began = Instant::now();
    let response = publish(node, entry, Head { org, headers: parts.headers, name, form }, body).await;
    node.metrics.publish(began.elapsed());
    response
}

/// What the head of a request says about its body.
struct Head {
    /// The org in the address.
    org: Option<OrgId>,
    headers: HeaderMap,
    /// See [`idempotency_key`].
    name: Option<String>,
    form: Form,
}

/// The form of a request's events.
enum Form {
    /// The gateway's own form.
    Own(BodyForm),
    /// CloudEvents. Those without a service belong to this one.
    CloudEvents { service: Option<ServiceName> },
}

/// The mode of CloudEvents; `None` if the events have another form.
fn mode(headers: &HeaderMap) -> Result<Option<Mode<'_>>, Refusal> {
    let value = header_once(headers, "content-type")?.map(|value| value.to_str().unwrap_or_default());
    cloudevents::mode(headers, value)
}

fn form(headers: &HeaderMap, query: &Query) -> Result<Form, Refusal> {
    if mode(headers)?.is_some() {
        let service = query.one("service")?.map(ServiceName::parse).transpose();
        let service = service.map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
        return Ok(Form::CloudEvents { service });
    }
    let value = header_once(headers, "content-type")?.map(|value| value.to_str().unwrap_or_default());
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
    Ok(Form::Own(form))
}

/// The name of the request, which is also the beginning of the ids of events that have none.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = header_once(headers, "idempotency-key")? else { return Ok(None) };
    let key = value.to_str().ok().and_then(|text| match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted),
        None => Some(text.to_owned()),
    });
    // `EventId` has room for the index after the key.
    match key.filter(|key| key.len() <= 120 && EventId::parse(key).is_ok()) {
        Some(key) => Ok(Some(key)),
        None => {
            let message = "Idempotency-Key must be 1 to 120 printable ASCII characters without space; one \
                           that begins with a double quote must be a whole quoted string (RFC 9651)";
            Err(Refusal::new(Code::BadRequest, message))
        }
    }
}

/// The text of a string of a structured field (RFC 9651, section 4.2.5), after its first quote.
fn unquoted(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(plain),
            '\\' => plain.push(rest.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            other => plain.push(other),
        }
    }
}

async fn publish(
    node: &Arc<Node>,
    entry: Entry<'_>,
    head: Head,
    body: WholeBody,
) -> Result<Response<Answer>, Refusal> {
    // Now that the body has come, there is something to do, which takes a place.
    let place = entry.place(node)?;
    let WholeBody { decoded, charge } = body;
    let limits = node.publish_limits();
    let (head, parts) = large::run(node, decoded, move |body| {
        let parts = head.read(body, &limits);
        (head, parts)
    })
    .await;
    // The body is gone here. If it was compressed, it may be much larger than what its sender sent: it does not
    // wait for the log.
    drop(charge);
    match parts {
        Ok(parts) => {
            let is_cloud = matches!(head.form, Form::CloudEvents { .. });
            entry.publish(node, place, parts, head.name.as_deref(), is_cloud).await
        }
        Err(PublishError::Invalid(faults)) => {
            let bounds = faults.iter().filter_map(|fault| fault.bound);
            bounds.for_each(|bound| node.metrics.refusal(key_of(bound)));
            Ok(problem::invalid(faults))
        }
        Err(PublishError::UnsupportedMedia(fault)) => Ok(problem::unsupported(fault)),
        Err(error @ PublishError::NotJson(_)) => Err(Refusal::new(Code::BadRequest, error.to_string())),
        Err(PublishError::TooLarge { what, bound, max }) => {
            let key = key_of(bound);
            let message = format!("{what} is larger than {key}, which allows {max}");
            Err(Refusal::new(Code::TooLarge, message).limited_by(key))
        }
    }
}

impl Head {
    /// The events of the body, by org.
    fn read(&self, body: &[u8], limits: &PublishLimits) -> Result<Vec<Part>, PublishError> {
        let to = self.org.as_ref().map_or(To::Named, To::Org);
        match &self.form {
            Form::Own(form) => {
                let mut assign = |index: usize| match &self.name {
                    // A printable name and digits, within the length: always a valid id.
                    Some(name) => (parse_id(&format!("{name}-{index}")), true),
                    None => (parse_id(&uuid::Uuid::now_v7().to_string()), false),
                };
                cloudevents::refuse_users(&self.headers)?;
                read_parts(to, *form, body, limits, &mut assign)
            }
            Form::CloudEvents { service } => {
                let Ok(Some(mode)) = mode(&self.headers) else {
                    unreachable!("the form was read from these headers")
                };
                let parts = read_cloudevents(to, &mode, body, service.as_ref(), limits)?;
                cloudevents::check_users(&self.headers, &mode, &parts)?;
                Ok(parts)
            }
        }
    }
}

fn parse_id(text: &str) -> EventId {
    EventId::parse(text).unwrap_or_else(|_| unreachable!("ids that the gateway makes are valid"))
}
