//! How a stream begins: what the client asks for, whether it is let in, and at which seq it starts.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use tidegate_core::{
    LogState,
    opening::{self, From, Opening},
    session::Coding,
    slow::Policy,
};
use tidegate_engine::{Engine, PageLimit, ReadError};
use tidegate_protocol::{Code, Cursor, Filter, OrgId, Refusal, Seq, ServiceName};

use super::{Worker, org::OrgState};
use crate::{
    admission::{Arrival, Connection, ConnectionId, ReplaySlot, Slot},
    auth::StreamGrant,
    random::random,
    refusals::{log_gone, no_stream, refused, unreadable},
    transport::Transport,
};

/// What a client asks of a stream, credentials aside.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The org in the address.
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
    /// The compression that was negotiated.
    pub coding: Coding,
}

/// A stream that may begin: its grant covers it, and it is counted.
pub struct Entered {
    /// Its org on this worker.
    pub org: Rc<OrgState>,
    /// What it sees.
    pub filter: Filter,
    /// What other threads see of it.
    pub connection: Arc<Connection>,
    /// The log as it was when it was opened for this stream.
    pub log: LogState,
    /// The cursor to start at, and the gaps due from there on.
    pub opening: Opening,
    /// Its slot among the readers that wait for their replay, if it has missed something.
    pub replay: Option<ReplaySlot>,
    /// Keeps the log from being forgotten.
    pub watch: Watch,
}

/// One call of [`Engine::watch`], undone when this is dropped.
pub struct Watch {
    /// `None` after [`Watch::hand_over`].
    engine: Option<Arc<dyn Engine>>,
    org: OrgId,
}

impl Watch {
    fn begin(engine: &Arc<dyn Engine>, org: &OrgId) -> Self {
        engine.watch(org);
        Self { engine: Some(engine.clone()), org: org.clone() }
    }

    /// From now on the caller has to call [`Engine::unwatch`].
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
    /// Lets the stream in, if its grant covers it and there is room. [`Slot::enter`] may evict another
    /// connection, and a stream that is refused must evict nobody. So all else that can fail comes first.
    pub async fn enter(
        &self,
        worker: &Rc<Worker>,
        grant: &StreamGrant,
        transport: Transport,
        slot: &mut Slot,
    ) -> Result<Entered, Refusal> {
        let node = &worker.node;
        if node.is_draining() {
            return Err(Refusal::new(Code::Draining, "the gateway is going away; come back").retry_in(2000));
        }
        let filter = grant.filter_for(self.services.clone()).map_err(refused)?;
        // Before the log is opened. From here on its commits come to the hub, and it is not forgotten, so
        // none is missed between the state that is read now and the first pass for this reader.
        let watch = Watch::begin(&node.engine, grant.org());
        let log = node.open_log(grant.org()).await.map_err(|error| no_stream(&error))?;
        let from = self.start(worker, grant, &filter, &log).await.map_err(unreadable)?;
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
        // Not `log.head`: the search for a start may have taken a while. If the log was deleted meanwhile, the
        // stream ends here; a deletion from now on finds its connection in the registry.
        let head = || Some(node.engine.head(grant.org()).filter(|now| now.knows(&log.epoch))?.head);
        let org = worker.org(node.hub.open(grant.org(), head).ok_or_else(log_gone)?);
        Ok(Entered { org, filter, connection, log, opening, replay, watch })
    }

    /// Where to start, on `log` as it is now. Precedence: a cursor, then `tail=` (R4).
    async fn start(
        &self,
        worker: &Rc<Worker>,
        grant: &StreamGrant,
        filter: &Filter,
        log: &LogState,
    ) -> Result<From, ReadError> {
        Ok(match (&self.cursor, self.tail) {
            (Some(cursor), _) => From::Cursor(cursor.clone()),
            (None, Some(0)) | (None, None) => From::Head,
            (None, Some(count)) => From::Seq(find_tail(worker, log, grant, filter, count).await?),
        })
    }
}

/// The seq after which the last `count` events come that this reader may see. Looks through a bounded
/// number of events; if these do not hold enough, the stream starts at the oldest of them.
async fn find_tail(
    worker: &Rc<Worker>,
    log: &LogState,
    grant: &StreamGrant,
    filter: &Filter,
    count: usize,
) -> Result<Seq, ReadError> {
    let config = worker.node.config();
    let limits = &config.limits;
    let count = count.min(limits.tail_events);
    // From the head backwards, in stretches of so many seqs. Seqs need not be dense, so a stretch may hold
    // fewer events than seqs. After a stretch that holds few, the next one is twice as long.
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
            let page = worker.read(grant.org(), &log.epoch, at, limit).await?;
            searched += page.events.len();
            if page.to < end && stretch > STRETCH {
                // The stretch has more events than one page holds, and this page has the oldest of them,
                // which may not be needed. Try a shorter stretch.
                is_too_long = true;
                break;
            }
            here.extend(
                page.events
                    .iter()
                    .filter(|event| filter.admits(&event.service) && event.is_for(grant.user()))
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
