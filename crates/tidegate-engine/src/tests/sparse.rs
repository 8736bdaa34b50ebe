//! Seqs need not be dense: a log of which the store holds every tenth event reads back in whole.

use super::{
    store::{Cut, Found, LogIndex, NoRoom, Store, StoreError, Stretch, WriteGroup},
    *,
};

/// A memory store that keeps the events whose seqs are multiples of ten, as if no others had been given.
struct EveryTenth(MemoryStore);

impl Store for EveryTenth {
    fn chain(&self, index: LogIndex) -> Option<Chain> {
        self.0.chain(index)
    }
    fn commit(&self, group: &WriteGroup) -> Result<Result<(), NoRoom>, StoreError> {
        let mut group = group.clone();
        for log in &mut group.logs {
            log.events.retain(|event| event.seq % 10 == 0);
        }
        self.0.commit(&group)
    }
    fn acknowledge(&self) -> Result<(), StoreError> {
        self.0.acknowledge()
    }
    fn sync(&self) -> Result<(), StoreError> {
        self.0.sync()
    }
    fn read(
        &self,
        index: LogIndex,
        after: Seq,
        to: Seq,
        events: usize,
        bytes: usize,
    ) -> Result<Stretch, StoreError> {
        self.0.read(index, after, to, events, bytes)
    }
    fn blocks(&self) -> bool {
        self.0.blocks()
    }
    fn plan_cut(&self, now: UnixMillis, round: usize) -> Result<Option<Cut>, StoreError> {
        self.0.plan_cut(now, round)
    }
    fn apply_cut(&self, cut: &Cut) -> Result<(), StoreError> {
        self.0.apply_cut(cut)
    }
    fn cuts_on_write(&self) -> bool {
        self.0.cuts_on_write()
    }
    fn tick(&self, now: UnixMillis) -> Result<(), StoreError> {
        self.0.tick(now)
    }
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}

#[test]
fn r9_a_page_ends_where_the_store_has_looked_not_where_it_found_something() {
    let world = World::new(Kind::Memory);
    let store = EveryTenth(MemoryStore::new(600_000, 1 << 20));
    let found = Found { start: Start { number: 1, ..Start::default() }, ..Found::default() };
    let (local, hooks) = (LocalOptions::for_tests(), world.hooks());
    let engine = LocalEngine::over(store, found, local, 600_000, Durability::Memory, hooks).unwrap();
    let node = Node { world: &world, engine: Box::new(engine) };
    let ids: Vec<String> = (1..=97).map(|n| format!("id{n}")).collect();
    node.put("acme", &ids.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(node.seqs("acme"), [10, 20, 30, 40, 50, 60, 70, 80, 90]);
    let read = |after, events, bytes, to| {
        let page = node.page("acme", after, events, bytes, to);
        let seqs: Vec<Seq> = page.events.iter().map(|event| event.seq).collect();
        (seqs, page.to)
    };
    assert_eq!(read(0, 100, 100_000, SEQ_END).1, 97, "the head is not the seq of the last event");
    assert_eq!(read(0, 100, 100_000, 55), (vec![10, 20, 30, 40, 50], 55));
    assert_eq!(read(15, 2, 100_000, SEQ_END), (vec![20, 30], 30));
    assert_eq!(read(15, 100, 1, SEQ_END), (vec![20], 20));
    assert_eq!(read(90, 100, 100_000, SEQ_END), (vec![], 97), "nothing is there, and that is said");
    assert_eq!(read(91, 100, 100_000, 95), (vec![], 95));
}
