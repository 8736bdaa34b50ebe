//! Who gets a connection: counters per node, org, user and address, and a rate of handshakes. Also how often
//! each API key may publish, and each address may send bad credentials.
//!
//! A stream that is admitted holds a [`Slot`]. Dropping it decrements the counters, however the connection
//! ended; counters at zero are removed. Once the stream has been authorised it is also in the registry, by
//! org and in order of arrival, so that other threads can list it and end it.
//!
//! A connection counts for its org and user as long as its number is in the user's list. If it is evicted,
//! replaced or asked to leave, it is removed from that list at once, while its socket still counts for the
//! node and the address until it is closed. So a slot is released once, in whatever order things happen.

mod connection;
mod in_progress;
mod ledger;
mod quiet;
mod rates;
mod recent;
mod replays;
mod scans;
#[cfg(test)]
mod tests;
mod turns;

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tidegate_protocol::{Code, Epoch, Filter, OrgId, Refusal, UnixMillis, UserId};

pub use connection::{Arrival, Connection, ConnectionId, ConnectionIdError};
pub use in_progress::InProgress;
pub use ledger::{Charge, ChargedTo, InFlightLimits, Ledger, Payer};
pub use quiet::{Quiet, QuietConnections};
pub use rates::{Candidate, FailedAuths, PublishRates};
pub use recent::Floods;
pub use replays::{ReplaySlot, Replays};
pub use scans::Scans;
pub use turns::{Turn, Turns};

use crate::{
    config::{Config, ConfigKey, LimitSettings, UserPolicy, config_key},
    metrics::SlotsHeld,
    quotas::Quotas,
    random::random,
    refusals::LimitedBy as _,
    transport::spare_files,
};
use rates::{Handshakes, RetryQueue};

/// The limits on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Of the node.
    pub total: usize,
    /// Of one org that has no quota of connections.
    pub per_org: usize,
    /// Of one user of an org.
    pub per_user: usize,
    /// What happens if a user has more than that.
    pub user_policy: UserPolicy,
    /// From one address.
    pub per_address: usize,
    /// New ones per second, of which each address has a share.
    pub handshakes_per_second: usize,
}

impl ConnectionLimits {
    /// Those of `config`, with only as many streams as the open files of the process leave room for.
    pub fn fitting(config: &Config) -> Self {
        let limits = &config.limits;
        let others = config.other_files();
        let room = spare_files::streams_max(spare_files::allowed(), limits.publishes_in_flight, others);
        Self { total: limits.connections.min(room), ..Self::from(limits) }
    }
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
    quotas: Arc<Quotas>,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    limits: ConnectionLimits,
    streams: usize,
    addresses: HashMap<IpAddr, usize>,
    orgs: HashMap<OrgId, Members>,
    next_number: u64,
    handshakes: Handshakes,
    /// Spreads the retries of clients that came too fast.
    retries: RetryQueue,
}

/// The connections of one org.
#[derive(Debug, Default)]
struct Members {
    /// How many connections count: the sum over `users`.
    held: usize,
    /// The numbers of the connections that count, in order of arrival.
    users: HashMap<UserId, Vec<u64>>,
    /// All that are not closed yet.
    connections: BTreeMap<u64, Arc<Connection>>,
    /// How many of `connections` have each filter. What readers get is made once for each filter, so filters cost
    /// memory and the time of workers.
    filters: HashMap<Filter, usize>,
}

/// What one org has of what its quotas bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeldByOrg {
    /// Connections.
    pub connections: usize,
    /// Different filters of these.
    pub filters: usize,
}

/// Which connections of an org are meant.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// One user's.
    User(&'a UserId),
    /// Everybody's.
    All,
}

/// How long a client is asked to wait if a limit is reached. The time is fixed, because nobody can predict
/// when another client leaves.
const FULL_RETRY_MS: u64 = 5_000;

/// The key that an address is counted under. Whoever has one IPv6 address has a whole /64 (RFC 6177).
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

impl Admission {
    /// An admission without connections. Their ids begin with `start`.
    pub fn new(limits: ConnectionLimits, quotas: Arc<Quotas>, start: Epoch) -> Arc<Self> {
        let now = Instant::now();
        let counts = Counts {
            limits,
            streams: 0,
            addresses: HashMap::new(),
            orgs: HashMap::new(),
            next_number: 0,
            handshakes: Handshakes::new(limits.handshakes_per_second, now),
            retries: RetryQueue::new(now),
        };
        Arc::new(Self { start, quotas, counts: Mutex::new(counts) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limits. Existing connections stay, even if there are more than the new limits allow.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.lock().limits = limits;
    }

    /// Admits a stream: counts it for the node and its address, before it is authenticated.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Slot, Refusal> {
        let mut counts = self.lock();
        let limits = counts.limits;
        if counts.streams >= limits.total {
            let message = "the gateway has its maximum of connections";
            return Err(over(config_key!(limits.connections), Code::Overloaded, message));
        }
        let counted = counted_as(address);
        if !increment(&mut counts.addresses, counted, limits.per_address) {
            let message = "this address has its maximum of connections";
            return Err(over(config_key!(limits.connections_per_address), Code::TooManyConnections, message));
        }
        // The rate comes last, because all addresses share it: a client that another limit refuses uses none
        // of it.
        let now = Instant::now();
        if !counts.handshakes.take(address, limits.handshakes_per_second, now) {
            let retry = counts.retries.next(limits.handshakes_per_second, now, random());
            decrement(&mut counts.addresses, &counted);
            let message = "too many new connections; the gateway takes no more from this address now";
            return Err(
                over(config_key!(limits.handshakes_per_second), Code::RateLimited, message).retry_in(retry)
            );
        }
        counts.streams += 1;
        drop(counts);
        Ok(Slot { admission: self.clone(), address, connection: None })
    }

    /// The id of a connection.
    pub fn id_of(&self, connection: &Connection) -> ConnectionId {
        ConnectionId { start: self.start.clone(), number: connection.number }
    }

    /// Finds a connection of `org` by its id.
    pub fn find(&self, org: &OrgId, id: &ConnectionId) -> Option<Arc<Connection>> {
        if id.start != self.start {
            return None;
        }
        let counts = self.lock();
        let found = counts.orgs.get(org)?.connections.get(&id.number)?;
        found.ending().is_none().then(|| found.clone())
    }

    /// The connections of `org` that are not ending, in order of arrival, after `after`.
    pub fn list(
        &self,
        org: &OrgId,
        whose: Whose<'_>,
        after: Option<&ConnectionId>,
        max: usize,
    ) -> Vec<Arc<Connection>> {
        let from = match after {
            Some(id) if id.start == self.start => Bound::Excluded(id.number),
            // The id is from before the node's last start, so all present connections come after it. Or there
            // is no id.
            _ => Bound::Unbounded,
        };
        let counts = self.lock();
        let Some(members) = counts.orgs.get(org) else { return Vec::new() };
        let all = members.connections.range((from, Bound::Unbounded)).map(|(_, connection)| connection);
        let is_meant = |connection: &&Arc<Connection>| {
            let is_theirs = match whose {
                Whose::User(user) => connection.user == *user,
                Whose::All => true,
            };
            is_theirs && connection.ending().is_none()
        };
        all.filter(is_meant).take(max).cloned().collect()
    }

    /// How many connections `org` has, those that are ending left out.
    pub fn readers(&self, org: &OrgId) -> usize {
        self.lock().orgs.get(org).map_or(0, |members| members.held)
    }

    /// What `org` has of what its quotas bound.
    pub fn held_by(&self, org: &OrgId) -> HeldByOrg {
        self.lock().orgs.get(org).map_or_else(HeldByOrg::default, Members::held)
    }

    /// The same, of each org that has connections.
    pub fn held_by_orgs(&self) -> Vec<(OrgId, HeldByOrg)> {
        self.lock().orgs.iter().map(|(org, members)| (org.clone(), members.held())).collect()
    }

    /// Ends a connection and stops counting it for its org and user. Returns whether it was not ending
    /// before.
    pub fn end(&self, connection: &Connection, refusal: Refusal) -> bool {
        self.release(connection);
        connection.end(refusal)
    }

    /// Stops counting a connection for its org and user, if it still counts.
    fn release(&self, connection: &Connection) {
        let mut counts = self.lock();
        if let Some(members) = counts.orgs.get_mut(&connection.org) {
            members.release(connection);
        }
    }

    /// Replaces the grant of a connection.
    pub fn renew(
        &self,
        connection: &Connection,
        filter: Filter,
        expires_at: UnixMillis,
    ) -> Result<(), Refusal> {
        let mut counts = self.lock();
        let max = self.quotas.of(&connection.org).filters;
        let (before, _) = connection.grant();
        if let Some(members) = counts.orgs.get_mut(&connection.org)
            && before != filter
        {
            // Its own filter makes room if no other connection has it.
            decrement(&mut members.filters, &before);
            let is_new = members.add_filter(&filter, max);
            if is_new.is_err() {
                *members.filters.entry(before).or_default() += 1;
            }
            is_new?;
        }
        connection.renew(filter, expires_at);
        Ok(())
    }

    /// The present counts.
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

fn increment<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, max: usize) -> bool {
    let count = counts.entry(key).or_default();
    if *count >= max {
        return false;
    }
    *count += 1;
    true
}

/// The copy of a name that is already in the map, so that all connections share one.
fn shared<K: Hash + Eq + Clone, V>(map: &HashMap<K, V>, name: &K) -> K {
    map.get_key_value(name).map_or(name, |(shared, _)| shared).clone()
}

fn decrement<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Members {
    /// The connections that must end if `arrival` is let in, or why it cannot be let in.
    fn make_room(
        &self,
        arrival: &Arrival<'_>,
        start: &Epoch,
        limits: &ConnectionLimits,
        quota: Option<usize>,
    ) -> Result<Vec<Arc<Connection>>, Refusal> {
        let theirs = self.users.get(arrival.user).map(Vec::as_slice).unwrap_or_default();
        // An id of another start, user or org, or of a closed connection, is ignored without an error: an
        // error would reveal to strangers who is connected.
        let replaced = arrival.replaces.filter(|id| id.start == *start).map(|id| id.number);
        let replaced = replaced.and_then(|number| self.connections.get(&number));
        let replaced = replaced.filter(|connection| connection.user == *arrival.user);
        let frees_slot = replaced.is_some_and(|connection| theirs.contains(&connection.number));
        let held = theirs.len() - usize::from(frees_slot);
        let surplus = (held + 1).saturating_sub(limits.per_user);
        if surplus > 0 && limits.user_policy == UserPolicy::RejectNew {
            let message = format!("this user has {} connections, which is the maximum", limits.per_user);
            return Err(over(config_key!(limits.connections_per_user), Code::TooManyConnections, &message));
        }
        let freed = surplus + usize::from(frees_slot);
        if self.held - freed.min(self.held) >= quota.unwrap_or(limits.per_org) {
            let limit = match quota {
                Some(_) => config_key!(limits_org.connections),
                None => config_key!(limits.connections_per_org),
            };
            return Err(over(limit, Code::TooManyConnections, "this org has its maximum of connections"));
        }
        let oldest = theirs.iter().filter(|number| replaced.is_none_or(|of| of.number != **number));
        let evicted = oldest.take(surplus).filter_map(|number| self.connections.get(number));
        Ok(evicted.chain(replaced).cloned().collect())
    }

    /// How many filters no other connections have than these, which are to end.
    fn filters_of_these_alone(&self, ending: &[Arc<Connection>]) -> usize {
        let mut of_these: HashMap<Filter, usize> = HashMap::new();
        ending.iter().for_each(|connection| *of_these.entry(connection.grant().0).or_default() += 1);
        of_these.iter().filter(|(filter, count)| self.filters.get(*filter) == Some(*count)).count()
    }

    /// Counts one more connection with `filter`, if the org has it already or may have another one.
    fn add_filter(&mut self, filter: &Filter, max: usize) -> Result<(), Refusal> {
        if !self.filters.contains_key(filter) && self.filters.len() >= max {
            let message = "the streams of this org name their maximum of different sets of services; use a set that others use, or all services";
            return Err(over(config_key!(limits_org.filters), Code::Overloaded, message));
        }
        *self.filters.entry(filter.clone()).or_default() += 1;
        Ok(())
    }

    fn held(&self) -> HeldByOrg {
        HeldByOrg { connections: self.held, filters: self.filters.len() }
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

/// The counts of one connection; dropping it decrements them.
#[derive(Debug)]
pub struct Slot {
    admission: Arc<Admission>,
    address: IpAddr,
    connection: Option<Arc<Connection>>,
}

impl Slot {
    /// Checks that [`Slot::enter`] would let the connection in now, before work is done for it.
    pub fn check(&self, arrival: &Arrival<'_>) -> Result<(), Refusal> {
        let quotas = self.admission.quotas.of(arrival.org);
        let counts = self.admission.lock();
        let Some(members) = counts.orgs.get(arrival.org) else { return Ok(()) };
        members.make_room(arrival, &self.admission.start, &counts.limits, quotas.connections).map(drop)
    }

    /// Counts the connection for its user and org and registers it. The connections that it evicts or
    /// replaces are ended.
    pub fn enter(&mut self, arrival: &Arrival<'_>) -> Result<Arc<Connection>, Refusal> {
        let admission = self.admission.clone();
        let quotas = admission.quotas.of(arrival.org);
        let mut counts = admission.lock();
        let counts = &mut *counts;
        let org = shared(&counts.orgs, arrival.org);
        // This may add an entry for an org that has no connections. It does not stay empty: no limit is zero,
        // so the first connection of an org is not refused below.
        let members = counts.orgs.entry(org.clone()).or_default();
        let leaving = members.make_room(arrival, &admission.start, &counts.limits, quotas.connections)?;
        let freed = members.filters_of_these_alone(&leaving);
        members.add_filter(arrival.filter, quotas.filters + freed)?;
        for connection in leaving {
            members.release(&connection);
            let message = "another connection of this user has replaced this one";
            connection.end(Refusal::new(Code::Evicted, message));
        }
        let number = counts.next_number;
        counts.next_number += 1;
        let user = shared(&members.users, arrival.user);
        let held = members.users.entry(user.clone()).or_insert_with(|| Vec::with_capacity(1));
        held.push(number);
        let connection = Arc::new(Connection::new(number, self.address, (org, user), arrival));
        members.connections.insert(number, connection.clone());
        members.held += 1;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// Stops counting a connection for its org and user because it was asked to leave: its successor must not
    /// be refused because of it (R20).
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
        decrement(&mut counts.addresses, &counted_as(self.address));
        let Some(connection) = &self.connection else { return };
        let Some(members) = counts.orgs.get_mut(&connection.org) else { return };
        members.release(connection);
        members.connections.remove(&connection.number);
        decrement(&mut members.filters, &connection.grant().0);
        if members.connections.is_empty() {
            counts.orgs.remove(&connection.org);
        }
    }
}
