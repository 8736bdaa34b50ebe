//! Buckets: one keyspace per stretch of time, so that retention drops whole files.
//!
//! A bucket's name has its number, which orders buckets whatever the clock does, and the time at which it
//! was opened. It ends when the next one begins.

use std::{
    ops::RangeInclusive,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use tidegate_core::Event;
use tidegate_protocol::{Seq, UnixMillis};

use super::{
    directory::sync_dir,
    record::{self, FIRST_LOG, key, split_key},
};
use crate::store::{LogIndex, StoreError};

/// The highest key of a bucket.
const LAST_KEY: [u8; 16] = [0xff; 16];

/// The events of a stretch of time.
pub struct Bucket {
    pub number: u64,
    pub opened_at: UnixMillis,
    /// When it was closed; 0 while it is open.
    pub closed_at: AtomicU64,
    pub keyspace: Keyspace,
    /// Bytes of records written to it.
    pub bytes: AtomicU64,
}

impl Bucket {
    /// When it was closed, if it was. If that is ahead of the clock, which has stepped back since, it is set
    /// to `now`; otherwise the bucket would outlive its retention by the step.
    pub fn closed_by(&self, now: UnixMillis) -> Option<UnixMillis> {
        let closed_at = self.closed_at.fetch_min(now.max(1), Ordering::Relaxed).min(now.max(1));
        (closed_at > 0).then_some(closed_at)
    }

    /// The last seq of each log in it, by skipping from log to log.
    pub fn last_seqs(&self) -> Result<Vec<(LogIndex, Seq)>, StoreError> {
        let mut found = Vec::new();
        let mut next = FIRST_LOG;
        while let Some(first) = self.keyspace.range(key(next, 0)..=LAST_KEY).next() {
            let (index, seq) = split_key(&first.key().map_err(read_failed)?)?;
            let last = self.keyspace.range(key(index, seq)..=key(index, u64::MAX)).next_back();
            let seq = match last {
                Some(last) => split_key(&last.key().map_err(read_failed)?)?.1,
                None => seq,
            };
            found.push((index, seq));
            next = index + 1;
        }
        Ok(found)
    }

    /// Calls `each` for every event, log by log in seq order.
    pub fn scan(
        &self,
        mut each: impl FnMut(LogIndex, Seq, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for entry in self.keyspace.range(key(FIRST_LOG, 0)..=LAST_KEY) {
            let (entry_key, value) = entry.into_inner().map_err(read_failed)?;
            let (index, seq) = split_key(&entry_key)?;
            each(index, seq, &value)?;
        }
        Ok(())
    }

    /// The numbers of the commits in it, in order.
    pub fn commits(&self) -> Result<Vec<u64>, StoreError> {
        self.numbers(record::COMMITS, 0..=u64::MAX)
    }

    fn numbers(&self, space: u64, range: RangeInclusive<u64>) -> Result<Vec<u64>, StoreError> {
        let keys = self.keyspace.range(key(space, *range.start())..=key(space, *range.end()));
        keys.map(|entry| Ok(split_key(&entry.key().map_err(read_failed)?)?.1)).collect()
    }

    /// Adds events of a log in (`after`, `to`] to `found` until a limit is reached; false if one is.
    pub fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        found: &mut Vec<Arc<Event>>,
        limit: (usize, &mut usize),
    ) -> Result<bool, StoreError> {
        let (events, bytes) = limit;
        for entry in self.keyspace.range(key(index, after + 1)..=key(index, to)) {
            if found.len() >= events {
                return Ok(false);
            }
            let (entry_key, value) = entry.into_inner().map_err(read_failed)?;
            let (_, seq) = split_key(&entry_key)?;
            let service = found.last().map(|event| event.service.clone());
            let event = record::decode_event(seq, Bytes::from(value), service.as_ref())?;
            if !found.is_empty() && event.fragment.len() > *bytes {
                return Ok(false);
            }
            *bytes = bytes.saturating_sub(event.fragment.len());
            found.push(Arc::new(event));
        }
        Ok(found.len() < events)
    }

    /// Moves the events that are in memory to disk. A keyspace that gets no writes would otherwise keep all
    /// later journals from being removed (fjall #288), and a closed bucket never gets any.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.keyspace.rotate_memtable().map(drop).map_err(write_failed)
    }
}

/// A failed read, as a sentence.
pub fn read_failed(error: fjall::Error) -> StoreError {
    StoreError::new("read the log", error)
}

/// A failed write, as a sentence.
pub fn write_failed(error: fjall::Error) -> StoreError {
    StoreError::new("write the log", error)
}

fn name(number: u64, opened_at: UnixMillis) -> String {
    format!("log-{number}-{opened_at}")
}

fn parse_name(name: &str) -> Option<(u64, UnixMillis)> {
    let (number, opened_at) = name.strip_prefix("log-")?.split_once('-')?;
    Some((number.parse().ok()?, opened_at.parse().ok()?))
}

/// The buckets of a store, oldest first; the last one is written to.
pub struct Buckets {
    db: Database,
    keyspaces_dir: PathBuf,
    list: RwLock<Arc<Vec<Arc<Bucket>>>>,
}

impl Buckets {
    /// Finds the buckets of `db`. `bytes` gives the size of each that was noted.
    pub fn find(
        db: &Database,
        keyspaces_dir: PathBuf,
        now: UnixMillis,
        bytes: impl Fn(u64) -> Result<u64, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        for keyspace in db.list_keyspace_names() {
            let Some((number, opened_at)) = parse_name(&keyspace) else { continue };
            let keyspace = db.keyspace(&keyspace, KeyspaceCreateOptions::default).map_err(read_failed)?;
            let bytes = AtomicU64::new(bytes(number)?.max(keyspace.disk_space()));
            found.push(Bucket { number, opened_at, closed_at: AtomicU64::new(0), keyspace, bytes });
        }
        found.sort_by_key(|bucket| bucket.number);
        for pair in found.windows(2) {
            let ended = pair[1].opened_at.max(pair[0].opened_at).min(now).max(1);
            pair[0].closed_at.store(ended, Ordering::Relaxed);
        }
        let list = found.into_iter().map(Arc::new).collect();
        Ok(Self { db: db.clone(), keyspaces_dir, list: RwLock::new(Arc::new(list)) })
    }

    /// The buckets as they are now; those that are dropped later can still be read through this list.
    pub fn list(&self) -> Arc<Vec<Arc<Bucket>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bucket that is written to.
    pub fn current(&self) -> Option<Arc<Bucket>> {
        self.list().last().cloned()
    }

    /// Begins a new bucket.
    pub fn begin(&self, now: UnixMillis) -> Result<Arc<Bucket>, StoreError> {
        let last = self.current();
        let number = last.as_ref().map_or(1, |last| last.number + 1);
        if let Some(last) = last {
            self.close(&last, now)?;
        }
        let keyspace =
            self.db.keyspace(&name(number, now), KeyspaceCreateOptions::default).map_err(write_failed)?;
        // The database syncs the files in the new directory, but not the directory's own entry.
        sync_dir(&self.keyspaces_dir)?;
        let bucket = Arc::new(Bucket {
            number,
            opened_at: now,
            closed_at: AtomicU64::new(0),
            keyspace,
            bytes: AtomicU64::new(0),
        });
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        *list = Arc::new(list.iter().cloned().chain([bucket.clone()]).collect());
        Ok(bucket)
    }

    /// Closes a bucket: nothing is written to it from now on.
    pub fn close(&self, bucket: &Bucket, now: UnixMillis) -> Result<(), StoreError> {
        let closed = bucket.closed_at.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        if closed.is_ok() { bucket.flush() } else { Ok(()) }
    }

    /// Drops the bucket with this number.
    pub fn drop_bucket(&self, number: u64) -> Result<(), StoreError> {
        let dropped = {
            let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
            let dropped = list.iter().find(|bucket| bucket.number == number).cloned();
            *list = Arc::new(list.iter().filter(|bucket| bucket.number != number).cloned().collect());
            dropped
        };
        match dropped {
            Some(bucket) => self.db.delete_keyspace(bucket.keyspace.clone()).map_err(write_failed),
            None => Ok(()),
        }
    }

    /// Bytes of records in all buckets.
    pub fn bytes(&self) -> u64 {
        self.list().iter().map(|bucket| bucket.bytes.load(Ordering::Relaxed)).sum()
    }
}
