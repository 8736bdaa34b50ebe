//! The frames of a script as JSON: what a gateway would send, or what it never would, if the script says so.
//! It shares no code with the gateway's own frames, on purpose.

use std::io::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::BytesMut;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use tidegate_protocol::{Cursor, FilterTag, Seq, UnixMillis, time::write_rfc3339};

use super::{
    scenario::id_of,
    step::{Frame, Gzip, Shape},
};

/// Where the server believes the client to be, once it has taken everything that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The epoch of its cursor.
    pub epoch: String,
    /// The seq of its cursor.
    pub seq: Seq,
    /// The tag of its cursor.
    pub tag: String,
}

impl Place {
    /// The place that a cursor stands for; a cursor without a tag gets `f1`.
    pub fn of(cursor: &Cursor) -> Self {
        Self {
            epoch: cursor.epoch.to_string(),
            seq: cursor.seq,
            tag: cursor.tag.as_ref().map_or_else(|| "f1".to_owned(), FilterTag::to_string),
        }
    }

    /// The cursor with this seq.
    pub fn at(&self, seq: Seq) -> String {
        format!("{}-{seq}-{}", self.epoch, self.tag)
    }

    fn cursor(&self) -> String {
        self.at(self.seq)
    }

    /// Moves as a client does on a frame over (`prev`, `seq`] (R2).
    fn take(&mut self, prev: Seq, seq: Seq) {
        if prev <= self.seq && seq > self.seq {
            self.seq = seq;
        }
    }
}

/// An event that was sent, as the client must deliver it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Its seq.
    pub seq: Seq,
    /// Its service.
    pub service: String,
    /// Its id.
    pub id: String,
    /// Its data.
    pub data: Value,
}

/// A frame that is ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The frame.
    pub json: String,
    /// The `id:` that it has over SSE.
    pub sse_id: Option<String>,
    /// The events in it.
    pub events: Vec<Sent>,
    /// Whether the client answers it with a pong.
    pub is_ping: bool,
}

/// What a frame is made from, beside its step.
#[derive(Debug, Clone)]
pub struct Scene<'a> {
    /// The org of the run.
    pub org: &'a str,
    /// The wall clock.
    pub wall: UnixMillis,
    /// The cursor that the client presented on this connection.
    pub presented: Option<&'a str>,
    /// The number of the connection.
    pub connection: u64,
    /// Whether every frame has fields that no client knows.
    pub extras: bool,
}

/// Writes a frame and moves `place`. `None` for place: no `hello` was sent yet.
pub fn write(frame: &Frame, scene: &Scene<'_>, place: &mut Option<Place>) -> Written {
    let mut at =
        place.clone().unwrap_or_else(|| Place { epoch: "e1".to_owned(), seq: 0, tag: "f1".to_owned() });
    let mut events = Vec::new();
    let mut is_ping = false;
    let mut sse_id = None;
    let mut json = match frame {
        Frame::Hello { cursor, head, filter, ping_ms, expires_ms } => {
            let presented = scene.presented.and_then(|text| text.parse::<Cursor>().ok());
            let resumed = presented.is_some();
            let mut start = cursor
                .clone()
                .or(presented)
                .map_or(Place { epoch: "e1".to_owned(), seq: 0, tag: "f1".to_owned() }, |cursor| {
                    Place::of(&cursor)
                });
            let hello = json!({
                "type": "hello", "connection_id": format!("kit-{}", scene.connection), "protocol": 1,
                "org": scene.org, "services": ["*"], "filter": filter.as_ref().unwrap_or(&start.tag),
                "epoch": start.epoch, "cursor": start.cursor(), "head": head.unwrap_or(start.seq).max(start.seq),
                "dedup_window_ms": 300_000, "ping_interval_ms": ping_ms, "resumed": resumed,
                "token_expires_in_ms": expires_ms, "server_time": time(scene.wall),
            });
            sse_id = Some(start.cursor());
            // A client keeps its own seq if that is higher.
            if let Some(presented) = scene.presented.and_then(|text| text.parse::<Cursor>().ok()) {
                start.seq = presented.seq;
            }
            at = start;
            hello
        }
        Frame::Event(seq, shape) => {
            let prev = shape.prev.unwrap_or(at.seq);
            let (mut event, sent) = event(*seq, shape, scene);
            event.insert("type".to_owned(), json!("event"));
            event.insert("org".to_owned(), json!(scene.org));
            event.insert("prev".to_owned(), json!(prev));
            events.push(sent);
            at.take(prev, *seq);
            sse_id = Some(at.at(*seq));
            Value::Object(event)
        }
        Frame::Batch { seqs, shape, seq, gzip } => {
            let prev = shape.prev.unwrap_or(at.seq);
            let last = seq.or(seqs.last().copied()).unwrap_or(prev);
            let mut entries = Vec::new();
            for seq in seqs {
                let (entry, sent) = event(*seq, shape, scene);
                entries.push(Value::Object(entry));
                events.push(sent);
            }
            let count = entries.len();
            let batch = json!({
                "type": "batch", "org": scene.org, "prev": prev, "seq": last, "timestamp": time(scene.wall),
                "events": entries,
            });
            sse_id = Some(at.at(last));
            if *gzip != Some(Gzip::Broken) {
                at.take(prev, last);
            }
            match gzip {
                None => batch,
                Some(gzip) => json!({
                    "type": "batch", "compressed": true, "encoding": "gzip",
                    "data": packed(&batch, *gzip), "prev": prev, "seq": last,
                    "timestamp": time(scene.wall), "count": count,
                }),
            }
        }
        Frame::Ping { seq, prev } => {
            let prev = prev.unwrap_or(at.seq);
            is_ping = true;
            at.take(prev, *seq);
            sse_id = Some(at.at(*seq));
            json!({ "type": "ping", "prev": prev, "seq": seq, "timestamp": time(scene.wall) })
        }
        Frame::Gap { seq, prev, reason, epoch, filter } => {
            let prev = prev.unwrap_or(at.seq);
            let epoch = epoch.clone().unwrap_or_else(|| at.epoch.clone());
            let tag = filter.clone().unwrap_or_else(|| at.tag.clone());
            let mut gap = json!({
                "type": "gap", "prev": prev, "seq": seq, "epoch": epoch, "filter": tag, "reason": reason,
            });
            if reason == "filter" {
                gap["services"] = json!(["finance", "staff"]);
            }
            let to = Place { epoch, seq: *seq, tag };
            sse_id = Some(to.cursor());
            if prev <= at.seq {
                at = to;
            }
            gap
        }
        Frame::Status(code) => {
            json!({ "type": "status", "code": code, "message": "from the conformance kit" })
        }
        Frame::Goaway { code, retry_in_ms } => {
            json!({ "type": "goaway", "code": code.name(), "retry_in_ms": retry_in_ms })
        }
        Frame::Raw(text) => serde_json::from_str(text).unwrap_or(Value::Null),
    };
    if scene.extras {
        extend(&mut json);
    }
    if place.is_some() || matches!(frame, Frame::Hello { .. }) {
        *place = Some(at);
    }
    Written { json: json.to_string(), sse_id, events, is_ping }
}

/// An `error` frame.
pub fn error(code: &str, message: &str, retry_in_ms: Option<u64>) -> String {
    let mut frame = json!({ "type": "error", "code": code, "message": message });
    if let Some(retry_in_ms) = retry_in_ms {
        frame["retry_in_ms"] = json!(retry_in_ms);
    }
    frame.to_string()
}

/// The answer to a client's `ping`.
pub fn pong(n: u64, wall: UnixMillis) -> String {
    json!({ "type": "pong", "n": n, "timestamp": time(wall) }).to_string()
}

/// A time as the wire has it.
fn time(wall: UnixMillis) -> String {
    let mut text = BytesMut::new();
    write_rfc3339(&mut text, wall);
    String::from_utf8_lossy(&text).into_owned()
}

/// One event, without the fields of its frame.
fn event(seq: Seq, shape: &Shape, scene: &Scene<'_>) -> (Map<String, Value>, Sent) {
    let id = shape.id.clone().unwrap_or_else(|| id_of(seq));
    let service = shape.service.clone().unwrap_or_else(|| "finance".to_owned());
    let data = match &shape.data {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => {
            let mut data = json!({ "n": seq, "text": "Grüße, 世界 🌊" });
            if shape.bytes > 0 {
                // Many short tokens, so that it can be split into lines.
                let numbers = shape.bytes / 8;
                data["numbers"] = (0..numbers).map(|n| json!(1_000_000 + n)).collect();
            }
            data
        }
    };
    let at = scene.wall.saturating_sub(shape.age_s * 1000);
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("service", json!(service));
    put("event", json!("invoice.paid"));
    put("id", json!(id));
    put("seq", json!(seq));
    put("timestamp", json!(time(at)));
    put("data", data.clone());
    if shape.rich {
        put("key", json!("invoice/7"));
        put("time", json!(time(at)));
        put("targeted", json!(true));
        put("subject", json!("invoice 7"));
    }
    if shape.rich || shape.source.is_some() {
        put("source", json!(shape.source.as_deref().unwrap_or("/billing/ünïcode")));
    }
    (fields, Sent { seq, service, id, data })
}

/// Adds fields that no client knows to a frame, and to its events.
fn extend(frame: &mut Value) {
    let Some(fields) = frame.as_object_mut() else { return };
    for event in fields.get_mut("events").and_then(Value::as_array_mut).into_iter().flatten() {
        extend(event);
    }
    fields.insert("a_field_from_the_future".to_owned(), json!({ "seq": 900, "prev": [null, 1e9] }));
    fields.insert("zz".to_owned(), json!("}\"\\"));
}

/// The data of a compressed batch: gzip in base64.
fn packed(batch: &Value, gzip: Gzip) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(batch.to_string().as_bytes());
    let mut member = encoder.finish().unwrap_or_default();
    if gzip == Gzip::Broken {
        member.truncate(member.len() / 2);
    }
    BASE64_STANDARD.encode(member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_move_the_place_as_a_client_moves_its_cursor() {
        let scene = Scene { org: "o", wall: 0, presented: Some("e1-3-f1"), connection: 1, extras: true };
        let mut place = None;
        let mut step = |line: &str| {
            let Ok(super::super::step::Step::Send(frame)) = line.parse() else { panic!("{line}") };
            let written = write(&frame, &scene, &mut place);
            let cursor = place.as_ref().expect("a place").cursor();
            (cursor, written)
        };
        assert_eq!(step("hello").0, "e1-3-f1");
        assert_eq!(step("event 4").0, "e1-4-f1");
        assert_eq!(step("event 6 prev=5").0, "e1-4-f1", "a hole");
        assert_eq!(step("batch 2-4 prev=1").0, "e1-4-f1", "seen");
        let (cursor, written) = step("batch 5-6 seq=9");
        assert_eq!((cursor.as_str(), written.sse_id.as_deref()), ("e1-9-f1", Some("e1-9-f1")));
        assert_eq!(written.events.len(), 2);
        assert!(written.json.contains("a_field_from_the_future"));
        assert_eq!(step("gap 2 reason=epoch epoch=e2").0, "e2-2-f1");
    }
}
