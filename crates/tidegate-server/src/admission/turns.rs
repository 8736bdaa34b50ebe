//! Turns at something that takes long, such as a large body: a few at a time, in the order in which they are asked
//! for. One holder waits for few of them at a time, so that the others wait for few turns of each.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// With so many holders, those that wait for nothing are forgotten.
const SWEPT_FROM: usize = 256;

/// Turns that holders share.
#[derive(Debug)]
pub struct Turns<K> {
    at_once: usize,
    all: Arc<Semaphore>,
    of_each: Mutex<HashMap<K, Weak<Semaphore>>>,
}

/// A turn. It lasts until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// So many at a time.
    pub fn new(at_once: usize) -> Self {
        Self { at_once, all: Arc::new(Semaphore::new(at_once)), of_each: Mutex::default() }
    }

    /// Waits for a turn of `holder`.
    pub async fn take(&self, holder: &K) -> Option<Turn> {
        // The semaphores are never closed.
        let own = self.of(holder).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _all: all, _own: own })
    }

    fn of(&self, holder: &K) -> Arc<Semaphore> {
        let mut of_each = self.of_each.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = of_each.get(holder).and_then(Weak::upgrade) {
            return own;
        }
        if of_each.len() >= SWEPT_FROM {
            of_each.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(self.at_once));
        of_each.insert(holder.clone(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> task::Poll<F::Output> {
        future.poll(&mut task::Context::from_waker(task::Waker::noop()))
    }

    #[test]
    fn p5_many_that_wait_of_one_holder_are_not_before_one_of_another() {
        let turns = Turns::new(2);
        let mut held: Vec<Turn> = Vec::new();
        for _ in 0..2 {
            match poll(pin!(turns.take(&"many"))) {
                task::Poll::Ready(Some(turn)) => held.push(turn),
                _ => panic!("there are two"),
            }
        }
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(turns.take(&"many"))).collect();
        for turn in &mut waiting {
            assert!(poll(turn.as_mut()).is_pending());
        }
        let mut one = Box::pin(turns.take(&"one"));
        assert!(poll(one.as_mut()).is_pending());
        held.pop();
        assert!(poll(one.as_mut()).is_ready(), "nobody of the other holder waits for this turn");
    }

    #[test]
    fn holders_that_wait_for_nothing_are_forgotten() {
        let turns = Turns::new(1);
        for holder in 0..10 * SWEPT_FROM {
            assert!(poll(pin!(turns.take(&holder))).is_ready());
        }
        assert!(turns.of_each.lock().expect("a lock").len() <= SWEPT_FROM);
    }
}
