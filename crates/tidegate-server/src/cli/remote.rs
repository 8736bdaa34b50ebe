//! The arguments that `publish` and `tail` share (which gateway, whose credentials), and how both run.

use std::{future::Future, path::PathBuf};

use clap::Args;
use reqwest::Url;
use tidegate_client::gateway::{self, Gateway};
use tidegate_protocol::OrgId;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, steers};
use crate::dev::{DEFAULT_DIR, Saved};

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
    pub(super) gateway: Gateway,
    /// The saved credentials of the development directory, if this is its gateway.
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
        // Saved credentials are for the development gateway: no other host gets them.
        let saved = saved.filter(|_| is_loopback(&base));
        let org = self.org.clone().or_else(|| Some(saved.as_ref()?.org.clone()));
        let org =
            org.ok_or_else(|| Failure::Usage("--org (or TIDEGATE_ORG) must name the org".to_owned()))?;
        Ok(Remote { gateway: Gateway { base, org }, saved })
    }
}

/// An HTTP client.
pub(super) fn client() -> Result<reqwest::Client, Failure> {
    gateway::client().build().map_err(|error| Failure::Failed(format!("set up the HTTP client: {error}")))
}

/// Runs an asynchronous command until it is done, or is interrupted by Ctrl-C or SIGTERM. What it has started
/// ends with it.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| Failure::Failed(format!("listen for SIGTERM: {error}")))?;
        tokio::select! {
            done = work => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
            _ = terminate.recv() => Err(Failure::Interrupted),
        }
    })
}

/// `text` on one line, without characters that steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}
