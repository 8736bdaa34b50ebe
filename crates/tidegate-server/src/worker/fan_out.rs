//! The fan-out passes of a worker: what was committed to an org goes to its caught-up readers.
//!
//! Everything here belongs to one thread. A pass hands each reader what was sealed since its own position,
//! as bytes shared with everybody who sees the same, by one non-blocking vectored write. A reader whose
//! socket does not take them leaves its group, and catches up in its own turns ([`super::catch_up`]).

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{
    Batch, Framing, View, ViewKey,
    batch::{Compressor, Start},
    pace::{SLICE, Written},
    session::Form,
};
use tidegate_protocol::{OrgId, Seq};

use super::{
    Worker, guard,
    org::{Group, OrgState, Pass},
    reader::Offer,
    readers::READERS_BETWEEN_LOOKS,
    thread_cpu,
};
use crate::{hub::Org, transport::Transport};

/// A frame may begin before targeted events (R1) unless more than one of so many readers of its group got some of
/// them. Each of those needs a frame of its own instead; without it, each of the others needs a ping before it.
const APART_SHARE: usize = 4;

impl Worker {
    /// The org `id` has events that its readers here do not have yet.
    pub fn handle_commit(&self, id: &OrgId) {
        let org = self.orgs.borrow().get(id).cloned();
        if let Some(org) = org {
            self.handle_news(&org);
        }
    }

    /// The same, for a caller that has the org's state.
    pub fn handle_news(&self, org: &Rc<OrgState>) {
        // Its readers may have gone meanwhile.
        if org.has_groups() {
            org.has_news.set(true);
            self.passes.borrow_mut().handle_news(self.since_start(), org);
        }
    }

    /// Serves a slice of the pass of `org`.
    pub(super) fn serve_pass(&self, org: Rc<OrgState>) {
        let cpu = thread_cpu();
        let (written, is_done) = self.go_on(&org);
        let cost = written.saved_by_waiting(thread_cpu().saturating_sub(cpu));
        self.passes.borrow_mut().handle_slice(self.since_start(), org, cost, is_done);
    }

    /// Goes on with the pass of `org`, or begins one, for a slice of time. Returns what was written, and
    /// whether the pass is done.
    fn go_on(&self, org: &OrgState) -> (Written, bool) {
        let mut written = Written::default();
        let begun = org.under_way.take();
        let Some(mut pass) = begun.or_else(|| self.begin(org)) else { return (written, true) };
        let until = Instant::now() + SLICE;
        let mut delivered = 0;
        let is_done = loop {
            let Some(group) = pass.groups.last() else { break true };
            let (events, is_done) = self.serve_group(&pass, group, until, &mut written);
            delivered += events;
            if !is_done {
                break false;
            }
            pass.groups.pop();
        };
        self.node.metrics.delivered.inc_by(delivered as u64);
        if !is_done {
            org.under_way.replace(Some(pass));
        }
        (written, is_done)
    }

    /// Begins a pass: seals the open events, and prepares what each group gets. `None` if there is nothing
    /// new, or no reader is caught up.
    fn begin(&self, org: &OrgState) -> Option<Pass> {
        if !org.has_news.take() {
            return None;
        }
        // During a pass readers may leave their group, and a group that loses its last reader is removed from
        // the org's list. So the pass goes through a copy of the list.
        let groups = org.groups.borrow().clone();
        let from = groups.iter().map(|group| group.position.get()).min()?;
        let now = self.node.now();
        let (batches, head) = {
            let mut tail = org.tail();
            tail.seal(self.node.steady());
            (tail.since(from), tail.head())
        };
        for group in &groups {
            self.prepare(org, group, &batches, head);
        }
        Some(Pass { groups, now })
    }

    /// Prepares a pass for one group: what the group sees of each batch, made once for all of its readers.
    fn prepare(&self, org: &OrgState, group: &Group, batches: &[Arc<Batch>], head: Seq) {
        group.next.set(0);
        let position = group.position.get();
        let batches = &batches[batches.partition_point(|batch| batch.seq <= position)..];
        let Some(last) = batches.last() else {
            if position < head {
                // What was sealed has fallen out of the tail already: only the log has it.
                self.let_all_lag(org, group);
            }
            return;
        };
        let (mut start, mut boundary) = (group.start.get(), position);
        let views = batches
            .iter()
            .map(|batch| {
                if batch.prev != boundary {
                    // The batch does not begin where the group stands: the tail was shortened past it, or the
                    // group began inside of this batch, while it was open. So the frame's `prev` is the
                    // batch's own.
                    start = Start::at(batch.prev);
                }
                boundary = batch.seq;
                if start.passes_targeted && group.apart.get() * APART_SHARE > group.readers.borrow().len() {
                    start = Start::at(batch.prev);
                }
                let view = self.view(&org.shared, batch, &group.key, group.form, start);
                start = start.after(batch, &view);
                if matches!(view, View::Frame { .. }) {
                    group.apart.set(0);
                }
                (batch.clone(), view)
            })
            .collect();
        group.start.set(start);
        group.position.set(last.seq);
        group.views.replace(views);
    }

    /// What `key` sees of a batch, in the form that is wanted. `start` is the lowest `prev` that the frame
    /// may have ([`Batch::view`]).
    pub fn view(&self, org: &Org, batch: &Batch, key: &ViewKey, form: Form, start: impl Into<Start>) -> View {
        match form {
            Form::Plain => batch.view(&org.id, key, start),
            Form::Compressed => {
                let mut generations = org.generations();
                let excluded = &self.node.enveloping.excluded;
                let by = Compressor { generations: Some(&mut generations), excluded };
                batch.compressed_view(&org.id, key, start, by)
            }
            Form::Enveloped => batch.enveloped_view(&org.id, key, start, &self.node.enveloping),
        }
    }

    /// What `key` sees of a page of the log, in the form that is wanted. A page is compressed alone, without
    /// a generation: a generation compresses the batches of the tail, each once and in their order.
    pub fn page_view(&self, org: &Org, page: &Batch, key: &ViewKey, form: Form) -> View {
        if form != Form::Compressed {
            return self.view(org, page, key, form, page.prev);
        }
        let by = Compressor { generations: None, excluded: &self.node.enveloping.excluded };
        page.compressed_view(&org.id, key, page.prev, by)
    }

    /// Serves those readers of a group that the pass has not served yet, until the time `until`. Returns how
    /// many events were sent, and whether all readers have been served.
    fn serve_group(
        &self,
        pass: &Pass,
        group: &Group,
        until: Instant,
        written: &mut Written,
    ) -> (usize, bool) {
        let views = group.views.borrow();
        let bytes = views.iter().map(|(_, view)| view.wire_bytes() as u64).sum::<u64>();
        let mut delivered = 0;
        let mut frames: Vec<Bytes> = Vec::new();
        for turn in 1.. {
            if views.is_empty() {
                break;
            }
            let Some(reader) = group.readers.borrow().get(group.next.get()).cloned() else { break };
            if bytes > 0 {
                written.sends += 1;
                written.bytes += bytes;
            }
            // A broken invariant ends the one stream, not the worker and everybody on it.
            let offered = guard(|| reader.offer(&views, pass.now, &mut frames)).unwrap_or_else(|| {
                frames = Vec::new();
                reader.fail();
                Offer::Lags(0)
            });
            match offered {
                Offer::Taken(events) => {
                    delivered += events;
                    group.next.set(group.next.get() + 1);
                }
                Offer::Lags(events) => {
                    delivered += events;
                    reader.org().leave(&reader);
                    self.node.metrics.parked.inc();
                    reader.notify();
                }
            }
            if turn % READERS_BETWEEN_LOOKS == 0 && Instant::now() >= until {
                return (delivered, false);
            }
        }
        if bytes > 0 && !group.readers.borrow().is_empty() {
            self.measure(group, &views);
        }
        drop(views);
        group.next.set(0);
        group.views.take();
        (delivered, true)
    }

    /// Measures how long the oldest event of `views` was on its way, now that the last reader of the group has
    /// it.
    fn measure(&self, group: &Group, views: &[(Arc<Batch>, View)]) {
        let shown = views.iter().find(|(_, view)| matches!(view, View::Frame { .. }));
        let Some(oldest) = shown.and_then(|(batch, _)| batch.events.first()) else { return };
        let transport = match group.key.framing {
            Framing::WebSocket => Transport::WebSocket,
            Framing::Sse => Transport::Sse,
        };
        let took = Duration::from_millis(self.node.now().saturating_sub(oldest.timestamp));
        self.node.metrics.delivery_took(transport, took);
    }

    /// Takes all readers out of a group: from now on they lag.
    fn let_all_lag(&self, org: &OrgState, group: &Group) {
        loop {
            let Some(reader) = group.readers.borrow().last().cloned() else { break };
            org.leave(&reader);
            self.node.metrics.parked.inc();
            reader.notify();
        }
    }
}
