//! The verifier of one reader: it takes frames and reports faults, so that a run without faults proves that
//! the reader missed nothing. Written from the rules of PROTOCOL.md (R1 to R5, R14).
//!
//! This is an independent implementation of continuity, on purpose. `tidegate tail` and the load tool share the
//! one in `tidegate-protocol`; if the auditor used it too, an error in it would stay hidden. `examples/client.py`
//! is independent for the same reason. Do not replace this module with the shared code.
//!
//! It is stricter than a client has to be. A client that finds a hole resumes, and is complete again. Here
//! the connection has lost no bytes, so a hole is the gateway's fault and is reported.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    cursor::Cursor,
    event::{Planned, Services, service_number},
    fault::Fault,
    ledger::Ledger,
};

/// The start of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the log's end.
    Head,
    /// Before the last so many events that it may see.
    Tail(usize),
    /// After a cursor.
    Cursor(Cursor),
}

/// What a reader has to do after a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing. The frame held so many events.
    Events(usize),
    /// Reply with a pong.
    Ping,
    /// Disconnect and reconnect.
    GoAway,
}

/// The state of one reader over all its connections.
#[derive(Debug)]
pub struct Continuity {
    services: Services,
    start: Start,
    cursor: Option<Cursor>,
    /// The seq at which accounting started, and the head in that hello.
    began: Option<(u64, u64)>,
    epochs: Vec<String>,
    tag: Option<String>,
    greeted: bool,
    seen: Bits,
    timestamp: String,
    data: String,
    events: usize,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    prev: Option<u64>,
    seq: Option<u64>,
    #[serde(borrow)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    service: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    events: Option<Vec<Entry<'a>>>,
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

/// One event, as `events[]` and history hold it.
#[derive(Deserialize)]
pub struct Entry<'a> {
    /// Its seq.
    pub seq: u64,
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Hello {
    protocol: u32,
    services: Vec<String>,
    filter: String,
    epoch: String,
    cursor: String,
    head: u64,
    resumed: bool,
}

impl Entry<'_> {
    /// Checks that it is an event of the audit, unchanged since it was published. `scratch` is any buffer.
    pub fn check(&self, scratch: &mut String) -> Result<Planned, Fault> {
        let altered = |field, found: &str| Fault::Altered {
            seq: self.seq,
            id: self.id.clone().into_owned(),
            field,
            found: found.to_owned(),
        };
        let planned = Planned::from_id(&self.id).ok_or_else(|| altered("id", &self.id))?;
        if service_number(&self.service) != Some(planned.service()) {
            return Err(altered("service", &self.service));
        }
        if self.event != "audit.made" {
            return Err(altered("event", &self.event));
        }
        scratch.clear();
        planned.write_data(scratch);
        if self.data.get() != scratch {
            return Err(altered("data", self.data.get()));
        }
        Ok(planned)
    }
}

impl Continuity {
    /// A reader that has seen nothing.
    pub fn new(services: Services, start: Start) -> Self {
        Self {
            services,
            start,
            cursor: None,
            began: None,
            epochs: Vec::new(),
            tag: None,
            greeted: false,
            seen: Bits::default(),
            timestamp: String::new(),
            data: String::new(),
            events: 0,
        }
    }

    /// Begins a new connection. Returns the start that it presents.
    pub fn connect(&mut self) -> Start {
        self.greeted = false;
        self.cursor.clone().map_or_else(|| self.start.clone(), Start::Cursor)
    }

    /// Whether it has received its first hello.
    pub fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// The seq after which it started.
    pub fn began(&self) -> Option<u64> {
        self.began.map(|(seq, _)| seq)
    }

    /// How many events it has received.
    pub fn events(&self) -> usize {
        self.events
    }

    /// The seq that it has reached.
    pub fn reached(&self) -> u64 {
        self.cursor.as_ref().map_or(0, |cursor| cursor.seq)
    }

    /// Takes a frame, and on SSE the id of its event (`Some(None)` if it had none).
    pub fn frame(&mut self, text: &str, id: Option<Option<&str>>, ledger: &Ledger) -> Result<Heard, Fault> {
        let malformed = |reason: String| Fault::Malformed { reason, frame: text.chars().take(200).collect() };
        let frame: Frame<'_> = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let missing = |field: &str| malformed(format!("it has no {field}"));
        let ends = |frame: &Frame<'_>| Fault::Ended {
            code: frame.code.as_deref().unwrap_or_default().to_owned(),
            message: frame.message.as_deref().unwrap_or_default().to_owned(),
        };
        let heard = match &*frame.kind {
            "error" => return Err(ends(&frame)),
            "goaway" => return Ok(Heard::GoAway),
            "hello" => {
                let hello: Hello =
                    serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
                self.hello(&hello, ledger)?;
                Heard::Events(0)
            }
            kind if !self.greeted => return Err(Fault::BeforeHello(kind.to_owned())),
            "status" | "pong" => return Ok(Heard::Events(0)),
            "gap" => {
                return Err(Fault::Gap {
                    reason: frame.reason.as_deref().unwrap_or_default().to_owned(),
                    prev: frame.prev.unwrap_or_default(),
                    seq: frame.seq.unwrap_or_default(),
                });
            }
            "ping" | "event" | "batch" => {
                let prev = frame.prev.ok_or_else(|| missing("prev"))?;
                let to = frame.seq.ok_or_else(|| missing("seq"))?;
                self.follow(&frame.kind, prev, to)?;
                let events = match &*frame.kind {
                    "ping" => Vec::new(),
                    "batch" => frame.events.ok_or_else(|| missing("events"))?,
                    _ => vec![Entry {
                        seq: to,
                        service: frame.service.ok_or_else(|| missing("service"))?,
                        event: frame.event.ok_or_else(|| missing("event"))?,
                        id: frame.id.ok_or_else(|| missing("id"))?,
                        timestamp: frame.timestamp.ok_or_else(|| missing("timestamp"))?,
                        data: frame.data.ok_or_else(|| missing("data"))?,
                    }],
                };
                let mut after = self.reached();
                for entry in &events {
                    self.event(entry, (prev, to), &mut after, ledger)?;
                }
                if let Some(cursor) = &mut self.cursor {
                    cursor.seq = to;
                }
                if &*frame.kind == "ping" { Heard::Ping } else { Heard::Events(events.len()) }
            }
            other => return Err(malformed(format!("its type {other} is unknown"))),
        };
        if let Some(id) = id {
            let expected = self.cursor.as_ref().map(Cursor::to_string).unwrap_or_default();
            if id != Some(&expected) {
                return Err(Fault::WrongId { id: id.map(str::to_owned), expected });
            }
        }
        Ok(heard)
    }

    fn hello(&mut self, hello: &Hello, ledger: &Ledger) -> Result<(), Fault> {
        let presented = self.connect();
        let wrong = |field, said: &dyn ToString, expected: &dyn ToString| Fault::HelloWrong {
            field,
            said: said.to_string(),
            expected: expected.to_string(),
        };
        let cursor = Cursor::parse(&hello.cursor)
            .ok_or_else(|| wrong("cursor", &hello.cursor, &"a cursor of three parts"))?;
        if hello.protocol != 1 {
            return Err(wrong("protocol", &hello.protocol, &1));
        }
        let services = hello.services.join(",");
        let asked = if self.services == Services::ALL { "*".to_owned() } else { self.services.query() };
        if services != asked {
            return Err(wrong("services", &services, &asked));
        }
        // No gap is due in these logs, so the hello is already in the current epoch (R3).
        if cursor.epoch != hello.epoch {
            return Err(wrong("cursor's epoch", &cursor.epoch, &hello.epoch));
        }
        if cursor.tag.as_deref() != Some(&hello.filter) {
            return Err(wrong("cursor's tag", &cursor, &hello.filter));
        }
        match &self.tag {
            Some(tag) if *tag != hello.filter => return Err(wrong("filter", &hello.filter, tag)),
            _ => self.tag = Some(hello.filter.clone()),
        }
        match &presented {
            Start::Cursor(presented) if presented.seq != cursor.seq => {
                return Err(Fault::HelloElsewhere { presented: presented.seq, hello: cursor.seq });
            }
            Start::Head if cursor.seq != hello.head => {
                return Err(wrong("cursor", &cursor, &hello.head));
            }
            _ => {}
        }
        if hello.resumed != matches!(presented, Start::Cursor(_)) {
            return Err(wrong("resumed", &hello.resumed, &!hello.resumed));
        }
        if hello.head < cursor.seq {
            return Err(wrong("head", &hello.head, &format!("{} or more", cursor.seq)));
        }
        if self.epochs.last() != Some(&hello.epoch) {
            if self.epochs.contains(&hello.epoch) {
                return Err(Fault::OldEpoch(hello.epoch.clone()));
            }
            self.epochs.push(hello.epoch.clone());
            ledger.saw_epoch(&hello.epoch);
        }
        self.began.get_or_insert((cursor.seq, hello.head));
        self.cursor = Some(cursor);
        self.greeted = true;
        Ok(())
    }

    fn follow(&self, kind: &str, prev: u64, to: u64) -> Result<(), Fault> {
        let cursor = self.reached();
        if prev > cursor {
            return Err(Fault::Hole { prev, cursor });
        }
        // A ping may repeat the current position; any other frame must advance it.
        if to < prev || to < cursor || (to == cursor && kind != "ping") {
            return Err(Fault::Backwards { kind: kind.to_owned(), prev, to, cursor });
        }
        Ok(())
    }

    fn event(
        &mut self,
        entry: &Entry<'_>,
        (prev, to): (u64, u64),
        after: &mut u64,
        ledger: &Ledger,
    ) -> Result<(), Fault> {
        let (seq, cursor) = (entry.seq, self.reached());
        if seq <= prev || seq > to {
            return Err(Fault::OutsideFrame { seq, prev, to });
        }
        if seq <= cursor {
            return Err(Fault::Repeated { seq, cursor });
        }
        if seq <= *after {
            return Err(Fault::Disordered { seq, after: *after });
        }
        *after = seq;
        let planned = entry.check(&mut self.data)?;
        if !self.services.admits(planned.service()) {
            return Err(Fault::Foreign { seq, service: entry.service.clone().into_owned() });
        }
        // All timestamps have the same fixed-width format, so text order is time order.
        if *entry.timestamp < *self.timestamp {
            return Err(Fault::ClockFell {
                seq,
                timestamp: entry.timestamp.clone().into_owned(),
                after: self.timestamp.clone(),
            });
        }
        self.timestamp.clear();
        self.timestamp.push_str(&entry.timestamp);
        ledger.agree(seq, planned)?;
        self.seen.set(seq);
        self.events += 1;
        Ok(())
    }

    /// At the end, checks that the reader received exactly the events that the log holds after its start, for
    /// its filter.
    pub fn settle(&self, log: &[(u64, Planned)]) -> Vec<Fault> {
        let Some((began, head)) = self.began else { return Vec::new() };
        let visible = log.iter().filter(|(_, planned)| self.services.admits(planned.service()));
        let mut faults: Vec<Fault> = visible
            .clone()
            .filter(|(seq, _)| *seq > began && !self.seen.has(*seq))
            .map(|(seq, planned)| Fault::Missing { seq: *seq, id: planned.id() })
            .collect();
        let expected = visible.clone().filter(|(seq, _)| *seq > began).count();
        if self.seen.count() + faults.len() != expected {
            let held: std::collections::HashSet<u64> = visible.clone().map(|(seq, _)| *seq).collect();
            faults.extend(self.seen.iter().filter(|seq| !held.contains(seq)).map(Fault::Phantom));
        }
        if let Start::Tail(asked) = self.start {
            let before = visible.clone().filter(|(seq, _)| *seq <= head).count();
            let given = visible.filter(|(seq, _)| *seq <= head && *seq > began).count();
            if given != asked.min(before) {
                faults.push(Fault::WrongTail { asked, given, available: before });
            }
        }
        faults
    }
}

/// A set of seqs.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, seq: u64) {
        let word = (seq / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 64, 0);
        }
        self.0[word] |= 1 << (seq % 64);
    }

    fn has(&self, seq: u64) -> bool {
        self.0.get((seq / 64) as usize).is_some_and(|word| word >> (seq % 64) & 1 == 1)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.0.len() as u64 * 64).filter(|seq| self.has(*seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first `count` events of publisher 0, with the seqs 1, 2, ...
    fn log(count: u32) -> Vec<(u64, Planned)> {
        (0..count).map(|number| (u64::from(number) + 1, Planned { publisher: 0, number })).collect()
    }

    fn entry(seq: u64, planned: Planned) -> String {
        let mut event = String::new();
        planned.write_json(&mut event);
        format!(
            "{},\"seq\":{seq},\"timestamp\":\"2026-01-01T00:00:{:02}.000Z\"}}",
            &event[..event.len() - 1],
            seq % 60
        )
    }

    fn at(seq: u64) -> String {
        entry(seq, Planned { publisher: 0, number: seq as u32 - 1 })
    }

    fn batch(prev: u64, to: u64, seqs: &[u64]) -> String {
        let events: Vec<String> = seqs.iter().map(|seq| at(*seq)).collect();
        format!(r#"{{"type":"batch","prev":{prev},"seq":{to},"events":[{}]}}"#, events.join(","))
    }

    fn event(prev: u64, seq: u64) -> String {
        format!("{{\"type\":\"event\",\"prev\":{prev},{}", &at(seq)[1..])
    }

    fn hello(epoch: &str, seq: u64, head: u64, resumed: bool) -> String {
        format!(
            r#"{{"type":"hello","protocol":1,"services":["*"],"filter":"t","epoch":"{epoch}","cursor":"{epoch}-{seq}-t","head":{head},"resumed":{resumed}}}"#
        )
    }

    fn ping(prev: u64, seq: u64) -> String {
        format!(r#"{{"type":"ping","prev":{prev},"seq":{seq}}}"#)
    }

    /// Feeds frames to a reader that starts at the beginning of the log.
    fn run(frames: &[String]) -> Result<Continuity, Fault> {
        let ledger = Ledger::new(64);
        let start = Start::Cursor(Cursor { epoch: "e".into(), seq: 0, tag: None });
        let mut reader = Continuity::new(Services::ALL, start);
        frames.iter().try_for_each(|frame| reader.frame(frame, None, &ledger).map(drop))?;
        Ok(reader)
    }

    #[test]
    fn a_whole_stream_passes_over_a_cut_and_a_new_epoch() {
        let reader = run(&[
            hello("e", 0, 3, true),
            batch(0, 3, &[1, 2, 3]),
            ping(3, 3),
            event(3, 4),
            hello("f", 4, 6, true),
            batch(4, 6, &[5, 6]),
        ])
        .expect("nothing is wrong");
        assert_eq!((reader.reached(), reader.events()), (6, 6));
        assert_eq!(reader.settle(&log(6)), []);
        assert_eq!(reader.settle(&log(7)), [Fault::Missing { seq: 7, id: "p0-6".into() }]);
        assert_eq!(reader.settle(&log(5)), [Fault::Phantom(6)]);
    }

    #[test]
    fn each_fault_is_found() {
        let fault = |frames: &[String]| run(frames).expect_err("something is wrong");
        let open = || hello("e", 0, 9, true);
        assert!(matches!(fault(&[event(0, 1)]), Fault::BeforeHello(_)));
        assert_eq!(fault(&[hello("e", 2, 9, true)]), Fault::HelloElsewhere { presented: 0, hello: 2 });
        assert!(matches!(fault(&[hello("e", 0, 9, false)]), Fault::HelloWrong { field: "resumed", .. }));
        assert_eq!(fault(&[open(), event(1, 2)]), Fault::Hole { prev: 1, cursor: 0 });
        assert_eq!(fault(&[open(), ping(5, 5)]), Fault::Hole { prev: 5, cursor: 0 });
        let first = batch(0, 2, &[1, 2]);
        assert_eq!(
            fault(&[open(), first.clone(), batch(0, 3, &[2, 3])]),
            Fault::Repeated { seq: 2, cursor: 2 }
        );
        assert!(matches!(fault(&[open(), first.clone(), event(0, 1)]), Fault::Backwards { .. }));
        assert_eq!(fault(&[open(), batch(0, 3, &[1, 3, 2])]), Fault::Disordered { seq: 2, after: 3 });
        assert!(matches!(fault(&[open(), batch(0, 2, &[1, 3])]), Fault::OutsideFrame { seq: 3, .. }));
        assert_eq!(
            fault(&[open(), hello("f", 0, 9, true), hello("e", 0, 9, true)]),
            Fault::OldEpoch("e".into())
        );
        let other = entry(1, Planned { publisher: 7, number: 0 });
        let other = format!("{{\"type\":\"event\",\"prev\":0,{}", &other[1..]);
        let ledger = Ledger::new(8);
        ledger.agree(1, Planned { publisher: 0, number: 0 }).expect("no contradiction yet");
        let start = Start::Cursor(Cursor { epoch: "e".into(), seq: 0, tag: None });
        let mut reader = Continuity::new(Services::ALL, start);
        reader.frame(&open(), None, &ledger).expect("hello");
        assert!(matches!(reader.frame(&other, None, &ledger), Err(Fault::Contradicted { seq: 1, .. })));
        let altered = event(0, 1).replace("audit.made", "audit.male");
        assert!(matches!(fault(&[open(), altered]), Fault::Altered { field: "event", .. }));
        let altered = event(0, 1).replace("\"pad\":\"", "\"pad\":\"!");
        assert!(matches!(fault(&[open(), altered]), Fault::Altered { field: "data", .. }));
        let earlier = event(1, 2).replace("00:00:02", "00:00:00");
        assert!(matches!(fault(&[open(), event(0, 1), earlier]), Fault::ClockFell { seq: 2, .. }));
        let gap = r#"{"type":"gap","prev":0,"seq":4,"epoch":"e","reason":"retention"}"#;
        assert!(matches!(fault(&[open(), gap.to_owned()]), Fault::Gap { .. }));
    }

    #[test]
    fn a_filter_hides_and_lets_nothing_else_through() {
        let planned = Planned { publisher: 0, number: 0 };
        let other = Services::of((0..16).filter(|service| *service != planned.service()));
        let start = Start::Cursor(Cursor { epoch: "e".into(), seq: 0, tag: None });
        let mut reader = Continuity::new(other, start);
        let services = other.query().replace(',', "\",\"");
        let hello = hello("e", 0, 1, true).replace("[\"*\"]", &format!("[\"{services}\"]"));
        let ledger = Ledger::new(8);
        reader.frame(&hello, None, &ledger).expect("hello");
        assert!(matches!(reader.frame(&event(0, 1), None, &ledger), Err(Fault::Foreign { seq: 1, .. })));
        reader.frame(&ping(0, 1), None, &ledger).expect("it accounts for what is hidden");
        assert_eq!(reader.settle(&log(1)), []);
    }

    #[test]
    fn sse_ids_are_the_cursor_behind_the_frame() {
        let ledger = Ledger::new(8);
        let open = || {
            let start = Start::Cursor(Cursor { epoch: "e".into(), seq: 0, tag: None });
            let mut reader = Continuity::new(Services::ALL, start);
            reader.frame(&hello("e", 0, 1, true), Some(Some("e-0-t")), &ledger).expect("hello");
            reader
        };
        for id in [None, Some("e-0-t"), Some("e-1")] {
            let fault = open().frame(&event(0, 1), Some(id), &ledger);
            assert!(matches!(fault, Err(Fault::WrongId { .. })), "{id:?}");
        }
        open().frame(&event(0, 1), Some(Some("e-1-t")), &ledger).expect("the right id");
    }
}
