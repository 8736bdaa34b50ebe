//! Many readers on few threads, each thread an epoll loop over its own; and the orders that they are given.

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
    books::Counts,
    clock::Clock,
    digest::Refused,
    latency::Latencies,
    poll::{Poll, Ready},
    reader::{End, Line, Reader, Room, Seat},
};

/// How long a loop sleeps at most before it looks for orders.
const TURN: Duration = Duration::from_millis(5);

/// How many findings are kept in words.
const FINDINGS_MAX: usize = 8;

/// What the readers of one thread are now; written by its loop, read for progress.
#[derive(Debug, Default)]
struct Gauges {
    ready: AtomicU64,
    live: AtomicU64,
    probed: AtomicU64,
    connected: AtomicU64,
    delivered: AtomicU64,
    frames: AtomicU64,
    wire_bytes: AtomicU64,
    /// Connections that ended though nobody asked for it.
    ended: AtomicU64,
    has_failed: AtomicBool,
}

enum Order {
    /// More readers.
    Take(Vec<Seat>),
    /// All connections are cut, with resets.
    Cut,
    /// Those without a connection open one.
    Return,
    /// Counting begins anew; books are kept.
    Reset,
    /// What was counted, and what is missing of so many sent.
    Count { sent: Arc<Vec<u32>>, excused: Arc<BTreeSet<(u16, u32)>>, reply: Sender<Counted> },
}

/// What readers counted since the last reset.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    pub counts: Counts,
    pub latencies: Latencies,
    pub missing: u64,
    pub wire_bytes: u64,
    pub last_us: u64,
    pub compressed: u64,
    /// Connections that ended and come back.
    pub retries: u64,
    /// Stalled readers that the server has closed.
    pub stalled_closed: u64,
    /// Connections that ended though nobody asked for it, and why.
    pub ended: u64,
    pub findings: Vec<String>,
}

/// Where the readers are as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    pub connected: u64,
    pub ready: u64,
    pub live: u64,
    pub probed: u64,
    pub delivered: u64,
    pub frames: u64,
    pub wire_bytes: u64,
    pub ended: u64,
}

/// One thread of them, seen from outside.
struct Thread {
    orders: Sender<Order>,
    gauges: Arc<Gauges>,
    handle: Option<JoinHandle<()>>,
}

/// All readers of a run.
pub struct Crowd {
    threads: Vec<Thread>,
    failure: Arc<std::sync::Mutex<Option<String>>>,
    seated: usize,
}

/// How readers are brought in.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    pub threads: usize,
    /// Connections being opened at a time.
    pub opening_max: usize,
    /// Whether a reader that was ended comes back; else its end is a finding.
    pub comes_back: bool,
}

impl Crowd {
    /// Starts its threads, without readers.
    pub fn start(line: &Line, manners: Manners, clock: Clock) -> anyhow::Result<Self> {
        let failure = Arc::new(std::sync::Mutex::new(None));
        let mut threads = Vec::new();
        for number in 0..manners.threads.max(1) {
            let (orders, inbox) = channel();
            let gauges = Arc::new(Gauges::default());
            let mut room = Loop {
                line: line.clone(),
                manners,
                clock,
                poll: Poll::new().context("make an epoll")?,
                readers: Vec::new(),
                waiting: VecDeque::new(),
                later: VecDeque::new(),
                opening: 0,
                room: Room::default(),
                ended: 0,
                retries: 0,
                findings: Vec::new(),
                gauges: gauges.clone(),
            };
            let failure = failure.clone();
            let builder = std::thread::Builder::new().name(format!("readers-{number}"));
            let handle = builder.spawn(move || {
                if let Err(error) = room.run(&inbox) {
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        Some(format!("{error:#}"));
                    room.gauges.has_failed.store(true, Ordering::Relaxed);
                }
            });
            threads.push(Thread { orders, gauges, handle: Some(handle.context("start a thread")?) });
        }
        Ok(Self { threads, failure, seated: 0 })
    }

    /// How many readers there are.
    pub fn len(&self) -> usize {
        self.seated
    }

    /// Seats more readers, spread over the threads; they begin to connect.
    pub fn seat(&mut self, seats: Vec<Seat>) {
        let threads = self.threads.len();
        let mut shares = vec![Vec::new(); threads];
        for (index, seat) in seats.into_iter().enumerate() {
            shares[(self.seated + index) % threads].push(seat);
        }
        self.seated += shares.iter().map(Vec::len).sum::<usize>();
        for (thread, share) in self.threads.iter().zip(shares) {
            // A thread that is gone has said why, which the next look at it shows.
            let _ = thread.orders.send(Order::Take(share));
        }
    }

    fn order(&self, order: impl Fn() -> Order) {
        for thread in &self.threads {
            let _ = thread.orders.send(order());
        }
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.order(|| Order::Cut);
    }

    /// All that are away connect again, from where they stand.
    pub fn come_back(&self) {
        self.order(|| Order::Return);
    }

    /// Counts from nothing again.
    pub fn reset(&self) {
        self.order(|| Order::Reset);
    }

    /// Where the readers are; an error if a thread could not go on.
    pub fn standing(&self) -> anyhow::Result<Standing> {
        let mut standing = Standing::default();
        for Thread { gauges, .. } in &self.threads {
            let get = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
            standing.connected += get(&gauges.connected);
            standing.ready += get(&gauges.ready);
            standing.live += get(&gauges.live);
            standing.probed += get(&gauges.probed);
            standing.delivered += get(&gauges.delivered);
            standing.frames += get(&gauges.frames);
            standing.wire_bytes += get(&gauges.wire_bytes);
            standing.ended += get(&gauges.ended);
            if gauges.has_failed.load(Ordering::Relaxed) {
                let failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                bail!("{}", failure.as_deref().unwrap_or("a reader's thread ended"));
            }
        }
        Ok(standing)
    }

    /// What was counted since the last reset, and what is missing of what was `sent`.
    pub fn count(&self, sent: &[u32], excused: &BTreeSet<(u16, u32)>) -> anyhow::Result<Counted> {
        let (sent, excused) = (Arc::new(sent.to_vec()), Arc::new(excused.clone()));
        let (reply, answers) = channel();
        self.order(|| Order::Count { sent: sent.clone(), excused: excused.clone(), reply: reply.clone() });
        drop(reply);
        let mut all = Counted::default();
        for _ in 0..self.threads.len() {
            let Ok(counted) = answers.recv_timeout(Duration::from_secs(60)) else {
                self.standing()?;
                bail!("a reader's thread does not answer");
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

impl Drop for Crowd {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            // Its loop ends when there are no orders to be had any more.
            drop(std::mem::replace(&mut thread.orders, channel().0));
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// One thread's readers.
struct Loop {
    line: Line,
    manners: Manners,
    clock: Clock,
    poll: Poll,
    readers: Vec<Reader>,
    /// Those to be connected.
    waiting: VecDeque<usize>,
    /// Those to be connected at a time.
    later: VecDeque<(Instant, usize)>,
    opening: usize,
    room: Room,
    ended: u64,
    retries: u64,
    findings: Vec<String>,
    gauges: Arc<Gauges>,
}

impl Loop {
    fn run(&mut self, inbox: &Receiver<Order>) -> anyhow::Result<()> {
        let mut ready: Vec<Ready> = Vec::new();
        let mut standing = Standing::default();
        loop {
            loop {
                match inbox.try_recv() {
                    Ok(order) => self.obey(order, &mut standing),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        // Resets: thousands of closed connections would hold their ports for a minute.
                        self.readers.iter_mut().for_each(Reader::cut);
                        return Ok(());
                    }
                }
            }
            self.open(&mut standing)?;
            ready.clear();
            self.poll.wait(TURN, &mut ready).context("wait for readers' sockets")?;
            for ready in &ready {
                self.turn(*ready, &mut standing)?;
            }
            self.show(&standing);
        }
    }

    fn show(&self, standing: &Standing) {
        let set = |gauge: &AtomicU64, value| gauge.store(value, Ordering::Relaxed);
        set(&self.gauges.connected, standing.connected);
        set(&self.gauges.ready, standing.ready);
        set(&self.gauges.live, standing.live);
        set(&self.gauges.probed, standing.probed);
        set(&self.gauges.delivered, self.room.counts.delivered);
        set(&self.gauges.frames, self.room.counts.frames);
        set(&self.gauges.wire_bytes, self.room.wire_bytes);
        set(&self.gauges.ended, self.ended);
    }

    fn obey(&mut self, order: Order, standing: &mut Standing) {
        match order {
            Order::Take(seats) => {
                let first = self.readers.len();
                self.readers.extend(seats.into_iter().map(Reader::new));
                self.waiting.extend(first..self.readers.len());
            }
            Order::Cut => {
                self.readers.iter_mut().for_each(Reader::cut);
                self.waiting.clear();
                self.later.clear();
                self.opening = 0;
                let probed = standing.probed;
                *standing = Standing { probed, ..Standing::default() };
            }
            Order::Return => {
                self.waiting = (0..self.readers.len()).filter(|i| !self.readers[*i].is_connected()).collect();
                self.later.clear();
            }
            Order::Reset => {
                self.room.counts = Counts::default();
                self.room.latencies = Latencies::default();
                (self.room.wire_bytes, self.room.last_us) = (0, 0);
                (self.ended, self.retries) = (0, 0);
                self.findings.clear();
            }
            Order::Count { sent, excused, reply } => {
                let counted = Counted {
                    counts: self.room.counts,
                    latencies: self.room.latencies.clone(),
                    missing: self
                        .readers
                        .iter()
                        .filter(|reader| !reader.seat.stalls)
                        .map(|reader| reader.books().missing(&sent, &excused))
                        .sum(),
                    wire_bytes: self.room.wire_bytes,
                    last_us: self.room.last_us,
                    compressed: self.readers.iter().filter(|reader| reader.is_compressed).count() as u64,
                    retries: self.retries,
                    stalled_closed: self
                        .readers
                        .iter()
                        .filter(|reader| reader.seat.stalls && !reader.is_connected())
                        .count() as u64,
                    ended: self.ended,
                    findings: self.findings.clone(),
                };
                // Who asked may have given up.
                let _ = reply.send(counted);
            }
        }
    }

    fn open(&mut self, standing: &mut Standing) -> anyhow::Result<()> {
        while self.later.front().is_some_and(|(at, _)| *at <= Instant::now()) {
            self.waiting.extend(self.later.pop_front().map(|(_, index)| index));
        }
        while self.opening < self.manners.opening_max
            && let Some(index) = self.waiting.pop_front()
        {
            let socket = self.readers[index].open(&self.line)?;
            self.poll.watch(socket, index as u64).context("watch a socket")?;
            self.opening += 1;
            standing.connected += 1;
        }
        Ok(())
    }

    fn turn(&mut self, ready: Ready, standing: &mut Standing) -> anyhow::Result<()> {
        let index = ready.token as usize;
        let reader = &mut self.readers[index];
        if !reader.is_connected() {
            return Ok(());
        }
        let before = (reader.is_ready, reader.is_live, reader.is_probed);
        let mut outcome = if ready.writable { reader.write() } else { Ok(()) };
        if outcome.is_ok() && ready.readable {
            let clock = self.clock;
            outcome = reader.read(&self.line, &mut self.room, ready.ended, || clock.now_us());
        }
        let after = (reader.is_ready, reader.is_live, reader.is_probed);
        let change = |gauge: &mut u64, before: bool, after: bool| match (before, after) {
            (false, true) => *gauge += 1,
            (true, false) => *gauge = gauge.saturating_sub(1),
            _ => {}
        };
        change(&mut standing.ready, before.0, after.0);
        change(&mut standing.live, before.1, after.1);
        change(&mut standing.probed, before.2, after.2);
        // It was opening until it was ready, or ended before.
        if !before.0 && (after.0 || outcome.is_err()) {
            self.opening = self.opening.saturating_sub(1);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(end) => {
                standing.connected = standing.connected.saturating_sub(1);
                self.end(index, before.0, end)
            }
        }
    }

    /// A connection ended though nobody asked for it.
    fn end(&mut self, index: usize, was_ready: bool, end: End) -> anyhow::Result<()> {
        let stalls = self.readers[index].seat.stalls;
        let refused = match &end {
            End::Refused(refused) => Some(refused),
            End::Broken(_) => None,
        };
        if self.manners.comes_back && !stalls && refused.is_none_or(may_come_back) {
            let wait = refused.and_then(|refused| refused.retry_in_ms).unwrap_or(1000);
            let at = Instant::now() + Duration::from_millis(wait);
            let place = self.later.partition_point(|(other, _)| *other <= at);
            self.later.insert(place, (at, index));
            self.retries += 1;
            return Ok(());
        }
        let words = match end {
            End::Refused(refused) => explain(&refused),
            End::Broken(words) => words,
        };
        if !was_ready {
            bail!("a reader was not let in: {words}");
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

/// Whether a refusal is worth another try (PROTOCOL.md, "Codes").
fn may_come_back(refused: &Refused) -> bool {
    use tidegate_protocol::Code;
    match Code::from_name(&refused.code) {
        Some(code) => code.is_retryable(),
        None => refused.code.starts_with("HTTP 5"),
    }
}

/// A refusal in words, with what to change.
pub fn explain(refused: &Refused) -> String {
    let Refused { code, message, limit, .. } = refused;
    let mut words = format!("{code}: {message}");
    if let Some(limit) = limit {
        words.push_str(&format!("; raise the server's {limit} for this run"));
    }
    if code == "unauthorized" || code == "HTTP 401" {
        words.push_str("; give a token that is good for this gateway (--token, --org)");
    }
    words
}
