//! The command line, one file per command.
//!
//! Standard output carries only the result, standard error everything else. Exit codes: 0, 1 failed, 2 usage
//! or configuration, 130 interrupted.

mod args;
mod completions;
mod config;
mod conformance;
mod dev;
mod event;
mod health;
mod key;
mod lines;
mod log;
mod man;
mod openapi;
mod org;
mod org_logs;
mod printer;
mod publish;
mod remote;
mod serve;
mod tail;
mod token;

use std::{fmt, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::logs;

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
    /// Run a gateway for development, with an org, a token, a key and a feed of made-up events
    Dev(dev::Dev),
    /// Publish one event, or a file of them
    Publish(publish::Publish),
    /// Follow an org's stream; reconnects and resumes by itself
    Tail(tail::Tail),
    /// Make and inspect subscribers' tokens
    #[command(subcommand)]
    Token(token::Token),
    /// Make, list and revoke publishers' API keys
    #[command(subcommand)]
    Key(key::Key),
    /// Look through the log of a stopped gateway, and mend it
    #[command(subcommand)]
    Log(log::Log),

    /// List and delete orgs
    #[command(subcommand)]
    Org(org::Org),
    /// Delete events
    #[command(subcommand)]
    Event(event::Event),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(config::Config),
    /// Test a client in any language against scripted streams
    Conformance(conformance::Conformance),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print the manual page (roff), or write one for each command
    Man(man::Manual),
    /// Print the description of the API (OpenAPI 3.1)
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    /// Ask a running gateway whether it is ready
    Health(health::Health),
    /// Show the version
    Version,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
enum Failure {
    /// It failed: exit code 1.
    Failed(String),
    /// The arguments or the configuration are invalid: exit code 2.
    Usage(String),
    /// It was interrupted, by Ctrl-C or SIGTERM: exit code 130.
    Interrupted,
    /// The reader of our output has closed it. This is not an error.
    OutputClosed,
}

impl Failure {
    fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// The failure of a write to standard output.
    fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("write to standard output: {error}")),
        }
    }
}

/// Writes to standard output. Its reader may have closed it.
fn print(text: impl fmt::Display) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let text = text.to_string();
    write!(out, "{}", shown(&text)).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Whether a terminal acts on `c`, or shows what is around it in another order: control characters (C0 and C1),
/// separators of lines and paragraphs, and those that set a direction (Unicode Standard Annex 9). What a peer
/// sent must not steer the terminal.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with such characters escaped as JSON does it, so that JSON stays the same JSON. Line breaks and tabs
/// stay.
fn shown(text: &str) -> std::borrow::Cow<'_, str> {
    let is_escaped = |c: char| steers(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_escaped) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // All of them are below U+10000.
        if is_escaped(c) { out += &format!("\\u{:04x}", u32::from(c)) } else { out.push(c) }
    }
    out.into()
}

/// Runs the command of the process.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Dev(dev) => dev.run(),
        Command::Publish(publish) => publish.run(),
        Command::Tail(tail) => tail.run(),
        Command::Token(token) => token.run(),
        Command::Key(key) => key.run(),
        Command::Log(log) => log.run(),

        Command::Org(org) => org.run(),
        Command::Event(event) => event.run(),
        Command::Config(config) => config.run(),
        Command::Conformance(conformance) => conformance.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(manual) => manual.run(),
        Command::OpenApi(openapi) => openapi.run(),
        Command::Health(health) => health.run(),
        Command::Version => print(format_args!("tidegate {} (protocol 1)\n", env!("CARGO_PKG_VERSION"))),
    };
    match done {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            logs::say(format_args!("tidegate: {}", shown(&message)));
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            logs::say(format_args!("tidegate: {}", shown(&message)));
            ExitCode::from(2)
        }
        Err(Failure::Interrupted) => ExitCode::from(130),
    }
}
