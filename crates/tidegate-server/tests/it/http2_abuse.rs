//! HTTP/2 spoken wrongly, excessively, or without reading: each ends only what it must, and no other client
//! notices.

use std::io::{ErrorKind, Write as _};

use crate::{
    client::{
        http2::Http2,
        stream::Frames as _,
        wire::{self, Wire, block, frame},
    },
    gateway::{Gateway, eventually},
};

const CALM: &str = "tidegate_refusals_total{limit=\"limits.streams_per_connection\"}";

/// The header lines of requests of one gateway.
pub struct Lines {
    pub authority: String,
    pub path: String,
    pub bearer: String,
}

impl Lines {
    pub fn of(gateway: &Gateway, endpoint: &str) -> Self {
        let bearer = if endpoint == "events" { &gateway.key } else { &gateway.token };
        Self {
            authority: gateway.public.to_string(),
            path: gateway.path(endpoint),
            bearer: format!("Bearer {bearer}"),
        }
    }

    pub fn by<'a>(&'a self, method: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            (":method", method),
            (":scheme", "http"),
            (":authority", &self.authority),
            (":path", &self.path),
            ("authorization", &self.bearer),
        ]
    }
}

fn fill(gateway: &Gateway, events: usize) {
    let wide = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..events {
        gateway.say("s", &wide);
    }
}

fn still_serves(gateway: &Gateway) {
    let connection = Http2::connect(gateway.public);
    connection.sse(gateway.getting("stream")).next("hello");
    gateway.ws("").next("hello");
}

#[test]
fn a_reader_that_gives_no_room_is_reset_and_its_neighbour_goes_on() {
    let gateway = Gateway::with(&["limits.write_timeout=500ms", "log.engine=memory"]);
    let stream = Lines::of(&gateway, "stream");
    let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 0)]);
    wire.ask(1, &stream.by("GET"));
    wire.ask(3, &stream.by("GET"));
    wire.give_room(3, 1 << 20);
    let closed = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    eventually("the end of the reader", || (closed() == 1.0).then_some(()));
    let reset = wire.until(wire::RST_STREAM);
    assert_eq!((reset.stream, reset.number()), (1, wire::CANCEL));
    eventually("its place", || {
        (gateway.metric("tidegate_connections{transport=\"sse\"}") == 1.0).then_some(())
    });
    gateway.say("s", "\"still here\"");
    loop {
        let data = wire.until(wire::DATA);
        assert_eq!(data.stream, 3);
        if String::from_utf8_lossy(&data.payload).contains("still here") {
            break;
        }
    }
}

#[test]
fn a_reader_that_takes_a_little_and_stops_is_reset_too() {
    let gateway = Gateway::with(&["limits.write_timeout=500ms", "log.engine=memory"]);
    let stream = Lines::of(&gateway, "stream");
    let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 2000)]);
    wire.ask(1, &stream.by("GET"));
    wire.until(wire::DATA);
    fill(&gateway, 20);
    let closed = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    eventually("the end of the reader", || (closed() == 1.0).then_some(()));
    let reset = wire.until(wire::RST_STREAM);
    assert_eq!((reset.stream, reset.number()), (1, wire::CANCEL));
}

#[test]
fn an_answer_that_is_not_taken_is_reset_and_one_that_is_taken_bit_by_bit_comes_whole() {
    let gateway = Gateway::with(&["limits.write_timeout=500ms", "log.engine=memory"]);
    fill(&gateway, 5);
    let mut events = Lines::of(&gateway, "events");
    events.bearer = format!("Bearer {}", gateway.token);
    let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 1)]);
    wire.ask(1, &events.by("GET"));
    wire.ask(3, &events.by("GET"));
    let (mut body, mut reset) = (Vec::new(), None);
    loop {
        let frame = wire.next().expect("a frame");
        match (frame.kind, frame.stream) {
            (wire::DATA, 3) => {
                body.extend(&frame.payload);
                if frame.flags & wire::END_STREAM != 0 {
                    break;
                }
                let taken = u32::try_from(frame.payload.len()).expect("small");
                wire.give_room(3, 5000);
                wire.give_room(0, taken.max(1));
            }
            (wire::DATA, 1) => assert_eq!(frame.payload.len(), 1, "no more than there is room for"),
            (wire::RST_STREAM, 1) => reset = Some(frame.number()),
            _ => {}
        }
    }
    assert_eq!(String::from_utf8(body).expect("UTF-8"), gateway.getting("events").send().body);
    assert_eq!(reset.unwrap_or_else(|| wire.until(wire::RST_STREAM).number()), wire::CANCEL);
    assert_eq!(gateway.metric("tidegate_refusals_total{limit=\"limits.write_timeout\"}"), 1.0);
}

#[test]
fn a_connection_that_takes_no_bytes_is_closed_with_all_its_streams() {
    let gateway = Gateway::with(&["limits.write_timeout=300ms", "log.engine=memory"]);
    let stream = Lines::of(&gateway, "stream");
    let room = (1 << 31) - 1;
    let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, room)]);
    wire.give_room(0, room - 65_535);
    (0..5).for_each(|index| wire.ask(2 * index + 1, &stream.by("GET")));
    let open = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("all readers", || (open() == 5.0).then_some(()));
    let sockets = gateway.sockets();
    fill(&gateway, 150);
    eventually("none", || (open() == 0.0).then_some(()));
    assert_eq!(gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}"), 5.0);
    // Nobody has read a byte, so only the socket's write timeout can have ended it.
    eventually("the connection closed", || (gateway.sockets() < sockets).then_some(()));
    still_serves(&gateway);
}

#[test]
fn a_body_that_is_cut_off_is_not_taken_for_a_whole_one() {
    let gateway = Gateway::start();
    let lines = Lines::of(&gateway, "events");
    let with = |more: &[(&'static str, &'static str)]| block(&[&lines.by("POST")[..], more].concat());
    let line = b"{\"service\":\"s\",\"event\":\"e\",\"data\":1}\n";
    let event = [
        ("ce-specversion", "1.0"),
        ("ce-id", "a"),
        ("ce-source", "s"),
        ("ce-type", "s.e"),
        ("content-length", "14"),
    ];
    let mut wire = Wire::open(gateway.public, &[]);
    for round in 0..8 {
        let (first, second) = (4 * round + 1, 4 * round + 3);
        let mut bytes = frame(
            wire::HEADERS,
            wire::END_HEADERS,
            first,
            &with(&[("content-type", "application/x-ndjson")]),
        );
        bytes.extend(frame(wire::DATA, 0, first, line));
        bytes.extend(frame(wire::RST_STREAM, 0, first, &wire::NO_ERROR.to_be_bytes()));
        bytes.extend(frame(wire::HEADERS, wire::END_HEADERS, second, &with(&event)));
        bytes.extend(frame(wire::RST_STREAM, 0, second, &wire::NO_ERROR.to_be_bytes()));
        wire.send(&bytes);
    }
    // A request that announces its length and ends before.
    for (stream, flags) in [(101, wire::END_HEADERS | wire::END_STREAM), (103, wire::END_HEADERS)] {
        wire.frame(wire::HEADERS, flags, stream, &with(&event));
        if stream == 103 {
            wire.frame(wire::DATA, wire::END_STREAM, stream, b"1");
        }
        let reset = wire.until(wire::RST_STREAM);
        assert_eq!((reset.stream, reset.number()), (stream, wire::PROTOCOL_ERROR));
    }
    let mut head = lines.by("POST");
    head.push(("content-type", "application/x-ndjson"));
    wire.frame(wire::HEADERS, wire::END_HEADERS, 105, &block(&head));
    wire.frame(wire::DATA, wire::END_STREAM, 105, line);
    while wire.until(wire::DATA).stream != 105 {}
    assert_eq!(gateway.getting("cursor").send().json()["head"], 1, "the last one alone");
}

/// The scenario of `limits.streams_per_connection` (see `bounds`). The floods that it counts are below.
pub fn streams_over_the_bound_are_refused() {
    let gateway = Gateway::with(&["limits.streams_per_connection=3"]);
    let stream = Lines::of(&gateway, "stream");
    let mut wire = Wire::open(gateway.public, &[]);
    let settings = wire.until(wire::SETTINGS).payload;
    let said = settings.chunks(6).find(|pair| pair[..2] == wire::MAX_CONCURRENT_STREAMS.to_be_bytes());
    assert_eq!(said.map(|pair| pair[5]), Some(3));
    (0..4).for_each(|index| wire.ask(2 * index + 1, &stream.by("GET")));
    let reset = wire.until(wire::RST_STREAM);
    assert_eq!((reset.stream, reset.number()), (7, wire::REFUSED_STREAM));
    let open = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("three readers", || (open() == 3.0).then_some(()));
}

#[test]
fn floods_of_resets_end_the_connection() {
    let gateway = Gateway::start();
    let stream = Lines::of(&gateway, "stream");
    let asked = block(&stream.by("GET"));
    // Requests that are reset at once, again and again ("rapid reset").
    let mut flood = Vec::new();
    for index in 0..2000 {
        flood.extend(frame(wire::HEADERS, wire::END_HEADERS | wire::END_STREAM, 2 * index + 1, &asked));
        flood.extend(frame(wire::RST_STREAM, 0, 2 * index + 1, &wire::CANCEL.to_be_bytes()));
    }
    ends_in_calm(&gateway, &flood, 1.0);
    // Resets that the client provokes by frames that break a rule ("made you reset").
    let mut flood = Vec::new();
    for index in 0..2000 {
        flood.extend(frame(wire::HEADERS, wire::END_HEADERS | wire::END_STREAM, 2 * index + 1, &asked));
        flood.extend(frame(wire::WINDOW_UPDATE, 0, 2 * index + 1, &i32::MAX.to_be_bytes()));
    }
    ends_in_calm(&gateway, &flood, 2.0);
    let open = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("no reader left", || (open() == 0.0).then_some(()));
    still_serves(&gateway);
}

fn ends_in_calm(gateway: &Gateway, flood: &[u8], count: f64) {
    let mut wire = Wire::open(gateway.public, &[]);
    // The connection may be cut in the middle of it.
    let _ = wire.socket().write_all(flood);
    wire.end();
    eventually("the count", || (gateway.metric(CALM) == count).then_some(()));
}

#[test]
fn header_blocks_without_end_end_the_connection() {
    let gateway = Gateway::start();
    let stream = Lines::of(&gateway, "stream");
    let mut wire = Wire::open(gateway.public, &[]);
    let mut flood = frame(wire::HEADERS, wire::END_STREAM, 1, &block(&stream.by("GET")));
    for _ in 0..10_000 {
        flood.extend(frame(wire::CONTINUATION, 0, 1, &block(&[("x", "y")])));
    }
    let _ = wire.socket().write_all(&flood);
    wire.end();
    eventually("the count", || (gateway.metric(CALM) == 1.0).then_some(()));
    still_serves(&gateway);
}

#[test]
fn bodies_of_nothing_end_the_connection() {
    let gateway = Gateway::start();
    let mut wire = Wire::open(gateway.public, &[]);
    let events = Lines::of(&gateway, "events");
    let mut lines = events.by("POST");
    lines.push(("content-type", "application/json"));
    let mut flood = frame(wire::HEADERS, wire::END_HEADERS, 1, &block(&lines));
    for _ in 0..200_000 {
        flood.extend(frame(wire::DATA, 0, 1, &[]));
    }
    let _ = wire.socket().write_all(&flood);
    wire.end();
    eventually("the count", || (gateway.metric(CALM) == 1.0).then_some(()));
    still_serves(&gateway);
}

#[test]
fn p5_floods_of_frames_without_use_end_the_connection() {
    let gateway = Gateway::with(&["node.workers=1"]);
    let settings = [0, 4, 0, 0, 1, 0].repeat(10);
    let floods = [
        frame(wire::PING, 0, 0, &[0; 8]),
        frame(wire::SETTINGS, 0, 0, &settings),
        frame(wire::PRIORITY, 0, 3, &[0, 0, 0, 5, 255]),
        frame(wire::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        // A type that nobody knows is ignored (RFC 9113, section 4.1).
        frame(0x7F, 0, 0, &[]),
    ];
    for (index, flood) in floods.into_iter().enumerate() {
        let mut wire = Wire::open(gateway.public, &[]);
        // A valid request, so that only the flood is at fault.
        wire.ask(1, &Lines::of(&gateway, "stream").by("GET"));
        let mut writing = wire.socket().try_clone().expect("a second handle");
        let flood = std::thread::spawn(move || while writing.write_all(&flood.repeat(1000)).is_ok() {});
        wire.end();
        flood.join().expect("the flooder ends");
        eventually("the count", || (gateway.metric(CALM) == index as f64 + 1.0).then_some(()));
        still_serves(&gateway);
    }
    let open = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("no reader left", || (open() == 0.0).then_some(()));
}

/// Sends a request over a new connection from an address of loopback.
fn ask_from(from: u8, gateway: &Gateway) -> Wire {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let from = std::net::SocketAddr::from(([127, 0, 0, from], 0));
    socket.bind(&from.into()).expect("bind");
    socket.connect(&gateway.public.into()).expect("connect");
    let mut wire = Wire::over(socket.into(), &[]);
    wire.ask(1, &Lines::of(gateway, "cursor").by("GET"));
    wire
}

#[test]
fn p5_who_comes_back_after_floods_waits_and_others_do_not() {
    let gateway = Gateway::start();
    let flood = frame(wire::PING, 0, 0, &[0; 8]).repeat(2000);
    eventually("others that are served meanwhile", || {
        let mut flooding: Vec<_> = (0..30).map(|_| ask_from(1, &gateway)).collect();
        for wire in &mut flooding {
            let _ = wire.socket().write_all(&flood);
        }
        for wire in &mut flooding {
            wire.end();
        }
        let waits = ask_from(1, &gateway);
        for _ in 0..10 {
            ask_from(2, &gateway).until(wire::DATA);
        }
        // Its first frame comes before any answer.
        waits.socket().set_nonblocking(true).expect("non-blocking");
        let come = waits.socket().peek(&mut [0]);
        come.is_err_and(|error| error.kind() == ErrorKind::WouldBlock).then_some(())
    });
}

#[test]
fn floods_whose_answers_are_not_read_end_too() {
    let gateway = Gateway::with(&["limits.write_timeout=200ms", "node.workers=1"]);
    for flood in [frame(wire::PING, 0, 0, &[0; 8]), frame(wire::SETTINGS, 0, 0, &[])] {
        let mut wire = Wire::open(gateway.public, &[]);
        // A valid request, so that only the flood is at fault.
        wire.ask(1, &Lines::of(&gateway, "cursor").by("GET"));
        let flood = flood.repeat(1000);
        // Its answers are not read.
        while wire.socket().write_all(&flood).is_ok() {}
        still_serves(&gateway);
    }
}
