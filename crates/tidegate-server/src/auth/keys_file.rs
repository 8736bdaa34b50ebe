//! `keys.toml`: publishers' API keys, hashed.
//!
//! Commands write it, servers only read it. Writers take a lock beside the file and replace it whole
//! (temporary file, sync, rename), so a reader sees the old keys or the new ones. It does not lie
//! under the log's lock: keys come and go while a server runs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tidegate_protocol::{Filter, OrgId, UnixMillis, time::write_rfc3339};

use super::parse_services;

/// What every API key begins with, so that secret scanners know it.
pub(super) const PREFIX: &str = "tgk_";
const LONGEST_FILE: u64 = 64 << 20;
const HEADER: &str =
    "# Publishers' API keys of Tidegate, hashed. Written by `tidegate key`; servers reread it on change.\n\n";

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The public part: `tgk_<id>_...`.
    pub id: String,
    /// What the key is for, in words of who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The org that it may publish to.
    pub org: OrgId,
    /// The services, or `["*"]`.
    pub services: Vec<String>,
    /// BLAKE3 of the whole key, in hex. A slow hash would protect weak secrets; these have 256 bits.
    pub hash: String,
    /// When it was made (RFC 3339).
    pub created: String,
    /// When it was taken back (RFC 3339); the entry stays, so that logs can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "key")]
    keys: Vec<KeyEntry>,
}

/// A key as its publisher gets it, once.
pub struct NewKey {
    /// The whole key. It is kept nowhere.
    pub plain: String,
    /// What the file keeps of it.
    pub entry: KeyEntry,
}

/// Why the file could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileError {
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
    /// It is not a file of keys.
    #[error("read {}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
    /// There is no key with this id.
    #[error("there is no key {0} in this file (`tidegate key list` shows them)")]
    NoSuchKey(String),
}

/// What tells one version of the file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl From<std::fs::Metadata> for Stamp {
    fn from(meta: std::fs::Metadata) -> Self {
        Self { inode: meta.ino(), length: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// The file of API keys.
#[derive(Debug, Clone)]
pub struct KeysFile {
    path: PathBuf,
}

pub(super) fn hash_of(plain: &str) -> blake3::Hash {
    blake3::hash(plain.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rfc3339(now: UnixMillis) -> String {
    let mut text = BytesMut::new();
    write_rfc3339(&mut text, now);
    String::from_utf8_lossy(&text).into_owned()
}

impl KeysFile {
    /// The file at `path`, whether it is there or not.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io<'a>(&'a self, action: &'static str) -> impl Fn(io::Error) -> KeysFileError + 'a {
        move |source| KeysFileError::Io { action, path: self.path.clone(), source }
    }

    /// All keys, revoked ones included; none where there is no file.
    pub fn list(&self) -> Result<Vec<KeyEntry>, KeysFileError> {
        self.read().map(|(keys, _)| keys)
    }

    /// The stamp of the file as it is now; `None` where there is none.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        std::fs::metadata(&self.path).ok().map(Stamp::from)
    }

    pub(super) fn read(&self) -> Result<(Vec<KeyEntry>, Option<Stamp>), KeysFileError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), None)),
            Err(error) => return Err(self.io("read")(error)),
        };
        let malformed = |reason: String| KeysFileError::Malformed { path: self.path.clone(), reason };
        // Of the open file, not of the path: between the two the file may be replaced.
        let stamp = Stamp::from(file.metadata().map_err(self.io("read"))?);
        if stamp.length > LONGEST_FILE {
            return Err(malformed("it is longer than 64MiB".to_owned()));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(self.io("read"))?;
        let document: Document = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            malformed(format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(", ")))
        })?;
        let mut seen = std::collections::BTreeSet::new();
        for key in &document.keys {
            if !seen.insert(&key.id) {
                return Err(malformed(format!("the key {} stands there twice", key.id)));
            }
            if let Err(reason) = parse_services(key.services.iter().map(String::as_str)) {
                return Err(malformed(format!("`services` of the key {} {reason}", key.id)));
            }
            if blake3::Hash::from_hex(&key.hash).is_err() {
                return Err(malformed(format!("`hash` of the key {} is not 64 hex digits", key.id)));
            }
        }
        Ok((document.keys, Some(stamp)))
    }

    /// Makes a key and adds it.
    pub fn create(
        &self,
        org: OrgId,
        services: &Filter,
        name: Option<String>,
        now: UnixMillis,
    ) -> Result<NewKey, KeysFileError> {
        self.change(|keys| {
            let mut random = [0u8; 38];
            getrandom::fill(&mut random)
                .map_err(|error| self.io("make a key for")(io::Error::other(error.to_string())))?;
            let id = hex(&random[..6]);
            let plain = format!("{PREFIX}{id}_{}", hex(&random[6..]));
            let entry = KeyEntry {
                id,
                name,
                org,
                services: services.names().into_iter().map(str::to_owned).collect(),
                hash: hash_of(&plain).to_hex().to_string(),
                created: rfc3339(now),
                revoked: None,
            };
            keys.push(entry.clone());
            Ok(NewKey { plain, entry })
        })
    }

    /// Takes the key `id` back. A running server follows within a second.
    pub fn revoke(&self, id: &str, now: UnixMillis) -> Result<KeyEntry, KeysFileError> {
        self.change(|keys| match keys.iter_mut().find(|key| key.id == id) {
            Some(key) => {
                key.revoked.get_or_insert_with(|| rfc3339(now));
                Ok(key.clone())
            }
            None => Err(KeysFileError::NoSuchKey(id.to_owned())),
        })
    }

    /// Reads, changes and replaces the file, one writer at a time.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<KeyEntry>) -> Result<T, KeysFileError>,
    ) -> Result<T, KeysFileError> {
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(self.io("create the directory of"))?;
        // The lock is a file of its own: the one that is replaced would be locked under two names.
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.with_extension("toml.lock"))
            .map_err(self.io("lock"))?;
        lock.lock().map_err(self.io("lock"))?;
        let (mut keys, _) = self.read()?;
        let answer = change(&mut keys)?;
        let text = toml::to_string(&Document { keys }).map_err(|error| KeysFileError::Malformed {
            path: self.path.clone(),
            reason: format!("write it as TOML: {error}"),
        })?;
        replace(&self.path, dir, &format!("{HEADER}{text}")).map_err(self.io("write"))?;
        Ok(answer)
    }
}

/// Writes `text` to `path` so that a crash leaves the old file or the new one, readable by its owner
/// alone.
pub(crate) fn replace(path: &Path, dir: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = dir.join(name);
    // A leftover of a crash may have other rights than ours; mode only counts for new files.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    // Where root runs the command and the service does not, the service must still read the file.
    if rustix::process::geteuid().is_root() {
        let owner = std::fs::metadata(path).or_else(|_| std::fs::metadata(dir))?;
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}
