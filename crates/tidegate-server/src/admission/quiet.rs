//! The connections that wait for a request, by address: which of them closes if there are too many.
//!
//! A connection that asks for nothing must lock out nobody. So a new one is not refused: the one that has waited
//! longest closes for it, of the address that has the most. Those that have never sent a request go first, those
//! that have published go last.
//!
//! A stream does not wait, nor does a request that is being answered. A body on its way is counted here, but
//! bounded elsewhere (`limits.in_flight_bytes`, `limits.request_timeout`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::metrics::Waiting;

/// How many idle connections of publishers an address keeps, also if others need the room.
const PUBLISHERS_KEPT: usize = 64;

/// How many connections may be on their way out before no more are accepted in their place. The sockets and open
/// files that are spare hold them meanwhile.
const CLOSING_MAX: usize = 32;

/// How often the same address is logged at most, and how many addresses are remembered for that.
const LINES_EVERY: Duration = Duration::from_secs(60);
const LINES_MAX: usize = 1024;

/// Which connections close first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rank {
    /// Has never sent a request.
    New,
    /// Was answered.
    Served,
    /// Has published.
    Publisher,
}

/// All of one listener.
#[derive(Debug, Default)]
pub struct QuietConnections {
    held: Mutex<Held>,
    /// Notified when a connection that was asked to close is gone.
    closed: Notify,
    lines: Mutex<HashMap<IpAddr, (Instant, u64)>>,
}

/// A connection's place among those that wait.
type Place = (Rank, IpAddr, u64);

#[derive(Debug, Default)]
struct Held {
    waiting: BTreeMap<Place, Arc<Notify>>,
    counts: HashMap<(Rank, IpAddr), usize>,
    /// The same, the largest last.
    crowds: BTreeSet<(Rank, usize, IpAddr)>,
    states: HashMap<Waiting, usize>,
    /// How many places were given.
    arrived: u64,
    /// How many were asked to close and have not yet.
    closing: usize,
}

impl Held {
    fn insert(&mut self, place: Place, close: Arc<Notify>) {
        self.waiting.insert(place, close);
        self.count(place, 1);
    }

    /// `None` if it was asked to close before.
    fn remove(&mut self, place: Place) -> Option<Arc<Notify>> {
        let close = self.waiting.remove(&place)?;
        self.count(place, -1);
        Some(close)
    }

    fn count(&mut self, (rank, address, _): Place, change: isize) {
        let before = self.of(rank, address);
        let after = before.saturating_add_signed(change);
        self.crowds.remove(&(rank, before, address));
        if after == 0 {
            self.counts.remove(&(rank, address));
        } else {
            self.counts.insert((rank, address), after);
            self.crowds.insert((rank, after, address));
        }
    }

    fn of(&self, rank: Rank, address: IpAddr) -> usize {
        self.counts.get(&(rank, address)).copied().unwrap_or(0)
    }

    /// The one of an address that has waited longest.
    fn oldest(&self, rank: Rank, address: IpAddr) -> Option<Place> {
        let mut places = self.waiting.range((rank, address, 0)..=(rank, address, u64::MAX));
        places.next().map(|(place, _)| *place)
    }

    /// The address that has the most, and how many.
    fn largest(&self, rank: Rank) -> Option<(usize, IpAddr)> {
        let (least, most) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from(u128::MAX)));
        let mut crowds = self.crowds.range((rank, 0, least)..=(rank, usize::MAX, most));
        crowds.next_back().map(|(_, count, address)| (*count, *address))
    }

    fn close(&mut self, place: Option<Place>) -> bool {
        let closed = place.and_then(|place| self.remove(place));
        closed.is_some_and(|close| {
            self.closing += 1;
            close.notify_one();
            true
        })
    }
}

impl QuietConnections {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection from `address` has come. An address is a client's, or of IPv6 the network of one.
    pub fn arrive(self: &Arc<Self>, address: IpAddr) -> Quiet {
        let quiet = Quiet { all: self.clone(), address, own: Mutex::default(), close: Arc::default() };
        quiet.enter(Rank::New, Waiting::Silent);
        quiet
    }

    /// How many connections of `address` have never sent a request.
    pub fn new_of(&self, address: IpAddr) -> usize {
        self.lock().of(Rank::New, address)
    }

    /// Asks the one to close that has waited longest, of those of `address` that have never sent a request.
    /// Returns whether there was one.
    pub fn close_new_of(&self, address: IpAddr) -> bool {
        let mut held = self.lock();
        let oldest = held.oldest(Rank::New, address);
        held.close(oldest)
    }

    /// Asks the one to close that has waited longest, of the address that has the most. Returns whether there
    /// was one.
    pub fn close_one(&self) -> bool {
        let mut held = self.lock();
        let found = [Rank::New, Rank::Served, Rank::Publisher].into_iter().find_map(|rank| {
            let (count, address) = held.largest(rank)?;
            if rank == Rank::Publisher && count <= PUBLISHERS_KEPT {
                return None;
            }
            held.oldest(rank, address)
        });
        held.close(found)
    }

    /// Waits until few of those that were asked to close are still there.
    pub async fn have_closed(&self) {
        while self.lock().closing >= CLOSING_MAX {
            self.closed.notified().await;
        }
    }

    /// How many connections wait, by what they have sent.
    pub fn states(&self) -> Vec<(Waiting, usize)> {
        let held = self.lock();
        let all = [Waiting::Silent, Waiting::Head, Waiting::Body, Waiting::Idle];
        all.map(|state| (state, held.states.get(&state).copied().unwrap_or(0))).into()
    }

    /// `Some` if a line about `address` may be logged now, with how many were left out since the last one. Of
    /// very many addresses only some are logged.
    pub fn say(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |said: Instant| now.saturating_duration_since(said) < LINES_EVERY;
        if let Some((said, others)) = lines.get_mut(&address) {
            if is_recent(*said) {
                *others += 1;
                return None;
            }
            *said = now;
            return Some(std::mem::take(others));
        }
        if lines.len() >= LINES_MAX {
            lines.retain(|_, (said, _)| is_recent(*said));
        }
        (lines.len() < LINES_MAX).then(|| {
            lines.insert(address, (now, 0));
            0
        })
    }
}

/// A connection that can wait for a request. Dropping it takes it from the list.
#[derive(Debug)]
pub struct Quiet {
    all: Arc<QuietConnections>,
    address: IpAddr,
    own: Mutex<Own>,
    close: Arc<Notify>,
}

/// What a connection knows of itself.
#[derive(Debug, Default)]
struct Own {
    /// Its place, also after it was asked to close.
    place: Option<Place>,
    state: Option<Waiting>,
    has_published: bool,
}

impl Quiet {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its first bytes have come.
    pub fn heard(&self) {
        let mut own = self.own();
        if own.place.is_some() {
            self.set(&mut own, Some(Waiting::Head));
        }
    }

    /// A request has come. `has_body`: its body is still on its way.
    pub fn asked(&self, has_body: bool) {
        let mut own = self.own();
        if let Some(place) = own.place.take() {
            let mut held = self.all.lock();
            if held.remove(place).is_none() {
                held.closing -= 1;
                self.all.closed.notify_one();
            }
        }
        self.set(&mut own, has_body.then_some(Waiting::Body));
    }

    /// The body of the request has come.
    pub fn read(&self) {
        let mut own = self.own();
        if own.place.is_none() {
            self.set(&mut own, None);
        }
    }

    /// Its client has a valid API key.
    pub fn publishes(&self) {
        self.own().has_published = true;
    }

    /// Every request that has come is answered.
    pub fn answered(&self) {
        let rank = if self.own().has_published { Rank::Publisher } else { Rank::Served };
        self.enter(rank, Waiting::Idle);
    }

    /// Returns when it is asked to close. A request that came at the same moment is served.
    pub async fn closing(&self) {
        loop {
            self.close.notified().await;
            if self.own().place.is_some() {
                return;
            }
        }
    }

    fn enter(&self, rank: Rank, state: Waiting) {
        self.asked(false);
        let mut own = self.own();
        let place = {
            let mut held = self.all.lock();
            held.arrived += 1;
            let place = (rank, self.address, held.arrived);
            held.insert(place, self.close.clone());
            place
        };
        own.place = Some(place);
        self.set(&mut own, Some(state));
    }

    fn set(&self, own: &mut Own, state: Option<Waiting>) {
        let before = std::mem::replace(&mut own.state, state);
        if before == state {
            return;
        }
        let mut held = self.all.lock();
        if let Some(count) = before.and_then(|before| held.states.get_mut(&before)) {
            *count -= 1;
        }
        if let Some(state) = state {
            *held.states.entry(state).or_default() += 1;
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.asked(false);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    /// Whether it was asked to close.
    async fn closes(quiet: &Quiet) -> bool {
        tokio::select! {
            biased;
            () = quiet.closing() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn p5_the_oldest_of_the_address_with_the_most_closes() {
        let all = Arc::<QuietConnections>::default();
        let first = all.arrive(address(1));
        let many: Vec<_> = (0..3).map(|_| all.arrive(address(2))).collect();
        assert!(all.close_one());
        assert!(closes(&many[0]).await && !closes(&first).await);
        // One that asks at the same moment is served.
        assert!(all.close_one());
        many[1].asked(false);
        assert!(!closes(&many[1]).await);
        assert!(all.close_new_of(address(1)) && !all.close_new_of(address(1)));
        assert!(closes(&first).await);
        assert_eq!(all.new_of(address(2)), 1);
        drop(many);
        assert_eq!(all.new_of(address(2)), 0);
        assert!(!all.close_one());
    }

    #[tokio::test]
    async fn p5_those_that_were_served_close_after_new_ones_and_publishers_last() {
        let all = Arc::<QuietConnections>::default();
        let publishers: Vec<_> = (0..=PUBLISHERS_KEPT).map(|_| all.arrive(address(1))).collect();
        let publish = |quiet: &Quiet| {
            quiet.publishes();
            quiet.asked(true);
            quiet.read();
            quiet.answered();
        };
        publishers[1..].iter().for_each(publish);
        let served = all.arrive(address(2));
        served.asked(false);
        served.answered();
        for closing in [&publishers[0], &served] {
            assert!(all.close_one());
            assert!(closes(closing).await);
        }
        assert!(!all.close_one(), "an address keeps some");
        publish(&publishers[0]);
        assert!(all.close_one());
        assert!(closes(&publishers[1]).await, "and not more");
    }

    #[tokio::test]
    async fn a_bounded_number_closes_at_a_time() {
        let all = Arc::<QuietConnections>::default();
        let many: Vec<_> = (0..=CLOSING_MAX).map(|_| all.arrive(address(1))).collect();
        let is_narrow = || all.have_closed().now_or_never().is_none();
        for _ in 0..CLOSING_MAX {
            assert!(!is_narrow() && all.close_one());
        }
        assert!(is_narrow());
        // One that is served instead is not on its way out any more, nor is one that is gone.
        many[0].asked(false);
        assert!(!is_narrow() && all.close_one() && is_narrow());
        drop(many);
        assert!(!is_narrow());
        assert_eq!(all.lock().closing, 0);
    }

    #[test]
    fn states_are_counted_until_the_connection_ends() {
        let all = Arc::<QuietConnections>::default();
        let counts = || all.states().into_iter().map(|(_, count)| count).collect::<Vec<_>>();
        let [one, other] = [(); 2].map(|()| all.arrive(address(1)));
        one.heard();
        assert_eq!(counts(), [1, 1, 0, 0]);
        one.asked(true);
        assert_eq!(counts(), [1, 0, 1, 0]);
        one.read();
        assert_eq!(counts(), [1, 0, 0, 0]);
        one.answered();
        assert_eq!(counts(), [1, 0, 0, 1]);
        all.close_one();
        drop((one, other));
        assert_eq!(counts(), [0; 4]);
    }

    #[test]
    fn an_address_is_logged_once_in_a_minute() {
        let (all, now) = (QuietConnections::default(), Instant::now());
        let say = |last, seconds| all.say(address(last), now + Duration::from_secs(seconds));
        assert_eq!([say(1, 0), say(1, 5), say(2, 5), say(1, 59)], [Some(0), None, Some(0), None]);
        assert_eq!(say(1, 60), Some(2));
    }
}
