//! The fields of a value that is a table: their names are checked, and a fault points to its field.

use std::{ops::Range, path::Path};

use tidegate_core::closest::did_you_mean;

use super::value::{BadValue, Faults, Raw, Setting, Value, mismatch, quoted};

/// A table whose names are all known.
pub(super) struct Fields<'a>(&'a [(String, Range<usize>, Raw)]);

impl<'a> Fields<'a> {
    /// The fields of a `T`; faults call it `noun`.
    pub(super) fn of<T: Setting>(raw: &'a Raw, noun: &str, names: &[&'static str]) -> Result<Self, BadValue> {
        let Value::Table(fields) = &raw.value else { return Err(mismatch::<T>(raw)) };
        let mut faults = Faults::default();
        for (name, span, _) in fields.iter().filter(|(name, ..)| !names.contains(&name.as_str())) {
            let hint = did_you_mean(name, names.iter().copied());
            faults.add(BadValue::new(format!("{noun} has no field {}{hint}", quoted(name))).at(span));
        }
        faults.joined().map_or(Ok(Self(fields)), Err)
    }

    /// A field as it was given.
    pub(super) fn raw(&self, wanted: &str) -> Option<&'a Raw> {
        self.0.iter().find(|(name, ..)| name == wanted).map(|(.., value)| value)
    }

    /// A fault of the field `name`.
    pub(super) fn at(&self, name: &str, fault: BadValue) -> BadValue {
        let placed = match self.raw(name) {
            Some(value) => fault.at(&value.span),
            None => fault,
        };
        placed.map(|fault| BadValue { reason: format!("`{name}`: {}", fault.reason), ..fault })
    }

    /// A fault of the field `name`, in words.
    pub(super) fn fault(&self, name: &str, reason: impl Into<String>) -> BadValue {
        self.at(name, BadValue::new(reason))
    }

    /// A field of its own type.
    pub(super) fn read<T: Setting>(&self, name: &str) -> Result<Option<T>, BadValue> {
        self.raw(name).map(T::read).transpose().map_err(|fault| self.at(name, fault))
    }

    /// A field that is text. A value of another type is not shown: it may be a secret.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, BadValue> {
        match self.raw(name).map(|raw| &raw.value) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.fault(name, "must be text in quotes")),
        }
    }
}

/// The bytes of a small file.
pub(super) fn read_file(path: &Path, longest: u64) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let refuse = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(refuse)?;
    file.take(longest + 1).read_to_end(&mut bytes).map_err(refuse)?;
    if bytes.len() as u64 > longest {
        return Err(format!("{} is longer than {}KiB", path.display(), longest / 1024));
    }
    Ok(bytes)
}
