//! Compressed messages of clients (RFC 7692): read however their bytes are cut, limited as they inflate, and
//! refused if the extension was not negotiated.

use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use tidegate_protocol::ws::{Limits, MessageReader, Received, Violation};

const MAX: usize = 4096;

/// A client's message (RFC 7692, section 7.2.1) in frames of at most `piece` bytes.
fn message(opcode: u8, plain: &[u8], flush: FlushCompress, piece: usize) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::default(), false);
    let mut payload = Vec::with_capacity(plain.len() + 100_000);
    deflate.compress_vec(plain, &mut payload, flush).expect("room enough");
    if flush == FlushCompress::Sync {
        payload.truncate(payload.len() - 4);
    } else {
        // A final block is followed by an empty one (RFC 7692, section 7.2.3.4).
        payload.push(0);
    }
    let count = payload.len().div_ceil(piece).max(1);
    let mut frames = Vec::new();
    for (index, piece) in payload.chunks(piece).enumerate() {
        let first = if index == 0 { 0x40 | opcode } else { 0 } | if index + 1 == count { 0x80 } else { 0 };
        frames.extend([first, 0x80 | 126]);
        if piece.len() < 126 {
            frames.pop();
            frames.push(0x80 | piece.len() as u8);
        } else {
            frames.extend((piece.len() as u16).to_be_bytes());
        }
        frames.extend([0; 4]);
        frames.extend(piece);
    }
    frames
}

fn read(bytes: &[u8], cut: usize, deflate: bool) -> Result<Vec<Vec<u8>>, Violation> {
    let limits = Limits { message_bytes_max: MAX, deflate, ..Limits::default() };
    let mut reader = MessageReader::new(limits);
    let mut messages = Vec::new();
    for piece in bytes.to_vec().chunks_mut(cut) {
        let mut input = &mut piece[..];
        while let Some(event) = reader.read(&mut input)? {
            match event {
                Received::Text(text) => messages.push(text.as_bytes().to_vec()),
                Received::Binary(bytes) => messages.push(bytes.into_owned()),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(reader.is_idle());
    Ok(messages)
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in(
        texts in prop::collection::vec("[a-z{}\":, ä]{0,900}", 1..5),
        piece in 64..400_usize,
        cut in 1..500_usize,
        is_final: bool,
    ) {
        let flush = if is_final { FlushCompress::Finish } else { FlushCompress::Sync };
        let bytes: Vec<u8> =
            texts.iter().flat_map(|text| message(1, text.as_bytes(), flush, piece)).collect();
        let expected: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        prop_assert_eq!(read(&bytes, cut, true), Ok(expected));
    }

    #[test]
    fn nothing_that_a_client_sends_breaks_the_reader(payload: Vec<u8>, cut in 1..50_usize) {
        let payload = &payload[..payload.len().min(125)];
        let mut bytes = vec![0xC1, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        bytes.extend(payload);
        let _ = read(&bytes, cut, true);
    }
}

#[test]
fn a_message_is_held_to_its_limit_as_it_inflates() {
    let sync = FlushCompress::Sync;
    let exact = message(2, &vec![7; MAX], sync, 60_000);
    assert_eq!(read(&exact, 10, true), Ok(vec![vec![7; MAX]]));
    for size in [MAX + 1, 1 << 24] {
        let bomb = message(2, &vec![7; size], sync, 60_000);
        assert_eq!(read(&bomb, 1000, true), Err(Violation::MessageTooLarge), "{size}");
    }
}

#[test]
fn rsv1_stands_on_the_first_frame_of_a_data_message_where_it_was_agreed_alone() {
    let hello = message(1, b"hello", FlushCompress::Sync, 100);
    assert_eq!(read(&hello, 100, true), Ok(vec![b"hello".to_vec()]));
    assert_eq!(read(&hello, 100, false), Err(Violation::ReservedBits));
    // Plain messages may come between.
    assert_eq!(read(b"\x81\x82\0\0\0\0hi", 100, true), Ok(vec![b"hi".to_vec()]));
    for (bytes, why) in [
        (&b"\x41\x80\0\0\0\0\xC0\x80\0\0\0\0"[..], "on a continuation"),
        (b"\xC9\x80\0\0\0\0", "on a ping"),
        (b"\xC8\x80\0\0\0\0", "on a close"),
        (b"\xA1\x80\0\0\0\0", "RSV2"),
        (b"\xD1\x80\0\0\0\0", "RSV3"),
    ] {
        assert_eq!(read(bytes, 100, true), Err(Violation::ReservedBits), "{why}");
    }
    let not_utf8 = message(1, &[0xFF, 0xFE], FlushCompress::Sync, 100);
    assert_eq!(read(&not_utf8, 100, true), Err(Violation::TextNotUtf8));
    assert_eq!(read(b"\xC1\x82\0\0\0\0\x07\xFF", 100, true), Err(Violation::NotDeflate));
}
