//! One entry of `auth.keys`: a secret that signs subscribers' tokens, inline or from a file.

use std::{fmt, io::Read, path::PathBuf};

use super::{
    choice::JwtAlgorithm,
    closest::did_you_mean,
    value::{Fault, Raw, Setting, Value, mismatch, quoted},
};

/// RFC 7518 3.2: a key for HS256 is at least as long as its hash.
const SHORTEST_SECRET: usize = 32;
const LONGEST_SECRET: u64 = 64 * 1024;
const FIELDS: [&str; 4] = ["kid", "algorithm", "secret", "secret_file"];

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes bytes into keeping.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for who signs or verifies.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

/// A key that signs subscribers' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    /// The name that tokens call it by. Where only one side has a name, the signature decides.
    pub kid: Option<String>,
    /// How it signs.
    pub algorithm: JwtAlgorithm,
    /// The secret itself.
    pub secret: Secret,
    /// The file that it was read from.
    pub secret_file: Option<PathBuf>,
}

fn read_secret(path: &PathBuf) -> Result<Secret, String> {
    let refuse = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(refuse)?;
    file.take(LONGEST_SECRET + 1).read_to_end(&mut bytes).map_err(refuse)?;
    if bytes.len() as u64 > LONGEST_SECRET {
        return Err(format!("{} is longer than 64KiB", path.display()));
    }
    // Editors and `echo` end a file with a line break that nobody means to be part of the secret.
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(Secret(bytes))
}

impl Setting for JwtKey {
    const SECRET: bool = true;

    fn kind() -> String {
        "a table with `secret` or `secret_file`, and optionally `kid` and `algorithm`".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, Fault> {
        let Value::Table(fields) = &raw.value else { return Err(mismatch::<Self>(raw)) };
        if let Some((name, span, _)) = fields.iter().find(|(name, ..)| !FIELDS.contains(&name.as_str())) {
            let hint = did_you_mean(name, FIELDS.into_iter());
            return Err(Fault {
                span: Some(span.clone()),
                reason: format!("a key has no field {}{hint}", quoted(name)),
            });
        }
        let field = |wanted: &str| fields.iter().find(|(name, ..)| name == wanted).map(|(.., value)| value);
        let at = |name: &str, fault: Fault| Fault {
            span: fault.span.or_else(|| field(name).map(|value| value.span.clone())),
            reason: format!("`{name}`: {}", fault.reason),
        };
        let text = |name: &str| match field(name).map(|raw| &raw.value) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            // Not shown: it may be a secret.
            Some(_) => Err(at(name, Fault::new("must be text in quotes"))),
        };
        let kid = text("kid")?;
        if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > 128) {
            return Err(at("kid", Fault::new("must be 1 to 128 bytes")));
        }
        let algorithm = match field("algorithm") {
            None => JwtAlgorithm::Hs256,
            Some(value) => JwtAlgorithm::read(value).map_err(|fault| at("algorithm", fault))?,
        };
        let secret_file = text("secret_file")?.map(PathBuf::from);
        let (origin, secret) = match (text("secret")?, &secret_file) {
            (Some(secret), None) => ("secret", Secret::new(secret)),
            (None, Some(path)) => {
                ("secret_file", read_secret(path).map_err(|reason| at("secret_file", Fault::new(reason)))?)
            }
            (Some(_), Some(_)) => {
                return Err(Fault::new(
                    "a key has both `secret` and `secret_file`; it must have one of them",
                ));
            }
            (None, None) => {
                return Err(Fault::new(
                    "a key has neither `secret` nor `secret_file`; it must have one of them",
                ));
            }
        };
        let length = secret.0.len();
        if length < SHORTEST_SECRET {
            let bytes = if length == 1 { "byte" } else { "bytes" };
            let reason = format!(
                "the secret has {length} {bytes}; HS256 needs {SHORTEST_SECRET} or more \
                 (`openssl rand -hex 32` makes one)"
            );
            return Err(at(origin, Fault::new(reason)));
        }
        Ok(Self { kid, algorithm, secret, secret_file })
    }

    fn show(&self) -> String {
        let mut fields = Vec::new();
        if let Some(kid) = &self.kid {
            fields.push(format!("kid = {}", quoted(kid)));
        }
        fields.push(format!("algorithm = {}", self.algorithm.show()));
        fields.push(match &self.secret_file {
            Some(path) => format!("secret_file = {}", path.show()),
            None => "secret = \"(redacted)\"".to_owned(),
        });
        format!("{{ {} }}", fields.join(", "))
    }
}
