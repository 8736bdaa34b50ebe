//! Makes subscribers' tokens for `tidegate token create`, for `dev`, and for tests. In production a company's
//! own backend makes them.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use tidegate_protocol::{Filter, OrgId, UnixMillis, UserId};

use crate::config::{AuthSettings, JwtKey};

/// The content of a token.
#[derive(Debug, Clone)]
pub struct TokenClaims {
    /// The org whose stream it allows to read.
    pub org: OrgId,
    /// The user.
    pub user: UserId,
    /// The services.
    pub services: Filter,
    /// When it is issued.
    pub issued_at: UnixMillis,
    /// When it expires.
    pub expires_at: UnixMillis,
}

/// Why no token could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The key is public.
    #[error("sign the token: the key is public and cannot sign; a secret (HS256) can")]
    PublicKey,
}

/// Makes a token, signed with `key`, that a gateway with `auth` accepts.
pub fn mint(auth: &AuthSettings, key: &JwtKey, claims: &TokenClaims) -> Result<String, MintError> {
    let secret = key.secret().ok_or(MintError::PublicKey)?;
    let mut header = Map::new();
    header.insert("alg".to_owned(), key.algorithm.word().into());
    header.insert("typ".to_owned(), "JWT".into());
    if let Some(kid) = &key.kid {
        header.insert("kid".to_owned(), kid.as_str().into());
    }
    let mut body = Map::new();
    body.insert(auth.user_claim.to_string(), claims.user.as_str().into());
    body.insert(auth.org_claim.to_string(), claims.org.as_str().into());
    body.insert(auth.services_claim.to_string(), json!(claims.services.names()));
    body.insert("iat".to_owned(), (claims.issued_at / 1000).into());
    body.insert("exp".to_owned(), (claims.expires_at / 1000).into());
    if let Some(issuer) = &auth.issuer {
        body.insert("iss".to_owned(), issuer.as_str().into());
    }
    if let Some(audience) = &auth.audience {
        body.insert("aud".to_owned(), audience.as_str().into());
    }
    let part = |fields: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(fields).to_string());
    let signed = format!("{}.{}", part(header), part(body));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
