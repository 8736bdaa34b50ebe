//! `tidegate-audit`: runs a gateway, loads it, hurts it, and says whether it kept its promises.
//!
//! It is not the gateway and shares no code with it: the rules of PROTOCOL.md are written down here a
//! second time (`continuity`), the transports are other people's crates, and what was published is
//! known from the publishers' side alone. So an error that the gateway and its own client have in
//! common still shows.
//!
//! Reading order: this file (the commands), `continuity` (one reader's proof), `ledger` (what is
//! known to be published), `publisher`, `reader` over `transport`, `gateway` (the process), then
//! the audits `kill`, `seam`, `sync`, `payloads`, `access` and `abort`.

mod abort;
mod access;
mod continuity;
mod cursor;
mod event;
mod fault;
mod findings;
mod gateway;
mod history;
mod kill;
mod ledger;
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

/// Audits a Tidegate gateway from outside: 0 all promises kept, 1 not, 2 usage
#[derive(Debug, Parser)]
#[command(name = "tidegate-audit", version)]
struct Cli {
    #[command(subcommand)]
    audit: Audit,
}

/// What every audit is told.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The gateway's program
    #[arg(long, value_name = "PATH", default_value = "target/release/tidegate")]
    gateway: PathBuf,
    /// Where the gateway keeps its log; default: a directory that is removed unless something is found
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Kills the gateway under load, again and again: nothing acknowledged lost, doubled, reordered
    Kill(kill::Options),
    /// Resumes many connections while events are published: no hole, nothing twice or out of order
    Seam(seam::Options),
    /// Watches and fails the gateway's syncs (with strace): what is acknowledged is on disk
    Sync(sync::Options),
    /// Sends real payloads through everything and compares them token for token
    Payloads(payloads::Options),
    /// Tries at random who may see what, over all transports: exactly what a small model says
    Access(access::Options),
    /// Makes connections and breaks them at every stage: no counter leaks, no memory grows
    Abort(abort::Options),
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
                }
            };
            // Whoever stops the audit stops its gateway, which is killed when it is dropped.
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                outcome = audit => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminate.recv() => bail!("told to stop"),
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
