//! The ledger of bytes in flight: the memory that is held because a client sends or takes something right now.
//! Bodies of publish requests on their way, answers of history and frames of the log that wait to be taken, requests
//! over HTTP/2.
//!
//! Each charge is counted three times: for the node (`limits.in_flight_bytes`), for the org that causes it, which has
//! its share of that (dynamic thresholds, [`tidegate_core::shares`]), and, if a reader causes it, for its user
//! (`limits.in_flight_bytes_per_user`). Where no org is known yet, the API key stands for it, or the address.
//!
//! What is shared by all, such as the tails and the cache of pages, has budgets of its own.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_core::shares::{Refused, Shares};
use tidegate_protocol::{Code, OrgId, Refusal, UserId};

use super::counted_as;
use crate::{
    config::{ConfigKey, LimitSettings, config_key},
    metrics::InFlight,
    refusals::LimitedBy as _,
};

/// When a client should try again: most of what is in flight is gone by then.
const RETRY_MS: u64 = 1000;

/// Who has a share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChargedTo {
    /// An org.
    Org(OrgId),
    /// An API key, by its id: the orgs stand in the body.
    Key(Arc<str>),
    /// An address, an IPv6 one by its /64.
    Address(IpAddr),
}

/// Who causes that bytes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payer {
    /// A publisher to one org.
    Org(OrgId),
    /// A publisher to orgs that are not known yet, by the id of its API key.
    Key(Arc<str>),
    /// A reader.
    User(OrgId, UserId),
    /// Somebody whose credentials were not looked at yet.
    Address(IpAddr),
}

impl Payer {
    /// Whose share it is of.
    pub fn charged_to(&self) -> ChargedTo {
        match self {
            Self::Org(org) | Self::User(org, _) => ChargedTo::Org(org.clone()),
            Self::Key(key) => ChargedTo::Key(key.clone()),
            Self::Address(address) => ChargedTo::Address(counted_as(*address)),
        }
    }
}

/// The bounds at the time of a charge. An operator may change them.
#[derive(Debug, Clone, Copy)]
pub struct InFlightLimits {
    /// Of the node.
    pub total: usize,
    /// Of one user.
    pub per_user: usize,
}

impl From<&LimitSettings> for InFlightLimits {
    fn from(limits: &LimitSettings) -> Self {
        Self { total: limits.in_flight_bytes.bytes(), per_user: limits.in_flight_bytes_per_user.bytes() }
    }
}

/// The ledger of one node.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    shares: Shares<ChargedTo>,
    users: HashMap<(OrgId, UserId), usize>,
    kinds: [usize; InFlight::ALL.len()],
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Book> {
        // No code between lock and unlock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges `bytes` of this kind to `payer`, or says which bound they are over.
    pub fn charge(
        &self,
        kind: InFlight,
        payer: Payer,
        bytes: usize,
        limits: InFlightLimits,
    ) -> Result<Charge, Refusal> {
        let mut charge = Charge { ledger: self.clone(), kind, payer, bytes: 0 };
        charge.grow(bytes, limits)?;
        Ok(charge)
    }

    /// How many bytes of each kind are in flight.
    pub fn held(&self) -> [(InFlight, usize); InFlight::ALL.len()] {
        let kinds = self.lock().kinds;
        InFlight::ALL.map(|kind| (kind, kinds[kind as usize]))
    }

    /// How many bytes of one kind are in flight.
    pub fn held_of(&self, kind: InFlight) -> usize {
        self.lock().kinds[kind as usize]
    }
}

impl Book {
    fn take(
        &mut self,
        kind: InFlight,
        payer: &Payer,
        bytes: usize,
        limits: InFlightLimits,
    ) -> Result<(), Refusal> {
        if let Payer::User(org, user) = payer {
            let held = self.users.get(&(org.clone(), user.clone())).copied().unwrap_or(0);
            if bytes > 0 && held.saturating_add(bytes) > limits.per_user {
                let message = "what waits to be taken by this user holds as much memory as one user may have";
                return Err(over(config_key!(limits.in_flight_bytes_per_user), message));
            }
        }
        self.shares.take(&payer.charged_to(), bytes, limits.total).map_err(|refused| {
            let message = match (refused, payer) {
                (Refused::Pool, _) => "all requests and answers in flight hold as much memory as they may",
                (Refused::Share, Payer::Key(_)) => {
                    "the requests of this API key in flight hold as much memory as those of one may"
                }
                (Refused::Share, Payer::Address(_)) => {
                    "the requests of this address hold as much memory as those of one may"
                }
                (Refused::Share, _) => {
                    "the requests and answers of this org in flight hold as much memory as those of one may"
                }
            };
            over(config_key!(limits.in_flight_bytes), message)
        })?;
        if let Payer::User(org, user) = payer
            && bytes > 0
        {
            *self.users.entry((org.clone(), user.clone())).or_default() += bytes;
        }
        self.kinds[kind as usize] += bytes;
        Ok(())
    }

    fn give_back(&mut self, kind: InFlight, payer: &Payer, bytes: usize) {
        self.shares.give_back(&payer.charged_to(), bytes);
        self.kinds[kind as usize] -= bytes;
        if let Payer::User(org, user) = payer
            && let Entry::Occupied(mut held) = self.users.entry((org.clone(), user.clone()))
        {
            *held.get_mut() -= bytes;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

fn over(limit: ConfigKey, message: &str) -> Refusal {
    Refusal::new(Code::Overloaded, message).limited_by(limit).retry_in(RETRY_MS)
}

/// What is charged for one request or answer; dropping it gives all of it back.
#[derive(Debug)]
pub struct Charge {
    ledger: Ledger,
    kind: InFlight,
    payer: Payer,
    bytes: usize,
}

impl Charge {
    /// Charges `more` bytes, or none of them.
    pub fn grow(&mut self, more: usize, limits: InFlightLimits) -> Result<(), Refusal> {
        self.ledger.lock().take(self.kind, &self.payer, more, limits)?;
        self.bytes += more;
        Ok(())
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.ledger.lock().give_back(self.kind, &self.payer, less);
        self.bytes -= less;
    }

    /// How many bytes are charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ledger.lock().give_back(self.kind, &self.payer, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InFlightLimits = InFlightLimits { total: 1000, per_user: 100 };

    fn user(org: &str, user: &str) -> Payer {
        Payer::User(OrgId::parse(org).expect("a name"), UserId::parse(user).expect("a name"))
    }

    fn limit_of<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> &'static str {
        outcome.expect_err("over a bound").limit.expect("a bound")
    }

    #[test]
    fn p5_a_user_and_an_org_are_over_their_own_bounds_before_others_are() {
        let ledger = Ledger::default();
        let charge = |payer, bytes| ledger.charge(InFlight::Answer, payer, bytes, LIMITS);
        let mut anns = charge(user("acme", "ann"), 60).expect("room");
        assert_eq!(limit_of(charge(user("acme", "ann"), 41)), "limits.in_flight_bytes_per_user");
        assert_eq!(limit_of(anns.grow(41, LIMITS)), "limits.in_flight_bytes_per_user");
        anns.grow(40, LIMITS).expect("all that is hers");
        let _namesake = charge(user("other", "ann"), 100).expect("another org's user");
        let mut of_acme = vec![anns];
        let refused = (0..100).find_map(|number| match charge(user("acme", &format!("u{number}")), 100) {
            Ok(charge) => {
                of_acme.push(charge);
                None
            }
            Err(refusal) => Some(refusal),
        });
        assert_eq!(refused.expect("its share").limit, Some("limits.in_flight_bytes"));
        assert!(of_acme.len() < 6, "no more than half: {}", of_acme.len());
        charge(user("third", "bob"), 100).expect("something is left for an org that comes");
    }

    #[test]
    fn all_is_given_back() {
        let ledger = Ledger::default();
        let mut body = ledger.charge(InFlight::Body, Payer::Key("k".into()), 10, LIMITS).expect("room");
        body.grow(20, LIMITS).expect("room");
        let answer = ledger.charge(InFlight::Answer, user("acme", "ann"), 50, LIMITS).expect("room");
        assert_eq!(ledger.held().map(|(_, bytes)| bytes), [30, 50, 0, 0, 0]);
        body.shrink_to(5);
        assert_eq!((body.bytes(), ledger.held_of(InFlight::Body)), (5, 5));
        drop((body, answer));
        let book = ledger.lock();
        assert_eq!((book.kinds, book.shares.used(), book.users.len()), ([0; 5], 0, 0));
    }
}
