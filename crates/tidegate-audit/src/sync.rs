//! Acknowledged means synced. SIGKILL cannot test this, because the kernel keeps what a killed process has
//! written. So strace counts the gateway's syncs, and then makes them fail.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::Args;

use crate::{Common, event::Planned, findings::Findings, gateway::Gateway, history, report::Report};

/// How many events are published one after the other, in each part of the audit.
const EVENTS: u32 = 60;

/// This sync fails, and all after it. strace counts by thread, so the syncs of the gateway's start do not
/// fail.
const FAILS_FROM: usize = 31;

/// How many more publishes are tried after the first that was not acknowledged.
const AFTER: usize = 5;

/// How long a response may take; the gateway's own bound is 5 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common } = options;
    let mut gateway = Gateway::start(&common.gateway, common.dir, &[]).await?;
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let findings = Findings::default();
    let trace = gateway.dir().with_extension("strace");
    let trace_text = trace.to_string_lossy().into_owned();
    let mut strace = vec!["strace", "-D", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", &trace_text];
    let mut acknowledged: Vec<(u64, Planned)> = Vec::new();

    // One at a time, so that no two share a sync.
    gateway.kill().await?;
    gateway
        .restart_under(&strace)
        .await
        .context("start the gateway under strace (is strace installed and allowed to trace?)")?;
    let before = synced(&trace)?;
    for number in 0..EVENTS {
        let planned = Planned { publisher: 1, number };
        match publish(&client, &gateway, planned).await? {
            Some(seq) => acknowledged.push((seq, planned)),
            None => findings.add("publish", format!("{} was not acknowledged", planned.id())),
        }
    }
    let syncs = synced(&trace)? - before;
    if syncs < acknowledged.len() {
        let count = acknowledged.len();
        findings.add("sync", format!("{count} publishes, one after the other, caused only {syncs} syncs"));
    }

    gateway.kill().await?;
    let inject = format!("inject=fsync,fdatasync:error=EIO:when={FAILS_FROM}+");
    strace.extend(["-e", &inject]);
    std::fs::remove_file(&trace).context("remove the first trace")?;
    gateway.restart_under(&strace).await?;
    let before = synced(&trace)?;
    let (mut ok, mut failed) = (0, 0);
    for number in 0..EVENTS * 10 {
        let planned = Planned { publisher: 2, number };
        match publish(&client, &gateway, planned).await? {
            Some(seq) => {
                acknowledged.push((seq, planned));
                ok += 1;
                if failed > 0 {
                    findings.add("sync", format!("{} was acknowledged after a failed sync", planned.id()));
                }
            }
            None => failed += 1,
        }
        if failed > AFTER {
            break;
        }
    }
    let syncs_until_failure = synced(&trace)? - before;
    if ok > syncs_until_failure {
        let what =
            format!("{ok} publishes were acknowledged with only {syncs_until_failure} successful syncs");
        findings.add("sync", what);
    }
    if ok == 0 || failed == 0 {
        findings.add("audit", "no sync failed between publishes, so nothing was tested");
    }

    gateway.kill().await?;
    gateway.restart().await?;
    let log = history::read(&client, gateway.announced()).await?.events;
    for (seq, planned) in &acknowledged {
        if !log.contains(&(*seq, *planned)) {
            findings.add("log", format!("{} was acknowledged at {seq}, but is not in the log", planned.id()));
        }
    }
    let mut report = Report::default();
    report
        .row("publishes, one after the other", EVENTS)
        .row("syncs for them", syncs)
        .row("acknowledged until syncs failed", ok)
        .row("syncs until then", syncs_until_failure)
        .row("not acknowledged from then on", failed)
        .row("events in the log after a restart", log.len());
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("sync", &findings, kept.as_deref()))
}

/// Publishes one event. Returns its seq, or none if it was not acknowledged.
async fn publish(
    client: &reqwest::Client,
    gateway: &Gateway,
    planned: Planned,
) -> anyhow::Result<Option<u64>> {
    let mut body = String::new();
    planned.write_json(&mut body);
    let announced = gateway.announced();
    let request = client.post(format!("{}/v1/orgs/{}/events", announced.url, announced.org));
    let request = request.bearer_auth(&announced.publish_key).header("content-type", "application/json");
    let answer = request.body(body).send().await.context("publish")?;
    if answer.status() != 200 {
        return Ok(None);
    }
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.context("read a response")?)?;
    answer["events"][0]["seq"].as_u64().map(Some).context("a publish response has no seq")
}

/// How many syncs succeeded, according to strace.
fn synced(trace: &Path) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(trace).with_context(|| format!("read {}", trace.display()))?;
    // strace splits a call in two lines if another thread's call comes in between; the second has the result.
    Ok(text.lines().filter(|line| line.contains("sync") && line.trim_end().ends_with("= 0")).count())
}
