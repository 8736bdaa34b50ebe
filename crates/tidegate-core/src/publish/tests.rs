//! The events that bodies become, and the faults of those that are refused.

use super::*;
use tidegate_protocol::{ServiceName, UserId};

fn read(form: BodyForm, body: &str) -> Result<Vec<NewEvent>, PublishError> {
    let org = OrgId::parse("acme").expect("a name");
    let limits = PublishLimits { event_bytes: 240, events: 3, orgs: 2, depth: 4, users: 2 };
    read_body(&org, form, body.as_bytes(), &limits, &mut |index| {
        (EventId::parse(&format!("drawn-{index}")).expect("an id"), false)
    })
}

fn faults(body: &str) -> Vec<(String, &'static str)> {
    match read(BodyForm::Json, body) {
        Err(PublishError::Invalid(faults)) => faults.into_iter().map(|f| (f.pointer, f.code)).collect(),
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn an_event_is_encoded_once_token_for_token() {
    let body = r#" { "data" : { "n" : 1.0, "n": 1e5 } , "event":"paid","service":"finance","id":"a","key":"k","time":"2026-11-24T10:00:00+01:00","users":["v","u"] } "#;
    let events = read(BodyForm::Json, body).expect("an event");
    assert_eq!(
        events[0].fragment(7, 0),
        r#""seq":7,"timestamp":"1970-01-01T00:00:00.000Z","service":"finance","event":"paid","id":"a","key":"k","time":"2026-11-24T09:00:00.000Z","targeted":true,"data":{"n":1.0,"n":1e5}"#
    );
    assert!(events[0].dedup.is_some());
    let users: Vec<_> = events[0].users.iter().flat_map(|users| users.iter()).map(UserId::as_str).collect();
    assert_eq!(users, ["u", "v"]);
}

#[test]
fn ids_that_the_gateway_draws_stay_out_of_the_dedup_window() {
    let events = read(BodyForm::Ndjson, "{\"service\":\"s\",\"event\":\"e\",\"data\":null}\r\n\n{\"service\":\"s\",\"event\":\"e\",\"data\":1,\"id\":\"x\"}").expect("two events");
    assert_eq!((events[0].id.as_str(), events[0].dedup), ("drawn-0", None));
    assert!(events[1].dedup.is_some());
}

#[test]
fn faulty_fields_are_all_named_with_their_pointers() {
    assert_eq!(faults("[]"), [(String::new(), "empty")]);
    assert_eq!(faults("7"), [(String::new(), "type")]);
    assert_eq!(faults("[{\"service\":\"s\",\"event\":\"e\",\"data\":1},7]"), [("/1".into(), "type")]);
    assert_eq!(
        faults(r#"{"service":"a b","event":7,"users":[],"id":"","key":"\u0000","time":"yesterday"}"#),
        [
            ("/service".into(), "format"),
            ("/event".into(), "type"),
            ("/data".into(), "required"),
            ("/id".into(), "format"),
            ("/key".into(), "format"),
            ("/users".into(), "empty"),
            ("/time".into(), "format"),
        ]
    );
    let good = r#""service":"s","event":"e","data":1"#;
    for (more, pointer, code) in [
        (r#""data":2"#, "/data", "repeated"),
        (r#""users":["a","b","c"]"#, "/users", "too_many"),
        (r#""users":["a,b"]"#, "/users/0", "format"),
        (r#""users":null"#, "/users", "type"),
        (r#""id":null"#, "/id", "type"),
    ] {
        assert_eq!(faults(&format!("{{{good},{more}}}")), [(pointer.into(), code)], "{more}");
    }
    assert_eq!(faults(r#"{"service":"s","event":"e","data":[[[[[1]]]]]}"#), [("/data".into(), "depth")]);
}

#[test]
fn strings_and_numbers_that_strict_readers_refuse_are_named() {
    for (body, pointer) in [
        (r#"{"service":"s","event":"e","data":"\ud800"}"#, "/data"),
        (r#"{"service":"s","event":"e","data":{"a":[1,1e400]}}"#, "/data/a/1"),
        (r#"{"service":"s","event":"e","data":{"\udc00":1}}"#, "/data"),
        (r#"{"service":"\ud800","event":"e","data":1}"#, "/service"),
        (r#"{"service":"s","event":"\ud800","data":1}"#, "/event"),
        (r#"{"service":"s","event":"e","data":1,"id":"\ud800"}"#, "/id"),
        (r#"{"service":"s","event":"e","data":1,"key":"\ud800"}"#, "/key"),
        (r#"{"service":"s","event":"e","data":1,"time":"\ud800"}"#, "/time"),
        (r#"{"service":"s","event":"e","data":1,"users":["a","\ud800"]}"#, "/users/1"),
        (r#"{"service":"s","event":"e","data":1,"\ud800":1}"#, ""),
    ] {
        assert_eq!(faults(body), [(pointer.to_owned(), "format")], "{body}");
        let batch = format!(r#"[{{"service":"s","event":"e","data":1}},{body}]"#);
        assert_eq!(faults(&batch), [(format!("/1{pointer}"), "format")], "{body}");
    }
    let all = r#"{"service":"s","event":"e","data":[1e400,"\ud800",{"a":-1e999}]}"#;
    let pointers: Vec<_> = faults(all).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["/data/0", "/data/1", "/data/2/a"]);
    let many = format!(r#"{{"service":"s","event":"e","data":[{}1]}}"#, "1e400,".repeat(200));
    assert_eq!(faults(&many).len(), 100);
    for data in ["12345678901234567890", r#""\ud83d\ude00""#, "1e308", "1e-400"] {
        let events = read(BodyForm::Json, &format!(r#"{{"service":"s","event":"e","data":{data}}}"#));
        assert!(events.expect("an event")[0].body.ends_with(format!("\"data\":{data}").as_bytes()));
    }
}

#[test]
fn a_byte_order_mark_is_named() {
    let event = r#"{"service":"s","event":"e","data":1}"#;
    let org = OrgId::parse("acme").expect("a name");
    let limits = PublishLimits { event_bytes: 240, events: 3, orgs: 2, depth: 4, users: 2 };
    let said = |form, body: &[u8]| {
        let mut ids = |_| (EventId::parse("a").expect("an id"), false);
        read_body(&org, form, body, &limits, &mut ids).expect_err("refused").to_string()
    };
    for form in [BodyForm::Json, BodyForm::Ndjson] {
        let text = said(form, format!("\u{feff}{event}").as_bytes());
        assert!(text.starts_with("the body is not JSON: it begins with a byte order mark"), "{text}");
        let text = said(form, b"\xff\xfe{\0}\0");
        assert!(text.contains("UTF-16"), "{text}");
    }
    let joined = said(BodyForm::Ndjson, format!("{event}\n\u{feff}{event}").as_bytes());
    assert!(joined.starts_with("the body is not JSON: line 2: it begins with a byte order mark"), "{joined}");
    let inside = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, '\u{feff}');
    assert!(read(BodyForm::Json, &inside).is_ok(), "inside a string it is a character");
}

/// The one fault of an event that also has this member.
fn unknown(member: &str) -> Fault {
    match read(BodyForm::Json, &format!(r#"{{"service":"s","event":"e","data":1,{member}}}"#)) {
        Err(PublishError::Invalid(mut faults)) if faults.len() == 1 => faults.remove(0),
        other => panic!("{member}: {other:?}"),
    }
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_known_one() {
    let users = "is not a field of an event; the list of the only users that may see it is `users`";
    for name in [
        "usres",
        "user",
        "Users",
        "USER_IDS",
        "user-ids",
        "userid",
        "u_s_e_r_s",
        "recipients",
        "Recipient",
        "to",
        "TO",
        "targets",
        "target",
        "audience",
    ] {
        let fault = unknown(&format!("\"{name}\":[\"u\"]"));
        assert_eq!((fault.pointer, fault.code), (format!("/{name}"), "unknown_field"));
        assert_eq!(fault.detail, format!("`{name}` {users}"));
    }
    let all = "; its fields are org, service, event, data, id, key, users, time";
    for (member, pointer, detail) in [
        (r#""ID":"a""#, "/ID", "`ID` is not a field of an event; did you mean `id`?"),
        (r#""Service":"a""#, "/Service", "`Service` is not a field of an event; did you mean `service`?"),
        (r#""date":1"#, "/date", "`date` is not a field of an event; did you mean `data`?"),
        (r#""k_ey":1"#, "/k_ey", "`k_ey` is not a field of an event; did you mean `key`?"),
        (r#""x":null"#, "/x", &format!("`x` is not a field of an event{all}")),
        ("\"\":1", "/", &format!("`` is not a field of an event{all}")),
        (r#""a/b~c~1":1"#, "/a~1b~0c~01", &format!("`a/b~c~1` is not a field of an event{all}")),
        (r#""\u0075sres":1"#, "/usres", &format!("`usres` {users}")),
        (r#""\u001b[2J":1"#, "/\u{1b}[2J", &format!("`\\u{{1b}}[2J` is not a field of an event{all}")),
    ] {
        let fault = unknown(member);
        assert_eq!(
            (fault.pointer.as_str(), fault.code, fault.detail.as_str()),
            (pointer, "unknown_field", detail)
        );
    }
    // Of all events, and with the other faults.
    let lines = "{\"service\":\"s\",\"event\":\"e\",\"data\":1}\n{\"service\":\"a b\",\"event\":\"e\",\"data\":1,\"to\":\"u\",\"x\":1}";
    let expected = [
        ("/1/to".to_owned(), "unknown_field"),
        ("/1/x".to_owned(), "unknown_field"),
        ("/1/service".to_owned(), "format"),
    ];
    assert_eq!(faults(&format!("[{}]", lines.replace('\n', ","))), expected);
    match read(BodyForm::Ndjson, lines) {
        Err(PublishError::Invalid(faults)) => {
            assert_eq!(faults.into_iter().map(|f| (f.pointer, f.code)).collect::<Vec<_>>(), expected);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_faults_of_an_answer_are_bounded_in_number_and_size() {
    let mut body = r#"{"service":"s","event":"e","data":1"#.to_owned();
    for number in 0..1_000_000 {
        body.push_str(&format!(",\"unknown{number}\":1"));
    }
    body.push('}');
    let found = faults(&body);
    assert_eq!((found.len(), found[99].0.as_str()), (100, "/unknown99"));
    assert_eq!(faults(&format!("[{body},{body}]")).len(), 100);
    let many = format!(r#"{{"service":"s","event":"e","data":1{}}}"#, r#","x":1"#.repeat(1000));
    assert_eq!(faults(&many), [("/x".to_owned(), "unknown_field")], "named once");
    let longest = "x".repeat(128);
    assert_eq!(unknown(&format!("\"{longest}\":1")).pointer, format!("/{longest}"));
    let fault = unknown(&format!("\"{}\":1", "x".repeat(100_000)));
    assert_eq!((fault.pointer.as_str(), fault.code), ("", "unknown_field"));
    assert!(fault.detail.starts_with("a name of 100000 bytes is not") && fault.detail.len() < 200);
}

#[test]
fn what_is_not_json_is_refused_with_its_position() {
    for (body, says) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[1", "EOF"),
        ("[]x", "trailing"),
        ("{}x", "trailing"),
        ("nul", "EOF"),
        ("nulx", "expected"),
    ] {
        match read(BodyForm::Json, body) {
            Err(PublishError::NotJson(detail)) => assert!(detail.contains(says), "{body}: {detail}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    let error = read(BodyForm::Ndjson, "{\"service\":\"s\",\"event\":\"e\",\"data\":1}\n{oops")
        .expect_err("not JSON");
    assert!(error.to_string().starts_with("the body is not JSON: line 2, column 2: "), "{error}");
    assert!(!error.to_string().contains("line 1"), "{error}");
}

#[test]
fn sizes_are_bounded() {
    let event = "{\"service\":\"s\",\"event\":\"e\",\"data\":1}";
    let four = format!("[{event},{event},{event},{event}]");
    assert!(matches!(read(BodyForm::Json, &four), Err(PublishError::TooLarge { bound: Bound::Events, .. })));
    assert!(matches!(read(BodyForm::Ndjson, &[event; 4].join("\n")), Err(PublishError::TooLarge { .. })));
    let large = format!("{{\"service\":\"s\",\"event\":\"e\",\"data\":\"{}\"}}", "x".repeat(240));
    assert!(matches!(
        read(BodyForm::Json, &large),
        Err(PublishError::TooLarge { bound: Bound::EventBytes, .. })
    ));
}

#[test]
fn r12_dedup_keys_and_content_hashes_tell_all_parts_apart() {
    let org = |text| OrgId::parse(text).expect("a name");
    let service = |text| ServiceName::parse(text).expect("a name");
    let id = |text| EventId::parse(text).expect("an id");
    let one = dedup_key(&org("a"), &service("bc"), &id("d"), "");
    for other in [
        dedup_key(&org("ab"), &service("c"), &id("d"), ""),
        dedup_key(&org("a"), &service("b"), &id("cd"), ""),
        dedup_key(&org("a"), &service("bc"), &id("d"), "e"),
    ] {
        assert_ne!(one, other);
    }
    let content = |body: &str| read(BodyForm::Json, body).expect("an event")[0].content;
    let same = content(r#"{"service":"s","event":"e","id":"1","data":{"a": 1}}"#);
    assert_eq!(same, content(r#"{"data":{"a":1},"id":"1","event":"e","service":"s"}"#));
    for other in [
        r#"{"service":"s","event":"e","id":"1","data":{"a":1.0}}"#,
        r#"{"service":"s","event":"f","id":"1","data":{"a":1}}"#,
        r#"{"service":"s","event":"e","id":"1","data":{"a":1},"key":"k"}"#,
        r#"{"service":"s","event":"e","id":"1","data":{"a":1},"users":["u"]}"#,
    ] {
        assert_ne!(same, content(other), "{other}");
    }
}

#[test]
fn r12_the_hashes_of_named_requests_tell_all_parts_apart() {
    let named = |body: &str, org: &str, publisher: &str, key: &str| {
        let mut events = read(BodyForm::Json, body).expect("events");
        let request = name_request(&mut events, &OrgId::parse(org).expect("a name"), publisher, key);
        assert!(events.iter().all(|event| event.request == Some(request)));
        assert!(events.iter().all(|event| event.dedup != Some(request.key)));
        request
    };
    let [a, b] =
        ["1", "2"].map(|data| format!(r#"{{"service":"s","event":"e","id":"x{data}","data":{data}}}"#));
    let one = named(&format!("[{a},{b}]"), "acme", "p", "k");
    assert_eq!(one, named(&format!(" [ {a} , {b} ] "), "acme", "p", "k"));
    for (org, publisher, key) in
        [("acm", "ep", "k"), ("acme", "q", "k"), ("acme", "p", "l"), ("acme", "pk", "")]
    {
        assert_ne!(one.key, named(&format!("[{a},{b}]"), org, publisher, key).key);
    }
    let other = named(&a, "acme", "p", "l");
    let keys = [(one, one.key), (one, other.key), (other, one.key), (other, other.key)]
        .map(|(request, event)| request.event_key(&event));
    assert_eq!(std::collections::BTreeSet::from(keys).len(), keys.len());
    assert!(!keys.contains(&one.key) && !keys.contains(&other.key));
    for body in [format!("[{b},{a}]"), format!("[{a}]"), format!("[{b}]"), format!("[{a},{b},{b}]")] {
        assert_ne!(one.content, named(&body, "acme", "p", "k").content, "{body}");
    }
}

fn parts(to: To<'_>, form: BodyForm, body: &str) -> Result<Vec<(String, Vec<usize>)>, PublishError> {
    let limits = PublishLimits { event_bytes: 240, events: 4, orgs: 2, depth: 4, users: 2 };
    let parts = read_parts(to, form, body.as_bytes(), &limits, &mut |index| {
        (EventId::parse(&format!("drawn-{index}")).expect("an id"), true)
    })?;
    for part in &parts {
        let ids: Vec<String> = part.places.iter().map(|place| format!("drawn-{place}")).collect();
        assert_eq!(part.events.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ids);
        let service = ServiceName::parse("s").expect("a name");
        for event in &part.events {
            let of_its_org = dedup_key(&part.org, &service, &event.id, "");
            assert_eq!(event.dedup, Some(of_its_org), "an id is known within its org");
        }
    }
    Ok(parts.into_iter().map(|part| (part.org.to_string(), part.places)).collect())
}

#[test]
fn events_that_name_their_org_are_sorted_by_it_and_keep_their_order() {
    let event = |org: &str| format!(r#"{{"org":"{org}","service":"s","event":"e","data":1}}"#);
    let [b, a] = [event("b"), event("a")];
    let expected = vec![("b".to_owned(), vec![0, 2, 3]), ("a".to_owned(), vec![1])];
    let array = format!("[{b},{a},{b},{b}]");
    assert_eq!(parts(To::Named, BodyForm::Json, &array), Ok(expected.clone()));
    let lines = format!("{b}\n{a}\n\n{b}\n{b}");
    assert_eq!(parts(To::Named, BodyForm::Ndjson, &lines), Ok(expected));
    assert_eq!(parts(To::Named, BodyForm::Json, &a), Ok(vec![("a".to_owned(), vec![0])]));
    let too_many = parts(To::Named, BodyForm::Json, &format!("[{b},{a},{b},{}]", event("c")));
    assert!(
        matches!(too_many, Err(PublishError::TooLarge { bound: Bound::Orgs, max: 2, .. })),
        "{too_many:?}"
    );
}

#[test]
fn an_org_is_missing_faulty_or_not_that_of_the_address() {
    let acme = OrgId::parse("acme").expect("a name");
    let good = r#""service":"s","event":"e","data":1"#;
    for (org, by_address, by_event) in [
        ("", None, Some("required")),
        (r#""org":"acme","#, None, None),
        (r#""org":"beta","#, Some("mismatch"), None),
        (r#""org":"a b","#, Some("format"), Some("format")),
        (r#""org":null,"#, Some("type"), Some("type")),
        (r#""org":"acme","org":"beta","#, Some("repeated"), Some("repeated")),
    ] {
        for (to, expected) in [(To::Org(&acme), by_address), (To::Named, by_event)] {
            let found = match parts(to, BodyForm::Json, &format!("[{{{org}{good}}}]")) {
                Ok(_) => None,
                Err(PublishError::Invalid(faults)) => {
                    assert_eq!(faults[0].pointer, "/0/org");
                    Some(faults[0].code)
                }
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{org} {to:?}");
        }
    }
}
