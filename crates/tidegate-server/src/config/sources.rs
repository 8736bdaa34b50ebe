//! Where values come from: the file, the environment, `--set`, dedicated flags; in that order, the
//! later one winning. Each value keeps its location, so that a fault can name it.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use tidegate_core::closest::closest;

use super::{
    ConfigError,
    file::FileText,
    keys::{KEYS, SECTIONS},
    value::Raw,
};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Nowhere: it is the key's default.
    Default,
    /// A value that a command sets by itself (`tidegate dev`).
    Command(&'static str),
    /// A line and column of the file, both from 1.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
    /// `--set` with this key.
    Set(String),
    /// A flag of its own (`--listen`).
    Flag(&'static str),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Default => f.write_str("default"),
            Location::Command(name) => write!(f, "tidegate {name}"),
            Location::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Location::Environment(name) => write!(f, "environment variable {name}"),
            Location::Set(key) => write!(f, "--set {key}"),
            Location::Flag(flag) => f.write_str(flag),
        }
    }
}

/// A value of a key, and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) key: &'static str,
    pub(super) raw: Raw,
    /// The text as it was typed, for sources that need no quotes around text.
    pub(super) typed: Option<String>,
    /// Why the text is not TOML, if it opens like a list, a table or a quoted text. Only a key that takes
    /// such a text (an address like `[::1]:8080`) takes it nevertheless.
    pub(super) not_toml: Option<String>,
    pub(super) location: Location,
}

/// What is wrong with the sources, and what is not known because of it.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) errors: Vec<ConfigError>,
    /// Keys whose values are not known: they are faulty, or misspelt. Their relations to others are not
    /// checked.
    pub(super) unread: BTreeSet<&'static str>,
    /// Whether the file could not be read as TOML, so that nothing of it is known.
    pub(super) file_is_unread: bool,
}

impl Report {
    /// A fault of no key.
    pub(super) fn fault(&mut self, location: Location, reason: String) {
        self.errors.push(ConfigError { location, key: None, reason });
    }

    /// A fault of the value of `key`.
    pub(super) fn value(&mut self, location: Location, key: &'static str, reason: String) {
        self.unread.insert(key);
        self.errors.push(ConfigError { location, key: Some(key), reason });
    }

    /// A name that is no key.
    pub(super) fn stranger(&mut self, location: Location, name: &str) {
        self.unread.extend(closest_key(name));
        self.fault(location, unknown(name));
    }
}

/// Everything that a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file (`--config`).
    pub file: Option<PathBuf>,
    /// The environment; only names `TIDEGATE_<SECTION>__<KEY>` count.
    pub environment: Vec<(String, String)>,
    /// `key=value` of each `--set`, in order.
    pub sets: Vec<String>,
    /// Variables whose value is not UTF-8.
    pub(super) unreadable: Vec<String>,
    pub(super) command: Vec<(&'static str, &'static str, String)>,
    pub(super) flags: Vec<(&'static str, &'static str, String)>,
}

impl Sources {
    /// The environment of this process, and nothing else yet.
    pub fn from_process() -> Self {
        let mut sources = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => sources.environment.push((name, value)),
                Err(_) => sources.unreadable.push(name),
            }
        }
        sources
    }

    /// A value that the command `name` brings along; the file and all others win over it.
    pub fn command(&mut self, name: &'static str, key: &'static str, value: impl Into<String>) {
        self.command.push((name, key, value.into()));
    }

    /// A value from the dedicated flag `flag`; it wins over all others.
    pub fn flag(&mut self, flag: &'static str, key: &'static str, value: impl Into<String>) {
        self.flags.push((flag, key, value.into()));
    }

    /// Whether the user named any configuration, in whatever way.
    pub fn names_any(&self) -> bool {
        self.file.is_some()
            || !self.sets.is_empty()
            || self.environment.iter().any(|(name, _)| key_of(name).is_some())
    }

    /// Whether the environment or `--set` gives `key`.
    pub fn names(&self, key: &str) -> bool {
        self.environment.iter().any(|(name, _)| key_of(name).as_deref() == Some(key))
            || self.sets.iter().any(|set| set.split_once('=').is_some_and(|(name, _)| name.trim() == key))
    }

    /// All values in order, the later one winning.
    pub(super) fn collect(&self, report: &mut Report) -> (Vec<Given>, Option<FileText>) {
        let mut given = Vec::new();
        for (name, key, value) in &self.command {
            given.extend(typed(key, value, Location::Command(name), report));
        }
        let file = self.file.as_ref().and_then(|path| FileText::read(path.clone(), report));
        if let Some(file) = &file {
            file.collect(&mut given, report);
        }
        let mut variables: Vec<_> =
            self.environment.iter().filter_map(|(n, v)| Some((n, key_of(n)?, v))).collect();
        variables.sort();
        for (name, key, value) in variables {
            given.extend(typed(&key, value, Location::Environment(name.clone()), report));
        }
        for name in self.unreadable.iter().filter(|name| key_of(name).is_some()) {
            report.unread.extend(key_of(name).and_then(|key| closest_key(&key)));
            report.fault(Location::Environment(name.clone()), "its value is not UTF-8".to_owned());
        }
        for set in &self.sets {
            match set.split_once('=') {
                Some((key, value)) => {
                    given.extend(typed(key.trim(), value, Location::Set(key.trim().to_owned()), report));
                }
                None => report.fault(
                    Location::Set(set.clone()),
                    "must be key=value, such as limits.connections_per_user=1000".to_owned(),
                ),
            }
        }
        for (flag, key, value) in &self.flags {
            given.extend(typed(key, value, Location::Flag(flag), report));
        }
        (given, file)
    }
}

/// The key that a variable sets. Names without `__` are not ours: Kubernetes injects `TIDEGATE_PORT` for
/// a service of that name.
fn key_of(variable: &str) -> Option<String> {
    let (section, key) = variable.strip_prefix("TIDEGATE_")?.split_once("__")?;
    Some(format!("{section}.{}", key.replace("__", ".")).to_lowercase())
}

pub(super) fn known(name: &str) -> Option<&'static str> {
    let key = KEYS.iter().find(|key| if key.is_tables() { key.section == name } else { key.name == name });
    key.map(|key| key.name)
}

fn closest_key(name: &str) -> Option<&'static str> {
    closest(name, KEYS.iter().map(|key| key.name))
}

fn unknown(name: &str) -> String {
    if let Some(org) = name.strip_prefix("orgs.") {
        let org = org.split('.').next().unwrap_or_default();
        return format!("the quotas of {org} stand in the file, in a table [orgs.{org}]");
    }
    if SECTIONS.iter().any(|section| section.name == name) {
        return format!("`{name}` is a section; a key of it must be named, such as `{}`", first_of(name));
    }
    let hint = closest_key(name).map_or_else(String::new, |key| format!("; did you mean `{key}`?"));
    format!("there is no key `{name}`{hint}")
}

fn first_of(section: &str) -> &'static str {
    KEYS.iter().find(|key| key.section == section).map_or("", |key| key.name)
}

/// A value that was typed in a shell, where quotes are a nuisance: TOML if it is TOML, else text.
fn typed(name: &str, text: &str, location: Location, report: &mut Report) -> Option<Given> {
    let Some(key) = known(name) else {
        report.stranger(location, name);
        return None;
    };
    let opens_toml = text.trim_start().starts_with(['[', '{', '"', '\'']);
    let (raw, not_toml) = match Raw::parse(text) {
        Ok(raw) => (raw, None),
        Err(error) => {
            (Raw::text(text), opens_toml.then(|| format!("not TOML: {}", one_line(error.message()))))
        }
    };
    Some(Given { key, raw, typed: Some(text.to_owned()), not_toml, location })
}

pub(super) fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}
