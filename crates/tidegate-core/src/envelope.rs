//! Compression inside of JSON (`?batch=gzip`): a `batch` frame as gzip in base64, in another `batch` frame.
//! For transports and clients that support no other compression.
//!
//! Made once for everybody who sees the same, like every form of a frame: [`crate::Batch`] keeps it. The
//! length of compressed data reveals something of it (CRIME, BREACH), so events that are kept out of other
//! compression are kept out of this too: those that only some users see, and services by configuration.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use tidegate_protocol::{ServiceName, time::write_rfc3339};

use crate::{
    Event, Framing,
    deflate::{MadeForm, count_compression},
    frame::{self, FRAME_BYTES_END, Run},
    gzip,
    window::compress_parts,
};

/// Which frames are put into envelopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enveloping {
    /// Frames of up to this many bytes of JSON are sent plain.
    pub threshold: usize,
    /// Services whose events are never compressed.
    pub excluded: Vec<ServiceName>,
}

impl Enveloping {
    /// The frame of `run` in an envelope. `None` if `plain`, the same frame uncompressed, is to be sent: it is
    /// short, or has an event that must not be compressed, or an envelope would make it longer than
    /// [`FRAME_BYTES_END`]. A single event becomes a batch of one. Of a large frame (`LARGE_FROM_BYTES`) the
    /// caller compresses [`Enveloping::text`] piece by piece instead.
    pub fn enveloped(&self, framing: Framing, run: &Run<'_>, plain: &Bytes) -> Option<Bytes> {
        let text = self.text(framing, run, plain)?;
        let compressed = compress_parts(&text, &run.parts(text.len(), 0));
        framed(framing, run, plain, &text, compressed)
    }

    /// What is compressed; `None` if `plain` is to be sent.
    pub(crate) fn text(&self, framing: Framing, run: &Run<'_>, plain: &Bytes) -> Option<Bytes> {
        if frame::json_bytes(framing, plain) <= self.threshold {
            return None;
        }
        let is_kept_out = |event: &&Event| event.is_targeted() || self.excluded.contains(&event.service);
        if run.events.iter().any(is_kept_out) {
            return None;
        }
        let mut batch = BytesMut::new();
        run.write_batch(&mut batch);
        Some(batch.freeze())
    }
}

/// The frame of `run`, whose `text` is `compressed`; `None` if `plain` is to be sent.
pub(crate) fn framed(
    framing: Framing,
    run: &Run<'_>,
    plain: &Bytes,
    text: &[u8],
    compressed: Vec<u8>,
) -> Option<Bytes> {
    count_compression(MadeForm::Envelope);
    let data = STANDARD.encode(gzip::member(text, compressed));
    let enveloped = frame::framed(framing, run.id(framing).as_ref(), |out| {
        out.reserve(data.len() + 160);
        out.put_slice(br#"{"type":"batch","compressed":true,"encoding":"gzip","data":""#);
        out.put_slice(data.as_bytes());
        let _ = write!(out, r#"","prev":{},"seq":{},"timestamp":""#, run.prev, run.seq);
        write_rfc3339(out, run.timestamp());
        let _ = write!(out, r#"","count":{}}}"#, run.events.len());
    });
    let is_too_long = enveloped.len() >= FRAME_BYTES_END && enveloped.len() >= plain.len();
    (!is_too_long).then_some(enveloped)
}
