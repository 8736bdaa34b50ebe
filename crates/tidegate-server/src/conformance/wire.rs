//! From what a run does to the bytes of a connection: WebSocket frames, or the chunks of an event stream; whole,
//! in small pieces, compressed, with other line ends. It writes nothing itself.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, write::GzEncoder};
use tidegate_protocol::ws;

use super::{
    frames::Written,
    scenario::Transport,
    step::{Lines, Setting, Torn},
};

/// A line of an event stream is shorter than this, as in a gateway.
const LINE_BYTES: usize = 65_000;

/// How short the lines of `style lines` are.
const SHORT_LINE_BYTES: usize = 40;

/// What the bytes of one connection depend on.
#[derive(Debug)]
pub struct Wire {
    transport: Transport,
    pace: usize,
    held: Option<Vec<u8>>,
    lines: Lines,
    is_first: bool,
    deflate: Option<Compress>,
    is_deflating: bool,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Wire {
    /// A connection that has just been opened; `compressed` if compression of the transport was agreed on.
    pub fn new(transport: Transport, compressed: bool) -> Self {
        let is_sse = transport == Transport::Sse;
        Self {
            transport,
            pace: 0,
            held: None,
            lines: Lines::default(),
            is_first: true,
            deflate: (compressed && !is_sse).then(compressor),
            is_deflating: false,
            gzip: (compressed && is_sse).then(|| GzEncoder::new(Vec::new(), Compression::default())),
        }
    }

    /// Changes how bytes are made. Returns the bytes that have waited, if they wait no longer.
    pub fn set(&mut self, setting: Setting) -> Vec<Bytes> {
        match setting {
            Setting::Pace(bytes) => self.pace = bytes,
            Setting::Hold => self.held = Some(Vec::new()),
            Setting::Flush => return self.held.take().map(Bytes::from).into_iter().collect(),
            Setting::Lines(lines) => self.lines = lines,
            Setting::Deflate(on) => self.is_deflating = on,
            Setting::Fresh => self.deflate = self.deflate.as_ref().map(|_| compressor()),
        }
        Vec::new()
    }

    /// The pieces of a frame, each to be written by itself.
    pub fn frame(&mut self, frame: &Written, torn: Option<Torn>) -> Vec<Bytes> {
        let whole = match self.transport {
            Transport::Ws => self.message(&frame.json).to_vec(),
            Transport::Sse => self.event(frame),
        };
        let kept = match torn {
            None => whole.len(),
            Some(Torn::Half) => whole.len() / 2,
            Some(Torn::Last) => whole.len() - 1,
        };
        self.pieces(&whole[..kept])
    }

    /// The pieces of text between events (SSE).
    pub fn text(&mut self, text: &str) -> Vec<Bytes> {
        self.pieces(text.as_bytes())
    }

    /// The pieces of a control frame.
    pub fn control(&mut self, frame: &[u8]) -> Vec<Bytes> {
        self.pieces(frame)
    }

    /// The last bytes of a body (SSE): the end of gzip, and the last chunk.
    pub fn end_of_body(&mut self) -> Vec<Bytes> {
        let mut end = Vec::new();
        if let Some(gzip) = self.gzip.take() {
            end.extend(chunk(&gzip.finish().unwrap_or_default()));
        }
        end.extend_from_slice(b"0\r\n\r\n");
        vec![end.into()]
    }

    /// One WebSocket message, compressed if that is on (RFC 7692, 7.2.1).
    fn message(&mut self, json: &str) -> Bytes {
        let Some(deflate) = self.deflate.as_mut().filter(|_| self.is_deflating) else {
            return ws::text_frame(json);
        };
        let mut packed = Vec::with_capacity(json.len() + 64);
        let before = deflate.total_in();
        loop {
            let taken = usize::try_from(deflate.total_in() - before).unwrap_or(0);
            packed.reserve(64);
            let room = packed.capacity() - packed.len();
            let length = packed.len();
            // An error cannot occur: the input is whole, and there is room.
            let _ = deflate.compress_vec(&json.as_bytes()[taken..], &mut packed, FlushCompress::Sync);
            let is_taken = deflate.total_in() - before == json.len() as u64;
            if is_taken && packed.len() - length < room {
                break;
            }
        }
        let tail = packed.len().saturating_sub(4);
        packed.truncate(tail);
        ws::deflated_frame(true, &packed)
    }

    /// One event of an event stream: its data, then its id.
    fn event(&mut self, frame: &Written) -> Vec<u8> {
        let (end, colon) = match self.lines {
            Lines::Crlf => ("\r\n", ": "),
            Lines::Bare => ("\n", ":"),
            Lines::Plain | Lines::Split => ("\n", ": "),
        };
        let longest = if self.lines == Lines::Split { SHORT_LINE_BYTES } else { LINE_BYTES };
        let mut text = String::new();
        if std::mem::take(&mut self.is_first) {
            text += &format!("retry{colon}3000{end}");
        }
        for line in split(&frame.json, longest) {
            text += &format!("data{colon}{line}{end}");
        }
        if let Some(id) = &frame.sse_id {
            text += &format!("id{colon}{id}{end}");
        }
        text += end;
        text.into_bytes()
    }

    fn pieces(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        let chunks: Vec<Vec<u8>> = match (self.transport, &mut self.gzip, self.pace) {
            (Transport::Ws, _, _) => vec![bytes.to_vec()],
            (Transport::Sse, Some(gzip), _) => {
                // Writing to memory cannot fail.
                let _ = gzip.write_all(bytes).and_then(|()| gzip.flush());
                vec![chunk(&std::mem::take(gzip.get_mut()))]
            }
            (Transport::Sse, None, 0) => vec![chunk(bytes)],
            (Transport::Sse, None, pace) => bytes.chunks(pace).map(chunk).collect(),
        };
        if let Some(held) = &mut self.held {
            chunks.iter().for_each(|chunk| held.extend_from_slice(chunk));
            return Vec::new();
        }
        match (self.transport, self.pace) {
            (Transport::Ws, 1..) => bytes.chunks(self.pace).map(Bytes::copy_from_slice).collect(),
            _ => chunks.into_iter().map(Bytes::from).collect(),
        }
    }
}

fn compressor() -> Compress {
    Compress::new(Compression::default(), false)
}

/// A chunk of a body (RFC 9112, 7.1).
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// JSON in lines of at most about `longest` bytes, which end between tokens, after a comma.
fn split(json: &str, longest: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    let (mut start, mut last, mut is_text, mut is_escaped) = (0, 0, false, false);
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b',' if !is_text => {
                if at + 1 - start > longest && last > start {
                    lines.push(&json[start..last]);
                    start = last;
                }
                last = at + 1;
            }
            _ => {}
        }
    }
    if json.len() - start > longest && last > start {
        lines.push(&json[start..last]);
        start = last;
    }
    lines.push(&json[start..]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(json: &str) -> Written {
        Written {
            json: json.to_owned(),
            sse_id: Some("e1-1-f1".to_owned()),
            events: Vec::new(),
            is_ping: false,
        }
    }

    #[test]
    fn json_is_split_between_tokens() {
        let json = r#"{"a":"x,y\",z","b":[1,2,3],"c":"ü,","d":{}}"#;
        for longest in [1, 5, 10, 1000] {
            let lines = split(json, longest);
            assert_eq!(lines.concat(), json);
            let joined: serde_json::Value = serde_json::from_str(&lines.join("\n")).expect("JSON");
            assert_eq!(joined, serde_json::from_str::<serde_json::Value>(json).expect("JSON"));
        }
        assert_eq!(split(json, 1).len(), 6);
    }

    #[test]
    fn an_event_has_its_id_after_its_data_and_a_chunk_around_it() {
        let mut wire = Wire::new(Transport::Sse, false);
        let first = wire.frame(&frame("{}"), None).concat();
        assert_eq!(first, b"22\r\nretry: 3000\ndata: {}\nid: e1-1-f1\n\n\r\n");
        wire.set(Setting::Lines(Lines::Crlf));
        let torn = wire.frame(&frame("{}"), Some(Torn::Last)).concat();
        assert_eq!(torn, b"18\r\ndata: {}\r\nid: e1-1-f1\r\n\r\r\n");
        wire.set(Setting::Pace(3));
        let pieces = wire.frame(&frame("{}"), None);
        assert_eq!((pieces.len(), &pieces[0][..]), (9, &b"3\r\ndat\r\n"[..]));
        let mut wire = Wire::new(Transport::Ws, false);
        wire.set(Setting::Pace(3));
        assert!(wire.frame(&frame("{}"), None).iter().all(|piece| piece.len() <= 3));
    }

    #[test]
    fn messages_with_context_inflate_one_after_the_other() {
        let mut wire = Wire::new(Transport::Ws, true);
        wire.set(Setting::Deflate(true));
        let mut inflate = flate2::Decompress::new(false);
        for fresh in [false, false, true, false] {
            if fresh {
                wire.set(Setting::Fresh);
            }
            let json = format!("{{\"text\":\"{}\"}}", "abc".repeat(20_000));
            let message = wire.frame(&frame(&json), None).concat();
            assert!(ws::is_deflated(&message));
            let mut packed = message[ws::header_length(&message)..].to_vec();
            packed.extend_from_slice(&[0, 0, 0xFF, 0xFF]);
            let mut text = Vec::with_capacity(100_000);
            inflate.decompress_vec(&packed, &mut text, flate2::FlushDecompress::Sync).expect("it inflates");
            assert_eq!(text, json.as_bytes());
        }
    }
}
