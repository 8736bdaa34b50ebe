//! What must hold in every world, whatever goes wrong: no silent loss, no duplicate but what R14 permits, no
//! reordering, a deadline whenever the session waits, bounded state, and no storm of attempts.

use std::collections::BTreeMap;

use tidegate_protocol::client::{Config, Input, Output, Phase, Session};

use crate::{log::Log, world::uid};

const WINDOW_MS: u64 = 300_000;

/// Watches one run.
pub struct Oracle {
    /// All up to here was delivered or declared; of this version of the log.
    place: Option<u64>,
    pub version: usize,
    /// The log lost something that was delivered: only a gap may come next.
    needs_gap: bool,
    /// Key -> append time and time of delivery.
    delivered: BTreeMap<String, (u64, u64)>,
    dedup_until: u64,
    opens: Vec<u64>,
    requests: Vec<u64>,
    has_cursor: bool,
    /// What the driver has under way.
    connection: Option<u64>,
    request: Option<u64>,
    page: Option<u64>,
    generation: u64,
}

impl Oracle {
    pub fn new(config: &Config) -> Self {
        Self {
            place: None,
            version: 0,
            needs_gap: false,
            delivered: BTreeMap::new(),
            dedup_until: 0,
            opens: Vec::new(),
            requests: Vec::new(),
            has_cursor: config.cursor.is_some(),
            connection: None,
            request: None,
            page: None,
            generation: 0,
        }
    }

    /// The position that the application has been brought to.
    pub fn place(&self) -> Option<u64> {
        self.place
    }

    pub fn check(
        &mut self,
        input: &Input,
        outputs: &[Output],
        session: &Session,
        logs: &[Log],
        version: Option<usize>,
        now: u64,
    ) -> Result<(), String> {
        if let Some(version) = version {
            self.enter(version, logs);
        }
        self.answer(input);
        for output in outputs {
            self.under_way(output)?;
            self.take(output, &logs[self.version], now)?;
        }
        if matches!(input, Input::Connect | Input::Disconnect) {
            self.opens.clear();
            self.requests.clear();
        }
        self.check_state(session, outputs)
    }

    /// What an input ends.
    fn answer(&mut self, input: &Input) {
        let (place, g) = match input {
            Input::Closed { g, .. } => (&mut self.connection, *g),
            Input::Token { g, .. } | Input::TokenFailed { g, .. } => (&mut self.request, *g),
            Input::Page { g, .. } | Input::PageFailed { g } => (&mut self.page, *g),
            Input::Connect
            | Input::Disconnect
            | Input::Opened { .. }
            | Input::Switched { .. }
            | Input::Frame { .. }
            | Input::Wake { .. }
            | Input::Offline
            | Input::Suspend
            | Input::Tick
            | Input::Overflow
            | Input::Drained => return,
        };
        if *place == Some(g) {
            *place = None;
        }
    }

    /// One connection, one request for a token and one for a page at a time, each with a generation of its own.
    fn under_way(&mut self, output: &Output) -> Result<(), String> {
        let (place, g) = match output {
            Output::Open { g, .. } => (&mut self.connection, *g),
            Output::GetToken { g, .. } => (&mut self.request, *g),
            Output::History { g, .. } => (&mut self.page, *g),
            Output::Close { g, .. } if self.connection == Some(*g) => {
                self.connection = None;
                return Ok(());
            }
            Output::Cancel { g } if self.request == Some(*g) => {
                self.request = None;
                return Ok(());
            }
            Output::Cancel { g } if self.page == Some(*g) => {
                self.page = None;
                return Ok(());
            }
            Output::Close { .. } | Output::Cancel { .. } => return Err(format!("{output:?} of nothing")),
            Output::Send { .. }
            | Output::Transport { .. }
            | Output::Hello { .. }
            | Output::Event { .. }
            | Output::Gap { .. }
            | Output::Cursor { .. }
            | Output::Status { .. }
            | Output::Error { .. }
            | Output::State { .. } => return Ok(()),
        };
        if place.is_some() || g <= self.generation {
            return Err(format!("{output:?} beside {place:?}, after generation {}", self.generation));
        }
        (*place, self.generation) = (Some(g), g);
        Ok(())
    }

    /// A connection may speak for a later version of the log.
    fn enter(&mut self, version: usize, logs: &[Log]) {
        if version <= self.version {
            return;
        }
        let mut at = version;
        let mut common = u64::MAX;
        while at > self.version {
            let (parent, end) = logs[at].parent.expect("later versions have one");
            (at, common) = (parent, common.min(end));
        }
        self.version = version;
        self.needs_gap |= self.place.is_some_and(|place| place > common);
    }

    /// All that is owed in (place, to] was delivered, but for what R14 takes out.
    fn reach(&mut self, to: u64, log: &Log, now: u64, but: Option<u64>) -> Result<(), String> {
        let Some(place) = self.place else { return Ok(()) };
        if to <= place {
            return Ok(());
        }
        if self.needs_gap {
            return Err(format!("the log lost what was delivered, and {to} comes without a gap"));
        }
        let from = log.events.partition_point(|event| event.seq <= place);
        for event in &log.events[from..] {
            if event.seq > to {
                break;
            }
            if !event.is_owed() || Some(event.seq) == but {
                continue;
            }
            let known = self.delivered.get(&event.key());
            let is_repeat = known
                .is_some_and(|(appended, _)| event.timestamp.abs_diff(*appended) < WINDOW_MS)
                && now < self.dedup_until;
            if !is_repeat {
                return Err(format!("silent loss: {} of ({place}, {to}] was not delivered", event.seq));
            }
        }
        self.place = Some(to);
        Ok(())
    }

    fn take(&mut self, output: &Output, log: &Log, now: u64) -> Result<(), String> {
        match output {
            Output::Hello { cursor, .. } => {
                if self.place.is_none() {
                    self.place = Some(cursor.seq);
                    if !self.has_cursor {
                        self.needs_gap = false;
                    }
                }
            }
            Output::Event { event, .. } => {
                let (seq, uid) = uid(event);
                let Some(index) = log.events.iter().position(|event| event.seq == seq && event.uid == uid)
                else {
                    return Err(format!("an event of another log: {event}"));
                };
                let entry = &log.events[index];
                if self.place.is_none_or(|place| seq <= place) {
                    return Err(format!("{seq} comes at {:?}: twice, or out of order", self.place));
                }
                self.reach(seq, log, now, Some(seq))?;
                if let Some((appended, at)) = self.delivered.get(&entry.key()) {
                    let is_near = entry.timestamp.abs_diff(*appended) < WINDOW_MS;
                    if is_near && now < self.dedup_until && now < at + WINDOW_MS {
                        return Err(format!("{} of id {} was delivered before", seq, entry.id));
                    }
                }
                self.delivered.insert(entry.key(), (entry.timestamp, now));
            }
            Output::Gap { prev, seq, reason, .. } => {
                if self.place.is_none_or(|place| place > *prev) && reason != "epoch" {
                    return Err(format!("a gap from {prev} at {:?}", self.place));
                }
                if reason == "epoch" {
                    self.dedup_until = now + WINDOW_MS;
                    self.needs_gap = false;
                } else {
                    self.reach(*prev, log, now, None)?;
                }
                let place = self.place.unwrap_or(0);
                self.place = Some(if reason == "epoch" { *seq } else { place.max(*seq) });
            }
            Output::Cursor { cursor } => {
                self.reach(cursor.seq, log, now, None)?;
                if self.place != Some(cursor.seq) {
                    return Err(format!("the cursor is {cursor} at {:?}", self.place));
                }
            }
            Output::Open { .. } => storm(&mut self.opens, now, 4)?,
            Output::GetToken { .. } => storm(&mut self.requests, now, 3)?,
            Output::Close { .. }
            | Output::Cancel { .. }
            | Output::Send { .. }
            | Output::History { .. }
            | Output::Transport { .. }
            | Output::Status { .. }
            | Output::Error { .. }
            | Output::State { .. } => {}
        }
        Ok(())
    }

    fn check_state(&self, session: &Session, outputs: &[Output]) -> Result<(), String> {
        let state = session.state();
        let waits = match state.phase {
            Phase::Idle | Phase::Stopped => false,
            Phase::Backoff => !state.paused,
            Phase::Auth | Phase::Opening | Phase::Hello | Phase::Live | Phase::Probe => true,
        };
        // The sweep does not bring a session on.
        let mut timers = state.timers;
        timers.sweep = None;
        timers.report = None;
        if waits && timers.first().is_none() {
            return Err(format!("it waits for nothing in {:?}: {:?}", state.phase, state.timers));
        }
        let states = outputs.iter().filter(|output| matches!(output, Output::State { .. })).count();
        let is_last = matches!(outputs.last(), Some(Output::State { .. }));
        if states > 1 || (states == 1 && !is_last) {
            return Err("a state that is not last".into());
        }
        let keys: usize = state.remembered.iter().map(|generation| generation.keys.len()).sum();
        let held = state.fill.as_ref().map_or(0, |fill| fill.held.len());
        let is_bounded = keys <= 10_000
            && held <= 5_000
            && state.samples.len() <= 8
            && state.latencies.len() <= 100
            && state.unreported.latencies_ms.len() <= 100
            && state.remembered.len() <= 16;
        if is_bounded { Ok(()) } else { Err("the state is over its bounds".into()) }
    }
}

/// No more than so many within a second.
fn storm(times: &mut Vec<u64>, now: u64, most: usize) -> Result<(), String> {
    times.retain(|at| now - at < 1_000);
    times.push(now);
    if times.len() > most { Err(format!("a storm of attempts: {times:?}")) } else { Ok(()) }
}
