//! The file of scenarios, and every script played in memory to a client that keeps the rules.

use std::sync::Arc;

use serde_json::Value;
use tidegate_protocol::{
    Cursor,
    client::{Outcome as Taken, StreamReader},
};

use super::{
    Outcome, Scenario, Transport, all,
    run::{Asked, Do, Received, Run},
    step::{Expect, Step},
};

#[test]
fn the_file_is_whole() {
    let scenarios = all().expect("the file is read");
    assert!(scenarios.len() >= 60, "{}", scenarios.len());
    for Scenario { name, steps, about, rule, delivers, .. } in &scenarios {
        assert!(!about.is_empty() && !rule.is_empty(), "{name}");
        assert!(name.len() <= 48, "{name}: the org of a run begins with it");
        let ends = matches!(steps.last(), Some(Step::Done | Step::Expect(Expect::Stop)));
        assert!(ends, "{name}: a script ends with `done` or `expect stop`");
        assert!(delivers.len() <= 5000, "{name}");
    }
}

#[test]
fn a_faulty_step_is_found() {
    for line in
        ["", "event", "event x", "event 1 previous=2", "gap 3", "hello e1", "error nonsense", "expect"]
    {
        assert!(line.parse::<Step>().is_err(), "{line}");
    }
}

/// A client without sockets that keeps the rules, in a world where everything takes 10 ms.
struct Client {
    reader: StreamReader,
    /// When the next attempt is, if there is no connection.
    at: u64,
    connection: Option<u64>,
    token: String,
    is_stopped: bool,
    asks_gzip: bool,
}

/// Plays a scenario; the verdict's sentence if it failed.
fn play(scenario: &Arc<Scenario>, transport: Transport) -> Result<(), String> {
    let mut run = Run::new(Arc::clone(scenario), transport, "org".to_owned());
    let start: Option<Cursor> = scenario.start.as_deref().map(|text| text.parse().expect("a cursor"));
    let mut client = Client {
        reader: StreamReader::new(start),
        at: 0,
        connection: None,
        token: run.token(),
        is_stopped: false,
        asks_gzip: true,
    };
    let wall = 1_800_000_000_000;
    let mut silent_since = 0;
    let mut was_live = false;
    let mut now = 0;
    while run.verdict().is_none() {
        now += 10;
        assert!(now < 200_000, "{}: no verdict", scenario.name);
        run.tick(now);
        let Some(connection) = client.connection else {
            if !client.is_stopped && now >= client.at {
                client.reader.connected();
                let asked = Asked {
                    is_websocket: transport == Transport::Ws,
                    cursor: client.reader.cursor().map(Cursor::to_string),
                    token: Some(client.token.clone()),
                    deflate: true,
                    gzip: true,
                    gzip_batch: client.asks_gzip,
                };
                client.connection = Some(run.asked(now, wall, asked));
                silent_since = now;
            }
            continue;
        };
        // Whether the connection ends, and when to come back; `None` is for good.
        let mut end = None;
        match run.next(now, wall, connection) {
            Do::Send { frame, torn: None } => {
                silent_since = now;
                was_live |= frame.json.contains(r#""type":"hello""#);
                if frame.is_ping && transport == Transport::Ws {
                    run.received(now, wall, connection, Received::Text("{\"type\":\"pong\"}"));
                }
                match client.reader.take(&frame.json) {
                    Taken::Events(events) => {
                        for event in events {
                            let mut line: Value = serde_json::from_str(event.get()).expect("JSON");
                            line["type"] = "event".into();
                            run.line(now, &line.to_string());
                        }
                    }
                    Taken::Gap { .. } => run.line(now, &frame.json),
                    Taken::Hole | Taken::Broken(_) => {
                        client.asks_gzip = false;
                        end = Some(Some(1000));
                    }
                    Taken::Leave { .. } => end = Some(Some(1000)),
                    Taken::Error { code, retry_in_ms, .. } => {
                        let code = tidegate_protocol::Code::from_name(&code).expect("a code");
                        if code == tidegate_protocol::Code::TokenExpired {
                            client.token = run.token();
                        }
                        let delay = 5000.max(retry_in_ms.unwrap_or(0));
                        end = Some(code.is_retryable().then_some(delay));
                        // The end of the connection belongs to it.
                        assert!(matches!(run.next(now, wall, connection), Do::Close(_)));
                    }
                    _ => {}
                }
            }
            Do::ControlPing(payload) => {
                run.received(now, wall, connection, Received::ControlPong(&payload));
            }
            Do::Open { .. } | Do::Send { .. } | Do::Text(_) | Do::Set(_) => {}
            Do::Close(code) => {
                let is_final = code.is_some_and(|(code, _)| code == 1009 || (4500..=4999).contains(&code));
                end = Some((!is_final).then_some(5000));
            }
            Do::Refuse(refusal) => {
                let is_foreign = refusal.problem.is_none() && refusal.status != 204 && was_live;
                let is_final =
                    !is_foreign && refusal.status < 500 && ![401, 408, 429].contains(&refusal.status);
                if refusal.problem.is_some_and(|(code, _)| code == "token_expired") {
                    client.token = run.token();
                }
                let is_final = is_final || refusal.problem.is_some_and(|(code, _)| code == "revoked");
                end = Some((!is_final).then_some(5000.max(1000 * refusal.retry_after_s.unwrap_or(0))));
            }
            Do::Cut | Do::Gone | Do::Dismiss(_) => end = Some(Some(5000)),
            Do::Wait if now > silent_since + client.reader.silence_ms().min(35_000) => {
                run.received(now, wall, connection, Received::End);
                end = Some(Some(1000));
            }
            Do::Wait => {}
        }
        if let Some(delay) = end {
            if matches!(delay, Some(1000)) {
                run.received(now, wall, connection, Received::End);
            }
            client.connection = None;
            client.at = now + delay.unwrap_or(0);
            client.is_stopped = delay.is_none();
            if client.is_stopped {
                run.exited(now, "stopped".to_owned());
            }
        }
    }
    match run.verdict().map(|verdict| (verdict.verdict, verdict)) {
        Some((Outcome::Passed, _)) => Ok(()),
        other => Err(format!("{} ({transport}): {other:?}", scenario.name)),
    }
}

#[test]
fn a_line_with_a_faulty_field_is_shown_as_it_is() {
    let scenario = all().expect("the file is read").into_iter().find(|one| one.name == "events");
    let scenario = Arc::new(scenario.expect("a scenario"));
    let event = "a line of type event with a whole number `seq` and a string `id`";
    let gap = "a line of type gap with whole numbers `prev` and `seq` and a string `reason`";
    for (line, expected) in [
        (r#"{"type":"event","seq":"x","id":"e-1"}"#, event),
        (r#"{"type":"event","seq":1.5,"id":"e-1"}"#, event),
        (r#"{"type":"event","seq":1,"id":null}"#, event),
        (r#"{"type":"gap","prev":0,"seq":"7","reason":"retention"}"#, gap),
        (r#"{"type":"gap","seq":7,"reason":"retention"}"#, gap),
    ] {
        let mut run = Run::new(Arc::clone(&scenario), Transport::Ws, "org".to_owned());
        run.begin(0);
        run.line(1, line);
        let verdict = run.verdict().expect("it fails");
        assert_eq!(
            (verdict.expected.as_str(), verdict.seen.as_str()),
            (expected, &*format!("the line {line}"))
        );
        assert_eq!(verdict.rule, "spec/README.md, \"What your client prints\"");
    }
}

#[test]
fn a_client_that_keeps_the_rules_passes_every_script() {
    for scenario in all().expect("the file is read").into_iter().map(Arc::new) {
        // `StreamReader` remembers no ids.
        if scenario.needs.contains(&super::Need::Dedup) {
            continue;
        }
        for transport in &scenario.transports {
            play(&scenario, *transport).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}
