//! One tenant cannot hurt another (P5): an org, the victim, publishes and reads at a steady rate while other
//! orgs with valid credentials attack the gateway. Each attack has a gateway of its own, and rounds of three
//! phases: the victim alone, the victim under attack, and after the attack.
//!
//! Reading order: `victim` (the load, and what is measured), `attack` (the attacks), `attacker` (their
//! process), this file (the rounds and the verdict).

mod attack;
pub mod attacker;
mod victim;
mod wire;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum as _};
use tokio::time::Instant;

use crate::{
    Common, account,
    findings::Findings,
    gateway::Gateway,
    raw,
    report::{Report, progress},
};
use attack::Attack;
use attacker::{Account, Process, Site};
use victim::{Measured, Victim};

/// The p99 under attack may be this many times that of the quiet run.
const RATIO_MAX: f64 = 2.0;

/// A p99 below this is no finding, whatever its ratio. Gateway, victim and attacker share the processor and
/// the disk: on two cores, the time slices of the kernel's scheduler and a sync of the disk take a few
/// milliseconds each, so a quiet run may show 3 ms where another one shows 15 ms.
const FLOOR: Duration = Duration::from_millis(25);

/// The same for `--quick`: one round, beside other work, with a debug build. It finds orgs that are locked out,
/// not those that are slow.
const FLOOR_QUICK: Duration = Duration::from_secs(1);

/// How much the gateway's memory may grow under attack: what its settings below let all budgets hold
/// together, and as much again for the allocator and for what is between two budgets.
const GROWTH_MAX: u64 = 256 << 20;

/// How much of that may be left after [`SETTLE_MAX`]: the newest events in memory (32 MiB), and half of what
/// the allocator had free, because it returns pages over ten seconds.
const LEFT_MAX: u64 = 128 << 20;

/// After this time nothing of an attack is held.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// A compressed frame under attack may have this many times the bytes: a victim keeps its compressor.
const COMPRESSED_MAX: f64 = 1.5;

/// How long the attack runs before the victim is measured.
const LEAD: Duration = Duration::from_millis(400);

/// Users of each org that attacks.
const USERS: usize = 4;

/// Small pools, so that an attack fills them in seconds from one machine. The rules that share them are the
/// same at any size.
const SETTINGS: &[&str] = &[
    // An org makes as many users as it likes; four stand for them.
    "limits.connections_per_user=400",
    "limits.publishes_in_flight=256",
    "limits.publish_queue_bytes=\"16MiB\"",
    "limits.in_flight_bytes=\"32MiB\"",
    "limits.in_flight_bytes_per_user=\"4MiB\"",
    "limits.replays_waiting=128",
    "dedup.max_entries=40000",
    "dedup.max_entries_per_org=20000",
    "compression.max_contexts=16",
    "tail.max_bytes=\"32MiB\"",
    "tail.org_max_bytes=\"8MiB\"",
    "tail.page_bytes=\"8MiB\"",
    "log.max_bytes=\"2GiB\"",
];

/// The attacks of `--quick`: one for each kind of fault.
const QUICK: &[Attack] = &[
    Attack::DiskFill,
    Attack::DedupFill,
    Attack::BodiesDribble,
    Attack::JsonKeys,
    Attack::H2WindowZero,
    Attack::Scan,
    Attack::FiltersRequest,
    Attack::Compressors,
    Attack::SlowReaders,
    Attack::SilentSockets,
    Attack::StreamStorm,
    Attack::RapidReset,
];

/// Options of the audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// The attacks, separated by commas [default: all]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',', hide_possible_values = true)]
    attack: Vec<Attack>,
    /// Print the attacks and what each does
    #[arg(long)]
    list: bool,
    /// One attack for each kind of fault, by two orgs, one short round each; takes less than a minute
    #[arg(long)]
    quick: bool,
    /// How many orgs attack at the same time: a list, each once [default: 1,2,10; with --quick 2]
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=100))]
    orgs: Vec<u8>,
    /// Number of rounds; their median counts [default: 3; with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: Option<u8>,
}

/// How long the phases are, and what is demanded.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: u8,
    quiet: Duration,
    attacked: Duration,
    floor: Duration,
    /// Whether pieces of work that hold a worker for too long are findings. They are only on a machine that does
    /// nothing else: what the kernel does for others in the middle of a call counts for the caller.
    finds_long: bool,
}

/// Runs the audit. False if there are findings.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let Options { common, attack: attacks, list, quick, orgs, rounds } = options;
    if list {
        for attack in Attack::value_variants() {
            let value = attack.to_possible_value();
            let about = value.as_ref().and_then(|value| value.get_help()).cloned().unwrap_or_default();
            println!("  {:<18}  {about}", attack.name());
        }
        return Ok(true);
    }
    let plan = if quick {
        let (quiet, attacked) = (Duration::from_millis(700), Duration::from_millis(1500));
        Plan { rounds: rounds.unwrap_or(1), quiet, attacked, floor: FLOOR_QUICK, finds_long: false }
    } else {
        let (quiet, attacked) = (Duration::from_secs(3), Duration::from_secs(4));
        Plan { rounds: rounds.unwrap_or(3), quiet, attacked, floor: FLOOR, finds_long: true }
    };
    let orgs = match (orgs.is_empty(), quick) {
        (false, _) => orgs,
        (true, true) => vec![2],
        (true, false) => vec![1, 2, 10],
    };
    let attacks = match (attacks.is_empty(), quick) {
        (false, _) => attacks,
        (true, true) => QUICK.to_vec(),
        (true, false) => Attack::value_variants().to_vec(),
    };
    let findings = Findings::default();
    let bar = progress((attacks.len() * orgs.len()) as u64, "attacks");
    let (mut measured, mut passed, mut kept) = (0, 0, None);
    println!("{}", heading());
    for (attack, orgs) in attacks.iter().flat_map(|attack| orgs.iter().map(move |orgs| (*attack, *orgs))) {
        bar.set_message(attack.name());
        let who = format!("{} by {orgs} org{}", attack.name(), if orgs == 1 { "" } else { "s" });
        measured += 1;
        match measure(&common, attack, orgs, plan).await {
            Ok(outcome) => {
                bar.suspend(|| println!("{}", outcome.row()));
                passed += usize::from(outcome.faults.is_empty());
                outcome.faults.iter().for_each(|fault| findings.add(&who, &fault.text));
                kept = kept.or(outcome.kept);
            }
            Err(error) => findings.add(&who, format!("{error:#}")),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut report = Report::default();
    report.row("attacks", measured).row("of them without an effect on the victim", passed);
    Ok(report.print("neighbours", &findings, kept.as_deref()))
}

/// What an attack did to the victim.
struct Outcome {
    attack: Attack,
    orgs: u8,
    publish: (Duration, Duration),
    delivery: (Duration, Duration),
    refused: usize,
    lost: usize,
    memory: u64,
    done: u64,
    faults: Vec<Fault>,
    kept: Option<std::path::PathBuf>,
}

/// What is wrong, in a word and as a sentence.
struct Fault {
    word: &'static str,
    text: String,
}

/// The head of the table. Times are milliseconds, `memory` is what it grew by at most, in MiB.
fn heading() -> String {
    format!(
        "  {:<16} {:>4} {:>9}  {:>18} {:>18} {:>6} {:>7} {:>6} {:>6}  verdict\n  {:<16} {:>4} {:>9}  {:>18} {:>18}",
        "attack",
        "orgs",
        "done",
        "publish p99",
        "delivery p99",
        "ratio",
        "refused",
        "lost",
        "memory",
        "",
        "",
        "",
        "quiet -> attacked",
        "quiet -> attacked"
    )
}

fn ratio((quiet, attacked): (Duration, Duration)) -> f64 {
    attacked.as_secs_f64() / quiet.as_secs_f64().max(1e-6)
}

impl Outcome {
    fn new(attack: Attack, orgs: u8) -> Self {
        let (publish, delivery) = Default::default();
        let (refused, lost, memory, done) = Default::default();
        Self { attack, orgs, publish, delivery, refused, lost, memory, done, faults: Vec::new(), kept: None }
    }

    fn row(&self) -> String {
        let ms = |(quiet, attacked): (Duration, Duration)| {
            format!("{:.1} -> {:.1}", quiet.as_secs_f64() * 1000.0, attacked.as_secs_f64() * 1000.0)
        };
        let mut verdict: Vec<&str> = self.faults.iter().map(|fault| fault.word).collect();
        verdict.dedup();
        format!(
            "  {:<16} {:>4} {:>9}  {:>18} {:>18} {:>6.1} {:>7} {:>6} {:>6}  {}",
            self.attack.name(),
            self.orgs,
            self.done,
            ms(self.publish),
            ms(self.delivery),
            ratio(self.publish).max(ratio(self.delivery)),
            self.refused,
            self.lost,
            self.memory >> 20,
            if verdict.is_empty() { "ok".to_owned() } else { verdict.join(", ") }
        )
    }

    fn fault(&mut self, word: &'static str, text: String) {
        self.faults.push(Fault { word, text });
    }
}

/// Creates the orgs that attack.
async fn site(gateway: &Gateway, orgs: u8) -> anyhow::Result<Site> {
    let address = |url: &str| -> anyhow::Result<_> {
        Ok(url.strip_prefix("http://").context("find the gateway's address")?.parse()?)
    };
    let announced = gateway.announced();
    let mut accounts = Vec::new();
    for number in 0..orgs {
        let org = format!("attacker-{number}");
        let key = ["key", "create", "--org", &org, "--services", "*", "--json"];
        let key = gateway.command(&key).await?;
        let key = raw::word(&key, "key").context("key create printed no key")?.to_owned();
        let mut tokens = Vec::new();
        for user in 0..USERS {
            let user = format!("user-{user}");
            let arguments = ["token", "create", "--org", &org, "--user", &user, "--services", "*"];
            tokens.push(gateway.command(&arguments).await?);
        }
        accounts.push(Account { org, key, tokens, from: Ipv4Addr::new(127, 0, 1, number + 1) });
    }
    Ok(Site { public: address(&announced.url)?, admin: address(&announced.admin_url)?, accounts })
}

/// The most memory that a process had while this exists.
struct Peak {
    most: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Peak {
    fn of(pid: u32) -> Self {
        let most = Arc::<AtomicU64>::default();
        let seen = most.clone();
        let task = tokio::spawn(async move {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            loop {
                look.tick().await;
                let memory = account::memory_and_files(pid).map_or(0, |(memory, _)| memory);
                seen.fetch_max(memory, Ordering::Relaxed);
            }
        });
        Self { most, task }
    }

    fn bytes(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the gateway holds.
struct Holding {
    gauges: BTreeMap<String, f64>,
    sockets: usize,
    memory: u64,
    /// How many pieces of work have held a worker for too long, by cause.
    long: BTreeMap<String, f64>,
}

/// The counter of pieces of work that held a worker for more than 2 ms of processor time.
const LONG: &str = "tidegate_worker_long_slices_total";

impl Holding {
    async fn of(client: &reqwest::Client, admin_url: &str, pid: u32) -> anyhow::Result<Self> {
        let text = account::metrics(client, admin_url).await?;
        let mut long = account::samples(&text)?;
        long.retain(|name, _| name.starts_with(LONG));
        let (memory, _) = account::memory_and_files(pid)?;
        Ok(Self { gauges: account::held(&text)?, sockets: account::sockets(pid)?, memory, long })
    }

    /// What it holds beyond what it held `before`.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut beyond: Vec<String> = self
            .gauges
            .iter()
            .filter_map(|(name, now)| {
                let then = before.gauges.get(name).copied().unwrap_or(0.0);
                (*now > then).then(|| format!("{name} is {now}, it was {then}"))
            })
            .collect();
        if self.sockets > before.sockets {
            beyond.push(format!("{} sockets are open, {} were", self.sockets, before.sockets));
        }
        let left = self.memory.saturating_sub(before.memory);
        if left > LEFT_MAX {
            beyond.push(format!("{} MiB more memory, {} are allowed", left >> 20, LEFT_MAX >> 20));
        }
        beyond
    }

    /// The pieces of work that have held a worker for too long since `before`.
    fn long_since(&self, before: &Self) -> Vec<String> {
        let new = self.long.iter().filter_map(|(name, now)| {
            let count = now - before.long.get(name).copied().unwrap_or(0.0);
            (count > 0.0).then(|| format!("{name} rose by {count}"))
        });
        new.collect()
    }
}

/// Runs one attack by some orgs against a gateway of its own.
async fn measure(common: &Common, attack: Attack, orgs: u8, plan: Plan) -> anyhow::Result<Outcome> {
    let key = |setting: &str| setting.split('=').next().map(str::to_owned);
    let own: Vec<_> = attack.settings().iter().map(|setting| key(setting)).collect();
    let common_ones = SETTINGS.iter().filter(|setting| !own.contains(&key(setting)));
    let settings: Vec<&str> = common_ones.chain(attack.settings()).copied().collect();
    let mut gateway = Gateway::start(&common.gateway, common.dir.clone(), &settings).await?;
    let pid = gateway.pid().context("find the gateway's process")?;
    let announced = gateway.announced().clone();
    let site = site(&gateway, orgs).await?;
    let victim = Victim::start(&announced).await?;
    // The first events, whose time does not count: connections, files and memory are new.
    victim.phase(Duration::from_millis(300)).await?;
    attacker::prepare(attack, &site).await?;
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1).build()?;
    let mut outcome = Outcome::new(attack, orgs);
    let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        quiet.push(victim.phase(plan.quiet).await?);
        let before = Holding::of(&client, &announced.admin_url, pid).await?;
        let peak = Peak::of(pid);
        let process = Process::start(attack, &site).await?;
        tokio::time::sleep(LEAD).await;
        attacked.push(victim.phase(plan.attacked).await?);
        outcome.done += process.end().await?;
        let ended = Instant::now();
        let growth = peak.bytes().saturating_sub(before.memory);
        outcome.memory = outcome.memory.max(growth);
        let mut long;
        let beyond = loop {
            let now = Holding::of(&client, &announced.admin_url, pid).await;
            long = now.as_ref().map_or_else(|_| Vec::new(), |now| now.long_since(&before));
            let beyond = now.map_or_else(|error| vec![format!("{error:#}")], |now| now.beyond(&before));
            if beyond.is_empty() || ended.elapsed() >= SETTLE_MAX {
                break beyond;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        for what in long.into_iter().filter(|_| plan.finds_long) {
            outcome.fault("long", format!("round {}: {what}", round + 1));
        }
        for what in beyond {
            outcome.fault("kept", format!("{SETTLE_MAX:?} after round {}: {what}", round + 1));
        }
        if !gateway.is_running() {
            outcome.fault("ended", "the gateway ended".into());
            break;
        }
    }
    judge(&mut outcome, &quiet, &attacked, plan);
    if !victim.has_its_first_event().await.unwrap_or(false) {
        outcome.lost += 1;
        outcome.fault("lost", "the oldest events of the victim were removed".into());
    }
    victim.end().await;
    if attack == Attack::DiskFill {
        // An operator must be able to act, and a restart must work.
        if let Err(error) = gateway.command(&["key", "create", "--org", "late", "--services", "*"]).await {
            outcome.fault("keys", format!("no key could be made: {error:#}"));
        }
        gateway.kill().await?;
        if let Err(error) = gateway.restart().await {
            outcome.fault("restart", format!("{error:#}"));
        }
    }
    outcome.kept = gateway.finish(!outcome.faults.is_empty()).await;
    Ok(outcome)
}

/// Compares the phases.
fn judge(outcome: &mut Outcome, quiet: &[Measured], attacked: &[Measured], plan: Plan) {
    type Times = fn(&Measured) -> &[Duration];
    let median = |phases: &[Measured], times: Times| {
        let mut all: Vec<Duration> = phases.iter().map(|phase| Measured::p99(times(phase))).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let both = |times: Times| (median(quiet, times), median(attacked, times));
    outcome.publish = both(|phase| &phase.publish);
    outcome.delivery = both(|phase| &phase.delivery);
    for (what, (before, under)) in [("publish", outcome.publish), ("delivery", outcome.delivery)] {
        if under > plan.floor && ratio((before, under)) > RATIO_MAX {
            let ratio = ratio((before, under));
            outcome.fault(
                "slow",
                format!("{what} p99 rose from {before:.1?} to {under:.1?} ({ratio:.0} times)"),
            );
        }
    }
    outcome.refused = attacked.iter().map(|phase| phase.refused).sum();
    outcome.lost = attacked.iter().map(|phase| phase.lost).sum();
    if outcome.refused > 0 {
        let mut refusals: Vec<&str> =
            attacked.iter().flat_map(|phase| &phase.refusals).map(String::as_str).collect();
        refusals.sort_unstable();
        refusals.dedup();
        refusals.truncate(4);
        let text = format!("{} of the victim were refused: {}", outcome.refused, refusals.join("; "));
        outcome.fault("refused", text);
    }
    if outcome.lost > 0 {
        outcome.fault("lost", format!("{} events did not come", outcome.lost));
    }
    if outcome.memory > GROWTH_MAX {
        let text = format!("grew by {} MiB, {} are allowed", outcome.memory >> 20, GROWTH_MAX >> 20);
        outcome.fault("memory", text);
    }
    let compressed = |phases: &[Measured]| {
        let all: Vec<f64> = phases.iter().filter_map(|phase| phase.compressed).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    let (before, under) = (compressed(quiet), compressed(attacked));
    if under > before * COMPRESSED_MAX {
        let text = format!("a compressed event took {under:.0} bytes, {before:.0} without the attack");
        outcome.fault("larger", text);
    }
    let wrong = quiet.iter().map(|phase| phase.refused + phase.lost).sum::<usize>();
    if wrong > 0 {
        let refusals: Vec<&str> =
            quiet.iter().flat_map(|phase| &phase.refusals).map(String::as_str).collect();
        outcome.fault(
            "quiet",
            format!("{wrong} were refused or lost without the attack: {}", refusals.join("; ")),
        );
    }
    if outcome.done == 0 {
        outcome.fault("idle", "the attack did nothing, so nothing was shown".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan =
        Plan { rounds: 3, quiet: Duration::ZERO, attacked: Duration::ZERO, floor: FLOOR, finds_long: true };

    /// A phase whose publishes and deliveries all took so many milliseconds.
    fn phase(ms: u64) -> Measured {
        let times = vec![Duration::from_millis(ms); 100];
        Measured { publish: times.clone(), delivery: times, compressed: Some(30.0), ..Measured::default() }
    }

    fn verdict(quiet: [u64; 3], attacked: [Measured; 3], memory: u64) -> Vec<&'static str> {
        let mut outcome = Outcome::new(Attack::Bulk, 1);
        (outcome.done, outcome.memory) = (1, memory);
        judge(&mut outcome, &quiet.map(phase), &attacked, PLAN);
        let mut words: Vec<_> = outcome.faults.iter().map(|fault| fault.word).collect();
        words.dedup();
        words
    }

    #[test]
    fn the_median_of_the_rounds_is_judged_by_its_ratio_above_the_floor() {
        let none: Vec<&str> = Vec::new();
        assert_eq!(verdict([3, 4, 5], [4, 4, 900].map(phase), 0), none, "one bad round of three");
        assert_eq!(verdict([3, 4, 5], [4, 24, 900].map(phase), 0), none, "below the floor");
        assert_eq!(verdict([3, 4, 5], [4, 26, 900].map(phase), 0), ["slow"]);
        assert_eq!(verdict([20, 20, 20], [40, 40, 40].map(phase), 0), none, "twice as long");
        assert_eq!(verdict([20, 20, 20], [41, 41, 41].map(phase), 0), ["slow"]);
    }

    #[test]
    fn what_is_refused_lost_larger_or_too_much_memory_is_found() {
        let with = |change: fn(&mut Measured)| {
            let mut attacked = [4, 4, 4].map(phase);
            change(&mut attacked[1]);
            verdict([4, 4, 4], attacked, 0)
        };
        assert_eq!(with(|phase| phase.refused = 1), ["refused"]);
        assert_eq!(with(|phase| phase.lost = 1), ["lost"]);
        assert_eq!(with(|phase| phase.compressed = Some(90.0)), ["larger"]);
        assert_eq!(verdict([4, 4, 4], [4, 4, 4].map(phase), GROWTH_MAX + 1), ["memory"]);
        // No publish was answered at all.
        assert_eq!(with(|phase| phase.publish.clear()), Vec::<&str>::new(), "in one round of three");
        let unanswered = || Measured { publish: Vec::new(), ..phase(4) };
        assert_eq!(verdict([4, 4, 4], [unanswered(), unanswered(), phase(4)], 0), ["slow"]);
    }

    #[test]
    fn every_attack_has_a_name_and_parts_that_do_something() {
        for attack in Attack::value_variants() {
            assert_eq!(Attack::from_str(&attack.name(), false), Ok(*attack));
            assert!(attack.parts().iter().all(|part| part.parallel() > 0), "{}", attack.name());
        }
    }
}
