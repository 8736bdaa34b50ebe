//! The cache of pages of the log on one worker: each is read once for all who ask for it at the same time
//! (single flight), encoded and compressed once for all who see the same, and kept for those who come a
//! little later (least recently used goes first).
//!
//! A page is a [`Batch`], like those of the tail, and is shared in the same way (R8). The cache finds it by
//! org, epoch and stretch ([`PageKey`]); the page finds what a reader sees of it by
//! [`tidegate_core::ViewKey`]. Shared frames hold no targeted events; a reader that such an event is for gets
//! a frame of its own.
//!
//! This file has the pages, and who waits for which; [`super::read`] reads.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use tidegate_core::{Batch, Budget};
use tidegate_protocol::{Epoch, OrgId, Seq};

/// Pages end at multiples of this, unless something else ends them earlier. So readers that come back with
/// different cursors share all pages but their first. It is the number of events that one page may hold,
/// because seqs are mostly dense.
const GRID: Seq = 128;

/// Names a page (R8): all events of a log in (`from`, `to`], or the first of them, if a page cannot hold all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageKey {
    /// The org.
    pub org: OrgId,
    /// The epoch that the reader's cursor belongs to. It belongs to one log alone (R10).
    pub epoch: Epoch,
    /// How many deletions there had been when it was asked for ([`crate::hub::Hub::deletions`]): after a
    /// deletion, nobody gets a page that was read before it.
    pub deletions: u64,
    /// Where it begins.
    pub from: Seq,
    /// Where it ends at the latest.
    pub to: Seq,
}

impl PageKey {
    /// The page that a reader at `from` takes next, and that ends at `most` at the latest.
    pub fn next(org: OrgId, epoch: Epoch, deletions: u64, from: Seq, most: Seq) -> Self {
        Self { org, epoch, deletions, from, to: (from / GRID + 1).saturating_mul(GRID).min(most) }
    }

    /// A page that begins in the same place, and ends where a grid `factor` times as wide has its next line.
    /// For logs whose seqs are not dense.
    pub fn widened(self, factor: Seq, most: Seq) -> Self {
        let grid = GRID.saturating_mul(factor);
        Self { to: (self.from / grid + 1).saturating_mul(grid).min(most), ..self }
    }
}

/// The pages of one worker. A `W` is somebody who waits for one.
#[derive(Debug)]
pub struct Pages<W> {
    kept: HashMap<PageKey, KeptPage>,
    /// The keys of `kept`, the least recently used first.
    by_use: BTreeMap<u64, PageKey>,
    /// How often a page was used. The count at its last use is a page's key in `by_use`.
    uses: u64,
    /// Pages that are being read, and who waits for them.
    asked: HashMap<PageKey, Vec<W>>,
    budget: Arc<Budget>,
    bytes_max: usize,
}

#[derive(Debug)]
struct KeptPage {
    page: Rc<Batch>,
    /// Its key in `by_use`.
    used: u64,
}

impl<W> Pages<W> {
    /// An empty cache. It may hold `bytes_max`; `whole` counts its bytes, too.
    pub fn new(bytes_max: usize, whole: Arc<Budget>) -> Self {
        Self {
            kept: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            asked: HashMap::new(),
            budget: Arc::new(Budget::within(bytes_max).part_of(whole)),
            bytes_max,
        }
    }

    /// Counts the bytes of the pages.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The page, if it is kept.
    pub fn get(&mut self, key: &PageKey) -> Option<Rc<Batch>> {
        let kept = self.kept.get_mut(key)?;
        self.by_use.remove(&kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.by_use.insert(kept.used, key.clone());
        Some(kept.page.clone())
    }

    /// Adds `waiter` to those who wait for the page. Returns whether the caller must read it, because nobody
    /// else does.
    pub fn ask(&mut self, key: &PageKey, waiter: W) -> bool {
        match self.asked.get_mut(key) {
            Some(waiters) => {
                waiters.push(waiter);
                false
            }
            None => {
                self.asked.insert(key.clone(), vec![waiter]);
                true
            }
        }
    }

    /// Keeps a page that was read. Returns those who waited for it.
    pub fn handle_read(&mut self, key: PageKey, page: Rc<Batch>) -> Vec<W> {
        let waiters = self.asked.remove(&key).unwrap_or_default();
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        if let Some(before) = self.kept.insert(key, KeptPage { page, used: self.uses }) {
            self.by_use.remove(&before.used);
        }
        self.shrink();
        waiters
    }

    /// The page could not be read. Returns those who waited for it.
    pub fn handle_failed(&mut self, key: &PageKey) -> Vec<W> {
        self.asked.remove(key).unwrap_or_default()
    }

    /// Drops the least recently used pages until the others are within the bound. To be called also after
    /// pages were used, because a page grows with each view that is made of it.
    pub fn shrink(&mut self) {
        while self.budget.used() > self.bytes_max {
            let Some((_, key)) = self.by_use.pop_first() else { break };
            self.kept.remove(&key);
        }
    }

    /// Drops all that is kept.
    pub fn clear(&mut self) {
        (self.kept, self.by_use) = (HashMap::new(), BTreeMap::new());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tidegate_core::{Event, Framing, View, ViewKey, batch::Compressor};
    use tidegate_protocol::{Filter, ServiceName, UserId};

    use super::*;

    fn org(name: &str) -> OrgId {
        OrgId::parse(name).expect("a name")
    }

    fn epoch(name: &str) -> Epoch {
        Epoch::parse(name).expect("an epoch")
    }

    fn key(from: Seq) -> PageKey {
        PageKey::next(org("acme"), epoch("e"), 0, from, Seq::MAX)
    }

    fn event(seq: Seq, service: &str, is_targeted: bool) -> Arc<Event> {
        Arc::new(Event {
            seq,
            timestamp: 1,
            service: ServiceName::parse(service).expect("a name"),
            users: is_targeted.then(|| [UserId::parse("ann").expect("a user")].into()),
            fragment: Bytes::from(format!("\"seq\":{seq},\"data\":\"of {service}\"")),
        })
    }

    fn page(pages: &Pages<u32>, from: Seq) -> Rc<Batch> {
        let events = (from + 1..=from + 10).map(|seq| event(seq, "s", false)).collect();
        Rc::new(Batch::new(from, from + 10, 1, events, pages.budget()))
    }

    #[test]
    fn many_ask_one_reads() {
        let mut pages = Pages::new(1 << 20, Arc::default());
        let reads = (0..1000).filter(|waiter| pages.ask(&key(0), *waiter)).count();
        assert_eq!(reads, 1);
        assert!(pages.ask(&key(128), 7), "another page");
        let read = page(&pages, 0);
        assert_eq!(pages.handle_read(key(0), read.clone()), (0..1000).collect::<Vec<_>>());
        assert!(pages.get(&key(0)).is_some_and(|kept| Rc::ptr_eq(&kept, &read)));
        assert_eq!(pages.handle_failed(&key(128)), [7]);
        assert!(pages.ask(&key(128), 8), "what failed is read again");
    }

    #[test]
    fn the_bound_is_kept_and_the_least_recently_used_go_first() {
        let node = Arc::new(Budget::default());
        let mut pages = Pages::new(20_000, node.clone());
        for number in 0..100 {
            let read = page(&pages, number * 128);
            pages.handle_read(key(number * 128), read);
            assert!(pages.get(&key(0)).is_some(), "it is used all the time");
            assert!(pages.budget().used() <= 20_000, "{}", pages.budget().used());
        }
        assert!(pages.get(&key(99 * 128)).is_some() && pages.get(&key(128)).is_none());
        assert_eq!(pages.kept.len(), pages.by_use.len());
        // A page grows by what is made of it.
        let read = pages.get(&key(99 * 128)).expect("kept");
        for filter in 0..100 {
            let services = [ServiceName::parse("s"), ServiceName::parse(&format!("s{filter}"))];
            let services = services.into_iter().map(|name| name.expect("a name")).collect();
            let view =
                ViewKey { epoch: epoch("e"), filter: Filter::only(services), framing: Framing::WebSocket };
            read.view(&org("acme"), &view, read.prev);
        }
        drop(read);
        pages.shrink();
        assert!(pages.budget().used() <= 20_000, "{}", pages.budget().used());
        pages.clear();
        assert_eq!((pages.budget().used(), node.used()), (0, 0), "what goes is given back");
    }

    #[test]
    fn r8_another_org_life_or_stretch_is_another_page() {
        let mut pages = Pages::new(1 << 20, Arc::default());
        let read = page(&pages, 0);
        pages.handle_read(key(0), read);
        for other in [
            PageKey { org: org("other"), ..key(0) },
            PageKey { epoch: epoch("f"), ..key(0) },
            PageKey { from: 1, ..key(0) },
            PageKey { to: 127, ..key(0) },
        ] {
            assert!(pages.get(&other).is_none() && pages.ask(&other, 0), "{other:?}");
        }
    }

    #[test]
    fn pages_of_different_cursors_end_at_the_same_places() {
        let next = |from, most| PageKey::next(org("acme"), epoch("e"), 0, from, most).to;
        assert_eq!([0, 1, 127].map(|from| next(from, 1000)), [128; 3]);
        assert_eq!((next(128, 1000), next(990, 1000), next(5, 9)), (256, 1000, 9));
        let wide = |from, factor, most| {
            PageKey::next(org("acme"), epoch("e"), 0, from, most).widened(factor, most).to
        };
        assert_eq!([0, 127, 300].map(|from| wide(from, 4, 1000)), [512; 3]);
        assert_eq!((wide(5, 1, 1000), wide(5, 4, 200), wide(5, Seq::MAX, 200)), (128, 200, 200));
    }

    proptest! {
        /// Whoever asks in whatever order: what is given is what its own key says, and nothing targeted.
        #[test]
        fn r8_filters_framings_lives_and_codings_never_mix(
            events in prop::collection::vec((0..3_usize, any::<bool>()), 1..20),
            asked in prop::collection::vec((0..8_u8, any::<bool>(), any::<bool>(), any::<bool>()), 1..40),
        ) {
            const SERVICES: [&str; 3] = ["a", "b", "c"];
            let events: Vec<_> = (1..)
                .zip(&events)
                .map(|(seq, (service, is_targeted))| event(seq, SERVICES[*service], *is_targeted))
                .collect();
            let budget = Arc::default();
            let fresh = || Batch::new(0, events.len() as Seq, 1, events.clone(), &budget);
            let shared = fresh();
            for (services, is_sse, is_other, compresses) in asked {
                let names = SERVICES.iter().enumerate().filter(|(bit, _)| services & (1 << bit) != 0);
                let names = names.map(|(_, name)| ServiceName::parse(name).expect("a name")).collect();
                let view_key = ViewKey {
                    epoch: epoch(if is_other { "f" } else { "e" }),
                    filter: if services == 7 { Filter::all() } else { Filter::only(names) },
                    framing: if is_sse { Framing::Sse } else { Framing::WebSocket },
                };
                let of = |page: &Batch| match compresses {
                    false => page.view(&org("acme"), &view_key, 0),
                    true => {
                        let by = Compressor { generations: None, excluded: &[] };
                        page.compressed_view(&org("acme"), &view_key, 0, by).expect("a small frame")
                    }
                };
                let seen = events.iter().filter(|event| view_key.filter.admits(&event.service));
                let seen: Vec<_> = seen.filter(|event| !event.is_targeted()).collect();
                match (of(&shared), of(&fresh())) {
                    (View::Empty { .. }, View::Empty { .. }) => prop_assert!(seen.is_empty()),
                    (View::Frame { bytes, count, .. }, View::Frame { bytes: expected, .. }) => {
                        prop_assert_eq!(&bytes, &expected);
                        prop_assert_eq!(count, seen.len());
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        for event in &seen {
                            let seq = format!("\"seq\":{},", event.seq);
                            prop_assert!(text.contains(&seq), "{} lacks {}", text, seq);
                        }
                    }
                    (given, expected) => prop_assert!(false, "{:?} {:?}", given, expected),
                }
            }
        }
    }
}
