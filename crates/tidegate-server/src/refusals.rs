//! The errors of the node's parts, in the words of the wire.

use tidegate_engine::{AppendError, ReadError};
use tidegate_protocol::{Code, Refusal};

use crate::auth;

/// The auth module's no, in the words of every transport.
pub fn refused(refusal: auth::Refusal) -> Refusal {
    let told = Refusal::new(refusal.code, refusal.message);
    match refusal.retry_in_ms {
        Some(millis) => told.retry_in(millis),
        None => told,
    }
}

/// A log that cannot be opened, in the words of a stream.
pub fn no_log(error: &AppendError) -> Refusal {
    match error {
        AppendError::TooManyOrgs => {
            Refusal::new(Code::Overloaded, "the gateway holds as many orgs as it may")
                .limited_by("limits.orgs")
                .retry_in(60_000)
        }
        error => {
            let message = format!("the log cannot be opened now: {error}");
            Refusal { limit: error.limit(), ..Refusal::new(Code::Overloaded, message).retry_in(5_000) }
        }
    }
}

/// A log that cannot be read, in the words of a stream.
pub fn unreadable(error: ReadError) -> Refusal {
    tracing::error!(%error, "read for a stream");
    match error {
        ReadError::NoLog => Refusal::new(Code::Internal, "the log of this org is gone; come back"),
        ReadError::Store(_) => Refusal::new(Code::Internal, "the log cannot be read"),
    }
}
