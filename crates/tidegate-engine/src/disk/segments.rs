//! The segments of a log, oldest first, and the thread that works on those that are no longer written to.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc},
    thread::JoinHandle,
};

use super::{
    directory::sync_dir,
    segment::{self, Segment},
};
use crate::store::StoreError;

/// The list.
pub struct Segments {
    dir: PathBuf,
    list: RwLock<Arc<Vec<Arc<Segment>>>>,
    /// Those whose files could not be removed yet.
    left: Mutex<Vec<Arc<Segment>>>,
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
        Self { dir, list: RwLock::new(Arc::new(found)), left: Mutex::new(left) }
    }

    /// The segments as they are now; those that are removed later can still be read through this list.
    pub fn list(&self) -> Arc<Vec<Arc<Segment>>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
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
            // A start would take it for the newest one.
            let _ = segment.remove();
            return Err(std::io::Error::other(error));
        }
        Ok(segment)
    }

    /// Adds a segment, which is written to from now on.
    pub fn push(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        self.change(|list| list.push(segment.clone()));
        segment
    }

    /// Puts a segment in the place of the one with its number.
    pub fn replace(&self, segment: Segment) {
        let segment = Arc::new(segment);
        self.change(|list| {
            list.iter_mut().filter(|old| old.number == segment.number).for_each(|old| *old = segment.clone());
        });
    }

    /// Removes the segment with this number, and its file. If the file cannot be removed now, `remove_left`
    /// tries it again.
    pub fn remove(&self, number: u64) {
        let removed = self.list().iter().find(|segment| segment.number == number).cloned();
        self.left.lock().unwrap_or_else(PoisonError::into_inner).extend(removed);
        self.change(|list| list.retain(|segment| segment.number != number));
        self.remove_left();
    }

    /// Removes the files that could not be removed before.
    pub fn remove_left(&self) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).retain(|segment| match segment.remove() {
            Ok(()) => false,
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
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        self.list().iter().chain(left.iter()).map(|segment| segment.disk_bytes()).sum()
    }

    /// Bytes of indexes in memory.
    pub fn memory(&self) -> usize {
        self.list().iter().map(|segment| segment.memory()).sum()
    }
}

/// A thread that seals segments, so that the committing thread does not wait for it.
pub struct Sealer {
    jobs: Option<mpsc::Sender<Arc<Segment>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sealer {
    /// Starts the thread.
    pub fn start() -> Result<Self, StoreError> {
        let (jobs, receive) = mpsc::channel::<Arc<Segment>>();
        let thread = std::thread::Builder::new().name("tidegate-seal".into()).spawn(move || {
            for segment in receive {
                if let Err(error) = segment.seal() {
                    // Its index stays in memory, and the next start seals it.
                    tracing::error!(%error, "a segment has no index on disk");
                }
            }
        });
        let thread = thread.map_err(|error| StoreError::new("start the thread that seals", error))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Seals a segment soon.
    pub fn seal(&self, segment: Arc<Segment>) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(segment);
        }
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
