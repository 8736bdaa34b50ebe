//! What each frame means (PROTOCOL.md, "Frames" and "Continuity"; R2, R3).

use serde_json::value::RawValue;

use super::{DEDUP_MS, PING_INTERVAL_MS, Session, delivery::Facts, tokens::UNCONFIRMED_MS};
use crate::{
    Code, Cursor, Epoch, FilterTag, GapReason,
    client::{
        continuity::{AfterGap, Continuity, after_gap, after_hello},
        delay::{HINT_MS_MAX, STABLE_MS, part},
        members::Members,
        output::{Output, Transport},
        state::{Fill, Held, Phase},
    },
    code::Retry,
    frame::ClientFrame,
};

/// The longest ping interval that a client accepts: an hour. With a longer one, a dead connection would go
/// unnoticed for too long.
const PING_INTERVAL_MS_MAX: u64 = 3_600_000;

/// A token is not renewed more often, however short its life.
const REFRESH_MS_MIN: u64 = 1_000;

impl Session {
    pub(super) fn frame(&mut self, g: u64, text: &str) {
        if self.state.connection != Some(g) {
            return;
        }
        let Some(frame) = Members::read(text) else {
            return self.broken("a frame is not a JSON object");
        };
        let Some(kind) = frame.text("type") else {
            return self.broken("a frame has no type");
        };
        let is_greeted = self.state.hello_at.is_some();
        if is_greeted {
            if self.state.phase == Phase::Probe {
                self.state.phase = Phase::Live;
                self.state.timers.phase = None;
            }
            self.listen();
        }
        match &*kind {
            "hello" => self.hello(&frame),
            "error" => {
                let code = frame.text("code").unwrap_or_default();
                let message = frame.text("message").unwrap_or_default().into_owned();
                // Codes that no stream can end with, and those of a newer gateway, are worth another try.
                let is_final = Code::from_name(&code)
                    .is_some_and(|code| code.retry() == Retry::No && code.close().is_some());
                self.ended(&code, message, hint(&frame), is_final);
            }
            "goaway" => {
                self.state.timers.leave = Some(self.now + part(self.random, hint(&frame)));
                self.status(&frame);
            }
            "event" | "batch" | "ping" | "gap" | "status" | "pong" if !is_greeted => {
                self.broken("a frame came before hello");
            }
            "event" => match serde_json::from_str(text) {
                Ok(event) => self.advance(&frame, Some(vec![event])),
                Err(_) => self.broken("a frame is not a JSON object"),
            },
            "batch" => self.advance(&frame, frame.list("events")),
            "ping" => self.pinged(&frame),
            "gap" => self.gap(&frame),
            "pong" => self.ponged(&frame),
            "status" => {
                self.status(&frame);
                // The gateway could not check the new token: ask for another in a while.
                if frame.text("code").as_deref() == Some("overloaded") {
                    self.refresh_later();
                }
            }
            _ => {} // of a newer gateway
        }
    }

    fn status(&mut self, frame: &Members<'_>) {
        let text = |name| frame.text(name).unwrap_or_default().into_owned();
        self.emit(Output::Status { code: text("code"), message: text("message") });
    }

    /// A frame that no gateway may send.
    fn broken(&mut self, message: &str) {
        self.lose("protocol", message, 0);
    }

    /// R3: `hello.cursor` is where this connection begins to account for events. Above the cursor, something
    /// would be lost in silence.
    fn hello(&mut self, frame: &Members<'_>) {
        let Some(start) = frame.text("cursor").and_then(|text| text.parse::<Cursor>().ok()) else {
            return self.broken("hello has no valid cursor");
        };
        let Some(cursor) = after_hello(self.state.cursor.as_ref(), start.clone()) else {
            return self.broken("hello skips what was not seen");
        };
        let is_renewed = self.state.hello_at.is_some();
        let has_moved = self.state.cursor.as_ref() != Some(&cursor);
        let life = frame.whole("token_expires_in_ms").unwrap_or(UNCONFIRMED_MS);
        let s = &mut self.state;
        s.cursor = Some(cursor);
        s.phase = Phase::Live;
        s.head = frame.whole("head").unwrap_or(0);
        s.ping_interval_ms = frame
            .whole("ping_interval_ms")
            .map_or(PING_INTERVAL_MS, |interval| interval.min(PING_INTERVAL_MS_MAX));
        s.dedup_window_ms = frame.whole("dedup_window_ms").unwrap_or(DEDUP_MS);
        s.connection_id = frame.text("connection_id").filter(|id| !id.is_empty()).map(Into::into);
        s.token_until = self.now + life;
        s.timers.refresh = Some(self.now + (life * 4 / 5).max(REFRESH_MS_MIN));
        let transport = s.transport;
        s.home = transport;
        if transport != s.kept {
            s.kept = transport;
            self.out.push(Output::Transport { transport });
        }
        if is_renewed {
            s.refusals = 0;
        } else {
            s.hello_at = Some(self.now);
            if !s.moving {
                s.connected_wall = Some(self.wall);
            }
            s.timers.phase = None;
            s.timers.stable = Some(self.now + STABLE_MS);
            s.before_hello = 0;
            s.moving = false;
            s.not_before = None;
            s.pings_heard = 0;
            s.samples.clear();
            let opened = self.state.open_at.unwrap_or(self.now);
            self.sample(opened, frame.text("server_time").as_deref());
        }
        self.listen();
        self.emit(Output::Hello {
            connection_id: self.state.connection_id.clone().unwrap_or_default(),
            services: frame.texts("services").unwrap_or_default(),
            head: self.state.head,
            resumed: frame.is_true("resumed"),
            renewed: is_renewed,
            sync: frame.text("sync").filter(|sync| !sync.is_empty()).map(Into::into),
            cursor: start,
        });
        if has_moved {
            self.moved();
        }
        if !is_renewed && self.state.transport == Transport::Ws {
            self.ask();
            if self.config.health {
                self.report_later();
            }
        }
    }

    /// R2: a gap is handled before any comparison of its seq; only one of reason `epoch` may lower the
    /// cursor.
    fn gap(&mut self, frame: &Members<'_>) {
        let epoch = frame.text("epoch").and_then(|text| Epoch::parse(&text));
        let (Some(prev), Some(seq), Some(epoch)) = (frame.whole("prev"), frame.whole("seq"), epoch) else {
            return self.broken("a gap has no valid prev, seq or epoch");
        };
        let Some(before) = self.state.cursor.clone() else { return };
        let reason = frame.text("reason").unwrap_or_default();
        let tag = frame.text("filter").and_then(|text| FilterTag::parse(&text));
        let to = Cursor { epoch: epoch.clone(), seq, tag };
        let after = match after_gap(&before, prev, to, &reason) {
            AfterGap::Hole => return self.hole(),
            AfterGap::Known(after) => {
                self.state.cursor = Some(after);
                return self.moved();
            }
            AfterGap::News(after) => after,
        };
        self.state.cursor = Some(after.clone());
        if reason == GapReason::Epoch.name() {
            self.state.dedup_until = self.now + DEDUP_MS;
        }
        if reason == GapReason::SlowConsumer.name() && self.config.fill && self.state.fill.is_none() {
            self.state.fill = Some(Fill {
                g: 0,
                after: before,
                to: seq,
                reason: reason.into_owned(),
                held: Vec::new(),
                cursor: after,
            });
            return self.ask_page();
        }
        // A second gap while one is being filled: give up the first, so that all is told in order.
        self.fill_failed();
        self.state.gaps += 1;
        self.state.unreported.gaps += 1;
        let services = frame.texts("services");
        self.emit(Output::Gap { prev, seq, epoch, reason: reason.into_owned(), services });
        self.moved();
    }

    fn hole(&mut self) {
        self.state.holes += 1;
        self.state.unreported.holes += 1;
        self.lose("hole", "a frame is missing; the stream resumes before it", 0);
    }

    /// R2: an event, batch or ping over (`prev`, `seq`] that holds these events; `None` if it should hold
    /// some and does not.
    fn advance(&mut self, frame: &Members<'_>, events: Option<Vec<&RawValue>>) {
        let (Some(prev), Some(seq), Some(events)) = (frame.whole("prev"), frame.whole("seq"), events) else {
            return self.broken("a frame has no valid prev, seq or events");
        };
        let mut entries = Vec::with_capacity(events.len());
        let mut place = None;
        for event in events {
            let facts = Facts::of(event).filter(|facts| Some(facts.seq) > place && facts.seq <= seq);
            let Some(facts) = facts else {
                return self.broken("the events of a frame are out of order");
            };
            place = Some(facts.seq);
            entries.push((event, facts));
        }
        let Some(before) = self.state.cursor.as_ref().map(|cursor| cursor.seq) else { return };
        let continuity = Continuity::of(before, prev, seq);
        if continuity == Continuity::Hole {
            return self.hole();
        }
        for (event, facts) in entries {
            if facts.seq <= before {
                self.state.overlaps += 1;
                self.state.unreported.duplicates += 1;
                continue;
            }
            let replay = facts.seq <= self.state.head;
            let latency_ms = if replay { None } else { self.latency(facts.appended) };
            self.take(Held { event: event.to_owned(), replay, latency_ms }, &facts);
        }
        if continuity == Continuity::Advance {
            if let Some(cursor) = &mut self.state.cursor {
                cursor.seq = seq;
            }
            self.moved();
        }
    }

    fn pinged(&mut self, frame: &Members<'_>) {
        self.advance(frame, Some(Vec::new()));
        // There is no connection after a hole, and an event stream takes no answer.
        if self.state.connection.is_none() || self.state.transport != Transport::Ws {
            return;
        }
        self.send(ClientFrame::Pong);
        self.ask_at_ping();
    }
}

/// `retry_in_ms`; 0 if there is none.
fn hint(frame: &Members<'_>) -> u64 {
    frame.whole("retry_in_ms").unwrap_or(0).min(HINT_MS_MAX)
}
