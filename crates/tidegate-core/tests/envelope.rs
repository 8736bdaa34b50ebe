//! `?batch=gzip`: an envelope has the batch that a plain reader gets, byte for byte. Frames stay plain if they
//! are short, or have events that are targeted or of a service that is kept out of compression.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use tidegate_core::{
    Batch, Budget, Event, Framing, LogState, Session,
    envelope::Enveloping,
    frame::Terms,
    opening::{self, From},
    session::{Coding, Greeting, Subscriber},
};
use tidegate_protocol::{Epoch, Filter, OrgId, ServiceName, UserId, gzip_batch, ws};

const THRESHOLD: usize = 300;

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).expect("a name")
}

fn org() -> OrgId {
    OrgId::parse("acme").expect("a name")
}

/// An event: its service, the user that it is for, and its length.
type Sketch = (&'static str, Option<&'static str>, usize);

fn event(seq: u64, (of, user, length): Sketch) -> Arc<Event> {
    let data = "paid ".repeat(length / 5);
    Arc::new(Event {
        seq,
        timestamp: 1_795_000_000_000 + seq,
        service: service(of),
        users: user.map(|user| [UserId::parse(user).expect("a user")].into()),
        fragment: Bytes::from(format!(
            r#""seq":{seq},"timestamp":"2026-11-24T09:30:00.000Z","service":"{of}","key":"k","data":"{data}""#
        )),
    })
}

fn session(framing: Framing, coding: Coding, after: u64) -> Session {
    let terms = Terms { dedup_window_ms: 1, ping_interval_ms: 1, sync: None };
    let log = LogState {
        epoch: Epoch::from_random(7),
        ancestors: Vec::new(),
        born_empty: true,
        head: after,
        floor: 0,
    };
    let user = UserId::parse("u").expect("a user");
    let subscriber = Subscriber { org: org(), user, filter: Filter::all(), framing, coding };
    let opening = opening::open(&log, &subscriber.filter, From::Seq(after));
    let greeting =
        Greeting { connection_id: "c", head: after, token_expires_in_ms: 1, now: 1, terms: &terms };
    Session::open(subscriber, opening, &greeting, &mut Vec::new())
}

fn enveloping() -> Arc<Enveloping> {
    Arc::new(Enveloping { threshold: THRESHOLD, excluded: vec![service("secret")] })
}

fn batch(sketches: &[Sketch]) -> Batch {
    let events: Vec<_> = (11..).zip(sketches).map(|(seq, sketch)| event(seq, *sketch)).collect();
    let seq = 10 + events.len() as u64;
    Batch::new(10, seq, 1, events, &Arc::new(Budget::default()))
}

/// The JSON in a finished frame, and the id after it.
fn json(framing: Framing, frame: &Bytes) -> (String, String) {
    let text = match framing {
        Framing::WebSocket => return (text(&frame[ws::header_length(frame)..]), String::new()),
        Framing::Sse => text(frame),
    };
    let lines = text.strip_suffix("\n\n").expect("an end");
    let (data, id) = lines.split_once("\nid: ").expect("an id after the data");
    (data.strip_prefix("data: ").expect("data").to_owned(), id.to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Compares the frames of a reader with envelopes to those of one without; returns how many had one.
fn hold(framing: Framing, plain: &[Bytes], got: &[Bytes]) -> usize {
    assert_eq!(plain.len(), got.len());
    let mut envelopes = 0;
    for (plain, got) in plain.iter().zip(got) {
        let ((plain_text, id), (text, same_id)) = (json(framing, plain), json(framing, got));
        assert_eq!(id, same_id);
        let outer: Value = serde_json::from_str(&text).expect("JSON");
        let holds = |word: &str| plain_text.contains(&format!(r#""service":"{word}""#));
        let may_be = plain_text.len() > THRESHOLD && !holds("secret") && !holds("mine");
        assert_eq!(outer["compressed"] == true, may_be, "{plain_text}");
        if !may_be {
            assert_eq!(plain, got, "goes as it is");
            continue;
        }
        envelopes += 1;
        let inside = gzip_batch::open(outer["data"].as_str().expect("text")).expect("an envelope");
        let frame: Value = serde_json::from_str(&plain_text).expect("JSON");
        if frame["type"] == "batch" {
            assert_eq!(inside, plain_text);
        } else {
            let batch: Value = serde_json::from_str(&inside).expect("JSON");
            let mut only = batch["events"][0].clone();
            only["type"] = "event".into();
            only["org"] = batch["org"].clone();
            only["prev"] = batch["prev"].clone();
            assert_eq!((&batch["type"], &only), (&"batch".into(), &frame));
        }
        let batch: Value = serde_json::from_str(&inside).expect("JSON");
        for name in ["type", "prev", "seq", "timestamp"] {
            assert_eq!(outer[name], batch[name], "{name}");
        }
        assert_eq!(outer["count"], batch["events"].as_array().expect("events").len());
        assert_eq!(outer["encoding"], "gzip");
    }
    envelopes
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let kinds = prop_oneof![
        8 => Just(("finance", None)),
        2 => Just(("staff", None)),
        1 => Just(("secret", None)),
        1 => Just(("mine", Some("u"))),
        1 => Just(("theirs", Some("v"))),
    ];
    let sketch = (kinds, 0..400_usize).prop_map(|((of, user), length)| (of, user, length));
    proptest::collection::vec(sketch, 1..8)
}

proptest! {
    #[test]
    fn what_is_inside_is_the_plain_batch(
        sketches in sketches(), cut in 0..3_u64, latest: bool, is_page: bool, is_sse: bool,
    ) {
        let framing = if is_sse { Framing::Sse } else { Framing::WebSocket };
        let batch = batch(&sketches);
        let after = 10 + cut.min(batch.seq - 11);
        let by = enveloping();
        let [plain, got] = [Coding::Plain, Coding::Enveloped(by.clone())].map(|coding| {
            let mut session = session(framing, coding.clone(), after);
            let mut out = Vec::new();
            if is_page {
                session.take_page(after, batch.seq, &batch.events, latest, 1, &mut out);
            } else {
                let key = session.view_key();
                let view = match coding {
                    Coding::Enveloped(_) => (0..99).find_map(|_| batch.enveloped_view(&org(), &key, batch.prev, &by)).expect("all pieces"),
                    _ => batch.view(&org(), &key, batch.prev),
                };
                session.take(&batch, &view, 1, &mut out);
            }
            out
        });
        hold(framing, &plain, &got);
    }
}

#[test]
fn it_is_made_once_and_kept_beside_the_other_forms() {
    let batch = batch(&[("finance", None, 500), ("finance", None, 500)]);
    let by = enveloping();
    for framing in [Framing::WebSocket, Framing::Sse] {
        let key = session(framing, Coding::Plain, 10).view_key();
        let before = batch.memory();
        let frames: Vec<Bytes> = (0..3)
            .map(|_| {
                let mut out = Vec::new();
                let view = batch.enveloped_view(&org(), &key, 10, &by).expect("a small frame");
                session(framing, Coding::Enveloped(by.clone()), 10).take(&batch, &view, 1, &mut out);
                assert_eq!(view.wire_bytes(), out[0].len());
                out.remove(0)
            })
            .collect();
        assert!(frames.iter().all(|frame| frame.as_ptr() == frames[0].as_ptr()), "the same bytes");
        let plain = batch.view(&org(), &key, 10);
        assert!(plain.wire_bytes() > 1000, "whoever wants it plain gets it plain");
        let charged = batch.memory() - before;
        assert!(charged >= plain.wire_bytes() + frames[0].len(), "both forms are charged: {charged}");
    }
}
