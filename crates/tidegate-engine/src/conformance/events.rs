//! Events to append.

use bytes::Bytes;
use tidegate_core::{ContentHash, DedupKey, Event, NamedRequest, NewEvent};
use tidegate_protocol::{EventId, OrgId, ServiceName};

/// The org of this name.
pub fn org(name: &str) -> OrgId {
    OrgId::parse(name).expect("an org")
}

/// An event whose publisher gave `id`; its content is its id.
pub fn event(org: &str, id: &str) -> NewEvent {
    event_with(org, id, id)
}

/// An event whose publisher gave `id`, of the service `finance`.
pub fn event_with(org: &str, id: &str, content: &str) -> NewEvent {
    let hash = |text: &str| {
        let mut bits = [0; 16];
        bits.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        bits
    };
    NewEvent {
        service: ServiceName::parse("finance").expect("a service"),
        id: EventId::parse(id).expect("an id"),
        dedup: Some(DedupKey(hash(&format!("{}:{org}{id}", org.len())))),
        content: ContentHash(hash(content)),
        request: None,
        users: None,
        body: Bytes::from(format!("\"service\":\"finance\",\"id\":\"{id}\",\"data\":\"{content}\"")),
    }
}

/// The same events as a request that its publisher named `key`; its content is the events' contents.
pub fn named(mut events: Vec<NewEvent>, key: &str) -> Vec<NewEvent> {
    let hash = |parts: &[&[u8]]| {
        let mut bits = [0; 16];
        bits.copy_from_slice(&blake3::hash(&parts.concat()).as_bytes()[..16]);
        bits
    };
    let contents: Vec<&[u8]> = events.iter().map(|event| &event.content.0[..]).collect();
    let request = NamedRequest {
        key: DedupKey(hash(&[b"request ", key.as_bytes()])),
        content: ContentHash(hash(&contents)),
    };
    events.iter_mut().for_each(|event| event.request = Some(request));
    events
}

/// Whether the fragment of `event` carries `id`.
pub fn has_id(event: &Event, id: &str) -> bool {
    let text = String::from_utf8(event.fragment.to_vec()).expect("UTF-8");
    text.contains(&format!("\"id\":\"{id}\""))
}
