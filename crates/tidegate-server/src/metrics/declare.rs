//! The `declare!` macro: a metric's name, help, unit, kind, labels and handle, written once.
//!
//! From the one list in [`super`] come the fields of [`super::Metrics`] and their registration.

use std::{fmt, hash::Hash, ops::Deref, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Metric,
};

/// Buckets from 100 us to 10 s.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A kind of metric: what the node holds of it, and what the registry reads.
pub(super) trait Instrument {
    /// What the registry reads.
    type Registered: Metric;

    /// At zero.
    fn new() -> Self;

    /// The same metric, for the registry.
    fn registered(&self) -> Self::Registered;
}

impl Instrument for Counter {
    type Registered = Self;

    fn new() -> Self {
        Self::default()
    }

    fn registered(&self) -> Self {
        self.clone()
    }
}

impl Instrument for Gauge {
    type Registered = Self;

    fn new() -> Self {
        Self::default()
    }

    fn registered(&self) -> Self {
        self.clone()
    }
}

/// A gauge with a fraction.
pub(super) type Fraction = Gauge<f64, AtomicU64>;

impl Instrument for Fraction {
    type Registered = Self;

    fn new() -> Self {
        Self::default()
    }

    fn registered(&self) -> Self {
        self.clone()
    }
}

impl Instrument for Histogram {
    type Registered = Self;

    fn new() -> Self {
        Self::new(SECONDS)
    }

    fn registered(&self) -> Self {
        self.clone()
    }
}

/// A label whose values are a closed set.
pub(super) trait Label: fmt::Debug + Copy + Eq + Hash + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;

    /// Its value.
    fn value(self) -> &'static str;

    /// The values whose series exist from the start. A series that began at its first count would hide that
    /// count from `increase()` and `rate()`.
    fn initial() -> impl Iterator<Item = Self>;
}

/// One label, or two together.
pub(super) trait Labels: fmt::Debug + Copy + Eq + Hash + Send + Sync + 'static {
    /// Writes their names and values.
    fn encode(self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result;

    /// As in [`Label::initial`].
    fn initial() -> impl Iterator<Item = Self>;
}

impl<L: Label> Labels for L {
    fn encode(self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [(L::NAME, self.value())].encode(encoder)
    }

    fn initial() -> impl Iterator<Item = Self> {
        <L as Label>::initial()
    }
}

impl<A: Label, B: Label> Labels for (A, B) {
    fn encode(self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [(A::NAME, self.0.value()), (B::NAME, self.1.value())].encode(encoder)
    }

    /// None, because some pairs never occur. The pairs that do are made with [`By::with`].
    fn initial() -> impl Iterator<Item = Self> {
        std::iter::empty()
    }
}

/// No label.
impl Labels for () {
    fn encode(self, _: &mut LabelSetEncoder<'_>) -> fmt::Result {
        Ok(())
    }

    fn initial() -> impl Iterator<Item = Self> {
        std::iter::once(())
    }
}

/// A metric with a series for each value of its labels.
#[derive(Debug)]
pub(super) struct By<L, M>(Family<LabelSet<L>, M>);

/// The labels with their values, as a series has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LabelSet<L>(L);

impl<L: Labels> EncodeLabelSet for LabelSet<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

impl<L: Labels, M: Clone> By<L, M> {
    /// The series with this value.
    pub(super) fn with(&self, labels: L) -> impl Deref<Target = M> {
        self.0.get_or_create(&LabelSet(labels))
    }
}

impl<L: Labels, M: Instrument + Clone + Metric> Instrument for By<L, M>
where
    Family<LabelSet<L>, M>: Metric,
{
    type Registered = Family<LabelSet<L>, M>;

    fn new() -> Self {
        let metric = Self(Family::new_with_constructor(M::new));
        L::initial().for_each(|label| drop(metric.with(label)));
        metric
    }

    fn registered(&self) -> Self::Registered {
        self.0.clone()
    }
}

/// A metric's line is `handle: Kind = "name";`, or `handle: Kind = "name" in Unit;`, and its doc comment
/// is its help. Names get the prefix `tidegate_`, and the unit and `_total` as OpenMetrics has them.
macro_rules! declare {
    ($(
        $(#[doc = $help:literal])+
        $visible:vis $handle:ident: $Kind:ty = $name:literal $(in $unit:ident)?;
    )*) => {
        /// The metrics of one node.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            shared: Shared,
            $( $(#[doc = $help])+ $visible $handle: $Kind, )*
        }

        impl Metrics {
            /// All at zero, and registered in the order of the list.
            fn declared(shared: Shared) -> Self {
                let mut whole = Registry::default();
                let registry = whole.sub_registry_with_prefix("tidegate");
                $(
                    let $handle = <$Kind as Instrument>::new();
                    // The registry ends every help with a full stop of its own.
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    declare!(@register registry, $name, help, $handle.registered() $(, $unit)?);
                )*
                Self { registry: whole, shared, $($handle),* }
            }
        }
    };
    (@register $registry:ident, $name:literal, $help:ident, $metric:expr) => {
        $registry.register($name, $help, $metric)
    };
    (@register $registry:ident, $name:literal, $help:ident, $metric:expr, $unit:ident) => {
        $registry.register_with_unit($name, $help, Unit::$unit, $metric)
    };
}

pub(super) use declare;
