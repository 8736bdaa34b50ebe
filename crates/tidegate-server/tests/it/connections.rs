//! The connections of an org, listed and closed by operators.

use serde_json::Value;

use crate::{
    client::{
        http::{Answer, Request},
        stream::Frames as _,
        ws::Ws,
    },
    gateway::{Gateway, eventually},
};

fn at(gateway: &Gateway, method: &str, rest: &str) -> Answer {
    Request::new(gateway.admin, method, &gateway.path(&format!("connections{rest}"))).send()
}

fn listed(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = at(gateway, "GET", query);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["connections"].as_array().expect("a list").clone()
}

fn closed(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["closed"].as_u64().expect("a number")
}

#[test]
fn connections_are_listed_as_they_are_and_in_pages() {
    let gateway = Gateway::start();
    assert_eq!(at(&gateway, "GET", "").json(), serde_json::json!({"connections": []}));
    let mut first = gateway.ws_as(&gateway.token_of("u", &["a", "b"]), "?services=a");
    let hello = first.next("hello");
    let mut second = gateway.sse_as(&gateway.token_of("v", &["*"]), "");
    second.next("hello");
    let mut third = gateway.ws_as(&gateway.token_of("u", &["b"]), "");
    third.next("hello");

    let all = listed(&gateway, "");
    let users: Vec<_> = all.iter().map(|of| of["user"].as_str().expect("a user")).collect();
    assert_eq!(users, ["u", "v", "u"], "in the order of arrival");
    assert_eq!(all[0]["connection_id"], hello["connection_id"]);
    assert_eq!(all[0]["services"], serde_json::json!(["a"]));
    assert_eq!(all[1]["services"], serde_json::json!(["*"]));
    let transports: Vec<_> = all.iter().map(|of| of["transport"].as_str().expect("a word")).collect();
    assert_eq!(transports, ["websocket", "sse", "websocket"]);
    for of in &all {
        assert_eq!(of["address"], "127.0.0.1");
        let (since, until) = (of["connected_at"].as_str(), of["token_expires_at"].as_str());
        assert!(since < until && since.is_some_and(|time| time.ends_with('Z')), "{of}");
    }
    // A renewal shows in the list.
    third.authenticate(&gateway.token_of("u", &["c"]));
    third.next("hello");
    assert_eq!(listed(&gateway, "?user=u")[1]["services"], serde_json::json!(["c"]));

    let page = at(&gateway, "GET", "?limit=2").json();
    assert_eq!(page["next"], all[1]["connection_id"]);
    let rest = at(&gateway, "GET", &format!("?limit=2&after={}", page["next"].as_str().expect("a name")));
    assert_eq!(rest.json()["connections"][0]["connection_id"], all[2]["connection_id"]);
    assert_eq!(rest.json().get("next"), None);
    let exact = at(&gateway, "GET", "?limit=2&user=u").json();
    assert_eq!((exact["connections"].as_array().map(Vec::len), exact.get("next")), (Some(2), None));
    let elsewhere = Request::new(gateway.admin, "GET", "/v1/orgs/other/connections").send();
    assert_eq!(elsewhere.json(), serde_json::json!({"connections": []}));
    drop((first, second, third));
    eventually("an empty list", || listed(&gateway, "").is_empty().then_some(()));
}

#[test]
fn one_is_closed_by_its_name() {
    let gateway = Gateway::start();
    let mut other = gateway.ws("");
    other.next("hello");
    let mut ws = gateway.ws("");
    let id = ws.next("hello")["connection_id"].as_str().expect("an id").to_owned();
    let elsewhere = format!("/v1/orgs/other/connections/{id}");
    assert_eq!(Request::new(gateway.admin, "DELETE", &elsewhere).send().refusal(), "not_found");
    assert_eq!(closed(&at(&gateway, "DELETE", &format!("/{id}"))), 1);
    let (error, close) = ws.refusal();
    assert_eq!((error["code"].as_str(), close), (Some("revoked"), 4554), "{error}");
    let again = at(&gateway, "DELETE", &format!("/{id}"));
    assert_eq!((again.status, again.refusal().as_str()), (404, "not_found"));

    let mut sse = gateway.sse("");
    let id = sse.next("hello")["connection_id"].as_str().expect("an id").to_owned();
    assert_eq!(closed(&at(&gateway, "DELETE", &format!("/{id}?reason=draining"))), 1);
    let error = sse.next("error");
    assert_eq!(error["code"], "draining");
    assert!(error["retry_in_ms"].as_u64() >= Some(1000), "{error}");
    assert_eq!(sse.try_frame(), None);
    gateway.say("s", "1");
    other.next("event");
    assert!(gateway.log().contains("close a connection for an operator"), "{}", gateway.log());
}

#[test]
fn those_of_a_user_or_of_an_org_are_closed_and_nobody_elses() {
    let gateway = Gateway::start();
    let stream = |token: &str| {
        let mut stream = gateway.ws_as(token, "");
        stream.next("hello");
        stream
    };
    let (of_u, of_v) = (gateway.token_of("u", &["*"]), gateway.token_of("v", &["*"]));
    let mut us: Vec<Ws> = (0..3).map(|_| stream(&of_u)).collect();
    let mut v = stream(&of_v);
    let token = gateway.token_with(&serde_json::json!({"sub": "u", "org": "other"}));
    let mut elsewhere =
        Ws::open(gateway.public, "/v1/orgs/other/stream", &[("authorization", &format!("Bearer {token}"))]);
    elsewhere.next("hello");

    assert_eq!(closed(&at(&gateway, "DELETE", "?user=nobody")), 0);
    assert_eq!(closed(&at(&gateway, "DELETE", "?user=u")), 3);
    for stream in &mut us {
        assert_eq!(stream.refusal().1, 4554);
    }
    assert_eq!(closed(&at(&gateway, "DELETE", "?user=u")), 0, "they are gone, or on their way");
    // A mistyped request closes nobody.
    for query in ["", "?all=yes", "?all=", "?usr=v", "?user=v&all=true", "?user=", "?user=v&user=w"] {
        let answer = at(&gateway, "DELETE", query);
        assert_eq!((answer.status, answer.refusal().as_str()), (400, "bad_request"), "{query}");
    }
    gateway.say("s", "1");
    v.next("event");
    let mut sse = gateway.sse_as(&of_u, "");
    sse.next("hello");
    assert_eq!(closed(&at(&gateway, "DELETE", "?all=true&reason=draining")), 2);
    let (error, close) = v.refusal();
    assert_eq!((error["code"].as_str(), close), (Some("draining"), 1012));
    assert!(error["retry_in_ms"].as_u64() >= Some(1000), "{error}");
    assert_eq!(sse.next("error")["code"], "draining");
    assert_eq!(gateway.metric("tidegate_closes_total{code=\"revoked\"}"), 3.0);
    let key = gateway.key_for("other", "*");
    let publish =
        gateway.publishing().to("/v1/orgs/other/events").with("authorization", &format!("Bearer {key}"));
    assert_eq!(publish.body(r#"{"service":"s","event":"e","data":1}"#).send().status, 200);
    elsewhere.next("event");
    assert!(gateway.log().contains("closed=3"), "{}", gateway.log());
}

#[test]
fn one_whose_socket_takes_nothing_is_closed_too() {
    let gateway = Gateway::with(&["log.engine=memory"]);
    let stream = crate::slow::narrow_ws(&gateway);
    crate::slow::fill(&gateway);
    assert_eq!(closed(&at(&gateway, "DELETE", "?all=true")), 1);
    eventually("its places given back", || {
        (gateway.metric("tidegate_connection_slots{scope=\"streams\"}") == 0.0).then_some(())
    });
    drop(stream);
}

#[test]
fn wrong_requests_are_answered_as_the_public_listener_does() {
    let gateway = Gateway::start();
    for (method, path, status, code, allow) in [
        ("POST", "/v1/orgs/dev/connections", 405, "method_not_allowed", Some("GET, DELETE")),
        ("GET", "/v1/orgs/dev/connections/a-1", 405, "method_not_allowed", Some("DELETE")),
        ("DELETE", "/metrics", 405, "method_not_allowed", Some("GET, HEAD")),
        ("POST", "/healthz", 405, "method_not_allowed", Some("GET, HEAD")),
        ("GET", "/v1/orgs/dev", 404, "not_found", None),
        ("GET", "/v1/orgs/dev/connections/", 405, "method_not_allowed", Some("DELETE")),
        ("DELETE", "/v1/orgs/dev/connections/", 400, "bad_request", None),
        ("GET", "/v1/orgs/a%20b/connections", 400, "bad_request", None),
        ("GET", "/v1/orgs/.dev/connections", 400, "bad_request", None),
        ("GET", "/v1/orgs/dev/connections?user=a,b", 400, "bad_request", None),
        ("GET", "/v1/orgs/dev/connections?limit=0", 400, "bad_request", None),
        ("GET", "/v1/orgs/dev/connections?limit=1001", 400, "bad_request", None),
        ("GET", "/v1/orgs/dev/connections?after=x", 400, "bad_request", None),
        ("GET", "/v1/orgs/dev/connections?usr=x", 400, "bad_request", None),
        ("DELETE", "/v1/orgs/dev/connections/x", 400, "bad_request", None),
        ("DELETE", "/v1/orgs/dev/connections/a-1", 404, "not_found", None),
        ("DELETE", "/v1/orgs/dev/connections/a-1?reason=mood", 400, "bad_request", None),
        ("DELETE", "/v1/orgs/dev/connections?user=u&reason=mood", 400, "bad_request", None),
    ] {
        let answer = Request::new(gateway.admin, method, path).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{method} {path}");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    let public = Request::new(gateway.public, "GET", "/v1/orgs/dev/connections").send();
    assert_eq!(public.refusal(), "not_found", "not where everybody comes");
}
