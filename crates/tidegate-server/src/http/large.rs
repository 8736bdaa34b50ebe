//! Work on a publish body, which takes in proportion to its size. A worker does it only for small bodies: while it
//! inflates and parses 4 MiB, all of its readers would wait for 20 ms or more. Large ones are left to the blocking
//! pool, as many at a time as there are workers.

use bytes::Bytes;
use tidegate_core::content_coding::{ContentCoding, DecodeError};
use tokio::sync::OwnedSemaphorePermit;

use crate::{metrics::LongSlice, node::Node, worker::thread_cpu};

/// A larger body is inflated and parsed elsewhere. This many bytes of JSON take a worker about 0.3 ms.
const ON_WORKER_BYTES: usize = 64 << 10;

/// From so many bytes on, the work is timed. Timing it costs as much as parsing some hundred bytes.
const TIMED_BYTES: usize = 8 << 10;

/// A place among the large bodies that are being inflated or parsed.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    async fn take(node: &Node) -> Option<Self> {
        // The semaphore is never closed.
        let permit = node.large_bodies.clone().acquire_owned().await.ok()?;
        Some(Self { _permit: permit })
    }
}

/// A body without its content coding.
#[derive(Debug)]
pub struct Decoded {
    /// Its bytes.
    pub bytes: Bytes,
    /// The place that it took to be inflated. It keeps it until it is parsed: else thousands of bodies could be
    /// inflated, and wait.
    pub place: Option<Place>,
}

/// Undoes the content coding of a body ([`ContentCoding::decode`]).
pub async fn decode(
    node: &Node,
    coding: ContentCoding,
    body: Bytes,
    max: usize,
) -> Result<Decoded, DecodeError> {
    if coding == ContentCoding::Identity {
        return Ok(Decoded { bytes: coding.decode(body, max)?, place: None });
    }
    // A few bytes may inflate to many, so the worker tries with a lower bound.
    let max_here = max.min(ON_WORKER_BYTES);
    if body.len() <= ON_WORKER_BYTES {
        let decoded = on_worker(node, body.len(), || coding.decode(body.clone(), max_here));
        if max_here == max || !matches!(decoded, Err(DecodeError::TooLarge)) {
            return Ok(Decoded { bytes: decoded?, place: None });
        }
    }
    let place = Place::take(node).await;
    let (decoded, place) = elsewhere(move || (coding.decode(body, max), place)).await;
    Ok(Decoded { bytes: decoded?, place })
}

/// Does `work` on a body.
pub async fn run<T: Send + 'static>(
    node: &Node,
    body: Decoded,
    work: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> T {
    let Decoded { bytes, place } = body;
    if bytes.len() <= ON_WORKER_BYTES {
        return on_worker(node, bytes.len(), || work(&bytes));
    }
    let place = match place {
        Some(place) => Some(place),
        None => Place::take(node).await,
    };
    elsewhere(move || {
        let done = work(&bytes);
        drop((bytes, place));
        done
    })
    .await
}

fn on_worker<T>(node: &Node, bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < TIMED_BYTES {
        return work();
    }
    let cpu = thread_cpu();
    let done = work();
    node.metrics.piece_took(LongSlice::Body, thread_cpu().saturating_sub(cpu));
    done
}

/// On the blocking pool. It ends there also if the client leaves meanwhile.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
