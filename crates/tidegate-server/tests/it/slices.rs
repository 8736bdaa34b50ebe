//! A worker does what one org costs it in slices, and serves its other orgs in between.

use std::{fmt::Write as _, thread};

use crate::{
    client::{
        http::Request,
        stream::{Follower, Frames as _},
        ws::Ws,
    },
    compression::{OFFER, offering},
    gateway::Gateway,
};

/// How many different sets of services the readers of the org see.
const FILTERS: usize = 24;

/// How many events it publishes at once. Each is a batch by itself.
const EVENTS: usize = 60;

/// A body of [`EVENTS`] events of about 60 KB each, of service `s`.
fn body() -> String {
    let event = |number: usize| {
        let mut lines = String::new();
        for line in 0..1000 {
            let _ =
                write!(lines, "order {} of customer {}, amount {}; ", line * number, line % 97, line * line);
        }
        lines.truncate(60_000);
        format!(r#"{{"service":"s","event":"imported","data":"{lines}"}}"#)
    };
    format!("[{}]", (1..=EVENTS).map(event).collect::<Vec<_>>().join(","))
}

/// How often the gateway has compressed, as the ticks of its worker have reported it.
fn compressions(gateway: &Gateway) -> f64 {
    let of = |form: &str| gateway.metric(&format!("tidegate_compressions_total{{form=\"{form}\"}}"));
    of("generation") + of("alone")
}

/// Each of the views takes a worker about half a millisecond. An event of another org comes before they are all
/// made.
#[test]
fn p5_other_orgs_are_served_between_the_views_of_one() {
    let gateway =
        Gateway::with(&["node.workers=1", "limits.connections_per_user=100", "limits.write_timeout=1s"]);
    let crowd: Vec<(Ws, Follower)> = (0..FILTERS)
        .map(|number| {
            let mut stream = offering(&gateway, &format!("?services=s,s{number}"), OFFER);
            let hello = stream.next("hello");
            (stream, Follower::at(hello["cursor"].as_str().expect("a cursor")))
        })
        .collect();
    let token = format!("Bearer {}", gateway.token_with(&serde_json::json!({"org": "other"})));
    let key = format!("Bearer {}", gateway.key_for("other", "*"));
    let mut other = Ws::open(gateway.public, "/v1/orgs/other/stream", &[("authorization", &token)]);
    other.next("hello");
    let to_other = Request::new(gateway.public, "POST", "/v1/orgs/other/events")
        .with("authorization", &key)
        .with("content-type", "application/json")
        .body(r#"{"service":"s","event":"e","data":1}"#);
    let between = thread::scope(|scope| {
        for (mut stream, mut follower) in crowd {
            scope.spawn(move || stream.events(&mut follower, EVENTS));
        }
        assert_eq!(gateway.publish(&body()).status, 200);
        loop {
            assert_eq!(to_other.send().status, 200);
            other.next("event");
            let made = compressions(&gateway);
            if made > 0.0 {
                break made;
            }
        }
    });
    assert!(between < (FILTERS * EVENTS) as f64, "{between} views were made before the other org's turn");
}
