//! One API key for many orgs, and `POST /v1/events`, where each event names its org.

use serde_json::{Value, json};

use crate::{
    client::{
        http::{Answer, Request},
        sse::Sse,
        stream::{Follower, Frames as _},
    },
    gateway::{Gateway, eventually},
    held_node::HeldNode,
};

/// A request to `/v1/events` with `key`, without a body yet.
fn to_orgs(gateway: &Gateway, key: &str) -> Request {
    gateway.publishing().to("/v1/events").with("authorization", &format!("Bearer {key}"))
}

fn event(org: &str, id: &str, data: u32) -> String {
    json!({"org": org, "service": "s", "event": "e", "id": id, "data": data}).to_string()
}

fn array(events: &[String]) -> String {
    format!("[{}]", events.join(","))
}

/// The data of all events of `org`, as a reader of that org sees them.
fn log_of(gateway: &Gateway, org: &str) -> Vec<Value> {
    let token = gateway.token_with(&json!({"org": org}));
    let page = gateway.getting("").to(&format!("/v1/orgs/{org}/events"));
    let page = page.with("authorization", &format!("Bearer {token}")).send().json();
    page["events"].as_array().expect("events").iter().map(|event| event["data"].clone()).collect()
}

/// Each entry of `events`, in few words.
fn outcomes(answer: &Answer) -> Vec<String> {
    let events = answer.json()["events"].as_array().expect("events").clone();
    let word = |event: &Value| {
        let outcome = match event["code"].as_str() {
            Some(code) => code.to_owned(),
            None => format!("{}{}", event["seq"], if event["duplicate"] == true { " again" } else { "" }),
        };
        format!("{} {} {outcome}", event["org"].as_str().expect("org"), event["id"].as_str().expect("id"))
    };
    events.iter().map(word).collect()
}

fn pointer_and_code(answer: &Answer) -> (String, String) {
    assert_eq!((answer.status, answer.refusal().as_str()), (422, "invalid"), "{answer:?}");
    let error = &answer.json()["errors"][0];
    let text = |name: &str| error[name].as_str().expect(name).to_owned();
    (text("pointer"), text("code"))
}

#[test]
fn events_of_several_orgs_are_answered_with_a_cursor_for_each() {
    let gateway = Gateway::start();
    let key = gateway.key_for("*", "*");
    let token = gateway.token_with(&json!({"org": "beta"}));
    let open = gateway.getting("").to("/v1/orgs/beta/stream");
    let mut beta = Sse::open(open.with("authorization", &format!("Bearer {token}")));
    let mut reader = Follower::default();
    reader.hear(&beta.try_frame().expect("hello"));
    let sent = [event("beta", "a", 1), event("acme", "a", 2), event("beta", "b", 3)];
    let answer = to_orgs(&gateway, &key).body(array(&sent)).send();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{answer:?}");
    let said = answer.json();
    assert_eq!(
        said["events"],
        json!([
            {"org": "beta", "service": "s", "id": "a", "seq": 1, "duplicate": false},
            {"org": "acme", "service": "s", "id": "a", "seq": 1, "duplicate": false},
            {"org": "beta", "service": "s", "id": "b", "seq": 2, "duplicate": false},
        ])
    );
    let orgs = said["orgs"].as_array().expect("orgs");
    for (entry, (org, seq)) in orgs.iter().zip([("beta", 2), ("acme", 1)]) {
        let text = entry["cursor"].as_str().expect("text");
        let cursor: tidegate_protocol::Cursor = text.parse().expect("a cursor");
        assert_eq!((entry["org"].as_str(), cursor.seq, cursor.tag), (Some(org), seq, None));
    }
    assert_eq!((orgs.len(), said.as_object().expect("an object").len()), (2, 2), "{said}");

    // Lines, and one object.
    let lines = format!("{}\n\n{}\n", event("acme", "c", 4), event("beta", "c", 5));
    let lines = to_orgs(&gateway, &key).with("content-type", "application/x-ndjson").body(lines).send();
    assert_eq!(outcomes(&lines), ["acme c 2", "beta c 3"]);
    let one = to_orgs(&gateway, &key).body(event("beta", "d", 6)).send();
    assert_eq!(outcomes(&one), ["beta d 4"]);
    assert_eq!(one.json()["orgs"].as_array().map(Vec::len), Some(1), "the shape is the same for one");

    // Each org's reader sees its own events, in the order of the requests.
    assert_eq!(log_of(&gateway, "acme"), [2, 4]);
    let live = beta.events(&mut reader, 4);
    assert_eq!(live.iter().map(|event| &event["data"]).collect::<Vec<_>>(), [1, 3, 5, 6]);
}

#[test]
fn a_key_publishes_to_the_orgs_that_it_covers_at_either_address() {
    let gateway = Gateway::start();
    for (orgs, covered, others) in [
        ("*", &["acme", "acme-1", "beta"][..], &[][..]),
        ("acme,beta", &["acme", "beta"], &["acme-1", "Beta"]),
        ("acme-*", &["acme-1", "acme-x-2"], &["acme", "beta"]),
    ] {
        let key = gateway.key_for(orgs, "*");
        let both = |org: &str| {
            let plain = r#"{"service":"s","event":"e","data":1}"#;
            let one = to_orgs(&gateway, &key).to(&format!("/v1/orgs/{org}/events")).body(plain).send();
            let many = to_orgs(&gateway, &key).body(event(org, &format!("{orgs}-{org}"), 1)).send();
            [one, many]
        };
        for org in covered {
            both(org).iter().for_each(|answer| assert_eq!(answer.status, 200, "{orgs} {org}: {answer:?}"));
        }
        for org in others {
            for answer in both(org) {
                assert_eq!((answer.status, answer.refusal().as_str()), (403, "forbidden"), "{orgs} {org}");
                let detail = answer.json()["detail"].to_string();
                assert!(detail.contains(&format!("does not cover the org {org}")), "{detail}");
            }
        }
    }
    // A key for one org does the same.
    let own = to_orgs(&gateway, &gateway.key).body(event(&gateway.org, "x", 1)).send();
    assert_eq!(own.status, 200, "{own:?}");
}

#[test]
fn a_fault_anywhere_refuses_everything() {
    let gateway = Gateway::with(&["limits.orgs_per_batch=3"]);
    let key = gateway.key_for("a,b,c,d", "s");
    let [a, b] = [event("a", "1", 1), event("b", "1", 1)];
    let without_org = r#"{"service":"s","event":"e","data":1}"#.to_owned();
    let faulty = a.replace(r#""event":"e""#, r#""event":7"#);
    for (events, pointer, code) in [
        ([a.clone(), without_org], "/1/org", "required"),
        ([a.clone(), event("x y", "1", 1)], "/1/org", "format"),
        ([a.clone(), b.replace("\"org\"", "\"Org\"")], "/1/Org", "unknown_field"),
        ([b.clone(), faulty], "/1/event", "type"),
    ] {
        let answer = to_orgs(&gateway, &key).body(array(&events)).send();
        assert_eq!(pointer_and_code(&answer), (pointer.to_owned(), code.to_owned()));
    }
    // The first org that is not covered is named.
    let uncovered = array(&[a.clone(), event("y", "1", 1), event("x", "1", 1), b.clone()]);
    let answer = to_orgs(&gateway, &key).body(uncovered.replace("\"b\"", "\"a\"")).send();
    assert_eq!((answer.status, answer.refusal().as_str()), (403, "forbidden"));
    assert!(answer.json()["detail"].to_string().contains("the org y"), "{answer:?}");
    let service = array(&[a.clone(), b.replace("\"s\"", "\"t\"")]);
    assert_eq!(to_orgs(&gateway, &key).body(service).send().refusal(), "forbidden");
    let many = array(&["a", "b", "c", "d"].map(|org| event(org, "1", 1)));
    let answer = to_orgs(&gateway, &key).body(many).send();
    assert_eq!((answer.status, answer.refusal().as_str()), (413, "too_large"));
    assert_eq!(answer.json()["limit"], "limits.orgs_per_batch");
    assert_eq!(to_orgs(&gateway, &key).body("[]").send().status, 422);
    for org in ["a", "b", "c"] {
        assert_eq!(log_of(&gateway, org), Vec::<Value>::new(), "nothing of any of them is there");
    }
}

#[test]
fn p4_the_events_of_an_org_are_stored_or_refused_on_their_own() {
    let gateway = Gateway::start();
    let key = gateway.key_for("*", "*");
    let send = |events: &[String]| to_orgs(&gateway, &key).body(array(events)).send();
    assert_eq!(send(&[event("a", "used", 1), event("b", "used", 1)]).status, 200);

    let request = [event("b", "n1", 2), event("a", "n1", 2), event("a", "used", 9), event("b", "n2", 3)];
    let answer = send(&request);
    assert_eq!((answer.status, answer.header("content-type")), (207, Some("application/json")), "{answer:?}");
    assert_eq!(outcomes(&answer), ["b n1 2", "a n1 id_conflict", "a used id_conflict", "b n2 3"]);
    let said = answer.json();
    let [b, a] = [&said["orgs"][0], &said["orgs"][1]];
    assert!(b["cursor"].as_str().is_some_and(|cursor| cursor.ends_with("-3")) && b["problem"].is_null());
    assert_eq!((&a["org"], &a["cursor"], &a["problem"]["status"]), (&json!("a"), &Value::Null, &json!(409)));
    assert_eq!(a["problem"]["code"], "id_conflict");
    let detail = a["problem"]["detail"].as_str().expect("a detail");
    assert!(detail.contains("event 2 "), "events are counted in the request: {detail}");
    assert_eq!(
        (log_of(&gateway, "a"), log_of(&gateway, "b")),
        (vec![json!(1)], vec![1.into(), 2.into(), 3.into()])
    );

    // The whole request again, once the fault is mended: what is stored stays as it is.
    let mended = [request[0].clone(), request[1].clone(), event("a", "other", 9), request[3].clone()];
    let again = send(&mended);
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(outcomes(&again), ["b n1 2 again", "a n1 2", "a other 3", "b n2 3 again"]);
    assert_eq!(again.json()["orgs"][0]["cursor"], b["cursor"], "its cursor is the first one's");

    // If all are refused for one reason, the answer is that refusal.
    let none = send(&[event("a", "used", 7), event("b", "used", 7)]);
    assert_eq!((none.status, none.refusal().as_str()), (409, "id_conflict"));
    let problems: Vec<_> = none.json()["orgs"].as_array().expect("orgs").clone();
    assert_eq!(problems.iter().map(|entry| &entry["org"]).collect::<Vec<_>>(), ["a", "b"]);
    assert!(problems.iter().all(|entry| entry["problem"]["code"] == "id_conflict"));
    let alone = send(&[event("a", "used", 7)]);
    assert_eq!((alone.status, alone.refusal().as_str()), (409, "id_conflict"));
    assert!(alone.json()["orgs"].is_null(), "{alone:?}");
}

#[test]
fn p4_ids_of_the_idempotency_key_count_the_events_of_all_orgs() {
    let gateway = Gateway::start();
    let key = gateway.key_for("*", "*");
    let bare =
        |org: &str, data: u32| json!({"org": org, "service": "s", "event": "e", "data": data}).to_string();
    let body = array(&[bare("a", 1), bare("b", 2), bare("a", 3)]);
    let send = || to_orgs(&gateway, &key).with("idempotency-key", "order-7").body(&body).send();
    assert_eq!(outcomes(&send()), ["a order-7-0 1", "b order-7-1 1", "a order-7-2 2"]);
    assert_eq!(outcomes(&send()), ["a order-7-0 1 again", "b order-7-1 1 again", "a order-7-2 2 again"]);
    let drawn = to_orgs(&gateway, &key).body(bare("a", 1)).send().json();
    let id: uuid::Uuid = drawn["events"][0]["id"].as_str().expect("an id").parse().expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
}

#[test]
fn cloudevents_name_their_org_in_an_extension() {
    let gateway = Gateway::start();
    let key = gateway.key_for("*", "*");
    let cloud = |org: &str, id: &str, data: u32| {
        json!({"specversion": "1.0", "id": id, "source": "s", "type": "e", "org": org, "data": data})
            .to_string()
    };
    let accepted = |answer: &Answer, seq: u64| {
        assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{answer:?}");
        let cursor = answer.header("tidegate-cursor").expect("a cursor");
        assert_eq!(cursor.parse::<tidegate_protocol::Cursor>().expect("a cursor").seq, seq);
    };
    let structured = |body: String| {
        to_orgs(&gateway, &key).with("content-type", "application/cloudevents+json").body(body).send()
    };
    let batch = |events: &[String]| {
        let request = to_orgs(&gateway, &key).with("content-type", "application/cloudevents-batch+json");
        request.body(array(events)).send()
    };
    let attributes = [("specversion", "1.0"), ("id", "3"), ("source", "s"), ("type", "e")];
    let binary = attributes
        .iter()
        .fold(to_orgs(&gateway, &key), |request, (name, value)| request.with(&format!("ce-{name}"), value))
        .body("3");
    accepted(&structured(cloud("a", "1", 1)), 1);
    accepted(&batch(&[cloud("a", "2", 2)]), 2);
    accepted(&binary.clone().with("ce-org", "a").send(), 3);
    accepted(&binary.clone().with("ce-org", "a").send(), 3);
    assert_eq!(log_of(&gateway, "a"), [1, 2, 3]);

    let several = batch(&[cloud("a", "4", 4), cloud("b", "4", 5), cloud("a", "1", 1)]);
    assert_eq!((several.status, several.header("tidegate-cursor")), (200, None), "{several:?}");
    assert_eq!(outcomes(&several), ["a 4 4", "b 4 1", "a 1 1 again"]);
    let partly = batch(&[cloud("a", "1", 9), cloud("b", "6", 6)]);
    assert_eq!((partly.status, outcomes(&partly)), (207, vec!["a 1 id_conflict".into(), "b 6 2".into()]));

    let required = |pointer: &str| (pointer.to_owned(), "required".to_owned());
    assert_eq!(pointer_and_code(&binary.send()), required("ce-org"));
    let without = |event: String| event.replace(r#","org":"a""#, "").replace(r#""org":"a","#, "");
    assert_eq!(pointer_and_code(&structured(without(cloud("a", "7", 7)))), required("/org"));
    let last = batch(&[cloud("b", "7", 7), without(cloud("a", "7", 7))]);
    assert_eq!(pointer_and_code(&last), required("/1/org"));
    assert_eq!(structured(cloud("a", "1", 9)).refusal(), "id_conflict");
}

#[test]
fn at_the_address_of_an_org_an_event_names_that_org_or_none() {
    let gateway = Gateway::start();
    let own = gateway.publish(&event(&gateway.org, "1", 1));
    assert_eq!(own.status, 200, "{own:?}");
    assert!(own.json()["events"][0]["org"].is_null(), "the answer has no org there: {own:?}");
    let key = gateway.key_for("*", "*");
    let mismatch = |pointer: &str| (pointer.to_owned(), "mismatch".to_owned());
    let publishing = || gateway.publishing().with("authorization", &format!("Bearer {key}"));
    let other = publishing().body(array(&[event(&gateway.org, "2", 2), event("other", "2", 2)])).send();
    assert_eq!(pointer_and_code(&other), mismatch("/1/org"));
    let cloud = r#"{"specversion":"1.0","id":"3","source":"s","type":"e","org":"other"}"#;
    let cloud = publishing().with("content-type", "application/cloudevents+json").body(cloud).send();
    assert_eq!(pointer_and_code(&cloud), mismatch("/org"));
    assert_eq!(log_of(&gateway, &gateway.org), [1]);
    assert_eq!(log_of(&gateway, "other"), Vec::<Value>::new());
}

#[test]
fn p5_one_org_over_its_rate_does_not_stop_the_others_of_its_key() {
    let gateway = Gateway::with(&["limits.publishes_per_second=1"]);
    let key = gateway.key_for("*", "*");
    let mut number = 0;
    let answer = eventually("one org over its rate", || {
        number += 1;
        let id = number.to_string();
        let events = array(&[event("storm", &id, 1), event(&format!("calm-{number}"), &id, 2)]);
        let answer = to_orgs(&gateway, &key).body(events).send();
        assert_eq!(answer.json()["events"][1]["seq"], 1, "the other is always stored: {answer:?}");
        (answer.status == 207).then_some(answer)
    });
    let refused = &answer.json()["orgs"][0];
    assert_eq!((&refused["org"], &refused["problem"]["code"]), (&json!("storm"), &json!("rate_limited")));
    assert_eq!(refused["problem"]["limit"], "limits.publishes_per_second");
    assert!(refused["problem"]["retry_in_ms"].is_u64(), "{refused}");
    assert!(gateway.metric("tidegate_refusals_total{limit=\"limits.publishes_per_second\"}") >= 1.0);
    let alone = eventually("a refusal of its own", || {
        let answer = to_orgs(&gateway, &key).body(event("storm", "x", 1)).send();
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((alone.status, alone.refusal().as_str()), (429, "rate_limited"));
    assert!(alone.header("retry-after").is_some());
}

#[test]
fn p5_requests_that_are_refused_before_their_orgs_are_known_count_for_their_key() {
    let gateway = Gateway::with(&["limits.publishes_per_second=1"]);
    let (key, narrow, other) =
        (gateway.key_for("*", "*"), gateway.key_for("a", "*"), gateway.key_for("*", "*"));
    let faulty = r#"{"org":"a","service":"s"}"#.to_owned();
    for (key, body, status) in [(&key, faulty, 422), (&narrow, event("b", "1", 1), 403)] {
        let refused = eventually("a refusal because of the rate", || {
            let answer = to_orgs(&gateway, key).body(body.clone()).send();
            assert!([status, 429].contains(&answer.status), "{answer:?}");
            (answer.status == 429).then_some(answer)
        });
        assert_eq!(refused.refusal(), "rate_limited");
        assert_eq!(refused.json()["limit"], "limits.publishes_per_second");
        assert!(refused.header("retry-after").is_some());
    }
    let answer = to_orgs(&gateway, &other).body(event("a", "1", 1)).send();
    assert_eq!(answer.status, 200, "another key is let in: {answer:?}");
    eventually("the key let in again", || {
        (to_orgs(&gateway, &key).body(event("a", "1", 1)).send().status == 200).then_some(())
    });
}

#[test]
fn p5_one_org_that_waits_for_the_log_leaves_places_for_the_others_of_its_key() {
    let node = HeldNode::with(&[("limits.publishes_in_flight", "4"), ("limits.publish_timeout", "1h")]);
    let to_all = node.publishing_to_all();
    let to_storm = to_all.clone().to("/v1/orgs/storm/events");
    let storm = r#"{"service":"s","event":"e","data":1}"#;
    // Two of four are the share of the org.
    let held: Vec<_> = (0..2).map(|_| to_storm.clone().body(storm).begin()).collect();
    eventually("both at the log", || (node.appends() == 2).then_some(()));
    let refused = to_storm.body(storm).send();
    assert_eq!((refused.status, refused.refusal().as_str()), (503, "overloaded"), "{refused:?}");
    assert_eq!(refused.json()["limit"], "limits.publishes_in_flight");
    let both = || to_all.clone().body(array(&[event("storm", "1", 1), event("calm", "1", 2)]));
    let mut answer = both().begin();
    eventually("one of two at the log", || (node.appends() == 3).then_some(()));
    node.let_answer();
    let answer = Answer::read(&mut answer).expect("an answer");
    assert_eq!(answer.status, 207, "{answer:?}");
    assert_eq!(outcomes(&answer), ["storm 1 overloaded", "calm 1 1"]);
    assert_eq!(answer.json()["orgs"][0]["problem"]["limit"], "limits.publishes_in_flight");
    for mut held in held {
        assert_eq!(Answer::read(&mut held).expect("an answer").status, 200);
    }
    assert_eq!(both().send().status, 200, "the places are given back");
    assert_eq!(node.node.publishes.used(), 0);
}
