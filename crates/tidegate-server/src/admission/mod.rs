//! Who gets a connection: counters per node, org, user and address, and a rate of handshakes. And how
//! often each API key may publish, and each address bring bad credentials.
//!
//! A stream that knocks holds a [`Slot`]; dropping it gives the places back, whatever way the
//! connection ended. What reaches zero is forgotten. One that was let in stands in the registry until
//! then, by org and in the order of arrival, so that others can list it and end it.
//!
//! The places of org and user are *held* by those numbers that stand in the user's list: a connection
//! that is evicted, replaced or asked to leave is taken out of it at once, while its socket goes on
//! counting for the node and the address until it is closed. So a place is given back once, in
//! whatever order things happen.

mod connection;
mod rates;
mod replays;
mod shares;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tidegate_protocol::{Code, Epoch, OrgId, Refusal, UserId};

pub use connection::{Arrival, Connection, ConnectionId, ConnectionIdError};
pub use rates::{FailedAuths, PublishRates};
pub use replays::{ReplayPlace, Replays};
pub use shares::OrgShares;

use crate::{
    config::{ConfigKey, LimitSettings, UserPolicy, config_key},
    metrics::SlotsHeld,
    random::random,
    refusals::LimitedBy as _,
};
use rates::{Bucket, Line};

/// The bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// In all.
    pub total: usize,
    /// Of one org.
    pub per_org: usize,
    /// Of one user of an org.
    pub per_user: usize,
    /// What happens to a user's connection over that.
    pub user_policy: UserPolicy,
    /// From one address.
    pub per_address: usize,
    /// New ones per second.
    pub handshakes_per_second: usize,
}

impl From<&LimitSettings> for ConnectionLimits {
    fn from(limits: &LimitSettings) -> Self {
        Self {
            total: limits.connections,
            per_org: limits.connections_per_org,
            per_user: limits.connections_per_user,
            user_policy: limits.connections_per_user_policy,
            per_address: limits.connections_per_address,
            handshakes_per_second: limits.handshakes_per_second,
        }
    }
}

/// The counters of a node, and its registry of connections.
#[derive(Debug)]
pub struct Admission {
    start: Epoch,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    limits: ConnectionLimits,
    streams: usize,
    addresses: HashMap<IpAddr, usize>,
    orgs: HashMap<OrgId, Members>,
    next_number: u64,
    handshakes: Bucket,
    /// When those who came too fast come back.
    line: Line,
}

/// The connections of one org.
#[derive(Debug, Default)]
struct Members {
    /// How many places are held: the sum over `users`.
    held: usize,
    /// The numbers of those that hold a place, in the order of arrival.
    users: HashMap<UserId, Vec<u64>>,
    /// All that are not closed yet.
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// Which connections of an org are meant.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// One user's.
    User(&'a UserId),
    /// Everybody's.
    All,
}

/// How long a client is asked to stay away where a count is full: it falls when somebody leaves,
/// which nobody can foretell.
const FULL_RETRY_MS: u64 = 5_000;

/// What an address is counted as. Who has one of IPv6 has a whole /64 of them (RFC 6177).
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

impl Admission {
    /// No connections yet. Those to come are named after `start`.
    pub fn new(limits: ConnectionLimits, start: Epoch) -> Arc<Self> {
        let now = Instant::now();
        let counts = Counts {
            limits,
            streams: 0,
            addresses: HashMap::new(),
            orgs: HashMap::new(),
            next_number: 0,
            handshakes: Bucket::full(limits.handshakes_per_second, now),
            line: Line::new(now),
        };
        Arc::new(Self { start, counts: Mutex::new(counts) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets other bounds, from now on. Who is in stays, also where there are more than may be now.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.lock().limits = limits;
    }

    /// Lets a stream knock: counts it in all and by its address, before anybody knows who it is.
    pub fn knock(self: &Arc<Self>, address: IpAddr) -> Result<Slot, Refusal> {
        let mut counts = self.lock();
        let limits = counts.limits;
        if counts.streams >= limits.total {
            let message = "the gateway has as many connections as it may";
            return Err(over(config_key!(limits.connections), Code::Overloaded, message));
        }
        let counted = counted_as(address);
        if !raise(&mut counts.addresses, counted, limits.per_address) {
            let message = "this address has as many connections as it may";
            return Err(over(config_key!(limits.connections_per_address), Code::TooManyConnections, message));
        }
        // The rate last, for it is everybody's: who is refused for another bound takes nothing of it.
        let now = Instant::now();
        if counts.handshakes.take(limits.handshakes_per_second, now).is_err() {
            let retry = counts.line.next(limits.handshakes_per_second, now, random());
            lower(&mut counts.addresses, &counted);
            let message = "the gateway takes no more new connections this second";
            return Err(
                over(config_key!(limits.handshakes_per_second), Code::RateLimited, message).retry_in(retry)
            );
        }
        counts.streams += 1;
        drop(counts);
        Ok(Slot { admission: self.clone(), address, connection: None })
    }

    /// The name of a connection.
    pub fn id_of(&self, connection: &Connection) -> ConnectionId {
        ConnectionId { start: self.start.clone(), number: connection.number }
    }

    /// A connection of `org` by its name.
    pub fn find(&self, org: &OrgId, id: &ConnectionId) -> Option<Arc<Connection>> {
        if id.start != self.start {
            return None;
        }
        let counts = self.lock();
        let found = counts.orgs.get(org)?.connections.get(&id.number)?;
        found.ending().is_none().then(|| found.clone())
    }

    /// The connections of `org` that are not ending, in the order of arrival, behind `after`.
    pub fn list(
        &self,
        org: &OrgId,
        whose: Whose<'_>,
        after: Option<&ConnectionId>,
        max: usize,
    ) -> Vec<Arc<Connection>> {
        let behind = match after {
            Some(id) if id.start == self.start => Bound::Excluded(id.number),
            // Of another start, and so before all of this one.
            _ => Bound::Unbounded,
        };
        let counts = self.lock();
        let Some(members) = counts.orgs.get(org) else { return Vec::new() };
        let all = members.connections.range((behind, Bound::Unbounded)).map(|(_, connection)| connection);
        let is_meant = |connection: &&Arc<Connection>| {
            let is_theirs = match whose {
                Whose::User(user) => connection.user == *user,
                Whose::All => true,
            };
            is_theirs && connection.ending().is_none()
        };
        all.filter(is_meant).take(max).cloned().collect()
    }

    /// Ends a connection and gives back the places that it holds of its org and its user. Whether it
    /// was not ending before.
    pub fn end(&self, connection: &Connection, refusal: Refusal) -> bool {
        self.release(connection);
        connection.end(refusal)
    }

    /// Gives back the places that a connection holds of its org and its user, if it still does.
    fn release(&self, connection: &Connection) {
        let mut counts = self.lock();
        if let Some(members) = counts.orgs.get_mut(&connection.org) {
            members.release(connection);
        }
    }

    /// What is held now.
    pub fn slots_held(&self) -> SlotsHeld {
        let counts = self.lock();
        let members = || counts.orgs.values();
        SlotsHeld {
            streams: counts.streams,
            addresses: counts.addresses.len(),
            orgs: members().map(|org| org.held).sum(),
            users: members().flat_map(|org| org.users.values()).map(Vec::len).sum(),
            registered: members().map(|org| org.connections.len()).sum(),
        }
    }

    /// Whether every counter is at zero.
    pub fn is_idle(&self) -> bool {
        let counts = self.lock();
        counts.streams == 0 && counts.addresses.is_empty() && counts.orgs.is_empty()
    }
}

fn over(limit: ConfigKey, code: Code, message: &str) -> Refusal {
    Refusal::new(code, message).limited_by(limit).retry_in(FULL_RETRY_MS)
}

fn raise<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> bool {
    let count = counts.entry(key).or_default();
    if *count >= max {
        return false;
    }
    *count += 1;
    true
}

/// The copy of a name that stands in the map already, so that there is one for all who bear it.
fn kept<K: Hash + Eq + Clone, V>(map: &HashMap<K, V>, name: &K) -> K {
    map.get_key_value(name).map_or(name, |(kept, _)| kept).clone()
}

fn lower<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Members {
    /// The connections that have to make room for `arrival`, or why there is none.
    fn make_way(
        &self,
        arrival: &Arrival<'_>,
        start: &Epoch,
        limits: &ConnectionLimits,
    ) -> Result<Vec<Arc<Connection>>, Refusal> {
        let theirs = self.users.get(arrival.user).map(Vec::as_slice).unwrap_or_default();
        // Of another start, user or org, or gone: as if nobody had been named, for an answer would tell
        // strangers who is there.
        let replaced = arrival.replaces.filter(|id| id.start == *start).map(|id| id.number);
        let replaced = replaced.and_then(|number| self.connections.get(&number));
        let replaced = replaced.filter(|connection| connection.user == *arrival.user);
        let frees_place = replaced.is_some_and(|connection| theirs.contains(&connection.number));
        let held = theirs.len() - usize::from(frees_place);
        let surplus = (held + 1).saturating_sub(limits.per_user);
        if surplus > 0 && limits.user_policy == UserPolicy::RejectNew {
            let message =
                format!("this user has {} connections, which is as many as allowed", limits.per_user);
            return Err(over(config_key!(limits.connections_per_user), Code::TooManyConnections, &message));
        }
        let freed = surplus + usize::from(frees_place);
        if self.held - freed.min(self.held) >= limits.per_org {
            let message = "this org has as many connections as it may";
            return Err(over(config_key!(limits.connections_per_org), Code::TooManyConnections, message));
        }
        let oldest = theirs.iter().filter(|number| replaced.is_none_or(|of| of.number != **number));
        let evicted = oldest.take(surplus).filter_map(|number| self.connections.get(number));
        Ok(evicted.chain(replaced).cloned().collect())
    }

    fn release(&mut self, connection: &Connection) {
        let Some(held) = self.users.get_mut(&connection.user) else { return };
        let Ok(at) = held.binary_search(&connection.number) else { return };
        held.remove(at);
        self.held -= 1;
        if held.is_empty() {
            self.users.remove(&connection.user);
        }
    }
}

/// The place of one connection in the counters.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    address: IpAddr,
    connection: Option<Arc<Connection>>,
}

impl Slot {
    /// Counts the connection by who it turned out to be and registers it. Those that it takes the place
    /// of are ended.
    pub fn enter(&mut self, arrival: &Arrival<'_>) -> Result<Arc<Connection>, Refusal> {
        let admission = self.admission.clone();
        let mut counts = admission.lock();
        let counts = &mut *counts;
        let org = kept(&counts.orgs, arrival.org);
        // An org without connections refuses none, for no bound is zero: this leaves no empty one behind.
        let members = counts.orgs.entry(org.clone()).or_default();
        let leaving = members.make_way(arrival, &admission.start, &counts.limits)?;
        for connection in leaving {
            members.release(&connection);
            let message = "another connection of this user has taken the place of this one";
            connection.end(Refusal::new(Code::Evicted, message));
        }
        let number = counts.next_number;
        counts.next_number += 1;
        let user = kept(&members.users, arrival.user);
        let held = members.users.entry(user.clone()).or_insert_with(|| Vec::with_capacity(1));
        held.push(number);
        let connection = Arc::new(Connection::new(number, self.address, (org, user), arrival));
        members.connections.insert(number, connection.clone());
        members.held += 1;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Gives back the places of org and user of a connection that was asked to leave: the one that it
    /// comes back with is not to be refused for it (R20).
    pub fn release(&self) {
        if let Some(connection) = &self.connection {
            self.admission.release(connection);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.streams -= 1;
        lower(&mut counts.addresses, &counted_as(self.address));
        let Some(connection) = &self.connection else { return };
        let Some(members) = counts.orgs.get_mut(&connection.org) else { return };
        members.release(connection);
        members.connections.remove(&connection.number);
        if members.connections.is_empty() {
            counts.orgs.remove(&connection.org);
        }
    }
}
