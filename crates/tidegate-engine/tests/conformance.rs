//! The conformance suite over the engines of this crate, written as another crate would write it: with
//! nothing but the public API. And over one whose seqs are not dense.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidegate_core::{Ancestor, Event, LogState, NewEvent};
use tidegate_engine::{
    AppendError, Appended, DeleteError, DiskOptions, DiskStore, Durability, Engine, Feed, FirstUse, Health,
    Hooks, LocalEngine, MemoryOptions, MemoryStore, OrgLog, Page, PageLimit, ReadError,
    conformance::{Bounds, Capabilities, Harness, Held},
    conformance_tests,
    store::Store,
};
use tidegate_protocol::{OrgId, SEQ_MAX, Seq};
use tokio::sync::watch;

fn held<S: Store>(engine: &LocalEngine<S>) -> Option<Held> {
    Some(Held { orgs: engine.orgs(), bytes: engine.bytes() })
}

fn memory_engine(bounds: &Bounds, hooks: Hooks) -> LocalEngine<MemoryStore> {
    let options =
        MemoryOptions { local: bounds.local(), window: bounds.retention, ..MemoryOptions::for_tests() };
    LocalEngine::memory(options, hooks).expect("an engine")
}

struct Memory;

impl Harness for Memory {
    type Engine = LocalEngine<MemoryStore>;

    fn capabilities(&self) -> Capabilities {
        Capabilities { survives_restart: false, ..Capabilities::ALL }
    }

    fn open(&self, bounds: &Bounds, hooks: Hooks) -> Box<Self::Engine> {
        Box::new(memory_engine(bounds, hooks))
    }

    fn held(&self, engine: &Self::Engine) -> Option<Held> {
        held(engine)
    }
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }
}

impl Harness for Disk {
    type Engine = LocalEngine<DiskStore>;

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn open(&self, bounds: &Bounds, hooks: Hooks) -> Box<Self::Engine> {
        let options = DiskOptions {
            local: bounds.local(),
            retention: bounds.retention,
            // Retention drops whole buckets.
            bucket: Some(Duration::from_secs(60)),
            forget_after: bounds.forget_after,
            ..DiskOptions::for_tests(self.0.path())
        };
        Box::new(LocalEngine::disk(options, hooks).expect("an engine"))
    }

    fn held(&self, engine: &Self::Engine) -> Option<Held> {
        held(engine)
    }
}

/// Every event of the log beneath has a seq ten times as high here.
const STEP: Seq = 10;

fn sparse_event(event: &Event) -> Arc<Event> {
    let text = std::str::from_utf8(&event.fragment).expect("UTF-8");
    let rest = text.strip_prefix(&format!("\"seq\":{},", event.seq)).expect("a fragment begins with its seq");
    let seq = event.seq * STEP;
    Arc::new(Event { seq, fragment: Bytes::from(format!("\"seq\":{seq},{rest}")), ..event.clone() })
}

fn sparse_state(state: LogState) -> LogState {
    let ancestors = state.ancestors.into_iter();
    LogState {
        ancestors: ancestors.map(|ancestor| Ancestor { end: ancestor.end * STEP, ..ancestor }).collect(),
        head: state.head * STEP,
        floor: state.floor * STEP,
        ..state
    }
}

struct SparseFeed(Arc<dyn Feed>);

impl Feed for SparseFeed {
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]) {
        let events: Vec<_> = events.iter().map(|event| sparse_event(event)).collect();
        self.0.committed(org, prev * STEP, &events);
    }

    fn org_deleted(&self, org: &OrgId) {
        self.0.org_deleted(org);
    }

    fn events_deleted(&self, org: &OrgId, seqs: &[Seq]) {
        let seqs: Vec<_> = seqs.iter().map(|seq| seq * STEP).collect();
        self.0.events_deleted(org, &seqs);
    }
}

/// An engine that gives every tenth seq.
struct SparseEngine(LocalEngine<MemoryStore>);

impl Engine for SparseEngine {
    fn append(
        &self,
        org: &OrgId,
        events: Vec<NewEvent>,
    ) -> BoxFuture<'static, Result<Appended, AppendError>> {
        let appending = self.0.append(org, events);
        Box::pin(async move {
            let mut appended = appending.await.map_err(|error| match error {
                AppendError::IdConflict { index, first: FirstUse::Seq(seq) } => {
                    AppendError::IdConflict { index, first: FirstUse::Seq(seq * STEP) }
                }
                AppendError::RequestConflict { first } => {
                    AppendError::RequestConflict { first: first * STEP }
                }
                error => error,
            })?;
            appended.stored.iter_mut().for_each(|stored| stored.seq *= STEP);
            Ok(appended)
        })
    }

    fn open(&self, org: &OrgId) -> BoxFuture<'static, Result<LogState, AppendError>> {
        let opening = self.0.open(org);
        Box::pin(async move { opening.await.map(sparse_state) })
    }

    fn head(&self, org: &OrgId) -> Option<LogState> {
        self.0.head(org).map(sparse_state)
    }

    fn read(&self, org: &OrgId, after: Seq, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>> {
        let head = self.0.head(org).map_or(0, |state| state.head);
        let beneath = PageLimit { to: limit.to / STEP, ..limit };
        let reading = self.0.read(org, after / STEP, beneath);
        Box::pin(async move {
            let page = reading.await?;
            let after = after.max(page.after * STEP);
            // If there are events after it, none lies between this end and the one that was asked for.
            let is_whole = page.to == limit.to / STEP && page.to < head;
            let mut to = if is_whole { limit.to } else { page.to * STEP };
            let mut events: Vec<_> = page.events.iter().map(|event| sparse_event(event)).collect();
            // With its longer seq an event may not fit any more.
            let bytes =
                |events: &[Arc<Event>]| events.iter().map(|event| event.fragment.len()).sum::<usize>();
            while events.len() > 1 && bytes(&events) > limit.bytes {
                events.pop();
                to = events[events.len() - 1].seq;
            }
            Ok(Page { after, to: to.max(after), events })
        })
    }

    fn watch(&self, org: &OrgId) {
        self.0.watch(org);
    }

    fn unwatch(&self, org: &OrgId) {
        self.0.unwatch(org);
    }

    fn sweep(&self) {
        self.0.sweep();
    }

    fn list_orgs(&self) -> BoxFuture<'static, Vec<OrgLog>> {
        let listing = self.0.list_orgs();
        Box::pin(async move {
            let mut orgs = listing.await;
            orgs.iter_mut().for_each(|log| (log.floor, log.head) = (log.floor * STEP, log.head * STEP));
            orgs
        })
    }

    fn delete_org(&self, org: &OrgId) -> BoxFuture<'static, Result<(), DeleteError>> {
        self.0.delete_org(org)
    }

    fn delete_events(&self, org: &OrgId, seqs: Vec<Seq>) -> BoxFuture<'static, Result<(), DeleteError>> {
        self.0.delete_events(org, seqs.into_iter().map(|seq| seq / STEP).collect())
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.0.health()
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }

    fn close(&self) {
        self.0.close();
    }
}

struct Sparse;

impl Harness for Sparse {
    type Engine = SparseEngine;

    fn capabilities(&self) -> Capabilities {
        Capabilities { dense_seqs: false, ..Memory.capabilities() }
    }

    fn open(&self, bounds: &Bounds, hooks: Hooks) -> Box<Self::Engine> {
        let hooks = Hooks { feed: Arc::new(SparseFeed(hooks.feed.clone())), ..hooks };
        Box::new(SparseEngine(memory_engine(bounds, hooks)))
    }

    fn held(&self, engine: &Self::Engine) -> Option<Held> {
        held(&engine.0)
    }
}

mod memory {
    use super::*;
    conformance_tests!(Memory);
}

mod disk {
    use super::*;
    conformance_tests!(Disk::new());
}

mod sparse {
    use super::*;
    conformance_tests!(Sparse);
}

/// A seq that the engine never gave is a position like any other.
#[test]
fn seqs_of_the_sparse_engine_are_sparse() {
    use tidegate_engine::conformance::{World, event, org};
    let world = World::new(Sparse);
    let node = world.open();
    let appended = node.append("acme", vec![event("acme", "a"), event("acme", "b")]).expect("appended");
    assert_eq!(appended.stored.iter().map(|stored| stored.seq).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(node.engine.head(&org("acme")).expect("held").head, 20);
    assert_eq!(node.page("acme", 13, 9, 9_999, SEQ_MAX).events[0].seq, 20);
}
