//! `Content-Encoding: gzip` for server-sent events (RFC 1952), shared: an endless body of blocks that
//! refer to nothing before them, so that one block of a batch goes to everybody who sees the same
//! (R18).
//!
//! What is for one reader alone goes as it is, in a stored block: nobody pays a compressor for it, and
//! nothing later refers to it. A body is never ended: the checksum at its end would have to be kept up
//! for every reader; the connection is cut instead, behind the last frame.

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Crc;

use crate::deflate::compress_alone;

/// The head of a body (RFC 1952, section 2.3): deflate, no name, no time, system unknown.
pub const HEAD: Bytes = Bytes::from_static(&[0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF]);

/// The longest stored block (RFC 1951, section 3.2.4).
const STORED_MAX: usize = 0xFFFF;

/// A frame as a compressed block.
pub fn block(frame: &[u8]) -> Bytes {
    let mut block = compress_alone(frame);
    // What a WebSocket message leaves out: it ends the block here, on a byte.
    block.extend_from_slice(&[0, 0, 0xFF, 0xFF]);
    block.into()
}

/// `text` as a whole gzip member, for whoever takes it out of a frame.
pub fn member(text: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(text);
    let mut member = HEAD.to_vec();
    member.extend_from_slice(&compress_alone(text));
    // The end of the flush, and a final block of nothing in fixed codes (RFC 1951, section 3.2.6).
    member.extend_from_slice(&[0, 0, 0xFF, 0xFF, 3, 0]);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&crc.amount().to_le_bytes());
    member
}

/// Appends a frame as it is, in stored blocks.
pub fn store(frame: &Bytes, out: &mut Vec<Bytes>) {
    let mut rest = frame.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(STORED_MAX));
        let length = piece.len() as u16;
        let mut head = BytesMut::with_capacity(5);
        head.put_u8(0);
        head.put_u16_le(length);
        head.put_u16_le(!length);
        out.push(head.freeze());
        out.push(piece);
    }
}

/// Puts every frame of `frames` from `first` on into stored blocks.
pub fn store_from(first: usize, frames: &mut Vec<Bytes>) {
    let plain = frames.split_off(first);
    plain.iter().for_each(|frame| store(frame, frames));
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_body_of_blocks_and_stored_frames_reads_as_one() {
        let frames: Vec<Bytes> = (1..200_u32)
            .map(|number| {
                Bytes::from(format!("id: e-{number}\ndata: {}\n\n", "abc ".repeat(number as usize)))
            })
            .chain([Bytes::from(vec![b'x'; 200_000]), Bytes::new()])
            .collect();
        let mut body = vec![HEAD];
        for (index, frame) in frames.iter().enumerate() {
            if index % 3 == 0 {
                store(frame, &mut body);
            } else {
                body.push(block(frame));
            }
        }
        for frame in &frames {
            let (member, mut text) = (member(frame), Vec::new());
            GzDecoder::new(&member[..]).read_to_end(&mut text).expect("a whole member");
            assert!(text == *frame, "{} bytes of {}", text.len(), frame.len());
        }
        let mut text = Vec::new();
        let error = GzDecoder::new(&body.concat()[..]).read_to_end(&mut text).expect_err("never ended");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        assert!(text == frames.concat(), "{} bytes of {}", text.len(), frames.concat().len());
    }
}
