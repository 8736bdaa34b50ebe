//! The TOML file: its text, the values in it, and the line and column of each.

use std::{ops::Range, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    keys::SECTIONS,
    sources::{Given, Location, Report, known, one_line},
    value::Raw,
};

/// The file as it was read.
pub(super) struct FileText {
    path: PathBuf,
    text: String,
}

impl FileText {
    /// Reads the file, or notes why it cannot be read.
    pub(super) fn read(path: PathBuf, report: &mut Report) -> Option<Self> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(Self { path, text }),
            Err(error) => {
                let reason = format!("cannot read {}: {error}", path.display());
                report.fault(Location::Flag("--config"), reason);
                report.file_is_unread = true;
                None
            }
        }
    }

    /// The location of a span, for people: from 1, columns in characters.
    pub(super) fn location(&self, span: &Range<usize>) -> Location {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Location::File {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The value of `key` in a file that is not TOML as a whole, if there is no fault in its line.
    pub(super) fn recovered(&self, key: &'static str) -> Option<Given> {
        let (section, name) = key.split_once('.')?;
        let (table, faults) = DeTable::parse_recoverable(&self.text);
        let (_, keys) = table.get_ref().iter().find(|(found, _)| found.get_ref() == section)?;
        let DeValue::Table(keys) = keys.get_ref() else { return None };
        let (_, value) = keys.iter().find(|(found, _)| found.get_ref() == name)?;
        let line = |span: &Range<usize>| self.text.get(..span.start).unwrap_or(&self.text).lines().count();
        let is_sound =
            faults.iter().all(|fault| fault.span().is_none_or(|at| line(&at) != line(&value.span())));
        is_sound.then(|| self.given(key, value))
    }

    /// Adds every value of a known key, in the order of the file; notes what is no key.
    pub(super) fn collect(&self, given: &mut Vec<Given>, report: &mut Report) {
        let (table, faults) = DeTable::parse_recoverable(&self.text);
        if !faults.is_empty() {
            // The values of a file that was read only in part would add faults that are none.
            report.file_is_unread = true;
            for fault in &faults {
                let location = self.location(&fault.span().unwrap_or(0..0));
                report.fault(location, format!("not TOML: {}", one_line(fault.message())));
            }
            return;
        }
        let mut strangers = Vec::new();
        for (section, value) in table.get_ref() {
            match value.get_ref() {
                // A section of tables is one value.
                _ if known(section.get_ref()).is_some() => {
                    given.extend(known(section.get_ref()).map(|key| self.given(key, value)));
                }
                DeValue::Table(keys) if is_section(section.get_ref()) => {
                    self.collect_section(section.get_ref(), keys, given, &mut strangers);
                }
                DeValue::Table(keys) if !keys.is_empty() => {
                    // Named with a key, so that "did you mean" can see what it was to be.
                    strangers.extend(
                        keys.keys()
                            .map(|key| (key.span(), format!("{}.{}", section.get_ref(), key.get_ref()))),
                    );
                }
                _ => strangers.push((section.span(), section.get_ref().clone().into_owned())),
            }
        }
        strangers.sort_by_key(|(span, _)| span.start);
        for (span, name) in strangers {
            report.stranger(self.location(&span), &name);
        }
    }

    /// Adds the values of a section, and of the sections in it.
    fn collect_section(
        &self,
        section: &str,
        keys: &DeTable<'_>,
        given: &mut Vec<Given>,
        strangers: &mut Vec<(Range<usize>, String)>,
    ) {
        for (key, value) in keys {
            let name = format!("{section}.{}", key.get_ref());
            match (known(&name), value.get_ref()) {
                (Some(key), _) => given.push(self.given(key, value)),
                (None, DeValue::Table(keys)) if is_section(&name) => {
                    self.collect_section(&name, keys, given, strangers);
                }
                (None, _) => strangers.push((key.span(), name)),
            }
        }
    }

    fn given(&self, key: &'static str, value: &Spanned<DeValue<'_>>) -> Given {
        let raw = Raw::from(value);
        Given { key, typed: None, not_toml: None, location: self.location(&raw.span), raw }
    }
}

fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|known| known.name == name)
}
