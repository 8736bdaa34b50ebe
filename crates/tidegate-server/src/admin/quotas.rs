//! The quotas of an org, for operators: shows them with what the org uses, sets them, and tells the metrics which
//! orgs are near theirs.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde::Serialize;
use tidegate_engine::StoredQuotas;
use tidegate_protocol::{Code, OrgId, Refusal};

use super::{bad, json, org_of};
use crate::{
    admission::HeldByOrg,
    config::{ByteSize, Config, ConfigKey, OwnQuotas, QuotaSettings, config_key},
    deletion::find_log,
    http::query::Query,
    metrics::Quota,
    node::Node,
    quotas::Rates,
};

/// From this share of a quota on, an org is near it.
const NEAR: f64 = 0.8;

/// One quota of an org in an answer. Bytes are numbers here.
#[derive(Debug, Serialize)]
struct Shown {
    quota: &'static str,
    /// `None` if there is none.
    limit: Option<u64>,
    used: u64,
    /// Who has set it: `operator`, or a part of the configuration.
    set_by: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownAll<'a> {
    org: &'a str,
    quotas: Vec<Shown>,
}

/// What an org uses of what its quotas bound.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    held: HeldByOrg,
    rates: Rates,
    compressors: usize,
    stored: u64,
}

impl Used {
    /// Each quota with its value and how much of it is used.
    fn of(&self, quotas: &QuotaSettings, config: &Config) -> [(Quota, Option<u64>, f64); 8] {
        let count = |quota: Option<usize>| quota.map(|quota| quota as u64);
        let bytes = |quota: Option<ByteSize>| quota.map(ByteSize::get);
        let (held, rates) = (self.held, self.rates);
        let connections = quotas.connections.unwrap_or(config.limits.connections_per_org);
        [
            (Quota::Connections, count(Some(connections)), held.connections as f64),
            (Quota::PublishEvents, count(quotas.publish_events_per_second), rates.publish_events),
            (Quota::PublishBytes, bytes(quotas.publish_bytes_per_second), rates.publish_bytes),
            (Quota::StoredBytes, bytes(quotas.stored_bytes), self.stored as f64),
            (Quota::HistoryBytes, bytes(quotas.history_bytes_per_second), rates.history_bytes),
            (Quota::Filters, count(Some(quotas.filters)), held.filters as f64),
            (Quota::Compressors, count(quotas.compressors), self.compressors as f64),
            (Quota::EgressBytes, bytes(quotas.egress_bytes_per_second), rates.egress_bytes),
        ]
    }
}

/// Shows the quotas of an org.
pub async fn show(node: &Node, org: &str, request: &Request<()>) -> Result<Response<Full<Bytes>>, Refusal> {
    Query::of(request).only(&[])?;
    Ok(show_all(node, &org_of(org)?).await)
}

async fn show_all(node: &Node, org: &OrgId) -> Response<Full<Bytes>> {
    let config = node.config();
    let used = Used {
        held: node.admission.held_by(org),
        rates: node.quotas.used_by(org).rates(),
        compressors: node.hub.contexts().used_by(org),
        stored: find_log(&*node.engine, org).await.map_or(0, |log| log.stored_bytes),
    };
    let set_by = sources(node, org, &config);
    let quotas = used.of(&node.quotas.of(org), &config).map(|(quota, limit, used)| Shown {
        quota: quota.name(),
        limit,
        used: used.round() as u64,
        set_by: limit.and_then(|_| set_by.get(quota.name()).cloned()),
    });
    json(&ShownAll { org: org.as_str(), quotas: quotas.into() })
}

/// Who has set each quota.
fn sources(node: &Node, org: &OrgId, config: &Config) -> HashMap<&'static str, String> {
    let mut set_by: HashMap<&'static str, String> =
        OwnQuotas::NAMES.iter().map(|name| (*name, "limits.org".to_owned())).collect();
    if config.limits_org.connections.is_none() {
        let key: ConfigKey = config_key!(limits.connections_per_org);
        set_by.insert(Quota::Connections.name(), key.name().to_owned());
    }
    let own = config.orgs.NAME.0.get(org).map(|own| (own.clone(), format!("orgs.{org}")));
    let by_operators = node.quotas.set_by_operators(org).map(|own| (own, "operator".to_owned()));
    for (own, source) in own.into_iter().chain(by_operators) {
        set_by.extend(own.set().into_iter().map(|(name, _)| (name, source.clone())));
    }
    set_by
}

/// Sets quotas of an org, in place of those that were set here before.
pub async fn set(node: &Node, org: &str, request: &Request<()>) -> Result<Response<Full<Bytes>>, Refusal> {
    let query = Query::of(request);
    query.only(OwnQuotas::NAMES)?;
    let org = org_of(org)?;
    let mut own = OwnQuotas::default();
    for name in OwnQuotas::NAMES {
        if let Some(text) = query.one(name)? {
            own.set_from(name, text).map_err(|reason| bad(format!("{name}: {reason}")))?;
        }
    }
    if own == OwnQuotas::default() {
        let message =
            format!("name a quota to set, such as connections=100; they are {}", OwnQuotas::NAMES.join(", "));
        return Err(Refusal::new(Code::BadRequest, message));
    }
    let shown: Vec<_> = own.set().into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
    node.set_quotas(&org, Some(own));
    tracing::info!(%org, quotas = shown.join(", "), "set quotas of an org for an operator");
    Ok(show_all(node, &org).await)
}

/// Takes back what was set here for an org.
pub async fn reset(node: &Node, org: &str, request: &Request<()>) -> Result<Response<Full<Bytes>>, Refusal> {
    Query::of(request).only(&[])?;
    let org = org_of(org)?;
    node.set_quotas(&org, None);
    tracing::info!(%org, "take back the quotas that an operator has set for an org");
    Ok(show_all(node, &org).await)
}

/// Gives the metrics the orgs that are near a quota: of those the ones that use most of it.
pub async fn report_near(node: &Node) {
    let config = node.config();
    let mut uses: BTreeMap<OrgId, Used> = BTreeMap::new();
    for (org, held) in node.admission.held_by_orgs() {
        let compressors = node.hub.contexts().used_by(&org);
        uses.insert(org, Used { held, compressors, ..Used::default() });
    }
    for (org, used) in node.quotas.in_use() {
        uses.entry(org).or_default().rates = used.rates();
    }
    // A list of all orgs for nothing would be a waste.
    if node.quotas.stored() != StoredQuotas::default() {
        for log in node.engine.list_orgs().await {
            uses.entry(log.org).or_default().stored = log.stored_bytes;
        }
    }
    let mut near: Vec<(f64, OrgId, Vec<_>)> = Vec::new();
    for (org, used) in uses {
        let ratios =
            used.of(&node.quotas.of(&org), &config).into_iter().filter_map(|(quota, limit, used)| {
                let ratio = used / limit? as f64;
                (ratio >= NEAR).then_some((quota, ratio))
            });
        let ratios: Vec<_> = ratios.collect();
        if let Some(most) = ratios.iter().map(|(_, ratio)| *ratio).reduce(f64::max) {
            near.push((most, org, ratios));
        }
    }
    near.sort_by(|(a, org_a, _), (b, org_b, _)| b.total_cmp(a).then_with(|| org_a.cmp(org_b)));
    near.truncate(config.metrics.top_orgs);
    node.metrics.near_quotas(near.into_iter().map(|(_, org, ratios)| (org, ratios)));
}
