//! One reader: it connects, reads, is disconnected or disconnects itself, and resumes with its cursor, until
//! the end of the log.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use tokio::{sync::watch, time::Instant};

use crate::{
    continuity::{Continuity, Heard, Start},
    event::Services,
    fault::Fault,
    findings::Findings,
    gateway::Announced,
    ledger::Ledger,
    transport::{OpenError, Stream, Transport},
};

/// The delay between two attempts to connect to a gateway that is not reachable.
const RETRY: Duration = Duration::from_millis(40);

/// A reader stops after so many faults: more would only be consequences.
const FAULTS_MAX: usize = 3;

/// The end of the log.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The seq.
    pub seq: u64,
    /// The deadline for reaching it.
    pub by: Instant,
}

/// The state that all readers share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The HTTP client.
    pub client: reqwest::Client,
    /// The gateway.
    pub gateway: Announced,
    /// What was published.
    pub ledger: Arc<Ledger>,
    /// What was found wrong.
    pub findings: Arc<Findings>,
    /// The end of the log, when it is known.
    pub end: watch::Receiver<Option<End>>,
    /// When to give up.
    pub deadline: Instant,
    /// The number of resumed streams.
    pub resumed: Arc<AtomicUsize>,
    /// The number of events that all readers received.
    pub delivered: Arc<AtomicUsize>,
    /// The number of readers that received their first hello.
    pub greeted: Arc<AtomicUsize>,
}

impl Shared {
    /// The state at the beginning: nothing is counted.
    pub fn new(
        client: &reqwest::Client,
        gateway: &Announced,
        ledger: &Arc<Ledger>,
        findings: &Arc<Findings>,
        end: watch::Receiver<Option<End>>,
        deadline: Instant,
    ) -> Self {
        Self {
            client: client.clone(),
            gateway: gateway.clone(),
            ledger: ledger.clone(),
            findings: findings.clone(),
            end,
            deadline,
            resumed: Arc::default(),
            delivered: Arc::default(),
            greeted: Arc::default(),
        }
    }
}

/// The plan of one reader.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name in findings.
    pub name: String,
    /// Its transport.
    pub transport: Transport,
    /// The services that it subscribes to.
    pub services: Services,
    /// Its start.
    pub start: Start,
    /// The range from which it draws after how many events it disconnects; `None` for never.
    pub cuts: Option<Range<usize>>,
}

enum Ended {
    /// It has read to the end.
    Done,
    /// The connection ended; reconnect.
    Cut,
    /// The deadline has passed.
    Late,
}

/// Reads until the end of the log is known and reached.
pub async fn run(plan: Plan, shared: Shared) -> Continuity {
    let mut continuity = Continuity::new(plan.services, plan.start.clone());
    let mut faults = 0;
    loop {
        let end = *shared.end.borrow();
        if Instant::now() >= end.map_or(shared.deadline, |end| end.by) {
            let of = end.map_or("a log without end".to_owned(), |end| end.seq.to_string());
            let reached = continuity.reached();
            shared.findings.add(&plan.name, format!("reached {reached} of {of} before the deadline"));
            return continuity;
        }
        let start = continuity.connect();
        let opened =
            Stream::open(plan.transport, &shared.client, &shared.gateway, plan.services, &start).await;
        let ended = match opened {
            Ok(stream) => {
                if continuity.has_begun() {
                    shared.resumed.fetch_add(1, Ordering::Relaxed);
                }
                connection(&plan, &shared, &mut continuity, stream).await
            }
            Err(OpenError::Away(_)) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(refused) => {
                shared.findings.add(&plan.name, refused);
                faults += FAULTS_MAX;
                Ok(Ended::Cut)
            }
        };
        match ended {
            Ok(Ended::Done) => return continuity,
            Ok(Ended::Cut | Ended::Late) => {}
            Err(fault) => {
                shared.findings.add(&plan.name, fault);
                faults += 1;
            }
        }
        if faults >= FAULTS_MAX {
            return continuity;
        }
    }
}

/// Whether the gateway ended a stream because of load. That is not a fault on a machine that is too small for
/// the load; the stream is resumed.
fn is_pressure(code: &str) -> bool {
    matches!(code, "ping_timeout" | "slow_consumer" | "overloaded" | "rate_limited" | "auth_timeout")
}

async fn connection(
    plan: &Plan,
    shared: &Shared,
    continuity: &mut Continuity,
    mut stream: Stream,
) -> Result<Ended, Fault> {
    let mut end = shared.end.clone();
    let mut left = plan.cuts.clone().map(|cuts| rand::rng().random_range(cuts));
    loop {
        let known = *end.borrow_and_update();
        if known.is_some_and(|end| continuity.reached() >= end.seq) {
            return Ok(Ended::Done);
        }
        let incoming = tokio::select! {
            incoming = stream.next() => incoming,
            Ok(()) = end.changed() => continue,
            () = tokio::time::sleep_until(known.map_or(shared.deadline, |end| end.by)) => return Ok(Ended::Late),
        };
        let Some(incoming) = incoming else { return Ok(Ended::Cut) };
        let is_first = !continuity.has_begun();
        let heard = match continuity.frame(incoming.text(), incoming.id(), &shared.ledger) {
            Err(Fault::Ended { code, .. }) if is_pressure(&code) => return Ok(Ended::Cut),
            heard => heard?,
        };
        if is_first {
            shared.greeted.fetch_add(1, Ordering::Relaxed);
        }
        match heard {
            Heard::Ping => stream.pong().await,
            Heard::GoAway => return Ok(Ended::Cut),
            Heard::Events(count) => {
                shared.delivered.fetch_add(count, Ordering::Relaxed);
                if let Some(left) = &mut left {
                    if *left < count {
                        // Disconnect like a client that has lost its network: without a close handshake.
                        return Ok(Ended::Cut);
                    }
                    *left -= count;
                }
            }
        }
    }
}
