//! The frames and refusals of Tidegate, as far as the load tool uses them.

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_protocol::Cursor;

use crate::{
    digest::{Digest, MessageKind, Refused},
    event::Marks,
};

/// The fields of a frame that are used here (PROTOCOL.md, "Frames").
#[derive(Deserialize)]
struct ServerFrame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    prev: Option<u64>,
    seq: Option<u64>,
    head: Option<u64>,
    cursor: Option<&'a str>,
    #[serde(borrow)]
    events: Option<Vec<&'a RawValue>>,
    code: Option<&'a str>,
    message: Option<String>,
    limit: Option<&'a str>,
    reason: Option<&'a str>,
    retry_in_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Placed {
    seq: u64,
}

/// Parses a frame, and finds the events of this run in it.
pub fn read(marks: &Marks, message: &[u8]) -> Digest {
    let mut digest = Digest::default();
    let frame: ServerFrame<'_> = match serde_json::from_slice(message) {
        Ok(frame) => frame,
        Err(error) => {
            digest.kind = MessageKind::Broken(format!("a frame does not follow PROTOCOL.md: {error}"));
            return digest;
        }
    };
    let span = frame.prev.zip(frame.seq);
    match (frame.kind, span) {
        ("hello", _) => match frame.cursor.and_then(|text| text.parse::<Cursor>().ok()) {
            Some(cursor) => {
                digest.kind = MessageKind::Ready { cursor: Some(cursor), head: frame.head.unwrap_or(0) };
            }
            None => digest.kind = MessageKind::Broken("hello has no cursor".to_owned()),
        },
        ("event", Some((_, seq))) => {
            (digest.span, digest.seqs) = (span, vec![seq]);
            digest.scan(marks, message);
        }
        ("batch", Some(_)) => {
            digest.span = span;
            // One by one, because events of other runs and probes may be among them.
            for event in frame.events.unwrap_or_default() {
                let before = digest.marks.len();
                digest.scan(marks, event.get().as_bytes());
                if digest.marks.len() > before {
                    match serde_json::from_str::<Placed>(event.get()) {
                        Ok(Placed { seq }) => digest.seqs.push(seq),
                        Err(_) => {
                            digest.kind = MessageKind::Broken("an event in a batch has no seq".to_owned())
                        }
                    }
                }
            }
        }
        ("ping", Some(_)) => {
            digest.span = span;
            digest.kind = MessageKind::Reply(r#"{"type":"pong"}"#.to_owned());
        }
        ("gap", Some((_, seq))) => {
            digest.span = span;
            digest.kind = MessageKind::Gap { seq, reason: frame.reason.unwrap_or_default().to_owned() };
        }
        ("error" | "goaway", _) => digest.kind = MessageKind::Refused(refused(frame)),
        ("event" | "batch" | "ping" | "gap", None) => {
            digest.kind = MessageKind::Broken(format!("a {} frame has no prev and seq", frame.kind));
        }
        // Other frames do not move the cursor.
        _ => {}
    }
    digest
}

fn refused(frame: ServerFrame<'_>) -> Refused {
    Refused {
        code: frame.code.unwrap_or_default().to_owned(),
        message: frame.message.unwrap_or_default(),
        limit: frame.limit.map(str::to_owned),
        retry_in_ms: frame.retry_in_ms,
    }
}

/// Parses the body of a refused request (RFC 9457; PROTOCOL.md, "Publishing").
pub fn problem(status: u16, body: &[u8]) -> Refused {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
        #[serde(default)]
        detail: String,
        limit: Option<String>,
        retry_in_ms: Option<u64>,
    }
    match serde_json::from_slice::<Problem>(body) {
        Ok(Problem { code, detail, limit, retry_in_ms }) => {
            Refused { code, message: detail, limit, retry_in_ms }
        }
        Err(_) => {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
            Refused { code: format!("HTTP {status}"), message: text, limit: None, retry_in_ms: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Mark;

    fn event(marks: &Marks, number: u32, seq: u64) -> String {
        let mut mark = String::new();
        marks.write(&mut mark, Mark { publisher: 0, number, intended_us: 7 });
        format!(
            r#""service":"s","event":"e","id":"{number}","seq":{seq},"timestamp":"t","data":{{"mark":"{mark}"}}"#
        )
    }

    #[test]
    fn frames() {
        let marks = Marks::of_run(1);
        let read = |text: &str| read(&marks, text.as_bytes());
        let hello = read(r#"{"type":"hello","cursor":"a-5-t","head":9,"services":["*"],"new":{}}"#);
        assert_eq!(hello.kind, MessageKind::Ready { cursor: "a-5-t".parse().ok(), head: 9 });
        let one = read(&format!(r#"{{"type":"event","org":"o","prev":5,{}}}"#, event(&marks, 0, 6)));
        assert_eq!((one.span, one.seqs.as_slice(), one.marks.len()), (Some((5, 6)), &[6][..], 1));
        let events = [event(&marks, 1, 7), event(&marks, 2, 8)];
        let batch = read(&format!(
            r#"{{"type":"batch","org":"o","prev":6,"seq":9,"timestamp":"t","events":[{{{}}},{{{}}}]}}"#,
            events[0], events[1]
        ));
        assert_eq!(
            (batch.span, batch.seqs.as_slice(), batch.sequences.len()),
            (Some((6, 9)), &[7, 8][..], 1)
        );
        let mixed = read(&format!(
            r#"{{"type":"batch","prev":6,"seq":9,"events":[{{{}}},{{"seq":8,"data":{{"mark":"none"}}}},{{{}}}]}}"#,
            event(&marks, 1, 7),
            event(&marks, 2, 9)
        ));
        assert_eq!(
            (mixed.seqs.as_slice(), mixed.marks.len()),
            (&[7, 9][..], 2),
            "events of others are skipped"
        );
        let ping = read(r#"{"type":"ping","prev":9,"seq":12,"timestamp":"t"}"#);
        assert_eq!((ping.span, ping.kind), (Some((9, 12)), MessageKind::Reply(r#"{"type":"pong"}"#.into())));
        let gap = read(r#"{"type":"gap","prev":3,"seq":6,"epoch":"a","filter":"t","reason":"retention"}"#);
        assert_eq!(gap.kind, MessageKind::Gap { seq: 6, reason: "retention".into() });
        let error = read(
            r#"{"type":"error","code":"too_many_connections","message":"no \"more\"","limit":"limits.connections_per_user","retry_in_ms":5000}"#,
        );
        let MessageKind::Refused(refused) = error.kind else { panic!("{error:?}") };
        assert_eq!(
            (refused.limit.as_deref(), refused.retry_in_ms, refused.message.as_str()),
            (Some("limits.connections_per_user"), Some(5000), "no \"more\"")
        );
        assert_eq!(read(r#"{"type":"from_the_future","prev":1}"#), Digest::default());
        for broken in [r#"{"type":"event","seq":1}"#, "[1]", r#"{"type":"hello"}"#] {
            assert!(matches!(read(broken).kind, MessageKind::Broken(_)), "{broken}");
        }
    }

    #[test]
    fn problems_name_the_key_to_change() {
        let refused = problem(
            429,
            br#"{"status":429,"code":"rate_limited","detail":"d","limit":"limits.publishes_per_second"}"#,
        );
        assert_eq!(
            (refused.code.as_str(), refused.limit.as_deref()),
            ("rate_limited", Some("limits.publishes_per_second"))
        );
        assert_eq!(problem(502, b"<html>").code, "HTTP 502");
    }
}
