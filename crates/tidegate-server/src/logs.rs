//! Log lines on standard error, as configured in `[logs]`.

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{LogFormat, LogsSettings};

/// Starts logging for the process. A second call changes nothing.
pub fn start(logs: &LogsSettings) {
    // Dependencies log at warn and above: their info lines are not about the node. The warnings of h2 are
    // caused by peers, who must not be able to fill a log; they are counted in a metric.
    let level = logs.level.word();
    let others = if level == "error" { "error" } else { "warn" };
    // A target matches by its beginning, so `tidegate` covers every crate of the gateway.
    let filter = EnvFilter::new(format!("{others},h2=error,tidegate={level}"));
    let lines = fmt().with_writer(std::io::stderr).with_env_filter(filter);
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
}
