//! The development directory: what `tidegate dev` makes once and finds again.
//!
//! One file of it, `dev.toml` (0600), holds what production never keeps in plain: a secret, a token, a
//! publish key. The feed of made-up events is not here.

use std::{
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tidegate_core::{Filter, OrgId, UnixMillis, UserId};

use crate::{
    auth::{KeysFile, KeysFileError, MintError, Publishers, TokenClaims, TokenVerifier, mint, replace_file},
    config::{Config, Sources},
};

/// Where `dev` keeps its things unless told otherwise.
pub const DEFAULT_DIR: &str = ".tidegate-dev";
const ORG: &str = "dev";
const USER: &str = "dev";
const YEAR_MILLIS: u64 = 365 * 86_400_000;

/// What the directory keeps, and what other commands take from it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The development org.
    pub org: OrgId,
    /// Signs the token.
    secret: String,
    /// Reads all services.
    #[serde(default)]
    pub token: String,
    /// Publishes to all services.
    #[serde(default)]
    pub publish_key: String,
    /// Where the last run listened.
    #[serde(default)]
    pub url: Option<String>,
    /// Where its operators' listener was.
    #[serde(default)]
    pub admin_url: Option<String>,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The file system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `dev.toml` is not what `dev` wrote.
    #[error("read {}: {reason}; remove the file to start afresh", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The keys' file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysFileError),
    /// No token could be made.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// The configuration would let strangers in.
    #[error(
        "{key}: \"{address}\" is not on loopback; `tidegate dev` hands out its token to everybody who can connect, so it stays there (`tidegate serve` is for others)"
    )]
    NotLoopback {
        /// Which key.
        key: &'static str,
        /// Its value.
        address: std::net::SocketAddr,
    },
}

/// The development directory, opened.
#[derive(Debug)]
pub struct DevDir {
    dir: PathBuf,
    saved: Saved,
}

/// A development run: its org, token and key are good for the configuration it was made with.
#[derive(Debug)]
pub struct DevSession {
    dir: PathBuf,
    saved: Saved,
    json: bool,
}

fn file_of(dir: &Path) -> PathBuf {
    dir.join("dev.toml")
}

fn read(dir: &Path) -> Result<Option<Saved>, DevError> {
    let path = file_of(dir);
    match std::fs::read_to_string(&path) {
        // The text holds secrets, so only the parser's words go into the error, never the line.
        Ok(text) => toml::from_str(&text)
            .map(Some)
            .map_err(|error| DevError::Malformed { path, reason: error.message().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DevError::Io { action: "read", path, source }),
    }
}

fn write(dir: &Path, saved: &Saved) -> Result<(), DevError> {
    let path = file_of(dir);
    let text = toml::to_string(saved)
        .map_err(|error| DevError::Malformed { path: path.clone(), reason: error.to_string() })?;
    let text =
        format!("# Written by `tidegate dev`. For development only: these are secrets in plain.\n\n{text}");
    replace_file(&path, dir, &text).map_err(|source| DevError::Io { action: "write", path, source })
}

impl Saved {
    /// What a `dev` directory keeps; `None` where there is none.
    pub fn find(dir: &Path) -> Result<Option<Self>, DevError> {
        read(dir)
    }
}

impl DevDir {
    /// Opens `dir`, or makes it.
    pub fn open(dir: PathBuf) -> Result<Self, DevError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DevError::Io { action, path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io("create", &dir))?;
        if let Some(saved) = read(&dir)? {
            return Ok(Self { dir, saved });
        }
        // It lies in the middle of somebody's project, and must not be committed there.
        let ignore = dir.join(".gitignore");
        std::fs::write(&ignore, "*\n").map_err(io("write", &ignore))?;
        let mut random = [0u8; 32];
        getrandom::fill(&mut random)
            .map_err(|error| io("make a secret for", &dir)(io::Error::other(error.to_string())))?;
        let secret = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let org = OrgId::parse(ORG)
            .map_err(|error| DevError::Malformed { path: dir.clone(), reason: error.to_string() })?;
        let saved = Saved {
            org,
            secret,
            token: String::new(),
            publish_key: String::new(),
            url: None,
            admin_url: None,
        };
        write(&dir, &saved)?;
        Ok(Self { dir, saved })
    }

    /// What a development gateway is told in place of the defaults; files and flags still win.
    pub fn configure(&self, sources: &mut Sources) {
        sources.command("dev", "listen.public", "127.0.0.1:8080");
        sources.command("dev", "listen.admin", "127.0.0.1:8081");
        sources.command(
            "dev",
            "log.dir",
            toml::Value::from(self.dir.to_string_lossy().into_owned()).to_string(),
        );
        sources.command(
            "dev",
            "auth.keys",
            format!("[{{ kid = \"dev\", secret = \"{}\" }}]", self.saved.secret),
        );
    }

    /// Makes sure that the token and the publish key are good for `config`, making those that are not.
    pub fn prepare(mut self, config: &Config, json: bool, now: UnixMillis) -> Result<DevSession, DevError> {
        for (key, address) in [("listen.public", config.listen.public), ("listen.admin", config.listen.admin)]
        {
            if !address.ip().is_loopback() {
                return Err(DevError::NotLoopback { key, address });
            }
        }
        let keys = KeysFile::at(config.keys_file());
        let publishers = Publishers::open(keys.clone(), now)?;
        if publishers.verify(&self.saved.publish_key, &self.saved.org, now).is_err() {
            let made =
                keys.create(self.saved.org.clone(), &Filter::all(), Some("tidegate dev".to_owned()), now)?;
            self.saved.publish_key = made.plain;
        }
        let tokens = TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes());
        // With days to spare, so that it does not end in the middle of a session.
        let soon = now + YEAR_MILLIS / 12;
        if tokens.verify(&self.saved.token, soon).and_then(|grant| grant.check_org(&self.saved.org)).is_err()
            && let Some(key) = config.auth.keys.first()
        {
            let user = UserId::parse(USER)
                .map_err(|error| DevError::Malformed { path: self.dir.clone(), reason: error.to_string() })?;
            let claims = TokenClaims {
                org: self.saved.org.clone(),
                user,
                services: Filter::all(),
                issued_at: now,
                expires_at: now + YEAR_MILLIS,
            };
            self.saved.token = mint(&config.auth, key, &claims)?;
        }
        write(&self.dir, &self.saved)?;
        Ok(DevSession { dir: self.dir, saved: self.saved, json })
    }
}

impl DevSession {
    /// The development org.
    pub fn org(&self) -> &OrgId {
        &self.saved.org
    }

    /// A token for all its services.
    pub fn token(&self) -> &str {
        &self.saved.token
    }

    /// A key that publishes to all its services.
    pub fn publish_key(&self) -> &str {
        &self.saved.publish_key
    }

    /// Says on standard output that the gateway serves, and where; other commands find it in the
    /// directory.
    pub fn announce(&mut self, url: &str, admin_url: &str) -> Result<(), DevError> {
        self.saved.url = Some(url.to_owned());
        self.saved.admin_url = Some(admin_url.to_owned());
        write(&self.dir, &self.saved)?;
        let Saved { org, token, publish_key, .. } = &self.saved;
        let text = if self.json {
            serde_json::json!({
                "url": url, "admin_url": admin_url, "org": org, "token": token, "publish_key": publish_key,
            })
            .to_string()
        } else {
            // The page takes the token out of the fragment, which no browser sends anywhere.
            format!(
                "\n  Tidegate serves.\n\n  Open      {url}/#org={org}&token={token}\n  Operators {admin_url}/metrics\n  Org       {org}\n\n  \
                 Try: tidegate publish --service hello --event greeting --data '{{\"text\":\"hi\"}}'\n       \
                 tidegate tail\n"
            )
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|source| DevError::Io {
            action: "write to",
            path: "standard output".into(),
            source,
        })
    }
}
