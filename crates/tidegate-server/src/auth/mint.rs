//! Makes subscribers' tokens: for `tidegate token create`, for `dev`, and for tests. A company's own
//! backend makes its tokens itself.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Map, Value, json};
use tidegate_core::{Filter, OrgId, UnixMillis, UserId};

use crate::config::{Auth, JwtAlgorithm, JwtKey};

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct TokenClaims {
    /// The org whose stream may be read.
    pub org: OrgId,
    /// Who reads.
    pub user: UserId,
    /// Which services.
    pub services: Filter,
    /// When it is issued.
    pub issued_at: UnixMillis,
    /// When it ends.
    pub expires_at: UnixMillis,
}

/// Why no token was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The signer refused the key.
    #[error("sign the token: the key cannot be used")]
    Sign,
}

/// Makes a token that a gateway with `auth` takes, signed with `key`.
pub fn mint(auth: &Auth, key: &JwtKey, claims: &TokenClaims) -> Result<String, MintError> {
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
    let algorithm = match key.algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
    };
    let signing_key = EncodingKey::from_secret(key.secret.expose());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &signing_key, algorithm)
        .map_err(|_| MintError::Sign)?;
    Ok(format!("{signed}.{signature}"))
}
