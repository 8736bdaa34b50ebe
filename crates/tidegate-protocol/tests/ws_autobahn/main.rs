//! The server cases 1 to 7, 9 and 10 of the Autobahn test suite (0.8.2), as data: what the client
//! sends, and what a server that echoes must answer. `scripts/autobahn` runs the suite itself.
//!
//! The answers are those of the suite's verdict OK, never NON-STRICT. If the suite leaves the
//! answer open (7.1.6, 7.13: INFORMATIONAL), it is the one that RFC 6455 requires.

mod utf8;

use tidegate_protocol::ws::{self, Limits, MessageReader, Received};

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
}

struct Case {
    id: String,
    /// What is sent, piece by piece. A piece is most often a frame.
    sends: Vec<Vec<u8>>,
    /// How the suite cuts the pieces up.
    chop: usize,
    answers: Vec<Answer>,
    /// The piece that the last answer must come with.
    ends_at: Option<usize>,
}

impl Case {
    /// The server answers, then the client closes.
    fn ok(id: impl Into<String>, mut sends: Vec<Vec<u8>>, mut answers: Vec<Answer>) -> Self {
        sends.push(close(1000, ""));
        answers.push(Answer::Close(1000));
        Self { id: id.into(), sends, chop: usize::MAX, answers, ends_at: None }
    }

    /// The server answers, then fails the connection.
    fn fails(id: impl Into<String>, code: u16, sends: Vec<Vec<u8>>, mut answers: Vec<Answer>) -> Self {
        answers.push(Answer::Close(code));
        Self { id: id.into(), sends, chop: usize::MAX, answers, ends_at: None }
    }

    fn chopped(self, chop: usize) -> Self {
        Self { chop, ..self }
    }

    fn at(self, piece: usize) -> Self {
        Self { ends_at: Some(piece), ..self }
    }

    /// Runs the case with its pieces cut at `chop`.
    fn run(&self, chop: usize) {
        let mut server = Echo::default();
        let mut ended_at = None;
        for (index, piece) in self.sends.iter().enumerate() {
            for chunk in piece.chunks(chop) {
                server.take(&mut chunk.to_vec());
            }
            if server.is_closed && ended_at.is_none() {
                ended_at = Some(index);
            }
        }
        let answers = server.answers();
        // Not assert_eq: some are megabytes.
        assert!(answers == self.answers, "case {} cut at {chop}: {}", self.id, brief(&answers));
        if let Some(piece) = self.ends_at {
            assert_eq!(ended_at, Some(piece), "case {} cut at {chop} fails fast", self.id);
        }
    }
}

fn brief(answers: &[Answer]) -> String {
    let mut text = format!("{answers:?}");
    text.truncate(text.floor_char_boundary(300));
    text
}

/// A server that echoes.
struct Echo {
    reader: MessageReader,
    written: Vec<u8>,
    is_closed: bool,
}

impl Default for Echo {
    fn default() -> Self {
        let limits = Limits { message_bytes_max: 16 << 20, message_fragments_max: 1 << 17, deflate: false };
        Self { reader: MessageReader::new(limits), written: Vec::new(), is_closed: false }
    }
}

impl Echo {
    fn take(&mut self, mut input: &mut [u8]) {
        while !self.is_closed {
            let frame = match self.reader.read(&mut input) {
                Ok(None) => break,
                Ok(Some(Received::Text(text))) => ws::text_frame(&text),
                Ok(Some(Received::Binary(bytes))) => ws::binary_frame(&bytes),
                Ok(Some(Received::Ping(payload))) => ws::pong(&payload),
                Ok(Some(Received::Pong(_))) => continue,
                Ok(Some(Received::Close(close))) => {
                    self.is_closed = true;
                    ws::close(close.code.unwrap_or(1000), &close.reason)
                }
                Err(error) => {
                    self.is_closed = true;
                    ws::close(error.close_code(), &error.to_string())
                }
            };
            self.written.extend_from_slice(&frame);
        }
    }

    /// What was written, read as the client would.
    fn answers(&self) -> Vec<Answer> {
        let (mut answers, mut rest) = (Vec::new(), &self.written[..]);
        while let [first, length, ..] = *rest {
            let (header, length) = match length {
                126 => (4, u16::from_be_bytes([rest[2], rest[3]]).into()),
                127 => (10, rest[2..10].iter().fold(0, |length, byte| length << 8 | usize::from(*byte))),
                length => (2, usize::from(length)),
            };
            let payload = rest[header..header + length].to_vec();
            rest = &rest[header + length..];
            answers.push(match first {
                0x81 => Answer::Text(payload),
                0x82 => Answer::Binary(payload),
                0x8A => Answer::Pong(payload),
                0x88 => Answer::Close(u16::from_be_bytes([payload[0], payload[1]])),
                first => panic!("a frame that begins with {first:#x}"),
            });
        }
        assert!(rest.is_empty());
        answers
    }
}

// Frames of the client. Those of text and binary have `FIN`, and lose it for fragments.
const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [0xA1, 0x0B, 0xF2, 0x5C];
    let payload = payload.as_ref();
    let mut frame = match payload.len() {
        length @ 0..=125 => vec![first, 0x80 | length as u8],
        length @ 126..=0xFFFF => [&[first, 0xFE][..], &(length as u16).to_be_bytes()].concat(),
        length => [&[first, 0xFF][..], &(length as u64).to_be_bytes()].concat(),
    };
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | TEXT, payload)
}

fn close(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | 8, [&code.to_be_bytes(), reason.as_ref()].concat())
}

/// A message in frames of `size` payload bytes.
fn fragments(opcode: u8, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let last = payload.len().div_ceil(size) - 1;
    payload
        .chunks(size)
        .enumerate()
        .map(|(i, chunk)| {
            let opcode = if i == 0 { opcode } else { CONTINUATION };
            frame(if i == last { FIN | opcode } else { opcode }, chunk)
        })
        .collect()
}

fn echo(payload: impl AsRef<[u8]>) -> Answer {
    Answer::Text(payload.as_ref().to_vec())
}

fn echo_of(opcode: u8, payload: Vec<u8>) -> Answer {
    if opcode == TEXT { Answer::Text(payload) } else { Answer::Binary(payload) }
}

fn pong(payload: impl AsRef<[u8]>) -> Answer {
    Answer::Pong(payload.as_ref().to_vec())
}

const HELLO: &str = "Hello, world!";
const OCTETS: &[u8] = b"\x00\xFF\xFE\xFD\xFC\xFB\x00\xFF";

/// Runs `cases` as the suite cuts them, and small ones octet by octet and all at once too.
fn run(count: usize, cases: &[Case]) {
    assert_eq!(cases.len(), count, "cases in this section of the suite");
    for case in cases {
        case.run(case.chop);
        let bytes: usize = case.sends.iter().map(Vec::len).sum();
        if bytes <= 100_000 {
            case.run(1);
            let sends = vec![case.sends.concat()];
            Case { sends, ends_at: None, id: case.id.clone(), answers: case.answers.clone(), ..*case }
                .run(usize::MAX);
        }
    }
}

#[test]
fn ws_autobahn_1_framing() {
    let mut cases = Vec::new();
    for (section, opcode, byte) in [(1, TEXT, b'*'), (2, BINARY, 0xFE)] {
        for (i, size) in [0, 125, 126, 127, 128, 65_535, 65_536, 65_536].into_iter().enumerate() {
            let payload = vec![byte; size];
            let sends = vec![frame(FIN | opcode, &payload)];
            let case = Case::ok(format!("1.{section}.{}", i + 1), sends, vec![echo_of(opcode, payload)]);
            cases.push(if i == 7 { case.chopped(997) } else { case });
        }
    }
    run(16, &cases);
}

#[test]
fn ws_autobahn_2_pings_and_pongs() {
    let most = [0xFE; 125];
    let ten: Vec<String> = (0..10).map(|i| format!("payload-{i}")).collect();
    let pings = || ten.iter().map(|payload| frame(PING, payload)).collect();
    let pongs = || ten.iter().map(pong).collect();
    run(
        11,
        &[
            Case::ok("2.1", vec![frame(PING, "")], vec![pong("")]),
            Case::ok("2.2", vec![frame(PING, HELLO)], vec![pong(HELLO)]),
            Case::ok("2.3", vec![frame(PING, OCTETS)], vec![pong(OCTETS)]),
            Case::ok("2.4", vec![frame(PING, most)], vec![pong(most)]),
            Case::fails("2.5", 1002, vec![frame(PING, [0xFE; 126])], vec![]),
            Case::ok("2.6", vec![frame(PING, most)], vec![pong(most)]).chopped(1),
            Case::ok("2.7", vec![frame(PONG, "")], vec![]),
            Case::ok("2.8", vec![frame(PONG, "unsolicited pong payload")], vec![]),
            Case::ok(
                "2.9",
                vec![frame(PONG, "unsolicited pong payload"), frame(PING, "ping payload")],
                vec![pong("ping payload")],
            ),
            Case::ok("2.10", pings(), pongs()),
            Case::ok("2.11", pings(), pongs()).chopped(1),
        ],
    );
}

/// A good message, then a frame that fails the connection, then a ping that is not answered.
fn fails_after_hello(id: &str, faulty: Vec<u8>) -> Case {
    Case::fails(id, 1002, vec![text(HELLO), faulty, frame(PING, "")], vec![echo(HELLO)]).at(1)
}

#[test]
fn ws_autobahn_3_reserved_bits() {
    let rsv = |bits: u8, opcode: u8, payload: &[u8]| frame(FIN | bits << 4 | opcode, payload);
    let hello = HELLO.as_bytes();
    run(
        7,
        &[
            Case::fails("3.1", 1002, vec![rsv(1, TEXT, hello)], vec![]),
            fails_after_hello("3.2", rsv(2, TEXT, hello)),
            fails_after_hello("3.3", rsv(3, TEXT, hello)),
            fails_after_hello("3.4", rsv(4, TEXT, hello)).chopped(1),
            Case::fails("3.5", 1002, vec![rsv(5, BINARY, OCTETS)], vec![]),
            Case::fails("3.6", 1002, vec![rsv(6, BINARY, hello)], vec![]),
            Case::fails("3.7", 1002, vec![rsv(7, 8, b"")], vec![]),
        ],
    );
}

#[test]
fn ws_autobahn_4_reserved_opcodes() {
    let mut cases = Vec::new();
    for (section, first) in [(1, 3), (2, 11)] {
        let id = |case: u8| format!("4.{section}.{case}");
        let reserved = |case: u8, payload| frame(FIN | (first + case - 1), payload);
        cases.extend([
            Case::fails(id(1), 1002, vec![reserved(1, "")], vec![]),
            Case::fails(id(2), 1002, vec![reserved(2, "reserved opcode payload")], vec![]),
            fails_after_hello(&id(3), reserved(3, "")),
            fails_after_hello(&id(4), reserved(4, HELLO)),
            fails_after_hello(&id(5), reserved(5, HELLO)).chopped(1),
        ]);
    }
    run(10, &cases);
}

#[test]
fn ws_autobahn_5_fragmentation() {
    let [one, two, three, four] = ["fragment1", "fragment2", "fragment3", "fragment4"];
    let fragmented_control = |first| vec![frame(first & !FIN, one), frame(FIN, two)];
    let in_two = || vec![frame(TEXT, one), frame(FIN, two)];
    let both = || echo("fragment1fragment2");
    let with_ping = || vec![frame(TEXT, one), frame(PING, "ping payload"), frame(FIN, two)];
    let with_pong = || vec![pong("ping payload"), both()];
    let nothing_to_continue = |first| vec![frame(first, "non-continuation payload"), text(HELLO)];
    let over_and_over = |first| {
        [frame(first, one), frame(TEXT, two), frame(FIN, three)].into_iter().cycle().take(6).collect()
    };
    let pings = || {
        vec![
            frame(TEXT, one),
            frame(CONTINUATION, two),
            frame(PING, "pongme 1!"),
            frame(CONTINUATION, three),
            frame(CONTINUATION, four),
            frame(PING, "pongme 2!"),
            frame(FIN, "fragment5"),
        ]
    };
    let pongs = || {
        let message = echo("fragment1fragment2fragment3fragment4fragment5");
        vec![pong("pongme 1!"), pong("pongme 2!"), message]
    };
    run(
        20,
        &[
            Case::fails("5.1", 1002, fragmented_control(PING), vec![]).at(0),
            Case::fails("5.2", 1002, fragmented_control(PONG), vec![]).at(0),
            Case::ok("5.3", in_two(), vec![both()]),
            Case::ok("5.4", in_two(), vec![both()]).chopped(4),
            Case::ok("5.5", in_two(), vec![both()]).chopped(1),
            Case::ok("5.6", with_ping(), with_pong()),
            Case::ok("5.7", with_ping(), with_pong()).chopped(4),
            Case::ok("5.8", with_ping(), with_pong()).chopped(1),
            Case::fails("5.9", 1002, nothing_to_continue(FIN), vec![]).at(0),
            Case::fails("5.10", 1002, nothing_to_continue(FIN), vec![]).chopped(4).at(0),
            Case::fails("5.11", 1002, nothing_to_continue(FIN), vec![]).chopped(1).at(0),
            Case::fails("5.12", 1002, nothing_to_continue(CONTINUATION), vec![]).at(0),
            Case::fails("5.13", 1002, nothing_to_continue(CONTINUATION), vec![]).chopped(4).at(0),
            Case::fails("5.14", 1002, nothing_to_continue(CONTINUATION), vec![]).chopped(1).at(0),
            Case::fails(
                "5.15",
                1002,
                vec![frame(TEXT, one), frame(FIN, two), frame(CONTINUATION, three), text(four)],
                vec![both()],
            )
            .at(2),
            Case::fails("5.16", 1002, over_and_over(CONTINUATION), vec![]).at(0),
            Case::fails("5.17", 1002, over_and_over(FIN), vec![]).at(0),
            Case::fails("5.18", 1002, vec![frame(TEXT, one), text(two)], vec![]).at(1),
            Case::ok("5.19", pings(), pongs()),
            Case::ok("5.20", pings(), pongs()).chopped(4),
        ],
    );
}

#[test]
fn ws_autobahn_6_utf8() {
    let umlauts = "Hello-µ@ßöäüàá-UTF-8!!";
    let kosme = utf8::KOSME;
    let middle = "middle frame payload";
    let surrogate = [kosme, b"\xED\xA0\x80edited"].concat();
    let mut cases = vec![
        Case::ok("6.1.1", vec![text("")], vec![echo("")]),
        Case::ok("6.1.2", vec![frame(TEXT, ""), frame(CONTINUATION, ""), frame(FIN, "")], vec![echo("")]),
        Case::ok(
            "6.1.3",
            vec![frame(TEXT, ""), frame(CONTINUATION, middle), frame(FIN, "")],
            vec![echo(middle)],
        ),
        Case::ok("6.2.1", vec![text(umlauts)], vec![echo(umlauts)]),
        Case::ok("6.2.2", vec![frame(TEXT, "Hello-µ@ßöä"), frame(FIN, "üàá-UTF-8!!")], vec![echo(umlauts)]),
        Case::ok("6.2.3", fragments(TEXT, umlauts.as_bytes(), 1), vec![echo(umlauts)]),
        Case::ok("6.2.4", fragments(TEXT, kosme, 1), vec![echo(kosme)]),
        Case::fails("6.3.1", 1007, vec![text(&surrogate)], vec![]),
        // The octet that no text can have there is the 13th.
        Case::fails("6.3.2", 1007, fragments(TEXT, &surrogate, 1), vec![]).at(12),
    ];
    // Past U+10FFFF: its second octet shows it, in a fragment or in a part of one frame.
    let beyond = [kosme, b"\xF4\x90\x80\x80edited"].concat();
    for (id, cuts) in [("6.4.1", [11, 15]), ("6.4.2", [12, 13])] {
        let sends = vec![
            frame(TEXT, &beyond[..cuts[0]]),
            frame(CONTINUATION, &beyond[cuts[0]..cuts[1]]),
            frame(FIN, &beyond[cuts[1]..]),
        ];
        cases.push(Case::fails(id, 1007, sends, vec![]).at(1));
    }
    for (id, cuts) in [("6.4.3", [11, 15]), ("6.4.4", [12, 13])] {
        let frame = text(&beyond);
        let (first, rest) = frame.split_at(6 + cuts[0]);
        let (second, third) = rest.split_at(cuts[1] - cuts[0]);
        let sends = vec![first.to_vec(), second.to_vec(), third.to_vec()];
        cases.push(Case::fails(id, 1007, sends, vec![]).at(1));
    }
    for group in utf8::groups() {
        for (i, (is_valid, octets)) in group.vectors.iter().enumerate() {
            let id = format!("6.{}.{} ({})", group.section, i + 1, group.about);
            cases.push(if *is_valid {
                Case::ok(id, vec![text(octets)], vec![echo(octets)])
            } else {
                Case::fails(id, 1007, vec![text(octets)], vec![])
            });
        }
    }
    run(145, &cases);
}

#[test]
fn ws_autobahn_7_close() {
    let world = "Hello World!";
    let closed = |id: &str, sends| Case::fails(id, 1000, sends, vec![]);
    let bye = || close(1000, "");
    let large = b"BAsd7&jh23".repeat(26_215)[..256 << 10].to_vec();
    let not_utf8 = [utf8::KOSME, b"\xED\xA0\x80edited"].concat();
    let mut cases = vec![
        Case::ok("7.1.1", vec![text(world)], vec![echo(world)]),
        closed("7.1.2", vec![bye(), frame(FIN | 8, "")]).at(0),
        closed("7.1.3", vec![bye(), frame(PING, "")]).at(0),
        closed("7.1.4", vec![bye(), text(world)]).at(0),
        closed("7.1.5", vec![frame(TEXT, "fragment1"), bye(), frame(FIN, "fragment2")]).at(1),
        Case::fails(
            "7.1.6",
            1000,
            vec![text(&large), text(world), bye(), frame(PING, "")],
            vec![echo(&large), echo(world)],
        ),
        closed("7.3.1", vec![frame(FIN | 8, "")]),
        Case::fails("7.3.2", 1002, vec![frame(FIN | 8, "a")], vec![]),
        closed("7.3.3", vec![bye()]),
        closed("7.3.4", vec![close(1000, world)]),
        closed("7.3.5", vec![close(1000, "*".repeat(123))]),
        Case::fails("7.3.6", 1002, vec![close(1000, "*".repeat(124))], vec![]),
        Case::fails("7.5.1", 1007, vec![close(1000, not_utf8)], vec![]),
    ];
    let good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for (i, code) in good.into_iter().enumerate() {
        cases.push(Case::fails(format!("7.7.{}", i + 1), code, vec![close(code, "")], vec![]));
    }
    let bad = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    for (i, code) in bad.into_iter().enumerate() {
        cases.push(Case::fails(format!("7.9.{}", i + 1), 1002, vec![close(code, "")], vec![]));
    }
    for (i, code) in [5000, 65_535].into_iter().enumerate() {
        cases.push(Case::fails(format!("7.13.{}", i + 1), 1002, vec![close(code, "")], vec![]));
    }
    run(37, &cases);
}

/// Sizes are the suite's in an optimised build; in others a sixteenth, which takes the same paths.
#[test]
fn ws_autobahn_9_sizes() {
    const PART: usize = if cfg!(debug_assertions) { 16 } else { 1 };
    let payload = |size: usize| {
        let size = size / PART;
        b"BAsd7&jh23".iter().copied().cycle().take(size).collect::<Vec<_>>()
    };
    let mut count = 0;
    // One at a time: together they are 140 MiB.
    let mut one = |case: Case| {
        count += 1;
        run(1, &[case]);
    };
    for (i, opcode) in [TEXT, BINARY].into_iter().enumerate() {
        for (case, size) in [64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20].into_iter().enumerate()
        {
            let payload = payload(size);
            let sends = vec![frame(FIN | opcode, &payload)];
            one(Case::ok(format!("9.{}.{}", 1 + i, case + 1), sends, vec![echo_of(opcode, payload)]));
        }
        for case in 0..9 {
            let payload = payload(4 << 20);
            let size = (64 << (2 * case)).min(payload.len());
            let sends = fragments(opcode, &payload, size);
            one(Case::ok(format!("9.{}.{}", 3 + i, case + 1), sends, vec![echo_of(opcode, payload)]));
        }
        for case in 0..6 {
            let payload = payload(1 << 20);
            let sends = vec![frame(FIN | opcode, &payload)];
            let case = Case::ok(format!("9.{}.{}", 5 + i, case + 1), sends, vec![echo_of(opcode, payload)])
                .chopped(64 << case);
            one(case);
        }
        for (case, size) in [0, 16, 64, 256, 1024, 4096].into_iter().enumerate() {
            let payload = vec![if opcode == TEXT { b'*' } else { 0xFE }; size];
            let times = 1000 / PART;
            let sends = vec![frame(FIN | opcode, &payload); times];
            let answers = vec![echo_of(opcode, payload); times];
            one(Case::ok(format!("9.{}.{}", 7 + i, case + 1), sends, answers));
        }
    }
    assert_eq!(count, 54, "cases in this section of the suite");
}

#[test]
fn ws_autobahn_10_auto_fragmentation() {
    let payload = vec![b'*'; 65_536];
    let sends = fragments(TEXT, &payload, 1300);
    run(1, &[Case::ok("10.1.1", sends, vec![echo(payload)])]);
}
