//! Frames (PROTOCOL.md, "Frames"): one enum for each direction, and the reasons of gaps.
//!
//! [`ServerFrame`] is what a gateway sends; clients read it, and [`crate::client::StreamReader`] decides
//! what it means for their cursor. [`ClientFrame`] is what a client sends; gateways read it.
//!
//! Not here: writing the gateway's frames. A gateway writes each frame once, straight into its transport's
//! framing (`tidegate_core::frame`); a test there reads all of them back through [`ServerFrame`].

mod client;
mod health;
mod server;

pub use client::{ClientFrame, read_client_frame};
pub use health::HealthReport;
pub use server::{
    BatchEvent, BatchFrame, CompressedBatchFrame, ErrorFrame, EventFrame, FrameError, GapFrame, GoawayFrame,
    HelloFrame, PingFrame, PongFrame, ServerFrame, StatusFrame,
};

/// The version of the protocol that this crate implements: `hello.protocol`, and the number in the
/// subprotocol `tidegate.v1` and in the path `/v1`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Why a `gap` frame skips a part of the log (PROTOCOL.md, "Gaps").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// Retention removed it.
    Retention,
    /// The reader was too slow, and its policy is `skip`.
    SlowConsumer,
    /// The log lost it or never had it: the cursor belongs to another incarnation of the log.
    Epoch,
    /// The cursor was made for other services.
    Filter,
}

impl GapReason {
    /// Every reason.
    pub const ALL: [GapReason; 4] =
        [GapReason::Retention, GapReason::SlowConsumer, GapReason::Epoch, GapReason::Filter];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            GapReason::Retention => "retention",
            GapReason::SlowConsumer => "slow_consumer",
            GapReason::Epoch => "epoch",
            GapReason::Filter => "filter",
        }
    }

    /// The reason with this wire name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}
