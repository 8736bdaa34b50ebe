//! Who makes room for whom (R20): the oldest for the newest, if that is the policy, and the named connection
//! always. The code is final, or two tabs would evict each other for ever.

use crate::{
    client::{http::Request, stream::Frames, ws::Ws},
    gateway::{Gateway, eventually},
    held_node::HeldNode,
};

fn is_evicted(mut stream: Ws) {
    let (error, close) = stream.refusal();
    assert_eq!((error["code"].as_str(), close), (Some("evicted"), 4555), "{error}");
    assert!(error.get("retry_in_ms").is_none(), "it is not to come back: {error}");
}

fn id_of(stream: &mut dyn Frames) -> String {
    stream.next("hello")["connection_id"].as_str().expect("an id").to_owned()
}

fn users_places(gateway: &Gateway) -> f64 {
    gateway.metric("tidegate_connection_slots{scope=\"users\"}")
}

#[test]
fn r20_the_oldest_makes_way_for_the_newest_over_both_transports() {
    let gateway =
        Gateway::with(&["limits.connections_per_user=2", "limits.connections_per_user_policy=evict_oldest"]);
    let (token, other) = (gateway.token_of("u", &["*"]), gateway.token_of("v", &["*"]));
    let mut bystander = gateway.ws_as(&other, "");
    bystander.next("hello");
    let mut first = gateway.ws_as(&token, "");
    first.next("hello");
    let mut second = gateway.sse_as(&token, "");
    second.next("hello");
    let mut third = gateway.ws_as(&token, "");
    third.next("hello");
    is_evicted(first);
    let mut fourth = gateway.sse_as(&token, "");
    fourth.next("hello");
    let last = std::iter::from_fn(|| second.lines()).last().expect("a last frame");
    assert!(last.data.is_some_and(|data| data.contains("\"evicted\"")));
    assert_eq!(last.retry, Some(2_147_483_647), "an EventSource would come back by itself");

    gateway.say("s", "1");
    for stream in [&mut bystander as &mut dyn Frames, &mut third, &mut fourth] {
        stream.next("event");
    }
    assert_eq!(gateway.metric("tidegate_closes_total{code=\"evicted\"}"), 2.0);
    assert_eq!(users_places(&gateway), 3.0);
    drop((bystander, third, fourth));
    eventually("all places given back", || (users_places(&gateway) == 0.0).then_some(()));
}

#[test]
fn r20_a_request_that_is_refused_evicts_nobody() {
    let gateway =
        Gateway::with(&["limits.connections_per_user=1", "limits.connections_per_user_policy=evict_oldest"]);
    let narrow = gateway.token_of("u", &["open"]);
    let mut stays = gateway.ws_as(&narrow, "");
    let id = id_of(&mut stays);
    for query in ["?services=secret", "?services=a%20b", "?cursor=x", "?replaces=x"] {
        let (error, close) = gateway.ws_as(&narrow, &format!("{query}&replaces={id}")).refusal();
        assert!(close >= 4500, "{query}: {error}");
        let (error, _) = gateway.ws_as("nonsense", query).refusal();
        assert_ne!(error["code"], "evicted");
    }
    gateway.say("open", "1");
    stays.next("event");
}

#[test]
fn r20_a_stream_whose_place_cannot_be_found_evicts_nobody() {
    let node = HeldNode::with(&[
        ("limits.connections_per_user", "1"),
        ("limits.connections_per_user_policy", "evict_oldest"),
    ]);
    node.let_answer();
    node.let_feed();
    let say = || node.publishing().body(r#"{"service":"s","event":"e","data":1}"#).send();
    assert_eq!(say().status, 200);
    let mut stays = node.ws("");
    stays.next("hello");
    node.fail_reads();
    let (error, _) = node.ws("?tail=1").refusal();
    assert_eq!(error["type"], "error");
    let sse = node.getting("stream?tail=1").send();
    assert!(sse.status >= 500, "{sse:?}");
    assert_eq!(say().status, 200);
    stays.next("event");
}

#[test]
fn r20_the_connection_that_is_named_makes_way() {
    let gateway = Gateway::with(&["limits.connections_per_user=1"]);
    let token = gateway.token_of("u", &["*"]);
    let mut old = gateway.ws_as(&token, "");
    let id = id_of(&mut old);
    // An SSE stream replaces a WebSocket, and the other way round.
    let mut new = gateway.sse_as(&token, &format!("?replaces={id}"));
    let second = id_of(&mut new);
    is_evicted(old);
    let mut third = gateway.ws_as(&token, &format!("?replaces={second}"));
    let third_id = id_of(&mut third);
    assert_eq!(new.next("error")["code"], "evicted");
    assert_eq!(new.try_frame(), None);
    assert_eq!(users_places(&gateway), 1.0);

    // Absent, gone, or of another start: no slot is freed, and no answer says why.
    let before = format!("0{third_id}");
    for query in ["".to_owned(), format!("?replaces={id}"), format!("?replaces={before}")] {
        let (error, close) = gateway.ws_as(&token, &query).refusal();
        assert_eq!((error["code"].as_str(), close), (Some("too_many_connections"), 4004), "{query}");
    }
    // Of another user, or in another org: as if no connection had been named.
    let mut stranger = gateway.ws_as(&gateway.token_of("v", &["*"]), &format!("?replaces={third_id}"));
    stranger.next("hello");
    let elsewhere = gateway.token_with(&serde_json::json!({"sub": "u", "org": "other"}));
    let mut elsewhere = Ws::open(
        gateway.public,
        &format!("/v1/orgs/other/stream?replaces={third_id}"),
        &[("authorization", &format!("Bearer {elsewhere}"))],
    );
    elsewhere.next("hello");
    gateway.say("s", "1");
    third.next("event");
    stranger.next("event");

    for bad in ["x", "-1", "a-01", "a-1-2", "A-1"] {
        let query = format!("?replaces={bad}");
        let (error, close) = gateway.ws_as(&token, &query).refusal();
        assert_eq!((error["code"].as_str(), close), (Some("bad_request"), 4553), "{bad}");
        let sse = Request::new(gateway.public, "GET", &gateway.path(&format!("stream{query}")));
        let sse = sse.with("authorization", &format!("Bearer {token}")).send();
        assert_eq!((sse.status, sse.refusal().as_str()), (400, "bad_request"), "{bad}");
    }
    let ws = gateway.ws_as(&token, &format!("?replaces={third_id}&replaces={third_id}")).refusal();
    assert_eq!(ws.0["code"], "bad_request");
}

#[test]
fn r20_one_that_was_asked_to_leave_is_not_counted() {
    // A client may use the whole window to leave, so it is asked at once.
    let node = HeldNode::with(&[("drain.window", "1s")]);
    let mut stream = node.ws("");
    stream.next("hello");
    assert_eq!(node.node.admission.slots_held().users, 1);
    node.node.draining.send_replace(Some(std::time::Instant::now()));
    stream.next("goaway");
    let places = node.node.admission.slots_held();
    assert_eq!((places.orgs, places.users), (0, 0), "from before it was told");
    drop(stream);
    eventually("all places given back", || node.node.admission.is_idle().then_some(()));
}

#[test]
fn evicting_replacing_and_closing_at_once_leaves_every_counter_at_zero() {
    let gateway = Gateway::with(&[
        "limits.connections_per_user=2",
        "limits.connections_per_user_policy=evict_oldest",
        "limits.handshakes_per_second=100000",
    ]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let gateway = &gateway;
            scope.spawn(move || {
                let token = gateway.token_of(&format!("u{}", thread % 2), &["*"]);
                let mut last = String::new();
                for round in 0..50 {
                    let mut stream = gateway.ws_as(&token, &format!("?replaces={last}"));
                    // Perhaps evicted before its hello.
                    let hello = stream.frame();
                    if let Some(id) = hello["connection_id"].as_str() {
                        last = id.to_owned();
                    }
                    if round % 3 == 0 {
                        let path = format!("/v1/orgs/{}/connections/{last}", gateway.org);
                        let closed = Request::new(gateway.admin, "DELETE", &path).send();
                        assert!([200, 404].contains(&closed.status), "{closed:?}");
                    }
                }
            });
        }
    });
    for of in ["sockets", "streams", "addresses", "orgs", "users", "registered"] {
        let held = || gateway.metric(&format!("tidegate_connection_slots{{scope=\"{of}\"}}"));
        eventually("every counter at zero", || (held() == 0.0).then_some(()));
    }
    assert_eq!(gateway.metric("tidegate_connections{transport=\"websocket\"}"), 0.0);
}
