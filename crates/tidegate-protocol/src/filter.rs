//! Which services a stream shows.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, LazyLock},
};

use crate::{FilterTag, ServiceName};

/// A set of services, or all. "All" is a filter of its own: it also admits services that nobody has named
/// yet (R8). A clone shares its memory with the original.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Filter(Arc<Seen>);

#[derive(PartialEq, Eq, Hash)]
struct Seen {
    services: Option<BTreeSet<ServiceName>>,
    tag: FilterTag,
}

static ALL: LazyLock<Filter> =
    LazyLock::new(|| Filter(Arc::new(Seen { services: None, tag: FilterTag::of("*") })));

impl Filter {
    /// Every service.
    pub fn all() -> Self {
        ALL.clone()
    }

    /// These services and no other.
    pub fn only(services: BTreeSet<ServiceName>) -> Self {
        // Names have no comma, so different sets have different texts, and the prefix differs from "*".
        let mut canonical = String::from("=");
        for service in &services {
            canonical.push_str(service.as_str());
            canonical.push(',');
        }
        Self(Arc::new(Seen { tag: FilterTag::of(&canonical), services: Some(services) }))
    }

    /// Whether the filter admits events of `service`.
    pub fn admits(&self, service: &ServiceName) -> bool {
        match self.services() {
            None => true,
            Some(services) => services.contains(service),
        }
    }

    /// The short hash of the services that cursors carry.
    pub fn tag(&self) -> &FilterTag {
        &self.0.tag
    }

    /// The services, in order; `None` for all.
    pub fn services(&self) -> Option<&BTreeSet<ServiceName>> {
        self.0.services.as_ref()
    }

    /// The services as `hello` and `gap` name them: `["*"]` for all.
    pub fn names(&self) -> Vec<&str> {
        match self.services() {
            None => vec!["*"],
            Some(services) => services.iter().map(ServiceName::as_str).collect(),
        }
    }

    /// Whether this filter admits all that `other` admits.
    pub fn covers(&self, other: &Filter) -> bool {
        match (self.services(), other.services()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs.is_subset(mine),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.names().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(names: &[&str]) -> Filter {
        Filter::only(names.iter().map(|n| ServiceName::parse(n).expect("a name")).collect())
    }

    #[test]
    fn r4_tags_tell_filters_apart_and_ignore_order() {
        assert_eq!(only(&["a", "b"]).tag(), only(&["b", "a"]).tag());
        let tags = [Filter::all(), only(&["a"]), only(&["b"]), only(&["a", "b"]), only(&["ab"])];
        for (i, one) in tags.iter().enumerate() {
            for other in &tags[i + 1..] {
                assert_ne!(one.tag(), other.tag(), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn r8_all_covers_every_set_and_no_set_covers_all() {
        assert!(Filter::all().covers(&only(&["a"])));
        assert!(!only(&["a"]).covers(&Filter::all()));
        assert!(only(&["a", "b"]).covers(&only(&["b"])));
        assert!(!only(&["a"]).covers(&only(&["a", "b"])));
    }
}
