//! The content codings of request bodies (RFC 9110, section 8.4): which one a `Content-Encoding` names, and
//! the body without it.
//!
//! A body is inflated whole, when all of it is here, so the memory for what it inflates to is held only while
//! the events are read. For the server's publish requests.

use std::fmt;

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};

/// A coding that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    /// None.
    Identity,
    /// RFC 1952.
    Gzip,
    /// The zlib format (RFC 1950), whatever the name says.
    Deflate,
}

/// How many members a gzip body may have (RFC 1952, section 2.2). Each costs a new window.
const MEMBERS_MAX: usize = 100;

/// Why a body cannot be decoded. The text is one sentence for the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It inflates to more than the bound.
    #[error("the body inflates to more bytes than are taken")]
    TooLarge,
    /// It stops before the coding ends.
    #[error("the body is not whole: its {0} data ends early")]
    Truncated(ContentCoding),
    /// It is something else, or a checksum is wrong.
    #[error("the body is not what Content-Encoding says: it is damaged, or it is not {0}")]
    Damaged(ContentCoding),
    /// More bytes come after the end of the coding.
    #[error("the body has other bytes after its {0} data")]
    Trailing(ContentCoding),
    /// More gzip members than [`MEMBERS_MAX`].
    #[error("the body has more than {MEMBERS_MAX} gzip members; compress it as one")]
    TooManyMembers,
}

impl fmt::Display for ContentCoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContentCoding::Identity => "identity",
            ContentCoding::Gzip => "gzip (RFC 1952)",
            ContentCoding::Deflate => "deflate (the zlib format of RFC 1950)",
        })
    }
}

impl ContentCoding {
    /// The codings that are taken, in the form of `Accept-Encoding`.
    pub const TAKEN: &str = "gzip, deflate";

    /// The coding that the lines of `Content-Encoding` name; `None` if it is not taken, or if there are
    /// several. `identity` counts as none, and `x-gzip` as `gzip` (RFC 9110, section 8.4.1).
    pub fn of<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Option<Self> {
        let mut coding = Self::Identity;
        for name in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
            let next = match name.trim_ascii().to_ascii_lowercase().as_slice() {
                b"" | b"identity" => continue,
                b"gzip" | b"x-gzip" => Self::Gzip,
                b"deflate" => Self::Deflate,
                _ => return None,
            };
            if coding != Self::Identity {
                return None;
            }
            coding = next;
        }
        Some(coding)
    }

    /// The body without the coding, if it is at most `bytes_max` bytes. Takes at most that much memory, and
    /// time in proportion to `body` and `bytes_max`.
    ///
    /// # Errors
    /// [`DecodeError`] if the body is not whole and sound, or too large.
    pub fn decode(self, body: Bytes, bytes_max: usize) -> Result<Bytes, DecodeError> {
        if self == Self::Identity {
            return if body.len() > bytes_max { Err(DecodeError::TooLarge) } else { Ok(body) };
        }
        // Bodies of JSON usually grow four times or more.
        let mut plain = Vec::with_capacity(body.len().saturating_mul(4).min(bytes_max) + 1);
        let mut rest = &body[..];
        for _ in 0..MEMBERS_MAX {
            rest = self.inflate(rest, &mut plain, bytes_max)?;
            if rest.is_empty() {
                return Ok(plain.into());
            }
            if self != Self::Gzip || !rest.starts_with(&[0x1F, 0x8B]) {
                return Err(DecodeError::Trailing(self));
            }
        }
        Err(DecodeError::TooManyMembers)
    }

    /// Inflates one member to the end of `plain`. Returns what comes after it.
    fn inflate<'b>(
        self,
        mut input: &'b [u8],
        plain: &mut Vec<u8>,
        bytes_max: usize,
    ) -> Result<&'b [u8], DecodeError> {
        let mut inflater = match self {
            Self::Gzip => Decompress::new_gzip(15),
            _ => Decompress::new(true),
        };
        loop {
            let (taken, made) = (inflater.total_in(), plain.len());
            let status = inflater
                .decompress_vec(input, plain, FlushDecompress::None)
                .map_err(|_| DecodeError::Damaged(self))?;
            let taken = usize::try_from(inflater.total_in() - taken).unwrap_or(input.len());
            input = &input[taken..];
            if plain.len() > bytes_max {
                return Err(DecodeError::TooLarge);
            }
            match status {
                Status::StreamEnd => return Ok(input),
                _ if plain.len() == plain.capacity() => {
                    // Doubled, but one byte more than the bound is enough to see that it is exceeded.
                    let room = (bytes_max + 1 - plain.len()).min(plain.len().max(1024));
                    plain.reserve_exact(room);
                }
                _ if taken == 0 && plain.len() == made => return Err(DecodeError::Truncated(self)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;

    use super::{ContentCoding::*, *};

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).and_then(|()| encoder.finish()).expect("never fails")
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).and_then(|()| encoder.finish()).expect("never fails")
    }

    fn decode(coding: ContentCoding, body: &[u8], max: usize) -> Result<Vec<u8>, DecodeError> {
        coding.decode(Bytes::copy_from_slice(body), max).map(|plain| plain.to_vec())
    }

    #[test]
    fn a_coding_is_named_once() {
        for (lines, coding) in [
            (&[][..], Some(Identity)),
            (&["identity"], Some(Identity)),
            (&[""], Some(Identity)),
            (&["gzip"], Some(Gzip)),
            (&["GZip"], Some(Gzip)),
            (&[" x-gzip "], Some(Gzip)),
            (&["identity, gzip"], Some(Gzip)),
            (&["deflate"], Some(Deflate)),
            (&["br"], None),
            (&["zstd"], None),
            (&["gzip;q=1"], None),
            (&["gzip, gzip"], None),
            (&["deflate", "gzip"], None),
            (&["gzip", "br"], None),
        ] {
            assert_eq!(ContentCoding::of(lines.iter().map(|line| line.as_bytes())), coding, "{lines:?}");
        }
    }

    #[test]
    fn what_is_not_whole_and_sound_is_refused() {
        let plain = br#"{"service":"s"}"#.repeat(100);
        let (whole, of_zlib) = (gzip(&plain), zlib(&plain));
        assert_eq!(decode(Gzip, &whole, 1500), Ok(plain.clone()));
        assert_eq!(decode(Deflate, &of_zlib, 1500), Ok(plain.clone()));
        assert_eq!(decode(Identity, &plain, 1500), Ok(plain.clone()));
        for coding in [Gzip, Deflate] {
            let body = if coding == Gzip { &whole } else { &of_zlib };
            for cut in 0..body.len() {
                assert_eq!(decode(coding, &body[..cut], 1500), Err(DecodeError::Truncated(coding)), "{cut}");
            }
            // The checksum, which begins in the last eight bytes of gzip and the last four of zlib.
            let mut broken = body.clone();
            let at = body.len() - if coding == Gzip { 8 } else { 4 };
            broken[at] ^= 1;
            assert_eq!(decode(coding, &broken, 1500), Err(DecodeError::Damaged(coding)));
            assert_eq!(decode(coding, &plain, 1500), Err(DecodeError::Damaged(coding)));
            let more = [body, &b"more"[..]].concat();
            assert_eq!(decode(coding, &more, 1500), Err(DecodeError::Trailing(coding)));
            assert_eq!(decode(coding, body, 1499), Err(DecodeError::TooLarge));
        }
        // Raw deflate is not the coding `deflate`, though some clients send it.
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::best());
        raw.write_all(&plain).expect("never fails");
        let raw = raw.finish().expect("never fails");
        assert_eq!(decode(Deflate, &raw, 1500), Err(DecodeError::Damaged(Deflate)));
        assert_eq!(decode(Identity, &plain, 1499), Err(DecodeError::TooLarge));
    }

    #[test]
    fn a_gzip_body_may_have_several_members() {
        let two = [gzip(b"ab"), gzip(b""), gzip(b"cd")].concat();
        assert_eq!(decode(Gzip, &two, 4), Ok(b"abcd".to_vec()));
        assert_eq!(decode(Gzip, &two, 3), Err(DecodeError::TooLarge));
        assert_eq!(decode(Gzip, &two[..two.len() - 1], 4), Err(DecodeError::Truncated(Gzip)));
        let many = gzip(b"").repeat(MEMBERS_MAX + 1);
        assert_eq!(decode(Gzip, &many, 4), Err(DecodeError::TooManyMembers));
        let of_zlib = zlib(b"ab").repeat(2);
        assert_eq!(decode(Deflate, &of_zlib, 4), Err(DecodeError::Trailing(Deflate)));
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_the_bound() {
        let bomb = gzip(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(decode(Gzip, &bomb, 1 << 20), Err(DecodeError::TooLarge));
        let mut plain = Vec::new();
        assert_eq!(Gzip.inflate(&bomb, &mut plain, 1 << 20), Err(DecodeError::TooLarge));
        assert!(plain.capacity() <= (1 << 20) + 1, "{}", plain.capacity());
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(plain in proptest::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert_eq!(decode(Gzip, &gzip(&plain), plain.len()), Ok(plain.clone()));
            prop_assert_eq!(decode(Deflate, &zlib(&plain), plain.len()), Ok(plain));
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..60) {
            let mut broken = gzip(b"some text, some text");
            let at = at.min(broken.len() - 1);
            broken[at] ^= body.first().copied().unwrap_or(1);
            for coding in [Identity, Gzip, Deflate] {
                let _ = decode(coding, &body, 100);
                let _ = decode(coding, &broken, 100);
            }
        }
    }
}
