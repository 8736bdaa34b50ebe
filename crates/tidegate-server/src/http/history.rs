//! `GET /v1/orgs/{org}/events` gives pages of history. `GET /v1/orgs/{org}/cursor` gives the starting point
//! to a page that is about to read state.

use std::{collections::VecDeque, io::Write as _, net::IpAddr, rc::Rc, sync::Arc};

use futures_util::stream::try_unfold;
use http::{Request, Response};
use tidegate_core::opening::{self, Due, From, Opening};
use tidegate_protocol::{Code, Cursor, Epoch, Filter, GapReason, OrgId, Refusal, Seq};

use super::{
    Answer,
    answer::{Pieces, charged, lent},
    body::REQUEST_BYTES,
    credentials, json, json_of,
    query::Query,
};
use crate::{
    admission::{Charge, InFlightLimits, Payer},
    auth::StreamGrant,
    config::config_key,
    metrics::InFlight,
    node::Node,
    quotas::OrgUse,
    refusals::{no_page, refused, unreadable},
    worker::{Scan, Worker, sse::Cut},
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
/// with lagging readers. If it is short it is answered whole; otherwise what comes next is read when the client has
/// taken what came before.
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
    // Before anything is read for it: each request is charged as if its answer filled a piece.
    node.scans.check(&org, grant.user(), limits.scan_bytes_per_second.bytes())?;
    let payer = Payer::User(org.clone(), grant.user().clone());
    let mut charge =
        node.ledger.charge(InFlight::Answer, payer, REQUEST_BYTES + PIECE_BYTES, limits.into())?;
    let log = node.open_log(&org).await.map_err(|error| no_page(&error))?;
    let from = after.map_or(From::Seq(log.floor), From::Cursor);
    let opening = opening::open(&log, &filter, from);
    let scan = Scan::new(worker, org, grant.user().clone(), filter, log.epoch.clone());
    let mut making = Making::new(worker.node.clone(), used, scan, opening, log.head, limit);
    // The first piece always comes, or a refusal.
    let first = making.piece(&mut charge).await?.unwrap_or_default();
    if making.is_done {
        charge.shrink_to(REQUEST_BYTES + first.len());
        return Ok(json(charged(first, charge)));
    }
    let (first, returned) = lent(first, charge);
    let rest = try_unfold((making, returned), |(mut making, returned)| async move {
        if making.is_done {
            return Ok(None);
        }
        // It comes back when the client has taken the piece before.
        let mut charge = returned.await.map_err(|_| Cut)?;
        match making.piece(&mut charge).await {
            Ok(Some(piece)) => {
                let (piece, returned) = lent(piece, charge);
                Ok(Some((piece, (making, returned))))
            }
            Ok(None) => Ok(None),
            Err(refusal) => {
                tracing::debug!(%refusal, "cut a page of history");
                Err(Cut)
            }
        }
    });
    Ok(json_of(Answer::Pieces(Pieces::new(first, rest))))
}

/// Once a piece has this many bytes, it ends with the page of the log that it is in.
const PIECE_FULL: usize = 16 << 10;

/// What a piece is charged before it is known: it is filled up by one page of the log at most, unless that is a
/// single large event.
const PIECE_BYTES: usize = PIECE_FULL + (64 << 10);

/// What the end of a page takes at most: a cursor, and a gap.
const END_BYTES: usize = 1 << 10;

/// A page of history that is being made. The client goes on after it, so it may end anywhere, but not before it
/// has led further.
struct Making {
    node: Arc<Node>,
    /// What its org uses.
    used: Arc<OrgUse>,
    scan: Scan,
    cursor: Cursor,
    dues: VecDeque<Due>,
    gap: Option<Gap>,
    head: Seq,
    /// Where it ends at the latest.
    stop: Seq,
    limit: usize,
    has_begun: bool,
    has_moved: bool,
    is_done: bool,
    found: usize,
    bytes: usize,
}

impl Making {
    fn new(
        node: Arc<Node>,
        used: Arc<OrgUse>,
        mut scan: Scan,
        opening: Opening,
        head: Seq,
        limit: usize,
    ) -> Self {
        let Opening { mut cursor, mut dues, .. } = opening;
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
        let gap =
            gap.map(|(prev, reason)| Gap { prev, seq: cursor.seq, epoch: cursor.epoch.clone(), reason });
        let stop = dues.front().map_or(head, |due| due.at);
        scan.seek(cursor.seq, stop);
        Self {
            node,
            used,
            scan,
            has_moved: gap.is_some(),
            cursor,
            dues,
            gap,
            head,
            stop,
            limit,
            has_begun: false,
            is_done: false,
            found: 0,
            bytes: 0,
        }
    }

    /// The next piece of its JSON, for which `charge` is enough; `None` after the last one.
    async fn piece(&mut self, charge: &mut Charge) -> Result<Option<Vec<u8>>, Refusal> {
        if self.is_done {
            return Ok(None);
        }
        charge.shrink_to(REQUEST_BYTES + PIECE_BYTES);
        let _turn = self.scan.turn().await;
        let mut out = Vec::with_capacity(4096);
        if !self.has_begun {
            self.has_begun = true;
            out.extend_from_slice(b"{\"events\":[");
        }
        while self.may_go_on() {
            if out.len() >= PIECE_FULL {
                self.used.add_history(out.len());
                return Ok(Some(out));
            }
            let Some(page) = self.scan.next().await.map_err(unreadable)? else { break };
            if page.prev > self.cursor.seq && !self.pass_removed(page.prev) {
                break;
            }
            let shown = page.events.iter().filter(|event| self.scan.shows(event));
            let room = out.len() + END_BYTES + shown.map(|event| event.fragment.len() + 3).sum::<usize>();
            if let Err(refusal) = self.charge(charge, room) {
                if !self.has_moved {
                    return Err(refusal);
                }
                break;
            }
            let scan = &self.scan;
            let (mut found, mut bytes, mut seq) = (self.found, self.bytes, self.cursor.seq);
            let is_whole = scan.timed(|| {
                let (limit, bytes_max) = (self.limit, self.node.config().limits.page_bytes.bytes());
                for event in page.events.iter().filter(|event| event.seq > self.cursor.seq) {
                    if scan.shows(event) {
                        if found >= limit || (found > 0 && bytes + event.fragment.len() > bytes_max) {
                            return false;
                        }
                        out.extend_from_slice(if found == 0 { b"{" } else { b",{" });
                        out.extend_from_slice(&event.fragment);
                        out.push(b'}');
                        found += 1;
                        bytes += event.fragment.len();
                    }
                    seq = event.seq;
                }
                true
            });
            (self.found, self.bytes, self.has_moved) = (found, bytes, true);
            self.cursor.seq = if is_whole { seq.max(page.seq) } else { seq };
            if !is_whole {
                break;
            }
        }
        self.end(&mut out);
        self.used.add_history(out.len());
        Ok(Some(out))
    }

    /// Whether more of the log is to be looked through. A filter may hide whole pages, so a search for the first
    /// visible event is bounded like a page.
    fn may_go_on(&self) -> bool {
        let config = self.node.config();
        let limits = &config.limits;
        self.cursor.seq < self.stop
            && self.found < self.limit
            && self.bytes < limits.page_bytes.bytes()
            && self.scan.may_go_on(limits)
    }

    /// Retention has removed the events up to `seq` in the meantime. Returns whether the page can say so: only at
    /// its start.
    fn pass_removed(&mut self, seq: Seq) -> bool {
        if self.found > 0 {
            return false;
        }
        let (prev, reason) = match &self.gap {
            Some(gap) if gap.reason != GapReason::Filter => (gap.prev, gap.reason),
            Some(gap) => (gap.prev, GapReason::Retention),
            None => (self.cursor.seq, GapReason::Retention),
        };
        self.gap = Some(Gap { prev, seq, epoch: self.cursor.epoch.clone(), reason });
        self.cursor.seq = seq;
        true
    }

    /// Charges for a piece of this size, if it is larger than what was charged already.
    fn charge(&self, charge: &mut Charge, size: usize) -> Result<(), Refusal> {
        let more = (REQUEST_BYTES + size).saturating_sub(charge.bytes());
        charge.grow(more, InFlightLimits::from(&self.node.config().limits))
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.is_done = true;
        let (cursor, has_more) = (&self.cursor, self.cursor.seq < self.head || !self.dues.is_empty());
        // Writing to a `Vec` cannot fail.
        let _ = write!(out, "],\"cursor\":\"{cursor}\",\"has_more\":{has_more}");
        if let Some(Gap { prev, seq, epoch, reason }) = &self.gap {
            self.node.metrics.gap(*reason);
            let reason = reason.name();
            let _ = write!(
                out,
                ",\"gap\":{{\"prev\":{prev},\"seq\":{seq},\"epoch\":\"{epoch}\",\"reason\":\"{reason}\"}}"
            );
        }
        out.push(b'}');
    }
}
