//! CloudEvents in each mode: the events that they become, and the faults of those that are refused.

use super::*;
use crate::publish::Bound;
use tidegate_protocol::UserId;

const LIMITS: PublishLimits = PublishLimits { event_bytes: 400, events: 3, orgs: 2, depth: 4, users: 2 };

fn read_as(mode: &Mode<'_>, body: &str, service: Option<&str>) -> Result<Vec<NewEvent>, PublishError> {
    let org = OrgId::parse("acme").expect("a name");
    let service = service.map(|name| ServiceName::parse(name).expect("a name"));
    let parts = read(To::Org(&org), mode, body.as_bytes(), service.as_ref(), &LIMITS)?;
    Ok(parts.into_iter().flat_map(|part| part.events).collect())
}

fn structured(body: &str) -> Result<Vec<NewEvent>, PublishError> {
    read_as(&Mode::Structured, body, None)
}

/// Binary mode; headers by lines.
fn binary(headers: &str, body: &str) -> Result<Vec<NewEvent>, PublishError> {
    let attributes = headers.lines().map(|line| line.split_once(": ").expect("name: value"));
    let headers = Headers {
        content_type: Some("application/json"),
        attributes: attributes.map(|(name, value)| (name, value.as_bytes())).collect(),
    };
    read_as(&Mode::Binary(headers), body, None)
}

fn fragment(read: Result<Vec<NewEvent>, PublishError>) -> String {
    let events = read.expect("an event");
    let fragment = events[0].fragment(7, 0);
    let text = std::str::from_utf8(&fragment).expect("UTF-8");
    text.strip_prefix("\"seq\":7,\"timestamp\":\"1970-01-01T00:00:00.000Z\",")
        .expect("seq and timestamp")
        .to_owned()
}

fn faults(read: Result<Vec<NewEvent>, PublishError>) -> Vec<(String, &'static str)> {
    match read {
        Err(PublishError::Invalid(faults)) => faults.into_iter().map(|f| (f.pointer, f.code)).collect(),
        other => panic!("{other:?}"),
    }
}

fn media(read: Result<Vec<NewEvent>, PublishError>) -> String {
    match read {
        Err(PublishError::UnsupportedMedia(fault)) => fault.pointer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_mode_makes_the_same_event() {
    let one = r#" { "data" : { "n" : 1.0, "n": 1e5 } , "specversion":"1.0","type":"com.acme.paid","source":"/bank/\u00e4","id":"a",
        "subject":"in \"7\"","time":"2026-11-24T10:00:00+01:00","service":"finance","partitionkey":"k","users":"v,u",
        "datacontenttype":"application/vnd.acme+json;v=1","dataschema":"http://x/y","traceparent":"00-1-2-03","other":[1],"others":1,"ID":"b","usage":1,"topic":"t" } "#;
    let expected = r#""service":"finance","event":"com.acme.paid","id":"a","key":"k","source":"/bank/ä","subject":"in \"7\"","time":"2026-11-24T09:00:00.000Z","targeted":true,"data":{"n":1.0,"n":1e5}"#;
    assert_eq!(fragment(structured(one)), expected);
    let batch = read_as(&Mode::Batch, &format!("[{one},{one}]"), None).expect("two events");
    assert_eq!(batch.len(), 2);
    let headers = "specversion: 1.0\ntype: com.acme.paid\nsource: /bank/%C3%A4\nid: a\nsubject: \"in \\\"7\\\"\"\n\
                   time: 2026-11-24T10:00:00+01:00\nservice: finance\npartitionkey: k\nusers: v,u\n\
                   dataschema: http://x/y\ntraceparent: 00-1-2-03\nothers: 1\nusage: 1\ntopic: t";
    let by_headers = binary(headers, " { \"n\" : 1.0, \"n\": 1e5 } ").expect("an event");
    for event in [&batch[0], &batch[1], &by_headers[0]] {
        assert_eq!(fragment(Ok(vec![event.clone()])), expected);
        assert_eq!((event.dedup, event.content), (batch[0].dedup, batch[0].content));
        let users: Vec<_> = event.users.iter().flat_map(|users| users.iter()).map(UserId::as_str).collect();
        assert_eq!(users, ["u", "v"]);
    }
}

#[test]
fn what_is_not_there_and_null_are_one() {
    let least = r#""service":"s","event":"t","id":"a","source":"s","data":null"#;
    for more in [
        "",
        r#","data":null"#,
        r#","subject":null,"time":null,"service":null,"partitionkey":null,"datacontenttype":null,"data_base64":null,"x":null"#,
    ] {
        let body = format!(r#"{{"specversion":"1.0","id":"a","source":"s","type":"t"{more}}}"#);
        assert_eq!(fragment(structured(&body)), least, "{more}");
    }
    assert_eq!(fragment(binary("specversion: 1.0\nid: a\nsource: s\ntype: t", "")), least);
    assert_eq!(fragment(binary("specversion: 1.0\nid: a\nsource: s\ntype: t", " null ")), least);
}

#[test]
fn the_service_is_the_extension_the_address_or_the_source() {
    let of = |extension: &str, address: Option<&str>, source: &str| {
        let body = format!(r#"{{"specversion":"1.0","id":"a","type":"t","source":"{source}"{extension}}}"#);
        read_as(&Mode::Structured, &body, address)
    };
    for (extension, address, source, service) in [
        (r#","service":"x""#, Some("y"), "z", "x"),
        ("", Some("y"), "z", "y"),
        (r#","service":null"#, Some("y"), "z", "y"),
        ("", None, "z", "z"),
        ("", Some("y"), "/not/a/name", "y"),
    ] {
        let events = of(extension, address, source).expect("an event");
        assert_eq!(events[0].service.as_str(), service, "{extension} {address:?} {source}");
        assert!(fragment(Ok(events)).contains(&format!("\"source\":\"{source}\"")));
    }
    match of("", None, "/not/a/name") {
        Err(PublishError::Invalid(faults)) => {
            assert_eq!((faults[0].pointer.as_str(), faults[0].code), ("/service", "required"));
            for way in ["`service`", "`?service=`", "`source`"] {
                assert!(faults[0].detail.contains(way), "{way}: {}", faults[0].detail);
            }
        }
        other => panic!("{other:?}"),
    }
    // A faulty service is not replaced by a default.
    assert_eq!(faults(of(r#","service":"a b""#, Some("y"), "z")), [("/service".into(), "format")]);
    assert_eq!(faults(of(r#","service":7"#, Some("y"), "z")), [("/service".into(), "type")]);
    assert_eq!(faults(of(r#","service":"""#, Some("y"), "z")), [("/service".into(), "format")]);
}

#[test]
fn faulty_attributes_are_all_named() {
    let one = |pointer: &str, code| vec![(pointer.to_owned(), code)];
    assert_eq!(faults(structured("7")), one("", "type"));
    assert_eq!(faults(structured("[]")), one("", "type"), "a batch has a type of its own");
    assert_eq!(faults(read_as(&Mode::Batch, "[]", None)), one("", "empty"));
    assert_eq!(faults(read_as(&Mode::Batch, "[7]", None)), one("/0", "type"));
    let required = ["specversion", "id", "source", "type", "service"];
    assert_eq!(faults(structured("{}")), required.map(|name| (format!("/{name}"), "required")));
    assert_eq!(faults(binary("x: y", "1")), required.map(|name| (format!("ce-{name}"), "required")));

    // Attribute, a value that is refused, as JSON and as a header.
    let long = "x".repeat(1025);
    for (name, json, header, code) in [
        ("specversion", r#""0.3""#, "0.3", "format"),
        ("specversion", r#""1.0.2""#, "1.0.2", "format"),
        ("id", r#""""#, "", "format"),
        ("id", r#""a b""#, "a%20b", "format"),
        ("id", r#""ä""#, "%C3%A4", "format"),
        ("source", r#""""#, "", "format"),
        ("source", r#""a\nb""#, "a%0Ab", "format"),
        ("source", &format!("{long:?}"), &long, "format"),
        ("type", r#""a/b""#, "a/b", "format"),
        ("subject", r#""""#, "", "format"),
        ("subject", r#""\u0085""#, "%C2%85", "format"),
        ("subject", &format!("{long:?}"), &long, "format"),
        ("time", r#""yesterday""#, "yesterday", "format"),
        ("partitionkey", r#""a b""#, "a b", "format"),
        ("service", r#""a b""#, "a b", "format"),
        ("users", r#""""#, "", "empty"),
        ("users", r#""a,""#, "a,", "format"),
        ("users", r#""a, b""#, "a, b", "format"),
        ("users", r#""a,b,c""#, "a,b,c", "too_many"),
        ("user", r#""a""#, "a", "unknown_field"),
        ("userid", "null", "a", "unknown_field"),
        ("User_Ids", r#""a""#, "a", "unknown_field"),
        ("usres", r#""a""#, "a", "unknown_field"),
        ("to", r#""a""#, "a", "unknown_field"),
        ("Recipients", r#""a""#, "a", "unknown_field"),
        ("recipient", r#""a""#, "a", "unknown_field"),
        ("targets", r#""a""#, "a", "unknown_field"),
        ("target", r#""a""#, "a", "unknown_field"),
        ("audience", r#""a""#, "a", "unknown_field"),
        ("user-s_", r#""a""#, "a", "unknown_field"),
    ] {
        let good = [("specversion", "1.0"), ("id", "a"), ("source", "s"), ("type", "t")];
        let good: Vec<_> = good.into_iter().filter(|(good, _)| *good != name).collect();
        let members: String = good.iter().map(|(name, value)| format!("\"{name}\":\"{value}\",")).collect();
        let mut found = faults(structured(&format!("{{{members}\"{name}\":{json}}}")));
        // If the source is not text it cannot be the service either.
        found.retain(|(pointer, _)| name == "service" || pointer != "/service");
        assert_eq!(found, one(&format!("/{name}"), code), "{name}: {json:.40}");
        let lines: String = good.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let mut found = faults(binary(&format!("{lines}{name}: {header}"), "1"));
        found.retain(|(pointer, _)| name == "service" || pointer != "ce-service");
        assert_eq!(found, one(&format!("ce-{name}"), code), "{name}: {header:.40}");
    }

    let good = r#""specversion":"1.0","id":"a","source":"s","type":"t""#;
    for (more, pointer, code) in [
        (r#""id":"b""#, "/id", "repeated"),
        (r#""data":1,"data":2"#, "/data", "repeated"),
        (r#""users":null"#, "/users", "type"),
        (r#""users":["a"]"#, "/users", "type"),
        (r#""Users":"a""#, "/Users", "unknown_field"),
        (r#""subject":7"#, "/subject", "type"),
        (r#""datacontenttype":7"#, "/datacontenttype", "type"),
        (r#""data":[[[[[1]]]]]"#, "/data", "depth"),
    ] {
        assert_eq!(faults(structured(&format!("{{{good},{more}}}"))), one(pointer, code), "{more}");
        let batch = format!("[{{{good}}},{{{good},{more}}}]");
        assert_eq!(faults(read_as(&Mode::Batch, &batch, None)), one(&format!("/1{pointer}"), code), "{more}");
    }
    let good = "specversion: 1.0\nid: a\nsource: s\ntype: t\n";
    for (more, pointer, code) in [
        ("id: a", "ce-id", "repeated"),
        ("other: 1\nother: 1", "ce-other", "repeated"),
        ("user-ids: a", "ce-user-ids", "unknown_field"),
        ("datacontenttype: application/json", "ce-datacontenttype", "unknown_field"),
        ("subject: 100%", "ce-subject", "format"),
        ("subject: %FF", "ce-subject", "format"),
    ] {
        assert_eq!(faults(binary(&format!("{good}{more}"), "1")), one(pointer, code), "{more}");
    }
    assert_eq!(faults(binary(good, "[[[[[1]]]]]")), one("", "depth"));
}

#[test]
fn data_that_is_not_json_is_refused_as_such() {
    let of = |more: &str| format!(r#"{{"specversion":"1.0","id":"a","source":"s","type":"t",{more}}}"#);
    assert_eq!(media(structured(&of(r#""datacontenttype":"text/xml","data":"<a/>""#))), "/datacontenttype");
    assert_eq!(media(structured(&of(r#""data_base64":"AAAA""#))), "/data_base64");
    let batch = format!("[{},{}]", of(r#""data":1"#), of(r#""data_base64":"""#));
    assert_eq!(media(read_as(&Mode::Batch, &batch, None)), "/1/data_base64");
    let attributes = "specversion,1.0 id,a source,s type,t".split(' ').map(|pair| {
        let (name, value) = pair.split_once(',').expect("a pair");
        (name, value.as_bytes())
    });
    let attributes: Vec<_> = attributes.collect();
    let by = |content_type, body: &str| {
        read_as(&Mode::Binary(Headers { content_type, attributes: attributes.clone() }), body, None)
    };
    assert_eq!(media(by(Some("text/plain"), "1")), "content-type");
    assert_eq!(media(by(Some("application/x-ndjson"), "1")), "content-type");
    assert_eq!(media(by(Some(""), "1")), "content-type");
    assert!(by(Some("image/svg+json"), "1").is_ok());
    assert!(by(None, "{}").is_ok(), "what has no type is read as JSON");
    for body in ["{", "1 2", " ", "plain", "\u{feff}1"] {
        assert!(matches!(by(None, body), Err(PublishError::NotJson(_))), "{body}");
    }
    for body in ["", "{", "{}x"] {
        assert!(matches!(structured(body), Err(PublishError::NotJson(_))), "{body}");
        assert!(matches!(read_as(&Mode::Batch, body, None), Err(PublishError::NotJson(_))), "{body}");
    }
    assert_eq!(
        faults(read_as(&Mode::Batch, &of("\"x\":1"), None)),
        [(String::new(), "type")],
        "it is JSON, but no array"
    );
    let org = OrgId::parse("acme").expect("a name");
    let to = To::Org(&org);
    assert!(matches!(read(to, &Mode::Structured, b"\xff", None, &LIMITS), Err(PublishError::NotJson(_))));
}

#[test]
fn sizes_are_bounded() {
    let bound = |read: Result<Vec<NewEvent>, PublishError>| match read {
        Err(PublishError::TooLarge { bound, .. }) => bound,
        other => panic!("{other:?}"),
    };
    let event = r#"{"specversion":"1.0","id":"a","source":"s","type":"t"}"#;
    let four = format!("[{event},{event},{event},{event}]");
    assert_eq!(bound(read_as(&Mode::Batch, &four, None)), Bound::Events);
    let large = format!("\"{}\"", "x".repeat(400));
    assert_eq!(bound(binary("specversion: 1.0\nid: a\nsource: s\ntype: t", &large)), Bound::EventBytes);
    // Source and subject count, as all that is stored does.
    let subject = "x".repeat(400);
    let long = format!("specversion: 1.0\nid: a\nsource: s\ntype: t\nsubject: {subject}");
    assert_eq!(bound(binary(&long, "1")), Bound::EventBytes);
}

#[test]
fn r12_the_source_tells_ids_apart_and_all_else_is_content() {
    let of = |id: &str, source: &str, more: &str| {
        let body = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"t","service":"s"{more}}}"#
        );
        structured(&body).expect("an event").remove(0)
    };
    let first = of("a", "/one", "");
    let again = of("a", "/one", r#","datacontenttype":"application/json","other":1"#);
    assert_eq!((first.dedup, first.content), (again.dedup, again.content));
    for other in [of("a", "/two", ""), of("b", "/one", ""), of("a/", "one", "")] {
        assert_ne!(first.dedup, other.dedup);
        assert_ne!(first.content, other.content);
    }
    for more in [r#","subject":"x""#, r#","data":1"#, r#","users":"u""#, r#","partitionkey":"k""#] {
        let other = of("a", "/one", more);
        assert_eq!(first.dedup, other.dedup, "{more}");
        assert_ne!(first.content, other.content, "{more}");
    }
}

#[test]
fn strings_and_numbers_that_strict_readers_refuse_are_named_in_each_mode() {
    let event = |more: &str| {
        format!(r#"{{"specversion":"1.0","id":"a","source":"/x","type":"t","service":"s",{more}}}"#)
    };
    for (more, pointer) in [
        (r#""data":{"n":[0,1e400]}"#, "/data/n/1"),
        (r#""data":"\ud800""#, "/data"),
        (r#""subject":"\ud800""#, "/subject"),
        (r#""users":"\ud800""#, "/users"),
        // Extensions are not kept, but a body with such a value has been made by a faulty program.
        (r#""other":["\ud800"]"#, "/other/0"),
        (r#""\ud800":1"#, ""),
    ] {
        let body = event(more);
        assert_eq!(faults(structured(&body)), [(pointer.to_owned(), "format")], "{more}");
        let batch = read_as(&Mode::Batch, &format!("[{}, {body}]", event(r#""data":1"#)), None);
        assert_eq!(faults(batch), [(format!("/1{pointer}"), "format")], "{more}");
    }
    let headers = "specversion: 1.0\nid: a\nsource: /x\ntype: t\nservice: s";
    assert_eq!(faults(binary(headers, r#"{"n":[0,"\udc00"]}"#)), [("/n/1".to_owned(), "format")]);
    assert_eq!(faults(binary(headers, "1e400")), [(String::new(), "format")]);
}

#[test]
fn refusals_of_headers_name_structured_mode_and_byte_order_marks_are_named() {
    let good = "specversion: 1.0\nid: a\nsource: /x\ntype: t\nservice: s";
    for more in ["subject: 100%", "subject: \"a", "subject: \u{e4}", "datacontenttype: x", "id: b"] {
        match binary(&format!("{good}\n{more}"), "1") {
            Err(PublishError::Invalid(faults)) => {
                assert!(faults[0].detail.contains("or use structured mode"), "{more}: {}", faults[0].detail);
            }
            other => panic!("{more}: {other:?}"),
        }
    }
    let event = r#"{"specversion":"1.0","id":"a","source":"/x","type":"t","service":"s"}"#;
    for read in [
        structured(&format!("\u{feff}{event}")),
        read_as(&Mode::Batch, &format!("\u{feff}[{event}]"), None),
        binary(good, "\u{feff}1"),
    ] {
        let said = read.expect_err("refused").to_string();
        assert!(said.starts_with("the body is not JSON: it begins with a byte order mark"), "{said}");
    }
}

#[test]
fn the_org_is_that_of_the_address_or_the_extension() {
    let event =
        |org: &str| format!(r#"{{"specversion":"1.0","id":"i","source":"s","type":"e","org":{org}}}"#);
    let found = |to: To<'_>, mode: &Mode<'_>, body: &str| match read(to, mode, body.as_bytes(), None, &LIMITS)
    {
        Ok(parts) => Ok(parts.iter().map(|part| part.org.to_string()).collect::<Vec<_>>()),
        Err(PublishError::Invalid(faults)) => Err((faults[0].pointer.clone(), faults[0].code)),
        Err(other) => panic!("{body}: {other:?}"),
    };
    let acme = OrgId::parse("acme").expect("a name");
    for (org, by_address, by_event) in [
        (r#""acme""#, Ok("acme"), Ok("acme")),
        (r#""beta""#, Err("mismatch"), Ok("beta")),
        ("null", Ok("acme"), Err("required")),
        (r#""a b""#, Err("format"), Err("format")),
        ("7", Err("type"), Err("type")),
    ] {
        for (to, expected) in [(To::Org(&acme), by_address), (To::Named, by_event)] {
            let expected = expected.map(|org| vec![org.to_owned()]).map_err(|code| ("/org".to_owned(), code));
            assert_eq!(found(to, &Mode::Structured, &event(org)), expected, "{org} {to:?}");
        }
    }
    let several = format!("[{},{}]", event(r#""beta""#), event(r#""acme""#));
    assert_eq!(found(To::Named, &Mode::Batch, &several), Ok(vec!["beta".to_owned(), "acme".to_owned()]));
    for (value, expected) in
        [(&b"be%74a"[..], Ok(vec!["beta".to_owned()])), (b"a%20b", Err(("ce-org".to_owned(), "format")))]
    {
        let attributes: [(&str, &[u8]); 5] =
            [("specversion", b"1.0"), ("id", b"i"), ("source", b"s"), ("type", b"e"), ("org", value)];
        let mode = Mode::Binary(Headers { content_type: None, attributes: attributes.to_vec() });
        assert_eq!(found(To::Named, &mode, "1"), expected);
    }
}
