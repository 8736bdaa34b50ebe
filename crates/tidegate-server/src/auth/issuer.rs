//! An issuer: its keys, its audiences, and the orgs that it may speak for.

use std::sync::Arc;

use serde_json::Value;
use tidegate_protocol::OrgId;

use super::{
    AuthError,
    claims::Object,
    key_set::{KeySet, Naming, VerifyingKey},
    key_source::KeySource,
};
use crate::{
    config::{AuthSettings, IssuerKeys, JwtKey, OrgScope},
    metrics::Metrics,
};

enum Keys {
    Listed(Arc<KeySet>),
    Fetched(Box<KeySource>),
}

/// One issuer. Its keys are never tried for another issuer's token.
pub(super) struct Issuer {
    /// `iss`, byte for byte; `None` if it is not checked.
    name: Option<String>,
    audiences: Vec<String>,
    /// The configuration key to set for another audience.
    audience_key: &'static str,
    orgs: OrgScope,
    keys: Keys,
}

fn listed(keys: &[JwtKey]) -> Keys {
    Keys::Listed(Arc::new(KeySet::new(keys.iter().map(VerifyingKey::from).collect(), Naming::Loose)))
}

pub(super) fn not_expected() -> AuthError {
    AuthError::unauthorized("the token's `iss` is not the issuer that this gateway expects")
}

impl Issuer {
    /// All issuers of the configuration. Its short form, `auth.keys`, is one issuer that may speak for all
    /// orgs.
    pub(super) fn all(auth: &AuthSettings) -> Vec<Self> {
        let short_form = (!auth.keys.is_empty()).then(|| Self {
            name: auth.issuer.clone(),
            audiences: auth.audience.iter().cloned().collect(),
            audience_key: "auth.audience",
            orgs: OrgScope::All,
            keys: listed(&auth.keys),
        });
        let issuers = auth.issuers.iter().map(|issuer| Self {
            name: Some(issuer.name.clone()),
            audiences: issuer.audiences.clone(),
            audience_key: "`audience` in auth.issuers",
            orgs: issuer.orgs.clone(),
            keys: match &issuer.keys {
                IssuerKeys::Listed(keys) => listed(keys),
                IssuerKeys::Jwks(url) => {
                    Keys::Fetched(Box::new(KeySource::new(&issuer.name, url, &issuer.algorithms, auth)))
                }
            },
        });
        short_form.into_iter().chain(issuers).collect()
    }

    /// Its name for operators.
    pub(super) fn named(&self) -> String {
        match &self.name {
            Some(name) => format!("{name:?}"),
            None => "auth.keys".to_owned(),
        }
    }

    /// Whether it accepts tokens without looking at `iss`.
    pub(super) fn takes_any_iss(&self) -> bool {
        self.name.is_none()
    }

    /// Whether `iss` of these claims is its name, as text, byte for byte.
    pub(super) fn is_named_by(&self, claims: &Object) -> bool {
        match (&self.name, claims.get("iss")) {
            (Some(mine), Some(Value::String(theirs))) => mine == theirs,
            _ => false,
        }
    }

    pub(super) fn inherit(&self, before: &Self) {
        if let (Keys::Fetched(keys), Keys::Fetched(before)) = (&self.keys, &before.keys) {
            keys.inherit(before);
        }
    }

    pub(super) fn keep_fresh(&self, metrics: &Arc<Metrics>) {
        if let Keys::Fetched(keys) = &self.keys {
            keys.keep_fresh(metrics);
        }
    }

    /// Its keys for a token that names `kid`, fetched if needed.
    pub(super) async fn keys_for(&self, kid: Option<&str>) -> Result<Arc<KeySet>, AuthError> {
        match &self.keys {
            Keys::Listed(keys) => Ok(keys.clone()),
            Keys::Fetched(source) => source.keys_for(kid).await,
        }
    }

    /// Its keys as they are known now, without a fetch.
    pub(super) fn keys_at_hand(&self) -> Result<Arc<KeySet>, AuthError> {
        match &self.keys {
            Keys::Listed(keys) => Ok(keys.clone()),
            Keys::Fetched(source) => source.at_hand(),
        }
    }

    /// Checks that verified claims are this issuer's, and meant for this gateway.
    pub(super) fn check_claims(&self, claims: &Object) -> Result<(), AuthError> {
        if !self.takes_any_iss() && !self.is_named_by(claims) {
            return Err(not_expected());
        }
        let named: Vec<&str> = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) if many.iter().all(Value::is_string) => {
                many.iter().filter_map(Value::as_str).collect()
            }
            Some(_) => {
                return Err(AuthError::unauthorized("the token's `aud` must be text or a list of texts"));
            }
        };
        match (self.audiences.as_slice(), named.as_slice()) {
            ([], []) => Ok(()),
            // RFC 7519 4.1.3: a token with an audience is refused by everybody who is not in it.
            ([], _) => Err(AuthError::unauthorized(format!(
                "the token names an audience (`aud`) and this gateway has none set ({})",
                self.audience_key
            ))),
            (mine, theirs) if mine.iter().any(|mine| theirs.contains(&mine.as_str())) => Ok(()),
            _ => Err(AuthError::unauthorized("the token's `aud` does not name this gateway")),
        }
    }

    /// Checks that it may speak for `org`.
    pub(super) fn check_org(&self, org: &OrgId) -> Result<(), AuthError> {
        if self.orgs.admits(org) {
            Ok(())
        } else {
            Err(AuthError::forbidden("the token's issuer may not speak for the org that it names"))
        }
    }
}
