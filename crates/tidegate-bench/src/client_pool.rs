//! Many readers on a few threads. Each thread runs an epoll loop over its own readers and takes commands from
//! [`crate::session`].

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    clock::Clock,
    digest::Refused,
    latency::Latencies,
    ledger::Counts,
    poll::{Poll, Ready},
    reader::{End, Endpoint, Reader, ReaderSpec, Shared},
};

/// How long an event loop sleeps at most before it checks for commands.
const TURN: Duration = Duration::from_millis(5);

/// How many findings are kept as text.
const FINDINGS_MAX: usize = 8;

/// The current state of one thread's readers: written by its event loop, read for progress.
#[derive(Debug, Default)]
struct Gauges {
    ready: AtomicU64,
    live: AtomicU64,
    probed: AtomicU64,
    connected: AtomicU64,
    delivered: AtomicU64,
    frames: AtomicU64,
    wire_bytes: AtomicU64,
    /// Connections that ended unexpectedly.
    ended: AtomicU64,
    has_failed: AtomicBool,
}

enum PoolCommand {
    /// Add readers.
    Add(Vec<ReaderSpec>),
    /// Reset all connections.
    Cut,
    /// Connect all readers that have no connection.
    Reconnect,
    /// Set the counts to zero; the ledgers are kept.
    Reset,
    /// Report the counts, and how many of the `sent` events are missing.
    Count { sent: Arc<Vec<u32>>, excused: Arc<BTreeSet<(u16, u32)>>, reply: Sender<Counted> },
}

/// What the readers counted since the last reset.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    pub counts: Counts,
    pub latencies: Latencies,
    pub missing: u64,
    pub wire_bytes: u64,
    pub last_us: u64,
    pub compressed: u64,
    /// How often an ended connection was scheduled to reconnect.
    pub retries: u64,
    /// Stalled readers that the server has closed.
    pub stalled_closed: u64,
    /// Connections that ended unexpectedly, and the reasons.
    pub ended: u64,
    pub findings: Vec<String>,
}

/// How many readers are in which state, over all threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStatus {
    pub connected: u64,
    pub ready: u64,
    pub live: u64,
    pub probed: u64,
    pub delivered: u64,
    pub frames: u64,
    pub wire_bytes: u64,
    pub ended: u64,
}

/// Handle of one reader thread.
struct Thread {
    commands: Sender<PoolCommand>,
    gauges: Arc<Gauges>,
    handle: Option<JoinHandle<()>>,
}

/// All readers of one session.
pub struct ClientPool {
    threads: Vec<Thread>,
    failure: Arc<std::sync::Mutex<Option<String>>>,
    len: usize,
}

/// How readers connect.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    pub threads: usize,
    /// How many connections are opened at the same time.
    pub opening_max: usize,
    /// Whether a reader reconnects after its connection ended. If not, the end is a finding.
    pub reconnects: bool,
}

impl ClientPool {
    /// Starts the threads, without readers.
    pub fn start(endpoint: &Endpoint, options: PoolOptions, clock: Clock) -> anyhow::Result<Self> {
        let failure = Arc::new(std::sync::Mutex::new(None));
        let mut threads = Vec::new();
        for number in 0..options.threads.max(1) {
            let (commands, inbox) = channel();
            let gauges = Arc::new(Gauges::default());
            let mut event_loop = EventLoop {
                endpoint: endpoint.clone(),
                options,
                clock,
                poll: Poll::new().context("create an epoll instance")?,
                readers: Vec::new(),
                waiting: VecDeque::new(),
                later: VecDeque::new(),
                opening: 0,
                shared: Shared::default(),
                ended: 0,
                retries: 0,
                findings: Vec::new(),
                gauges: gauges.clone(),
            };
            let failure = failure.clone();
            let builder = std::thread::Builder::new().name(format!("readers-{number}"));
            let handle = builder.spawn(move || {
                if let Err(error) = event_loop.run(&inbox) {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        Some(format!("{error:#}"));
                    event_loop.gauges.has_failed.store(true, Ordering::Relaxed);
                }
            });
            threads.push(Thread { commands, gauges, handle: Some(handle.context("start a thread")?) });
        }
        Ok(Self { threads, failure, len: 0 })
    }

    /// How many readers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds readers, spread over the threads; they begin to connect.
    pub fn add_readers(&mut self, specs: Vec<ReaderSpec>) {
        let threads = self.threads.len();
        let mut parts = vec![Vec::new(); threads];
        for (index, spec) in specs.into_iter().enumerate() {
            parts[(self.len + index) % threads].push(spec);
        }
        self.len += parts.iter().map(Vec::len).sum::<usize>();
        for (thread, part) in self.threads.iter().zip(parts) {
            // If the thread has ended, its error is returned by the next call of `status`.
            let _ = thread.commands.send(PoolCommand::Add(part));
        }
    }

    fn send(&self, command: impl Fn() -> PoolCommand) {
        for thread in &self.threads {
            let _ = thread.commands.send(command());
        }
    }

    /// Resets every connection.
    pub fn cut(&self) {
        self.send(|| PoolCommand::Cut);
    }

    /// Reconnects all readers without a connection; each resumes from its cursor.
    pub fn reconnect(&self) {
        self.send(|| PoolCommand::Reconnect);
    }

    /// Sets all counts to zero.
    pub fn reset(&self) {
        self.send(|| PoolCommand::Reset);
    }

    /// How many readers are in which state. An error if a thread has failed.
    pub fn status(&self) -> anyhow::Result<PoolStatus> {
        let mut status = PoolStatus::default();
        for Thread { gauges, .. } in &self.threads {
            let get = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
            status.connected += get(&gauges.connected);
            status.ready += get(&gauges.ready);
            status.live += get(&gauges.live);
            status.probed += get(&gauges.probed);
            status.delivered += get(&gauges.delivered);
            status.frames += get(&gauges.frames);
            status.wire_bytes += get(&gauges.wire_bytes);
            status.ended += get(&gauges.ended);
            if gauges.has_failed.load(Ordering::Relaxed) {
                let failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                bail!("{}", failure.as_deref().unwrap_or("a reader thread ended"));
            }
        }
        Ok(status)
    }

    /// The counts since the last reset, and how many of the `sent` events are missing.
    pub fn count(&self, sent: &[u32], excused: &BTreeSet<(u16, u32)>) -> anyhow::Result<Counted> {
        let (sent, excused) = (Arc::new(sent.to_vec()), Arc::new(excused.clone()));
        let (reply, answers) = channel();
        self.send(|| PoolCommand::Count {
            sent: sent.clone(),
            excused: excused.clone(),
            reply: reply.clone(),
        });
        drop(reply);
        let mut all = Counted::default();
        for _ in 0..self.threads.len() {
            let Ok(counted) = answers.recv_timeout(Duration::from_secs(60)) else {
                self.status()?;
                bail!("a reader thread does not respond");
            };
            all.counts.add(&counted.counts);
            all.latencies.add(&counted.latencies);
            all.missing += counted.missing;
            all.wire_bytes += counted.wire_bytes;
            all.last_us = all.last_us.max(counted.last_us);
            all.compressed += counted.compressed;
            all.retries += counted.retries;
            all.stalled_closed += counted.stalled_closed;
            all.ended += counted.ended;
            all.findings.extend(counted.findings);
        }
        all.findings.truncate(FINDINGS_MAX);
        Ok(all)
    }
}

impl Drop for ClientPool {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            // The loop ends when the sending half of its channel is dropped.
            drop(std::mem::replace(&mut thread.commands, channel().0));
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// The event loop of one thread.
struct EventLoop {
    endpoint: Endpoint,
    options: PoolOptions,
    clock: Clock,
    poll: Poll,
    readers: Vec<Reader>,
    /// Readers that wait to connect.
    waiting: VecDeque<usize>,
    /// Readers that wait to connect until a certain time, in order of that time.
    later: VecDeque<(Instant, usize)>,
    opening: usize,
    shared: Shared,
    ended: u64,
    retries: u64,
    findings: Vec<String>,
    gauges: Arc<Gauges>,
}

impl EventLoop {
    fn run(&mut self, inbox: &Receiver<PoolCommand>) -> anyhow::Result<()> {
        let mut ready: Vec<Ready> = Vec::new();
        let mut status = PoolStatus::default();
        loop {
            loop {
                match inbox.try_recv() {
                    Ok(command) => self.execute(command, &mut status),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        // Reset rather than closed: thousands of closed connections would stay in TIME_WAIT
                        // and hold their ports for a minute.
                        self.readers.iter_mut().for_each(Reader::cut);
                        return Ok(());
                    }
                }
            }
            self.open(&mut status)?;
            ready.clear();
            self.poll.wait(TURN, &mut ready).context("wait for readers' sockets")?;
            for ready in &ready {
                self.turn(*ready, &mut status)?;
            }
            self.show(&status);
        }
    }

    fn show(&self, status: &PoolStatus) {
        let set = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        set(&self.gauges.connected, status.connected);
        set(&self.gauges.ready, status.ready);
        set(&self.gauges.live, status.live);
        set(&self.gauges.probed, status.probed);
        set(&self.gauges.delivered, self.shared.counts.delivered);
        set(&self.gauges.frames, self.shared.counts.frames);
        set(&self.gauges.wire_bytes, self.shared.wire_bytes);
        set(&self.gauges.ended, self.ended);
    }

    fn execute(&mut self, command: PoolCommand, status: &mut PoolStatus) {
        match command {
            PoolCommand::Add(specs) => {
                let first = self.readers.len();
                self.readers.extend(specs.into_iter().map(Reader::new));
                self.waiting.extend(first..self.readers.len());
            }
            PoolCommand::Cut => {
                self.readers.iter_mut().for_each(Reader::cut);
                self.waiting.clear();
                self.later.clear();
                self.opening = 0;
                let probed = status.probed;
                *status = PoolStatus { probed, ..PoolStatus::default() };
            }
            PoolCommand::Reconnect => {
                self.waiting = (0..self.readers.len()).filter(|i| !self.readers[*i].is_connected()).collect();
                self.later.clear();
            }
            PoolCommand::Reset => {
                self.shared.counts = Counts::default();
                self.shared.latencies = Latencies::default();
                (self.shared.wire_bytes, self.shared.last_us) = (0, 0);
                (self.ended, self.retries) = (0, 0);
                self.findings.clear();
            }
            PoolCommand::Count { sent, excused, reply } => {
                let counted = Counted {
                    counts: self.shared.counts,
                    latencies: self.shared.latencies.clone(),
                    missing: self
                        .readers
                        .iter()
                        .filter(|reader| !reader.spec.stalls)
                        .map(|reader| reader.ledger().missing(&sent, &excused))
                        .sum(),
                    wire_bytes: self.shared.wire_bytes,
                    last_us: self.shared.last_us,
                    compressed: self.readers.iter().filter(|reader| reader.is_compressed).count() as u64,
                    retries: self.retries,
                    stalled_closed: self
                        .readers
                        .iter()
                        .filter(|reader| reader.spec.stalls && !reader.is_connected())
                        .count() as u64,
                    ended: self.ended,
                    findings: self.findings.clone(),
                };
                // The receiver may have timed out.
                let _ = reply.send(counted);
            }
        }
    }

    fn open(&mut self, status: &mut PoolStatus) -> anyhow::Result<()> {
        while self.later.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            self.waiting.extend(self.later.pop_front().map(|(_, index)| index));
        }
        while self.opening < self.options.opening_max
            && let Some(index) = self.waiting.pop_front()
        {
            let socket = self.readers[index].open(&self.endpoint)?;
            self.poll.watch(socket, index as u64).context("watch a socket")?;
            self.opening += 1;
            status.connected += 1;
        }
        Ok(())
    }

    fn turn(&mut self, ready: Ready, status: &mut PoolStatus) -> anyhow::Result<()> {
        let index = ready.token as usize;
        let reader = &mut self.readers[index];
        if !reader.is_connected() {
            return Ok(());
        }
        let before = (reader.is_ready, reader.is_live, reader.is_probed);
        let mut outcome = if ready.writable { reader.write() } else { Ok(()) };
        if outcome.is_ok() && ready.readable {
            let clock = self.clock;
            outcome = reader.read(&self.endpoint, &mut self.shared, ready.ended, || clock.now_us());
        }
        let after = (reader.is_ready, reader.is_live, reader.is_probed);
        let change = |gauge: &mut u64, before: bool, after: bool| match (before, after) {
            (false, true) => *gauge += 1,
            (true, false) => *gauge = gauge.saturating_sub(1),
            _ => {}
        };
        change(&mut status.ready, before.0, after.0);
        change(&mut status.live, before.1, after.1);
        change(&mut status.probed, before.2, after.2);
        // The reader was opening until now: it became ready, or its connection ended before that.
        if !before.0 && (after.0 || outcome.is_err()) {
            self.opening = self.opening.saturating_sub(1);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(end) => {
                status.connected = status.connected.saturating_sub(1);
                self.end(index, before.0, end)
            }
        }
    }

    /// A connection ended unexpectedly: the reader reconnects, or the end is a finding.
    fn end(&mut self, index: usize, was_ready: bool, end: End) -> anyhow::Result<()> {
        let stalls = self.readers[index].spec.stalls;
        let refused = match &end {
            End::Refused(refused) => Some(refused),
            End::Broken(_) => None,
        };
        if self.options.reconnects && !stalls && refused.is_none_or(may_come_back) {
            let wait = refused.and_then(|refused| refused.retry_in_ms).unwrap_or(1000);
            let at = Instant::now() + Duration::from_millis(wait);
            let index_in_queue = self.later.partition_point(|(other, _)| *other <= at);
            self.later.insert(index_in_queue, (at, index));
            self.retries += 1;
            return Ok(());
        }
        let words = match end {
            End::Refused(refused) => explain(&refused),
            End::Broken(words) => words,
        };
        if !was_ready {
            bail!("a reader could not connect: {words}");
        }
        if stalls {
            return Ok(());
        }
        self.ended += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(format!("a reader's connection ended: {words}"));
        }
        Ok(())
    }
}

/// Whether a refused request may be tried again (PROTOCOL.md, "Codes").
fn may_come_back(refused: &Refused) -> bool {
    use tidegate_protocol::Code;
    match Code::from_name(&refused.code) {
        Some(code) => code.is_retryable(),
        None => refused.code.starts_with("HTTP 5"),
    }
}

/// A refusal as text, with advice on what to change.
pub fn explain(refused: &Refused) -> String {
    let Refused { code, message, limit, .. } = refused;
    let mut words = format!("{code}: {message}");
    if let Some(limit) = limit {
        words.push_str(&format!("; raise the server's {limit} for this run"));
    }
    if code == "unauthorized" || code == "HTTP 401" {
        words.push_str("; give a token that is valid for this gateway (--token, --org)");
    }
    words
}
