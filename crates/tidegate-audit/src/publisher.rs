//! One publisher: batches with ids of its own, each sent again with the same ids until its outcome
//! is known, and now and then one that was acknowledged long ago.

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

/// Between two attempts to send one batch.
const RETRY: Duration = Duration::from_millis(40);

/// How long an answer may take before it counts as not coming; the gateway's own bound is 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// One in so many batches is followed by an old one.
const RESEND_ONE_IN: u32 = 12;

/// What all publishers share.
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
    /// Turns true when no new batches are wanted.
    pub stop: watch::Receiver<bool>,
    /// When to give up.
    pub deadline: Instant,
    /// Which life of the gateway it is.
    pub life: Arc<AtomicUsize>,
    /// How many requests are being answered.
    pub in_flight: Arc<AtomicUsize>,
}

/// What one publisher does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its number.
    pub number: u32,
    /// How many events a batch holds.
    pub batch: Range<usize>,
    /// The time from one batch to the next; without it, the next goes when the last is answered.
    pub every: Option<Duration>,
}

#[derive(Deserialize)]
struct Answer {
    cursor: String,
    events: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    service: String,
    id: String,
    seq: u64,
    duplicate: bool,
}

/// A batch, and where it was put once that is known.
struct Batch {
    events: Vec<Planned>,
    seqs: Vec<u64>,
    /// The gateway's life that acknowledged it.
    life: usize,
}

enum Attempt {
    Ok(Answer),
    /// Certainly not stored.
    Refused,
    /// Perhaps stored.
    Unknown,
    /// Not sent.
    Unsent,
    /// A refusal that must not happen.
    Wrong(String),
}

/// Publishes until told to stop; the last batch is brought to its end.
pub async fn run(plan: Plan, around: Surroundings) {
    let who = format!("publisher {}", plan.number);
    let mut next = 0;
    let mut done: Vec<Batch> = Vec::new();
    let mut clock = plan.every.map(tokio::time::interval);
    while !*around.stop.borrow() {
        if let Some(clock) = &mut clock {
            clock.tick().await;
        }
        let count = rand::rng().random_range(plan.batch.clone()) as u32;
        let events: Vec<Planned> =
            (next..next + count).map(|number| Planned { publisher: plan.number, number }).collect();
        next += count;
        let mut batch = Batch { events, seqs: Vec::new(), life: 0 };
        if !bring(&who, &around, &mut batch).await {
            return;
        }
        done.push(batch);
        if rand::rng().random_ratio(1, RESEND_ONE_IN) {
            let at = rand::rng().random_range(0..done.len());
            if !bring(&who, &around, &mut done[at]).await {
                return;
            }
        }
    }
}

/// Sends a batch until its outcome is known. False when this publisher must stop.
async fn bring(who: &str, around: &Surroundings, batch: &mut Batch) -> bool {
    let counts = around.ledger.counts();
    let was_acknowledged = !batch.seqs.is_empty();
    let mut may_be_stored = was_acknowledged;
    loop {
        if Instant::now() >= around.deadline {
            around.findings.add(who, "a batch was not answered, and time is up");
            return false;
        }
        let life = around.life.load(Ordering::Relaxed);
        let attempt = send(around, &batch.events).await;
        let (counter, stored) = match attempt {
            Attempt::Ok(answer) => {
                counts.ok.fetch_add(1, Ordering::Relaxed);
                if was_acknowledged {
                    counts.resent.fetch_add(1, Ordering::Relaxed);
                    let over_restart = usize::from(batch.life != life);
                    counts.resent_over_restart.fetch_add(over_restart, Ordering::Relaxed);
                }
                return match take(around, batch, answer, may_be_stored, life) {
                    Ok(()) => true,
                    Err(what) => {
                        around.findings.add(who, what);
                        false
                    }
                };
            }
            Attempt::Wrong(what) => {
                around.findings.add(who, what);
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

async fn send(around: &Surroundings, events: &[Planned]) -> Attempt {
    let mut body = String::from("[");
    for (index, event) in events.iter().enumerate() {
        body.push_str(if index == 0 { "" } else { "," });
        event.write_json(&mut body);
    }
    body.push(']');
    let gateway = &around.gateway;
    let request = around
        .client
        .post(format!("{}/v1/orgs/{}/events", gateway.url, gateway.org))
        .bearer_auth(&gateway.publish_key)
        .header("content-type", "application/json")
        .timeout(PATIENCE)
        .body(body);
    around.in_flight.fetch_add(1, Ordering::Relaxed);
    let attempt = answer(request).await;
    around.in_flight.fetch_sub(1, Ordering::Relaxed);
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
            |error| Attempt::Wrong(format!("a publish answer cannot be read ({error}): {text}")),
            Attempt::Ok,
        ),
        429 | 503 => Attempt::Refused,
        504 => Attempt::Unknown,
        _ => Attempt::Wrong(format!("a publish was answered with {status}: {text}")),
    }
}

/// Looks at an answer and writes it down.
fn take(
    around: &Surroundings,
    batch: &mut Batch,
    answer: Answer,
    may_be_stored: bool,
    life: usize,
) -> Result<(), String> {
    let Answer { cursor: text, events: places } = answer;
    let cursor = Cursor::parse(&text).ok_or_else(|| format!("a publish answer has the cursor {text}"))?;
    let asked: Vec<(String, String)> =
        batch.events.iter().map(|event| (service_name(event.service()), event.id())).collect();
    let told: Vec<(String, String)> =
        places.iter().map(|place| (place.service.clone(), place.id.clone())).collect();
    if asked != told {
        return Err(format!("a publish of {asked:?} was answered as if it had been {told:?}"));
    }
    let seqs: Vec<u64> = places.iter().map(|place| place.seq).collect();
    if !seqs.is_sorted_by(|before, after| before < after) || seqs.last() != Some(&cursor.seq) {
        return Err(format!("a batch was put at {seqs:?}, with the cursor {text}"));
    }
    let duplicates = places.iter().filter(|place| place.duplicate).count();
    let first = &batch.events[0];
    if duplicates > 0 && !may_be_stored {
        return Err(format!(
            "the batch from {} is called a duplicate, and was never sent before",
            first.id()
        ));
    }
    if duplicates != 0 && duplicates != places.len() {
        return Err(format!("the batch from {} was stored in part: {duplicates} were there", first.id()));
    }
    for (planned, seq) in batch.events.iter().zip(&seqs) {
        around.ledger.agree(*seq, *planned).map_err(|fault| fault.to_string())?;
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
            return Err(format!("a batch acknowledged at {before:?} was found again at {seqs:?}"));
        }
        return Ok(());
    }
    if duplicates > 0 {
        around.ledger.counts().recovered.fetch_add(1, Ordering::Relaxed);
    }
    let placed: Vec<(Planned, u64)> = batch.events.iter().copied().zip(seqs.iter().copied()).collect();
    around.ledger.acknowledge(&placed, cursor);
    batch.seqs = seqs;
    batch.life = life;
    Ok(())
}
