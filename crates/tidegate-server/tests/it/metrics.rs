//! What operators see of requests and streams: a count and a line for each failure, bytes, and delays.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::{
    client::{
        http::{Request, connect},
        http2::Http2,
        stream::Frames as _,
        ws::Ws,
    },
    gateway::{Gateway, eventually, now_s},
    signer::Signer,
};

const EVENT: &str = r#"{"service":"s","event":"e","id":"a","data":1}"#;

/// How many requests the gateway has counted.
fn requests(gateway: &Gateway, operation: &str, code: &str) -> f64 {
    gateway.metric(&format!("tidegate_requests_total{{operation=\"{operation}\",code=\"{code}\"}}"))
}

/// The log lines about refused requests with this code.
fn lines(gateway: &Gateway, operation: &str, code: &str) -> Vec<String> {
    let (operation, code) = (format!("operation=\"{operation}\""), format!("code=\"{code}\""));
    let log = gateway.log();
    let about =
        |line: &&str| line.contains("refuse a request") && line.contains(&operation) && line.contains(&code);
    log.lines().filter(about).map(str::to_owned).collect()
}

#[test]
fn each_answer_is_counted_by_operation_and_code_and_each_refusal_has_a_line() {
    let gateway = Gateway::with(&["limits.event_bytes=1KiB", "limits.request_bytes=2KiB"]);
    let stranger = gateway.token_with(&json!({"org": "other"}));
    let with = |request: Request, token: &str| request.with("authorization", &format!("Bearer {token}"));
    let get = |path: &str| Request::new(gateway.public, "GET", path);
    assert_eq!(gateway.publish(EVENT).status, 200);
    let refused = [
        ("publish", "unauthorized", with(gateway.publishing(), "nonsense").body(EVENT)),
        ("publish", "forbidden", with(gateway.publishing(), &gateway.key_for("other", "*")).body(EVENT)),
        ("publish", "id_conflict", gateway.publishing().body(EVENT.replace(":1}", ":2}"))),
        ("publish", "too_large", gateway.publishing().body(" ".repeat(3000))),
        ("publish", "unsupported_media", gateway.publishing().with("content-type", "text/plain").body("x")),
        ("publish", "invalid", gateway.publishing().body("{}")),
        ("publish", "bad_request", gateway.publishing().body("{")),
        ("history", "unauthorized", with(gateway.getting("events"), "nonsense")),
        ("history", "bad_request", gateway.getting("events?limit=x")),
        ("cursor", "forbidden", with(gateway.getting("cursor"), &stranger)),
        ("stream", "unauthorized", with(gateway.getting("stream"), "nonsense")),
        ("stream", "bad_request", gateway.getting("stream?nonsense=1")),
        ("other", "not_found", get("/nowhere")),
        ("other", "method_not_allowed", gateway.getting("events").by("PUT")),
    ];
    for (operation, code, request) in &refused {
        assert_eq!(requests(&gateway, operation, code), 0.0, "{operation} {code}");
        let answer = request.send();
        assert_eq!(answer.refusal(), *code, "{operation}: {answer:?}");
        assert_eq!(requests(&gateway, operation, code), 1.0, "{operation} {code}");
        assert_eq!(lines(&gateway, operation, code).len(), 1, "{operation} {code}: {}", gateway.log());
    }
    // The same over HTTP/2.
    let shared = Http2::connect(gateway.public);
    for (operation, code, request) in &refused {
        assert_eq!(shared.send(request).refusal(), *code, "{operation}");
        assert_eq!(requests(&gateway, operation, code), 2.0, "{operation} {code}");
        assert_eq!(lines(&gateway, operation, code).len(), 2, "{operation} {code}");
    }
    let many = (0..100).fold(get("/"), |request, n| request.with(&format!("x-{n}"), "y"));
    assert_eq!(shared.send(&many).status, 431);
    assert_eq!(requests(&gateway, "other", "too_large"), 1.0, "before it is known what it asks for");

    // What cannot be read as HTTP, such as TLS.
    let mut garbage = connect(gateway.public);
    garbage.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("send");
    let _ = garbage.shutdown(std::net::Shutdown::Write);
    let _ = garbage.read_to_end(&mut Vec::new());
    eventually("its count", || (requests(&gateway, "other", "bad_request") == 1.0).then_some(()));
    assert_eq!(lines(&gateway, "other", "bad_request").len(), 1);

    // What is answered well.
    for request in [gateway.getting("events"), gateway.getting("cursor"), get("/openapi.json"), get("/")] {
        assert_eq!(request.send().status, 200);
    }
    let mut streams = gateway.both("");
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let preflight = Request::new(gateway.public, "OPTIONS", &gateway.path("events"));
    assert_eq!(preflight.send().status, 204);
    for (operation, count) in [
        ("publish", 1.0),
        ("history", 1.0),
        ("cursor", 1.0),
        ("stream", 2.0),
        ("description", 1.0),
        ("preflight", 1.0),
        ("other", 1.0),
    ] {
        assert_eq!(requests(&gateway, operation, "ok"), count, "{operation}");
    }
    let measured = |operation: &str| {
        gateway.metric(&format!("tidegate_request_duration_seconds_count{{operation=\"{operation}\"}}"))
    };
    assert_eq!([measured("publish"), measured("history"), measured("stream")], [15.0, 5.0, 6.0]);
}

#[test]
fn the_line_of_a_refused_request_has_its_reason_and_nothing_of_the_payload() {
    let gateway = Gateway::start();
    for (body, reason) in [
        ("{}", "required, at /service, the first of "),
        (r#"{"service":"s","event":"e","data":1,"s3cret":2}"#, "unknown_field"),
        (r#"[{"service":"s","event":"e","data":1,"41111111111111":2}]"#, "unknown_field, at /0 "),
        (r#"[{"service":"s","event":"e","data":{"s3cret":"\ud800"}}]"#, "format, at /0/data"),
        (r#"[{"service":"s","event":"e","data":1,"users":["a",""]}]"#, "format, at /0/users/1"),
    ] {
        assert_eq!(gateway.publish(body).refusal(), "invalid", "{body}");
        let last = lines(&gateway, "publish", "invalid").pop().expect("a line");
        assert!(last.contains(&format!("refuse a request: {reason}")), "{reason}: {last}");
    }
    for payload in ["s3cret", "41111111111111"] {
        assert!(!gateway.log().contains(payload), "{}", gateway.log());
    }
    assert_eq!(gateway.getting("events").by("PUT").send().status, 405);
    let last = lines(&gateway, "other", "method_not_allowed").pop().expect("a line");
    assert!(last.contains("refuse a request: PUT is not allowed here; "), "{last}");
}

#[test]
fn a_stream_that_is_refused_after_its_answer_has_a_count_and_a_line_too() {
    let gateway = Gateway::with(&["limits.connections_per_user=1"]);
    let mut first = gateway.ws("");
    first.next("hello");
    // A native EventSource gives up after every status but 200, so the refusal is the first frame.
    let path = gateway.path(&format!("stream?access_token={}", gateway.token));
    let answer = Request::new(gateway.public, "GET", &path).send();
    assert_eq!((answer.status, answer.body.contains("too_many_connections")), (200, true), "{answer:?}");
    assert_eq!(requests(&gateway, "stream", "too_many_connections"), 1.0);
    assert_eq!(lines(&gateway, "stream", "too_many_connections").len(), 1);
    assert_eq!(gateway.ws("").refusal().0["code"], "too_many_connections");
    assert_eq!(lines(&gateway, "stream", "too_many_connections").len(), 2);
    assert_eq!(gateway.metric("tidegate_closes_total{code=\"too_many_connections\"}"), 2.0);
    assert_eq!(requests(&gateway, "stream", "ok"), 2.0, "the two upgrades were answered");
}

#[test]
fn of_many_refusals_one_is_a_warning_and_the_rest_are_debug_lines() {
    let gateway = Gateway::start();
    let refuse = |gateway: &Gateway, times: usize| {
        for _ in 0..times {
            let wrong = gateway.publishing().with("authorization", "Bearer tgk_0_nonsense").body(EVENT);
            assert_eq!(wrong.send().status, 401);
        }
    };
    refuse(&gateway, 5);
    assert_eq!(gateway.publish("{}").status, 422);
    let levels = |operation: &str, code: &str, level: &str| {
        lines(&gateway, operation, code).iter().filter(|line| line.contains(level)).count()
    };
    assert_eq!(levels("publish", "unauthorized", " WARN "), 1, "{}", gateway.log());
    assert_eq!(levels("publish", "unauthorized", "DEBUG "), 4);
    assert_eq!(levels("publish", "invalid", " WARN "), 1, "each code has its own");
    let warned = &lines(&gateway, "publish", "unauthorized")[0];
    assert!(warned.contains("address=127.0.0.1") && warned.contains("others=0"), "{warned}");
}

#[test]
fn bytes_and_delays_of_streams_are_measured_by_transport() {
    let gateway = Gateway::start();
    let mut streams = gateway.both("");
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let sent =
        |transport: &str| gateway.metric(&format!("tidegate_sent_bytes_total{{transport=\"{transport}\"}}"));
    let passes = |transport: &str| {
        gateway.metric(&format!("tidegate_delivery_duration_seconds_count{{transport=\"{transport}\"}}"))
    };
    // The hello of each, which no pass brings.
    for transport in ["websocket", "sse"] {
        eventually("its hello", || (sent(transport) > 100.0).then_some(()));
        assert_eq!(passes(transport), 0.0);
    }
    let before = [sent("websocket"), sent("sse")];
    gateway.say("s", &format!("\"{}\"", "x".repeat(10_000)));
    streams.iter_mut().for_each(|stream| drop(stream.next("event")));
    for (transport, before) in ["websocket", "sse"].into_iter().zip(before) {
        eventually("the event", || (sent(transport) > before + 10_000.0).then_some(()));
        assert!(sent(transport) < before + 12_000.0, "{transport}");
        // Measured once the pass is over, so perhaps after the reader has the event.
        eventually("the pass", || (passes(transport) == 1.0).then_some(()));
    }
}

#[test]
fn bounds_and_the_state_of_the_log_stand_beside_the_gauges() {
    let gateway = Gateway::with(&["limits.connections=54321", "tail.max_bytes=64MiB"]);
    let limit = |key: &str| gateway.metric(&format!("tidegate_limit{{limit=\"{key}\"}}"));
    assert_eq!([limit("limits.connections"), limit("tail.max_bytes")], [54_321.0, f64::from(64 << 20)]);
    assert_eq!([limit("limits.replays_waiting"), limit("compression.max_contexts")], [10_000.0, 64.0]);
    let state = |name: &str| gateway.metric(&format!("tidegate_log_state{{state=\"{name}\"}}"));
    assert_eq!([state("ok"), state("degraded"), state("halted")], [1.0, 0.0, 0.0]);
}

#[test]
fn metrics_are_text_and_open_metrics_for_who_prefers_it() {
    let gateway = Gateway::start();
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                      q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, is_open) in [
        (None, false),
        (Some("*/*"), false),
        (Some("text/html"), false),
        (Some("text/plain;version=0.0.4"), false),
        (Some("application/openmetrics-text;q=0.5, text/plain"), false),
        (Some("application/openmetrics-text;q=0"), false),
        (Some("application/openmetrics-text"), true),
        (Some("Application/OpenMetrics-Text; version=1.0.0; q=0.9, text/plain; q=0.8"), true),
        (Some(prometheus), true),
    ] {
        let request = Request::new(gateway.admin, "GET", "/metrics");
        let request = accept.map_or(request.clone(), |accept| request.with("accept", accept));
        let answer = request.send();
        let kind = answer.header("content-type").expect("a type");
        let expected = if is_open { "application/openmetrics-text; " } else { "text/plain; version=0.0.4; " };
        assert!(kind.starts_with(expected), "{accept:?}: {kind}");
        assert_eq!(answer.body.ends_with("# EOF\n"), is_open, "{accept:?}");
    }
}

/// Sends a health frame, and waits until the gateway has taken it.
fn report(stream: &mut Ws, report: &Value) {
    let mut frame = json!({"type": "health"});
    for (name, value) in report.as_object().expect("an object") {
        frame[name] = value.clone();
    }
    stream.send(&frame.to_string());
    stream.send(r#"{"type":"ping","n":1}"#);
    stream.next("pong");
}

fn opened(gateway: &Gateway) -> Ws {
    let mut stream = gateway.ws("");
    stream.next("hello");
    stream
}

/// The count and the sum of latencies, the four incidents and the three outcomes of reports; of one org, or
/// of all.
fn reported(gateway: &Gateway, org: Option<&str>) -> [f64; 9] {
    let (name, org) = org.map_or(("client", String::new()), |org| ("client_org", format!("org=\"{org}\"")));
    let of = |metric: &str, label: &str| {
        let labels =
            [&org, label].into_iter().filter(|label| !label.is_empty()).collect::<Vec<_>>().join(",");
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        gateway.metric(&format!("tidegate_{name}_{metric}{labels}"))
    };
    let incident = |name: &str| of("incidents_total", &format!("incident=\"{name}\""));
    let outcome = |name: &str| of("reports_total", &format!("outcome=\"{name}\""));
    [
        of("latency_seconds_count", ""),
        of("latency_seconds_sum", ""),
        incident("disconnect"),
        incident("duplicate"),
        incident("hole"),
        incident("gap"),
        outcome("taken"),
        outcome("clamped"),
        outcome("early"),
    ]
}

#[test]
fn reports_of_clients_are_counted_for_all_orgs_and_for_listed_ones_alone() {
    let gateway = Gateway::with(&["metrics.health_orgs=[\"dev\", \"other\"]"]);
    for org in [None, Some("dev"), Some("other")] {
        assert_eq!(reported(&gateway, org), [0.0; 9], "the series are there from the start");
    }
    let mut stream = opened(&gateway);
    let whole =
        json!({"latencies_ms": [2, 30, 4000], "disconnects": 1, "duplicates": 2, "holes": 3, "gaps": 4});
    report(&mut stream, &whole);
    let mut counts = [3.0, 4.032, 1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 0.0];
    assert_eq!(reported(&gateway, None), counts);
    assert!(gateway.metric("tidegate_client_latency_seconds_bucket{le=\"0.005\"}") == 1.0);
    assert!(gateway.metric("tidegate_client_org_latency_seconds_bucket{le=\"0.05\",org=\"dev\"}") == 2.0);

    // Too early: counted as such, and nothing of it is taken.
    report(&mut stream, &whole);
    counts[8] = 1.0;
    assert_eq!(reported(&gateway, None), counts);
    // A report without anything, and one over all bounds, of other connections.
    report(&mut opened(&gateway), &json!({}));
    counts[6] = 2.0;
    assert_eq!(reported(&gateway, None), counts);
    report(
        &mut opened(&gateway),
        &json!({"latencies_ms": [99_999_999, -1], "holes": -5, "gaps": 1e6 as u64 + 1}),
    );
    counts = [5.0, 3604.032, 1.0, 2.0, 3.0, 1_000_004.0, 2.0, 1.0, 1.0];
    assert_eq!(reported(&gateway, None), counts);
    assert_eq!(reported(&gateway, Some("dev")), counts);
    assert_eq!(reported(&gateway, Some("other")), [0.0; 9]);
}

#[test]
fn an_org_that_is_not_listed_has_no_series_and_the_list_follows_sighup() {
    let config = |orgs: &str| format!("[metrics]\nhealth_orgs = [{orgs}]\n");
    let signer = Signer::secret("k", "a secret of thirty-two bytes....");
    let auth = format!("[auth]\nkeys = [{}]\n", signer.toml());
    let gateway = Gateway::serving(&(auth.clone() + &config("\"beta\"")));
    let token = signer.token(&json!({"sub": "u", "org": "acme", "services": ["*"], "exp": now_s() + 3600}));
    let say = |holes: u32| {
        let mut stream = gateway.ws_as(&token, "");
        stream.next("hello");
        report(&mut stream, &json!({"holes": holes}));
    };
    let of = |org: &str| format!("tidegate_client_org_incidents_total{{org=\"{org}\",incident=\"hole\"}} ");
    let text = || gateway.operators("/metrics").body;
    say(1);
    assert!(!text().contains("org=\"acme\"") && text().contains(&(of("beta") + "0")));
    gateway.configure(&(auth.clone() + &config("\"acme\", \"beta\"")));
    assert!(gateway.hang_up());
    assert!(text().contains(&(of("acme") + "0")), "{}", text());
    say(2);
    gateway.configure(&(auth.clone() + &config("\"acme\"")));
    assert!(gateway.hang_up());
    say(3);
    assert!(text().contains(&(of("acme") + "5")) && !text().contains("org=\"beta\""), "{}", text());
    let many: Vec<String> = (0..101).map(|n| format!("\"org-{n}\"")).collect();
    gateway.configure(&(auth + &config(&many.join(", "))));
    assert!(!gateway.hang_up());
    assert!(gateway.log().contains("has 101 orgs; 100 are the most"), "{}", gateway.log());
    assert_eq!(gateway.metric("tidegate_client_incidents_total{incident=\"hole\"}"), 6.0);
}
