//! How much of the log each org may keep while others want the room.

use std::collections::BTreeMap;

use tidegate_protocol::OrgId;

/// How many bytes of events each org may keep in the log. A quota refuses nothing: while the log has room, an
/// org may keep more. If room is wanted, whoever is over its quota is cut first. A quota promises nothing: no org
/// may keep more than its *max-min fair share*.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredQuotas {
    /// The quota of every org that is not in `of_orgs`; `None` if they have none.
    pub of_each: Option<u64>,
    /// Those of single orgs, which hold in place of `of_each`; `None` for one that has none.
    pub of_orgs: BTreeMap<OrgId, Option<u64>>,
}

impl StoredQuotas {
    /// The quota of an org, if it has one.
    pub fn of(&self, org: &OrgId) -> Option<u64> {
        self.of_orgs.get(org).copied().unwrap_or(self.of_each)
    }
}
