//! The contract between a node and the engine that keeps its logs.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_core::{Event, LogState, NewEvent};
use tidegate_protocol::{OrgId, Seq, UnixMillis};
use tokio::sync::watch;

use crate::{
    AppendError, Appended, DeleteError, Health, Page, PageLimit, ReadError, StoredQuotas, store::Usage,
};

/// How an engine keeps what it acknowledges, as `hello.sync` and `/readyz` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced to disk before the answer.
    Always,
    /// Handed to the operating system before the answer, synced within an interval.
    Interval,
    /// In memory only.
    Memory,
}

impl Durability {
    /// The name of a policy weaker than always; `None` for always.
    pub fn weaker(self) -> Option<&'static str> {
        match self {
            Durability::Always => None,
            Durability::Interval => Some("interval"),
            Durability::Memory => Some("memory"),
        }
    }
}

/// One org's log, for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgLog {
    /// Whose.
    pub org: OrgId,
    /// The highest seq removed; 0 if none was.
    pub floor: Seq,
    /// The highest seq given.
    pub head: Seq,
    /// The time of its last event, in milliseconds since the Unix epoch; 0 if it had none.
    pub last_timestamp: UnixMillis,
    /// The bytes that its events take in the log, in the engine's own measure. Events that were removed may count
    /// until their bytes have left the files.
    pub stored_bytes: u64,
}

/// Takes what an engine has committed and deleted: the node implements it, the engine calls it.
///
/// Per org, the calls come in seq order (R13) and one at a time. They come after the events are
/// durable, shortly before or after the publisher is answered, from any thread. The node must not
/// block in a call.
pub trait Feed: Send + Sync + 'static {
    /// `events` has every event of the log of `org` from `prev` (exclusive) to the last event of this call,
    /// none left out. There is at least one.
    fn committed(&self, org: &OrgId, prev: Seq, events: &[Arc<Event>]);

    /// The log of `org` was deleted. What is committed to the org after this call belongs to a new log.
    fn org_deleted(&self, org: &OrgId);

    /// The events with these seqs were deleted from the log of `org`: from here on, reads leave them out.
    fn events_deleted(&self, org: &OrgId, seqs: &[Seq]);
}

/// Keeps one log per org. The node uses it as `Arc<dyn Engine>`.
///
/// # Appends: what is atomic, what is ordered, what is durable
///
/// - **Atomic.** [`append`](Engine::append) stores all events of a batch or none. Neither a read nor
///   the feed shows an event of a batch that is not stored in whole. (A page or a call of the feed may
///   end between two events of a batch.)
/// - **Ordered.** Every event gets a seq above all seqs of its log so far, in the order of the batch.
///   Seqs stay below 2^53. They need not be dense: there may be seqs that no event has. A reader cannot
///   tell them from the seqs of events that are hidden from it. So a difference of two seqs is not a
///   number of events. Which of two concurrent batches comes first is not promised. Timestamps never
///   fall along a log (R14).
/// - **Durable.** `Ok` comes after the events are as safe as [`durability`](Engine::durability) says.
///   [`read`](Engine::read), [`head`](Engine::head) and the [`Feed`] never show an event before it is
///   that safe; they may show it a little before `Ok` or a little after. All errors but
///   [`AppendError::Unknown`] mean: certainly not stored.
/// - **Once.** An event whose publisher gave the id ([`NewEvent::dedup`]) is stored once within the dedup
///   window (R12). If it comes again, the answer has the seq of the first. If the first is still being
///   written, the answer waits until its outcome is known. If the id comes again with other content, the
///   whole batch is refused. The same holds for a whole batch whose publisher named it
///   ([`NewEvent::request`]): the name is kept together with the events, as safely and for as long, also if all
///   of them were duplicates. While the name is known, its batch is answered with the seqs of the first time,
///   also if the ids in it were known before and are not known any more. A batch with the name of another one
///   is refused ([`AppendError::RequestConflict`]).
///
/// # Reads (R9)
///
/// The log keeps its events from the *floor* (exclusive) to the *head* (inclusive). Retention raises the
/// floor. The floor never goes down: not during an epoch, and not when a new epoch continues an old one.
/// [`read`](Engine::read) returns all events of the stretch that the [`Page`] names, none missing and none
/// twice, and says where the stretch begins and ends, also if it is empty. So a reader that goes on from
/// `page.to` misses nothing, and `page.after` shows what retention has removed. Reads work also while the log
/// takes no writes.
///
/// # Epochs (R10, R11)
///
/// A seq says something only together with the epoch that it was given in. Within one epoch the log only
/// grows: what was read or acknowledged stays as it was until retention removes it. **The engine begins a new
/// epoch whenever it cannot promise that**, and may begin one whenever it likes. The local engines do so at
/// every start. An engine over a broker would continue the epoch that other nodes use, and begin a new one if
/// the broker lost what it had acknowledged. No two logs ever have the same epoch, neither two orgs' logs nor
/// an org's old log and its new one. So an engine draws its epochs at random, or makes each one a hash of
/// what tells this log from all others.
///
/// An epoch that continues an older one names it as an *ancestor*, with the seq at which it ended and whether
/// the *boundary* between the two is lossy. It is lossy if the old epoch may have had events above that seq
/// that were acknowledged or read, and that the new epoch does not have. A log that is known to have begun
/// empty, with no epoch before it, is [`born_empty`](LogState::born_empty). From these facts the node decides
/// how a reader with an older cursor continues ([`tidegate_core::opening`]).
///
/// The history of a log, line by line:
///
/// | what happens | epoch | head |
/// |---|---|---|
/// | the first reader or publisher comes: the log is created | `a` | 0 |
/// | 1, 2, 3 are appended and acknowledged | `a` | 3 |
/// | a clean stop and a start; nothing can be lost | `b`, after `a` that ended at 3 | 3 |
/// | 4, 5, 6 are acknowledged, 6 without a sync | `b` | 6 |
/// | a power cut takes 6; the start finds it missing | `c`, after `b` that ended at 5, lossy | 5 |
/// | another event is appended and gets the seq 6 | `c` | 6 |
///
/// What becomes of readers that come back with these cursors:
///
/// | cursor | what the reader gets |
/// |---|---|
/// | `a-2` | goes on as `b-2`: 3, 4, 5, then a gap `epoch` at 5 to `c-5`, then the new 6 |
/// | `b-5` | a gap at 5 to `c-5` at once (it may have missed an event that is gone), then the new 6 |
/// | `b-6` | it has seen the 6 that is gone: a gap to `c-5`, then the new 6 |
/// | `c-6` | goes on without a gap |
/// | `c-9` | the log never gave this seq: a gap to the head, `c-6` |
/// | `x-4` | nobody knows this epoch, or what its reader has seen: a gap to the head, `c-6` |
///
/// The same as a program:
///
/// ```
/// use tidegate_core::{Ancestor, LogState, opening};
/// use tidegate_protocol::{Epoch, Filter};
///
/// let epoch = |name: &str| Epoch::parse(name).unwrap();
/// let log = LogState {
///     epoch: epoch("c"),
///     ancestors: vec![
///         Ancestor { epoch: epoch("a"), end: 3, lossy: false },
///         Ancestor { epoch: epoch("b"), end: 5, lossy: true },
///     ],
///     born_empty: false,
///     head: 6,
///     floor: 0,
/// };
/// let come_back = |cursor: &str| {
///     let start = opening::open(&log, &Filter::all(), opening::From::Cursor(cursor.parse().unwrap()));
///     let gaps: Vec<String> =
///         start.dues.iter().map(|due| format!("{} to {}-{}", due.at, due.epoch, due.seq)).collect();
///     (format!("{}-{}", start.cursor.epoch, start.cursor.seq), gaps)
/// };
/// assert_eq!(come_back("a-2"), ("b-2".into(), vec!["5 to c-5".into()]));
/// assert_eq!(come_back("b-5"), ("b-5".into(), vec!["5 to c-5".into()]));
/// assert_eq!(come_back("b-6"), ("b-6".into(), vec!["6 to c-5".into()]));
/// assert_eq!(come_back("c-6"), ("c-6".into(), vec![]));
/// assert_eq!(come_back("c-9"), ("c-9".into(), vec!["9 to c-6".into()]));
/// assert_eq!(come_back("x-4"), ("x-4".into(), vec!["4 to c-6".into()]));
/// ```
///
/// # Watched orgs (R10)
///
/// The node calls [`watch`](Engine::watch) for every reader *before* it opens the log for it, and
/// [`unwatch`](Engine::unwatch) after the reader has gone. While an org is watched, the feed gets all of
/// its commits, and its log is not forgotten ([`sweep`](Engine::sweep)). An engine may do the same for
/// orgs that nobody watches, but need not.
pub trait Engine: Send + Sync + 'static {
    /// Appends `events` to the log of `org`, all or none, and resolves once they are durable. A log that does
    /// not exist is created. The request is queued by the call itself, even if the future is never polled,
    /// and it is carried out even if the future is dropped.
    fn append(&self, org: &OrgId, events: Vec<NewEvent>)
    -> BoxFuture<'static, Result<Appended, AppendError>>;

    /// Opens the log of `org` for reading and resolves to its state. A log that does not exist is
    /// created, as durably as an append would create it: a reader gets a cursor in its epoch, and the
    /// engine must still know that epoch when the reader comes back. An engine that has halted opens the logs that
    /// it holds, and creates none.
    fn open(&self, org: &OrgId) -> BoxFuture<'static, Result<LogState, AppendError>>;

    /// The state of a log, without waiting for anything. `None` if there is no such log, or if neither
    /// `open` nor `append` was called for it since the engine was started.
    fn head(&self, org: &OrgId) -> Option<LogState>;

    /// Reads the events after `after`, up to `limit`.
    fn read(&self, org: &OrgId, after: Seq, limit: PageLimit) -> BoxFuture<'static, Result<Page, ReadError>>;

    /// The node has one more reader of `org`. From this call on the feed gets all commits of the org,
    /// and its log is not forgotten; the log need not exist yet. Returns at once. The calls are counted:
    /// each is undone by one call of [`unwatch`](Engine::unwatch), in any order and from any thread.
    fn watch(&self, org: &OrgId);

    /// A reader of `org` has gone: undoes one call of [`watch`](Engine::watch). If no other is left, the
    /// log counts as used until now, and may be forgotten after a time without use.
    fn unwatch(&self, org: &OrgId);

    /// Removes the events that retention no longer keeps. Also forgets whole logs, with their epochs, if
    /// they hold no events, are not watched, and were not used for long. If such an org is used again, it
    /// gets a new, empty log with a new epoch. The node calls this each minute, on a thread that may
    /// block.
    fn sweep(&self);

    /// The orgs that have a log, by name.
    fn list_orgs(&self) -> BoxFuture<'static, Vec<OrgLog>>;

    /// Deletes the log of `org`: its events, ids and epochs. Resolves once it can no longer be read, that is
    /// as durable as an append, and the feed knows it ([`Feed::org_deleted`]); the files follow with the next
    /// [`sweep`](Engine::sweep). If the org is used again, it gets a new, empty log with a new epoch. The node
    /// ends the org's streams.
    fn delete_org(&self, org: &OrgId) -> BoxFuture<'static, Result<(), DeleteError>>;

    /// Deletes events of a log. Their places stay: a read passes over them, as over seqs that no event has.
    /// Their ids stay in the dedup window, so a publisher that sends one again does not bring it back.
    /// Resolves as [`delete_org`](Engine::delete_org) does ([`Feed::events_deleted`]).
    fn delete_events(&self, org: &OrgId, seqs: Vec<Seq>) -> BoxFuture<'static, Result<(), DeleteError>>;

    /// How well the engine works, as a value to watch. Whoever watches it may miss a value that was
    /// replaced at once, but always gets the newest.
    fn health(&self) -> watch::Receiver<Health>;

    /// What the log takes and has, for the operator. Does not wait for the log. An engine gives the figures that
    /// it has; the others are zero.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Sets how much each org may keep while others want the room. The node calls this before the first append and
    /// whenever an operator changes the quotas. An engine that cannot remove events of one org alone ignores it.
    fn set_stored_quotas(&self, quotas: StoredQuotas) {
        let _ = quotas;
    }

    /// How acknowledged events are kept.
    fn durability(&self) -> Durability;

    /// Stops the engine cleanly: it takes no more appends, carries out those that it has taken, and makes
    /// everything durable. Blocks until that is done. Reads work afterwards, too. A second call does
    /// nothing. If an engine is dropped without this call, that counts as a crash.
    fn close(&self);
}
