//! The tests that every engine has to pass, for engines in this crate and elsewhere (feature
//! `test-kit`).
//!
//! An engine's own crate writes a [`Harness`]: how its engine is opened over storage that outlives it,
//! and what it can do ([`Capabilities`]). [`conformance_tests!`](crate::conformance_tests) then makes one
//! `#[test]` of each case:
//!
//! ```
//! use tidegate_engine::{
//!     Hooks, LocalEngine, MemoryOptions, MemoryStore,
//!     conformance::{Bounds, Capabilities, Harness},
//! };
//!
//! struct Memory;
//!
//! impl Harness for Memory {
//!     type Engine = LocalEngine<MemoryStore>;
//!
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities { survives_restart: false, ..Capabilities::ALL }
//!     }
//!
//!     fn open(&self, bounds: &Bounds, hooks: Hooks) -> Box<Self::Engine> {
//!         let options = MemoryOptions { local: bounds.local(), ..MemoryOptions::for_tests() };
//!         Box::new(LocalEngine::memory(options, hooks).expect("an engine"))
//!     }
//! }
//!
//! mod memory {
//!     use super::*;
//!     tidegate_engine::conformance_tests!(Memory);
//! }
//! ```
//!
//! Time is moved by hand and nothing sleeps. A case that needs a capability which the harness does not
//! state passes at once and says so in its output.
//!
//! Cases count events, not seqs: a log's third event is 3, whatever its seq is. If the harness states
//! [`Capabilities::dense_seqs`], the two have to be the same.

mod cases;
mod clock;
mod events;
mod local;
mod reading;
mod restarts;
mod watching;
mod world;

use std::time::Duration;

pub use self::{
    events::{event, event_with, has_id, named, org},
    world::{DAWN, ManualClock, Node, RecordingFeed, World},
};
use crate::{Engine, Hooks};

/// Opens engines, one after another, over one storage.
pub trait Harness {
    /// The engine under test.
    type Engine: Engine + ?Sized;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Opens an engine over the storage of this harness, as a process does that starts. The storage is
    /// empty at the first call. A bound without its capability may be ignored.
    fn open(&self, bounds: &Bounds, hooks: Hooks) -> Box<Self::Engine>;

    /// Ends an engine as the end of its process would, without [`Engine::close`].
    fn crash(&self, engine: Box<Self::Engine>) {
        drop(engine);
    }

    /// How much the engine holds, if it can say.
    fn held(&self, _engine: &Self::Engine) -> Option<Held> {
        None
    }
}

/// How much an engine holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Orgs that have a log.
    pub orgs: usize,
    /// Bytes of events, in the engine's own measure.
    pub bytes: u64,
}

/// What an engine can do beyond what all have to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Events that were acknowledged are there after a crash.
    pub survives_restart: bool,
    /// Dedup, retention and timestamps go by [`Hooks::clock`], not by the time of a broker.
    pub obeys_clock: bool,
    /// A sweep forgets logs that are empty and idle.
    pub forgets_idle_orgs: bool,
    /// The first event of a log has the seq 1, and each next one the next seq.
    pub dense_seqs: bool,
    /// [`Bounds::dedup_max_entries`] and [`Bounds::dedup_max_entries_per_org`] hold.
    pub bounds_dedup: bool,
    /// [`Bounds::orgs_max`] holds.
    pub bounds_orgs: bool,
    /// [`Bounds::queue_bytes_max`] holds.
    pub bounds_queue: bool,
}

impl Capabilities {
    /// All of them.
    pub const ALL: Self = Self {
        survives_restart: true,
        obeys_clock: true,
        forgets_idle_orgs: true,
        dense_seqs: true,
        bounds_dedup: true,
        bounds_orgs: true,
        bounds_queue: true,
    };
}

/// The settings that cases choose.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long an id is known.
    pub dedup_window: Duration,
    /// The most ids that are known at a time.
    pub dedup_max_entries: usize,
    /// The most of them that one org may have.
    pub dedup_max_entries_per_org: usize,
    /// The most orgs that have a log.
    pub orgs_max: usize,
    /// The most bytes of events that wait for the log.
    pub queue_bytes_max: usize,
    /// How long events are kept. They may be kept for up to 2 minutes longer.
    pub retention: Duration,
    /// How long an idle log is remembered that holds no events; up to 15 minutes in all.
    pub forget_after: Duration,
}

macro_rules! cases {
    // `$d` is a dollar sign, for the macro that this one defines.
    ($d:tt $($(#[$doc:meta])* $module:ident :: $name:ident,)*) => {
        $(
            $(#[$doc])*
            pub fn $name<H: Harness>(harness: H) {
                $module::$name(World::new(harness));
            }
        )*

        /// Makes a `#[test]` of each case of [`conformance`](crate::conformance), over the harness that
        /// the expression gives, evaluated once per case. Best put in a module of its own.
        #[macro_export]
        macro_rules! conformance_tests {
            ($d harness:expr) => {
                $(
                    #[test]
                    fn $name() {
                        $d crate::conformance::$name($d harness);
                    }
                )*
            };
        }
    };
}

cases! {
    $
    /// Seqs rise, and events read back as they were fed.
    cases::seqs_rise_and_events_read_back_as_they_were_fed,
    /// Pages begin at the floor. Needs `obeys_clock`.
    reading::r9_pages_at_the_floor_and_around_it,
    /// Pages say where they begin and end, whichever limit they reach.
    reading::r9_pages_say_where_they_end,
    /// From any position, whether it is that of an event or not, a page holds exactly what follows.
    reading::r9_every_position_reads_what_follows_it,
    /// What is read while others append is a prefix of the log.
    reading::r9_pages_are_whole_while_others_append,
    /// `open` creates a log, whose epoch is that of the first append.
    cases::r10_an_unknown_org_is_created_by_open_and_keeps_its_epoch,
    /// No two orgs share an epoch.
    cases::r10_epochs_differ_between_orgs,
    /// A watched log is not forgotten; afterwards its time begins anew. Needs `obeys_clock`,
    /// `forgets_idle_orgs`.
    watching::r10_a_watched_org_is_not_forgotten,
    /// Two calls of `watch` need two of `unwatch`. Needs `obeys_clock`, `forgets_idle_orgs`.
    watching::r10_watches_are_counted,
    /// A log is safe from `watch` on, however late its reader gets to `open`. Needs `obeys_clock`,
    /// `forgets_idle_orgs`.
    watching::r10_a_sweep_between_watch_and_open_does_not_forget,
    /// No sweep, at whatever moment, forgets a log that is watched. Needs `obeys_clock`,
    /// `forgets_idle_orgs`.
    watching::r10_no_sweep_falls_between_a_reader_and_its_log,
    /// The feed of a watched org has all that follows.
    watching::r13_a_watched_org_is_fed,
    /// A forgotten log comes back empty, under a fresh epoch. Needs `obeys_clock`, `forgets_idle_orgs`.
    cases::r10_a_forgotten_org_comes_back_under_a_fresh_epoch,
    /// A duplicate is stored once and answered with the first seq.
    cases::r12_a_duplicate_is_stored_once_and_answered_with_the_first_seq,
    /// The same id with other content is refused, and its whole batch.
    cases::r12_the_same_id_with_other_content_is_refused_whole,
    /// The name of a request stands for all its events.
    cases::r12_the_name_of_a_request_stands_for_all_its_events,
    /// Duplicates within one batch.
    cases::r12_duplicates_within_a_batch,
    /// An id is known for the dedup window. Needs `obeys_clock`.
    cases::r12_an_id_is_known_for_the_window_and_no_longer,
    /// Ids that the gateway drew take no room in the dedup window. Needs `bounds_dedup`.
    cases::r12_ids_that_nobody_gave_take_no_room,
    /// A full dedup window refuses and forgets nothing. Needs `bounds_dedup`, `obeys_clock`.
    cases::r12_a_full_window_refuses_and_forgets_nothing,
    /// One org cannot take the room of the others. Needs `bounds_dedup`, `obeys_clock`.
    cases::p5_one_org_cannot_take_the_room_of_the_others,
    /// Concurrent publishers are fed in seq order.
    cases::r13_concurrent_publishers_are_fed_in_seq_order,
    /// Timestamps never fall. Needs `obeys_clock`.
    cases::r14_timestamps_never_fall,
    /// The time of commits never falls, whatever the clock does. Needs `obeys_clock`.
    clock::r30_the_time_of_commits_never_falls,
    /// Ids are known over a restart for their time, although the clock was set. Needs `survives_restart`,
    /// `obeys_clock`.
    clock::r30_ids_are_known_over_a_restart_after_the_clock_was_set,
    /// A clock that leaps ahead by years and comes back within 10 minutes costs no event and no id. Needs
    /// `obeys_clock`.
    clock::r30_a_leap_of_the_clock_that_is_taken_back_loses_nothing,
    /// The same if an engine is opened meanwhile. Needs `survives_restart`, `obeys_clock`.
    clock::r30_a_start_with_a_clock_years_ahead_loses_nothing,
    /// The queue is bounded by bytes. Needs `bounds_queue`.
    cases::the_queue_is_bounded_by_bytes,
    /// Orgs are bounded. Needs `bounds_orgs`.
    cases::orgs_are_bounded,
    /// Orgs do not see each other.
    cases::orgs_do_not_see_each_other,
    /// Users and services read back as they were appended.
    cases::users_and_services_survive,
    /// A closed engine takes nothing, still reads, and is not halted.
    cases::a_closed_engine_takes_nothing_and_still_reads,
    /// Acknowledged events survive a crash. Needs `survives_restart`.
    restarts::p3_acknowledged_events_survive_a_crash,
    /// A cursor of before a restart goes on without a gap. Needs `survives_restart`.
    restarts::r11_a_cursor_of_before_a_restart_goes_on,
    /// No epoch is forgotten in a crash loop, so its readers go on without a gap. Needs `survives_restart`.
    restarts::r11_a_crash_loop_forgets_no_epoch,
    /// The epoch of a log that is still empty is known after a restart. Needs `survives_restart`.
    restarts::r11_the_epoch_of_an_empty_log_survives_a_restart,
    /// Ids are known over a restart for the rest of their time. Needs `survives_restart`, `obeys_clock`.
    restarts::r12_ids_are_known_over_a_restart_for_the_rest_of_their_time,
    /// The names of requests are known over a restart for the rest of their time. Needs
    /// `survives_restart`, `obeys_clock`.
    restarts::r12_names_of_requests_are_known_over_a_restart,
    /// A named request is answered as the first time while its name is known, also if ids in it were known
    /// before it. Over a restart if `survives_restart`. Needs `obeys_clock`.
    restarts::r12_a_named_request_is_answered_as_the_first_time_while_its_name_is_known,
    /// A log that does not survive a restart is not taken for the old one. Needs not
    /// `survives_restart`.
    restarts::r10_a_log_that_was_lost_comes_back_under_a_fresh_epoch,
}
