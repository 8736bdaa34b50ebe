//! Invalid names in every position where a name can be: each is refused with a code, and a name that is
//! refused in one spelling is not accepted in another. A name is taken as it is written; nothing decodes it a
//! second time, and no two spellings are one name.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    client::{http::Request, stream::Frames as _, ws::Ws},
    gateway::Gateway,
};

/// The positions of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Orgs and services.
    Label,
    /// Names of events.
    Event,
    /// Ids, keys and users.
    Printable,
}

/// A bad name, and the kinds of names that it is bad for.
fn names() -> Vec<(&'static str, String, &'static [Kind])> {
    use Kind::{Event, Label, Printable};
    const ALL: &[Kind] = &[Label, Event, Printable];
    const WORDS: &[Kind] = &[Label, Event];
    let mut names: Vec<(&'static str, String, &'static [Kind])> = vec![
        ("a label of 65", "a".repeat(65), &[Label]),
        ("a label of 64 and a combining mark", format!("{}\u{301}", "a".repeat(64)), ALL),
        ("129 of all", "a".repeat(129), ALL),
        ("64 KiB", "a".repeat(10_000), ALL),
    ];
    for (what, name, kinds) in [
        ("empty", "", ALL),
        ("a space", " ", ALL),
        ("a space before", " acme", ALL),
        ("a space behind", "acme ", ALL),
        ("a space between", "ac me", ALL),
        ("a tab", "ac\tme", ALL),
        ("a line end", "acme\n", ALL),
        ("CR LF and a header", "acme\r\nx-injected: 1", ALL),
        ("LF and an SSE field", "acme\ndata: x\n\nid: e-1", ALL),
        ("CR and an SSE field", "acme\rdata: x", ALL),
        ("a NUL", "acme\0", ALL),
        ("a NUL before", "\0acme", ALL),
        ("a bell", "ac\u{7}me", ALL),
        ("an escape sequence", "\u{1b}[31macme", ALL),
        ("DEL", "acme\u{7f}", ALL),
        ("a C1 control", "acme\u{85}", ALL),
        ("a dot", ".", &[Label]),
        ("two dots", "..", &[Label]),
        ("a dot first", ".acme", &[Label]),
        ("a path up", "../acme", WORDS),
        ("a slash", "a/b", WORDS),
        ("a slash behind", "acme/", WORDS),
        ("a backslash", "a\\b", WORDS),
        ("a percent", "%", WORDS),
        ("percent a", "%61cme", WORDS),
        ("percent a twice", "%2561cme", WORDS),
        ("percent slash", "a%2Fb", WORDS),
        ("percent dots", "%2e%2e", WORDS),
        ("percent NUL", "acme%00", WORDS),
        ("percent LF", "acme%0a", WORDS),
        ("half a percent", "acme%6", WORDS),
        ("percent u", "%u0061cme", WORDS),
        ("an entity", "&#97;cme", WORDS),
        ("an escape", "\\u0061cme", WORDS),
        ("a star", "*", WORDS),
        ("a star behind", "acme*", WORDS),
        ("a NATS wildcard", ">", WORDS),
        ("an MQTT wildcard", "#", WORDS),
        ("an MQTT plus", "+", WORDS),
        ("a question mark", "a?b", WORDS),
        ("a comma", "a,b", WORDS),
        ("a semicolon", "a;b", WORDS),
        ("a colon", "a:b", &[Label]),
        ("an at", "a@b", WORDS),
        ("a quote", "a\"b", WORDS),
        ("an apostrophe", "a'--", WORDS),
        ("a backtick", "`id`", WORDS),
        ("a dollar", "${jndi:x}", WORDS),
        ("brackets", "a[b]", WORDS),
        ("braces", "{org}", WORDS),
        ("angles", "<script>", WORDS),
        ("a pipe", "a|b", WORDS),
        ("an equals", "a=b", WORDS),
        ("a tilde", "~acme", WORDS),
        ("NFC", "caf\u{e9}", ALL),
        ("NFD", "cafe\u{301}", ALL),
        ("Cyrillic a", "\u{430}cme", ALL),
        ("Greek omicron", "ac\u{3bf}me", ALL),
        ("full width", "\u{ff41}cme", ALL),
        ("a full-width dot", "a\u{ff0e}b", ALL),
        ("a full-width slash", "a\u{ff0f}b", ALL),
        ("dotless i", "\u{131}d", ALL),
        ("Kelvin", "\u{212a}", ALL),
        ("long s", "\u{17f}taff", ALL),
        ("a ligature", "\u{fb01}nance", ALL),
        ("Arabic digits", "\u{661}\u{662}", ALL),
        ("a soft hyphen", "ac\u{ad}me", ALL),
        ("a zero-width space", "ac\u{200b}me", ALL),
        ("a zero-width joiner", "ac\u{200d}me", ALL),
        ("a no-break space", "ac\u{a0}me", ALL),
        ("right to left", "\u{202e}emca", ALL),
        ("an isolate", "\u{2066}acme\u{2069}", ALL),
        ("a byte order mark", "\u{feff}acme", ALL),
        ("a line separator", "acme\u{2028}", ALL),
        ("a replacement", "ac\u{fffd}me", ALL),
        ("a tag letter", "acme\u{e0061}", ALL),
        ("an emoji", "\u{1f30a}", ALL),
        ("no character", "\u{fdd0}", ALL),
        ("the last character", "\u{10ffff}", ALL),
    ] {
        names.push((what, name.to_owned(), kinds));
    }
    names
}

/// Names that only bytes or JSON escapes can write: in a query (percent-encoded), and in JSON between quotes.
const IN_QUERIES: &[(&str, &str)] = &[
    ("overlong dot", "%c0%ae"),
    ("overlong slash", "%c0%af"),
    ("overlong slash of three", "%e0%80%af"),
    ("overlong NUL", "%c0%80"),
    ("a lone surrogate", "%ed%a0%80"),
    ("a pair of surrogates", "%ed%a0%bd%ed%b8%80"),
    ("above the last", "%f4%90%80%80"),
    ("a lone byte", "a%ff"),
    ("half a character", "a%e2%82"),
    ("percent twice", "%2561cme"),
    ("a plus", "a+b"),
    ("a bad percent", "a%zz"),
];
const IN_JSON: &[(&str, &str)] = &[
    ("an escaped NUL", r"acme\u0000"),
    ("an escaped LF", r"acme\n"),
    ("an escaped CR LF", r"acme\r\ndata: x"),
    ("a lone surrogate", r"\ud800"),
    ("surrogates the wrong way round", r"\ude00\ud83d"),
    ("an escaped right to left", r"\u202eacme"),
    ("an escaped quote", r#"a\"b"#),
    ("an escaped solidus", r"a\/b"),
];

/// The name as a query's value.
fn in_query(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The name in a path: unchanged if HTTP can carry it, else percent-encoded.
fn in_path(name: &str) -> Option<String> {
    let is_whole =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
    Some(if is_whole { name.to_owned() } else { in_query(name) }).filter(|path| path.len() < 8000)
}

fn assert_faulty(gateway: &Gateway, body: &str, pointer: &str, what: &str) {
    let answer = gateway.publish(body);
    assert_eq!(
        (answer.status, answer.refusal().as_str()),
        (422, "invalid"),
        "{what}: {body:.200} {answer:?}"
    );
    let problem = answer.json();
    let errors = problem["errors"].as_array().expect("errors");
    assert!(errors.iter().any(|error| error["pointer"].as_str() == Some(pointer)), "{what}: {problem}");
}

#[test]
fn a_name_that_is_none_is_refused_wherever_it_stands() {
    let gateway =
        Gateway::with(&["limits.handshakes_per_second=100000", "limits.failed_auths_per_second=100000"]);
    let bearer = format!("Bearer {}", gateway.token);
    let names = names();
    let different: BTreeSet<&str> = names.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(different.len(), names.len(), "each stands once");
    assert!(names.len() + IN_QUERIES.len() + IN_JSON.len() >= 60);
    let with = |field: &str, value: &Value| {
        let mut event = json!({"service": "s", "event": "e", "data": 1});
        event[field] = value.clone();
        event.to_string()
    };
    let mut refused = 0;
    for (what, name, kinds) in &names {
        let text = Value::from(name.as_str());
        if kinds.contains(&Kind::Label) {
            assert_faulty(&gateway, &with("service", &text), "/service", what);
            // In a token; the signer made the mistake.
            for claims in [json!({"org": name}), json!({"services": ["a", name]})] {
                let token = gateway.token_with(&claims);
                let answer =
                    gateway.getting("cursor").with("authorization", &format!("Bearer {token}")).send();
                assert!(matches!(answer.status, 401 | 431), "{what}: {answer:?}");
            }
            // A comma makes two services of one, and a star alone means all.
            if !matches!(name.as_str(), "" | "*" | "a,b") {
                let query = format!("services={}", in_query(name));
                if query.len() < 8000 {
                    let answer = gateway.getting(&format!("events?{query}")).send();
                    assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{what}");
                    let (error, _) = gateway.ws(&format!("?{query}")).refusal();
                    assert_eq!(error["code"], "bad_request", "{what}");
                }
            }
            // As an org in a path, unchanged and encoded. A name that cannot be one segment of a path is not
            // found.
            for path in
                [in_path(name), Some(in_query(name)).filter(|path| path.len() < 8000)].into_iter().flatten()
            {
                let path = format!("/v1/orgs/{path}");
                let ask = |end: &str| Request::new(gateway.public, "GET", &format!("{path}/{end}"));
                for end in ["events", "cursor", "stream"] {
                    let answer = ask(end).with("authorization", &bearer).send();
                    let is_refused = matches!(
                        (answer.status, answer.refusal().as_str()),
                        (400, "bad_request") | (404, "not_found")
                    );
                    assert!(is_refused, "{what}: {path} {answer:?}");
                }
                let body = r#"{"service":"s","event":"e","data":1}"#;
                let answer = gateway.publishing().to(&format!("{path}/events")).body(body).send();
                assert!(matches!(answer.status, 400 | 404 | 405), "{what}: {path} {answer:?}");
                if !name.contains('/') {
                    let mut ws =
                        Ws::open(gateway.public, &format!("{path}/stream"), &[("authorization", &bearer)]);
                    assert_eq!(ws.refusal().0["code"], "bad_request", "{what}");
                }
                refused += 1;
            }
        }
        if kinds.contains(&Kind::Event) {
            assert_faulty(&gateway, &with("event", &text), "/event", what);
        }
        if kinds.contains(&Kind::Printable) {
            assert_faulty(&gateway, &with("id", &text), "/id", what);
            assert_faulty(&gateway, &with("key", &text), "/key", what);
            assert_faulty(&gateway, &with("users", &json!(["u", name])), "/users/1", what);
            let token = gateway.token_with(&json!({"sub": name}));
            let answer = gateway.getting("cursor").with("authorization", &format!("Bearer {token}")).send();
            assert!(matches!(answer.status, 401 | 431), "{what}: {answer:?}");
        }
    }
    assert!(refused > 100, "{refused}");
    for (what, value) in IN_QUERIES {
        for end in ["events", "cursor", "stream"] {
            let answer = gateway.getting(&format!("{end}?services={value}")).send();
            assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{what} in {end}");
        }
        let answer = gateway.getting("").to(&format!("/v1/orgs/{value}/events")).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{what} in a path");
    }
    for (what, value) in IN_JSON {
        for field in ["service", "event"] {
            let other = if field == "service" { r#""event":"e""# } else { r#""service":"s""# };
            let body = format!(r#"{{"{field}":"{value}",{other},"data":1}}"#);
            let answer = gateway.publish(&body);
            assert!(matches!(answer.status, 400 | 422), "{what}: {answer:?}");
            assert!(matches!(answer.refusal().as_str(), "bad_request" | "invalid"), "{what}");
        }
    }
    let page = gateway.getting("events").send().json();
    assert_eq!(page["events"], json!([]), "nothing of it was stored");
    gateway.say("s", "1");
    assert!(!gateway.log().contains('\u{1b}') && !gateway.log().contains("panicked"));
}

/// A name with another spelling is another name: no spelling reaches another org, or hides or doubles an
/// event.
#[test]
fn no_two_spellings_are_one_name() {
    let gateway = Gateway::start();
    gateway.say("finance", "1");
    for org in [
        "%64ev", "d%65v", "%2564ev", "DEV", "dev.", "dev%00", "dev%2f", "./dev", "x/../dev", "dev;a=b",
        "dev%20",
    ] {
        let answer = gateway.getting("").to(&format!("/v1/orgs/{org}/events")).send();
        assert!(matches!(answer.status, 400 | 403 | 404), "{org}: {answer:?}");
    }
    for path in [
        "/V1/orgs/dev/events",
        "/v1/Orgs/dev/events",
        "//v1/orgs/dev/events",
        "/v1/orgs/dev/events/",
        "/v1/orgs/dev/%65vents",
        "/v1%2forgs/dev/events",
        "/./v1/orgs/dev/events",
        "/v1/orgs/dev/events;x",
    ] {
        let answer = gateway.getting("").to(path).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (404, "not_found"), "{path}");
    }
    // In a query, decoding is part of the form: all encodings are the same name. Case makes another name.
    let count = |services: &str| {
        let page = gateway.getting(&format!("events?services={services}")).send().json();
        page["events"].as_array().expect("events").len()
    };
    assert_eq!((count("finance"), count("%66inance"), count("Finance"), count("finance.")), (1, 1, 0, 0));
    // In JSON, an escape is only a way to write a character.
    let id = r#"{"service":"finance","event":"e","id":"inv-1","data":1}"#;
    assert_eq!(gateway.publish(id).json()["events"][0]["duplicate"], false);
    let escaped = id.replace("inv-1", r"\u0069nv-1").replace("\"finance\"", r#""f\u0069nance""#);
    assert_eq!(gateway.publish(&escaped).json()["events"][0]["duplicate"], true, "the same event");
    let upper = id.replace("inv-1", "INV-1");
    assert_eq!(gateway.publish(&upper).json()["events"][0]["duplicate"], false, "another");
}

/// Characters that ids, keys and users may contain come out unchanged in every framing, and are never taken
/// for part of it.
#[test]
fn odd_names_that_are_allowed_come_out_whole() {
    let gateway = Gateway::start();
    let odd = [
        "\"",
        "\\",
        "</script>",
        "{\"type\":\"gap\"}",
        "data:",
        "id:e-1",
        "'--",
        "%0d%0a",
        "..",
        "*",
        ">",
        "#",
        "&amp;",
        "${x}",
        "`x`",
        "\\u0000",
        "\\n",
    ];
    let (mut ws, mut sse) = (gateway.ws(""), gateway.sse(""));
    ws.next("hello");
    sse.next("hello");
    for id in odd {
        let event =
            json!({"service": "s", "event": "e", "id": id, "key": id, "users": ["u", id], "data": id});
        let answer = gateway.publish(&event.to_string());
        assert_eq!(answer.json()["events"][0]["id"], id, "{answer:?}");
    }
    let page =
        gateway.getting("events").with("authorization", &format!("Bearer {}", gateway.token_of("u", &["*"])));
    let page = page.send().json();
    let events = page["events"].as_array().expect("events");
    assert_eq!(events.len(), odd.len());
    let mut own = [gateway.ws_as(&gateway.token_of("u", &["*"]), "?tail=100")];
    own[0].next("hello");
    for (id, event) in odd.iter().zip(events) {
        let fields = ["id", "key", "data"].map(|field| event[field].as_str());
        assert_eq!(fields, [Some(*id); 3], "{event}");
        assert_eq!(event["users"], Value::Null, "the list is for nobody");
    }
    let user = gateway.token_of("</script>", &["*"]);
    let seen = gateway.getting("events").with("authorization", &format!("Bearer {user}")).send().json();
    assert_eq!(seen["events"].as_array().expect("events").len(), 1, "the event for that user alone");
}
