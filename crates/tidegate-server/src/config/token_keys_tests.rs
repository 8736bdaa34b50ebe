//! Every way to get keys and issuers of tokens wrong, and what is said of it.

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn key_file(name: &str) -> String {
    format!("{}/tests/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"))
}

fn pem(name: &str) -> String {
    std::fs::read_to_string(key_file(name)).expect("a file")
}

fn said(sets: &[String]) -> String {
    let mut all = vec!["log.engine=memory".to_owned()];
    all.extend(sets.iter().cloned());
    match load(&Sources { sets: all, ..Sources::default() }) {
        Ok(loaded) => effective(&loaded),
        Err(errors) => errors.to_string().replace(&format!("{}/tests/keys/", env!("CARGO_MANIFEST_DIR")), ""),
    }
}

fn of_key(fields: &str) -> String {
    said(&[format!("auth.keys=[{{{fields}}}]")])
}

fn of_file(algorithm: &str, name: &str) -> String {
    let path = quoted(&key_file(name));
    of_key(&format!("algorithm = \"{algorithm}\", public_key_file = {path}"))
}

fn of_issuer(fields: &str) -> String {
    said(&[format!("auth.issuers=[{{{fields}}}]")])
}

#[test]
fn public_keys_are_taken_for_their_own_algorithm_alone() {
    for (algorithm, name) in [("RS256", "rsa2048"), ("ES256", "p256"), ("EdDSA", "ed25519")] {
        let said = of_file(algorithm, name);
        assert!(said.contains(&format!("{{ algorithm = \"{algorithm}\", public_key_file = ")), "{said}");
        let inline = of_key(&format!("algorithm = \"{algorithm}\", public_key = {}", quoted(&pem(name))));
        assert!(inline.contains("public_key = \"(not shown)\""), "{inline}");
    }
    let at = "--set auth.keys: auth.keys: `public_key_file`:";
    for (algorithm, name, reason) in [
        ("RS256", "p256", "p256.pem holds an EC key on P-256; RS256 needs an RSA key of 2048 to 8192 bits"),
        ("ES256", "rsa2048", "rsa2048.pem holds an RSA key; ES256 needs an EC key on P-256"),
        ("ES256", "p384", "p384.pem holds an EC key on P-384; ES256 needs an EC key on P-256"),
        ("ES256", "secp256k1", "secp256k1.pem holds an EC key on secp256k1; ES256 needs an EC key on P-256"),
        ("ES256", "ed25519", "ed25519.pem holds an Ed25519 key; ES256 needs an EC key on P-256"),
        ("EdDSA", "p256", "p256.pem holds an EC key on P-256; EdDSA needs an Ed25519 key"),
        (
            "RS256",
            "rsa1024",
            "rsa1024.pem holds an RSA key that cannot be used; RS256 needs an RSA key of 2048 to 8192 bits",
        ),
        (
            "RS256",
            "certificate",
            "certificate.pem holds a certificate; give the public key in it (`openssl x509 -pubkey -noout`)",
        ),
        (
            "RS256",
            "pkcs1",
            "pkcs1.pem holds an RSA key in the older form (BEGIN RSA PUBLIC KEY); convert it (`openssl rsa -RSAPublicKey_in -pubout`)",
        ),
    ] {
        assert_eq!(of_file(algorithm, name), format!("{at} {reason}"));
    }
    let hs256 = of_file("HS256", "rsa2048");
    assert_eq!(hs256, format!("{at} HS256 takes `secret` or `secret_file`; a public key needs `algorithm`"));
    let not_pem = of_key("algorithm = \"RS256\", public_key = \"MIIB\"");
    assert!(
        not_pem.ends_with("`public_key`: is not PEM text: it must begin with -----BEGIN PUBLIC KEY-----")
    );
    let two = of_key(&format!("algorithm = \"ES256\", public_key = {}", quoted(&pem("p256").repeat(2))));
    assert!(two.ends_with("holds 2 PEM blocks; it must hold one public key"), "{two}");
}

#[test]
fn keys_given_by_mistake_are_refused_and_never_shown() {
    for tag in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        // Beside a public one too.
        let text = format!("{}-----BEGIN {tag}-----\nc2VjcmV0\n-----END {tag}-----\n", pem("p256"));
        let said = of_key(&format!("algorithm = \"ES256\", public_key = {}", quoted(&text)));
        assert!(
            said.contains(&format!("holds a private key (BEGIN {tag})")) && !said.contains("c2VjcmV0"),
            "{said}"
        );
    }
    // RFC 8725 2.1: a public key that is taken for a secret is one that everybody has.
    let said = of_key(&format!("secret = {}", quoted(&pem("rsa2048"))));
    assert!(
        said.contains("`secret`: the secret is PEM text, so a key pair's") && !said.contains("MII"),
        "{said}"
    );
    let said = of_key(&format!("secret_file = {}", quoted(&key_file("p256"))));
    assert!(said.contains("`secret_file`: the secret is PEM text"), "{said}");
    let said = of_key(&format!("algorithm = \"RS256\", secret = \"{SECRET}\""));
    assert!(said.ends_with("`secret`: RS256 takes `public_key` or `public_key_file`"), "{said}");
}

#[test]
fn an_issuer_is_whole_or_refused() {
    let rest = "algorithms = [\"RS256\"], orgs = [\"acme\", \"b\"], jwks = \"https://id.example/jwks\"";
    let good = of_issuer(&format!("issuer = \"https://id.example\", audience = \"a\", {rest}"));
    assert!(
        good.contains(
            "issuers = [{ issuer = \"https://id.example\", audience = [\"a\"], algorithms = [\"RS256\"], \
             orgs = [\"acme\", \"b\"], jwks = \"https://id.example/jwks\" }]"
        ),
        "{good}"
    );
    for (fields, reason) in [
        ("", "an issuer has no `issuer`, which it must have"),
        ("issuer = \"\"", "`issuer`: must be 1 to 1024 bytes, exactly as tokens have it in `iss`"),
        ("issuer = \"i\"", "an issuer has no `algorithms`, which it must have"),
        ("issuer = \"i\", algorithms = []", "`algorithms`: is empty, so that no token would be taken"),
        (
            "issuer = \"i\", algorithms = [\"none\"]",
            "`algorithms`: \"none\" must be \"HS256\", \"RS256\", \"ES256\" or \"EdDSA\"",
        ),
        ("issuer = \"i\", algorithms = [\"RS256\"]", "an issuer has no `orgs`, which it must have"),
        (
            "issuer = \"i\", algorithms = [\"RS256\"], orgs = []",
            "`orgs`: is empty, so that no token would be taken; [\"*\"] is every org",
        ),
        (
            "issuer = \"i\", algorithms = [\"RS256\"], orgs = [\"*\", \"a\"]",
            "`orgs`: has \"*\" beside other names; it must stand alone",
        ),
        (
            "issuer = \"i\", algorithms = [\"RS256\"], orgs = [\"*\"]",
            "an issuer has neither `keys` nor `jwks`; it must have one of them",
        ),
        (
            "issuer = \"i\", algorithms = [\"RS256\"], orgs = [\"*\"], keys = []",
            "`keys`: is empty, so that no token would be taken",
        ),
        (
            "issuer = \"i\", algorithms = [\"HS256\"], orgs = [\"*\"], jwks = \"https://i/\"",
            "`algorithms`: lists HS256, whose keys are secrets, and `jwks` is public",
        ),
        (
            "issuer = \"i\", audience = [], algorithms = [\"RS256\"], orgs = [\"*\"], jwks = \"https://i/\"",
            "`audience`: must be 1 to 32 texts, none of them empty",
        ),
        ("issuer = \"i\", jwks_url = \"x\"", "an issuer has no field \"jwks_url\""),
    ] {
        assert!(of_issuer(fields).contains(reason), "{fields}: {}", of_issuer(fields));
    }
    let hs = format!(
        "issuer = \"i\", algorithms = [\"ES256\"], orgs = [\"*\"], keys = [{{secret = \"{SECRET}\"}}]"
    );
    assert!(of_issuer(&hs).ends_with("`keys`: a key is for HS256, which `algorithms` does not list"));
    assert!(!of_issuer(&hs.replace("ES256", "HS256")).contains(SECRET));
}

#[test]
fn key_sets_come_over_tls_from_where_the_configuration_says() {
    let of = |url: &str| {
        of_issuer(&format!("issuer = \"i\", algorithms = [\"RS256\"], orgs = [\"*\"], jwks = \"{url}\""))
    };
    for good in [
        "https://id.example/jwks?v=1",
        "http://127.0.0.1:8/x",
        "http://[::1]:8/x",
        "http://localhost/x",
        "http://127.9.9.9/",
    ] {
        assert!(of(good).contains("[auth]"), "{good}: {}", of(good));
    }
    for (url, reason) in [
        ("http://id.example/jwks", "must be https"),
        ("http://localhost.evil.example/", "must be https"),
        ("http://127.0.0.1.evil.example/", "must be https"),
        ("http://10.0.0.1/", "must be https"),
        ("https://user:hunter2@id.example/", "must not hold credentials"),
        ("https://user@id.example/", "must not hold credentials"),
        ("https://id.example/#x", "must not have a fragment"),
        ("ftp://id.example/", "must be an address such as"),
        ("file:///etc/passwd", "must be an address such as"),
        ("jwks.json", "must be an address such as"),
        ("", "must be an address such as"),
    ] {
        let said = of(url);
        assert!(said.contains(&format!("`jwks`: {reason}")) && !said.contains("hunter2"), "{url}: {said}");
    }
}

#[test]
fn issuers_are_told_apart_by_their_names() {
    let issuer = |name: &str| {
        format!(
            "{{issuer = \"{name}\", algorithms = [\"RS256\"], orgs = [\"*\"], jwks = \"https://{name}/\"}}"
        )
    };
    for field in ["issuer", "audience"] {
        assert_eq!(
            said(&[format!("auth.issuers=[{}]", issuer("a")), format!("auth.{field}=b")]),
            format!(
                "--set auth.{field}: auth.{field}: is for tokens by auth.keys, and there are none; remove it, \
                 and write `{field}` in each [[auth.issuers]]"
            )
        );
    }
    let keys = format!("auth.keys=[{{secret = \"{SECRET}\"}}]");
    let both = format!("auth.issuers=[{}, {}]", issuer("a"), issuer("b"));
    assert!(said(std::slice::from_ref(&both)).contains("[auth]"));
    let twice = format!("auth.issuers=[{}, {}]", issuer("a"), issuer("a"));
    assert_eq!(said(&[twice]), "--set auth.issuers: auth.issuers: two issuers have the name \"a\"");
    assert_eq!(
        said(&[keys.clone(), both.clone()]),
        "--set auth.issuers: auth.issuer: must be set if both auth.keys and auth.issuers are: the `iss` of a token says which of them signed it"
    );
    assert!(said(&[keys.clone(), both.clone(), "auth.issuer=c".to_owned()]).contains("[auth]"));
    let clash = said(&[keys, both, "auth.issuer=b".to_owned()]);
    assert_eq!(clash, "--set auth.issuers: auth.issuers: two issuers have the name \"b\"");
    let many: Vec<String> = (0..65).map(|index| issuer(&format!("i{index}"))).collect();
    let many = said(&[format!("auth.issuers=[{}]", many.join(", "))]);
    assert_eq!(many, "--set auth.issuers: auth.issuers: has 65 issuers; 64 are the most");
    for (set, reason) in [
        (
            "auth.jwks_stale_if_error=5m",
            "auth.jwks_stale_if_error: \"5m\" is less than auth.jwks_refresh (\"10m\")",
        ),
        ("auth.jwks_refresh=10ms", "auth.jwks_refresh: \"10ms\" must be \"1s\" or more"),
        ("auth.jwks_cooldown=0s", "auth.jwks_cooldown: \"0s\" must be \"100ms\" or more"),
        ("auth.jwks_timeout=2m", "auth.jwks_timeout: \"2m\" must be \"1m\" or less"),
    ] {
        assert!(said(&[set.to_owned()]).contains(reason), "{}", said(&[set.to_owned()]));
    }
}
