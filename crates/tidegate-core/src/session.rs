//! A session: the protocol state of one reader's stream, from hello to the end.
//!
//! It is a cursor, not a queue. It has the position that its client will have once everything handed to the
//! socket has arrived (`sent`), the position up to which the log was scanned for it (`scanned`), and the gaps
//! that are due further on. Batches of the tail and pages of the log go in, finished frames come out; it
//! keeps no bytes.
//!
//! Methods push their frames on `out`. The caller writes all of `out` to the socket, in order, or ends the
//! session (R7).

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tidegate_protocol::{
    Code, Epoch, Filter, FilterTag, GapReason, OrgId, Refusal, Seq, UnixMillis, UserId,
    ws::extension::Deflate,
};

use crate::{
    Batch, Event, View, ViewKey,
    batch::Compressed,
    deflate::{LARGE_FROM_BYTES, Membership},
    envelope::Enveloping,
    frame::{self, Framing, Hello, Run, Side, Terms},
    gzip,
    opening::{Due, Opening},
    slow::keep_latest,
    verifier::Verifier,
};

/// After about this many events that are hidden from a reader, a ping moves its client's cursor. After a
/// reconnect they are then not scanned again.
const SILENT_SCAN_MAX: u32 = 1000;

/// Who reads what, and how.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// The org.
    pub org: OrgId,
    /// The user, who also sees events that are targeted at them.
    pub user: UserId,
    /// The services whose events are sent.
    pub filter: Filter,
    /// Whether frames are sent as WebSocket messages or as SSE events.
    pub framing: Framing,
    /// The compression that was negotiated.
    pub coding: Coding,
}

/// How the frames of a stream are compressed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Coding {
    /// Not at all.
    #[default]
    Plain,
    /// permessage-deflate (RFC 7692), over WebSocket.
    Deflate(Deflate),
    /// `Content-Encoding: gzip` (RFC 1952), over SSE. The whole stream is one gzip body, to which each frame
    /// is appended. Its header has been written already.
    Gzip(gzip::GzipBody),
    /// `?batch=gzip`, over either transport: a compressed batch inside the JSON of a frame that is not
    /// compressed itself.
    Enveloped(Arc<Enveloping>),
}

/// The form in which a stream takes shared frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Not compressed.
    Plain,
    /// Compressed for its framing: a deflated message over WebSocket, a block of the gzip body over SSE.
    Compressed,
    /// In an envelope ([`crate::envelope`]).
    Enveloped,
}

impl Coding {
    /// The form in which a stream with this coding takes shared frames.
    pub fn form(&self) -> Form {
        match self {
            Coding::Plain => Form::Plain,
            Coding::Deflate(_) | Coding::Gzip(_) => Form::Compressed,
            Coding::Enveloped(_) => Form::Enveloped,
        }
    }
}

/// The content of `hello` apart from the session's own state.
#[derive(Debug, Clone, Copy)]
pub struct Greeting<'a> {
    /// Names the connection.
    pub connection_id: &'a str,
    /// The end of the log.
    pub head: Seq,
    /// The time until the token expires, in milliseconds.
    pub token_expires_in_ms: u64,
    /// The present time.
    pub now: UnixMillis,
    /// What the node tells every client in `hello`: dedup window, ping interval, sync policy.
    pub terms: &'a Terms,
}

/// The result of [`Session::take_page`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageTaken {
    /// How many events were sent.
    pub events: usize,
    /// How many events were left out because the page has a later one of the same service with the same `key`
    /// (a field that a publisher may give an event; R17).
    pub omitted: usize,
    /// The reason of the gap that was declared before the page, if there was one.
    pub gap: Option<GapReason>,
}

/// The protocol state of one stream.
///
/// - It starts with [`Session::open`], which sends `hello`.
/// - Before each batch or page: [`Session::take_gaps`], which declares the gaps that are due.
/// - Before it takes a view: [`Session::lacks`].
/// - From the tail: [`Session::take`]. From the log: [`Session::take_shared_page`], [`Session::take_page`].
/// - Without events: [`Session::ping`], [`Session::bridge_to_scanned`], [`Session::skip`], [`Session::put`].
/// - What the client answers: [`Session::take_answer`].
/// - It changes with [`Session::renew`] and ends with [`Session::end`].
#[derive(Debug)]
pub struct Session {
    subscriber: Subscriber,
    /// The epoch of the client's cursor, and its tag (a short text that stands for the filter that the cursor
    /// was made for): those of `hello`, until a gap changes them. A renewal may change the tag.
    epoch: Epoch,
    tag: FilterTag,
    sent: Seq,
    scanned: Seq,
    /// Pings that the client may still answer (R29). Over SSE they only add up: nobody answers them there.
    unanswered: u32,
    /// How far before `sent` its client last got something of its own ([`Session::own`]), or less. Not a `Seq`, because
    /// every idle connection has one.
    since_own: u32,
    /// The gaps that are still to be declared, in the order of their positions.
    dues: VecDeque<Due>,
    /// What the client's inflater has in its window, if frames are deflated.
    membership: Membership,
    verifier: Verifier,
}

impl Session {
    /// Starts a stream as planned by [`crate::opening::open`]; its first frame is `hello`.
    pub fn open(
        subscriber: Subscriber,
        opening: Opening,
        greeting: &Greeting<'_>,
        out: &mut Vec<Bytes>,
    ) -> Self {
        let Opening { cursor, dues, resumed } = opening;
        let mut session = Self {
            tag: cursor.tag.clone().unwrap_or_else(|| subscriber.filter.tag().clone()),
            epoch: cursor.epoch,
            sent: cursor.seq,
            scanned: cursor.seq,
            unanswered: 0,
            since_own: 0,
            dues,
            membership: Membership::default(),
            verifier: Verifier::default(),
            subscriber,
        };
        let hello = session.hello(greeting, resumed);
        session.put(hello, out);
        session
    }

    /// Sends a frame without compressing it. In a gzip body it becomes stored blocks; otherwise it is sent
    /// unchanged. The caller uses this for frames that it has made itself (`status`, `goaway`, `error`).
    pub fn put(&mut self, frame: Bytes, out: &mut Vec<Bytes>) {
        match &mut self.subscriber.coding {
            Coding::Gzip(body) => {
                let first = out.len();
                body.store(&frame, out);
                self.verifier.see_blocks(&out[first..], &frame);
            }
            Coding::Plain | Coding::Enveloped(_) => out.push(frame),
            // The frame is not compressed, so it does not enter the window of the client's inflater (R19).
            Coding::Deflate(_) => {
                self.verifier.see_message(&frame, &frame, false);
                out.push(frame);
            }
        }
    }

    /// Ends the stream after its last frame: a gzip body gets its checksum.
    pub fn end(&mut self, out: &mut Vec<Bytes>) {
        if let Coding::Gzip(body) = self.subscriber.coding {
            body.end(out);
        }
    }

    fn side(&self) -> Side<'_> {
        Side { epoch: &self.epoch, tag: &self.tag }
    }

    fn hello(&self, greeting: &Greeting<'_>, resumed: bool) -> Bytes {
        let cursor = self.side().cursor(self.sent);
        let hello = Hello {
            connection_id: greeting.connection_id,
            org: &self.subscriber.org,
            filter: &self.subscriber.filter,
            cursor: &cursor,
            head: greeting.head,
            resumed,
            terms: greeting.terms,
            token_expires_in_ms: greeting.token_expires_in_ms,
            server_time: greeting.now,
        };
        frame::hello(self.subscriber.framing, &hello)
    }

    /// Who reads.
    pub fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// The position up to which the log was scanned for this reader.
    pub fn scanned(&self) -> Seq {
        self.scanned
    }

    /// The position that the client will have once all frames have arrived.
    pub fn sent(&self) -> Seq {
        self.sent
    }

    /// The position at which the client last got something of its own (`hello`, a gap, or a frame for it alone), or a
    /// later one. No frame begins before that and passes targeted events: they may have been for this reader (R1).
    pub fn own(&self) -> Seq {
        self.sent - Seq::from(self.since_own)
    }

    /// Something that is not its own takes its client to `to`.
    fn move_to(&mut self, to: Seq) {
        let moved = u32::try_from(to - self.sent).unwrap_or(u32::MAX);
        self.since_own = self.since_own.saturating_add(moved);
        self.sent = to;
    }

    /// The position of the next gap that is due. No page may end after it.
    pub fn stop(&self) -> Option<Seq> {
        self.dues.front().map(|due| due.at)
    }

    /// The key of the shared views for this reader.
    pub fn view_key(&self) -> ViewKey {
        ViewKey {
            epoch: self.epoch.clone(),
            filter: self.subscriber.filter.clone(),
            framing: self.subscriber.framing,
        }
    }

    /// Replaces this session's epoch and filter by clones of those in `key`, which must be equal to them. A
    /// clone shares the memory of its original, so all readers with the same view hold one copy together.
    pub fn share(&mut self, key: &ViewKey) {
        debug_assert!(*key == self.view_key(), "another view than its own");
        self.epoch = key.epoch.clone();
        if self.tag == *key.filter.tag() {
            self.tag = key.filter.tag().clone();
        }
        self.subscriber.filter = key.filter.clone();
    }

    /// Declares the gaps that are due at its position. Returns their reasons, for the caller's counters.
    pub fn take_gaps(&mut self, now: UnixMillis, out: &mut Vec<Bytes>) -> Vec<GapReason> {
        let mut reasons = Vec::new();
        while self.dues.front().is_some_and(|due| due.at <= self.scanned || due.reason == GapReason::Filter) {
            let Some(due) = self.dues.pop_front() else { break };
            reasons.push(due.reason);
            self.bridge(self.scanned, now, out);
            self.cross(due, out);
        }
        reasons
    }

    /// Sends the gap `due`, which moves the cursor to the position after it.
    fn cross(&mut self, due: Due, out: &mut Vec<Bytes>) {
        let prev = self.sent;
        self.epoch = due.epoch;
        self.tag = due.tag;
        self.sent = due.seq;
        self.scanned = due.seq;
        self.since_own = 0;
        let to = self.side().cursor(due.seq);
        let gap = frame::gap(self.subscriber.framing, prev, &to, due.reason, &self.subscriber.filter);
        self.put(gap, out);
    }

    /// Moves the client's cursor to `to` by a ping, if it is not there yet (R1).
    fn bridge(&mut self, to: Seq, now: UnixMillis, out: &mut Vec<Bytes>) {
        if self.sent < to {
            self.ping_to(to, now, out);
        }
    }

    /// Sends a ping that moves the client's cursor to `to`. Every ping is made here.
    fn ping_to(&mut self, to: Seq, now: UnixMillis, out: &mut Vec<Bytes>) {
        let ping = frame::ping(self.subscriber.framing, self.side(), self.sent, to, now);
        self.put(ping, out);
        self.move_to(to);
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// Takes a batch of the tail that begins at or before the reader's position and ends after that position.
    /// `view` is the batch's view for [`Session::view_key`]. Returns how many events were sent.
    pub fn take(&mut self, batch: &Batch, view: &View, now: UnixMillis, out: &mut Vec<Bytes>) -> usize {
        debug_assert!(self.stop().is_none(), "a gap is due before live events");
        self.take_shared(batch, view, now, out)
    }

    /// Takes a page of the log that is shared with other readers, in the way that [`Session::take`] takes a
    /// batch. The page must not end after [`Session::stop`]. If it begins after the reader's position,
    /// because retention has removed the events in between, call [`Session::take_removed`] first.
    pub fn take_shared_page(
        &mut self,
        page: &Batch,
        view: &View,
        now: UnixMillis,
        out: &mut Vec<Bytes>,
    ) -> usize {
        debug_assert!(self.stop().is_none_or(|stop| page.seq <= stop), "a page passes a due gap");
        let events = self.take_shared(page, view, now, out);
        self.break_silence(page.events.len(), page.seq - page.prev, now, out);
        events
    }

    /// Whether the reader takes the shared view of `batch`. Otherwise it needs a frame of its own.
    pub fn shares(&self, batch: &Batch) -> bool {
        self.scanned == batch.prev && !batch.has_targeted_at(&self.subscriber.user, &self.subscriber.filter)
    }

    /// Whether [`Session::take`] would have to compress the frame of `view` first, because this reader takes it
    /// in a form that nobody has needed yet: call [`View::deflate_alone`] for it, as a piece of work by itself.
    pub fn lacks(&self, batch: &Batch, view: &View) -> bool {
        let View::Frame { compressed: Some(compressed), .. } = view else { return false };
        let is_missing = match (&self.subscriber.coding, &**compressed) {
            (Coding::Deflate(Deflate { alone: true, .. }), Compressed::Deflated(forms)) => !forms.has_alone(),
            (Coding::Deflate(_), Compressed::Deflated(forms)) => self.membership.lacks(forms),
            _ => false,
        };
        is_missing && self.shares(batch)
    }

    fn take_shared(&mut self, batch: &Batch, view: &View, now: UnixMillis, out: &mut Vec<Bytes>) -> usize {
        debug_assert!(batch.prev <= self.scanned && self.scanned < batch.seq);
        // The reader is inside the batch, or an event is targeted at it, in the batch or in what the frame passes: it
        // gets a frame of its own with only the events after its position, so that no client sees an event twice
        // (R1, R5).
        let passes_own = match view {
            View::Frame { start, .. } => start.passes_targeted && start.seq < self.own(),
            View::Empty { .. } => false,
        };
        if passes_own || !self.shares(batch) {
            let Subscriber { user, filter, .. } = &self.subscriber;
            return self.take_private(batch.seq, &batch.visible(self.scanned, user, filter), 0, out);
        }
        self.scanned = batch.seq;
        match view {
            View::Empty { .. } => 0,
            View::Frame { start, bytes, count, compressed, .. } => {
                self.bridge(start.seq, now, out);
                match (&mut self.subscriber.coding, compressed.as_deref()) {
                    (Coding::Deflate(Deflate { alone, .. }), Some(Compressed::Deflated(forms))) => {
                        let frame =
                            if *alone { forms.deflate_alone().clone() } else { self.membership.take(forms) };
                        self.verifier.see_message(&frame, bytes, *alone);
                        out.push(frame);
                    }
                    (Coding::Gzip(body), Some(Compressed::Block(block))) => {
                        body.share(block, out);
                        self.verifier.see_blocks(std::slice::from_ref(block.bytes()), bytes);
                    }
                    (Coding::Enveloped(_), Some(Compressed::Enveloped(frame))) => out.push(frame.clone()),
                    _ => self.put(bytes.clone(), out),
                }
                self.move_to(batch.seq);
                *count
            }
        }
    }

    /// Sends `visible` in a frame for this reader alone: the events that it may see in (`scanned`, `to`],
    /// without those that a later event replaces (R17). `omitted` says how many these are. Returns how many
    /// were sent.
    fn take_private(&mut self, to: Seq, visible: &[&Event], omitted: usize, out: &mut Vec<Bytes>) -> usize {
        if !visible.is_empty() {
            let Subscriber { org, framing, coding, .. } = &self.subscriber;
            let side = Side { epoch: &self.epoch, tag: &self.tag };
            let run = Run { side, org, prev: self.sent, seq: to, events: visible, omitted };
            let plain = run.framed(*framing);
            let enveloped = match coding {
                // A large one would take too long for one reader alone.
                Coding::Enveloped(by) if plain.len() <= LARGE_FROM_BYTES => {
                    by.enveloped(*framing, &run, &plain)
                }
                _ => None,
            };
            self.put(enveloped.unwrap_or(plain), out);
            self.sent = to;
            self.since_own = 0;
        }
        self.scanned = to;
        visible.len()
    }

    /// Call this with the `prev` of the page that comes next. If it is after the reader's position, retention
    /// has removed the events in between: sends a gap, and returns its reason for the caller's counters.
    pub fn take_removed(&mut self, after: Seq, now: UnixMillis, out: &mut Vec<Bytes>) -> Option<GapReason> {
        if after <= self.scanned {
            return None;
        }
        // Gaps that were due in the removed part are not sent: this one takes the cursor past them.
        let mut epoch = self.epoch.clone();
        while self.dues.front().is_some_and(|due| due.at <= after) {
            epoch = self.dues.pop_front().map_or(epoch, |due| due.epoch);
        }
        self.bridge(self.scanned, now, out);
        let (at, tag) = (self.scanned, self.subscriber.filter.tag().clone());
        self.cross(Due { at, seq: after, epoch, tag, reason: GapReason::Retention }, out);
        Some(GapReason::Retention)
    }

    /// Sends a ping if about [`SILENT_SCAN_MAX`] events or more were scanned since the last frame. Their
    /// number is an estimate, because seqs need not be dense. The page that was just scanned has `events`
    /// events in a range of `seqs` seqs. The whole range since the last frame is assumed to be as dense.
    fn break_silence(&mut self, events: usize, seqs: Seq, now: UnixMillis, out: &mut Vec<Bytes>) {
        let silent = u128::from(self.scanned - self.sent) * events as u128;
        if events > 0 && silent >= u128::from(SILENT_SCAN_MAX) * u128::from(seqs) {
            self.bridge(self.scanned, now, out);
        }
    }

    /// Takes a page of the log that was read for this reader alone: `events` are all events of the log in
    /// (`after`, `to`]. If `after` is above the reader's position, retention has removed the events in
    /// between, and a gap declares it. With `latest`, an event is left out if the page has a later one of the
    /// same service and key that this reader may see; the frame has the number of those left out (R17).
    pub fn take_page(
        &mut self,
        after: Seq,
        to: Seq,
        events: &[Arc<Event>],
        latest: bool,
        now: UnixMillis,
        out: &mut Vec<Bytes>,
    ) -> PageTaken {
        let gap = self.take_removed(after, now, out);
        debug_assert!(self.stop().is_none_or(|stop| to <= stop), "a page passes a due gap");
        let Subscriber { user, filter, .. } = &self.subscriber;
        let mut visible: Vec<&Event> = events
            .iter()
            .map(|event| &**event)
            .filter(|event| event.seq > self.scanned && filter.admits(&event.service) && event.is_for(user))
            .collect();
        let omitted = if latest { keep_latest(&mut visible) } else { 0 };
        let in_page = events.len();
        let events = self.take_private(to.max(self.scanned), &visible, omitted, out);
        self.break_silence(in_page, to.saturating_sub(after), now, out);
        PageTaken { events, omitted, gap }
    }

    /// Moves the reader to `to` and skips the events up to there (R16). `visible` says how many of them it
    /// may see. If there are any, sends a gap and returns its reason for the caller's counters; if there are
    /// none, sends a ping.
    pub fn skip(
        &mut self,
        to: Seq,
        visible: u64,
        now: UnixMillis,
        out: &mut Vec<Bytes>,
    ) -> Option<GapReason> {
        debug_assert!(self.stop().is_none(), "a reader that has caught up has no gap ahead");
        if to <= self.scanned {
            return None;
        }
        if visible == 0 {
            self.scanned = to;
            self.bridge(to, now, out);
            return None;
        }
        self.bridge(self.scanned, now, out);
        let (epoch, tag, reason) = (self.epoch.clone(), self.tag.clone(), GapReason::SlowConsumer);
        self.cross(Due { at: self.scanned, seq: to, epoch, tag, reason }, out);
        Some(reason)
    }

    /// Sends a ping at the end of a replay, if the client's cursor is not at the scanned position yet.
    pub fn bridge_to_scanned(&mut self, now: UnixMillis, out: &mut Vec<Bytes>) {
        self.bridge(self.scanned, now, out);
    }

    /// Sends a ping. It also moves the client's cursor past the events since the last frame, which are all
    /// hidden from this reader.
    pub fn ping(&mut self, now: UnixMillis, out: &mut Vec<Bytes>) {
        self.ping_to(self.scanned, now, out);
    }

    /// Call this for every pong. Returns whether it answers a ping of this session: there are never more
    /// answers than pings (R29).
    pub fn take_answer(&mut self) -> bool {
        let is_answer = self.unanswered > 0;
        self.unanswered -= u32::from(is_answer);
        is_answer
    }

    /// Renews the grant of an open stream (R6). Org and user must stay the same; every later frame obeys
    /// `filter`. The answer is a new `hello` at the position reached.
    ///
    /// # Errors
    /// [`Code::Forbidden`] if the org or the user is another one. The session is then unchanged.
    pub fn renew(
        &mut self,
        org: &OrgId,
        user: &UserId,
        filter: Filter,
        greeting: &Greeting<'_>,
        out: &mut Vec<Bytes>,
    ) -> Result<(), Refusal> {
        if (org, user) != (&self.subscriber.org, &self.subscriber.user) {
            let message = "a renewed token must be for the org and user of this connection";
            return Err(Refusal::new(Code::Forbidden, message));
        }
        self.bridge(self.scanned, greeting.now, out);
        // Every gap that is still due sets the tag of the new filter. The `hello` below has that tag already,
        // with one exception: if a gap with reason `filter` is still due, the cursor keeps the tag that the
        // client presented until that gap is sent (R3).
        for due in &mut self.dues {
            due.tag = filter.tag().clone();
        }
        if !self.dues.iter().any(|due| due.reason == GapReason::Filter) {
            self.tag = filter.tag().clone();
        }
        self.subscriber.filter = filter;
        self.since_own = 0;
        // Its frames may be of another filter from here on, and so of another generation (R6, R19).
        self.membership.leave();
        let hello = self.hello(greeting, true);
        self.put(hello, out);
        Ok(())
    }
}
