//! Server-sent events (WHATWG HTML, section 9.2) over an HTTP body, chunked or not, gzipped or not.

use std::io::Write as _;

use flate2::write::GzDecoder;
use memchr::memmem;

use crate::http::{Chunks, Head, HttpError};

/// Decoder of an event stream. Its input may be split anywhere. It holds little memory between events.
#[derive(Debug)]
pub struct Sse {
    chunks: Option<Chunks>,
    gzip: Option<Box<GzDecoder<Vec<u8>>>>,
    /// Text of an event that is not complete yet.
    text: Vec<u8>,
}

impl Sse {
    /// A decoder for the stream that follows this head.
    pub fn new(head: &Head) -> Self {
        let is_gzip = head.header("content-encoding").is_some_and(|value| value.eq_ignore_ascii_case("gzip"));
        Self {
            chunks: head.is_chunked().then(Chunks::default),
            gzip: is_gzip.then(|| Box::new(GzDecoder::new(Vec::new()))),
            text: Vec::new(),
        }
    }

    /// Whether the stream is compressed.
    pub fn is_compressed(&self) -> bool {
        self.gzip.is_some()
    }

    /// Decodes `input` and calls `each` with the data of every complete event. True if the body has ended.
    pub fn take(&mut self, input: &[u8], mut each: impl FnMut(&[u8])) -> Result<bool, HttpError> {
        let mut ended = false;
        match (&mut self.chunks, &mut self.gzip) {
            (None, None) => self.text.extend_from_slice(input),
            (Some(chunks), None) => {
                chunks.take(input, &mut self.text)?;
                ended = chunks.has_ended();
            }
            (chunks, Some(gzip)) => {
                let mut body = Vec::new();
                let body = match chunks {
                    None => input,
                    Some(chunks) => {
                        chunks.take(input, &mut body)?;
                        ended = chunks.has_ended();
                        &body
                    }
                };
                let inflated = gzip.write_all(body).and_then(|()| gzip.flush());
                inflated.map_err(|_| HttpError::of("its gzip body cannot be inflated"))?;
                self.text.append(gzip.get_mut());
            }
        }
        let mut used = 0;
        while let Some(end) = memmem::find(&self.text[used..], b"\n\n") {
            event(&self.text[used..used + end], &mut each);
            used += end + 2;
        }
        if used == self.text.len() {
            self.text = Vec::new();
        } else {
            self.text.drain(..used);
        }
        Ok(ended)
    }
}

/// The data of one event; several data lines are joined.
fn event(text: &[u8], each: &mut impl FnMut(&[u8])) {
    let mut data = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let value = line.strip_prefix(b"data:")?;
        Some(value.strip_prefix(b" ").unwrap_or(value))
    });
    let Some(first) = data.next() else { return };
    match data.next() {
        None => each(first),
        Some(second) => {
            let mut all = [first, second].join(&b'\n');
            for line in data {
                all.push(b'\n');
                all.extend_from_slice(line);
            }
            each(&all);
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const TEXT: &str = "retry: 1000\n\nid: e-1-t\ndata: {\"a\":1}\n\n: word\ndata: x\ndata:y\n\nid: late";

    fn head(lines: &str) -> Head {
        let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        Head::read(text.as_bytes()).expect("HTTP").expect("a head")
    }

    fn read(head: &Head, body: &[u8], piece: usize) -> Vec<String> {
        let (mut sse, mut found) = (Sse::new(head), Vec::new());
        for piece in body.chunks(piece) {
            sse.take(piece, |data| found.push(String::from_utf8_lossy(data).into_owned())).expect("a body");
        }
        found
    }

    #[test]
    fn events_are_read_however_they_are_sent_and_cut() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        for part in TEXT.as_bytes().chunks(20) {
            gzip.write_all(part).expect("gzipped");
            gzip.flush().expect("flushed");
        }
        let gzip = gzip.get_ref().clone();
        let chunked = |body: &[u8]| {
            body.chunks(9)
                .flat_map(|c| [format!("{:x}\r\n", c.len()).as_bytes(), c, b"\r\n"].concat())
                .collect()
        };
        let bodies: [(Vec<u8>, &str); 4] = [
            (TEXT.into(), ""),
            (chunked(TEXT.as_bytes()), "Transfer-Encoding: chunked\r\n"),
            (gzip.clone(), "Content-Encoding: gzip\r\n"),
            (chunked(&gzip), "content-encoding: gzip\r\ntransfer-encoding: chunked\r\n"),
        ];
        for (body, lines) in &bodies {
            for piece in [1, 3, 16, usize::MAX] {
                assert_eq!(read(&head(lines), body, piece), ["{\"a\":1}", "x\ny"], "{lines} in {piece}");
            }
        }
    }
}
