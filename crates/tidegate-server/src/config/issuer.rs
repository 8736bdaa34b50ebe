//! An entry of `auth.issuers`: who signs tokens, by which keys, and for which orgs it may speak.

use std::{collections::BTreeSet, fmt};

use tidegate_protocol::OrgId;

use super::{
    choice::JwtAlgorithm,
    fields::Fields,
    jwt_key::JwtKey,
    value::{BadValue, Faults, Raw, Setting, Value, mismatch, quoted},
};

const FIELDS: [&str; 6] = ["issuer", "audience", "algorithms", "orgs", "keys", "jwks"];

/// A list of audiences that is longer is a slip.
const AUDIENCES_MAX: usize = 32;

/// A party that signs subscribers' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The text that its tokens have as `iss`, compared byte for byte.
    pub name: String,
    /// Its tokens name one of these as `aud`; if there are none, they must name none.
    pub audiences: Vec<String>,
    /// What its tokens may be signed with.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The orgs that it may speak for.
    pub orgs: OrgScope,
    /// Its keys, which are never tried for another's tokens.
    pub keys: IssuerKeys,
}

/// Orgs that an issuer may speak for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrgScope {
    /// Every one.
    All,
    /// These.
    Only(BTreeSet<OrgId>),
}

impl OrgScope {
    /// Whether `org` is among them.
    pub fn admits(&self, org: &OrgId) -> bool {
        match self {
            OrgScope::All => true,
            OrgScope::Only(orgs) => orgs.contains(org),
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKeys {
    /// The configuration.
    Listed(Vec<JwtKey>),
    /// The issuer itself, which publishes them.
    Jwks(JwksUrl),
}

/// The address of a JSON Web Key Set.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl(reqwest::Url);

impl JwksUrl {
    /// The address.
    pub fn url(&self) -> &reqwest::Url {
        &self.0
    }

    /// Whether it is of this machine, so that it may be without TLS.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Setting for JwksUrl {
    fn kind() -> String {
        "an address such as \"https://id.example.com/.well-known/jwks.json\"".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let Value::Text(text) = &raw.value else { return Err(mismatch::<Self>(raw)) };
        // What cannot be read may hold a password, so it is not shown.
        let url: reqwest::Url =
            text.parse().map_err(|_| BadValue::new(format!("must be {}", Self::kind())))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadValue::new("must not hold credentials: a key set is public"));
        }
        if url.fragment().is_some() {
            return Err(BadValue::new("must not have a fragment (`#`), which no server is sent"));
        }
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_loopback(&url) => Ok(Self(url)),
            "http" => Err(BadValue::new(
                "must be https: whoever stands between could put keys of their own (http is for loopback alone)",
            )),
            _ => Err(BadValue::new(format!("must be {}", Self::kind()))),
        }
    }

    fn show(&self) -> String {
        quoted(self.0.as_str())
    }
}

fn orgs(raw: &Raw) -> Result<OrgScope, BadValue> {
    let names = Vec::<String>::read(raw)?;
    match names.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Err(BadValue::new("is empty, so that no token would be taken; [\"*\"] is every org")),
        ["*"] => Ok(OrgScope::All),
        names if names.contains(&"*") => {
            Err(BadValue::new("has \"*\" beside other names; it must stand alone"))
        }
        names => {
            let mut faults = Faults::default();
            let parse = |name: &str| {
                OrgId::parse(name).map_err(|error| BadValue::new(format!("{}: {error}", quoted(name))))
            };
            let orgs = names.iter().filter_map(|name| faults.take(parse(name))).collect();
            faults.joined().map_or(Ok(OrgScope::Only(orgs)), Err)
        }
    }
}

fn audiences(raw: &Raw) -> Result<Vec<String>, BadValue> {
    let names = match &raw.value {
        Value::Text(one) => vec![one.clone()],
        _ => Vec::<String>::read(raw).map_err(|_| BadValue::new("must be text or a list of texts"))?,
    };
    if names.is_empty() || names.len() > AUDIENCES_MAX || names.iter().any(String::is_empty) {
        return Err(BadValue::new(format!("must be 1 to {AUDIENCES_MAX} texts, none of them empty")));
    }
    Ok(names)
}

fn missing(name: &str) -> BadValue {
    BadValue::new(format!("an issuer has no `{name}`, which it must have"))
}

fn name(fields: &Fields<'_>) -> Result<String, BadValue> {
    let name = fields.text("issuer")?.ok_or_else(|| missing("issuer"))?;
    if name.is_empty() || name.len() > 1024 {
        return Err(fields.fault("issuer", "must be 1 to 1024 bytes, exactly as tokens have it in `iss`"));
    }
    Ok(name)
}

fn algorithms(fields: &Fields<'_>) -> Result<Vec<JwtAlgorithm>, BadValue> {
    let algorithms = fields.read::<Vec<JwtAlgorithm>>("algorithms")?.ok_or_else(|| missing("algorithms"))?;
    if algorithms.is_empty() {
        return Err(fields.fault("algorithms", "is empty, so that no token would be taken"));
    }
    Ok(algorithms)
}

fn keys(fields: &Fields<'_>) -> Result<IssuerKeys, BadValue> {
    match (fields.read::<Vec<JwtKey>>("keys")?, fields.read::<JwksUrl>("jwks")?) {
        (Some(keys), None) if keys.is_empty() => {
            Err(fields.fault("keys", "is empty, so that no token would be taken"))
        }
        (Some(keys), None) => Ok(IssuerKeys::Listed(keys)),
        (None, Some(url)) => Ok(IssuerKeys::Jwks(url)),
        (Some(_), Some(_)) => {
            Err(BadValue::new("an issuer has both `keys` and `jwks`; it must have one of them"))
        }
        (None, None) => {
            Err(BadValue::new("an issuer has neither `keys` nor `jwks`; it must have one of them"))
        }
    }
}

/// Checks that the keys may be used with `algorithms`.
fn fit(fields: &Fields<'_>, algorithms: &[JwtAlgorithm], keys: &IssuerKeys) -> Result<(), BadValue> {
    match keys {
        IssuerKeys::Listed(keys) => match keys.iter().find(|key| !algorithms.contains(&key.algorithm)) {
            Some(key) => {
                let word = key.algorithm.word();
                Err(fields.fault("keys", format!("a key is for {word}, which `algorithms` does not list")))
            }
            None => Ok(()),
        },
        IssuerKeys::Jwks(_) if algorithms.contains(&JwtAlgorithm::Hs256) => {
            let reason = "lists HS256, whose keys are secrets, and `jwks` is public";
            Err(fields.fault("algorithms", reason))
        }
        IssuerKeys::Jwks(_) => Ok(()),
    }
}

impl Setting for IssuerSettings {
    const SECRET: bool = true;

    fn kind() -> String {
        "a table with `issuer`, `algorithms`, `orgs`, `keys` or `jwks`, and optionally `audience`".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let fields = Fields::of::<Self>(raw, "an issuer", &FIELDS)?;
        let mut faults = Faults::default();
        let name = faults.take(name(&fields));
        let audiences = match fields.raw("audience") {
            None => Some(Vec::new()),
            Some(raw) => faults.take(audiences(raw).map_err(|fault| fields.at("audience", fault))),
        };
        let algorithms = faults.take(algorithms(&fields));
        let orgs = faults.take(
            (fields.raw("orgs").ok_or_else(|| missing("orgs")))
                .and_then(|scope| orgs(scope).map_err(|fault| fields.at("orgs", fault))),
        );
        let keys = faults.take(keys(&fields));
        if let (Some(algorithms), Some(keys)) = (&algorithms, &keys)
            && let Err(fault) = fit(&fields, algorithms, keys)
        {
            faults.add(fault);
        }
        match (faults.joined(), name, audiences, algorithms, orgs, keys) {
            (None, Some(name), Some(audiences), Some(algorithms), Some(orgs), Some(keys)) => {
                Ok(Self { name, audiences, algorithms, orgs, keys })
            }
            (fault, ..) => Err(fault.unwrap_or_else(|| unreachable!("a part that was not read has a fault"))),
        }
    }

    fn show(&self) -> String {
        let mut shown = vec![format!("issuer = {}", quoted(&self.name))];
        if !self.audiences.is_empty() {
            shown.push(format!("audience = {}", self.audiences.show()));
        }
        shown.push(format!("algorithms = {}", self.algorithms.show()));
        shown.push(match &self.orgs {
            OrgScope::All => "orgs = [\"*\"]".to_owned(),
            OrgScope::Only(orgs) => {
                format!(
                    "orgs = [{}]",
                    orgs.iter().map(|org| quoted(org.as_str())).collect::<Vec<_>>().join(", ")
                )
            }
        });
        shown.push(match &self.keys {
            IssuerKeys::Listed(keys) => format!("keys = {}", keys.show()),
            IssuerKeys::Jwks(url) => format!("jwks = {}", url.show()),
        });
        format!("{{ {} }}", shown.join(", "))
    }
}
