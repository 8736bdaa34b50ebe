//! Random histories of the local engines against a model that is simple enough to be believed: a list of
//! events per org, the time at which each id was given, and the epochs so far.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    /// Append events with these ids to this org.
    Append(u8, Vec<u8>),
    /// Append one event under an id with other content.
    Conflict(u8, u8),
    Open(u8),
    Pass(u64),
    Sweep,
    Restart {
        clean: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3u8, prop::collection::vec(0..12u8, 1..5)).prop_map(|(org, ids)| Op::Append(org, ids)),
        1 => (0..3u8, 0..12u8).prop_map(|(org, id)| Op::Conflict(org, id)),
        1 => (0..3u8).prop_map(Op::Open),
        3 => prop_oneof![1..1_000u64, MINUTE..4 * MINUTE].prop_map(Op::Pass),
        2 => Just(Op::Sweep),
        1 => any::<bool>().prop_map(|clean| Op::Restart { clean }),
    ]
}

#[derive(Default)]
struct Model {
    /// (id, time), seq being the index plus one.
    events: Vec<(u8, u64)>,
    known: HashMap<u8, (Seq, u64)>,
    epochs: Vec<(tidegate_protocol::Epoch, Seq)>,
    floor: Seq,
}

fn run(kind: Kind, ops: Vec<Op>) {
    let mut world = World::new(kind);
    world.bucket = Some(Duration::from_secs(60));
    fn open(world: &World) -> Node<'_> {
        let node = world.open();
        // Nothing is forgotten: that is another test.
        ["o0", "o1", "o2"].iter().for_each(|name| node.engine.watch(&org(name)));
        node
    }
    let mut node = open(&world);
    let mut models: [Model; 3] = Default::default();
    let (dedup, retention) = (5 * MINUTE, 10 * MINUTE);
    for op in ops {
        let now = world.clock.now();
        match op {
            Op::Append(at, ids) => {
                let model = &mut models[usize::from(at)];
                let mut expected = Vec::new();
                for &id in &ids {
                    match model.known.get(&id) {
                        Some(&(seq, given)) if now - given < dedup => expected.push((seq, true)),
                        _ => {
                            model.events.push((id, now));
                            let seq = model.events.len() as Seq;
                            model.known.insert(id, (seq, now));
                            expected.push((seq, false));
                        }
                    }
                }
                let ids: Vec<String> = ids.iter().map(|id| format!("id{id}")).collect();
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                assert_eq!(node.put(&format!("o{at}"), &ids), expected);
            }
            Op::Conflict(at, id) => {
                let model = &mut models[usize::from(at)];
                let name = format!("o{at}");
                let Some(&(seq, given)) = model.known.get(&id) else { continue };
                if now - given < dedup {
                    let conflict = event_with(&name, &format!("id{id}"), "other");
                    let first = FirstUse::Seq(seq);
                    let refused = AppendError::IdConflict { index: 0, first };
                    assert_eq!(node.append(&name, vec![conflict]).unwrap_err(), refused);
                }
            }
            Op::Open(at) => drop(node.state(&format!("o{at}"))),
            Op::Pass(millis) => world.pass(millis),
            Op::Sweep => node.engine.sweep(),
            Op::Restart { clean } => {
                if clean {
                    node.engine.close();
                }
                drop(node);
                node = open(&world);
                if kind == Kind::Memory {
                    models = Default::default();
                }
            }
        }
        check(&node, &mut models, retention);
    }
}

fn check(node: &Node<'_>, models: &mut [Model; 3], retention: u64) {
    let now = node.world.clock.now();
    for (at, model) in models.iter_mut().enumerate() {
        let name = format!("o{at}");
        if model.events.is_empty() {
            continue;
        }
        let state = node.state(&name);
        let end = model.events.len() as Seq;
        assert_eq!(state.head, end);
        assert!(state.floor >= model.floor, "the floor never falls");
        model.floor = state.floor;
        if let Some((_, given)) = model.events.get(state.floor.saturating_sub(1) as usize)
            && state.floor > 0
        {
            assert!(now - given >= retention, "nothing goes before its time");
        }
        let read = node.all(&name, 0);
        let expected = &model.events[state.floor as usize..];
        assert_eq!(read.len(), expected.len());
        for ((event, (id, given)), seq) in read.iter().zip(expected).zip(state.floor + 1..) {
            assert_eq!((event.seq, event.timestamp), (seq, *given));
            assert!(has_id(event, &format!("id{id}")));
        }
        let epochs: Vec<_> = state.ancestors.iter().map(|a| (a.epoch.clone(), a.end)).collect();
        assert!(state.ancestors.iter().all(|ancestor| !ancestor.lossy));
        match model.epochs.last_mut() {
            Some(last) if last.0 == state.epoch => last.1 = end,
            _ => model.epochs.push((state.epoch.clone(), end)),
        }
        let past = &model.epochs[..model.epochs.len() - 1];
        // This model has not seen an epoch in which the log was opened while it was still empty.
        assert!(epochs.ends_with(past), "{epochs:?} {past:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn memory_does_what_the_model_does(ops in prop::collection::vec(op(), 1..60)) {
        run(Kind::Memory, ops);
    }

    #[test]
    fn disk_does_what_the_model_does_over_restarts(ops in prop::collection::vec(op(), 1..60)) {
        run(Kind::Disk, ops);
    }
}
