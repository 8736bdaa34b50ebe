//! Mending a log that no node uses (R31). A repair opens the log as a start of the node does, so it takes over what
//! is there and declares what is lost in the same way. Then it writes damaged segments anew, without the damage,
//! and closes the log. Copies of what it leaves out are in `damaged/`.

use std::{os::unix::fs::MetadataExt, path::Path, time::Duration};

use super::{
    DiskOptions, DiskStore,
    check::{CheckError, Examined, Phase, Progress, Report, check, check_and_take, decodes},
    damage::Damage,
    directory::Directory,
    index::{self, Extent},
    record::Kind,
    recovery, rewrite,
    segment::{self, Segment},
    segments,
};
use crate::{
    chain::Start,
    clock::{Clock, SystemClock},
    local::LocalOptions,
    store::{NoRoom, Store, StoreError, WriteGroup},
};

/// Checks the log in `dir` and mends what is found. Returns what was found, and what a check finds after the
/// repair. Holes stay: readers get gaps there. If the process is killed, the repair can be tried again.
///
/// Where a file cannot be read, the repair ends before it has changed that file, unless `gives_up_unreadable`: a read
/// that fails now may succeed later, or after the disk was copied.
pub fn repair(
    dir: &Path,
    gives_up_unreadable: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Report, Report), CheckError> {
    refuse_other_users(dir).map_err(CheckError::NotChecked)?;
    let (found, directory) = check_and_take(dir, false, progress).map_err(CheckError::NotChecked)?;
    if found.is_spotless() {
        return Ok((found.clone(), found));
    }
    mend(dir, &found, directory, gives_up_unreadable, progress).map_err(CheckError::NotMended)?;
    let after = check(dir, progress)?;
    Ok((found, after))
}

/// Files that another user writes could not be opened by the node.
fn refuse_other_users(dir: &Path) -> Result<(), StoreError> {
    let owner = std::fs::metadata(dir)
        .map_err(|error| StoreError(format!("open {}: {error}", dir.display()).into()))?
        .uid();
    let own = rustix::process::geteuid().as_raw();
    if owner == own {
        return Ok(());
    }
    let sentence = format!(
        "the log directory {} belongs to the user {owner}, and this process runs as the user {own}: files that it \
         writes could not be opened by the node; run it as that user (`runuser -u NAME -- tidegate log check \
         --repair`)",
        dir.display()
    );
    Err(StoreError(sentence.into()))
}

/// Reads every segment, and fails if a part of one cannot be read now.
fn refuse_unreadable(segments: &Path) -> Result<(), StoreError> {
    for number in segments::numbers(segments)? {
        let segment = Segment::open_to_read(segments, number)?;
        segment.contents()?;
        if segment.is_unreadable() {
            return Err(unreadable(&segment));
        }
    }
    Ok(())
}

fn unreadable(segment: &Segment) -> StoreError {
    let sentence = format!(
        "a part of {} cannot be read, and a repair would leave it out for good; try again, or copy the directory to \
         another disk first. If the disk will never give it, --give-up-unreadable leaves it out",
        segment.path().display()
    );
    StoreError(sentence.into())
}

/// Copies damaged stretches to `damaged/`, before anything is changed.
fn set_aside(dir: &Path, found: &Report, damage: &Damage) -> Result<(), StoreError> {
    for place in found.damaged.iter().filter(|place| place.bytes > 0) {
        let path = dir.join(&place.file);
        let number = path.file_stem().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0);
        let segment = Segment::open_to_read(&dir.join("segments"), number)?;
        let length = usize::try_from(place.bytes).unwrap_or(usize::MAX);
        damage.set_aside(number, place.offset, &segment.bytes_at(place.offset, length));
    }
    Ok(())
}

fn options(dir: &Path) -> DiskOptions {
    // Nothing is appended, so nothing is removed, refused or looked up.
    let local = LocalOptions {
        dedup_window: Duration::ZERO,
        dedup_max_entries: 0,
        dedup_max_entries_per_org: 0,
        orgs_max: 0,
        queue_requests_max: 0,
        queue_bytes_max: 0,
    };
    DiskOptions {
        local,
        dir: dir.to_owned(),
        sync_always: true,
        retention: Duration::MAX,
        max_bytes: u64::MAX,
        min_free: 0,
        bucket: None,
        erase_within: Duration::MAX,
        forget_after: Duration::MAX,
    }
}

fn mend(
    dir: &Path,
    report: &Report,
    directory: Directory,
    gives_up_unreadable: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), StoreError> {
    if !gives_up_unreadable {
        refuse_unreadable(&directory.segments())?;
    }
    if report.is_format_damaged {
        directory.write_format()?;
    }
    set_aside(dir, report, &Damage::new(directory.damaged()))?;
    // The store takes it again.
    drop(directory);
    let (store, found) = DiskStore::open(&options(dir), SystemClock.now())?;
    // The commit clock stands still meanwhile (R30).
    let at = found.clock;
    fill_in_missing(&store)?;
    let list = store.segments.list();
    let total = store.segments.disk_bytes();
    let mut done = 0;
    for (place, segment) in list.iter().enumerate() {
        progress(Progress { phase: Phase::Repair, done, total });
        done += segment.disk_bytes();
        let is_newest = place + 1 == list.len();
        if !is_newest {
            // Before a thread of the store does it.
            segment.seal()?;
        }
        if Examined::of(segment, is_newest)?.is_spotless() {
            continue;
        }
        if is_newest {
            // Only segments that are not written to are rewritten.
            store.begin_segment(&mut store.writer(), at)?;
            segment.seal()?;
        }
        write_anew(segment, gives_up_unreadable)?;
    }
    progress(Progress { phase: Phase::Repair, done, total });
    close(&store, found.start, at)
}

/// Puts an empty segment in the place of each that is missing, so that no start reports it again.
fn fill_in_missing(store: &DiskStore) -> Result<(), StoreError> {
    let dir = store.segments.dir();
    let empty = index::encode(&[], &Extent::default()).0;
    for number in recovery::missing(&segments::numbers(dir)?, &store.writer().state) {
        rewrite::put(&dir.join(segment::file_name(number)), &empty)?;
    }
    Ok(())
}

fn write_anew(segment: &Segment, gives_up_unreadable: bool) -> Result<(), StoreError> {
    let bytes = segment.contents()?;
    if segment.is_unreadable() && !gives_up_unreadable {
        return Err(unreadable(segment));
    }
    let rewritten = rewrite::rewritten(&bytes, |header, payload| {
        Ok(match decodes(header, payload) {
            true => rewrite::Edit::Keep,
            false => rewrite::Edit::Replace(Kind::Erased, Vec::new()),
        })
    })?;
    rewrite::put(segment.path(), &rewritten.bytes)
}

/// Notes this start, and that it ended cleanly.
fn close(store: &DiskStore, start: Start, at: u64) -> Result<(), StoreError> {
    let start = Start { clean: true, ..start };
    let group = WriteGroup { at, start: Some(start), ..WriteGroup::default() };
    store.commit(&group)?.map_err(|NoRoom(reason)| StoreError(reason))?;
    store.acknowledge()
}
