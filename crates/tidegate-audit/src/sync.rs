//! Acknowledged means synced. SIGKILL cannot show it, for the kernel keeps what a dead process has
//! written; so strace counts the gateway's syncs, and then makes them fail.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::Args;

use crate::{Common, event::Planned, findings::Findings, gateway::Gateway, history, report::Report};

/// How many events are published one after the other, in each life.
const EVENTS: u32 = 60;

/// The sync that fails, and all after it; counted by thread, so that a start is not met by it.
const FAILS_FROM: usize = 31;

/// How many are tried after the first that was not acknowledged.
const AFTER: usize = 5;

/// How long an answer may take; the gateway's own bound is 5 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the audit runs.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// Runs it; false if something was found.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common } = options;
    let mut gateway = Gateway::start(&common.gateway, common.dir, &[]).await?;
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let findings = Findings::default();
    let trace = gateway.dir().with_extension("strace");
    let trace_text = trace.to_string_lossy().into_owned();
    let mut strace = vec!["strace", "-D", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", &trace_text];
    let mut acknowledged: Vec<(u64, Planned)> = Vec::new();

    // Each by itself, so that no two can share a sync.
    gateway.kill().await?;
    gateway.restart_under(&strace).await.context("is strace installed, and allowed to trace?")?;
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
        findings.add("sync", format!("{count} publishes, one after the other, made only {syncs} syncs"));
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
        let what = format!("{ok} publishes were acknowledged with {syncs_until_failure} syncs that worked");
        findings.add("sync", what);
    }
    if ok == 0 || failed == 0 {
        findings.add("audit", "no sync failed between publishes, so nothing was shown");
    }

    gateway.kill().await?;
    gateway.restart().await?;
    let log = history::read(&client, gateway.announced()).await?.events;
    for (seq, planned) in &acknowledged {
        if !log.contains(&(*seq, *planned)) {
            findings.add("log", format!("{} was acknowledged at {seq}, and is not there", planned.id()));
        }
    }
    let mut report = Report::default();
    report
        .row("publishes, one after the other", EVENTS)
        .row("syncs they made", syncs)
        .row("acknowledged until syncs failed", ok)
        .row("syncs until then", syncs_until_failure)
        .row("refused from then on", failed)
        .row("events in the log after a restart", log.len());
    let kept = gateway.finish(findings.count() > 0).await;
    Ok(report.print("sync", &findings, kept.as_deref()))
}

/// Publishes one event; where it was put, or nothing if it was not acknowledged.
async fn publish(
    client: &reqwest::Client,
    gateway: &Gateway,
    planned: Planned,
) -> anyhow::Result<Option<u64>> {
    let mut body = String::new();
    planned.write_json(&mut body);
    let told = gateway.announced();
    let request = client.post(format!("{}/v1/orgs/{}/events", told.url, told.org));
    let request = request.bearer_auth(&told.publish_key).header("content-type", "application/json");
    let answer = request.body(body).send().await.context("publish")?;
    if answer.status() != 200 {
        return Ok(None);
    }
    let answer: serde_json::Value = serde_json::from_str(&answer.text().await.context("read an answer")?)?;
    answer["events"][0]["seq"].as_u64().map(Some).context("a publish answer has no seq")
}

/// How many syncs have worked, by strace's account.
fn synced(trace: &Path) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(trace).with_context(|| format!("read {}", trace.display()))?;
    // A call that another thread's interrupts is told in two lines; the second has the outcome.
    Ok(text.lines().filter(|line| line.contains("sync") && line.trim_end().ends_with("= 0")).count())
}
