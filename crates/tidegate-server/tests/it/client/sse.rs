//! An EventSource, byte by byte (WHATWG HTML, section 9.2).

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
};

use flate2::read::GzDecoder;

use crate::secrets;

use super::{
    http::{Answer, Chunked, Request},
    stream::Frames,
};

/// One event of the stream, by its lines.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Lines {
    /// `id:`.
    pub id: Option<String>,
    /// `data:`, its lines joined by line breaks.
    pub data: Option<String>,
    /// `retry:`.
    pub retry: Option<u64>,
    /// Any other line.
    pub others: Vec<String>,
    /// The bytes of its longest line, with the line break.
    pub longest: usize,
}

/// An open stream.
pub struct Sse {
    /// The answer's head.
    pub head: Answer,
    body: Box<dyn BufRead + Send>,
    /// The id that EventSource would resume with.
    pub last_event_id: String,
}

impl Sse {
    /// Sends the request, which must be answered with a stream.
    pub fn open(request: Request) -> Self {
        Self::answered(request.with("accept", "text/event-stream").begin())
    }

    /// Reads the answer on a connection that has sent the request.
    pub fn answered(mut connection: BufReader<TcpStream>) -> Self {
        let head = Answer::read_head(&mut connection).expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("transfer-encoding"), Some("chunked"), "{head:?}");
        Self::of(head, Chunked::new(connection))
    }

    /// The stream in this body.
    pub fn of(head: Answer, body: impl Read + Send + 'static) -> Self {
        let body: Box<dyn BufRead + Send> = match head.header("content-encoding") {
            Some("gzip") => Box::new(BufReader::new(GzDecoder::new(body))),
            _ => Box::new(BufReader::new(body)),
        };
        Self { head, body, last_event_id: String::new() }
    }

    /// The next event of the stream; `None` at its end.
    pub fn lines(&mut self) -> Option<Lines> {
        let mut lines = Lines::default();
        loop {
            let mut line = String::new();
            self.body.read_line(&mut line).ok().filter(|read| *read > 0)?;
            lines.longest = lines.longest.max(line.len());
            let line = line.strip_suffix('\n').expect("a whole line");
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some(("id", id)) => lines.id = Some(id.to_owned()),
                Some(("data", more)) => match &mut lines.data {
                    Some(data) => data.extend(["\n", more]),
                    None => lines.data = Some(more.to_owned()),
                },
                Some(("retry", retry)) => lines.retry = Some(retry.parse().expect("a number")),
                _ => lines.others.push(line.to_owned()),
            }
        }
        if let Some(id) = &lines.id {
            self.last_event_id.clone_from(id);
        }
        Some(lines)
    }
}

impl Frames for Sse {
    fn try_frame(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.lines()?.data {
                secrets::heard_frame(&data);
                return Some(data);
            }
        }
    }

    fn transport(&self) -> &'static str {
        "sse"
    }
}
