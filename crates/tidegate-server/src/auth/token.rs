//! Verifies subscribers' tokens (JWT, RFC 7519; JWS compact form, RFC 7515), following the best practices of
//! RFC 8725.
//!
//! The key determines the algorithm. Keys in the header (`jwk`, `jku`, `x5u`, `x5c`) are never used, and no
//! claim except `iss` is read before the signature is verified.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use tidegate_protocol::{Code, Filter, OrgId, UnixMillis, UserId, time::millis};

use super::{
    AuthError, StreamGrant,
    claims::{Object, numeric_date},
    issuer::Issuer,
    key_set::{KeySet, Signed, VerifyingKey},
    parse_services,
};
use crate::{
    config::{AuthSettings, humane},
    metrics::Metrics,
};

/// The longest `kid`, in bytes. It is only compared.
pub(super) const KID_MAX: usize = 128;

/// From here on, a time is taken for one in milliseconds: in seconds it would be the year 5138, in milliseconds it
/// is 1973.
const LIKE_MILLIS: u64 = 100_000_000_000;

/// Turns tokens into grants.
pub struct TokenVerifier {
    issuers: Vec<Issuer>,
    user_claim: String,
    org_claim: String,
    services_claim: String,
    leeway_secs: u64,
    max_life: Duration,
    longest: usize,
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("issuers", &self.issuers.len()).finish_non_exhaustive()
    }
}

/// A token opened for its owner (`tidegate token inspect`).
#[derive(Debug)]
pub struct Inspection {
    /// The header, if it could be read.
    pub header: Option<Value>,
    /// The claims, if they could be read. Do not trust them unless `verdict` is a grant.
    pub claims: Option<Value>,
    /// The name of the issuer whose keys were tried.
    pub issuer: Option<String>,
    /// The name of the key that signed it.
    pub key: Option<String>,
    /// The gateway's verdict on the token.
    pub verdict: Result<StreamGrant, AuthError>,
}

struct Parts<'a> {
    header: Object,
    message: &'a str,
    claims: &'a str,
    signature: &'a str,
}

fn malformed(what: &str) -> AuthError {
    AuthError::unauthorized(format!("the token is malformed: {what}"))
}

fn object(part: &str, name: &str) -> Result<Object, AuthError> {
    let bytes =
        URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed(&format!("its {name} is not base64url")))?;
    Object::parse(&bytes).map_err(|reason| malformed(&format!("its {name} {reason}")))
}

/// What the header says about the signature.
fn signed<'a>(parts: &'a Parts<'_>) -> Result<Signed<'a>, AuthError> {
    let Some(Value::String(algorithm)) = parts.header.get("alg") else {
        return Err(malformed("its header must have `alg` as text"));
    };
    let kid = match parts.header.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= KID_MAX => Some(kid.as_str()),
        Some(Value::String(_)) => return Err(malformed("its `kid` is longer than 128 bytes")),
        Some(_) => return Err(malformed("its `kid` must be text")),
    };
    // RFC 7515 4.1.11: a critical header that is not understood must be refused. We understand none.
    if parts.header.get("crit").is_some() {
        return Err(AuthError::unauthorized(
            "the token has critical header fields (`crit`), which are not supported",
        ));
    }
    // RFC 7797 7: a JWT must not have it.
    if parts.header.get("b64").is_some() {
        return Err(malformed("its header has `b64`, which a JWT must not have"));
    }
    Ok(Signed { message: parts.message, signature: parts.signature, algorithm, kid })
}

impl TokenVerifier {
    /// A verifier with the issuers and claim names of `auth`, for tokens up to `longest` bytes. Published
    /// keys are fetched once [`TokenVerifier::keep_fresh`] is called.
    pub fn new(auth: &AuthSettings, longest: usize) -> Self {
        Self {
            issuers: Issuer::all(auth),
            user_claim: auth.user_claim.to_string(),
            org_claim: auth.org_claim.to_string(),
            services_claim: auth.services_claim.to_string(),
            leeway_secs: auth.leeway.as_secs(),
            max_life: auth.max_token_life,
            longest,
        }
    }

    /// Takes over the fetched keys of the previous verifier, for issuers that are the same.
    pub fn inherit(&self, before: &Self) {
        for issuer in &self.issuers {
            before.issuers.iter().for_each(|before| issuer.inherit(before));
        }
    }

    /// Starts to fetch keys on this thread's runtime. It stops when this verifier is dropped.
    pub fn keep_fresh(&self, metrics: &Arc<Metrics>) {
        self.issuers.iter().for_each(|issuer| issuer.keep_fresh(metrics));
    }

    /// Opens a token for its owner. Nothing in it may be acted on.
    pub async fn inspect(&self, token: &str, now: UnixMillis) -> Inspection {
        let part = |index: usize, name: &str| {
            token.split('.').nth(index).and_then(|part| object(part, name).ok()).map(Object::into_json)
        };
        let (mut issuer, mut key) = (None, None);
        let verdict = async {
            let parts = self.split(token)?;
            let signed = signed(&parts)?;
            let signer = self.issuer_of(&parts)?;
            issuer = Some(signer.named());
            let keys = signer.keys_for(signed.kid).await?;
            key = Some(keys.check(&signed).map(VerifyingKey::named)?);
            self.grant(&parts, signer, now)
        };
        let verdict = verdict.await;
        Inspection { header: part(0, "header"), claims: part(1, "payload"), issuer, key, verdict }
    }

    /// The grant of `token` at `now`. Whether it covers the request is checked by the grant. Waits for a
    /// bounded time if keys must be fetched.
    pub async fn verify(&self, token: &str, now: UnixMillis) -> Result<StreamGrant, AuthError> {
        let parts = self.split(token)?;
        let signed = signed(&parts)?;
        let issuer = self.issuer_of(&parts)?;
        let keys = issuer.keys_for(signed.kid).await?;
        self.grant_by(&parts, &signed, issuer, &keys, now)
    }

    /// The grant of `token`, by the keys that are known now.
    pub fn verify_at_hand(&self, token: &str, now: UnixMillis) -> Result<StreamGrant, AuthError> {
        let parts = self.split(token)?;
        let signed = signed(&parts)?;
        let issuer = self.issuer_of(&parts)?;
        let keys = issuer.keys_at_hand()?;
        self.grant_by(&parts, &signed, issuer, &keys, now)
    }

    fn grant_by(
        &self,
        parts: &Parts<'_>,
        signed: &Signed<'_>,
        issuer: &Issuer,
        keys: &KeySet,
        now: UnixMillis,
    ) -> Result<StreamGrant, AuthError> {
        keys.check(signed)?;
        self.grant(parts, issuer, now)
    }

    /// The grant of a token whose signature is verified.
    fn grant(&self, parts: &Parts<'_>, issuer: &Issuer, now: UnixMillis) -> Result<StreamGrant, AuthError> {
        let claims = object(parts.claims, "payload")?;
        let expires_at = self.check_times(&claims, now)?;
        issuer.check_claims(&claims)?;
        let text = |name: &str| match claims.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(AuthError::unauthorized(format!("the token's claim `{name}` must be text"))),
            None => Err(AuthError::unauthorized(format!("the token has no claim `{name}`"))),
        };
        let named = |name: &str, error: tidegate_protocol::NameError| {
            AuthError::unauthorized(format!("the token's claim `{name}` is not valid: {error}"))
        };
        let user = UserId::parse(text(&self.user_claim)?).map_err(|error| named(&self.user_claim, error))?;
        let org = OrgId::parse(text(&self.org_claim)?).map_err(|error| named(&self.org_claim, error))?;
        let filter = self.services(&claims)?;
        issuer.check_org(&org)?;
        Ok(StreamGrant { org, user, filter, expires_at })
    }

    /// The issuer whose keys may have signed. This does not trust the claims: `iss` only selects one of the
    /// configured issuers, and is checked again once the signature is verified.
    fn issuer_of(&self, parts: &Parts<'_>) -> Result<&Issuer, AuthError> {
        match self.issuers.as_slice() {
            [only] if only.takes_any_iss() => Ok(only),
            issuers => {
                let claims = object(parts.claims, "payload")?;
                issuers.iter().find(|issuer| issuer.is_named_by(&claims)).ok_or_else(|| match issuers {
                    [_] => super::issuer::not_expected(),
                    _ => AuthError::unauthorized("the token's `iss` names no issuer that this gateway knows"),
                })
            }
        }
    }

    fn split<'a>(&self, token: &'a str) -> Result<Parts<'a>, AuthError> {
        if token.is_empty() {
            return Err(AuthError::unauthorized("the token is empty"));
        }
        if token.len() > self.longest {
            return Err(AuthError::unauthorized(format!(
                "the token is longer than {} bytes (limits.token_bytes)",
                self.longest
            )));
        }
        let three = || malformed("a JWT has three parts with dots between");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(three)?;
        let (header, claims) = signed.split_once('.').ok_or_else(three)?;
        if claims.contains('.') {
            return Err(three());
        }
        Ok(Parts { header: object(header, "header")?, message: signed, claims, signature })
    }

    fn check_times(&self, claims: &Object, now: UnixMillis) -> Result<UnixMillis, AuthError> {
        let date = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or_else(|| {
                AuthError::unauthorized(format!(
                    "the token's `{name}` must be a number of seconds since 1970"
                ))
            }),
        };
        let exp = date("exp")?.ok_or_else(|| AuthError::unauthorized("the token has no `exp`"))?;
        if let Some(nbf) = date("nbf")?.filter(|nbf| nbf * 1000 > now.saturating_add(self.leeway_secs * 1000))
        {
            return Err(AuthError::unauthorized(match nbf {
                LIKE_MILLIS.. => {
                    "the token is not valid yet (`nbf`); it looks like milliseconds, and `nbf` is in seconds"
                }
                _ => "the token is not valid yet (`nbf`)",
            }));
        }
        let life = millis(self.max_life).saturating_add(self.leeway_secs * 1000);
        if exp * 1000 > now.saturating_add(life) {
            let humane = humane(self.max_life);
            let guess = match exp {
                LIKE_MILLIS.. => "; it looks like milliseconds, and `exp` is in seconds since 1970",
                _ => "",
            };
            return Err(AuthError::unauthorized(format!(
                "the token's `exp` is further ahead than auth.max_token_life ({humane}) allows{guess}"
            )));
        }
        // `exp` is below 2^53 and the leeway at most 300, so neither overflows.
        let expires_at = (exp + self.leeway_secs) * 1000;
        if expires_at <= now {
            return Err(AuthError {
                code: Code::TokenExpired,
                message: "the token has expired".into(),
                retry_in_ms: None,
            });
        }
        Ok(expires_at)
    }

    fn services(&self, claims: &Object) -> Result<Filter, AuthError> {
        let name = &self.services_claim;
        let refused = |reason: &str| AuthError::unauthorized(format!("the token's claim `{name}` {reason}"));
        match claims.get(name) {
            None => Err(AuthError::unauthorized(format!("the token has no claim `{name}`"))),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                let names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                parse_services(names.into_iter()).map_err(|reason| refused(&reason))
            }
            Some(_) => Err(refused("must be a list of service names, or [\"*\"]")),
        }
    }
}
