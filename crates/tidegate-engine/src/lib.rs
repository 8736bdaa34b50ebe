//! The contract of a log, and engines that keep one on this machine.
//!
//! A node of the gateway writes every event to its org's log, and serves readers from it when they come
//! back. [`Engine`] is the contract between the node and whatever keeps these logs. Events are appended
//! whole or not at all, in order, and once. Pages are read back without a hole. A log's epoch shows whether
//! it is still the log that a reader knew. [`Health`] reports whether the engine works. The engine passes
//! on what it has committed by calling the node's [`Feed`].
//!
//! The engines here keep their logs themselves, without a broker: [`LocalEngine`] over a [`MemoryStore`]
//! (keeps the last minutes only, and loses them at exit) or over a [`DiskStore`] (durable, group commit,
//! retention by time and size). They share everything but the [`store`], so they cannot differ in what they
//! decide.
//!
//! This crate is not a message broker and knows no subscribers, filters, sockets or frames: those are in
//! `tidegate-core` and `tidegate-server`. Only one process at a time can have a log directory open.
//!
//! # Use
//!
//! ```
//! use std::sync::Arc;
//! use tidegate_core::{ContentHash, Event, NewEvent};
//! use tidegate_engine::{
//!     Engine, Feed, Hooks, LocalEngine, LocalOptions, MemoryOptions, PageLimit, SystemClock,
//! };
//! use tidegate_protocol::{EventId, OrgId, SEQ_MAX, Seq, ServiceName};
//!
//! /// Prints what is committed; a node would hand it to its readers.
//! struct Print;
//! impl Feed for Print {
//!     fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]) {
//!         println!("{org}: {} events after seq {prev}", events.len());
//!     }
//!
//!     fn org_deleted(&self, org: &OrgId) {
//!         println!("{org}: deleted");
//!     }
//!
//!     fn events_deleted(&self, org: &OrgId, seqs: &[Seq]) {
//!         println!("{org}: deleted {seqs:?}");
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let minutes = |count: u64| std::time::Duration::from_secs(count * 60);
//! # let local = LocalOptions {
//! #     dedup_window: minutes(5), dedup_max_entries: 1000, dedup_max_entries_per_org: 1000,
//! #     orgs_max: 10, queue_requests_max: 100, queue_bytes_max: 1 << 20,
//! # };
//! # let options = MemoryOptions { local, window: minutes(10), max_bytes: 1 << 20 };
//! let hooks = Hooks { feed: Arc::new(Print), clock: Arc::new(SystemClock), observer: Arc::new(()) };
//! let engine = LocalEngine::memory(options, hooks)?;
//! let event = NewEvent {
//!     service: ServiceName::parse("finance")?,
//!     id: EventId::parse("paid-7")?,
//!     dedup: None,
//!     content: ContentHash([0; 16]),
//!     request: None,
//!     users: None,
//!     body: r#""service":"finance","event":"paid","id":"paid-7","data":7"#.into(),
//! };
//! let acme = OrgId::parse("acme")?;
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let appended = engine.append(&acme, vec![event]).await?;
//! let page = engine.read(&acme, 0, PageLimit { events: 100, bytes: 64 << 10, to: SEQ_MAX }).await?;
//! assert_eq!(page.events[0].seq, appended.stored[0].seq);
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! engine.close();
//! # Ok(())
//! # }
//! ```
//!
//! # An engine in another crate
//!
//! The module `conformance` (feature `test-kit`) holds the tests that every engine has to pass. A crate
//! with an engine of its own runs them in its tests.
//!
//! # Reading order
//!
//! [`Engine`] first. Then `local` (how callers reach the committer), `committer` (the one thread that
//! decides), `store` (what it writes to), `memory` and `disk`.

mod engine;

mod append;
mod clock;
mod health;
mod hooks;
mod page;
mod quotas;

pub mod local;

mod chain;
mod commit_clock;
mod committer;
mod dedup;
mod queue;
mod staged;
mod sweep;
mod watched;

pub mod store;

mod disk;
mod memory;

#[cfg(any(test, feature = "test-kit"))]
pub mod conformance;

#[cfg(test)]
mod tests;

pub use append::{AppendError, Appended, DeleteError, FirstUse, StoredAt};
pub use chain::{ANCESTORS_MAX, Chain, Ended, Start};
pub use clock::{Clock, SystemClock};
pub use disk::{DiskOptions, DiskStore, check, repair};
pub use engine::{Durability, Engine, Feed, OrgLog};
pub use health::Health;
pub use hooks::{Hooks, SyncObserver};
pub use local::{LocalEngine, LocalOptions, MemoryOptions};
pub use memory::MemoryStore;
pub use page::{Page, PageLimit, ReadError};
pub use quotas::StoredQuotas;
