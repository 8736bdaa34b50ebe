//! One request for a key set: to the configured address only, with bounds on time and bytes.

use std::time::Duration;

use super::jwks::{self, Read};
use crate::{
    config::{JwksUrl, JwtAlgorithm},
    metrics::JwksOutcome,
};

/// The longest key set that is read. Real ones have a few KiB.
const BYTES_MAX: usize = 1 << 20;

/// Why a key set could not be fetched.
#[derive(Debug)]
pub(super) struct FetchError {
    pub(super) outcome: JwksOutcome,
    pub(super) reason: String,
}

impl FetchError {
    fn new(outcome: JwksOutcome, reason: impl Into<String>) -> Self {
        Self { outcome, reason: reason.into() }
    }
}

/// A client for one issuer's key set.
pub(super) struct Fetch {
    client: Option<reqwest::Client>,
    url: JwksUrl,
    algorithms: Vec<JwtAlgorithm>,
    timeout: Duration,
}

impl Fetch {
    pub(super) fn new(url: JwksUrl, algorithms: Vec<JwtAlgorithm>, timeout: Duration) -> Self {
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            // A redirect would lead to an address that is not configured.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            // There is one request in ten minutes; a connection kept open for that long would only break.
            .pool_max_idle_per_host(0);
        // Uses the environment's proxy if one is set, because some networks have no other way out; TLS goes
        // through it end to end. Hosts on this machine need no proxy.
        client = if url.is_loopback() { client.no_proxy() } else { client.https_only(true) };
        let client = client.build().inspect_err(|error| tracing::error!(%error, "make an HTTP client")).ok();
        Self { client, url, algorithms, timeout }
    }

    /// Fetches the set.
    pub(super) async fn fetch(&self) -> Result<Read, FetchError> {
        // The client's own timeout covers everything; this one is a safeguard.
        match tokio::time::timeout(self.timeout, self.get()).await {
            Ok(body) => jwks::read(&body?, &self.algorithms)
                .map_err(|reason| FetchError::new(JwksOutcome::Malformed, reason)),
            Err(_) => Err(FetchError::new(JwksOutcome::Timeout, "it took longer than auth.jwks_timeout")),
        }
    }

    async fn get(&self) -> Result<Vec<u8>, FetchError> {
        let failed = |error: reqwest::Error| {
            let outcome = if error.is_timeout() { JwksOutcome::Timeout } else { JwksOutcome::Unreachable };
            FetchError::new(outcome, chain(&error.without_url()))
        };
        let no_client = || FetchError::new(JwksOutcome::Unreachable, "no HTTP client could be made");
        let client = self.client.as_ref().ok_or_else(no_client)?;
        let request = client
            .get(self.url.url().clone())
            .header(http::header::ACCEPT, "application/jwk-set+json, application/json")
            // No content codings, because a small body could become a large one in memory.
            .header(http::header::ACCEPT_ENCODING, "identity");
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        if status.is_redirection() {
            let reason = format!("the answer is a redirect ({status}), which is not followed");
            return Err(FetchError::new(JwksOutcome::Redirect, reason));
        }
        if status != http::StatusCode::OK {
            return Err(FetchError::new(JwksOutcome::Status, format!("the answer is {status}")));
        }
        if response.headers().get(http::header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err(FetchError::new(JwksOutcome::Malformed, "it came with a Content-Encoding"));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > BYTES_MAX {
                return Err(FetchError::new(JwksOutcome::TooLarge, "it is longer than 1MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// An error with all its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
