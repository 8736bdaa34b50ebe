//! Issuers that publish their keys: fetches, waiting tokens, rotation, outages.

use serde_json::{Value, json};

use crate::{
    client::{
        stream::{Follower, Frames as _},
        ws::Ws,
    },
    gateway::{Gateway, eventually, now_s},
    key_server::{Held, KeyServer, answer},
    signer::Signer,
};

const ISSUER: &str = "https://id.example";

fn config(url: &str, auth: &str) -> String {
    format!(
        "[auth]\n{auth}\n[[auth.issuers]]\nissuer = \"{ISSUER}\"\nalgorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\n\
         orgs = [\"acme\"]\njwks = \"{url}\"\n[limits]\nconnections_per_user = 1000\nhandshakes_per_second = 100_000\n"
    )
}

fn token(signer: &Signer) -> String {
    signer.token(&claims())
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "u", "org": "acme", "services": ["*"], "exp": now_s() + 3600})
}

fn set_of(signers: &[&Signer]) -> Vec<u8> {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    answer("200 OK", "", json!({"keys": keys}).to_string().as_bytes())
}

/// `hello`, or the code of the refusal.
fn said(gateway: &Gateway, token: &str) -> String {
    let frame = gateway.ws_as(token, "").frame();
    frame["code"].as_str().or(frame["type"].as_str()).expect("text").to_owned()
}

fn becomes(gateway: &Gateway, token: &str, wanted: &str) {
    eventually(wanted, || (said(gateway, token) == wanted).then_some(()));
}

fn fetches(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!("tidegate_jwks_fetches_total{{outcome=\"{outcome}\"}}"))
}

#[test]
fn every_algorithm_is_taken_listed_or_fetched_on_every_road() {
    let signers = [Signer::rsa("r"), Signer::p256("e"), Signer::ed25519("d")];
    let listed: Vec<String> = signers.iter().map(Signer::toml).collect();
    let listed =
        Gateway::serving(&format!("[auth]\nissuer = \"{ISSUER}\"\nkeys = [{}]\n", listed.join(", ")));
    let server = KeyServer::of(&signers.iter().collect::<Vec<_>>());
    let fetched = Gateway::serving(&config(&server.url("jwks"), ""));
    for gateway in [&listed, &fetched] {
        for signer in &signers {
            let token = token(signer);
            gateway.both_as(&token, "").iter_mut().for_each(|stream| drop(stream.next("hello")));
            let history = gateway.getting("events").with("authorization", &format!("Bearer {token}"));
            assert_eq!(history.send().status, 200);
            let mut stream = Ws::open(gateway.public, &gateway.path("stream"), &[]);
            stream.authenticate(&token);
            stream.next("hello");
        }
    }
    assert_eq!(server.asked().len(), 1);
    assert_eq!(fetched.metric("tidegate_jwks_keys"), 3.0);
}

#[test]
fn a_hundred_tokens_that_wait_for_keys_are_one_request() {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    let held = Held::back(&server, set_of(&[&signer]));
    let gateway = Gateway::serving(&config(&server.url("jwks"), "jwks_timeout = \"60s\""));
    let token = token(&signer);
    let mut waiting: Vec<Ws> = (0..100).map(|_| gateway.ws_as(&token, "")).collect();
    held.let_go();
    waiting.iter_mut().for_each(|stream| drop(stream.next("hello")));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_new_key_is_fetched_for_the_first_token_that_names_it() {
    let (server, old, new) = (KeyServer::start(), Signer::p256("old"), Signer::rsa("new"));
    server.publishes(&[&old]);
    let gateway = Gateway::serving(&config(&server.url("jwks"), "jwks_cooldown = \"100ms\""));
    becomes(&gateway, &token(&old), "hello");
    server.publishes(&[&old, &new]);
    // Not before the cooldown is over; then at once, without waiting for the next refresh.
    becomes(&gateway, &token(&new), "hello");
    assert_eq!(said(&gateway, &token(&old)), "hello");
    // A `kid` that stays unknown is final, but only after a fetch that began later than its first use.
    becomes(&gateway, &token(&Signer::p256("never")), "unauthorized");
    let other = Signer::p256("new");
    assert_eq!(said(&gateway, &token(&other)), "unauthorized", "the name is known, the key another");
}

#[test]
fn unknown_names_cost_one_request_in_each_cooldown() {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    server.publishes(&[&signer]);
    let gateway = Gateway::serving(&config(&server.url("jwks"), "jwks_cooldown = \"1h\""));
    becomes(&gateway, &token(&signer), "hello");
    for name in 0..300 {
        let stranger = Signer::secret(&name.to_string(), "not a key of the issuer's, to be sure");
        let header = json!({"alg": "ES256", "kid": name.to_string()}).to_string();
        let token = stranger.token_of(header, claims().to_string());
        let (error, close) = gateway.ws_as(&token, "").refusal();
        assert_eq!((error["code"].as_str(), close), (Some("overloaded"), 1013), "{error}");
        // The rest of the cooldown, but no more than a minute.
        assert_eq!(error["retry_in_ms"], 60_000, "{error}");
    }
    assert_eq!(server.asked().len(), 1);
    assert_eq!(said(&gateway, &token(&signer)), "hello");
}

#[test]
fn where_keys_cannot_be_had_nobody_is_let_in_and_everybody_may_come_back() {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    server.sends(answer("500 Internal Server Error", "", b""));
    let gateway = Gateway::serving(&config(&server.url("jwks"), "jwks_timeout = \"1s\""));
    let good = token(&signer);
    let (error, close) = gateway.ws_as(&good, "").refusal();
    assert_eq!((error["code"].as_str(), close), (Some("overloaded"), 1013), "{error}");
    assert!(error["retry_in_ms"].as_u64().is_some_and(|millis| millis >= 1000), "{error}");
    for (endpoint, accept) in [("stream", "text/event-stream"), ("events", "*/*")] {
        let request = gateway.getting(endpoint).with("authorization", &format!("Bearer {good}"));
        let answer = request.with("accept", accept).send();
        assert_eq!((answer.status, answer.refusal().as_str()), (503, "overloaded"));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert_eq!(gateway.operators("/readyz").status, 200, "others' issuers may be well");
    let told = "the issuer's keys cannot be fetched; trying again";
    assert_eq!(gateway.logged(told).expect("it says so")["level"], "WARN");
    eventually("another try", || (fetches(&gateway, "status") >= 2.0).then_some(()));
    assert_eq!(gateway.log().matches(told).count(), 1, "a change of state is told once");
    server.publishes(&[&signer]);
    becomes(&gateway, &good, "hello");
}

#[test]
fn keys_outlive_a_failure_but_not_for_ever() {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    server.publishes(&[&signer]);
    let long = config(&server.url("jwks"), "jwks_refresh = \"1s\"\njwks_stale_if_error = \"1h\"");
    let short = config(&server.url("jwks"), "jwks_refresh = \"1s\"\njwks_stale_if_error = \"2s\"");
    let (patient, strict) = (Gateway::serving(&long), Gateway::serving(&short));
    becomes(&patient, &token(&signer), "hello");
    becomes(&strict, &token(&signer), "hello");
    server.sends(b"nothing of the kind".to_vec());
    eventually("failures", || (fetches(&patient, "unreachable") >= 2.0).then_some(()));
    becomes(&strict, &token(&signer), "overloaded");
    eventually("keys dropped", || (strict.metric("tidegate_jwks_keys") == 0.0).then_some(()));
    let issuers = |gateway: &Gateway| {
        ["failing", "without_keys"].map(|which| gateway.metric(&format!("tidegate_jwks_issuers_{which}")))
    };
    eventually("its count", || (issuers(&strict) == [1.0, 1.0]).then_some(()));
    assert_eq!(issuers(&patient), [1.0, 0.0]);
    assert_eq!(said(&patient, &token(&signer)), "hello");
    server.publishes(&[&signer]);
    becomes(&strict, &token(&signer), "hello");
    for gateway in [&patient, &strict] {
        eventually("all is well", || (issuers(gateway) == [0.0, 0.0]).then_some(()));
    }
    // What a configuration no longer has counts no more.
    server.sends(b"nothing of the kind".to_vec());
    eventually("failures", || (issuers(&strict) == [1.0, 1.0]).then_some(()));
    strict.configure("[auth]\nkeys = [{ secret = \"a secret of at least thirty-two bytes\" }]\n");
    assert!(strict.hang_up());
    eventually("its share taken back", || (issuers(&strict) == [0.0, 0.0]).then_some(()));
}

#[test]
fn a_key_that_has_gone_from_the_set_is_gone() {
    let (server, old, new) = (KeyServer::start(), Signer::p256("old"), Signer::p256("new"));
    server.publishes(&[&old, &new]);
    let quick = "jwks_refresh = \"1s\"\njwks_cooldown = \"100ms\"";
    let gateway = Gateway::serving(&config(&server.url("jwks"), quick));
    becomes(&gateway, &token(&old), "hello");
    server.publishes(&[&new]);
    becomes(&gateway, &token(&old), "unauthorized");
    assert_eq!(said(&gateway, &token(&new)), "hello");
    // A token without a `kid` is accepted if there is only one key.
    let unnamed =
        |signer: &Signer| signer.token_of(json!({"alg": signer.alg()}).to_string(), claims().to_string());
    assert_eq!(said(&gateway, &unnamed(&new)), "hello");
    assert_eq!(said(&gateway, &unnamed(&old)), "unauthorized");
    server.gives(&json!({"keys": []}));
    becomes(&gateway, &token(&new), "overloaded");
}

#[test]
fn r6_a_renewal_waits_for_its_keys_while_events_flow() {
    let (server, old, new) = (KeyServer::start(), Signer::p256("old"), Signer::p256("new"));
    server.publishes(&[&old]);
    let auth = "jwks_cooldown = \"100ms\"\njwks_timeout = \"60s\"";
    let gateway = Gateway::serving(&config(&server.url("jwks"), auth));
    // The cooldown after the first fetch is over when an unknown `kid` causes another one.
    becomes(&gateway, &token(&Signer::p256("never")), "unauthorized");
    let mut stream = gateway.ws_as(&token(&old), "");
    let mut client = Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor"));
    let held = Held::back(&server, set_of(&[&old, &new]));
    let asked = server.asked().len();
    // A token whose `kid` is known to be absent is refused at once, and causes the next fetch.
    eventually("a fetch that is under way", || {
        assert_eq!(said(&gateway, &token(&Signer::p256("never"))), "unauthorized");
        (server.asked().len() > asked).then_some(())
    });
    let narrow = new.token(&{
        let mut claims = claims();
        claims["services"] = json!(["a"]);
        claims
    });
    stream.authenticate(&narrow);
    for count in 1..=20 {
        gateway.say("b", &count.to_string());
    }
    assert_eq!(stream.events(&mut client, 20).len(), 20, "while the renewal waits");
    held.let_go();
    loop {
        let frame = stream.frame();
        client.hear(&frame.to_string());
        if frame["type"] == "hello" {
            assert_eq!(frame["services"], json!(["a"]));
            break;
        }
    }
    gateway.say("b", "0");
    gateway.say("a", "1");
    assert_eq!(stream.events(&mut client, 1)[0]["service"], "a");
}

#[test]
fn a_renewal_whose_keys_cannot_be_had_leaves_the_stream_under_the_token_before() {
    let (server, old, new) = (KeyServer::start(), Signer::p256("old"), Signer::p256("new"));
    server.publishes(&[&old]);
    let auth = "leeway = \"0s\"\njwks_cooldown = \"1h\"";
    let gateway = Gateway::serving(&config(&server.url("jwks"), auth));
    becomes(&gateway, &token(&old), "hello");
    let of = |signer: &Signer, services: &[&str], seconds: u64| {
        let mut claims = claims();
        claims["services"] = json!(services);
        claims["exp"] = (now_s() + seconds).into();
        signer.token(&claims)
    };
    // Nothing is fetched within the cooldown, so the new token's key is unknown.
    let unknown = of(&new, &["*"], 3600);
    let mut stream = gateway.ws_as(&of(&old, &["a"], 3600), "");
    let mut client = Follower::at(stream.next("hello")["cursor"].as_str().expect("a cursor"));
    for _ in 0..3 {
        stream.authenticate(&unknown);
        let status = stream.next("status");
        assert_eq!(status["code"], "overloaded", "{status}");
        assert!(status["message"].as_str().is_some_and(|text| text.contains("send auth again")), "{status}");
    }
    gateway.say("b", "0");
    gateway.say("a", "1");
    assert_eq!(stream.events(&mut client, 1)[0]["service"], "a", "what the old token allows, and no more");
    // It does not extend the stream.
    let mut stream = gateway.ws_as(&of(&old, &["a"], 6), "");
    stream.next("hello");
    stream.authenticate(&unknown);
    stream.next("status");
    let (error, close) = stream.refusal();
    assert_eq!((error["code"].as_str(), close), (Some("token_expired"), 4001), "{error}");
    // An invalid token ends a stream as usual.
    let mut stream = gateway.ws_as(&token(&old), "");
    stream.next("hello");
    stream.authenticate(&Signer::p256("old").token(&claims()));
    assert_eq!(stream.refusal().0["code"], "unauthorized");
}

#[test]
fn a_token_is_shown_with_who_signed_it_or_why_nobody_did() {
    let (server, fetched) = (KeyServer::start(), Signer::p256("fetched"));
    server.publishes(&[&fetched]);
    let listed = Signer::secret("listed", "a secret of thirty-two bytes....");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tidegate.toml");
    let auth = format!("issuer = \"https://short.example\"\nkeys = [{}]", listed.toml());
    std::fs::write(&file, config(&server.url("jwks"), &auth)).expect("a file");
    let inspect = |token: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output =
            command.args(["token", "inspect", "--config"]).arg(&file).arg(token).output().expect("run it");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).expect("UTF-8"))
    };
    let (good, said) = inspect(&token(&fetched));
    assert!(
        good && said.contains("issuer: \"https://id.example\"\nsigned by: the ES256 key \"fetched\"\ngood: "),
        "{said}"
    );
    let (good, said) = inspect(&token(&listed));
    assert!(
        !good && said.contains("issuer: \"https://id.example\"\nsigned by: none that was found\n"),
        "{said}"
    );
    let mut short = claims();
    short["iss"] = "https://short.example".into();
    let (good, said) = inspect(&listed.token(&short));
    assert!(good && said.contains("signed by: the HS256 key \"listed\""), "{said}");
    short["org"] = "..".into();
    let (good, said) = inspect(&listed.token(&short));
    assert!(
        !good
            && said.contains("signed by: the HS256 key \"listed\"\n")
            && said.contains("refused (unauthorized)"),
        "{said}"
    );
    // Public keys can only verify.
    std::fs::write(&file, config(&server.url("jwks"), "")).expect("a file");
    let mut create = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    create
        .args(["token", "create", "--org", "acme", "--user", "u", "--services", "*", "--config"])
        .arg(&file);
    let output = create.output().expect("run it");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("auth.keys has no secret (HS256) to sign with"), "{said}");
}
