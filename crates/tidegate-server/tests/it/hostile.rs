//! Tokens of an attacker. None is accepted, no request goes to an unlisted address, and the gateway keeps
//! serving.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD as B64},
};
use serde_json::{Value, json};

use crate::{
    client::{http::Request, stream::Frames as _, ws::Ws},
    gateway::{Gateway, eventually, now_s},
    key_server::KeyServer,
    signer::Signer,
};

const LISTED: &str = "https://listed.example";
const OTHER: &str = "https://other.example";
const FETCHED: &str = "https://fetched.example";
const SHORT: &str = "https://short.example";

/// A name, a token, and the expected code.
pub type Case = (String, String, &'static str);

struct Corpus {
    rsa: Signer,
    ec: Signer,
    ed: Signer,
    secret: Signer,
    other: Signer,
    fetched: Signer,
    /// A key of a stranger.
    stranger: Signer,
    recorder: String,
    cases: Vec<Case>,
}

/// Claims of `iss` for the org `acme`.
pub fn claims(iss: &str) -> Value {
    json!({"iss": iss, "sub": "u", "org": "acme", "services": ["*"], "exp": now_s() + 3600})
}

/// The object with one more member.
pub fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().expect("an object").remove(name);
    object
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()))
}

impl Corpus {
    fn add(&mut self, name: impl Into<String>, token: impl Into<String>, code: &'static str) {
        self.cases.push((name.into(), token.into(), code));
    }

    fn bad(&mut self, name: impl Into<String>, token: impl Into<String>) {
        self.add(name, token, "unauthorized");
    }

    fn algorithms(&mut self) {
        let claims = claims(LISTED);
        for alg in ["none", "None", "NONE", "nOnE", "", " ", "none ", "null"] {
            for kid in [json!("rsa"), Value::Null] {
                let mut header = json!({"alg": alg});
                if kid.is_string() {
                    header["kid"] = kid.clone();
                }
                let signed = unsigned(&header, &claims);
                self.bad(format!("alg {alg:?}, kid {kid}, no signature"), format!("{signed}."));
                if kid.is_string() {
                    let signature = B64.encode(self.rsa.sign(signed.as_bytes()));
                    self.bad(format!("alg {alg:?} with a true signature"), format!("{signed}.{signature}"));
                }
            }
        }
        for alg in [
            "RS384", "RS512", "PS256", "ES256", "HS256", "EdDSA", "rs256", "RS256 ", "RSA1_5", "ES256K",
            "dir",
        ] {
            let header = json!({"alg": alg, "kid": "rsa"}).to_string();
            self.bad(format!("alg {alg} for an RSA key"), self.rsa.token_of(header, claims.to_string()));
        }
        for header in
            [json!({"kid": "rsa"}), json!({"alg": null}), json!({"alg": ["RS256"]}), json!({"alg": 256})]
        {
            self.bad(format!("header {header}"), self.rsa.token_of(header.to_string(), claims.to_string()));
        }
        // RFC 8725 2.1: the public key used as a secret, in every form in which somebody could have it.
        let forms = [
            ("PEM", self.rsa.pem().into_bytes()),
            ("PEM without its last line end", self.rsa.pem().trim_end().as_bytes().to_vec()),
            ("DER", self.rsa.der()),
            ("JWK", self.rsa.jwk().to_string().into_bytes()),
            ("modulus", B64.decode(self.rsa.jwk()["n"].as_str().expect("n")).expect("base64")),
            ("EC PEM", self.ec.pem().into_bytes()),
            ("EC DER", self.ec.der()),
            ("Ed25519 PEM", self.ed.pem().into_bytes()),
            ("nothing", Vec::new()),
        ];
        for (form, bytes) in forms {
            for kid in ["rsa", "ec", "ed"] {
                let forged = Signer::secret(kid, &bytes);
                self.bad(format!("HS256 by the {form}, kid {kid}"), forged.token(&claims));
            }
            let forged = Signer::secret("", &bytes).token_of("{\"alg\":\"HS256\"}", claims.to_string());
            self.bad(format!("HS256 by the {form}, no kid"), forged);
        }
    }

    fn signatures(&mut self) {
        let claims = claims(LISTED);
        let header = self.ec.header();
        let signed = unsigned(&header, &claims);
        let (order, half) = ([0xff_u8; 32], self.ec.sign(signed.as_bytes()));
        for (name, signature) in [
            ("empty", Vec::new()),
            ("one zero", vec![0]),
            ("r = s = 0", vec![0; 64]),
            ("r = 0", [[0; 32].as_slice(), &half[32..]].concat()),
            ("s = 0", [&half[..32], &[0; 32]].concat()),
            ("r and s over the order", [order, order].concat()),
            ("one byte short", half[..63].to_vec()),
            ("one byte long", [half.as_slice(), &[0]].concat()),
            ("half of it", half[..32].to_vec()),
            ("r and s swapped", [&half[32..], &half[..32]].concat()),
            ("twice", [half.as_slice(), &half].concat()),
            ("DER", der_of(&half)),
            ("DER zeros", vec![0x30, 6, 2, 1, 0, 2, 1, 0]),
        ] {
            self.bad(format!("ECDSA signature: {name}"), format!("{signed}.{}", B64.encode(signature)));
        }
        for (name, signer) in [("RS256", &self.rsa), ("EdDSA", &self.ed)] {
            let signed = unsigned(&signer.header(), &claims);
            let length = signer.sign(b"").len();
            let signatures =
                [Vec::new(), vec![0; length], vec![0xff; length], signer.sign(b"something else")];
            for (index, signature) in signatures.into_iter().enumerate() {
                let token = format!("{signed}.{}", B64.encode(signature));
                self.cases.push((format!("{name} signature {index}"), token, "unauthorized"));
            }
        }
        for signer in [Signer::p384("ec"), Signer::secp256k1("ec"), Signer::p256("ec"), Signer::rsa("rsa")] {
            let alg = if signer.kid == "rsa" { "RS256" } else { "ES256" };
            let header = json!({"alg": alg, "kid": signer.kid}).to_string();
            self.bad(format!("a stranger's {}", signer.alg()), signer.token_of(header, claims.to_string()));
            self.bad(format!("a stranger's {}, as itself", signer.alg()), signer.token(&claims));
        }
        let weak = include_str!("../keys/rsa1024.jwt").trim();
        self.add("RS256 by a key of 1024 bits that its issuer publishes", weak, "overloaded");
    }

    fn headers(&mut self) {
        let (at, claims) = (self.recorder.clone(), claims(LISTED));
        let stranger = Signer::p256("stranger");
        let jwk = stranger.jwk();
        for (name, extra) in [
            ("jwk", json!({"jwk": jwk})),
            ("jwk, kid of a known key", json!({"jwk": jwk, "kid": "ec"})),
            ("jku", json!({"jku": at})),
            ("jku, kid of a known key", json!({"jku": at, "kid": "ec"})),
            ("x5u", json!({"x5u": at, "kid": "ec"})),
            ("x5c", json!({"x5c": ["MIIB"], "kid": "ec"})),
            ("x5t", json!({"x5t": "AAAA", "x5t#S256": "AAAA", "kid": "ec"})),
            ("kid with an address", json!({"kid": at})),
            ("all at once", json!({"jku": at, "x5u": at, "jwk": jwk, "kid": at, "x5c": [at]})),
        ] {
            let mut header = json!({"alg": "ES256"});
            header.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            self.bad(format!("header: {name}"), stranger.token_of(header.to_string(), claims.to_string()));
            let fetched = with(claims.clone(), "iss", json!(FETCHED));
            let code = if header.get("kid").is_none() { "unauthorized" } else { "overloaded" };
            let token = stranger.token_of(header.to_string(), fetched.to_string());
            self.add(format!("header, by the issuer that is asked: {name}"), token, code);
            let address = with(claims.clone(), "iss", json!(at));
            let token = stranger.token_of(header.to_string(), address.to_string());
            self.bad(format!("header, iss with an address: {name}"), token);
        }
        let token = |corpus: &Self, header: Value| corpus.ec.token_of(header.to_string(), claims.to_string());
        for (name, extra, value) in [
            ("crit", "crit", json!(["exp"])),
            ("crit, empty", "crit", json!([])),
            ("crit, no list", "crit", json!("b64")),
            ("b64 false", "b64", json!(false)),
            ("kid: number", "kid", json!(1)),
            ("kid: list", "kid", json!(["ec"])),
            ("kid: object", "kid", json!({"kid": "ec"})),
            ("kid: null", "kid", Value::Null),
            ("kid: traversal", "kid", json!("../../../../../../dev/null")),
            ("kid: SQL", "kid", json!("ec' UNION SELECT 'key' -- ")),
            ("kid: command", "kid", json!("ec|cat /etc/passwd")),
            ("kid: NUL", "kid", json!("ec\u{0}")),
            ("kid: line end", "kid", json!("ec\n")),
            ("kid: other case", "kid", json!("EC")),
            ("kid: wide letters", "kid", json!("\u{ff45}\u{ff43}")),
            ("kid: empty", "kid", json!("")),
            ("kid: space behind", "kid", json!("ec ")),
            ("kid: 129 bytes", "kid", json!("k".repeat(129))),
            ("kid: 5000 bytes", "kid", json!("k".repeat(5000))),
            ("kid: 100,000 bytes", "kid", json!("k".repeat(100_000))),
            ("kid: another's key", "kid", json!("other")),
            ("kid: another kind of key", "kid", json!("rsa")),
        ] {
            self.bad(format!("header: {name}"), token(self, with(self.ec.header(), extra, value)));
        }
        let twice = "{\"alg\":\"none\",\"alg\":\"ES256\",\"kid\":\"ec\"}";
        self.bad("header: alg twice", self.ec.token_of(twice, claims.to_string()));
        for header in ["", "null", "[]", "7", "\"ES256\"", "{", "{}", "{\"alg\":\"ES256\",}"] {
            self.bad(format!("header {header:?}"), self.ec.token_of(header, claims.to_string()));
        }
        let marked = format!("\u{feff}{}", self.ec.header());
        self.bad("header with a byte order mark", self.ec.token_of(marked, claims.to_string()));
    }

    fn forms(&mut self) {
        let good = self.ec.token(&claims(LISTED));
        let parts: Vec<&str> = good.split('.').collect();
        let (header, body, signature) = (parts[0], parts[1], parts[2]);
        let decoded = B64.decode(signature).expect("base64");
        let last = signature.chars().last().expect("a character");
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        // The last character of 64 bytes has four unused bits.
        let next = alphabet.chars().nth(alphabet.find(last).expect("of the alphabet") + 1).expect("another");
        let trailing = format!("{}{next}", &good[..good.len() - 1]);
        for (name, token) in [
            ("two parts", format!("{header}.{body}")),
            ("one part", header.to_owned()),
            ("four parts", format!("{good}.{signature}")),
            ("JWE, five parts", format!("{header}.{signature}.{signature}.{body}.{signature}")),
            ("JWE, direct", "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAA.AAAA.AAAA".to_owned()),
            ("two dots", "..".to_owned()),
            ("empty header", format!(".{body}.{signature}")),
            ("empty claims", format!("{header}..{signature}")),
            (
                "JSON serialization",
                json!({"protected": header, "payload": body, "signature": signature}).to_string(),
            ),
            ("line end behind", format!("{good}\n")),
            ("tab inside", format!("{header}.{body}.\t{signature}")),
            ("space inside", format!("{header}. {body}.{signature}")),
            ("NUL behind", format!("{good}\u{0}")),
            ("padded signature", format!("{header}.{body}.{}", URL_SAFE.encode(&decoded))),
            ("padded header", format!("{header}=.{body}.{signature}")),
            ("padding alone", "=.=.=".to_owned()),
            ("other alphabet", format!("{header}.{body}.{}+/", &signature[..signature.len() - 2])),
            ("standard base64", format!("{header}.{body}.{}", STANDARD.encode(&decoded))),
            ("trailing bits", trailing),
            ("percent encoding", good.replace('.', "%2E")),
            ("Bearer twice", format!("Bearer {good}")),
            ("two tokens", format!("{good},{good}")),
            ("in quotes", format!("\"{good}\"")),
            ("an API key", "tgk_0123456789ab_00".to_owned()),
            ("not ASCII", "\u{e9}.\u{e9}.\u{e9}".to_owned()),
            ("long", format!("{header}.{}.{signature}", "A".repeat(9000))),
        ] {
            self.bad(format!("form: {name}"), token);
        }
        let nested = self.ec.token_of(json!({"alg": "ES256", "kid": "ec", "cty": "JWT"}).to_string(), &good);
        self.bad("form: a JWT inside a JWT", nested);
        let half = format!("{}.{}.{signature}", B64.encode(self.rsa.header().to_string()), body);
        self.bad("form: the header of one, the signature of another", half);
    }

    fn claims(&mut self) {
        let good = claims(LISTED);
        let now = now_s();
        let expired = |exp: Value| {
            if exp.as_f64().is_some_and(|exp| (0.0..now as f64).contains(&exp)) {
                "token_expired"
            } else {
                "unauthorized"
            }
        };
        for exp in [
            json!(format!("{}", now + 3600)),
            json!(-1),
            json!(-1e300),
            json!(1e300),
            json!(u64::MAX),
            json!(1_u64 << 53),
            json!(true),
            json!([now + 3600]),
            json!({"exp": now + 3600}),
            Value::Null,
            json!(""),
            json!(0),
            json!(1.5),
            json!(now - 31),
        ] {
            let code = expired(exp.clone());
            self.add(format!("exp {exp}"), self.ec.token(&with(good.clone(), "exp", exp)), code);
        }
        for raw in [
            "1e400",
            "NaN",
            "Infinity",
            "+1900000000",
            "0x7fffffff",
            "18446744073709551616",
            "1900000000.0.0",
        ] {
            let text = good.to_string().replace(&(now + 3600).to_string(), raw);
            self.bad(format!("exp {raw}"), self.ec.token_of(self.ec.header().to_string(), text));
        }
        for name in ["exp", "sub", "org", "services", "iss"] {
            self.bad(format!("no {name}"), self.ec.token(&without(good.clone(), name)));
        }
        for (name, value) in [
            ("nbf", json!(now + 3600)),
            ("nbf", json!("0")),
            ("nbf", json!(-1)),
            ("nbf", Value::Null),
            ("aud", json!("tidegate")),
            ("aud", json!(["tidegate"])),
            ("aud", json!({"tidegate": true})),
            ("aud", json!(1)),
            ("aud", json!([1])),
            ("aud", Value::Null),
            ("sub", json!(["u"])),
            ("sub", json!(1)),
            ("sub", json!("")),
            ("sub", json!("a\u{0}b")),
            ("sub", json!("a,b")),
            ("sub", json!("a".repeat(129))),
            ("org", json!(["acme"])),
            ("org", json!({"acme": 1})),
            ("org", json!("*")),
            ("org", json!("acme/../other")),
            ("org", json!("acme\u{0}")),
            ("org", json!(" acme")),
            ("org", json!("\u{430}cme")),
            ("services", json!("*")),
            ("services", json!([])),
            ("services", json!([["*"]])),
            ("services", json!(["*", "a"])),
            ("services", json!(["a*"])),
            ("services", json!({"0": "*"})),
            ("services", json!([null])),
            ("services", json!(true)),
            ("services", Value::Null),
            ("services", json!([".."])),
        ] {
            self.bad(format!("{name} {value:.60}"), self.ec.token(&with(good.clone(), name, value)));
        }
        for text in ["", "null", "[]", "7", "{", "{}", "\"x\"", "{\"iss\":\"https://listed.example\"}"] {
            self.bad(format!("claims {text:?}"), self.ec.token_of(self.ec.header().to_string(), text));
        }
        let twice = good.to_string().replacen('{', "{\"org\":\"other\",", 1);
        self.bad("org twice", self.ec.token_of(self.ec.header().to_string(), twice));
        let twice = good.to_string().replacen('{', "{\"i\\u0073s\":\"https://other.example\",", 1);
        self.bad("iss twice, once spelt otherwise", self.ec.token_of(self.ec.header().to_string(), twice));
        let deep =
            good.to_string().replacen('{', &format!("{{\"x\":{}{},", "[".repeat(2000), "]".repeat(2000)), 1);
        self.bad("claims: deep", self.ec.token_of(self.ec.header().to_string(), deep));
        let bytes = [good.to_string().as_bytes(), b"\xff\xfe"].concat();
        self.bad("claims: not UTF-8", self.ec.token_of(self.ec.header().to_string(), bytes));
    }

    fn issuers(&mut self) {
        for iss in [
            json!("https://listed.example/"),
            json!("https://listed.exampl"),
            json!("HTTPS://listed.example"),
            json!("https://Listed.example"),
            json!("https://l\u{456}sted.example"),
            json!("https://listed.example\u{0}"),
            json!(" https://listed.example"),
            json!("https://listed.example:443"),
            json!("https://nobody.example"),
            json!(""),
            json!("*"),
            json!([LISTED]),
            json!({"iss": LISTED}),
            json!(1),
            Value::Null,
        ] {
            self.bad(format!("iss {iss}"), self.ec.token(&with(claims(LISTED), "iss", iss)));
        }
        // Keys of one issuer for another.
        self.bad("the other's key, iss listed", self.other.token(&claims(LISTED)));
        self.bad("the listed key, iss other", self.ec.token(&claims(OTHER)));
        self.bad("the fetched key, iss listed", self.fetched.token(&claims(LISTED)));
        self.add("the listed key, iss fetched", self.ec.token(&claims(FETCHED)), "overloaded");
        self.bad("the short form's secret, iss listed", self.secret.token(&claims(LISTED)));
        self.bad("the listed key, iss of the short form", self.ec.token(&claims(SHORT)));
        let unnamed = self.ec.token_of("{\"alg\":\"ES256\"}", claims(OTHER).to_string());
        self.bad("the listed key without a kid, iss other", unnamed);
        // Every issuer calls a key "same"; each accepts only its own.
        for (signer, iss) in [(&self.other, LISTED), (&self.ec, OTHER)] {
            let header = json!({"alg": "ES256", "kid": "same"}).to_string();
            let token = signer.token_of(header, claims(iss).to_string());
            self.cases.push((format!("kid that two issuers have, iss {iss}"), token, "unauthorized"));
        }
        // Orgs that an issuer may not speak for.
        self.add("the other's org", self.ec.token(&with(claims(LISTED), "org", json!("other"))), "forbidden");
        self.add("an org outside orgs", self.other.token(&claims(OTHER)), "forbidden");
        self.add(
            "an org of the other",
            self.other.token(&with(claims(OTHER), "org", json!("other"))),
            "forbidden",
        );
        self.add("another org", self.ec.token(&with(claims(LISTED), "org", json!("mine"))), "forbidden");
        // The audience of the short form of the configuration.
        self.bad("no aud where one is asked for", self.secret.token(&claims(SHORT)));
        for aud in [json!("tidegate2"), json!("Tidegate"), json!([]), json!(["a", "b"]), json!("tidegate ")] {
            let token = self.secret.token(&with(claims(SHORT), "aud", aud.clone()));
            self.bad(format!("aud {aud}"), token);
        }
        // The set of the fetched issuer has other keys, which must not be used.
        for kid in ["weak", "oct", "private", "enc", "sign", "p384", "twice"] {
            let header = json!({"alg": "ES256", "kid": kid}).to_string();
            let token = self.stranger.token_of(header, claims(FETCHED).to_string());
            self.add(format!("kid of a published key that is not used: {kid}"), token, "overloaded");
        }
        let oct = Signer::secret("oct", [7; 32]);
        self.add("HS256 by a secret that is published", oct.token(&claims(FETCHED)), "overloaded");
        let unnamed = self.fetched.token_of("{\"alg\":\"ES256\"}", claims(FETCHED).to_string());
        self.bad("no kid where the set has more keys than one", unnamed);
    }
}

/// A signature of fixed length as ASN.1 has it.
fn der_of(fixed: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let pad = if bytes[0] >= 0x80 { vec![0] } else { Vec::new() };
        [vec![2, (bytes.len() + pad.len()) as u8], pad, bytes.to_vec()].concat()
    };
    let both = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
    [vec![0x30, both.len() as u8], both].concat()
}

fn config(corpus: &Corpus, keys: &KeyServer) -> String {
    let same =
        |signer: &Signer| signer.toml().replacen(&format!("kid = \"{}\"", signer.kid), "kid = \"same\"", 1);
    let (rsa, ec, ed) = (corpus.rsa.toml(), corpus.ec.toml(), corpus.ed.toml());
    let (more, others) = (same(&corpus.ec), same(&corpus.other));
    let (secret, other, url) = (corpus.secret.toml(), corpus.other.toml(), keys.url("jwks"));
    format!(
        "[auth]\nissuer = \"{SHORT}\"\naudience = \"tidegate\"\nkeys = [{secret}]\njwks_cooldown = \"1h\"\n\
         [[auth.issuers]]\nissuer = \"{LISTED}\"\nalgorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\norgs = [\"acme\"]\nkeys = [{rsa}, {ec}, {ed}, {more}]\n\
         [[auth.issuers]]\nissuer = \"{OTHER}\"\nalgorithms = [\"ES256\"]\norgs = [\"other\"]\nkeys = [{other}, {others}]\n\
         [[auth.issuers]]\nissuer = \"{FETCHED}\"\nalgorithms = [\"RS256\", \"ES256\"]\norgs = [\"acme\"]\njwks = \"{url}\"\n\
         [limits]\nhandshakes_per_second = 100_000\nfailed_auths_per_second = 100_000\nclient_frame_bytes = \"1MiB\"\n"
    )
}

fn closes_and_status(code: &str) -> (u16, u16) {
    match code {
        "unauthorized" => (4551, 401),
        "forbidden" => (4552, 403),
        "token_expired" => (4001, 401),
        "overloaded" => (1013, 503),
        other => panic!("{other}"),
    }
}

/// Sends the token in every way that can carry it; each must refuse it in its own terms.
pub fn refused(gateway: &Gateway, (name, token, code): &Case) {
    let (close, status) = closes_and_status(code);
    let mut stream = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    stream.send(&json!({"type": "auth", "token": token}).to_string());
    let (error, closed) = stream.refusal();
    assert_eq!((error["code"].as_str(), closed), (Some(*code), close), "{name}, by auth frame: {error}");
    assert!(!error.to_string().contains(token) || token.is_empty(), "{name}: the token is shown: {error}");
    // A header value ends at white space and has only visible characters.
    let is_plain = |byte: u8| byte.is_ascii_graphic();
    if token.is_empty() || token.len() > 12_000 || !token.bytes().all(is_plain) {
        return;
    }
    let (error, closed) = gateway.ws_as(token, "").refusal();
    assert_eq!((error["code"].as_str(), closed), (Some(*code), close), "{name}, by header: {error}");
    let bearer = format!("Bearer {token}");
    for (endpoint, accept) in [("stream", "text/event-stream"), ("events", "*/*"), ("cursor", "*/*")] {
        let request = Request::new(gateway.public, "GET", &gateway.path(endpoint))
            .with("authorization", &bearer)
            .with("accept", accept);
        let answer = request.send();
        assert_eq!(
            (answer.status, answer.refusal().as_str()),
            (status, *code),
            "{name}, {endpoint}: {answer:?}"
        );
    }
    // A subprotocol is a token of RFC 9110, without separators.
    if token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        let pair = format!("tidegate.v1, tidegate.bearer.{token}");
        let mut stream =
            Ws::open(gateway.public, &gateway.path("stream"), &[("sec-websocket-protocol", &pair)]);
        let (error, closed) = stream.refusal();
        assert_eq!((error["code"].as_str(), closed), (Some(*code), close), "{name}, by subprotocol: {error}");
    }
}

#[test]
fn hostile_tokens_are_refused_and_nobody_is_asked_for_them() {
    let recorder = KeyServer::start();
    let mut corpus = Corpus {
        rsa: Signer::rsa("rsa"),
        ec: Signer::p256("ec"),
        ed: Signer::ed25519("ed"),
        secret: Signer::secret("h", "a secret of thirty-two bytes...."),
        other: Signer::p256("other"),
        fetched: Signer::p256("fetched"),
        stranger: Signer::p256("stranger"),
        recorder: recorder.url("stolen"),
        cases: Vec::new(),
    };
    let more = Signer::rsa("more");
    let ec = |kid: &str| with(corpus.stranger.jwk(), "kid", json!(kid));
    let weak: Value = serde_json::from_str(include_str!("../keys/rsa1024.jwk")).expect("JSON");
    let keys = KeyServer::start();
    keys.gives(&json!({"keys": [
        corpus.fetched.jwk(), more.jwk(), weak,
        with(Signer::secret("oct", [7; 32]).jwk(), "alg", json!("HS256")),
        with(ec("private"), "d", json!("AQ")),
        with(ec("enc"), "use", json!("enc")),
        with(ec("sign"), "key_ops", json!(["sign"])),
        Signer::p384("p384").jwk(), ec("twice"), ec("twice"),
    ]}));
    let gateway = Gateway::serving(&config(&corpus, &keys));
    eventually("the keys", || (gateway.metric("tidegate_jwks_keys") == 2.0).then_some(()));
    corpus.algorithms();
    corpus.signatures();
    corpus.headers();
    corpus.forms();
    corpus.claims();
    corpus.issuers();
    assert!(corpus.cases.len() >= 200, "{}", corpus.cases.len());
    for case in &corpus.cases {
        refused(&gateway, case);
    }
    assert_eq!(recorder.asked(), Vec::<String>::new(), "asked where a token says");
    assert_eq!(keys.asked().len(), 1, "asked for tokens that nobody signed");
    // After enough of each kind, it still accepts the good ones.
    let short = with(claims(SHORT), "aud", json!(["a", "tidegate"]));
    for token in [
        corpus.rsa.token(&claims(LISTED)),
        corpus.ec.token(&claims(LISTED)),
        corpus.ed.token(&claims(LISTED)),
        corpus.fetched.token(&claims(FETCHED)),
        more.token(&claims(FETCHED)),
        corpus.secret.token(&short),
        // Keys in the header are ignored, even if the token is good.
        corpus.ec.token_of(
            json!({"alg": "ES256", "kid": "ec", "jku": recorder.url("x"), "jwk": more.jwk()}).to_string(),
            claims(LISTED).to_string(),
        ),
    ] {
        gateway.ws_as(&token, "").next("hello");
        gateway.sse_as(&token, "").next("hello");
    }
    assert!(recorder.asked().is_empty());
    let metrics = gateway.operators("/metrics");
    assert_eq!(metrics.status, 200);
    let log = gateway.log();
    for (name, token, _) in corpus.cases.iter().filter(|(_, token, _)| token.len() > 40) {
        assert!(!log.contains(token.as_str()) && !metrics.body.contains(token.as_str()), "{name} is shown");
    }
    assert!(!log.contains("panic"), "{log}");
}
