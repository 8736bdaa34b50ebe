//! Metrics with series for each of a few orgs: those that the configuration lists, or the few that are near a quota.

use std::{fmt, ops::Deref};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::family::Family,
    registry::Metric,
};
use tidegate_protocol::OrgId;

use super::declare::{Fraction, Instrument, Labels};

/// A metric with series for each of a few orgs: one for each value of its other labels. Those of a listed org all
/// exist from when it is listed.
#[derive(Debug)]
pub(super) struct ByOrg<L, M>(Family<OfOrg<L>, M>);

/// The labels of a series, the org first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OfOrg<L> {
    org: OrgId,
    labels: L,
}

impl<L: Labels> EncodeLabelSet for OfOrg<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("org", self.org.as_str())].encode(encoder)?;
        self.labels.encode(encoder)
    }
}

impl<L: Labels, M: Clone> ByOrg<L, M> {
    /// Makes the series of the orgs in `now`, and removes those of the others in `before`. A series of both
    /// keeps its count.
    pub(super) fn set_orgs(&self, before: &[OrgId], now: &[OrgId]) {
        let series = |org: &OrgId, labels| OfOrg { org: org.clone(), labels };
        for org in before.iter().filter(|org| !now.contains(org)) {
            for labels in L::initial() {
                self.0.remove(&series(org, labels));
            }
        }
        for org in now {
            L::initial().for_each(|labels| drop(self.0.get_or_create(&series(org, labels))));
        }
    }

    /// The series of this org; `None` if it is not listed.
    pub(super) fn with(&self, org: &OrgId, labels: L) -> Option<impl Deref<Target = M>> {
        self.0.get(&OfOrg { org: org.clone(), labels })
    }
}

impl<L: Labels> ByOrg<L, Fraction> {
    /// Removes all series.
    pub(super) fn clear(&self) {
        self.0.clear();
    }

    /// Sets a series, which may be a new one: the caller bounds their number.
    pub(super) fn set(&self, org: &OrgId, labels: L, value: f64) {
        self.0.get_or_create(&OfOrg { org: org.clone(), labels }).set(value);
    }
}

impl<L: Labels, M: Instrument + Clone + Metric> Instrument for ByOrg<L, M>
where
    Family<OfOrg<L>, M>: Metric,
{
    type Registered = Family<OfOrg<L>, M>;

    fn new() -> Self {
        Self(Family::new_with_constructor(M::new))
    }

    fn registered(&self) -> Self::Registered {
        self.0.clone()
    }
}
