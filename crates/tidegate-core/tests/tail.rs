//! Tails and batches: how runs are cut, what comes after a position, and that every charged byte is released.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::{
    Batch, BatchLimits, Budget, Event, Framing, Next, Tail, View, ViewKey,
    batch::Compressor,
    frame::{AROUND_BYTES_MAX, EVENT_AROUND_BYTES},
};
use tidegate_protocol::{Epoch, Filter, OrgId, Seq, ServiceName, UserId};

/// Bounds that no test here reaches unless it says so.
const LIMITS: BatchLimits = BatchLimits { events: 100, bytes: 64 << 10 };

fn event(seq: Seq, service: &str, bytes: usize) -> Arc<Event> {
    Arc::new(Event {
        seq,
        timestamp: 0,
        service: ServiceName::parse(service).expect("a name"),
        users: None,
        fragment: Bytes::from(format!("\"seq\":{seq},\"x\":\"{}\"", "x".repeat(bytes))),
    })
}

fn events(seqs: impl IntoIterator<Item = Seq>) -> Vec<Arc<Event>> {
    seqs.into_iter().map(|seq| event(seq, "s", 0)).collect()
}

fn org() -> OrgId {
    OrgId::parse("acme").expect("a name")
}

fn key(filter: &Filter, framing: Framing) -> ViewKey {
    ViewKey { epoch: Epoch::parse("e").expect("an epoch"), filter: filter.clone(), framing }
}

fn ranges(tail: &Tail) -> Vec<(Seq, Seq)> {
    let mut ranges: Vec<_> = tail.newest_first().map(|batch| (batch.prev, batch.seq)).collect();
    ranges.reverse();
    ranges
}

#[test]
fn batches_are_full_at_either_limit_and_hold_one_event_at_least() {
    // At once and one by one, which must not differ.
    let lengths = |events: &[Arc<Event>], limits| {
        let [whole, single] = [events.len().max(1), 1].map(|piece| {
            let mut tail = Tail::new(0, Arc::default());
            for piece in events.chunks(piece) {
                tail.push(piece[0].seq - 1, piece, 10, limits);
            }
            tail.seal(10);
            let mut lengths: Vec<_> = tail.newest_first().map(|batch| batch.events.len()).collect();
            lengths.reverse();
            lengths
        });
        assert_eq!(whole, single);
        whole
    };
    let small = events(1..=7);
    assert_eq!(lengths(&small, BatchLimits { events: 3, bytes: 1 << 20 }), [3, 3, 1]);
    assert_eq!(lengths(&small, BatchLimits { events: 7, bytes: 1 << 20 }), [7]);
    assert!(lengths(&[], LIMITS).is_empty());
    let size = small[0].fragment.len();
    let end = AROUND_BYTES_MAX + 2 * (size + EVENT_AROUND_BYTES) + 1;
    assert_eq!(lengths(&small, BatchLimits { events: 9, bytes: end }), [2, 2, 2, 1]);
    assert_eq!(lengths(&small, BatchLimits { events: 9, bytes: end - 1 }), [1; 7]);
    let large = [event(1, "s", 0), event(2, "s", 5000), event(3, "s", 0)];
    assert_eq!(lengths(&large, BatchLimits { events: 9, bytes: 100 }), [1, 1, 1]);
    assert_eq!(lengths(&small, BatchLimits { events: 0, bytes: 0 }), [1; 7], "never an endless loop");
}

fn put(tail: &mut Tail, prev: u64, events: &[Arc<Event>], now: u64, limits: BatchLimits) {
    tail.push(prev, events, now, limits);
    tail.seal(now);
}

#[test]
fn what_does_not_fill_a_batch_stays_open_for_the_next_round() {
    let limits = BatchLimits { events: 3, bytes: 1 << 20 };
    let mut tail = Tail::new(0, Arc::default());
    tail.push(0, &events([1]), 10, limits);
    assert_eq!((ranges(&tail), tail.head(), tail.has_open()), (vec![], 0, true));
    assert!(matches!(tail.next(0), Next::CaughtUp), "what is open is not served");
    tail.push(1, &events([1, 2]), 11, limits);
    assert!(!tail.is_empty() && tail.has_open());
    tail.push(2, &events([3, 4]), 12, limits);
    assert_eq!((ranges(&tail), tail.has_open()), (vec![(0, 3)], true), "full by size");
    tail.seal(13);
    tail.seal(14);
    assert_eq!((ranges(&tail), tail.head(), tail.has_open()), (vec![(0, 3), (3, 4)], 4, false));
    // A hole drops what was open, too: it stands in the log.
    tail.push(4, &events([5]), 15, limits);
    tail.push(9, &events([10]), 16, limits);
    tail.seal(17);
    assert_eq!((ranges(&tail), tail.start()), (vec![(9, 10)], 9));
    let large = BatchLimits { events: 9, bytes: 100 };
    tail.push(10, &[event(11, "s", 5000), event(12, "s", 10)], 18, large);
    assert_eq!((ranges(&tail).last(), tail.has_open()), (Some(&(10, 11)), true), "full by bytes");
}

#[test]
fn sealing_takes_each_event_once_and_starts_anew_behind_a_hole() {
    let limits = BatchLimits { events: 2, bytes: 1 << 20 };
    let mut tail = Tail::new(0, Arc::default());
    put(&mut tail, 0, &events([1, 2, 3]), 10, limits);
    assert_eq!(ranges(&tail), [(0, 2), (2, 3)]);
    put(&mut tail, 0, &events([1, 2, 3]), 11, limits);
    assert_eq!(ranges(&tail), [(0, 2), (2, 3)], "held already");
    put(&mut tail, 2, &events([3, 4]), 12, limits);
    assert_eq!(ranges(&tail), [(0, 2), (2, 3), (3, 4)], "the part that is new");
    // Seqs need not be dense: a batch follows on the head, not on the seq before its first.
    put(&mut tail, 4, &events([9]), 13, limits);
    assert_eq!((ranges(&tail).last(), tail.head()), (Some(&(4, 9)), 9));
    put(&mut tail, 20, &events([21]), 14, limits);
    assert_eq!((ranges(&tail), tail.start(), tail.head()), (vec![(20, 21)], 20, 21));
}

#[test]
fn what_comes_after_a_position_is_exact_at_every_boundary() {
    let mut tail = Tail::new(5, Arc::default());
    assert!(matches!(tail.next(5), Next::CaughtUp));
    assert!(matches!(tail.next(4), Next::BeforeTail(5)), "an empty tail begins at its head");
    put(&mut tail, 5, &events([6, 7]), 10, LIMITS);
    put(&mut tail, 7, &events([9]), 20, LIMITS);
    let next = |at| match tail.next(at) {
        Next::CaughtUp => "caught up".to_owned(),
        Next::BeforeTail(start) => format!("before {start}"),
        Next::Batch(batch) => format!("{}..{}", batch.prev, batch.seq),
    };
    let found: Vec<_> = (4..=10).map(next).collect();
    assert_eq!(found, ["before 5", "5..7", "5..7", "7..9", "7..9", "caught up", "caught up"]);
    let since = |at| tail.since(at).iter().map(|batch| batch.seq).collect::<Vec<_>>();
    assert_eq!(
        [since(0), since(6), since(7), since(8), since(9)],
        [vec![7, 9], vec![7, 9], vec![9], vec![9], vec![]]
    );
}

#[test]
fn old_batches_go_by_age_and_the_head_stays() {
    let mut tail = Tail::new(0, Arc::default());
    for seq in 1..=4 {
        put(&mut tail, seq - 1, &events([seq]), seq * 10, LIMITS);
    }
    tail.drop_before(20);
    assert_eq!((tail.start(), tail.oldest()), (1, Some(20)), "what was sealed at that time stays");
    tail.drop_before(1000);
    assert_eq!((tail.start(), tail.head(), tail.oldest(), tail.memory()), (4, 4, None, 0));
    assert!(matches!(tail.next(4), Next::CaughtUp));
    tail.drop_oldest();
}

#[test]
fn r16_lag_counts_what_the_reader_may_see_and_all_places_before_the_tail() {
    let users: Arc<[UserId]> = [UserId::parse("ann").expect("a user")].into();
    let mut tail = Tail::new(0, Arc::default());
    let limits = BatchLimits { events: 2, ..LIMITS };
    let all: Vec<_> = (1..=10).map(|seq| event(seq, if seq % 5 == 0 { "b" } else { "a" }, 0)).collect();
    put(&mut tail, 0, &all, 0, limits);
    let targeted = Arc::new(Event { users: Some(users), ..(*event(11, "a", 0)).clone() });
    put(&mut tail, 10, &[targeted, event(12, "a", 0)], 0, limits);
    let [ann, bob] = ["ann", "bob"].map(|name| UserId::parse(name).expect("a user"));
    let b = Filter::only([ServiceName::parse("b").expect("a name")].into());
    let lags =
        |at| [tail.lag(at, &ann, &Filter::all()), tail.lag(at, &bob, &Filter::all()), tail.lag(at, &ann, &b)];
    assert_eq!((lags(0), lags(3), lags(11), lags(12)), ([12, 11, 2], [9, 8, 2], [1, 1, 0], [0, 0, 0]));
    (0..2).for_each(|_| tail.drop_oldest());
    let lag = tail.lag(1, &ann, &b);
    assert_eq!(lag, 3 + 2, "what the log alone holds is not looked through");
}

#[test]
fn r16_lag_counts_events_not_seqs() {
    let mut tail = Tail::new(0, Arc::default());
    let limits = BatchLimits { events: 2, ..LIMITS };
    let all: Vec<_> = (1..=10).map(|n| event(n * 1000, "a", 0)).collect();
    put(&mut tail, 0, &all, 0, limits);
    let (user, all) = (UserId::parse("ann").expect("a user"), Filter::all());
    assert_eq!([0, 1, 999, 1000, 9000, 10_000].map(|at| tail.lag(at, &user, &all)), [10, 10, 10, 9, 1, 0]);
    (0..3).for_each(|_| tail.drop_oldest());
    assert_eq!(tail.start(), 6000);
    assert_eq!([0, 3000, 6000].map(|at| tail.lag(at, &user, &all)), [10, 7, 4]);
    assert_eq!(tail.lag(5999, &user, &all), 5, "a seq that may be an event's is one");
}

#[test]
fn every_byte_is_charged_and_given_back_with_its_last_holder() {
    let budget = Arc::new(Budget::default());
    let mut tail = Tail::new(0, budget.clone());
    put(&mut tail, 0, &[event(1, "a", 1000), event(2, "b", 1000)], 0, LIMITS);
    let bare = budget.used();
    assert!(bare > 2000 && bare == tail.memory(), "{bare}");

    let batch = tail.since(0).pop().expect("a batch");
    let View::Frame { bytes, .. } = batch.view(&org(), &key(&Filter::all(), Framing::Sse), 0) else {
        panic!("it has events");
    };
    let viewed = budget.used();
    assert!(viewed >= bare + bytes.len(), "a view is charged: {bare} {viewed}");
    batch.view(&org(), &key(&Filter::all(), Framing::Sse), 0);
    assert_eq!(budget.used(), viewed, "once");
    tail.drop_oldest();
    assert_eq!(budget.used(), viewed, "a reader still holds it");
    drop(batch);
    assert_eq!(budget.used(), 0);
}

/// A filter that admits the service `s` and no other has.
fn one_of_many(number: usize) -> Filter {
    let names = [ServiceName::parse("s"), ServiceName::parse(&format!("s{number}"))];
    Filter::only(names.map(|name| name.expect("a name")).into())
}

#[test]
fn views_past_the_bound_are_charged_as_long_as_they_exist() {
    let budget = Arc::new(Budget::default());
    let batch = Batch::new(0, 1, 0, events([1]), &budget);
    let view = |number: usize| {
        let by = Compressor { generations: None, excluded: &[] };
        let view = batch
            .compressed_view(&org(), &key(&one_of_many(number), Framing::WebSocket), 0, by)
            .expect("small");
        assert!(matches!(view, View::Frame { count: 1, compressed: Some(_), .. }));
        view
    };
    let mut charged = Vec::new();
    for number in 0..300 {
        let kept = view(number).is_kept();
        assert_eq!(kept, number < 256);
        charged.push(budget.used());
    }
    assert_eq!(charged[255], charged[299], "a node's filters cannot grow one batch without end");
    assert_eq!(budget.views_unkept(), 44, "and those that were not kept are counted");
    let unkept = view(300);
    assert!(budget.used() >= charged[299] + unkept.plain_bytes(), "{} {}", budget.used(), charged[299]);
    drop(unkept);
    assert_eq!(budget.used(), charged[299]);
    drop(batch);
    assert_eq!(budget.used(), 0);
}

#[test]
fn p5_views_are_kept_within_a_quarter_over_the_bound_of_their_tail() {
    let whole = Arc::new(Budget::default());
    let mut tail = Tail::within(100_000, 0, whole.clone());
    put(&mut tail, 0, &[event(1, "s", 30_000)], 0, LIMITS);
    let batch = tail.since(0).pop().expect("a batch");
    for number in 0..100 {
        batch.view(&org(), &key(&one_of_many(number), Framing::WebSocket), 0);
    }
    assert!((90_000..=95_000).contains(&whole.used()), "{}", whole.used());
    assert_eq!(whole.views_unkept(), 98, "a third would be over it, with its compressed form");
}

#[test]
fn r8_views_differ_by_epoch_filter_and_framing_and_hold_nothing_targeted() {
    let users: Arc<[UserId]> = [UserId::parse("ann").expect("a user")].into();
    let targeted = Arc::new(Event { users: Some(users), ..(*event(2, "a", 0)).clone() });
    let batch = Batch::new(0, 3, 0, vec![event(1, "a", 0), targeted, event(3, "b", 0)], &Arc::default());
    let a = Filter::only([ServiceName::parse("a").expect("a name")].into());
    let text = |key: &ViewKey| match batch.view(&org(), key, 0) {
        View::Frame { bytes, .. } => String::from_utf8_lossy(&bytes).into_owned(),
        View::Empty { targeted } => format!("empty, targeted: {targeted}"),
    };
    let ws = text(&key(&Filter::all(), Framing::WebSocket));
    let sse = text(&key(&Filter::all(), Framing::Sse));
    let narrow = text(&key(&a, Framing::Sse));
    let other_life = text(&ViewKey { epoch: Epoch::parse("f").expect("an epoch"), ..key(&a, Framing::Sse) });
    let all = [&ws, &sse, &narrow, &other_life];
    for (index, one) in all.iter().enumerate() {
        assert!(all[index + 1..].iter().all(|other| other != one), "{one}");
        assert!(!one.contains("\"seq\":2,") && !one.contains("ann") && !one.contains("users"), "{one}");
    }
    assert!(narrow.contains("id: e-3-") && other_life.contains("id: f-3-"));
    let c = Filter::only([ServiceName::parse("c").expect("a name")].into());
    assert_eq!(text(&key(&c, Framing::Sse)), "empty, targeted: false");
    let only_targeted =
        Batch::new(0, 1, 0, vec![Arc::new(Event { seq: 1, ..(*batch.events[1]).clone() })], &Arc::default());
    assert!(matches!(only_targeted.view(&org(), &key(&a, Framing::Sse), 0), View::Empty { targeted: true }));
    let ann = UserId::parse("ann").expect("a user");
    assert!(only_targeted.has_targeted_at(&ann, &a) && !only_targeted.has_targeted_at(&ann, &c));
    assert!(!only_targeted.has_targeted_at(&UserId::parse("bob").expect("a user"), &a));
}

#[test]
fn p7_a_tail_that_forgets_sends_its_readers_to_the_log_and_goes_on() {
    let whole = Arc::<Budget>::default();
    let mut tail = Tail::new(0, whole.clone());
    put(&mut tail, 0, &events(1..=3), 10, LIMITS);
    tail.push(3, &events(4..=5), 10, LIMITS);
    tail.forget();
    assert_eq!((tail.start(), tail.head(), whole.used()), (5, 5, 0), "the open events are gone, too");
    assert!(tail.is_empty() && !tail.has_open());
    for at in [0, 3, 4] {
        assert!(matches!(tail.next(at), Next::BeforeTail(5)), "{at}");
    }
    assert!(matches!(tail.next(5), Next::CaughtUp));
    put(&mut tail, 5, &events(6..=6), 10, LIMITS);
    assert_eq!(ranges(&tail), [(5, 6)]);
}
