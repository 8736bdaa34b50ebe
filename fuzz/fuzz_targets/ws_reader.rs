//! Any bytes from a client, in any cut, are events or one error: the same as fed whole, without a
//! panic, and with no more held than was sent.
//!
//! The first byte of an input chooses how the rest is cut, so seeds stay readable: `\x00` and a
//! client's bytes as they are on the wire.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::ws::{Received, Limits, Violation, MessageReader};

const LIMITS: Limits = Limits {
    message_bytes_max: 2048,
    message_fragments_max: 8,
    deflate: false,
};

fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Option<Violation>) {
    let mut reader = MessageReader::new(LIMITS);
    let (mut events, mut sent) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        sent += piece.len();
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match reader.read(&mut input) {
                Ok(Some(event)) => {
                    if let Received::Ping(payload) | Received::Pong(payload) = &event {
                        assert!(payload.len() <= 125);
                    }
                    events.push(format!("{event:?}"));
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(matches!(error.close_code(), 1002 | 1007 | 1009));
                    assert_eq!(reader.held_bytes(), 0);
                    return (events, Some(error));
                }
            }
        }
        assert!(input.is_empty(), "all input is taken");
        assert!(
            reader.held_bytes() <= 2 * sent + 512,
            "{} held for {sent}",
            reader.held_bytes()
        );
        assert!(!reader.is_idle() || reader.held_bytes() == 0);
    }
    (events, None)
}

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, 1 + usize::from(cut)), whole);
    assert_eq!(read(bytes, 1), whole);
});
