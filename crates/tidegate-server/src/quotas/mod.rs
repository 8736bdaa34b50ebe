//! The quotas of orgs: which hold for an org now, and how much of them it uses.
//!
//! Those of the configuration ([`crate::config::QuotaSettings`]) hold until an operator sets others for an org
//! through the operators' listener. What operators set is kept until they take it back or the node stops.
//!
//! An [`OrgUse`] has the rates of one org: it refuses what is over a quota. Streams over their quota are not
//! refused, but paced: their worker asks [`OrgUse::may_send`] before it serves readers of the org. What an org
//! holds (connections, filters, compressors, stored bytes) is counted by those who hand it out.

mod meter;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tidegate_core::deflate::Contexts;
use tidegate_engine::{Engine, StoredQuotas};
use tidegate_protocol::{Code, OrgId, Refusal};

use self::meter::Meter;
use crate::{
    config::{ByteSize, Config, ConfigKey, OwnQuotas, QuotaSettings, config_key},
    refusals::LimitedBy as _,
};

/// At most so many orgs have rates of their own: as many as can have a log, by default, and some that have just
/// come or gone. Further ones share one.
const ORGS_KEPT: usize = 32_768;

/// How long the readers of an org wait beyond the time when something may be sent again. Then a few events go with
/// one send, not one after the other.
pub const PACED_IN_STEPS: Duration = Duration::from_millis(20);

/// The longest time for which the readers of an org wait before a worker looks again: the quota may have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whoever lags this long after their org was paced may lag because of it: the time between two warnings
/// ([`tidegate_core::slow::WARNING_INTERVAL`]) twice.
const LAGS_AFTER_PACING: Duration = Duration::from_secs(10);

/// The quotas of all orgs.
#[derive(Debug)]
pub struct Quotas {
    book: Mutex<Book>,
    /// Held while quotas are passed on, so that older ones do not come after newer ones. Locked before `book`.
    passing_on: Mutex<()>,
}

#[derive(Debug)]
struct Book {
    /// What holds for an org for which nothing is set.
    for_all: Arc<QuotaSettings>,
    /// What the configuration sets for single orgs.
    of_orgs: BTreeMap<OrgId, OwnQuotas>,
    /// What operators have set.
    by_operators: BTreeMap<OrgId, OwnQuotas>,
    uses: HashMap<OrgId, Arc<OrgUse>>,
    /// The use of all orgs for which `uses` has no room.
    others: Arc<OrgUse>,
    swept: Instant,
}

impl Book {
    fn of(&self, org: &OrgId) -> Arc<QuotaSettings> {
        let (own, set) = (self.of_orgs.get(org), self.by_operators.get(org));
        if own.is_none() && set.is_none() {
            return self.for_all.clone();
        }
        let mut quotas = (*self.for_all).clone();
        for own in [own, set].into_iter().flatten() {
            quotas = own.over(&quotas);
        }
        Arc::new(quotas)
    }

    /// A quota of each org for which it is set.
    fn of_those<T>(
        &self,
        is_set: impl Fn(&OwnQuotas) -> bool,
        quota: impl Fn(&QuotaSettings) -> T,
    ) -> BTreeMap<OrgId, T> {
        let named = self.of_orgs.iter().chain(&self.by_operators).filter(|(_, own)| is_set(own));
        named.map(|(org, _)| (org.clone(), quota(&self.of(org)))).collect()
    }

    /// Gives every use the quotas that hold now.
    fn renew(&self) {
        for (org, used) in &self.uses {
            used.quotas.store(self.of(org));
        }
        self.others.quotas.store(self.for_all.clone());
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.uses.retain(|_, used| Arc::strong_count(used) > 1 || !used.is_rested(now));
    }
}

impl Quotas {
    /// Those of `config`.
    pub fn new(config: &Config) -> Self {
        let for_all = Arc::new(config.limits_org.clone());
        let book = Mutex::new(Book {
            others: Arc::new(OrgUse::new(for_all.clone())),
            for_all,
            of_orgs: config.orgs.NAME.0.clone(),
            by_operators: BTreeMap::new(),
            uses: HashMap::new(),
            swept: Instant::now(),
        });
        Self { book, passing_on: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over those of another configuration. What operators have set stays.
    pub fn reconfigure(&self, config: &Config) {
        let mut book = self.lock();
        book.for_all = Arc::new(config.limits_org.clone());
        book.of_orgs.clone_from(&config.orgs.NAME.0);
        book.renew();
    }

    /// Sets quotas of `org` in place of those of the configuration, and of what an operator has set before. `None`
    /// takes that back.
    pub fn set(&self, org: &OrgId, own: Option<OwnQuotas>) {
        let mut book = self.lock();
        match own {
            Some(own) => drop(book.by_operators.insert(org.clone(), own)),
            None => drop(book.by_operators.remove(org)),
        }
        let quotas = book.of(org);
        if let Some(used) = book.uses.get(org) {
            used.quotas.store(quotas);
        }
    }

    /// What an operator has set for `org`.
    pub fn set_by_operators(&self, org: &OrgId) -> Option<OwnQuotas> {
        self.lock().by_operators.get(org).cloned()
    }

    /// Gives the engine and the compressors, which count for themselves, their quotas.
    pub fn pass_on(&self, engine: &dyn Engine, compressors: &Contexts) {
        let _alone = self.passing_on.lock().unwrap_or_else(PoisonError::into_inner);
        engine.set_stored_quotas(self.stored());
        let book = self.lock();
        let of_orgs = book.of_those(|own| own.compressors.is_some(), |quotas| quotas.compressors);
        compressors.set_quotas(book.for_all.compressors, of_orgs);
    }

    /// Those of stored bytes.
    pub fn stored(&self) -> StoredQuotas {
        let book = self.lock();
        let bytes = |quotas: &QuotaSettings| quotas.stored_bytes.map(ByteSize::get);
        let of_orgs = book.of_those(|own| own.stored_bytes.is_some(), bytes);
        StoredQuotas { of_each: bytes(&book.for_all), of_orgs }
    }

    /// The quotas of `org`.
    pub fn of(&self, org: &OrgId) -> Arc<QuotaSettings> {
        self.lock().of(org)
    }

    /// The use of `org`, for an org that has a log or whose key or token covers it.
    pub fn used_by(&self, org: &OrgId) -> Arc<OrgUse> {
        let mut book = self.lock();
        if let Some(used) = book.uses.get(org) {
            return used.clone();
        }
        let now = Instant::now();
        if book.uses.len() >= ORGS_KEPT && now.saturating_duration_since(book.swept).as_secs() >= 1 {
            book.sweep(now);
        }
        if book.uses.len() >= ORGS_KEPT {
            return book.others.clone();
        }
        let used = Arc::new(OrgUse::new(book.of(org)));
        book.uses.insert(org.clone(), used.clone());
        used
    }

    /// The orgs that have used something of late.
    pub fn in_use(&self) -> Vec<(OrgId, Arc<OrgUse>)> {
        self.lock().uses.iter().map(|(org, used)| (org.clone(), used.clone())).collect()
    }

    /// Forgets orgs that have used nothing for a while.
    pub fn sweep(&self) {
        self.lock().sweep(Instant::now());
    }
}

/// How much an org uses per second, and whether it may go on.
#[derive(Debug)]
pub struct OrgUse {
    quotas: ArcSwap<QuotaSettings>,
    meters: Mutex<Meters>,
}

#[derive(Debug)]
struct Meters {
    events: Meter,
    bytes: Meter,
    history: Meter,
    egress: Meter,
    /// When readers of the org were last made to wait.
    paced: Option<Instant>,
}

/// How much an org uses per second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Events that are published.
    pub publish_events: f64,
    /// Their bytes.
    pub publish_bytes: f64,
    /// Bytes of history.
    pub history_bytes: f64,
    /// Bytes that streams send.
    pub egress_bytes: f64,
}

fn of_count(quota: Option<usize>) -> Option<f64> {
    quota.map(|quota| quota as f64)
}

fn of_bytes(quota: Option<ByteSize>) -> Option<f64> {
    quota.map(|quota| quota.get() as f64)
}

/// The refusal of what is over a rate, and may be tried after `wait`.
fn over(limit: ConfigKey, what: &str, wait: Duration) -> Refusal {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    Refusal::new(Code::RateLimited, format!("this org {what}")).limited_by(limit).retry_in(millis)
}

const MORE_EVENTS: &str = "publishes more events a second than its quota allows; none of these is stored";
const MORE_BYTES: &str =
    "publishes more bytes a second than its quota allows; none of these events is stored";
const MORE_HISTORY: &str = "reads more bytes of history a second than its quota allows";

impl OrgUse {
    fn new(quotas: Arc<QuotaSettings>) -> Self {
        let now = Instant::now();
        let [events, bytes, history, egress] = [(); 4].map(|()| Meter::new(now));
        Self {
            quotas: ArcSwap::new(quotas),
            meters: Mutex::new(Meters { events, bytes, history, egress, paced: None }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Meters> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a publish of so many events, of so many bytes as they are stored: all of it, or nothing. With zero
    /// of both it only says whether a publish of one event could be refused, before its body is read.
    pub fn publish(&self, events: usize, bytes: usize) -> Result<(), Refusal> {
        let (now, quotas) = (Instant::now(), self.quotas.load());
        let of_events = of_count(quotas.publish_events_per_second);
        let of_bytes = of_bytes(quotas.publish_bytes_per_second);
        let (events, bytes) = (events as f64, bytes as f64);
        let mut meters = self.lock();
        let key = config_key!(limits_org.publish_events_per_second);
        meters.events.check(events.max(1.0), of_events, now).map_err(|wait| over(key, MORE_EVENTS, wait))?;
        let key = config_key!(limits_org.publish_bytes_per_second);
        meters.bytes.check(bytes.max(1.0), of_bytes, now).map_err(|wait| over(key, MORE_BYTES, wait))?;
        meters.events.add(events, of_events, now);
        meters.bytes.add(bytes, of_bytes, now);
        Ok(())
    }

    /// Whether an answer to a request for history may be made. What it takes is noted by
    /// [`OrgUse::add_history`].
    pub fn may_read_history(&self) -> Result<(), Refusal> {
        let (now, quotas) = (Instant::now(), self.quotas.load());
        let quota = of_bytes(quotas.history_bytes_per_second);
        let key = config_key!(limits_org.history_bytes_per_second);
        self.lock().history.check(1.0, quota, now).map_err(|wait| over(key, MORE_HISTORY, wait))
    }

    /// Notes bytes of answers to requests for history.
    pub fn add_history(&self, bytes: usize) {
        let (now, quotas) = (Instant::now(), self.quotas.load());
        let quota = of_bytes(quotas.history_bytes_per_second);
        self.lock().history.add(bytes as f64, quota, now);
    }

    /// How many bytes the streams of the org may be sent now, or how long they have to wait. What was sent is noted
    /// by [`OrgUse::add_sent`]; it may be more, because frames are sent whole.
    pub fn may_send(&self) -> Result<u64, Duration> {
        let Some(quota) = of_bytes(self.quotas.load().egress_bytes_per_second) else { return Ok(u64::MAX) };
        let now = Instant::now();
        let mut meters = self.lock();
        let left = meters.egress.left(Some(quota), now);
        if left > 0.0 {
            return Ok(left.ceil() as u64);
        }
        meters.paced = Some(now);
        let wait = Duration::from_secs_f64((-left / quota).min(LOOK_AGAIN.as_secs_f64()));
        Err((wait + PACED_IN_STEPS).min(LOOK_AGAIN))
    }

    /// Notes bytes that streams were sent.
    pub fn add_sent(&self, bytes: u64) {
        if bytes > 0 {
            let (now, quotas) = (Instant::now(), self.quotas.load());
            let quota = of_bytes(quotas.egress_bytes_per_second);
            self.lock().egress.add(bytes as f64, quota, now);
        }
    }

    /// Whether readers of the org may lag because they were made to wait.
    pub fn was_paced(&self) -> bool {
        self.lock().paced.is_some_and(|at| at.elapsed() < LAGS_AFTER_PACING)
    }

    /// How much is used per second.
    pub fn rates(&self) -> Rates {
        let now = Instant::now();
        let meters = self.lock();
        Rates {
            publish_events: meters.events.rate(now),
            publish_bytes: meters.bytes.rate(now),
            history_bytes: meters.history.rate(now),
            egress_bytes: meters.egress.rate(now),
        }
    }

    fn is_rested(&self, now: Instant) -> bool {
        let quotas = self.quotas.load();
        let mut meters = self.lock();
        meters.events.is_rested(of_count(quotas.publish_events_per_second), now)
            && meters.bytes.is_rested(of_bytes(quotas.publish_bytes_per_second), now)
            && meters.history.is_rested(of_bytes(quotas.history_bytes_per_second), now)
            && meters.egress.is_rested(of_bytes(quotas.egress_bytes_per_second), now)
    }
}
