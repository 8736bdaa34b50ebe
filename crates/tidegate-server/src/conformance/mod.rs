//! The conformance kit: scripted streams over real sockets, for clients in any language.
//!
//! A *scenario* is a script of what the server does (events, holes, gaps, cuts, refusals, slow bytes) and of what
//! the client must do and deliver. All of them stand in `spec/conformance.toml`; `spec/README.md` is for authors
//! of clients. A *run* plays one scenario to one client over one transport, in an org of its own, and ends with a
//! verdict. `tidegate conformance` (`cli/conformance.rs`) starts the client for each run, or serves and lets a
//! page or a program ask for the runs and report what it got.
//!
//! What decides ([`run`]) is sans-IO; [`serve`] and [`conversation`] have the sockets, [`command`] the client's
//! processes. Nothing here is shared with the gateway's sessions, on purpose: a fault there must not be repeated in
//! what judges clients of it. Only the WebSocket codec and the table of codes are the protocol crate's.

mod command;
mod conversation;
mod frames;
mod live;
mod request;
mod run;
mod scenario;
mod serve;
mod step;
mod wire;

#[cfg(test)]
mod tests;

pub use command::Command;
pub use run::{Outcome, Verdict};
pub use scenario::{Need, Scenario, Transport, all};
pub use serve::{Choice, Kit};
