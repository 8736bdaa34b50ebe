//! Inflates compressed messages (RFC 7692 7.2.2), with a limit.

use std::{borrow::Cow, cell::RefCell};

use flate2::{Decompress, FlushDecompress, Status};

use super::{error::Violation, received::Received};

/// A server's messages, which may refer to those before them (RFC 7692 7.1.1: context takeover). One for each
/// connection of a client; it holds a window of 32 KiB.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(false))
    }
}

/// How the messages of a connection are inflated.
pub(super) enum Inflate<'i> {
    /// Each by itself, as a client sends them to us: no window is kept between messages.
    Alone,
    /// With what came before.
    Shared(&'i mut Inflater),
}

thread_local! {
    static ALONE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

impl Inflate<'_> {
    /// Inflates a message of at most `bytes_max` bytes.
    pub(super) fn message(
        &mut self,
        bytes: &[u8],
        is_text: bool,
        bytes_max: usize,
    ) -> Result<Received<'static>, Violation> {
        let plain = match self {
            Inflate::Alone => ALONE.with_borrow_mut(|stream| {
                stream.reset(false);
                inflate(stream, bytes, bytes_max)
            }),
            Inflate::Shared(Inflater(stream)) => inflate(stream, bytes, bytes_max),
        }?;
        if !is_text {
            return Ok(Received::Binary(Cow::Owned(plain)));
        }
        let text = String::from_utf8(plain).map_err(|_| Violation::TextNotUtf8)?;
        Ok(Received::Text(Cow::Owned(text)))
    }
}

fn inflate(stream: &mut Decompress, bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, Violation> {
    let mut plain = Vec::with_capacity(bytes_max.min(bytes.len().saturating_mul(4)) + 1);
    for mut input in [bytes, &[0, 0, 0xFF, 0xFF]] {
        while !input.is_empty() {
            let (taken, made) = (stream.total_in(), plain.len());
            let status = stream
                .decompress_vec(input, &mut plain, FlushDecompress::None)
                .map_err(|_| Violation::NotDeflate)?;
            let taken = usize::try_from(stream.total_in() - taken).unwrap_or(input.len());
            input = &input[taken..];
            if plain.len() > bytes_max {
                return Err(Violation::MessageTooLarge);
            }
            match status {
                // RFC 7692 7.2.3.4: a final block ends a stream, and another may follow.
                Status::StreamEnd => stream.reset(false),
                _ if plain.len() == plain.capacity() => {
                    plain.reserve(plain.len().clamp(64, bytes_max + 1));
                }
                _ if taken == 0 && plain.len() == made => return Err(Violation::NotDeflate),
                _ => {}
            }
        }
    }
    Ok(plain)
}
