//! Every end of a stream is counted exactly once, by its code, over WebSocket, HTTP/1.1 and HTTP/2 (R33). After
//! each end the whole metric is compared with what has ended so far.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tidegate_protocol::Code;

use crate::{
    client::{
        http::Request,
        http2::Http2,
        sse::Sse,
        stream::Frames,
        wire::{self, Wire, block, frame},
        ws::{Ws, masked},
    },
    gateway::{Gateway, eventually, now_s},
    held_node::HeldNode,
    slow,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    WebSocket,
    Http1,
    Http2,
}
use Via::{Http1, Http2 as OverHttp2, WebSocket};

const ALL: [Via; 3] = [WebSocket, Http1, OverHttp2];

/// A client. It is dropped in the order of its parts: a stream before its connection.
enum Client {
    WebSocket(Ws),
    Http1(Sse),
    Http2(Sse, Http2),
}

impl Client {
    fn frames(&mut self) -> &mut dyn Frames {
        match self {
            Client::WebSocket(stream) => stream,
            Client::Http1(stream) | Client::Http2(stream, _) => stream,
        }
    }
}

/// Asks for a stream with this token; `None` if it is refused.
fn ask(request: &Request, to: std::net::SocketAddr, via: Via) -> Option<Client> {
    match via {
        WebSocket => {
            let (_, path, headers, _) = request.parts();
            let bearer = headers.iter().find(|(name, _)| name == "authorization").expect("a token");
            let mut stream = Ws::open(to, path, &[("authorization", &bearer.1)]);
            (stream.frame()["type"] == "hello").then_some(Client::WebSocket(stream))
        }
        Http1 => {
            let mut connection = request.clone().begin();
            let head = crate::client::http::Answer::read_head(&mut connection).expect("an answer");
            (head.status == 200)
                .then(|| Sse::of(head, crate::client::http::Chunked::new(connection)))
                .map(Client::Http1)
        }
        OverHttp2 => {
            let connection = Http2::connect(to);
            let (head, body) = connection.begin(request).expect("an answer");
            (head.status == 200).then(|| Client::Http2(Sse::of(head, body), connection))
        }
    }
}

/// The metric as it must be.
struct Ends<'a> {
    metrics: Box<dyn Fn() -> String + 'a>,
    ended: BTreeMap<String, f64>,
    seen: &'a mut BTreeSet<(Via, String)>,
}

impl<'a> Ends<'a> {
    fn of(metrics: impl Fn() -> String + 'a, seen: &'a mut BTreeSet<(Via, String)>) -> Self {
        let ends = Self { metrics: Box::new(metrics), ended: BTreeMap::new(), seen };
        assert!(ends.counted().is_empty(), "{:?}", ends.counted());
        ends
    }

    fn counted(&self) -> BTreeMap<String, f64> {
        let text = (self.metrics)();
        let lines = text.lines().filter_map(|line| line.strip_prefix("tidegate_closes_total{code=\""));
        lines
            .filter_map(|line| {
                let (code, count) = line.split_once("\"} ")?;
                Some((code.to_owned(), count.parse().expect("a number")))
            })
            .filter(|(_, count)| *count != 0.0)
            .collect()
    }

    /// One more stream has ended, for this reason.
    fn expect(&mut self, via: Via, code: &str) {
        *self.ended.entry(code.to_owned()).or_default() += 1.0;
        self.seen.insert((via, code.to_owned()));
        let total = self.ended.values().sum::<f64>();
        let counted = || {
            let counted = self.counted();
            (counted.values().sum::<f64>() >= total).then_some(counted)
        };
        let counted = eventually(&format!("{code} over {via:?}, of {:?}", self.ended), counted);
        assert_eq!(counted, self.ended, "{code} over {via:?}");
    }

    /// All streams have ended, and none is counted later.
    fn finish(self) {
        eventually("the end of all", || {
            let text = (self.metrics)();
            let open = text.lines().filter(|line| line.starts_with("tidegate_connections{"));
            open.into_iter().all(|line| line.ends_with(" 0")).then_some(())
        });
        assert_eq!(self.counted(), self.ended);
    }
}

/// A gateway, and what has ended on it.
struct Walk<'a> {
    gateway: &'a Gateway,
    ends: Ends<'a>,
}

impl<'a> Walk<'a> {
    fn of(gateway: &'a Gateway, seen: &'a mut BTreeSet<(Via, String)>) -> Self {
        let ends = Ends::of(|| gateway.operators("/metrics").body, seen);
        Self { gateway, ends }
    }

    fn ask(&self, via: Via, token: &str, query: &str) -> Option<Client> {
        let request = self.gateway.getting(&format!("stream{query}"));
        ask(&request.with("authorization", &format!("Bearer {token}")), self.gateway.public, via)
    }

    /// A stream of a user, and its id.
    fn open(&self, via: Via, user: &str, query: &str) -> (Client, String) {
        let mut client = self.ask(via, &self.gateway.token_of(user, &["*"]), query).expect("let in");
        let id = match &client {
            // Its hello was read.
            Client::WebSocket(_) => self.listed(user),
            _ => client.frames().next("hello")["connection_id"].as_str().expect("an id").to_owned(),
        };
        (client, id)
    }

    /// The newest connection of a user.
    fn listed(&self, user: &str) -> String {
        let path = self.gateway.path(&format!("connections?user={user}"));
        let listed = self.gateway.operators(&path).json();
        let last = listed["connections"].as_array().and_then(|list| list.last()).cloned().unwrap_or_default();
        last["connection_id"].as_str().expect("an id").to_owned()
    }

    fn close(&self, id: &str, query: &str) {
        let path = self.gateway.path(&format!("connections/{id}{query}"));
        assert_eq!(Request::new(self.gateway.admin, "DELETE", &path).send().status, 200);
    }

    fn expect(&mut self, via: Via, code: &str) {
        self.ends.expect(via, code);
    }

    fn refused(&mut self, via: Via, token: &str, query: &str, code: &str) {
        assert!(self.ask(via, token, query).is_none(), "{code} over {via:?}");
        self.expect(via, code);
    }
}

fn ended_by_others(seen: &mut BTreeSet<(Via, String)>) {
    let gateway = Gateway::with(&[
        "limits.connections_per_user=1",
        "limits.connections_per_user_policy=evict_oldest",
        "auth.leeway=0s",
    ]);
    let mut walk = Walk::of(&gateway, seen);
    for via in ALL {
        let user = format!("{via:?}");
        let (_first, _) = walk.open(via, &user, "");
        let (_second, id) = walk.open(via, &user, "");
        walk.expect(via, "evicted");
        let (_third, id) = walk.open(via, &user, &format!("?replaces={id}"));
        walk.expect(via, "evicted");
        walk.close(&id, "");
        walk.expect(via, "revoked");
        let (_fourth, id) = walk.open(via, &user, "");
        walk.close(&id, "?reason=draining");
        walk.expect(via, "draining");
        let short = gateway.token_with(&json!({"sub": user, "exp": now_s() + 2}));
        let _fifth = walk.ask(via, &short, "").expect("let in");
        walk.expect(via, "token_expired");
        // The client closes its stream, and then, in another one, cuts its connection.
        match walk.open(via, &user, "").0 {
            Client::WebSocket(mut stream) => {
                stream.send_raw(&masked(0x88, &[0x03, 0xe8]));
                walk.expect(via, "client_left");
            }
            Client::Http1(stream) => {
                drop(stream);
                walk.expect(via, "client_left");
            }
            Client::Http2(stream, connection) => {
                drop(stream);
                walk.expect(via, "client_left");
                drop(connection);
            }
        }
        drop(walk.open(via, &user, ""));
        walk.expect(via, "client_left");
    }
    walk.ends.finish();
}

fn refused_at_once(seen: &mut BTreeSet<(Via, String)>) {
    let gateway = Gateway::with(&["limits.connections_per_user=1", "limits.orgs=1", "auth.leeway=0s"]);
    gateway.say("s", "1");
    let mut walk = Walk::of(&gateway, seen);
    let (_bystander, _) = walk.open(WebSocket, "full", "");
    let full = gateway.token_of("full", &["*"]);
    let other = gateway.token_with(&json!({"org": "other"}));
    for via in ALL {
        let past = gateway.token_with(&json!({"exp": now_s() - 10}));
        walk.refused(via, "nonsense", "", "unauthorized");
        walk.refused(via, &other, "", "forbidden");
        walk.refused(via, &past, "", "token_expired");
        walk.refused(via, &gateway.token, "?cursor=x", "bad_request");
        walk.refused(via, &gateway.token, "?slow=fastest", "unsupported");
        walk.refused(via, &full, "", "too_many_connections");
        let elsewhere = Request::new(gateway.public, "GET", "/v1/orgs/other/stream");
        let elsewhere = elsewhere.with("authorization", &format!("Bearer {other}"));
        assert!(ask(&elsewhere, gateway.public, via).is_none());
        walk.expect(via, "overloaded");
    }
    drop(_bystander);
    walk.expect(WebSocket, "client_left");
    walk.ends.finish();
}

fn refused_for_haste(seen: &mut BTreeSet<(Via, String)>) {
    let gateway = Gateway::with(&["limits.handshakes_per_second=1"]);
    let mut walk = Walk::of(&gateway, seen);
    for via in ALL {
        while walk.ask(via, &gateway.token, "").is_some() {
            walk.expect(via, "client_left");
        }
        walk.expect(via, "rate_limited");
    }
    walk.ends.finish();
}

/// The request of a stream over HTTP/2.
fn ask_by_hand(wire: &mut Wire, gateway: &Gateway) {
    let (authority, path) = (gateway.public.to_string(), gateway.path("stream"));
    let bearer = format!("Bearer {}", gateway.token);
    let lines = [(":method", "GET"), (":scheme", "http"), (":authority", &authority), (":path", &path)];
    let open = || gateway.metric("tidegate_connections{transport=\"sse\"}");
    eventually("no other reader", || (open() == 0.0).then_some(()));
    wire.ask(1, &[&lines[..], &[("authorization", &bearer)]].concat());
    eventually("the reader", || (open() == 1.0).then_some(()));
}

fn fault_of_the_client(seen: &mut BTreeSet<(Via, String)>) {
    let gateway = Gateway::with(&["limits.client_frame_bytes=8KiB", "limits.first_frame_timeout=500ms"]);
    let mut walk = Walk::of(&gateway, seen);
    let _silent = Ws::open(gateway.public, &gateway.path("stream"), &[]);
    walk.expect(WebSocket, "auth_timeout");
    for (bytes, code) in [
        (masked(0x81, b"{"), "bad_frame"),
        // A breach of WebSocket itself: a reserved opcode.
        (masked(0x83, b""), "bad_frame"),
        (masked(0x81, &[b'x'; 9000]), "too_large"),
        (masked(0x81, br#"{"type":"health"}"#).repeat(500), "rate_limited"),
    ] {
        let mut stream = gateway.ws("");
        stream.next("hello");
        stream.send_raw(&bytes);
        walk.expect(WebSocket, code);
    }
    let mut wire = Wire::open(gateway.public, &[]);
    ask_by_hand(&mut wire, &gateway);
    // No room at all is not to be granted (RFC 9113, section 6.9).
    wire.give_room(0, 0);
    walk.expect(OverHttp2, "bad_frame");
    let mut wire = Wire::open(gateway.public, &[]);
    ask_by_hand(&mut wire, &gateway);
    let mut flood = frame(wire::HEADERS, wire::END_STREAM, 3, &block(&[(":method", "GET")]));
    (0..10_000).for_each(|_| flood.extend(frame(wire::CONTINUATION, 0, 3, &block(&[("x", "y")]))));
    // The connection may be cut in the middle of it.
    let _ = std::io::Write::write_all(&mut wire.socket(), &flood);
    walk.expect(OverHttp2, "rate_limited");
    walk.ends.finish();
}

fn ended_for_silence(seen: &mut BTreeSet<(Via, String)>) {
    let gateway = Gateway::with(&["ping.interval=200ms", "ping.timeout=100ms"]);
    let mut walk = Walk::of(&gateway, seen);
    let mut stream = gateway.ws("");
    stream.next("hello");
    walk.expect(WebSocket, "ping_timeout");
    let mut wire = Wire::open(gateway.public, &[]);
    ask_by_hand(&mut wire, &gateway);
    walk.expect(OverHttp2, "ping_timeout");
    assert!(gateway.log().contains("end an HTTP/2 connection: no answer to a ping came within ping.timeout"));
    walk.ends.finish();
}

fn takes_nothing(seen: &mut BTreeSet<(Via, String)>) {
    for via in ALL {
        let gateway = Gateway::with(&["limits.write_timeout=300ms", "log.engine=memory"]);
        let mut walk = Walk::of(&gateway, seen);
        let stalled: Box<dyn std::any::Any> = match via {
            WebSocket => Box::new(slow::narrow_ws(&gateway)),
            Http1 => Box::new(slow::narrow_sse(&gateway)),
            OverHttp2 => {
                let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 2000)]);
                ask_by_hand(&mut wire, &gateway);
                Box::new(wire)
            }
        };
        slow::fill(&gateway);
        walk.expect(via, "slow_consumer");
        drop(stalled);
        walk.ends.finish();
    }
}

fn ended_inside(seen: &mut BTreeSet<(Via, String)>) {
    let node = HeldNode::with(&[("drain.window", "1s")]);
    node.let_answer();
    assert_eq!(node.publishing().body(r#"{"service":"s","event":"e","data":1}"#).send().status, 200);
    let epoch = node.getting("cursor").send().json()["cursor"].as_str().map(str::to_owned).expect("a cursor");
    let epoch = epoch.split('-').next().expect("an epoch").to_owned();
    let mut ends = Ends::of(|| node.node.metrics.open_metrics(), seen);
    let open = |via: Via, query: &str| {
        ask(&node.getting(&format!("stream{query}")), node.address, via).expect("let in")
    };
    // The tail begins at the head, so a reader with an earlier cursor needs a page of the log.
    node.break_reads();
    for via in ALL {
        let _broken = open(via, &format!("?cursor={epoch}-0"));
        ends.expect(via, "internal");
    }
    // All are asked to leave at the same time.
    let _open = ALL.map(|via| open(via, ""));
    node.node.draining.send_replace(Some(std::time::Instant::now()));
    eventually("the drain", || {
        (node.metric("tidegate_closes_total{code=\"draining\"}") == 3.0).then_some(())
    });
    ends.ended.insert("draining".to_owned(), 2.0);
    ends.seen.extend(ALL.map(|via| (via, "draining".to_owned())));
    ends.expect(OverHttp2, "draining");
    ends.finish();
}

#[test]
fn r33_every_end_is_counted_once_by_its_code_over_every_transport() {
    let mut seen = BTreeSet::new();
    ended_by_others(&mut seen);
    refused_at_once(&mut seen);
    refused_for_haste(&mut seen);
    fault_of_the_client(&mut seen);
    ended_for_silence(&mut seen);
    takes_nothing(&mut seen);
    ended_inside(&mut seen);
    let closing = || Code::ALL.into_iter().filter(|code| code.close().is_some()).map(Code::name);
    for (via, impossible) in [
        (WebSocket, &[][..]),
        (Http1, &["ping_timeout", "auth_timeout", "bad_frame", "too_large"]),
        (OverHttp2, &["auth_timeout", "too_large"]),
    ] {
        let without =
            closing().chain(["client_left"]).filter(|code| !seen.contains(&(via, (*code).to_owned())));
        assert_eq!(without.collect::<Vec<_>>(), impossible, "no scenario over {via:?} provokes these");
    }
}

#[test]
fn who_leaves_its_events_unread_ends_and_the_others_of_its_connection_go_on() {
    const READERS: usize = 60;
    let gateway = Gateway::with(&[
        "limits.write_timeout=1s",
        "limits.connections_per_user=100",
        "ping.interval=60s",
        "log.engine=memory",
    ]);
    let connection = Http2::connect(gateway.public);
    let mut streams: Vec<Sse> = (0..READERS).map(|_| connection.sse(gateway.getting("stream"))).collect();
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let unread = streams.pop().expect("a stream");
    let closes = |code: &str| gateway.metric(&format!("tidegate_closes_total{{code=\"{code}\"}}"));
    // More than the window of the stream and that of the connection.
    let wide = format!("\"{}\"", "x".repeat(8_000));
    std::thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || {
                let mut seen = 0;
                while seen < 30 {
                    let frame = stream.frame();
                    assert_ne!(frame["type"], "error", "{frame}");
                    seen = frame["seq"].as_u64().filter(|_| frame["type"] != "ping").unwrap_or(seen);
                }
                stream
            });
        }
        (0..30).for_each(|_| {
            gateway.say("s", &wide);
        });
        eventually("the end of one", || (closes("slow_consumer") == 1.0).then_some(()));
        drop(unread);
    });
    assert_eq!(closes("slow_consumer"), 1.0);
    let _: Value = connection.send(&gateway.getting("cursor")).json();
}

/// A stream that the client leaves unread, and for which nothing waits, holds the window of the connection. So
/// only the answers that get no room can find it.
#[test]
fn answers_that_get_no_room_have_the_unread_stream_ended_and_wait_once_more() {
    let gateway = Gateway::with(&["limits.write_timeout=500ms", "ping.interval=60s", "log.engine=memory"]);
    // A stream's window is larger than that of the connection (65,535).
    let mut wire = Wire::open(gateway.public, &[(wire::INITIAL_WINDOW_SIZE, 1 << 20)]);
    ask_by_hand(&mut wire, &gateway);
    gateway.say("s", &format!("\"{}\"", "x".repeat(60_000)));
    let authority = gateway.public.to_string();
    let bearer = format!("Bearer {}", gateway.token);
    let mut sent = 0;
    // The second one is asked for when nothing is left for it.
    for (full, stream, path) in [(60_000, 3, gateway.path("events")), (65_535, 5, gateway.path("cursor"))] {
        while sent < full {
            sent += wire.until(wire::DATA).payload.len();
        }
        let lines = [(":method", "GET"), (":scheme", "http"), (":authority", &*authority), (":path", &*path)];
        wire.ask(stream, &[&lines[..], &[("authorization", &bearer)]].concat());
    }
    let reset = wire.until(wire::RST_STREAM);
    assert_eq!((reset.stream, reset.number()), (1, wire::CANCEL));
    let closes = || gateway.metric("tidegate_closes_total{code=\"slow_consumer\"}");
    eventually("the end of the stream", || (closes() == 1.0).then_some(()));
    // As a client does with what it has thrown away.
    wire.give_room(0, 1 << 20);
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let frame = wire.next().expect("an open connection");
        assert_ne!(frame.kind, wire::RST_STREAM, "{}", frame.stream);
        if frame.kind == wire::DATA && frame.flags & wire::END_STREAM != 0 {
            ended.push(frame.stream);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [3, 5]);
    assert_eq!(closes(), 1.0);
}
