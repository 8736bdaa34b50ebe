//! Checks compression in builds with debug assertions: whatever a session sends compressed is inflated as its
//! client will inflate it, and compared with the plain frame (R18, R19).
//!
//! A wrong back-reference is no error to an inflater: it yields other text, as does every later frame of
//! the context, and only a client would notice. In builds without debug assertions the verifier is empty
//! and costs nothing.

use bytes::Bytes;

/// One client's inflater. It allocates its memory (about 50 KiB) with the first compressed frame.
#[derive(Debug, Default)]
pub struct Verifier {
    #[cfg(debug_assertions)]
    inflater: Option<Box<flate2::Decompress>>,
}

#[cfg(not(debug_assertions))]
impl Verifier {
    /// Checks nothing.
    #[inline]
    pub fn see_message(&mut self, _frame: &Bytes, _plain: &Bytes, _is_alone: bool) {}

    /// Checks nothing.
    #[inline]
    pub fn see_blocks(&mut self, _blocks: &[Bytes], _plain: &Bytes) {}
}

#[cfg(debug_assertions)]
impl Verifier {
    /// Checks a WebSocket frame, which must inflate to the frame `plain`. `is_alone`: the client forgets each
    /// message before the next (`server_no_context_takeover`).
    pub fn see_message(&mut self, frame: &Bytes, plain: &Bytes, is_alone: bool) {
        use tidegate_protocol::ws;

        if !ws::is_deflated(frame) {
            assert!(frame == plain, "a frame that is not compressed is another one");
            return;
        }
        let plain = &plain[ws::header_length(plain)..];
        let text = self.inflate(&[&frame[ws::header_length(frame)..], &[0, 0, 0xFF, 0xFF]], plain.len());
        if is_alone && let Some(inflater) = &mut self.inflater {
            inflater.reset(false);
        }
        assert!(text.as_deref() == Some(plain), "R19: the client of this frame reads other text");
    }

    /// Checks blocks of a gzip body, which must inflate to `plain`.
    pub fn see_blocks(&mut self, blocks: &[Bytes], plain: &Bytes) {
        let blocks: Vec<&[u8]> = blocks.iter().map(|block| &block[..]).collect();
        let text = self.inflate(&blocks, plain.len());
        assert!(text.as_deref() == Some(&plain[..]), "R18: the client of this block reads other text");
    }

    /// The text that the client inflates from `pieces`; `None` if they are not deflate data. Stops one byte
    /// after `length`.
    fn inflate(&mut self, pieces: &[&[u8]], length: usize) -> Option<Vec<u8>> {
        use flate2::{Decompress, FlushDecompress, Status};

        let inflater = self.inflater.get_or_insert_with(|| Box::new(Decompress::new(false)));
        let mut text = Vec::with_capacity(length + 1);
        for piece in pieces {
            let began = inflater.total_in();
            loop {
                let taken = usize::try_from(inflater.total_in() - began).ok()?;
                if taken == piece.len() || text.len() > length {
                    break;
                }
                let status =
                    inflater.decompress_vec(&piece[taken..], &mut text, FlushDecompress::Sync).ok()?;
                if status == Status::StreamEnd {
                    return None;
                }
            }
        }
        Some(text)
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;
    use crate::{
        deflate::compress_alone,
        gzip::{Block, GzipBody},
    };
    use tidegate_protocol::ws;

    fn deflated(text: &str) -> Bytes {
        ws::deflated_frame(true, &compress_alone(text.as_bytes()))
    }

    fn is_caught(see: impl FnOnce(&mut Verifier) + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(|| see(&mut Verifier::default())).is_err()
    }

    #[test]
    fn r19_a_verifier_takes_what_reads_right_and_nothing_else() {
        let (text, other) = (ws::text_frame(&"abc".repeat(99)), ws::text_frame(&"abd".repeat(99)));
        assert!(!is_caught(|verifier| {
            verifier.see_message(&text, &text, false);
            verifier.see_message(&deflated(&"abc".repeat(99)), &text, false);
            verifier.see_message(&deflated(&"abc".repeat(99)), &text, true);
        }));
        assert!(is_caught(|verifier| verifier.see_message(&deflated(&"abd".repeat(99)), &text, false)));
        assert!(is_caught(|verifier| verifier.see_message(&other, &text, false)), "not compressed");
        assert!(is_caught(|verifier| verifier.see_message(&deflated("x"), &text, false)), "shorter");
        assert!(is_caught(|verifier| verifier.see_message(&deflated(&"abc".repeat(100)), &text, false)));
        // A frame for this reader alone must not be compressed.
        let private = deflated("private");
        assert!(is_caught(|verifier| verifier.see_message(&private, &private, false)));
    }

    #[test]
    fn r18_a_verifier_takes_blocks_that_read_right_and_nothing_else() {
        let frame = Bytes::from_static(b"data: abcabcabcabcabcabc\n\n");
        let blocks = |frame: &Bytes| {
            let mut out = Vec::new();
            GzipBody::default().share(&Block::compressed(frame, compress_alone(frame)), &mut out);
            GzipBody::default().store(frame, &mut out);
            out
        };
        let twice = Bytes::from([&frame[..], &frame[..]].concat());
        let right = blocks(&frame);
        assert!(!is_caught(|verifier| verifier.see_blocks(&right, &twice)));
        assert!(is_caught(|verifier| verifier.see_blocks(&right[..1], &twice)));
        assert!(is_caught(|verifier| verifier.see_blocks(&right, &frame)));
        assert!(
            is_caught(|verifier| verifier.see_blocks(std::slice::from_ref(&frame), &frame)),
            "no block at all"
        );
    }
}
