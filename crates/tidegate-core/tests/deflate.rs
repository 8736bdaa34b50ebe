//! Shared compression (R18, R19): whenever a client joins, whatever it misses or gets besides, its own
//! inflater yields the same text.

use std::sync::Arc;

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use proptest::prelude::*;
use tidegate_core::{
    Framing, ViewKey,
    deflate::{
        self, Contexts, Deflated, LARGE_FROM_BYTES, Membership, Parts, compress_alone, take_compressions,
    },
};
use tidegate_protocol::{Epoch, Filter, OrgId, Seq, ServiceName, ws};

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).expect("a name")
}

fn key(name: &str) -> ViewKey {
    ViewKey {
        epoch: Epoch::from_random(7),
        filter: Filter::only([service(name)].into()),
        framing: Framing::WebSocket,
    }
}

fn org(name: &str) -> OrgId {
    OrgId::parse(name).expect("a name")
}

/// The generations of an org, as a worker uses them that keeps no view.
struct Generations(deflate::Generations);

impl Generations {
    fn new(contexts: Arc<Contexts>, org: OrgId) -> Self {
        Self(deflate::Generations::new(contexts, org))
    }

    /// A frame of the service `finance`.
    fn deflate(&self, key: &ViewKey, seq: Seq, plain: &Bytes) -> Deflated {
        let payload = &plain[ws::header_length(plain)..];
        self.deflate_parts(key, seq, plain, Parts::whole(&service("finance"), payload.len()))
    }

    fn deflate_parts(&self, key: &ViewKey, seq: Seq, plain: &Bytes, parts: Parts) -> Deflated {
        match self.0.of(key) {
            Some(generation) if plain.len() > LARGE_FROM_BYTES => {
                let payload = compress_alone(&plain[ws::header_length(plain)..]);
                generation.lock().go_on_after(seq, Deflated::alone(plain, parts, &payload))
            }
            Some(generation) => generation.lock().deflate(seq, plain, parts),
            None => Deflated::without_context(plain, parts),
        }
    }

    fn sweep(&self) {
        self.0.sweep();
    }
}

fn generations(max: usize) -> (Generations, Arc<Contexts>) {
    let contexts = Arc::new(Contexts::new(max));
    (Generations::new(contexts.clone(), org("acme")), contexts)
}

/// A client that has agreed to permessage-deflate with context takeover by the server.
struct Client {
    membership: Membership,
    inflater: Decompress,
    inflated: u64,
}

impl Client {
    fn new() -> Self {
        Self { membership: Membership::default(), inflater: Decompress::new(false), inflated: 0 }
    }

    /// What the client reads in a finished frame (RFC 7692, section 7.2.2).
    fn read(&mut self, frame: &Bytes) -> Result<String, String> {
        let mut payload = frame[ws::header_length(frame)..].to_vec();
        if frame[0] & 0x40 == 0 {
            return String::from_utf8(payload).map_err(|error| error.to_string());
        }
        self.inflated += 1;
        payload.extend_from_slice(&[0, 0, 0xFF, 0xFF]);
        let mut text = Vec::with_capacity(1 << 20);
        let (before, mut taken) = (self.inflater.total_in(), 0);
        while taken < payload.len() {
            let status = self
                .inflater
                .decompress_vec(&payload[taken..], &mut text, FlushDecompress::Sync)
                .map_err(|error| error.to_string())?;
            assert_ne!(status, Status::StreamEnd, "no message ends the stream");
            taken = usize::try_from(self.inflater.total_in() - before).expect("small");
        }
        String::from_utf8(text).map_err(|error| error.to_string())
    }

    fn take(&mut self, deflated: &Deflated) -> Result<String, String> {
        let frame = self.membership.take(deflated);
        self.read(&frame)
    }
}

fn event(number: u64) -> String {
    let amount = number.wrapping_mul(2_654_435_761) % 100_000;
    format!(
        r#"{{"type":"event","org":"acme","prev":{},"seq":{},"timestamp":"2026-11-24T09:30:{:02}.000Z","service":"finance","event":"invoice.paid","id":"0192f4a1-{number:012x}","data":{{"invoice":"INV-{amount}","amount_cents":{amount},"currency":"EUR","customer":"c-{}"}}}}"#,
        number - 1,
        number,
        number % 60,
        amount % 977
    )
}

#[test]
fn r19_a_joiner_becomes_a_member_after_a_window_of_the_generations_own_text() {
    let (generations, _) = generations(8);
    let key = key("finance");
    let (mut first, mut late) = (Client::new(), Client::new());
    let mut last_of_both = None;
    for number in 1..=400 {
        let text = event(number);
        let deflated = generations.deflate(&key, number, &ws::text_frame(&text));
        assert_eq!(first.take(&deflated).as_ref(), Ok(&text));
        assert!(first.membership.is_member(), "from the first frame of a generation on");
        if number > 3 {
            let was_member = late.membership.is_member();
            assert_eq!(late.take(&deflated).as_ref(), Ok(&text), "{number}");
            if late.membership.is_member() && !was_member {
                last_of_both = Some(number);
            }
        }
    }
    // One waits alone beside one member: it pays for a new generation long before it has a window.
    assert!(last_of_both.is_some_and(|number| number < 60), "{last_of_both:?}");
}

#[test]
fn r19_a_member_that_misses_the_start_of_the_next_generation_is_no_member_of_it() {
    let (generations, _) = generations(8);
    let key = key("finance");
    let mut client = Client::new();
    assert_eq!(client.take(&generations.deflate(&key, 1, &ws::text_frame(&event(1)))), Ok(event(1)));
    assert!(client.membership.is_member());
    // The compressor is given up and taken again: a new generation, whose first frame goes past this client
    // (it got an uncompressed frame of its own instead).
    generations.sweep();
    generations.sweep();
    drop(generations.deflate(&key, 2, &ws::text_frame(&event(2))));
    // Too short to be compressed alone, so it goes plain.
    let short = "7".to_owned();
    assert_eq!(client.take(&generations.deflate(&key, 3, &ws::text_frame(&short))), Ok(short));
    // This one refers to the frame that the client never had.
    assert_eq!(client.take(&generations.deflate(&key, 4, &ws::text_frame(&event(2)))), Ok(event(2)));
    assert!(!client.membership.is_member());
}

#[test]
fn small_events_one_by_one_shrink_to_less_than_a_third() {
    let (generations, _) = generations(8);
    let mut member = Client::new();
    let (mut plain, mut wire) = (0, 0);
    for number in 1..=1000 {
        let frame = ws::text_frame(&event(number));
        let deflated = generations.deflate(&key("finance"), number, &frame);
        plain += frame.len();
        wire += member.membership.take(&deflated).len();
    }
    assert!(wire * 10 < plain * 3, "{wire} of {plain} bytes");
}

#[test]
fn r19_filters_past_the_bound_go_without_context_and_sweeps_release_compressors() {
    let (generations, contexts) = generations(1);
    let (one, other) = (key("finance"), key("staff"));
    let (mut a, mut b) = (Client::new(), Client::new());
    for number in 1..=3 {
        let frame = ws::text_frame(&event(number));
        assert_eq!(a.take(&generations.deflate(&one, number, &frame)), Ok(event(number)));
        assert_eq!(b.take(&generations.deflate(&other, number, &frame)), Ok(event(number)));
    }
    assert!(a.membership.is_member() && !b.membership.is_member());
    assert_eq!((a.inflated, b.inflated, contexts.used()), (3, 3, 1));
    generations.sweep();
    assert_eq!(contexts.used(), 1, "used since the last sweep");
    generations.sweep();
    assert_eq!(contexts.used(), 0);
    // What comes now is a generation of its own, and nobody mistakes it for the one before.
    let frame = ws::text_frame(&event(4));
    assert_eq!(b.take(&generations.deflate(&other, 4, &frame)), Ok(event(4)));
    assert_eq!(a.take(&generations.deflate(&one, 4, &frame)), Ok(event(4)));
    assert!(b.membership.is_member() && !a.membership.is_member());
    let frame = ws::text_frame(&event(5));
    assert_eq!(b.take(&generations.deflate(&other, 5, &frame)), Ok(event(5)));
}

/// What happens to one of the clients, or to all.
#[derive(Debug, Clone)]
enum Step {
    /// A batch is sealed that everybody sees.
    Batch(u16),
    /// A large event is.
    Large,
    /// ...and this client is behind by this many.
    Lag(usize, u8),
    /// It gets a private frame, uncompressed.
    Private(usize),
    /// It gets something compressed for it alone.
    Alone(usize),
    /// It skips to the head.
    Skip(usize),
    /// It comes back with a fresh inflater.
    Join(usize),
    /// The compressors of idle filters go.
    Sweep,
    /// Another worker asks for a frame that was made already, and not kept.
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..4_usize;
    let step = prop_oneof![
        12 => (1..6000_u16).prop_map(Step::Batch),
        1 => Just(Step::Large),
        2 => (client.clone(), 0..20_u8).prop_map(|(client, lag)| Step::Lag(client, lag)),
        2 => client.clone().prop_map(Step::Private),
        1 => client.clone().prop_map(Step::Alone),
        1 => client.clone().prop_map(Step::Skip),
        2 => client.prop_map(Step::Join),
        1 => Just(Step::Sweep),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn r19_every_client_reads_the_same_whatever_happens(
        steps in steps(),
        contexts in 1..30_usize,
        services in prop_oneof![Just(1_usize), 2..20_usize],
    ) {
        let (generations, _) = generations(contexts);
        let key = key("finance");
        let mut batches: Vec<(String, Deflated)> = Vec::new();
        let mut clients: Vec<(Client, usize, usize)> = (0..4).map(|_| (Client::new(), 0, 0)).collect();
        for step in steps {
            match step {
                Step::Batch(size) => {
                    let number = batches.len() as u64 + 1;
                    // One in five is too short to be compressed alone, and goes plain to who is no member.
                    let mut text = if size % 5 == 0 { number.to_string() } else { event(number) };
                    let (mut parts, mut before) = (Parts::default(), 0);
                    loop {
                        let of = (number as usize * 7 + text.len()) % services;
                        parts.push(&service(&format!("s{of}")), text.len() - before);
                        before = text.len();
                        if size % 5 == 0 || text.len() >= usize::from(size) {
                            break;
                        }
                        text.push_str(&event(number * 1000 + text.len() as u64));
                    }
                    let deflated = generations.deflate_parts(&key, number, &ws::text_frame(&text), parts);
                    batches.push((text, deflated));
                }
                Step::Large => {
                    let number = batches.len() as u64 + 1;
                    let text = event(number).repeat(400);
                    let deflated = generations.deflate(&key, number, &ws::text_frame(&text));
                    batches.push((text, deflated));
                }
                Step::Again => {
                    if let Some((text, last)) = batches.last_mut() {
                        *last = generations.deflate(&key, 0, &ws::text_frame(text));
                    }
                }
                Step::Lag(client, lag) => clients[client].2 = usize::from(lag),
                Step::Private(client) => {
                    let read = clients[client].0.read(&ws::text_frame("private"));
                    prop_assert_eq!(read, Ok("private".to_owned()));
                }
                Step::Alone(client) => {
                    let (other, _) = generations_for_alone();
                    let text = event(77).repeat(3);
                    let frame = Membership::default().take(&other.deflate(&key, 0, &ws::text_frame(&text)));
                    clients[client].0.membership.leave();
                    prop_assert_eq!(clients[client].0.read(&frame), Ok(text));
                }
                Step::Skip(client) => clients[client].1 = batches.len(),
                Step::Join(client) => clients[client] = (Client::new(), batches.len().saturating_sub(9), 0),
                Step::Sweep => generations.sweep(),
            }
            for (client, at, lag) in &mut clients {
                while *at + *lag < batches.len() {
                    let (text, deflated) = &batches[*at];
                    let lacks = client.membership.lacks(deflated);
                    take_compressions();
                    let read = client.take(deflated);
                    prop_assert_eq!(read.as_ref(), Ok(text), "batch {}", *at);
                    prop_assert_eq!(take_compressions()[1], u64::from(lacks), "batch {}", *at);
                    *at += 1;
                }
            }
        }
    }
}

fn generations_for_alone() -> (Generations, Arc<Contexts>) {
    generations(0)
}

#[test]
fn r19_what_goes_plain_to_a_joiner_is_a_hole_in_what_it_holds() {
    // Twelve frames of 3,000 bytes fill a window; one among them that cannot be compressed comes plain, and
    // is not in the joiner's. Members beside it keep the next generation away.
    let frames_until_member = |plain_at: Option<u64>| {
        let (generations, _) = generations(8);
        let key = key("finance");
        let mut members: Vec<Client> = (0..50).map(|_| Client::new()).collect();
        let mut late = Client::new();
        let noise: String = (0..40_u8).map(|at| char::from(b'0' + at)).collect();
        for number in 1..=60 {
            let text = if plain_at == Some(number) { noise.clone() } else { event(number).repeat(11) };
            let deflated = generations.deflate(&key, number, &ws::text_frame(&text));
            for member in &mut members {
                assert_eq!(member.take(&deflated).as_ref(), Ok(&text));
            }
            if number > 1 {
                assert_eq!(late.take(&deflated).as_ref(), Ok(&text), "{number}");
                if late.membership.is_member() {
                    return number;
                }
            }
        }
        u64::MAX
    };
    let without = frames_until_member(None);
    assert_eq!(frames_until_member(Some(5)), without + 4, "what came before it counts no more");
}

#[test]
fn r19_a_compressor_that_is_given_up_and_one_that_was_refused_are_counted() {
    let (generations, contexts) = generations(1);
    let frame = ws::text_frame(&event(1));
    generations.deflate(&key("finance"), 1, &frame);
    assert_eq!((contexts.used(), contexts.missed()), (1, 0));
    generations.deflate(&key("staff"), 1, &frame);
    generations.deflate(&key("staff"), 2, &frame);
    assert_eq!((contexts.used(), contexts.missed()), (1, 2));
    drop(generations);
    assert_eq!((contexts.used(), contexts.missed()), (0, 2));
}

#[test]
fn p5_one_org_leaves_compressors_to_the_others_and_gives_back_what_is_over_its_share() {
    let contexts = Arc::new(Contexts::new(8));
    let [mut storm, mut calm, mut late] =
        ["storm", "calm", "late"].map(|name| Generations::new(contexts.clone(), org(name)));
    let frame = ws::text_frame(&event(1));
    let mut seq = 0;
    let mut ask_all = |generations: &mut Generations| {
        seq += 1;
        (0..8).for_each(|n| drop(generations.deflate(&key(&format!("s{n}")), seq, &frame)));
        contexts.used()
    };
    assert_eq!(ask_all(&mut storm), 4, "half");
    assert_eq!(ask_all(&mut calm), 6, "half of the rest");
    assert_eq!(ask_all(&mut late), 7);
    // Each sweep finds all of them in use.
    for _ in 0..4 {
        for org in [&mut storm, &mut calm, &mut late] {
            org.sweep();
            ask_all(org);
        }
    }
    assert_eq!(ask_all(&mut late), 6, "two each, and two are left");
    drop(storm);
    assert_eq!(contexts.used(), 4);
}

#[test]
fn r19_a_frame_that_is_asked_for_again_goes_past_the_context() {
    let (generations, _) = generations(8);
    let key = key("finance");
    let (mut member, mut other) = (Client::new(), Client::new());
    for number in 1..=9 {
        let frame = ws::text_frame(&event(number));
        assert_eq!(member.take(&generations.deflate(&key, number, &frame)), Ok(event(number)));
        assert!(member.membership.is_member(), "{number}");
        // A view that was not kept, made anew for a reader that is behind.
        assert_eq!(other.take(&generations.deflate(&key, number, &frame)), Ok(event(number)));
        assert!(!other.membership.is_member(), "{number}");
    }
}

#[test]
fn r19_all_who_take_a_large_frame_are_members_after_it() {
    let (generations, _) = generations(8);
    let key = key("finance");
    let (mut member, mut late) = (Client::new(), Client::new());
    for number in 1..=9 {
        let text = if number == 5 { event(number).repeat(400) } else { event(number) };
        let deflated = generations.deflate(&key, number, &ws::text_frame(&text));
        assert_eq!(member.take(&deflated).as_ref(), Ok(&text), "{number}");
        assert!(member.membership.is_member(), "{number}");
        if number >= 4 {
            assert_eq!(late.take(&deflated).as_ref(), Ok(&text), "{number}");
            assert_eq!(late.membership.is_member(), number >= 5, "{number}");
        }
    }
}

#[test]
fn p5_an_org_has_no_more_compressors_than_its_quota() {
    let (generations, contexts) = generations(64);
    contexts.set_quotas(Some(2), [(org("other"), None)].into());
    let keys = ["a", "b", "c"].map(key);
    let is_shared = |key: &ViewKey| generations.0.of(key).is_some();
    assert_eq!(keys.each_ref().map(is_shared), [true, true, false]);
    assert_eq!((contexts.used_by(&org("acme")), contexts.missed()), (2, 1));
    let others = Generations::new(contexts.clone(), org("other"));
    assert!(keys.iter().all(|key| others.0.of(key).is_some()), "another org has its share");
    contexts.set_quotas(Some(1), [].into());
    generations.sweep();
    assert_eq!((contexts.used_by(&org("acme")), is_shared(&keys[0])), (1, true), "the newest go first");
}
