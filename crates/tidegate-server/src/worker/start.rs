//! Where a stream starts: what the client asks for, and the place that this is.

use std::{collections::BTreeSet, sync::Arc};

use tidegate_core::{
    LogState,
    opening::{self, From, Opening},
    session::Coding,
    slow::Policy,
};
use tidegate_engine::{Engine, PageLimit, ReadError};
use tidegate_protocol::{Code, Cursor, Filter, OrgId, Refusal, Seq, ServiceName, UserId};

use crate::{
    admission::{Arrival, Connection, ConnectionId, ReplaySlot, Slot},
    auth::StreamGrant,
    node::Node,
    random::random,
    refusals::{refused, unreadable},
    transport::Transport,
};

/// What a client asks of a stream, beside its credentials.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The org of the address.
    pub org: OrgId,
    /// `services=`; `None` for all that the grant allows.
    pub services: Option<BTreeSet<ServiceName>>,
    /// `Last-Event-ID` or `cursor=`.
    pub cursor: Option<Cursor>,
    /// `tail=`.
    pub tail: Option<usize>,
    /// `replaces=`.
    pub replaces: Option<ConnectionId>,
    /// `slow=`, or the policy of the configuration.
    pub slow: Policy,
    /// The compression that was agreed upon.
    pub coding: Coding,
}

/// A stream that may begin: what its grant and its places in the counters allow.
pub struct Entered {
    /// What it sees.
    pub filter: Filter,
    /// What others have of it.
    pub connection: Arc<Connection>,
    /// The log as it was when the place was found.
    pub log: LogState,
    /// The place to start at, and the gaps due from there on.
    pub opening: Opening,
    /// Its place among those that wait for their replay, where it has missed something.
    pub replay: Option<ReplaySlot>,
    /// Keeps the log from being forgotten.
    pub watch: Watch,
}

/// One call of [`Engine::watch`], undone when this is dropped.
pub struct Watch {
    /// `None` once somebody else is to undo it.
    engine: Option<Arc<dyn Engine>>,
    org: OrgId,
}

impl Watch {
    fn begin(engine: &Arc<dyn Engine>, org: &OrgId) -> Self {
        engine.watch(org);
        Self { engine: Some(engine.clone()), org: org.clone() }
    }

    /// Leaves it to the caller to call [`Engine::unwatch`].
    pub fn hand_over(mut self) {
        self.engine = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(engine) = &self.engine {
            engine.unwatch(&self.org);
        }
    }
}

impl StreamRequest {
    /// Lets it in, if its grant covers it and there is room. Nobody is evicted for a stream that is
    /// refused, so all that can fail comes before.
    pub async fn enter(
        &self,
        node: &Node,
        grant: &StreamGrant,
        transport: Transport,
        slot: &mut Slot,
    ) -> Result<Entered, Refusal> {
        if node.is_draining() {
            return Err(Refusal::new(Code::Draining, "the gateway is going away; come back").retry_in(2000));
        }
        let filter = grant.filter_for(self.services.clone()).map_err(refused)?;
        // Before the log is opened: from here on it is fed and not forgotten, so that what is found here is
        // what the reader goes on from.
        let watch = Watch::begin(&node.engine, grant.org());
        let log = node.open_log(grant.org()).await?;
        let from = self.place(node, grant, &filter, &log).await.map_err(unreadable)?;
        let opening = opening::open(&log, &filter, from);
        let replay = match opening.cursor.seq < log.head {
            true => Some(node.replays.enter(grant.org(), node.config().limits.replays_waiting, random())?),
            false => None,
        };
        let connection = slot.enter(&Arrival {
            org: grant.org(),
            user: grant.user(),
            filter: &filter,
            expires_at: grant.expires_at(),
            transport,
            now: node.now(),
            replaces: self.replaces.as_ref(),
        })?;
        Ok(Entered { filter, connection, log, opening, replay, watch })
    }

    /// The place to start at, on `log` as it is now. Precedence: a cursor, then `tail=` (R4).
    async fn place(
        &self,
        node: &Node,
        grant: &StreamGrant,
        filter: &Filter,
        log: &LogState,
    ) -> Result<From, ReadError> {
        Ok(match (&self.cursor, self.tail) {
            (Some(cursor), _) => From::Cursor(cursor.clone()),
            (None, Some(0)) | (None, None) => From::Head,
            (None, Some(count)) => {
                From::Seq(find_tail(node, log, grant.org(), grant.user(), filter, count).await?)
            }
        })
    }
}

/// The place behind which the last `count` events stand that this reader may see. Looks through a
/// bounded number of events; where that does not find enough, the stream starts where it looked.
async fn find_tail(
    node: &Node,
    log: &LogState,
    org: &OrgId,
    user: &UserId,
    filter: &Filter,
    count: usize,
) -> Result<Seq, ReadError> {
    let config = node.config();
    let limits = &config.limits;
    let count = count.min(limits.tail_events);
    // From the head backwards, in stretches of seqs. Seqs need not be dense: a stretch of so many holds at
    // most as many events, and one that holds few is followed by one of twice as many seqs.
    const STRETCH: Seq = 1000;
    let mut stretch = STRETCH;
    let mut found: Vec<Seq> = Vec::new();
    let mut searched = 0;
    let mut end = log.head;
    while end > log.floor && found.len() < count && searched < limits.tail_search_events {
        let begin = end.saturating_sub(stretch).max(log.floor);
        let mut at = begin;
        let mut here: Vec<Seq> = Vec::new();
        let before = searched;
        let mut is_too_long = false;
        while at < end {
            let limit = PageLimit { events: STRETCH as usize, bytes: limits.page_bytes.bytes(), to: end };
            let page = node.engine.read(org, at, limit).await?;
            searched += page.events.len();
            if page.to < end && stretch > STRETCH {
                // It is denser here. The page is of its far end, which may not be needed.
                is_too_long = true;
                break;
            }
            here.extend(
                page.events
                    .iter()
                    .filter(|event| filter.admits(&event.service) && event.is_for(user))
                    .map(|event| event.seq),
            );
            if page.to <= at {
                break;
            }
            at = page.to;
        }
        if is_too_long {
            stretch = (stretch / 2).max(STRETCH);
            continue;
        }
        if searched - before < STRETCH as usize / 2 {
            stretch = stretch.saturating_mul(2);
        }
        here.append(&mut found);
        found = here;
        end = begin;
    }
    Ok(match found.len().checked_sub(count) {
        Some(first) => found.get(first).map_or(log.head, |seq| seq - 1),
        None => end,
    })
}
