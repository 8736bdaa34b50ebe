//! The operators' listener: health, readiness, metrics, keys beside a running server, restarts.

use std::io::{Read as _, Write as _};

use crate::{
    client::{
        http::{Request, connect},
        stream::Frames as _,
    },
    gateway::{Gateway, eventually},
};

#[test]
fn health_and_readiness_say_how_the_log_is_kept() {
    let gateway = Gateway::start();
    assert_eq!(gateway.operators("/healthz").body, "ok\n");
    let ready = gateway.operators("/readyz");
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["ready"], true);
    let log = serde_json::json!({"engine": "disk", "sync": "always", "state": "ok", "reason": null});
    assert_eq!(ready.json()["log"], log);
    assert_eq!(gateway.operators("/nowhere").status, 404);
    assert_eq!(Request::new(gateway.admin, "POST", "/metrics").send().status, 405);
    let weaker = Gateway::with(&["log.sync=interval"]);
    assert_eq!(weaker.operators("/readyz").json()["log"]["sync"], "interval");
}

#[test]
fn metrics_come_in_both_formats_under_their_contracted_names() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws("");
    stream.next("hello");
    gateway.say("s", "1");
    stream.next("event");
    // Counted once the fan-out pass is over, so perhaps after the reader has the event.
    eventually("the count", || (gateway.metric("tidegate_events_delivered_total") == 1.0).then_some(()));
    gateway.ws("?services=a%20b").refusal();
    gateway.publish(&" ".repeat(5 << 20));
    let open = "application/openmetrics-text";
    let answer = Request::new(gateway.admin, "GET", "/metrics").with("accept", open).send();
    assert!(
        answer
            .header("content-type")
            .expect("a type")
            .starts_with("application/openmetrics-text; version=1.0.0")
    );
    assert!(answer.body.ends_with("# EOF\n"));
    for line in [
        "tidegate_connections{transport=\"websocket\"} 1",
        "tidegate_events_published_total 1",
        "tidegate_events_delivered_total 1",
        "tidegate_publish_duration_seconds_count 1",
        "tidegate_gaps_total{reason=\"retention\"} 0",
        "tidegate_closes_total{code=\"bad_request\"} 1",
        "tidegate_refusals_total{limit=\"limits.request_bytes\"} 1",
        "tidegate_log_sync_duration_seconds_count",
        "tidegate_tail_bytes ",
        "tidegate_build_info{",
        "process_",
    ] {
        assert!(answer.body.contains(&format!("\n{line}")), "{line} is missing in {}", answer.body);
    }
    let text = gateway.operators("/metrics");
    assert!(text.header("content-type").expect("a type").starts_with("text/plain; version=0.0.4"));
    assert!(text.body.contains("tidegate_events_published_total 1"), "{}", text.body);
    assert!(!text.body.contains("# EOF"));
    let public = Request::new(gateway.public, "GET", "/metrics").send();
    assert_eq!((public.status, public.refusal().as_str()), (404, "not_found"), "not where everybody comes");
}

#[test]
fn no_page_is_served_whatever_name_leads_to_the_operators_listener() {
    let gateway = Gateway::start();
    let mut stream = gateway.ws("");
    stream.next("hello");
    let connections = format!("{}?all=true", gateway.path("connections"));
    let port = gateway.admin.port();
    let ask = |method: &str, path: &str, header: &str, value: &str| {
        let answer = Request::new(gateway.admin, method, path).with(header, value).send();
        assert_eq!(answer.header("access-control-allow-origin"), None, "{value}");
        if answer.status == 200 { None } else { Some((answer.status, answer.refusal())) }
    };
    let refused = Some((403, "forbidden".to_owned()));
    // A page of another origin, one whose name resolves here, a local file, a preflight.
    for origin in ["https://evil.example", &format!("http://localhost:{port}"), "null"] {
        assert_eq!(ask("DELETE", &connections, "origin", origin), refused, "{origin}");
        assert_eq!(ask("OPTIONS", &connections, "origin", origin), refused, "{origin}");
        assert_eq!(ask("GET", "/metrics", "origin", origin), refused, "{origin}");
    }
    // A page that reads from its own host sends no Origin, but that host.
    for name in
        ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b"]
    {
        for (method, path) in [("GET", "/metrics"), ("GET", "/readyz"), ("DELETE", &*connections)] {
            assert_eq!(ask(method, path, "host", name), refused, "{method} {path} of {name:?}");
        }
    }
    assert_eq!(gateway.metric("tidegate_connections{transport=\"websocket\"}"), 1.0, "nobody was sent away");
    for name in ["localhost", &format!("LOCALHOST:{port}"), "127.0.0.1", "[::1]:8081", "::1"] {
        let taken = ask("GET", "/readyz", "host", name);
        assert_eq!(taken, if name == "::1" { refused.clone() } else { None }, "{name}");
    }
    assert_eq!(ask("DELETE", &connections, "host", "localhost"), None);
    assert_eq!(stream.refusal().0["code"], "revoked");
}

#[test]
fn keys_come_and_go_beside_a_running_server() {
    let gateway = Gateway::start();
    let key = gateway.key_for(&gateway.org, "finance");
    let publish = |service: &str| {
        let body = format!(r#"{{"service":"{service}","event":"e","data":1}}"#);
        gateway.publishing().with("authorization", &format!("Bearer {key}")).body(body).send()
    };
    assert_eq!(publish("finance").status, 200, "at once");
    assert_eq!(publish("staff").refusal(), "forbidden");
    let id = key.split('_').nth(1).expect("an id");
    assert!(gateway.command(&["key", "revoke", id]).status.success());
    let refused = eventually("the revocation", || {
        let answer = publish("finance");
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, refused.refusal().as_str()), (401, "unauthorized"));
    assert_eq!(
        gateway.say("finance", "2"),
        gateway.getting("cursor").send().json()["head"].as_u64().expect("a seq")
    );
}

#[test]
fn a_restart_keeps_org_keys_token_and_log() {
    let gateway = Gateway::start();
    gateway.say("s", "1");
    let (org, token, key) = (gateway.org.clone(), gateway.token.clone(), gateway.key.clone());
    let gateway = gateway.killed_and_started_again();
    assert_eq!((&gateway.org, &gateway.token, &gateway.key), (&org, &token, &key));
    assert_eq!(gateway.say("s", "2"), 2);
    let page = gateway.getting("events").send().json();
    assert_eq!(page["events"].as_array().expect("events").len(), 2);
}

#[test]
fn a_second_process_over_the_same_directory_is_refused() {
    let gateway = Gateway::start();
    let second = gateway.command(&["dev", "--json", "--no-feed", "--listen", "127.0.0.1:0"]);
    assert!(!second.status.success() && second.stdout.is_empty(), "{second:?}");
    let says = String::from_utf8(second.stderr).expect("UTF-8");
    assert!(says.contains("in use") || says.contains("another"), "{says}");
    gateway.say("s", "1");
}

#[test]
fn a_command_asks_whether_it_is_ready() {
    let mut gateway = Gateway::with(&["drain.window=1h"]);
    let admin = gateway.admin.to_string();
    let health = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("health").args(arguments).output().expect("run it")
    };
    let healthy = health(&["--admin", &admin]);
    assert_eq!((healthy.status.code(), healthy.stderr.is_empty()), (Some(0), true), "{healthy:?}");
    // The unspecified address cannot be connected to.
    let port = gateway.admin.port();
    assert_eq!(health(&["--admin", &format!("0.0.0.0:{port}")]).status.code(), Some(0));
    let mut stream = gateway.ws("");
    stream.next("hello");
    gateway.terminate();
    let leaves = || (gateway.operators("/readyz").status == 503).then_some(());
    eventually("readyz to say no", leaves);
    let leaving = health(&["--admin", &admin]);
    assert_eq!(leaving.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&leaving.stderr).contains("is not ready"), "{leaving:?}");
    // A liveness probe must not end it, nor must a fault that was written into its file meanwhile.
    let faulty =
        format!("[listen]\nadmin = \"{admin}\"\nadmn = 1\n[auth]\nkeys = [{{secret_file = \"/nowhere\"}}]\n");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), faulty).expect("written");
    let live = health(&["--live", "--config", file.path().to_str().expect("UTF-8")]);
    assert_eq!((live.status.code(), live.stderr.is_empty()), (Some(0), true), "{live:?}");
    let live = health(&["--live", "--admin", &admin]);
    assert_eq!((live.status.code(), live.stderr.is_empty()), (Some(0), true), "{live:?}");
    gateway.terminate();
    gateway.exit_code();
    let gone = health(&["--admin", &admin]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no gateway answers"), "{gone:?}");
}

#[test]
fn clients_that_hold_all_open_files_leave_some_for_operators_and_one_line() {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let gateway = Gateway::with(&["limits.first_frame_timeout=10m"]);
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("its files").count();
    let pid = Pid::from_raw(gateway.pid().cast_signed()).expect("a pid");
    let limit = u64::try_from(2 * open).expect("a number");
    let lowered = Rlimit { current: Some(limit), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, lowered).expect("a limit");
    let mut clients: Vec<_> = (0..2 * limit).map(|_| connect(gateway.public)).collect();
    let first = clients.first_mut().expect("a client");
    assert!(matches!(first.read(&mut [0]), Ok(0) | Err(_)), "the first one made room");
    assert_eq!(gateway.operators("/healthz").status, 200);
    assert_eq!(gateway.log().matches("new connections take the place of quiet ones").count(), 1);
    assert!(gateway.log().matches("drop a connection: few open files are left").count() <= 1);
    assert_eq!(gateway.log().matches("accept a connection").count(), 0, "some were left");
    drop(clients);
    eventually("room for a publisher", || {
        let mut client = connect(gateway.public);
        client.write_all(b"GET /openapi.json HTTP/1.0\r\n\r\n").ok()?;
        client.read(&mut [0]).is_ok_and(|read| read == 1).then_some(())
    });
}
