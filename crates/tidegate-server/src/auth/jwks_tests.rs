//! Which keys of a set are used.

use aws_lc_rs::{
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde_json::{Value, json};

use super::{jwks, jwks::Read};
use crate::config::JwtAlgorithm;

const ALL: [JwtAlgorithm; 3] = [JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];

fn rsa() -> (Vec<u8>, Vec<u8>) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let key = pair.public_key();
    (
        key.modulus().big_endian_without_leading_zero().to_vec(),
        key.exponent().big_endian_without_leading_zero().to_vec(),
    )
}

fn point() -> (String, String) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let point = pair.public_key().as_ref().to_vec();
    (B64.encode(&point[1..33]), B64.encode(&point[33..]))
}

fn ec(kid: &str) -> Value {
    let (x, y) = point();
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y})
}

fn read(keys: &Value) -> Read {
    jwks::read(json!({"keys": keys}).to_string().as_bytes(), &ALL).expect("a set")
}

/// The reason for which the one key is not used, if any.
fn said(key: &Value) -> String {
    read(&json!([key])).unused.pop().unwrap_or_default()
}

fn with(key: &Value, name: &str, value: Value) -> Value {
    let mut key = key.clone();
    key[name] = value;
    key
}

#[test]
fn usable_keys_are_used_whatever_else_they_say() {
    let (n, e) = rsa();
    let rsa = json!({"kty": "RSA", "kid": "r", "n": B64.encode(&n), "e": B64.encode(&e)});
    let ec = ec("e");
    let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": "d", "x": B64.encode([9; 32])});
    for key in [
        rsa.clone(),
        with(&with(&rsa, "use", json!("sig")), "alg", json!("RS256")),
        with(&rsa, "n", json!(B64.encode([&[0], n.as_slice()].concat()))),
        with(&ec, "key_ops", json!(["verify"])),
        with(&ec, "x5c", json!(["MII"])),
        with(&ec, "x5u", json!("https://elsewhere.example/")),
        ed,
    ] {
        assert_eq!(said(&key), "", "{key}");
    }
    let only_rsa = jwks::read(json!({"keys": [rsa, ec]}).to_string().as_bytes(), &[JwtAlgorithm::Rs256]);
    let only_rsa = only_rsa.expect("a set");
    assert_eq!(only_rsa.keys.kids(), ["r"]);
    assert_eq!(only_rsa.unused, ["key 2: it is for ES256, which the issuer's `algorithms` do not list"]);
}

#[test]
fn keys_that_must_not_be_used_are_passed_over_with_a_reason() {
    let (n, e) = rsa();
    let rsa = json!({"kty": "RSA", "kid": "r", "n": B64.encode(&n), "e": B64.encode(&e)});
    let (ec, big) = (ec("e"), |length: usize| B64.encode(vec![0xff; length]));
    let mut even = n.clone();
    *even.last_mut().expect("a byte") &= 0xfe;
    for (key, reason) in [
        (json!({}), "it is neither RSA, nor EC on P-256, nor Ed25519"),
        (json!([]), "is not an object"),
        (json!(null), "is not an object"),
        (json!({"kty": "oct", "k": B64.encode([7; 32]), "alg": "HS256"}), "it has `k`"),
        (json!({"kty": "oct"}), "it is neither RSA"),
        (with(&rsa, "d", json!("AQ")), "it has `d`, which only private and secret keys have"),
        (with(&rsa, "p", json!(null)), "it has `p`"),
        (with(&ec, "d", json!("AQ")), "it has `d`"),
        (with(&rsa, "use", json!("enc")), "its `use` is not \"sig\""),
        (with(&rsa, "use", json!(["sig"])), "its `use` is not text"),
        (with(&rsa, "key_ops", json!(["sign"])), "its `key_ops` do not list \"verify\""),
        (with(&rsa, "key_ops", json!("verify")), "its `key_ops` do not list"),
        (with(&rsa, "alg", json!("PS256")), "its `alg` is not RS256"),
        (with(&rsa, "alg", json!("HS256")), "its `alg` is not RS256"),
        (with(&ec, "alg", json!("ES384")), "its `alg` is not ES256"),
        (with(&ec, "crv", json!("P-384")), "it is neither RSA"),
        (with(&ec, "crv", json!("secp256k1")), "it is neither RSA"),
        (with(&ec, "x", json!(big(32))), "its point is not on the curve"),
        (with(&ec, "x", json!(big(31))), "its coordinates are not of 32 bytes each"),
        (with(&ec, "y", json!(null)), "its `y` is not text"),
        (with(&rsa, "n", json!(B64.encode(&even))), "its modulus is even"),
        (with(&rsa, "n", json!(big(128))), "its modulus is not of 2048 to 8192 bits"),
        (with(&rsa, "n", json!(big(1025))), "its modulus is not of 2048 to 8192 bits"),
        (with(&rsa, "n", json!("")), "its modulus is not of 2048 to 8192 bits"),
        (with(&rsa, "n", json!("a b")), "its `n` is not base64url"),
        (with(&rsa, "n", json!(format!("{}==", B64.encode(&n)))), "its `n` is not base64url"),
        (with(&rsa, "e", json!("AQ")), "its exponent is not an odd number from 3"),
        (with(&rsa, "e", json!("AQAC")), "its exponent is not an odd number from 3"),
        (with(&rsa, "e", json!("")), "its exponent is not an odd number from 3"),
        (with(&rsa, "e", json!(big(9))), "its exponent is not an odd number from 3"),
        (with(&rsa, "kid", json!(7)), "its `kid` is not text"),
        (with(&rsa, "kid", json!("")), "its `kid` is not 1 to 128 bytes"),
        (with(&rsa, "kid", json!("k".repeat(129))), "its `kid` is not 1 to 128 bytes"),
        (json!({"kty": "OKP", "crv": "Ed448", "x": big(57)}), "it is neither RSA"),
        (json!({"kty": "OKP", "crv": "X25519", "x": big(32)}), "it is neither RSA"),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": big(31)}), "it is not of 32 bytes"),
    ] {
        assert!(said(&key).contains(reason), "{key}: {}", said(&key));
    }
    let twice = r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#;
    let twice = jwks::read(twice.as_bytes(), &ALL).expect("a set");
    assert_eq!(twice.unused, ["key 1: names a field twice"]);
}

#[test]
fn of_two_keys_with_one_name_neither_is_used() {
    let read = read(&json!([ec("a"), ec("b"), ec("a"), ec("c")]));
    assert_eq!(read.keys.kids(), ["b", "c"]);
    assert_eq!(read.unused.len(), 2);
}

#[test]
fn what_is_no_key_set_is_refused_whole() {
    let keys: Vec<Value> = (0..33).map(|index| ec(&index.to_string())).collect();
    let many = json!({"keys": keys}).to_string();
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "7",
        "{\"keys\":null}",
        "{\"keys\":{}}",
        "{\"keys\":[",
        "<html></html>",
        "{\"keys\":[],\"keys\":[]}",
        "{\"keys\":[]} x",
        "\u{feff}{\"keys\":[]}",
        &many,
    ] {
        assert!(jwks::read(body.as_bytes(), &ALL).is_err(), "{body:.60}");
    }
    assert!(jwks::read(b"\xff\xfe", &ALL).is_err());
    assert!(jwks::read(b"{\"keys\":[]}", &ALL).is_ok_and(|read| read.keys.is_empty()));
}
