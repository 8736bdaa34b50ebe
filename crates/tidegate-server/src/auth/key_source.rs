//! The keys of an issuer that publishes them: one task keeps them fresh, tokens wait for it.
//!
//! The task is the only one that fetches, so there is one request at a time however many tokens wait. It
//! fetches at the start, every `auth.jwks_refresh`, and when a token names an unknown key, but not more often
//! than every `auth.jwks_cooldown`. If a fetch fails, the keys stay valid for `auth.jwks_stale_if_error`.
//! After that there are none, and tokens are refused with a code that asks for a retry.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;
use tidegate_protocol::Code;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use super::{AuthError, fetch::Fetch, jwks::Read, key_set::KeySet};
use crate::{
    config::{AuthSettings, JwksUrl, JwtAlgorithm},
    metrics::{JwksOutcome, Metrics},
    random::random,
};

/// How many names of keys that no set had are remembered. Names over that are forgotten, and fetched for
/// again.
const ABSENT_MAX: usize = 256;

/// How much longer than a fetch may take its tokens wait for it.
const WAIT_GRACE: Duration = Duration::from_millis(500);

/// The delays after failed fetches.
const BACKOFF: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// The keys of the last good fetch.
#[derive(Clone)]
struct Known {
    keys: Arc<KeySet>,
    /// When the fetch began: keys that were withdrawn after that are not known to be.
    fetched: Instant,
    /// The keys are valid until then without another fetch.
    good_until: Instant,
}

#[derive(Clone)]
struct State {
    known: Option<Known>,
    /// How many fetches have ended, successful or not.
    fetches: u64,
    is_fetching: bool,
    /// The earliest time at which a token may cause the next fetch.
    asks_from: Instant,
    /// The time of the next regular fetch.
    next: Instant,
}

/// Names that tokens gave and no key has.
#[derive(Default)]
struct Missing {
    /// Asked for since the last fetch began; the next set may have them.
    asked: HashSet<String>,
    /// Asked for before a fetch that did not have them.
    absent: HashSet<String>,
}

struct Shared {
    state: watch::Sender<State>,
    missing: Mutex<Missing>,
    asks: Notify,
}

/// The key set of one issuer.
pub(super) struct KeySource {
    shared: Arc<Shared>,
    issuer: String,
    url: JwksUrl,
    algorithms: Vec<JwtAlgorithm>,
    times: Times,
    task: OnceLock<AbortHandle>,
}

#[derive(Clone, Copy)]
struct Times {
    refresh: Duration,
    cooldown: Duration,
    timeout: Duration,
    stale: Duration,
}

impl Drop for KeySource {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

fn later(retry_in: Duration, message: &'static str) -> AuthError {
    let millis = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX).clamp(1000, 60_000);
    AuthError { code: Code::Overloaded, message: message.into(), retry_in_ms: Some(millis) }
}

impl KeySource {
    /// A source without keys until [`KeySource::keep_fresh`] is called.
    pub(super) fn new(issuer: &str, url: &JwksUrl, algorithms: &[JwtAlgorithm], auth: &AuthSettings) -> Self {
        let now = Instant::now();
        let state = State { known: None, fetches: 0, is_fetching: false, asks_from: now, next: now };
        let shared =
            Shared { state: watch::channel(state).0, missing: Mutex::default(), asks: Notify::new() };
        let times = Times {
            refresh: auth.jwks_refresh,
            cooldown: auth.jwks_cooldown,
            timeout: auth.jwks_timeout,
            stale: auth.jwks_stale_if_error,
        };
        Self {
            shared: Arc::new(shared),
            issuer: issuer.to_owned(),
            url: url.clone(),
            algorithms: algorithms.to_vec(),
            times,
            task: OnceLock::new(),
        }
    }

    /// Takes over the keys of the source that this one replaces, so that rereading the configuration while
    /// the issuer is away loses no keys. Only if address and algorithms are the same.
    pub(super) fn inherit(&self, before: &Self) {
        if (&self.issuer, &self.url, &self.algorithms) != (&before.issuer, &before.url, &before.algorithms) {
            return;
        }
        let mut known = before.shared.state.borrow().known.clone();
        if let Some(known) = &mut known {
            // A shorter time applies at once, a longer one to the next fetch.
            known.good_until = known.good_until.min(known.fetched + self.times.stale);
        }
        self.shared.state.send_modify(|state| state.known = known);
    }

    /// Starts the task that keeps the keys fresh, on this thread's runtime. It ends with the source.
    pub(super) fn keep_fresh(&self, metrics: &Arc<Metrics>) {
        let fetch = Fetch::new(self.url.clone(), self.algorithms.clone(), self.times.timeout);
        // Set before the task runs, so that the first tokens wait for the first answer instead of being
        // refused.
        self.shared.state.send_modify(|state| state.is_fetching = true);
        let mut keeper = Keeper {
            shared: self.shared.clone(),
            issuer: self.issuer.clone(),
            times: self.times,
            fetch,
            metrics: metrics.clone(),
            keys: Share::of(&metrics.jwks_keys),
            without_keys: Share::of(&metrics.jwks_issuers_without_keys),
            failing: Share::of(&metrics.jwks_issuers_failing),
            failures: 0,
            logged: Vec::new(),
        };
        let inherited = self.shared.state.borrow().known.as_ref().map_or(0, |known| known.keys.len());
        keeper.count(inherited);
        let _ = self.task.set(tokio::spawn(keeper.run()).abort_handle());
    }

    /// The keys that are known now.
    pub(super) fn at_hand(&self) -> Result<Arc<KeySet>, AuthError> {
        let state = self.shared.state.borrow();
        let now = Instant::now();
        match &state.known {
            Some(known) if known.good_until > now && !known.keys.is_empty() => Ok(known.keys.clone()),
            Some(known) if known.good_until > now => {
                let message = "the issuer of the token publishes no usable key; try again later";
                Err(later(state.next.saturating_duration_since(now), message))
            }
            _ => {
                let message = "the keys of the token's issuer are not available now; try again later";
                Err(later(state.next.saturating_duration_since(now), message))
            }
        }
    }

    /// The keys for a token that names `kid`, fetched if they are unknown and a fetch is allowed.
    pub(super) async fn keys_for(&self, kid: Option<&str>) -> Result<Arc<KeySet>, AuthError> {
        let known = self.at_hand();
        match (&known, kid) {
            (Ok(keys), Some(kid)) if !keys.knows(kid) => self.look_for(kid, keys).await,
            (Err(_), _) if self.next_fetch().await => self.at_hand(),
            _ => known,
        }
    }

    /// Handles a name that no key has. It is final only if a fetch that began after the name was first seen
    /// did not have it: the client of a key that was created a minute ago must be able to retry.
    async fn look_for(&self, kid: &str, keys: &Arc<KeySet>) -> Result<Arc<KeySet>, AuthError> {
        let missing = || self.shared.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing().absent.contains(kid) {
            // The key may still appear: the next allowed fetch looks for it.
            self.shared.asks.notify_one();
            return Ok(keys.clone());
        }
        {
            let mut missing = missing();
            if kid.len() <= super::token::KID_MAX && missing.asked.len() < ABSENT_MAX {
                missing.asked.insert(kid.to_owned());
            }
        }
        if self.next_fetch().await {
            let keys = self.at_hand()?;
            if keys.knows(kid) || missing().absent.contains(kid) {
                return Ok(keys);
            }
        }
        // The name came after the current fetch began, or before the next one is allowed.
        self.shared.asks.notify_one();
        let wait = self.shared.state.borrow().asks_from.saturating_duration_since(Instant::now());
        Err(later(wait, "the token's `kid` names no key that is known yet; try again later"))
    }

    /// Waits for the fetch that is running, or starts one if that is allowed now. Returns whether one has
    /// ended; false also if there was none to wait for.
    async fn next_fetch(&self) -> bool {
        let mut state = self.shared.state.subscribe();
        let (before, is_fetching, asks_from) = {
            let state = state.borrow_and_update();
            (state.fetches, state.is_fetching, state.asks_from)
        };
        if !is_fetching {
            // Even if it is too early: the task then fetches as soon as it may.
            self.shared.asks.notify_one();
        }
        let is_near = is_fetching || asks_from <= Instant::now();
        if !is_near || self.task.get().is_none() {
            return false;
        }
        let ended = state.wait_for(|state| state.fetches > before);
        let ended = tokio::time::timeout(self.times.timeout + WAIT_GRACE, ended).await;
        matches!(ended, Ok(Ok(_)))
    }
}

/// The task of one source.
struct Keeper {
    shared: Arc<Shared>,
    issuer: String,
    times: Times,
    fetch: Fetch,
    metrics: Arc<Metrics>,
    keys: Share,
    without_keys: Share,
    failing: Share,
    failures: usize,
    /// The reasons that were logged last for unused keys.
    logged: Vec<String>,
}

/// What one source adds to a gauge of all sources. It is taken back when the source ends.
struct Share {
    gauge: Gauge,
    value: i64,
}

impl Share {
    fn of(gauge: &Gauge) -> Self {
        Self { gauge: gauge.clone(), value: 0 }
    }

    fn set(&mut self, value: i64) {
        self.gauge.inc_by(value - self.value);
        self.value = value;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.dec_by(self.value);
    }
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let began = Instant::now();
            self.shared.state.send_modify(|state| state.is_fetching = true);
            // Names that are asked for from here on may be newer than the answer.
            let asked = std::mem::take(&mut self.missing().asked);
            let fetched = self.fetch.fetch().await;
            self.metrics.jwks_fetch(fetched.as_ref().map_or_else(|error| error.outcome, |_| JwksOutcome::Ok));
            let next = match fetched {
                Ok(read) => {
                    self.take(read, asked, began);
                    jittered(self.times.refresh)
                }
                Err(error) => {
                    let next = self.failed();
                    if self.failures == 1 {
                        let (issuer, reason) = (&self.issuer, &error.reason);
                        tracing::warn!(issuer, reason, "the issuer's keys cannot be fetched; trying again");
                    }
                    next
                }
            };
            let next = Instant::now() + next;
            self.shared.state.send_modify(|state| {
                state.is_fetching = false;
                state.fetches += 1;
                state.asks_from = began + self.times.cooldown;
                state.next = next;
            });
            self.rest(next, began + self.times.cooldown).await;
        }
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, Missing> {
        self.shared.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `next`, or until somebody asks and `asks_from` has come. Keys that become too old
    /// meanwhile are dropped.
    async fn rest(&mut self, next: Instant, asks_from: Instant) {
        let good_until = self.shared.state.borrow().known.as_ref().map(|known| known.good_until);
        let asked = async {
            self.shared.asks.notified().await;
            tokio::time::sleep_until(asks_from.into()).await;
        };
        let too_old = async {
            match good_until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = asked => {}
            () = too_old => {
                tracing::warn!(
                    issuer = self.issuer,
                    "the issuer's keys are dropped: none were fetched for auth.jwks_stale_if_error"
                );
                self.shared.state.send_modify(|state| state.known = None);
                self.count(0);
            }
        }
    }

    fn count(&mut self, keys: usize) {
        self.without_keys.set(i64::from(keys == 0));
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
    }

    fn take(&mut self, read: Read, asked: HashSet<String>, began: Instant) {
        let Read { keys, unused } = read;
        let names = |keys: &KeySet| keys.kids().into_iter().map(str::to_owned).collect::<Vec<_>>();
        let known = self.shared.state.borrow().known.as_ref().map(|known| names(&known.keys));
        let count = keys.len();
        if self.failures > 0 || known.as_ref() != Some(&names(&keys)) {
            tracing::info!(issuer = self.issuer, keys = count, "the issuer's keys are fetched");
        }
        if unused != self.logged {
            for reason in &unused {
                tracing::warn!(issuer = self.issuer, "a key of the issuer's set is not used: {reason}");
            }
            self.logged = unused;
        }
        self.failures = 0;
        self.failing.set(0);
        self.count(count);
        {
            let mut missing = self.missing();
            if missing.absent.len() + asked.len() > ABSENT_MAX {
                missing.absent.clear();
            }
            missing.absent.extend(asked);
            missing.absent.retain(|kid| !keys.knows(kid));
        }
        let known = Known { keys: Arc::new(keys), fetched: began, good_until: began + self.times.stale };
        self.shared.state.send_modify(|state| state.known = Some(known));
    }

    /// Counts a failure and returns the delay before the next attempt.
    fn failed(&mut self) -> Duration {
        let backoff = BACKOFF[self.failures.min(BACKOFF.len() - 1)].min(self.times.refresh);
        self.failures += 1;
        self.failing.set(1);
        jittered(backoff)
    }
}

/// Varies by a tenth, so that nodes that were started together do not fetch together.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.9 + 0.2 * (random() as f64 / u64::MAX as f64))
}
