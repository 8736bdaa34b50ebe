//! The quotas of orgs: `[limits.org]` holds for every org, a table `[orgs.NAME]` for one.
//!
//! `limits.org` is a section like others ([`super::keys`]). This file reads the tables of single orgs, whose keys
//! are those of `limits.org`.

use std::collections::BTreeMap;

use tidegate_protocol::OrgId;

use super::{
    fields::Fields,
    keys::QuotaSettings,
    value::{BadValue, ByteSize, Faults, Raw, Setting, Value, mismatch, quoted},
};

/// The tables of single orgs. The section is written `[orgs.NAME]`, so it is one key, with no name of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrgTables(pub BTreeMap<OrgId, OwnQuotas>);

macro_rules! own_quotas {
    ($($name:ident: $ty:ty,)*) => {
        /// The quotas that are set for one org. `None` is not set, so that of `limits.org` holds.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct OwnQuotas {
            $(
                #[doc = concat!("In place of `limits.org.", stringify!($name), "`.")]
                pub $name: Option<$ty>,
            )*
        }

        impl OwnQuotas {
            /// The names of the quotas.
            pub const NAMES: &[&'static str] = &[$(stringify!($name)),*];

            /// The quotas of the org, if `others` hold for what is not set here.
            pub fn over(&self, others: &QuotaSettings) -> QuotaSettings {
                QuotaSettings { $( $name: self.$name.unwrap_or(others.$name), )* }
            }

            fn read_fields(raw: &Raw) -> Result<Self, BadValue> {
                let fields = Fields::of::<Self>(raw, "an org", Self::NAMES)?;
                let mut faults = Faults::default();
                $( let $name = faults.take(fields.read::<$ty>(stringify!($name))).flatten(); )*
                faults.joined().map_or(Ok(Self { $($name),* }), Err)
            }

            /// The quotas that are set, each with its value as TOML.
            pub fn set(&self) -> Vec<(&'static str, String)> {
                let mut set = Vec::new();
                $( set.extend(self.$name.as_ref().map(|value| (stringify!($name), value.show()))); )*
                set
            }

            /// Sets one from text: TOML if it is TOML, else text, as in `--set`. Nothing is set if `name` is none
            /// of [`OwnQuotas::NAMES`].
            pub fn set_from(&mut self, name: &str, text: &str) -> Result<(), String> {
                let raw = Raw::parse(text).unwrap_or_else(|_| Raw::text(text));
                match name {
                    $( stringify!($name) => {
                        let read = <$ty as Setting>::read(&raw).map_err(|fault| fault.reason)?;
                        self.$name = Some(read);
                    } )*
                    _ => {}
                }
                Ok(())
            }
        }
    };
}

own_quotas! {
    connections: Option<usize>,
    publish_events_per_second: Option<usize>,
    publish_bytes_per_second: Option<ByteSize>,
    stored_bytes: Option<ByteSize>,
    history_bytes_per_second: Option<ByteSize>,
    filters: usize,
    compressors: Option<usize>,
    egress_bytes_per_second: Option<ByteSize>,
}

impl Setting for OwnQuotas {
    fn kind() -> String {
        "a table with keys of `limits.org`, such as `connections`".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        Self::read_fields(raw)
    }

    fn show(&self) -> String {
        let fields = self.set().into_iter().map(|(name, value)| format!("{name} = {value}"));
        format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
    }
}

impl Setting for OrgTables {
    fn kind() -> String {
        "tables `[orgs.NAME]`, each with keys of `limits.org`".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let Value::Table(tables) = &raw.value else { return Err(mismatch::<Self>(raw)) };
        let mut faults = Faults::default();
        let mut orgs = BTreeMap::new();
        for (name, span, table) in tables {
            let of_org = |fault: BadValue| {
                fault.map(|fault| BadValue { reason: format!("`{name}`: {}", fault.reason), ..fault })
            };
            let org = OrgId::parse(name);
            let org = org.map_err(|error| {
                BadValue::new(format!("{} is no name of an org: {error}", quoted(name))).at(span)
            });
            let read = OwnQuotas::read(table).map_err(|fault| of_org(fault.at(&table.span)));
            if let (Some(org), Some(read)) = (faults.take(org), faults.take(read)) {
                orgs.insert(org, read);
            }
        }
        faults.joined().map_or(Ok(Self(orgs)), Err)
    }

    /// The lines below `[orgs]`, or an empty table.
    fn show(&self) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let lines = self.0.iter().map(|(org, own)| format!("{} = {}", quoted(org.as_str()), own.show()));
        lines.collect::<Vec<_>>().join("\n")
    }
}
