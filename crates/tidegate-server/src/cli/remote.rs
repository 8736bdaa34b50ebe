//! What `publish` and `tail` share: which gateway, whose credentials, how it says no, when to retry.

use std::{future::Future, path::PathBuf, time::Duration};

use clap::Args;
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tidegate_protocol::{OrgId, client::Backoff, time::millis};

use super::Failure;
use crate::{
    dev::{DEFAULT_DIR, Saved},
    random::random,
};

/// Which gateway.
#[derive(Debug, Clone, Args)]
pub(super) struct RemoteArgs {
    /// The gateway's address [default: the running `tidegate dev`, else http://127.0.0.1:8080]
    #[arg(long, env = "TIDEGATE_URL")]
    url: Option<String>,
    /// The org [default: the one of `tidegate dev`]
    #[arg(long, env = "TIDEGATE_ORG")]
    org: Option<OrgId>,
    /// The directory of `tidegate dev`
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    data_dir: PathBuf,
}

/// A gateway and an org on it.
#[derive(Debug)]
pub(super) struct Remote {
    base: Url,
    pub(super) org: OrgId,
    /// What the development directory keeps, if this is its gateway.
    pub(super) saved: Option<Saved>,
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl RemoteArgs {
    pub(super) fn resolve(&self) -> Result<Remote, Failure> {
        let saved = Saved::find(&self.data_dir).map_err(Failure::usage)?;
        let address = self.url.clone().or_else(|| saved.as_ref()?.url.clone());
        let address = address.unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
        let base = Url::parse(&address)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = base.ok_or_else(|| {
            Failure::Usage(format!("--url: {address:?} is not an address such as https://events.example.com"))
        })?;
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(Failure::Usage("--url must have no credentials and no query in it".to_owned()));
        }
        // What is saved is for the development gateway; no other host is shown it.
        let saved = saved.filter(|_| is_loopback(&base));
        let org = self.org.clone().or_else(|| Some(saved.as_ref()?.org.clone()));
        let org =
            org.ok_or_else(|| Failure::Usage("--org (or TIDEGATE_ORG) must name the org".to_owned()))?;
        Ok(Remote { base, org, saved })
    }
}

impl Remote {
    /// `/v1/orgs/{org}/{what}` at the gateway.
    pub(super) fn address(&self, what: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", "orgs", self.org.as_str(), what]);
        }
        url
    }
}

/// An HTTP client. Redirects are not followed: they would carry credentials to who knows whom.
pub(super) fn client() -> Result<reqwest::Client, Failure> {
    reqwest::Client::builder()
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Failure::Failed(format!("set up the HTTP client: {error}")))
}

/// Runs a command that waits, until it is done or the user interrupts it.
pub(super) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    })
}

/// A refusal as the gateway sends it (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) title: Option<String>,
    pub(super) detail: Option<String>,
    pub(super) code: Option<String>,
    pub(super) errors: Vec<FieldError>,
}

/// One faulty field of a request.
#[derive(Debug, Deserialize)]
pub(super) struct FieldError {
    pub(super) pointer: String,
    pub(super) detail: String,
}

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) problem: Problem,
}

/// A refusal is a page at most; more than that is no gateway's.
const LONGEST_PROBLEM: usize = 1 << 20;

impl Refused {
    /// Reads the refusal out of `response`.
    pub(super) async fn read(mut response: Response) -> Self {
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            if body.len() + chunk.len() > LONGEST_PROBLEM {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        let problem = serde_json::from_slice(&body).unwrap_or_default();
        Self { status, retry_after, problem }
    }

    /// The gateway's sentence, or the bare status.
    pub(super) fn sentence(&self) -> String {
        let Problem { title, detail, code, .. } = &self.problem;
        let said = detail.as_ref().or(title.as_ref());
        let name = code.clone().unwrap_or_else(|| self.status.to_string());
        match said {
            // Shown on a terminal, so nothing in it may steer one.
            Some(said) => format!("{}: {}", printable(&name), printable(said)),
            None => format!("the gateway answered {}", printable(&name)),
        }
    }
}

/// `text` without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An error of the HTTP client as a person would say it: what went wrong, and its first cause. Without
/// the address, which may carry a token.
pub(super) fn transport(error: reqwest::Error) -> String {
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

/// The delay before the next try of a command. A person waits at the first ones, which are therefore
/// drawn from the near end of their window.
pub(super) fn delay(backoff: &mut Backoff, asked: Option<Duration>) -> Duration {
    let random = if backoff.attempts() < 2 { random() >> 4 } else { random() };
    let asked = asked.map(|asked| millis(asked.min(Duration::from_secs(3600))));
    Duration::from_millis(backoff.next_ms(random, asked))
}
