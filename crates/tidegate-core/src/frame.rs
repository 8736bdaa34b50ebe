//! Writes the gateway's frames: JSON objects with a `type`, the same on both transports (PROTOCOL.md,
//! "Frames").
//!
//! Each is written directly into its framing, as one `Bytes` that a socket can take. Clients read them
//! through [`tidegate_protocol::frame::ServerFrame`]; `tests/frames.rs` reads back every one of them.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;
use tidegate_protocol::{
    Code, Cursor, Epoch, Filter, FilterTag, GapReason, OrgId, Refusal, Seq, UnixMillis,
    frame::PROTOCOL_VERSION, time::write_rfc3339, ws,
};

use crate::{Event, json, window::Parts};

/// How a transport frames the JSON of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One unfragmented text message (RFC 6455, section 5.6).
    WebSocket,
    /// One event of a `text/event-stream` (WHATWG HTML, section 9.2): the JSON in one `data:` line (a long
    /// event: in several), then an `id:` line if the frame has a cursor. No `event:` line, so that `onmessage`
    /// sees every frame.
    ///
    /// The id comes last because some clients remember it as soon as they have read its line. If the connection
    /// breaks within a frame, they must not hold the id of an event that they did not get.
    Sse,
}

/// A frame with several events is shorter than this in both framings, all that is around them included, unless
/// it is conflated (R17). Go's `bufio.Scanner` refuses a line of this length unless its buffer is raised, and
/// takes shorter ones.
pub const FRAME_BYTES_END: usize = 1 << 16;

/// At most so many bytes of a `batch` frame are not its events: names have bounds, and so have numbers.
pub const AROUND_BYTES_MAX: usize = 512;

/// What comes after the events of a `batch`.
const BATCH_END: &[u8] = b"]}";

/// What one event adds to a `batch` beside its fragment: braces and a comma.
pub const EVENT_AROUND_BYTES: usize = 3;

/// What `event` adds to a `batch` frame, in bytes.
pub fn event_bytes(event: &Event) -> usize {
    event.fragment.len() + EVENT_AROUND_BYTES
}

/// Two views with the same key have the same bytes (R8). A view has no targeted events, so the key has no
/// user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ViewKey {
    /// The incarnation of the log that the frame's cursor belongs to.
    pub epoch: Epoch,
    /// The canonical filter.
    pub filter: Filter,
    /// How its frames are framed.
    pub framing: Framing,
}

/// Frames the JSON object that `write` appends. `id` is the cursor for the `id:` line of SSE.
pub fn framed(framing: Framing, id: Option<&Cursor>, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    match framing {
        Framing::WebSocket => {
            let mut frame = ws::FrameBuilder::with_capacity(256);
            write(frame.payload_mut());
            frame.finish()
        }
        Framing::Sse => {
            let mut out = BytesMut::new();
            out.put_slice(DATA);
            write(&mut out);
            if out.len() >= FRAME_BYTES_END {
                out = in_lines(&out);
            }
            if let Some(cursor) = id {
                // Writing to a `BytesMut` cannot fail.
                let _ = write!(out, "\nid: {cursor}");
            }
            out.put_slice(b"\n\n");
            out.freeze()
        }
    }
}

const DATA: &[u8] = b"data: ";

/// Breaks a long `data:` line between tokens of its JSON, where a client may see white space: it joins the
/// lines by line breaks. So a line is shorter than [`FRAME_BYTES_END`] if no single token is nearly as long.
fn in_lines(line: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(line.len() + line.len() / 1024);
    // Where the present line begins, and the last place after that where it may end.
    let (mut begin, mut end) = (0, 0);
    let mut at = DATA.len();
    while at < line.len() {
        if end > begin && DATA.len() + (at - begin) + 1 >= FRAME_BYTES_END {
            out.put_slice(&line[begin..end]);
            out.put_u8(b'\n');
            out.put_slice(DATA);
            begin = end;
        }
        let byte = line[at];
        at += 1;
        match byte {
            b'"' => at = after_string(line, at),
            b',' | b':' | b'[' | b'{' | b']' | b'}' => end = at,
            _ => {}
        }
    }
    out.put_slice(&line[begin..]);
    out
}

/// The place after the JSON string in `line` whose inside begins at `at`. Most of a large event is in strings, and a
/// search for their ends is many times as fast as a look at each byte.
fn after_string(line: &[u8], mut at: usize) -> usize {
    while let Some(found) = line.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found + 1;
        if line[at - 1] == b'"' {
            return at;
        }
        // The escaped byte.
        at += 1;
    }
    line.len()
}

/// The length of the JSON object in a finished frame of this module, in bytes. The breaks of a long `data:`
/// count too.
pub(crate) fn json_bytes(framing: Framing, frame: &[u8]) -> usize {
    let around = match framing {
        Framing::WebSocket => ws::header_length(frame),
        Framing::Sse => {
            let last =
                frame.strip_suffix(b"\n\n").and_then(|lines| lines.rsplit(|byte| *byte == b'\n').next());
            let id = last.filter(|line| line.starts_with(b"id: "));
            id.map_or(0, |line| line.len() + 1) + b"data: \n\n".len()
        }
    };
    frame.len().saturating_sub(around)
}

/// The values of a `hello` frame.
#[derive(Debug, Clone)]
pub struct Hello<'a> {
    /// Names this connection in logs and to `replaces=`.
    pub connection_id: &'a str,
    /// The org.
    pub org: &'a OrgId,
    /// The services that this stream shows.
    pub filter: &'a Filter,
    /// Where this stream starts to account for events (R3); its epoch is the frame's `epoch`.
    pub cursor: &'a Cursor,
    /// The end of the log.
    pub head: Seq,
    /// Whether a presented cursor continues without a gap.
    pub resumed: bool,
    /// The node's part of the frame.
    pub terms: &'a Terms,
    /// The time until the token expires, in milliseconds.
    pub token_expires_in_ms: u64,
    /// The present time.
    pub server_time: UnixMillis,
}

/// The part of `hello` that is the same for all connections of a node.
#[derive(Debug, Clone)]
pub struct Terms {
    /// The dedup window, in milliseconds.
    pub dedup_window_ms: u64,
    /// The time between pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// `interval` or `memory` if acknowledged events are not synced to disk first; else `None`.
    pub sync: Option<&'static str>,
}

/// `hello`.
pub fn hello(framing: Framing, hello: &Hello<'_>) -> Bytes {
    framed(framing, Some(hello.cursor), |out| {
        out.put_slice(b"{\"type\":\"hello\",\"connection_id\":");
        json::write_string(out, hello.connection_id);
        let _ = write!(out, ",\"protocol\":{PROTOCOL_VERSION},\"org\":\"{}\",\"services\":", hello.org);
        write_services(out, hello.filter);
        let _ = write!(
            out,
            ",\"filter\":\"{}\",\"epoch\":\"{}\",\"cursor\":\"{}\",\"head\":{},\"dedup_window_ms\":{},\"resumed\":{},\"ping_interval_ms\":{},\"token_expires_in_ms\":{},\"server_time\":\"",
            hello.filter.tag(),
            hello.cursor.epoch,
            hello.cursor,
            hello.head,
            hello.terms.dedup_window_ms,
            hello.resumed,
            hello.terms.ping_interval_ms,
            hello.token_expires_in_ms,
        );
        write_rfc3339(out, hello.server_time);
        out.put_u8(b'"');
        if let Some(sync) = hello.terms.sync {
            let _ = write!(out, ",\"sync\":\"{sync}\"");
        }
        out.put_u8(b'}');
    })
}

fn write_services(out: &mut BytesMut, filter: &Filter) {
    let mut lead = '[';
    for service in filter.names() {
        // Names need no escapes (`ServiceName`).
        let _ = write!(out, "{lead}\"{service}\"");
        lead = ',';
    }
    out.put_slice(if lead == '[' { b"[]" } else { b"]" });
}

/// A cursor without its seq: the epoch and tag that a frame's seqs belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Side<'a> {
    /// The epoch.
    pub epoch: &'a Epoch,
    /// The tag of the services that are accounted for.
    pub tag: &'a FilterTag,
}

impl Side<'_> {
    /// The cursor at `seq`.
    pub fn cursor(self, seq: Seq) -> Cursor {
        Cursor { epoch: self.epoch.clone(), seq, tag: Some(self.tag.clone()) }
    }
}

/// `event`, or `batch` if there are several or the frame accounts for more than the one event. `events` is
/// exactly what the reader may see in (`prev`, `seq`] (R1), and must not be empty.
pub fn events(
    framing: Framing,
    side: Side<'_>,
    org: &OrgId,
    prev: Seq,
    seq: Seq,
    events: &[&Event],
) -> Bytes {
    Run { side, org, prev, seq, events, omitted: 0 }.framed(framing)
}

/// The content of one `event` or `batch` frame: exactly what the reader may see in (`prev`, `seq`] (R1).
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The epoch and tag of its seqs.
    pub side: Side<'a>,
    /// The org.
    pub org: &'a OrgId,
    /// The position that it follows on.
    pub prev: Seq,
    /// The position that it accounts for.
    pub seq: Seq,
    /// Its events, at least one.
    pub events: &'a [&'a Event],
    /// How many events are left out, because a later one in it has the same service and key (R17).
    pub omitted: usize,
}

impl Run<'_> {
    /// `event`, or `batch` if there are several or it accounts for more than the one event.
    pub fn framed(&self, framing: Framing) -> Bytes {
        framed(framing, self.id(framing).as_ref(), |out| match self.events {
            [only] if only.seq == self.seq && self.omitted == 0 => {
                out.reserve(only.fragment.len() + 96);
                let Self { org, prev, .. } = self;
                let _ = write!(out, "{{\"type\":\"event\",\"org\":\"{org}\",\"prev\":{prev},");
                out.put_slice(&only.fragment);
                out.put_u8(b'}');
            }
            _ => self.write_batch(out),
        })
    }

    /// `id:` of its frame.
    pub(crate) fn id(&self, framing: Framing) -> Option<Cursor> {
        matches!(framing, Framing::Sse).then(|| self.side.cursor(self.seq))
    }

    /// The parts of its frame; over WebSocket, of the payload.
    pub(crate) fn frame_parts(&self, framing: Framing, frame: &[u8]) -> Parts {
        let json_bytes = json_bytes(framing, frame);
        match framing {
            Framing::WebSocket => self.parts(json_bytes, 0),
            Framing::Sse => self.parts(frame.len(), frame.len() - DATA.len() - json_bytes),
        }
    }

    /// The parts of a text of so many bytes in which the JSON of the batch is; `after` of them come after it. If
    /// there are several services, the JSON has no breaks.
    pub(crate) fn parts(&self, bytes: usize, after: usize) -> Parts {
        let mut parts = Parts::default();
        let [first, .., last] = self.events else {
            self.events.iter().for_each(|only| parts.push(&only.service, bytes));
            return parts;
        };
        let after = after + BATCH_END.len();
        // `event_bytes` counts a comma before each event. The first has none, and a byte before it instead.
        let events: usize = self.events.iter().map(|event| event_bytes(event)).sum();
        parts.push(&first.service, bytes - events - after);
        self.events.iter().for_each(|event| parts.push(&event.service, event_bytes(event)));
        parts.push(&last.service, after);
        parts
    }

    /// When the last of its events was accepted.
    pub(crate) fn timestamp(&self) -> UnixMillis {
        self.events.last().map_or(0, |event| event.timestamp)
    }

    /// The JSON of `batch`.
    pub(crate) fn write_batch(&self, out: &mut BytesMut) {
        let Self { org, prev, seq, events, omitted, .. } = self;
        out.reserve(events.iter().map(|event| event.fragment.len() + 3).sum::<usize>() + 128);
        let _ = write!(
            out,
            "{{\"type\":\"batch\",\"org\":\"{org}\",\"prev\":{prev},\"seq\":{seq},\"timestamp\":\""
        );
        write_rfc3339(out, self.timestamp());
        out.put_u8(b'"');
        if *omitted > 0 {
            let _ = write!(out, ",\"omitted\":{omitted},\"reason\":\"conflated\"");
        }
        out.put_slice(b",\"events\":[");
        for (index, event) in events.iter().enumerate() {
            out.put_slice(if index == 0 { b"{" } else { b",{" });
            out.put_slice(&event.fragment);
            out.put_u8(b'}');
        }
        out.put_slice(BATCH_END);
    }
}

/// `gap`: the events in (`prev`, `to.seq`] will not come. The reader's cursor is now `to`, all three parts.
pub fn gap(framing: Framing, prev: Seq, to: &Cursor, reason: GapReason, filter: &Filter) -> Bytes {
    framed(framing, Some(to), |out| {
        let _ = write!(
            out,
            "{{\"type\":\"gap\",\"prev\":{prev},\"seq\":{},\"epoch\":\"{}\",\"filter\":\"{}\",\"reason\":\"{}\"",
            to.seq,
            to.epoch,
            to.tag.as_ref().unwrap_or(filter.tag()),
            reason.name()
        );
        if reason == GapReason::Filter {
            out.put_slice(b",\"services\":");
            write_services(out, filter);
        }
        out.put_u8(b'}');
    })
}

/// `ping`: all that this reader may see in (`prev`, `seq`] has been sent.
pub fn ping(framing: Framing, side: Side<'_>, prev: Seq, seq: Seq, now: UnixMillis) -> Bytes {
    framed(framing, Some(&side.cursor(seq)), |out| {
        let _ = write!(out, "{{\"type\":\"ping\",\"prev\":{prev},\"seq\":{seq},\"timestamp\":\"");
        write_rfc3339(out, now);
        out.put_slice(b"\"}");
    })
}

/// `pong`: the answer to a client's `ping` with this `n`.
pub fn pong(framing: Framing, n: u64, now: UnixMillis) -> Bytes {
    framed(framing, None, |out| {
        let _ = write!(out, "{{\"type\":\"pong\",\"n\":{n},\"timestamp\":\"");
        write_rfc3339(out, now);
        out.put_slice(b"\"}");
    })
}

/// `status`: a remark; the stream goes on. `code` is written without escapes.
pub fn status(framing: Framing, code: &str, message: &str) -> Bytes {
    framed(framing, None, |out| {
        let _ = write!(out, "{{\"type\":\"status\",\"code\":\"{code}\",\"message\":");
        json::write_string(out, message);
        out.put_u8(b'}');
    })
}

/// `goaway`: the client is to leave within `retry_in_ms` milliseconds and to come back; else the server
/// closes the stream.
pub fn goaway(framing: Framing, code: Code, retry_in_ms: u64) -> Bytes {
    framed(framing, None, |out| {
        let _ =
            write!(out, "{{\"type\":\"goaway\",\"code\":\"{}\",\"retry_in_ms\":{retry_in_ms}}}", code.name());
    })
}

/// Keeps a native EventSource from reconnecting: 2^31 - 1 ms, about 25 days, the longest delay that browsers
/// wait.
const NO_RETRY: &[u8] = b"retry: 2147483647\n";

/// `error`: the last frame. Over SSE one with a final code also sets `retry:`, because a native EventSource
/// does not read codes and would reconnect.
pub fn error(framing: Framing, refusal: &Refusal) -> Bytes {
    let frame = error_frame(framing, refusal);
    if framing == Framing::Sse && !refusal.code.is_retryable() {
        return [NO_RETRY, &frame].concat().into();
    }
    frame
}

fn error_frame(framing: Framing, refusal: &Refusal) -> Bytes {
    framed(framing, None, |out| {
        let _ = write!(out, "{{\"type\":\"error\",\"code\":\"{}\",\"message\":", refusal.code.name());
        json::write_string(out, &refusal.message);
        if let Some(limit) = refusal.limit {
            let _ = write!(out, ",\"limit\":\"{limit}\"");
        }
        if let Some(retry_in_ms) = refusal.retry_in_ms {
            let _ = write!(out, ",\"retry_in_ms\":{retry_in_ms}");
        }
        out.put_u8(b'}');
    })
}
