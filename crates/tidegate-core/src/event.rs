//! Events, before and after the log has assigned a seq.
//!
//! An event is encoded once. [`NewEvent::body`] has its JSON members, made when the publish request is read;
//! the log puts `seq` and `timestamp` in front. The result, [`Event::fragment`], is what the store keeps, and
//! every frame with the event is assembled from it.

use std::{fmt::Write as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use tidegate_protocol::{EventId, Seq, ServiceName, UnixMillis, UserId, time::write_rfc3339};

/// The identity of an event (R12): the first 16 bytes of BLAKE3 over the length-prefixed org, service, id and
/// source (empty if there is none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupKey(pub [u8; 16]);

/// The first 16 bytes of BLAKE3 over everything that the publisher sent in an event. The same [`DedupKey`]
/// with another hash is `id_conflict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(pub [u8; 16]);

/// A publish request that its publisher has named by an `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedRequest {
    /// The identity of the request: a hash over the org, the publisher and the key.
    pub key: DedupKey,
    /// The hash of all its events. The same key with another hash is another request under a used key.
    pub content: ContentHash,
}

/// An event that a publisher asks to append: checked, and encoded apart from its seq and timestamp.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The service it belongs to.
    pub service: ServiceName,
    /// Its id, given or assigned.
    pub id: EventId,
    /// Its dedup key if the publisher gave the id; `None` for an id that the gateway assigned, which
    /// cannot repeat and takes no room in the dedup window.
    pub dedup: Option<DedupKey>,
    /// The hash of its content.
    pub content: ContentHash,
    /// The request that it came in, if the publisher named that. All events of a batch have the same.
    pub request: Option<NamedRequest>,
    /// The only users that may see it; `None` for everybody with the service.
    pub users: Option<Arc<[UserId]>>,
    /// The JSON members `"service":…` to `"data":…`, without braces or white space.
    pub body: Bytes,
}

impl NewEvent {
    /// Joins seq, timestamp and body to the fragment that is stored and sent.
    pub fn fragment(&self, seq: Seq, timestamp: UnixMillis) -> Bytes {
        // Exactly what it needs: with room left, the buffer would be kept with a header of its own.
        const AROUND: usize = "\"seq\":,\"timestamp\":\"2026-11-24T09:30:00.000Z\",".len();
        let digits = seq.checked_ilog10().unwrap_or(0) as usize + 1;
        let mut out = BytesMut::with_capacity(AROUND + digits + self.body.len());
        let _ = write!(out, "\"seq\":{seq},\"timestamp\":\"");
        write_rfc3339(&mut out, timestamp);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&self.body);
        out.freeze()
    }
}

/// The members of a fragment that have no field in [`Event`].
#[derive(serde::Deserialize)]
struct Members {
    id: Option<String>,
    key: Option<String>,
}

/// An event in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its position in the log.
    pub seq: Seq,
    /// When the gateway accepted it. Within a log it never falls from one event to the next (R14).
    pub timestamp: UnixMillis,
    /// The service it belongs to.
    pub service: ServiceName,
    /// The only users that may see it; `None` for everybody. The list is never sent to anybody (R8).
    pub users: Option<Arc<[UserId]>>,
    /// Its JSON members without braces: `"seq":…,"timestamp":…,"service":…,…,"data":…`.
    pub fragment: Bytes,
}

impl Event {
    /// About how many bytes of memory it holds in its `Arc`, for the accounting of tails. There are three blocks,
    /// of it, its fragment and its service's name, and a place in a list.
    pub fn memory(&self) -> usize {
        /// Of an `Arc`.
        const COUNTS: usize = 16;
        /// What the allocator takes around and behind a block.
        const BLOCK: usize = 12;
        let users = self.users.as_ref().map_or(0, |users| users.iter().map(|u| u.as_str().len() + 48).sum());
        let blocks = COUNTS + size_of::<Self>() + self.fragment.len() + COUNTS + self.service.as_str().len();
        blocks + 3 * BLOCK + size_of::<usize>() + users
    }

    /// Its key, parsed from the fragment: few callers need it, so it has no field of its own.
    pub fn key(&self) -> Option<String> {
        self.members()?.key
    }

    /// Its id, parsed from the fragment like the key.
    pub fn id(&self) -> Option<String> {
        self.members()?.id
    }

    fn members(&self) -> Option<Members> {
        let object = [b"{", &self.fragment[..], b"}"].concat();
        serde_json::from_slice(&object).ok()
    }

    /// Whether it is for some users only (R8).
    pub fn is_targeted(&self) -> bool {
        self.users.is_some()
    }

    /// Whether `user` may see it: true for an event that is for everybody.
    pub fn is_for(&self, user: &UserId) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }
}
