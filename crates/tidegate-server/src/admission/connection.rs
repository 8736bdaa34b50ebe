//! One connection as other threads see it: who it is, and how to end it.

use std::{
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tidegate_protocol::{Epoch, Filter, OrgId, Refusal, UnixMillis, UserId};

use crate::transport::Transport;

/// The id of a connection: the start of its node, and its number in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionId {
    pub(super) start: Epoch,
    pub(super) number: u64,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.number)
    }
}

/// A text that is not the id of any connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a connection_id is 1 to 32 of 0-9 a-z, a hyphen, and a number, as hello gave it")]
pub struct ConnectionIdError;

impl ConnectionId {
    /// The grammar as a regular expression. Every number of that many digits is valid.
    pub const PATTERN: &'static str = "^[0-9a-z]{1,32}-(0|[1-9][0-9]{0,18})$";
}

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let (start, digits) = text.split_once('-').ok_or(ConnectionIdError)?;
        let number = digits.parse::<u64>().ok();
        let number = number.filter(|number| digits.len() <= 19 && number.to_string() == digits);
        let start = Epoch::parse(start).ok_or(ConnectionIdError)?;
        Ok(Self { start, number: number.ok_or(ConnectionIdError)? })
    }
}

/// A connection that asks to be counted and registered.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// The org whose stream it is.
    pub org: &'a OrgId,
    /// The user.
    pub user: &'a UserId,
    /// The services that it sees.
    pub filter: &'a Filter,
    /// When its grant ends.
    pub expires_at: UnixMillis,
    /// The transport.
    pub transport: Transport,
    /// Now.
    pub now: UnixMillis,
    /// The connection that this one replaces (R20).
    pub replaces: Option<&'a ConnectionId>,
}

/// An admitted connection, as threads other than its worker see it. Every idle connection has one, so it is
/// small.
#[derive(Debug)]
pub struct Connection {
    pub(super) number: u64,
    /// The org whose stream it reads.
    pub org: OrgId,
    /// The user.
    pub user: UserId,
    /// The client's address.
    pub address: IpAddr,
    /// The transport.
    pub transport: Transport,
    /// When it was admitted.
    pub connected_at: UnixMillis,
    grant: Mutex<(Filter, UnixMillis)>,
    notifier: Notifier,
    ended: OnceLock<Box<Refusal>>,
}

impl Connection {
    /// `org` and `user` are those of `arrival`, as copies that all their connections share.
    pub(super) fn new(
        number: u64,
        address: IpAddr,
        (org, user): (OrgId, UserId),
        arrival: &Arrival<'_>,
    ) -> Self {
        Self {
            number,
            org,
            user,
            address,
            transport: arrival.transport,
            connected_at: arrival.now,
            grant: Mutex::new((arrival.filter.clone(), arrival.expires_at)),
            notifier: Notifier::default(),
            ended: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Filter, UnixMillis)> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The services that it sees now, and when its grant ends.
    pub fn grant(&self) -> (Filter, UnixMillis) {
        self.lock().clone()
    }

    /// When its grant ends now.
    pub fn expires_at(&self) -> UnixMillis {
        self.lock().1
    }

    /// Replaces its filter by an equal copy that others share.
    pub fn share(&self, filter: &Filter) {
        let mut grant = self.lock();
        debug_assert!(grant.0 == *filter, "a different filter");
        grant.0 = filter.clone();
    }

    /// Replaces the grant, see [`super::Admission::renew`].
    pub(super) fn renew(&self, filter: Filter, expires_at: UnixMillis) {
        *self.lock() = (filter, expires_at);
    }

    /// Asks its task to end it. Only the first reason counts; returns whether this was the first.
    pub fn end(&self, refusal: Refusal) -> bool {
        let is_first = self.ended.set(Box::new(refusal)).is_ok();
        self.notify();
        is_first
    }

    /// Why it is ending, if it is.
    pub fn ending(&self) -> Option<&Refusal> {
        self.ended.get().map(|refusal| &**refusal)
    }

    /// Notifies its task.
    pub fn notify(&self) {
        self.notifier.notify();
    }

    /// Ready if there was a notification since the last poll; else wakes this task, and only this one, at the
    /// next.
    pub fn poll_notified(&self, context: &Context<'_>) -> Poll<()> {
        self.notifier.poll(context)
    }
}

/// Notifies the reader's task: that its reader lags, or that it must end. Notifications before the task polls
/// are merged into one.
#[derive(Debug, Default)]
struct Notifier {
    is_notified: AtomicBool,
    task: AtomicWaker,
}

impl Notifier {
    fn notify(&self) {
        // An earlier notification has woken the task, or is about to.
        if !self.is_notified.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_notified.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        self.task.register(context.waker());
        // Notified in between, perhaps before the waker was registered.
        if self.is_notified.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, task::Waker};

    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_nothing_else_is() {
        let id = ConnectionId { start: Epoch::from_random(7), number: 42 };
        let pattern = regex::Regex::new(ConnectionId::PATTERN).expect("a pattern");
        for good in [id.to_string().as_str(), "0-0", "a-9999999999999999999"] {
            let read = good.parse::<ConnectionId>().map(|id| id.to_string());
            assert_eq!(read.as_deref(), Ok(good));
            assert!(pattern.is_match(good), "{good}");
        }
        for bad in
            ["", "-", "a", "a-", "-1", "a-01", "a--1", "a-1-2", "A-1", "a-10000000000000000000", "a-1 "]
        {
            assert_eq!(bad.parse::<ConnectionId>(), Err(ConnectionIdError), "{bad}");
            assert!(!pattern.is_match(bad), "{bad}");
        }
    }

    #[test]
    fn a_notification_before_the_first_poll_is_seen_once() {
        let notifier = Notifier::default();
        let context = Context::from_waker(Waker::noop());
        assert_eq!(notifier.poll(&context), Poll::Pending);
        for _ in 0..2 {
            notifier.notify();
            notifier.notify();
            assert_eq!(notifier.poll(&context), Poll::Ready(()));
            assert_eq!(notifier.poll(&context), Poll::Pending);
        }
    }

    #[test]
    fn no_notification_is_lost_between_two_threads() {
        const PASSES: usize = 20_000;
        let (notifier, seen) = (Notifier::default(), AtomicUsize::new(0));
        // So that the notification of a pass meets every step of the poll that waits for it.
        let linger = |pass: usize| (0..pass % 61).for_each(|_| std::hint::spin_loop());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for pass in 0..PASSES {
                    while seen.load(Ordering::Acquire) < pass {
                        std::thread::yield_now();
                    }
                    linger(pass);
                    notifier.notify();
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                for pass in 0..PASSES {
                    linger(pass / 61);
                    // Hangs if a notification is lost.
                    poll_fn(|context| notifier.poll(context)).await;
                    seen.store(pass + 1, Ordering::Release);
                }
            });
        });
    }

    #[test]
    fn what_a_connection_costs_here_is_small() {
        // The budget of an idle connection is 2 KiB in all.
        assert!(size_of::<Connection>() <= 144, "{}", size_of::<Connection>());
    }
}
