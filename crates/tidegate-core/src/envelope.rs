//! Compression inside of JSON (`?batch=gzip`): a `batch` frame whose text is gzipped, in base64, in
//! another `batch` frame. For transports and clients between which nothing else is compressed.
//!
//! Made once for everybody who sees the same, like every other form of a frame: [`crate::Batch`] keeps
//! it. What may be told of it by its length is the same as with any compression, so what is kept out of
//! the others is kept out of this: events that only some users see, and services by configuration.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use tidegate_protocol::{ServiceName, time::write_rfc3339};

use crate::{
    Event, Framing,
    frame::{self, Run},
    gzip,
};

/// What goes into envelopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enveloping {
    /// Frames go as they are up to this many bytes of JSON.
    pub threshold: usize,
    /// Services whose events are never compressed.
    pub excluded: Vec<ServiceName>,
}

impl Enveloping {
    /// The frame of `run` in an envelope; `None` where `plain`, the same frame as it is, is to go itself:
    /// it is short, or holds what is not to be compressed. A single event goes as a batch of one.
    pub fn enveloped(&self, framing: Framing, run: &Run<'_>, plain: &Bytes) -> Option<Bytes> {
        if frame::json_bytes(framing, plain) <= self.threshold {
            return None;
        }
        let is_kept_out = |event: &&Event| event.is_targeted() || self.excluded.contains(&event.service);
        if run.events.iter().any(is_kept_out) {
            return None;
        }
        let mut batch = BytesMut::new();
        run.write_batch(&mut batch);
        let data = STANDARD.encode(gzip::member(&batch));
        Some(frame::framed(framing, run.id(framing).as_ref(), |out| {
            out.reserve(data.len() + 160);
            out.put_slice(br#"{"type":"batch","compressed":true,"encoding":"gzip","data":""#);
            out.put_slice(data.as_bytes());
            let _ = write!(out, r#"","prev":{},"seq":{},"timestamp":""#, run.prev, run.seq);
            write_rfc3339(out, run.timestamp());
            let _ = write!(out, r#"","count":{}}}"#, run.events.len());
        }))
    }
}
