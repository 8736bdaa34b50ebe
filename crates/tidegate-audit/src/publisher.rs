//! One publisher: it sends batches with its own ids, and repeats each with the same ids until its outcome is
//! known. Now and then it also repeats an old acknowledged batch.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};

use crate::{
    cursor::Cursor, event::Planned, event::service_name, findings::Findings, gateway::Announced,
    ledger::Ledger,
};

/// The delay between two attempts to send a batch.
const RETRY: Duration = Duration::from_millis(40);

/// How long to wait for a response; the gateway's own bound is 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// One in so many batches is followed by an old batch.
const RESEND_ONE_IN: u32 = 12;

/// The state that all publishers share.
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
    /// Becomes true when publishers must stop.
    pub stop: watch::Receiver<bool>,
    /// When to give up.
    pub deadline: Instant,
    /// The number of the gateway's current incarnation.
    pub incarnation: Arc<AtomicUsize>,
    /// The number of requests in flight.
    pub in_flight: Arc<AtomicUsize>,
}

impl Shared {
    /// The state at the beginning: the first incarnation, and no request in flight.
    pub fn new(
        client: &reqwest::Client,
        gateway: &Announced,
        ledger: &Arc<Ledger>,
        findings: &Arc<Findings>,
        stop: watch::Receiver<bool>,
        deadline: Instant,
    ) -> Self {
        Self {
            client: client.clone(),
            gateway: gateway.clone(),
            ledger: ledger.clone(),
            findings: findings.clone(),
            stop,
            deadline,
            incarnation: Arc::default(),
            in_flight: Arc::default(),
        }
    }
}

/// The plan of one publisher.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its number.
    pub number: u32,
    /// The number of events in a batch.
    pub batch: Range<usize>,
    /// The interval between batches. If none, the next batch is sent when the last was answered.
    pub every: Option<Duration>,
}

#[derive(Deserialize)]
struct Answer {
    cursor: String,
    events: Vec<StoredEvent>,
}

#[derive(Deserialize)]
struct StoredEvent {
    service: String,
    id: String,
    seq: u64,
    duplicate: bool,
}

/// A batch, and its seqs when they are known.
struct Batch {
    events: Vec<Planned>,
    seqs: Vec<u64>,
    /// The incarnation of the gateway that acknowledged it.
    incarnation: usize,
}

enum Attempt {
    Ok(Answer),
    /// Not stored.
    Refused,
    /// Possibly stored.
    Unknown,
    /// Not sent.
    Unsent,
    /// A response that must not happen.
    Wrong(String),
}

/// Publishes until `stop`, and completes the last batch.
pub async fn run(plan: Plan, shared: Shared) {
    let who = format!("publisher {}", plan.number);
    let mut next = 0;
    let mut done: Vec<Batch> = Vec::new();
    let mut clock = plan.every.map(tokio::time::interval);
    while !*shared.stop.borrow() {
        if let Some(clock) = &mut clock {
            clock.tick().await;
        }
        let count = rand::rng().random_range(plan.batch.clone()) as u32;
        let events: Vec<Planned> =
            (next..next + count).map(|number| Planned { publisher: plan.number, number }).collect();
        next += count;
        let mut batch = Batch { events, seqs: Vec::new(), incarnation: 0 };
        if !bring(&who, &shared, &mut batch).await {
            return;
        }
        done.push(batch);
        if rand::rng().random_ratio(1, RESEND_ONE_IN) {
            let at = rand::rng().random_range(0..done.len());
            if !bring(&who, &shared, &mut done[at]).await {
                return;
            }
        }
    }
}

/// Sends a batch until its outcome is known. False if this publisher must stop.
async fn bring(who: &str, shared: &Shared, batch: &mut Batch) -> bool {
    let counts = shared.ledger.counts();
    let was_acknowledged = !batch.seqs.is_empty();
    let mut may_be_stored = was_acknowledged;
    loop {
        if Instant::now() >= shared.deadline {
            shared.findings.add(who, "a batch was not answered before the deadline");
            return false;
        }
        let incarnation = shared.incarnation.load(Ordering::Relaxed);
        let attempt = send(shared, &batch.events).await;
        let (counter, stored) = match attempt {
            Attempt::Ok(answer) => {
                counts.ok.fetch_add(1, Ordering::Relaxed);
                if was_acknowledged {
                    counts.resent.fetch_add(1, Ordering::Relaxed);
                    let over_restart = usize::from(batch.incarnation != incarnation);
                    counts.resent_over_restart.fetch_add(over_restart, Ordering::Relaxed);
                }
                return match take(shared, batch, answer, may_be_stored, incarnation) {
                    Ok(()) => true,
                    Err(what) => {
                        shared.findings.add(who, what);
                        false
                    }
                };
            }
            Attempt::Wrong(what) => {
                shared.findings.add(who, what);
                return false;
            }
            Attempt::Refused => (&counts.refused, false),
            Attempt::Unknown => (&counts.unknown, true),
            Attempt::Unsent => (&counts.unsent, false),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        may_be_stored |= stored;
        tokio::time::sleep(RETRY).await;
    }
}

async fn send(shared: &Shared, events: &[Planned]) -> Attempt {
    let mut body = String::from("[");
    for (index, event) in events.iter().enumerate() {
        body.push_str(if index == 0 { "" } else { "," });
        event.write_json(&mut body);
    }
    body.push(']');
    let gateway = &shared.gateway;
    let request = shared
        .client
        .post(format!("{}/v1/orgs/{}/events", gateway.url, gateway.org))
        .bearer_auth(&gateway.publish_key)
        .header("content-type", "application/json")
        .timeout(PATIENCE)
        .body(body);
    shared.in_flight.fetch_add(1, Ordering::Relaxed);
    let attempt = answer(request).await;
    shared.in_flight.fetch_sub(1, Ordering::Relaxed);
    attempt
}

async fn answer(request: reqwest::RequestBuilder) -> Attempt {
    let answer = match request.send().await {
        Err(error) if error.is_connect() => return Attempt::Unsent,
        Err(_) => return Attempt::Unknown,
        Ok(answer) => answer,
    };
    let status = answer.status().as_u16();
    let Ok(text) = answer.text().await else { return Attempt::Unknown };
    match status {
        200 => serde_json::from_str(&text).map_or_else(
            |error| Attempt::Wrong(format!("a publish response cannot be parsed ({error}): {text}")),
            Attempt::Ok,
        ),
        429 | 503 => Attempt::Refused,
        504 => Attempt::Unknown,
        _ => Attempt::Wrong(format!("a publish was answered with {status}: {text}")),
    }
}

/// Checks a response and records it in the ledger.
fn take(
    shared: &Shared,
    batch: &mut Batch,
    answer: Answer,
    may_be_stored: bool,
    incarnation: usize,
) -> Result<(), String> {
    let Answer { cursor: text, events: stored_events } = answer;
    let cursor = Cursor::parse(&text).ok_or_else(|| format!("a publish response has the cursor {text}"))?;
    let asked: Vec<(String, String)> =
        batch.events.iter().map(|event| (service_name(event.service()), event.id())).collect();
    let answered: Vec<(String, String)> =
        stored_events.iter().map(|stored| (stored.service.clone(), stored.id.clone())).collect();
    if asked != answered {
        return Err(format!("a publish of {asked:?} was answered as if it had been {answered:?}"));
    }
    let seqs: Vec<u64> = stored_events.iter().map(|stored| stored.seq).collect();
    if !seqs.is_sorted_by(|before, after| before < after) || seqs.last() != Some(&cursor.seq) {
        return Err(format!("a batch was stored at {seqs:?}, with the cursor {text}"));
    }
    let duplicates = stored_events.iter().filter(|stored| stored.duplicate).count();
    let first = &batch.events[0];
    if duplicates > 0 && !may_be_stored {
        return Err(format!(
            "the batch from {} was answered as a duplicate, but was never sent before",
            first.id()
        ));
    }
    if duplicates != 0 && duplicates != stored_events.len() {
        return Err(format!(
            "the batch from {} was stored in part: {duplicates} events were already there",
            first.id()
        ));
    }
    for (planned, seq) in batch.events.iter().zip(&seqs) {
        shared.ledger.agree(*seq, *planned).map_err(|fault| fault.to_string())?;
    }
    if !batch.seqs.is_empty() {
        if duplicates == 0 {
            let (before, id) = (&batch.seqs, first.id());
            return Err(format!(
                "the batch from {id}, acknowledged at {before:?}, was stored again at {seqs:?}"
            ));
        }
        if batch.seqs != seqs {
            let before = &batch.seqs;
            return Err(format!("a batch acknowledged at {before:?} was later reported at {seqs:?}"));
        }
        return Ok(());
    }
    if duplicates > 0 {
        shared.ledger.counts().recovered.fetch_add(1, Ordering::Relaxed);
    }
    let stored: Vec<(Planned, u64)> = batch.events.iter().copied().zip(seqs.iter().copied()).collect();
    shared.ledger.acknowledge(&stored, cursor);
    batch.seqs = seqs;
    batch.incarnation = incarnation;
    Ok(())
}
