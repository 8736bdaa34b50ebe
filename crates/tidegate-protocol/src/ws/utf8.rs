//! Validates text that arrives in pieces, cut anywhere (RFC 6455 8.1).
//!
//! Each byte is validated once, as it arrives: whole characters go into the `String`, and up to three bytes
//! of a character that is cut wait beside it. So the finished text needs neither a second check nor `unsafe`,
//! and a fault is found with the first byte that cannot be part of any text.

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    pub(super) text: String,
    cut: [u8; 4],
    cut_len: u8,
}

/// The bytes are not UTF-8, whatever comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// How many bytes have arrived.
    pub(super) fn len(&self) -> usize {
        self.text.len() + usize::from(self.cut_len)
    }

    /// Adds `bytes`. The caller has made room in `text`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), NotUtf8> {
        while self.cut_len > 0 {
            let Some((&next, rest)) = bytes.split_first() else {
                return Ok(());
            };
            // Four bytes are a character or a fault, so the index stays below 4.
            self.cut[usize::from(self.cut_len)] = next;
            self.cut_len += 1;
            bytes = rest;
            match std::str::from_utf8(&self.cut[..usize::from(self.cut_len)]) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_len = 0;
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(NotUtf8),
            }
        }
        let (whole, cut) = bytes.split_at(last_boundary(bytes));
        self.text.push_str(simdutf8::basic::from_utf8(whole).map_err(|_| NotUtf8)?);
        if !cut.is_empty() {
            match std::str::from_utf8(cut) {
                Err(error) if error.error_len().is_none() => {
                    self.cut[..cut.len()].copy_from_slice(cut);
                    self.cut_len = cut.len() as u8;
                }
                _ => return Err(NotUtf8),
            }
        }
        Ok(())
    }

    /// The whole text; an error if its last character is incomplete.
    pub(super) fn finish(self) -> Result<String, NotUtf8> {
        if self.cut_len == 0 { Ok(self.text) } else { Err(NotUtf8) }
    }
}

/// The index of a character that the end of `bytes` cuts; the length if none is cut.
fn last_boundary(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            _ => 1,
        };
        return if needs > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` in pieces of this length; the text, or how many were taken before the fault.
    fn feed(bytes: &[u8], piece: usize) -> Result<String, usize> {
        let mut utf8 = Utf8::default();
        for (i, chunk) in bytes.chunks(piece).enumerate() {
            utf8.push(chunk).map_err(|NotUtf8| i)?;
        }
        utf8.finish().map_err(|NotUtf8| bytes.len().div_ceil(piece))
    }

    proptest! {
        #[test]
        fn text_cut_anywhere_is_the_text(text: String, piece in 1usize..9) {
            prop_assert_eq!(feed(text.as_bytes(), piece), Ok(text));
        }

        #[test]
        fn bytes_pass_exactly_where_std_lets_them(
            bytes in proptest::collection::vec(prop_oneof![
                0x20u8..0x7F, 0x80u8..0xC0, Just(0xC0), Just(0xC2), Just(0xE0), Just(0xED), Just(0xEF),
                Just(0xF0), Just(0xF4), Just(0xF5), Just(0xFF), any::<u8>(),
            ], 0..12),
            piece in 1usize..5,
        ) {
            prop_assert_eq!(feed(&bytes, piece).is_ok(), std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn a_fault_shows_with_its_first_byte(bytes in proptest::collection::vec(any::<u8>(), 1..8)) {
            let expected = match std::str::from_utf8(&bytes) {
                Ok(text) => Ok(text.to_owned()),
                // The shortest prefix that nothing can make whole.
                Err(_) => Err((0..bytes.len())
                    .find(|end| {
                        std::str::from_utf8(&bytes[..=*end])
                            .is_err_and(|error| error.error_len().is_some())
                    })
                    .unwrap_or(bytes.len())),
            };
            prop_assert_eq!(feed(&bytes, 1), expected);
        }
    }
}
