//! The development directory, which `tidegate dev` creates once and finds again.
//!
//! Its file `dev.toml` (0600) holds in plain text what production never does: a secret, a token, a publish
//! key. The made-up events are in `feed`.

use std::{
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tidegate_protocol::{Filter, OrgId, UnixMillis, UserId, time::millis};

use crate::{
    auth::{
        KeysFile, KeysFileError, MintError, Orgs, Publishers, TokenClaims, TokenVerifier, mint, replace_file,
    },
    config::{Config, Origin, Sources},
};

/// Where `dev` keeps its files by default.
pub const DEFAULT_DIR: &str = ".tidegate-dev";
const ORG: &str = "dev";
const USER: &str = "dev";
/// How long its token is valid, unless `auth.max_token_life` is shorter.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// The content of `dev.toml`, which other commands read too.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The development org.
    pub org: OrgId,
    /// The secret that signs the token.
    secret: String,
    /// A token for all services; made at the first start.
    pub token: Option<String>,
    /// A publish key for all services; made at the first start.
    pub publish_key: Option<String>,
    /// The address of the last run.
    pub url: Option<String>,
    /// The address of its operators' listener.
    pub admin_url: Option<String>,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The file system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// The action, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// `dev.toml` was not written by `dev`.
    #[error("read {}: {reason}; remove the file to start again", path.display())]
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
    /// The configuration has only public keys.
    #[error(
        "auth.keys has no secret (HS256), which `tidegate dev` needs to make its token; without auth.keys it uses its own"
    )]
    NoSecret,
    /// The configuration would let other machines connect.
    #[error(
        "{key}: \"{address}\" is not on loopback; `tidegate dev` gives its token to everyone who can connect, so it must be (`tidegate serve` is for others)"
    )]
    NotLoopback {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        address: std::net::SocketAddr,
    },
}

/// What a reader of the file has to know to sign tokens of his own.
const SECRET_IS_TEXT: &str = "\
    # `secret` signs readers' tokens (HS256). It is text: sign with its 64 characters as they are, and do not\n\
    # decode them as hex.\n";

/// The development directory, opened.
pub struct DevDir {
    dir: PathBuf,
    saved: Saved,
}

/// A development run. Its org, token and key are valid for the configuration it was made with.
pub struct DevSession {
    dir: PathBuf,
    saved: Saved,
    token: String,
    publish_key: String,
    any_local_page: bool,
    json: bool,
}

macro_rules! debug_without_secrets {
    ($($Type:ident),*) => { $(
        impl std::fmt::Debug for $Type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($Type)).finish_non_exhaustive()
            }
        }
    )* };
}
debug_without_secrets!(Saved, DevDir, DevSession);

fn file_of(dir: &Path) -> PathBuf {
    dir.join("dev.toml")
}

fn read(dir: &Path) -> Result<Option<Saved>, DevError> {
    let path = file_of(dir);
    match std::fs::read_to_string(&path) {
        // The file holds secrets, so the error has only the parser's message, never the line.
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
    let text = format!(
        "# Written by `tidegate dev`. For development only: these are secrets in plain.\n{SECRET_IS_TEXT}\n{text}"
    );
    replace_file(&path, &text).map_err(|source| DevError::Io { action: "write", path, source })
}

impl Saved {
    /// The content of a `dev` directory; `None` if there is none.
    pub fn find(dir: &Path) -> Result<Option<Self>, DevError> {
        read(dir)
    }
}

impl DevDir {
    /// Opens `dir`, or creates it.
    pub fn open(dir: PathBuf) -> Result<Self, DevError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DevError::Io { action, path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io("create", &dir))?;
        if let Some(saved) = read(&dir)? {
            return Ok(Self { dir, saved });
        }
        // The directory is inside somebody's project and must not be committed.
        let ignore = dir.join(".gitignore");
        std::fs::write(&ignore, "*\n").map_err(io("write", &ignore))?;
        let mut random = [0u8; 32];
        getrandom::fill(&mut random)
            .map_err(|error| io("make a secret for", &dir)(io::Error::other(error.to_string())))?;
        let secret = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let org = OrgId::parse(ORG)
            .map_err(|error| DevError::Malformed { path: dir.clone(), reason: error.to_string() })?;
        let saved = Saved { org, secret, token: None, publish_key: None, url: None, admin_url: None };
        write(&dir, &saved)?;
        Ok(Self { dir, saved })
    }

    /// Settings of a development gateway that replace the defaults; files and flags still win.
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
        // The development servers of front ends choose their port (Vite: 5173).
        let local = Origin::any_of_loopback();
        let local: Vec<_> = local.iter().map(Origin::as_str).collect();
        sources.command("dev", "auth.origins", format!("{local:?}"));
    }

    /// Makes sure that the token and the publish key are valid for `config`, and makes new ones if not.
    pub fn prepare(mut self, config: &Config, json: bool, now: UnixMillis) -> Result<DevSession, DevError> {
        for (key, address) in [("listen.public", config.listen.public), ("listen.admin", config.listen.admin)]
        {
            if !address.ip().is_loopback() {
                return Err(DevError::NotLoopback { key, address });
            }
        }
        let keys = KeysFile::at(config.keys_file());
        let publishers = Publishers::open(keys.clone(), now)?;
        let org = self.saved.org.clone();
        let known = self.saved.publish_key.take();
        let covers_org =
            |key: &String| publishers.verify(key, now).is_ok_and(|key| key.for_org(&org).is_ok());
        let known = known.filter(covers_org);
        let publish_key = match known {
            Some(key) => key,
            None => {
                let name = Some("tidegate dev".to_owned());
                keys.create(&Orgs::from(org.clone()), &Filter::all(), name, now)?.plain
            }
        };
        let tokens = TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes());
        let life = millis(TOKEN_LIFE.min(config.auth.max_token_life));
        // With days to spare, so that it does not expire during a session.
        let soon = now + life / 4;
        let good = |token: &String| {
            // It may be from a time when tokens could be valid for longer.
            [now, soon]
                .into_iter()
                .all(|at| tokens.verify_at_hand(token, at).is_ok_and(|grant| grant.check_org(&org).is_ok()))
        };
        let secret = config.auth.keys.iter().find(|key| key.secret().is_some());
        let token = match (self.saved.token.take().filter(good), secret) {
            (Some(token), _) => token,
            (None, None) => return Err(DevError::NoSecret),
            (None, Some(key)) => {
                let user = UserId::parse(USER).map_err(|error| self.malformed(error))?;
                let (issued_at, expires_at) = (now, now + life);
                let services = Filter::all();
                let claims = TokenClaims { org: org.clone(), user, services, issued_at, expires_at };
                mint(&config.auth, key, &claims)?
            }
        };
        self.saved.publish_key = Some(publish_key.clone());
        self.saved.token = Some(token.clone());
        write(&self.dir, &self.saved)?;
        let any_local_page = config.auth.origins == Origin::any_of_loopback();
        Ok(DevSession { dir: self.dir, saved: self.saved, token, publish_key, any_local_page, json })
    }

    fn malformed(&self, error: impl std::fmt::Display) -> DevError {
        DevError::Malformed { path: file_of(&self.dir), reason: error.to_string() }
    }
}

impl DevSession {
    /// The development org.
    pub fn org(&self) -> &OrgId {
        &self.saved.org
    }

    /// A token for all its services.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A key that publishes to all its services.
    pub fn publish_key(&self) -> &str {
        &self.publish_key
    }

    /// Prints that the gateway is running, and where; stores the address in the directory for other commands.
    pub fn announce(&mut self, url: &str, admin_url: &str) -> Result<(), DevError> {
        self.saved.url = Some(url.to_owned());
        self.saved.admin_url = Some(admin_url.to_owned());
        write(&self.dir, &self.saved)?;
        let Self { saved: Saved { org, .. }, token, publish_key, any_local_page, .. } = &*self;
        let text = if self.json {
            serde_json::json!({
                "url": url, "admin_url": admin_url, "org": org, "token": token, "publish_key": publish_key,
            })
            .to_string()
        } else {
            // Other commands look in the default directory by themselves.
            let at = match self.dir == Path::new(DEFAULT_DIR) {
                true => String::new(),
                false => format!(" --data-dir '{}'", self.dir.display()),
            };
            let pages = match any_local_page {
                true => {
                    "any page of localhost may connect, whatever its port; \
                         with `tidegate serve`, only those that auth.origins lists"
                }
                false => "only pages that auth.origins lists may connect, as with `tidegate serve`",
            };
            let file = file_of(&self.dir);
            let file = file.display();
            // The token and the key are in the fragment, which browsers do not send.
            format!(
                "\n  Tidegate serves.\n\n  Open      {url}/#org={org}&token={token}&key={publish_key}\n  Operators {admin_url}/metrics\n  Org       {org}\n  \
                 Pages     {pages}\n  \
                 Secret    of tokens: `secret` in {file}; it is text, sign with its characters as they are, and do not decode them as hex\n\n  \
                 Try: tidegate publish{at} --service hello --event greeting --data '{{\"text\":\"hi\"}}'\n       \
                 tidegate tail{at}\n"
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Loaded, load};

    const NOW: UnixMillis = 1_800_000_000_000;

    fn configured(dir: &DevDir, sets: &[&str]) -> Loaded {
        let mut sources = Sources::default();
        sources.sets = sets.iter().map(|set| (*set).to_owned()).collect();
        dir.configure(&mut sources);
        load(&sources).expect("a configuration")
    }

    fn start(path: &Path, sets: &[&str], now: UnixMillis) -> DevSession {
        let dir = DevDir::open(path.to_owned()).expect("opened");
        let loaded = configured(&dir, sets);
        dir.prepare(&loaded.config, true, now).expect("prepared")
    }

    #[test]
    fn a_second_start_finds_everything_again() {
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("dev");
        let first = start(&path, &[], NOW);
        let second = start(&path, &[], NOW + 1000);
        assert_eq!((first.token(), first.publish_key()), (second.token(), second.publish_key()));
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(
            (mode(&path), mode(&path.join("dev.toml")), mode(&path.join("keys.toml"))),
            (0o700, 0o600, 0o600)
        );
        assert!(!format!("{first:?}").contains(first.token()));
        let loaded = configured(&DevDir::open(path.clone()).expect("opened"), &[]);
        assert_eq!(loaded.config.keys_file(), path.join("keys.toml"));
        let tokens = TokenVerifier::new(&loaded.config.auth, 8192);
        assert_eq!(tokens.verify_at_hand(first.token(), NOW).expect("a grant").filter(), &Filter::all());
        let publishers = Publishers::open(KeysFile::at(loaded.config.keys_file()), NOW).expect("opened");
        let key = publishers.verify(first.publish_key(), NOW).expect("a key");
        assert!(key.for_org(first.org()).is_ok());
    }

    #[test]
    fn what_is_no_longer_good_is_made_anew() {
        let temporary = tempfile::tempdir().expect("a directory");
        let first = start(temporary.path(), &[], NOW);
        let later = start(temporary.path(), &[], NOW + millis(TOKEN_LIFE) - 1000);
        assert_ne!(first.token(), later.token(), "it would end in a second");
        let short = start(temporary.path(), &["auth.max_token_life=1h"], NOW);
        assert_ne!(short.token(), later.token(), "it would be refused");
        assert_eq!(short.token(), start(temporary.path(), &["auth.max_token_life=1h"], NOW + 60_000).token());
        let text = std::fs::read_to_string(temporary.path().join("dev.toml")).expect("dev.toml");
        assert!(text.contains("It is text: sign with its 64 characters"), "{text}");
        let renamed = start(temporary.path(), &["auth.org_claim=tenant"], NOW);
        assert_ne!(later.token(), renamed.token());
        std::fs::remove_file(temporary.path().join("keys.toml")).expect("removed");
        assert_ne!(start(temporary.path(), &[], NOW).publish_key(), first.publish_key());
    }

    #[test]
    fn strangers_and_broken_files_are_refused() {
        let temporary = tempfile::tempdir().expect("a directory");
        for key in ["listen.public", "listen.admin"] {
            let dir = DevDir::open(temporary.path().to_owned()).expect("opened");
            let loaded = configured(&dir, &[&format!("{key}=192.0.2.1:1")]);
            let error = dir.prepare(&loaded.config, false, NOW).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("{key}: \"192.0.2.1:1\" is not on loopback")), "{error}");
        }
        let file = temporary.path().join("dev.toml");
        std::fs::write(&file, "org = \"dev\"\nsecret = \"hush\"\nsecrets = \"hush\"\n").expect("written");
        let error = DevDir::open(temporary.path().to_owned()).expect_err("refused").to_string();
        assert!(error.contains("unknown field `secrets`") && !error.contains("hush"), "{error}");
    }
}
