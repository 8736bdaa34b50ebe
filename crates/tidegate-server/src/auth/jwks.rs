//! Reads a JSON Web Key Set (RFC 7517; RFC 7518, 6; RFC 8037, 2): bytes in, usable keys out. Fetching is in
//! `fetch`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    claims::Object,
    key_set::{KeySet, Naming, VerifyingKey},
};
use crate::config::{JwtAlgorithm, PublicKey};

/// More keys than any issuer needs, and few enough to try quickly.
const KEYS_MAX: usize = 32;

const KID_MAX: usize = 128;

/// Members that only private or secret keys have (RFC 7518, 6.2.2, 6.3.2, 6.4.1).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

#[derive(Deserialize)]
struct Document {
    keys: Vec<Box<RawValue>>,
}

/// The result of reading a key set.
pub(super) struct Read {
    /// The keys that can be used.
    pub(super) keys: KeySet,
    /// For each other key, why it cannot be used; for the log.
    pub(super) unused: Vec<String>,
}

/// Reads a set for an issuer that signs with `algorithms`, or says why it is not a key set.
pub(super) fn read(body: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Read, &'static str> {
    let document: Document =
        serde_json::from_slice(body).map_err(|_| "it is not a JSON object with a list `keys`")?;
    if document.keys.len() > KEYS_MAX {
        return Err("it has more than 32 keys");
    }
    let (mut keys, mut unused) = (Vec::new(), Vec::new());
    for (index, raw) in document.keys.iter().enumerate() {
        match key(raw.get().as_bytes(), algorithms) {
            Ok(key) => keys.push(key),
            Err(reason) => unused.push(format!("key {}: {reason}", index + 1)),
        }
    }
    // Two keys with one name are both refused, because nobody knows which is meant.
    let names: Vec<Option<String>> = keys.iter().map(|key| key.kid().map(str::to_owned)).collect();
    keys.retain(|key| {
        let is_alone =
            key.kid().is_none() || names.iter().filter(|name| name.as_deref() == key.kid()).count() == 1;
        if !is_alone {
            unused.push(format!("{}: another has the same kid", key.named()));
        }
        is_alone
    });
    Ok(Read { keys: KeySet::new(keys, Naming::Strict), unused })
}

fn key(json: &[u8], algorithms: &[JwtAlgorithm]) -> Result<VerifyingKey, String> {
    let jwk = Object::parse(json)?;
    let text = |name: &str| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("its `{name}` is not text")),
    };
    if let Some(name) = PRIVATE.into_iter().find(|name| jwk.get(name).is_some()) {
        return Err(format!("it has `{name}`, which only private and secret keys have"));
    }
    let algorithm = match (text("kty")?, text("crv")?) {
        (Some("RSA"), _) => JwtAlgorithm::Rs256,
        (Some("EC"), Some("P-256")) => JwtAlgorithm::Es256,
        (Some("OKP"), Some("Ed25519")) => JwtAlgorithm::EdDsa,
        _ => return Err("it is neither RSA, nor EC on P-256, nor Ed25519".to_owned()),
    };
    if !algorithms.contains(&algorithm) {
        return Err(format!("it is for {}, which the issuer's `algorithms` do not list", algorithm.word()));
    }
    if text("alg")?.is_some_and(|alg| alg != algorithm.word()) {
        return Err(format!("its `alg` is not {}", algorithm.word()));
    }
    if text("use")?.is_some_and(|usage| usage != "sig") {
        return Err("its `use` is not \"sig\"".to_owned());
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(_) => return Err("its `key_ops` do not list \"verify\"".to_owned()),
    }
    let kid = text("kid")?.map(str::to_owned);
    if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > KID_MAX) {
        return Err(format!("its `kid` is not 1 to {KID_MAX} bytes"));
    }
    let bytes = |name: &str| {
        let text = text(name)?.ok_or_else(|| format!("it has no `{name}`"))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its `{name}` is not base64url"))
    };
    let key = match algorithm {
        JwtAlgorithm::Es256 => PublicKey::p256(&bytes("x")?, &bytes("y")?),
        JwtAlgorithm::EdDsa => PublicKey::ed25519(&bytes("x")?),
        JwtAlgorithm::Rs256 | JwtAlgorithm::Hs256 => PublicKey::rsa(&bytes("n")?, &bytes("e")?),
    };
    Ok(VerifyingKey::public(kid, key?))
}
