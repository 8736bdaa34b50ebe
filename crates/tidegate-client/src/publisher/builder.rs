//! How a publisher is configured, and its start.

use std::{sync::Arc, time::Duration};

use reqwest::header::HeaderValue;
use tidegate_protocol::OrgId;

use super::{
    driver::{Hooks, Setup},
    handle::{Publisher, Room},
    outcome::Outcome,
    queue::Limits,
};
use crate::{
    ConfigError,
    builder::base,
    gateway::{self, Gateway},
};

/// As many orgs as a gateway takes in one request by default.
const ORGS: usize = 100;

/// Configures a publisher; [`Builder::build`] starts it.
#[must_use = "build() starts the publisher"]
pub struct Builder {
    url: String,
    key: String,
    org: Option<String>,
    limits: Limits,
    room: Room,
    retry_for: Duration,
    request_timeout: Duration,
    dedup_window: Duration,
    certificates: Vec<reqwest::Certificate>,
    hooks: Hooks,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("url", &self.url).field("org", &self.org).finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new(url: String, key: String) -> Self {
        Self {
            url,
            key,
            org: None,
            limits: Limits { events: 100, bytes: 512 << 10, orgs: ORGS, delay_ms: 5 },
            room: Room { events: 10_000, bytes: 64 << 20 },
            retry_for: Duration::from_secs(240),
            request_timeout: Duration::from_secs(30),
            dedup_window: Duration::from_secs(300),
            certificates: Vec::new(),
            hooks: Hooks::default(),
        }
    }

    /// The org of all events. Without it each event names its own ([`super::NewEvent::org`]).
    pub fn org(mut self, org: impl Into<String>) -> Self {
        self.org = Some(org.into());
        self
    }

    /// The events in one request, and the bytes of its body; an event that is longer is sent alone. Default:
    /// 100 events, 512 KiB.
    pub fn batch(mut self, events: usize, bytes: usize) -> Self {
        (self.limits.events, self.limits.bytes) = (events.max(1), bytes.max(1));
        self
    }

    /// How long an event waits for others to share its request. Default: 5 ms.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.limits.delay_ms = tidegate_protocol::time::millis(delay);
        self
    }

    /// How many events, and how many bytes of them, may be without an outcome. If there are so many,
    /// [`Publisher::send`] waits. Default: 10,000 events, 64 MiB.
    pub fn queue(mut self, events: usize, bytes: usize) -> Self {
        self.room = Room { events: events.max(1), bytes: bytes.max(1) };
        self
    }

    /// How long an event is tried after it was accepted. Default: 4 minutes. With the time of one request it must
    /// be less than [`Builder::dedup_window`].
    pub fn retry_for(mut self, time: Duration) -> Self {
        self.retry_for = time;
        self
    }

    /// How long one request may take. Default: 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The gateway's `dedup.window`: how long it remembers the id of an event. Default: 5 minutes, as in the gateway.
    /// A retry after that could store the event a second time, so [`Builder::build`] refuses times of
    /// [`Builder::retry_for`] and [`Builder::request_timeout`] that are not shorter together. Give a longer one only
    /// if the gateway has it.
    pub fn dedup_window(mut self, window: Duration) -> Self {
        self.dedup_window = window;
        self
    }

    /// Trusts these certificates, too, beside those of the system.
    pub fn root_certificates(mut self, certificates: impl IntoIterator<Item = reqwest::Certificate>) -> Self {
        self.certificates.extend(certificates);
        self
    }

    /// Calls `observer` with each outcome of an accepted event. It must not block.
    pub fn on_outcome(mut self, observer: impl Fn(&Outcome) + Send + Sync + 'static) -> Self {
        self.hooks.outcome = Some(Arc::new(observer));
        self
    }

    /// Calls `observer` with a sentence for each request that failed. It holds no key and no data, but it may hold
    /// the gateway's text, control characters included. It must not block.
    pub fn on_warning(mut self, observer: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.hooks.warning = Some(Arc::new(observer));
        self
    }

    /// Starts the publisher, which runs as a task of the tokio runtime.
    ///
    /// # Errors
    /// If the configuration is faulty. Whether the gateway can be reached shows later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<Publisher, ConfigError> {
        let base = base(&self.url)?;
        let org = self.org.map(|org| org.parse::<OrgId>()).transpose()?;
        let mut key = HeaderValue::try_from(format!("Bearer {}", self.key)).map_err(|_| ConfigError::Key)?;
        if self.key.is_empty() || self.key.contains(' ') {
            return Err(ConfigError::Key);
        }
        key.set_sensitive(true);
        let retry_for_ms = tidegate_protocol::time::millis(self.retry_for);
        if retry_for_ms <= self.limits.delay_ms {
            return Err(ConfigError::RetryFor);
        }
        let Self { retry_for, request_timeout, dedup_window, .. } = self;
        if retry_for.saturating_add(request_timeout) >= dedup_window {
            return Err(ConfigError::DedupWindow { retry_for, request_timeout, dedup_window });
        }
        let http =
            gateway::client().timeout(self.request_timeout).tls_certs_merge(self.certificates).build()?;
        let has_org = org.is_some();
        let url = match org {
            Some(org) => Gateway { base, org }.address("events"),
            None => {
                let mut url = base;
                if let Ok(mut path) = url.path_segments_mut() {
                    path.pop_if_empty().extend(["v1", "events"]);
                }
                url
            }
        };
        let Self { limits, hooks, room, .. } = self;
        Ok(Publisher::start(Setup { http, url, key, limits, retry_for_ms, hooks }, room, has_org))
    }
}
