//! Work on a publish body, which takes in proportion to its size. A worker does it only for small bodies: while it
//! inflates and parses 4 MiB, all of its readers would wait for 20 ms or more. Large ones are left to the blocking
//! pool, as many at a time as there are workers, in turns by who pays for them.

use bytes::Bytes;
use tidegate_core::content_coding::{ContentCoding, DecodeError};

use crate::{
    admission::{ChargedTo, Turn},
    metrics::LongSlice,
    node::Node,
    worker::thread_cpu,
};

/// A larger body is inflated and parsed elsewhere. This many bytes of JSON take a worker about 0.3 ms.
const ON_WORKER_BYTES: usize = 64 << 10;

/// From so many bytes on, the work is timed. Timing it costs as much as parsing some hundred bytes.
const TIMED_BYTES: usize = 8 << 10;

/// A body without its content coding.
#[derive(Debug)]
pub struct Decoded {
    /// Its bytes.
    pub bytes: Bytes,
    /// Whose turn it takes.
    pub of: ChargedTo,
    /// The turn in which it was inflated. It keeps it until it is parsed: else thousands of bodies could be
    /// inflated, and wait.
    pub turn: Option<Turn>,
}

/// Undoes the content coding of a body ([`ContentCoding::decode`]).
pub async fn decode(
    node: &Node,
    of: ChargedTo,
    coding: ContentCoding,
    body: Bytes,
    max: usize,
) -> Result<Decoded, DecodeError> {
    if coding == ContentCoding::Identity {
        return Ok(Decoded { bytes: coding.decode(body, max)?, of, turn: None });
    }
    // A few bytes may inflate to many, so the worker tries with a lower bound.
    let max_here = max.min(ON_WORKER_BYTES);
    if body.len() <= ON_WORKER_BYTES {
        let decoded = on_worker(node, body.len(), || coding.decode(body.clone(), max_here));
        if max_here == max || !matches!(decoded, Err(DecodeError::TooLarge)) {
            return Ok(Decoded { bytes: decoded?, of, turn: None });
        }
    }
    let turn = node.large_bodies.take(&of).await;
    let (decoded, turn) = elsewhere(move || (coding.decode(body, max), turn)).await;
    Ok(Decoded { bytes: decoded?, of, turn })
}

/// Does `work` on a body.
pub async fn run<T: Send + 'static>(
    node: &Node,
    body: Decoded,
    work: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> T {
    let Decoded { bytes, of, turn } = body;
    if bytes.len() <= ON_WORKER_BYTES {
        return on_worker(node, bytes.len(), || work(&bytes));
    }
    let turn = match turn {
        Some(turn) => Some(turn),
        None => node.large_bodies.take(&of).await,
    };
    elsewhere(move || {
        let done = work(&bytes);
        drop((bytes, turn));
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
