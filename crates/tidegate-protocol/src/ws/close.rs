//! Close frames (RFC 6455 5.5.1, 7.4): the codes that may be sent, and the body of one that a client sent.

use std::borrow::Cow;

use super::{error::Violation, head::CONTROL_BYTES_MAX};

/// The longest reason, in bytes of UTF-8: the 125 of a control frame without the code (RFC 6455 5.5).
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// The body of a client's close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close<'a> {
    /// Its code; `None` if the frame was empty (1005, which itself is never sent).
    pub code: Option<u16>,
    /// Its reason, often empty.
    pub reason: Cow<'a, str>,
}

impl<'a> Close<'a> {
    /// Parses the payload of a close frame.
    pub(super) fn parse(payload: Cow<'a, [u8]>) -> Result<Self, Violation> {
        let code = match *payload {
            [] => {
                return Ok(Self { code: None, reason: Cow::Borrowed("") });
            }
            [_] => return Err(Violation::CloseTooShort),
            [high, low, ..] => u16::from_be_bytes([high, low]),
        };
        if !is_sendable(code) {
            return Err(Violation::CloseCode);
        }
        let reason = match payload {
            Cow::Borrowed(payload) => as_reason(payload)?.into(),
            Cow::Owned(payload) => as_reason(&payload)?.to_owned().into(),
        };
        Ok(Self { code: Some(code), reason })
    }
}

fn as_reason(payload: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(&payload[2..]).map_err(|_| Violation::ReasonNotUtf8)
}

/// Whether a close frame may have this code: those of RFC 6455 7.4.1 and of its registry (1012 to 1014) that
/// are not reserved for local use, and 3000 to 4999 (7.4.2).
pub const fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
