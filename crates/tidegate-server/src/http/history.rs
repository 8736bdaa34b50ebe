//! `GET /v1/orgs/{org}/events` gives pages of history. `GET /v1/orgs/{org}/cursor` gives the starting point
//! to a page that is about to read state.

use std::{fmt::Write as _, net::IpAddr, rc::Rc};

use bytes::{BufMut as _, BytesMut};
use http::{Request, Response};
use tidegate_core::opening::{self, From};
use tidegate_engine::PageLimit;
use tidegate_protocol::{Code, Cursor, Epoch, Filter, GapReason, OrgId, Refusal, Seq};

use super::{Answer, credentials, json, query::Query};
use crate::{
    auth::StreamGrant,
    config::config_key,
    node::Node,
    refusals::{no_page, refused, unreadable},
    worker::Worker,
};

/// What is missing at the start of a page: no event of (`prev`, `seq`] comes. The page is of `epoch`.
struct Gap {
    prev: Seq,
    seq: Seq,
    epoch: Epoch,
    reason: GapReason,
}

async fn authorize<B>(
    node: &Node,
    address: IpAddr,
    org: &OrgId,
    request: &Request<B>,
    parameters: &[&str],
) -> Result<(StreamGrant, Filter, Query), Refusal> {
    let query = Query::of(request);
    query.only(parameters)?;
    let token = credentials::of_page(node, request)?;
    let grant = node.within_rate(address, node.authorize(&token.text, org)).await?;
    let services = query.services(node.config().limits.services_per_filter)?;
    let filter = grant.filter_for(services).map_err(refused)?;
    Ok((grant, filter, query))
}

/// The cursor at the head now: take it, read the state, then stream from it.
pub async fn cursor<B>(
    node: &Node,
    address: IpAddr,
    org: OrgId,
    request: &Request<B>,
) -> Result<Response<Answer>, Refusal> {
    let (_, filter, _) = authorize(node, address, &org, request, &["services"]).await?;
    let log = node.open_log(&org).await.map_err(|error| no_page(&error))?;
    let cursor = Cursor { epoch: log.epoch, seq: log.head, tag: Some(filter.tag().clone()) };
    Ok(json(format!("{{\"cursor\":\"{cursor}\",\"head\":{}}}", log.head)))
}

/// One page after `after=`, or from the oldest event. It is read through the pages that the worker shares
/// with lagging readers.
pub async fn events<B>(
    worker: &Rc<Worker>,
    address: IpAddr,
    org: OrgId,
    request: &Request<B>,
) -> Result<Response<Answer>, Refusal> {
    let node = &*worker.node;
    let config = node.config();
    let limits = &config.limits;
    let parameters = ["after", "limit", "services"];
    let (grant, filter, query) = authorize(node, address, &org, request, &parameters).await?;
    let limit = query
        .number("limit", 1..=limits.page_events, Some(config_key!(limits.page_events)))?
        .unwrap_or(100.min(limits.page_events));
    let after = match query.one("after")? {
        None => None,
        Some(text) => {
            let bad = |error: tidegate_protocol::CursorError| {
                Refusal::new(Code::BadRequest, format!("after: {error}"))
            };
            Some(text.parse::<Cursor>().map_err(bad)?)
        }
    };
    let used = node.quotas.used_by(&org);
    used.may_read_history()?;
    let log = node.open_log(&org).await.map_err(|error| no_page(&error))?;
    let from = after.map_or(From::Seq(log.floor), From::Cursor);
    let opening = opening::open(&log, &filter, from);
    let mut cursor = opening.cursor;
    let mut dues = opening.dues;
    let mut out = BytesMut::with_capacity(4096);
    out.put_slice(b"{\"events\":[");
    // A page declares the gap at its start and ends at the position of the next one.
    let mut gap = None;
    while dues.front().is_some_and(|due| due.at == cursor.seq || due.reason == GapReason::Filter) {
        let Some(due) = dues.pop_front() else { break };
        // Several gaps at one position are declared as one: from the first `prev` to the last `seq`, with the
        // reason that matters most (any reason other than `filter`).
        let (prev, reason) = match gap {
            Some((prev, GapReason::Filter)) => (prev, due.reason),
            Some(first) => first,
            None => (cursor.seq, due.reason),
        };
        gap = Some((prev, reason));
        cursor = Cursor { epoch: due.epoch, seq: due.seq, tag: Some(due.tag) };
    }
    let mut gap =
        gap.map(|(prev, reason)| Gap { prev, seq: cursor.seq, epoch: cursor.epoch.clone(), reason });
    let stop = dues.front().map_or(log.head, |due| due.at);
    let mut found = 0;
    let mut bytes = 0;
    let mut searched = 0;
    // A filter may hide whole pages, so the search for the first visible event is bounded like a page.
    while cursor.seq < stop
        && found < limit
        && bytes < limits.page_bytes.bytes()
        && searched < limits.tail_search_events
    {
        let page = PageLimit { events: limit - found, bytes: limits.page_bytes.bytes() - bytes, to: stop };
        let page = worker.read(&org, &log.epoch, cursor.seq, page).await.map_err(unreadable)?;
        if page.after > cursor.seq {
            // Retention has removed events in the meantime.
            if found > 0 {
                break;
            }
            let prev = match &gap {
                Some(gap) => gap.prev,
                None => cursor.seq,
            };
            let reason = match &gap {
                Some(gap) if gap.reason != GapReason::Filter => gap.reason,
                _ => GapReason::Retention,
            };
            gap = Some(Gap { prev, seq: page.after, epoch: cursor.epoch.clone(), reason });
        }
        for event in
            page.events.iter().filter(|event| filter.admits(&event.service) && event.is_for(grant.user()))
        {
            out.put_slice(if found == 0 { b"{" } else { b",{" });
            out.put_slice(&event.fragment);
            out.put_u8(b'}');
            found += 1;
            bytes += event.fragment.len();
        }
        searched += page.events.len().max(1);
        cursor.seq = page.to.max(cursor.seq);
    }
    let has_more = cursor.seq < log.head || !dues.is_empty();
    // Writing to a `BytesMut` cannot fail.
    let _ = write!(out, "],\"cursor\":\"{cursor}\",\"has_more\":{has_more}");
    if let Some(Gap { prev, seq, epoch, reason }) = gap {
        node.metrics.gap(reason);
        let reason = reason.name();
        let _ = write!(
            out,
            ",\"gap\":{{\"prev\":{prev},\"seq\":{seq},\"epoch\":\"{epoch}\",\"reason\":\"{reason}\"}}"
        );
    }
    out.put_u8(b'}');
    used.add_history(out.len());
    Ok(json(out.freeze()))
}
