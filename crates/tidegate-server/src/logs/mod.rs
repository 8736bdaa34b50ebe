//! Log lines on standard error, as configured in `[logs]`, panics included. Nobody who logs waits for standard
//! error ([`queue`]).

mod queue;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{LogFormat, LogsSettings};
use queue::LineQueue;

/// How long a process that ends waits for its last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The lines of this process.
static LINES: LineQueue = LineQueue::new();

/// Whether [`LINES`] are written.
static IS_STARTED: AtomicBool = AtomicBool::new(false);

/// Logging, as long as it is kept. Dropping it waits for the last lines, a second at most.
#[derive(Debug)]
#[must_use]
pub struct Logging(());

impl Drop for Logging {
    fn drop(&mut self) {
        LINES.flush(FLUSH_MAX);
    }
}

/// Starts logging for the process. A second call changes nothing.
pub fn start(logs: &LogsSettings) -> io::Result<Logging> {
    // Dependencies log at warn and above: their info lines are not about the node. The warnings of h2 are
    // caused by peers, who must not be able to fill a log; they are counted in a metric.
    let level = logs.level.word();
    let others = if level == "error" { "error" } else { "warn" };
    // A target matches by its beginning, so `tidegate` covers every crate of the gateway.
    let filter = EnvFilter::new(format!("{others},h2=error,tidegate={level}"));
    // The library reports errors of its own with a print that panics if standard error is closed.
    let lines = fmt().log_internal_errors(false).with_writer(|| &LINES).with_env_filter(filter);
    let started = match logs.format {
        LogFormat::Human => {
            use std::io::IsTerminal as _;
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).finish().try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    if !IS_STARTED.swap(true, Ordering::SeqCst) {
        std::thread::Builder::new().name("tidegate-logs".to_owned()).spawn(write_lines)?;
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(Logging(()))
}

/// How many log lines were dropped because standard error did not take them.
pub fn lines_dropped() -> u64 {
    LINES.dropped()
}

/// Writes a message of the command line to standard error, after the log lines if there are any. A standard
/// error that is closed is no reason to fail, and one that nobody reads does not hold up a node that ends.
pub fn say(message: impl std::fmt::Display) {
    let message = format!("{message}\n");
    if IS_STARTED.load(Ordering::SeqCst) {
        LINES.add(message.as_bytes());
        LINES.flush(FLUSH_MAX);
    } else {
        // Nobody is left who could be told.
        let _ = io::stderr().write_all(message.as_bytes());
    }
}

/// The thread that writes.
fn write_lines() {
    let mut batch = Vec::new();
    loop {
        if let Some(dropped) = LINES.write_waiting(&mut batch, queue::write_to_stderr) {
            tracing::warn!(dropped, "log lines were dropped: standard error did not take them");
        }
    }
}

/// In place of the default hook, which waits for standard error.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(thread, place, "a thread panicked: {message}");
    // As RUST_BACKTRACE says.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!("the panic's backtrace:\n{backtrace}");
    }
}
