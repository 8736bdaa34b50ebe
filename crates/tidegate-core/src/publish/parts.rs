//! The parts of a publish request: the events of one org each.

use std::collections::BTreeMap;

use tidegate_protocol::OrgId;

use super::{Bound, PublishError, fields::Faults};
use crate::NewEvent;

/// Whose log the events of a request are for.
#[derive(Debug, Clone, Copy)]
pub enum To<'o> {
    /// All are for this org. An event may name it, and no other.
    Org(&'o OrgId),
    /// Each names its org.
    Named,
}

impl To<'_> {
    /// The org of an event that names `named`; otherwise the fault is reported at `pointer`.
    pub(super) fn org_of(
        self,
        named: Option<OrgId>,
        faults: &mut Faults,
        pointer: impl FnOnce() -> String,
    ) -> Option<OrgId> {
        match (self, named) {
            (To::Org(org), None) => Some(org.clone()),
            (To::Org(org), Some(named)) if *org == named => Some(named),
            (To::Org(org), Some(named)) => {
                let detail = format!(
                    "the event names the org {named}, but the address is that of {org}: leave org out, or publish \
                     to the address of {named} or to /v1/events"
                );
                faults.add(pointer(), "mismatch", detail);
                None
            }
            (To::Named, Some(named)) => Some(named),
            (To::Named, None) => {
                let detail = "org is missing: at this address each event names its org";
                faults.add(pointer(), "required", detail.into());
                None
            }
        }
    }
}

/// The events of a request that are for one org.
#[derive(Debug)]
pub struct Part {
    /// The org.
    pub org: OrgId,
    /// Its events, in the order of the request. There is at least one.
    pub events: Vec<NewEvent>,
    /// The index in the request of each of `events`, from 0.
    pub places: Vec<usize>,
}

/// Sorts events into parts.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) list: Vec<Part>,
    /// The index in `list` of each org; unused as long as there is one org.
    found: BTreeMap<OrgId, usize>,
}

impl Parts {
    /// Adds the event at `index` of the request, unless it is for one more org than `orgs_max`.
    pub(super) fn add(
        &mut self,
        index: usize,
        org: OrgId,
        event: NewEvent,
        orgs_max: usize,
    ) -> Result<(), PublishError> {
        // Most requests are for one org, and most others have the events of one org together.
        let last = self.list.last().filter(|part| part.org == org).map(|_| self.list.len() - 1);
        let at = match last.or_else(|| self.found.get(&org).copied()) {
            Some(at) => at,
            None if self.list.len() == orgs_max => {
                let what = "the number of orgs in the batch".into();
                return Err(PublishError::TooLarge { what, bound: Bound::Orgs, max: orgs_max });
            }
            None => {
                self.found.insert(org.clone(), self.list.len());
                self.list.push(Part { org, events: Vec::new(), places: Vec::new() });
                self.list.len() - 1
            }
        };
        self.list[at].events.push(event);
        self.list[at].places.push(index);
        Ok(())
    }
}
