//! The publish requests that have an `Idempotency-Key` and are being answered: one at a time for each key.
//!
//! Each holds a place of `limits.publishes_in_flight`, so there are never more than that many. This is not what
//! recognises a repeat: the dedup window does, and it would also do so if both came at once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tidegate_core::{DedupKey, NewEvent, publish::name_request};
use tidegate_protocol::{Code, OrgId, Refusal};

/// When a publisher should send the request again.
const RETRY_MS: u64 = 1000;

/// The names of the requests that are being answered.
#[derive(Debug, Clone, Default)]
pub struct InProgress(Arc<Mutex<HashSet<DedupKey>>>);

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub struct Answering {
    requests: InProgress,
    key: DedupKey,
}

impl InProgress {
    /// Begins to answer the request with these events, which `publisher` has named, and notes the name on the
    /// events. It is refused while another one with its name is being answered.
    pub fn begin(
        &self,
        events: &mut [NewEvent],
        org: &OrgId,
        publisher: &str,
        name: &str,
    ) -> Result<Answering, Refusal> {
        let key = name_request(events, org, publisher, name).key;
        self.take(key).ok_or_else(|| {
            let message = "a request with this Idempotency-Key is still being answered; send it again later";
            Refusal::new(Code::InProgress, message).retry_in(RETRY_MS)
        })
    }

    fn take(&self, key: DedupKey) -> Option<Answering> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        is_new.then(|| Answering { requests: self.clone(), key })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.requests.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_progress_until_it_is_dropped() {
        let requests = InProgress::default();
        let [one, other] = [1, 2].map(|n| DedupKey([n; 16]));
        let first = requests.take(one).expect("nobody else");
        assert!(requests.take(one).is_none());
        assert!(requests.take(one).is_none(), "a refusal ends nothing");
        assert!(requests.take(other).is_some());
        drop(first);
        assert!(requests.0.lock().expect("whole").is_empty());
        assert!(requests.take(one).is_some());
    }
}
