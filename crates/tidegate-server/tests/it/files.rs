//! Open files: clients that hold all they can leave room for operators, publishers and the log, and what was
//! refused for want of files is served once there are some.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::{
    client::{
        http::{Answer, connect},
        stream::Frames as _,
        wire::{self, Wire},
    },
    gateway::{Gateway, eventually},
    http2_abuse::Lines,
    slow::{narrow, narrow_socket},
};

/// What the gateway may open at most. `streams_max` makes 96 streams of it: a half is the log's, an eighth the
/// publishers'.
const ALLOWED: u64 = 256;
const STREAMS: usize = 96;

/// This process needs a thousand sockets.
fn raise_own_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a limit");
}

fn few_files(settings: &[&str]) -> Gateway {
    let settings =
        [&["node.workers=2", "limits.first_frame_timeout=10m", "limits.idle_timeout=20m"], settings];
    Gateway::with_files(ALLOWED / 2, ALLOWED, &settings.concat())
}

fn refusals(gateway: &Gateway) -> f64 {
    gateway.metric("tidegate_refusals_total{limit=\"limits.connections\"}")
}

#[test]
fn p8_a_thousand_half_open_connections_lock_out_nobody() {
    raise_own_limit();
    let gateway = few_files(&[]);
    assert_eq!(gateway.metric("process_max_fds"), 256.0, "the soft limit is raised to the hard one");
    let mut clients: Vec<TcpStream> = (0..1000).map(|_| connect(gateway.public)).collect();
    for client in clients.iter_mut().step_by(2) {
        // Most of these are closed already.
        let _ = client.write_all(b"GET /v1/orgs/dev/stream HTTP/1.1\r\nHost:");
    }
    for _ in 0..20 {
        assert_eq!(gateway.operators("/readyz").status, 200);
        gateway.say("s", "1");
    }
    let mut stream = gateway.ws("");
    stream.next("hello");
    let seq = gateway.say("s", "2");
    assert_eq!(stream.next("event")["seq"].as_u64(), Some(seq));
    assert!(gateway.metric("process_open_fds") < 256.0);
    assert!(refusals(&gateway) >= 500.0, "each is counted");
    let log = gateway.log();
    let lines = |text: &str| log.matches(text).count();
    assert_eq!(lines("new connections take the place of quiet ones"), 1);
    assert!(lines("drop a connection: few open files are left") <= 1);
    assert_eq!(lines("accept a connection"), 0, "some were left");
    drop(clients);
    eventually("their sockets closed", || (gateway.sockets() < 40).then_some(()));
    let before = refusals(&gateway);
    assert_eq!(gateway.sse("").next("hello")["org"].as_str(), Some(&*gateway.org));
    assert_eq!(refusals(&gateway), before, "nobody makes room when there is some");
}

/// A gateway that does not close silent sockets by itself.
fn patient(settings: &[&str]) -> Gateway {
    Gateway::with(&[&["limits.first_frame_timeout=10m", "limits.idle_timeout=20m"], settings].concat())
}

fn waiting(gateway: &Gateway, state: &str) -> f64 {
    gateway.metric(&format!("tidegate_waiting_sockets{{state=\"{state}\"}}"))
}

#[test]
fn p5_silent_sockets_of_one_address_take_the_place_of_each_other() {
    let gateway = patient(&["limits.waiting_sockets_per_address=20"]);
    let mut clients: Vec<TcpStream> = (0..60).map(|_| connect(gateway.public)).collect();
    for client in &mut clients[50..] {
        client.write_all(b"GET /v1/orgs/dev/stream HTTP/1.1\r\n").expect("send");
    }
    eventually("those that have begun", || (waiting(&gateway, "head") == 10.0).then_some(()));
    assert_eq!(waiting(&gateway, "silent"), 10.0);
    // It comes from the same address: the oldest makes room for it, and it is served.
    gateway.say("s", "1");
    gateway.ws("").next("hello");
    let refused = gateway.metric("tidegate_refusals_total{limit=\"limits.waiting_sockets_per_address\"}");
    assert!(refused >= 40.0, "{refused}");
    let log = gateway.log();
    assert_eq!(log.matches("too many sockets that send no request").count(), 1, "{log}");
}

#[test]
fn p5_silent_sockets_of_a_trusted_proxy_are_its_own_matter() {
    let gateway =
        patient(&["limits.waiting_sockets_per_address=5", "listen.trusted_proxies=[\"127.0.0.0/8\"]"]);
    let clients: Vec<TcpStream> = (0..20).map(|_| connect(gateway.public)).collect();
    eventually("all of them", || (waiting(&gateway, "silent") == 20.0).then_some(()));
    drop(clients);
}

#[test]
fn p5_a_publisher_keeps_its_connection_while_others_crowd() {
    raise_own_limit();
    let gateway = few_files(&[]);
    let mut publisher = std::io::BufReader::new(connect(gateway.public));
    let mut publish = || {
        let request = gateway.publishing().body(r#"{"service":"s","event":"e","data":1}"#);
        publisher.get_mut().write_all(&request.bytes()).expect("send");
        Answer::read(&mut publisher).map(|answer| answer.status)
    };
    assert_eq!(publish().expect("an answer"), 200);
    let clients: Vec<TcpStream> = (0..400)
        .map(|_| {
            let mut client = connect(gateway.public);
            let _ = client.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    gateway.say("s", "2");
    assert!(refusals(&gateway) > 0.0);
    assert_eq!(publish().expect("the same connection"), 200);
    drop(clients);
}

#[test]
fn p5_silent_sockets_do_not_hold_up_operators() {
    let gateway = patient(&[]);
    let clients: Vec<TcpStream> = (0..80).map(|_| connect(gateway.admin)).collect();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(gateway.operators(path).status, 200);
    }
    // Only as many close as others have come: nobody has waited until the connections are too old.
    let mut kept = &clients[40];
    kept.set_nonblocking(true).expect("non-blocking");
    assert_eq!(kept.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
}

#[test]
fn p8_streams_leave_files_to_publishers() {
    let gateway = few_files(&["limits.connections_per_user=1000"]);
    let mut streams: Vec<_> = (0..STREAMS).map(|_| gateway.ws("")).collect();
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let (error, _) = gateway.ws("").refusal();
    assert_eq!(
        (error["code"].as_str(), error["limit"].as_str()),
        (Some("overloaded"), Some("limits.connections"))
    );
    gateway.say("s", "1");
    assert_eq!(gateway.operators("/readyz").status, 200);
    drop(streams.pop());
    eventually("room for a stream", || {
        let place = gateway.metric("tidegate_connection_slots{scope=\"streams\"}");
        (place < 96.0).then(|| gateway.ws("").next("hello"))
    });
}

#[test]
fn quiet_connections_that_were_served_make_room_too_but_streams_do_not() {
    raise_own_limit();
    let gateway = few_files(&[]);
    let mut sse = gateway.sse("");
    sse.next("hello");
    let mut ws = gateway.ws("");
    ws.next("hello");
    let clients: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut client = connect(gateway.public);
            let _ = client.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    let seq = gateway.say("s", "1");
    assert_eq!(sse.next("event")["seq"].as_u64(), Some(seq));
    assert_eq!(ws.next("event")["seq"].as_u64(), Some(seq));
    assert!(refusals(&gateway) > 0.0);
    drop(clients);
}

/// A connection is not quiet while a part of its answer waits in the gateway for a client that reads slowly.
#[test]
fn p5_who_reads_an_answer_slowly_does_not_make_room_before_its_end() {
    let gateway = patient(&[
        "limits.connections=6",
        "limits.connections_per_org=6",
        "limits.connections_per_user=6",
        "limits.publishes_in_flight=6",
    ]);
    // An answer that is made whole, and has more than the buffers of the kernel take.
    gateway.say("s", &format!("\"{}\"", "x".repeat(250_000)));
    let mut slow = narrow(&gateway.getting("events?limit=1"), gateway.public);
    let begun = Answer::read_head(&mut slow).expect("the answer begins");
    let length = begun.header("content-length").expect("a whole answer").parse().expect("a length");

    // Over HTTP/2 the end of a small answer waits behind a large one, which is not wanted any more.
    let room = (1 << 31) - 1;
    let mut wire = Wire::over(narrow_socket(gateway.public), &[(wire::INITIAL_WINDOW_SIZE, room)]);
    wire.give_room(0, room - 65_535);
    let ask =
        |endpoint| Lines { bearer: format!("Bearer {}", gateway.token), ..Lines::of(&gateway, endpoint) };
    wire.ask(1, &ask("events?limit=1").by("GET"));
    assert_eq!(wire.until(wire::DATA).stream, 1);
    wire.ask(3, &ask("cursor").by("GET"));
    wire.frame(wire::RST_STREAM, 0, 1, &wire::CANCEL.to_be_bytes());
    let held = || gateway.metric("tidegate_in_flight_bytes{kind=\"request\"}");
    eventually("both answers handed over", || (held() == 0.0).then_some(()));

    let others: Vec<_> = (0..20)
        .map(|_| {
            let mut other = gateway.getting("cursor").begin();
            assert_eq!(Answer::read(&mut other).expect("an answer").status, 200);
            other
        })
        .collect();
    assert!(refusals(&gateway) > 0.0, "quiet ones made room");
    let mut body = vec![0; length];
    slow.read_exact(&mut body).expect("all of the answer");
    loop {
        let frame = wire.next().expect("the small answer");
        if frame.stream == 3 && frame.flags & wire::END_STREAM != 0 {
            break;
        }
    }
    drop((slow, wire, others));
}

#[test]
fn p8_no_files_at_all_for_a_while_stops_no_listener() {
    let gateway = Gateway::start();
    let pid = Pid::from_raw(gateway.pid().cast_signed()).expect("a pid");
    // Fewer than it has open.
    let none = Rlimit { current: Some(8), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(Some(pid), Resource::Nofile, none).expect("a limit");
    let waiting = [
        gateway.publishing().body(r#"{"service":"s","event":"e","data":1}"#).begin(),
        gateway.getting("cursor").begin(),
    ];
    let operator = connect(gateway.admin);
    eventually("the line about the public listener", || {
        gateway.log().contains("accept a connection").then_some(())
    });
    eventually("the line about the operators' listener", || {
        gateway.log().contains("accept an operator's connection").then_some(())
    });
    prlimit(Some(pid), Resource::Nofile, before).expect("a limit");
    for mut waiting in waiting {
        let answer = Answer::read(&mut waiting).expect("an answer");
        assert_eq!(answer.status, 200);
    }
    drop(operator);
    assert_eq!(gateway.operators("/readyz").status, 200);
    for line in ["accept a connection", "accept an operator's connection"] {
        assert_eq!(gateway.log().matches(line).count(), 1, "it is logged once");
    }
}
