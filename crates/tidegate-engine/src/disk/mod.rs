//! A store on disk: a fjall database with one keyspace per stretch of time, called a bucket.
//!
//! Each commit is one atomic batch over all keyspaces that it touches: events, heads, epochs, ids
//! and its own number. fjall applies a batch to memory only after the journal is synced, so everything
//! that can be read has been synced (with `log.sync = "always"`).

mod buckets;
mod directory;
mod head_file;
mod mend;
mod record;
mod recovery;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fjall::{Database, Keyspace, PersistMode};
use tidegate_core::Event;
use tidegate_protocol::{OrgId, Seq, UnixMillis};

use self::{
    buckets::{Bucket, Buckets, read_failed, write_failed},
    directory::Directory,
    head_file::HeadFile,
    record::{COMMITS, IDS, key, meta_key},
};
use super::{
    Durability, Hooks,
    chain::Chain,
    clock::capped_millis,
    local::{LocalEngine, LocalOptions},
    store::{Cut, LogIndex, Store, StoreError, Stretch, WriteGroup},
};

/// The settings of the disk engine. There are no defaults here: those of a node stand in its
/// configuration.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// The settings that both local engines have.
    pub local: LocalOptions,
    /// `log.dir`: the directory of the log, this process's alone.
    pub dir: PathBuf,
    /// `log.sync`: whether each commit is synced before it is acknowledged; otherwise each second.
    pub sync_always: bool,
    /// `log.retention`: how long events are kept at least. Raised to the dedup window.
    pub retention: Duration,
    /// `log.max_bytes`: the most bytes of events that the node keeps. The oldest are removed first, but
    /// none within the dedup window; once a minute, a bucket (about a sixteenth) at a time.
    pub max_bytes: u64,
    /// How long a bucket is written to; if `None`, a 24th of the retention, but at least a minute and at
    /// most an hour.
    pub bucket: Option<Duration>,
    /// An org that holds no events and was not touched for this long is forgotten whole, its epoch
    /// and seq with it.
    pub forget_after: Duration,
}

/// The state that the committing thread alone changes.
struct Writer {
    /// The number of the last commit.
    commit: u64,
    next_index: LogIndex,
    /// Whether both slots of the head file have to be set: true until the first acknowledgement.
    head_is_old: bool,
}

/// The store.
pub struct DiskStore {
    writer: Mutex<Writer>,
    head: HeadFile,
    buckets: Buckets,
    meta: Keyspace,
    db: Database,
    persist: PersistMode,
    unsynced: AtomicBool,
    bucket_millis: u64,
    bucket_bytes: u64,
    retention: u64,
    dedup_window: u64,
    max_bytes: u64,
    /// The last field, so that the lock is released after the database is closed.
    _directory: Directory,
}

impl DiskStore {
    /// Checks a log directory without changing it: whether this version can read it, and this user may write
    /// to it. What is inside the store shows only when it is opened.
    pub fn look(dir: &Path) -> Result<(), StoreError> {
        Directory::look(dir)
    }
}

impl LocalEngine<DiskStore> {
    /// Opens the log in `options.dir`, or creates it.
    pub fn disk(options: DiskOptions, hooks: Hooks) -> Result<Self, StoreError> {
        let durability = if options.sync_always { Durability::Always } else { Durability::Interval };
        let (store, found) = DiskStore::open(&options, hooks.clock.now())?;
        let local = options.local.clone();
        // A log is not forgotten while the dedup window may still name seqs of it.
        let forget_after = capped_millis(options.forget_after).max(capped_millis(local.dedup_window));
        Self::over(store, found, local, forget_after, durability, hooks)
    }
}

impl DiskStore {
    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket for a group: a new one if the current one is old or large enough, or if the clock has
    /// stepped back by more than a bucket (the bucket's end would be far ahead).
    fn bucket_for(&self, group: &WriteGroup) -> Result<Arc<Bucket>, StoreError> {
        if let Some(current) = self.buckets.current() {
            let age = group.at.abs_diff(current.opened_at);
            let full = current.bytes.load(Ordering::Relaxed) >= self.bucket_bytes;
            // A group without events goes to the current bucket: an idle node makes no buckets.
            if group.events() == 0 || !(full || age >= self.bucket_millis) {
                return Ok(current);
            }
            // So that the heads of this time are on disk with its events; see `Bucket::flush`.
            self.meta.rotate_memtable().map_err(write_failed)?;
        }
        self.buckets.begin(group.at)
    }

    fn write(&self, group: &WriteGroup, writer: &mut Writer) -> Result<(), StoreError> {
        let commit = writer.commit + 1;
        let bucket = self.bucket_for(group)?;
        let mut batch = self.db.batch().durability(Some(self.persist));
        let mut bytes = 0;
        for log in &group.logs {
            if let Some(chain) = &log.chain {
                let name = [b"o", log.org.as_str().as_bytes()].concat();
                batch.insert(&self.meta, name, record::encode_org(log.index, chain));
                writer.next_index = writer.next_index.max(log.index + 1);
            }
            let head = record::encode_head(log.head, log.last_timestamp, group.at);
            batch.insert(&self.meta, &meta_key(b'h', log.index)[..], &head[..]);
            for event in &log.events {
                let value = record::encode_event(event);
                bytes += value.len() as u64 + 16;
                batch.insert(&bucket.keyspace, &key(log.index, event.seq)[..], value);
            }
        }
        if group.logs.iter().any(|log| !log.ids.is_empty()) {
            let ids = record::encode_ids(group.at, group.logs.iter().map(|log| (log.index, &log.ids)))?;
            bytes += ids.len() as u64 + 16;
            batch.insert(&bucket.keyspace, &key(IDS, commit)[..], ids);
        }
        for &(index, floor) in &group.floors {
            batch.insert(&self.meta, &meta_key(b'f', index)[..], &floor.to_be_bytes()[..]);
        }
        for (index, org) in &group.forgotten {
            batch.remove(&self.meta, [b"o", org.as_str().as_bytes()].concat());
            batch.remove(&self.meta, &meta_key(b'h', *index)[..]);
            batch.remove(&self.meta, &meta_key(b'f', *index)[..]);
        }
        if let Some(start) = &group.start {
            batch.insert(&self.meta, "s", record::encode_start(start));
        }
        let total = bucket.bytes.load(Ordering::Relaxed) + bytes;
        batch.insert(&self.meta, &meta_key(b'b', bucket.number)[..], &total.to_be_bytes()[..]);
        batch.insert(&self.meta, "n", &writer.next_index.to_be_bytes()[..]);
        batch.insert(&self.meta, "c", &commit.to_be_bytes()[..]);
        batch.insert(&self.meta, "t", &group.at.to_be_bytes()[..]);
        // The same number next to the events, because the two keyspaces reach the disk apart.
        batch.insert(&bucket.keyspace, &key(COMMITS, commit)[..], &[1][..]);
        batch.commit().map_err(write_failed)?;
        bucket.bytes.store(total, Ordering::Relaxed);
        self.unsynced.store(self.persist == PersistMode::Buffer, Ordering::Relaxed);
        writer.commit = commit;
        Ok(())
    }
}

impl Store for DiskStore {
    fn chain(&self, org: &OrgId) -> Result<Option<Chain>, StoreError> {
        let name = [b"o", org.as_str().as_bytes()].concat();
        let Some(value) = self.meta.get(name).map_err(read_failed)? else { return Ok(None) };
        match record::decode_org(&value) {
            Ok((_, chain)) => Ok(Some(chain)),
            Err(error) => {
                tracing::warn!(%org, %error, "the epochs of a log are not readable; its readers get a gap");
                Ok(None)
            }
        }
    }

    fn commit(&self, group: &WriteGroup) -> Result<(), StoreError> {
        self.write(group, &mut self.writer())
    }

    fn acknowledge(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        if writer.head_is_old {
            writer.head_is_old = false;
            return self.head.reset(writer.commit);
        }
        self.head.note(writer.commit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.unsynced.swap(false, Ordering::Relaxed) {
            self.db.persist(PersistMode::SyncData).map_err(write_failed)?;
        }
        Ok(())
    }

    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        mut bytes: usize,
    ) -> Result<Stretch, StoreError> {
        let mut found = Vec::new();
        for bucket in self.buckets.list().iter() {
            let after = found.last().map_or(after, |event: &Arc<Event>| event.seq);
            if after >= to {
                break;
            }
            if !bucket.read(index, after, to, &mut found, (events, &mut bytes))? {
                let to = found.last().map_or(after, |event| event.seq);
                return Ok(Stretch { events: found, to });
            }
        }
        Ok(Stretch { events: found, to })
    }

    fn blocks(&self) -> bool {
        true
    }

    fn plan_cut(&self, now: UnixMillis, round: usize) -> Result<Option<Cut>, StoreError> {
        let buckets = self.buckets.list();
        // All of them, so that an end ahead of a clock that has stepped back is set right at once.
        let ends: Vec<Option<UnixMillis>> = buckets.iter().map(|bucket| bucket.closed_by(now)).collect();
        let (Some(oldest), Some(&Some(closed_at))) = (buckets.first(), ends.first()) else { return Ok(None) };
        // By age one bucket per sweep: a clock that leaps for a moment costs one bucket, not all.
        let aged = round == 0 && closed_at + self.retention <= now;
        let over = self.buckets.bytes() > self.max_bytes && closed_at + self.dedup_window <= now;
        if !aged && !over {
            return Ok(None);
        }
        Ok(Some(Cut { floors: oldest.last_seqs()?, token: oldest.number }))
    }

    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError> {
        self.buckets.drop_bucket(cut.token)?;
        self.meta.remove(&meta_key(b'b', cut.token)[..]).map_err(write_failed)
    }

    fn cuts_on_write(&self) -> bool {
        false
    }

    fn tick(&self, now: UnixMillis) -> Result<(), StoreError> {
        // A bucket that gets no more events is ended by the clock; the next one may stay empty for long.
        if let Some(current) = self.buckets.current()
            && now.abs_diff(current.opened_at) >= self.bucket_millis
            && current.bytes.load(Ordering::Relaxed) > 0
        {
            self.meta.rotate_memtable().map_err(write_failed)?;
            self.buckets.begin(now)?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.buckets.bytes()
    }
}
