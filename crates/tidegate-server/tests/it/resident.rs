//! The memory of a gateway under load: docs/operations.md ("Size it") says how much to plan for, and gauges say
//! what holds it.

use std::fmt::Write as _;

use crate::gateway::Gateway;

const MIB: f64 = (1 << 20) as f64;

/// What docs/operations.md plans for a gateway with these settings, in MiB.
const PLANNED: f64 = 64.0 + 1.25 * (16.0 + 2.0 * 4.0 + 8.0 + 120.0 * 50_000.0 / MIB + 64.0 * 260.0 / 1024.0);

#[test]
fn resident_memory_stays_within_the_formula_of_the_handbook_and_gauges_explain_it() {
    let gateway = Gateway::with(&[
        "node.workers=2",
        "tail.org_max_bytes=16MiB",
        "tail.max_bytes=16MiB",
        "tail.page_bytes=4MiB",
        "limits.publish_queue_bytes=8MiB",
        "dedup.max_entries=50000",
        "dedup.max_entries_per_org=50000",
        "limits.publishes_per_second=1000000",
        "log.sync=interval",
    ]);
    let _readers = gateway.both("?services=quiet");
    // Five times what the tails may hold.
    let data = "x".repeat(2_000);
    for batch in 0..200 {
        let mut body = String::from("[");
        for n in 0..200 {
            let comma = if n == 0 { "" } else { "," };
            let _ =
                write!(body, r#"{comma}{{"service":"s","event":"e","id":"{batch}-{n}","data":"{data}"}}"#);
        }
        body.push(']');
        let answer = gateway.publish(&body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let metrics = gateway.operators("/metrics").body;
    let value =
        |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number");
    let resident = metrics.lines().find(|line| line.starts_with("process_resident_memory_bytes "));
    let resident = value(resident.expect("a line")) / MIB;
    let held = metrics.lines().filter(|line| line.starts_with("tidegate_memory_bytes{"));
    let explained = held.clone().map(value).sum::<f64>() / MIB;
    let all: Vec<&str> = held.collect();
    assert!(resident <= PLANNED, "{resident} MiB of {PLANNED}: {all:?}");
    // A gateway as small as this one has also what the allocator holds for the next request bodies.
    let is_explained = resident <= 1.25 * explained + 16.0 && explained <= 1.1 * resident;
    assert!(is_explained, "{explained} of {resident} MiB: {all:?}");
    assert_eq!(gateway.metric("tidegate_dedup_ids"), 40_000.0);
}
