//! `/openapi.json` against what the handlers do.
//!
//! Debug builds themselves check, in every test, that no answer is missing in the document: see
//! `http::answer`. This is the other half: every answer of the document occurs, and looks as described.

use std::{collections::BTreeSet, io::Read as _};

use serde_json::{Value, json};

use crate::{
    client::{
        http::{Answer, Request},
        http2::Http2,
        sse::Sse,
        stream::Frames as _,
        ws::handshake,
    },
    gateway::{Gateway, eventually, now_s},
    held_node::HeldNode,
    key_server::{self, KeyServer},
    schema::Schemas,
    signer::Signer,
};

fn describing(gateway: &Gateway) -> Request {
    Request::new(gateway.public, "GET", "/openapi.json")
}

fn document(gateway: &Gateway) -> Value {
    let answer = describing(gateway).send();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.json()
}

/// Every operation: path, method, description.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods").iter();
        methods.map(|(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// An answer of the document: an operation's id, a status, and a code if it is a refusal.
type Told = (String, u16, String);

/// The document, and which of its answers have been seen.
struct Book {
    document: Value,
    seen: BTreeSet<Told>,
}

impl Book {
    fn operation(&self, id: &str) -> &Value {
        let found = operations(&self.document).find(|(_, _, operation)| operation["operationId"] == id);
        found.unwrap_or_else(|| panic!("no operation {id}")).2
    }

    /// Checks an answer against the document. The content of a stream is not checked.
    fn hold(&mut self, id: &str, answer: &Answer) {
        let schemas = Schemas(&self.document);
        let status = answer.status;
        let told = &self.operation(id)["responses"][status.to_string()];
        assert!(!told.is_null(), "{id} does not tell of {answer:?}");
        let told = schemas.resolve(told);
        for (name, header) in told["headers"].as_object().into_iter().flatten() {
            let header = schemas.resolve(header);
            match answer.header(&name.to_lowercase()) {
                Some(value) => {
                    let number = value.parse::<u64>().ok().map(Value::from);
                    let value = number.unwrap_or_else(|| value.into());
                    schemas
                        .check(&header["schema"], &value)
                        .unwrap_or_else(|reason| panic!("{id}: {reason}"));
                }
                None => assert_ne!(header["required"], true, "{id} needs {name}: {answer:?}"),
            }
        }
        let sent = answer.header("content-type").map(|value| value.split(';').next().expect("a type"));
        let mut content: Vec<&str> =
            told["content"].as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).collect();
        if status == 431 && sent.is_none() {
            // As over HTTP/1.1.
            content.clear();
        }
        if id != "describeHead" {
            assert_eq!(sent.into_iter().collect::<Vec<_>>(), content, "{id}: {answer:?}");
        }
        let mut code = String::new();
        match content.first() {
            None => assert_eq!(answer.body, "", "{id}"),
            Some(&"text/event-stream") => {}
            Some(kind) => {
                let body = answer.json();
                if let Err(reason) = schemas.check(&told["content"][kind]["schema"], &body) {
                    panic!("{id} answers {status} otherwise than it says: {reason}");
                }
                if *kind == "application/problem+json" {
                    body["code"].as_str().expect("a code").clone_into(&mut code);
                }
            }
        }
        self.seen.insert((id.to_owned(), status, code));
    }

    /// Every answer that the document describes.
    fn told(&self) -> BTreeSet<Told> {
        let mut told = BTreeSet::new();
        for (_, _, operation) in operations(&self.document) {
            let id = operation["operationId"].as_str().expect("an id");
            for (status, response) in operation["responses"].as_object().expect("responses") {
                let codes =
                    response["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"]
                        .as_array()
                        .cloned()
                        .unwrap_or_else(|| vec!["".into()]);
                let status: u16 = status.parse().expect("a status");
                if status == 431 {
                    told.insert((id.to_owned(), status, String::new()));
                }
                told.extend(
                    codes
                        .iter()
                        .map(|code| (id.to_owned(), status, code.as_str().expect("a code").to_owned())),
                );
            }
        }
        told
    }
}

/// The operations for readers' tokens, and their endpoints.
const READS: [(&str, &str); 3] =
    [("readEvents", "events"), ("readCursor", "cursor"), ("openStream", "stream")];
const EVENT: &str = r#"{"service":"s","event":"e","data":1}"#;

/// The two operations that publish. An event with the org `dev` is good for both.
const PUBLISHES: [(&str, &str); 2] =
    [("publishEvents", "/v1/orgs/dev/events"), ("publishToOrgs", "/v1/events")];
const NAMED: &str = r#"{"org":"dev","service":"s","event":"e","data":1}"#;

fn sse(request: Request) -> Request {
    request.with("accept", "text/event-stream")
}

/// The head of an answer whose body is endless or absent.
fn head(request: &Request) -> Answer {
    Answer::read_head(&mut request.begin()).expect("an answer")
}

/// An answer to `id`; its body is read if it has an end.
fn ask(request: &Request, id: &str) -> Answer {
    let mut connection = request.begin();
    let mut answer = Answer::read_head(&mut connection).expect("an answer");
    let is_whole =
        answer.header("content-type").is_some_and(|kind| kind != "text/event-stream; charset=utf-8");
    if is_whole && id != "describeHead" {
        let length = answer.header("content-length").expect("a length").parse().expect("a number");
        connection.take(length).read_to_string(&mut answer.body).expect("the body");
    }
    answer
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The answers of a gateway with the defaults.
fn of_anyone(book: &mut Book, gateway: &Gateway) {
    let publish = || gateway.publishing().body(EVENT);
    book.hold("publishEvents", &publish().send());
    book.hold("publishEvents", &publish().with("idempotency-key", "a b").send());
    book.hold("publishEvents", &publish().without("authorization").send());
    book.hold("publishEvents", &publish().to("/v1/orgs/other/events").send());
    let one = |data: u32| format!(r#"{{"service":"s","event":"e","id":"i","data":{data}}}"#);
    gateway.publish(&one(1));
    book.hold("publishEvents", &gateway.publish(&one(2)));
    book.hold("publishEvents", &gateway.publish(&format!("[{}]", [EVENT; 1001].join(","))));
    book.hold("publishEvents", &publish().with("content-type", "text/plain").send());
    book.hold("publishEvents", &gateway.publish(r#"[{"service":"a b","event":7,"user":"u"}]"#));
    let deep = [&EVENT[..EVENT.len() - 2], &"[".repeat(1000), &"]".repeat(1000), "}"].concat();
    let deep = gateway.publish(&deep);
    assert_eq!(deep.json()["errors"][0]["limit"], "limits.json_depth", "{deep:?}");
    book.hold("publishEvents", &deep);
    let everything = r#"{"service":"s","event":"e","id":"x","key":"k","time":"2026-11-24T10:00:00+01:00","users":["u","dev"],"data":{"a":[null]}}"#;
    book.hold("publishEvents", &gateway.publish(everything));

    let cloud_event = r#"{"specversion":"1.0","id":"i","source":"finance","type":"e","subject":"x"}"#;
    let cloud = publish().with("content-type", "application/cloudevents+json").body(cloud_event);
    book.hold("publishEvents", &cloud.send());
    let binary = publish().with("content-type", "text/plain").with("ce-id", "i");
    book.hold("publishEvents", &binary.send());

    of_publishing_to_orgs(book, gateway);

    let expired = bearer(&gateway.token_with(&json!({"exp": 1000})));
    let foreign = bearer(&gateway.token_with(&json!({"org": "other"})));
    for (id, endpoint) in READS {
        let get = || sse(gateway.getting(endpoint));
        if id == "openStream" {
            book.hold(id, &head(&get()));
        } else {
            book.hold(id, &get().send());
        }
        book.hold(id, &sse(gateway.getting(&format!("{endpoint}?services=a,,b"))).send());
        book.hold(id, &get().without("authorization").send());
        book.hold(id, &get().with("authorization", &expired).send());
        book.hold(id, &get().with("authorization", &foreign).send());
        let strange = get().with("origin", "https://evil.example").send();
        assert_eq!(strange.refusal(), "forbidden");
        book.hold(id, &strange);
    }
    let strange = publish().with("origin", "https://evil.example").send();
    assert_eq!(strange.refusal(), "forbidden");
    book.hold("publishEvents", &strange);
    let of_nobody = sse(gateway.getting("stream?replaces=nowhere-7"));
    book.hold("openStream", &head(&of_nobody));
    book.hold("openStream", &sse(gateway.getting("stream?replaces=nowhere-07")).send());
    // A gap on a page: the cursor is of no incarnation of this log.
    book.hold("readEvents", &gateway.getting("events?after=nowhere-7").send());
    book.hold("openStream", &sse(gateway.getting("stream?slow=fastest")).send());
    let upgrade = handshake(gateway.public, &gateway.path("stream"));
    book.hold("openStream", &head(&upgrade.clone().with("sec-websocket-protocol", "tidegate.v1")));
    book.hold("openStream", &head(&upgrade.clone()));
    book.hold("openStream", &upgrade.with("sec-websocket-version", "8").send());

    let described = describing(gateway).send();
    book.hold("describe", &described);
    let etag = described.header("etag").expect("a tag");
    book.hold("describe", &describing(gateway).with("if-none-match", etag).send());
    book.hold("describeHead", &head(&describing(gateway).by("HEAD")));
    book.hold("describeHead", &head(&describing(gateway).by("HEAD").with("if-none-match", "*")));
    for (id, path) in preflights(gateway) {
        let asking = Request::new(gateway.public, "OPTIONS", &path);
        book.hold(id, &asking.send());
        book.hold(id, &asking.with("origin", "https://evil.example").send());
    }
}

/// The answers to events that name their orgs.
fn of_publishing_to_orgs(book: &mut Book, gateway: &Gateway) {
    let key = gateway.key_for("dev,beta", "*");
    let publish =
        |body: &str| gateway.publishing().to("/v1/events").with("authorization", &bearer(&key)).body(body);
    let event = |org: &str, data: u32| {
        format!(r#"{{"org":"{org}","service":"s","event":"e","id":"of-{org}","data":{data}}}"#)
    };
    let both = |first: u32, second: u32| format!("[{},{}]", event("dev", first), event("beta", second));
    let mut hold = |status: u16, request: &Request| {
        let answer = request.send();
        assert_eq!(answer.status, status, "{answer:?}");
        book.hold("publishToOrgs", &answer);
    };
    hold(200, &publish(&both(1, 1)));
    hold(207, &publish(&both(2, 1)));
    hold(409, &publish(&both(2, 2)));
    hold(409, &publish(&event("dev", 2)));
    hold(400, &publish("{"));
    hold(401, &publish(NAMED).without("authorization"));
    hold(403, &publish(&event("other", 1)));
    hold(403, &publish(NAMED).with("origin", "https://evil.example"));
    hold(413, &publish(&format!("[{}]", [NAMED; 1001].join(","))));
    hold(415, &publish(NAMED).with("content-type", "text/plain"));
    hold(422, &publish(EVENT));
    let cloud_event = r#"{"specversion":"1.0","id":"of","source":"s","type":"e","org":"beta"}"#;
    hold(202, &publish(cloud_event).with("content-type", "application/cloudevents+json"));
}

fn preflights(gateway: &Gateway) -> [(&'static str, String); 5] {
    [
        ("preflightEvents", gateway.path("events")),
        ("preflightPublish", "/v1/events".to_owned()),
        ("preflightCursor", gateway.path("cursor")),
        ("preflightStream", gateway.path("stream")),
        ("preflightDescription", "/openapi.json".to_owned()),
    ]
}

/// The answers of every operation to invalid requests, over both versions of HTTP.
fn of_every_operation(book: &mut Book) {
    let gateway = Gateway::with(&["limits.headers=16"]);
    let requests = operations(&book.document).map(|(path, method, operation)| {
        let id = operation["operationId"].as_str().expect("an id").to_owned();
        let path = path.replace("{org}", &gateway.org);
        (id, Request::new(gateway.public, &method.to_uppercase(), &path))
    });
    let connection = Http2::connect(gateway.public);
    for (id, request) in requests.collect::<Vec<_>>() {
        book.hold(&id, &ask(&request.clone().without("host"), &id));
        book.hold(&id, &ask(&request.clone().adding("host", "other.example"), &id));
        book.hold(&id, &ask(&request.clone().with("transfer-encoding", "gzip, chunked"), &id));
        let many = (0..40).fold(request, |request, index| request.with(&format!("x-{index}"), "y"));
        book.hold(&id, &many.send());
        book.hold(&id, &connection.send(&many));
    }
}

/// The answers that limits cause.
fn of_bounds(book: &mut Book) {
    let gateway = Gateway::with(&[
        "limits.orgs=1",
        "dedup.max_entries=1",
        "dedup.max_entries_per_org=1",
        "limits.connections_per_user=1",
    ]);
    let with_id =
        |id: &str| gateway.publish(&format!(r#"{{"service":"s","event":"e","id":"{id}","data":1}}"#));
    with_id("a");
    book.hold("publishEvents", &with_id("b"));
    let named = |id: &str| format!(r#"{{"org":"dev","service":"s","event":"e","id":"{id}","data":1}}"#);
    book.hold("publishToOrgs", &gateway.publishing().to("/v1/events").body(named("b")).send());
    let other = |request: Request, endpoint: &str, credentials: &str| {
        request.to(&format!("/v1/orgs/other/{endpoint}")).with("authorization", &bearer(credentials)).send()
    };
    let key = gateway.key_for("other", "*");
    book.hold("publishEvents", &other(gateway.publishing().body(EVENT), "events", &key));
    let named = gateway.publishing().to("/v1/events").with("authorization", &bearer(&key));
    book.hold("publishToOrgs", &named.body(NAMED.replace("dev", "other")).send());
    let token = gateway.token_with(&json!({"org": "other"}));
    book.hold("readEvents", &other(gateway.getting(""), "events", &token));
    book.hold("readCursor", &other(gateway.getting(""), "cursor", &token));
    book.hold("openStream", &other(gateway.getting(""), "stream", &token));
    let mut held = gateway.sse("");
    held.next("hello");
    book.hold("openStream", &gateway.getting("stream").send());

    let gateway = Gateway::with(&[
        "limits.publishes_per_second=1",
        "limits.handshakes_per_second=1",
        "limits.failed_auths_per_second=1",
        "limits.request_timeout=300ms",
    ]);
    let refused = |ask: &dyn Fn() -> Answer| {
        eventually("a refusal", || Some(ask()).filter(|answer| answer.status == 429))
    };
    for (id, path) in PUBLISHES {
        book.hold(id, &refused(&|| gateway.publishing().to(path).body(NAMED).send()));
    }
    book.hold("openStream", &refused(&|| ask(&gateway.getting("stream"), "openStream")));
    for (id, endpoint) in [("readEvents", "events"), ("readCursor", "cursor")] {
        let bad = gateway.getting(endpoint).with("authorization", "Bearer nonsense");
        book.hold(id, &refused(&|| bad.send()));
    }
    for (id, path) in PUBLISHES {
        let slow = gateway.publishing().to(path).with("content-length", "100").body("{");
        book.hold(
            id,
            &eventually("room for one", || Some(slow.send()).filter(|answer| answer.status != 429)),
        );
    }
}

/// The answers of a draining gateway.
fn of_one_that_leaves(book: &mut Book) {
    let gateway = Gateway::with(&["drain.window=1h"]);
    let mut stream = gateway.ws("");
    stream.next("hello");
    gateway.terminate();
    eventually("readyz to say no", || (gateway.operators("/readyz").status == 503).then_some(()));
    for (id, path) in PUBLISHES {
        book.hold(id, &gateway.publishing().to(path).body(NAMED).send());
    }
    book.hold("openStream", &gateway.getting("stream").send());
}

/// The answers if the log fails.
fn of_a_log_that_fails(book: &mut Book) {
    let node = HeldNode::start();
    let unknown = node.publishing().body(EVENT).send();
    assert_eq!(unknown.json()["limit"], "limits.publish_timeout");
    book.hold("publishEvents", &unknown);
    let gateway = Gateway::start();
    let once = |data: &str| {
        let event = format!(r#"{{"service":"s","event":"e","data":{data}}}"#);
        gateway.publishing().with("idempotency-key", "once").body(event).send()
    };
    assert_eq!(once("1").status, 200);
    book.hold("publishEvents", &once("2"));
    let several = |data: &str| {
        let event = NAMED.replace("dev", &gateway.org).replace("\"data\":1", &format!("\"data\":{data}"));
        gateway.publishing().to("/v1/events").with("idempotency-key", "several").body(event).send()
    };
    assert_eq!(several("1").status, 200);
    book.hold("publishToOrgs", &several("2"));
    let patient = HeldNode::with(&[("limits.publish_timeout", "1h")]);
    let keyed = || patient.publishing().with("idempotency-key", "k").body(EVENT);
    let first = keyed().begin();
    eventually("the first", || (patient.appends() == 1).then_some(()));
    book.hold("publishEvents", &keyed().send());
    let several = keyed().to("/v1/events").body(NAMED.replace("dev", "acme"));
    book.hold("publishToOrgs", &several.send());
    drop(first);
    let named = || node.publishing().to("/v1/events").body(NAMED.replace("dev", "acme"));
    book.hold("publishToOrgs", &named().send());
    node.let_answer();
    node.fail_reads();
    book.hold("readEvents", &node.getting("events").send());
    book.hold("openStream", &node.getting("stream?tail=1").send());
    node.halt();
    book.hold("publishEvents", &node.publishing().body(EVENT).send());
    book.hold("publishToOrgs", &named().send());
    let brimful = HeldNode::start();
    brimful.fill();
    for (id, endpoint) in READS {
        book.hold(id, &brimful.getting(endpoint).send());
    }
    let full = Gateway::with(&["log.min_free=1000000GiB"]);
    book.hold("publishEvents", &full.publish(EVENT));
    book.hold(
        "publishToOrgs",
        &full.publishing().to("/v1/events").body(NAMED.replace("dev", &full.org)).send(),
    );
}

/// The answers if an issuer publishes no keys.
fn of_an_issuer_that_is_away(book: &mut Book) {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    server.sends(key_server::answer("500 Internal Server Error", "", b""));
    let gateway = Gateway::serving(&format!(
        "[[auth.issuers]]\nissuer = \"https://id.example\"\nalgorithms = [\"ES256\"]\norgs = [\"acme\"]\njwks = \"{}\"\n",
        server.url("jwks")
    ));
    let token = signer.token(&json!({
        "iss": "https://id.example", "sub": "u", "org": "acme", "services": ["*"], "exp": now_s() + 3600,
    }));
    for (id, endpoint) in READS {
        let refused = gateway.getting(endpoint).with("authorization", &bearer(&token)).send();
        assert_eq!(refused.refusal(), "overloaded");
        book.hold(id, &refused);
    }
}

/// The answers to cookies; the document of such a gateway differs.
fn of_cookies() {
    let gateway = Gateway::with(&["auth.cookie=tg", "auth.origins=[\"https://app.example.com\"]"]);
    let mut book = Book { document: document(&gateway), seen: BTreeSet::new() };
    let cookie = format!("tg={}", gateway.token);
    for (id, endpoint) in READS {
        let asking = gateway.getting(endpoint).without("authorization").with("cookie", &cookie);
        let ours = ask(&asking.clone().with("origin", "https://app.example.com"), id);
        assert_eq!(ours.status, 200, "{ours:?}");
        book.hold(id, &ours);
        let bare = asking.send();
        assert_eq!(bare.refusal(), "forbidden");
        book.hold(id, &bare);
    }
    let told = &book.document["components"]["securitySchemes"]["cookie"];
    assert_eq!((&told["in"], &told["name"]), (&json!("cookie"), &json!("tg")));
    let by_cookie: BTreeSet<&str> = operations(&book.document)
        .filter(|(_, _, operation)| {
            operation["security"].as_array().expect("schemes").contains(&json!({ "cookie": [] }))
        })
        .map(|(_, _, operation)| operation["operationId"].as_str().expect("an id"))
        .collect();
    assert_eq!(by_cookie, READS.iter().map(|(id, _)| *id).collect());
}

#[test]
fn cookies_are_described_where_they_are_taken() {
    of_cookies();
    let text = document(&Gateway::start()).to_string();
    assert!(!text.contains("\"cookie\""), "{text}");
}

#[test]
fn every_answer_of_the_document_occurs_and_looks_as_it_says() {
    let gateway = Gateway::start();
    let mut book = Book { document: document(&gateway), seen: BTreeSet::new() };
    of_anyone(&mut book, &gateway);
    of_every_operation(&mut book);
    of_bounds(&mut book);
    of_an_issuer_that_is_away(&mut book);
    of_one_that_leaves(&mut book);
    of_a_log_that_fails(&mut book);
    let never: Vec<Told> = book.told().difference(&book.seen).cloned().collect();
    assert!(never.is_empty(), "described, but seen by nobody: {never:#?}");
}

#[test]
fn each_frame_looks_as_the_document_says() {
    let settings =
        ["drain.window=100ms", "ping.interval=1s", "ping.timeout=500ms", "compression.threshold=1B"];
    let mut gateway = Gateway::with(&settings);
    let document = document(&gateway);
    let schemas = Schemas(&document);
    let mut kinds = BTreeSet::new();
    let mut hold = |text: &str| {
        let frame: Value = serde_json::from_str(text).expect("JSON");
        let event = json!({ "data": text });
        if let Err(reason) = schemas.check(&document["components"]["schemas"]["ServerSentEvent"], &event) {
            panic!("{frame} is not as described: {reason}");
        }
        kinds.insert(frame["type"].as_str().expect("a type").to_owned());
        if frame["compressed"] == true {
            kinds.insert("batch, compressed".to_owned());
        }
    };
    gateway.say("s", "1");
    let mut streams = Vec::from(gateway.both("?cursor=nowhere-7&services=s,t"));
    streams.extend(gateway.both("?batch=gzip&tail=1"));
    gateway.publish(
        r#"[{"service":"s","event":"e","key":"k","time":"2026-11-24T10:00:00Z","users":["dev","u"],"data":1},
            {"service":"t","event":"e","data":{"type":"x"}}]"#,
    );
    let mut asked = false;
    for stream in &mut streams {
        while let Some(text) = stream.try_frame() {
            hold(&text);
            if text.contains(r#""type":"ping""#) && !asked {
                asked = true;
                gateway.terminate();
            }
        }
    }
    assert_eq!(gateway.exit_code(), Some(0));
    let gateway = Gateway::start();
    let mut replaced = gateway.sse("");
    let hello = replaced.try_frame().expect("hello");
    hold(&hello);
    let hello: Value = serde_json::from_str(&hello).expect("JSON");
    let connection = hello["connection_id"].as_str().expect("a name");
    let mut replacing = gateway.sse(&format!("?replaces={connection}"));
    hold(&replacing.try_frame().expect("hello"));
    let evicted = replaced.try_frame().expect("an error");
    assert!(evicted.contains("\"evicted\""), "{evicted}");
    hold(&evicted);
    let mut asking = gateway.ws("");
    hold(&asking.try_frame().expect("hello"));
    let ping = json!({ "type": "ping", "n": 7 });
    schemas.check(&document["components"]["schemas"]["ClientFrame"], &ping).expect("as its schema says");
    let health = json!({ "type": "health", "latencies_ms": [0, 3_600_000], "disconnects": 1, "duplicates": 0, "holes": 0, "gaps": 1_000_000 });
    schemas.check(&document["components"]["schemas"]["ClientFrame"], &health).expect("as its schema says");
    asking.send(&health.to_string());
    asking.send(&ping.to_string());
    hold(&asking.try_frame().expect("a pong"));
    let node = HeldNode::start();
    let mut halted = node.ws("");
    hold(&halted.try_frame().expect("hello"));
    node.halt();
    hold(&halted.try_frame().expect("a status"));
    assert!(kinds.remove("batch, compressed"), "{kinds:?}");
    let all = ["batch", "error", "event", "gap", "goaway", "hello", "ping", "pong", "status"];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), all);
    let named: BTreeSet<&str> = document["components"]["schemas"]["ServerFrame"]["discriminator"]["mapping"]
        .as_object()
        .expect("a mapping")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(named, BTreeSet::from(all), "and no other is described");
}

#[test]
fn its_examples_work() {
    let gateway = Gateway::start();
    let document = document(&gateway);
    let schemas = Schemas(&document);
    let bodies = ["/v1/orgs/{org}/events", "/v1/events"].into_iter().flat_map(|path| {
        let bodies = document["paths"][path]["post"]["requestBody"]["content"].as_object();
        bodies.expect("bodies").iter().map(move |(kind, form)| (path.replace("{org}", "dev"), kind, form))
    });
    for (path, kind, form) in bodies {
        for example in form["examples"].as_object().expect("examples").values() {
            schemas.check(&form["schema"], &example["value"]).expect("as its schema says");
            let body = example["value"].as_str().map_or_else(|| example["value"].to_string(), str::to_owned);
            let answer = gateway.publishing().to(&path).with("content-type", kind).body(body).send();
            let status = if kind.contains("cloudevents") { 202 } else { 200 };
            assert_eq!(answer.status, status, "{answer:?}");
        }
    }
    for (path, method, operation) in operations(&document).filter(|(_, method, _)| *method == "get") {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let mut address = path.to_owned();
        for parameter in operation["parameters"].as_array().expect("parameters") {
            let parameter = schemas.resolve(parameter);
            let Some(example) = parameter.get("example") else { continue };
            schemas.check(&parameter["schema"], example).expect("as its schema says");
            let text = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            match parameter["in"].as_str() {
                Some("path") => address = address.replace("{org}", &text),
                Some("query") => drop(query.append_pair(parameter["name"].as_str().expect("a name"), &text)),
                _ => {}
            }
        }
        let request =
            gateway.getting("").to(&format!("{address}?{}", query.finish())).by(&method.to_uppercase());
        assert_eq!(head(&request).status, 200, "{request:?}");
        for answer in operation["responses"].as_object().expect("responses").values() {
            for (_, form) in answer["content"].as_object().into_iter().flatten() {
                if let Some(example) = form.get("example") {
                    schemas.check(&form["schema"], example).expect("as its schema says");
                }
            }
        }
    }
    Sse::open(gateway.getting("stream?services=finance,staff&tail=10")).next("hello");
}

#[test]
fn what_it_does_not_tell_of_is_not_there() {
    let gateway = Gateway::start();
    let document = document(&gateway);
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let methods = methods.as_object().expect("methods");
        let address = path.replace("{org}", &gateway.org);
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if methods.contains_key(&method.to_lowercase()) {
                continue;
            }
            let answer = head(&Request::new(gateway.public, method, &address));
            assert_eq!(answer.status, 405, "{method} {address}: {answer:?}");
            let allowed: BTreeSet<String> =
                answer.header("allow").expect("allow").split(", ").map(str::to_lowercase).collect();
            assert_eq!(allowed, methods.keys().cloned().collect(), "{address}");
        }
    }
    for path in [
        "/openapi",
        "/openapi.json/",
        "/openapi.yaml",
        "/v1",
        "/v1/orgs",
        "/v1/orgs/dev/events/1",
        "//openapi.json",
    ] {
        let answer = gateway.getting("").to(path).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (404, "not_found"), "{path}");
    }
}

#[test]
fn it_is_the_same_until_the_configuration_is_another() {
    let (gateway, again) = (Gateway::start(), Gateway::start());
    let answer = describing(&gateway).send();
    let etag = answer.header("etag").expect("a tag");
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(describing(&again).send().body, answer.body, "of another gateway of this configuration");
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("openapi").output();
    let printed: Value = serde_json::from_slice(&printed.expect("run it").stdout).expect("JSON");
    assert_eq!(printed, answer.json(), "and the one that the command line prints");

    for (known, status) in [
        (etag.to_owned(), 304),
        (format!("W/{etag}"), 304),
        (format!("\"other\", {etag}"), 304),
        ("*".to_owned(), 304),
        ("\"other\"".to_owned(), 200),
        (String::new(), 200),
        (etag.trim_matches('"').to_owned(), 200),
    ] {
        let answer = describing(&gateway).with("if-none-match", &known).send();
        assert_eq!((answer.status, answer.header("etag")), (status, Some(etag)), "{known}");
    }
    let asked = head(&describing(&gateway).by("HEAD"));
    let length = answer.body.len().to_string();
    assert_eq!((asked.status, asked.header("content-length")), (200, Some(length.as_str())));

    let other = Gateway::with(&["limits.page_events=7", "limits.events_per_batch=3"]);
    let described = describing(&other).send();
    assert_ne!(described.header("etag"), Some(etag));
    let described = described.json();
    assert_eq!(described["components"]["parameters"]["Limit"]["schema"]["maximum"], 7);
    assert_eq!(described["components"]["schemas"]["NewEvents"]["anyOf"][1]["maxItems"], 3);
    assert_eq!(other.getting("events?limit=8").send().status, 400);
}

#[test]
fn pages_of_listed_origins_may_read_it() {
    let gateway = Gateway::with(&["auth.origins=[\"https://app.example.com\"]"]);
    let from = |origin: &str| describing(&gateway).with("origin", origin).send();
    let answer = from("https://app.example.com");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let answer = from("https://evil.example");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    assert_eq!(answer.header("vary"), Some("Origin"), "a cache keeps the two apart");
}
