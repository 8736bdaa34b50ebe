//! The publish contract: every answer of `POST /v1/orgs/{org}/events`.

use std::{
    io::{BufReader, Write as _},
    net::TcpStream,
    time::Instant,
};

use serde_json::{Value, json};

use crate::{
    client::{
        http::{Answer, Request, connect},
        stream::{Follower, Frames as _},
    },
    gateway::{DEADLINE, Gateway, eventually},
};

fn event(data: &str) -> String {
    format!(r#"{{"service":"finance","event":"invoice.paid","data":{data}}}"#)
}

fn pointers(answer: &Answer) -> Vec<(String, String)> {
    let problem = answer.json();
    let errors = problem["errors"].as_array().expect("errors").iter();
    let text = |error: &Value, name: &str| error[name].as_str().expect(name).to_owned();
    errors.map(|error| (text(error, "pointer"), text(error, "code"))).collect()
}

#[test]
fn an_event_is_answered_with_its_place_in_one_shape() {
    let gateway = Gateway::start();
    let answer = gateway.publish(r#"{"service":"finance","event":"paid","id":"a","data":{}}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let said = answer.json();
    assert_eq!(said.as_object().expect("an object").len(), 2, "{said}");
    assert_eq!(said["events"], json!([{"service": "finance", "id": "a", "seq": 1, "duplicate": false}]));
    let cursor: tidegate_protocol::Cursor = said["cursor"].as_str().expect("text").parse().expect("a cursor");
    assert_eq!((cursor.seq, cursor.tag), (1, None), "an untagged cursor matches any filter (R4)");

    let array = gateway.publish(&format!("[{},{}]", event("1"), event("2"))).json();
    assert_eq!(array["events"].as_array().expect("two").len(), 2);
    let lines = format!("{}\n\n{}\r\n", event("1"), event("2"));
    let lines = gateway.publishing().with("content-type", "application/x-ndjson; charset=utf-8").body(lines);
    assert_eq!(lines.send().json()["events"][1]["seq"], 5);
}

#[test]
fn p4_r12_an_id_is_stored_once_and_other_content_is_a_conflict() {
    let gateway = Gateway::start();
    let first = r#"{"service":"finance","event":"paid","id":"a","data":{"n": 1}}"#;
    gateway.publish(first);
    let again = gateway.publish(r#"{"data":{"n":1},"id":"a","event":"paid","service":"finance"}"#);
    assert_eq!(again.status, 200, "{again:?}");
    let place = &again.json()["events"][0];
    assert_eq!((&place["seq"], &place["duplicate"]), (&json!(1), &json!(true)));

    let other = gateway.publish(&first.replace("1}", "2}"));
    assert_eq!((other.status, other.refusal().as_str()), (409, "id_conflict"));
    let service = gateway.publish(&first.replace("finance", "staff")).json();
    assert_eq!(service["events"][0]["duplicate"], false, "the same id of another service is another event");

    let gateway = gateway.killed_and_started_again();
    let place = &gateway.publish(first).json()["events"][0];
    assert_eq!((&place["seq"], &place["duplicate"]), (&json!(1), &json!(true)), "also after a restart");
}

#[test]
fn ids_are_drawn_or_made_of_the_idempotency_key() {
    let gateway = Gateway::start();
    let batch = format!("[{},{}]", event("1"), event("2"));
    let drawn = gateway.publish(&batch).json();
    let id = drawn["events"][1]["id"].as_str().expect("an id");
    let uuid: uuid::Uuid = id.parse().expect("a UUID");
    assert_eq!(uuid.get_version_num(), 7);

    let keyed = || gateway.publishing().with("idempotency-key", "order-7").body(&batch).send().json();
    let first = keyed();
    assert_eq!(first["events"][0]["id"], "order-7-0");
    assert_eq!(first["events"][1]["id"], "order-7-1");
    let again = keyed();
    assert_eq!(again["events"][1]["duplicate"], true);
    assert_eq!(again["events"][1]["seq"], first["events"][1]["seq"]);
    assert_eq!(again["cursor"], first["cursor"], "its cursor is the first one's");
}

/// The draft draft-ietf-httpapi-idempotency-key-header of the IETF.
#[test]
fn p4_r12_an_idempotency_key_stands_for_the_whole_request() {
    let mut gateway = Gateway::start();
    let (one, two) = (event("1"), event("2"));
    let own = r#"{"service":"finance","event":"paid","id":"own","data":3}"#;
    let firsts = [
        ("auto", format!("[{one},{two}]")),
        ("single", one.clone()),
        // None of its events gets an id from the key.
        ("given", format!("[{own}]")),
    ];
    let sent = |gateway: &Gateway, key: &str, body: &str| {
        gateway.publishing().with("idempotency-key", key).body(body).send()
    };
    let answers = firsts.each_ref().map(|(key, body)| sent(&gateway, key, body).json());
    let refused = |answer: &Answer, what: &str| {
        assert_eq!(
            (answer.status, answer.refusal().as_str()),
            (422, "request_conflict"),
            "{what}: {answer:?}"
        );
        assert!(answer.json()["detail"].as_str().is_some_and(|text| text.contains("at seq")), "{answer:?}");
    };
    for round in ["at once", "after a restart"] {
        for ((key, body), first) in firsts.iter().zip(&answers) {
            let again = sent(&gateway, key, body).json();
            for (place, first) in again["events"]
                .as_array()
                .expect("places")
                .iter()
                .zip(first["events"].as_array().expect("places"))
            {
                assert_eq!((&place["id"], &place["seq"]), (&first["id"], &first["seq"]), "{round} {key}");
                assert_eq!(place["duplicate"], true, "{round} {key}");
            }
            // White space and the order of members are no other body; quotes are no other key.
            assert_eq!(sent(&gateway, &format!("\"{key}\""), &body.replace(':', " : ")).status, 200);
        }
        // Fewer events, more, others, another order, another service.
        let staff = one.replace("finance", "staff");
        for (key, body) in [
            ("auto", one.clone()),
            ("auto", format!("[{one},{two},{two}]")),
            ("auto", format!("[{two},{one}]")),
            ("single", two.clone()),
            ("single", staff),
            ("given", one.clone()),
            ("given", own.replace("own", "other")),
        ] {
            refused(&sent(&gateway, key, &body), &format!("{round} {key} {body}"));
        }
        let cloud = r#"{"specversion":"1.0","id":"a","source":"/x","type":"t","service":"s","data":1}"#;
        let cloud = gateway.publishing().with("content-type", "application/cloudevents+json").body(cloud);
        refused(&cloud.with("idempotency-key", "auto").send(), "a CloudEvent");
        assert_eq!(gateway.getting("cursor").send().json()["head"], 4, "nothing of these is there");
        gateway = gateway.killed_and_started_again();
    }
    // Another publisher's key, and another org's, is another key.
    let second = gateway.key_for(&gateway.org, "*");
    let request = gateway.publishing().with("idempotency-key", "given").body(event("9"));
    assert_eq!(request.with("authorization", &format!("Bearer {second}")).send().status, 200);
    let other = gateway.key_for("other", "*");
    let request = gateway.publishing().to("/v1/orgs/other/events").with("idempotency-key", "auto");
    let request = request.with("authorization", &format!("Bearer {other}")).body(event("9"));
    assert_eq!(request.send().json()["events"][0]["duplicate"], false);
}

#[test]
fn an_idempotency_key_may_be_a_quoted_string() {
    let gateway = Gateway::start();
    let sent = |key: &str| gateway.publishing().with("idempotency-key", key).body(event("1")).send();
    for (key, id) in [
        ("\"a-b\"", "a-b-0"),
        (r#""x\"\\""#, r#"x"\-0"#),
        ("y\"z", "y\"z-0"),
        (&format!("\"{}\"", "q".repeat(120)), &format!("{}-0", "q".repeat(120))),
    ] {
        assert_eq!(sent(key).json()["events"][0]["id"], id, "{key}");
    }
    for key in [
        "\"",
        "\"\"",
        "\"a",
        "\"a\"b",
        "\"a\";p=1",
        r#""a\b""#,
        r#""a\""#,
        "\"a b\"",
        &format!("\"{}\"", "q".repeat(121)),
    ] {
        let answer = sent(key);
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{key}");
    }
}

#[test]
fn a_batch_is_taken_whole_or_refused_whole() {
    let gateway = Gateway::start();
    gateway.publish(r#"{"service":"finance","event":"paid","id":"taken","data":1}"#);
    let conflicting = r#"{"service":"finance","event":"paid","id":"taken","data":2}"#;
    for (batch, status) in [
        (format!("[{},{}]", event("1"), r#"{"service":"finance"}"#), 422),
        (format!("[{},{conflicting}]", event("1")), 409),
        (format!("[{},", event("1")), 400),
        (format!("[{},{}]", event("1"), event(&format!("\"{}\"", "x".repeat(300_000)))), 413),
    ] {
        assert_eq!(gateway.publish(&batch).status, status, "{batch:.80}");
    }
    let narrow = gateway.key_for(&gateway.org, "finance");
    let two = format!("[{},{}]", event("1"), r#"{"service":"staff","event":"e","data":1}"#);
    let narrow = gateway.publishing().with("authorization", &format!("Bearer {narrow}"));
    let answer = narrow.clone().body(two).send();
    assert_eq!((answer.status, answer.refusal().as_str()), (403, "forbidden"));
    assert_eq!(gateway.getting("cursor").send().json()["head"], 1, "nothing of any of them is there");
    assert_eq!(narrow.body(event("1")).send().status, 200);
}

#[test]
fn faulty_fields_are_named_by_pointers() {
    let gateway = Gateway::start();
    let answer = gateway.publish(r#"[{"service":"a b","event":"e","data":1},{"event":7,"users":[]}]"#);
    assert_eq!((answer.status, answer.refusal().as_str()), (422, "invalid"));
    let expected = [
        ("/0/service", "format"),
        ("/1/service", "required"),
        ("/1/event", "type"),
        ("/1/data", "required"),
        ("/1/users", "empty"),
    ];
    assert_eq!(pointers(&answer), expected.map(|(at, code)| (at.to_owned(), code.to_owned())));
    for error in answer.json()["errors"].as_array().expect("errors") {
        assert!(error["detail"].as_str().expect("a detail").contains(' '));
    }
    let deep = gateway.publish(&event(&format!("{}{}", "[".repeat(65), "]".repeat(65))));
    assert_eq!(pointers(&deep), [("/data".to_owned(), "depth".to_owned())]);
    assert_eq!(gateway.publish(&event(&format!("{}{}", "[".repeat(64), "]".repeat(64)))).status, 200);
}

#[test]
fn fields_that_do_not_exist_are_refused_and_nothing_is_shown_to_everybody() {
    let gateway = Gateway::start();
    for (name, near) in [
        ("usres", "`users`"),
        ("recipients", "`users`"),
        ("to", "`users`"),
        ("targets", "`users`"),
        ("user-ids", "`users`"),
        ("ID", "`id`"),
        ("a/b", "service, event, data"),
    ] {
        let good = json!({"service": "s", "event": "e", "data": 1});
        let event = json!({"service": "s", "event": "e", "data": 1, name: ["ann"]});
        let pointer = name.replace('/', "~1");
        for (media, body, at) in [
            ("application/json", event.to_string(), ""),
            ("application/json", format!("[{good},{event}]"), "/1"),
            ("application/x-ndjson", format!("{good}\n{event}"), "/1"),
        ] {
            let answer = gateway.publishing().with("content-type", media).body(body).send();
            assert_eq!((answer.status, answer.refusal().as_str()), (422, "invalid"), "{name}");
            assert_eq!(pointers(&answer), [(format!("{at}/{pointer}"), "unknown_field".to_owned())]);
            let detail = answer.json()["errors"][0]["detail"].to_string();
            assert!(detail.contains(near), "{name}: {detail}");
        }
    }
    assert_eq!(gateway.getting("cursor").send().json()["head"], 0, "nothing of these is there");
}

#[test]
fn who_may_not_publish_is_told_why() {
    let gateway = Gateway::start();
    let other_org = gateway.key_for("other", "*");
    let secret_of_another = format!("{}x", gateway.key);
    for (authorization, status, code) in [
        (None, 401, "unauthorized"),
        (Some("Basic dTpw".to_owned()), 401, "unauthorized"),
        (Some("Bearer nonsense".to_owned()), 401, "unauthorized"),
        (Some("Bearer tgk_unknown_secret".to_owned()), 401, "unauthorized"),
        (Some(format!("Bearer {secret_of_another}")), 401, "unauthorized"),
        (Some(format!("Bearer {}", gateway.token)), 401, "unauthorized"),
        (Some(format!("Bearer {other_org}")), 403, "forbidden"),
    ] {
        let mut request = gateway.publishing().without("authorization").body(event("1"));
        if let Some(value) = &authorization {
            request = request.with("authorization", value);
        }
        let answer = request.send();
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{authorization:?}");
        let asks = answer.header("www-authenticate");
        assert_eq!(asks, (status == 401).then_some("Bearer"), "{authorization:?}");
        assert!(!answer.body.contains(&gateway.key), "{answer:?}");
    }
    let twice = gateway.publishing().adding("authorization", &format!("Bearer {}", gateway.key));
    assert_eq!(twice.body(event("1")).send().status, 401, "two Authorization headers are none");
}

#[test]
fn other_addresses_methods_and_media_are_refused_by_name() {
    let gateway = Gateway::start();
    let get = |path: &str| gateway.getting("").with("x", "y").to(path);
    assert_eq!(get("/nowhere").send().refusal(), "not_found");
    assert_eq!(get("/v1/orgs/dev/nowhere").send().status, 404);
    for (method, endpoint, allowed) in [
        ("PUT", "events", "GET, POST, OPTIONS"),
        ("DELETE", "stream", "GET, OPTIONS"),
        ("POST", "stream", "GET, OPTIONS"),
        ("PATCH", "cursor", "GET, OPTIONS"),
    ] {
        let answer = gateway.getting(endpoint).by(method).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (405, "method_not_allowed"), "{method}");
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {endpoint}");
    }
    for kind in ["text/plain", "application/jsonx", "", "application/x-www-form-urlencoded"] {
        let answer = gateway.publishing().with("content-type", kind).body(event("1")).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (415, "unsupported_media"), "{kind}");
    }
    assert_eq!(gateway.publishing().without("content-type").body(event("1")).send().status, 415);
}

/// RFC 7493, sections 2.1 and 2.2. A reader with a strict parser could never get past a batch with one of these.
#[test]
fn what_a_strict_reader_could_not_parse_is_refused_with_its_pointer() {
    let gateway = Gateway::start();
    for (data, pointer) in [
        (r#""\ud800""#, "/data"),
        (r#"{"a":["\udc00\ud800"]}"#, "/data/a/0"),
        (r#"{"a":{"\ud800":1}}"#, "/data/a"),
        ("1e400", "/data"),
        (r#"{"a~/b":[1,-1E+309]}"#, "/data/a~0~1b/1"),
    ] {
        let answer = gateway.publish(&event(data));
        assert_eq!((answer.status, answer.refusal().as_str()), (422, "invalid"), "{data}");
        assert_eq!(pointers(&answer), [(pointer.to_owned(), "format".to_owned())], "{data}");
        let lines = format!("{}\n{}", event("1"), event(data));
        let lines = gateway.publishing().with("content-type", "application/x-ndjson").body(lines).send();
        assert_eq!(pointers(&lines), [(format!("/1{pointer}"), "format".to_owned())], "{data}");
    }
    let answer = gateway.publish(r#"{"service":"\ud800","event":"e","users":["\ud800"],"data":1}"#);
    let expected = ["/service", "/users/0"].map(|at| (at.to_owned(), "format".to_owned()));
    assert_eq!(pointers(&answer), expected);
    // What is taken is read by this strict parser.
    let kept = r#"[12345678901234567890,1e308,1e-400,"\ud83d\ude00"]"#;
    assert_eq!(gateway.publish(&event(kept)).status, 200);
    let events = gateway.getting("events").send();
    assert!(
        events.body.contains(kept) && events.json()["events"].as_array().is_some_and(|all| all.len() == 1)
    );
}

#[test]
fn a_body_that_begins_with_a_byte_order_mark_is_refused_in_so_many_words() {
    let gateway = Gateway::start();
    let cloud = r#"{"specversion":"1.0","id":"a","source":"/x","type":"t","service":"s","data":1}"#;
    let binary = [("ce-specversion", "1.0"), ("ce-id", "a"), ("ce-source", "/x"), ("ce-type", "t")];
    let bodies = [
        ("application/json", &binary[..0], event("1")),
        ("application/x-ndjson", &[], event("1")),
        ("application/cloudevents+json", &[], cloud.to_owned()),
        ("application/cloudevents-batch+json", &[], format!("[{cloud}]")),
        ("application/json", &binary, "1".to_owned()),
    ];
    for (kind, headers, body) in bodies {
        let request = gateway.publishing().with("content-type", kind).body(format!("\u{feff}{body}"));
        let answer = headers.iter().fold(request, |all, (name, value)| all.with(name, value)).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{kind}");
        assert!(answer.body.contains("byte order mark"), "{kind}: {answer:?}");
    }
}

#[test]
fn data_is_kept_token_for_token_on_every_path() {
    let gateway = Gateway::start();
    let sent = r#"{ "n" : [ 1.0 , 1e5, -0, 12345678901234567890 ] , "n" : "a \u00e9\ud83d\ude00 \/ b" , "ä": null }"#;
    let kept = r#"{"n":[1.0,1e5,-0,12345678901234567890],"n":"a \u00e9\ud83d\ude00 \/ b","ä":null}"#;
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("text").to_owned();
    let mut live = gateway.both("");
    live.iter_mut().for_each(|stream| drop(stream.next("hello")));
    assert_eq!(gateway.publish(&event(sent)).status, 200);
    let whole = format!("\"data\":{kept}}}");
    for stream in &mut live {
        let frame = stream.try_frame().expect("live");
        assert!(frame.ends_with(&whole), "{}: {frame}", stream.transport());
    }
    for stream in &mut gateway.both(&format!("?cursor={start}")) {
        stream.next("hello");
        let frame = stream.try_frame().expect("resumed");
        assert!(frame.ends_with(&whole), "{}: {frame}", stream.transport());
    }
    assert!(gateway.getting("events").send().body.contains(&whole));
    let gateway = gateway.killed_and_started_again();
    assert!(gateway.getting("events").send().body.contains(&whole), "from disk");
    let mut stream = gateway.ws(&format!("?cursor={start}"));
    stream.next("hello");
    assert!(stream.try_frame().expect("replayed").ends_with(&whole));
}

#[test]
fn optional_fields_come_out_and_users_never_do() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws_as(&gateway.token_of("ann", &["*"]), "");
    stream.next("hello");
    gateway.publish(
        r#"{"service":"s","event":"e","id":"i","key":"k","time":"2026-11-24T10:00:00+01:00","users":["ann","bob"],"data":1}"#,
    );
    let frame = stream.next("event");
    assert_eq!(frame["key"], "k");
    assert_eq!(frame["time"], "2026-11-24T09:00:00.000Z", "in UTC with milliseconds");
    assert_eq!(frame["targeted"], true);
    assert!(!frame.to_string().contains("bob"), "R8: {frame}");
    let names: Vec<_> = frame.as_object().expect("an object").keys().map(String::as_str).collect();
    for name in ["type", "org", "service", "event", "id", "seq", "prev", "timestamp", "data"] {
        assert!(names.contains(&name), "{name} is missing: {frame}");
    }
    gateway.publish(r#"[{"service":"s","event":"e","data":1},{"service":"s","event":"e","data":2}]"#);
    let batch = stream.next("batch");
    for name in ["type", "org", "prev"] {
        assert!(batch["events"][0].get(name).is_none(), "an entry repeats {name}: {batch}");
    }
    assert_eq!((&batch["prev"], &batch["seq"]), (&json!(1), &json!(3)));
    let mut client = Follower::default();
    let mut again = gateway.ws("?tail=2");
    client.hear(&again.try_frame().expect("hello"));
    again.events(&mut client, 2);
}

#[test]
fn who_is_refused_in_the_middle_of_a_body_is_told_so() {
    let gateway = Gateway::start();
    let body = " ".repeat(4 << 20);
    for _ in 0..10 {
        let refused = gateway.publishing().with("authorization", "Bearer tgk_nobody_nothing").body(&body);
        // If a write fails, the gateway has closed over unread bytes; then a client, and above all a proxy,
        // may never see the answer.
        let mut stream = connect(gateway.public);
        stream.write_all(&refused.bytes()).expect("the whole body is taken");
        let answer = Answer::read(&mut BufReader::new(&stream)).expect("an answer");
        assert_eq!((answer.status, answer.refusal().as_str()), (401, "unauthorized"));
    }
    // The rest is not read for ever: a client that keeps sending is cut off.
    let mut stream = connect(gateway.public);
    let endless = gateway.publishing().without("authorization").with("content-length", "9000000000");
    stream.write_all(&endless.bytes()).expect("the head");
    let began = Instant::now();
    while stream.write_all(&[b' '; 4096]).is_ok() {
        assert!(began.elapsed() < DEADLINE, "the gateway goes on reading");
    }
}

/// A request whose head is taken, and whose body does not follow.
fn without_body(request: &Request) -> BufReader<TcpStream> {
    let mut stream = request.clone().with("expect", "100-continue").with("content-length", "100").begin();
    assert_eq!(Answer::read_head(&mut stream).expect("an answer").status, 100, "its body is waited for");
    stream
}

#[test]
fn one_org_that_sends_slowly_leaves_places_for_the_others() {
    let gateway = Gateway::with(&["limits.publishes_in_flight=1"]);
    let key = gateway.key_for("*", "*");
    let to_all = gateway.publishing().to("/v1/events").with("authorization", &format!("Bearer {key}"));
    let held =
        [without_body(&gateway.publishing()), without_body(&gateway.publishing()), without_body(&to_all)];
    let event = r#"{"service":"s","event":"e","data":1}"#;
    let theirs = to_all.to("/v1/orgs/other/events");
    assert_eq!(theirs.body(event).send().status, 200);
    assert_eq!(gateway.publish(event).status, 200, "what is only announced holds no place");
    drop(held);
}

#[test]
fn p5_a_body_that_stops_half_way_takes_memory_of_its_orgs_share() {
    let settings = ["limits.event_bytes=64KiB", "limits.request_bytes=64KiB"];
    let gateway = Gateway::with(&[settings[0], settings[1], "limits.in_flight_bytes=128KiB"]);
    let key = gateway.key_for("*", "*");
    let to_all = gateway.publishing().to("/v1/events").with("authorization", &format!("Bearer {key}"));
    let theirs = to_all.clone().to("/v1/orgs/other/events");
    let event = r#"{"service":"s","event":"e","data":1}"#;
    let large = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(60_000));
    let in_memory = || gateway.metric("tidegate_in_flight_bytes{kind=\"body\"}");
    // Charged to the org, and to the key while the orgs are not known.
    for request in [gateway.publishing(), to_all] {
        let mut held = request.clone().with("content-length", "65000").begin();
        held.get_mut().write_all(&[b' '; 60_000]).expect("send");
        eventually("its bytes", || (in_memory() >= 60_000.0).then_some(()));
        let answer = request.clone().body(large.as_str()).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (503, "overloaded"), "{answer:?}");
        assert_eq!(answer.json()["limit"], "limits.in_flight_bytes");
        assert_eq!(theirs.clone().body(event).send().status, 200);
        drop(held);
        eventually("its memory given back", || (in_memory() == 0.0).then_some(()));
    }
    assert_eq!(gateway.publish(&large).status, 200);
}
