//! A run with a clock, shared by its connections and by who waits for its verdict.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tidegate_protocol::{UnixMillis, time::millis};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use super::run::{Run, Verdict};

/// How long we wait, after our last byte, until the client has closed as well. If we closed first while bytes of
/// the client are unread, the kernel would answer with a reset, and the client could lose our last frames.
const LINGER: Duration = Duration::from_secs(2);

/// One run, shared by its connections and by who waits for its verdict.
#[derive(Debug)]
pub struct Live {
    /// What decides.
    pub run: Mutex<Run>,
    began: Instant,
    /// Changes whenever the run may have.
    pub changed: watch::Sender<u64>,
    is_watched: AtomicBool,
}

impl Live {
    /// A run that has not begun; `began` is where its time counts from.
    pub fn new(run: Run, began: Instant) -> Self {
        Self {
            run: Mutex::new(run),
            began,
            changed: watch::Sender::new(0),
            is_watched: AtomicBool::new(false),
        }
    }

    /// Whether this is the first call: somebody then waits for the verdict.
    pub fn is_first_watch(&self) -> bool {
        !self.is_watched.swap(true, Ordering::Relaxed)
    }

    /// Looks at the run, or changes it, and lets all that wait for it look again.
    pub fn with<T>(&self, change: impl FnOnce(&mut Run, u64) -> T) -> T {
        let done = change(&mut lock(&self.run), self.now());
        self.changed.send_modify(|count| *count += 1);
        done
    }

    /// The time of the run.
    pub fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// Waits for the verdict.
    pub async fn verdict(&self) -> Verdict {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let due = {
                let mut run = lock(&self.run);
                run.tick(self.now());
                if let Some(verdict) = run.verdict() {
                    return verdict.clone();
                }
                run.due()
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = self.until(due) => {}
            }
        }
    }

    /// Until a time of the run; at least a moment, if it is past.
    pub async fn until(&self, due: u64) {
        let left = due.saturating_sub(self.now()).clamp(10, 3_600_000);
        tokio::time::sleep(Duration::from_millis(left)).await;
    }

    /// Takes a report, and waits for the verdict.
    pub async fn report(&self, lines: &str) -> Verdict {
        self.with(|run, now| {
            run.begin(now);
            lines.lines().for_each(|line| run.line(now, line));
            run.reported(now);
        });
        self.verdict().await
    }
}

/// Ends our direction, and reads until the client has ended its own.
pub async fn linger(mut stream: TcpStream) {
    // The client may be gone already.
    let _ = stream.shutdown().await;
    let mut bytes = [0; 4096];
    let read = async { while matches!(stream.read(&mut bytes).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, read).await;
}

/// A lock whose content is whole even if its last holder panicked: each change is one call.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock.
pub fn wall() -> UnixMillis {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
