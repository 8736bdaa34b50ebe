//! `Content-Encoding: gzip` (RFC 1952) for server-sent events, shared: the blocks of a body refer to nothing
//! before them, so that one block of a batch goes to everybody who sees the same (R18).
//!
//! A frame for one reader alone goes uncompressed, in a stored block: it costs no compressor, and nothing
//! later refers to it. A body of its own has only the checksum at its end. That is not computed over the
//! bytes again for each reader: the CRC of each block is computed once, and CRCs are combined (as
//! `crc32_combine` of zlib).

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Crc;

use crate::window::{EMPTY_BLOCK, FLUSH_END, Parts, STORED_MAX, compress_parts, stored_head};

/// The header of a body (RFC 1952, section 2.3): deflate, no name, no time, system unknown.
const HEAD: Bytes = Bytes::from_static(&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF]);

/// The last block, empty and stored (RFC 1951, section 3.2.4).
const FINAL_BLOCK: [u8; 5] = [1, 0, 0, 0xFF, 0xFF];

/// An empty stored block that is not the last. Some inflaters (Go's `compress/gzip`, which `net/http` uses
/// unasked) hand over what they have only at such a block: without it they hold a stored frame back.
const FLUSH: Bytes = Bytes::from_static(&EMPTY_BLOCK);

/// A frame as a compressed deflate block (RFC 1951), for any number of bodies.
#[derive(Debug, Clone)]
pub struct Block {
    bytes: Bytes,
    plain: Plain,
}

/// What is needed to append a text to a checksum.
#[derive(Debug, Clone, Copy)]
struct Plain {
    crc: u32,
    bytes: u32,
    /// The factor for the CRC of the text before it: x to the power of the number of its bits.
    shift: u32,
}

impl Plain {
    fn of(text: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(text);
        // Lengths are modulo 2^32 (RFC 1952, section 2.3.1).
        Self { crc: crc.sum(), bytes: text.len() as u32, shift: power_of_bytes(text.len()) }
    }
}

impl Block {
    /// Compresses a frame of these parts.
    pub fn new(frame: &[u8], parts: &Parts) -> Self {
        Self::compressed(frame, compress_parts(frame, parts))
    }

    /// The block of a frame that was compressed to `block` ([`compress_alone`](crate::deflate::compress_alone)).
    pub fn compressed(frame: &[u8], mut block: Vec<u8>) -> Self {
        // The empty stored block that a WebSocket message leaves out: it ends the block at a byte.
        block.extend_from_slice(&FLUSH_END);
        Self { bytes: block.into(), plain: Plain::of(frame) }
    }

    /// Its bytes on the wire.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// `text` as a whole gzip member (RFC 1952), for an envelope ([`crate::envelope`]). `block` is what
/// [`compress_alone`](crate::deflate::compress_alone) has made of it.
pub fn member(text: &[u8], block: Vec<u8>) -> Vec<u8> {
    let mut member = Vec::new();
    let mut body = GzipBody::begin(&mut member);
    body.share(&Block::compressed(text, block), &mut member);
    body.end(&mut member);
    member.concat()
}

/// A body that has begun: the checksum and length for its end (RFC 1952, section 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GzipBody {
    crc: u32,
    bytes: u32,
}

impl GzipBody {
    /// Begins a body: appends its header to `out`.
    pub fn begin(out: &mut Vec<Bytes>) -> Self {
        out.push(HEAD);
        Self::default()
    }

    /// Appends a shared block.
    pub fn share(&mut self, block: &Block, out: &mut Vec<Bytes>) {
        self.account(block.plain);
        out.push(block.bytes.clone());
    }

    /// Appends a frame uncompressed, in stored blocks, and what makes a reader hand it over.
    pub fn store(&mut self, frame: &Bytes, out: &mut Vec<Bytes>) {
        self.account(Plain::of(frame));
        let mut rest = frame.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(STORED_MAX));
            out.push(Bytes::copy_from_slice(&stored_head(&piece)));
            out.push(piece);
        }
        out.push(FLUSH);
    }

    /// Ends the body: appends the final block, the checksum and the length.
    pub fn end(self, out: &mut Vec<Bytes>) {
        let mut end = BytesMut::with_capacity(FINAL_BLOCK.len() + 8);
        end.put_slice(&FINAL_BLOCK);
        end.put_u32_le(self.crc);
        end.put_u32_le(self.bytes);
        out.push(end.freeze());
    }

    fn account(&mut self, plain: Plain) {
        self.crc = multiply(self.crc, plain.shift) ^ plain.crc;
        self.bytes = self.bytes.wrapping_add(plain.bytes);
    }
}

/// The polynomial of CRC-32 (RFC 1952, section 8) in reflected form: the lowest bit is the highest power.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// The product of two polynomials over GF(2), modulo [`POLYNOMIAL`], in reflected form: the highest bit is
/// x^0.
const fn multiply(mut a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut at = 1 << 31;
    while at != 0 {
        if b & at != 0 {
            product ^= a;
        }
        a = (a >> 1) ^ (POLYNOMIAL & (a & 1).wrapping_neg());
        at >>= 1;
    }
    product
}

/// x to the power of the number of bits in `bytes` bytes, by repeated squaring: the factor for the CRC of a
/// text that this many bytes follow.
fn power_of_bytes(mut bytes: usize) -> u32 {
    let (mut power, mut square) = (1 << 31, 1 << (31 - 8));
    while bytes != 0 {
        if bytes & 1 != 0 {
            power = multiply(power, square);
        }
        square = multiply(square, square);
        bytes >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::deflate::compress_alone;

    fn block(frame: &[u8]) -> Block {
        Block::compressed(frame, compress_alone(frame))
    }

    #[test]
    fn r18_a_body_of_blocks_and_stored_frames_reads_as_one_and_ends_cleanly() {
        let frames: Vec<Bytes> = (1..200_u32)
            .map(|number| {
                Bytes::from(format!("id: e-{number}\ndata: {}\n\n", "abc ".repeat(number as usize)))
            })
            // Longer than a stored block can be, once in each form.
            .chain([Bytes::from(vec![b'x'; 200_000]), Bytes::new(), Bytes::from(vec![b'y'; 200_000])])
            .chain([Bytes::from_static(b"x")])
            .collect();
        let mut out = Vec::new();
        let mut body = GzipBody::begin(&mut out);
        for (index, frame) in frames.iter().enumerate() {
            if index % 3 == 0 {
                body.store(frame, &mut out);
            } else {
                body.share(&block(frame), &mut out);
            }
        }
        let cut = out.concat();
        body.end(&mut out);
        let mut text = Vec::new();
        GzDecoder::new(&out.concat()[..]).read_to_end(&mut text).expect("a valid end");
        assert!(text == frames.concat(), "{} bytes of {}", text.len(), frames.concat().len());
        for frame in &frames {
            let (member, mut text) = (member(frame, compress_alone(frame)), Vec::new());
            GzDecoder::new(&member[..]).read_to_end(&mut text).expect("a whole member");
            assert!(text == *frame, "{} bytes of {}", text.len(), frame.len());
        }
        // Without its end it reads as far as it goes, and shows that it was cut.
        let mut text = Vec::new();
        let error = GzDecoder::new(&cut[..]).read_to_end(&mut text).expect_err("no end");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(text == frames.concat());
    }

    #[test]
    fn r18_every_frame_ends_with_an_empty_stored_block() {
        let frame = Bytes::from_static(b"data: {}\n\n");
        let mut out = Vec::new();
        let mut body = GzipBody::begin(&mut out);
        body.store(&frame, &mut out);
        assert!(out.concat().ends_with(&[0, 0, 0xFF, 0xFF]), "{out:?}");
        body.share(&block(&frame), &mut out);
        assert!(out.concat().ends_with(&[0, 0, 0xFF, 0xFF]), "{out:?}");
    }

    #[test]
    fn r18_any_block_may_stand_anywhere_in_a_body() {
        let blocks: Vec<(String, Block)> = (0..9)
            .map(|number| {
                let text = format!("data: {}\n\n", format!("abc{number}").repeat(500));
                (text.clone(), block(text.as_bytes()))
            })
            .collect();
        for first in 0..blocks.len() {
            let mut out = Vec::new();
            let mut body = GzipBody::begin(&mut out);
            let order: Vec<usize> = (0..20).map(|step| (first + step * step) % blocks.len()).collect();
            order.iter().for_each(|&index| body.share(&blocks[index].1, &mut out));
            body.end(&mut out);
            let mut text = String::new();
            GzDecoder::new(&out.concat()[..]).read_to_string(&mut text).expect("a valid body");
            assert_eq!(text, order.iter().map(|&index| blocks[index].0.as_str()).collect::<String>());
        }
    }
}
