//! The Rust client while the network, the gateway or the application fails: every event comes once and in
//! order, and the client is live again after the fault.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tidegate_client::{ConnectionState, Notice, Transport};

use super::{
    BOTH, client, connected, count, expect,
    proxy::{Fault, Proxy},
    run,
};
use crate::gateway::Gateway;

#[test]
fn nothing_is_lost_when_the_gateway_is_killed_and_started() {
    for transport in BOTH {
        let mut gateway = Gateway::start();
        let proxy = Proxy::to(gateway.public);
        run(async {
            let builder = client(&gateway, proxy.address).transports([transport]);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            connected(&client).await;
            count(&gateway, 1..=20);
            expect(&mut deliveries, 1..=10).await; // the others wait while the gateway is away
            for kills in 1..=2 {
                gateway = gateway.killed_and_started_again();
                proxy.lead_to(gateway.public);
                count(&gateway, kills * 20 + 1..=(kills + 1) * 20);
                expect(&mut deliveries, kills * 20 - 9..=kills * 20 + 10).await;
            }
            expect(&mut deliveries, 51..=60).await;
            let metrics = client.metrics();
            assert!(metrics.total_disconnects >= 2 && metrics.gaps == 0, "{metrics:?}");
        });
    }
}

#[test]
fn nothing_is_lost_when_the_network_cuts_delays_and_splits() {
    for transport in BOTH {
        let gateway = Gateway::start();
        let proxy = Proxy::to(gateway.public);
        run(async {
            let builder = client(&gateway, proxy.address).transports([transport]);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            connected(&client).await;
            let mut last = 0;
            for fault in [Fault::OneByOne, Fault::Delay(Duration::from_millis(5)), Fault::None] {
                proxy.set(fault);
                count(&gateway, last + 1..=last + 300);
                expect(&mut deliveries, last + 1..=last + 100).await;
                // In the middle of what was published, on some byte.
                proxy.cut();
                count(&gateway, last + 301..=last + 400);
                expect(&mut deliveries, last + 101..=last + 400).await;
                last += 400;
            }
            let metrics = client.metrics();
            assert!(metrics.total_disconnects >= 3 && metrics.events_received == 1200, "{metrics:?}");
        });
    }
}

#[test]
fn a_connection_that_is_half_open_is_noticed_and_replaced() {
    // Over SSE a reader cannot ask; it waits for the gateway's ping.
    let gateway = Gateway::with(&["ping.interval=2s", "ping.timeout=1s"]);
    for transport in BOTH {
        let proxy = Proxy::to(gateway.public);
        run(async {
            let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("text").to_owned();
            let cursor: tidegate_client::Cursor = start.parse().expect("a cursor");
            let builder = client(&gateway, proxy.address).transports([transport]).cursor(cursor);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            connected(&client).await;
            proxy.set(Fault::Vanish);
            count(&gateway, 1..=50);
            client.wake();
            let mut status = client.status();
            let lost = status.wait_for(|status| status.state == ConnectionState::Reconnecting).await;
            assert_eq!(lost.expect("it runs").error.as_ref().expect("an error").code, "silence");
            proxy.set(Fault::None);
            expect(&mut deliveries, 1..=50).await;
        });
    }
}

#[test]
fn a_network_without_websocket_is_served_over_sse() {
    let gateway = Gateway::start();
    count(&gateway, 1..=3);
    let proxy = Proxy::to(gateway.public);
    proxy.set(Fault::NoWebSocket);
    run(async {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&notices);
        let builder = client(&gateway, proxy.address)
            .tail(3)
            .on_notice(move |notice| seen.lock().expect("no panic").push(notice.clone()));
        let (client, mut deliveries) = builder.connect().expect("it starts");
        expect(&mut deliveries, 1..=3).await;
        assert_eq!(client.status().borrow().transport, Transport::Sse);
        let notices = notices.lock().expect("no panic");
        let failed = notices.iter().filter(|notice| matches!(notice, Notice::Failed(_))).count();
        assert_eq!(failed, 2, "{notices:?}");
        assert!(matches!(notices.last(), Some(Notice::Connected { transport: Transport::Sse, .. })));
    });
}

#[test]
fn an_application_that_stands_still_loses_nothing_and_holds_little() {
    let gateway = Gateway::start();
    for transport in BOTH {
        run(async {
            let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("text").to_owned();
            let cursor: tidegate_client::Cursor = start.parse().expect("a cursor");
            let builder =
                client(&gateway, gateway.public).transports([transport]).cursor(cursor).buffer(50, 1 << 20);
            let (client, mut deliveries) = builder.connect().expect("it starts");
            connected(&client).await;
            count(&gateway, 1..=20_000);
            // Nothing is taken: the connection is left.
            let mut status = client.status();
            let left = status.wait_for(|status| status.error.is_some()).await.expect("it runs").clone();
            assert_eq!(left.error.expect("an error").code, "overflow");
            let waiting = client.metrics().queue;
            assert!((50..150).contains(&waiting), "one frame may be over the limit: {waiting}");
            // Once it goes on, everything comes.
            expect(&mut deliveries, 1..=20_000).await;
            assert_eq!(client.metrics().gaps, 0);
        });
    }
}

#[test]
fn an_application_that_is_slow_but_goes_on_keeps_its_connection() {
    let gateway = Gateway::start();
    run(async {
        let (client, mut deliveries) =
            client(&gateway, gateway.public).buffer(2, 1 << 20).connect().expect("it starts");
        connected(&client).await;
        count(&gateway, 1..=2000);
        for number in 1..=2000 {
            expect(&mut deliveries, number..=number).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(client.metrics().total_disconnects, 0);
    });
}

/// An application that takes an item every 300 ms, until the client's own timers have come: silence, after 23 s
/// without a frame, and the first report of its health, after 30 s. They come in one test, because they take long.
#[test]
fn a_slow_application_keeps_its_connection_over_pings_and_silence_and_reports_its_health() {
    // The pings wait behind the events.
    let gateway = Gateway::with(&["ping.interval=8s", "ping.timeout=6s"]);
    run(async {
        let mut slow = BOTH.map(|transport| {
            let builder = client(&gateway, gateway.public).transports([transport]);
            builder.buffer(1, 1 << 20).health(1.0).connect().expect("it starts")
        });
        for (client, _) in &slow {
            connected(client).await;
        }
        count(&gateway, 1..=500);
        let ended = "tidegate_closes_total{code=\"ping_timeout\"}";
        let mut pace = tokio::time::interval(Duration::from_millis(300));
        let mut taken = 0;
        while gateway.metric("tidegate_client_reports_total{outcome=\"taken\"}") == 0.0 {
            pace.tick().await;
            taken += 1;
            if taken == 55 {
                // So much that the connection cannot hand over its frames to the client's task.
                count(&gateway, 501..=2000);
            }
            for (client, deliveries) in &mut slow {
                expect(deliveries, taken..=taken).await;
                let status = client.status().borrow().clone();
                assert_eq!(client.metrics().total_disconnects, 0, "after {taken}: {status:?}");
            }
            assert_eq!(gateway.metric(ended), 0.0, "the gateway has ended a stream, after {taken}");
        }
        assert!((1.0..=100.0).contains(&gateway.metric("tidegate_client_latency_seconds_count")));
        assert_eq!(gateway.metric("tidegate_client_incidents_total{incident=\"disconnect\"}"), 0.0);
        // Nor was anything lost, which would show behind what waited.
        for (client, deliveries) in &mut slow {
            expect(deliveries, taken + 1..=2000).await;
            assert_eq!(client.metrics().total_disconnects, 0, "{:?}", client.status().borrow());
        }
    });
}
