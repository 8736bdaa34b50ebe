//! The report of a client about itself: what a `health` frame has beside its type (PROTOCOL.md, "Frames").
//!
//! Reading decides what is a report: values over a bound are lowered to it, other types are refused. Whether
//! and how often a gateway takes reports is its own affair.

use serde::Serialize;
use serde_json::Value;

/// What a client has seen since its last report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HealthReport {
    /// Times from an event's `timestamp` until the application had it, in milliseconds by the gateway's
    /// clock. Events of a replay are left out.
    pub latencies_ms: Vec<u32>,
    /// Connections that ended without the application's wish.
    pub disconnects: u32,
    /// Events that came again and were dropped.
    pub duplicates: u32,
    /// Frames whose `prev` was above the cursor.
    pub holes: u32,
    /// Gaps.
    pub gaps: u32,
    /// Whether a value that was read was outside its bounds, and has been moved to the nearest one.
    #[serde(skip)]
    pub is_clamped: bool,
}

impl HealthReport {
    /// The most latencies of one report. More are refused.
    pub const LATENCIES_MAX: usize = 100;
    /// The largest latency, an hour.
    pub const LATENCY_MS_MAX: u32 = 3_600_000;
    /// The largest of the other numbers.
    pub const COUNT_MAX: u32 = 1_000_000;
}

/// The fields of a report as any JSON values, so that a faulty one is refused with a sentence of its own.
pub(super) struct Draft {
    pub(super) latencies_ms: Option<Value>,
    pub(super) disconnects: Option<Value>,
    pub(super) duplicates: Option<Value>,
    pub(super) holes: Option<Value>,
    pub(super) gaps: Option<Value>,
}

impl Draft {
    /// The report. An error is a sentence.
    pub(super) fn read(self) -> Result<HealthReport, String> {
        let mut report = HealthReport::default();
        if let Some(latencies) = self.latencies_ms {
            report.latencies_ms = read_latencies(&latencies, &mut report.is_clamped).ok_or_else(|| {
                let most = HealthReport::LATENCIES_MAX;
                format!("`latencies_ms` of a health frame must be a list of at most {most} whole numbers")
            })?;
        }
        for (name, value, count) in [
            ("disconnects", self.disconnects, &mut report.disconnects),
            ("duplicates", self.duplicates, &mut report.duplicates),
            ("holes", self.holes, &mut report.holes),
            ("gaps", self.gaps, &mut report.gaps),
        ] {
            if let Some(value) = value {
                *count = clamped(&value, HealthReport::COUNT_MAX, &mut report.is_clamped)
                    .ok_or_else(|| format!("`{name}` of a health frame must be a whole number"))?;
            }
        }
        Ok(report)
    }
}

fn read_latencies(value: &Value, is_clamped: &mut bool) -> Option<Vec<u32>> {
    let latencies = value.as_array().filter(|latencies| latencies.len() <= HealthReport::LATENCIES_MAX)?;
    latencies.iter().map(|value| clamped(value, HealthReport::LATENCY_MS_MAX, is_clamped)).collect()
}

/// The number nearest to `value` from 0 to `most`; `None` if it is not a whole number. A clock that jumps
/// makes latencies that cannot be, and a client must not lose its stream for that.
fn clamped(value: &Value, most: u32, is_clamped: &mut bool) -> Option<u32> {
    let within = match (value.as_u64(), value.as_i64()) {
        (Some(number), _) => u32::try_from(number).map_or(most, |number| number.min(most)),
        (None, Some(_)) => 0,
        (None, None) => return None,
    };
    *is_clamped |= value.as_u64() != Some(within.into());
    Some(within)
}
