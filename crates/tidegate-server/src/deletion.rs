//! Which events of a log an operator deletes, and how they are found: the log is read through, because it
//! has no index by id or user.
//!
//! Used by the operators' listener of a running node, and by the commands on the log of a stopped one.

use tidegate_core::Event;
use tidegate_engine::{DeleteError, Engine, OrgLog, PageLimit, ReadError};
use tidegate_protocol::{EventId, OrgId, Seq, ServiceName, UserId};

/// How much of the log is read at a time.
const PAGE_EVENTS: usize = 1000;
const PAGE_BYTES: usize = 1 << 20;
/// The most events that are deleted at a time, so that what is found stays small in memory.
const DELETED_AT_A_TIME: usize = 100_000;

/// Which events of an org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of a service with this id. More than one, if the id was used again after the dedup window, or by
    /// CloudEvents of several sources.
    Id(ServiceName, EventId),
    /// Those that are targeted at this user, also those for several users.
    User(UserId),
}

impl Which {
    fn has(&self, event: &Event) -> bool {
        match self {
            Which::Id(service, id) => {
                event.service == *service && event.id().is_some_and(|of| of == id.as_str())
            }
            Which::User(user) => event.is_targeted() && event.is_for(user),
        }
    }
}

/// Why not all events were deleted. Those that were found before stay deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    /// The log could not be read.
    #[error("the log cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The engine could not delete.
    #[error("{0}")]
    Delete(#[from] DeleteError),
}

/// The log of `org`; `None` if there is none.
pub async fn find_log(engine: &dyn Engine, org: &OrgId) -> Option<OrgLog> {
    let logs = engine.list_orgs().await;
    logs.into_iter().find(|log| log.org == *org)
}

/// Deletes the events of `log` up to its head that `which` names. Returns how many there were.
pub async fn delete_events(engine: &dyn Engine, log: &OrgLog, which: &Which) -> Result<u64, DeletionError> {
    let mut deleted = 0;
    let mut found: Vec<Seq> = Vec::new();
    let mut after = log.floor;
    loop {
        let limit = PageLimit { events: PAGE_EVENTS, bytes: PAGE_BYTES, to: log.head };
        let page = engine.read(&log.org, after, limit).await?;
        found.extend(page.events.iter().filter(|event| which.has(event)).map(|event| event.seq));
        let is_end = page.to >= log.head || page.to <= after;
        after = page.to;
        if !found.is_empty() && (is_end || found.len() >= DELETED_AT_A_TIME) {
            let count = found.len() as u64;
            match engine.delete_events(&log.org, std::mem::take(&mut found)).await {
                Ok(()) => deleted += count,
                // Retention has removed all of them meanwhile.
                Err(DeleteError::NoEvent) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if is_end {
            return Ok(deleted);
        }
    }
}
