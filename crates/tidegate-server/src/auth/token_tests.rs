//! Tokens that must not be taken, and the few that must.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde_json::{Value, json};
use tidegate_protocol::ServiceName;

use super::*;
use crate::config::Config;

const NOW: UnixMillis = 1_800_000_000_000;
const NOW_SECS: u64 = NOW / 1000;
const OLD: &str = "old-old-old-old-old-old-old-old-";
const NEW: &str = "new-new-new-new-new-new-new-new-";

fn verifier(sets: &[&str]) -> TokenVerifier {
    let keys = format!("auth.keys=[{{kid=\"old\", secret=\"{OLD}\"}}, {{kid=\"new\", secret=\"{NEW}\"}}]");
    let mut all = vec![keys.as_str()];
    all.extend(sets);
    let config = Config::for_tests(&all).expect("a configuration");
    TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes())
}

fn sign(header: &str, claims: &str, secret: &str) -> String {
    let signed = format!("{}.{}", B64.encode(header), B64.encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).expect("signed");
    format!("{signed}.{signature}")
}

fn good_claims() -> Value {
    json!({ "sub": "ann", "org": "acme", "services": ["finance", "staff"], "exp": NOW_SECS + 60 })
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"new"}"#;

fn with(name: &str, value: Value) -> String {
    let mut claims = good_claims();
    claims[name] = value;
    claims.to_string()
}

fn without(name: &str) -> String {
    let mut claims = good_claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims.to_string()
}

/// What is said of a token with these claims, rightly signed.
fn said(claims: &str) -> String {
    said_of(&sign(HEADER, claims, NEW))
}

fn said_of(token: &str) -> String {
    match verifier(&[]).verify_at_hand(token, NOW) {
        Ok(grant) => format!("{} {} {:?} {}", grant.org(), grant.user(), grant.filter(), grant.expires_at()),
        Err(refusal) => format!("{}: {}", refusal.code.name(), refusal.message),
    }
}

#[test]
fn a_good_token_becomes_a_grant() {
    let grant = format!("acme ann finance,staff {}", NOW + 90_000);
    assert_eq!(said(&good_claims().to_string()), grant);
    assert_eq!(
        said_of(&sign(r#"{"alg":"HS256"}"#, &good_claims().to_string(), OLD)),
        grant,
        "no kid: any key"
    );
    assert_eq!(said(&with("services", json!(["*"]))), format!("acme ann * {}", NOW + 90_000));
    assert_eq!(
        said(&with("services", json!(["finance", "finance"]))),
        format!("acme ann finance {}", NOW + 90_000)
    );
    assert_eq!(
        said(&with("exp", json!((NOW_SECS + 60) as f64 + 0.5))),
        grant,
        "NumericDate may have a fraction"
    );
    assert_eq!(said(&with("nbf", json!(NOW_SECS + 30))), grant, "within the leeway");
    assert_eq!(said(&with("exp", json!(NOW_SECS - 29))), format!("acme ann finance,staff {}", NOW + 1000));
    assert_eq!(said(&with("unknown", json!({"a": [1]}))), grant);
}

#[test]
fn a_grant_covers_its_org_and_services_alone() {
    let grant =
        verifier(&[]).verify_at_hand(&sign(HEADER, &good_claims().to_string(), NEW), NOW).expect("a grant");
    let org = |name| OrgId::parse(name).expect("an org");
    assert!(grant.check_org(&org("acme")).is_ok());
    assert_eq!(grant.check_org(&org("other")).expect_err("refused").code, Code::Forbidden);
    let services =
        |names: &[&str]| Some(names.iter().map(|n| ServiceName::parse(n).expect("a name")).collect());
    assert_eq!(grant.filter_for(None).expect("all").names(), ["finance", "staff"]);
    assert_eq!(grant.filter_for(services(&["staff"])).expect("one").names(), ["staff"]);
    let refusal = grant.filter_for(services(&["staff", "secret"])).expect_err("refused");
    assert_eq!(
        (refusal.code, &*refusal.message),
        (Code::Forbidden, "the token does not cover the service secret")
    );
}

#[test]
fn hostile_headers_are_refused() {
    let claims = good_claims().to_string();
    let alg = "unauthorized: the token's `alg` is not the one that its key is for";
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"NONE","kid":"new"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"HS512","kid":"new"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"EdDSA"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":""}"#,
        r#"{"alg":"HS256 "}"#,
    ] {
        assert_eq!(said_of(&sign(header, &claims, NEW)), alg, "{header}");
        let signed = format!("{}.{}.", B64.encode(header), B64.encode(&claims));
        assert_eq!(said_of(&signed), alg, "{header} unsigned");
    }
    for (header, reason) in [
        ("{}", "the token is malformed: its header must have `alg` as text"),
        (r#"{"alg":256}"#, "the token is malformed: its header must have `alg` as text"),
        (r#"{"alg":null}"#, "the token is malformed: its header must have `alg` as text"),
        (r#"{"alg":["HS256"]}"#, "the token is malformed: its header must have `alg` as text"),
        (r#"{"alg":"HS256","alg":"none"}"#, "the token is malformed: its header names a field twice"),
        (r#"{"alg":"HS256","kid":1}"#, "the token is malformed: its `kid` must be text"),
        (r#"{"alg":"HS256","kid":null}"#, "the token is malformed: its `kid` must be text"),
        (r#"{"alg":"HS256","kid":""}"#, "the token's `kid` names no key of this gateway"),
        (r#"{"alg":"HS256","kid":"../../dev/null"}"#, "the token's `kid` names no key of this gateway"),
        (r#"{"alg":"HS256","kid":"new' OR 1=1 --"}"#, "the token's `kid` names no key of this gateway"),
        (r#"{"alg":"HS256","kid":"NEW"}"#, "the token's `kid` names no key of this gateway"),
        (r#"{"alg":"HS256","kid":"old"}"#, "the token's signature does not match"),
        (
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            "the token has critical header fields (`crit`), which are not supported",
        ),
        (
            r#"{"alg":"HS256","crit":[]}"#,
            "the token has critical header fields (`crit`), which are not supported",
        ),
        ("[]", "the token is malformed: its header is not an object"),
        ("null", "the token is malformed: its header is not an object"),
        (r#""what stands there""#, "the token is malformed: its header is not an object"),
        ("{", "the token is malformed: its header is not JSON"),
        ("", "the token is malformed: its header is not JSON"),
    ] {
        assert_eq!(said_of(&sign(header, &claims, NEW)), format!("unauthorized: {reason}"), "{header}");
    }
}

#[test]
fn key_material_in_the_header_is_never_looked_at() {
    // Signed with a key that the token itself brings along.
    let theirs = "evil-evil-evil-evil-evil-evil-evil";
    for field in [
        json!({"jwk": {"kty": "oct", "k": B64.encode(theirs)}}),
        json!({"jku": "http://127.0.0.1:1/keys"}),
        json!({"x5u": "http://127.0.0.1:1/cert"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let mut header = json!({"alg": "HS256", "kid": "new"});
        header.as_object_mut().expect("an object").extend(field.as_object().expect("an object").clone());
        let token = sign(&header.to_string(), &good_claims().to_string(), theirs);
        assert_eq!(said_of(&token), "unauthorized: the token's signature does not match", "{header}");
    }
}

#[test]
fn forged_and_mangled_tokens_are_refused() {
    let token = sign(HEADER, &good_claims().to_string(), NEW);
    let parts: Vec<&str> = token.split('.').collect();
    let (header, claims, signature) = (parts[0], parts[1], parts[2]);
    let forged = B64.encode(with("org", json!("other")));
    let three = "unauthorized: the token is malformed: a JWT has three parts with dots between";
    let signed_wrong = "unauthorized: the token's signature does not match";
    for (token, expected) in [
        (format!("{header}.{forged}.{signature}"), signed_wrong),
        (format!("{header}.{claims}."), signed_wrong),
        (format!("{header}.{claims}.{}", &signature[..42]), signed_wrong),
        (format!("{header}.{claims}.{signature}A"), signed_wrong),
        (format!("{header}.{claims}.{signature}="), signed_wrong),
        (format!("{header}.{claims}.{}", B64.encode([0; 32])), signed_wrong),
        (format!("{header}.{claims}"), three),
        (format!("{token}.x"), three),
        (format!("{header}.{claims}.{signature}.{signature}.{signature}"), three),
        ("x".to_owned(), three),
        (String::new(), "unauthorized: the token is empty"),
        ("..".to_owned(), "unauthorized: the token is malformed: its header is not JSON"),
        (format!(" {token}"), "unauthorized: the token is malformed: its header is not base64url"),
        (
            format!("{header}=.{claims}.{signature}"),
            "unauthorized: the token is malformed: its header is not base64url",
        ),
        (
            format!("{}.x.x", "A".repeat(9000)),
            "unauthorized: the token is longer than 8192 bytes (limits.token_bytes)",
        ),
    ] {
        assert_eq!(said_of(&token), expected, "{token}");
    }
    assert_eq!(said_of(&sign(HEADER, &good_claims().to_string(), OLD)), signed_wrong);
    // The signature comes first: unsigned claims are not even read.
    assert_eq!(said_of(&format!("{header}.{}.{signature}", B64.encode("not JSON"))), signed_wrong);
}

#[test]
fn no_byte_of_a_token_may_change() {
    let verifier = verifier(&[]);
    let token = sign(HEADER, &good_claims().to_string(), NEW).into_bytes();
    for at in 0..token.len() {
        for byte in b'A'..=b'z' {
            let mut changed = token.clone();
            changed[at] = byte;
            let text = std::str::from_utf8(&changed).expect("ASCII");
            assert_eq!(verifier.verify_at_hand(text, NOW).is_ok(), changed == token, "{text}");
        }
    }
}

#[test]
fn times_are_numbers_and_are_kept() {
    let number = "unauthorized: the token's `exp` must be a number of seconds since 1970";
    for exp in [
        json!("1900000000"),
        json!(""),
        json!(-1),
        json!(-1.5),
        json!(1e300),
        json!(true),
        json!([NOW_SECS + 60]),
        json!({}),
        Value::Null,
        json!(u64::MAX),
        json!(1u64 << 53),
        json!(i64::MAX),
    ] {
        assert_eq!(said(&with("exp", exp.clone())), number, "{exp}");
    }
    let raw = |exp: &str| said(&good_claims().to_string().replace(&(NOW_SECS + 60).to_string(), exp));
    assert_eq!(raw("18446744073709551616"), number, "2^64");
    assert_eq!(raw("1e400"), "unauthorized: the token is malformed: its payload is not JSON");
    assert_eq!(raw("NaN"), "unauthorized: the token is malformed: its payload is not JSON");
    assert_eq!(said(&without("exp")), "unauthorized: the token has no `exp`");
    for past in [json!(0), json!(NOW_SECS - 30), json!(1.5)] {
        assert_eq!(said(&with("exp", past)), "token_expired: the token has expired");
    }
    assert_eq!(said(&with("nbf", json!(NOW_SECS + 31))), "unauthorized: the token is not valid yet (`nbf`)");
    assert_eq!(
        said(&with("nbf", json!("0"))),
        "unauthorized: the token's `nbf` must be a number of seconds since 1970"
    );
    let far = sign(HEADER, &with("exp", json!((1u64 << 53) - 1)), NEW);
    assert!(verifier(&["auth.leeway=5m"]).verify_at_hand(&far, UnixMillis::MAX / 2).is_err());
    assert!(verifier(&["auth.leeway=5m"]).verify_at_hand(&far, UnixMillis::MAX).is_err());
    assert!(verifier(&[]).verify_at_hand(&far, NOW).is_err());
}

#[test]
fn a_token_that_is_valid_for_too_long_is_refused_and_milliseconds_are_named() {
    let refused = "unauthorized: the token's `exp` is further ahead than auth.max_token_life (30d) allows";
    let month = 30 * 86_400;
    assert_eq!(said(&with("exp", json!(NOW_SECS + month + 31))), refused);
    let granted = said(&with("exp", json!(NOW_SECS + month + 30)));
    assert!(granted.starts_with("acme ann"), "the signer's clock may differ: {granted}");
    assert_eq!(said(&with("exp", json!(4_102_444_800_u64))), refused, "the year 2100");
    let guess = "; it looks like milliseconds, and `exp` is in seconds since 1970";
    for exp in
        [json!((NOW_SECS + 60) * 1000), json!((1u64 << 53) - 1), json!(((NOW_SECS + 60) * 1000) as f64 + 0.5)]
    {
        assert_eq!(said(&with("exp", exp.clone())), format!("{refused}{guess}"), "{exp}");
    }
    assert_eq!(
        said(&with("nbf", json!(NOW))),
        "unauthorized: the token is not valid yet (`nbf`); it looks like milliseconds, and `nbf` is in seconds"
    );
    let short = verifier(&["auth.max_token_life=1m", "auth.leeway=0s"]);
    let token = |life: u64| sign(HEADER, &with("exp", json!(NOW_SECS + life)), NEW);
    assert!(short.verify_at_hand(&token(60), NOW).is_ok());
    let refusal = short.verify_at_hand(&token(61), NOW).expect_err("refused");
    assert!(refusal.message.contains("auth.max_token_life (1m)"), "{refusal}");
}

#[test]
fn claims_are_typed_and_named() {
    for (claims, reason) in [
        (without("sub"), "the token has no claim `sub`"),
        (with("sub", json!(7)), "the token's claim `sub` must be text"),
        (
            with("sub", json!("")),
            "the token's claim `sub` is not valid: user must be 1 to 128 printable ASCII characters without space or comma",
        ),
        (
            with("sub", json!("a b")),
            "the token's claim `sub` is not valid: user must be 1 to 128 printable ASCII characters without space or comma",
        ),
        (
            with("sub", json!("a\u{0}")),
            "the token's claim `sub` is not valid: user must be 1 to 128 printable ASCII characters without space or comma",
        ),
        (without("org"), "the token has no claim `org`"),
        (with("org", json!(["acme"])), "the token's claim `org` must be text"),
        (
            with("org", json!("../acme")),
            "the token's claim `org` is not valid: org must be 1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with a dot",
        ),
        (
            with("org", json!("acme ")),
            "the token's claim `org` is not valid: org must be 1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with a dot",
        ),
        (without("services"), "the token has no claim `services`"),
        (with("services", json!([])), "the token's claim `services` is empty, which grants nothing"),
        (
            with("services", json!(1)),
            "the token's claim `services` must be a list of service names, or [\"*\"]",
        ),
        (
            with("services", Value::Null),
            "the token's claim `services` must be a list of service names, or [\"*\"]",
        ),
        (
            with("services", json!("*")),
            "the token's claim `services` must be a list of service names, or [\"*\"]",
        ),
        (
            with("services", json!("finance staff")),
            "the token's claim `services` must be a list of service names, or [\"*\"]",
        ),
        (
            with("services", json!(["finance", 1])),
            "the token's claim `services` must be a list of service names, or [\"*\"]",
        ),
        (
            with("services", json!({"finance": true})),
            "the token's claim `services` must be a list of service names, or [\"*\"]",
        ),
        (
            with("services", json!(["*", "finance"])),
            "the token's claim `services` has \"*\" beside other names; it must stand alone",
        ),
        (
            with("services", json!(["fin*"])),
            "the token's claim `services` has a faulty name: service must be 1 to 64 characters of A-Z a-z 0-9 . _ -, not starting with a dot",
        ),
        (
            with("aud", json!("other")),
            "the token names an audience (`aud`) and this gateway has none set (auth.audience)",
        ),
        (with("aud", json!(1)), "the token's `aud` must be text or a list of texts"),
        (
            r#"{"sub":"ann","sub":"bob"}"#.to_owned(),
            "the token is malformed: its payload names a field twice",
        ),
        (
            r#"{"org":"a","\u006frg":"b"}"#.to_owned(),
            "the token is malformed: its payload names a field twice",
        ),
        ("[]".to_owned(), "the token is malformed: its payload is not an object"),
        ("{} {}".to_owned(), "the token is malformed: its payload is not JSON"),
        (
            format!("{}{}", "[".repeat(200), "]".repeat(200)),
            "the token is malformed: its payload is not an object",
        ),
        (
            format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200)),
            "the token is malformed: its payload is not JSON",
        ),
    ] {
        assert_eq!(said(&claims), format!("unauthorized: {reason}"), "{claims}");
    }
}

#[test]
fn issuer_audience_and_names_follow_the_configuration() {
    let verifier = verifier(&[
        "auth.issuer=https://id.example",
        "auth.audience=tidegate",
        "auth.user_claim=uid",
        "auth.services_claim=https://x/services",
    ]);
    let claims = json!({
        "uid": "ann", "org": "acme", "https://x/services": ["*"], "exp": NOW_SECS + 60, "iss": "https://id.example", "aud": ["other", "tidegate"],
    });
    let check = |claims: &Value| match verifier.verify_at_hand(&sign(HEADER, &claims.to_string(), NEW), NOW) {
        Ok(_) => "good".to_owned(),
        Err(refusal) => refusal.to_string(),
    };
    assert_eq!(check(&claims), "good");
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        check(&claims)
    };
    assert_eq!(changed("aud", json!("tidegate")), "good");
    assert_eq!(changed("aud", json!("other")), "the token's `aud` does not name this gateway");
    assert_eq!(changed("aud", json!([])), "the token's `aud` does not name this gateway");
    assert_eq!(
        changed("iss", json!("https://id.example/")),
        "the token's `iss` is not the issuer that this gateway expects"
    );
    assert_eq!(
        changed("iss", json!(["https://id.example"])),
        "the token's `iss` is not the issuer that this gateway expects"
    );
}

#[tokio::test]
async fn minted_tokens_are_taken() {
    let config = Config::for_tests(&["auth.issuer=i", "auth.audience=a", "auth.user_claim=uid"])
        .expect("a configuration");
    let claims = TokenClaims {
        org: OrgId::parse("acme").expect("an org"),
        user: UserId::parse("ann").expect("a user"),
        services: Filter::all(),
        issued_at: NOW,
        expires_at: NOW + 60_000,
    };
    let token = mint(&config.auth, &config.auth.keys[0], &claims).expect("a token");
    let verifier = TokenVerifier::new(&config.auth, 8192);
    let grant = verifier.verify_at_hand(&token, NOW).expect("a grant");
    assert_eq!((grant.user(), grant.filter()), (&claims.user, &Filter::all()));
    assert!(!format!("{verifier:?}").contains("tttt"));
    let inspection = verifier.inspect(&token, NOW + 3_600_000).await;
    assert_eq!(inspection.claims.expect("claims")["uid"], "ann");
    assert_eq!(inspection.issuer.as_deref(), Some("\"i\""));
    assert_eq!(inspection.key.as_deref(), Some("the HS256 key without a kid"));
    assert_eq!(inspection.verdict.expect_err("refused").code, Code::TokenExpired);
}
