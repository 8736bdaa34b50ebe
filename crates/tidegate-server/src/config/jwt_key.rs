//! A key that verifies subscribers' tokens: an entry of `auth.keys` or of an issuer's `keys`. A secret
//! or a public key, inline or from a file, with the one algorithm that it is for.

use std::{fmt, path::PathBuf};

use super::{
    choice::JwtAlgorithm,
    fields::{Fields, read_file},
    value::{BadValue, Faults, Raw, Setting, quoted},
};
use crate::config::{LONGEST_PEM, PublicKey};

/// RFC 7518 3.2: a key for HS256 is at least as long as its hash.
const SHORTEST_SECRET: usize = 32;
const LONGEST_SECRET: u64 = 64 * 1024;
const FIELDS: [&str; 6] = ["kid", "algorithm", "secret", "secret_file", "public_key", "public_key_file"];
const MATERIAL: [&str; 4] = ["secret", "secret_file", "public_key", "public_key_file"];

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

/// What a key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// Bytes that sign and verify (HS256).
    Secret(Secret),
    /// A key that only verifies.
    Public(PublicKey),
}

/// A key that verifies subscribers' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    /// The name that tokens call it by. Where only one side has a name, the signature decides.
    pub kid: Option<String>,
    /// How it signs; never taken from a token.
    pub algorithm: JwtAlgorithm,
    /// The key itself.
    pub material: KeyMaterial,
    /// The file that it was read from.
    pub file: Option<PathBuf>,
}

impl JwtKey {
    /// The secret, if it is one.
    pub fn secret(&self) -> Option<&Secret> {
        match &self.material {
            KeyMaterial::Secret(secret) => Some(secret),
            KeyMaterial::Public(_) => None,
        }
    }
}

fn secret(mut bytes: Vec<u8>, is_file: bool) -> Result<KeyMaterial, String> {
    // Editors and `echo` end a file with a line break that nobody means to be part of the secret.
    if is_file && bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    // RFC 8725 2.1: whoever verifies by a public text as if it were a secret takes forged tokens.
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
        return Err("the secret is PEM text, so a key pair's; set `algorithm` and give its public half as \
             `public_key` or `public_key_file`"
            .to_owned());
    }
    let length = bytes.len();
    if length < SHORTEST_SECRET {
        let unit = if length == 1 { "byte" } else { "bytes" };
        return Err(format!(
            "the secret has {length} {unit}; HS256 needs {SHORTEST_SECRET} or more \
             (`openssl rand -hex 32` makes one)"
        ));
    }
    Ok(KeyMaterial::Secret(Secret(bytes)))
}

fn kid(fields: &Fields<'_>) -> Result<Option<String>, BadValue> {
    let kid = fields.text("kid")?;
    if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > 128) {
        return Err(fields.fault("kid", "must be 1 to 128 bytes"));
    }
    Ok(kid)
}

/// The field that holds the key.
fn material_name(fields: &Fields<'_>) -> Result<&'static str, BadValue> {
    let given: Vec<&str> = MATERIAL.into_iter().filter(|name| fields.raw(name).is_some()).collect();
    match given.as_slice() {
        [name] => Ok(name),
        [] => Err(BadValue::new(
            "a key has none of `secret`, `secret_file`, `public_key` and `public_key_file`; it must have one \
             of them",
        )),
        [one, another, ..] => {
            Err(BadValue::new(format!("a key has both `{one}` and `{another}`; it must have one of them")))
        }
    }
}

/// The key in the field `name`, and the file that it was read from.
fn material(
    fields: &Fields<'_>,
    name: &str,
    algorithm: JwtAlgorithm,
) -> Result<(KeyMaterial, Option<PathBuf>), BadValue> {
    let is_secret = name.starts_with("secret");
    if is_secret != (algorithm == JwtAlgorithm::Hs256) {
        let (word, right) = match algorithm {
            JwtAlgorithm::Hs256 => ("HS256", "`secret` or `secret_file`; a public key needs `algorithm`"),
            other => (other.word(), "`public_key` or `public_key_file`"),
        };
        return Err(fields.fault(name, format!("{word} takes {right}")));
    }
    let text = fields.text(name)?.unwrap_or_default();
    let file = name.ends_with("_file").then(|| PathBuf::from(&text));
    let bytes = match &file {
        Some(path) => read_file(path, if is_secret { LONGEST_SECRET } else { LONGEST_PEM })
            .map_err(|reason| fields.fault(name, reason))?,
        None => text.into_bytes(),
    };
    let material = if is_secret {
        secret(bytes, file.is_some())
    } else {
        let holds = |reason: String| match &file {
            Some(path) => format!("{} {reason}", path.display()),
            None => reason,
        };
        PublicKey::from_pem(algorithm, &bytes).map(KeyMaterial::Public).map_err(holds)
    };
    Ok((material.map_err(|reason| fields.fault(name, reason))?, file))
}

impl Setting for JwtKey {
    const SECRET: bool = true;

    fn kind() -> String {
        "a table with `secret` or `secret_file`, or `algorithm` and `public_key` or `public_key_file`, and \
         optionally `kid`"
            .to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, BadValue> {
        let fields = Fields::of::<Self>(raw, "a key", &FIELDS)?;
        let mut faults = Faults::default();
        let kid = faults.take(kid(&fields));
        let algorithm = faults.take(fields.read("algorithm"));
        let name = faults.take(material_name(&fields));
        let material = match (algorithm, name) {
            (Some(algorithm), Some(name)) => {
                let algorithm = algorithm.unwrap_or(JwtAlgorithm::Hs256);
                faults.take(material(&fields, name, algorithm)).map(|material| (algorithm, material))
            }
            _ => None,
        };
        match (kid, material) {
            (Some(kid), Some((algorithm, (material, file)))) => Ok(Self { kid, algorithm, material, file }),
            _ => Err(faults.joined().unwrap_or_else(|| unreachable!("a part that was not read has a fault"))),
        }
    }

    fn show(&self) -> String {
        let mut shown = Vec::new();
        if let Some(kid) = &self.kid {
            shown.push(format!("kid = {}", quoted(kid)));
        }
        shown.push(format!("algorithm = {}", self.algorithm.show()));
        shown.push(match (&self.material, &self.file) {
            (KeyMaterial::Secret(_), Some(path)) => format!("secret_file = {}", path.show()),
            (KeyMaterial::Secret(_), None) => "secret = \"(redacted)\"".to_owned(),
            (KeyMaterial::Public(_), Some(path)) => format!("public_key_file = {}", path.show()),
            (KeyMaterial::Public(_), None) => "public_key = \"(not shown)\"".to_owned(),
        });
        format!("{{ {} }}", shown.join(", "))
    }
}
