//! Parses the head of a frame (RFC 6455 5.2), and refuses a faulty one with its first faulty byte.

use super::error::Violation;

/// The longest payload of a control frame, in bytes (RFC 6455 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Flags and short length, then up to eight bytes of length, then the mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const RSV1: u8 = 0x40;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub(super) const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xA,
        }
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            _ => return None,
        })
    }

    pub(super) const fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// A frame whose head is read, and how much of its payload is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) fin: bool,
    /// RSV1: the message is compressed (RFC 7692, section 6).
    pub(super) is_deflated: bool,
    /// Rotated with the payload, so that its first byte is for the next byte to come.
    pub(super) mask: [u8; 4],
    pub(super) left: u64,
}

/// The bytes of a head that have arrived so far. Kept in place: a head is often cut in two, and an allocation
/// for it would be the only one of an idle connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    filled: u8,
}

impl Head {
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes from `input` until the head is whole; `None` if the input ends before that. `is_masked` says
    /// whether the sender must mask: a client must, a server must not (RFC 6455 5.1).
    pub(super) fn read(
        &mut self,
        input: &mut &mut [u8],
        deflate: bool,
        is_masked: bool,
    ) -> Result<Option<Frame>, Violation> {
        if !self.fill(input, 2) {
            return Ok(None);
        }
        let (opcode, fin) = check_flags(self.bytes[0], self.bytes[1], deflate, is_masked)?;
        let extended = match self.bytes[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if !self.fill(input, 2 + extended) {
            return Ok(None);
        }
        let left = match extended {
            2 => u64::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]])),
            8 => {
                let mut length = [0; 8];
                length.copy_from_slice(&self.bytes[2..10]);
                u64::from_be_bytes(length)
            }
            _ => u64::from(self.bytes[1] & !MASKED),
        };
        // RFC 6455 5.2: the shortest form, and the highest bit is zero.
        if (extended == 2 && left < 126) || (extended == 8 && left <= 0xFFFF) {
            return Err(Violation::NonMinimalLength);
        }
        if left > i64::MAX as u64 {
            return Err(Violation::LengthOverflow);
        }
        let mut mask = [0; 4];
        if is_masked {
            if !self.fill(input, 2 + extended + 4) {
                return Ok(None);
            }
            mask.copy_from_slice(&self.bytes[2 + extended..2 + extended + 4]);
        }
        self.filled = 0;
        let is_deflated = self.bytes[0] & RSV1 != 0;
        Ok(Some(Frame { opcode, fin, is_deflated, mask, left }))
    }

    /// Fills up to `wanted` bytes in total; returns whether they have arrived.
    fn fill(&mut self, input: &mut &mut [u8], wanted: usize) -> bool {
        let filled = usize::from(self.filled);
        let taken = wanted.saturating_sub(filled).min(input.len());
        let (head, rest) = std::mem::take(input).split_at_mut(taken);
        self.bytes[filled..filled + taken].copy_from_slice(head);
        *input = rest;
        self.filled += taken as u8;
        usize::from(self.filled) >= wanted
    }
}

fn check_flags(first: u8, second: u8, deflate: bool, is_masked: bool) -> Result<(Opcode, bool), Violation> {
    let opcode = Opcode::from_bits(first & 0x0F);
    // RFC 7692 6: RSV1 is allowed on the first frame of a data message, if the extension was negotiated.
    let is_first = matches!(opcode, Some(Opcode::Text | Opcode::Binary));
    let allowed = if deflate && is_first { RSV1 } else { 0 };
    if first & RESERVED & !allowed != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = opcode.ok_or(Violation::ReservedOpcode)?;
    let fin = first & FIN != 0;
    match (second & MASKED != 0, is_masked) {
        (false, true) => return Err(Violation::Unmasked),
        (true, false) => return Err(Violation::Masked),
        _ => {}
    }
    if opcode.is_control() {
        if !fin {
            return Err(Violation::FragmentedControl);
        }
        if usize::from(second & !MASKED) > CONTROL_BYTES_MAX {
            return Err(Violation::OversizedControl);
        }
    }
    Ok((opcode, fin))
}

/// Takes the mask off, or puts it on (RFC 6455 5.3), eight bytes at a time; the compiler makes SIMD of it.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unmask_equals_the_definition(payload: Vec<u8>, mask: [u8; 4], start in 0usize..16) {
            let start = start.min(payload.len());
            let expected: Vec<u8> =
                payload[start..].iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
            let mut unmasked = payload.clone();
            unmask(&mut unmasked[start..], mask);
            prop_assert_eq!(&unmasked[start..], &expected[..]);
            prop_assert_eq!(&unmasked[..start], &payload[..start]);
        }
    }
}
