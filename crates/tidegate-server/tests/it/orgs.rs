//! The orgs of a node, listed and deleted by operators, and events that must be forgotten (P7).

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    client::{
        http::{Answer, Request},
        stream::Frames,
    },
    gateway::{Gateway, eventually},
    held_node::HeldNode,
};

fn delete(gateway: &Gateway, path: &str) -> Answer {
    Request::new(gateway.admin, "DELETE", path).send()
}

fn done(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, answer.refusal())
}

/// The path of the org on the operators' listener.
fn at(gateway: &Gateway) -> String {
    format!("/v1/orgs/{}", gateway.org)
}

fn publish_to(gateway: &Gateway, org: &str, key: &str, body: &str) -> Answer {
    let to = gateway.publishing().to(&format!("/v1/orgs/{org}/events"));
    to.with("authorization", &format!("Bearer {key}")).body(body).send()
}

/// An event `id` of the service `s`, for `users` or for all, whose data is `data`.
fn event(id: &str, users: &[&str], data: &str) -> String {
    let users = if users.is_empty() { String::new() } else { format!(r#","users":{}"#, json!(users)) };
    format!(r#"{{"service":"s","event":"e","id":"{id}"{users},"data":"{data}"}}"#)
}

fn cursor_of(gateway: &Gateway) -> String {
    gateway.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned()
}

fn ids(events: &Value) -> Vec<&str> {
    events.as_array().expect("events").iter().map(|event| event["id"].as_str().expect("an id")).collect()
}

/// The next `count` events, as their ids. Nothing else comes between them.
fn next_ids(stream: &mut dyn Frames, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        let frame = stream.frame();
        match frame["type"].as_str() {
            Some("event") => found.push(frame["id"].as_str().expect("an id").to_owned()),
            Some("batch") => found.extend(ids(&frame["events"]).iter().map(|id| (*id).to_owned())),
            Some("ping") => {}
            _ => panic!("{frame}"),
        }
    }
    found
}

/// Whether a file of the log has these bytes.
fn holds(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).expect("a directory").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return holds(&path, text);
        }
        // A file may be replaced while this looks.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn orgs_are_listed_and_shown_as_they_are() {
    let gateway = Gateway::start();
    let list = |query: &str| gateway.operators(&format!("/v1/orgs{query}")).json();
    assert_eq!(list(""), json!({"orgs": []}));
    let key = gateway.key_for("*", "*");
    for org in ["b", "c", "a"] {
        assert_eq!(publish_to(&gateway, org, &key, &event("1", &[], "x")).status, 200);
    }
    assert_eq!(publish_to(&gateway, "b", &key, &event("2", &[], "x")).status, 200);
    let mut reader = gateway.ws("");
    let hello = reader.next("hello");

    let all = list("");
    let names: Vec<&str> = all["orgs"].as_array().expect("a list").iter().map(name_of).collect();
    assert_eq!(names, ["a", "b", "c", gateway.org.as_str()]);
    let b = &all["orgs"][1];
    assert_eq!((&b["floor"], &b["head"], &b["readers"]), (&json!(0), &json!(2), &json!(0)));
    assert!(b["last_event_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{b}");
    let own = gateway.operators(&at(&gateway)).json();
    assert_eq!((&own["readers"], &own["last_event_at"]), (&json!(1), &Value::Null));
    let start = format!("{}-0", own["epoch"].as_str().expect("an epoch"));
    assert!(hello["cursor"].as_str().is_some_and(|cursor| cursor.starts_with(&start)), "{hello}: {own}");
    assert_eq!(own, all["orgs"][3]);

    let page = list("?limit=2");
    assert_eq!((page["orgs"].as_array().map(Vec::len), &page["next"]), (Some(2), &json!("b")));
    let rest = list("?limit=2&after=b");
    assert_eq!((rest["orgs"][0]["org"].as_str(), rest.get("next")), (Some("c"), None));
    assert_eq!(list("?after=bb")["orgs"][0]["org"], "c", "after a name that nobody has");
    assert_eq!(refused(&gateway.operators("/v1/orgs/nobody")), (404, "not_found".into()));
    for path in
        ["/v1/orgs?limit=0", "/v1/orgs?after=a%20b", "/v1/orgs?user=u", "/v1/orgs/a%20b", "/v1/orgs/a?x=1"]
    {
        assert_eq!(refused(&gateway.operators(path)), (400, "bad_request".into()), "{path}");
    }
    let at_orgs = Request::new(gateway.admin, "DELETE", "/v1/orgs").send();
    assert_eq!(refused(&at_orgs), (405, "method_not_allowed".into()));
    drop(reader);

    let gateway = gateway.killed_and_started_again();
    let b = gateway.operators("/v1/orgs/b").json();
    assert_eq!((&b["head"], &b["epoch"]), (&json!(2), &Value::Null), "not used since the start");
}

fn name_of(org: &Value) -> &str {
    org["org"].as_str().expect("a name")
}

#[test]
fn p7_a_deleted_org_is_gone_with_its_readers_and_keys_and_comes_back_under_a_new_epoch() {
    let gateway = Gateway::start();
    let path = at(&gateway);
    let listed_key = gateway.key_for(&format!("{},other", gateway.org), "*");
    let any_key = gateway.key_for("*", "*");
    assert_eq!(gateway.publish(&event("1", &[], "forget-this")).status, 200);
    assert_eq!(publish_to(&gateway, "other", &listed_key, &event("1", &[], "keep-this")).status, 200);
    let cursor = cursor_of(&gateway);
    let mut readers = gateway.both("");
    for reader in &mut readers {
        reader.next("hello");
    }
    assert_eq!(refused(&delete(&gateway, "/v1/orgs/nobody")), (404, "not_found".into()));
    for query in ["?keys=all", "?all=true"] {
        assert_eq!(refused(&delete(&gateway, &format!("{path}{query}"))), (400, "bad_request".into()));
    }

    let answer = done(&delete(&gateway, &path));
    assert_eq!(
        answer,
        json!({"org": gateway.org, "readers_closed": 2, "keys_removed": 1, "keys_changed": 1})
    );
    assert_eq!(refused(&delete(&gateway, &path)), (404, "not_found".into()));
    for reader in &mut readers {
        let error = reader.next("error");
        assert_eq!(error["code"], "revoked", "{error}");
    }
    assert_eq!(gateway.metric("tidegate_orgs_deleted_total"), 1.0);
    let closed = || gateway.metric("tidegate_closes_total{code=\"revoked\"}") == 2.0;
    eventually("their ends counted", || closed().then_some(()));
    // Its keys: one is gone, one has lost it, one covers it as it covers every name.
    let body = event("2", &[], "later");
    assert_eq!(refused(&gateway.publish(&body)), (401, "unauthorized".into()));
    assert_eq!(refused(&publish_to(&gateway, &gateway.org, &listed_key, &body)), (403, "forbidden".into()));
    assert_eq!(publish_to(&gateway, "other", &listed_key, &body).status, 200);

    // The name comes back at once, as a log that begins at 1 again.
    let mut reader = gateway.ws("");
    reader.next("hello");
    for id in ["n1", "n2"] {
        let body = event(id, &[], "forget-this-too");
        assert_eq!(publish_to(&gateway, &gateway.org, &any_key, &body).status, 200);
        assert_eq!(next_ids(&mut reader, 1), [id]);
    }
    drop(reader);
    // Killed right after the answer, before or while its bytes are erased.
    done(&delete(&gateway, &path));
    let gateway = gateway.killed_and_started_again();
    assert_eq!(gateway.operators(&path).status, 404);
    let directory = gateway.dir().join("segments");
    eventually("the bytes gone", || (!holds(&directory, "forget-this")).then_some(()));
    assert!(holds(&directory, "keep-this"));
    // Also now the name is that of another log: its ids are new, and an old cursor gets a gap.
    let stored = publish_to(&gateway, &gateway.org, &any_key, &event("1", &[], "new")).json();
    assert_eq!((&stored["events"][0]["seq"], &stored["events"][0]["duplicate"]), (&json!(1), &json!(false)));
    let new = gateway.operators(&path).json();
    assert!(!cursor.starts_with(new["epoch"].as_str().expect("an epoch")), "{cursor}: {new}");
    for reader in &mut gateway.both(&format!("?cursor={cursor}")) {
        reader.next("hello");
        assert_eq!(reader.next("gap")["reason"], "epoch");
    }
    // With the keys kept, its publishers go on at once.
    let kept = done(&delete(&gateway, &format!("{path}?keys=keep")));
    assert_eq!((&kept["keys_removed"], &kept["keys_changed"]), (&json!(0), &json!(0)));
    assert_eq!(gateway.publish(&event("1", &[], "again")).status, 200);
}

#[test]
fn p7_a_deleted_event_is_gone_from_memory_pages_and_files() {
    // One worker, so that its cache of pages has what is read twice.
    let gateway = Gateway::with(&["node.workers=1"]);
    let events = |query: &str| gateway.getting(&format!("events{query}")).send().json();
    let path = format!("{}/events", at(&gateway));
    let before = cursor_of(&gateway);
    let mut live = gateway.ws("");
    live.next("hello");
    let ann = gateway.token_of("ann", &["*"]);
    let batch = [
        event("a", &[], "1"),
        event("b", &[], "forget-b"),
        event("c", &["ann", "bob"], "forget-c"),
        event("d", &[], "forget-d"),
    ];
    assert_eq!(gateway.publish(&format!("[{}]", batch.join(","))).status, 200);
    assert_eq!(next_ids(&mut live, 3), ["a", "b", "d"]);
    assert_eq!(ids(&events("")["events"]), ["a", "b", "d"], "and its page is kept");

    for query in
        ["", "?service=s", "?id=b", "?service=s&id=b&user=ann", "?user=a%20b", "?service=s&id=b&all=true"]
    {
        let answer = delete(&gateway, &format!("{path}{query}"));
        assert_eq!(refused(&answer), (400, "bad_request".into()), "{query}");
    }
    assert_eq!(refused(&delete(&gateway, "/v1/orgs/nobody/events?user=ann")), (404, "not_found".into()));
    for query in ["?service=s&id=x", "?service=t&id=b"] {
        assert_eq!(refused(&delete(&gateway, &format!("{path}{query}"))), (404, "not_found".into()));
    }
    assert_eq!(done(&delete(&gateway, &format!("{path}?user=u"))), json!({"deleted": 0}));
    assert_eq!(done(&delete(&gateway, &format!("{path}?service=s&id=b"))), json!({"deleted": 1}));
    assert_eq!(done(&delete(&gateway, &format!("{path}?user=bob"))), json!({"deleted": 1}));
    assert_eq!(refused(&delete(&gateway, &format!("{path}?service=s&id=b"))), (404, "not_found".into()));
    assert_eq!(gateway.metric("tidegate_events_deleted_total"), 2.0);

    // Not in history, not in a replay, not as the last events; and there is no gap in their places.
    assert_eq!(ids(&events("")["events"]), ["a", "d"]);
    assert_eq!(events("").get("gap"), None);
    for query in [format!("?cursor={before}"), "?tail=9".to_owned()] {
        for stream in &mut gateway.both_as(&ann, &query) {
            stream.next("hello");
            assert_eq!(next_ids(stream.as_mut(), 2), ["a", "d"], "{query}");
        }
    }
    // Its id is known: who sends it again does not bring it back. The live reader goes on.
    let again = gateway.publish(&event("b", &[], "forget-b")).json();
    assert_eq!((&again["events"][0]["seq"], &again["events"][0]["duplicate"]), (&json!(2), &json!(true)));
    assert_eq!(gateway.publish(&event("e", &[], "5")).status, 200);
    assert_eq!(next_ids(&mut live, 1), ["e"]);

    let directory = gateway.dir().join("segments");
    eventually("the bytes gone while it runs", || {
        let is_gone = !holds(&directory, "forget-b") && !holds(&directory, "forget-c");
        is_gone.then_some(())
    });
    assert!(holds(&directory, "forget-d"));
    // Killed right after the answer, before or while the bytes of `d` are erased.
    assert_eq!(done(&delete(&gateway, &format!("{path}?service=s&id=d"))), json!({"deleted": 1}));
    drop(live);
    let gateway = gateway.killed_and_started_again();
    let history = gateway.getting("events").send().json();
    assert_eq!((ids(&history["events"]), history.get("gap")), (vec!["a", "e"], None));
    let directory = gateway.dir().join("segments");
    eventually("its bytes gone", || (!holds(&directory, "forget-d")).then_some(()));
    for stream in &mut gateway.both(&format!("?cursor={before}")) {
        stream.next("hello");
        assert_eq!(next_ids(stream.as_mut(), 2), ["a", "e"]);
    }
}

#[test]
fn p7_what_was_read_before_a_deletion_reaches_nobody_after_it() {
    let node = HeldNode::start();
    let start = node.getting("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    node.let_answer();
    let batch = format!("[{},{}]", event("a", &[], "1"), event("b", &[], "2"));
    assert_eq!(node.publishing().body(&batch).send().status, 200);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let acme = tidegate_protocol::OrgId::parse("acme").expect("a name");
    // The page of each reader was read from the log when the deletion comes, and is not handed out yet.
    let wait_for_page = |start: &str| {
        let before = node.reads();
        node.let_read(false);
        let mut stream = node.ws(&format!("?cursor={start}"));
        stream.next("hello");
        eventually("its page read", || (node.reads() > before).then_some(()));
        stream
    };
    let mut stream = wait_for_page(&start);
    runtime.block_on(node.node.engine.delete_events(&acme, vec![1])).expect("deleted");
    node.let_read(true);
    assert_eq!(next_ids(&mut stream, 1), ["b"]);

    // The org's next log has events at the same seqs. This reader's page is another one, not in the cache.
    let mut stream = wait_for_page(&start.replacen("-0", "-1", 1));
    runtime.block_on(node.node.engine.delete_org(&acme)).expect("deleted");
    assert_eq!(node.publishing().body(batch).send().status, 200);
    node.let_read(true);
    let (error, close) = stream.refusal();
    assert_eq!((error["code"].as_str(), close), (Some("revoked"), 4554), "{error}");
}
