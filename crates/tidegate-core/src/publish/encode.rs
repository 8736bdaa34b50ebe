//! Encodes a valid event, once, and computes the hashes that identify it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tidegate_protocol::{
    EventId, EventName, Key, OrgId, ServiceName, Source, Subject, UserId, time::write_datetime,
};
use time::OffsetDateTime;

use super::{PublishLimits, fields::Faults};
use crate::{ContentHash, DedupKey, NamedRequest, NewEvent, json};

/// All parts of an event, parsed.
pub(super) struct Checked<'a> {
    pub(super) service: ServiceName,
    pub(super) name: EventName,
    pub(super) id: EventId,
    /// Whether the publisher can send the id again.
    pub(super) is_given: bool,
    pub(super) key: Option<Key>,
    pub(super) source: Option<Source>,
    pub(super) subject: Option<Subject>,
    pub(super) time: Option<OffsetDateTime>,
    pub(super) users: Option<Arc<[UserId]>>,
    /// One JSON value.
    pub(super) data: &'a str,
}

impl Checked<'_> {
    /// Encodes it. The only faults left are those of `data` ([`json::Unfit`]); `pointer` points to it.
    pub(super) fn encode(
        self,
        org: &OrgId,
        limits: &PublishLimits,
        faults: &mut Faults,
        pointer: impl FnOnce() -> String,
    ) -> Option<NewEvent> {
        let mut body = BytesMut::with_capacity(self.data.len() + 128);
        write_member(&mut body, "\"service\":", self.service.as_str());
        write_member(&mut body, ",\"event\":", self.name.as_str());
        write_member(&mut body, ",\"id\":", self.id.as_str());
        if let Some(key) = &self.key {
            write_member(&mut body, ",\"key\":", key.as_str());
        }
        if let Some(source) = &self.source {
            write_member(&mut body, ",\"source\":", source.as_str());
        }
        if let Some(subject) = &self.subject {
            write_member(&mut body, ",\"subject\":", subject.as_str());
        }
        if let Some(time) = self.time {
            body.put_slice(b",\"time\":\"");
            write_datetime(&mut body, time);
            body.put_u8(b'"');
        }
        if self.users.is_some() {
            body.put_slice(b",\"targeted\":true");
        }
        body.put_slice(b",\"data\":");
        if json::write_compact(&mut body, self.data, limits.depth).is_err() {
            faults.unfit(self.data, &pointer(), Some(limits));
            return None;
        }
        let body: Bytes = body.freeze();
        let source = self.source.as_ref().map_or("", Source::as_str);
        Some(NewEvent {
            dedup: self.is_given.then(|| dedup_key(org, &self.service, &self.id, source)),
            content: content_hash(&body, self.users.as_deref()),
            request: None,
            service: self.service,
            id: self.id,
            users: self.users,
            body,
        })
    }
}

fn write_member(out: &mut BytesMut, lead: &str, value: &str) {
    out.put_slice(lead.as_bytes());
    json::write_string(out, value);
}

/// The dedup key of an event (R12). The parts are length-prefixed, so that different parts never have the
/// same text. `source` is empty if the event has none.
pub fn dedup_key(org: &OrgId, service: &ServiceName, id: &EventId, source: &str) -> DedupKey {
    let mut hasher = blake3::Hasher::new();
    for part in [org.as_str(), service.as_str(), id.as_str(), source] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    DedupKey(half(&hasher.finalize()))
}

/// Names the request of `events`, which go to `org`, by the key that `publisher` gave it.
pub fn name_request(events: &mut [NewEvent], org: &OrgId, publisher: &str, key: &str) -> NamedRequest {
    // A context of its own (BLAKE3's key derivation), so that no request has the key of an event.
    let mut name = blake3::Hasher::new_derive_key("tidegate 2026-11 idempotency key of a publish request");
    for part in [org.as_str(), publisher, key] {
        name.update(&(part.len() as u64).to_le_bytes());
        name.update(part.as_bytes());
    }
    let mut content = blake3::Hasher::new();
    for event in events.iter() {
        content.update(&event.content.0);
    }
    let key = DedupKey(half(&name.finalize()));
    let request = NamedRequest { key, content: ContentHash(half(&content.finalize())) };
    for event in events {
        event.request = Some(request);
    }
    request
}

impl NamedRequest {
    /// The identity of an event as part of this request. Under it the log knows an event for as long as the
    /// name of the request, if the event's own identity is known for a shorter time.
    pub fn event_key(&self, event: &DedupKey) -> DedupKey {
        // Another context, for the same reason.
        let mut hasher = blake3::Hasher::new_derive_key("tidegate 2026-11 event of a named publish request");
        hasher.update(&self.key.0).update(&event.0);
        DedupKey(half(&hasher.finalize()))
    }
}

/// The hash of all that the publisher sent: the body, and the users, who are not in it.
fn content_hash(body: &[u8], users: Option<&[UserId]>) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(body);
    for user in users.unwrap_or_default() {
        // No user has a comma (`UserId`).
        hasher.update(b",").update(user.as_str().as_bytes());
    }
    ContentHash(half(&hasher.finalize()))
}

fn half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}
