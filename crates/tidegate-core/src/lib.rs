//! What a Tidegate gateway decides, sans-IO: which events each reader gets, in which frames, and when.
//!
//! **What it is.** Pure functions and state machines: publish bodies are read into events, events are
//! sealed into batches, and a session turns batches into the frames of one stream. Also shared compression,
//! and the scheduling of fan-out and replays. Comments cite promises and rules by number (P3, R7):
//! `docs/rules.md` has them all, with their tests.
//!
//! **What it is not.** Nothing here reads a clock, draws a random number, opens a socket, stores an event
//! or logs: time and randomness are arguments, and iteration order is fixed. Storage is `tidegate-engine`;
//! sockets, HTTP, credentials and configuration are `tidegate-server`. The wire, which clients need too, is
//! `tidegate-protocol`.
//!
//! **Reading order.** Events and logs ([`event`], [`log`]); how events get in ([`content_coding`],
//! [`publish`]); how they are
//! shared ([`batch`], [`frame`], [`tail`]); what one reader gets ([`opening`], [`session`], [`slow`]);
//! compression ([`deflate`], [`gzip`], [`envelope`]); when ([`pace`], [`replay`]); and how much of what all use
//! each org gets ([`shares`]).
//!
//! # Example
//!
//! One event, from a publish request to a reader's socket:
//!
//! ```
//! use std::sync::Arc;
//! use tidegate_core::{
//!     Batch, Budget, Event, Framing, LogState, Session,
//!     frame::Terms,
//!     opening::{self, From},
//!     publish::{BodyForm, PublishLimits, read_body},
//!     session::{Coding, Greeting, Subscriber},
//! };
//! use tidegate_protocol::{Epoch, EventId, Filter, OrgId, UserId};
//!
//! let org = OrgId::parse("acme")?;
//! let body = br#"{"service":"finance","event":"invoice.paid","id":"inv-7","data":{"amount":"1200.00"}}"#;
//! let mut ids = |index| (EventId::parse(&format!("assigned-{index}")).expect("an id"), false);
//! let limits = PublishLimits { event_bytes: 256 << 10, events: 1000, orgs: 1, depth: 64, users: 100 };
//! let new = read_body(&org, BodyForm::Json, body, &limits, &mut ids)?.remove(0);
//!
//! // An engine assigns seq 1 and the time; the fan-out seals a batch over (0, 1].
//! let (seq, timestamp) = (1, 1_795_512_600_000);
//! let fragment = new.fragment(seq, timestamp);
//! let event = Event { seq, timestamp, service: new.service, users: new.users, fragment };
//! let batch = Batch::new(0, 1, timestamp, vec![Arc::new(event)], &Arc::new(Budget::default()));
//!
//! // A reader connected when the log was empty.
//! let epoch = Epoch::from_random(7);
//! let log = LogState { epoch, ancestors: Vec::new(), born_empty: true, head: 0, floor: 0 };
//! let (filter, framing, coding) = (Filter::all(), Framing::Sse, Coding::Plain);
//! let opening = opening::open(&log, &filter, From::Head);
//! let subscriber = Subscriber { org: org.clone(), user: UserId::parse("ann")?, filter, framing, coding };
//! let terms = Terms { dedup_window_ms: 300_000, ping_interval_ms: 25_000, sync: None };
//! let greeting =
//!     Greeting { connection_id: "c-1", head: 0, token_expires_in_ms: 60_000, now: timestamp, terms: &terms };
//! let mut out = Vec::new();
//! let mut session = Session::open(subscriber, opening, &greeting, &mut out);
//!
//! // All readers with the same view get the same bytes.
//! let view = batch.view(&org, &session.view_key(), batch.prev);
//! session.take(&batch, &view, timestamp, &mut out);
//! assert_eq!(out.len(), 2, "hello, and the event");
//! assert!(out[1].starts_with(b"data: "));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// The crate reads no clock, draws no random number, and iterates in no random order (`clippy.toml`).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod event;
pub mod log;

pub mod closest;
pub mod content_coding;
pub mod json;
pub mod publish;

pub mod batch;
pub mod frame;
pub mod tail;

pub mod opening;
pub mod session;
pub mod slow;

pub mod deflate;
pub mod envelope;
pub mod gzip;
mod verifier;
mod window;

pub mod pace;
pub mod replay;
pub mod shares;

pub use batch::{Batch, Budget, View};
pub use event::{ContentHash, DedupKey, Event, NamedRequest, NewEvent};
pub use frame::{Framing, ViewKey};
pub use log::{Ancestor, LogState};
pub use session::Session;
pub use tail::{BatchLimits, Next, Tail};
