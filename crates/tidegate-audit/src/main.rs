//! `tidegate-audit`: runs a gateway under load, injects failures, and checks that it kept its promises.
//!
//! It shares no code with the gateway: the rules of PROTOCOL.md are implemented here a second time
//! (`continuity`), the transports are third-party crates, and the only source for what was published is the
//! publishers' side. So it also finds an error that the gateway and its own client have in common.
//!
//! Reading order: this file (the commands), `continuity` (the verifier of one reader), `ledger` (what was
//! published), `publisher`, `reader` over `transport`, `gateway` (the process), then the audits `kill`,
//! `seam`, `sync`, `payloads`, `access`, `abort` and `neighbours`.

mod abort;
mod access;
mod account;
mod continuity;
mod cursor;
mod event;
mod fault;
mod findings;
mod gateway;
mod history;
mod kill;
mod ledger;
mod neighbours;
mod payloads;
mod publisher;
mod raw;
mod reader;
mod report;
mod seam;
mod sync;
mod transport;

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Check from outside that a Tidegate gateway keeps its promises
///
/// Exit codes: 0 all promises kept; 1 a promise was broken, or the audit failed; 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "tidegate-audit", version)]
struct Cli {
    #[command(subcommand)]
    audit: Audit,
}

/// Options of every audit.
#[derive(Debug, Clone, Args)]
struct Common {
    /// Path of the tidegate program
    #[arg(long, value_name = "PATH", default_value = "target/release/tidegate")]
    gateway: PathBuf,
    /// Directory for the gateway's log [default: a temporary directory, kept only if there are findings]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Kill the gateway under load, repeatedly: no acknowledged event is lost, duplicated or reordered
    Kill(kill::Options),
    /// Resume many connections while events are published: no hole, no duplicate, nothing out of order
    Seam(seam::Options),
    /// Count the gateway's syncs and make them fail (with strace): acknowledged events are on disk
    Sync(sync::Options),
    /// Send real payloads over all transports and compare them token by token
    Payloads(payloads::Options),
    /// Make random requests over all transports: each shows exactly what a small model of access allows
    Access(access::Options),
    /// Open connections and break them at every stage: no counter leaks, memory does not grow
    Abort(abort::Options),
    /// Let orgs attack the gateway in many ways: another org notices nothing
    Neighbours(neighbours::Options),
    /// One attack of `neighbours`, as a process of its own
    #[command(hide = true)]
    Attack(neighbours::attacker::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            let audit = async {
                match cli.audit {
                    Audit::Kill(options) => kill::run(options).await,
                    Audit::Seam(options) => seam::run(options).await,
                    Audit::Sync(options) => sync::run(options).await,
                    Audit::Payloads(options) => payloads::run(options).await,
                    Audit::Access(options) => access::run(options).await,
                    Audit::Abort(options) => abort::run(options).await,
                    Audit::Neighbours(options) => neighbours::run(options).await,
                    Audit::Attack(options) => neighbours::attacker::run(options).await,
                }
            };
            // Stopping the audit also stops its gateway, which is killed when it is dropped.
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                outcome = audit => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminate.recv() => bail!("terminated"),
            }
        });
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidegate-audit: {error:#}");
            ExitCode::FAILURE
        }
    }
}
