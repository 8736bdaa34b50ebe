//! One connection as other threads see it: who it is, and how it is told to end.

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

/// The name of a connection: the start of the node that it belongs to, and its number in it, which is
/// its place in the order of arrival.
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

/// A text that no connection has as its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a connection_id is 1 to 32 of 0-9 a-z, a hyphen, and a number, as hello gave it")]
pub struct ConnectionIdError;

impl ConnectionId {
    /// The grammar as a regular expression. Every number of so many digits fits.
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

/// Who comes, by which road.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// The org whose stream it is.
    pub org: &'a OrgId,
    /// Who reads.
    pub user: &'a UserId,
    /// The services that it sees.
    pub filter: &'a Filter,
    /// When its grant ends.
    pub expires_at: UnixMillis,
    /// The road.
    pub transport: Transport,
    /// Now.
    pub now: UnixMillis,
    /// The connection that this one takes the place of (R20).
    pub replaces: Option<&'a ConnectionId>,
}

/// A connection that was let in. Its reader belongs to one worker; this is what other threads have of
/// it. An idle connection keeps one, so it is small.
#[derive(Debug)]
pub struct Connection {
    pub(super) number: u64,
    /// Whose stream it reads.
    pub org: OrgId,
    /// Who reads.
    pub user: UserId,
    /// The client's address.
    pub address: IpAddr,
    /// The road that it came by.
    pub transport: Transport,
    /// When it was let in.
    pub connected_at: UnixMillis,
    grant: Mutex<(Filter, UnixMillis)>,
    bell: Bell,
    ended: OnceLock<Box<Refusal>>,
}

impl Connection {
    /// `org` and `user` are those of `arrival`, in the copies that all of their connections share.
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
            bell: Bell::default(),
            ended: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Filter, UnixMillis)> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The services that it sees and when its grant ends, as of now.
    pub fn grant(&self) -> (Filter, UnixMillis) {
        self.lock().clone()
    }

    /// When its grant ends, as of now.
    pub fn expires_at(&self) -> UnixMillis {
        self.lock().1
    }

    /// Takes over a copy of what it sees that others have, too.
    pub fn share(&self, filter: &Filter) {
        let mut grant = self.lock();
        debug_assert!(grant.0 == *filter, "another filter than its own");
        grant.0 = filter.clone();
    }

    /// Notes what it sees from now on, and for how long.
    pub fn renew(&self, filter: Filter, expires_at: UnixMillis) {
        *self.lock() = (filter, expires_at);
    }

    /// Asks its task to end it. The first reason counts; whether this was the first.
    pub fn end(&self, refusal: Refusal) -> bool {
        let is_first = self.ended.set(Box::new(refusal)).is_ok();
        self.call();
        is_first
    }

    /// Why it is to end, if it is.
    pub fn ending(&self) -> Option<&Refusal> {
        self.ended.get().map(|refusal| &**refusal)
    }

    /// Rings for its task.
    pub fn call(&self) {
        self.bell.ring();
    }

    /// Whether it was rung for since this was last asked; wakes the task that asks, and that one alone,
    /// where it was not.
    pub fn poll_called(&self, context: &Context<'_>) -> Poll<()> {
        self.bell.poll(context)
    }
}

/// Rings for the reader's own task: parked, or to end. As many rings as come before the task looks are
/// one.
#[derive(Debug, Default)]
struct Bell {
    is_rung: AtomicBool,
    task: AtomicWaker,
}

impl Bell {
    fn ring(&self) {
        // Whoever rang before has woken the task, or is about to.
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_rung.swap(false, Ordering::AcqRel) {
            return Poll::Ready(());
        }
        self.task.register(context.waker());
        // Rung meanwhile, perhaps before anybody could be woken.
        if self.is_rung.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
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
    fn a_bell_rung_before_anybody_listens_is_heard_once() {
        let bell = Bell::default();
        let context = Context::from_waker(Waker::noop());
        assert_eq!(bell.poll(&context), Poll::Pending);
        for _ in 0..2 {
            bell.ring();
            bell.ring();
            assert_eq!(bell.poll(&context), Poll::Ready(()));
            assert_eq!(bell.poll(&context), Poll::Pending);
        }
    }

    #[test]
    fn no_ring_is_lost_between_two_threads() {
        const ROUNDS: usize = 20_000;
        let (bell, heard) = (Bell::default(), AtomicUsize::new(0));
        // So that the ring of a round meets every step of the look that waits for it.
        let linger = |round: usize| (0..round % 61).for_each(|_| std::hint::spin_loop());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    while heard.load(Ordering::Acquire) < round {
                        std::thread::yield_now();
                    }
                    linger(round);
                    bell.ring();
                }
            });
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                for round in 0..ROUNDS {
                    linger(round / 61);
                    // For ever, where a ring is lost.
                    poll_fn(|context| bell.poll(context)).await;
                    heard.store(round + 1, Ordering::Release);
                }
            });
        });
    }

    #[test]
    fn what_a_connection_costs_here_is_small() {
        // An idle connection may take 2 KiB in all.
        assert!(size_of::<Connection>() <= 144, "{}", size_of::<Connection>());
    }
}
