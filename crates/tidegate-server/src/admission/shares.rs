//! Shares of a number of slots that all orgs use: one org gets at most half of them, so that its storm leaves
//! room for the others.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use tidegate_protocol::OrgId;

/// How many slots each org holds.
#[derive(Debug, Clone, Default)]
pub struct OrgShares(Arc<Mutex<HashMap<OrgId, usize>>>);

/// A slot in an org's share; dropping it releases it.
#[derive(Debug)]
pub struct OrgShare {
    shares: OrgShares,
    org: OrgId,
}

impl OrgShares {
    /// Takes a slot in the share of `org`, which is half of `slots`; `None` if the share is used up.
    pub fn take(&self, org: &OrgId, slots: usize) -> Option<OrgShare> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = shares.get(org).copied().unwrap_or(0);
        if held >= slots.div_ceil(2) {
            return None;
        }
        shares.insert(org.clone(), held + 1);
        Some(OrgShare { shares: self.clone(), org: org.clone() })
    }
}

impl Drop for OrgShare {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut held) = shares.entry(self.org.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_an_org_takes_half_and_gives_back_what_it_took() {
        let shares = OrgShares::default();
        let [storm, other] = ["storm", "other"].map(|name| OrgId::parse(name).expect("a name"));
        let taken: Vec<_> = (0..9).filter_map(|_| shares.take(&storm, 8)).collect();
        assert_eq!(taken.len(), 4);
        assert!(shares.take(&other, 8).is_some(), "the others have theirs");
        drop(taken);
        assert!(shares.0.lock().expect("whole").is_empty(), "nothing is kept of orgs that hold none");
        assert!(shares.take(&storm, 1).is_some(), "of one place, one");
    }
}
