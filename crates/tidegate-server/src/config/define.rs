//! The `sections!` macro: a key's name, type, default, text, and whether it is reread, written once.
//!
//! From the one list in [`super::keys`] come the structs that the node reads, the table that
//! [`super::load`] checks names against, the constants by which the rest of the server names a key
//! ([`config_key!`]), `config print`, and `docs/config.md`.

use std::fmt;

use super::value::Setting;

/// A key of the configuration. There is one for each key of [`super::keys`] and no other, so a refusal
/// or a metric cannot name a bound that does not exist: [`config_key!`] gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConfigKey(pub(in crate::config) &'static str);

impl ConfigKey {
    /// `section.key`, as `--set` takes it.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for ConfigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The [`ConfigKey`] of a key: `config_key!(limits.token_bytes)`. A key that does not exist does not
/// compile.
macro_rules! config_key {
    ($section:ident.$key:ident) => {
        $crate::config::keys::names::$section::$key
    };
}

/// What a running node does about a key that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It takes the new value over on SIGHUP.
    Reread,
    /// It goes on with the old value until it is restarted.
    Restart,
}

/// A key as the list has it, before any value is read.
#[derive(Debug)]
pub struct KeyInfo {
    /// `section.key`, as `--set` takes it.
    pub name: &'static str,
    /// Its section.
    pub section: &'static str,
    /// Its documentation, a line each.
    pub docs: &'static [&'static str],
    /// Its default, as TOML.
    pub default: &'static str,
    /// What values it takes, in words.
    pub kind: fn() -> String,
    /// Whether it is reread.
    pub change: Change,
}

impl KeyInfo {
    /// The key without its section.
    pub fn key(&self) -> &'static str {
        &self.name[self.section.len() + 1..]
    }

    /// Whether it stands for the tables of a section, as `orgs.NAME` does for `[orgs.acme]`.
    pub fn is_tables(&self) -> bool {
        self.name == config_key!(orgs.NAME).name()
    }

    /// The environment variable that sets it, if one can: the names of tables may have letters that variables
    /// have not.
    pub fn variable(&self) -> Option<String> {
        let section = self.section.to_uppercase().replace('.', "__");
        (!self.is_tables()).then(|| format!("TIDEGATE_{section}__{}", self.key().to_uppercase()))
    }
}

/// A section of the file.
#[derive(Debug)]
pub struct SectionInfo {
    /// Its name, as in `[name]`.
    pub name: &'static str,
    /// Its documentation, a line each.
    pub docs: &'static [&'static str],
}

/// Gives the value of one key, or notes a fault and gives nothing.
pub trait KeyReader {
    /// Reads `key`, whose default is the TOML text `default`.
    fn read<T: Setting>(&mut self, key: &'static str, default: &'static str) -> Option<T>;
}

macro_rules! sections {
    (@name limits_org) => { "limits.org" };
    (@name $section:ident) => { stringify!($section) };
    (@change reread) => { Change::Reread };
    (@change restart) => { Change::Restart };
    (@take reread $running:expr, $read:expr) => { $running = $read };
    (@take restart $running:expr, $read:expr) => {};
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])* $key:ident: $ty:ty = $default:tt, $change:ident; )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone)]
            #[allow(non_snake_case, reason = "they are spelled as in the file")]
            pub struct $Section {
                $( $(#[doc = $doc])* pub $key: $ty, )*
            }
        )*

        /// The whole configuration of a node.
        #[derive(Debug, Clone)]
        pub struct Config {
            $( $(#[doc = $section_doc])* pub $section: $Section, )*
        }

        /// Every section, in the order of the file.
        pub static SECTIONS: &[SectionInfo] = &[
            $( SectionInfo { name: sections!(@name $section), docs: &[$($section_doc),*] }, )*
        ];

        /// Every key, in the order of the file.
        pub static KEYS: &[KeyInfo] = &[
            $($( KeyInfo {
                name: concat!(sections!(@name $section), ".", stringify!($key)),
                section: sections!(@name $section),
                docs: &[$($doc),*],
                default: stringify!($default),
                kind: <$ty as Setting>::kind,
                change: sections!(@change $change),
            }, )*)*
        ];

        /// The [`ConfigKey`] of each key, in a module for each section ([`config_key!`]).
        #[allow(non_upper_case_globals, reason = "they are spelled as in the file, to be found by that")]
        pub mod names {
            $(
                $(#[doc = $section_doc])*
                pub mod $section {
                    use crate::config::define::{ConfigKey, sections};

                    $(
                        $(#[doc = $doc])*
                        pub const $key: ConfigKey =
                            ConfigKey(concat!(sections!(@name $section), ".", stringify!($key)));
                    )*
                }
            )*
        }

        impl Config {
            /// Reads every key, also after a fault, so that all faults are found in one go.
            #[allow(non_snake_case, reason = "they are spelled as in the file")]
            pub(super) fn read(reader: &mut impl KeyReader) -> Option<Self> {
                $(
                    let $section = {
                        $( let $key = reader.read::<$ty>(
                            concat!(sections!(@name $section), ".", stringify!($key)),
                            stringify!($default),
                        ); )*
                        (|| Some($Section { $( $key: $key?, )* }))()
                    };
                )*
                Some(Self { $( $section: $section?, )* })
            }

            /// Takes the values of the keys that are reread from `read`, and leaves the others.
            pub(super) fn take_over(&mut self, read: Self) {
                $($( sections!(@take $change self.$section.$key, read.$section.$key); )*)*
            }

            /// The keys whose values differ, in the order of the file.
            pub(super) fn differences(&self, other: &Self) -> Vec<&'static KeyInfo> {
                let differs = [ $($( self.$section.$key != other.$section.$key, )*)* ];
                KEYS.iter().zip(differs).filter_map(|(key, differs)| differs.then_some(key)).collect()
            }

            /// Every key with its value as TOML, secrets redacted, in the order of the file.
            pub fn show(&self) -> Vec<(&'static KeyInfo, String)> {
                let values = [ $($( self.$section.$key.show(), )*)* ];
                KEYS.iter().zip(values).collect()
            }
        }
    };
}

pub(crate) use config_key;
pub(super) use sections;
