//! The keys of an issuer, and which of them may have signed a token.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::AuthError;
use crate::config::{JwtAlgorithm, JwtKey, KeyMaterial, PublicKey};

enum SignatureVerifier {
    Hmac(Box<hmac::Key>),
    Public(PublicKey),
}

/// A key with its one algorithm.
pub(super) struct VerifyingKey {
    kid: Option<String>,
    algorithm: JwtAlgorithm,
    verifier: SignatureVerifier,
}

impl VerifyingKey {
    pub(super) fn public(kid: Option<String>, key: PublicKey) -> Self {
        Self { kid, algorithm: key.algorithm(), verifier: SignatureVerifier::Public(key) }
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Its name for operators.
    pub(super) fn named(&self) -> String {
        match &self.kid {
            Some(kid) => format!("the {} key {kid:?}", self.algorithm.word()),
            None => format!("the {} key without a kid", self.algorithm.word()),
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            SignatureVerifier::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            SignatureVerifier::Public(key) => key.verifies(message, signature),
        }
    }
}

impl From<&JwtKey> for VerifyingKey {
    fn from(key: &JwtKey) -> Self {
        let verifier = match &key.material {
            KeyMaterial::Secret(secret) => {
                SignatureVerifier::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose())))
            }
            KeyMaterial::Public(key) => SignatureVerifier::Public(key.clone()),
        };
        Self { kid: key.kid.clone(), algorithm: key.algorithm, verifier }
    }
}

/// The signed part of a token, and what its header says about the signature. No key, and no address of a key,
/// is ever taken from a token's header (`jwk`, `jku`, `x5u`, `x5c`).
pub(super) struct Signed<'a> {
    pub(super) message: &'a str,
    pub(super) signature: &'a str,
    pub(super) algorithm: &'a str,
    pub(super) kid: Option<&'a str>,
}

/// How the `kid` of a token selects keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// A token or a key without a `kid` matches any; the signature decides. For keys that an operator lists.
    Loose,
    /// A token must name its key, unless there is only one. For published sets, which change by themselves.
    Strict,
}

/// The keys of one issuer. Keys of different issuers are never mixed.
pub(super) struct KeySet {
    keys: Vec<VerifyingKey>,
    naming: Naming,
}

impl KeySet {
    pub(super) fn new(keys: Vec<VerifyingKey>, naming: Naming) -> Self {
        Self { keys, naming }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn kids(&self) -> Vec<&str> {
        self.keys.iter().filter_map(VerifyingKey::kid).collect()
    }

    /// Whether a key has this `kid`.
    pub(super) fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == Some(kid))
    }

    fn candidates(&self, kid: Option<&str>) -> Result<Vec<&VerifyingKey>, AuthError> {
        let unknown = || AuthError::unauthorized("the token's `kid` names no key of this gateway");
        match (self.naming, kid) {
            (Naming::Strict, None) if self.keys.len() != 1 => {
                Err(AuthError::unauthorized("the token has no `kid`, and its issuer has more keys than one"))
            }
            (Naming::Strict, None) | (Naming::Loose, None) => Ok(self.keys.iter().collect()),
            (naming, Some(kid)) => {
                let fits = |key: &&VerifyingKey| match key.kid() {
                    Some(mine) => mine == kid,
                    None => naming == Naming::Loose,
                };
                let found: Vec<_> = self.keys.iter().filter(fits).collect();
                if found.is_empty() { Err(unknown()) } else { Ok(found) }
            }
        }
    }

    /// The key that has signed, or why none has. The key determines the algorithm.
    pub(super) fn check(&self, signed: &Signed<'_>) -> Result<&VerifyingKey, AuthError> {
        let mut candidates = self.candidates(signed.kid)?;
        candidates.retain(|key| key.algorithm.word() == signed.algorithm);
        if candidates.is_empty() {
            return Err(AuthError::unauthorized("the token's `alg` is not the one that its key is for"));
        }
        let wrong = || AuthError::unauthorized("the token's signature does not match");
        // Without padding and without trailing bits, so a token has only one spelling.
        let signature = URL_SAFE_NO_PAD.decode(signed.signature).map_err(|_| wrong())?;
        candidates
            .into_iter()
            .find(|key| key.verifies(signed.message.as_bytes(), &signature))
            .ok_or_else(wrong)
    }
}
