//! The directory of a disk log: its lock and its format.
//!
//! ```text
//! log.dir/
//!   lock      held by flock for as long as a process has the log open
//!   format    "tidegate log 2"
//!   head      the highest acknowledged commit (head_file.rs)
//!   segments/ the commits, a file for each stretch of time (segment.rs)
//!   damaged/  copies of stretches that hold no whole record (damage.rs)
//! ```

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Access, FlockOperation, access, flock},
    io::Errno,
};

use crate::store::StoreError;

/// A link in the place of a file that is created here is not followed: root may run a command over the directory
/// of another user, who could have it write elsewhere.
pub const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// The format that this version writes and reads. Each record names it too (its magic, in record.rs), so that a
/// damaged file can be told from a log that another version wrote.
const FORMAT: &str = "tidegate log 2\n";

/// How often a lock that is held is tried, and after what time: a command that asks whether a gateway runs holds
/// it for a moment ([`Directory::is_in_use`]), and so does a child of this process between its fork and its exec.
const LOCK_TRIES: u32 = 25;
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// A directory that this process alone uses, until this is dropped.
pub struct Directory {
    path: PathBuf,
    _lock: Option<File>,
}

fn failed(what: &str, path: &Path, cause: impl std::fmt::Display) -> StoreError {
    StoreError(format!("{what} {}: {cause}", path.display()).into())
}

/// Makes names created in `path` outlive a power cut.
pub fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(|error| failed("sync the directory", path, error))
}

impl Directory {
    /// Takes the directory; creates it if there is none.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        // Events are for the gateway's own user to read.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| failed("create the log directory", path, error))?;
        let directory = Self::lock(path, false)?;
        directory.check_format()?;
        Ok(directory)
    }

    /// Takes a directory that exists, whatever is in it. With `is_to_read`, nothing is created: a copy of a log may
    /// be examined on a read-only file system, and without its lock, which nobody can hold then.
    pub fn lock(path: &Path, is_to_read: bool) -> Result<Self, StoreError> {
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        options.create(!is_to_read).truncate(false).write(true).mode(0o600).custom_flags(NOFOLLOW);
        let lock = match options.open(&lock_path) {
            Err(_) if is_to_read => File::open(&lock_path),
            opened => opened,
        };
        let lock = match lock {
            Err(error) if is_to_read && error.kind() == ErrorKind::NotFound => {
                return Ok(Self { path: path.to_owned(), _lock: None });
            }
            lock => lock.map_err(|error| failed("open", &lock_path, error))?,
        };
        let mut tries = 1;
        let mut locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        while locked == Err(Errno::WOULDBLOCK) && tries < LOCK_TRIES {
            std::thread::sleep(LOCK_AGAIN);
            tries += 1;
            locked = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        }
        match locked {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let sentence = format!(
                    "the log directory {} is in use by another process; stop it, or give this one a \
                     directory of its own with log.dir",
                    path.display()
                );
                return Err(StoreError(sentence.into()));
            }
            Err(error) => return Err(failed("lock", &lock_path, error)),
        }
        Ok(Self { path: path.to_owned(), _lock: Some(lock) })
    }

    /// Whether there is a log here.
    pub fn holds_log(path: &Path) -> bool {
        path.join("format").exists()
    }

    /// Whether a process holds the directory.
    pub fn is_in_use(path: &Path) -> Result<bool, StoreError> {
        let path = path.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("open", &path, error)),
        };
        // A shared lock, so that two that ask do not take each other for a gateway. Released with the file.
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(failed("lock", &path, error)),
        }
    }

    /// Checks without changing anything that [`take`](Self::take) would not refuse the directory for what is
    /// in it. Nothing is said of the lock: a node that runs holds it.
    pub fn look(path: &Path) -> Result<(), StoreError> {
        Self::has_format(path)?;
        for name in ["lock", "format", "head", "segments", "damaged"] {
            let path = path.join(name);
            match access(&path, Access::READ_OK | Access::WRITE_OK) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed("open", &path, std::io::Error::from(error))),
            }
        }
        Ok(())
    }

    fn check_format(&self) -> Result<(), StoreError> {
        if Self::has_format(&self.path)? { Ok(()) } else { self.write_format() }
    }

    /// Whether the directory at `path` is a log of ours; false if it is new.
    pub fn has_format(path: &Path) -> Result<bool, StoreError> {
        match std::fs::read(path.join("format")) {
            Ok(format) if format == FORMAT.as_bytes() => Ok(true),
            Ok(format) => {
                let shown: String = String::from_utf8_lossy(&format).trim_end().chars().take(40).collect();
                let sentence = format!(
                    "the log directory {} has the format {shown:?}, and this version of Tidegate reads only \
                     {:?}; start the version that wrote it, give this one a directory of its own, or, if the \
                     file is damaged, run `tidegate log check --repair`",
                    path.display(),
                    FORMAT.trim_end()
                );
                Err(StoreError(sentence.into()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if path.join("store").exists() || path.join("segments").exists() {
                    let sentence = format!(
                        "the log directory {} holds a log without a format file; it is not known what \
                         wrote it; if it was this version, run `tidegate log check --repair`",
                        path.display()
                    );
                    return Err(StoreError(sentence.into()));
                }
                Ok(false)
            }
            Err(error) => Err(failed("read", &path.join("format"), error)),
        }
    }

    /// Writes the file that names the format.
    pub fn write_format(&self) -> Result<(), StoreError> {
        let path = &self.path.join("format");
        let new = self.path.join("format.new");
        let written = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .custom_flags(NOFOLLOW)
            .open(&new)
            .and_then(|mut file| file.write_all(FORMAT.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, path));
        written.map_err(|error| failed("write", path, error))?;
        sync_dir(&self.path)
    }

    /// Where the segments lie.
    pub fn segments(&self) -> PathBuf {
        self.path.join("segments")
    }

    /// Where the head file lies.
    pub fn head(&self) -> PathBuf {
        self.path.join("head")
    }

    /// Where copies of what is damaged are kept, for an operator to examine.
    pub fn damaged(&self) -> PathBuf {
        self.path.join("damaged")
    }
}
