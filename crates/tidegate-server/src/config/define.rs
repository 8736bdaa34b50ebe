//! The `sections!` macro: a key's type, default, text and place in the file, written once.
//!
//! From the one list in [`super::keys`] come the structs that the node reads, the table that
//! [`super::load`] checks names against, `config print`, and `docs/config.md`.

use super::value::Setting;

/// What is known of a key before any value is read.
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
}

impl KeyInfo {
    /// The key without its section.
    pub fn key(&self) -> &'static str {
        &self.name[self.section.len() + 1..]
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("TIDEGATE_{}__{}", self.section.to_uppercase(), self.key().to_uppercase())
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
pub trait Reader {
    /// Reads `key`, whose default is the TOML text `default`.
    fn read<T: Setting>(&mut self, key: &'static str, default: &'static str) -> Option<T>;
}

macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])* $key:ident: $ty:ty = $default:tt, )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone)]
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
            $( SectionInfo { name: stringify!($section), docs: &[$($section_doc),*] }, )*
        ];

        /// Every key, in the order of the file.
        pub static KEYS: &[KeyInfo] = &[
            $($( KeyInfo {
                name: concat!(stringify!($section), ".", stringify!($key)),
                section: stringify!($section),
                docs: &[$($doc),*],
                default: stringify!($default),
                kind: <$ty as Setting>::kind,
            }, )*)*
        ];

        impl Config {
            /// Reads every key, also after a fault, so that all faults are found in one go.
            pub(super) fn read(reader: &mut impl Reader) -> Option<Self> {
                $(
                    let $section = {
                        $( let $key = reader.read::<$ty>(
                            concat!(stringify!($section), ".", stringify!($key)),
                            stringify!($default),
                        ); )*
                        (|| Some($Section { $( $key: $key?, )* }))()
                    };
                )*
                Some(Self { $( $section: $section?, )* })
            }

            /// Every key with its value as TOML, secrets redacted, in the order of the file.
            pub fn show(&self) -> Vec<(&'static KeyInfo, String)> {
                let values = [ $($( self.$section.$key.show(), )*)* ];
                KEYS.iter().zip(values).collect()
            }
        }
    };
}

pub(super) use sections;
