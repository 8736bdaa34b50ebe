//! The orgs that have readers on this node.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tidegate_protocol::OrgId;

/// Counts, per org, the calls of `watch` that no `unwatch` has undone yet.
#[derive(Debug, Default)]
pub struct Watched(Mutex<HashMap<OrgId, usize>>);

impl Watched {
    fn counts(&self) -> MutexGuard<'_, HashMap<OrgId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more.
    pub fn add(&self, org: &OrgId) {
        let mut counts = self.counts();
        match counts.get_mut(org) {
            Some(count) => *count += 1,
            None => drop(counts.insert(org.clone(), 1)),
        }
    }

    /// Counts one less. One that was never counted is a fault of the caller.
    pub fn remove(&self, org: &OrgId) {
        let mut counts = self.counts();
        let Some(count) = counts.get_mut(org) else {
            debug_assert!(false, "unwatch without watch");
            return;
        };
        *count -= 1;
        if *count == 0 {
            counts.remove(org);
            if counts.is_empty() {
                counts.shrink_to_fit();
            }
        }
    }

    /// Whether `org` is watched.
    pub fn contains(&self, org: &OrgId) -> bool {
        self.counts().contains_key(org)
    }
}
