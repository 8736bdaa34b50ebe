//! A configuration that is reread while the gateway runs.

use serde_json::{Value, json};

use crate::{
    client::stream::Frames as _,
    gateway::{Gateway, eventually, now_s},
    key_server::{KeyServer, answer},
    signer::Signer,
};

const OLD: &str = "the old secret of thirty-two byte";
const NEW: &str = "the new secret of thirty-two byte";

fn claims() -> Value {
    json!({"sub": "u", "org": "acme", "services": ["*"], "exp": now_s() + 3600})
}

fn said(gateway: &Gateway, token: &str) -> String {
    let frame = gateway.ws_as(token, "").frame();
    frame["code"].as_str().or(frame["type"].as_str()).expect("text").to_owned()
}

#[test]
fn keys_and_limits_follow_and_streams_stay() {
    let (old, new) = (Signer::secret("old", OLD), Signer::secret("new", NEW));
    let config = |keys: &[&Signer], limits: &str| {
        let keys: Vec<String> = keys.iter().map(|key| key.toml()).collect();
        format!("[auth]\nkeys = [{}]\n[limits]\n{limits}\n", keys.join(", "))
    };
    let gateway = Gateway::serving(&config(&[&old], ""));
    let (by_old, by_new) = (old.token(&claims()), new.token(&claims()));
    assert_eq!((said(&gateway, &by_old), said(&gateway, &by_new)), ("hello".into(), "unauthorized".into()));
    let mut stream = gateway.ws_as(&by_old, "");
    stream.next("hello");

    gateway.configure(&config(&[&old, &new], "connections_per_user = 2"));
    assert!(gateway.hang_up());
    let mut second = gateway.ws_as(&by_new, "");
    second.next("hello");
    let (error, close) = gateway.ws_as(&by_new, "").refusal();
    assert_eq!((error["limit"].as_str(), close), (Some("limits.connections_per_user"), 4004), "{error}");

    gateway.configure(&config(&[&new], "publishes_per_second = 1\nevent_bytes = \"1KiB\""));
    assert!(gateway.hang_up());
    assert_eq!((said(&gateway, &by_old), said(&gateway, &by_new)), ("unauthorized".into(), "hello".into()));
    let wide = format!(r#"{{"service":"s","event":"e","data":"{}"}}"#, "x".repeat(2000));
    assert_eq!(gateway.publish(&wide).json()["limit"], "limits.event_bytes");
    let publish = || gateway.publish(r#"{"service":"s","event":"e","data":1}"#);
    eventually("a second", || (publish().status == 200).then_some(()));
    let limited = eventually("the rate", || {
        let answer = publish();
        (answer.status == 429).then(|| answer.json())
    });
    assert_eq!(limited["limit"], "limits.publishes_per_second");
    // Open streams keep their grants.
    drop(second);
    loop {
        if matches!(stream.frame()["type"].as_str(), Some("event" | "batch")) {
            break;
        }
    }
    let taken = gateway.log().lines().filter(|line| line.contains("the configuration is taken over")).count();
    assert_eq!(taken, 2);
}

#[test]
fn the_longest_life_of_a_token_follows() {
    let signer = Signer::secret("k", OLD);
    let config = |more: &str| format!("[auth]\nkeys = [{}]\n{more}\n", signer.toml());
    let gateway = Gateway::serving(&config(""));
    let mut claims = claims();
    claims["exp"] = (now_s() + 40 * 86_400).into();
    let token = signer.token(&claims);
    assert_eq!(said(&gateway, &token), "unauthorized");
    gateway.configure(&config("max_token_life = \"60d\""));
    assert!(gateway.hang_up());
    assert_eq!(said(&gateway, &token), "hello");
}

#[test]
fn a_file_with_a_fault_changes_nothing_and_the_log_says_why() {
    let old = Signer::secret("k", OLD);
    let good = format!("[auth]\nkeys = [{}]\n[limits]\n", old.toml());
    let gateway = Gateway::serving(&good);
    let token = old.token(&claims());
    for (bad, reason) in [
        (format!("{good}connections_per_user = 0"), "limits.connections_per_user"),
        (format!("{good}connections_per_user = 2\nconections = 1"), "limits.conections"),
        (format!("[auth]\nkeys = [{{secret = \"{NEW}\"]"), "not TOML"),
        ("[auth]\nkeys = [{secret = \"tiny-secret\"}]".to_owned(), "the secret has 11 bytes"),
        ("[auth]\nkeys = [{secret_file = \"/nonexistent\"}]".to_owned(), "cannot read /nonexistent"),
        ("[auth]\nkeys = []".to_owned(), "nobody could read"),
        (format!("{good}connections_per_org = 1\nconnections_per_user = 5"), "limits.connections_per_org"),
        // It is valid alone, but not with a limit that waits for a restart.
        (
            format!(
                "{good}request_bytes = \"80MiB\"\nin_flight_bytes = \"160MiB\"\npublish_queue_bytes = \"128MiB\"\n[tail]\norg_max_bytes = \"128MiB\""
            ),
            "limits.publish_queue_bytes",
        ),
    ] {
        gateway.configure(&bad);
        assert!(!gateway.hang_up(), "{bad}");
        let log = gateway.log();
        let line =
            log.lines().rfind(|line| line.contains("the configuration stays as it was")).expect("it says so");
        assert!(line.contains(reason) && line.contains("WARN"), "{bad}: {line}");
        // With two connections of one user: none of the limits was applied.
        let mut held = gateway.ws_as(&token, "");
        held.next("hello");
        gateway.ws_as(&token, "").next("hello");
        assert_eq!(said(&gateway, &token), "hello");
    }
    let log = gateway.log();
    assert!(!log.contains(OLD) && !log.contains(NEW) && !log.contains("tiny-secret"), "{log}");
    gateway.configure(&format!("{good}connections_per_user = 1"));
    assert!(gateway.hang_up(), "it can be put right");
}

#[test]
fn files_of_keys_are_read_again_and_what_waits_is_named() {
    let (old, new) = (Signer::p256("k"), Signer::p256("k"));
    let dir = tempfile::tempdir().expect("a directory");
    let (public, secret) = (dir.path().join("id.pem"), dir.path().join("secret"));
    std::fs::write(&public, old.pem()).expect("a file");
    std::fs::write(&secret, format!("{OLD}\n")).expect("a file");
    let keys = format!(
        "[auth]\nkeys = [{{kid = \"k\", algorithm = \"ES256\", public_key_file = \"{}\"}}, {{kid = \"s\", secret_file = \"{}\"}}]\n",
        public.display(),
        secret.display()
    );
    let gateway = Gateway::serving(&keys);
    std::fs::write(&public, new.pem()).expect("a file");
    std::fs::write(&secret, NEW).expect("a file");
    assert_eq!(said(&gateway, &old.token(&claims())), "hello", "not before it is told");
    gateway.configure(&format!(
        "{keys}keys_file = \"elsewhere.toml\"\n[limits]\norgs = 7\n[tail]\nwindow = \"11m\"\n"
    ));
    assert!(gateway.hang_up());
    for (signer, expected) in [
        (&old, "unauthorized"),
        (&new, "hello"),
        (&Signer::secret("s", OLD), "unauthorized"),
        (&Signer::secret("s", NEW), "hello"),
    ] {
        assert_eq!(said(&gateway, &signer.token(&claims())), expected);
    }
    let waits = gateway.logged("these keys were changed and need a restart").expect("it says so");
    assert_eq!(waits["keys"], "auth.keys_file, tail.window, limits.orgs");
    let taken = gateway.logged("the configuration is taken over").expect("it says so");
    assert_eq!(taken["changed"], "auth.keys");
}

#[test]
fn fetched_keys_outlive_a_reread_while_their_issuer_is_away() {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    server.publishes(&[&signer]);
    let config = |name: &str, orgs: &str| {
        format!(
            "[[auth.issuers]]\nissuer = \"{name}\"\nalgorithms = [\"ES256\"]\norgs = [\"{orgs}\"]\njwks = \"{}\"\n",
            server.url("jwks")
        )
    };
    let gateway = Gateway::serving(&config("https://a.example", "acme"));
    let token = |iss: &str| {
        let mut claims = claims();
        claims["iss"] = iss.into();
        signer.token(&claims)
    };
    eventually("the keys", || (gateway.metric("tidegate_jwks_keys") == 1.0).then_some(()));
    server.sends(answer("503 Service Unavailable", "", b""));
    assert!(gateway.hang_up());
    assert_eq!(said(&gateway, &token("https://a.example")), "hello");
    gateway.configure(&config("https://a.example", "other"));
    assert!(gateway.hang_up());
    assert_eq!(said(&gateway, &token("https://a.example")), "forbidden", "the keys stay, the right does not");
    // Keys belong to one issuer, even if another has the same address.
    gateway.configure(&config("https://b.example", "acme"));
    assert!(gateway.hang_up());
    assert_eq!(said(&gateway, &token("https://b.example")), "overloaded");
    assert_eq!(said(&gateway, &token("https://a.example")), "unauthorized");
}

#[test]
fn a_shorter_time_for_old_keys_holds_for_those_that_are_there() {
    let (server, signer) = (KeyServer::start(), Signer::p256("k"));
    server.publishes(&[&signer]);
    let config = |auth: &str| {
        format!(
            "[auth]\n{auth}\n[[auth.issuers]]\nissuer = \"https://a.example\"\nalgorithms = [\"ES256\"]\norgs = [\"acme\"]\njwks = \"{}\"\n",
            server.url("jwks")
        )
    };
    let gateway = Gateway::serving(&config(""));
    let keys = || gateway.metric("tidegate_jwks_keys");
    let mut claims = claims();
    claims["iss"] = "https://a.example".into();
    let token = signer.token(&claims);
    eventually("the keys", || (keys() == 1.0).then_some(()));
    server.sends(answer("503 Service Unavailable", "", b""));
    assert!(gateway.hang_up());
    assert_eq!((said(&gateway, &token).as_str(), keys()), ("hello", 1.0), "they stay and are counted");
    gateway.configure(&config("jwks_refresh = \"1s\"\njwks_stale_if_error = \"1s\""));
    assert!(gateway.hang_up());
    eventually("the end of the keys", || (said(&gateway, &token) == "overloaded").then_some(()));
    eventually("none counted", || (keys() == 0.0).then_some(()));
}
