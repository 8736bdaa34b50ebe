//! CloudEvents over `POST /v1/orgs/{org}/events`, in the three modes of their HTTP binding.

use serde_json::{Value, json};

use crate::{
    client::{
        http::{Answer, Request},
        stream::{Follower, Frames as _},
    },
    gateway::Gateway,
    held_node::HeldNode,
};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// A valid event in JSON with `changes`; null removes a member.
fn envelope(changes: &Value) -> String {
    let mut event =
        json!({"specversion": "1.0", "id": "a", "source": "/bank", "type": "paid", "service": "s"});
    let members = event.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("changes") {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, value| !value.is_null());
    event.to_string()
}

fn structured(gateway: &Gateway, body: &str) -> Request {
    gateway.publishing().with("content-type", &format!("{STRUCTURED}; charset=UTF-8")).body(body)
}

fn batch(gateway: &Gateway, body: &str) -> Request {
    gateway.publishing().with("content-type", BATCH).body(body)
}

/// A valid event in binary mode, with the id `a`.
fn binary(gateway: &Gateway, data: &str) -> Request {
    [("specversion", "1.0"), ("id", "a"), ("source", "/bank"), ("type", "paid"), ("service", "s")]
        .iter()
        .fold(gateway.publishing(), |request, (name, value)| request.with(&format!("ce-{name}"), value))
        .body(data)
}

/// The cursor of a 202, which has nothing else.
fn seq(answer: &Answer) -> u64 {
    assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{answer:?}");
    assert_eq!((answer.header("content-length"), answer.header("content-type")), (Some("0"), None));
    let cursor = answer.header("tidegate-cursor").expect("a cursor");
    let cursor: tidegate_protocol::Cursor = cursor.parse().expect("a cursor");
    assert_eq!(cursor.tag, None);
    cursor.seq
}

/// Pointer and code of the only fault.
fn fault(answer: &Answer) -> (String, String) {
    answer.refusal();
    let errors = &answer.json()["errors"];
    assert_eq!(errors.as_array().map(Vec::len), Some(1), "{answer:?}");
    let text = |name: &str| errors[0][name].as_str().expect(name).to_owned();
    assert_eq!(text("detail"), answer.json()["detail"]);
    (text("pointer"), text("code"))
}

#[test]
fn each_mode_is_taken_and_seen_on_every_path_token_for_token() {
    let gateway = Gateway::start();
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("text").to_owned();
    let mut live = gateway.both("");
    live.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let data = r#"{ "n" : [ 1.0 , 1e5 ] , "n" : "\ud83d\ude00 \/" }"#;
    let kept = r#"{"n":[1.0,1e5],"n":"\ud83d\ude00 \/"}"#;
    let one = |id: &str| {
        format!(
            r#" {{"id":"{id}","source":"/bänk","specversion":"1.0","type":"com.acme.paid","subject":"in \"7\"","data":{data},"service":"finance","partitionkey":"k","time":"2026-11-24T10:00:00+01:00","traceparent":"00-1-2-03"}} "#
        )
    };
    assert_eq!(seq(&structured(&gateway, &one("a")).send()), 1);
    assert_eq!(seq(&batch(&gateway, &format!("[{},{}]", one("b"), one("c"))).send()), 3);
    let binary = [
        ("content-type", "application/json; charset=utf-8"),
        ("Ce-Id", "d"),
        ("CE-Source", "/b%C3%a4nk"),
        ("ce-specversion", "1.0"),
        ("ce-type", "com.acme.paid"),
        ("ce-subject", r#""in \"7\"""#),
        ("ce-service", "finance"),
        ("ce-partitionkey", "k"),
        ("ce-time", "2026-11-24T10:00:00+01:00"),
        ("ce-traceparent", "00-1-2-03"),
    ]
    .iter()
    .fold(gateway.publishing(), |request, (name, value)| request.with(name, value));
    assert_eq!(seq(&binary.body(data).send()), 4);

    let whole = |id: &str| {
        format!(
            r#""service":"finance","event":"com.acme.paid","id":"{id}","key":"k","source":"/bänk","subject":"in \"7\"","time":"2026-11-24T09:00:00.000Z","data":{kept}}}"#
        )
    };
    let replayed = gateway.both(&format!("?cursor={start}"));
    for mut stream in live.into_iter().chain(replayed) {
        let mut text = String::new();
        while !text.contains(r#""id":"d""#) {
            text += &stream.try_frame().expect("a frame");
        }
        for id in ["a", "b", "c", "d"] {
            assert!(text.contains(&whole(id)), "{}: {id}: {text}", stream.transport());
        }
    }
    let gateway = gateway.killed_and_started_again();
    let history = gateway.getting("events").send().body;
    for id in ["a", "b", "c", "d"] {
        assert!(history.contains(&whole(id)), "{id}: {history}");
    }
}

#[test]
fn r12_an_event_is_one_by_service_source_and_id() {
    let gateway = Gateway::start();
    let first = envelope(&json!({"data": 1}));
    assert_eq!(seq(&structured(&gateway, &first).send()), 1);
    assert_eq!(seq(&binary(&gateway, "1").send()), 1, "the same event, in another mode");
    assert_eq!(seq(&structured(&gateway, &envelope(&json!({"data": 1, "source": "/till"}))).send()), 2);
    assert_eq!(seq(&structured(&gateway, &envelope(&json!({"data": 1, "service": "t"}))).send()), 3);
    let own = r#"{"service":"s","event":"paid","id":"a","data":1}"#;
    assert_eq!(gateway.publish(own).json()["events"][0]["seq"], 4, "one without a source");
    for change in [json!({"data": 2}), json!({"data": 1, "subject": "x"}), json!({"data": 1, "users": "u"})] {
        let answer = structured(&gateway, &envelope(&change)).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (409, "id_conflict"), "{change}");
    }
    let twice = batch(&gateway, &format!("[{first},{}]", envelope(&json!({"id": "b"})))).send();
    assert_eq!(seq(&twice), 5);
    assert_eq!(
        seq(&batch(&gateway, &format!("[{first},{first}]")).send()),
        1,
        "its cursor is the first one's"
    );
    assert_eq!(gateway.metric("tidegate_events_duplicate_total"), 4.0);

    let gateway = gateway.killed_and_started_again();
    assert_eq!(seq(&structured(&gateway, &first).send()), 1, "also after a restart");
    assert_eq!(seq(&structured(&gateway, &envelope(&json!({"data": 1, "source": "/till"}))).send()), 2);
    assert_eq!(gateway.getting("cursor").send().json()["head"], 5);
}

#[test]
fn the_service_is_found_and_the_key_must_cover_it() {
    let gateway = Gateway::start();
    let to = |request: Request, query: &str| request.to(&gateway.path(&format!("events{query}"))).send();
    let of = |source: &str| envelope(&json!({"service": null, "source": source}));
    for (query, body, service) in [
        ("?service=address", envelope(&json!({"id": "1", "service": "extension"})), "extension"),
        ("?service=address", of("source"), "address"),
        ("?service=address", of("/s"), "address"),
        ("", of("source"), "source"),
    ] {
        let last = seq(&to(structured(&gateway, &body), query));
        let page = gateway.getting("events?limit=1000").send().json();
        let event = &page["events"][usize::try_from(last).expect("small") - 1];
        assert_eq!(event["service"], service, "{query} {body}");
    }
    let nowhere = to(structured(&gateway, &of("/s")), "");
    assert_eq!((nowhere.status, fault(&nowhere)), (422, ("/service".into(), "required".into())));
    for way in ["extension attribute `service`", "`?service=`", "`source`"] {
        assert!(nowhere.body.contains(way), "{way}: {nowhere:?}");
    }
    let nowhere = binary(&gateway, "1").without("ce-service").send();
    assert_eq!(fault(&nowhere), ("ce-service".into(), "required".into()));
    for query in ["?service=a%20b", "?service=", "?service=a&service=a", "?servcie=a", "?service=a&other=x"] {
        let answer = to(structured(&gateway, &of("source")), query);
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{query}");
    }

    let narrow = format!("Bearer {}", gateway.key_for(&gateway.org, "finance"));
    for (query, body, status) in [
        ("", envelope(&json!({"service": "finance", "id": "n1"})), 202),
        ("?service=finance", envelope(&json!({"service": null, "id": "n2"})), 202),
        ("", envelope(&json!({"service": null, "source": "finance", "id": "n3"})), 202),
        ("?service=finance", envelope(&json!({"service": "staff", "id": "n4"})), 403),
        ("?service=staff", envelope(&json!({"service": null, "source": "finance", "id": "n5"})), 403),
        ("", envelope(&json!({"service": null, "source": "staff", "id": "n6"})), 403),
    ] {
        let answer = to(structured(&gateway, &body).with("authorization", &narrow), query);
        assert_eq!(answer.status, status, "{query} {body}: {answer:?}");
    }
    assert_eq!(structured(&gateway, &of("s")).without("authorization").send().status, 401);
}

#[test]
fn users_alone_see_what_is_theirs_and_no_header_is_mistaken() {
    let gateway = Gateway::start();
    let start = gateway.getting("cursor").send().json()["cursor"].as_str().expect("text").to_owned();
    assert_eq!(seq(&structured(&gateway, &envelope(&json!({"users": "ann,bob"}))).send()), 1);
    assert_eq!(seq(&binary(&gateway, "1").with("ce-id", "b").with("ce-users", "bob").send()), 2);
    // A structured event may repeat its attributes in headers; the body counts.
    let repeated = structured(&gateway, &envelope(&json!({"id": "c", "users": "ann"})));
    assert_eq!(seq(&repeated.with("ce-users", "bob").with("ce-id", "x").adding("ce-id", "y").send()), 3);
    assert_eq!(gateway.say("s", "\"for all\""), 4);
    for (user, seqs) in [("ann", &[1, 3, 4][..]), ("bob", &[1, 2, 4]), ("eve", &[4])] {
        let mut client = Follower::at(&start);
        let mut stream = gateway.ws_as(&gateway.token_of(user, &["*"]), &format!("?cursor={start}"));
        let events = stream.events(&mut client, seqs.len());
        let seen: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a seq")).collect();
        assert_eq!(seen, seqs, "{user}");
        assert!(!events.iter().any(|event| event.to_string().contains("bob")), "R8");
    }
    for header in ["ce-users", "ce-user", "ce-user-id", "ce-userids", "ce-usres", "ce-to", "ce-audience"] {
        let own = gateway.publishing().with(header, "ann").body(r#"{"service":"s","event":"e","data":1}"#);
        let answer = own.send();
        assert_eq!((answer.status, fault(&answer)), (422, (header.into(), "unknown_field".into())));
        let one = envelope(&json!({"id": "d"}));
        let answer = structured(&gateway, &one).with(header, "ann").send();
        assert_eq!((answer.status, fault(&answer)), (422, ("/users".into(), "required".into())), "{header}");
        let two = format!("[{},{one}]", envelope(&json!({"id": "e", "users": "ann"})));
        let answer = batch(&gateway, &two).with(header, "ann").send();
        assert_eq!(fault(&answer), ("/1/users".into(), "required".into()), "{header}");
        if header != "ce-users" {
            let answer = binary(&gateway, "1").with("ce-id", "f").with(header, "ann").send();
            assert_eq!((answer.status, fault(&answer)), (422, (header.into(), "unknown_field".into())));
        }
    }
    for name in
        ["usres", "Users", "user-ids", "recipients", "recipient", "to", "targets", "target", "audience"]
    {
        let event = envelope(&json!({"id": "g", name: "ann"}));
        let expected = |at: &str| (422, (format!("{at}/{name}"), "unknown_field".to_owned()));
        let answer = structured(&gateway, &event).send();
        assert_eq!((answer.status, fault(&answer)), expected(""));
        let answer = batch(&gateway, &format!("[{event}]")).send();
        assert_eq!((answer.status, fault(&answer)), expected("/0"));
    }
    assert_eq!(gateway.getting("cursor").send().json()["head"], 4, "nothing of these is there");
}

#[test]
fn what_cannot_be_taken_is_named() {
    let gateway = Gateway::start();
    for (what, answer, status, at, code) in [
        (
            "0.3",
            structured(&gateway, &envelope(&json!({"specversion": "0.3"}))).send(),
            422,
            "/specversion",
            "format",
        ),
        (
            "0.3 in binary",
            binary(&gateway, "1").with("ce-specversion", "0.3").send(),
            422,
            "ce-specversion",
            "format",
        ),
        (
            "no version",
            binary(&gateway, "1").without("ce-specversion").send(),
            422,
            "ce-specversion",
            "required",
        ),
        ("no id", binary(&gateway, "1").without("ce-id").send(), 422, "ce-id", "required"),
        ("no type", structured(&gateway, &envelope(&json!({"type": null}))).send(), 422, "/type", "required"),
        ("a faulty id", binary(&gateway, "1").with("ce-id", "a%20b").send(), 422, "ce-id", "format"),
        (
            "a long id",
            structured(&gateway, &envelope(&json!({"id": "x".repeat(129)}))).send(),
            422,
            "/id",
            "format",
        ),
        (
            "a control character",
            binary(&gateway, "1").with("ce-subject", "a%0Ab").send(),
            422,
            "ce-subject",
            "format",
        ),
        ("not UTF-8", binary(&gateway, "1").with("ce-source", "%C0%A0").send(), 422, "ce-source", "format"),
        ("a raw umlaut", binary(&gateway, "1").with("ce-source", "/bänk").send(), 422, "ce-source", "format"),
        ("two ids", binary(&gateway, "1").adding("ce-id", "a").send(), 422, "ce-id", "repeated"),
        (
            "two of another",
            binary(&gateway, "1").adding("ce-x", "a").adding("Ce-X", "a").send(),
            422,
            "ce-x",
            "repeated",
        ),
        ("an empty batch", batch(&gateway, "[]").send(), 422, "", "empty"),
        ("no object", batch(&gateway, "[7]").send(), 422, "/0", "type"),
        (
            "a long source",
            structured(&gateway, &envelope(&json!({"source": "x".repeat(1025)}))).send(),
            422,
            "/source",
            "format",
        ),
        (
            "bytes",
            structured(&gateway, &envelope(&json!({"data_base64": "AA=="}))).send(),
            415,
            "/data_base64",
            "media",
        ),
        (
            "XML",
            structured(&gateway, &envelope(&json!({"datacontenttype": "text/xml"}))).send(),
            415,
            "/datacontenttype",
            "media",
        ),
        (
            "text",
            binary(&gateway, "1").with("content-type", "text/plain").send(),
            415,
            "content-type",
            "media",
        ),
        (
            "lines",
            binary(&gateway, "1").with("content-type", "application/x-ndjson").send(),
            415,
            "content-type",
            "media",
        ),
    ] {
        assert_eq!((answer.status, fault(&answer)), (status, (at.into(), code.into())), "{what}: {answer:?}");
        assert_eq!(answer.refusal(), if status == 415 { "unsupported_media" } else { "invalid" }, "{what}");
    }
    for (what, answer, status, code) in [
        ("no JSON", binary(&gateway, "{").send(), 400, "bad_request"),
        ("no JSON in structured mode", structured(&gateway, "").send(), 400, "bad_request"),
        ("no array", batch(&gateway, &envelope(&json!({}))).send(), 422, "invalid"),
        (
            "two content types",
            binary(&gateway, "1").adding("content-type", STRUCTURED).send(),
            400,
            "bad_request",
        ),
        (
            "Avro",
            gateway.publishing().with("content-type", "application/cloudevents+avro").body("x").send(),
            415,
            "unsupported_media",
        ),
        (
            "no format",
            gateway.publishing().with("content-type", "application/cloudevents").body("{}").send(),
            415,
            "unsupported_media",
        ),
        (
            "a form",
            gateway.publishing().with("content-type", "application/x-www-form-urlencoded").body("x").send(),
            415,
            "unsupported_media",
        ),
    ] {
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{what}: {answer:?}");
    }
    // Its type applies to one mode only: a batch is invalid in structured mode, and the other way round.
    let answer = structured(&gateway, &format!("[{}]", envelope(&json!({})))).send();
    assert_eq!(fault(&answer), (String::new(), "type".into()));
    assert_eq!(gateway.getting("cursor").send().json()["head"], 0, "nothing of any of them is there");
    assert_eq!(seq(&binary(&gateway, "").without("content-type").send()), 1, "no data is null");
    assert_eq!(gateway.getting("events").send().json()["events"][0]["data"], Value::Null);
}

#[test]
fn bounds_are_those_of_publishes() {
    let gateway = Gateway::with(&[
        "limits.event_bytes=1KiB",
        "limits.request_bytes=8KiB",
        "limits.events_per_batch=2",
        "limits.json_depth=4",
        "limits.users_per_event=2",
    ]);
    let one = envelope(&json!({}));
    let large = format!("\"{}\"", "x".repeat(1100));
    for (what, answer, limit) in [
        ("an event", binary(&gateway, &large).send(), "limits.event_bytes"),
        (
            "its source",
            structured(&gateway, &envelope(&json!({"source": "x".repeat(1024)}))).send(),
            "limits.event_bytes",
        ),
        ("a request", binary(&gateway, &" ".repeat(9000)).send(), "limits.request_bytes"),
        ("a batch", batch(&gateway, &format!("[{one},{one},{one}]")).send(), "limits.events_per_batch"),
    ] {
        assert_eq!((answer.status, answer.refusal().as_str()), (413, "too_large"), "{what}");
        assert_eq!(answer.json()["limit"], limit, "{what}");
        let line = format!("tidegate_refusals_total{{limit=\"{limit}\"}}");
        assert!(gateway.metric(&line) >= 1.0, "{what}");
    }
    for (answer, at, code, limit) in [
        (binary(&gateway, "[[[[[1]]]]]").send(), "", "depth", "limits.json_depth"),
        (
            binary(&gateway, "1").with("ce-users", "a,b,c").send(),
            "ce-users",
            "too_many",
            "limits.users_per_event",
        ),
    ] {
        assert_eq!((answer.status, fault(&answer)), (422, (at.into(), code.into())));
        assert!(gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")) >= 1.0, "{limit}");
    }
    let again = crate::gateway::eventually("a publish over the rate", {
        let gateway = Gateway::with(&["limits.publishes_per_second=1"]);
        move || Some(binary(&gateway, "1").send()).filter(|answer| answer.status != 202)
    });
    assert_eq!((again.status, again.refusal().as_str()), (429, "rate_limited"));
}

#[test]
fn an_unknown_outcome_names_the_ids_and_sending_again_is_safe() {
    let node = HeldNode::start();
    let request = node.publishing().with("content-type", BATCH).body(format!(
        "[{},{}]",
        envelope(&json!({"id": "one"})),
        envelope(&json!({"id": "two"}))
    ));
    let answer = request.send();
    assert_eq!((answer.status, answer.refusal().as_str()), (504, "unknown"));
    assert_eq!(answer.json()["ids"], json!(["one", "two"]));
    node.let_answer();
    assert_eq!(seq(&request.send()), 2);
    assert_eq!(node.node.metrics.duplicates.get(), 2, "it had been stored");
}

#[test]
fn a_page_of_a_listed_origin_may_read_the_cursor() {
    let gateway = Gateway::with(&["auth.origins=[\"https://app.example.com\"]"]);
    let answer = structured(&gateway, &envelope(&json!({}))).with("origin", "https://app.example.com").send();
    assert_eq!(seq(&answer), 1);
    let exposed = answer.header("access-control-expose-headers").expect("exposed headers");
    assert!(exposed.split(", ").any(|name| name == "Tidegate-Cursor"), "{exposed}");
}
