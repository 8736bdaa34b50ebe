//! Opening a store: finds the logs, finds out whether everything that was acknowledged is there, and
//! repairs them if it is not (R11).
//!
//! A loss shows in three ways. The marks of commits, which lie next to the events, end below the head
//! file; or they end below (or above) the number in `meta`, which reaches the disk apart from them; or
//! they have a hole, because a journal that others follow was cut short. In each case this start is a
//! lossy boundary for every org. Then, and only then, all events are read: heads are set to the last
//! event that is there, and floors to the highest seq that is missing, so that a hole in the middle is
//! a gap like any other (R9). This relies on the committer, which gives every seq.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tidegate_protocol::{OrgId, UnixMillis};

use super::{
    DiskOptions, DiskStore, Writer,
    buckets::{Buckets, read_failed, write_failed},
    directory::{Directory, sync_dir},
    head_file::{Acknowledged, HeadFile},
    mend,
    record::{self, COMMITS, FIRST_LOG, IDS, key, meta_key},
};
use crate::{
    chain::Start,
    clock::capped_millis,
    store::{Found, FoundId, FoundLog, Stopped, StoreError},
};

/// The size of the store's block cache: history is read seldom, and tails serve the recent past.
const CACHE_BYTES: u64 = 64 << 20;
/// The shortest and the longest time that a bucket is written to, unless it is set.
const BUCKET_MILLIS: std::ops::RangeInclusive<u64> = 60_000..=3_600_000;

impl DiskStore {
    /// Opens the store in `options.dir`, or creates it.
    pub fn open(options: &DiskOptions, now: UnixMillis) -> Result<(Self, Found), StoreError> {
        let directory = Directory::take(&options.dir)?;
        let (head, acknowledged) = HeadFile::open(&directory.head())?;
        if acknowledged == Acknowledged::Missing {
            sync_dir(&options.dir)?;
        }
        let cut = mend::journals(&directory.store(), &directory.damaged())?;
        let failed = |error| StoreError::new(&format!("open the log in {}", options.dir.display()), error);
        let db = Database::builder(directory.store()).cache_size(CACHE_BYTES).open();
        let db = db.map_err(failed)?;
        let small = || KeyspaceCreateOptions::default().max_memtable_size(16 << 20);
        let meta = db.keyspace("meta", small).map_err(failed)?;
        let keyspaces_dir = directory.store().join("keyspaces");
        let sizes = |number| number_in(&meta, &meta_key(b'b', number)).map(Option::unwrap_or_default);
        let buckets = Buckets::find(&db, keyspaces_dir, now, sizes)?;

        let dedup_window = capped_millis(options.local.dedup_window);
        let retention = capped_millis(options.retention).max(dedup_window);
        let bucket_millis = options.bucket.map_or(retention / 24, capped_millis);
        let bucket_millis = match options.bucket {
            Some(_) => bucket_millis.max(1),
            None => bucket_millis.clamp(*BUCKET_MILLIS.start(), *BUCKET_MILLIS.end()),
        };
        let store = Self {
            writer: Mutex::new(Writer { commit: 0, next_index: FIRST_LOG, head_is_old: true }),
            head,
            buckets,
            meta,
            db,
            persist: if options.sync_always { PersistMode::SyncData } else { PersistMode::Buffer },
            unsynced: AtomicBool::new(false),
            bucket_millis,
            bucket_bytes: (options.max_bytes / 16).max(1 << 20),
            retention,
            dedup_window,
            max_bytes: options.max_bytes,
            _directory: directory,
        };
        let found = store.find(options, acknowledged, cut, now)?;
        Ok((store, found))
    }

    fn find(
        &self,
        options: &DiskOptions,
        acknowledged: Acknowledged,
        cut: bool,
        now: UnixMillis,
    ) -> Result<Found, StoreError> {
        let before = match self.meta.get("s").map_err(read_failed)? {
            Some(value) => record::decode_start(&value)?,
            None => Start { clean: true, sync_always: true, ..Start::default() },
        };
        let mut logs = self.find_logs()?;
        let lossy = self.is_damaged(acknowledged, before)? || cut;
        if lossy {
            self.repair(&mut logs)?;
        } else {
            let mut writer = self.writer();
            writer.commit = number_in(&self.meta, b"c")?.unwrap_or(0);
            writer.next_index = number_in(&self.meta, b"n")?.unwrap_or(0).max(FIRST_LOG);
        }
        let unsynced = !before.clean && !before.sync_always;
        if unsynced {
            tracing::warn!(
                "the log was not stopped cleanly and was synced each second only: acknowledged events may be \
                 lost, and every reader gets a gap"
            );
        }
        let number = before.number + 1;
        let last_lossy = if lossy || unsynced { number } else { before.last_lossy };
        let clock = number_in(&self.meta, b"t")?.unwrap_or(0);
        // Not by the wall clock, which may be wrong at this start. The committer knows which ids are left.
        let ids = self.find_ids(if clock == 0 { now } else { clock })?;
        Ok(Found {
            logs,
            clock,
            next_index: self.writer().next_index,
            ids,
            start: Start { number, last_lossy, clean: false, sync_always: options.sync_always },
            stopped: match before.number {
                0 => Stopped::Never,
                _ if before.clean => Stopped::Cleanly,
                _ => Stopped::Uncleanly,
            },
        })
    }

    fn find_logs(&self) -> Result<Vec<FoundLog>, StoreError> {
        let mut logs = Vec::new();
        for entry in self.meta.prefix("o") {
            let (name, value) = entry.into_inner().map_err(read_failed)?;
            let org = std::str::from_utf8(&name[1..]).ok().and_then(|name| OrgId::parse(name).ok());
            let org = org.ok_or_else(|| StoreError("read the log: an org's name is damaged".into()))?;
            let index = record::decode_org_index(&value)?;
            let head = self.meta.get(meta_key(b'h', index)).map_err(read_failed)?;
            let (head, last_timestamp, touched) = match head {
                Some(head) => record::decode_head(&head)?,
                None => (0, 0, 0),
            };
            let floor = number_in(&self.meta, &meta_key(b'f', index))?.unwrap_or(0);
            logs.push(FoundLog { org, index, head, floor, last_timestamp, touched });
        }
        Ok(logs)
    }

    /// The ids of the dedup window that ends at `now`, oldest first. They are kept by commit, so this reads
    /// the window and not the buckets that it lies in. The times of commits never fall (R30).
    fn find_ids(&self, now: UnixMillis) -> Result<Vec<FoundId>, StoreError> {
        let mut found = Vec::new();
        'buckets: for bucket in self.buckets.list().iter().rev() {
            for entry in bucket.keyspace.range(key(IDS, 0)..=key(IDS, u64::MAX)).rev() {
                let (at, ids) = record::decode_ids(&entry.value().map_err(read_failed)?)?;
                if at + self.dedup_window <= now {
                    break 'buckets;
                }
                found.extend(ids.into_iter().rev());
            }
        }
        found.reverse();
        Ok(found)
    }

    fn is_damaged(&self, acknowledged: Acknowledged, before: Start) -> Result<bool, StoreError> {
        let noted = number_in(&self.meta, b"c")?.unwrap_or(0);
        // Journals hold the latest writes alone; older buckets have been on disk since they were closed.
        let mut marks = Vec::new();
        let mut marked = 0;
        for bucket in self.buckets.list().iter().rev() {
            let commits = bucket.commits()?;
            marked += usize::from(!commits.is_empty());
            marks.extend(commits);
            if marked == 2 {
                break;
            }
        }
        marks.sort_unstable();
        let last = marks.last().copied().unwrap_or(0);
        let hole = marks.windows(2).any(|pair| pair[0] + 1 != pair[1]);
        let below = match acknowledged {
            Acknowledged::Commit(commit) => last < commit,
            // It was created with the directory, so somebody removed it. Without it, it cannot be
            // shown that nothing is lost.
            Acknowledged::Missing | Acknowledged::Unreadable => before.number > 0,
        };
        let damaged = below || hole || last != noted;
        if damaged {
            tracing::warn!(
                ?acknowledged,
                recovered = last,
                noted,
                hole,
                "the log has lost acknowledged commits: what is left is kept, and every reader gets a gap"
            );
        }
        Ok(damaged)
    }

    /// Sets heads and floors by the events that are there, and fills the holes in the marks, so that the
    /// next start does not find the same loss again.
    fn repair(&self, logs: &mut [FoundLog]) -> Result<(), StoreError> {
        let mut by_index: HashMap<u64, &mut FoundLog> = logs.iter_mut().map(|log| (log.index, log)).collect();
        let mut seen: HashMap<u64, u64> = by_index.values().map(|log| (log.index, log.floor)).collect();
        let mut next_index = number_in(&self.meta, b"n")?.unwrap_or(0).max(FIRST_LOG);
        let buckets = self.buckets.list();
        for bucket in buckets.iter() {
            bucket.scan(|index, seq, value| {
                // Events of a log whose org is not known cannot be read; its number is not given again.
                next_index = next_index.max(index + 1);
                let (Some(log), Some(seen)) = (by_index.get_mut(&index), seen.get_mut(&index)) else {
                    return Ok(());
                };
                if seq > log.floor {
                    if seq > *seen + 1 {
                        log.floor = seq - 1;
                    }
                    *seen = seq;
                    log.last_timestamp = log.last_timestamp.max(record::event_timestamp(value)?);
                }
                Ok(())
            })?;
        }
        for (index, log) in &mut by_index {
            next_index = next_index.max(index + 1);
            let last = seen.get(index).copied().unwrap_or(0);
            if last < log.head {
                log.floor = log.head;
            }
            log.head = log.head.max(last);
        }
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for log in logs.iter() {
            let head = record::encode_head(log.head, log.last_timestamp, log.touched);
            batch.insert(&self.meta, &meta_key(b'h', log.index)[..], &head[..]);
            batch.insert(&self.meta, &meta_key(b'f', log.index)[..], &log.floor.to_be_bytes()[..]);
        }
        let mut last = None;
        for bucket in buckets.iter() {
            for commit in bucket.commits()? {
                for missing in last.map_or(commit, |last| last + 1)..commit {
                    batch.insert(&bucket.keyspace, &key(COMMITS, missing)[..], &[0][..]);
                }
                last = last.max(Some(commit));
            }
        }
        let noted = number_in(&self.meta, b"c")?.unwrap_or(0);
        let commit = noted.max(last.unwrap_or(0));
        let current = match buckets.last() {
            Some(current) => current.clone(),
            None => self.buckets.begin(0)?,
        };
        for missing in last.map_or(commit, |last| last + 1)..=commit {
            batch.insert(&current.keyspace, &key(COMMITS, missing)[..], &[0][..]);
        }
        batch.insert(&self.meta, "c", &commit.to_be_bytes()[..]);
        batch.insert(&self.meta, "n", &next_index.to_be_bytes()[..]);
        batch.commit().map_err(write_failed)?;
        for bucket in buckets.iter().filter(|bucket| bucket.closed_at.load(Ordering::Relaxed) > 0) {
            bucket.flush()?;
        }
        let mut writer = self.writer();
        writer.commit = commit;
        writer.next_index = next_index;
        Ok(())
    }
}

fn number_in(meta: &Keyspace, key: &[u8]) -> Result<Option<u64>, StoreError> {
    meta.get(key).map_err(read_failed)?.map(|value| record::decode_number(&value)).transpose()
}
