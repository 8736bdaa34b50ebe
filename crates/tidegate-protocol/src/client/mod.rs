//! The client's side of a stream.
//!
//! **What it is.** [`Session`] is one client: it takes facts ([`Input`]: a frame came, the token is here, the
//! connection broke, its deadline has come) and says what to do ([`Output`]: open a connection, ask for a
//! token, hand this event to the application). Its driver owns the sockets and the timer; `tidegate-client`
//! has one over tokio. The same machine in TypeScript is `clients/typescript/src/session`, and
//! `spec/vectors` holds both to the same outputs.
//!
//! **What it is not.** There is no IO, no clock and no randomness: the time and the random draw are
//! arguments of [`Session::step`].
//!
//! **Reading order.** [`input`], [`output`] and [`state`]; `session` with its table of phases and inputs;
//! then what the cells do: `session/attempts`, `session/tokens`, `session/frames`, `session/delivery`,
//! `session/clock`. [`continuity`] has the comparisons of R2 and R3, [`delay`] the times between attempts.
//! [`StreamReader`] is continuity alone, for a reader that brings its own connection.
//!
//! The auditor (`tidegate-audit`) and the Python example have implementations of their own, on purpose: a
//! fault here must not be repeated there.

pub mod continuity;
mod cursor_json;
pub mod delay;
pub mod input;
mod members;
pub mod output;
mod reader;
mod session;
pub mod state;

pub use self::{
    continuity::Continuity,
    delay::{Backoff, STABLE_MS, delay},
    input::{Config, Input, WakeReason},
    output::{ConnectionState, Output, TokenReason, Transport},
    reader::{Outcome, StreamReader},
    session::Session,
    state::{Phase, State},
};
