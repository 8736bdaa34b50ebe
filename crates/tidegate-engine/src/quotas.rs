//! How much of the log each org may keep while others want the room.

use std::collections::BTreeMap;

use tidegate_protocol::OrgId;

/// How many bytes of events each org may keep in the log. While the log has room, an org may keep more. If room is
/// wanted, the orgs that are over their quotas are cut first, then those that are over their *max-min fair share*. So
/// a quota promises nothing: it only makes an org's share smaller.
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
