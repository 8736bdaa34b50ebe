//! `keys.toml`: publishers' API keys, hashed.
//!
//! Commands write it; servers read it, and write it only when an operator deletes an org. A writer takes a lock file beside it and replaces it whole
//! (temporary file, sync, rename), so a reader sees either the old keys or the new ones. The log's lock does
//! not cover it: keys are added and revoked while a server runs.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{
        self,
        ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem},
        Read, Write,
    },
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tidegate_protocol::{Filter, OrgId, UnixMillis, time::write_rfc3339};

use super::{Orgs, parse_services, reserve};

/// The prefix of every API key; secret scanners search for it.
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
    /// A description by the key's maker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The org that the key may publish to, if it is one by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    /// Otherwise the orgs: names and prefixes with a `*`, or `["*"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    orgs: Option<Vec<String>>,
    /// The services, or `["*"]`.
    pub services: Vec<String>,
    /// BLAKE3 of the whole key, in hex. A slow hash would protect weak secrets; these have 256 bits.
    pub hash: String,
    /// When it was made (RFC 3339).
    pub created: String,
    /// When it was revoked (RFC 3339). The entry stays, so that old log lines can be understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

impl KeyEntry {
    /// The orgs that the key may publish to. The error says which member is wrong.
    pub fn orgs(&self) -> Result<Orgs, String> {
        match (&self.org, &self.orgs) {
            // An older gateway wrote `org` alone, and can read it.
            (Some(org), None) if !org.contains('*') => {
                Orgs::parse([org.as_str()]).map_err(|reason| format!("`org` {reason}"))
            }
            (Some(_), None) => Err("`org` names one org; put a `*` into the list `orgs`".to_owned()),
            (None, Some(orgs)) => {
                Orgs::parse(orgs.iter().map(String::as_str)).map_err(|reason| format!("`orgs` {reason}"))
            }
            (None, None) => Err("it has neither `org` nor `orgs`".to_owned()),
            (Some(_), Some(_)) => Err("it has both `org` and `orgs`".to_owned()),
        }
    }
}

impl KeyEntry {
    /// Whether `org` is named, not only covered by a prefix or by `*`.
    fn names(&self, org: &OrgId) -> bool {
        let named = self.org.iter().chain(self.orgs.iter().flatten());
        named.into_iter().any(|name| name == org.as_str())
    }

    /// Takes `org` out of a list. Returns whether the key is for any other org.
    fn lose(&mut self, org: &OrgId) -> bool {
        match &mut self.orgs {
            Some(orgs) => {
                orgs.retain(|name| name != org.as_str());
                !orgs.is_empty()
            }
            None => self.org.as_deref() != Some(org.as_str()),
        }
    }
}

/// What became of the keys that named a deleted org.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForgottenOrg {
    /// Keys for this org alone, which are gone.
    pub removed: usize,
    /// Keys that keep other orgs.
    pub changed: usize,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "key")]
    keys: Vec<KeyEntry>,
}

/// A new key. Only its publisher gets the whole of it, once.
pub struct NewKey {
    /// The whole key. It is stored nowhere.
    pub plain: String,
    /// What the file stores.
    pub entry: KeyEntry,
}

/// Why the file could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileError {
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
    /// The file is not one of keys.
    #[error("read {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The reason, with the line if it is known.
        reason: String,
    },
    /// There is no key with this id.
    #[error("there is no key {0} in this file (`tidegate key list` shows them)")]
    NoSuchKey(String),
}

/// Identifies a version of the file.
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
    /// The file at `path`, even if it does not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn io<'a>(&'a self, action: &'static str) -> impl Fn(io::Error) -> KeysFileError + 'a {
        move |source| KeysFileError::Io { action, path: self.path.clone(), source }
    }

    /// All keys, including revoked ones; none if there is no file.
    pub fn list(&self) -> Result<Vec<KeyEntry>, KeysFileError> {
        self.read().map(|(keys, _)| keys)
    }

    /// The stamp of the file now; `None` if there is no file.
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
        // Of the open file, not of the path, which may be replaced between the two calls.
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
                return Err(malformed(format!("the key {} appears twice", key.id)));
            }
            if let Err(reason) = parse_services(key.services.iter().map(String::as_str)) {
                return Err(malformed(format!("`services` of the key {} {reason}", key.id)));
            }
            if let Err(reason) = key.orgs() {
                return Err(malformed(format!("the key {}: {reason}", key.id)));
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
        orgs: &Orgs,
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
                org: orgs.only().map(ToString::to_string),
                orgs: orgs.only().is_none().then(|| orgs.texts()),
                services: services.names().into_iter().map(str::to_owned).collect(),
                hash: hash_of(&plain).to_hex().to_string(),
                created: rfc3339(now),
                revoked: None,
            };
            keys.push(entry.clone());
            Ok(NewKey { plain, entry })
        })
    }

    /// Revokes the key `id`. A running server follows within a second.
    pub fn revoke(&self, id: &str, now: UnixMillis) -> Result<KeyEntry, KeysFileError> {
        self.change(|keys| match keys.iter_mut().find(|key| key.id == id) {
            Some(key) => {
                key.revoked.get_or_insert_with(|| rfc3339(now));
                Ok(key.clone())
            }
            None => Err(KeysFileError::NoSuchKey(id.to_owned())),
        })
    }

    /// Removes the keys that are for `org` alone, revoked ones too, and takes `org` out of the lists of the
    /// others. Keys that cover it by a prefix or by `*` stay as they are. If no key names it, nothing is
    /// written.
    pub fn forget_org(&self, org: &OrgId) -> Result<ForgottenOrg, KeysFileError> {
        if !self.list()?.iter().any(|key| key.names(org)) {
            return Ok(ForgottenOrg::default());
        }
        self.change(|keys| {
            let mut forgotten = ForgottenOrg::default();
            keys.retain_mut(|key| {
                if !key.names(org) {
                    return true;
                }
                let stays = key.lose(org);
                *if stays { &mut forgotten.changed } else { &mut forgotten.removed } += 1;
                stays
            });
            Ok(forgotten)
        })
    }

    /// Makes the reserve of the file if it is not there, unless the keys are being changed. Keys that this user may not
    /// change need none. May block.
    pub fn keep_reserve(&self) -> Result<(), KeysFileError> {
        if reserve::is_kept(&self.path).map_err(self.io("keep room for"))? {
            return Ok(());
        }
        // The lock is made when the keys are changed first. A command that was stopped may hold it for long.
        let lock = match File::open(self.path.with_extension("toml.lock")) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(self.io("lock")(error)),
            },
            Err(error) if error.kind() == NotFound => None,
            Err(error) if error.kind() == PermissionDenied => return Ok(()),
            Err(error) => return Err(self.io("lock")(error)),
        };
        let kept = reserve::keep(&self.path);
        drop(lock);
        match kept {
            Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(()),
            kept => kept.map_err(self.io("keep room for")),
        }
    }

    /// Reads, changes and replaces the file, one writer at a time.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<KeyEntry>) -> Result<T, KeysFileError>,
    ) -> Result<T, KeysFileError> {
        // Before anything is made beside it.
        replaceable(&self.path).map_err(self.io("write"))?;
        let dir = dir_of(&self.path);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(self.io("create the directory of"))?;
        // The lock is a separate file, because the file itself is replaced.
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            // Somebody else may own the directory, and root runs this command.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.path.with_extension("toml.lock"))
            .map_err(self.io("lock"))?;
        give_lock_to_owner(&lock, &self.path).map_err(self.io("lock"))?;
        lock.lock().map_err(self.io("lock"))?;
        let (mut keys, _) = self.read()?;
        let answer = change(&mut keys)?;
        let text = toml::to_string(&Document { keys }).map_err(|error| KeysFileError::Malformed {
            path: self.path.clone(),
            reason: format!("write it as TOML: {error}"),
        })?;
        reserve::replace_keys(&self.path, &format!("{HEADER}{text}")).map_err(self.io("write"))?;
        // If there is no room for it, a server makes it later.
        let _ = reserve::keep(&self.path);
        Ok(answer)
    }
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// The path of the file that a rename may replace: at the end of the links, if `path` is one. A device, a pipe or a
/// directory is refused: a plain file in the place of /dev/null, say, would break the machine.
pub(super) fn replaceable(path: &Path) -> io::Result<PathBuf> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => std::fs::canonicalize(path),
        Ok(_) => Err(io::Error::other(
            "it is not a plain file, so it is left as it is; name a file that may be replaced",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(error),
    }
}

/// Gives a new file to the owner of `path`: if root runs the command and the service runs as another user, the service
/// must still read the file.
pub(super) fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let owner = std::fs::metadata(path).or_else(|_| std::fs::metadata(dir_of(path)))?;
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// Gives the lock file of `path` to the owner of `path` if root made it, so that the service can take it. A lock file is
/// empty and has one name; anything else was put there by somebody else, and stays as it is.
fn give_lock_to_owner(lock: &File, path: &Path) -> io::Result<()> {
    let found = lock.metadata()?;
    let is_of_root = found.uid() == 0 && found.is_file() && found.len() == 0 && found.nlink() == 1;
    if is_of_root { give_to_owner(lock, path) } else { Ok(()) }
}

/// Writes `text` to `path` so that a crash leaves the old file or the new one. Only the owner can read it.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = replaceable(path)?;
    let dir = dir_of(&path);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = dir.join(name);
    // A file left by a crash may have other permissions; the mode applies only to new files.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    give_to_owner(&file, &path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()
}
