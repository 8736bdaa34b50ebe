//! The segments of a log, oldest first, and the thread that works on those that are no longer written to.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use super::{
    damage::Damage,
    directory::sync_dir,
    read::note_holes,
    segment::{self, Segment},
};
use crate::store::StoreError;

/// The list.
pub struct Segments {
    dir: PathBuf,
    list: RwLock<Arc<Vec<Arc<Segment>>>>,
    /// Those whose files could not be removed yet. Locked before the list.
    left: Mutex<Vec<Arc<Segment>>>,
    /// Bytes of all these files: a running total, because each commit asks for it.
    bytes: Arc<AtomicU64>,
}

/// The numbers of the segments in `dir`, rising.
pub fn numbers(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let names = names(dir)?;
    let number = |name: &String| {
        let number = name.strip_suffix(".seg")?.parse().ok()?;
        (segment::file_name(number) == *name).then_some(number)
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes what a rewrite has left half done.
pub fn remove_unfinished(dir: &Path) -> Result<(), StoreError> {
    for name in names(dir)?.iter().filter(|name| name.ends_with(segment::NEW)) {
        let path = dir.join(name);
        std::fs::remove_file(&path)
            .map_err(|error| StoreError(format!("remove {}: {error}", path.display()).into()))?;
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let failed = |error: std::io::Error| StoreError(format!("list {}: {error}", dir.display()).into());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

impl Segments {
    /// The list of `found`, which lie in `dir`. The files of those that are `left` are to be removed.
    pub fn new(dir: PathBuf, found: Vec<Arc<Segment>>, left: Vec<Arc<Segment>>) -> Self {
        let bytes = Arc::default();
        found.iter().chain(&left).for_each(|segment| segment.count_in(&bytes));
        Self { dir, list: RwLock::new(Arc::new(found)), left: Mutex::new(left), bytes }
    }

    /// The segments as they are now; those that are removed later can still be read through this list.
    pub fn list(&self) -> Arc<Vec<Arc<Segment>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn left(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::clone(&list);
        change(&mut new);
        *list = Arc::new(new);
    }

    /// The segment that is written to.
    pub fn newest(&self) -> Option<Arc<Segment>> {
        self.list().last().cloned()
    }

    /// Creates the next segment. It is not in the list yet.
    pub fn create(&self, number: u64) -> Result<Segment, std::io::Error> {
        let segment = Segment::create(&self.dir, number)?;
        if let Err(error) = sync_dir(&self.dir) {
            // If this fails, a start passes it over.
            let _ = segment.remove();
            return Err(std::io::Error::other(error));
        }
        Ok(segment)
    }

    /// Adds a segment, which is written to from now on.
    pub fn push(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        self.change(|list| {
            segment.count_in(&self.bytes);
            list.push(segment.clone());
        });
        segment
    }

    /// Puts a segment in the place of the one with its number.
    pub fn replace(&self, segment: Segment) {
        let segment = Arc::new(segment);
        self.change(|list| {
            for old in list.iter_mut().filter(|old| old.number == segment.number) {
                old.count_out();
                segment.count_in(&self.bytes);
                *old = segment.clone();
            }
        });
    }

    /// Removes the segment with this number, and its file. If the file cannot be removed now, `remove_left`
    /// tries it again.
    pub fn remove(&self, number: u64) {
        let mut left = self.left();
        self.change(|list| left.extend(list.extract_if(.., |segment| segment.number == number)));
        drop(left);
        self.remove_left();
    }

    /// Removes the files that could not be removed before.
    pub fn remove_left(&self) {
        self.left().retain(|segment| match segment.remove() {
            Ok(()) => {
                segment.count_out();
                false
            }
            Err(error) => {
                tracing::error!(%error, "a file that the log needs no more cannot be removed yet");
                true
            }
        });
    }

    /// Where the files lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes of events in all segments.
    pub fn event_bytes(&self) -> u64 {
        self.list().iter().map(|segment| segment.extent().event_bytes).sum()
    }

    /// Bytes that all segments take on disk.
    pub fn disk_bytes(&self) -> u64 {
        debug_assert!(self.is_total_right(), "the total is not the sum");
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_total_right(&self) -> bool {
        let left = self.left();
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        // All at once, because the sealing thread changes one at a time.
        let rooms: Vec<_> = list.iter().chain(left.iter()).map(|segment| segment.room()).collect();
        rooms.iter().map(|room| room.bytes).sum::<u64>() == self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of indexes in memory.
    pub fn memory(&self) -> usize {
        self.list().iter().map(|segment| segment.memory()).sum()
    }
}

/// A thread that works on segments that are no longer written to, so that neither the committing thread nor a sweep
/// waits for their files.
pub struct Sealer {
    jobs: Option<mpsc::Sender<Arc<Segment>>>,
    /// The numbers of those that wait: each waits once, so the queue is never longer than the list, however long a
    /// disk hangs.
    asked: Arc<Mutex<HashSet<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sealer {
    /// Starts the thread. Damage that it finds goes to `damage`.
    pub fn start(damage: Arc<Damage>) -> Result<Self, StoreError> {
        Self::start_with(move |segment| tend(segment, &damage))
    }

    fn start_with(mut work: impl FnMut(&Segment) + Send + 'static) -> Result<Self, StoreError> {
        let (jobs, receive) = mpsc::channel::<Arc<Segment>>();
        let asked: Arc<Mutex<HashSet<u64>>> = Arc::default();
        let waiting = asked.clone();
        let thread = std::thread::Builder::new().name("tidegate-seal".into()).spawn(move || {
            for segment in receive {
                waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment.number);
                work(&segment);
            }
        });
        let thread = thread.map_err(|error| StoreError::new("start the thread that seals", error))?;
        Ok(Self { jobs: Some(jobs), asked, thread: Some(thread) })
    }

    /// Seals a segment soon, and makes its index anew before if a part of it could not be read.
    pub fn tend(&self, segment: Arc<Segment>) {
        let Some(jobs) = &self.jobs else { return };
        if self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(segment.number) {
            let _ = jobs.send(segment);
        }
    }
}

fn tend(segment: &Segment, damage: &Damage) {
    // Reads that failed may have passed.
    if segment.is_unreadable()
        && let Err(error) = segment.rebuild_index()
    {
        tracing::warn!(%error, "the index of a segment cannot be read");
    }
    note_holes(segment, damage);
    if let Err(error) = segment.seal() {
        // Its index stays in memory, and a later sweep or the next start seals it.
        tracing::error!(%error, "a segment has no index on disk");
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A thread whose disk hangs until the test lets it go on. It says which segments it is done with.
#[cfg(test)]
pub fn hanging(damage: Arc<Damage>) -> (Sealer, mpsc::Sender<()>, mpsc::Receiver<u64>) {
    let (let_go, hold) = mpsc::channel::<()>();
    let (done, worked) = mpsc::channel();
    let sealer = Sealer::start_with(move |segment| {
        // An error: the test has let go of all.
        let _ = hold.recv();
        tend(segment, &damage);
        let _ = done.send(segment.number);
    });
    (sealer.expect("a thread"), let_go, worked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_a_segment_waits_once_however_often_it_is_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let damage = Arc::new(Damage::new(dir.path().join("damaged")));
        let (sealer, let_go, worked) = hanging(damage);
        let segment = |number| Arc::new(Segment::create(dir.path(), number).expect("a segment"));
        let both = [segment(1), segment(2)];
        for _ in 0..1000 {
            both.iter().for_each(|segment| sealer.tend(segment.clone()));
        }
        drop(let_go);
        drop(sealer);
        let worked: Vec<u64> = worked.iter().collect();
        // The thread may have begun with one of them before it was asked for again.
        assert!(worked.len() <= 3, "{} times", worked.len());
        assert!(both.iter().all(|segment| segment.is_sealed()));
    }
}
