//! A group while it is being decided: its events, log by log, and those who wait for it.

use std::{collections::HashMap, sync::Arc};

use tidegate_core::{Event, LogState, NewEvent};
use tidegate_protocol::{Epoch, OrgId, Seq, UnixMillis};
use tokio::sync::oneshot;

use super::{
    AppendError, Appended,
    chain::Chain,
    commit_clock::Time,
    local::Log,
    store::{GivenId, LogIndex},
};

/// The group being decided, and those who wait for it.
#[derive(Default)]
pub(super) struct Pending {
    pub time: Time,
    pub staged: Vec<Staged>,
    pub by_org: HashMap<OrgId, usize>,
    pub created: usize,
    /// What its events take in the log, about.
    pub bytes: u64,
    /// The same of each org.
    pub bytes_of: HashMap<OrgId, u64>,
    pub appends: Vec<(oneshot::Sender<Result<Appended, AppendError>>, Appended)>,
    /// Refusals that are due to what this group may write.
    pub refused: Vec<(oneshot::Sender<Result<Appended, AppendError>>, AppendError)>,
    pub opens: Vec<(oneshot::Sender<Result<LogState, AppendError>>, OrgId)>,
}

/// A log that the group being decided touches.
pub(super) struct Staged {
    pub org: OrgId,
    pub log: Option<Arc<Log>>,
    pub index: LogIndex,
    /// Set if this group begins an incarnation of it.
    pub chain: Option<Chain>,
    pub epoch: Epoch,
    pub prev: Seq,
    pub head: Seq,
    pub last_timestamp: UnixMillis,
    pub events: Vec<Arc<Event>>,
    pub ids: Vec<GivenId>,
    /// Whether any request on it was taken; a log is not created for a refused batch.
    pub wanted: bool,
}

impl Staged {
    pub fn new(
        org: &OrgId,
        log: Option<Arc<Log>>,
        index: LogIndex,
        chain: Option<Chain>,
        epoch: Epoch,
        (head, last_timestamp): (Seq, UnixMillis),
    ) -> Self {
        Self {
            org: org.clone(),
            log,
            index,
            chain,
            epoch,
            prev: head,
            head,
            last_timestamp,
            events: Vec::new(),
            ids: Vec::new(),
            wanted: false,
        }
    }

    /// Adds an event and gives it the next seq.
    pub fn push(&mut self, event: &NewEvent, now: UnixMillis) -> Seq {
        self.head += 1;
        // A log's timestamps never fall, whatever the clock does (R14).
        self.last_timestamp = self.last_timestamp.max(now);
        self.events.push(Arc::new(Event {
            seq: self.head,
            timestamp: self.last_timestamp,
            service: event.service.clone(),
            users: event.users.clone(),
            fragment: event.fragment(self.head, self.last_timestamp),
        }));
        if let Some(key) = event.dedup {
            self.ids.push(GivenId { seq: self.head, key, content: event.content });
        }
        self.head
    }
}
