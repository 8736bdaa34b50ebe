//! The metrics of what readers share. Each is read at a scrape from the part that counts it.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use tidegate_core::{Budget, deflate::Contexts};

/// The parts that count.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// What tails are charged to.
    pub(super) tails: Arc<Budget>,
    /// What pages that are kept are charged to.
    pub(super) pages: Arc<Budget>,
    /// The shared compressors.
    pub(super) contexts: Arc<Contexts>,
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = [
            (
                "tidegate_tail",
                "Memory of all tails, the encoded views of their batches included",
                Some(&Unit::Bytes),
                self.tails.used(),
            ),
            (
                "tidegate_replay_page",
                "Memory of pages of the log kept for readers that catch up",
                Some(&Unit::Bytes),
                self.pages.used(),
            ),
            ("tidegate_compressors", "Shared compressors in use", None, self.contexts.used()),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        let counters = [
            (
                "tidegate_views_unkept",
                "Encodings of a batch or page for a filter that were not kept, because it had as many as it may, or its tail no room",
                self.tails.views_unkept() + self.pages.views_unkept(),
            ),
            (
                "tidegate_compressors_missed",
                "Batches of a filter compressed without context, because all compressors were taken",
                self.contexts.missed(),
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
