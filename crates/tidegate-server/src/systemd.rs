//! What the service manager is told (`sd_notify(3)`): that the node is ready, reloads, stops, lives.
//! Does nothing where nobody asked for it by `NOTIFY_SOCKET`.
//!
//! The variable stays set, for a node has no children that could inherit it.

use std::time::Duration;

use sd_notify::NotifyState;

/// Ports are bound and workers run. `status` is shown by `systemctl status`.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] says when that is over, whatever came of it.
pub fn reloading() {
    // `Type=notify-reload` asks for the time, to know which reload is meant.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "read the clock for the service manager"),
    }
}

/// The node is going away.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// How often the service manager wants to hear that the node lives; `None` where it does not.
pub fn watchdog_interval() -> Option<Duration> {
    // Twice in its time, so that one late word is not the end.
    sd_notify::watchdog_enabled().map(|within| within / 2)
}

/// The node lives.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "tell the service manager");
    }
}
