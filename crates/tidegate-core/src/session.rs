//! A session: the protocol state of one reader's stream, from hello to the end.
//!
//! It is a cursor, not a queue. It has the position that its client will have once everything handed to the
//! socket has arrived (`sent`), the position up to which the log was scanned for it (`scanned`), and the gaps
//! that lie ahead. Batches and pages go in, finished frames come out; it keeps no bytes.
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
    deflate::Membership,
    envelope::Enveloping,
    frame::{self, Framing, Hello, Run, Side, Terms},
    gzip,
    opening::{Due, Opening},
    slow::keep_latest,
    verifier::Verifier,
};

/// A reader that sees nothing of this many events gets its position in a ping, so that it need not begin
/// again where it saw the last.
const SILENT_SCAN_MAX: u32 = 1000;

/// Who reads what, and how.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// The org.
    pub org: OrgId,
    /// The user, who also sees events that are targeted at them.
    pub user: UserId,
    /// The services.
    pub filter: Filter,
    /// The framing of its frames.
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
    /// `Content-Encoding: gzip` (RFC 1952), over SSE: the body, which has begun. Every frame is a block of it.
    Gzip(gzip::Body),
    /// Inside of their JSON (`?batch=gzip`), over either transport.
    Enveloped(Arc<Enveloping>),
}

/// The form of shared frames that a coding uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// As it is.
    Plain,
    /// As its framing compresses.
    Compressed,
    /// In an envelope.
    Enveloped,
}

impl Coding {
    /// The form of shared frames that it uses.
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
    /// The node's terms.
    pub terms: &'a Terms,
}

/// What a page came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many events were sent.
    pub events: usize,
    /// How many events were left out because of a later one with the same key (R17).
    pub omitted: usize,
    /// Why there was a gap before it, if there was one.
    pub gap: Option<GapReason>,
}

/// The protocol state of one stream.
///
/// - It starts with [`Session::open`], which sends `hello`.
/// - Before anything else is taken: [`Session::take_gaps`].
/// - From the tail: [`Session::take`]. From the log: [`Session::take_shared_page`], [`Session::take_page`].
/// - Without events: [`Session::ping`], [`Session::bridge_to_scanned`], [`Session::skip`], [`Session::put`].
/// - It changes with [`Session::renew`] and ends with [`Session::end`].
#[derive(Debug)]
pub struct Session {
    subscriber: Subscriber,
    /// The epoch and tag of the client's cursor: those that it presented, until a gap changes them.
    epoch: Epoch,
    tag: FilterTag,
    sent: Seq,
    scanned: Seq,
    dues: VecDeque<Due>,
    /// What the client's inflater has in its window, if frames may be compressed.
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
            dues,
            membership: Membership::default(),
            verifier: Verifier::default(),
            subscriber,
        };
        let hello = session.hello(greeting, resumed);
        session.put(hello, out);
        session
    }

    /// Sends a frame uncompressed, in what the coding requires around it. Also for frames that the caller has
    /// made (`status`, `goaway`, `error`).
    pub fn put(&mut self, frame: Bytes, out: &mut Vec<Bytes>) {
        match &mut self.subscriber.coding {
            Coding::Gzip(body) => {
                let first = out.len();
                body.store(&frame, out);
                self.verifier.see_blocks(&out[first..], &frame);
            }
            Coding::Plain | Coding::Enveloped(_) => out.push(frame),
            // It is not compressed, so it does not enter the window (R19).
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

    /// The position that no page may pass, because a gap is due there.
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

    /// Replaces its epoch and filter by clones of those in `key`, which are equal, so that all readers with the
    /// same view share them in memory.
    pub fn share(&mut self, key: &ViewKey) {
        debug_assert!(*key == self.view_key(), "another view than its own");
        self.epoch = key.epoch.clone();
        if self.tag == *key.filter.tag() {
            self.tag = key.filter.tag().clone();
        }
        self.subscriber.filter = key.filter.clone();
    }

    /// Declares the gaps that are due at its position; returns their reasons for the counters.
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

    fn cross(&mut self, due: Due, out: &mut Vec<Bytes>) {
        let prev = self.sent;
        self.epoch = due.epoch;
        self.tag = due.tag;
        self.sent = due.seq;
        self.scanned = due.seq;
        let to = self.side().cursor(due.seq);
        let gap = frame::gap(self.subscriber.framing, prev, &to, due.reason, &self.subscriber.filter);
        self.put(gap, out);
    }

    /// Moves the client to `to` by a ping, if it is not there yet (R1).
    fn bridge(&mut self, to: Seq, now: UnixMillis, out: &mut Vec<Bytes>) {
        if self.sent < to {
            let ping = frame::ping(self.subscriber.framing, self.side(), self.sent, to, now);
            self.put(ping, out);
            self.sent = to;
        }
    }

    /// Takes a batch of the tail that begins at or before its position and ends after it. `view` is the batch's
    /// view for [`Session::view_key`]. Returns how many events were sent.
    pub fn take(&mut self, batch: &Batch, view: &View, now: UnixMillis, out: &mut Vec<Bytes>) -> usize {
        debug_assert!(self.stop().is_none(), "a gap is due before live events");
        self.take_shared(batch, view, now, out)
    }

    /// Takes a page of the log that is shared with others, likewise. It must not pass [`Session::stop`]. If
    /// retention has removed what lies before it, call [`Session::take_removed`] first.
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

    /// Whether it takes the shared view of `batch`, and not a frame made for it alone.
    pub fn shares(&self, batch: &Batch) -> bool {
        self.scanned == batch.prev && !batch.has_targeted_at(&self.subscriber.user, &self.subscriber.filter)
    }

    fn take_shared(&mut self, batch: &Batch, view: &View, now: UnixMillis, out: &mut Vec<Bytes>) -> usize {
        debug_assert!(batch.prev <= self.scanned && self.scanned < batch.seq);
        // Its position is inside the batch: cut there, so that no client sees an event twice (R5).
        if !self.shares(batch) {
            let Subscriber { user, filter, .. } = &self.subscriber;
            return self.take_private(batch.seq, &batch.visible(self.scanned, user, filter), 0, out);
        }
        self.scanned = batch.seq;
        match view {
            View::Empty { .. } => 0,
            View::Frame { start, bytes, count, compressed } => {
                self.bridge(*start, now, out);
                match (&mut self.subscriber.coding, compressed.as_deref()) {
                    (Coding::Deflate(Deflate { alone, .. }), Some(Compressed::Deflated(forms))) => {
                        let frame = if *alone { forms.alone().clone() } else { self.membership.take(forms) };
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
                self.sent = batch.seq;
                *count
            }
        }
    }

    /// Sends `visible`, all that this reader may see in (`scanned`, `to`] but for `omitted` old ones.
    fn take_private(&mut self, to: Seq, visible: &[&Event], omitted: usize, out: &mut Vec<Bytes>) -> usize {
        if !visible.is_empty() {
            let Subscriber { org, framing, coding, .. } = &self.subscriber;
            let side = Side { epoch: &self.epoch, tag: &self.tag };
            let run = Run { side, org, prev: self.sent, seq: to, events: visible, omitted };
            let plain = run.framed(*framing);
            let enveloped = match coding {
                Coding::Enveloped(by) => by.enveloped(*framing, &run, &plain),
                _ => None,
            };
            self.put(enveloped.unwrap_or(plain), out);
            self.sent = to;
        }
        self.scanned = to;
        visible.len()
    }

    /// The log begins after `after`. If that is after its position, retention has removed what lies between:
    /// declares it, and returns the reason for the counters.
    pub fn take_removed(&mut self, after: Seq, now: UnixMillis, out: &mut Vec<Bytes>) -> Option<GapReason> {
        if after <= self.scanned {
            return None;
        }
        // The same gap crosses the boundaries in the removed part.
        let mut epoch = self.epoch.clone();
        while self.dues.front().is_some_and(|due| due.at <= after) {
            epoch = self.dues.pop_front().map_or(epoch, |due| due.epoch);
        }
        self.bridge(self.scanned, now, out);
        let (at, tag) = (self.scanned, self.subscriber.filter.tag().clone());
        self.cross(Due { at, seq: after, epoch, tag, reason: GapReason::Retention }, out);
        Some(GapReason::Retention)
    }

    /// Sends a ping after a page of so many events in so many seqs, if the client has got nothing for long.
    /// Seqs need not be dense: what was scanned before is taken to be as dense as the page.
    fn break_silence(&mut self, events: usize, seqs: Seq, now: UnixMillis, out: &mut Vec<Bytes>) {
        let silent = u128::from(self.scanned - self.sent) * events as u128;
        if events > 0 && silent >= u128::from(SILENT_SCAN_MAX) * u128::from(seqs) {
            self.bridge(self.scanned, now, out);
        }
    }

    /// Takes a page of the log: all its events in (`after`, `to`]. If `after` is above its position, retention
    /// has removed what lies between; that is declared. With `latest`, events with a later one of the same
    /// service and key in the page are left out, and the frame has their number (R17).
    pub fn take_page(
        &mut self,
        after: Seq,
        to: Seq,
        events: &[Arc<Event>],
        latest: bool,
        now: UnixMillis,
        out: &mut Vec<Bytes>,
    ) -> Taken {
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
        Taken { events, omitted, gap }
    }

    /// Continues after `to` without the events before it, of which this reader may see `visible` (R16): sends a
    /// gap, or a ping if it loses nothing. Returns the reason of the gap for the counters.
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

    /// Sends a ping at the end of a replay, if the client does not have the scanned position yet.
    pub fn bridge_to_scanned(&mut self, now: UnixMillis, out: &mut Vec<Bytes>) {
        self.bridge(self.scanned, now, out);
    }

    /// Sends a ping, which covers what was hidden from this reader since the last frame.
    pub fn ping(&mut self, now: UnixMillis, out: &mut Vec<Bytes>) {
        let ping = frame::ping(self.subscriber.framing, self.side(), self.sent, self.scanned, now);
        self.put(ping, out);
        self.sent = self.scanned;
    }

    /// Renews the grant in place (R6): same org, same user; every later frame obeys `filter`. The answer is a
    /// new `hello` at the position reached.
    ///
    /// # Errors
    /// [`Code::Forbidden`] if the org or the user is another one. Nothing has changed then.
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
        // Gaps that lie ahead change the cursor's tag to the new filter. So does this hello, unless a gap has
        // yet to declare that the presented cursor had another filter: only that gap may change it (R3).
        for due in &mut self.dues {
            due.tag = filter.tag().clone();
        }
        if !self.dues.iter().any(|due| due.reason == GapReason::Filter) {
            self.tag = filter.tag().clone();
        }
        self.subscriber.filter = filter;
        // It has another filter from here on, so it gets frames of another generation (R6, R19).
        self.membership.leave();
        let hello = self.hello(greeting, true);
        self.put(hello, out);
        Ok(())
    }
}
