//! Lists and closes the connections of an org, for operators who help a user or revoke credentials.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde::Serialize;
use tidegate_protocol::{Code, Refusal, UserId};

use super::{LISTED, LISTED_MAX, bad, json, org_of, time, user_of};
use crate::{
    admission::{Connection, ConnectionId, Whose},
    http::query::Query,
    node::Node,
    random::random,
};

/// The shortest time over which closed connections come back, if they are few.
const SPREAD_MS: u64 = 4_000;

/// One connection in an answer.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    connection_id: String,
    user: &'a str,
    transport: &'static str,
    address: String,
    connected_at: String,
    services: Vec<String>,
    token_expires_at: String,
}

#[derive(Debug, Serialize)]
struct Listed<'a> {
    connections: Vec<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Why connections are closed.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// Their credentials are revoked: they must not come back.
    Revoked,
    /// They should come back, perhaps to another node.
    Draining,
}

impl Reason {
    fn of(query: &Query) -> Result<Self, Refusal> {
        match query.one("reason")? {
            None | Some("revoked") => Ok(Self::Revoked),
            Some("draining") => Ok(Self::Draining),
            Some(_) => Err(Refusal::new(Code::BadRequest, "reason must be revoked or draining")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Draining => "draining",
        }
    }

    /// The refusal that each of them gets. Those that may come back do so over `spread` milliseconds.
    fn refusal(self, spread: u64) -> Refusal {
        match self {
            Self::Revoked => Refusal::new(
                Code::Revoked,
                "an operator has ended this connection; its credentials are revoked",
            ),
            Self::Draining => {
                let refusal =
                    Refusal::new(Code::Draining, "an operator has ended this connection; reconnect");
                refusal.retry_in(1000 + random() % spread.max(1))
            }
        }
    }
}

fn show<'a>(node: &Node, connection: &'a Connection) -> Shown<'a> {
    let (filter, expires_at) = connection.grant();
    Shown {
        connection_id: node.admission.id_of(connection).to_string(),
        user: connection.user.as_str(),
        transport: connection.transport.name(),
        address: connection.address.to_string(),
        connected_at: time(connection.connected_at),
        services: filter.names().into_iter().map(str::to_owned).collect(),
        token_expires_at: time(expires_at),
    }
}

/// Lists connections, the oldest first.
pub fn list<B>(node: &Node, org: &str, request: &Request<B>) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(&["user", "limit", "after"])?;
    let (org, user) = (org_of(org)?, user_of(&query)?);
    let max = query.number("limit", 1..=LISTED_MAX, None)?.unwrap_or(LISTED);
    let after = query.one("after")?.map(str::parse::<ConnectionId>).transpose();
    let after = after.map_err(|error| bad(format!("after: {error}")))?;
    let whose = user.as_ref().map_or(Whose::All, Whose::User);
    // One more than is listed shows whether there are more.
    let found = node.admission.list(&org, whose, after.as_ref(), max + 1);
    let shown = &found[..max.min(found.len())];
    let next = (found.len() > max).then(|| shown.last()).flatten();
    let next = next.map(|last| node.admission.id_of(last).to_string());
    Ok(json(&Listed { connections: shown.iter().map(|of| show(node, of)).collect(), next }))
}

/// Closes one connection.
pub fn close<B>(
    node: &Node,
    org: &str,
    id: &str,
    request: &Request<B>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(&["reason"])?;
    let (org, reason) = (org_of(org)?, Reason::of(&query)?);
    let id = id.parse::<ConnectionId>().map_err(bad)?;
    let gone = || Refusal::new(Code::NotFound, format!("org {org} has no connection {id}"));
    let connection = node.admission.find(&org, &id).ok_or_else(gone)?;
    if !node.admission.end(&connection, reason.refusal(SPREAD_MS)) {
        return Err(gone());
    }
    tracing::info!(%org, connection = %id, reason = reason.name(), "close a connection for an operator");
    Ok(json(&serde_json::json!({ "closed": 1 })))
}

/// Closes the connections of a user, or, if the request says so explicitly, of everybody.
pub fn close_all<B>(node: &Node, org: &str, request: &Request<B>) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(&["user", "all", "reason"])?;
    let (org, user, reason) = (org_of(org)?, user_of(&query)?, Reason::of(&query)?);
    let whose = match (&user, query.one("all")?) {
        (Some(user), None) => Whose::User(user),
        (None, Some("true")) => Whose::All,
        _ => {
            let message = "name one user with user=, or say all=true to close every connection of the org";
            return Err(Refusal::new(Code::BadRequest, message));
        }
    };
    let found: Vec<Arc<Connection>> = node.admission.list(&org, whose, None, usize::MAX);
    // Each that comes back costs a handshake, so they must not come faster than the rate of handshakes.
    let rate = node.config().limits.handshakes_per_second.max(1) as u64;
    let spread = SPREAD_MS.max(found.len() as u64 * 2000 / rate);
    let ends = |connection: &&Arc<Connection>| node.admission.end(connection, reason.refusal(spread));
    let closed = found.iter().filter(ends).count();
    tracing::info!(
        %org,
        user = user.as_ref().map(UserId::as_str),
        closed,
        reason = reason.name(),
        "close connections for an operator"
    );
    Ok(json(&serde_json::json!({ "closed": closed })))
}
