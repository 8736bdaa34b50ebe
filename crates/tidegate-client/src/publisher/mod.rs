//! Publishes events: in batches, with retries that cannot store an event twice, and an outcome for each event.
//!
//! **What it is.** [`Publisher`] gives each event an id before its first try and keeps it over all tries. It waits
//! as long as the gateway asks, finds the event because of which a batch was refused, and keeps the order of the
//! events of one org and service: one request is on its way at a time.
//!
//! **What it is not.** It keeps nothing on disk: what is not stored when the process ends is lost, and
//! [`Publisher::close`] says what that is.
//!
//! **Reading order.** [`Publisher`], [`Outcome`]; then `queue`, `answer`, and `driver`, which has the IO.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//! use tidegate_client::publisher::{NewEvent, Outcome, Publisher};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let publisher = Publisher::builder("https://events.example.com", "tgk_...").org("acme").build()?;
//!
//! let event = NewEvent::new("finance", "invoice.paid", serde_json::json!({"amount": "1200.00"}));
//! match publisher.publish(event).await {
//!     Outcome::Stored(stored) | Outcome::Duplicate(stored) => println!("at {}", stored.cursor),
//!     Outcome::Unknown(unknown) => println!("publish it again as {}: {}", unknown.id, unknown.detail),
//!     Outcome::Refused(refused) => println!("{:?}: {}", refused.pointer(), refused.detail),
//! }
//!
//! // Before the process ends. What is not stored after 10 s is given up, and returned.
//! for left in publisher.close(Duration::from_secs(10)).await {
//!     eprintln!("not stored for certain: {}", left.id());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Events share a request if they are published at the same time: from several tasks, or with
//! [`Publisher::send`], which waits for room alone and gives a [`Receipt`] for the outcome.

mod answer;
mod builder;
mod delay;
mod driver;
mod event;
mod fault;
mod handle;
mod outcome;
mod queue;
#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use event::NewEvent;
pub use handle::{Full, Publisher, Receipt};
pub use outcome::{FieldError, Outcome, Refused, Stored, Unknown};
