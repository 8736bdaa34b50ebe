//! How long frames are: with several events always shorter than 64 KiB, so that readers of lines with the
//! usual buffer take them. A single event may be longer; over SSE its lines end between tokens.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use tidegate_core::{
    Batch, BatchLimits, Event, Framing, LogState, Session, Tail, View, ViewKey,
    envelope::Enveloping,
    frame::{AROUND_BYTES_MAX, FRAME_BYTES_END, Run, Side, Terms, event_bytes},
    opening::{self, From},
    session::{Coding, Greeting, Subscriber},
};
use tidegate_protocol::{Cursor, Epoch, Filter, OrgId, SEQ_MAX, Seq, ServiceName, UserId, ws};

const FRAMINGS: [Framing; 2] = [Framing::WebSocket, Framing::Sse];
/// The defaults of `[batch]`.
const LIMITS: BatchLimits = BatchLimits { events: 100, bytes: 64 << 10 };

fn org() -> OrgId {
    OrgId::parse(&"o".repeat(64)).expect("a name")
}

fn epoch() -> Epoch {
    Epoch::parse(&"e".repeat(32)).expect("an epoch")
}

/// Text that compression makes little of, of printable characters that JSON does not escape.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'#' + (state >> 32) as u8 % 57)
    };
    (0..length).map(|_| next()).filter(|letter| *letter != '\\').collect()
}

fn event(seq: Seq, key: &str, data: &str) -> Arc<Event> {
    let service = "s".repeat(64);
    Arc::new(Event {
        seq,
        timestamp: 1_795_512_600_007,
        users: None,
        fragment: format!(r#""seq":{seq},"service":"{service}","key":"{key}","data":"{data}""#).into(),
        service: ServiceName::parse(&service).expect("a name"),
    })
}

fn session(framing: Framing, coding: Coding, after: Seq) -> Session {
    let terms = Terms { dedup_window_ms: 1, ping_interval_ms: 1, sync: None };
    let log = LogState { epoch: epoch(), ancestors: Vec::new(), born_empty: true, head: after, floor: 0 };
    let user = UserId::parse("u").expect("a user");
    let subscriber = Subscriber { org: org(), user, filter: Filter::all(), framing, coding };
    let opening = opening::open(&log, &subscriber.filter, From::Seq(after));
    let greeting =
        Greeting { connection_id: "c", head: after, token_expires_in_ms: 1, now: 1, terms: &terms };
    Session::open(subscriber, opening, &greeting, &mut Vec::new())
}

/// The JSON of a frame: over SSE its `data:` lines, joined as a client joins them.
fn json(framing: Framing, frame: &[u8]) -> Value {
    let text = match framing {
        Framing::WebSocket => String::from_utf8(frame[ws::header_length(frame)..].to_vec()),
        Framing::Sse => {
            let text = std::str::from_utf8(frame).expect("UTF-8").strip_suffix("\n\n").expect("an end");
            let data: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            Ok(data.join("\n"))
        }
    };
    serde_json::from_str(&text.expect("UTF-8")).expect("JSON")
}

fn count(frame: &Value) -> usize {
    match frame["count"].as_u64() {
        Some(count) => count as usize,
        None => frame["events"].as_array().map_or(1, Vec::len),
    }
}

fn check_length(framing: Framing, frame: &[u8]) {
    assert!(frame.len() < FRAME_BYTES_END || count(&json(framing, frame)) == 1, "{} bytes", frame.len());
}

#[test]
fn the_longest_names_and_numbers_fit_around_the_events_of_a_batch() {
    let (epoch, org, event) = (epoch(), org(), event(SEQ_MAX - 1, "k", ""));
    let longest: Cursor = format!("{epoch}-{SEQ_MAX}-{}", "t".repeat(16)).parse().expect("a cursor");
    let tag = longest.tag.expect("a tag");
    for framing in FRAMINGS {
        let run = Run {
            side: Side { epoch: &epoch, tag: &tag },
            org: &org,
            prev: SEQ_MAX - 2,
            seq: SEQ_MAX,
            events: &[&event, &event],
            omitted: usize::MAX,
        };
        let around = run.framed(framing).len() - 2 * event_bytes(&event);
        assert!(around <= AROUND_BYTES_MAX, "{around}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_frame_with_several_events_is_shorter_than_64_kib(
        sizes in prop::collection::vec(prop_oneof![20 => 0..2000_usize, 1 => 60_000..70_000_usize], 1..250),
        keys in 1..40_usize,
        first in prop_oneof![Just(1_u64), Just(SEQ_MAX - 300)],
    ) {
        let events: Vec<_> = (first..)
            .zip(&sizes)
            .map(|(seq, size)| event(seq, &(seq as usize % keys).to_string(), &noise(seq, *size)))
            .collect();
        let mut tail = Tail::new(first - 1, Arc::default());
        tail.push(first - 1, &events, 1, LIMITS);
        tail.seal(1);
        let by = Arc::new(Enveloping { threshold: 1 << 10, excluded: Vec::new() });
        for framing in FRAMINGS {
            // What everybody shares, plain and in an envelope.
            let key = ViewKey { epoch: epoch(), filter: Filter::all(), framing };
            for batch in tail.since(first - 1) {
                let View::Frame { bytes, .. } = batch.view(&org(), &key, batch.prev) else { panic!("events") };
                check_length(framing, &bytes);
                let mut session = session(framing, Coding::Enveloped(by.clone()), batch.prev);
                let view = (0..99).find_map(|_| batch.enveloped_view(&org(), &key, batch.prev, &by));
                let view = view.expect("all pieces");
                let mut out = Vec::new();
                session.take(&batch, &view, 1, &mut out);
                out.iter().for_each(|frame| check_length(framing, frame));
            }
        }
    }
}

/// The frame of one event with `data`, whose text is JSON, and its `data:` lines.
fn single(data: &str) -> (Bytes, Vec<String>) {
    let mut event = Event::clone(&event(7, "k", ""));
    event.fragment = format!(r#""seq":7,"timestamp":"2026-11-24T09:30:00.000Z","data":{data}"#).into();
    let batch = Batch::new(6, 7, 1, vec![Arc::new(event)], &Arc::default());
    let key = ViewKey { epoch: epoch(), filter: Filter::all(), framing: Framing::Sse };
    let View::Frame { bytes, .. } = batch.view(&org(), &key, 6) else { panic!("an event") };
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let (data, id) = text.strip_suffix("\n\n").expect("an end").split_once("\nid: ").expect("an id");
    assert!(!id.contains('\n'), "the id comes last: {id}");
    let lines = data.split('\n').map(|line| line.strip_prefix("data: ").expect("data").to_owned()).collect();
    (bytes, lines)
}

#[test]
fn the_lines_of_a_long_event_end_between_tokens_and_join_to_the_same_tokens() {
    let confusing = r#""a, \"b\": [{\\","#;
    let numbers = vec!["1.0,1e5"; 40_000].join(",");
    let nested = vec![r#"{"a":["x,y",null,{"b]":-1}]}"#; 9000].join(",");
    for (data, least) in [
        (format!("[{}\"\"]", confusing.repeat(20_000)), 5),
        (format!("[{numbers}]"), 5),
        (format!("[{nested}]"), 4),
        (format!("[{:?},{:?}]", "x".repeat(65_400), "y".repeat(100)), 2),
    ] {
        let (_, lines) = single(&data);
        assert!(lines.len() >= least, "{} lines", lines.len());
        assert!(lines.iter().all(|line| "data: \n".len() + line.len() <= FRAME_BYTES_END));
        let mut whole = lines.join("");
        whole.truncate(whole.len() - 1);
        assert!(whole.ends_with(&data), "token for token");
        let value: Value = serde_json::from_str(&lines.join("\n")).expect("JSON with white space");
        assert_eq!(value["data"], serde_json::from_str::<Value>(&data).expect("JSON"));
    }
    // One token cannot be broken: its line is as long as it is.
    let (_, lines) = single(&format!("[1,{:?},2]", "x, ".repeat(30_000)));
    assert_eq!(lines.len(), 3);
    assert!(lines[0].ends_with(r#""data":[1,"#) && lines[1].starts_with(r#""x, x"#) && lines[2] == "2]}");
    // An ordinary event has one line.
    assert_eq!(single(&format!("{:?}", "x".repeat(65_000))).1.len(), 1);
}
