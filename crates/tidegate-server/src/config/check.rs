//! What must fit together: relations between keys, and between keys and the machine.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use rustix::{
    fs::{Access, FsWord, PROC_SUPER_MAGIC, access, statfs, statvfs},
    process::{Resource, getrlimit},
};

use tidegate_engine::DiskOptions;

use crate::transport::spare_files;

use super::{
    ByteSize, Config, ConfigError, ConfigKey, IssuerKeys, JwtKey, LimitSettings, Loaded, Location, LogEngine,
    LogSettings, Network, config_key,
    value::{humane, quoted},
};

/// The longest time between two tries of a client to reconnect (PROTOCOL.md), jitter included (R23).
const LONGEST_RECONNECT: Duration = Duration::from_secs(305);

/// The size of the buffer that a request's head is first read into. With a smaller bound, a head within it
/// could not be distinguished from one that is too large.
const LEAST_HEADER_BYTES: ByteSize = ByteSize::new(8 << 10);

/// Room for the beginning of some answers of history.
const LEAST_IN_FLIGHT: ByteSize = ByteSize::new(256 << 10);

/// At most this many keys, because a token without a `kid` is tried with each of them.
const KEYS_MAX: usize = 32;

/// At most this many issuers, because each with a key set has a task and a connection of its own.
const ISSUERS_MAX: usize = 64;

/// At most this many orgs have series of their own, because a scrape carries them all.
const HEALTH_ORGS_MAX: usize = 100;

/// At most this many orgs are shown as near their quotas, because a scrape carries them all.
const TOP_ORGS_MAX: usize = 1000;

/// A log that can take less than this in a second, on average, is most likely a mistake.
const LEAST_RATE: ByteSize = ByteSize::new(100 << 10);

/// Every fault, with the key to change. Nothing is said of keys in `unread`, whose values are not known.
pub(super) fn relations(loaded: &Loaded, unread: &BTreeSet<&'static str>) -> Vec<ConfigError> {
    let config = &loaded.config;
    let mut found = Checks { loaded, unread, errors: Vec::new() };
    addresses(&mut found);
    directories(&mut found);
    times(&mut found);
    sizes(&mut found);
    counts(&mut found);
    issuers(&mut found);
    let claims = [
        (config_key!(auth.user_claim), &config.auth.user_claim),
        (config_key!(auth.org_claim), &config.auth.org_claim),
        (config_key!(auth.services_claim), &config.auth.services_claim),
    ];
    for (index, (key, name)) in claims.iter().enumerate() {
        if let Some((other, _)) = claims[..index].iter().find(|(_, other)| other == name)
            && found.knows(*other)
        {
            found.fault(*key, format!("{} names two things at once", quoted(name.as_str())));
        }
    }
    found.errors
}

/// What is valid, and still deserves a look: an operator may mean it.
pub(super) fn warnings(loaded: &Loaded, unread: &BTreeSet<&'static str>) -> Vec<ConfigError> {
    let config = &loaded.config;
    let mut found = Checks { loaded, unread, errors: Vec::new() };
    let admin = config.listen.admin;
    if !admin.ip().to_canonical().is_loopback() {
        let reason = format!(
            "other machines can reach \"{admin}\", and the operators' listener asks for no credentials: \
             whoever reaches it can close connections; let a firewall or a network of its own guard it"
        );
        found.fault(config_key!(listen.admin), reason);
    }
    if Network::are_all(&config.listen.trusted_proxies) {
        let reason = "every client counts as a proxy, so each can claim any address by X-Forwarded-For, and \
                      the limits per address do not hold; list the networks of your proxies only";
        found.fault(config_key!(listen.trusted_proxies), reason.to_owned());
    }
    if let Some(file) = &config.auth.keys_file
        && matches!(file.try_exists(), Ok(false))
    {
        let reason = format!(
            "{} does not exist, so there are no API keys and nobody can publish; `tidegate key create` makes it",
            quoted(&file.to_string_lossy())
        );
        found.fault(config_key!(auth.keys_file), reason);
    }
    if config.log.engine == LogEngine::Disk {
        room(&mut found);
    }
    let needed = config.open_files();
    if found.knows(config_key!(limits.publishes_in_flight))
        && let Some(most) = getrlimit(Resource::Nofile).maximum
        && most < needed
    {
        let LimitSettings { connections, publishes_in_flight, .. } = config.limits;
        let fit = spare_files::streams_max(most, publishes_in_flight, config.other_files()).min(connections);
        let reason = format!(
            "{connections} connections, limits.publishes_in_flight ({publishes_in_flight}) and the log need \
             {needed} open files, and a process may have {most} here, so at most {fit} streams are let in; \
             raise the hard limit (`ulimit -Hn`, or LimitNOFILE= of the unit), or lower limits.connections"
        );
        found.fault(config_key!(limits.connections), reason);
    }
    found.errors
}

/// Whether the log's bounds leave it any use.
fn room(found: &mut Checks<'_>) {
    let log = &found.loaded.config.log;
    let window = found.loaded.config.dedup.window;
    let rate = log.max_bytes.bytes() as f64 / window.as_secs_f64();
    if rate < LEAST_RATE.bytes() as f64 {
        let reason = format!(
            "{} is all that the log may take, and nothing younger than dedup.window ({}) is removed: above {} a \
             second on average, publishes are refused (log_full)",
            show_size(log.max_bytes),
            show_time(window),
            show_size(ByteSize::new(rate as u64)),
        );
        found.between(config_key!(log.max_bytes), config_key!(dedup.window), reason);
    }
    // A directory that is still to be made will be in the file system of its parent.
    let system = log
        .dir
        .ancestors()
        .find_map(|dir| statvfs(if dir.as_os_str().is_empty() { Path::new(".") } else { dir }).ok());
    if let Some(system) = system {
        let whole = system.f_blocks.saturating_mul(system.f_frsize);
        if log.min_free.bytes() as u64 >= whole {
            let reason = format!(
                "{} is to be left free, and the file system of log.dir has {} in all: every publish is refused \
                 (log_full)",
                show_size(log.min_free),
                show_size(ByteSize::new(whole)),
            );
            found.between(config_key!(log.min_free), config_key!(log.dir), reason);
        }
    }
}

impl Config {
    /// How many files and sockets a node with this configuration may have open at a time.
    fn open_files(&self) -> u64 {
        (self.limits.connections + self.limits.publishes_in_flight) as u64 + self.other_files()
    }

    /// How many of them are neither a stream's nor a publisher's.
    pub fn other_files(&self) -> u64 {
        let LogSettings { engine, max_bytes, retention, erase_within, .. } = self.log;
        match engine {
            LogEngine::Memory => spare_files::LEAST_OTHERS,
            LogEngine::Disk => DiskOptions::open_files(max_bytes.bytes() as u64, retention, erase_within)
                .max(spare_files::LEAST_OTHERS),
        }
    }
}

/// A key and its value: `setting!(config.tail.window)`.
macro_rules! setting {
    ($config:ident.$section:ident.$key:ident) => {
        (config_key!($section.$key), $config.$section.$key)
    };
}

struct Checks<'a> {
    loaded: &'a Loaded,
    unread: &'a BTreeSet<&'static str>,
    errors: Vec<ConfigError>,
}

impl Checks<'_> {
    fn knows(&self, key: ConfigKey) -> bool {
        !self.unread.contains(key.name())
    }

    fn fault(&mut self, key: ConfigKey, reason: String) {
        if !self.knows(key) {
            return;
        }
        self.errors.push(ConfigError {
            location: self.loaded.location(key.name()).clone(),
            key: Some(key.name()),
            reason,
        });
    }

    /// A fault between two keys. If one of them is a default, the other is the one that was written.
    fn between(&mut self, key: ConfigKey, other: ConfigKey, reason: String) {
        if !self.knows(key) || !self.knows(other) {
            return;
        }
        let location = match self.loaded.location(key.name()) {
            Location::Default => self.loaded.location(other.name()),
            location => location,
        };
        self.errors.push(ConfigError { location: location.clone(), key: Some(key.name()), reason });
    }

    /// `key` is at least `other`.
    fn not_less<T: PartialOrd>(
        &mut self,
        (key, value): (ConfigKey, T),
        (other, bound): (ConfigKey, T),
        show: fn(T) -> String,
    ) {
        if value < bound {
            let reason = format!("{} is less than {other} ({})", show(value), show(bound));
            self.between(key, other, reason);
        }
    }
}

fn show_time(time: Duration) -> String {
    quoted(&humane(time))
}

fn show_size(size: ByteSize) -> String {
    quoted(&size.to_string())
}

fn show_count(count: usize) -> String {
    count.to_string()
}

fn issuers(found: &mut Checks<'_>) {
    let auth = &found.loaded.config.auth;
    for reason in unfit_keys(&auth.keys) {
        found.fault(config_key!(auth.keys), reason);
    }
    if auth.issuers.len() > ISSUERS_MAX {
        let reason = format!("has {} issuers; {ISSUERS_MAX} are the most", auth.issuers.len());
        found.fault(config_key!(auth.issuers), reason);
    }
    // The rest is about both lists.
    if !found.knows(config_key!(auth.keys)) || !found.knows(config_key!(auth.issuers)) {
        return;
    }
    if auth.keys.is_empty() && auth.issuers.is_empty() {
        let reason = "is empty, and so is auth.issuers, so nobody could read; add a key with `secret_file` \
                      (docs/config.md, [auth])";
        found.fault(config_key!(auth.keys), reason.to_owned());
    }
    if !auth.issuers.is_empty() && !auth.keys.is_empty() && auth.issuer.is_none() {
        let reason = "must be set if both auth.keys and auth.issuers are: the `iss` of a token says which of them signed it";
        found.between(config_key!(auth.issuer), config_key!(auth.issuers), reason.to_owned());
    }
    if !auth.issuers.is_empty() && auth.keys.is_empty() {
        let idle = [
            (config_key!(auth.issuer), "issuer", &auth.issuer),
            (config_key!(auth.audience), "audience", &auth.audience),
        ];
        for (key, field, _) in idle.into_iter().filter(|(_, _, value)| value.is_some()) {
            let reason = format!(
                "is for tokens by auth.keys, and there are none; remove it, and write `{field}` in each \
                 [[auth.issuers]]"
            );
            found.fault(key, reason);
        }
    }
    // The `iss` of a token alone decides who may sign it, so each issuer is listed once.
    let short_form = auth.issuer.as_ref().filter(|_| !auth.keys.is_empty());
    let mut names: Vec<&String> = short_form.into_iter().collect();
    for issuer in &auth.issuers {
        let named = quoted(&issuer.name);
        if names.contains(&&issuer.name) {
            found.fault(config_key!(auth.issuers), format!("two issuers have the name {named}"));
        }
        names.push(&issuer.name);
        if let IssuerKeys::Listed(keys) = &issuer.keys {
            for reason in unfit_keys(keys) {
                found.fault(config_key!(auth.issuers), format!("the issuer {named} {reason}"));
            }
        }
    }
}

fn unfit_keys(keys: &[JwtKey]) -> Vec<String> {
    let mut unfit = Vec::new();
    if keys.len() > KEYS_MAX {
        unfit.push(format!("has {} keys; {KEYS_MAX} are the most", keys.len()));
    }
    for (index, key) in keys.iter().enumerate() {
        if let Some(kid) = &key.kid
            && keys[..index].iter().any(|other| other.kid.as_ref() == Some(kid))
        {
            unfit.push(format!("has two keys with the kid {}", quoted(kid)));
        }
    }
    unfit
}

fn addresses(found: &mut Checks<'_>) {
    let listen = &found.loaded.config.listen;
    let (public, admin) = (listen.public, listen.admin);
    let overlaps =
        |a: SocketAddr, b: SocketAddr| a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    if public.port() != 0 && public.port() == admin.port() && overlaps(public, admin) {
        found.between(
            config_key!(listen.admin),
            config_key!(listen.public),
            format!("\"{admin}\" clashes with listen.public (\"{public}\")"),
        );
    }
}

fn directories(found: &mut Checks<'_>) {
    let config = &found.loaded.config;
    if let Err(reason) = usable(&config.log.dir) {
        found.fault(config_key!(log.dir), reason);
    }
    if !found.knows(config_key!(log.dir)) {
        return;
    }
    let keys = config.keys_file();
    if keys.is_dir() {
        found.fault(
            config_key!(auth.keys_file),
            format!("{} is a directory", quoted(&keys.to_string_lossy())),
        );
    } else if keys.exists()
        && let Err(error) = std::fs::File::open(&keys)
    {
        found.fault(config_key!(auth.keys_file), format!("cannot read {}: {error}", keys.display()));
    }
}

/// Checks that `dir` is a directory that we can write to, or can be made one.
fn usable(dir: &Path) -> Result<(), String> {
    // The nearest thing that exists decides.
    let nearest = dir.ancestors().find(|path| path.as_os_str().is_empty() || path.symlink_metadata().is_ok());
    let nearest = nearest.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !nearest.is_dir() {
        return Err(format!("{} is not a directory", quoted(&nearest.to_string_lossy())));
    }
    if nearest != dir && is_of_the_kernel(nearest) {
        return Err(format!(
            "cannot make a directory in {}: it is a file system of the kernel",
            quoted(&nearest.to_string_lossy())
        ));
    }
    access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
        format!("cannot write to {}: {}", quoted(&nearest.to_string_lossy()), std::io::Error::from(error))
    })
}

/// Whether `dir` is in procfs or sysfs, where not even root can make directories, though the permissions of
/// `/proc` say that root can.
fn is_of_the_kernel(dir: &Path) -> bool {
    const SYSFS_MAGIC: FsWord = 0x6265_6572;
    statfs(dir).is_ok_and(|found| [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&found.f_type))
}

fn times(found: &mut Checks<'_>) {
    let config = &found.loaded.config;
    let dedup = setting!(config.dedup.window);
    if config.log.engine == LogEngine::Disk {
        found.not_less(setting!(config.log.retention), dedup, show_time);
    }
    if config.tail.window <= LONGEST_RECONNECT {
        let reason = format!(
            "{} must be more than \"5m5s\", the longest time between two tries of a client to reconnect",
            show_time(config.tail.window)
        );
        found.fault(config_key!(tail.window), reason);
    }
    found.not_less(setting!(config.tail.window), dedup, show_time);
    let refresh = setting!(config.auth.jwks_refresh);
    let stale = setting!(config.auth.jwks_stale_if_error);
    found.not_less(stale, refresh, show_time);
    if config.ping.timeout >= config.ping.interval {
        let reason = format!(
            "{} must be less than ping.interval ({})",
            show_time(config.ping.timeout),
            show_time(config.ping.interval)
        );
        found.between(config_key!(ping.timeout), config_key!(ping.interval), reason);
    }
    let shortest = [
        (setting!(config.log.retention), Duration::from_secs(1)),
        // A file of the log covers a minute at least, and a sweep comes each minute.
        (setting!(config.log.erase_within), Duration::from_secs(180)),
        (setting!(config.dedup.window), Duration::from_secs(1)),
        (setting!(config.ping.interval), Duration::from_millis(100)),
        (setting!(config.ping.timeout), Duration::from_millis(50)),
        (setting!(config.auth.max_token_life), Duration::from_secs(1)),
        (setting!(config.auth.jwks_refresh), Duration::from_secs(1)),
        (setting!(config.auth.jwks_cooldown), Duration::from_millis(100)),
        (setting!(config.auth.jwks_timeout), Duration::from_millis(100)),
        (setting!(config.limits.first_frame_timeout), Duration::from_millis(100)),
        (setting!(config.limits.request_timeout), Duration::from_millis(100)),
        (setting!(config.limits.write_timeout), Duration::from_millis(100)),
        (setting!(config.limits.idle_timeout), Duration::from_millis(100)),
        (setting!(config.limits.publish_timeout), Duration::from_millis(100)),
    ];
    for ((key, value), least) in shortest {
        if value < least {
            found.fault(key, format!("{} must be {} or more", show_time(value), show_time(least)));
        }
    }
    let longest = [
        (setting!(config.auth.leeway), Duration::from_secs(300)),
        (setting!(config.batch.window), Duration::from_secs(10)),
        (setting!(config.auth.jwks_cooldown), Duration::from_secs(3600)),
        (setting!(config.auth.jwks_timeout), Duration::from_secs(60)),
        (setting!(config.drain.window), Duration::from_secs(3600)),
        (setting!(config.ping.interval), Duration::from_secs(3600)),
    ];
    for ((key, value), most) in longest {
        if value > most {
            found.fault(key, format!("{} must be {} or less", show_time(value), show_time(most)));
        }
    }
}

fn sizes(found: &mut Checks<'_>) {
    let config = &found.loaded.config;
    let limits = &config.limits;
    let event = setting!(config.limits.event_bytes);
    found.not_less(setting!(config.limits.request_bytes), event, show_size);
    let request = setting!(config.limits.request_bytes);
    found.not_less(setting!(config.limits.publish_queue_bytes), request, show_size);
    let (in_flight, least) = (limits.in_flight_bytes, 2 * limits.request_bytes.bytes());
    if in_flight.bytes() < least {
        let reason = format!(
            "{} is less than twice limits.request_bytes ({}), and one org gets at most half of it",
            show_size(in_flight),
            show_size(limits.request_bytes),
        );
        let (key, other) = (config_key!(limits.in_flight_bytes), config_key!(limits.request_bytes));
        found.between(key, other, reason);
    }
    let of_user = setting!(config.limits.in_flight_bytes_per_user);
    if of_user.1.bytes() < 2 * limits.event_bytes.bytes() {
        let reason = format!(
            "{} is less than twice limits.event_bytes ({}), and an answer with one event must fit",
            show_size(of_user.1),
            show_size(limits.event_bytes),
        );
        found.between(of_user.0, config_key!(limits.event_bytes), reason);
    }
    if of_user.1 < LEAST_IN_FLIGHT {
        let reason = format!("{} must be {} or more", show_size(of_user.1), show_size(LEAST_IN_FLIGHT));
        found.fault(of_user.0, reason);
    }
    found.not_less(setting!(config.tail.org_max_bytes), request, show_size);
    let org_tail = setting!(config.tail.org_max_bytes);
    found.not_less(setting!(config.tail.max_bytes), org_tail, show_size);
    found.not_less(setting!(config.log.max_bytes), setting!(config.tail.max_bytes), show_size);
    // A token travels in a header and in an `auth` frame, with some words around it.
    let token = setting!(config.limits.token_bytes);
    found.not_less(setting!(config.limits.header_bytes), token, show_size);
    found.not_less(setting!(config.limits.client_frame_bytes), token, show_size);
    if limits.header_bytes < LEAST_HEADER_BYTES {
        let reason =
            format!("{} must be {} or more", show_size(limits.header_bytes), show_size(LEAST_HEADER_BYTES));
        found.fault(config_key!(limits.header_bytes), reason);
    }
    // The memory of one connection or request is bounded in any configuration.
    let most = [
        (setting!(config.limits.event_bytes), ByteSize::new(64 << 20)),
        (setting!(config.limits.request_bytes), ByteSize::new(256 << 20)),
        (setting!(config.limits.header_bytes), ByteSize::new(1 << 20)),
        (setting!(config.limits.client_frame_bytes), ByteSize::new(1 << 20)),
        (setting!(config.limits.page_bytes), ByteSize::new(64 << 20)),
    ];
    for ((key, value), most) in most {
        if value > most {
            found.fault(key, format!("{} must be {} or less", show_size(value), show_size(most)));
        }
    }
}

fn counts(found: &mut Checks<'_>) {
    let config = &found.loaded.config;
    let of_org = setting!(config.limits.connections_per_org);
    found.not_less(of_org, setting!(config.limits.connections_per_user), show_count);
    found.not_less(setting!(config.limits.connections), of_org, show_count);
    let ids = setting!(config.dedup.max_entries);
    let ids_of_org = setting!(config.dedup.max_entries_per_org);
    found.not_less(ids, ids_of_org, show_count);
    let searched = setting!(config.limits.tail_search_events);
    found.not_less(searched, setting!(config.limits.tail_events), show_count);
    let (key, orgs) = (config_key!(metrics.health_orgs), config.metrics.health_orgs.len());
    if orgs > HEALTH_ORGS_MAX {
        found.fault(key, format!("has {orgs} orgs; {HEALTH_ORGS_MAX} are the most"));
    }
    let (key, orgs) = (config_key!(metrics.top_orgs), config.metrics.top_orgs);
    if orgs > TOP_ORGS_MAX {
        found.fault(key, format!("{orgs} must be {TOP_ORGS_MAX} or less"));
    }
    // serde_json refuses more than 127 levels, and a reader's parser may refuse fewer.
    for ((key, value), most) in [
        (setting!(config.limits.json_depth), 127),
        (setting!(config.limits.headers), 1000),
        (setting!(config.limits.streams_per_connection), 10_000),
    ] {
        if value > most {
            found.fault(key, format!("{value} must be {most} or less"));
        }
    }
}
