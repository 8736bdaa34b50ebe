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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tidegate_core::publish::{BodyForm, PublishLimits, read_body};
    use tidegate_engine::{Feed, Hooks, LocalEngine, LocalOptions, MemoryOptions, SystemClock};

    use super::*;

    struct Nobody;

    impl Feed for Nobody {
        fn committed(&self, _: &OrgId, _: Seq, _: &[Arc<Event>]) {}
        fn org_deleted(&self, _: &OrgId) {}
        fn events_deleted(&self, _: &OrgId, _: &[Seq]) {}
    }

    const MINUTES: Duration = Duration::from_secs(600);
    const EVENTS: usize = 2 * PAGE_EVENTS + 500;

    /// An engine whose org `acme` has [`EVENTS`] events: every third is for ann, every sixth for bob as well,
    /// and the last has the id of the first, in another service.
    fn engine() -> LocalEngine<tidegate_engine::MemoryStore> {
        let local = LocalOptions {
            dedup_window: MINUTES,
            dedup_max_entries: 2 * EVENTS,
            dedup_max_entries_per_org: 2 * EVENTS,
            orgs_max: 2,
            queue_requests_max: 10,
            queue_bytes_max: 16 << 20,
        };
        let hooks = Hooks { feed: Arc::new(Nobody), clock: Arc::new(SystemClock), observer: Arc::new(()) };
        let options = MemoryOptions { local, window: MINUTES, max_bytes: 64 << 20 };
        LocalEngine::memory(options, hooks).expect("an engine")
    }

    fn body() -> String {
        let event = |number: usize| {
            let users = match number {
                _ if number.is_multiple_of(6) => r#","users":["ann","bob"]"#,
                _ if number.is_multiple_of(3) => r#","users":["ann"]"#,
                _ => "",
            };
            let (service, id) = if number == EVENTS { ("t", 1) } else { ("s", number) };
            format!(r#"{{"service":"{service}","event":"e","id":"i{id}"{users},"data":{number}}}"#)
        };
        format!("[{}]", (1..=EVENTS).map(event).collect::<Vec<_>>().join(","))
    }

    #[tokio::test]
    async fn what_is_named_is_found_on_every_page_and_nothing_else() {
        let engine = engine();
        let acme = OrgId::parse("acme").expect("a name");
        let limits = PublishLimits { event_bytes: 1 << 10, events: EVENTS, orgs: 1, depth: 1, users: 2 };
        let mut drawn = |_: usize| -> (EventId, bool) { unreachable!("every event has an id") };
        let events = read_body(&acme, BodyForm::Json, body().as_bytes(), &limits, &mut drawn);
        engine.append(&acme, events.expect("events")).await.expect("appended");
        let log = find_log(&engine, &acme).await.expect("a log");
        assert_eq!(log.head, EVENTS as u64);
        assert!(find_log(&engine, &OrgId::parse("nobody").expect("a name")).await.is_none());

        let user = |name| Which::User(UserId::parse(name).expect("a user"));
        let id = |service, id| {
            Which::Id(ServiceName::parse(service).expect("a name"), EventId::parse(id).expect("an id"))
        };
        for (which, count) in [
            (user("carl"), 0),
            (id("t", "i1"), 1),
            (id("t", "i1"), 0),
            (user("bob"), EVENTS / 6),
            (user("ann"), EVENTS / 3 - EVENTS / 6),
            (user("ann"), 0),
            (id("s", "i6"), 0),
            (id("s", "i2200"), 1),
        ] {
            let deleted = delete_events(&engine, &log, &which).await.expect("deleted");
            assert_eq!(deleted, count as u64, "{which:?}");
        }
        let limit = PageLimit { events: EVENTS, bytes: usize::MAX, to: log.head };
        let page = engine.read(&acme, 0, limit).await.expect("a page");
        assert_eq!(page.events.len(), EVENTS - EVENTS / 3 - 2);
        assert_eq!(page.events[0].id().as_deref(), Some("i1"), "that of the other service stays");
    }
}
