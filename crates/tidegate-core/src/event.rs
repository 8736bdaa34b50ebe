//! Events, before and after the log has given them a place.
//!
//! An event is encoded once. [`NewEvent::body`] holds its JSON members as the publisher's request
//! was read; the log puts `seq` and `timestamp` in front, and the result, [`Event::fragment`], is
//! what the store keeps and what every frame that carries the event is assembled from.

use std::{fmt::Write as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use tidegate_protocol::{EventId, Seq, ServiceName, UnixMillis, UserId, time::write_rfc3339};

/// What makes two publishes the same event (R12): a hash of the length-prefixed
/// (org, service, id, source or empty).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupKey(pub [u8; 16]);

/// A hash of everything else that the publisher said of an event: the same key with another hash
/// is `id_conflict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(pub [u8; 16]);

/// An event that a publisher asks to append: checked, and encoded but for its place.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The service it belongs to.
    pub service: ServiceName,
    /// Its id, given or assigned.
    pub id: EventId,
    /// Its dedup key where the publisher gave the id; `None` for an id that the gateway drew, which
    /// cannot come twice and takes no room in the window.
    pub dedup: Option<DedupKey>,
    /// The hash of its content.
    pub content: ContentHash,
    /// The users that alone may see it; `None` for everybody with the service.
    pub users: Option<Arc<[UserId]>>,
    /// The JSON members `"service":…` to `"data":…`, without braces or white space.
    pub body: Bytes,
}

impl NewEvent {
    /// Joins place and body to the fragment that is stored and sent.
    pub fn fragment(&self, seq: Seq, timestamp: UnixMillis) -> Bytes {
        let mut out = BytesMut::with_capacity(self.body.len() + 64);
        let _ = write!(out, "\"seq\":{seq},\"timestamp\":\"");
        write_rfc3339(&mut out, timestamp);
        out.extend_from_slice(b"\",");
        out.extend_from_slice(&self.body);
        out.freeze()
    }
}

/// An event in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place.
    pub seq: Seq,
    /// When the gateway accepted it. Never falls from one event of a log to the next (R14).
    pub timestamp: UnixMillis,
    /// The service it belongs to.
    pub service: ServiceName,
    /// The users that alone may see it. Never sent to anybody (R8).
    pub users: Option<Arc<[UserId]>>,
    /// Its JSON members without braces: `"seq":…,"timestamp":…,"service":…,…,"data":…`.
    pub fragment: Bytes,
}

impl Event {
    /// The memory that one event holds, for the accounting of tails.
    pub fn memory(&self) -> usize {
        let users = self.users.as_ref().map_or(0, |users| users.iter().map(|u| u.as_str().len() + 32).sum());
        size_of::<Self>() + self.fragment.len() + users + 32
    }

    /// Its key, read out of the fragment: for the few who need it, the value stands nowhere else.
    pub fn key(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Members {
            key: Option<String>,
        }
        let object = [b"{", &self.fragment[..], b"}"].concat();
        serde_json::from_slice::<Members>(&object).ok()?.key
    }

    /// Whether it is for some users only.
    pub fn is_targeted(&self) -> bool {
        self.users.is_some()
    }

    /// Whether `user` is among the users it is for; true for an event that is for everybody.
    pub fn is_for(&self, user: &UserId) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }
}
