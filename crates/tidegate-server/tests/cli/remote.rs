//! `publish` and `tail` against a gateway that answers from a script, one answer per connection.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Stdio,
    thread::JoinHandle,
};

use super::{Ran, dir, tidegate};

/// A gateway that gives each connection the next answer, and keeps the requests.
struct Script {
    url: String,
    asked: JoinHandle<Vec<String>>,
}

fn script(answers: Vec<String>) -> Script {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = std::thread::spawn(move || {
        let answer = |answer: String| {
            let (mut socket, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 65536];
            while !is_whole(&request) {
                let read = socket.read(&mut buffer).expect("a request");
                assert!(read > 0, "cut: {}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&buffer[..read]);
            }
            socket.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8(request).expect("UTF-8")
        };
        answers.into_iter().map(answer).collect()
    });
    Script { url, asked }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn stored(events: usize, duplicates: usize) -> String {
    let places: Vec<_> = (0..events)
        .map(|i| serde_json::json!({"service": "s", "id": "i", "seq": i, "duplicate": i < duplicates}))
        .collect();
    answer("200 OK", "", &serde_json::json!({"cursor": "e-9", "events": places}).to_string())
}

fn frames(frames: &[&str]) -> String {
    let body: String = frames.iter().map(|frame| format!("id: x\ndata: {frame}\n\n")).collect();
    answer("200 OK", "content-type: text/event-stream\r\n", &body)
}

fn run(script: Script, args: &[&str], input: Option<&str>) -> (Ran, Vec<String>) {
    let dir = dir();
    let mut command = tidegate(dir.path(), args);
    command
        .args(["--url", &script.url, "--org", "acme"])
        .env("TIDEGATE_KEY", "tgk_k")
        .env("TIDEGATE_TOKEN", "tok");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.unwrap_or_default().as_bytes()).expect("written");
    drop(stdin);
    let ran = child.wait_with_output().expect("it ends").into();
    (ran, script.asked.join().expect("the script was played"))
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").expect("a body").1
}

#[test]
fn one_event_goes_out_as_it_was_typed() {
    let args = [
        "publish",
        "--service",
        "s",
        "--event",
        "e",
        "--id",
        "i",
        "--users",
        "a,b",
        "--data",
        "{\"n\": 1.0,\n\"n\": 12345678901234567890}",
    ];
    let (ran, asked) = run(script(vec![stored(1, 0)]), &args, None);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.starts_with("published 1 event, 0 of them duplicates, in "), "{}", ran.out);
    assert!(
        asked[0].starts_with("POST /v1/orgs/acme/events HTTP/1.1\r\n")
            && asked[0].contains("authorization: Bearer tgk_k\r\n")
    );
    assert_eq!(
        body(&asked[0]),
        "{\"event\":\"e\",\"id\":\"i\",\"service\":\"s\",\"users\":[\"a\",\"b\"],\"data\":{\"n\": 1.0, \"n\": 12345678901234567890}}\n"
    );
}

#[test]
fn a_file_goes_in_batches_and_is_repeated_with_the_same_ids() {
    let refused = answer(
        "503 Service Unavailable",
        "retry-after: 1\r\n",
        r#"{"code":"overloaded","detail":"the log has more waiting"}"#,
    );
    let script = script(vec![stored(2, 0), refused, stored(1, 1)]);
    let input = "{\"service\":\"s\",\"id\":\"mine\"}\n\n  {\"service\":\"s\"}\r\n{}";
    let (ran, asked) = run(script, &["publish", "--file", "-", "--batch", "2", "--json"], Some(input));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        (&summary["events"], &summary["duplicates"], &summary["retries"]),
        (&3.into(), &1.into(), &1.into())
    );
    assert!(ran.err.contains("overloaded: the log has more waiting; trying again in 1."), "{}", ran.err);
    let lines: Vec<serde_json::Value> =
        body(&asked[0]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["id"], "mine");
    assert_eq!(lines[1]["id"].as_str().expect("an id").len(), 36);
    assert_eq!(body(&asked[1]), body(&asked[2]), "the same ids, so that nothing is stored twice");
}

#[test]
fn a_final_refusal_names_the_line_of_the_file() {
    let problem = r#"{"code":"invalid","detail":"1 field is faulty","errors":[{"pointer":"/1/event","code":"missing","detail":"event is missing"}]}"#;
    let script = script(vec![answer("422 Unprocessable Content", "", problem)]);
    let (ran, _) = run(script, &["publish", "--file", "-"], Some("{\"id\":\"1\"}\n\n{\"id\":\"2\"}\n"));
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains("invalid: 1 field is faulty\n  standard input, line 3, /event: event is missing\n"),
        "{}",
        ran.err
    );
    assert!(ran.out.starts_with("published 0 events"), "{}", ran.out);
}

#[test]
fn a_bad_line_ends_the_run_after_what_stands_above_it() {
    for bad in ["[1]", "{\"id\":\"2\",\"id\":\"3\"}", "{\"id\":", "x"] {
        let (ran, asked) = run(
            script(vec![stored(1, 0)]),
            &["publish", "--file", "-"],
            Some(&format!("{{\"id\":\"1\"}}\n{bad}\n{{}}\n")),
        );
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("standard input, line 2: is not a JSON object"), "{}", ran.err);
        assert_eq!(body(&asked[0]), "{\"id\":\"1\"}\n");
    }
}

#[test]
fn tail_resumes_behind_what_it_has_seen() {
    let first = frames(&[
        r#"{"type":"hello","cursor":"e-4-t","ping_interval_ms":25000}"#,
        r#"{"type":"event","org":"acme","service":"s","event":"x","id":"1","seq":5,"prev":4,"timestamp":"t","data":{"a":1.0}}"#,
        r#"{"type":"ping","prev":7,"seq":7}"#,
    ]);
    let second = frames(&[
        r#"{"type":"hello","cursor":"e-5-t"}"#,
        r#"{"type":"batch","prev":4,"seq":7,"timestamp":"t","events":[{"service":"s","id":"1","seq":5},{"service":"s","id":"2","seq":7}]}"#,
        r#"{"type":"gap","prev":7,"seq":9,"epoch":"e","filter":"t","reason":"retention"}"#,
        r#"{"type":"event","org":"acme","id":"3","seq":10,"prev":9}"#,
        r#"{"type":"event","org":"acme","id":"4","seq":11,"prev":10}"#,
    ]);
    let (ran, asked) = run(
        script(vec![first, second]),
        &["tail", "--json", "--tail", "1", "--services", "s", "--count", "3"],
        None,
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines,
        [
            r#"{"type":"event","org":"acme","service":"s","event":"x","id":"1","seq":5,"timestamp":"t","data":{"a":1.0}}"#,
            r#"{"type":"event","org":"acme","service":"s","id":"2","seq":7}"#,
            r#"{"type":"gap","prev":7,"seq":9,"epoch":"e","filter":"t","reason":"retention"}"#,
            r#"{"type":"event","org":"acme","id":"3","seq":10}"#,
        ]
    );
    assert!(asked[0].starts_with("GET /v1/orgs/acme/stream?services=s&tail=1 HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(
        asked[1].starts_with("GET /v1/orgs/acme/stream?services=s&cursor=e-5-t HTTP/1.1\r\n"),
        "{}",
        asked[1]
    );
    assert!(asked[0].contains("authorization: Bearer tok\r\n"));
    assert!(
        ran.err.contains("a frame is missing; the stream resumes before it; connecting again in 1.")
            && ran.err.contains("--cursor e-10-t"),
        "{}",
        ran.err
    );
}

#[test]
fn a_tail_that_ends_within_a_batch_continues_after_what_it_printed() {
    let stream = frames(&[
        r#"{"type":"hello","cursor":"e-4-t"}"#,
        r#"{"type":"batch","prev":4,"seq":9,"timestamp":"t","events":[{"service":"s","id":"1","seq":5},{"service":"s","id":"2","seq":7},{"service":"s","id":"3","seq":9}]}"#,
    ]);
    let (ran, _) = run(script(vec![stream]), &["tail", "--json", "--count", "2"], None);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 2), "{ran:?}");
    assert!(ran.err.contains("--cursor e-7-t"), "{}", ran.err);
}

#[test]
fn tail_ends_where_the_gateway_says_for_good() {
    let hello = r#"{"type":"hello","cursor":"e-4-t"}"#;
    for (answer, words) in [
        (
            answer(
                "401 Unauthorized",
                "",
                r#"{"code":"unauthorized","detail":"the token's signature does not match"}"#,
            ),
            "tidegate: unauthorized: the token's signature does not match\n",
        ),
        (
            answer("401 Unauthorized", "", r#"{"code":"token_expired","detail":"the token has expired"}"#),
            "tidegate: token_expired: the token has expired\n",
        ),
        (
            answer("404 Not Found", "", "<html>"),
            "tidegate: the address answered 404 Not Found without a word of the gateway\n",
        ),
        ("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(), "for good (204)"),
        (answer("200 OK", "content-type: text/html\r\n", "<html>"), "is no gateway"),
        (
            frames(&[hello, r#"{"type":"error","code":"evicted","message":"another tab"}"#]),
            "tidegate: evicted: another tab\n",
        ),
        (frames(&[r#"{"type":"event","prev":1,"seq":2}"#]), "broke the protocol: a frame came before hello"),
        (frames(&["nonsense"]), "broke the protocol"),
    ] {
        let (ran, _) = run(script(vec![answer]), &["tail"], None);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(words), "{}", ran.err);
        assert_eq!(ran.out, "");
    }
}

#[test]
fn what_a_gateway_says_cannot_steer_the_terminal() {
    let hello = r#"{"type":"hello","cursor":"e-4-t"}"#;
    let event = r#"{"type":"event","seq":5,"prev":4,"service":"s","event":"e","id":"i","timestamp":"\u001b[2J","data":1}"#;
    let (ran, _) = run(script(vec![frames(&[hello, event])]), &["tail", "--count", "1"], None);
    assert_eq!(ran.out, "\u{fffd}[2J         5  s  e  i  1\n");
    let evil = answer("403 Forbidden", "", r#"{"code":"forbidden","detail":"\u001b]0;x\u0007"}"#);
    let (ran, _) = run(script(vec![evil]), &["tail"], None);
    assert!(!ran.err.contains('\u{1b}'), "{}", ran.err);
}

#[test]
fn an_interrupted_command_ends_with_130_and_says_how_far_it_came() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let script = script(vec![stored(1, 0)]);
        let dir = dir();
        let mut command = tidegate(
            dir.path(),
            &["publish", "--file", "-", "--org", "acme", "--key", "k", "--url", &script.url],
        );
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"{}\n").expect("written");
        // The pipe stays open, but what it has given is sent.
        script.asked.join().expect("the script was played");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).expect("sent");
        let ran = Ran::from(child.wait_with_output().expect("it ends"));
        drop(stdin);
        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert!(ran.out.starts_with("published "), "{}", ran.out);
    }
}

#[test]
fn a_development_directory_gives_its_address_and_credentials_to_loopback_alone() {
    let script = script(vec![stored(1, 0)]);
    let dir = dir();
    let text = format!(
        "org = \"dev\"\nsecret = \"s\"\ntoken = \"t\"\npublish_key = \"tgk_dev\"\nurl = \"{}\"\n",
        script.url
    );
    std::fs::create_dir(dir.path().join(".tidegate-dev")).expect("made");
    std::fs::write(dir.path().join(".tidegate-dev/dev.toml"), text).expect("written");
    let args = ["publish", "--service", "s", "--event", "e"];
    let ran = Ran::from(tidegate(dir.path(), &args).output().expect("it runs"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let asked = script.asked.join().expect("the script was played");
    assert!(
        asked[0].starts_with("POST /v1/orgs/dev/events ") && asked[0].contains("Bearer tgk_dev\r\n"),
        "{}",
        asked[0]
    );
    let elsewhere = [&args[..], &["--url", "http://gateway.invalid", "--org", "acme"]].concat();
    let ran = Ran::from(tidegate(dir.path(), &elsewhere).output().expect("it runs"));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("--key (or TIDEGATE_KEY) must give an API key"), "{}", ran.err);
}

#[test]
fn a_gateway_that_is_not_there_is_said_so_in_one_line() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", nobody.local_addr().expect("an address"));
    drop(nobody);
    let dir = dir();
    let args = [
        "publish",
        "--service",
        "s",
        "--event",
        "e",
        "--org",
        "o",
        "--key",
        "k",
        "--retry-for",
        "0s",
        "--url",
        &url,
    ];
    let ran = Ran::from(tidegate(dir.path(), &args).output().expect("it runs"));
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.err,
        "tidegate: gave up within 0s (--retry-for): cannot reach the gateway: Connection refused (os error 111)\n"
    );
}

#[test]
fn gaps_are_shown_in_their_place() {
    let script = script(vec![frames(&[
        r#"{"type":"hello","cursor":"e-4-t"}"#,
        r#"{"type":"gap","prev":4,"seq":6,"epoch":"e","filter":"t","reason":"retention"}"#,
        r#"{"type":"gap","prev":6,"seq":2,"epoch":"f","filter":"t","reason":"epoch"}"#,
        r#"{"type":"event","seq":3,"prev":2,"timestamp":"t","service":"s","event":"e","id":"i","data":1}"#,
    ])]);
    let (ran, _) = run(script, &["tail", "--count", "1"], None);
    assert_eq!(
        ran.out,
        "-- gap (retention): events after 4 up to 6 are no longer available --\n\
         -- gap (epoch): the log is a new one; events after 6 may be missing; continuing after 2 --\n\
         t         3  s  e  i  1\n"
    );
}
