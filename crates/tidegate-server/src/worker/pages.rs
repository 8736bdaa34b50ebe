//! Pages of the log that readers of one worker catch up with: read once for all who ask for the same at
//! the same time, encoded and compressed once for all who see the same, and kept for those who come a
//! little later.
//!
//! A page is a [`Batch`], as those of the tail are, so what it shares is keyed as what they share: a page
//! by the life of its log and the stretch, what a reader gets of it by [`tidegate_core::ViewKey`] (R8). It
//! holds no targeted events in what it shares; a reader that has one in it gets a page of its own.
//!
//! Here is who waits for what, and what is kept; [`super::replays`] reads.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
    sync::Arc,
};

use tidegate_core::{Batch, Budget};
use tidegate_protocol::{Epoch, OrgId, Seq};

/// Pages end at multiples of this, or where something else ends them: so readers that come back with
/// different cursors go on with the same pages from the second on.
const GRID: Seq = 128;

/// What makes two pages the same (R8): all events of one life of a log in (`from`, `to`], or as many of
/// the first of them as a page may hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageKey {
    /// The org.
    pub org: OrgId,
    /// The life that the reader's cursor belongs to: of one log alone (R10).
    pub epoch: Epoch,
    /// Where it begins.
    pub from: Seq,
    /// Where it ends at the latest.
    pub to: Seq,
}

impl PageKey {
    /// The page that a reader at `from` takes next, of those that pass `most` nowhere.
    pub fn next(org: OrgId, epoch: Epoch, from: Seq, most: Seq) -> Self {
        Self { org, epoch, from, to: (from / GRID + 1).saturating_mul(GRID).min(most) }
    }
}

/// The pages of one worker; `W` waits for one.
#[derive(Debug)]
pub struct Pages<W> {
    kept: HashMap<PageKey, Kept>,
    /// Those kept, the least recently used first.
    by_use: BTreeMap<u64, PageKey>,
    uses: u64,
    /// Those that are being read, and who waits.
    asked: HashMap<PageKey, Vec<W>>,
    budget: Arc<Budget>,
    bytes_max: usize,
}

#[derive(Debug)]
struct Kept {
    page: Rc<Batch>,
    used: u64,
}

impl<W> Pages<W> {
    /// None yet; those to come may hold `bytes_max`, and are charged to `whole` too.
    pub fn new(bytes_max: usize, whole: Arc<Budget>) -> Self {
        Self {
            kept: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            asked: HashMap::new(),
            budget: Arc::new(Budget::part_of(whole)),
            bytes_max,
        }
    }

    /// What pages are charged to.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The page, where it is kept.
    pub fn get(&mut self, key: &PageKey) -> Option<Rc<Batch>> {
        let kept = self.kept.get_mut(key)?;
        self.by_use.remove(&kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.by_use.insert(kept.used, key.clone());
        Some(kept.page.clone())
    }

    /// `waiter` waits for the page. Whether the caller is to read it: nobody has asked for it before.
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

    /// The page was read. It is kept; those who waited for it are given back.
    pub fn handle_read(&mut self, key: PageKey, page: Rc<Batch>) -> Vec<W> {
        let waiters = self.asked.remove(&key).unwrap_or_default();
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        if let Some(before) = self.kept.insert(key, Kept { page, used: self.uses }) {
            self.by_use.remove(&before.used);
        }
        self.shrink();
        waiters
    }

    /// The page could not be read. Those who waited for it are given back.
    pub fn handle_failed(&mut self, key: &PageKey) -> Vec<W> {
        self.asked.remove(key).unwrap_or_default()
    }

    /// Lets go of the least recently used pages over the bound. They grow when somebody sees them in
    /// another way.
    pub fn shrink(&mut self) {
        while self.budget.used() > self.bytes_max {
            let Some((_, key)) = self.by_use.pop_first() else { break };
            self.kept.remove(&key);
        }
    }

    /// Lets go of all that is kept: nobody catches up any more.
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
        PageKey::next(org("acme"), epoch("e"), from, Seq::MAX)
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
        let next = |from, most| PageKey::next(org("acme"), epoch("e"), from, most).to;
        assert_eq!([0, 1, 127].map(|from| next(from, 1000)), [128; 3]);
        assert_eq!((next(128, 1000), next(990, 1000), next(5, 9)), (256, 1000, 9));
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
                        page.compressed_view(&org("acme"), &view_key, 0, by)
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
                            let place = format!("\"seq\":{},", event.seq);
                            prop_assert!(text.contains(&place), "{} lacks {}", text, place);
                        }
                    }
                    (given, expected) => prop_assert!(false, "{:?} {:?}", given, expected),
                }
            }
        }
    }
}
