//! `tidegate conformance`: arguments, the order of the runs, and printing. The kit is `crate::conformance`.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tidegate_core::closest::did_you_mean;
use tokio::sync::{Semaphore, mpsc};

use super::{
    Failure, print,
    remote::{block_on, printable},
};
use crate::conformance::{self, Choice, Command, Kit, Need, Outcome, Scenario, Transport, Verdict};

/// Tests a client of the stream, in any language, against scripted streams over real sockets.
///
/// With a command, the client is started for each scenario. It prints one JSON line for each event and gap.
/// Without a command, the kit serves: GET /conformance lists the runs, and a page or a program reports what it
/// got. spec/README.md says more.
#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(super) struct Conformance {
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The transport of the client
    #[arg(long, value_enum, default_value = "both")]
    transport: Which,
    /// Only these scenarios, separated by commas; a name may end with *
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    scenario: Vec<String>,
    /// What the client cannot do: get a new token, skip an event that comes again in a new epoch, start with a
    /// cursor. Scenarios that need it are skipped
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Need>,
    /// How many scenarios run at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    parallel: u16,
    /// Print the scenarios, and run nothing
    #[arg(long)]
    list: bool,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
    /// The client, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What the client's command line may have, and an example.
fn after_help() -> String {
    format!(
        "Placeholders in the client's arguments:\n{}The environment of the client has the same as TIDEGATE_URL, \
         TIDEGATE_STREAM and so on.\n\nExample:\n  tidegate conformance -- python3 examples/client.py {{transport}} \
         {{url}} {{org}} {{token}} token={{token_url}} cursor={{cursor}}",
        Command::placeholders()
    )
}

/// The values of `--transport`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Ws,
    Sse,
    Both,
}

impl Conformance {
    pub(super) fn run(self) -> Result<(), Failure> {
        let choice = self.choice()?;
        if self.list {
            return self.print_list(&choice);
        }
        let runs = choice.runs();
        if runs.is_empty() {
            return Err(Failure::Usage("none of these scenarios is for this transport".to_owned()));
        }
        match Command::new(self.command.clone()).map_err(Failure::Usage)? {
            Some(command) => block_on(self.play(command, choice)),
            None => block_on(self.serve(choice)),
        }
    }

    fn choice(&self) -> Result<Choice, Failure> {
        let scenarios = conformance::all().map_err(Failure::Failed)?;
        let is_named = |scenario: &Scenario, pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => scenario.name.starts_with(start),
            None => scenario.name == *pattern,
        };
        for pattern in &self.scenario {
            if !scenarios.iter().any(|scenario| is_named(scenario, pattern)) {
                let hint = did_you_mean(pattern, scenarios.iter().map(|scenario| scenario.name.as_str()));
                return Err(Failure::Usage(format!(
                    "--scenario: there is no scenario {pattern:?}{hint}; --list prints their names"
                )));
            }
        }
        let is_chosen = |scenario: &Scenario| {
            self.scenario.is_empty() || self.scenario.iter().any(|pattern| is_named(scenario, pattern))
        };
        let transports = match self.transport {
            Which::Ws => vec![Transport::Ws],
            Which::Sse => vec![Transport::Sse],
            Which::Both => Transport::ALL.to_vec(),
        };
        Ok(Choice {
            scenarios: scenarios.into_iter().filter(is_chosen).map(Arc::new).collect(),
            transports,
            without: self.without.clone(),
        })
    }

    fn print_list(&self, choice: &Choice) -> Result<(), Failure> {
        for scenario in &choice.scenarios {
            let transports: Vec<&str> = scenario.transports.iter().map(|one| one.name()).collect();
            if self.json {
                let line = json!({
                    "scenario": scenario.name, "transports": transports, "about": scenario.about,
                    "rule": scenario.rule, "needs": scenario.needs, "offers": scenario.offers,
                    "cursor": scenario.start, "deadline_ms": scenario.deadline_ms, "script": scenario.script,
                });
                print(format_args!("{line}\n"))?;
            } else {
                print(format_args!(
                    "{}  ({})\n    {}\n",
                    scenario.name,
                    transports.join(", "),
                    scenario.about
                ))?;
            }
        }
        Ok(())
    }

    /// Starts the client for each run, some at the same time.
    async fn play(&self, command: Command, choice: Choice) -> Result<(), Failure> {
        let runs = choice.runs();
        // Verdicts are what `Command::play` returns.
        let (verdicts, _) = mpsc::unbounded_channel();
        let kit = self.bind(choice, verdicts).await?;
        let bar = progress(runs.len() as u64);
        let slots = Arc::new(Semaphore::new(usize::from(self.parallel)));
        let mut tasks = tokio::task::JoinSet::new();
        let command = Arc::new(command);
        for (scenario, transport) in runs {
            let (kit, slots, command) = (Arc::clone(&kit), Arc::clone(&slots), Arc::clone(&command));
            tasks.spawn(async move {
                // The semaphore is never closed.
                let _slot = slots.acquire_owned().await;
                command.play(&kit, &scenario, transport).await
            });
        }
        let mut count = Count::default();
        while let Some(done) = tasks.join_next().await {
            let verdict = done.map_err(Failure::failed)?.map_err(Failure::Usage)?;
            count.add(&verdict);
            bar.suspend(|| self.print_verdict(&verdict))?;
            bar.set_message(count.to_string());
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.print_count(&count)?;
        count.result()
    }

    /// Serves until the user interrupts it.
    async fn serve(&self, choice: Choice) -> Result<(), Failure> {
        let (sender, mut verdicts) = mpsc::unbounded_channel();
        let runs = choice.runs().len();
        let kit = self.bind(choice, sender).await?;
        let list = format!("{}/conformance", kit.url());
        if self.json {
            print(format_args!("{}\n", json!({ "url": kit.url(), "list": list, "runs": runs })))?;
        } else {
            print(format_args!("{runs} runs at {list}\n"))?;
        }
        while let Some(verdict) = verdicts.recv().await {
            self.print_verdict(&verdict)?;
        }
        Ok(())
    }

    async fn bind(
        &self,
        choice: Choice,
        verdicts: mpsc::UnboundedSender<Verdict>,
    ) -> Result<Arc<Kit>, Failure> {
        let (kit, listener) = Kit::bind(self.listen, choice, verdicts).await.map_err(|error| {
            Failure::Usage(format!("--listen: cannot listen on {}: {error}", self.listen))
        })?;
        tokio::spawn(Arc::clone(&kit).serve(listener));
        Ok(kit)
    }

    fn print_verdict(&self, verdict: &Verdict) -> Result<(), Failure> {
        if self.json {
            return print(format_args!("{}\n", json!(verdict)));
        }
        let Verdict { scenario, transport, expected, seen, rule, about, client_says, .. } = verdict;
        let name = format!("{scenario} ({transport})");
        match verdict.verdict {
            Outcome::Passed => print(format_args!("passed   {name}\n")),
            Outcome::Skipped => print(format_args!("skipped  {name}: {seen}\n")),
            Outcome::Failed => {
                let mut text = format!(
                    "FAILED   {name}\n  expected: {}\n  seen:     {}\n  scenario: {about}\n  rule:     {rule}\n",
                    printable(expected),
                    printable(seen),
                );
                for line in client_says.lines() {
                    text += &format!("  client:   {}\n", printable(line));
                }
                print(text)
            }
        }
    }

    fn print_count(&self, count: &Count) -> Result<(), Failure> {
        if self.json {
            let Count { passed, failed, skipped, .. } = count;
            let line = json!({ "passed": passed.len(), "failed": failed.len(), "skipped": skipped });
            return print(format_args!("{line}\n"));
        }
        print(format_args!("{count}\n"))
    }
}

/// The verdicts so far. Passed and failed runs have their names, so that a run of nothing is noticed.
#[derive(Default)]
struct Count {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: usize,
}

impl Count {
    fn add(&mut self, verdict: &Verdict) {
        let name = format!("{} ({})", verdict.scenario, verdict.transport);
        match verdict.verdict {
            Outcome::Passed => drop(self.passed.insert(name)),
            Outcome::Failed => drop(self.failed.insert(name)),
            Outcome::Skipped => self.skipped += 1,
        }
    }

    fn result(&self) -> Result<(), Failure> {
        let names: Vec<&str> = self.failed.iter().map(String::as_str).collect();
        match (names.is_empty(), self.passed.is_empty()) {
            (false, _) => Err(Failure::Failed(format!("the client fails {}", names.join(", ")))),
            (true, true) => Err(Failure::Failed("every scenario was skipped".to_owned())),
            (true, false) => Ok(()),
        }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed.len(), self.failed.len(), self.skipped)
    }
}

/// A progress bar on standard error; hidden if that is not a terminal.
fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}  {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
