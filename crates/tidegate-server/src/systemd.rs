//! Notifications for the service manager (`sd_notify(3)`): the node is ready, reloads, stops, is alive.
//! Without `NOTIFY_SOCKET` they do nothing.
//!
//! The variable stays set, because a node has no child processes that could inherit it.

use std::time::Duration;

use sd_notify::NotifyState;

/// Ports are bound and workers run. `status` is shown by `systemctl status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The most bytes of a reason in a status; the log has all of it.
const REASON_BYTES: usize = 500;

/// A reread has ended: with the status of a node that serves, and the reason if nothing was taken over.
pub fn reread(status: &str, refused: Option<&str>) {
    match refused {
        None => ready(status),
        Some(reason) => {
            let shown = &reason[..reason.floor_char_boundary(REASON_BYTES)];
            let more = if shown.len() < reason.len() { "..." } else { "" };
            ready(&format!("{status}; RELOAD REFUSED, the old configuration stays: {shown}{more}"));
        }
    }
}

/// The configuration is being reread. [`reread`] ends it.
pub fn reloading() {
    // `Type=notify-reload` needs the time to know which reload is meant.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "read the clock for the service manager"),
    }
}

/// The node is stopping.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// How often the service manager's watchdog must be notified; `None` if it is off.
pub fn watchdog_interval() -> Option<Duration> {
    // Twice per watchdog timeout, so that one late notification does not cause a restart.
    sd_notify::watchdog_enabled().map(|within| within / 2)
}

/// The node is alive.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "tell the service manager");
    }
}
