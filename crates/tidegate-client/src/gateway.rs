//! A gateway as its HTTP clients see it: an address, answers that refuse, errors of the transport. For the
//! streams and the publisher of this crate, and for the commands of `tidegate` that talk to a gateway.

use std::{fmt, time::Duration};

use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tidegate_protocol::{OrgId, client::Backoff, time::millis};

use crate::random::random;

/// One org at a gateway.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The gateway's address; a path in it is kept.
    pub base: Url,
    /// The org.
    pub org: OrgId,
}

impl Gateway {
    /// `/v1/orgs/{org}/{resource}` at the gateway.
    pub fn address(&self, resource: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "orgs", self.org.as_str(), resource]);
        }
        url
    }
}

/// An HTTP client, to be built. It follows no redirects, which could carry credentials to another host.
pub fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
}

/// A refusal as the gateway sends it (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    title: Option<String>,
    detail: Option<String>,
    /// The code of the table.
    pub code: Option<String>,
    retry_in_ms: Option<u64>,
    /// The fields at fault, if the code is `invalid`.
    pub errors: Vec<FieldError>,
}

/// One field of a request that is at fault.
#[derive(Debug, Deserialize)]
pub struct FieldError {
    /// Where the field is (RFC 6901).
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// An answer that is not a success. Displayed, it is the gateway's sentence or else the bare status:
/// text of the peer, which may hold control characters.
#[derive(Debug)]
pub struct Refused {
    /// The HTTP status.
    pub status: StatusCode,
    /// How long to wait before the next attempt, if the gateway said.
    pub retry_after: Option<Duration>,
    /// The body.
    pub problem: Problem,
}

/// A gateway's refusal is a page at most. A longer body is read no further.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

impl Refused {
    /// Reads the refusal out of `response`.
    pub async fn read(mut response: Response) -> Self {
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            if body.len() + chunk.len() > REFUSAL_BYTES_MAX {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        let problem = serde_json::from_slice(&body).unwrap_or_default();
        Self { status, retry_after, problem }
    }

    /// How long to wait before the next attempt, if the gateway said: in the header or in the problem.
    pub fn retry_in(&self) -> Option<Duration> {
        self.retry_after.max(self.problem.retry_in_ms.map(Duration::from_millis))
    }

    /// The gateway's sentence; empty if it sent none.
    pub fn sentence(&self) -> String {
        let Problem { title, detail, .. } = &self.problem;
        detail.as_ref().or(title.as_ref()).cloned().unwrap_or_default()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { title, detail, code, .. } = &self.problem;
        let name = code.clone().unwrap_or_else(|| self.status.to_string());
        match detail.as_ref().or(title.as_ref()) {
            Some(sentence) => write!(f, "{name}: {sentence}"),
            None => write!(f, "the gateway answered {name}"),
        }
    }
}

/// An error of the HTTP client as a sentence: what failed, and the first cause. It leaves out the
/// address, which may carry a token.
pub fn transport(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if error.is_timeout() {
        "the gateway does not answer in time".to_owned()
    } else if error.is_connect() {
        format!("cannot reach the gateway: {cause}")
    } else {
        format!("the connection was cut: {cause}")
    }
}

/// The delay before the next attempt; never less than `asked`, the gateway's minimum. The first two
/// delays come from the short end of their window, because a person is waiting.
pub fn delay(backoff: &mut Backoff, asked: Option<Duration>) -> Duration {
    let random = if backoff.attempts() < 2 { random() >> 4 } else { random() };
    let asked = asked.map(|asked| millis(asked.min(Duration::from_secs(3600))));
    Duration::from_millis(backoff.next_ms(random, asked))
}
