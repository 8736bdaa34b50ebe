use std::collections::{BTreeMap, BTreeSet};

use tidegate_protocol::{EventName, Key, ServiceName};

use super::*;

const NOON: UnixMillis = 1_795_521_600_000;

fn day(seed: u64, events: usize) -> Vec<FeedEvent> {
    let mut feed = DevFeed::new(seed);
    (0..events as u64).map(|i| feed.next(NOON + i * 300)).collect()
}

/// The events of each key of `service`, in order.
fn stories(events: &[FeedEvent], service: &str) -> BTreeMap<String, Vec<&'static str>> {
    let mut stories = BTreeMap::<_, Vec<_>>::new();
    for told in events.iter().filter(|told| told.service == service) {
        stories.entry(told.key.clone()).or_default().push(told.event);
    }
    stories
}

#[test]
fn every_event_can_be_published_and_all_kinds_come_up() {
    let mut kinds = BTreeSet::new();
    for told in day(1, 5_000) {
        ServiceName::parse(told.service).expect("a service");
        EventName::parse(told.event).expect("an event name");
        Key::parse(&told.key).expect("a key");
        let data: Value = serde_json::from_str(&told.data).expect("JSON");
        assert!(data.as_object().is_some_and(|object| object.len() >= 2), "{told:?}");
        kinds.insert((told.service, told.event));
    }
    let services: BTreeSet<_> = kinds.iter().map(|(service, _)| *service).collect();
    assert_eq!(Vec::from_iter(services), ["finance", "inventory", "orders", "shipping", "staff", "support"]);
    assert_eq!(kinds.len(), 27, "{kinds:?}");
}

#[test]
fn one_seed_tells_one_story() {
    assert_eq!(day(7, 2_000), day(7, 2_000));
    assert_ne!(day(7, 100), day(8, 100));
    let (mut plain, mut paced) = (DevFeed::new(7), DevFeed::new(7));
    for _ in 0..500 {
        paced.next_delay();
        assert_eq!(plain.next(NOON), paced.next(NOON), "pacing changes nothing");
    }
}

#[test]
fn an_order_goes_its_way_in_order() {
    const WAY: [&str; 5] = ["order.placed", "order.paid", "order.packed", "order.shipped", "order.delivered"];
    let mut delivered = 0;
    for seed in 0..5 {
        for (key, story) in stories(&day(seed, 3_000), "orders") {
            let cancelled = story == ["order.placed", "order.cancelled"];
            assert!(cancelled || WAY.starts_with(&story), "{key}: {story:?}");
            delivered += usize::from(story.len() == WAY.len());
        }
    }
    assert!(delivered > 500, "{delivered}");
}

#[test]
fn tickets_and_parcels_and_invoices_too() {
    let rank = |name: &str| match name {
        "ticket.opened" | "shipment.created" | "invoice.issued" | "expense.filed" => 0,
        "ticket.assigned" | "parcel.scanned" | "payment.failed" => 1,
        "ticket.answered" | "payment.received" => 2,
        "ticket.closed" | "parcel.delivered" | "refund.issued" | "expense.approved" => 3,
        _ => 4,
    };
    let events = day(3, 5_000);
    for service in ["support", "shipping", "finance"] {
        for (key, story) in stories(&events, service) {
            assert_eq!(rank(story[0]), 0, "{key}: {story:?}");
            assert!(story.is_sorted_by_key(|name| rank(name)), "{key}: {story:?}");
        }
    }
}

#[test]
fn the_company_stays_bounded() {
    let mut feed = DevFeed::new(11);
    for i in 0..20_000 {
        feed.next(NOON + i);
        assert!(
            feed.orders.len() <= ORDERS_MAX
                && feed.tickets.len() <= TICKETS_MAX
                && feed.asks.len() <= ASKS_MAX
        );
    }
}

#[test]
fn about_three_a_second_in_bursts() {
    let mut feed = DevFeed::new(5);
    let delays: Vec<_> = (0..20_000).map(|_| feed.next_delay()).collect();
    let rate = delays.len() as f64 / delays.iter().sum::<Duration>().as_secs_f64();
    assert!((2.5..3.5).contains(&rate), "{rate}");
    let rushed = delays.iter().filter(|delay| delay.as_millis() <= 60).count();
    assert!((delays.len() / 4..delays.len() * 3 / 4).contains(&rushed), "{rushed}");
}
