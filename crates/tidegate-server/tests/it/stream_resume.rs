//! Where streams start: cursors, tails, filters, targeted events, and the gaps that are declared.

use serde_json::{Value, json};

use crate::{
    client::{
        http::Request,
        sse::Sse,
        stream::{Follower, Frames},
    },
    gateway::Gateway,
};

fn cursor_of(gateway: &Gateway) -> String {
    gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned()
}

fn data(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["data"].as_i64().expect("a number")).collect()
}

/// Publishes 1 to `count`, odd numbers to `odd` and even ones to `even`.
fn count_up(gateway: &Gateway, count: usize) {
    for number in 1..=count {
        gateway.say(if number % 2 == 1 { "odd" } else { "even" }, &number.to_string());
    }
}

#[test]
fn r9_a_cursor_goes_on_where_it_stands() {
    let gateway = Gateway::start();
    let start = cursor_of(&gateway);
    count_up(&gateway, 5);
    for stream in &mut gateway.both(&format!("?cursor={start}")) {
        resumes(stream.as_mut(), &start, 5);
    }
    // From memory first, then from disk and out of the previous incarnation.
    let gateway = gateway.killed_and_started_again();
    for stream in &mut gateway.both(&format!("?cursor={start}")) {
        resumes(stream.as_mut(), &start, 5);
    }
    // The first live frame continues what was replayed.
    let mut stream = gateway.sse(&format!("?cursor={start}"));
    let mut client = resumes(&mut stream, &start, 5);
    gateway.say("odd", "6");
    assert_eq!(data(&stream.events(&mut client, 1)), [6]);
}

/// A stream that begins at `start` and gets 1 to `count`, without a gap.
fn resumes(stream: &mut dyn Frames, start: &str, count: i64) -> Follower {
    let hello = stream.next("hello");
    assert_eq!((&hello["resumed"], &hello["head"]), (&json!(true), &json!(count)), "{hello}");
    let cursor: tidegate_protocol::Cursor =
        hello["cursor"].as_str().expect("text").parse().expect("a cursor");
    assert_eq!(cursor.seq, 0, "R3: where it starts accounting, not the head");
    let mut client = Follower::at(start);
    client.hear(&hello.to_string());
    let events = stream.events(&mut client, usize::try_from(count).expect("few"));
    assert_eq!(data(&events), (1..=count).collect::<Vec<_>>());
    assert!(client.gaps.is_empty(), "R11: a plain restart needs no gap: {:?}", client.gaps);
    client
}

#[test]
fn a_filter_shows_its_services_alone_live_and_replayed() {
    let gateway = Gateway::start();
    let start = cursor_of(&gateway);
    let mut live = gateway.both("?services=odd");
    live.iter_mut().for_each(|stream| assert_eq!(stream.next("hello")["services"], json!(["odd"])));
    count_up(&gateway, 7);
    let untagged = start.rsplit_once('-').expect("a tag").0.to_owned();
    let mut replayed = gateway.both(&format!("?services=odd&cursor={untagged}"));
    replayed.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let sees = |stream: &mut dyn Frames| {
        let mut client = Follower::at(&untagged);
        assert_eq!(data(&stream.events(&mut client, 4)), [1, 3, 5, 7], "{}", stream.transport());
        assert!(client.gaps.is_empty());
    };
    live.iter_mut().chain(&mut replayed).for_each(|stream| sees(stream.as_mut()));
    // After a restart the tail is empty: the same from the log.
    let gateway = gateway.killed_and_started_again();
    for stream in &mut gateway.both(&format!("?services=odd&cursor={untagged}")) {
        stream.next("hello");
        sees(stream.as_mut());
    }
}

#[test]
fn r4_last_event_id_wins_over_cursor_and_cursor_over_tail() {
    let gateway = Gateway::start();
    let start = cursor_of(&gateway);
    count_up(&gateway, 4);
    let at = |seq: u64| start.replacen("-0-", &format!("-{seq}-"), 1);
    let hello = |query: String, last: Option<String>| {
        let mut request = Request::new(gateway.public, "GET", &gateway.path(&format!("stream{query}")))
            .with("authorization", &format!("Bearer {}", gateway.token));
        if let Some(last) = last {
            request = request.with("last-event-id", &last);
        }
        Sse::open(request).next("hello")["cursor"].as_str().expect("a cursor").to_owned()
    };
    assert_eq!(hello(format!("?cursor={}&tail=4", at(1)), Some(at(3))), at(3));
    assert_eq!(hello(format!("?cursor={}&tail=4", at(1)), None), at(1));
    assert_eq!(hello("?tail=3".into(), None), at(1));
    assert_eq!(hello(String::new(), None), at(4), "without any it starts at the head");
}

#[test]
fn r4_last_event_id_in_the_query_is_a_cursor_over_both_transports() {
    let gateway = Gateway::start();
    let start = cursor_of(&gateway);
    count_up(&gateway, 4);
    let at = |seq: u64| start.replacen("-0-", &format!("-{seq}-"), 1);
    let names = ["lastEventId", "last_event_id", "Last-Event-ID"];
    for name in names {
        // A polyfill reconnects with its first address and adds its cursor.
        for (query, seq) in [
            (format!("?{name}={}", at(3)), 3),
            (format!("?cursor={}&tail=4&{name}={}", at(1), at(3)), 3),
            (format!("?{name}=&cursor={}", at(1)), 1),
            (format!("?{name}="), 4),
        ] {
            for stream in &mut gateway.both(&query) {
                let hello = stream.next("hello");
                assert_eq!(hello["cursor"], at(seq), "{query} {}", stream.transport());
            }
        }
        for stream in &mut gateway.both(&format!("?tail=1&{name}={start}")) {
            resumes(stream.as_mut(), &start, 4);
        }
        let by_header = gateway.getting(&format!("stream?cursor={}&{name}={}", at(1), at(2)));
        let hello = Sse::open(by_header.with("last-event-id", &at(3))).next("hello");
        assert_eq!(hello["cursor"], at(3), "the header wins over {name}");
        is_refused(&gateway, &format!("?{name}=x"), &format!("{name}: cursor must be"));
        let twice = format!("?{name}={start}&{name}={start}");
        is_refused(&gateway, &twice, &format!("{name} appears more than once"));
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let (one, other) = (names[one], names[other]);
        for (value, seq) in [(String::new(), 2), (at(3), 3)] {
            for stream in &mut gateway.both(&format!("?{other}={}&{one}={value}", at(2))) {
                assert_eq!(
                    stream.next("hello")["cursor"],
                    at(seq),
                    "{one} wins over {other} if it has a value"
                );
            }
        }
    }
}

/// A stream with this query is `bad_request` over both transports, with a message that begins like this.
fn is_refused(gateway: &Gateway, query: &str, begins: &str) {
    let over_http = gateway.getting(&format!("stream{query}")).send();
    assert_eq!((over_http.status, over_http.refusal().as_str()), (400, "bad_request"), "{query}");
    let message = over_http.json()["detail"].clone();
    assert!(message.as_str().expect("text").starts_with(begins), "{query}: {message}");
    let (error, close) = gateway.ws(query).refusal();
    assert_eq!((&error["code"], &error["message"]), (&json!("bad_request"), &message), "{query}");
    assert_eq!(close, 4553, "{query}");
}

#[test]
fn r4_an_unknown_parameter_is_refused_and_the_nearest_is_named() {
    let gateway = Gateway::with(&["auth.cookie=tg"]);
    for (wrong, meant) in [
        ("lasteventid", "lastEventId"),
        ("Last-Event-Id", "Last-Event-ID"),
        ("Cursor", "cursor"),
        ("service", "services"),
        ("acces_token", "access_token"),
        ("replace", "replaces"),
    ] {
        let message = format!("{wrong} is not a parameter here; did you mean `{meant}`?");
        for query in [format!("?{wrong}=1"), format!("?{wrong}"), format!("?tail=1&{wrong}=")] {
            is_refused(&gateway, &query, &message);
        }
    }
    // To a native EventSource a final refusal is a status, too (R22).
    let by_address = gateway.path(&format!("stream?access_token={}&curser=1", gateway.token));
    let by_cookie = Request::new(gateway.public, "GET", &gateway.path("stream?curser=1"))
        .with("cookie", &format!("tg={}", gateway.token))
        .with("sec-fetch-site", "same-origin");
    // A token under a misspelt name is no token: the name is what the client must hear of.
    let misspelt = gateway.path(&format!("stream?acces_token={}", gateway.token));
    for (request, wrong) in [
        (Request::new(gateway.public, "GET", &by_address), "curser"),
        (by_cookie, "curser"),
        (Request::new(gateway.public, "GET", &misspelt), "acces_token"),
    ] {
        let answer = request.with("accept", "text/event-stream").send();
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{answer:?}");
        let detail = answer.json()["detail"].clone();
        assert!(detail.as_str().expect("text").starts_with(&format!("{wrong} is not")), "{detail}");
    }
    for (endpoint, message) in [
        ("events?services=a&afer=x", "afer is not a parameter here; did you mean `after`?"),
        ("events?zzzzzzzz=1", "zzzzzzzz is not a parameter here; after, limit, services are"),
        ("cursor?service=a", "service is not a parameter here; did you mean `services`?"),
        ("cursor?limit=1", "limit is not a parameter here; services is"),
    ] {
        let answer = gateway.getting(endpoint).send();
        assert_eq!((answer.status, answer.json()["detail"].as_str()), (400, Some(message)), "{endpoint}");
    }
    // A name that is near none gets all of them, and those are the ones that the description has.
    let detail = gateway.getting("stream?zzzzzzzz=1").send().json()["detail"].clone();
    let known = detail
        .as_str()
        .and_then(|text| text.strip_prefix("zzzzzzzz is not a parameter here; ")?.strip_suffix(" are"));
    let mut known: Vec<&str> = known.expect("the list").split(", ").collect();
    let description = gateway.getting("").to("/openapi.json").send().json();
    let listed =
        description["paths"]["/v1/orgs/{org}/stream"]["get"]["parameters"].as_array().expect("a list");
    let components = &description["components"]["parameters"];
    let mut described: Vec<&str> = listed
        .iter()
        .map(|parameter| {
            &components[parameter["$ref"].as_str().expect("a name").rsplit('/').next().expect("one")]
        })
        .filter(|parameter| parameter["in"] == "query")
        .map(|parameter| parameter["name"].as_str().expect("a name"))
        .chain(["access_token"])
        .collect();
    known.sort_unstable();
    described.sort_unstable();
    assert_eq!(known, described);
}

#[test]
fn a_tail_counts_what_this_reader_may_see() {
    let gateway = Gateway::start();
    count_up(&gateway, 9);
    gateway.publish(r#"{"service":"odd","event":"e","users":["ann"],"data":11}"#);
    count_up(&gateway, 2);
    for (user, query, expected) in [
        ("ann", "?services=odd&tail=3", vec![9, 11, 1]),
        ("bob", "?services=odd&tail=3", vec![7, 9, 1]),
        ("bob", "?services=even&tail=2", vec![8, 2]),
        ("bob", "?tail=1000", vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]),
    ] {
        let token = gateway.token_of(user, &["*"]);
        for stream in &mut gateway.both_as(&token, query) {
            let mut client = Follower::default();
            client.hear(&stream.try_frame().expect("hello"));
            let events = stream.events(&mut client, expected.len());
            assert_eq!(data(&events), expected, "{user} {query} {}", stream.transport());
        }
    }
    let bounded = Gateway::with(&["limits.tail_events=2", "limits.tail_search_events=2"]);
    let answer = bounded.getting("stream?tail=3").send();
    assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"));
}

#[test]
fn r8_targeted_events_reach_their_users_alone_live_and_replayed() {
    let mut gateway = Gateway::start();
    let start = cursor_of(&gateway);
    let (ann, bob) = (gateway.token_of("ann", &["*"]), gateway.token_of("bob", &["*"]));
    let mut live = [gateway.ws_as(&ann, ""), gateway.ws_as(&bob, ""), gateway.ws_as(&ann, "")];
    live.iter_mut().for_each(|stream| drop(stream.next("hello")));
    gateway.publish(
        r#"[{"service":"s","event":"e","data":1},
            {"service":"s","event":"e","users":["ann"],"data":2},
            {"service":"s","event":"e","users":["bob","cid"],"data":3},
            {"service":"s","event":"e","data":4}]"#,
    );
    gateway.publish(r#"{"service":"s","event":"e","users":["bob"],"data":5}"#);
    gateway.say("s", "6");
    let expected = [("ann", vec![1, 2, 4, 6]), ("bob", vec![1, 3, 4, 5, 6]), ("ann", vec![1, 2, 4, 6])];
    for (stream, (user, expected)) in live.iter_mut().zip(&expected) {
        let mut client = Follower::at(&start);
        assert_eq!(data(&stream.events(&mut client, expected.len())), *expected, "{user}");
        assert_eq!(client.seq(), 6);
    }
    for round in 0..4 {
        if round == 2 {
            // Now from the log, before from the tail.
            gateway = gateway.killed_and_started_again();
        }
        let (token, (user, expected)) = ([&ann, &bob][round % 2], &expected[round % 2]);
        for stream in &mut gateway.both_as(token, &format!("?cursor={start}")) {
            let mut client = Follower::at(&start);
            client.hear(&stream.try_frame().expect("hello"));
            assert_eq!(data(&stream.events(&mut client, expected.len())), *expected, "{user}");
        }
        let page = gateway
            .getting(&format!("events?after={start}"))
            .with("authorization", &format!("Bearer {token}"));
        let page = page.send().json();
        assert_eq!(data(page["events"].as_array().expect("events")), *expected, "{user}");
        assert!(!page.to_string().contains("\"users\""), "R8: {page}");
    }
}

#[test]
fn r4_a_cursor_of_another_filter_is_a_gap_that_moves_nothing() {
    let gateway = Gateway::start();
    count_up(&gateway, 2);
    let odd = gateway.ws("?services=odd").next("hello")["cursor"].as_str().expect("a cursor").to_owned();
    count_up(&gateway, 2);
    for stream in &mut gateway.both(&format!("?services=even,odd&cursor={odd}")) {
        let hello = stream.next("hello");
        assert_eq!(hello["cursor"], odd.as_str(), "R3: it keeps the presented tag until the gap");
        let gap = stream.next("gap");
        assert_eq!((&gap["reason"], &gap["prev"], &gap["seq"]), (&json!("filter"), &json!(2), &json!(2)));
        assert_eq!(gap["services"], json!(["even", "odd"]));
        assert_eq!(gap["filter"], hello["filter"]);
        let mut client = Follower::at(&odd);
        assert_eq!(data(&stream.events(&mut client, 2)), [1, 2]);
    }
}

#[test]
fn r10_unknown_epochs_and_places_beyond_the_end_are_declared() {
    let gateway = Gateway::start();
    let start = cursor_of(&gateway);
    let epoch = start.split('-').next().expect("an epoch").to_owned();
    count_up(&gateway, 3);
    for (presented, goes_on) in [("0unknown-7".to_owned(), 0), (format!("{epoch}-9"), 3)] {
        for stream in &mut gateway.both(&format!("?cursor={presented}")) {
            let hello = stream.next("hello");
            assert!(hello["cursor"].as_str().expect("text").starts_with(&presented), "R3: {hello}");
            assert_eq!(hello["resumed"], false);
            let gap = stream.next("gap");
            assert_eq!(
                (&gap["reason"], &gap["seq"]),
                (&json!("epoch"), &json!(goes_on)),
                "{presented}: {gap}"
            );
            assert_eq!(gap["epoch"], epoch.as_str());
            let cursor = format!("{epoch}-{goes_on}");
            let left = 3 - goes_on;
            assert_eq!(stream.events(&mut Follower::at(&cursor), left).len(), left);
        }
    }
    assert!(gateway.metric("tidegate_gaps_total{reason=\"epoch\"}") >= 4.0);
}

#[test]
fn r3_the_ids_of_a_stream_stay_on_the_presented_side_until_the_gap() {
    let gateway = Gateway::start();
    gateway.say("s", "1");
    let mut stream = gateway.sse("?cursor=0unknown-7");
    stream.next("hello");
    assert!(stream.last_event_id.starts_with("0unknown-7-"), "{}", stream.last_event_id);
    let gap = stream.next("gap");
    assert_eq!(stream.last_event_id.split('-').next(), gap["epoch"].as_str());
}

#[test]
fn r9_what_retention_has_removed_is_a_gap_with_its_range() {
    // The budget of the memory engine replaces time: the oldest events are removed first.
    let gateway = Gateway::with(&[
        "log.engine=memory",
        "limits.event_bytes=64KiB",
        "limits.request_bytes=64KiB",
        "tail.org_max_bytes=64KiB",
        "tail.max_bytes=64KiB",
        "log.max_bytes=128KiB",
        "dedup.window=1s",
    ]);
    let start = cursor_of(&gateway);
    let wide = format!("\"{}\"", "x".repeat(30_000));
    let last = (0..20).fold(0, |_, _| gateway.say("s", &wide));
    for stream in &mut gateway.both(&format!("?cursor={start}")) {
        let hello = stream.next("hello");
        assert_eq!(hello["resumed"], false, "{hello}");
        let gap = stream.next("gap");
        assert_eq!((&gap["reason"], &gap["prev"]), (&json!("retention"), &json!(0)));
        let floor = gap["seq"].as_u64().expect("a seq");
        assert!(floor > 0 && floor < last, "{gap}");
        let mut client = Follower::at(&start);
        client.hear(&gap.to_string());
        let left = usize::try_from(last - floor).expect("few");
        let events = stream.events(&mut client, left);
        assert_eq!(events[0]["seq"], floor + 1);
    }
    let page = gateway.getting(&format!("events?after={start}&limit=1")).send().json();
    assert_eq!((&page["gap"]["reason"], &page["gap"]["prev"]), (&json!("retention"), &json!(0)), "{page}");
}
