//! A session is one server under one load: it is started, gets its readers, and is measured. The scenarios
//! are made of sessions. `row` makes a row of figures from what was counted.

mod row;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Once, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    client_pool::{ClientPool, Counted, PoolOptions, PoolStatus},
    clock::Clock,
    event::Marks,
    limits,
    meter::{Meter, Spent},
    options::{Load, Setting},
    peers::{self, Peer, Running, Start, tidegate},
    publisher::{Published, Publishers, Work},
    reader::{Endpoint, ReaderSpec},
    result::{Row, grouped},
    schedule::{Arrivals, Schedule},
};

/// How long to wait for readers without any progress.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The same for readers that the server may ask to reconnect later.
pub const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// How long a new publish key may be refused, because the server does not know it yet.
const KEY_MAX: Duration = Duration::from_secs(3);

/// How often a wait checks the status of the readers.
const LOOK: Duration = Duration::from_millis(2);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on, an interrupt ends the run in an orderly way, including its servers.
pub fn watch_interrupts() -> anyhow::Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).context("watch for signals")?;
    }
    Ok(())
}

fn check_interrupt() -> anyhow::Result<()> {
    if INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// The plan of a session.
#[derive(Debug, Clone)]
pub struct Plan {
    pub readers: Vec<ReaderSpec>,
    pub publishers: u16,
    /// How many users the readers belong to, in turn.
    pub users: usize,
    pub reconnects: bool,
    /// The service of all events.
    pub service: String,
    pub compress: bool,
    /// Additional settings of Tidegate.
    pub settings: Vec<String>,
    /// Connections of other sessions that the server must hold too.
    pub room: usize,
    pub label: String,
}

impl Plan {
    /// A plan for `connections` readers of all services.
    pub fn of(setting: &Setting, connections: usize, publishers: u16, label: impl Into<String>) -> Self {
        Self {
            readers: vec![ReaderSpec::default(); connections],
            publishers,
            users: 1,
            reconnects: false,
            service: "orders".to_owned(),
            compress: setting.common.compress,
            settings: Vec::new(),
            room: 0,
            label: label.into(),
        }
    }
}

/// A server with its load. The order of the fields matters: the load is dropped before the server.
pub struct Session {
    pub pool: ClientPool,
    publishers: Option<Publishers>,
    pub running: Running,
    clock: Clock,
    plan: Plan,
    peer: Peer,
    setting: Setting,
    /// What each publisher has sent in all phases: this must have arrived.
    sent: Vec<u32>,
    excused: BTreeSet<(u16, u32)>,
    probes: u32,
    has_joined: bool,
    /// The server's resident memory before it had readers.
    resident_kib_before: Option<u64>,
}

impl Session {
    /// Starts the server and connects its publishers, without readers.
    pub fn start(setting: &Setting, peer: &Peer, plan: Plan) -> anyhow::Result<Self> {
        check_interrupt()?;
        let connections = plan.readers.len() + plan.room;
        limits::raise_files(connections)?;
        limits::check_ports(connections)?;
        static SAID: Once = Once::new();
        SAID.call_once(|| match peer {
            Peer::Address(_) => eprintln!("{}", limits::for_a_running_gateway(connections)),
            Peer::Tidegate(_) => {
                let needs = peers::tidegate::required_limits(connections).join("\n  ");
                eprintln!("Tidegate is started with limits raised for the run:\n  {needs}");
            }
            _ => {}
        });
        if setting.common.transport == peers::Transport::Sse && !(peer.is_tidegate() || *peer == Peer::Nchan)
        {
            bail!("it has no SSE; --transport sse is for tidegate and nchan");
        }
        let common = &setting.common;
        let settings = common.settings.iter().chain(&plan.settings).cloned().collect();
        let running = peers::start(
            peer,
            &Start {
                gateway: setting.gateway.clone(),
                peers: setting.peers.clone(),
                settings,
                connections,
                users: plan.users,
                compress: plan.compress,
                cores: setting.server_cores.clone(),
                marks: Marks::of_run(rand::random()),
                attached: common.attached.clone(),
            },
        )
        .context("start the server")?;
        Self::on_server(setting, peer, running, plan)
    }

    /// Connects publishers to a running server, without readers.
    pub fn on_server(setting: &Setting, peer: &Peer, running: Running, plan: Plan) -> anyhow::Result<Self> {
        let common = &setting.common;
        let clock = Clock::start();
        let endpoint = Endpoint {
            target: running.target.clone(),
            dialect: running.dialect.clone(),
            transport: common.transport,
        };
        let options = PoolOptions {
            threads: setting.reader_threads,
            opening_max: common.opening.max(1),
            reconnects: plan.reconnects,
        };
        let pool = ClientPool::start(&endpoint, options, clock)?;
        let resident_kib_before = running.server.costs().map(|costs| costs.resident_kib);
        let publishers = Publishers::connect(plan.publishers, &running.target, &running.dialect, clock)?;
        Ok(Self {
            running,
            pool,
            publishers: Some(publishers),
            clock,
            plan,
            peer: peer.clone(),
            setting: setting.clone(),
            sent: Vec::new(),
            excused: BTreeSet::new(),
            probes: 0,
            has_joined: false,
            resident_kib_before,
        })
    }

    /// Marks the session as an additional one of a run. Another session then shows the progress and reports
    /// on the load.
    pub fn join_run(&mut self) {
        self.has_joined = true;
    }

    /// Starts the server, and connects its publishers and all readers of the plan.
    pub fn open(setting: &Setting, peer: &Peer, plan: Plan) -> anyhow::Result<Self> {
        let mut session = Self::start(setting, peer, plan)?;
        session.add_readers(session.plan.readers.clone())?;
        session.probe()?;
        Ok(session)
    }

    /// Adds readers and waits until all are ready.
    pub fn add_readers(&mut self, specs: Vec<ReaderSpec>) -> anyhow::Result<()> {
        self.pool.add_readers(specs);
        let all = self.pool.len() as u64;
        self.wait("readers", all, PATIENCE, |status| status.ready, |status| status.ready == all)?;
        let ready = self.pool.status()?.ready;
        if ready < all {
            let words = self.server_state();
            bail!("only {ready} of {all} readers became ready ({}: {words})", self.peer);
        }
        Ok(())
    }

    /// Publishes probes until every reader has received one: on some servers, an answered handshake does not
    /// mean that the subscription is active.
    pub fn probe(&mut self) -> anyhow::Result<()> {
        let all = self.listeners();
        let began = Instant::now();
        while self.pool.status()?.probed < all {
            check_interrupt()?;
            if began.elapsed() > PATIENCE {
                let probed = self.pool.status()?.probed;
                let words = self.server_state();
                bail!("only {probed} of {all} readers receive what is published to {} ({words})", self.peer);
            }
            let publishers = self.publishers.as_ref().context("the publishers are already in use")?;
            match publishers.probe(self.probes, &self.plan.service) {
                Ok(()) => {}
                // A server accepts a new key only after a moment.
                Err(_) if self.probes == 0 && began.elapsed() < KEY_MAX => {
                    thread::sleep(LOOK);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.probes += 1;
            let next = Instant::now() + Duration::from_millis(200);
            while Instant::now() < next && self.pool.status()?.probed < all {
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn server_state(&mut self) -> String {
        if self.running.server.is_running() {
            "it is still running".to_owned()
        } else {
            self.running.server.last_words()
        }
    }

    /// Waits until `enough`, or until nothing has changed for `patience`. Returns how long it took.
    pub fn wait(
        &self,
        what: &str,
        target: u64,
        patience: Duration,
        position: impl Fn(&PoolStatus) -> u64,
        enough: impl Fn(&PoolStatus) -> bool,
    ) -> anyhow::Result<Duration> {
        let bar = self.progress(target, what);
        let began = Instant::now();
        let (mut last, mut changed) = (PoolStatus::default(), Instant::now());
        loop {
            check_interrupt()?;
            let status = self.pool.status()?;
            if enough(&status) {
                bar.finish_and_clear();
                return Ok(began.elapsed());
            }
            if status != last {
                (last, changed) = (status, Instant::now());
                bar.set_position(position(&status));
            }
            if changed.elapsed() > patience {
                bar.finish_and_clear();
                return Ok(began.elapsed());
            }
            thread::sleep(LOOK);
        }
    }

    /// The number of readers that are not stalled.
    pub fn listeners(&self) -> u64 {
        self.plan.readers.iter().filter(|spec| !spec.stalls).count() as u64
    }

    /// Publishes one phase, and calls `look` every 100 ms meanwhile.
    pub fn publish(
        &mut self,
        work: &Work,
        label: &str,
        mut look: impl FnMut(&Self, Duration),
    ) -> anyhow::Result<Published> {
        let mut publishers = self.publishers.take().context("the publishers are already in use")?;
        let progress_of = publishers.progress.clone();
        progress_of.store(0, Ordering::Relaxed);
        let bar = self.progress(work.schedule.window.as_millis() as u64, label);
        let began = Instant::now();
        let (mut last_look, mut last) = (Instant::now(), (0, 0));
        let phase = work.clone();
        let thread = thread::Builder::new().name("publishers".to_owned());
        let thread = thread.spawn(move || {
            let done = publishers.run(&phase);
            (publishers, done)
        });
        let thread = thread.context("start a thread")?;
        while !thread.is_finished() {
            check_interrupt()?;
            if last_look.elapsed() >= Duration::from_millis(100) {
                look(self, began.elapsed());
                let now = (progress_of.load(Ordering::Relaxed), self.pool.status()?.delivered);
                let per_second = |now: u64, before: u64| {
                    (now.saturating_sub(before) as f64 / last_look.elapsed().as_secs_f64()) as u64
                };
                bar.set_position(began.elapsed().as_millis() as u64);
                bar.set_message(format!(
                    "{} events/s, {} deliveries/s",
                    grouped(per_second(now.0, last.0)),
                    grouped(per_second(now.1, last.1))
                ));
                (last_look, last) = (Instant::now(), now);
            }
            thread::sleep(LOOK);
        }
        bar.finish_and_clear();
        let Ok((publishers, done)) = thread.join() else { bail!("the publishers' thread panicked") };
        self.publishers = Some(publishers);
        let done = match done {
            Err(error) if !self.running.server.is_running() => {
                let words = self.running.server.last_words();
                return Err(error.context(format!("the server ended unexpectedly: {words}")));
            }
            done => done?,
        };
        self.sent.clone_from(&done.sent);
        self.excused.clone_from(&done.excused);
        Ok(done)
    }

    /// Runs `work` for the warm-up, then measures it.
    pub fn measure(&mut self, work: &Work) -> anyhow::Result<Row> {
        self.warm_up(work)?;
        self.measured(work, |_, _| {})
    }

    /// Runs `work` for the warm-up, then resets the counts.
    pub fn warm_up(&mut self, work: &Work) -> anyhow::Result<()> {
        let window = self.setting.common.warmup;
        if !window.is_zero() {
            // With old counts, the wait below would end early, and the rest of the warm-up would count as
            // measured.
            self.forget()?;
            let mut warm = work.clone();
            warm.schedule.window = window;
            let done = self.publish(&warm, "warm-up", |_, _| {})?;
            self.settle(done.answered)?;
        }
        self.forget()
    }

    /// Resets the counts.
    pub fn forget(&self) -> anyhow::Result<()> {
        self.pool.reset();
        // Commands are executed in order, so the reset is done when this count is answered.
        self.pool.count(&[], &BTreeSet::new())?;
        Ok(())
    }

    /// Changes the label of the rows from here on.
    pub fn relabel(&mut self, label: &str) {
        label.clone_into(&mut self.plan.label);
    }

    /// Waits until every listener has the `answered` events since the last reset.
    fn settle(&self, answered: u64) -> anyhow::Result<()> {
        let expected = answered * self.listeners();
        self.wait("deliveries", expected, PATIENCE, |s| s.delivered, |s| s.delivered >= expected)?;
        Ok(())
    }

    /// Runs `work` and makes a row from the figures.
    pub fn measured(&mut self, work: &Work, look: impl FnMut(&Self, Duration)) -> anyhow::Result<Row> {
        let meter = self.meter();
        let label = self.plan.label.clone();
        let before = self.syncs();
        let done = self.publish(work, &label, look)?;
        self.settle(done.answered)?;
        let mut row = self.row(&meter, work, &done)?;
        row.syncs = before.zip(self.syncs()).and_then(|(before, after)| after.since(before));
        Ok(row)
    }

    /// How often the server has synced its log, if it reports that.
    fn syncs(&self) -> Option<tidegate::SyncTotals> {
        self.running.admin.as_ref().and_then(tidegate::syncs)
    }

    /// Reads what server and load have used until now.
    pub fn meter(&self) -> Meter {
        Meter::read(&self.running.server)
    }

    /// What they have used since.
    pub fn spent(&self, meter: &Meter) -> Spent {
        meter.spent(&self.running.server, self.load_cores())
    }

    /// The counts since the last reset, compared with everything that was published.
    pub fn counted(&self) -> anyhow::Result<Counted> {
        self.pool.count(&self.sent, &self.excused)
    }

    /// The work for a load.
    pub fn work(&self, load: Load, arrivals: Arrivals) -> Work {
        Work {
            schedule: Schedule {
                rate: load.rate,
                arrivals,
                publishers: load.publishers,
                window: self.setting.common.seconds,
                each_max: u32::MAX,
            },
            payload: self.setting.payload(),
            service: self.plan.service.clone(),
            batch: 1,
            until: None,
        }
    }

    /// A progress bar over `steps`, shown on a terminal.
    fn progress(&self, steps: u64, of: &str) -> ProgressBar {
        if self.has_joined {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(steps);
        let template = format!("{{elapsed:>4}} {{bar:30}} {{pos}}/{{len}} {}: {of}  {{msg}}", self.peer);
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar
    }

    /// The clock of the session.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The number of cores of the load.
    fn load_cores(&self) -> usize {
        self.setting.load_cores.as_ref().map_or_else(
            || thread::available_parallelism().map_or(1, usize::from),
            crate::affinity::Cores::count,
        )
    }
}
