//! What frames and publish bodies cost: `cargo bench -p tidegate-core --bench frames`.
//!
//! Events are of about 300 B as stored; a batch is 100 of them.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidegate_core::{
    Batch, Budget, Event, NewEvent, View, ViewKey,
    frame::{self, Framing, Side},
    publish::{BodyForm, PublishLimits, read_body},
};
use tidegate_protocol::{Epoch, EventId, Filter, OrgId};

const EVENTS: usize = 100;

/// A publish body of one event of the usual size.
fn body(number: usize) -> String {
    let text = "x".repeat(150);
    format!(
        r#"{{"service":"finance","event":"invoice.paid","id":"order-{number}","key":"customer-7","data":{{"amount": 12.50, "currency": "EUR", "note": "{text}"}}}}"#
    )
}

fn parse(body: &[u8]) -> Vec<NewEvent> {
    let org = OrgId::parse("acme").expect("a name");
    let mut drawn = |index: usize| (EventId::parse(&format!("drawn-{index}")).expect("an id"), false);
    let limits = PublishLimits { event_bytes: 256 << 10, events: EVENTS, orgs: 1, depth: 64, users: 100 };
    read_body(&org, BodyForm::Json, body, &limits, &mut drawn).expect("events")
}

fn stored() -> Vec<Arc<Event>> {
    let one = |seq: usize| {
        let event = parse(body(seq).as_bytes()).remove(0);
        let fragment = event.fragment(seq as u64, 1_795_512_600_000);
        let (service, users) = (event.service.clone(), None);
        Arc::new(Event { seq: seq as u64, timestamp: 1_795_512_600_000, service, users, fragment })
    };
    (1..=EVENTS).map(one).collect()
}

fn encoding(criterion: &mut Criterion) {
    let (org, epoch, filter) = (OrgId::parse("acme").expect("a name"), Epoch::from_random(7), Filter::all());
    let (events, budget) = (stored(), Arc::new(Budget::default()));
    for (framing, name) in [(Framing::WebSocket, "ws"), (Framing::Sse, "sse")] {
        let mut group = criterion.benchmark_group(format!("encode/{name}"));
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .sample_size(30);
        let side = Side { epoch: &epoch, tag: filter.tag() };
        group.throughput(Throughput::Elements(1));
        group.bench_function("event of 300 B", |bench| {
            bench.iter(|| frame::events(framing, side, &org, 0, 1, black_box(&[&*events[0]])));
        });
        let key = ViewKey { epoch: epoch.clone(), filter: filter.clone(), framing };
        group.throughput(Throughput::Elements(EVENTS as u64));
        group.bench_function("view of 100 events", |bench| {
            bench.iter_batched(
                || Batch::new(0, EVENTS as u64, 0, events.clone(), &budget),
                |batch| match batch.view(&org, &key, 0) {
                    View::Frame { bytes, .. } => (bytes, batch),
                    View::Empty { .. } => unreachable!("it has events"),
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn publishing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish body");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    for count in [1, EVENTS] {
        let body = match count {
            1 => body(1),
            count => format!("[{}]", (0..count).map(body).collect::<Vec<_>>().join(",")),
        };
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("{count} event(s)"), |bench| {
            bench.iter(|| parse(black_box(body.as_bytes())))
        });
    }
    group.finish();
}

criterion_group!(benches, encoding, publishing);
criterion_main!(benches);
