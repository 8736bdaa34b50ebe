//! The command line: what users type, one file per command.
//!
//! Standard output carries what was asked for, standard error everything else. Exit codes: 0, 1
//! failed, 2 usage or configuration, 130 interrupted.

mod args;
mod completions;
mod config;
mod dev;
mod health;
mod key;
mod lines;
mod openapi;
mod printer;
mod publish;
mod remote;
mod serve;
mod sse;
mod tail;
mod token;

use std::{fmt, process::ExitCode};

use clap::{Parser, Subcommand};

/// A realtime event gateway: publish over HTTP, stream to browsers over WebSocket and SSE, resume
/// without gaps.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a gateway
    Serve(serve::Serve),
    /// Run a gateway to develop against, with an org, a token, a key and a feed of events
    Dev(dev::Dev),
    /// Publish one event, or a file of them
    Publish(publish::Publish),
    /// Follow an org's stream; resumes by itself
    Tail(tail::Tail),
    /// Make and look at subscribers' tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Make, list and revoke publishers' API keys
    #[command(subcommand)]
    Key(key::Key),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Print a script that makes a shell complete this command line
    Completions(completions::Completions),
    /// Print the description of the API (OpenAPI 3.1)
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    /// Ask a running gateway whether it is ready
    Health(health::Health),
    /// Show the version
    Version,
}

/// Why a command ended without having done what was asked.
#[derive(Debug)]
enum Failure {
    /// It was tried and did not work: 1.
    Failed(String),
    /// What was typed or configured cannot be: 2.
    Usage(String),
    /// The user stopped it: 130.
    Interrupted,
    /// Whoever read our output has gone: nobody is left to tell, and nothing is wrong.
    OutputClosed,
}

impl Failure {
    fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// What writing to standard output came to.
    fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("write to standard output: {error}")),
        }
    }
}

/// Writes to standard output, whose reader may have gone.
fn print(text: impl fmt::Display) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::output)
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Dev(dev) => dev.run(),
        Command::Publish(publish) => publish.run(),
        Command::Tail(tail) => tail.run(),
        Command::Token(token) => token.run(),
        Command::Key(key) => key.run(),
        Command::Config(config) => config.run(),
        Command::Completions(completions) => completions.run(),
        Command::OpenApi(openapi) => openapi.run(),
        Command::Health(health) => health.run(),
        Command::Version => print(format_args!("tidegate {} (protocol 1)\n", env!("CARGO_PKG_VERSION"))),
    };
    match done {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            eprintln!("tidegate: {message}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            eprintln!("tidegate: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Interrupted) => ExitCode::from(130),
    }
}
