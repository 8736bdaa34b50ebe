//! A parser of server-sent events (WHATWG HTML, 9.2.6). Pure: bytes in, events out.

/// One event of the stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `data:` lines, joined by line breaks.
    pub data: String,
    /// The last `id:` so far.
    pub id: Option<String>,
}

/// No frame of a gateway is nearly as long.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Assembles lines from chunks, and events from lines.
#[derive(Debug, Default)]
pub struct SseReader {
    line: Vec<u8>,
    after_return: bool,
    data: Option<String>,
    id: Option<String>,
}

/// The bytes are not a stream of server-sent events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("a line of the stream is longer than 64MiB")]
    TooLong,
    #[error("the stream is not UTF-8")]
    NotUtf8,
}

impl SseReader {
    /// Takes the next bytes and returns the events that they complete.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, SseError> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            // CR LF is one line end, even if the chunk ends between the two.
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
                self.keep(rest)?;
                break;
            };
            self.keep(&rest[..end])?;
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
            events.extend(self.end_line(line));
        }
        Ok(events)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if held + bytes.len() > LINE_BYTES_MAX {
            return Err(SseError::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            return self.data.take().map(|data| SseEvent { data, id: self.id.clone() });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // Comments, unknown fields, and `retry`: a client with delays of its own ignores it (PROTOCOL.md).
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\nretry: 2500\r\nid: a-1\ndata: one\n\ndata:two\rdata\rdata: three\r\r\nid\r\ndata: ü\r\n\r\ndata: cut";

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events() {
        let event = |data: &str, id: &str| SseEvent { data: data.to_owned(), id: Some(id.to_owned()) };
        let expected = vec![event("one", "a-1"), event("two\n\nthree", "a-1"), event("ü", "")];
        for size in 1..STREAM.len() {
            let mut reader = SseReader::default();
            let mut events = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                events.extend(reader.take(chunk).expect("a stream"));
            }
            assert_eq!(events, expected, "in chunks of {size}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        assert_eq!(SseReader::default().take(b"data: \xff\n\n"), Err(SseError::NotUtf8));
    }
}
