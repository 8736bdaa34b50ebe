//! The two transports of a stream, by name.

/// The transport of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket.
    WebSocket,
    /// Server-sent events.
    Sse,
}

impl Transport {
    /// Its name in the `transport` label and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::WebSocket => "websocket",
            Transport::Sse => "sse",
        }
    }
}
