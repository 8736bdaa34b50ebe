//! Lists the orgs that have a log, and deletes: a whole org, or events of it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;
use tidegate_engine::{DeleteError, Engine, OrgLog};
use tidegate_protocol::{Code, EventId, OrgId, Refusal, ServiceName, UserId};

use super::{LISTED, LISTED_MAX, bad, json, org_of, time, user_of};
use crate::{
    admission::Whose,
    auth::ForgottenOrg,
    deletion::{DeletionError, Which, delete_events, find_log},
    http::query::Query,
    node::Node,
    refusals::org_deleted,
};

/// One org in an answer.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    org: &'a str,
    /// `None` until the org is used for the first time since the start.
    epoch: Option<String>,
    floor: u64,
    head: u64,
    last_event_at: Option<String>,
    readers: usize,
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    orgs: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

impl<'a> Shown<'a> {
    /// The org of `log`, which has so many readers.
    pub fn of(engine: &dyn Engine, log: &'a OrgLog, readers: usize) -> Self {
        Self {
            org: log.org.as_str(),
            epoch: engine.head(&log.org).map(|state| state.epoch.to_string()),
            floor: log.floor,
            head: log.head,
            last_event_at: (log.last_timestamp > 0).then(|| time(log.last_timestamp)),
            readers,
        }
    }
}

fn show<'a>(node: &Node, log: &'a OrgLog) -> Shown<'a> {
    Shown::of(&*node.engine, log, node.admission.readers(&log.org))
}

fn no_log(org: &OrgId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no log of an org {org} here"))
}

/// Lists orgs, by name.
pub async fn list(node: &Node, request: &Request<()>) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(&["limit", "after"])?;
    let max = query.number("limit", 1..=LISTED_MAX, None)?.unwrap_or(LISTED);
    let after = query.one("after")?.map(org_of).transpose()?;
    let logs = node.engine.list_orgs().await;
    let from = after.map_or(0, |after| logs.partition_point(|log| log.org <= after));
    let shown = &logs[from..(from + max).min(logs.len())];
    let has_more = from + max < logs.len();
    let next = shown.last().filter(|_| has_more).map(|log| log.org.as_str());
    Ok(json(&Listed { orgs: shown.iter().map(|log| show(node, log)).collect(), next }))
}

/// Shows one.
pub async fn one(node: &Node, org: &str, request: &Request<()>) -> Result<Response<Full<Bytes>>, Refusal> {
    Query::of(request).only(&[])?;
    let org = org_of(org)?;
    let log = find_log(&*node.engine, &org).await.ok_or_else(|| no_log(&org))?;
    Ok(json(&show(node, &log)))
}

/// Runs a deletion to its end, also if the operator does not wait for the answer. One runs at a time.
async fn carry_out<T: Send + 'static>(
    node: &Arc<Node>,
    deletion: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let node = node.clone();
    let task = tokio::spawn(async move {
        let _alone = node.deleting.lock().await;
        deletion.await
    });
    let broken = |_| Refusal::new(Code::Internal, "the deletion ended early; ask again");
    task.await.map_err(broken)?
}

/// Deletes an org: the API keys that are for it alone, its log, its streams.
pub async fn delete(
    node: &Arc<Node>,
    org: &str,
    request: &Request<()>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(&["keys"])?;
    let keeps_keys = match query.one("keys")? {
        None => false,
        Some("keep") => true,
        Some(_) => return Err(Refusal::new(Code::BadRequest, "keys must be keep, or not be there")),
    };
    let org = org_of(org)?;
    let deletion = delete_whole(node.clone(), org.clone(), keeps_keys);
    let (readers, keys) = carry_out(node, deletion).await?;
    Ok(json(&json!({
        "org": org.as_str(), "readers_closed": readers, "keys_removed": keys.removed, "keys_changed": keys.changed,
    })))
}

async fn delete_whole(
    node: Arc<Node>,
    org: OrgId,
    keeps_keys: bool,
) -> Result<(usize, ForgottenOrg), Refusal> {
    find_log(&*node.engine, &org).await.ok_or_else(|| no_log(&org))?;
    // First, so that no publisher brings the org back at once.
    let keys = if keeps_keys { ForgottenOrg::default() } else { forget_keys(&node, &org).await? };
    node.engine.delete_org(&org).await.map_err(|error| {
        let Refusal { code, message, .. } = not_deleted(&org, &error);
        let keys = if keys == ForgottenOrg::default() { "" } else { "; its API keys are removed already" };
        Refusal::new(code, format!("{message}{keys}"))
    })?;
    // A reader that is not in the registry yet will find that the log is gone (`StreamRequest::enter`).
    let readers = node.admission.list(&org, Whose::All, None, usize::MAX);
    let closed = readers.iter().filter(|reader| node.admission.end(reader, org_deleted())).count();
    node.metrics.orgs_deleted.inc();
    node.sweep_soon.notify_one();
    tracing::info!(
        %org,
        readers_closed = closed,
        keys_removed = keys.removed,
        keys_changed = keys.changed,
        "delete an org for an operator"
    );
    Ok((closed, keys))
}

async fn forget_keys(node: &Arc<Node>, org: &OrgId) -> Result<ForgottenOrg, Refusal> {
    let (publishers, org) = (node.publishers.clone(), org.clone());
    let forgotten = tokio::task::spawn_blocking(move || publishers.forget_org(&org)).await;
    let error = match forgotten {
        Ok(Ok(keys)) => return Ok(keys),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(error, "the API keys of an org that is to be deleted could not be removed");
    let message = "nothing was deleted: the file of API keys cannot be changed (the gateway's log says why); with \
         keys=keep the keys stay as they are";
    Err(Refusal::new(Code::Internal, message))
}

fn not_deleted(org: &OrgId, error: &DeleteError) -> Refusal {
    let code = match error {
        DeleteError::NoLog => return no_log(org),
        DeleteError::NoEvent => Code::NotFound,
        DeleteError::LogFull => Code::LogFull,
        DeleteError::Halted => Code::LogHalted,
        DeleteError::Unknown => Code::Unknown,
    };
    Refusal::new(code, error.to_string())
}

fn which_of(query: &Query) -> Result<Which, Refusal> {
    let user: Option<UserId> = user_of(query)?;
    match (query.one("service")?, query.one("id")?, user) {
        (Some(service), Some(id), None) => {
            Ok(Which::Id(ServiceName::parse(service).map_err(bad)?, EventId::parse(id).map_err(bad)?))
        }
        (None, None, Some(user)) => Ok(Which::User(user)),
        _ => {
            let message =
                "name an event with service= and id=, or with user= the events targeted at one user";
            Err(Refusal::new(Code::BadRequest, message))
        }
    }
}

/// Deletes events of an org.
pub async fn delete_some(
    node: &Arc<Node>,
    org: &str,
    request: &Request<()>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(&["service", "id", "user"])?;
    let (org, which) = (org_of(org)?, which_of(&query)?);
    let deleted = carry_out(node, delete_found(node.clone(), org, which)).await?;
    Ok(json(&json!({ "deleted": deleted })))
}

async fn delete_found(node: Arc<Node>, org: OrgId, which: Which) -> Result<u64, Refusal> {
    let log = find_log(&*node.engine, &org).await.ok_or_else(|| no_log(&org))?;
    let deleted = delete_events(&*node.engine, &log, &which).await.map_err(|error| match error {
        DeletionError::Delete(error) => not_deleted(&org, &error),
        DeletionError::Read(error) => {
            tracing::error!(%error, "read a log for a deletion");
            Refusal::new(Code::Internal, "the log cannot be read, so not all of these events were deleted")
        }
    })?;
    if deleted == 0
        && let Which::Id(service, id) = &which
    {
        let message = format!("org {org} has no event {id} of the service {service}");
        return Err(Refusal::new(Code::NotFound, message));
    }
    node.metrics.events_deleted.inc_by(deleted);
    if deleted > 0 {
        node.sweep_soon.notify_one();
    }
    // Neither id nor user: a log line outlives what was to be forgotten.
    tracing::info!(%org, deleted, "delete events for an operator");
    Ok(deleted)
}
