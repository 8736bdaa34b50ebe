//! The configuration of a node: one typed [`Config`], read from a TOML file, the
//! environment, `--set` and flags, and checked whole before a port is bound.
//!
//! Nothing here acts on it. Called by the command line, and by a node that rereads it.
//!
//! Reading order: [`keys`] is the list of everything that can be set; [`sources`] finds values,
//! this file reads them, [`check`] checks what must fit together, [`print`] shows the result.

mod check;
mod choice;
mod define;
mod fields;
mod file;
mod issuer;
mod jwt_key;
pub mod keys;
mod per_config;
mod print;
mod public_key;
mod quotas;
mod raw;
mod reread;
mod sources;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_keys_tests;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tidegate_core::{
    BatchLimits,
    pace::{self, Pacing},
};
use tidegate_protocol::OrgId;

pub use choice::{
    BatchMode, ClaimName, CookieName, JwtAlgorithm, LogEngine, LogFormat, LogLevel, LogSync, Network, Origin,
    Share, UserPolicy, Workers, is_origin,
};
pub use define::ConfigKey;
pub(crate) use define::config_key;
pub use issuer::{IssuerKeys, IssuerSettings, JwksUrl, OrgScope};
pub use jwt_key::{JwtKey, KeyMaterial, Secret};
pub use keys::{
    AuthSettings, BatchSettings, CompressionSettings, Config, DedupSettings, DrainSettings, LimitSettings,
    ListenSettings, LogSettings, LogsSettings, NodeSettings, PingSettings, QuotaSettings, SlowSettings,
    TailSettings,
};
pub use per_config::PerConfig;
pub use print::{effective, reference};
pub(crate) use public_key::LONGEST_PEM;
pub use public_key::PublicKey;
pub use quotas::{OrgTables, OwnQuotas};
pub use reread::{Reread, reread};
pub use sources::{Location, Sources};
pub use value::{ByteSize, humane, parse_duration, quoted};

use file::FileText;
use sources::{Given, Report};
use value::{BadValue, Raw, Setting, Value};

/// A fault in the configuration: the node does not start with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it was given.
    pub location: Location,
    /// The key, if the fault is of one.
    pub key: Option<&'static str>,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.location != Location::Default {
            write!(f, "{}: ", self.location)?;
        }
        match self.key {
            Some(key) => write!(f, "{key}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// All faults of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A configuration that was checked, with the source of each value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    locations: BTreeMap<&'static str, Location>,
}

impl Loaded {
    /// Where the value of `key` came from.
    pub fn location(&self, key: &str) -> &Location {
        self.locations.get(key).unwrap_or(&Location::Default)
    }
}

/// Sources as far as they can be read, with everything that is wrong with them.
#[derive(Debug)]
pub struct Examined {
    /// The values; a key whose value could not be read has its default. `None` if nothing of the file is known.
    loaded: Option<Loaded>,
    unread: BTreeSet<&'static str>,
    /// Values that cannot be read, and names that are no keys.
    pub faults: Vec<ConfigError>,
    /// Values that do not fit together, or do not fit this machine.
    pub unfit: Vec<ConfigError>,
}

impl Examined {
    /// The values, if those of `keys` are known.
    pub fn known(&self, keys: &[ConfigKey]) -> Option<&Loaded> {
        self.loaded.as_ref().filter(|_| keys.iter().all(|key| !self.unread.contains(key.name())))
    }

    /// What is valid, and still deserves a look.
    pub fn warnings(&self) -> Vec<ConfigError> {
        self.loaded.as_ref().map_or_else(Vec::new, |loaded| check::warnings(loaded, &self.unread))
    }
}

/// What is valid in a configuration, and still deserves a look.
pub fn warnings(loaded: &Loaded) -> Vec<ConfigError> {
    check::warnings(loaded, &BTreeSet::new())
}

/// Reads `sources` and finds everything that is wrong, touching nothing but the files that they name.
pub fn examine(sources: &Sources) -> Examined {
    let mut reader = LastWins::over(sources);
    let config = Config::read(&mut reader);
    let LastWins { given, report, .. } = reader;
    let locations = given.into_iter().map(|(key, given)| (key, given.location)).collect();
    let loaded = config.filter(|_| !report.file_is_unread).map(|config| Loaded { config, locations });
    let unfit = loaded.as_ref().map_or_else(Vec::new, |loaded| check::relations(loaded, &report.unread));
    Examined { loaded, unread: report.unread, faults: report.errors, unfit }
}

/// Reads `sources` and checks the whole, touching nothing but the files that it names.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let (loaded, unfit) = read(sources)?;
    if unfit.is_empty() { Ok(loaded) } else { Err(ConfigErrors(unfit)) }
}

/// Reads `sources`, and lists what does not fit together in them. For showing only. If a value cannot be
/// read, everything that is wrong is an error.
pub fn read(sources: &Sources) -> Result<(Loaded, Vec<ConfigError>), ConfigErrors> {
    let Examined { loaded, mut faults, unfit, .. } = examine(sources);
    match loaded {
        Some(loaded) if faults.is_empty() => Ok((loaded, unfit)),
        _ => {
            faults.extend(unfit);
            Err(ConfigErrors(faults))
        }
    }
}

/// The log directory that `sources` name, for a command that looks through it. Faults of other keys are ignored.
pub fn log_dir(sources: &Sources) -> Result<PathBuf, ConfigErrors> {
    use define::KeyReader as _;
    let mut reader = LastWins::over(sources);
    let dir = config_key!(log.dir);
    match reader.read::<PathBuf>(dir.name(), default_of(dir)) {
        Some(dir) if reader.report.errors.is_empty() => Ok(dir),
        _ => Err(ConfigErrors(reader.report.errors)),
    }
}

/// The file of publishers' API keys that `sources` name, for commands that need no running node. Faults
/// of other keys are ignored.
pub fn keys_file(sources: &Sources) -> Result<PathBuf, ConfigErrors> {
    use define::KeyReader as _;
    let mut reader = LastWins::over(sources);
    let (dir, file) = (config_key!(log.dir), config_key!(auth.keys_file));
    let dir = reader.read::<PathBuf>(dir.name(), default_of(dir));
    let file = reader.read::<Option<PathBuf>>(file.name(), default_of(file));
    match (dir, file) {
        (Some(dir), Some(file)) if reader.report.errors.is_empty() => Ok(keys_file_of(&dir, file.as_deref())),
        _ => Err(ConfigErrors(reader.report.errors)),
    }
}

/// The operators' address that `sources` name, for a command that asks a running node. Faults elsewhere are
/// ignored: the node may have been started before they were made, and other users cannot read its secrets.
pub fn admin_address(sources: &Sources) -> Result<SocketAddr, ConfigErrors> {
    use define::KeyReader as _;
    let key = config_key!(listen.admin);
    let mut reader = LastWins::over(sources);
    if !reader.given.contains_key(key.name()) {
        let report = &reader.report;
        let file = reader.file.as_ref().filter(|_| report.file_is_unread);
        match file.and_then(|file| file.recovered(key.name())) {
            Some(given) => drop(reader.given.insert(key.name(), given)),
            None if report.file_is_unread || report.unread.contains(key.name()) => {
                return Err(ConfigErrors(reader.report.errors));
            }
            None => {}
        }
    }
    let address = reader.read::<SocketAddr>(key.name(), default_of(key));
    let mut faults = reader.report.errors;
    faults.retain(|fault| fault.key == Some(key.name()));
    match address {
        Some(address) if faults.is_empty() => Ok(address),
        _ => Err(ConfigErrors(faults)),
    }
}

fn default_of(key: ConfigKey) -> &'static str {
    keys::KEYS.iter().find(|info| info.name == key.name()).map_or("", |info| info.default)
}

fn keys_file_of(dir: &Path, file: Option<&Path>) -> PathBuf {
    file.map_or_else(|| dir.join("keys.toml"), Path::to_owned)
}

impl BatchSettings {
    /// The pace of fan-out passes.
    pub fn pacing(&self) -> Pacing {
        let mode = match self.mode {
            BatchMode::Paced => pace::Mode::Paced,
            BatchMode::Fixed => pace::Mode::Fixed,
            BatchMode::Immediate => pace::Mode::Immediate,
        };
        Pacing { mode, window: self.window, share: self.fanout_share.get() }
    }

    /// When a batch is full.
    pub fn limits(&self) -> BatchLimits {
        BatchLimits { events: self.max_events, bytes: self.max_bytes.bytes() }
    }
}

impl CompressionSettings {
    /// Whether streams of `org` may be compressed.
    pub fn is_on_for(&self, org: &OrgId) -> bool {
        self.enabled && !self.exclude_orgs.contains(org)
    }
}

impl Config {
    /// The defaults alone, with a memory engine: for tests of parts that need some configuration.
    pub fn for_tests(sets: &[&str]) -> Result<Self, ConfigErrors> {
        let mut sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        sets.insert(0, "log.engine=memory".to_owned());
        sets.insert(1, format!("auth.keys=[{{secret = \"{}\"}}]", "t".repeat(32)));
        load(&Sources { sets, ..Sources::default() }).map(|loaded| loaded.config)
    }

    /// Where publishers' API keys are kept.
    pub fn keys_file(&self) -> PathBuf {
        keys_file_of(&self.log.dir, self.auth.keys_file.as_deref())
    }
}

/// Reads each key from the last source that gave it.
struct LastWins {
    given: BTreeMap<&'static str, Given>,
    file: Option<FileText>,
    report: Report,
}

impl LastWins {
    fn over(sources: &Sources) -> Self {
        let mut report = Report::default();
        let (given, file) = sources.collect(&mut report);
        Self { given: given.into_iter().map(|given| (given.key, given)).collect(), file, report }
    }

    fn default<T: Setting>(&mut self, key: &'static str, default: &'static str) -> Option<T> {
        match Raw::parse(default).ok().map(|raw| T::read(&raw)) {
            Some(Ok(value)) => Some(value),
            // Only a new key with a faulty default gets here: a test reads every default.
            _ => {
                let reason = format!("the default {default} does not fit its type");
                self.report.value(Location::Default, key, reason);
                None
            }
        }
    }
}

impl define::KeyReader for LastWins {
    fn read<T: Setting>(&mut self, key: &'static str, default: &'static str) -> Option<T> {
        let Some(given) = self.given.get(key) else { return self.default(key, default) };
        let fault = match (T::read(&given.raw), &given.not_toml) {
            (Ok(value), None) => return Some(value),
            (Ok(value), Some(_)) if !T::ANY_TEXT => return Some(value),
            (Ok(_), Some(not_toml)) => BadValue::new(not_toml),
            (Err(fault), Some(not_toml)) => {
                BadValue::new(format!("{not_toml}; taken as text, {}", fault.reason))
            }
            (Err(fault), None) => fault,
        };
        // `--set auth.audience=2026` is a number in TOML, but was meant as text. Quotes and brackets are always
        // read as TOML.
        let is_scalar = !matches!(given.raw.value, Value::Text(_) | Value::List(_) | Value::Table(_));
        let text = given.typed.as_ref().filter(|_| is_scalar);
        if let Some(value) = text.and_then(|text| T::read(&Raw::text(text)).ok()) {
            return Some(value);
        }
        for fault in fault.each() {
            let location = match (&given.location, &fault.span, &self.file) {
                (Location::File { .. }, Some(span), Some(file)) => file.location(span),
                (location, ..) => location.clone(),
            };
            self.report.value(location, key, fault.reason);
        }
        // So that what the other keys have to fit is checked too.
        self.default(key, default)
    }
}
