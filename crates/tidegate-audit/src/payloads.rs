//! Real payloads, and some that are harder, go through publish, both transports, history and resume. The
//! output must equal the input, token by token.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::{
    Common,
    continuity::Start,
    cursor::Cursor,
    event::Services,
    findings::Findings,
    gateway::{Announced, Gateway},
    history, raw,
    report::Report,
    transport::{Stream, Transport},
};

/// How long one frame may take, even on a slow machine.
const FRAME_MAX: Duration = Duration::from_secs(20);

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// File of payloads in the format of @octokit/webhooks-examples: an array of objects with `name` and
    /// `examples`
    file: PathBuf,
    /// Minimum number of payloads in the file
    #[arg(long, default_value_t = 1)]
    at_least: usize,
}

/// Data that parsers often change or reject.
const NASTY: &[&str] = &[
    "1.0",
    "1e5",
    "-0",
    "-0.0",
    "1E+2",
    "0.10000000000000000000000000000000001",
    "12345678901234567890",
    "-98765432109876543210.5e-300",
    "1.7976931348623157e308",
    "-1e-400",
    r#"{"a":1,"a":2,"b":{"a":1,"a":1}}"#,
    r#""\ud83d\ude00\uD83D\uDE00 \ud800\udc00\uffff""#,
    r#"{"\udbff\udfff":"\\ud800"}"#,
    r#""\u0000\u001f\u007f\/\b\f\n\r\t\"\\""#,
    "\"\u{2028}\u{2029}\u{feff}\u{7f}é🌊\u{10ffff}\"",
    r#"{"":"", " ":" ", "é":"\u00e9"}"#,
    "  \t\r\n {  \"spaced\"  :\n[ 1 ,\t2 , { } , [ ] , \" a  b \" ] } \n",
    "null",
    "true",
    "[]",
    "{ }",
    r#""""#,
    r#"{"type":"gap","seq":0,"prev":9,"events":[{"data":1}]}"#,
    r#""data: x\n\nid: e-1\n\nevent: y""#,
    r#"{"__proto__":{"a":1},"constructor":null}"#,
    r#""</script><!-- ]]> \\u0041 \\\" ""#,
];

/// What was published: by id, the event's name, and its data without white space between tokens.
type Expected = BTreeMap<String, (String, String)>;

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, file, at_least } = options;
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let mut payloads: Vec<(String, String)> = Vec::new();
    for kind in raw::elements(&text) {
        let name = raw::word(kind, "name").context("the file holds an entry without a name")?;
        for example in raw::elements(raw::member(kind, "examples").unwrap_or("[]")) {
            payloads.push((name.to_owned(), example.to_owned()));
        }
    }
    let real = payloads.len();
    ensure!(real >= at_least, "{} holds {real} payloads, fewer than {at_least}", file.display());
    payloads.extend(NASTY.iter().map(|data| ("nasty".to_owned(), (*data).to_owned())));
    payloads.push(("nasty".to_owned(), format!("{}1.50{}", "[".repeat(50), "]".repeat(50))));
    payloads.push(("nasty".to_owned(), format!("\"{}\"", "long \\u00e9 ".repeat(20_000))));

    let mut gateway =
        Gateway::start(&common.gateway, common.dir, &["limits.connections_per_user=100"]).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let findings = Findings::default();
    let announced = gateway.announced().clone();
    let route = Route { client: &client, gateway: &announced, findings: &findings };
    let mut report = Report::default();

    // Two readers connect first and receive everything live. Each disconnects in the middle and resumes.
    let live: Vec<Open> = {
        let websocket = route.open(Transport::WebSocketProtocol, &Start::Head).await?;
        let sse = route.open(Transport::SseLastEventId, &Start::Head).await?;
        vec![websocket, sse]
    };
    let half = payloads.len() / 2;
    let mut expected = Expected::new();
    let oldest = route.publish(&payloads[..half], 0, &mut expected).await?;
    let first = expected.clone();
    let mut resume_points = Vec::new();
    for mut open in live {
        let mut got = route.read(&mut open, first.len()).await;
        route.compare("live", &first, &got);
        resume_points.push((open.transport, open.cursor.clone(), std::mem::take(&mut got)));
    }
    route.publish(&payloads[half..], half, &mut expected).await?;
    for (transport, cursor, mut got) in resume_points {
        let mut open =
            route.open(transport, &Start::Cursor(cursor.context("a stream had no cursor")?)).await?;
        got.extend(route.read(&mut open, expected.len() - first.len()).await);
        route.compare("resumed", &expected, &got);
        report.row(format!("live and resumed over {}", transport.name()), got.len());
    }
    // Replay from the beginning: first from memory or the log, then after a restart from the log alone.
    for when in ["before SIGKILL", "after SIGKILL"] {
        for transport in [Transport::WebSocketHeader, Transport::SseCursor] {
            let start = Start::Cursor(Cursor { seq: 0, ..oldest.clone() });
            let mut open = route.open(transport, &start).await?;
            let got = route.read(&mut open, expected.len()).await;
            route.compare(when, &expected, &got);
            report.row(format!("replayed over {}, {when}", transport.name()), got.len());
        }
        let mut got = Vec::new();
        let paged = history::pages(&client, &announced, "", |texts| {
            got.extend(texts.iter().map(|text| (*text).to_owned()));
            Ok(())
        });
        paged.await?;
        route.compare("history", &expected, &got);
        report.row(format!("paged from history, {when}"), got.len());
        if when == "before SIGKILL" {
            gateway.kill().await?;
            gateway.restart().await?;
        }
    }
    report.row("real payloads", real).row("nasty ones", payloads.len() - real);
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("payloads", &findings, kept.as_deref()))
}

struct Route<'a> {
    client: &'a reqwest::Client,
    gateway: &'a Announced,
    findings: &'a Findings,
}

/// An open stream with the cursor that it has reached.
struct Open {
    transport: Transport,
    stream: Stream,
    cursor: Option<Cursor>,
}

impl Route<'_> {
    /// Publishes single events, arrays and NDJSON in turn. Returns the cursor of the last response.
    async fn publish(
        &self,
        payloads: &[(String, String)],
        from: usize,
        expected: &mut Expected,
    ) -> anyhow::Result<Cursor> {
        let mut cursor = None;
        for (turn, chunk) in payloads.chunks(7).enumerate() {
            let events = chunk.iter().enumerate().map(|(at, (name, data))| {
                let id = format!("payload-{}", from + turn * 7 + at);
                let event = format!(
                    "{{\"service\":\"github\", \"event\" : \"{name}\",\n \"id\":\"{id}\",\"data\":{data}}}"
                );
                (id, name.clone(), raw::compact(data), event)
            });
            let mut texts = Vec::new();
            for (id, name, data, event) in events {
                expected.insert(id, (name, data));
                texts.push(event);
            }
            let (kind, bodies) = match turn % 3 {
                0 => ("application/json", texts),
                1 => ("application/json", vec![format!(" [ {} ] ", texts.join(" , "))]),
                _ => {
                    let lines: Vec<String> = texts.iter().map(|text| raw::compact(text)).collect();
                    ("application/x-ndjson", vec![lines.join("\n")])
                }
            };
            for body in bodies {
                let Announced { url, org, publish_key, .. } = self.gateway;
                let request = self.client.post(format!("{url}/v1/orgs/{org}/events"));
                let request = request.bearer_auth(publish_key).header("content-type", kind).body(body);
                let answer = request.send().await.context("publish")?;
                let status = answer.status();
                let text = answer.text().await.context("read a publish response")?;
                ensure!(status == 200, "a publish was answered with {status}: {text}");
                cursor = raw::word(&text, "cursor").and_then(Cursor::parse);
            }
        }
        cursor.context("no publish response has a cursor")
    }

    async fn open(&self, transport: Transport, start: &Start) -> anyhow::Result<Open> {
        let opened = Stream::open(transport, self.client, self.gateway, Services::ALL, start);
        let mut stream = tokio::time::timeout(FRAME_MAX, opened).await.context("open a stream")??;
        let hello = tokio::time::timeout(FRAME_MAX, stream.next()).await.context("wait for hello")?;
        let hello = hello.context("a stream ended before hello")?;
        ensure!(raw::word(hello.text(), "type") == Some("hello"), "a stream began with {}", hello.text());
        let cursor = raw::word(hello.text(), "cursor").and_then(Cursor::parse);
        Ok(Open { transport, stream, cursor })
    }

    /// Reads `count` events, as text from their frames.
    async fn read(&self, open: &mut Open, count: usize) -> Vec<String> {
        let mut got = Vec::new();
        while got.len() < count {
            let Ok(Some(incoming)) = tokio::time::timeout(FRAME_MAX, open.stream.next()).await else {
                let name = open.transport.name();
                self.findings.add(name, format!("only {} of {count} events came", got.len()));
                break;
            };
            let text = incoming.text();
            match raw::word(text, "type") {
                Some("event") => got.push(text.to_owned()),
                Some("batch") => {
                    let events = raw::elements(raw::member(text, "events").unwrap_or("[]"));
                    got.extend(events.into_iter().map(str::to_owned));
                }
                Some("ping") => open.stream.pong().await,
                _ => self.findings.add(open.transport.name(), format!("an unexpected frame: {text}")),
            }
            if let (Some(cursor), Some(seq)) =
                (&mut open.cursor, raw::member(text, "seq").and_then(|seq| seq.parse().ok()))
            {
                cursor.seq = seq;
            }
        }
        got
    }

    /// Checks that every event came once, with its data as published.
    fn compare(&self, route: &str, expected: &Expected, got: &[String]) {
        let mut missing = expected.clone();
        for event in got {
            let Some(id) = raw::word(event, "id") else {
                self.findings.add(route, format!("an event without id: {event}"));
                continue;
            };
            let Some((name, data)) = missing.remove(id) else {
                self.findings.add(route, format!("{id} came twice, or was never published"));
                continue;
            };
            if raw::word(event, "event") != Some(&name) || raw::word(event, "service") != Some("github") {
                self.findings.add(route, format!("{id} has a different name or service"));
            }
            let found = raw::member(event, "data").unwrap_or_default();
            if found != data {
                let at = found.bytes().zip(data.bytes()).take_while(|(a, b)| a == b).count();
                let around = |text: &str| -> String {
                    text.get(at.saturating_sub(20)..).unwrap_or(text).chars().take(60).collect()
                };
                let (went, came) = (around(&data), around(found));
                self.findings.add(route, format!("{id} was published as …{went}…, but received as …{came}…"));
            }
        }
        for id in missing.keys() {
            self.findings.add(route, format!("{id} is missing"));
        }
    }
}
