//! A reader that lags (R16, R17): by how many events, when it is warned, and what its policy does.
//!
//! [`tidegate_core::slow`] decides; this looks at the tail and acts.

use bytes::Bytes;
use tidegate_core::{
    Session, frame,
    slow::{Policy, SlowLimits, SlowStep},
};
use tidegate_engine::{Page, PageLimit, ReadError};
use tidegate_protocol::{Code, Refusal, StatusCode};

use super::Reader;
use crate::{
    config::{Config, config_key},
    random::random,
    refusals::LimitedBy as _,
};

/// How much of the log `slow=latest` conflates at a time (R17). It is in memory for this one reader.
const LATEST_EVENTS: usize = 1000;
const LATEST_BYTES: usize = 256 << 10;

impl Reader {
    /// By how many events it lags: those in the tail that it may see, and an estimate of those that are only
    /// in the log ([`tidegate_core::Tail::lag`]).
    fn lag(&self) -> u64 {
        let session = self.session.borrow();
        let (subscriber, at) = (session.subscriber(), session.scanned());
        self.org().tail().lag(at, &subscriber.user, &subscriber.filter)
    }

    /// Whether it cannot lag by more than `max` events, judged by seqs alone. That costs almost nothing, and
    /// most readers need no count.
    fn is_within(&self, max: u64) -> bool {
        self.org().tail().head().saturating_sub(self.with_session(Session::scanned)) <= max
    }

    /// Does what the policy of a reader demands after a warning.
    pub(super) async fn act(&self, frames: &mut Vec<Bytes>) -> Result<(), ReadError> {
        let worker = self.worker();
        let node = &worker.node;
        if self.policy == Policy::Skip {
            self.is_to_act.set(false);
            let lag = self.lag();
            let head = self.org().tail().head();
            let skipped = self.session.borrow_mut().skip(head, lag, node.now(), frames);
            if let Some(reason) = skipped {
                node.metrics.gap(reason);
            }
            return Ok(());
        }
        let (at, epoch) = self.with_session(|session| (session.scanned(), session.view_key().epoch));
        let head = self.org().tail().head();
        if self.policy == Policy::CatchUp || at >= head {
            self.is_to_act.set(false);
            return Ok(());
        }
        let limit = PageLimit { events: LATEST_EVENTS, bytes: LATEST_BYTES, to: head };
        let deletions = node.hub.deletions();
        let page = worker.read(self.org().id(), &epoch, at, limit).await?;
        // During the read an answer to the client may have been written in part. It has to be finished first.
        // If something was deleted meanwhile, the page is read again.
        if self.sink.ready().await.is_ok() && node.hub.deletions() == deletions {
            self.take_window(&page, frames);
        }
        Ok(())
    }

    /// Takes a page, and sends of it the last event of each service and key, and all events without a key
    /// (R17).
    fn take_window(&self, page: &Page, frames: &mut Vec<Bytes>) {
        let node = &self.worker().node;
        let (metrics, now) = (&node.metrics, node.now());
        let mut session = self.session.borrow_mut();
        let taken = session.take_page(page.after, page.to, &page.events, true, now, frames);
        if let Some(reason) = taken.gap {
            metrics.gap(reason);
        }
        metrics.delivered.inc_by(taken.events as u64);
        metrics.omitted.inc_by(taken.omitted as u64);
    }

    /// Checks whether it is slow (R16).
    pub fn look_at_lag(&self, config: &Config) {
        if self.is_live() {
            return;
        }
        let (slow, now) = (&config.slow, self.worker().since_start());
        if !self.with_escalation(|escalation| escalation.is_due(now))
            || self.is_within(slow.max_behind as u64)
            // It lags because its org is over a quota, or perhaps because of that.
            || self.org().used().was_paced()
        {
            return;
        }
        let limits = SlowLimits {
            max_behind: slow.max_behind as u64,
            max_warnings: u32::try_from(slow.max_warnings).unwrap_or(u32::MAX),
        };
        let lag = self.lag();
        match self.with_escalation(|escalation| escalation.handle_lag(now, lag, limits)) {
            None => {}
            Some(SlowStep::Warn(count)) => {
                self.worker().node.metrics.slow_warnings.inc();
                self.is_to_act.set(self.policy != Policy::CatchUp);
                let policy = self.policy.name();
                tracing::info!(connection = %self.id(), org = %self.org().id(), lag, count, policy, "warn a slow reader");
                let message = format!(
                    "this reader is {lag} events behind and does not gain: warning {count} of {}, policy {policy}",
                    slow.max_warnings
                );
                self.say(&frame::status(self.sink.framing(), StatusCode::SlowConsumer.name(), &message));
            }
            Some(SlowStep::Close) => {
                let message =
                    format!("the reader is {lag} events behind after {} warnings", slow.max_warnings);
                let refusal =
                    Refusal::new(Code::SlowConsumer, message).limited_by(config_key!(slow.max_warnings));
                self.end(refusal.retry_in(5_000 + random() % 5_000));
            }
        }
    }
}
