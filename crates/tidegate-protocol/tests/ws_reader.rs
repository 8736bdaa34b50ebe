//! The reader against its promises: any cut of the bytes gives the same events, every error is
//! found, and what it holds stays in proportion to what it was sent.

use proptest::prelude::*;
use tidegate_protocol::ws::{Close, Limits, MessageReader, Received, Violation, is_sendable};

/// A client's frame; the length in its shortest form.
fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
    frame
}

const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn fin(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x80 | opcode, payload, MASK)
}

fn part(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame(opcode, payload, MASK)
}

fn owned(event: Received<'_>) -> Received<'static> {
    match event {
        Received::Text(text) => Received::Text(text.into_owned().into()),
        Received::Binary(bytes) => Received::Binary(bytes.into_owned().into()),
        Received::Ping(payload) => Received::Ping(payload.into_owned().into()),
        Received::Pong(payload) => Received::Pong(payload.into_owned().into()),
        Received::Close(close) => {
            Received::Close(Close { code: close.code, reason: close.reason.into_owned().into() })
        }
    }
}

type Read = (Vec<Received<'static>>, Option<Violation>);

/// What `reader` makes of `bytes`, cut into pieces of these lengths (over and over).
fn read(reader: &mut MessageReader, bytes: &[u8], pieces: &[usize]) -> Read {
    let (mut events, mut rest) = (Vec::new(), bytes);
    for piece in pieces.iter().cycle() {
        let (piece, after) = rest.split_at((*piece).clamp(1, rest.len().max(1)).min(rest.len()));
        rest = after;
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match reader.read(&mut input) {
                Ok(Some(event)) => events.push(owned(event)),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(input.is_empty(), "what was not an event was kept");
        if rest.is_empty() {
            return (events, None);
        }
    }
    unreachable!("pieces never end")
}

fn whole(bytes: &[u8]) -> Read {
    read(&mut MessageReader::new(Limits::default()), bytes, &[usize::MAX])
}

#[test]
fn ws_an_idle_reader_is_small_and_holds_nothing() {
    assert!(size_of::<MessageReader>() <= 64, "{}", size_of::<MessageReader>());
    let mut reader = MessageReader::new(Limits::default());
    assert!(reader.is_idle());
    let bytes = [part(1, b"a"), fin(9, b"b"), fin(0, b"c"), fin(2, &[0; 999])].concat();
    for pieces in [&[usize::MAX][..], &[1], &[7, 100]] {
        let (events, error) = read(&mut reader, &bytes, pieces);
        assert_eq!((events.len(), error), (3, None));
        assert!(reader.is_idle());
        assert_eq!(reader.held_bytes(), 0);
    }
}

#[test]
fn ws_every_error() {
    use Violation::*;
    let masked = |head: &[u8]| [head, &MASK].concat();
    let table: &[(Vec<u8>, Violation, u16)] = &[
        (vec![0xC1, 0x80], ReservedBits, 1002),
        (vec![0xA1, 0x80], ReservedBits, 1002),
        (vec![0x91, 0x80], ReservedBits, 1002),
        (vec![0x83, 0x80], ReservedOpcode, 1002),
        (vec![0x8F, 0x80], ReservedOpcode, 1002),
        (vec![0x81, 0x00], Unmasked, 1002),
        (vec![0x09, 0x80], FragmentedControl, 1002),
        (vec![0x89, 0xFE], OversizedControl, 1002),
        (vec![0x88, 0xFF], OversizedControl, 1002),
        (vec![0x82, 0xFE, 0, 125], NonMinimalLength, 1002),
        (vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], NonMinimalLength, 1002),
        (vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], LengthOverflow, 1002),
        (masked(&[0x80, 0x80]), LoneContinuation, 1002),
        ([part(1, b"a"), masked(&[0x81, 0x80])].concat(), InterleavedMessage, 1002),
        ([part(2, b""), masked(&[0x02, 0x80])].concat(), InterleavedMessage, 1002),
        (fin(8, &[3]), CloseTooShort, 1002),
        (fin(8, &[0x03, 0xED]), CloseCode, 1002),
        (fin(8, b"\x03\xE8\xFF"), ReasonNotUtf8, 1007),
        (fin(1, b"\xC0\xAF"), TextNotUtf8, 1007),
        (fin(1, b"\xE2\x82"), TextNotUtf8, 1007),
        (part(1, b"\xF4\x90"), TextNotUtf8, 1007),
        (masked(&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1]), MessageTooLarge, 1009),
        (masked(&[0x82, 0xFF, 0x7F, 0, 0, 0, 0, 1, 0, 1]), MessageTooLarge, 1009),
        ([part(2, &[0; 65_536]), masked(&[0x80, 0x81])].concat(), MessageTooLarge, 1009),
        ([part(2, b""), part(0, b"").repeat(63), masked(&[0x80, 0x80])].concat(), TooManyFragments, 1009),
    ];
    for (bytes, error, close_code) in table {
        for pieces in [&[usize::MAX][..], &[1], &[3, 5]] {
            let mut reader = MessageReader::new(Limits::default());
            assert_eq!(read(&mut reader, bytes, pieces), (vec![], Some(*error)), "{error}");
            // It stays, and nothing is held for it.
            assert_eq!(read(&mut reader, &fin(1, b"more"), &[usize::MAX]).1, Some(*error));
            assert_eq!(reader.held_bytes(), 0);
        }
        assert_eq!(error.close_code(), *close_code);
        assert!(error.to_string().len() <= 123, "{error} fits a close frame");
    }
}

#[test]
fn ws_the_largest_that_limits_let_through() {
    let limits = Limits { message_bytes_max: 10, message_fragments_max: 3, deflate: false };
    let bytes = [fin(2, &[1; 10]), part(2, &[2; 5]), part(0, b""), fin(0, &[3; 5])].concat();
    let (events, error) = read(&mut MessageReader::new(limits), &bytes, &[usize::MAX]);
    assert_eq!((events.len(), error), (2, None));
}

#[test]
fn ws_nothing_is_read_after_a_close() {
    let (events, error) = whole(&[fin(8, b"\x03\xE8bye"), fin(1, b"late"), vec![0xFF; 9]].concat());
    assert_eq!(error, None);
    assert_eq!(events, [Received::Close(Close { code: Some(1000), reason: "bye".into() })]);
    assert_eq!(whole(&fin(8, b"")).0, [Received::Close(Close { code: None, reason: "".into() })]);
}

#[test]
fn ws_close_codes_are_those_that_may_travel() {
    for code in 0..=u16::MAX {
        let (events, error) = whole(&fin(8, &code.to_be_bytes()));
        assert_eq!((events.len(), error.is_none()), if is_sendable(code) { (1, true) } else { (0, false) });
        let expected = match code {
            1004..=1006 | 1015 => false,
            1000..=1014 => true,
            _ => (3000..5000).contains(&code),
        };
        assert_eq!(is_sendable(code), expected, "{code}");
    }
}

/// T16: with fragments of one byte, or none, the heap held stays below twice the payload and a
/// constant, and an announced length costs nothing.
#[test]
fn ws_fragments_do_not_amplify_memory() {
    let limits = Limits { message_bytes_max: 1 << 20, message_fragments_max: usize::MAX, deflate: false };
    for opcode in [1, 2] {
        for payload in [&b"x"[..], b""] {
            let mut reader = MessageReader::new(limits);
            assert_eq!(read(&mut reader, &part(opcode, payload), &[usize::MAX]), (vec![], None));
            let mut received = payload.len();
            for _ in 0..20_000 {
                assert_eq!(read(&mut reader, &part(0, payload), &[usize::MAX]), (vec![], None));
                received += payload.len();
                assert!(reader.held_bytes() <= 2 * received + 200, "{} for {received}", reader.held_bytes());
            }
        }
        let mut reader = MessageReader::new(limits);
        let announced = &fin(opcode, &vec![b'x'; 1 << 20])[..10 + 4 + 5];
        assert_eq!(read(&mut reader, announced, &[usize::MAX]), (vec![], None));
        assert!(reader.held_bytes() <= 210, "{} for 5 bytes", reader.held_bytes());
    }
}

#[derive(Debug, Clone)]
enum Sent {
    Message { opcode: u8, payload: Vec<u8>, fragment: usize, ping: Option<Vec<u8>> },
    Control { opcode: u8, payload: Vec<u8> },
    Close { code: u16, reason: String },
    Noise(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let control = || proptest::collection::vec(any::<u8>(), 0..=125);
    let payload = prop_oneof![
        any::<String>().prop_map(|text| (1u8, text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..400).prop_map(|bytes| (2u8, bytes)),
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| (1u8, bytes)),
    ];
    prop_oneof![
        6 => (payload, 1usize..200, proptest::option::of(control())).prop_map(
            |((opcode, payload), fragment, ping)| Sent::Message { opcode, payload, fragment, ping }
        ),
        3 => (9u8..=10, control()).prop_map(|(opcode, payload)| Sent::Control { opcode, payload }),
        1 => (998u16..1017, ".{0,30}").prop_map(|(code, reason)| Sent::Close { code, reason }),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Sent::Noise),
    ]
}

fn encode(sent: &[Sent], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for sent in sent {
        match sent {
            Sent::Message { opcode, payload, fragment, ping } => {
                let mut fragments: Vec<&[u8]> = payload.chunks(*fragment).collect();
                if fragments.is_empty() {
                    fragments.push(&[]);
                }
                for (i, fragment) in fragments.iter().enumerate() {
                    let opcode = if i == 0 { *opcode } else { 0 };
                    let is_last = i + 1 == fragments.len();
                    bytes.extend(frame(opcode | if is_last { 0x80 } else { 0 }, fragment, mask));
                    if let Some(ping) = ping {
                        bytes.extend(frame(0x89, ping, mask));
                    }
                }
            }
            Sent::Control { opcode, payload } => bytes.extend(frame(0x80 | opcode, payload, mask)),
            Sent::Close { code, reason } => {
                bytes.extend(frame(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat(), mask));
            }
            Sent::Noise(noise) => bytes.extend(noise),
        }
    }
    bytes
}

proptest! {
    #[test]
    fn ws_any_cut_gives_the_same_events(
        sent in proptest::collection::vec(sent(), 1..8),
        mask: [u8; 4],
        pieces in proptest::collection::vec(1usize..300, 1..8),
    ) {
        let bytes = encode(&sent, mask);
        let expected = whole(&bytes);
        for pieces in [&pieces[..], &[1]] {
            prop_assert_eq!(&read(&mut MessageReader::new(Limits::default()), &bytes, pieces), &expected);
        }
    }

    #[test]
    fn ws_what_was_sent_is_what_is_read(
        texts in proptest::collection::vec(any::<String>(), 1..5),
        mask: [u8; 4],
        piece in 1usize..40,
    ) {
        // One character may lie across fragments and reads alike.
        let sent: Vec<Sent> = texts
            .iter()
            .map(|text| Sent::Message {
                opcode: 1,
                payload: text.clone().into_bytes(),
                fragment: text.len().div_ceil(60).max(1),
                ping: None,
            })
            .collect();
        let expected: Vec<Received<'_>> = texts.iter().map(|text| Received::Text(text.into())).collect();
        let (events, error) =
            read(&mut MessageReader::new(Limits::default()), &encode(&sent, mask), &[piece]);
        prop_assert_eq!(error, None);
        prop_assert_eq!(events, expected);
    }

    #[test]
    fn ws_any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
        pieces in proptest::collection::vec(1usize..50, 1..4),
    ) {
        let expected = whole(&bytes);
        prop_assert_eq!(read(&mut MessageReader::new(Limits::default()), &bytes, &pieces), expected);
    }
}
