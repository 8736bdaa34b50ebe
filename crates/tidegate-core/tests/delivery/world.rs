//! The gateway's half, driven as its workers drive it: one org's log and tail, its generations, two workers
//! with their groups of readers that are caught up, and tasks that serve the lagging ones.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tidegate_core::{
    Batch, BatchLimits, Budget, Event, Framing, LogState, Next, Session, Tail, View, ViewKey,
    batch::{Compressed, Compressor, Start},
    deflate::{Contexts, Generations},
    frame::{self, Terms},
    opening::{self, From},
    session::{Coding, Greeting, Subscriber},
};
use tidegate_protocol::{
    Code, Cursor, Epoch, Filter, OrgId, Refusal, Seq, ServiceName, UserId,
    ws::{self, extension::Deflate},
};

use super::{
    client::{Client, EXCLUDED},
    decode::Decoder,
};

const TERMS: Terms = Terms { dedup_window_ms: 1, ping_interval_ms: 1, sync: None };
const LIMITS: BatchLimits = BatchLimits { events: 4, bytes: 12 << 10 };
/// A page of the log, and a window of `latest`.
const PAGE: usize = 5;

/// How a reader takes its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    WebSocket,
    Deflate,
    /// With `server_no_context_takeover`.
    DeflateAlone,
    Sse,
    SseGzip,
}

impl Kind {
    fn coding(self, out: &mut Vec<Bytes>) -> Coding {
        let offer = |offer: &str| {
            let offer = ("sec-websocket-extensions", offer.as_bytes());
            Coding::Deflate(Deflate::choose(&[offer]).expect("an offer that is taken"))
        };
        match self {
            Self::WebSocket | Self::Sse => Coding::Plain,
            Self::Deflate => offer("permessage-deflate"),
            Self::DeflateAlone => offer("permessage-deflate; server_no_context_takeover"),
            Self::SseGzip => Coding::Gzip(tidegate_core::gzip::GzipBody::begin(out)),
        }
    }

    fn framing(self) -> Framing {
        if matches!(self, Self::Sse | Self::SseGzip) { Framing::Sse } else { Framing::WebSocket }
    }

    fn decoder(self) -> Decoder {
        match self {
            Self::WebSocket | Self::Deflate => Decoder::websocket(false),
            Self::DeflateAlone => Decoder::websocket(true),
            Self::Sse | Self::SseGzip => Decoder::sse(self == Self::SseGzip),
        }
    }
}

pub struct Reader {
    session: Session,
    pub client: Client,
    worker: usize,
    is_live: bool,
    /// Its socket accepts no bytes.
    is_stalled: bool,
    was_caught_up: bool,
    /// The form of each batch's frame: `s` with the shared context, `a` compressed alone, `p` plain, `b` a
    /// block, `-` made for it.
    pub forms: String,
}

/// The readers of one worker that are caught up and see the same.
struct Group {
    key: ViewKey,
    compresses: bool,
    position: Seq,
    chain: Start,
    /// How many of its readers got events of their own since `chain`.
    apart: usize,
    readers: Vec<usize>,
}

/// What is published.
#[derive(Debug, Clone, Copy)]
pub struct News<'a> {
    pub service: &'a str,
    pub user: Option<&'a str>,
    pub key: Option<&'a str>,
    pub bytes: usize,
}

pub struct World {
    log: LogState,
    tail: Tail,
    kept: Vec<Arc<Event>>,
    generations: Generations,
    pub contexts: Arc<Contexts>,
    workers: [Vec<Group>; 2],
    pub readers: Vec<Option<Reader>>,
    excluded: Vec<ServiceName>,
    pub met: BTreeMap<String, u64>,
}

pub fn filter(text: &str) -> Filter {
    if text == "*" {
        return Filter::all();
    }
    Filter::only(text.split('+').map(|name| ServiceName::parse(name).expect("a name")).collect())
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user")
}

fn sees(session: &Session, event: &Event) -> bool {
    session.subscriber().filter.admits(&event.service) && event.is_for(&session.subscriber().user)
}

impl World {
    pub fn new(readers: usize, contexts: usize) -> Self {
        let epoch = Epoch::from_random(7);
        let contexts = Arc::new(Contexts::new(contexts));
        Self {
            log: LogState { epoch, ancestors: vec![], born_empty: true, head: 0, floor: 0 },
            tail: Tail::new(0, Arc::new(Budget::default())),
            kept: Vec::new(),
            generations: Generations::new(contexts.clone(), OrgId::parse("acme").expect("a name")),
            contexts,
            workers: [Vec::new(), Vec::new()],
            readers: (0..readers).map(|_| None).collect(),
            excluded: vec![ServiceName::parse(EXCLUDED).expect("a name")],
            met: BTreeMap::new(),
        }
    }

    fn meet(&mut self, what: &str) {
        *self.met.entry(what.to_owned()).or_default() += 1;
    }

    fn greeting(&self) -> Greeting<'static> {
        Greeting { connection_id: "c", head: self.log.head, token_expires_in_ms: 1, now: 1, terms: &TERMS }
    }

    pub fn publish(&mut self, news: &[News<'_>]) {
        let prev = self.log.head;
        let events: Vec<Arc<Event>> = (prev + 1..)
            .zip(news)
            .map(|(seq, news)| {
                let key = news.key.map_or(String::new(), |key| format!(",\"key\":\"{key}\""));
                let mut data = String::new();
                let mut number = seq;
                while data.len() < news.bytes {
                    number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seq);
                    data.push_str(&format!("invoice INV-{:x} of customer c-{}; ", number >> 44, number % 97));
                }
                data.truncate(news.bytes);
                let fragment =
                    format!("\"seq\":{seq},\"service\":\"{}\"{key},\"data\":\"{data}\"", news.service);
                Arc::new(Event {
                    seq,
                    timestamp: 1,
                    service: ServiceName::parse(news.service).expect("a name"),
                    users: news.user.map(|name| [user(name)].into()),
                    fragment: fragment.into(),
                })
            })
            .collect();
        self.log.head += news.len() as Seq;
        self.kept.extend(events.iter().cloned());
        self.tail.push(prev, &events, 1, LIMITS);
    }

    /// A stream begins: at the head, or at the position of the reader's stream before it.
    pub fn join(&mut self, index: usize, kind: Kind, name: &str, services: &str) {
        let before = self.readers[index].take();
        self.leave(index);
        let from = match before {
            Some(Reader { client, .. }) => From::Cursor(Cursor {
                epoch: self.log.epoch.clone(),
                seq: client.at(),
                tag: Some(client.filter().tag().clone()),
            }),
            None => From::Head,
        };
        let filter = filter(services);
        let opening = opening::open(&self.log, &filter, from);
        let mut out = Vec::new();
        let subscriber = Subscriber {
            org: OrgId::parse("acme").expect("a name"),
            user: user(name),
            filter: filter.clone(),
            framing: kind.framing(),
            coding: kind.coding(&mut out),
        };
        let client = Client::new(kind.decoder(), subscriber.user.clone(), filter);
        let session = Session::open(subscriber, opening, &self.greeting(), &mut out);
        let mut reader = Reader {
            session,
            client,
            worker: index % 2,
            is_live: false,
            is_stalled: false,
            was_caught_up: false,
            forms: String::new(),
        };
        out.iter().for_each(|bytes| reader.client.send(bytes));
        self.readers[index] = Some(reader);
        self.meet("join");
    }

    /// Takes a reader out of its worker's groups.
    fn leave(&mut self, index: usize) {
        for groups in &mut self.workers {
            groups.iter_mut().for_each(|group| group.readers.retain(|other| *other != index));
            groups.retain(|group| !group.readers.is_empty());
        }
        if let Some(reader) = &mut self.readers[index] {
            reader.is_live = false;
        }
    }

    /// Puts a reader that has caught up into a group.
    fn enter(&mut self, index: usize) {
        let Some(reader) = &mut self.readers[index] else { return };
        let (key, at) = (reader.session.view_key(), reader.session.scanned());
        let compresses = reader.session.subscriber().coding != Coding::Plain;
        reader.is_live = true;
        let groups = &mut self.workers[reader.worker];
        let group = match groups.iter().position(|group| group.key == key && group.compresses == compresses) {
            Some(found) => &mut groups[found],
            None => {
                groups.push(Group {
                    key,
                    compresses,
                    position: at,
                    chain: Start::at(at),
                    apart: 0,
                    readers: Vec::new(),
                });
                groups.last_mut().expect("just pushed")
            }
        };
        if group.position > at {
            (group.position, group.chain) = (at, Start::at(at));
        }
        group.readers.push(index);
    }

    fn view(&self, batch: &Batch, key: &ViewKey, compresses: bool, start: impl Into<Start>) -> View {
        let org = OrgId::parse("acme").expect("a name");
        if !compresses {
            return batch.view(&org, key, start);
        }
        let by = Compressor { generations: Some(&self.generations), excluded: &self.excluded };
        batch.compressed_view(&org, key, start, by).expect("a small frame")
    }

    /// A fan-out pass of one worker: open events are sealed and sent to its readers that are caught up.
    pub fn fan_out(&mut self, worker: usize) {
        let Some(from) = self.workers[worker].iter().map(|group| group.position).min() else { return };
        self.tail.seal(1);
        let (batches, head) = (self.tail.since(from), self.tail.head());
        for at in 0..self.workers[worker].len() {
            let group = &self.workers[worker][at];
            let (key, compresses, readers) = (group.key.clone(), group.compresses, group.readers.clone());
            let (mut chain, mut position, mut apart) = (group.chain, group.position, group.apart);
            let batches = &batches[batches.partition_point(|batch| batch.seq <= position)..];
            if batches.is_empty() && position < head {
                readers.into_iter().for_each(|reader| self.fall_behind(reader));
                continue;
            }
            let mut views = Vec::new();
            for batch in batches {
                if batch.prev != position {
                    chain = Start::at(batch.prev);
                }
                position = batch.seq;
                // As a worker does.
                if chain.passes_targeted && apart * 4 > readers.len() {
                    chain = Start::at(batch.prev);
                }
                let view = self.view(batch, &key, compresses, chain);
                chain = chain.after(batch, &view);
                if matches!(view, View::Frame { .. }) {
                    apart = 0;
                }
                views.push((batch.clone(), view));
            }
            let group = &mut self.workers[worker][at];
            (group.position, group.chain) = (position, chain);
            for reader in readers {
                let own = |world: &Self| world.readers[reader].as_ref().map(|reader| reader.session.own());
                let before = own(self);
                self.offer(reader, &views);
                apart += usize::from(own(self) != before && own(self) > Some(chain.seq));
            }
            self.workers[worker][at].apart = apart;
        }
        self.workers[worker].retain(|group| !group.readers.is_empty());
    }

    /// Takes a reader out of its group during a pass: the group stays.
    fn fall_behind(&mut self, index: usize) {
        for group in self.workers.iter_mut().flatten() {
            group.readers.retain(|other| *other != index);
        }
        if let Some(reader) = &mut self.readers[index] {
            reader.is_live = false;
        }
        self.meet("fell behind");
    }

    fn offer(&mut self, index: usize, views: &[(Arc<Batch>, View)]) {
        let Some(reader) = &mut self.readers[index] else { return };
        let seen = views.partition_point(|(batch, _)| batch.seq <= reader.session.scanned());
        for (batch, view) in &views[seen..] {
            if reader.is_stalled || batch.prev > reader.session.scanned() {
                return self.fall_behind(index);
            }
            reader.take(batch, view);
        }
    }

    /// Up to `turns` turns of a lagging reader's own task. Returns whether it is live again.
    pub fn serve(&mut self, index: usize, turns: usize) -> bool {
        for _ in 0..turns {
            let Some(reader) = &mut self.readers[index] else { return true };
            reader.is_stalled = false;
            if reader.is_live {
                return true;
            }
            let mut out = Vec::new();
            reader.session.take_gaps(1, &mut out);
            if out.is_empty() {
                let at = reader.session.scanned();
                match self.tail.next(at) {
                    Next::CaughtUp => {
                        reader.session.bridge_to_scanned(1, &mut out);
                        if out.is_empty() {
                            reader.was_caught_up = true;
                            self.enter(index);
                            return true;
                        }
                    }
                    Next::Batch(batch) => {
                        let compresses = reader.session.subscriber().coding != Coding::Plain;
                        let key = reader.session.view_key();
                        let view = self.view(&batch, &key, compresses, batch.prev);
                        let what = if batch.prev == at { "batch of the tail" } else { "cut batch" };
                        self.meet(what);
                        if let Some(reader) = &mut self.readers[index] {
                            reader.take(&batch, &view);
                        }
                        continue;
                    }
                    Next::BeforeTail(start) => {
                        self.page(index, start, false);
                        continue;
                    }
                }
            }
            out.iter().for_each(|bytes| reader.client.send(bytes));
        }
        self.readers[index].as_ref().is_none_or(|reader| reader.is_live)
    }

    fn page(&mut self, index: usize, to: Seq, latest: bool) {
        let Some(reader) = &mut self.readers[index] else { return };
        let after = reader.session.scanned();
        let first = self.kept.partition_point(|event| event.seq <= after);
        let page = &self.kept[first..(first + PAGE).min(self.kept.len())];
        let to = page.last().map_or(to, |event| event.seq.min(to));
        let page = &page[..page.partition_point(|event| event.seq <= to)];
        let mut out = Vec::new();
        reader.session.take_page(after, to, page, latest, 1, &mut out);
        out.iter().for_each(|bytes| reader.client.send(bytes));
        self.meet(if latest { "window of latest" } else { "page" });
    }

    /// Does what the policy of a slow reader does.
    pub fn act(&mut self, index: usize, is_latest: bool) {
        let head = self.tail.head();
        let Some(reader) = &mut self.readers[index] else { return };
        if reader.is_live || !reader.was_caught_up {
            return;
        }
        let at = reader.session.scanned();
        if is_latest {
            if at < head {
                self.page(index, head, true);
            }
            return;
        }
        let behind = self.kept.iter().filter(|event| at < event.seq && event.seq <= head);
        let lag = behind.filter(|event| sees(&reader.session, event)).count() as u64;
        let mut out = Vec::new();
        reader.session.skip(head, lag, 1, &mut out);
        out.iter().for_each(|bytes| reader.client.send(bytes));
    }

    pub fn stall(&mut self, index: usize) {
        if let Some(reader) = &mut self.readers[index] {
            reader.is_stalled = true;
        }
    }

    pub fn ping(&mut self, index: usize) {
        let Some(reader) = &mut self.readers[index] else { return };
        // As a worker does: a lagging reader is written to by its own task.
        if !reader.is_live {
            return;
        }
        let mut out = Vec::new();
        reader.session.ping(1, &mut out);
        out.iter().for_each(|bytes| reader.client.send(bytes));
    }

    /// A frame for this reader alone.
    pub fn private(&mut self, index: usize) {
        let Some(reader) = &mut self.readers[index] else { return };
        let status = frame::status(reader.session.subscriber().framing, "overloaded", "for you alone");
        let mut out = Vec::new();
        reader.session.put(status, &mut out);
        out.iter().for_each(|bytes| reader.client.send(bytes));
    }

    pub fn renew(&mut self, index: usize, services: &str) {
        self.leave(index);
        let greeting = self.greeting();
        let Some(reader) = &mut self.readers[index] else { return };
        let Subscriber { org, user, .. } = reader.session.subscriber().clone();
        let mut out = Vec::new();
        reader.client.ask(filter(services));
        reader.session.renew(&org, &user, filter(services), &greeting, &mut out).expect("the same user");
        out.iter().for_each(|bytes| reader.client.send(bytes));
        self.meet("renewal");
    }

    /// Evicts the compressors that were not used since the last time.
    pub fn sweep(&mut self) {
        let before = self.contexts.used();
        self.generations.sweep();
        if self.contexts.used() < before {
            self.meet("evicted compressor");
        }
    }

    pub fn shorten_tail(&mut self) {
        self.tail.drop_oldest();
    }

    /// What is on its way arrives, in pieces of these lengths.
    pub fn arrive(&mut self, cuts: &mut impl Iterator<Item = usize>, is_all: bool) {
        for reader in self.readers.iter_mut().flatten() {
            reader.client.arrive(&self.kept, cuts, is_all);
        }
    }

    /// Every reader catches up and receives all that is on its way, and its stream ends.
    pub fn settle(&mut self, cuts: &mut impl Iterator<Item = usize>) {
        self.tail.seal(1);
        for worker in 0..2 {
            self.fan_out(worker);
        }
        let refusal = Refusal::new(Code::Draining, "it ends");
        for index in 0..self.readers.len() {
            while !self.serve(index, 1) {}
            self.ping(index);
            let Some(mut reader) = self.readers[index].take() else { continue };
            let mut out = Vec::new();
            reader.session.put(frame::error(reader.session.subscriber().framing, &refusal), &mut out);
            reader.session.end(&mut out);
            out.iter().for_each(|bytes| reader.client.send(bytes));
            reader.client.arrive(&self.kept, cuts, true);
            assert_eq!(reader.client.at(), self.log.head, "reader {index} has not caught up");
            for form in reader.forms.chars() {
                self.meet(&form.to_string());
            }
            for what in std::mem::take(&mut reader.client.met) {
                self.meet(what);
            }
            reader.client.finish();
        }
    }
}

impl Reader {
    fn take(&mut self, batch: &Batch, view: &View) {
        let mut out = Vec::new();
        self.session.take(batch, view, 1, &mut out);
        if let (Some(last), View::Frame { bytes, compressed, .. }) = (out.last(), view) {
            let is = |other: &Bytes| last.as_ptr() == other.as_ptr();
            let form = match compressed.as_deref() {
                _ if out.iter().any(is_same(bytes)) => 'p',
                Some(Compressed::Deflated(forms)) if is(forms.deflate_alone()) => 'a',
                Some(Compressed::Block(block)) if is(block.bytes()) => 'b',
                Some(Compressed::Deflated(_)) if ws::is_deflated(last) => 's',
                _ => '-',
            };
            self.forms.push(form);
        } else if !out.is_empty() {
            self.forms.push('-');
        }
        out.iter().for_each(|bytes| self.client.send(bytes));
    }
}

/// Whether a piece is this frame, also as the content of a stored block.
fn is_same(frame: &Bytes) -> impl Fn(&Bytes) -> bool {
    let at = frame.as_ptr();
    move |piece| piece.as_ptr() == at
}
