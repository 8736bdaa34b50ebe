//! How a peer can break RFC 6455, RFC 7692 or a limit.

/// How a peer, mostly a client, broke the protocol or a limit. Send a close frame with [`Violation::close_code`] and this
/// error's text, then close the socket (RFC 6455 7.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// RFC 6455 5.2: no extension that gives RSV1, RSV2 or RSV3 a meaning was agreed.
    #[error("a frame has a reserved bit set, and no extension was agreed")]
    ReservedBits,
    /// RFC 6455 5.2: opcodes 3 to 7 and 11 to 15.
    #[error("a frame has a reserved opcode")]
    ReservedOpcode,
    /// RFC 6455 5.1: a client masks.
    #[error("a client's frames must be masked")]
    Unmasked,
    /// RFC 6455 5.1: a server does not mask.
    #[error("a server's frames must not be masked")]
    Masked,
    /// RFC 6455 5.5.
    #[error("a control frame must not be fragmented")]
    FragmentedControl,
    /// RFC 6455 5.5.
    #[error("a control frame carries at most 125 bytes")]
    OversizedControl,
    /// RFC 6455 5.2.
    #[error("a frame's length must be written in its shortest form")]
    NonMinimalLength,
    /// RFC 6455 5.2: the highest bit of a length is zero.
    #[error("a frame's length must be below 2^63")]
    LengthOverflow,
    /// RFC 6455 5.4.
    #[error("a continuation frame came while no message was open")]
    LoneContinuation,
    /// RFC 6455 5.4.
    #[error("a message began before the last one ended")]
    InterleavedMessage,
    /// RFC 6455 5.5.1: a body begins with a code of two bytes.
    #[error("a close frame must be empty or begin with a code of two bytes")]
    CloseTooShort,
    /// RFC 6455 7.4.
    #[error("a close frame has a code that must not be sent")]
    CloseCode,
    /// RFC 6455 5.5.1, 8.1.
    #[error("the reason of a close frame is not UTF-8")]
    ReasonNotUtf8,
    /// RFC 6455 8.1.
    #[error("a text message is not UTF-8")]
    TextNotUtf8,
    /// RFC 7692, section 7.2.2.
    #[error("a compressed message is not deflate data")]
    NotDeflate,
    /// Over [`super::Limits::message_bytes_max`].
    #[error("a message is larger than is taken here")]
    MessageTooLarge,
    /// Over [`super::Limits::message_fragments_max`].
    #[error("a message has more fragments than are taken here")]
    TooManyFragments,
}

impl Violation {
    /// The code to close with (RFC 6455 7.4.1): 1002, 1007 or 1009.
    pub const fn close_code(self) -> u16 {
        match self {
            Violation::ReservedBits
            | Violation::ReservedOpcode
            | Violation::Unmasked
            | Violation::Masked
            | Violation::FragmentedControl
            | Violation::OversizedControl
            | Violation::NonMinimalLength
            | Violation::LengthOverflow
            | Violation::LoneContinuation
            | Violation::InterleavedMessage
            | Violation::CloseTooShort
            | Violation::CloseCode => 1002,
            Violation::ReasonNotUtf8 | Violation::TextNotUtf8 | Violation::NotDeflate => 1007,
            Violation::MessageTooLarge | Violation::TooManyFragments => 1009,
        }
    }
}
