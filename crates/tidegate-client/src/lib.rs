//! A client of the Tidegate realtime gateway, for tokio: it follows the events of one org, each once and in
//! order, or with a declared gap, whatever happens to the connection.
//!
//! **What it is.** [`Client`] follows a stream over WebSocket, or over SSE where WebSocket does not get
//! through. It renews its token, comes back after every loss, and resumes at its cursor. What it decides is
//! decided by [`tidegate_protocol::client::Session`], without IO; here are the sockets, the timer and the task.
//!
//! **What it is not.** It knows nothing of a gateway's inside, and prints and stores nothing: the application
//! keeps the cursor, if it wants to continue after a restart.
//!
//! **Reading order.** [`Builder`] and [`Client`], [`Deliveries`], [`Delivery`]; then `driver`, and `transport`.
//! [`publisher`] stands beside them: it sends events.
//!
//! # Example
//!
//! ```no_run
//! use tidegate_client::{Client, Delivery, TokenError};
//!
//! # async fn log_in() -> Result<String, std::io::Error> { Ok(String::new()) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, mut deliveries) = Client::builder("https://events.example.com")
//!     .org("acme")
//!     .services(["finance"])
//!     // Called for the first token and for each renewal. An error is tried again;
//!     // `Err(TokenError::fatal("..."))` ends the client.
//!     .token(|_request| async { Ok::<_, TokenError>(log_in().await?) })
//!     .connect()?;
//!
//! while let Some(delivery) = deliveries.next().await {
//!     // The error says why the stream has ended for good.
//!     match delivery? {
//!         Delivery::Event(event) => println!("{} {}", event.event, event.data_json()),
//!         Delivery::Gap(gap) => println!("events up to {} are missing: {}", gap.seq, gap.reason),
//!     }
//!     // Keep it where your application keeps its state, and pass it to `Builder::cursor` after a restart.
//!     let _position = client.cursor();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Deliveries`] is a [`futures_core::Stream`], too. An application that is slower than the stream slows the
//! gateway down, and loses nothing: at most 1,000 items wait ([`Builder::buffer`]), and while they do, the
//! connection is not read. The connection is kept as long as the application takes an item at least every 5 s;
//! otherwise it is left, and resumed when everything that waited has been taken. A gateway may end the stream of
//! a slow reader, too; then it is resumed.

pub mod gateway;
pub mod publisher;

mod builder;
mod client;
mod delivery;
mod driver;
mod queue;
mod random;
mod status;
mod token;
mod transport;

pub use builder::{Builder, ConfigError, Slow};
pub use client::Client;
pub use delivery::{Delivery, Ended, Event, Gap};
pub use queue::Deliveries;
pub use status::{Failure, Metrics, Notice, Status};
pub use tidegate_protocol::client::{ConnectionState, Phase, Transport};
pub use tidegate_protocol::{Cursor, Seq};
pub use token::{Token, TokenError, TokenReason, TokenRequest};

/// An HTTP client's certificate, for [`Builder::root_certificates`]: `Certificate::from_pem(bytes)`.
pub use reqwest::Certificate;
