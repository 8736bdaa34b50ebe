//! The gateway of the simulated world: one org's log over its incarnations, and what one reader is sent
//! (PROTOCOL.md, R1, R3, R9, R11). It is a model, made of the protocol's text and not of the gateway's code.

use std::fmt::Write as _;

use bytes::BytesMut;
use tidegate_protocol::{Cursor, Epoch, FilterTag, time::write_rfc3339};

use crate::prng::Prng;

/// Services by number; the last one comes and goes with the token.
pub const SERVICES: [&str; 4] = ["finance", "staff", "hidden", "audit"];
const HIDDEN: usize = 2;
const CHANGING: usize = 3;

#[derive(Debug, Clone)]
pub struct Event {
    pub seq: u64,
    /// Names it in the whole world.
    pub uid: u64,
    pub service: usize,
    pub id: String,
    pub source: Option<&'static str>,
    /// When it was accepted, by the gateway's clock.
    pub timestamp: u64,
    /// For this reader, or for another one.
    pub targeted: Option<bool>,
}

impl Event {
    /// Whether the reader may see it under a grant.
    pub fn is_visible(&self, grant: Grant) -> bool {
        self.targeted != Some(false) && grant.shows(self.service)
    }

    /// Whether the reader may see it under every grant: then it must not be lost.
    pub fn is_owed(&self) -> bool {
        self.is_visible(Grant::Less)
    }

    pub fn key(&self) -> String {
        format!("{}\0{}\0{}", SERVICES[self.service], self.source.unwrap_or(""), self.id)
    }

    fn write(&self, out: &mut String) {
        let Self { seq, uid, service, id, source, timestamp, targeted } = self;
        let service = SERVICES[*service];
        let _ = write!(out, "\"service\":\"{service}\",\"event\":\"e\",\"id\":\"{id}\",\"seq\":{seq}");
        if let Some(source) = source {
            let _ = write!(out, ",\"source\":\"{source}\"");
        }
        if targeted.is_some() {
            out.push_str(",\"targeted\":true");
        }
        let _ = write!(out, ",\"timestamp\":\"{}\",\"data\":{uid}", rfc3339(*timestamp));
    }
}

/// What the reader's token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    Less,
    More,
}

impl Grant {
    fn shows(self, service: usize) -> bool {
        service != HIDDEN && (service != CHANGING || self == Self::More)
    }

    pub fn tag(self) -> &'static str {
        match self {
            Self::Less => "less",
            Self::More => "more",
        }
    }

    fn services(self) -> &'static str {
        match self {
            Self::Less => r#"["finance","staff"]"#,
            Self::More => r#"["finance","staff","audit"]"#,
        }
    }
}

pub fn rfc3339(millis: u64) -> String {
    let mut out = BytesMut::new();
    write_rfc3339(&mut out, millis);
    String::from_utf8(out.to_vec()).expect("ASCII")
}

#[derive(Debug, Clone)]
struct Incarnation {
    epoch: Epoch,
    /// The last seq in it, if it has ended.
    end: Option<u64>,
    /// Whether nothing was lost at its end.
    is_clean: bool,
}

/// One log. A restart that loses events makes a new version of it.
#[derive(Debug, Clone)]
pub struct Log {
    chain: Vec<Incarnation>,
    /// All that it ever had, also what retention removed since.
    pub events: Vec<Event>,
    pub head: u64,
    pub floor: u64,
    last_timestamp: u64,
    /// The version that it was made of, and up to where both are the same.
    pub parent: Option<(usize, u64)>,
}

/// Where a reader stands in a log.
#[derive(Debug, Clone)]
pub struct Reader {
    pub version: usize,
    pub grant: Grant,
    /// The reader has been sent everything up to here.
    pub sent: u64,
    incarnation: usize,
    /// Its cursor's tag, until the gap for the changed filter is sent.
    presented_tag: Option<FilterTag>,
    /// The gap that is due before anything else: where the log continues.
    pub due: Option<Due>,
    /// A frame may begin here, if only hidden events lie between.
    begin: u64,
}

#[derive(Debug, Clone)]
pub struct Due {
    seq: u64,
    incarnation: usize,
    /// The epoch of the presented cursor, which the log does not know.
    presented: Epoch,
}

impl Log {
    pub fn new(prng: &mut Prng) -> Self {
        let first = Incarnation { epoch: epoch(prng), end: None, is_clean: true };
        Self { chain: vec![first], events: Vec::new(), head: 0, floor: 0, last_timestamp: 0, parent: None }
    }

    /// Appends events; some seqs are never used.
    pub fn append(&mut self, prng: &mut Prng, now: u64, uid: u64, id: String, source: Option<&'static str>) {
        let service = usize::try_from(prng.pick(&[0, 0, 0, 1, 1, 2, 3])).expect("an index");
        self.append_to(prng, now, uid, id, source, service);
    }

    pub fn append_to(
        &mut self,
        prng: &mut Prng,
        now: u64,
        uid: u64,
        id: String,
        source: Option<&'static str>,
        service: usize,
    ) {
        self.head += prng.pick(&[1, 1, 1, 1, 2, 5]);
        self.last_timestamp = self.last_timestamp.max(now);
        let targeted = prng.pick(&[None, None, None, None, None, Some(true), Some(false)]);
        let (seq, timestamp) = (self.head, self.last_timestamp);
        self.events.push(Event { seq, uid, service, id, source, timestamp, targeted });
    }

    /// A restart that lost nothing.
    pub fn restart(&mut self, prng: &mut Prng) {
        self.end(self.head, true, prng);
    }

    /// A restart after which the log ends at `end`. Returns the new version and what it lost.
    pub fn crash(&self, version: usize, end: u64, prng: &mut Prng) -> (Self, Vec<Event>) {
        let mut next = self.clone();
        next.parent = Some((version, end));
        let kept = next.events.partition_point(|event| event.seq <= end);
        let lost = next.events.split_off(kept);
        next.head = end;
        next.floor = next.floor.min(end);
        // Incarnations that began after the end are gone with it.
        next.end(end, false, prng);
        (next, lost)
    }

    fn end(&mut self, end: u64, is_clean: bool, prng: &mut Prng) {
        for incarnation in &mut self.chain {
            if incarnation.end.is_none_or(|old| old > end) {
                incarnation.end = Some(end);
                incarnation.is_clean &= is_clean;
            }
        }
        if let Some(last) = self.chain.last_mut() {
            last.is_clean = is_clean;
        }
        self.chain.push(Incarnation { epoch: epoch(prng), end: None, is_clean: true });
    }

    pub fn remove_up_to(&mut self, floor: u64) {
        self.floor = self.floor.max(floor.min(self.head));
    }

    fn last(&self) -> usize {
        self.chain.len() - 1
    }

    /// The newest incarnation that can be reached without a gap.
    fn reach(&self, mut incarnation: usize) -> usize {
        while incarnation < self.last() && self.chain[incarnation].is_clean {
            incarnation += 1;
        }
        incarnation
    }

    fn limit(&self, incarnation: usize) -> u64 {
        self.chain[incarnation].end.unwrap_or(self.head)
    }

    /// Where a stream starts.
    pub fn open(&self, version: usize, cursor: Option<&Cursor>, tail: Option<u32>, grant: Grant) -> Reader {
        let Some(cursor) = cursor else {
            let tail = usize::try_from(tail.unwrap_or(0)).expect("small");
            let shown: Vec<&Event> =
                self.events.iter().filter(|e| e.seq > self.floor && e.is_visible(grant)).collect();
            let start = match shown.len().checked_sub(tail) {
                _ if tail == 0 => self.head,
                Some(skip) if skip > 0 => shown[skip - 1].seq,
                _ => self.floor,
            };
            let incarnation = self.reach(
                self.chain.iter().position(|i| i.end.is_none_or(|end| start <= end)).unwrap_or(self.last()),
            );
            return Reader {
                version,
                grant,
                sent: start,
                incarnation,
                presented_tag: None,
                due: None,
                begin: start,
            };
        };
        let due = |seq, incarnation| {
            Some(Due { seq, incarnation: self.reach(incarnation), presented: cursor.epoch.clone() })
        };
        let known = self.chain.iter().position(|i| i.epoch == cursor.epoch);
        let (incarnation, due) = match known {
            Some(i) if cursor.seq <= self.limit(i) => (self.reach(i), None),
            Some(i) if i == self.last() => (i, due(self.head, i)),
            Some(i) => (i, due(self.limit(i), i + 1)),
            None if self.last() == 0 => (0, due(self.floor, 0)),
            None => (self.last(), due(self.head, self.last())),
        };
        let presented_tag = cursor.tag.clone().filter(|tag| tag.as_str() != grant.tag());
        Reader { version, grant, sent: cursor.seq, incarnation, presented_tag, due, begin: cursor.seq }
    }

    fn cursor(&self, reader: &Reader) -> String {
        let epoch = reader.due.as_ref().map_or(&self.chain[reader.incarnation].epoch, |due| &due.presented);
        let tag = reader.presented_tag.as_ref().map_or(reader.grant.tag(), FilterTag::as_str);
        format!("{epoch}-{}-{tag}", reader.sent)
    }

    /// The `hello` of a reader.
    pub fn hello(&self, reader: &Reader, connection: u64, token_ms: u64, now: u64, ping_ms: u64) -> String {
        let resumed = reader.due.is_none() && reader.sent >= self.floor;
        format!(
            concat!(
                r#"{{"type":"hello","connection_id":"n-{}","protocol":1,"org":"acme","services":{},"#,
                r#""cursor":"{}","head":{},"dedup_window_ms":300000,"ping_interval_ms":{},"resumed":{},"#,
                r#""token_expires_in_ms":{},"server_time":"{}"}}"#
            ),
            connection,
            reader.grant.services(),
            self.cursor(reader),
            self.head,
            ping_ms,
            resumed,
            token_ms,
            rfc3339(now)
        )
    }

    /// A `hello` for a renewed token.
    pub fn renew(&self, reader: &mut Reader, grant: Grant) {
        reader.grant = grant;
        reader.presented_tag = None;
        reader.begin = reader.sent;
    }

    fn gap(&self, reader: &mut Reader, seq: u64, incarnation: usize, reason: &str) -> String {
        let frame = format!(
            r#"{{"type":"gap","prev":{},"seq":{seq},"epoch":"{}","filter":"{}","reason":"{reason}"{}}}"#,
            reader.sent,
            self.chain[incarnation].epoch,
            reader.presented_tag.as_ref().map_or(reader.grant.tag(), FilterTag::as_str),
            if reason == "filter" {
                format!(r#","services":{}"#, reader.grant.services())
            } else {
                String::new()
            }
        );
        (reader.sent, reader.incarnation, reader.begin) = (seq, incarnation, seq);
        frame
    }

    /// The next frame that the reader is owed, if there is one.
    pub fn next(&self, reader: &mut Reader, prng: &mut Prng, now: u64) -> Option<String> {
        if reader.presented_tag.take().is_some() {
            // It comes before any other gap, in the epoch that holds there.
            let epoch = match &reader.due {
                Some(due) => due.presented.clone(),
                None => self.chain[reader.incarnation].epoch.clone(),
            };
            let Reader { sent, grant, .. } = reader;
            return Some(format!(
                concat!(
                    r#"{{"type":"gap","prev":{sent},"seq":{sent},"epoch":"{epoch}","filter":"{tag}","#,
                    r#""reason":"filter","services":{services}}}"#
                ),
                sent = sent,
                epoch = epoch,
                tag = grant.tag(),
                services = grant.services()
            ));
        }
        if let Some(due) = reader.due.take() {
            return Some(self.gap(reader, due.seq, due.incarnation, "epoch"));
        }
        reader.incarnation = self.reach(reader.incarnation);
        let limit = self.limit(reader.incarnation);
        if reader.sent < self.floor.min(limit) {
            let incarnation = reader.incarnation;
            return Some(self.gap(reader, self.floor.min(limit), incarnation, "retention"));
        }
        if reader.sent >= limit {
            if reader.incarnation == self.last() {
                return None;
            }
            let incarnation = self.reach(reader.incarnation + 1);
            return Some(self.gap(reader, limit, incarnation, "epoch"));
        }
        let most = usize::try_from(prng.pick(&[1, 1, 1, 2, 3, 8])).expect("small");
        let grant = reader.grant;
        let shown = |from: u64| {
            self.events.iter().filter(move |e| e.seq > from && e.seq <= limit && e.is_visible(grant))
        };
        let events: Vec<&Event> = shown(reader.sent).take(most).collect();
        let hidden_to =
            shown(events.last().map_or(reader.sent, |e| e.seq)).next().map_or(limit, |e| e.seq - 1);
        // A shared frame may begin before the reader's place, if nothing that it may see lies between.
        let seen = self
            .events
            .iter()
            .rev()
            .find(|e| e.seq <= reader.sent && e.is_visible(reader.grant))
            .map_or(0, |e| e.seq);
        let prev = prng.between(reader.begin.max(seen), reader.sent);
        let frame = match events.as_slice() {
            [] => {
                let seq = hidden_to;
                reader.sent = seq;
                format!(r#"{{"type":"ping","prev":{prev},"seq":{seq},"timestamp":"{}"}}"#, rfc3339(now))
            }
            [event] if prng.chance(700) => {
                let mut text = format!(r#"{{"type":"event","org":"acme","prev":{prev},"#);
                event.write(&mut text);
                text.push('}');
                reader.sent = event.seq;
                text
            }
            [.., last] => {
                let seq = prng.between(last.seq, hidden_to);
                let mut text = format!(
                    r#"{{"type":"batch","org":"acme","prev":{prev},"seq":{seq},"timestamp":"{}","events":["#,
                    rfc3339(now)
                );
                for (index, event) in events.iter().enumerate() {
                    text.push_str(if index == 0 { "{" } else { ",{" });
                    event.write(&mut text);
                    text.push('}');
                }
                text.push_str("]}");
                reader.sent = seq;
                text
            }
        };
        Some(frame)
    }

    pub fn ping(&self, reader: &Reader, now: u64) -> String {
        let sent = reader.sent;
        format!(r#"{{"type":"ping","prev":{sent},"seq":{sent},"timestamp":"{}"}}"#, rfc3339(now))
    }

    /// A slow reader with the policy `skip` is moved to the head, if it is in the last incarnation.
    pub fn skip(&self, reader: &mut Reader) -> Option<String> {
        let is_free = reader.due.is_none() && reader.presented_tag.is_none();
        let is_behind = reader.sent < self.head && reader.sent >= self.floor;
        if !is_free || !is_behind || reader.incarnation != self.last() {
            return None;
        }
        let incarnation = reader.incarnation;
        Some(self.gap(reader, self.head, incarnation, "slow_consumer"))
    }

    /// A page of history.
    pub fn page(&self, after: &Cursor, grant: Grant, limit: usize) -> String {
        let mut reader = self.open(0, Some(after), None, grant);
        let end = self.limit(reader.incarnation);
        let is_whole = reader.due.is_none() && reader.sent >= self.floor;
        let shown: Vec<&Event> = self
            .events
            .iter()
            .filter(|e| e.seq > reader.sent && e.seq <= end && e.is_visible(grant))
            .take(limit + 1)
            .collect();
        let has_more = shown.len() > limit || reader.incarnation != self.last();
        let shown = &shown[..shown.len().min(limit)];
        reader.sent = if has_more { shown.last().map_or(end, |e| e.seq) } else { end };
        reader.presented_tag = None;
        let mut text = String::from("{\"events\":[");
        for (index, event) in shown.iter().enumerate() {
            text.push_str(if index == 0 { "{" } else { ",{" });
            event.write(&mut text);
            text.push('}');
        }
        let _ = write!(text, "],\"cursor\":\"{}\",\"has_more\":{has_more}", self.cursor(&reader));
        if !is_whole {
            let (prev, epoch) = (after.seq, &self.chain[reader.incarnation].epoch);
            let _ = write!(
                text,
                r#","gap":{{"prev":{prev},"seq":{},"epoch":"{epoch}","reason":"retention"}}"#,
                self.floor
            );
        }
        text.push('}');
        text
    }
}

fn epoch(prng: &mut Prng) -> Epoch {
    Epoch::parse(&format!("e{}", prng.below(1 << 32))).expect("an epoch")
}
