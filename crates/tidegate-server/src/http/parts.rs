//! The parts of a publish request: the events of one org each. A part is let in and appended like a request for
//! that org alone, so one org's storm through an API key for many orgs leaves the others what is theirs. For
//! `publish`.

use std::fmt::Write as _;

use futures_util::future::join_all;
use http::{Response, StatusCode};
use serde::Serialize;
use tidegate_core::{
    publish::Part,
    shares::{Refused, Share},
};
use tidegate_engine::{AppendError, Appended, FirstUse};
use tidegate_protocol::{Code, Cursor, EventId, OrgId, Refusal, Seq, ServiceName};

use super::{
    Answer,
    body::RETRY_MS,
    cloudevents, json,
    problem::{self, OrgProblem},
};
use crate::{
    admission::{Candidate, Payer},
    auth::{KeyGrant, PublishGrant},
    config::{ConfigKey, config_key},
    node::Node,
    refusals::{LimitedBy as _, bound_of, refused},
};

/// A part that may be appended: it holds a place in its org's share.
pub struct Admitted {
    grant: PublishGrant,
    _place: Share<OrgId>,
}

/// A request whose body may be read. It holds no place yet, because its body may take long to come, or never
/// come.
pub enum Entry<'n> {
    /// It is for one org, and counted for its rate.
    Org(PublishGrant),
    /// It is for orgs that its body names.
    Key { key: KeyGrant, candidate: Candidate<'n> },
}

impl<'n> Entry<'n> {
    /// Lets in a request of `key` to `org`, or to the orgs that its body names.
    pub fn of(node: &'n Node, key: KeyGrant, org: Option<&OrgId>) -> Result<Self, Refusal> {
        if let Some(org) = org {
            let grant = key.for_org(org).map_err(refused)?;
            node.publish_rates.take(grant.key_id(), grant.org())?;
            // One event is not too much yet, or its body need not be read.
            node.quotas.used_by(grant.org()).publish(0, 0)?;
            return Ok(Entry::Org(grant));
        }
        let candidate = node.publish_rates.candidate(key.key_id())?;
        Ok(Entry::Key { key, candidate })
    }

    /// To whom its body is charged while it comes.
    pub fn payer(&self) -> Payer {
        match self {
            Entry::Org(grant) => Payer::Org(grant.org().clone()),
            Entry::Key { key, .. } => Payer::Key(key.key_id().clone()),
        }
    }

    /// Takes the place of a request to one org. The parts of a request to several get theirs when their orgs
    /// are known.
    pub fn place(&self, node: &Node) -> Result<Option<Share<OrgId>>, Refusal> {
        match self {
            Entry::Org(grant) => take_place(node, grant.org()).map(Some),
            Entry::Key { .. } => Ok(None),
        }
    }

    /// Appends `parts` if the key covers all of their orgs and services; otherwise none. `held` is the place that
    /// the request has. Answers them as CloudEvents, or as events of the gateway's own form.
    pub async fn publish(
        self,
        node: &Node,
        held: Option<Share<OrgId>>,
        parts: Vec<Part>,
        name: Option<&str>,
        is_cloud: bool,
    ) -> Result<Response<Answer>, Refusal> {
        match self {
            Entry::Org(grant) => {
                parts.iter().try_for_each(|part| check(&grant, part))?;
                parts.iter().try_for_each(|part| within_quota(node, part))?;
                let place = held.map_or_else(|| take_place(node, grant.org()), Ok)?;
                let admitted = Admitted { grant, _place: place };
                let settled = append(node, name, parts.into_iter().zip([Ok(admitted)])).await;
                answer_alone(node, settled, is_cloud)
            }
            Entry::Key { key, candidate } => {
                let grant = |part: &Part| {
                    let grant = key.for_org(&part.org).map_err(refused)?;
                    check(&grant, part).map(|()| grant)
                };
                let grants: Vec<PublishGrant> = parts.iter().map(grant).collect::<Result<_, _>>()?;
                candidate.admit();
                let admitted = parts.iter().zip(grants).map(|(part, grant)| admit(node, grant, part));
                let admitted: Vec<_> = admitted.collect();
                let settled = append(node, name, parts.into_iter().zip(admitted)).await;
                if let [part] = settled.as_slice()
                    && (is_cloud || part.outcome.is_err())
                {
                    return answer_alone(node, settled, is_cloud);
                }
                Ok(answer_each(node, &settled))
            }
        }
    }
}

fn check(grant: &PublishGrant, part: &Part) -> Result<(), Refusal> {
    part.events.iter().try_for_each(|event| grant.check(&event.service)).map_err(refused)
}

/// Takes a place for a publish to `org`.
fn take_place(node: &Node, org: &OrgId) -> Result<Share<OrgId>, Refusal> {
    node.publishes.take(org, 1, node.config().limits.publishes_in_flight).map_err(|refused| {
        let message = match refused {
            Refused::Pool => "too many publishes are in flight",
            Refused::Share => "too many publishes of this org are in flight",
        };
        let limit = config_key!(limits.publishes_in_flight);
        Refusal::new(Code::Overloaded, message).limited_by(limit).retry_in(RETRY_MS)
    })
}

/// Counts a part for the quotas of its org.
fn within_quota(node: &Node, part: &Part) -> Result<(), Refusal> {
    let bytes = part.events.iter().map(|event| event.body.len()).sum();
    node.quotas.used_by(&part.org).publish(part.events.len(), bytes)
}

/// Lets in the part of the org of `grant`.
fn admit(node: &Node, grant: PublishGrant, part: &Part) -> Result<Admitted, Refusal> {
    node.publish_rates.take(grant.key_id(), grant.org())?;
    // The quota comes last: what is refused before that uses none of it.
    let place = take_place(node, grant.org())?;
    within_quota(node, part)?;
    Ok(Admitted { grant, _place: place })
}

/// A part that was appended or refused.
struct Settled {
    org: OrgId,
    /// The service and id of each event.
    ids: Vec<(ServiceName, EventId)>,
    /// The index in the request of each event.
    places: Vec<usize>,
    outcome: Result<Appended, Refusal>,
}

/// Appends the parts that were admitted. `name` is the request's `Idempotency-Key`; it stands for each part.
async fn append(
    node: &Node,
    name: Option<&str>,
    parts: impl Iterator<Item = (Part, Result<Admitted, Refusal>)>,
) -> Vec<Settled> {
    let within = node.config().limits.publish_timeout;
    let settling: Vec<_> = parts
        .map(|(Part { org, mut events, places }, admitted)| {
            let ids: Vec<_> = events.iter().map(|event| (event.service.clone(), event.id.clone())).collect();
            let admitted = admitted.and_then(|admitted| {
                let publisher = admitted.grant.key_id();
                let begin = |name| node.in_progress.begin(&mut events, &org, publisher, name);
                let answering = name.map(begin).transpose()?;
                Ok((admitted, answering))
            });
            // The call itself queues the events.
            let appending = admitted.map(|held| (node.engine.append(held.0.grant.org(), events), held));
            async move {
                let outcome = match appending {
                    Ok((appending, _held)) => match tokio::time::timeout(within, appending).await {
                        Ok(Ok(appended)) => Ok(appended),
                        Ok(Err(error)) => Err(refusal_of(&ids, &places, error)),
                        Err(_) => {
                            let limit = config_key!(limits.publish_timeout);
                            Err(unknown(Some(limit)))
                        }
                    },
                    Err(refusal) => Err(refusal),
                };
                Settled { org, ids, places, outcome }
            }
        })
        .collect();
    let settled = join_all(settling).await;
    for appended in settled.iter().filter_map(|part| part.outcome.as_ref().ok()) {
        let duplicates = appended.stored.iter().filter(|place| place.duplicate).count() as u64;
        node.metrics.published.inc_by(appended.stored.len() as u64 - duplicates);
        node.metrics.duplicates.inc_by(duplicates);
    }
    settled
}

/// The highest position of appended events.
fn cursor(appended: &Appended) -> Cursor {
    let last = appended.stored.iter().map(|place| place.seq).max().unwrap_or(0);
    Cursor::untagged(appended.epoch.clone(), last)
}

fn unknown(limit: Option<ConfigKey>) -> Refusal {
    let message = "whether the events were stored is not known; sending them again with these ids is safe";
    Refusal::new(Code::Unknown, message).limited_by(limit).retry_in(RETRY_MS)
}

fn refusal_of(ids: &[(ServiceName, EventId)], places: &[usize], error: AppendError) -> Refusal {
    let limited =
        |code| Refusal::new(code, error.to_string()).limited_by(bound_of(&error)).retry_in(RETRY_MS);
    match error {
        AppendError::IdConflict { index, first } => {
            if let Some((service, id)) = ids.get(index) {
                tracing::debug!(%service, %id, "refuse an id with other content");
            }
            // Publishers count the events of the request, not those of an org.
            let place = |index: usize| places.get(index).copied().unwrap_or(index);
            let first = match first {
                FirstUse::Index(index) => FirstUse::Index(place(index)),
                seq @ FirstUse::Seq(_) => seq,
            };
            let error = AppendError::IdConflict { index: place(index), first };
            Refusal::new(Code::IdConflict, format!("{error}: other content needs another id"))
        }
        AppendError::RequestConflict { first } => {
            let message = format!(
                "this Idempotency-Key was used within the dedup window for a request with other events, the \
                 first of which is at seq {first}; another request needs another key"
            );
            Refusal::new(Code::RequestConflict, message)
        }
        AppendError::DedupFull | AppendError::OrgDedupFull => limited(Code::DedupFull),
        AppendError::TooManyWaiting | AppendError::TooMuchWaiting | AppendError::TooManyOrgs => {
            limited(Code::Overloaded)
        }
        AppendError::OrgLogFull => limited(Code::LogFull).retry_in(5_000),
        AppendError::LogFull => Refusal::new(Code::LogFull, error.to_string()).retry_in(5_000),
        AppendError::Halted => Refusal::new(Code::LogHalted, error.to_string()).retry_in(30_000),
        AppendError::SeqsUsedUp => Refusal::new(Code::LogHalted, error.to_string()).retry_in(3_600_000),
        AppendError::Unknown => unknown(None),
    }
}

/// The answer to a request for one org.
fn answer_alone(node: &Node, settled: Vec<Settled>, is_cloud: bool) -> Result<Response<Answer>, Refusal> {
    let settled = settled.into_iter().next();
    let settled = settled.unwrap_or_else(|| unreachable!("a body without events is refused"));
    let ids = || settled.ids.iter().map(|(_, id)| id.as_str().to_owned()).collect::<Vec<_>>();
    match settled.outcome {
        Ok(appended) if is_cloud => Ok(cloudevents::accepted(&cursor(&appended))),
        Ok(appended) => Ok(json(places(&settled.ids, &appended))),
        Err(refusal) if refusal.code == Code::Unknown => {
            node.metrics.refused(&refusal);
            Ok(problem::unknown(&refusal, &ids()))
        }
        Err(refusal) => Err(refusal),
    }
}

fn places(ids: &[(ServiceName, EventId)], appended: &Appended) -> String {
    let mut body = format!("{{\"cursor\":\"{}\",\"events\":[", cursor(appended));
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

/// The answer to a request whose events name their orgs.
#[derive(Serialize)]
struct Published<'a> {
    orgs: Vec<OrgAnswer<'a>>,
    events: Vec<EventAnswer<'a>>,
}

/// What became of an org's events: they are stored up to `cursor`, or refused by `problem`.
#[derive(Serialize)]
#[serde(untagged)]
enum OrgAnswer<'a> {
    Stored { org: &'a OrgId, cursor: String },
    Refused(OrgProblem<'a>),
}

#[derive(Serialize)]
struct EventAnswer<'a> {
    org: &'a OrgId,
    service: &'a ServiceName,
    id: &'a EventId,
    #[serde(flatten)]
    place: Place,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Place {
    Stored { seq: Seq, duplicate: bool },
    Refused { code: &'static str },
}

/// The answer to a request for several orgs: 200 if all parts are stored; a refusal, if all are
/// refused with one code; else 207, with an outcome for each.
fn answer_each(node: &Node, settled: &[Settled]) -> Response<Answer> {
    let refusals: Vec<&Refusal> = settled.iter().filter_map(|part| part.outcome.as_ref().err()).collect();
    if let [first, rest @ ..] = refusals.as_slice()
        && refusals.len() == settled.len()
        && rest.iter().all(|refusal| refusal.code == first.code)
    {
        return refuse_all(node, settled, &refusals);
    }
    for (part, refusal) in settled.iter().filter_map(|part| Some((part, part.outcome.as_ref().err()?))) {
        node.metrics.refused(refusal);
        tracing::debug!(org = %part.org, code = refusal.code.name(), "refuse the events of one of several orgs");
    }
    let orgs = settled.iter().map(|part| match &part.outcome {
        Ok(appended) => OrgAnswer::Stored { org: &part.org, cursor: cursor(appended).to_string() },
        Err(refusal) => OrgAnswer::Refused(OrgProblem::of(&part.org, refusal)),
    });
    let body = Published { orgs: orgs.collect(), events: events(settled) };
    // Strings and numbers always serialise.
    let mut response = json(serde_json::to_vec(&body).unwrap_or_default());
    if !refusals.is_empty() {
        *response.status_mut() = StatusCode::MULTI_STATUS;
    }
    response
}

/// What became of each event, in the order of the request.
fn events(settled: &[Settled]) -> Vec<EventAnswer<'_>> {
    let mut events: Vec<(usize, EventAnswer<'_>)> = Vec::new();
    for part in settled {
        for (index, (place, (service, id))) in part.places.iter().zip(&part.ids).enumerate() {
            let outcome = match &part.outcome {
                Ok(appended) => match appended.stored.get(index) {
                    Some(at) => Place::Stored { seq: at.seq, duplicate: at.duplicate },
                    None => continue,
                },
                Err(refusal) => Place::Refused { code: refusal.code.name() },
            };
            events.push((*place, EventAnswer { org: &part.org, service, id, place: outcome }));
        }
    }
    events.sort_by_key(|(place, _)| *place);
    events.into_iter().map(|(_, event)| event).collect()
}

/// Refuses a request of which nothing is stored, because of refusals with one code.
fn refuse_all(node: &Node, settled: &[Settled], refusals: &[&Refusal]) -> Response<Answer> {
    let (first, org) = (refusals[0], &settled[0].org);
    let message =
        format!("the events of {} orgs are refused; those of {org}: {}", settled.len(), first.message);
    let whole = Refusal {
        code: first.code,
        message,
        limit: first.limit.filter(|limit| refusals.iter().all(|refusal| refusal.limit == Some(*limit))),
        retry_in_ms: refusals.iter().filter_map(|refusal| refusal.retry_in_ms).max(),
    };
    let problems: Vec<_> =
        settled.iter().zip(refusals).map(|(part, refusal)| OrgProblem::of(&part.org, refusal)).collect();
    let ids = if whole.code == Code::Unknown { ids_of(settled) } else { Vec::new() };
    refusals.iter().for_each(|refusal| node.metrics.refused(refusal));
    problem::of_orgs(&whole, &ids, &problems)
}

/// The ids of all events, in the order of the request.
fn ids_of(settled: &[Settled]) -> Vec<String> {
    events(settled).iter().map(|event| event.id.as_str().to_owned()).collect()
}
