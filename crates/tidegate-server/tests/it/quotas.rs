//! Quotas of orgs: what is over one is refused by its name, or paced, for that org alone.

use serde_json::{Value, json};
use tidegate_protocol::OrgId;
use tidegate_server::config::{Config, OwnQuotas};

use crate::{
    client::{
        http::{Answer, Request},
        stream::{Follower, Frames},
    },
    gateway::{Gateway, eventually, now_s},
    held_node::HeldNode,
    signer::Signer,
};

/// A request to the operators' address about the quotas of an org.
fn operate(gateway: &Gateway, method: &str, org: &str, query: &str) -> Value {
    let answer = Request::new(gateway.admin, method, &format!("/v1/orgs/{org}/quotas{query}")).send();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The limit, the use, and who has set it, of one quota.
fn quota(answer: &Value, name: &str) -> (Option<u64>, u64, Option<String>) {
    let quotas = answer["quotas"].as_array().expect("quotas");
    let found = quotas.iter().find(|quota| quota["quota"] == name).expect(name);
    let used = found["used"].as_u64().expect("a number");
    (found["limit"].as_u64(), used, found["set_by"].as_str().map(str::to_owned))
}

/// Somebody of an org.
struct Org<'g> {
    gateway: &'g Gateway,
    name: &'static str,
    key: String,
    token: String,
}

impl<'g> Org<'g> {
    fn of(gateway: &'g Gateway, name: &'static str) -> Self {
        let token = gateway.token_with(&json!({"org": name}));
        Self { gateway, name, key: gateway.key_for(name, "*"), token }
    }

    fn request(&self, method: &str, endpoint: &str) -> Request {
        Request::new(self.gateway.public, method, &format!("/v1/orgs/{}/{endpoint}", self.name))
    }

    /// Publishes so many events in one request, each with so many bytes.
    fn publish(&self, events: usize, bytes: usize) -> Answer {
        let event = json!({"service": "s", "event": "e", "data": "x".repeat(bytes)});
        let request = self.request("POST", "events").with("authorization", &format!("Bearer {}", self.key));
        let request = request.with("content-type", "application/json");
        request.body(Value::from(vec![event; events]).to_string()).send()
    }

    fn get(&self, endpoint: &str) -> Request {
        self.request("GET", endpoint).with("authorization", &format!("Bearer {}", self.token))
    }

    /// The seq of its newest event.
    fn head(&self) -> u64 {
        self.get("cursor").send().json()["head"].as_u64().expect("a seq")
    }

    fn ws(&self, query: &str) -> crate::client::ws::Ws {
        let path = format!("/v1/orgs/{}/stream{query}", self.name);
        let bearer = format!("Bearer {}", self.token);
        crate::client::ws::Ws::open(self.gateway.public, &path, &[("authorization", &bearer)])
    }

    fn sse(&self, query: &str) -> crate::client::sse::Sse {
        crate::client::sse::Sse::open(self.get(&format!("stream{query}")))
    }
}

/// Checks that a request was refused because of this quota.
fn refused(answer: &Answer, limit: &str, status: u16, code: &str) {
    assert_eq!((answer.status, answer.refusal().as_str()), (status, code), "{answer:?}");
    assert_eq!(answer.json()["limit"], limit, "{answer:?}");
    assert!(answer.json()["retry_in_ms"].as_u64() > Some(0), "when to come back: {answer:?}");
}

/// The seqs of all events up to `last`, followed from the first; panics at a hole.
fn all(stream: &mut dyn Frames, start: &str, last: u64) {
    let mut client = Follower::at(start);
    let events = stream.events(&mut client, usize::try_from(last).expect("few"));
    assert!(events.iter().map(|event| event["seq"].as_u64()).eq((1..=last).map(Some)));
    assert!(client.gaps.is_empty(), "{:?}", client.gaps);
}

#[test]
fn p5_an_org_over_its_egress_is_paced_and_gets_all_in_order_while_another_goes_on() {
    let gateway = Gateway::with(&["orgs={much={egress_bytes_per_second=\"16KiB\"}}", "node.workers=1"]);
    let (much, other) = (Org::of(&gateway, "much"), Org::of(&gateway, "other"));
    let start = much.get("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let mut live: [Box<dyn Frames>; 2] = [Box::new(much.ws("")), Box::new(much.sse(""))];
    let mut others: [Box<dyn Frames>; 2] = [Box::new(other.ws("")), Box::new(other.sse(""))];
    live.iter_mut().chain(&mut others).for_each(|stream| drop(stream.next("hello")));
    // Each of the live readers is to get 800 KiB, which takes them 100 s.
    for _ in 0..4 {
        assert_eq!(much.publish(25, 8000).status, 200);
    }
    let mut back: [Box<dyn Frames>; 2] =
        [Box::new(much.ws(&format!("?cursor={start}"))), Box::new(much.sse(&format!("?cursor={start}")))];
    back.iter_mut().for_each(|stream| drop(stream.next("hello")));
    for seq in 1..=20 {
        assert_eq!(other.publish(1, 8000).status, 200);
        for stream in &mut others {
            assert_eq!(stream.next("event")["seq"], seq);
        }
    }
    let delivered = gateway.metric("tidegate_events_delivered_total") - 2.0 * 20.0;
    assert!(delivered < 100.0, "they wait: {delivered} of 400");
    // What waits is sent at once when the quota is gone.
    operate(&gateway, "PUT", "much", "?egress_bytes_per_second=");
    for stream in live.iter_mut().chain(&mut back) {
        all(stream.as_mut(), &start, 100);
    }
    assert_eq!(gateway.metric("tidegate_slow_warnings_total"), 0.0);
    // And pacing goes on for what comes.
    much.publish(1, 1);
    live.iter_mut().for_each(|stream| drop(stream.next("event")));
}

#[test]
fn p5_who_comes_back_and_live_readers_take_turns_under_a_quota_of_egress() {
    let gateway = Gateway::with(&["orgs={much={egress_bytes_per_second=\"512KiB\"}}", "node.workers=1"]);
    let much = Org::of(&gateway, "much");
    let start = much.get("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    // They read all the time, and what comes at once fits into their sockets. So they stay live.
    for _ in 0..4 {
        let mut live = much.ws("");
        live.next("hello");
        std::thread::spawn(move || while live.try_frame().is_some() {});
    }
    // The live readers are to get 6 MB together, which takes them 12 s.
    for _ in 0..100 {
        assert_eq!(much.publish(2, 8000).status, 200);
    }
    let mut back = much.ws(&format!("?cursor={start}"));
    back.next("hello");
    let delivered = || gateway.metric("tidegate_events_delivered_total");
    let (before, mut got) = (delivered(), 0);
    // One turn has at most 16 of these events. It may come just when the quota has something again and the live
    // readers still wait; further turns come only if they take turns.
    while got < 48 {
        let frame = back.frame();
        got += frame["events"].as_array().map_or(1, Vec::len);
    }
    assert!(delivered() < 4.0 * 200.0, "the live readers got all before it");
    assert!(delivered() - before > 48.0, "the live readers get something too");
}

#[test]
fn p5_a_reader_that_is_paced_until_it_falls_out_of_memory_is_no_slow_consumer() {
    let gateway = Gateway::with(&[
        "orgs={much={egress_bytes_per_second=\"64KiB\"}}",
        "node.workers=1",
        "slow.max_behind=1",
        "limits.event_bytes=64KiB",
        "limits.request_bytes=256KiB",
        "tail.org_max_bytes=256KiB",
        "ping.interval=200ms",
        "ping.timeout=100ms",
    ]);
    let (much, other) = (Org::of(&gateway, "much"), Org::of(&gateway, "other"));
    let start = much.get("cursor").send().json()["cursor"].as_str().expect("a cursor").to_owned();
    let (mut slowed, mut pinged) = (much.sse(""), other.sse(""));
    slowed.next("hello");
    pinged.next("hello");
    for _ in 0..4 {
        assert_eq!(much.publish(20, 8000).status, 200);
    }
    let parked = || gateway.metric("tidegate_readers_parked_total");
    eventually("it left the passes", || (parked() >= 1.0).then_some(()));
    // So many ticks of its worker pass, and each looks for slow readers.
    (0..3).for_each(|_| drop(pinged.next("ping")));
    assert_eq!(gateway.metric("tidegate_slow_warnings_total"), 0.0);
    operate(&gateway, "PUT", "much", "?egress_bytes_per_second=");
    all(&mut slowed, &start, 80);
    assert_eq!(gateway.metric("tidegate_slow_warnings_total"), 0.0);
}

#[test]
fn p5_each_quota_refuses_its_org_by_name_and_no_other() {
    let gateway = Gateway::with(&[
        "limits.org.connections=1",
        "limits.org.publish_events_per_second=1",
        "limits.org.history_bytes_per_second=1B",
        "orgs={wide={connections=\"\", publish_events_per_second=\"\", history_bytes_per_second=\"\"}, \
         byte={publish_events_per_second=\"\", publish_bytes_per_second=\"1B\"}}",
    ]);
    let [tight, byte, wide] = ["tight", "byte", "wide"].map(|name| Org::of(&gateway, name));
    // A second's worth, or one request even if it is more. From then on it takes 200 s.
    for (org, limit) in
        [(&tight, "limits.org.publish_events_per_second"), (&byte, "limits.org.publish_bytes_per_second")]
    {
        assert_eq!(org.publish(200, 1).status, 200);
        refused(&org.publish(1, 1), limit, 429, "rate_limited");
        refused(&org.publish(2, 1), limit, 429, "rate_limited");
        assert_eq!(org.head(), 200, "nothing of it is stored");
        assert_eq!(gateway.metric(&format!("tidegate_refusals_total{{limit=\"{limit}\"}}")), 2.0);
    }
    assert_eq!(tight.get("events?limit=1").send().status, 200);
    let limit = "limits.org.history_bytes_per_second";
    refused(&tight.get("events?limit=1").send(), limit, 429, "rate_limited");
    let limit = "limits.org.connections";
    let mut first = tight.ws("");
    first.next("hello");
    let (error, close) = tight.ws("").refusal();
    assert_eq!((error["limit"].as_str(), close), (Some(limit), 4004), "{error}");
    refused(
        &tight.get("stream").with("accept", "text/event-stream").send(),
        limit,
        429,
        "too_many_connections",
    );
    for _ in 0..3 {
        assert_eq!(wide.publish(200, 1).status, 200);
        assert_eq!(wide.get("events?limit=100").send().status, 200);
    }
    let mut streams = [wide.ws(""), wide.ws("")];
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    // One request for both: the events of the one are stored.
    let event = |org: &str| json!({"org": org, "service": "s", "event": "e", "id": "1", "data": 1});
    let both = gateway.publishing().to("/v1/events");
    let both = both.with("authorization", &format!("Bearer {}", gateway.key_for("tight,wide", "*")));
    let answer = both.body(json!([event("tight"), event("wide")]).to_string()).send();
    assert_eq!(answer.status, 207, "{answer:?}");
    assert_eq!(
        answer.json()["orgs"][0]["problem"]["limit"],
        "limits.org.publish_events_per_second",
        "{answer:?}"
    );
    assert_eq!((tight.head(), wide.head()), (200, 601));
}

#[test]
fn quotas_follow_the_file_and_what_operators_set_stays_until_they_take_it_back() {
    let signer = Signer::secret("k", "a secret of thirty-two bytes or so");
    let config = |quotas: &str| format!("[auth]\nkeys = [{}]\n{quotas}\n", signer.toml());
    let gateway = Gateway::serving(&config("[limits.org]\nfilters = 9\n"));
    let token = |user: &str| {
        signer.token(&json!({"sub": user, "org": "acme", "services": ["*"], "exp": now_s() + 3600}))
    };
    let open = |user: &str| {
        let mut stream = gateway.ws_as(&token(user), "");
        (stream.frame()["limit"].clone(), stream)
    };
    let is_set = |name: &str| {
        let (limit, _, set_by) = quota(&operate(&gateway, "GET", "acme", ""), name);
        (limit, set_by.unwrap_or_default())
    };
    assert_eq!(is_set("filters"), (Some(9), "limits.org".into()));
    assert_eq!(is_set("connections"), (Some(20_000), "limits.connections_per_org".into()));
    assert_eq!(is_set("stored_bytes"), (None, String::new()));
    let first = open("a");
    assert_eq!(first.0, Value::Null);
    // Lowered for all, then raised for one.
    gateway.configure(&config("[limits.org]\nconnections = 1\n"));
    assert!(gateway.hang_up());
    assert_eq!(open("b").0, "limits.org.connections");
    gateway.configure(&config("[limits.org]\nconnections = 1\n[orgs.acme]\nconnections = 2\n"));
    assert!(gateway.hang_up());
    assert_eq!(is_set("connections"), (Some(2), "orgs.acme".into()));
    let second = open("b");
    assert_eq!(second.0, Value::Null);
    assert_eq!(open("c").0, "limits.org.connections");
    // An operator's holds whatever the file says, until it is taken back.
    let answer = operate(&gateway, "PUT", "acme", "?connections=3&egress_bytes_per_second=1MiB");
    assert_eq!(quota(&answer, "connections"), (Some(3), 2, Some("operator".into())));
    assert_eq!(quota(&answer, "egress_bytes_per_second"), (Some(1 << 20), 0, Some("operator".into())));
    gateway.configure(&config("[orgs.acme]\nconnections = 1\n"));
    assert!(gateway.hang_up());
    let third = open("c");
    assert_eq!(third.0, Value::Null);
    let answer = operate(&gateway, "DELETE", "acme", "");
    assert_eq!(quota(&answer, "connections"), (Some(1), 3, Some("orgs.acme".into())));
    assert_eq!(quota(&answer, "egress_bytes_per_second").0, None);
    assert_eq!(open("d").0, "limits.org.connections");
    // A faulty name or value changes nothing, and says where it is.
    gateway.configure(&config("[orgs.\"a b\"]\nconnections = 5\n[orgs.acme]\nconections = 5\n"));
    assert!(!gateway.hang_up());
    let reason = gateway.logged("the configuration stays as it was: what was read again is not valid");
    let reason = reason.expect("a line")["reason"].as_str().expect("text").to_owned();
    assert!(reason.contains("\"a b\" is no name of an org") && reason.contains(":7:"), "{reason}");
    assert!(reason.contains("did you mean `connections`"), "{reason}");
    for (query, says) in [
        ("?conections=1", "did you mean"),
        ("?connections=0", "connections: 0 must be a whole number"),
        ("?filters=", "filters: "),
        ("", "name a quota to set"),
    ] {
        let answer = Request::new(gateway.admin, "PUT", &format!("/v1/orgs/acme/quotas{query}")).send();
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains(says), "{answer:?}");
    }
    assert_eq!(open("d").0, "limits.org.connections");
}

#[test]
fn org_show_has_the_quotas_and_what_is_used_of_them() {
    let gateway = Gateway::with(&[
        "orgs={dev={connections=5, publish_bytes_per_second=\"1MiB\", stored_bytes=\"1GiB\"}}",
    ]);
    let mut streams = [gateway.ws("?services=a"), gateway.ws("?services=b")];
    streams.iter_mut().for_each(|stream| drop(stream.next("hello")));
    let wide = format!("\"{}\"", "x".repeat(100_000));
    gateway.say("a", &wide);
    streams[0].next("event");
    let admin = gateway.admin.to_string();
    let run = |more: &[&str]| {
        let words = [&["org", "show", "dev", "--admin", &admin], more].concat();
        let output = gateway.command(&words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let shown: Value = serde_json::from_str(&run(&["--json"])).expect("JSON");
    assert_eq!((shown["org"].as_str(), shown["readers"].as_u64()), (Some("dev"), Some(2)));
    assert_eq!(quota(&shown, "connections"), (Some(5), 2, Some("orgs.dev".into())));
    assert_eq!(quota(&shown, "filters"), (Some(1000), 2, Some("limits.org".into())));
    let (limit, used, _) = quota(&shown, "publish_bytes_per_second");
    assert!(limit == Some(1 << 20) && used > 0, "{shown}");
    let (limit, used, set_by) = quota(&shown, "stored_bytes");
    assert!(limit == Some(1 << 30) && used > 100_000 && set_by.as_deref() == Some("orgs.dev"), "{shown}");
    let (limit, used, set_by) = quota(&shown, "egress_bytes_per_second");
    assert!(limit.is_none() && used > 0 && set_by.is_none(), "it is measured without a quota: {shown}");
    let text = run(&[]);
    let cells: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(cells.contains(&vec!["connections", "2", "5", "orgs.dev"]), "{text}");
}

#[test]
fn p6_only_the_top_orgs_near_a_quota_have_series() {
    let gateway = Gateway::with(&["limits.org.publish_events_per_second=1", "metrics.top_orgs=3"]);
    let key = gateway.key_for("*", "*");
    let publish = |events: Vec<Value>| {
        let request = gateway.publishing().to("/v1/events").with("authorization", &format!("Bearer {key}"));
        let answer = request.body(Value::from(events).to_string()).send();
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let event = |org: String| json!({"org": org, "service": "s", "event": "e", "data": 1});
    // A rate is averaged over 10 s: these publish more than one event a second each.
    for hundred in 0..10 {
        let org = |number: usize| format!("org-{}", hundred * 100 + number % 100);
        publish((0..1000).map(|number| event(org(number))).collect());
    }
    let more = ["z-1", "z-2"].map(|org| vec![event(org.to_owned()); 100]);
    publish(more.concat());
    publish(vec![event("quiet".to_owned())]);
    let metrics = gateway.operators("/metrics").body;
    let series: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("tidegate_org_quota_used_ratio{")).collect();
    assert_eq!(series.len(), 3, "{series:?}");
    for org in ["z-1", "z-2"] {
        let labels = format!("{{org=\"{org}\",quota=\"publish_events_per_second\"}}");
        assert!(series.iter().any(|line| line.contains(&labels)), "those that use most: {series:?}");
    }
}

#[test]
fn the_engine_gets_the_quotas_of_stored_bytes_at_the_start_and_with_each_change() {
    let node = HeldNode::with(&[
        ("limits.org.stored_bytes", "1MiB"),
        ("orgs", "{free={stored_bytes=\"\"}, much={stored_bytes=\"5MiB\"}, other={connections=1}}"),
    ]);
    let org = |name: &str| OrgId::parse(name).expect("a name");
    let given = || {
        let quotas = node.quotas.lock().expect("no panic");
        ["free", "much", "other"].map(|name| quotas.of(&org(name)).map(|bytes| bytes >> 20))
    };
    assert_eq!(given(), [None, Some(5), Some(1)]);
    let mut own = OwnQuotas::default();
    own.set_from("stored_bytes", "7MiB").expect("a size");
    node.node.set_quotas(&org("other"), Some(own));
    assert_eq!(given(), [None, Some(5), Some(7)]);
    let config = Config::for_tests(&["limits.org.stored_bytes=2MiB"]).expect("a configuration");
    node.node.reconfigure(config);
    assert_eq!(given(), [Some(2), Some(2), Some(7)], "what operators set stays");
    node.node.set_quotas(&org("other"), None);
    assert_eq!(given(), [Some(2); 3]);
}
