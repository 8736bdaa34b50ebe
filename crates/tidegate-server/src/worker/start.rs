//! How a stream begins: what the client asks for, whether it is let in, and at which seq it starts.

use std::{collections::BTreeSet, rc::Rc, sync::Arc};

use tidegate_core::{
    LogState,
    opening::{self, From, Opening},
    session::Coding,
    slow::Policy,
};
use tidegate_engine::{Engine, ReadError};
use tidegate_protocol::{Code, Cursor, Filter, OrgId, Refusal, Seq, ServiceName};

use super::{Scan, Worker, org::OrgState};
use crate::{
    admission::{Arrival, Connection, ConnectionId, Payer, ReplaySlot, Slot},
    auth::StreamGrant,
    metrics::InFlight,
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
        let arrival = || Arrival {
            org: grant.org(),
            user: grant.user(),
            filter: &filter,
            expires_at: grant.expires_at(),
            transport,
            now: node.now(),
            replaces: self.replaces.as_ref(),
        };
        let from = match self.start() {
            Start::At(from) => from,
            Start::Last(count) => {
                // No search for a stream that would not be let in, and only as many as their user may have.
                slot.check(&arrival())?;
                let limits = &node.config().limits;
                let per_second = limits.scan_bytes_per_second.bytes();
                node.scans.check(grant.org(), grant.user(), per_second)?;
                let payer = Payer::User(grant.org().clone(), grant.user().clone());
                let _charge = node.ledger.charge(InFlight::Search, payer, SEARCH_BYTES, limits.into())?;
                let found = find_tail(worker, &log, grant, &filter, count).await;
                From::Seq(found.map_err(unreadable)?)
            }
        };
        let opening = opening::open(&log, &filter, from);
        let replay = match opening.cursor.seq < log.head {
            true => Some(node.replays.enter(grant.org(), node.config().limits.replays_waiting, random())?),
            false => None,
        };
        let connection = slot.enter(&arrival())?;
        // Not `log.head`: the search for a start may have taken a while. If the log was deleted meanwhile, the
        // stream ends here; a deletion from now on finds its connection in the registry.
        let head = || Some(node.engine.head(grant.org()).filter(|now| now.knows(&log.epoch))?.head);
        let org = worker.org(node.hub.open(grant.org(), head).ok_or_else(log_gone)?);
        Ok(Entered { org, filter, connection, log, opening, replay, watch })
    }

    /// Where to start. Precedence: a cursor, then `tail=` (R4).
    fn start(&self) -> Start {
        match (&self.cursor, self.tail) {
            (Some(cursor), _) => Start::At(From::Cursor(cursor.clone())),
            (None, Some(0)) | (None, None) => Start::At(From::Head),
            (None, Some(count)) => Start::Last(count),
        }
    }
}

/// Where a stream starts.
enum Start {
    /// Here.
    At(From),
    /// Before the last so many events, which must be searched for.
    Last(usize),
}

/// What a search is charged, about: a page of the log, and the seqs that were found.
const SEARCH_BYTES: usize = 84 << 10;

/// How many seqs the search looks through at a time, at least.
const STRETCH_MIN: Seq = 8;

/// How many seqs the search looks through at a time, at most, in a log whose seqs are dense.
const STRETCH_MAX: Seq = 1024;

/// The seq after which the last `count` events come that this reader may see. Looks through a bounded
/// number of events and bytes; if these do not hold enough, the stream starts at the oldest of them.
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
    let (org, user) = (grant.org().clone(), grant.user().clone());
    let mut scan = Scan::new(worker, org, user, filter.clone(), log.epoch.clone());
    let mut turn = scan.turn().await;
    // From the head backwards, in stretches of so many seqs. Seqs need not be dense, so a stretch may hold
    // fewer events than seqs. Those that hold few, or too few of the wanted ones, make the next one longer.
    let mut longest = STRETCH_MAX;
    let mut stretch = (2 * count as Seq).next_power_of_two().clamp(128, STRETCH_MAX);
    let mut found: Vec<Seq> = Vec::new();
    let mut end = log.head;
    'search: while end > log.floor && found.len() < count && scan.is_within(limits) {
        // Stretches end where pages of the cache do.
        let begin = ((end - 1) / stretch * stretch).max(log.floor);
        let mut here: Vec<Seq> = Vec::new();
        let before = (scan.events(), scan.bytes());
        scan.seek(begin, end);
        while let Some(page) = scan.next().await? {
            scan.timed(|| {
                here.extend(page.events.iter().filter(|event| scan.shows(event)).map(|event| event.seq))
            });
            // The stretch may have much more than is needed, and its oldest part was seen first. Try a shorter one.
            if page.seq < end && scan.events() - before.0 > STRETCH_MAX as usize && stretch > STRETCH_MAX {
                stretch /= 2;
                continue 'search;
            }
            let is_heavy = scan.bytes() - before.1 > limits.scan_bytes.bytes() / 4;
            if page.seq < end && is_heavy && stretch > STRETCH_MIN {
                stretch = (stretch / 16).max(STRETCH_MIN);
                longest = stretch;
                continue 'search;
            }
            if scan.bytes() >= limits.scan_bytes.bytes() && page.seq < end {
                // What was seen of this stretch is its oldest part. The stream starts after all of it.
                break 'search;
            }
            scan.pace(&mut turn).await;
        }
        let events = (scan.events() - before.0) as Seq;
        let is_sparse = events.saturating_mul(2) < (end - begin).min(STRETCH_MAX);
        if is_sparse || stretch < longest {
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
