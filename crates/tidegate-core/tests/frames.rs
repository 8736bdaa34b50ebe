//! Every frame that the gateway writes reads back as the `ServerFrame` with the same values, over both
//! framings, and a reader ignores fields that it does not know.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tidegate_core::{
    Event, Framing,
    envelope::Enveloping,
    frame::{self, Hello, Run, Side, Terms},
};
use tidegate_protocol::{
    Code, Cursor, Epoch, Filter, GapReason, OrgId, Refusal, SEQ_MAX, Seq, ServiceName,
    frame::{BatchEvent, PROTOCOL_VERSION, ServerFrame},
    ws,
};

const FRAMINGS: [Framing; 2] = [Framing::WebSocket, Framing::Sse];
const TIME: u64 = 1_795_512_600_007;
const TIME_TEXT: &str = "2026-11-24T09:30:00.007Z";

fn org() -> OrgId {
    OrgId::parse("acme").expect("a name")
}

fn epoch() -> Epoch {
    Epoch::parse("e1").expect("an epoch")
}

fn only(services: &[&str]) -> Filter {
    Filter::only(services.iter().map(|name| ServiceName::parse(name).expect("a name")).collect())
}

/// The JSON in a finished frame, and the text of its `id:` line.
fn json(framing: Framing, frame: &Bytes) -> (String, Option<String>) {
    let text = match framing {
        Framing::WebSocket => &frame[ws::header_length(frame)..],
        Framing::Sse => &frame[..],
    };
    let text = std::str::from_utf8(text).expect("UTF-8");
    if framing == Framing::WebSocket {
        return (text.to_owned(), None);
    }
    let lines = text.strip_suffix("\n\n").expect("the end of an event").lines();
    let field = |name: &str| lines.clone().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    (field("data: ").expect("a data line"), field("id: "))
}

/// Reads a frame back, with unknown fields beside its own too, and hands it to `check`.
fn read(framing: Framing, frame: &Bytes, check: impl Fn(&ServerFrame<'_>)) {
    let (text, id) = json(framing, frame);
    let parsed = ServerFrame::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    check(&parsed);
    let later = r#"{"from_the_future":{"seq":"x","type":[null]},"cursors":[],"#;
    let more = text.replacen('{', later, 1);
    let tolerant = ServerFrame::parse(&more).unwrap_or_else(|error| panic!("{error}: {more}"));
    assert_eq!(format!("{tolerant:?}"), format!("{parsed:?}"));
    // A native EventSource resumes from the id, a client from the range: they are one position.
    if let (Some(id), Some((_, seq))) = (id, parsed.range()) {
        assert_eq!(id.parse::<Cursor>().expect("a cursor").seq, seq);
    }
}

fn event(seq: Seq, more: &str) -> Event {
    let fragment = format!(
        r#""seq":{seq},"timestamp":"{TIME_TEXT}","service":"finance","event":"invoice.paid","id":"a,\"b\""{more},"data":{{"n":1.0,"n":"\u0000\\"}}"#
    );
    Event {
        seq,
        timestamp: TIME,
        service: ServiceName::parse("finance").expect("a name"),
        users: None,
        fragment: fragment.into(),
    }
}

fn check_event(event: &BatchEvent<'_>, seq: Seq) {
    assert_eq!((event.seq, &*event.timestamp), (seq, TIME_TEXT));
    assert_eq!((&*event.service, &*event.name, &*event.id), ("finance", "invoice.paid", "a,\"b\""));
    assert_eq!(event.data.map(RawValue::get), Some(r#"{"n":1.0,"n":"\u0000\\"}"#));
}

#[test]
fn hello_reads_back() {
    for (framing, sync) in FRAMINGS.into_iter().zip([None, Some("interval")]) {
        for filter in [Filter::all(), only(&["finance", "staff"])] {
            let cursor = Cursor { epoch: epoch(), seq: 7, tag: Some(filter.tag().clone()) };
            let terms = Terms { dedup_window_ms: 300_000, ping_interval_ms: 25_000, sync };
            let hello = Hello {
                connection_id: "x-1",
                org: &org(),
                filter: &filter,
                cursor: &cursor,
                head: 9,
                resumed: true,
                terms: &terms,
                token_expires_in_ms: u64::MAX,
                server_time: TIME,
            };
            read(framing, &frame::hello(framing, &hello), |frame| {
                let ServerFrame::Hello(hello) = frame else { panic!("{frame:?}") };
                assert_eq!((&*hello.connection_id, &*hello.org), ("x-1", "acme"));
                assert_eq!(hello.services, filter.names());
                assert_eq!(hello.filter.as_ref(), Some(filter.tag()));
                assert_eq!((&hello.cursor, hello.head, hello.resumed), (&cursor, 9, true));
                assert_eq!(hello.protocol, PROTOCOL_VERSION);
                assert_eq!(hello.dedup_window_ms, Some(300_000));
                assert_eq!(hello.ping_interval_ms, Some(25_000));
                assert_eq!(hello.token_expires_in_ms, Some(u64::MAX));
                assert_eq!((&*hello.server_time, hello.sync.as_deref()), (TIME_TEXT, sync));
            });
        }
    }
}

#[test]
fn events_and_batches_read_back() {
    let filter = Filter::all();
    let (epoch, org) = (epoch(), org());
    let side = Side { epoch: &epoch, tag: filter.tag() };
    let optional =
        r#","key":"k","source":"/a","subject":"s \"1\"","time":"2026-11-24T09:00:00.000Z","targeted":true"#;
    let (bare, full) = (event(6, ""), event(7, optional));
    for framing in FRAMINGS {
        read(framing, &frame::events(framing, side, &org, 5, 6, &[&bare]), |frame| {
            let ServerFrame::Event(frame) = frame else { panic!("{frame:?}") };
            assert_eq!((&*frame.org, frame.prev), ("acme", 5));
            check_event(&frame.event, 6);
            let BatchEvent { key, source, subject, time, targeted, .. } = &frame.event;
            assert_eq!((key, source, subject, time, targeted), (&None, &None, &None, &None, &false));
        });
        read(framing, &frame::events(framing, side, &org, 5, 7, &[&full]), |frame| {
            let ServerFrame::Event(frame) = frame else { panic!("{frame:?}") };
            check_event(&frame.event, 7);
            let BatchEvent { key, source, subject, time, targeted, .. } = &frame.event;
            assert_eq!((key.as_deref(), source.as_deref()), (Some("k"), Some("/a")));
            assert_eq!(subject.as_deref(), Some("s \"1\""));
            assert_eq!((time.as_deref(), *targeted), (Some("2026-11-24T09:00:00.000Z"), true));
        });
        for omitted in [0, 3] {
            let run = Run { side, org: &org, prev: 4, seq: 9, events: &[&bare, &full], omitted };
            read(framing, &run.framed(framing), |frame| {
                let ServerFrame::Batch(batch) = frame else { panic!("{frame:?}") };
                assert_eq!((&*batch.org, batch.prev, batch.seq), ("acme", 4, 9));
                assert_eq!((&*batch.timestamp, batch.omitted), (TIME_TEXT, omitted as u64));
                assert_eq!(batch.reason.as_deref(), (omitted > 0).then_some("conflated"));
                assert_eq!(batch.events.len(), 2);
                for (entry, seq) in batch.events.iter().zip([6, 7]) {
                    check_event(&serde_json::from_str(entry.get()).expect("an event"), seq);
                }
            });
        }
    }
}

#[test]
fn a_compressed_batch_reads_back_and_opens() {
    let filter = Filter::all();
    let (epoch, org) = (epoch(), org());
    let side = Side { epoch: &epoch, tag: filter.tag() };
    let events: Vec<Arc<Event>> = (6..26).map(|seq| Arc::new(event(seq, ""))).collect();
    let events: Vec<&Event> = events.iter().map(|event| &**event).collect();
    let run = Run { side, org: &org, prev: 4, seq: 30, events: &events, omitted: 0 };
    for framing in FRAMINGS {
        let plain = run.framed(framing);
        let compressed = Enveloping::default().enveloped(framing, &run, &plain).expect("long enough");
        read(framing, &compressed, |frame| {
            let ServerFrame::CompressedBatch(batch) = frame else { panic!("{frame:?}") };
            assert_eq!((batch.prev, batch.seq, batch.count), (4, 30, 20));
            assert_eq!((&*batch.timestamp, &*batch.encoding), (TIME_TEXT, "gzip"));
            assert_eq!(batch.open(), Some(json(framing, &plain).0));
        });
    }
}

#[test]
fn gaps_and_pings_read_back() {
    let filter = only(&["finance"]);
    let to = Cursor { epoch: epoch(), seq: 3, tag: Some(filter.tag().clone()) };
    let side = Side { epoch: &to.epoch, tag: filter.tag() };
    for framing in FRAMINGS {
        for reason in GapReason::ALL {
            read(framing, &frame::gap(framing, 8, &to, reason, &filter), |frame| {
                let ServerFrame::Gap(gap) = frame else { panic!("{frame:?}") };
                assert_eq!((gap.prev, gap.seq, &gap.epoch), (8, 3, &to.epoch));
                assert_eq!((&gap.filter, GapReason::from_name(&gap.reason)), (&to.tag, Some(reason)));
                let services = gap.services.as_ref().map(|services| services.join(","));
                assert_eq!(services.as_deref(), (reason == GapReason::Filter).then_some("finance"));
            });
        }
        read(framing, &frame::ping(framing, side, 8, 9, TIME), |frame| {
            let ServerFrame::Ping(ping) = frame else { panic!("{frame:?}") };
            assert_eq!((ping.prev, ping.seq, &*ping.timestamp), (8, 9, TIME_TEXT));
        });
        read(framing, &frame::pong(framing, SEQ_MAX, TIME), |frame| {
            let ServerFrame::Pong(pong) = frame else { panic!("{frame:?}") };
            assert_eq!((pong.n, &*pong.timestamp), (SEQ_MAX, TIME_TEXT));
        });
    }
}

#[test]
fn words_of_a_gateway_read_back() {
    let message = "no \"more\"\\\n\u{1}";
    for framing in FRAMINGS {
        read(framing, &frame::status(framing, "overloaded", message), |frame| {
            let ServerFrame::Status(status) = frame else { panic!("{frame:?}") };
            assert_eq!((&*status.code, &*status.message), ("overloaded", message));
        });
        read(framing, &frame::goaway(framing, Code::Draining, 5000), |frame| {
            let ServerFrame::Goaway(goaway) = frame else { panic!("{frame:?}") };
            assert_eq!((&*goaway.code, goaway.retry_in_ms), ("draining", Some(5000)));
        });
        for code in Code::ALL {
            let bare = Refusal::new(code, message);
            let limit = Some("limits.connections_per_user");
            let full = Refusal { limit, ..bare.clone() }.retry_in(7);
            for refusal in [bare, full] {
                read(framing, &frame::error(framing, &refusal), |frame| {
                    let ServerFrame::Error(error) = frame else { panic!("{frame:?}") };
                    assert_eq!((Code::from_name(&error.code), &*error.message), (Some(code), message));
                    assert_eq!(error.limit.as_deref(), refusal.limit);
                    assert_eq!(error.retry_in_ms, refusal.retry_in_ms);
                });
            }
        }
    }
}
