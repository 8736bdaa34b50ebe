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

/// The configuration is being reread. [`ready`] ends the reload, whether it succeeded or not.
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
