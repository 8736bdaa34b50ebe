//! A client's handshake and frames (RFC 6455 4.1, 5.3). [`super::MessageReader::read_server`] reads the
//! server's. Random bits are arguments.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    HeaderLine,
    close::is_sendable,
    handshake::{accept_key, has_token, only},
    head::{CONTROL_BYTES_MAX, Opcode, unmask},
};

/// What a client offers in `Sec-WebSocket-Extensions`. Its own messages are short, so it compresses none.
pub const DEFLATE_OFFER: &str = "permessage-deflate; client_no_context_takeover";

/// A key for `Sec-WebSocket-Key`, of 128 random bits (RFC 6455 4.1, item 7).
pub fn key(random: [u64; 2]) -> String {
    let [one, two] = random.map(u64::to_be_bytes);
    BASE64_STANDARD.encode([one, two].concat())
}

/// Why the answer to a handshake is none that this client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// RFC 6455 4.1: `Upgrade` and `Connection` of the answer.
    #[error("the answer does not switch to WebSocket")]
    NoUpgrade,
    /// RFC 6455 4.1: `Sec-WebSocket-Accept`.
    #[error("the answer does not belong to this handshake (Sec-WebSocket-Accept)")]
    Accept,
    /// RFC 6455 9.1.
    #[error("the answer has an extension or subprotocol that was not offered")]
    NotOffered,
}

/// Checks the headers of an answer with status 101 to a handshake with `key`, no subprotocol, and
/// [`DEFLATE_OFFER`] or no extension. Returns whether permessage-deflate was agreed.
///
/// # Errors
/// [`AnswerError`]: fail the connection (RFC 6455 4.1).
pub fn check_answer(headers: &[HeaderLine<'_>], key: &str) -> Result<bool, AnswerError> {
    if !has_token(headers, "upgrade", "websocket") || !has_token(headers, "connection", "upgrade") {
        return Err(AnswerError::NoUpgrade);
    }
    if only(headers, "sec-websocket-accept") != Some(accept_key(key.as_bytes()).as_bytes()) {
        return Err(AnswerError::Accept);
    }
    let is_there = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    if is_there("sec-websocket-protocol") {
        return Err(AnswerError::NotOffered);
    }
    if !is_there("sec-websocket-extensions") {
        return Ok(false);
    }
    let answer = only(headers, "sec-websocket-extensions").and_then(|value| std::str::from_utf8(value).ok());
    let mut parts = answer.unwrap_or_default().split(';').map(str::trim);
    let is_deflate = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate"));
    // The inflater has the largest window, so it reads what any of these parameters allows.
    let is_known = |part: &str| {
        let name = part.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        ["client_no_context_takeover", "server_no_context_takeover", "server_max_window_bits"]
            .contains(&name.as_str())
    };
    if is_deflate && parts.all(is_known) { Ok(true) } else { Err(AnswerError::NotOffered) }
}

/// A text frame with this mask, which should be random for each frame (RFC 6455 5.3).
pub fn text_frame(text: &str, mask: [u8; 4]) -> Vec<u8> {
    frame(Opcode::Text, text.as_bytes(), mask)
}

/// A pong, the answer to a ping with this payload; it is cut after [`CONTROL_BYTES_MAX`] bytes.
pub fn pong(payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    frame(Opcode::Pong, &payload[..payload.len().min(CONTROL_BYTES_MAX)], mask)
}

/// A close frame; a code that must not be sent gives an empty one.
pub fn close(code: u16, mask: [u8; 4]) -> Vec<u8> {
    let code = if is_sendable(code) { &code.to_be_bytes()[..] } else { &[] };
    frame(Opcode::Close, code, mask)
}

fn frame(opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(FIN | opcode.bits());
    match payload.len() {
        length @ 0..=125 => frame.push(MASKED | length as u8),
        length @ 126..=0xFFFF => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(MASKED | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    let start = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[start..], mask);
    frame
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::{
        super::{Inflater, Limits, MessageReader, Received, Violation, deflated_frame},
        *,
    };

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: HeaderLine<'_> = ("Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

    fn checked(more: &[HeaderLine<'_>]) -> Result<bool, AnswerError> {
        let lines = [&[("upgrade", &b"websocket"[..]), ("connection", b"Upgrade"), ACCEPT], more].concat();
        check_answer(&lines, KEY)
    }

    #[test]
    fn an_answer_is_one_to_this_handshake_and_takes_what_was_offered() {
        let extension = |value: &'static str| [("sec-websocket-extensions", value.as_bytes())];
        assert_eq!(checked(&[]), Ok(false));
        for answer in [
            "permessage-deflate",
            "permessage-deflate; client_no_context_takeover",
            "Permessage-Deflate; server_max_window_bits=15",
        ] {
            assert_eq!(checked(&extension(answer)), Ok(true), "{answer}");
        }
        for answer in ["", "x", "permessage-deflate; client_max_window_bits=9", "permessage-deflate, x"] {
            assert_eq!(checked(&extension(answer)), Err(AnswerError::NotOffered), "{answer}");
        }
        assert_eq!(checked(&[("sec-websocket-protocol", b"chat")]), Err(AnswerError::NotOffered));
        assert_eq!(checked(&[ACCEPT]), Err(AnswerError::Accept), "twice");
        assert_eq!(check_answer(&[("upgrade", b"websocket"), ACCEPT], KEY), Err(AnswerError::NoUpgrade));
        assert_eq!(key([0x7468_6520_7361_6d70, 0x6c65_206e_6f6e_6365]), KEY, "the example of RFC 6455 1.3");
    }

    #[test]
    fn a_server_that_masks_breaks_the_protocol() {
        let mut bytes = text_frame("hi", [1, 2, 3, 4]);
        let mut reader = MessageReader::new(Limits::default());
        let read = reader.read_server(&mut &mut bytes[..], &mut Inflater::default());
        assert_eq!(read, Err(Violation::Masked));
    }

    proptest! {
        #[test]
        fn a_gateway_reads_what_a_client_writes(text in ".{0,300}", long in 0_usize..70_000, mask: [u8; 4]) {
            let long = "x".repeat(long);
            let limits = Limits { message_bytes_max: 1 << 20, ..Limits::default() };
            for text in [&text, &long] {
                let mut bytes = text_frame(text, mask);
                let mut reader = MessageReader::new(limits);
                prop_assert_eq!(reader.read(&mut &mut bytes[..]), Ok(Some(Received::Text(text.as_str().into()))));
            }
        }

        #[test]
        fn messages_of_one_deflate_stream_come_out_as_they_went_in(
            texts in prop::collection::vec("[a-z{}\":, ä]{1,900}", 1..6),
            cut in 1_usize..700,
        ) {
            let mut deflate = Compress::new(Compression::default(), false);
            let mut bytes = Vec::new();
            for text in &texts {
                let mut payload = Vec::with_capacity(2 * text.len() + 100);
                deflate.compress_vec(text.as_bytes(), &mut payload, FlushCompress::Sync).expect("room enough");
                payload.truncate(payload.len() - 4);
                bytes.extend_from_slice(&deflated_frame(true, &payload));
            }
            let mut reader = MessageReader::new(Limits { deflate: true, ..Limits::default() });
            let mut inflater = Inflater::default();
            let mut read = Vec::new();
            for piece in bytes.chunks_mut(cut) {
                let mut input = piece;
                while let Some(event) = reader.read_server(&mut input, &mut inflater).expect("frames") {
                    let Received::Text(text) = event else { panic!("{event:?}") };
                    read.push(text.into_owned());
                }
            }
            prop_assert_eq!(read, texts);
        }
    }
}
