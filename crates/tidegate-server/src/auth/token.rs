//! Verifies subscribers' tokens (JWT, RFC 7519; JWS compact form, RFC 7515; RFC 8725 for what to
//! mistrust).
//!
//! The key decides the algorithm. What the header says of keys (`jwk`, `jku`, `x5u`, `x5c`) is never
//! looked at, and nothing of the claims is before the signature holds.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use tidegate_core::{Code, Filter, OrgId, UnixMillis, UserId};

use super::{
    Refusal, StreamGrant,
    claims::{Object, numeric_date},
    parse_services,
};
use crate::config::{Auth, JwtAlgorithm};

/// A key with the one algorithm that it is for. Asymmetric keys will stand here beside secrets.
struct VerifyingKey {
    kid: Option<String>,
    algorithm: JwtAlgorithm,
    key: DecodingKey,
}

impl VerifyingKey {
    /// Whether a token that names `kid` may be signed by this key.
    fn answers_to(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(mine), Some(theirs)) => mine == theirs,
            // A name on one side only says nothing: the signature decides.
            _ => true,
        }
    }

    fn verifies(&self, signed: &str, signature: &str) -> bool {
        let algorithm = match self.algorithm {
            JwtAlgorithm::Hs256 => Algorithm::HS256,
        };
        jsonwebtoken::crypto::verify(signature, signed.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

/// Turns tokens into grants.
pub struct TokenVerifier {
    keys: Vec<VerifyingKey>,
    user_claim: String,
    org_claim: String,
    services_claim: String,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_secs: u64,
    longest: usize,
}

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// A token opened for its owner to look at (`tidegate token inspect`).
#[derive(Debug)]
pub struct Inspection {
    /// The header, if it could be read.
    pub header: Option<Value>,
    /// The claims, if they could be read; not to be believed unless `verdict` is a grant.
    pub claims: Option<Value>,
    /// What the gateway makes of the token.
    pub verdict: Result<StreamGrant, Refusal>,
}

struct Parts<'a> {
    signed: &'a str,
    header: Object,
    claims: &'a str,
    signature: &'a str,
}

fn malformed(what: &str) -> Refusal {
    Refusal::unauthorized(format!("the token is malformed: {what}"))
}

fn object(part: &str, name: &str) -> Result<Object, Refusal> {
    let bytes =
        URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed(&format!("its {name} is not base64url")))?;
    Object::parse(&bytes).map_err(|reason| malformed(&format!("its {name} {reason}")))
}

impl TokenVerifier {
    /// A verifier with the keys and claim names of `auth`, for tokens up to `longest` bytes.
    pub fn new(auth: &Auth, longest: usize) -> Self {
        let keys = auth
            .keys
            .iter()
            .map(|key| VerifyingKey {
                kid: key.kid.clone(),
                algorithm: key.algorithm,
                key: DecodingKey::from_secret(key.secret.expose()),
            })
            .collect();
        Self {
            keys,
            user_claim: auth.user_claim.to_string(),
            org_claim: auth.org_claim.to_string(),
            services_claim: auth.services_claim.to_string(),
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway_secs: auth.leeway.as_secs(),
            longest,
        }
    }

    /// Opens a token for its owner; nothing of it may be acted on.
    pub fn inspect(&self, token: &str, now: UnixMillis) -> Inspection {
        let claims = token.split('.').nth(1).and_then(|part| object(part, "payload").ok());
        Inspection {
            header: token
                .split('.')
                .next()
                .and_then(|part| object(part, "header").ok())
                .map(Object::into_json),
            claims: claims.map(Object::into_json),
            verdict: self.verify_at_hand(token, now),
        }
    }

    /// What `token` allows at `now`. Whether that covers what was asked for is the grant's to say.
    pub async fn verify(&self, token: &str, now: UnixMillis) -> Result<StreamGrant, Refusal> {
        self.verify_at_hand(token, now)
    }

    /// What `token` allows, by the keys that are at hand.
    pub fn verify_at_hand(&self, token: &str, now: UnixMillis) -> Result<StreamGrant, Refusal> {
        let parts = self.split(token)?;
        self.check_signature(&parts)?;
        let claims = object(parts.claims, "payload")?;
        let expires_at = self.check_times(&claims, now)?;
        self.check_issuer_and_audience(&claims)?;
        let text = |name: &str| match claims.get(name) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(_) => Err(Refusal::unauthorized(format!("the token's claim `{name}` must be text"))),
            None => Err(Refusal::unauthorized(format!("the token has no claim `{name}`"))),
        };
        let named = |name: &str, error: tidegate_core::NameError| {
            Refusal::unauthorized(format!("the token's claim `{name}` is not valid: {error}"))
        };
        let user = UserId::parse(text(&self.user_claim)?).map_err(|error| named(&self.user_claim, error))?;
        let org = OrgId::parse(text(&self.org_claim)?).map_err(|error| named(&self.org_claim, error))?;
        Ok(StreamGrant { org, user, filter: self.services(&claims)?, expires_at })
    }

    fn split<'a>(&self, token: &'a str) -> Result<Parts<'a>, Refusal> {
        if token.is_empty() {
            return Err(Refusal::unauthorized("the token is empty"));
        }
        if token.len() > self.longest {
            return Err(Refusal::unauthorized(format!(
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
        Ok(Parts { signed, header: object(header, "header")?, claims, signature })
    }

    fn check_signature(&self, parts: &Parts<'_>) -> Result<(), Refusal> {
        let Some(Value::String(algorithm)) = parts.header.get("alg") else {
            return Err(malformed("its header must have `alg` as text"));
        };
        let kid = match parts.header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str()),
            Some(_) => return Err(malformed("its `kid` must be text")),
        };
        // RFC 7515 4.1.11: what is marked critical and not understood is refused. We understand none.
        if parts.header.get("crit").is_some() {
            return Err(Refusal::unauthorized(
                "the token has critical header fields (`crit`), which are not supported",
            ));
        }
        let mut candidates = self.keys.iter().filter(|key| key.answers_to(kid)).peekable();
        if candidates.peek().is_none() {
            return Err(Refusal::unauthorized("the token's `kid` names no key of this gateway"));
        }
        let mut candidates = candidates.filter(|key| key.algorithm.word() == algorithm).peekable();
        if candidates.peek().is_none() {
            return Err(Refusal::unauthorized("the token's `alg` is not the one that its key is for"));
        }
        if candidates.any(|key| key.verifies(parts.signed, parts.signature)) {
            Ok(())
        } else {
            Err(Refusal::unauthorized("the token's signature does not match"))
        }
    }

    fn check_times(&self, claims: &Object, now: UnixMillis) -> Result<UnixMillis, Refusal> {
        let date = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or_else(|| {
                Refusal::unauthorized(format!("the token's `{name}` must be a number of seconds since 1970"))
            }),
        };
        let exp = date("exp")?.ok_or_else(|| Refusal::unauthorized("the token has no `exp`"))?;
        if date("nbf")?.is_some_and(|nbf| nbf * 1000 > now.saturating_add(self.leeway_secs * 1000)) {
            return Err(Refusal::unauthorized("the token is not valid yet (`nbf`)"));
        }
        // `exp` is below 2^53 and the leeway at most 300, so neither overflows.
        let expires_at = (exp + self.leeway_secs) * 1000;
        if expires_at <= now {
            return Err(Refusal { code: Code::TokenExpired, message: "the token has expired".into() });
        }
        Ok(expires_at)
    }

    fn check_issuer_and_audience(&self, claims: &Object) -> Result<(), Refusal> {
        if let Some(issuer) = &self.issuer
            && claims.get("iss") != Some(&Value::String(issuer.clone()))
        {
            return Err(Refusal::unauthorized(
                "the token's `iss` is not the issuer that this gateway expects",
            ));
        }
        let audiences: Vec<&str> = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
                many.iter().filter_map(Value::as_str).collect()
            }
            Some(_) => {
                return Err(Refusal::unauthorized("the token's `aud` must be text or a list of texts"));
            }
        };
        match (&self.audience, audiences.as_slice()) {
            (None, []) => Ok(()),
            // RFC 7519 4.1.3: a token that is meant for somebody is refused by everybody else.
            (None, _) => Err(Refusal::unauthorized(
                "the token names an audience (`aud`) and this gateway has none set (auth.audience)",
            )),
            (Some(audience), named) if named.contains(&audience.as_str()) => Ok(()),
            (Some(_), _) => Err(Refusal::unauthorized("the token's `aud` does not name this gateway")),
        }
    }

    fn services(&self, claims: &Object) -> Result<Filter, Refusal> {
        let name = &self.services_claim;
        let refused = |reason: &str| Refusal::unauthorized(format!("the token's claim `{name}` {reason}"));
        match claims.get(name) {
            None => Err(Refusal::unauthorized(format!("the token has no claim `{name}`"))),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                let names: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                parse_services(names.into_iter()).map_err(|reason| refused(&reason))
            }
            Some(_) => Err(refused("must be a list of service names, or [\"*\"]")),
        }
    }
}
