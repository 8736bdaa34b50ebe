//! The errors of the node's parts as refusals that go to a peer, and the key of the bound that each is for.

use tidegate_core::publish::Bound;
use tidegate_engine::{AppendError, ReadError};
use tidegate_protocol::{Code, Refusal};

use crate::{
    auth,
    config::{ConfigKey, config_key},
};

/// Names the bound that a refusal is for. Nothing else in the server sets [`Refusal::limit`], so what it
/// names is always a key of the configuration.
pub trait LimitedBy {
    /// The same refusal, for being over `limit`.
    fn limited_by(self, limit: impl Into<Option<ConfigKey>>) -> Self;
}

impl LimitedBy for Refusal {
    fn limited_by(self, limit: impl Into<Option<ConfigKey>>) -> Self {
        Self { limit: limit.into().map(ConfigKey::name), ..self }
    }
}

/// The key of a bound of a publish request.
pub fn key_of(bound: Bound) -> ConfigKey {
    match bound {
        Bound::EventBytes => config_key!(limits.event_bytes),
        Bound::Events => config_key!(limits.events_per_batch),
        Bound::Orgs => config_key!(limits.orgs_per_batch),
        Bound::Depth => config_key!(limits.json_depth),
        Bound::Users => config_key!(limits.users_per_event),
    }
}

/// The key of the bound that an append is over, if that is why it failed.
pub fn bound_of(error: &AppendError) -> Option<ConfigKey> {
    match error {
        AppendError::DedupFull => Some(config_key!(dedup.max_entries)),
        AppendError::OrgDedupFull => Some(config_key!(dedup.max_entries_per_org)),
        AppendError::TooManyWaiting => Some(config_key!(limits.publishes_in_flight)),
        AppendError::TooMuchWaiting => Some(config_key!(limits.publish_queue_bytes)),
        AppendError::TooManyOrgs => Some(config_key!(limits.orgs)),
        AppendError::OrgLogFull => Some(config_key!(log.max_bytes)),
        AppendError::IdConflict { .. }
        | AppendError::RequestConflict { .. }
        | AppendError::LogFull
        | AppendError::Halted
        | AppendError::SeqsUsedUp
        | AppendError::Unknown => None,
    }
}

/// A refusal of the auth module, as every transport writes it.
pub fn refused(refusal: auth::AuthError) -> Refusal {
    let written = Refusal::new(refusal.code, refusal.message);
    match refusal.retry_in_ms {
        Some(millis) => written.retry_in(millis),
        None => written,
    }
}

/// The refusal of a page whose log cannot be opened.
pub fn no_page(error: &AppendError) -> Refusal {
    match error {
        AppendError::LogFull => {
            let message = "the log has no room to open this org, which nobody has used since the start";
            Refusal::new(Code::LogFull, message).retry_in(5_000)
        }
        error => no_stream(error),
    }
}

/// The refusal of a stream whose log cannot be opened: always a code that a stream can end with.
pub fn no_stream(error: &AppendError) -> Refusal {
    match error {
        AppendError::TooManyOrgs => {
            Refusal::new(Code::Overloaded, "the gateway holds as many orgs as it may")
                .limited_by(config_key!(limits.orgs))
                .retry_in(60_000)
        }
        error => {
            let message = format!("the log cannot be opened now: {error}");
            Refusal::new(Code::Overloaded, message).limited_by(bound_of(error)).retry_in(5_000)
        }
    }
}

/// The refusal of a request whose log cannot be read.
pub fn unreadable(error: ReadError) -> Refusal {
    match error {
        ReadError::NoLog => log_gone(),
        ReadError::Store(_) => {
            tracing::error!(%error, "read for a stream");
            Refusal::new(Code::Internal, "the log cannot be read")
        }
    }
}

/// The refusal of a request whose log was deleted meanwhile: another one may be there when the client comes back.
pub fn log_gone() -> Refusal {
    Refusal::new(Code::Internal, "the log of this org was deleted meanwhile; come back")
}

/// The end of an open stream whose log cannot be read. No engine forgets a log that has readers, so a log that
/// is gone was deleted.
pub fn unreadable_for_stream(error: ReadError) -> Refusal {
    match error {
        ReadError::NoLog => org_deleted(),
        ReadError::Store(_) => unreadable(error),
    }
}

/// The end of an open stream whose org an operator has deleted.
pub fn org_deleted() -> Refusal {
    Refusal::new(Code::Revoked, "an operator has deleted this org and its events")
}
