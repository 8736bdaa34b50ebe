//! Any bytes from a client that may compress, in any cut: the same events or one error as fed whole, no
//! message longer than its limit, however much it would inflate to, and no more held than the limits allow.
//!
//! The first byte of an input chooses the cut. The second says what stands in the rest: the client's bytes as
//! they are on the wire (even), or the payload of one compressed message (odd).

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_protocol::ws::{Received, Limits, Violation, MessageReader};

const LIMITS: Limits = Limits {
    message_bytes_max: 2048,
    message_fragments_max: 8,
    deflate: true,
};

fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Option<Violation>) {
    let mut reader = MessageReader::new(LIMITS);
    let mut events = Vec::new();
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match reader.read(&mut input) {
                Ok(Some(event)) => {
                    match &event {
                        Received::Text(text) => assert!(text.len() <= LIMITS.message_bytes_max),
                        Received::Binary(bytes) => assert!(bytes.len() <= LIMITS.message_bytes_max),
                        Received::Ping(payload) | Received::Pong(payload) => assert!(payload.len() <= 125),
                        Received::Close(_) => {}
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
        assert!(reader.held_bytes() <= 2 * LIMITS.message_bytes_max + 512);
        assert!(!reader.is_idle() || reader.held_bytes() == 0);
    }
    (events, None)
}

/// One compressed text message of a client, masked with zeros (RFC 7692, section 6).
fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xC1];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length.min(0xFFFF) as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&payload[..payload.len().min(0xFFFF)]);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let [cut, form, rest @ ..] = input else {
        return;
    };
    let bytes = if form % 2 == 0 { rest.to_vec() } else { message(rest) };
    let whole = read(&bytes, bytes.len().max(1));
    assert_eq!(read(&bytes, 1 + usize::from(*cut)), whole);
    assert_eq!(read(&bytes, 1), whole);
});
