//! Decodes the `data` of a `batch` frame with `compressed` (`?batch=gzip`): base64 (RFC 4648, section 4) and
//! gzip (RFC 1952), up to a bound.

use std::io::Read as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;

/// The longest text that a reader inflates, in bytes. The largest batch of a gateway with default limits is
/// far below: 256 KiB for one event, or 64 KiB for several.
pub const OPENED_BYTES_MAX: usize = 16 << 20;

/// The text of the plain `batch` frame in `data`. `None` if that is not gzip in base64, not UTF-8, or more
/// than [`OPENED_BYTES_MAX`].
pub fn open(data: &str) -> Option<String> {
    let member = STANDARD.decode(data).ok()?;
    let mut text = String::new();
    let most = OPENED_BYTES_MAX as u64;
    GzDecoder::new(&member[..]).take(most + 1).read_to_string(&mut text).ok()?;
    (text.len() <= OPENED_BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    #[test]
    fn what_is_opened_is_bounded_and_whole() {
        let wrap = |text: &[u8]| STANDARD.encode(member(text));
        let most = vec![b' '; OPENED_BYTES_MAX];
        assert_eq!(open(&wrap(b"{}")).as_deref(), Some("{}"));
        assert_eq!(open(&wrap(&most)).map(|text| text.len()), Some(OPENED_BYTES_MAX));
        assert_eq!(open(&wrap(&[&most[..], b" "].concat())), None);
        assert_eq!(open(&wrap(b"\xFF")), None, "not text");
        assert_eq!(open("{}"), None, "not base64");
        assert_eq!(open(&STANDARD.encode("{}")), None, "not gzip");
        let member = member(b"{}");
        assert_eq!(open(&STANDARD.encode(&member[..member.len() - 1])), None, "cut");
    }
}
