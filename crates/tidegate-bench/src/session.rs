//! One server under one load: started, filled with readers, measured. The scenarios are made of these.

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
    clock::Clock,
    crowd::{Counted, Crowd, Manners, Standing},
    event::Marks,
    limits,
    meter::{Meter, Spent},
    options::{Load, Setting},
    peers::{self, Peer, Running, Start, tidegate},
    publisher::{Published, Publishers, Work},
    reader::{Line, Seat},
    result::{Row, grouped},
    schedule::{Arrivals, Schedule},
};

/// How long nothing may happen before readers are no longer waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a publisher's first refusals may be its key's youth.
const KEY_MAX: Duration = Duration::from_secs(3);

/// How often the readers are looked at while they are waited for.
const LOOK: Duration = Duration::from_millis(2);

/// Above this share of its cores the load side may be what was measured.
const LOAD_SHARE_MAX: f64 = 0.9;

/// Below so many connections, what the server holds in all says nothing of one.
const FEW: usize = 100;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on an interrupt ends the run in order: its servers too.
pub fn watch_interrupts() -> anyhow::Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone()).context("watch for signals")?;
    }
    Ok(())
}

fn go_on() -> anyhow::Result<()> {
    if INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// What a session is made with.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seats: Vec<Seat>,
    pub publishers: u16,
    /// How many users readers belong to, in turn.
    pub users: usize,
    pub comes_back: bool,
    /// The service that events belong to.
    pub service: String,
    pub compress: bool,
    /// More settings of Tidegate.
    pub settings: Vec<String>,
    /// Connections of others that the server must hold too.
    pub room: usize,
    pub label: String,
}

impl Plan {
    /// So many readers of everything.
    pub fn of(setting: &Setting, connections: usize, publishers: u16, label: impl Into<String>) -> Self {
        Self {
            seats: vec![Seat::default(); connections],
            publishers,
            users: 1,
            comes_back: false,
            service: "orders".to_owned(),
            compress: setting.common.compress,
            settings: Vec::new(),
            room: 0,
            label: label.into(),
        }
    }
}

/// A server with its load.
///
/// The load goes before the server, in the order of the fields.
pub struct Session {
    pub crowd: Crowd,
    publishers: Option<Publishers>,
    pub running: Running,
    clock: Clock,
    plan: Plan,
    peer: Peer,
    setting: Setting,
    /// What was published over all phases, for what must have arrived.
    sent: Vec<u32>,
    excused: BTreeSet<(u16, u32)>,
    probes: u32,
    is_beside: bool,
    /// The server's, before it had readers.
    resident_kib_before: Option<u64>,
}

impl Session {
    /// Starts the server and its publishers, and no reader yet.
    pub fn start(setting: &Setting, peer: &Peer, plan: Plan) -> anyhow::Result<Self> {
        go_on()?;
        let connections = plan.seats.len() + plan.room;
        limits::raise_files(connections)?;
        limits::check_ports(connections)?;
        static SAID: Once = Once::new();
        SAID.call_once(|| match peer {
            Peer::Address(_) => eprintln!("{}", limits::for_a_running_gateway(connections)),
            Peer::Tidegate(_) => {
                let needs = peers::tidegate::needs(connections).join("\n  ");
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
        Self::on(setting, peer, running, plan)
    }

    /// Publishers, and no reader yet, on a server that runs.
    pub fn on(setting: &Setting, peer: &Peer, running: Running, plan: Plan) -> anyhow::Result<Self> {
        let common = &setting.common;
        let clock = Clock::start();
        let line = Line {
            target: running.target.clone(),
            dialect: running.dialect.clone(),
            transport: common.transport,
        };
        let manners = Manners {
            threads: setting.reader_threads,
            opening_max: common.opening.max(1),
            comes_back: plan.comes_back,
        };
        let crowd = Crowd::start(&line, manners, clock)?;
        let resident_kib_before = running.server.costs().map(|costs| costs.resident_kib);
        let publishers = Publishers::connect(plan.publishers, &running.target, &running.dialect, clock)?;
        Ok(Self {
            running,
            crowd,
            publishers: Some(publishers),
            clock,
            plan,
            peer: peer.clone(),
            setting: setting.clone(),
            sent: Vec::new(),
            excused: BTreeSet::new(),
            probes: 0,
            is_beside: false,
            resident_kib_before,
        })
    }

    /// Another of the same run tells of progress and of the load side, which they share.
    pub fn stand_beside(&mut self) {
        self.is_beside = true;
    }

    /// The same, with all readers seated and ready.
    pub fn open(setting: &Setting, peer: &Peer, plan: Plan) -> anyhow::Result<Self> {
        let mut session = Self::start(setting, peer, plan)?;
        session.seat(session.plan.seats.clone())?;
        session.probe()?;
        Ok(session)
    }

    /// Brings readers in and waits until all are ready.
    pub fn seat(&mut self, seats: Vec<Seat>) -> anyhow::Result<()> {
        self.crowd.seat(seats);
        let all = self.crowd.len() as u64;
        self.wait("readers", all, |standing| standing.ready, |standing| standing.ready == all)?;
        let ready = self.crowd.standing()?.ready;
        if ready < all {
            let words = self.words();
            bail!("{ready} of {all} readers are ready, and no more come ({}: {words})", self.peer);
        }
        Ok(())
    }

    /// Publishes until every reader has seen something: an answered handshake is no subscription yet on
    /// every server.
    pub fn probe(&mut self) -> anyhow::Result<()> {
        let all = (self.plan.seats.iter().filter(|seat| !seat.stalls).count()) as u64;
        let began = Instant::now();
        while self.crowd.standing()?.probed < all {
            go_on()?;
            if began.elapsed() > PATIENCE {
                let probed = self.crowd.standing()?.probed;
                let words = self.words();
                bail!("{probed} of {all} readers get what is published to {} ({words})", self.peer);
            }
            let publishers = self.publishers.as_ref().context("have publishers")?;
            match publishers.probe(self.probes, &self.plan.service) {
                Ok(()) => {}
                // A key that was just made is known to the server a moment later.
                Err(_) if self.probes == 0 && began.elapsed() < KEY_MAX => {
                    thread::sleep(LOOK);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.probes += 1;
            let next = Instant::now() + Duration::from_millis(200);
            while Instant::now() < next && self.crowd.standing()?.probed < all {
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn words(&mut self) -> String {
        if self.running.server.is_running() {
            "it still runs".to_owned()
        } else {
            self.running.server.last_words()
        }
    }

    /// Waits until `enough`, or nothing has changed for a while. How long it took.
    pub fn wait(
        &self,
        what: &str,
        target: u64,
        position: impl Fn(&Standing) -> u64,
        enough: impl Fn(&Standing) -> bool,
    ) -> anyhow::Result<Duration> {
        self.wait_for(what, target, PATIENCE, position, enough)
    }

    /// The same where readers may be told to come back later.
    pub fn wait_patiently(
        &self,
        what: &str,
        target: u64,
        position: impl Fn(&Standing) -> u64,
        enough: impl Fn(&Standing) -> bool,
    ) -> anyhow::Result<Duration> {
        self.wait_for(what, target, PATIENCE * 6, position, enough)
    }

    fn wait_for(
        &self,
        what: &str,
        target: u64,
        patience: Duration,
        position: impl Fn(&Standing) -> u64,
        enough: impl Fn(&Standing) -> bool,
    ) -> anyhow::Result<Duration> {
        let bar = self.progress(target, what);
        let began = Instant::now();
        let (mut last, mut changed) = (Standing::default(), Instant::now());
        loop {
            go_on()?;
            let standing = self.crowd.standing()?;
            if enough(&standing) {
                bar.finish_and_clear();
                return Ok(began.elapsed());
            }
            if standing != last {
                (last, changed) = (standing, Instant::now());
                bar.set_position(position(&standing));
            }
            if changed.elapsed() > patience {
                bar.finish_and_clear();
                return Ok(began.elapsed());
            }
            thread::sleep(LOOK);
        }
    }

    /// How many readers listen.
    pub fn listeners(&self) -> u64 {
        self.plan.seats.iter().filter(|seat| !seat.stalls).count() as u64
    }

    /// Publishes in one phase, calls `look` each 100 ms, and waits for the readers unless there are none.
    pub fn publish(
        &mut self,
        work: &Work,
        label: &str,
        mut look: impl FnMut(&Self, Duration),
    ) -> anyhow::Result<Published> {
        let mut publishers = self.publishers.take().context("have publishers")?;
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
            go_on()?;
            if last_look.elapsed() >= Duration::from_millis(100) {
                look(self, began.elapsed());
                let now = (progress_of.load(Ordering::Relaxed), self.crowd.standing()?.delivered);
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
                return Err(error.context(format!("the server has ended by itself: {words}")));
            }
            done => done?,
        };
        self.sent.clone_from(&done.sent);
        self.excused.clone_from(&done.excused);
        Ok(done)
    }

    /// Runs `work` unmeasured for the warm-up, then measured.
    pub fn measure(&mut self, work: &Work) -> anyhow::Result<Row> {
        self.warm_up(work)?;
        self.measured(work, |_, _| {})
    }

    /// Runs `work` for the warm-up, and forgets what was counted.
    pub fn warm_up(&mut self, work: &Work) -> anyhow::Result<()> {
        let window = self.setting.common.warmup;
        if !window.is_zero() {
            // What was counted before would settle it early, and the last of it count as measured.
            self.forget()?;
            let mut warm = work.clone();
            warm.schedule.window = window;
            let done = self.publish(&warm, "warm-up", |_, _| {})?;
            self.settle(done.answered)?;
        }
        self.forget()
    }

    /// Forgets what was counted.
    pub fn forget(&self) -> anyhow::Result<()> {
        self.crowd.reset();
        // Until the readers have obeyed: an answered count comes behind the reset.
        self.crowd.count(&[], &BTreeSet::new())?;
        Ok(())
    }

    /// From here on it is about something else.
    pub fn relabel(&mut self, label: &str) {
        label.clone_into(&mut self.plan.label);
    }

    /// Waits until every listener has what was answered since the last reset.
    fn settle(&self, answered: u64) -> anyhow::Result<()> {
        let expected = answered * self.listeners();
        self.wait("deliveries", expected, |s| s.delivered, |s| s.delivered >= expected)?;
        Ok(())
    }

    /// Runs `work` and makes a row of what came of it.
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

    /// How often the server has synced its log, where it has one and says so.
    fn syncs(&self) -> Option<tidegate::Syncs> {
        self.running.admin.as_ref().and_then(tidegate::syncs)
    }

    /// What server and load have cost until now.
    pub fn meter(&self) -> Meter {
        Meter::read(&self.running.server)
    }

    /// What they cost since.
    pub fn spent(&self, meter: &Meter) -> Spent {
        meter.spent(&self.running.server, self.load_cores())
    }

    /// What was counted since the last reset, against all that was published.
    pub fn counted(&self) -> anyhow::Result<Counted> {
        self.crowd.count(&self.sent, &self.excused)
    }

    /// The figures since `meter`.
    pub fn row(&mut self, meter: &Meter, work: &Work, done: &Published) -> anyhow::Result<Row> {
        let spent = self.spent(meter);
        let counted = self.counted()?;
        let counts = counted.counts;
        // Shares are of the time in which something happened: not of the wait for what never came.
        let busy_us = counted.last_us.max(done.ended_us).saturating_sub(done.began_us);
        let busy_seconds = (busy_us.max(1) as f64 / 1e6).min(spent.seconds);
        let per_delivery = |number: f64| number / counts.delivered.max(1) as f64;
        // To the last answer; an open loop that kept pace is measured by its window, which it fills.
        let answered_seconds = (done.ended_us.saturating_sub(done.began_us)).max(1) as f64 / 1e6;
        let window = work.schedule.window.as_secs_f64();
        let fills = work.schedule.each_max == u32::MAX;
        let resident_kib = self.running.server.costs().map(|costs| costs.resident_kib);
        let held = self.crowd.len();
        let published_seconds = if fills { answered_seconds.max(window) } else { answered_seconds };
        let mut row = Row {
            connections: self.listeners(),
            publishers: u64::from(self.plan.publishers),
            payload: work.payload.name(),
            rate: work.schedule.rate.map(|rate| rate * f64::from(work.batch)),
            batch: u64::from(work.batch),
            seconds: work.schedule.window.as_secs_f64(),
            published: done.answered,
            published_per_s: done.answered as f64 / published_seconds,
            unsent: done.unsent,
            refused: done.refused,
            expected: done.answered * self.listeners(),
            missing: counted.missing,
            counts,
            ended: counted.ended,
            compressed: counted.compressed,
            latency: counted.latencies.summary(),
            publish_latency: done.latencies.summary(),
            cpu_us_per_delivery: spent.server.map(|costs| per_delivery(costs.cpu_seconds * 1e6)),
            cpu_share: spent.server.map(|costs| costs.cpu_seconds / busy_seconds),
            load_cpu_share: spent.own_share * spent.seconds / busy_seconds,
            wire_bytes_per_delivery: per_delivery(counted.wire_bytes as f64),
            event_bytes: done.event_bytes as f64 / done.answered.max(1) as f64,
            events_per_frame: counts.events_per_frame(),
            frame_deviation: counts.frame_deviation(),
            resident_kib,
            kib_per_connection: resident_kib
                .zip(self.resident_kib_before)
                .filter(|_| held >= FEW)
                .map(|(now, before)| (now as f64 - before as f64) / held as f64),
            ..self.blank()
        };
        self.remark(&mut row, done.refusal.as_deref(), &counted);
        Ok(row)
    }

    /// A row that says who was measured, and nothing more.
    pub fn blank(&self) -> Row {
        Row {
            peer: self.peer.to_string(),
            version: self.running.version.clone(),
            setup: self.running.setup.clone(),
            label: self.plan.label.clone(),
            transport: Some(self.setting.common.transport),
            ..Row::default()
        }
    }

    /// Says what the reader of the figures must know.
    pub fn remark(&mut self, row: &mut Row, refusal: Option<&str>, counted: &Counted) {
        let saturation = row.saturation();
        let notes = &mut row.notes;
        notes.extend(saturation);
        if row.refused > 0 {
            let why = refusal.unwrap_or("no reason was given");
            notes.push(format!("{} events were refused, the first with {why}", grouped(row.refused)));
        }
        if self.plan.compress && row.compressed == 0 {
            notes.push("the server did not agree to compress".to_owned());
        }
        if row.load_cpu_share > LOAD_SHARE_MAX && !self.is_beside {
            notes.push(format!(
                "the load side used {:.0} % of its cores: latencies may be its own, and the server may carry more",
                row.load_cpu_share * 100.0
            ));
        }
        if row.cpu_us_per_delivery.is_none() && matches!(self.peer, Peer::Address(_)) {
            notes.push("give --pid for the server's processor time and memory".to_owned());
        }
        let stalled = self.plan.seats.iter().filter(|seat| seat.stalls).count();
        if counted.stalled_closed > 0 {
            notes.push(format!(
                "{} of {stalled} stalled readers were closed by the server",
                counted.stalled_closed
            ));
        }
        notes.extend(counted.findings.iter().cloned());
        if !self.running.server.is_running() {
            notes.push(format!("the server has ended by itself: {}", self.running.server.last_words()));
        }
    }

    /// The work of a load.
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

    /// A bar over so many steps, where somebody can see it.
    fn progress(&self, steps: u64, of: &str) -> ProgressBar {
        if self.is_beside {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(steps);
        let template = format!("{{elapsed:>4}} {{bar:30}} {{pos}}/{{len}} {}: {of}  {{msg}}", self.peer);
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar
    }

    /// The run's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// How many cores the load side has.
    fn load_cores(&self) -> usize {
        self.setting.load_cores.as_ref().map_or_else(
            || thread::available_parallelism().map_or(1, usize::from),
            crate::affinity::Cores::count,
        )
    }
}
