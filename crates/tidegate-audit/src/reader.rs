//! One reader: connects, reads, is cut or cuts itself, resumes with its cursor, to the end of the log.

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

/// Between two attempts to connect to a gateway that is not there.
const RETRY: Duration = Duration::from_millis(40);

/// After so many faults of its own a reader stops: the rest would follow from them.
const FAULTS_MAX: usize = 3;

/// The end of the log.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// The place.
    pub seq: u64,
    /// When to give up reaching it.
    pub by: Instant,
}

/// What all readers share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Speaks HTTP.
    pub client: reqwest::Client,
    /// Where the gateway is.
    pub gateway: Announced,
    /// What is known.
    pub ledger: Arc<Ledger>,
    /// What is wrong.
    pub findings: Arc<Findings>,
    /// Where to read to, once it is known.
    pub end: watch::Receiver<Option<End>>,
    /// When to give up.
    pub deadline: Instant,
    /// How many streams were resumed.
    pub resumed: Arc<AtomicUsize>,
    /// How many events came, to all readers.
    pub delivered: Arc<AtomicUsize>,
    /// How many readers have had their first hello.
    pub greeted: Arc<AtomicUsize>,
}

/// What one reader does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name in findings.
    pub name: String,
    /// How it is connected.
    pub transport: Transport,
    /// What it asks for.
    pub services: Services,
    /// Where it starts.
    pub start: Start,
    /// After how many events it cuts its own connection, each time drawn anew; `None` for never.
    pub cuts: Option<Range<usize>>,
}

enum Ended {
    /// It has read to the end.
    Done,
    /// The connection is over; come back.
    Cut,
    /// Time is up.
    Late,
}

/// Reads until the end is known and reached.
pub async fn run(plan: Plan, around: Surroundings) -> Continuity {
    let mut continuity = Continuity::new(plan.services, plan.start.clone());
    let mut faults = 0;
    loop {
        let end = *around.end.borrow();
        if Instant::now() >= end.map_or(around.deadline, |end| end.by) {
            let of = end.map_or("a log without end".to_owned(), |end| end.seq.to_string());
            let reached = continuity.reached();
            around.findings.add(&plan.name, format!("stands at {reached} of {of}, and time is up"));
            return continuity;
        }
        let start = continuity.connect();
        let opened =
            Stream::open(plan.transport, &around.client, &around.gateway, plan.services, &start).await;
        let ended = match opened {
            Ok(stream) => {
                if continuity.has_begun() {
                    around.resumed.fetch_add(1, Ordering::Relaxed);
                }
                connection(&plan, &around, &mut continuity, stream).await
            }
            Err(OpenError::Away(_)) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(refused) => {
                around.findings.add(&plan.name, refused);
                faults += FAULTS_MAX;
                Ok(Ended::Cut)
            }
        };
        match ended {
            Ok(Ended::Done) => return continuity,
            Ok(Ended::Cut | Ended::Late) => {}
            Err(fault) => {
                around.findings.add(&plan.name, fault);
                faults += 1;
            }
        }
        if faults >= FAULTS_MAX {
            return continuity;
        }
    }
}

/// Whether a stream that the gateway ended so may simply be resumed: on a machine that is too small
/// for the load these are no fault.
fn is_pressure(code: &str) -> bool {
    matches!(code, "ping_timeout" | "slow_consumer" | "overloaded" | "rate_limited" | "auth_timeout")
}

async fn connection(
    plan: &Plan,
    around: &Surroundings,
    continuity: &mut Continuity,
    mut stream: Stream,
) -> Result<Ended, Fault> {
    let mut end = around.end.clone();
    let mut left = plan.cuts.clone().map(|cuts| rand::rng().random_range(cuts));
    loop {
        let known = *end.borrow_and_update();
        if known.is_some_and(|end| continuity.reached() >= end.seq) {
            return Ok(Ended::Done);
        }
        let incoming = tokio::select! {
            incoming = stream.next() => incoming,
            Ok(()) = end.changed() => continue,
            () = tokio::time::sleep_until(known.map_or(around.deadline, |end| end.by)) => return Ok(Ended::Late),
        };
        let Some(incoming) = incoming else { return Ok(Ended::Cut) };
        let is_first = !continuity.has_begun();
        let heard = match continuity.frame(incoming.text(), incoming.id(), &around.ledger) {
            Err(Fault::Ended { code, .. }) if is_pressure(&code) => return Ok(Ended::Cut),
            heard => heard?,
        };
        if is_first {
            around.greeted.fetch_add(1, Ordering::Relaxed);
        }
        match heard {
            Heard::Ping => stream.pong().await,
            Heard::GoAway => return Ok(Ended::Cut),
            Heard::Events(count) => {
                around.delivered.fetch_add(count, Ordering::Relaxed);
                if let Some(left) = &mut left {
                    if *left < count {
                        // As a client does that has lost its network: no word, no closing handshake.
                        return Ok(Ended::Cut);
                    }
                    *left -= count;
                }
            }
        }
    }
}
