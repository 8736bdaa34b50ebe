//! Where values come from: the file, the environment, `--set`, dedicated flags; in that order, the
//! later one winning. Each value keeps its location, so that a fault can name it.

use std::{fmt, path::PathBuf};

use tidegate_core::closest::did_you_mean;

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
    pub(super) location: Location,
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
    pub(super) fn collect(&self, errors: &mut Vec<ConfigError>) -> (Vec<Given>, Option<FileText>) {
        let mut given = Vec::new();
        for (name, key, value) in &self.command {
            given.extend(typed(key, value, Location::Command(name), errors));
        }
        let file = self.file.as_ref().and_then(|path| FileText::read(path.clone(), errors));
        if let Some(file) = &file {
            file.collect(&mut given, errors);
        }
        let mut variables: Vec<_> =
            self.environment.iter().filter_map(|(n, v)| Some((n, key_of(n)?, v))).collect();
        variables.sort();
        for (name, key, value) in variables {
            given.extend(typed(&key, value, Location::Environment(name.clone()), errors));
        }
        for name in self.unreadable.iter().filter(|name| key_of(name).is_some()) {
            let location = Location::Environment(name.clone());
            errors.push(ConfigError { location, key: None, reason: "its value is not UTF-8".to_owned() });
        }
        for set in &self.sets {
            match set.split_once('=') {
                Some((key, value)) => {
                    given.extend(typed(key.trim(), value, Location::Set(key.trim().to_owned()), errors));
                }
                None => errors.push(ConfigError {
                    location: Location::Set(set.clone()),
                    key: None,
                    reason: "must be key=value, such as limits.connections_per_user=1000".to_owned(),
                }),
            }
        }
        for (flag, key, value) in &self.flags {
            given.extend(typed(key, value, Location::Flag(flag), errors));
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
    KEYS.iter().map(|key| key.name).find(|key| *key == name)
}

pub(super) fn unknown(name: &str) -> String {
    if SECTIONS.iter().any(|section| section.name == name) {
        return format!("`{name}` is a section; a key of it must be named, such as `{}`", first_of(name));
    }
    format!("there is no key `{name}`{}", did_you_mean(name, KEYS.iter().map(|key| key.name)))
}

fn first_of(section: &str) -> &'static str {
    KEYS.iter().find(|key| key.section == section).map_or("", |key| key.name)
}

/// A value that was typed in a shell, where quotes are a nuisance: TOML if it is TOML, else text.
fn typed(name: &str, text: &str, location: Location, errors: &mut Vec<ConfigError>) -> Option<Given> {
    let Some(key) = known(name) else {
        errors.push(ConfigError { location, key: None, reason: unknown(name) });
        return None;
    };
    let raw = match Raw::parse(text) {
        Ok(raw) => raw,
        // Text that opens like a list, a table or a quoted text was meant to be one.
        Err(error) if text.trim_start().starts_with(['[', '{', '"', '\'']) => {
            let reason = format!("not TOML: {}", one_line(error.message()));
            errors.push(ConfigError { location, key: Some(key), reason });
            return None;
        }
        Err(_) => Raw::text(text),
    };
    Some(Given { key, raw, typed: Some(text.to_owned()), location })
}

pub(super) fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}
