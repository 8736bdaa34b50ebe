//! The orgs that an API key may publish to: all, or some by name or by the beginning of their names.

use std::{collections::BTreeSet, fmt};

use tidegate_protocol::OrgId;

/// Orgs that an API key covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Orgs {
    /// Every one.
    All,
    /// Some.
    Some {
        /// These.
        named: BTreeSet<OrgId>,
        /// And those whose names begin with one of these.
        prefixes: BTreeSet<OrgId>,
    },
}

impl Orgs {
    /// Reads `["*"]`, or a list of names and of prefixes with a `*` after them. The error continues a sentence
    /// that begins with the field's name.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut named, mut prefixes, mut is_all) = (BTreeSet::new(), BTreeSet::new(), false);
        for text in texts {
            match text.strip_suffix('*') {
                Some("") => is_all = true,
                // The beginning of a name is a name.
                Some(prefix) => drop(prefixes.insert(name(prefix, text)?)),
                None => drop(named.insert(name(text, text)?)),
            }
        }
        match (is_all, named.is_empty() && prefixes.is_empty()) {
            (false, true) => Err("is empty, which grants nothing".to_owned()),
            (true, true) => Ok(Orgs::All),
            (true, false) => Err("has \"*\" beside other names; it must stand alone".to_owned()),
            (false, false) => Ok(Orgs::Some { named, prefixes }),
        }
    }

    /// Whether `org` is among them.
    pub fn covers(&self, org: &OrgId) -> bool {
        match self {
            Orgs::All => true,
            Orgs::Some { named, prefixes } => {
                named.contains(org) || prefixes.iter().any(|prefix| org.as_str().starts_with(prefix.as_str()))
            }
        }
    }

    /// The only one, if they are one by its name.
    pub fn only(&self) -> Option<&OrgId> {
        match self {
            Orgs::Some { named, prefixes } if prefixes.is_empty() && named.len() == 1 => named.first(),
            _ => None,
        }
    }

    /// As [`Orgs::parse`] reads them.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Orgs::All => vec!["*".to_owned()],
            Orgs::Some { named, prefixes } => {
                let named = named.iter().map(OrgId::to_string);
                named.chain(prefixes.iter().map(|prefix| format!("{prefix}*"))).collect()
            }
        }
    }
}

impl From<OrgId> for Orgs {
    /// One org by its name.
    fn from(org: OrgId) -> Self {
        Orgs::Some { named: BTreeSet::from([org]), prefixes: BTreeSet::new() }
    }
}

/// How many orgs a line for people names.
const SHOWN: usize = 3;

impl fmt::Display for Orgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.texts();
        f.write_str(&texts[..texts.len().min(SHOWN)].join(","))?;
        match texts.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, ",+{more}"),
        }
    }
}

fn name(text: &str, whole: &str) -> Result<OrgId, String> {
    OrgId::parse(text).map_err(|_| {
        let whole = whole.escape_debug();
        format!("has \"{whole}\"; an org must be {}, and a `*` may stand only at the end", OrgId::RULE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_covers_names_prefixes_or_all() {
        let org = |name| OrgId::parse(name).expect("a name");
        for (texts, covered, others) in [
            (&["*"][..], &["a", "acme-1", "_"][..], &[][..]),
            (&["acme"], &["acme"], &["acme-1", "Acme", "acm"]),
            (&["acme-*"], &["acme-", "acme-1", "acme-1-2"], &["acme", "acmecorp", "Acme-1", "x-acme-1"]),
            (&["b", "a", "c-*", "b"], &["a", "b", "c-x"], &["c", "d", "ab"]),
        ] {
            let orgs = Orgs::parse(texts.iter().copied()).expect("orgs");
            for name in covered {
                assert!(orgs.covers(&org(name)), "{texts:?} {name}");
            }
            for name in others {
                assert!(!orgs.covers(&org(name)), "{texts:?} {name}");
            }
            let again = Orgs::parse(orgs.texts().iter().map(String::as_str)).expect("orgs");
            assert_eq!(again, orgs, "they are written as they are read");
        }
        let only = |text| Orgs::parse([text]).expect("orgs").only().map(OrgId::to_string);
        assert_eq!((only("acme"), only("acme*"), only("*")), (Some("acme".into()), None, None));
    }

    #[test]
    fn other_texts_are_refused() {
        for (texts, reason) in [
            (&[][..], "is empty"),
            (&[""], "has \"\""),
            (&["*", "acme"], "must stand alone"),
            (&["a*b"], "has \"a*b\""),
            (&["**"], "has \"**\""),
            (&[".x*"], "has \".x*\""),
            (&["a b"], "has \"a b\""),
        ] {
            let error = Orgs::parse(texts.iter().copied()).expect_err("refused");
            assert!(error.contains(reason), "{texts:?}: {error}");
        }
    }

    #[test]
    fn a_line_names_a_few() {
        let shown = |texts: &[&str]| Orgs::parse(texts.iter().copied()).expect("orgs").to_string();
        assert_eq!(shown(&["*"]), "*");
        assert_eq!(shown(&["a", "b-*"]), "a,b-*");
        assert_eq!(shown(&["a", "b", "c", "d", "e"]), "a,b,c,+2");
    }
}
