//! Verifies publishers' API keys against `keys.toml`, and follows its changes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;
use tidegate_protocol::{Filter, OrgId, UnixMillis};

use super::{
    AuthError, KeyGrant, Orgs,
    keys_file::{ForgottenOrg, KeyEntry, KeysFile, KeysFileError, PREFIX, Stamp, hash_of},
    parse_services,
};

/// How often the file is checked for changes while its keys are used.
const LOOK_EVERY_MILLIS: u64 = 1000;

struct Known {
    id: Arc<str>,
    orgs: Arc<Orgs>,
    services: Filter,
    hash: blake3::Hash,
    revoked: bool,
}

/// The publishers of this node.
pub struct Publishers {
    file: KeysFile,
    keys: ArcSwap<HashMap<String, Known>>,
    looked_at: AtomicU64,
    /// The version of the file that was read last, even if it could not be used.
    seen: Mutex<Option<Stamp>>,
    /// Whether the file has no reserve, as was logged.
    lacks_reserve: AtomicBool,
}

impl std::fmt::Debug for Publishers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publishers").field("file", &self.file).finish_non_exhaustive()
    }
}

fn index(entries: Vec<KeyEntry>) -> HashMap<String, Known> {
    let known = |entry: KeyEntry| {
        // `KeysFile::read` has refused files in which one of these fails.
        let services = parse_services(entry.services.iter().map(String::as_str)).ok()?;
        let hash = blake3::Hash::from_hex(&entry.hash).ok()?;
        let orgs = Arc::new(entry.orgs().ok()?);
        let (id, revoked) = (entry.id.as_str().into(), entry.revoked.is_some());
        Some((entry.id, Known { id, orgs, services, hash, revoked }))
    };
    entries.into_iter().filter_map(known).collect()
}

impl Publishers {
    /// Reads the keys; a file that does not exist has none. Call this before a port is bound: a broken file
    /// is an error now, and later only leaves the old keys in place.
    pub fn open(file: KeysFile, now: UnixMillis) -> Result<Self, KeysFileError> {
        let (entries, stamp) = file.read()?;
        Ok(Self {
            file,
            keys: ArcSwap::from_pointee(index(entries)),
            looked_at: AtomicU64::new(now),
            seen: Mutex::new(stamp),
            lacks_reserve: AtomicBool::new(false),
        })
    }

    /// How many keys are valid, as far as the file was read.
    pub fn count(&self) -> usize {
        self.keys.load().values().filter(|key| !key.revoked).count()
    }

    /// The grant of the API key `plain`.
    pub fn verify(&self, plain: &str, now: UnixMillis) -> Result<KeyGrant, AuthError> {
        let malformed = || AuthError::unauthorized("an API key looks like tgk_<id>_<secret>");
        let (id, secret) =
            plain.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or_else(malformed)?;
        if id.len() > 32 || secret.len() > 128 {
            return Err(malformed());
        }
        if now.abs_diff(self.looked_at.load(Ordering::Relaxed)) >= LOOK_EVERY_MILLIS {
            self.looked_at.store(now, Ordering::Relaxed);
            // If another request rereads it now, this one goes on with the keys that are known.
            if let Ok(seen) = self.seen.try_lock() {
                self.follow(seen);
            }
        }
        let mut keys = self.keys.load();
        if !keys.contains_key(id) {
            // The key may have been made within this second. If another request rereads the file now, this one
            // waits for it: its refusal would be final.
            self.follow(self.seen.lock().unwrap_or_else(PoisonError::into_inner));
            keys = self.keys.load();
        }
        // The same sentence for an unknown id and a wrong secret, so that neither reveals which ids exist.
        let unknown = || AuthError::unauthorized("the API key is not one of this gateway's");
        let known = keys.get(id).ok_or_else(unknown)?;
        if !bool::from(known.hash.as_bytes().ct_eq(hash_of(plain).as_bytes())) {
            return Err(unknown());
        }
        if known.revoked {
            return Err(AuthError::unauthorized("the API key was revoked"));
        }
        let (orgs, services, key_id) = (known.orgs.clone(), known.services.clone(), known.id.clone());
        Ok(KeyGrant { orgs, services, key_id })
    }

    /// Takes a deleted org out of the file ([`KeysFile::forget_org`]), and follows at once. May block.
    pub fn forget_org(&self, org: &OrgId) -> Result<ForgottenOrg, KeysFileError> {
        let forgotten = self.file.forget_org(org)?;
        self.follow(self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(forgotten)
    }

    /// Makes the reserve of the file if it is not there ([`KeysFile::keep_reserve`]). May block.
    pub fn keep_reserve(&self) {
        let kept = self.file.keep_reserve();
        let is_first = !self.lacks_reserve.swap(kept.is_err(), Ordering::Relaxed);
        if let Err(error) = kept
            && is_first
        {
            tracing::warn!(%error, "there is no room for a reserve of the API keys: on a full disk none can be revoked");
        }
    }

    /// Rereads the file if it has changed.
    fn follow(&self, mut seen: MutexGuard<'_, Option<Stamp>>) {
        let stamp = self.file.stamp();
        if stamp == *seen {
            return;
        }
        match self.file.read() {
            Ok((entries, stamp)) => {
                if stamp.is_none() {
                    tracing::warn!(file = %self.file.path().display(), "the file of API keys is gone: no publisher is accepted");
                }
                tracing::info!(keys = entries.len(), "API keys reread");
                self.keys.store(Arc::new(index(entries)));
                *seen = stamp;
            }
            Err(error) => {
                tracing::warn!(%error, "the API keys stay as they were: their file cannot be used");
                // Recorded even so, so that one broken version is logged once.
                *seen = stamp;
            }
        }
    }
}
