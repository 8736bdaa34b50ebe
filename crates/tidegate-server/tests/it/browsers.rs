//! Headers that browsers send by themselves (Origin, cookies, preflights), and who is let in by them.

use serde_json::json;

use crate::{
    client::{
        http::{Answer, Request},
        sse::Sse,
        stream::Frames as _,
        ws::{Ws, handshake},
    },
    gateway::{Gateway, eventually, now_s},
};

const LISTED: &str = "https://app.example.com";

fn gateway_with(more: &[&str]) -> Gateway {
    let origins =
        format!("auth.origins=[\"{LISTED}\", \"http://localhost:3000\", \"https://[2001:db8::1]:8443\"]");
    let mut settings = vec![origins.as_str()];
    settings.extend(more);
    Gateway::with(&settings)
}

/// Each `Origin` header, and whether its page may connect to a gateway at `host`.
fn origins(host: &str) -> Vec<(String, bool)> {
    let port = host.rsplit(':').next().expect("a port");
    let fixed = [
        (LISTED, true),
        ("http://localhost:3000", true),
        ("https://[2001:db8::1]:8443", true),
        // Another scheme, port or host.
        ("http://app.example.com", false),
        ("wss://app.example.com", false),
        ("https://app.example.com:443", false),
        ("https://app.example.com:8443", false),
        ("https://app.example.com:", false),
        ("https://example.com", false),
        ("https://www.app.example.com", false),
        ("https://app.example.com.evil.example", false),
        ("https://evil.example?https://app.example.com", false),
        ("https://app.example.com.", false),
        ("https://xapp.example.com", false),
        ("https://app-example.com", false),
        ("https://app.example.co", false),
        ("http://localhost", false),
        ("http://localhost:30000", false),
        ("http://127.0.0.1:3000", false),
        ("https://[2001:db8::1]", false),
        ("https://[2001:db8:0:0:0:0:0:1]:8443", false),
        ("https://2001:db8::1:8443", false),
        // Spellings that no browser uses.
        ("HTTPS://APP.EXAMPLE.COM", false),
        ("https://App.Example.com", false),
        ("https://app.example.com/", false),
        ("https://app.example.com/page", false),
        ("https://app.example.com#", false),
        ("https://user@app.example.com", false),
        ("https://user:pass@app.example.com", false),
        ("https://app.example.com@evil.example", false),
        ("https://app.example.com\\@evil.example", false),
        ("https:app.example.com", false),
        ("//app.example.com", false),
        ("app.example.com", false),
        ("\"https://app.example.com\"", false),
        ("https://app.example.com, https://evil.example", false),
        ("https://evil.example, https://app.example.com", false),
        ("https://app.example.com https://evil.example", false),
        ("https://app%2eexample.com", false),
        ("https://*.example.com", false),
        ("*", false),
        // Names that look alike: Cyrillic, full width, and their encodings by browsers.
        ("https://\u{0430}pp.example.com", false),
        ("https://app\u{ff0e}example.com", false),
        ("https://xn--pp-6kc.example.com", false),
        // Not a page of the web.
        ("null", false),
        ("", false),
        ("file://", false),
        ("about:blank", false),
        ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", false),
        ("moz-extension://0c3ac5a4-1234-4321-8888-000000000000", false),
        ("capacitor://localhost", false),
        ("data:text/html,x", false),
        ("javascript://app.example.com", false),
        ("http://", false),
        ("https://", false),
    ];
    let mut origins: Vec<(String, bool)> =
        fixed.into_iter().map(|(origin, may)| (origin.to_owned(), may)).collect();
    origins.extend([
        // The gateway's own pages, with either scheme.
        (format!("http://{host}"), true),
        (format!("https://{host}"), true),
        (format!("http://{host}/"), false),
        (format!("http://{host}."), false),
        (format!("http://{host}0"), false),
        (format!("http://{host}.evil.example"), false),
        (format!("http://user@{host}"), false),
        (format!("ftp://{host}"), false),
        (format!("ws://{host}"), false),
        (host.to_owned(), false),
        ("http://127.0.0.1".to_owned(), false),
        (format!("http://localhost:{port}"), false),
        (format!("http://[::1]:{port}"), false),
        (format!("http://0.0.0.0:{port}"), false),
        (format!("http://2130706433:{port}"), false),
    ]);
    origins
}

/// A refusal because of the origin, which must reveal nothing else to the page.
fn assert_refused(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.refusal().as_str()), (403, "forbidden"), "{what}: {answer:?}");
    for name in ["access-control-allow-origin", "access-control-allow-credentials"] {
        assert_eq!(answer.header(name), None, "{what}");
    }
    assert_eq!(answer.header("vary"), Some("Origin"), "{what}");
}

fn varies_by_origin(answer: &Answer) -> bool {
    answer.headers.iter().any(|(name, value)| name == "vary" && value == "Origin")
}

#[test]
fn every_origin_has_one_verdict_on_every_road() {
    let gateway = gateway_with(&["limits.connections_per_user=500"]);
    let host = gateway.public.to_string();
    let table = origins(&host);
    assert!(table.len() >= 40, "{}", table.len());
    let bearer = format!("Bearer {}", gateway.token);
    let mut published = 0;
    for (origin, may) in &table {
        let mut ws = Ws::open(
            gateway.public,
            &gateway.path("stream"),
            &[("authorization", &bearer), ("origin", origin)],
        );
        let sse = gateway.getting("stream").with("accept", "text/event-stream").with("origin", origin);
        let publish = gateway
            .publishing()
            .with("origin", origin)
            .body(r#"{"service":"s","event":"e","data":1}"#)
            .send();
        let pages = ["events", "cursor"].map(|end| gateway.getting(end).with("origin", origin).send());
        let preflights = ["events", "cursor", "stream"].map(|end| {
            gateway
                .getting(end)
                .without("authorization")
                .by("OPTIONS")
                .with("origin", origin)
                .with("access-control-request-method", "GET")
                .with("access-control-request-headers", "authorization,last-event-id")
                .send()
        });
        if !may {
            let (error, close) = ws.refusal();
            assert_eq!((error["code"].as_str(), close), (Some("forbidden"), 4552), "{origin}");
            let answers = pages.iter().chain(&preflights).chain([&publish]);
            answers.for_each(|answer| assert_refused(answer, origin));
            assert_refused(&sse.send(), origin);
            continue;
        }
        ws.next("hello");
        let mut stream = Sse::open(sse);
        stream.next("hello");
        published += 1;
        let listed = table.iter().take(3).any(|(listed, _)| listed == origin);
        let allowed = listed.then_some(origin.as_str());
        assert_eq!((publish.status, preflights[0].status), (200, 204), "{origin}");
        for answer in pages.iter().chain(&preflights).chain([&publish, &stream.head]) {
            assert!((200..=204).contains(&answer.status), "{origin}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{origin}");
            assert_eq!(answer.header("access-control-allow-credentials"), None, "no cookies: {origin}");
            assert!(varies_by_origin(answer), "{origin}");
        }
    }
    assert_eq!(published, 5);
    let events = gateway.getting("events").send();
    assert_eq!(events.json()["events"].as_array().map(Vec::len), Some(published), "and no other page wrote");
    assert_eq!(events.header("vary"), Some("Origin"), "the answer to nobody's page may be cached for none");
}

const APPS: [&str; 12] = [
    "https://my_app.example.com",
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "app://.",
    "app://obsidian.md",
    "app://Bundle",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://0c3ac5a4-1234-4321-8888-000000000000",
    "vscode-webview://1ab2c3",
    "null",
    "file://",
];

#[test]
fn pages_of_apps_are_let_in_if_they_are_listed_and_only_they() {
    let listed = format!("auth.origins={APPS:?}");
    let open = Gateway::with(&[&listed, "auth.cookie=\"session\"", "limits.connections_per_user=500"]);
    let strict = gateway_with(&[]);
    let bearer = format!("Bearer {}", open.token);
    for origin in APPS {
        let headers = [("authorization", bearer.as_str()), ("origin", origin)];
        Ws::open(open.public, &open.path("stream"), &headers).next("hello");
        let stream = Sse::open(open.getting("stream").with("origin", origin));
        let preflight = open.getting("stream").by("OPTIONS").without("authorization").with("origin", origin);
        let page = open.getting("events").with("origin", origin).send();
        let preflight = preflight.send();
        // Pages of anybody send the last two, so no cookie is worth anything there.
        let is_somebody = !matches!(origin, "null" | "file://");
        for answer in [&page, &preflight, &stream.head] {
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin), "{answer:?}");
            let credentials = answer.header("access-control-allow-credentials");
            assert_eq!(credentials, is_somebody.then_some("true"), "{origin}");
        }
        for site in [None, Some("cross-site"), Some("same-origin")] {
            let request = by_cookie(&open, "events", &open.token).with("origin", origin);
            let request = site.into_iter().fold(request, |all, site| all.with("sec-fetch-site", site));
            let answer = request.send();
            assert_eq!(answer.status, if is_somebody { 200 } else { 403 }, "{origin} {site:?}: {answer:?}");
        }
        assert_refused(&strict.getting("events").with("origin", origin).send(), origin);
    }
    for near in [
        "capacitor://localhost/",
        "capacitor://localhost:80",
        "capacitor://evil",
        "CAPACITOR://localhost",
        "http://localhost",
        "app://..",
        "app://bundle",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnoq",
        "moz-extension://0C3AC5A4-1234-4321-8888-000000000000",
        "null, null",
        "Null",
        "file:///",
        "file://localhost",
        "file:",
    ] {
        assert_refused(&open.getting("events").with("origin", near).send(), near);
    }
    let log = strict.log();
    assert!(!log.contains("auth.origins = [\"null\"]"), "nobody is asked to list it: {log}");
}

/// RFC 9110, section 4.2.3.
#[test]
fn the_gateways_own_origin_may_leave_out_the_schemes_port_and_case_does_not_matter() {
    let gateway = gateway_with(&["auth.cookie=\"session\""]);
    for (host, origin, is_own) in [
        ("gw.example.com:443", "https://gw.example.com", true),
        ("gw.example.com", "https://gw.example.com", true),
        ("gw.example.com:80", "http://gw.example.com", true),
        ("GW.example.com", "https://gw.example.com", true),
        ("gw.example.com:443", "http://gw.example.com", false),
        ("gw.example.com:80", "https://gw.example.com", false),
        ("gw.example.com", "https://gw.example.com:8443", false),
        ("gw.example.com", "https://gw.example.com.evil.example", false),
    ] {
        let ask = |end: &str| gateway.getting(end).with("host", host).with("origin", origin);
        let answer = ask("events").send();
        assert_eq!(answer.status == 200, is_own, "{host} {origin}: {answer:?}");
        let stream = Answer::read_head(&mut ask("stream").begin()).expect("an answer");
        assert_eq!(stream.status == 200, is_own, "{host} {origin}");
        let by_cookie = by_cookie(&gateway, "events", &gateway.token).with("host", host);
        assert_eq!(by_cookie.with("origin", origin).send().status == 200, is_own, "{host} {origin}");
    }
}

#[test]
fn a_refusal_says_that_no_cookie_came_and_why_that_may_be() {
    let gateway = gateway_with(&["auth.cookie=\"session\""]);
    for end in ["events", "cursor", "stream"] {
        let base = gateway.getting(end).without("authorization").with("origin", LISTED);
        for (request, came) in [
            (base.clone(), "the request has no cookie."),
            (base.clone().with("cookie", "theme=dark"), "the request has cookies, but none of that name."),
        ] {
            let answer = request.send();
            assert_eq!((answer.status, answer.refusal().as_str()), (401, "unauthorized"));
            let said = answer.json()["detail"].as_str().expect("a sentence").to_owned();
            for word in [
                "Authorization: Bearer",
                "the cookie session",
                "auth.cookie",
                came,
                "withCredentials",
                "SameSite=None",
            ] {
                assert!(said.contains(word), "{end}: {word} in {said}");
            }
        }
    }
    let without = gateway_with(&[]);
    let answer = without.getting("stream").without("authorization").with("origin", LISTED).send();
    assert!(!answer.body.contains("cookie"), "{answer:?}");
}

/// Front ends have development servers of their own (Vite: 5173).
#[test]
fn dev_serves_pages_of_any_port_of_localhost_unless_others_are_listed() {
    let verdict = |gateway: &Gateway, origin: &str| {
        let answer = gateway.getting("events").with("origin", origin).send();
        let preflight =
            gateway.getting("events").by("OPTIONS").without("authorization").with("origin", origin);
        assert_eq!(preflight.send().status == 204, answer.status == 200, "{origin}");
        if answer.status == 200 {
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            return true;
        }
        assert_refused(&answer, origin);
        false
    };
    let (dev, strict) = (Gateway::with(&[]), gateway_with(&[]));
    for local in ["http://localhost:5173", "http://127.0.0.1:5173", "http://[::1]:5173", "https://localhost"]
    {
        assert!(verdict(&dev, local), "{local}");
        assert!(!verdict(&strict, local), "{local}");
    }
    for other in [
        "http://localhost.evil.example:5173",
        "http://192.168.1.7:5173",
        "http://evil.localhost:5173",
        "null",
    ] {
        assert!(!verdict(&dev, other), "{other}");
    }
}

#[test]
fn two_origins_are_none() {
    let gateway = gateway_with(&[]);
    for (first, second) in
        [(LISTED, LISTED), (LISTED, "https://evil.example"), ("https://evil.example", LISTED)]
    {
        let twice = |request: Request| request.adding("origin", first).adding("origin", second);
        assert_refused(&twice(gateway.getting("events")).send(), first);
        assert_refused(&twice(gateway.getting("stream")).send(), first);
        let request = twice(handshake(gateway.public, &gateway.path("stream")));
        let (error, _) = Ws::switch(request.begin()).refusal();
        assert_eq!(error["code"], "forbidden");
    }
}

#[test]
fn a_preflight_names_what_a_page_may_send_and_an_answer_what_it_may_read() {
    let gateway = gateway_with(&[]);
    let ask = Request::new(gateway.public, "OPTIONS", &gateway.path("stream"))
        .with("origin", LISTED)
        .with("access-control-request-method", "GET")
        .with("access-control-request-private-network", "true");
    let answer = ask.send();
    let names = answer.header("access-control-allow-headers").expect("names").to_ascii_lowercase();
    let names: Vec<&str> = names.split(", ").collect();
    for name in [
        "authorization",
        "content-type",
        "last-event-id",
        "idempotency-key",
        "cache-control",
        "x-requested-with",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(answer.header("access-control-allow-private-network"), None, "that is for the user to say");
    let answer = gateway.getting("cursor").with("origin", LISTED).send();
    assert_eq!(answer.header("access-control-expose-headers"), Some("Retry-After, Tidegate-Cursor"));
    // A listed page can read a refusal too.
    let answer = gateway.getting("events?limit=x").with("origin", LISTED).send();
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (400, Some(LISTED)));
}

#[test]
fn a_refused_origin_is_logged_with_what_to_add_and_a_flood_is_one_line() {
    let gateway = Gateway::start();
    let ask = |origin: &str| gateway.getting("events").with("origin", origin).send();
    for _ in 0..50 {
        assert_eq!(ask("https://shop.example:8443").status, 403);
        assert_eq!(ask("https://evil.example\"] log.dir=[\"").status, 403);
    }
    let log = gateway.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("another origin")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("add \"https://shop.example:8443\" to auth.origins"),
        "{log}"
    );

    // An origin that cannot be listed is shown escaped, and not as a value to set.
    let gateway = Gateway::start();
    let origin = "https://evil.example\"] \u{202e}x";
    assert_eq!(gateway.getting("events").with("origin", origin).send().status, 403);
    let log = gateway.log();
    assert!(log.contains("that auth.origins cannot list") && log.contains("evil.example\\\""), "{log}");
    assert!(!log.contains('\u{202e}') && !log.contains("auth.origins = "), "{log}");
}

/// A host that DNS rebinding points at the gateway is "same origin" to it, but reaches nothing without a
/// token.
#[test]
fn a_page_whose_name_was_bound_to_the_gateway_gets_nowhere_without_a_token() {
    let gateway = Gateway::with(&["auth.cookie=\"session\""]);
    let rebound = |request: Request| {
        request.without("authorization").with("host", "evil.example").with("origin", "http://evil.example")
    };
    for end in ["events", "cursor", "stream"] {
        let answer = rebound(gateway.getting(end)).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (401, "unauthorized"), "{end}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

fn by_cookie(gateway: &Gateway, end: &str, token: &str) -> Request {
    gateway.getting(end).without("authorization").with("cookie", &format!("theme=dark; session={token}; x=1"))
}

#[test]
fn a_cookie_is_taken_only_of_a_page_that_may_and_only_for_reading() {
    let gateway = gateway_with(&["auth.cookie=\"session\""]);
    let token = gateway.token_of("u", &["*"]);
    let own = format!("http://{}", gateway.public);
    gateway.say("s", "1");
    let proofs: &[(&[(&str, &str)], bool)] = &[
        (&[("origin", LISTED)], true),
        (&[("origin", LISTED), ("sec-fetch-site", "cross-site")], true),
        (&[("origin", &own)], true),
        (&[("origin", &own), ("sec-fetch-site", "same-origin")], true),
        (&[("sec-fetch-site", "same-origin")], true),
        // A page on `http:` with our `https:` host, which only the browser can tell apart.
        (&[("origin", &own), ("sec-fetch-site", "same-site")], false),
        (&[("origin", &own), ("sec-fetch-site", "cross-site")], false),
        (&[], false),
        (&[("sec-fetch-site", "none")], false),
        (&[("sec-fetch-site", "same-site")], false),
        (&[("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "Same-Origin")], false),
        (&[("sec-fetch-site", "same-origin, same-origin")], false),
        (&[("referer", &own)], false),
        (&[("origin", "https://evil.example")], false),
        (&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")], false),
        (&[("origin", "null"), ("sec-fetch-site", "same-origin")], false),
    ];
    for (headers, may) in proofs {
        let with =
            |request: Request| headers.iter().fold(request, |all, (name, value)| all.with(name, value));
        for end in ["events", "cursor", "stream"] {
            let request = with(by_cookie(&gateway, end, &token));
            if *may && end == "stream" {
                Sse::open(request).next("hello");
                continue;
            }
            let answer = request.send();
            if *may {
                assert_eq!(answer.status, 200, "{end} {headers:?}: {answer:?}");
            } else {
                assert_eq!(
                    (answer.status, answer.refusal().as_str()),
                    (403, "forbidden"),
                    "{end} {headers:?}"
                );
            }
        }
    }
    // Never for publishing, and never for a WebSocket.
    let publish = |value: &str| {
        let request = gateway.publishing().without("authorization").with("origin", LISTED);
        request
            .with("cookie", &format!("session={value}"))
            .body(r#"{"service":"s","event":"e","data":1}"#)
            .send()
    };
    for value in [&token, &gateway.key] {
        assert_eq!(publish(value).status, 401);
    }
    let cookie = format!("session={token}");
    let headers = [("cookie", cookie.as_str()), ("origin", LISTED)];
    let mut ws = Ws::open(gateway.public, &gateway.path("stream"), &headers);
    ws.send(r#"{"type":"pong"}"#);
    assert_eq!(ws.refusal().0["code"], "unauthorized", "it waits for an auth frame");
    let events = gateway.getting("events").send().json();
    assert_eq!(events["events"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_header_wins_over_the_address_and_the_address_over_the_cookie() {
    let gateway = gateway_with(&["auth.cookie=\"session\""]);
    let [good, bad] = [gateway.token_of("u", &["*"]), "x.y.z".to_owned()];
    let open = |header: Option<&str>, address: Option<&str>, cookie: Option<&str>| {
        let query = address.map_or_else(String::new, |token| format!("?access_token={token}"));
        let mut request =
            gateway.getting(&format!("stream{query}")).without("authorization").with("origin", LISTED);
        if let Some(token) = header {
            request = request.with("authorization", &format!("Bearer {token}"));
        }
        if let Some(token) = cookie {
            request = request.with("cookie", &format!("session={token}"));
        }
        Answer::read_head(&mut request.begin()).expect("an answer").status
    };
    let (good, bad) = (Some(good.as_str()), Some(bad.as_str()));
    assert_eq!(open(good, bad, bad), 200);
    assert_eq!(open(bad, good, good), 401);
    assert_eq!(open(None, good, bad), 200);
    assert_eq!(open(None, bad, good), 401);
    assert_eq!(open(None, None, good), 200);
    assert_eq!(open(None, None, bad), 401);
    assert_eq!(open(None, None, None), 401);
}

#[test]
fn a_cookie_that_stands_twice_is_refused_and_none_is_looked_at_unless_it_is_named() {
    let gateway = gateway_with(&["auth.cookie=\"session\""]);
    let (token, other) = (gateway.token_of("u", &["*"]), gateway.token_of("v", &["*"]));
    for end in ["events", "cursor", "stream"] {
        let base = gateway.getting(end).without("authorization").with("origin", LISTED);
        for request in [
            base.clone().with("cookie", &format!("session={token}; session={other}")),
            base.clone().with("cookie", &format!("session={token}; a=b; session={token}")),
            base.clone()
                .adding("cookie", &format!("session={token}"))
                .adding("cookie", &format!("session={other}")),
            base.clone().adding("cookie", "session=").adding("cookie", &format!("session={other}")),
        ] {
            let answer = request.send();
            assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{end}");
        }
        // Split over lines, as HTTP/2 allows, it still counts once.
        let split = base.clone().adding("cookie", "a=b").adding("cookie", &format!("session={token}"));
        assert_eq!(Answer::read_head(&mut split.begin()).expect("an answer").status, 200, "{end}");
        for name in ["Session", "xsession", "session2", "session "] {
            let wrong = base.clone().with("cookie", &format!("{name}x={token}")).send();
            assert_eq!(wrong.status, 401, "{end} {name}");
        }
    }
    let without = gateway_with(&[]);
    let token = without.token_of("u", &["*"]);
    let answer = by_cookie(&without, "events", &token).with("origin", LISTED).send();
    assert_eq!(answer.status, 401, "auth.cookie is off unless it is set");
}

#[test]
fn credentials_of_a_page_are_allowed_only_where_a_cookie_may_be_taken_and_its_origin_is_listed() {
    let gateway = gateway_with(&["auth.cookie=\"session\""]);
    let token = gateway.token_of("u", &["*"]);
    let own = format!("http://{}", gateway.public);
    for (origin, allowed) in [(LISTED, Some("true")), (own.as_str(), None), ("https://evil.example", None)] {
        let asked = by_cookie(&gateway, "events", &token).with("origin", origin);
        let preflight = asked.clone().without("cookie").by("OPTIONS").send();
        let mut stream = by_cookie(&gateway, "stream", &token).with("origin", origin).begin();
        let stream = Answer::read_head(&mut stream).expect("an answer");
        for answer in [asked.send(), preflight, stream] {
            assert_eq!(answer.header("access-control-allow-credentials"), allowed, "{origin}: {answer:?}");
            assert_ne!(answer.header("access-control-allow-origin"), Some("*"));
            assert!(varies_by_origin(&answer));
        }
    }
}

#[test]
fn r22_a_native_event_source_comes_back_where_that_can_help_and_ends_where_not() {
    let gateway =
        gateway_with(&["auth.cookie=\"session\"", "auth.leeway=0s", "limits.connections_per_user=1"]);
    let expired = gateway.token_with(&json!({"exp": now_s() - 10}));
    let forbidden = gateway.token_with(&json!({"org": "other"}));
    let token = gateway.token_of("u", &["*"]);
    let address =
        |token: &str| gateway.getting(&format!("stream?access_token={token}")).without("authorization");
    let cookie = |token: &str| by_cookie(&gateway, "stream", token).with("origin", LISTED);
    // The address of an EventSource never changes; a cookie may be a new one the next time.
    let answer = address(&expired).send();
    assert_eq!((answer.status, answer.refusal().as_str()), (401, "token_expired"));
    let answer = cookie(&expired).send();
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    assert!(answer.body.starts_with("retry: 30000\n"), "{answer:?}");
    let is_told = answer.body.contains(r#""code":"token_expired""#);
    assert!(is_told && !answer.body.contains("id:"), "{answer:?}");
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!(allowed, Some(LISTED), "a page must be able to read it");
    for request in [address(&forbidden), cookie(&forbidden)] {
        let answer = request.send();
        assert_eq!((answer.status, answer.refusal().as_str()), (403, "forbidden"));
    }
    let mut held = gateway.ws_as(&token, "");
    held.next("hello");
    for request in [address(&token), cookie(&token)] {
        let answer = request.send();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.body.contains(r#""code":"too_many_connections""#) && !answer.body.contains("id:"),
            "{answer:?}"
        );
    }
    assert_eq!(gateway.sse_status(&token), 429, "a client that can read a status gets one");
    drop(held);
    eventually("its place", || (gateway.sse_status(&token) == 200).then_some(()));
}
