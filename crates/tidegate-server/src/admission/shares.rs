//! Shares of a number of slots that all use: one org, or one API key, gets at most half of them, so that its
//! storm leaves room for the others.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// How many slots each holder has.
#[derive(Debug)]
pub struct Shares<H>(Arc<Mutex<HashMap<H, usize>>>);

/// A slot in a holder's share; dropping it releases it.
#[derive(Debug)]
pub struct Share<H: Clone + Eq + Hash> {
    shares: Shares<H>,
    holder: H,
}

impl<H> Clone for Shares<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H> Default for Shares<H> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<H: Clone + Eq + Hash> Shares<H> {
    /// Takes a slot in the share of `holder`, which is half of `slots`; `None` if the share is used up.
    pub fn take(&self, holder: &H, slots: usize) -> Option<Share<H>> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = shares.get(holder).copied().unwrap_or(0);
        if held >= slots.div_ceil(2) {
            return None;
        }
        shares.insert(holder.clone(), held + 1);
        Some(Share { shares: self.clone(), holder: holder.clone() })
    }
}

impl<H: Clone + Eq + Hash> Drop for Share<H> {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut held) = shares.entry(self.holder.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::OrgId;

    use super::*;

    #[test]
    fn p5_an_org_takes_half_and_gives_back_what_it_took() {
        let shares = Shares::default();
        let [storm, other] = ["storm", "other"].map(|name| OrgId::parse(name).expect("a name"));
        let taken: Vec<_> = (0..9).filter_map(|_| shares.take(&storm, 8)).collect();
        assert_eq!(taken.len(), 4);
        assert!(shares.take(&other, 8).is_some(), "the others have theirs");
        drop(taken);
        assert!(shares.0.lock().expect("whole").is_empty(), "nothing is kept of orgs that hold none");
        assert!(shares.take(&storm, 1).is_some(), "of one place, one");
    }
}
