//! How views are made: each form once, a large one piece by piece, and none behind the lock of another.

use std::{sync::Arc, thread};

use bytes::Bytes;
use tidegate_core::{
    Batch, Event, Framing, View, ViewKey,
    batch::{Compressed, Compressor},
    deflate::{Contexts, Generations, MadeForm, Membership, take_compressions},
    envelope::Enveloping,
};
use tidegate_protocol::{Epoch, Filter, OrgId, ServiceName};

fn org() -> OrgId {
    OrgId::parse("acme").expect("a name")
}

fn key(services: &[&str], framing: Framing) -> ViewKey {
    let names = services.iter().map(|name| ServiceName::parse(name).expect("a name"));
    ViewKey { epoch: Epoch::parse("e").expect("an epoch"), filter: Filter::only(names.collect()), framing }
}

/// A batch of one event of service `s`, with so many bytes that shrink well.
fn batch(seq: u64, bytes: usize) -> Batch {
    let words = (0..).map(|number| format!("word {number} "));
    let mut text = String::new();
    words
        .take_while(|word| {
            text.push_str(word);
            text.len() < bytes
        })
        .for_each(drop);
    let service = ServiceName::parse("s").expect("a name");
    let fragment = Bytes::from(format!("\"seq\":{seq},\"data\":\"{text}\""));
    let event = Event { seq, timestamp: 0, service, users: None, fragment };
    Batch::new(seq - 1, seq, 0, vec![Arc::new(event)], &Arc::default())
}

fn generations() -> Generations {
    Generations::new(Arc::new(Contexts::new(8)), org())
}

/// How many compressions this thread has made since the last call, of one form.
fn made(form: MadeForm) -> u64 {
    take_compressions()[form as usize]
}

fn compressed(view: &View) -> &Arc<Compressed> {
    match view {
        View::Frame { compressed: Some(compressed), .. } => compressed,
        _ => panic!("it is compressed"),
    }
}

#[test]
fn each_form_is_compressed_once_and_looking_at_one_compresses_nothing() {
    let (batch, generations) = (batch(1, 2000), generations());
    let key = key(&["s"], Framing::WebSocket);
    take_compressions();
    for _ in 0..3 {
        let by = Compressor { generations: Some(&generations), excluded: &[] };
        let view = batch.compressed_view(&org(), &key, 0, by).expect("a small frame");
        assert!(view.wire_bytes() < 1500);
        let Compressed::Deflated(forms) = &**compressed(&view) else { panic!("a message") };
        assert!(!forms.has_alone(), "nobody has asked for it");
        Membership::default().take(forms);
    }
    assert_eq!(take_compressions(), [1, 0, 0, 0]);
    let by = Compressor { generations: Some(&generations), excluded: &[] };
    let view = batch.compressed_view(&org(), &key, 0, by).expect("a small frame");
    (0..3).for_each(|_| view.deflate_alone());
    assert_eq!(take_compressions(), [0, 1, 0, 0]);
}

#[test]
fn p5_a_large_frame_is_compressed_piece_by_piece_in_each_form() {
    let batch = batch(1, 250_000);
    let [ws, sse] = [Framing::WebSocket, Framing::Sse].map(|framing| key(&["s"], framing));
    let generations = generations();
    take_compressions();
    for (key, form) in [(&ws, MadeForm::Alone), (&sse, MadeForm::Block), (&ws, MadeForm::Envelope)] {
        let step = || match form {
            MadeForm::Envelope => batch.enveloped_view(&org(), key, 0, &Enveloping::default()),
            _ => {
                let by = Compressor { generations: Some(&generations), excluded: &[] };
                batch.compressed_view(&org(), key, 0, by)
            }
        };
        let steps = (1..).find(|_| step().is_some()).expect("all pieces");
        assert_eq!(steps, 8, "{form:?}");
        assert_eq!(made(form), 1, "{form:?}");
        let view = step().expect("it is kept");
        assert!(view.wire_bytes() < 100_000, "{form:?}");
        assert_eq!(take_compressions(), [0; 4], "{form:?}");
    }
}

#[test]
fn p5_a_view_waits_for_no_compression_of_another() {
    let (batch, generations) = (batch(1, 2000), generations());
    let [one, other] = [["s"].as_slice(), &["s", "t"]].map(|names| key(names, Framing::WebSocket));
    let view = |key: &ViewKey| {
        let by = Compressor { generations: Some(&generations), excluded: &[] };
        batch.compressed_view(&org(), key, 0, by).expect("a small frame")
    };
    thread::scope(|scope| {
        // Somebody compresses a frame of `one`.
        let compressing = generations.of(&one).expect("a compressor");
        let locked = compressing.lock();
        assert!(matches!(**compressed(&view(&other)), Compressed::Deflated(_)));
        assert!(matches!(batch.view(&org(), &one, 0), View::Frame { .. }));
        // Two more want it: one of them makes it, and both get that one.
        let waiting = [(); 2].map(|()| {
            scope.spawn(|| {
                take_compressions();
                let view = view(&one);
                (compressed(&view).clone(), made(MadeForm::Generation))
            })
        });
        drop(locked);
        let [(first, by_first), (second, by_second)] = waiting.map(|thread| thread.join().expect("a view"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(by_first + by_second, 1);
    });
}
