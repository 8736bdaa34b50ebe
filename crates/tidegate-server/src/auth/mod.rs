//! Who may read and who may publish: credentials in, grants out.
//!
//! A grant is a value that only this module makes. Handlers take one as an argument, so code that forgets to
//! check does not compile. How credentials travel (headers, first frames, subprotocols) and how refusals are
//! sent is not here but with the transports.

mod claims;
mod fetch;
mod issuer;
mod jwks;
#[cfg(test)]
mod jwks_tests;
mod key_set;
mod key_source;
mod keys_file;
#[cfg(test)]
mod keys_tests;
mod mint;
mod orgs;
mod publishers;
mod reserve;
mod token;
#[cfg(test)]
mod token_tests;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use tidegate_protocol::{Code, Filter, OrgId, ServiceName, UnixMillis, UserId};

pub(crate) use keys_file::replace as replace_file;
pub use keys_file::{ForgottenOrg, KeyEntry, KeysFile, KeysFileError, NewKey};
pub use mint::{MintError, TokenClaims, mint};
pub use orgs::Orgs;
pub use publishers::Publishers;
pub use token::{Inspection, TokenVerifier};

/// Why credentials were refused: a code of the table and one sentence that is safe to send to the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AuthError {
    /// `unauthorized`, `token_expired` or `forbidden`; `overloaded` if the keys are not available.
    pub code: Code,
    /// What is wrong. It never contains a secret or a token.
    pub message: Cow<'static, str>,
    /// When a retry is worth it, if that is known.
    pub retry_in_ms: Option<u64>,
}

impl AuthError {
    fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Unauthorized, message: message.into(), retry_in_ms: None }
    }

    fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Code::Forbidden, message: message.into(), retry_in_ms: None }
    }
}

/// What a subscriber's token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamGrant {
    org: OrgId,
    user: UserId,
    filter: Filter,
    expires_at: UnixMillis,
}

impl StreamGrant {
    /// The org whose stream may be read.
    pub fn org(&self) -> &OrgId {
        &self.org
    }

    /// Who reads.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The services that may be seen.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// When the grant ends: the token's `exp` plus the leeway.
    pub fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// Checks that the stream of `org` may be read.
    pub fn check_org(&self, org: &OrgId) -> Result<(), AuthError> {
        if self.org == *org { Ok(()) } else { Err(AuthError::forbidden("the token is for another org")) }
    }

    /// The filter of a stream that asks for `services`, or for everything that the grant allows.
    pub fn filter_for(&self, services: Option<BTreeSet<ServiceName>>) -> Result<Filter, AuthError> {
        let Some(services) = services else {
            return Ok(self.filter.clone());
        };
        match services.iter().find(|service| !self.filter.admits(service)) {
            Some(service) => {
                Err(AuthError::forbidden(format!("the token does not cover the service {service}")))
            }
            None => Ok(Filter::only(services)),
        }
    }
}

/// What a publisher's API key allows: to publish to some orgs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    orgs: Arc<Orgs>,
    services: Filter,
    key_id: Arc<str>,
}

impl KeyGrant {
    /// The key's id, for rates and logs.
    pub fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// The grant to publish to `org`.
    pub fn for_org(&self, org: &OrgId) -> Result<PublishGrant, AuthError> {
        if !self.orgs.covers(org) {
            return Err(AuthError::forbidden(format!("the API key does not cover the org {org}")));
        }
        let (services, key_id) = (self.services.clone(), self.key_id.clone());
        Ok(PublishGrant { org: org.clone(), services, key_id })
    }
}

/// The right to publish to one org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishGrant {
    org: OrgId,
    services: Filter,
    key_id: Arc<str>,
}

impl PublishGrant {
    /// The org whose log may be written.
    pub fn org(&self) -> &OrgId {
        &self.org
    }

    /// The services that may be published to.
    pub fn services(&self) -> &Filter {
        &self.services
    }

    /// The key's id, for rates and logs.
    pub fn key_id(&self) -> &Arc<str> {
        &self.key_id
    }

    /// Checks that events of `service` may be published.
    pub fn check(&self, service: &ServiceName) -> Result<(), AuthError> {
        if self.services.admits(service) {
            Ok(())
        } else {
            Err(AuthError::forbidden(format!("the API key does not cover the service {service}")))
        }
    }
}

/// Reads `["*"]` or a list of service names. The error continues a sentence that begins with the field's
/// name.
pub fn parse_services<'a>(names: impl Iterator<Item = &'a str>) -> Result<Filter, String> {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => Err("is empty, which grants nothing".to_owned()),
        ["*"] => Ok(Filter::all()),
        names if names.contains(&"*") => Err("has \"*\" beside other names; it must stand alone".to_owned()),
        names => names
            .iter()
            .map(|name| ServiceName::parse(name).map_err(|error| format!("has a faulty name: {error}")))
            .collect::<Result<BTreeSet<_>, _>>()
            .map(Filter::only),
    }
}
