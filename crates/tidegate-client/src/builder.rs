//! How a client is configured, and its start.

use std::{future::Future, sync::Arc, time::Duration};

use reqwest::Url;
use tidegate_protocol::{
    Cursor, NameError, OrgId, ServiceName,
    client::{Config, Transport},
};

use crate::{
    Client, Deliveries, Notice,
    driver::{self, Observer, Setup},
    gateway::{self, Gateway},
    queue::QueueLimits,
    random::unit,
    token::{Token, TokenError, TokenRequest, Tokens},
};

/// What the gateway does if this client does not keep up (PROTOCOL.md, "Slow readers").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slow {
    /// It sends every event, as fast as the client takes them.
    CatchUp,
    /// It continues at the head and declares a gap.
    Skip,
    /// It leaves out events that later ones with the same key supersede.
    Latest,
}

impl Slow {
    const fn name(self) -> &'static str {
        match self {
            Slow::CatchUp => "catch_up",
            Slow::Skip => "skip",
            Slow::Latest => "latest",
        }
    }
}

/// A client cannot be made like this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address.
    #[error("{url:?} is not the address of a gateway, such as https://events.example.com: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No org was named.
    #[error("the org is missing: call org(..)")]
    NoOrg,
    /// The name of the org or of a service.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No token, and no way to get one.
    #[error("the token is missing: call token(..) or static_token(..)")]
    NoToken,
    /// An empty list of transports.
    #[error("transports(..) got an empty list")]
    NoTransport,
    /// More than the gateway takes.
    #[error("tail({0}) is more than the 1,000 events that a gateway sends")]
    Tail(u32),
    /// A publisher's key.
    #[error("the key must be an API key, such as tgk_..., without spaces or line breaks")]
    Key,
    /// A publisher's events would expire before they are sent.
    #[error("retry_for(..) must be longer than delay(..)")]
    RetryFor,
    /// A publisher would retry when the gateway no longer knows the id of the event.
    #[error(
        "retry_for({retry_for:?}) and request_timeout({request_timeout:?}) together must be less than \
         dedup_window({dedup_window:?}), or a retry could store an event twice"
    )]
    DedupWindow {
        /// How long an event is tried.
        retry_for: Duration,
        /// How long one request may take.
        request_timeout: Duration,
        /// How long the gateway remembers ids.
        dedup_window: Duration,
    },
    /// The certificates or the TLS library.
    #[error("set up HTTP and TLS: {0}")]
    Http(#[from] reqwest::Error),
}

/// Configures a client; [`Builder::connect`] starts it.
#[must_use = "connect() starts the client"]
pub struct Builder {
    url: String,
    org: Option<String>,
    services: Vec<String>,
    tokens: Option<Tokens>,
    session: Config,
    slow: Option<Slow>,
    health: f64,
    certificates: Vec<reqwest::Certificate>,
    limits: QueueLimits,
    observer: Option<Observer>,
    is_impatient: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("url", &self.url).field("org", &self.org).finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            org: None,
            services: Vec::new(),
            tokens: None,
            session: Config::default(),
            slow: None,
            health: 0.0,
            certificates: Vec::new(),
            limits: QueueLimits::default(),
            observer: None,
            is_impatient: false,
        }
    }

    /// The org whose events to follow. Required.
    pub fn org(mut self, org: impl Into<String>) -> Self {
        self.org = Some(org.into());
        self
    }

    /// The services to see. Default: all that the token allows.
    pub fn services<S: Into<String>>(mut self, services: impl IntoIterator<Item = S>) -> Self {
        self.services = services.into_iter().map(Into::into).collect();
        self
    }

    /// Where tokens come from: called for the first one, after one has expired, and in time for a renewal. It is
    /// one call at a time; one that takes longer than 15 s is dropped, and made again later.
    pub fn token<F, A, T>(mut self, callback: F) -> Self
    where
        F: Fn(TokenRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, TokenError>> + Send + 'static,
        T: Into<Token>,
    {
        self.tokens = Some(Tokens::callback(callback));
        self
    }

    /// One token for the client's whole life: the client ends when the token has expired.
    pub fn static_token(mut self, token: impl Into<Token>) -> Self {
        self.tokens = Some(Tokens::Static(token.into()));
        self
    }

    /// Begin after this position, which an earlier client kept. Default: at the end of the log.
    pub fn cursor(mut self, cursor: impl Into<Option<Cursor>>) -> Self {
        self.session.cursor = cursor.into().map(|cursor| cursor.to_string());
        self
    }

    /// Without a cursor: begin with the last events, at most so many (1,000).
    pub fn tail(mut self, events: impl Into<Option<u32>>) -> Self {
        self.session.tail = events.into();
        self
    }

    /// What the gateway does if this client does not keep up. Default: [`Slow::CatchUp`].
    pub fn slow(mut self, policy: Slow) -> Self {
        self.slow = Some(policy);
        self
    }

    /// The transports, the preferred one first. Default: WebSocket, then SSE if WebSocket does not get through.
    pub fn transports(mut self, transports: impl IntoIterator<Item = Transport>) -> Self {
        self.session.transports = transports.into_iter().collect();
        self
    }

    /// Whether gaps of [`Slow::Skip`] are filled from history before later events are delivered.
    /// Default: false.
    pub fn fill(mut self, fill: bool) -> Self {
        self.session.fill = fill;
        self
    }

    /// The share of clients, from 0 to 1, that report their health to the gateway. This client draws once
    /// whether it is one of them. Default: 0.
    pub fn health(mut self, sample: f64) -> Self {
        self.health = sample;
        self
    }

    /// Trusts these certificates, too, beside those of the system.
    pub fn root_certificates(mut self, certificates: impl IntoIterator<Item = reqwest::Certificate>) -> Self {
        self.certificates.extend(certificates);
        self
    }

    /// How many items, and how many bytes of them, may wait for the application before the connection is no
    /// longer read. Default: 1,000 items, 8 MiB.
    pub fn buffer(mut self, items: usize, bytes: usize) -> Self {
        self.limits = QueueLimits { items: items.max(1), bytes: bytes.max(1) };
        self
    }

    /// Calls `observer` for everything that is worth a line in a log. It must not block.
    pub fn on_notice(mut self, observer: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// A person is waiting: the first two delays come from the short end of their windows. Programs that run
    /// in many places must not set it, because they would return together. Default: false.
    pub fn impatient(mut self, is_impatient: bool) -> Self {
        self.is_impatient = is_impatient;
        self
    }

    /// Starts the client. It runs as a task of the tokio runtime until [`Deliveries`] is dropped, until
    /// [`Client::shutdown`], or until it ends with an error.
    ///
    /// # Errors
    /// If the configuration is faulty. Whether the gateway can be reached shows later.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(self) -> Result<(Client, Deliveries), ConfigError> {
        let base = base(&self.url)?;
        let org: OrgId = self.org.ok_or(ConfigError::NoOrg)?.parse()?;
        for service in &self.services {
            service.parse::<ServiceName>()?;
        }
        let tokens = self.tokens.ok_or(ConfigError::NoToken)?;
        if self.session.transports.is_empty() {
            return Err(ConfigError::NoTransport);
        }
        if let Some(tail) = self.session.tail.filter(|tail| *tail > 1000) {
            return Err(ConfigError::Tail(tail));
        }
        // Streams need HTTP/1.1: a WebSocket cannot be opened over HTTP/2 here.
        let http = gateway::client().http1_only().tls_certs_merge(self.certificates).build()?;
        let config = Config { health: unit() < self.health, ..self.session };
        Ok(driver::start(Setup {
            http,
            gateway: Gateway { base, org },
            services: (!self.services.is_empty()).then(|| self.services.join(",")),
            slow: self.slow.map(|slow| slow.name().to_owned()),
            tokens,
            config,
            limits: self.limits,
            observer: self.observer,
            is_impatient: self.is_impatient,
        }))
    }
}

/// The gateway's address. `ws` and `wss` are other names of `http` and `https`.
pub(crate) fn base(url: &str) -> Result<Url, ConfigError> {
    let faulty = |why| ConfigError::Url { url: url.to_owned(), why };
    let mut base = Url::parse(url).map_err(|_| faulty("it is no URL"))?;
    let scheme = match base.scheme() {
        "http" | "ws" => "http",
        "https" | "wss" => "https",
        _ => return Err(faulty("it must begin with https, http, wss or ws")),
    };
    // Both names have the same default port.
    base.set_scheme(scheme).map_err(|()| faulty("it must begin with https, http, wss or ws"))?;
    if !base.username().is_empty() || base.password().is_some() {
        return Err(ConfigError::Url {
            url: "the address".to_owned(),
            why: "it must have no credentials in it",
        });
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(faulty("it must have no query and no fragment"));
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_of_either_family_and_keeps_its_path() {
        for (given, taken) in [
            ("https://events.example.com", "https://events.example.com/"),
            ("wss://events.example.com/tide", "https://events.example.com/tide"),
            ("ws://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ] {
            assert_eq!(base(given).expect(given).as_str(), taken);
        }
        for (given, why) in [
            ("events.example.com", "it is no URL"),
            ("ftp://events.example.com", "must begin with https"),
            ("https://me:secret@events.example.com", "no credentials"),
            ("https://events.example.com/?token=secret", "no query"),
        ] {
            let error = base(given).expect_err(given).to_string();
            assert!(error.contains(why), "{error}");
        }
        let error = base("https://me:secret@events.example.com").expect_err("credentials").to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let client = || Builder::new("http://127.0.0.1:1".to_owned());
        for (builder, says) in [
            (client().static_token("t"), "the org is missing"),
            (client().org("acme"), "the token is missing"),
            (client().org("a/b").static_token("t"), "org must be"),
            (client().org("acme").services(["", "b"]).static_token("t"), "service must be"),
            (client().org("acme").transports([]).static_token("t"), "an empty list"),
            (client().org("acme").tail(1001).static_token("t"), "tail(1001)"),
        ] {
            let error = builder.connect().expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
