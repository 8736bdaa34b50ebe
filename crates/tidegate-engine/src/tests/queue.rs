//! The committer's queue: order, bounds and fairness, against a model.

use std::{collections::VecDeque, sync::mpsc, time::Duration};

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::*;
use crate::queue::{Queue, REQUEST_COST, Refused, Request, Taken};

fn append(name: &str, id: usize, events: usize, bytes: usize) -> Request {
    let event = event(name, &id.to_string());
    let event = NewEvent { body: vec![b'x'; bytes].into(), ..event };
    Request::Append { org: org(name), events: vec![event; events], answer: oneshot::channel().0 }
}

/// Which request it is, as `what org id`.
fn name(request: &Request) -> String {
    match request {
        Request::Append { org, events, .. } => format!("append {org} {}", events[0].id),
        Request::Open { org, .. } => format!("open {org}"),
        Request::Delete { org, seqs, .. } => format!("delete {org} {}", seqs.as_ref().unwrap()[0]),
        Request::Sweep { .. } => "sweep".into(),
        Request::Cut { .. } => "cut".into(),
        Request::Erased { .. } => "erased".into(),
    }
}

fn take(queue: &Queue, max_events: usize) -> Vec<Request> {
    match queue.take(max_events, Duration::ZERO) {
        Taken::Requests(requests) => requests,
        Taken::Nothing | Taken::Closed { .. } => Vec::new(),
    }
}

#[test]
fn p5_a_single_event_does_not_wait_for_all_that_another_org_has_sent_before() {
    let queue = Queue::new(1000, 64 << 20);
    for id in 0..40 {
        queue.push(append("bulk", id, 1000, 100)).unwrap();
    }
    queue.push(append("small", 0, 1, 100)).unwrap();
    let group = take(&queue, 10_000);
    let at = group.iter().position(|request| name(request) == "append small 0");
    assert!(at.is_some_and(|at| at <= 1), "in the first round: {at:?}");
    let bytes: usize = group.iter().map(Request::bytes).sum();
    assert!((700 << 10..=1 << 20).contains(&bytes), "while several orgs write, groups are short: {bytes}");
    // The next group is short too, so that what comes meanwhile does not wait for a long one.
    assert_eq!(take(&queue, 10_000).len(), group.len() - 1);
    // An org that writes alone has groups as large as they may be.
    let alone = Queue::new(1000, 64 << 20);
    (0..40).for_each(|id| alone.push(append("bulk", id, 1000, 100)).unwrap());
    assert_eq!(take(&alone, 10_000).len(), 10);
}

#[test]
fn p5_one_org_fills_half_of_the_queue_and_two_a_third_each() {
    let queue = Queue::new(1000, 60 << 10);
    let fill = |name: &str| {
        (0..).take_while(|id| queue.push(append(name, *id, 1, 1024 - size_of::<NewEvent>())).is_ok()).count()
    };
    assert_eq!([fill("a"), fill("b"), fill("c")], [30, 15, 8]);
    assert_eq!(queue.push(append("a", 99, 1, 1)), Err(Refused::Bytes));
    let queue = Queue::new(6, 1 << 20);
    let filled = (0..).take_while(|id| queue.push(append("a", *id, 1, 1)).is_ok()).count();
    assert_eq!(filled, 3);
    assert_eq!(queue.push(append("a", 99, 1, 1)), Err(Refused::Requests));
    assert_eq!(queue.push(append("b", 0, 1, 1)), Ok(()));
    let deletion = Request::Delete { org: org("a"), seqs: Some(vec![1]), answer: oneshot::channel().0 };
    assert_eq!(queue.push(deletion), Ok(()), "deletions are outside of the bounds");
}

#[test]
fn what_waits_is_handed_back_at_an_unclean_end() {
    let queue = Queue::new(10, 1 << 20);
    for request in [append("a", 0, 1, 1), append("b", 0, 1, 1), append("a", 1, 1, 1)] {
        queue.push(request).unwrap();
    }
    queue.push(Request::Sweep { cut: None, done: mpsc::sync_channel(1).0 }).unwrap();
    let left: Vec<_> = queue.close(false).iter().map(name).collect();
    assert_eq!(left, ["sweep", "append a 0", "append a 1", "append b 0"]);
    assert_eq!((queue.bytes(), take(&queue, 10).len()), (0, 0));
    assert_eq!(queue.push(append("a", 2, 1, 1)), Err(Refused::Closed));
}

#[derive(Debug, Clone)]
enum Step {
    Append { org: usize, events: usize, bytes: usize },
    Open(usize),
    Delete(usize),
    Sweep,
    Take,
}

const ORGS: [&str; 4] = ["a", "b", "c", "d"];
/// What an org gets of a round.
const QUANTUM: usize = 64 << 10;
const MAX_EVENTS: usize = 50;
const MAX_REQUESTS: usize = 200;
const MAX_BYTES: usize = 1 << 20;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4usize, 1..60usize, 0..400usize).prop_map(|(org, events, bytes)| Step::Append { org, events, bytes }),
        4 => (0..4usize, 1..3usize, 0..100usize).prop_map(|(org, events, bytes)| Step::Append { org, events, bytes }),
        1 => (0..4usize).prop_map(Step::Open),
        1 => (0..4usize).prop_map(Step::Delete),
        1 => Just(Step::Sweep),
        1 => Just(Step::Take),
    ];
    prop::collection::vec(step, 50..500)
}

/// What waits, org by org: the name of each request, its bytes, and whether the bounds count it.
#[derive(Default)]
struct Model {
    waiting: [VecDeque<(String, usize, bool)>; 4],
    sweeps: usize,
    /// The cost of what was taken of each org.
    served: [usize; 4],
    /// For two orgs that both have had something waiting since then: what was taken of them before.
    since: [[Option<(usize, usize)>; 4]; 4],
}

impl Model {
    fn held(&self, org: usize) -> (usize, usize) {
        let of = &self.waiting[org];
        (of.iter().filter(|request| request.2).count(), of.iter().map(|request| request.1).sum())
    }

    fn free(&self) -> (usize, usize) {
        let held = (0..4).map(|org| self.held(org));
        let (requests, bytes) = held.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        (MAX_REQUESTS - requests, MAX_BYTES - bytes)
    }

    fn push(&mut self, queue: &Queue, at: usize, request: Request, is_counted: bool) {
        let (name, bytes) = (name(&request), request.bytes());
        let ((requests_held, bytes_held), (requests_free, bytes_free)) = (self.held(at), self.free());
        let expected = if is_counted && requests_held + 1 > requests_free {
            Err(Refused::Requests)
        } else if bytes > 0 && bytes_held + bytes > bytes_free {
            Err(Refused::Bytes)
        } else {
            Ok(())
        };
        assert_eq!(queue.push(request), expected, "{name}");
        if expected.is_ok() {
            self.waiting[at].push_back((name, bytes, is_counted));
            self.note_backlog();
        }
    }

    fn take(&mut self, queue: &Queue) {
        let group = take(queue, MAX_EVENTS);
        let mut events = Vec::new();
        for request in &group {
            let taken = name(request);
            if taken == "sweep" {
                self.sweeps -= 1;
                continue;
            }
            let org = ORGS.iter().position(|org| taken.split(' ').nth(1) == Some(org)).unwrap();
            let (first, bytes, _) = self.waiting[org].pop_front().unwrap();
            assert_eq!(taken, first, "in the order in which they came");
            self.served[org] += bytes + REQUEST_COST;
            if let Request::Append { events: of, .. } = request {
                events.push(of.len());
            }
        }
        assert_eq!(self.sweeps, 0, "they come first");
        let total: usize = events.iter().sum();
        assert!(total <= MAX_EVENTS || events.len() == 1, "{events:?}");
        let is_left = self.waiting.iter().any(|of| !of.is_empty());
        assert!(!group.is_empty() || !is_left);
        assert!(!is_left || total > 0, "a group ends only because it is full");
        self.note_backlog();
        self.check_fairness();
    }

    fn note_backlog(&mut self) {
        for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
            let both = !self.waiting[a].is_empty() && !self.waiting[b].is_empty();
            let now = (self.served[a], self.served[b]);
            self.since[a][b] = both.then(|| self.since[a][b].unwrap_or(now));
        }
    }

    /// Two orgs that have something waiting all the time are served alike, up to a quantum and a largest request
    /// each.
    fn check_fairness(&self) {
        const MOST: usize = 60 * (400 + size_of::<NewEvent>()) + REQUEST_COST;
        for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
            let Some((of_a, of_b)) = self.since[a][b] else { continue };
            let (got_a, got_b) = (self.served[a] - of_a, self.served[b] - of_b);
            assert!(got_a <= got_b + QUANTUM + 2 * MOST, "{got_a} of {a}, {got_b} of {b}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn p5_the_queue_keeps_order_and_bounds_and_serves_orgs_alike(steps in steps()) {
        let queue = Queue::new(MAX_REQUESTS, MAX_BYTES);
        let mut model = Model::default();
        for (id, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append { org, events, bytes } => {
                    model.push(&queue, org, append(ORGS[org], id, events, bytes), true);
                }
                Step::Open(at) => {
                    let request = Request::Open { org: org(ORGS[at]), answer: oneshot::channel().0 };
                    model.push(&queue, at, request, true);
                }
                Step::Delete(at) => {
                    let seqs = Some(vec![id as Seq]);
                    let request = Request::Delete { org: org(ORGS[at]), seqs, answer: oneshot::channel().0 };
                    model.push(&queue, at, request, false);
                }
                Step::Sweep => {
                    queue.push(Request::Sweep { cut: None, done: mpsc::sync_channel(1).0 }).unwrap();
                    model.sweeps += 1;
                }
                Step::Take => model.take(&queue),
            }
            assert_eq!(queue.bytes(), MAX_BYTES - model.free().1);
        }
        while model.sweeps > 0 || model.waiting.iter().any(|of| !of.is_empty()) {
            model.take(&queue);
        }
        assert_eq!((queue.bytes(), take(&queue, 1).len()), (0, 0));
    }
}
