//! Shares of a pool that all use: slots, bytes or entries, of which each holder (an org, an API key) gets its
//! part, and some is always left for a holder that comes.
//!
//! The rule is that of *dynamic thresholds* (Choudhury and Hahne 1998, "Dynamic Queue Length Thresholds for
//! Shared-Memory Packet Switches", with alpha = 1): a holder may take more as long as it then has no more than
//! was free before. One holder gets at most half. If `k` holders take all that they get, each has
//! 1/(k + 1) of the pool, and as much stays free. A holder that has nothing gets something as long as
//! anything is free. The rule needs no list of active holders. If those that have too much shrink, all come to
//! equal shares (max-min fairness).
//!
//! A request of many units at once may pass that half, by half of its own size at most.
//!
//! [`may_take`] is the rule, for parts that count for themselves. [`Shares`] counts. [`Pool`] does so for several
//! threads, and hands out [`Share`]s that give back what they hold when they are dropped.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Whether a holder that has `held` units may take `wanted` more, if the pool has `free` left.
pub const fn may_take(held: usize, wanted: usize, free: usize) -> bool {
    wanted == 0 || held.saturating_add(wanted) <= free
}

/// Whether a holder that has `held` units has more than it would be given now, if the pool has `free` left. A
/// holder of what is kept for long gives back until it has no more than its share, or those who come later
/// would find less and less.
pub const fn is_over(held: usize, free: usize) -> bool {
    held > 0 && !may_take(held - 1, 1, free.saturating_add(1))
}

/// Why nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The pool has not that much left for anybody.
    Pool,
    /// The holder would have more than its share.
    Share,
}

/// How much of a pool each holder has. The size of the pool is given with each call, because an operator may
/// change it.
#[derive(Debug, Clone)]
pub struct Shares<H> {
    held: BTreeMap<H, usize>,
    used: usize,
}

impl<H> Default for Shares<H> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), used: 0 }
    }
}

impl<H: Clone + Ord> Shares<H> {
    /// Takes `units` for `holder` out of a pool of `size`: all of them or none.
    pub fn take(&mut self, holder: &H, units: usize, size: usize) -> Result<(), Refused> {
        let free = size.saturating_sub(self.used);
        if units > free {
            return Err(Refused::Pool);
        }
        if !may_take(self.held(holder), units, free) {
            return Err(Refused::Share);
        }
        if units > 0 {
            match self.held.get_mut(holder) {
                Some(held) => *held += units,
                None => drop(self.held.insert(holder.clone(), units)),
            }
            self.used += units;
        }
        Ok(())
    }

    /// Gives back `units` that `holder` has.
    pub fn give_back(&mut self, holder: &H, units: usize) {
        let Entry::Occupied(mut held) = self.held.entry(holder.clone()) else { return };
        let units = units.min(*held.get());
        *held.get_mut() -= units;
        self.used -= units;
        if *held.get() == 0 {
            held.remove();
        }
    }

    /// What `holder` has.
    pub fn held(&self, holder: &H) -> usize {
        self.held.get(holder).copied().unwrap_or(0)
    }

    /// What all holders have.
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many holders have something.
    pub fn holders(&self) -> usize {
        self.held.len()
    }
}

/// A pool that several threads take from.
#[derive(Debug)]
pub struct Pool<H>(Arc<Mutex<Shares<H>>>);

impl<H> Clone for Pool<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H> Default for Pool<H> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<H: Clone + Ord> Pool<H> {
    fn lock(&self) -> MutexGuard<'_, Shares<H>> {
        // No code between lock and unlock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `units` for `holder` out of the pool, whose size is `size` now.
    pub fn take(&self, holder: &H, units: usize, size: usize) -> Result<Share<H>, Refused> {
        self.lock().take(holder, units, size)?;
        Ok(Share { pool: self.clone(), holder: holder.clone(), units })
    }

    /// What all holders have.
    pub fn used(&self) -> usize {
        self.lock().used()
    }

    /// What `holder` has.
    pub fn held(&self, holder: &H) -> usize {
        self.lock().held(holder)
    }

    /// Whether `holder` has more of the pool than it would be given now ([`is_over`]).
    pub fn is_over(&self, holder: &H, size: usize) -> bool {
        let shares = self.lock();
        is_over(shares.held(holder), size.saturating_sub(shares.used()))
    }
}

/// What a holder has taken from a pool at one time; dropping it gives all of it back.
#[derive(Debug)]
pub struct Share<H: Clone + Ord> {
    pool: Pool<H>,
    holder: H,
    units: usize,
}

impl<H: Clone + Ord> Share<H> {
    /// Takes `more` units, or none of them.
    pub fn grow(&mut self, more: usize, size: usize) -> Result<(), Refused> {
        self.pool.lock().take(&self.holder, more, size)?;
        self.units += more;
        Ok(())
    }

    /// Gives back all but `units`.
    pub fn shrink_to(&mut self, units: usize) {
        let less = self.units.saturating_sub(units);
        self.pool.lock().give_back(&self.holder, less);
        self.units -= less;
    }

    /// How many units it has.
    pub fn units(&self) -> usize {
        self.units
    }
}

impl<H: Clone + Ord> Drop for Share<H> {
    fn drop(&mut self) {
        self.pool.lock().give_back(&self.holder, self.units);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 60;

    /// Each of `holders` takes one unit after the other, in turn, until none gets any.
    fn take_all(shares: &mut Shares<usize>, holders: usize) {
        while (0..holders).filter(|holder| shares.take(holder, 1, SIZE).is_ok()).count() > 0 {}
    }

    fn taken(holders: usize) -> Vec<usize> {
        let mut shares = Shares::default();
        take_all(&mut shares, holders);
        (0..holders).map(|holder| shares.held(&holder)).collect()
    }

    #[test]
    fn p5_greedy_holders_get_equal_shares_and_leave_one_more() {
        assert_eq!(taken(1), [30], "one holder gets half");
        assert_eq!(taken(2), [20, 20], "two get a third each, and a third is left");
        assert_eq!(taken(3), [15, 15, 15]);
        assert_eq!(taken(5), [10; 5]);
        assert_eq!(taken(59).iter().sum::<usize>(), 59, "those that come to the last unit leave it");
    }

    #[test]
    fn p5_a_newcomer_gets_something_as_long_as_anything_is_left() {
        let mut shares = Shares::default();
        for holder in 0..SIZE {
            assert_eq!(shares.take(&holder, 1, SIZE), Ok(()), "holder {holder}");
            while shares.used() < SIZE && shares.take(&holder, 1, SIZE).is_ok() {}
            if shares.used() == SIZE {
                break;
            }
        }
        assert_eq!(shares.take(&SIZE, 1, SIZE), Err(Refused::Pool));
        // Of one slot, one.
        assert_eq!(Shares::default().take(&0, 1, 1), Ok(()));
    }

    #[test]
    fn p5_a_request_of_many_units_passes_half_by_half_of_itself_at_most() {
        let mut shares = Shares::default();
        assert_eq!(shares.take(&0, SIZE + 1, SIZE), Err(Refused::Pool));
        while shares.take(&0, 16, SIZE).is_ok() {}
        assert_eq!(shares.held(&0), 32);
        assert_eq!(shares.take(&1, 16, SIZE), Ok(()), "another has its share");
        assert_eq!(shares.take(&0, 1, SIZE), Err(Refused::Share));
        assert_eq!(shares.take(&0, 0, SIZE), Ok(()), "nothing is always taken");
    }

    #[test]
    fn p5_holders_that_shrink_come_to_equal_shares() {
        let mut shares = Shares::default();
        for holder in 0..3 {
            while shares.take(&holder, 1, SIZE).is_ok() {}
        }
        assert_eq!([0, 1, 2].map(|holder| shares.held(&holder)), [30, 15, 8]);
        // Each gives one back and takes what it gets, again and again.
        for _ in 0..30 {
            for holder in 0..3 {
                shares.give_back(&holder, 1);
                take_all(&mut shares, 3);
            }
        }
        let held = [0, 1, 2].map(|holder| shares.held(&holder));
        assert!(held.iter().all(|held| (14..=16).contains(held)), "{held:?}");
        // What is kept for long comes there too, if it is given back while it is over the share.
        let mut shares = Shares::default();
        for holder in 0..7 {
            while shares.take(&holder, 1, SIZE).is_ok() {}
        }
        while let Some(over) = (0..7).find(|holder| is_over(shares.held(holder), SIZE - shares.used())) {
            shares.give_back(&over, 1);
        }
        let left = SIZE - shares.used();
        assert_eq!((shares.held(&0), shares.held(&5), left), (15, 1, 15), "{shares:?}");
        assert_eq!(shares.take(&6, 15, SIZE), Ok(()), "the seventh has its share");
        assert!(!is_over(1, 0), "nobody gives up its only unit");
    }

    #[test]
    fn a_share_grows_and_shrinks_and_gives_back_what_it_has() {
        let pool = Pool::default();
        let mut share = pool.take(&"a", 2, 10).expect("room");
        assert_eq!(share.grow(4, 10), Ok(()));
        assert_eq!(share.grow(1, 10), Err(Refused::Share), "no more than half");
        assert_eq!((share.units(), pool.used()), (6, 6));
        assert!(pool.is_over(&"a", 10) && !pool.is_over(&"b", 10));
        share.shrink_to(3);
        assert_eq!((share.units(), pool.used()), (3, 3));
        let other = pool.take(&"b", 3, 10).expect("room");
        drop(share);
        assert_eq!(pool.used(), 3);
        drop(other);
        assert_eq!((pool.used(), pool.lock().holders()), (0, 0), "nothing is kept of holders that have none");
    }

    proptest! {
        /// Against a model that keeps a list of all that was taken.
        #[test]
        fn p5_no_unit_is_lost_and_nobody_is_shut_out(
            size in 1..200usize,
            steps in prop::collection::vec((0..6usize, 0..40usize, any::<bool>()), 0..200),
        ) {
            let mut shares = Shares::default();
            let mut model: Vec<(usize, usize)> = Vec::new();
            for (holder, units, takes) in steps {
                let of = |model: &[(usize, usize)], holder| -> usize {
                    model.iter().filter(|(of, _)| *of == holder).map(|(_, units)| units).sum()
                };
                let used: usize = model.iter().map(|(_, units)| units).sum();
                let held = of(&model, holder);
                if takes {
                    let outcome = shares.take(&holder, units, size);
                    let is_room = units <= size - used;
                    prop_assert_eq!(outcome == Err(Refused::Pool), !is_room);
                    if held == 0 && is_room {
                        prop_assert_eq!(outcome, Ok(()));
                    }
                    if outcome.is_ok() {
                        model.push((holder, units));
                        prop_assert!(units == 0 || held + units <= size - used);
                        // After the step at most what is left, and the step itself.
                        prop_assert!(units == 0 || 2 * (held + units) <= size + units);
                    }
                } else if let Some(at) = model.iter().position(|(of, _)| *of == holder) {
                    let (holder, units) = model.swap_remove(at);
                    shares.give_back(&holder, units);
                }
                prop_assert_eq!(shares.used(), model.iter().map(|(_, units)| units).sum::<usize>());
                prop_assert!(shares.used() <= size);
                for holder in 0..6 {
                    prop_assert_eq!(shares.held(&holder), of(&model, holder));
                }
            }
            for (holder, units) in model {
                shares.give_back(&holder, units);
            }
            prop_assert_eq!((shares.used(), shares.holders()), (0, 0));
        }
    }
}
