//! Reads a file with one event per line, and gives an id to events that have none. For `publish`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::Failure;

const LONGEST_LINE: u64 = 8 << 20;

/// A source of events: its bytes, its name, and its length if that is known.
pub(super) type Source = (Box<dyn Read + Send>, String, Option<u64>);

/// Opens the file of `--file`; `-` is standard input.
pub(super) fn open(path: &Path) -> Result<Source, Failure> {
    if path == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), "standard input".to_owned(), None));
    }
    let name = path.display().to_string();
    let file =
        File::open(path).map_err(|error| Failure::Usage(format!("--file: cannot read {name}: {error}")))?;
    let meta =
        file.metadata().map_err(|error| Failure::Usage(format!("--file: cannot read {name}: {error}")))?;
    if meta.is_dir() {
        return Err(Failure::Usage(format!("--file: {name} is a directory")));
    }
    Ok((Box::new(file), name, meta.is_file().then_some(meta.len())))
}

/// Lines of a file that are events.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    name: String,
    line: u64,
}

/// An event and where it came from.
pub(super) struct Line {
    /// Its JSON, which has an id.
    pub(super) event: String,
    /// Its line in the file.
    pub(super) number: u64,
    /// How many bytes of the file it took, including skipped lines above it.
    pub(super) bytes: u64,
}

/// The part of an event that is checked here; the gateway checks the rest.
#[derive(Deserialize)]
struct HasId<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

impl<R: Read> Lines<R> {
    /// The lines of `source`; `name` is for error messages.
    pub(super) fn new(source: R, name: String) -> Self {
        Self { reader: BufReader::new(source), name, line: 0 }
    }

    /// Reads on a separate thread: reading a terminal or pipe may block for ever, and the command must stay
    /// interruptible.
    pub(super) fn follow(mut self) -> mpsc::Receiver<Result<Line, Failure>>
    where
        R: Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(1000);
        std::thread::spawn(move || {
            while let Some(line) = self.next().transpose() {
                let last = line.is_err();
                if sender.blocking_send(line).is_err() || last {
                    break;
                }
            }
        });
        receiver
    }

    /// The next event, with its own id or a new one.
    fn next(&mut self) -> Result<Option<Line>, Failure> {
        let mut taken = 0;
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut bytes)
                .map_err(|error| Failure::Failed(format!("read {}: {error}", self.name)))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            taken += read as u64;
            let wrong = |what: &str| Failure::Failed(format!("{}, line {}: {what}", self.name, self.line));
            if read as u64 == LONGEST_LINE && bytes.last() != Some(&b'\n') {
                return Err(wrong("is longer than 8MiB"));
            }
            let text = std::str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8"))?.trim_ascii();
            let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
            if text.is_empty() {
                continue;
            }
            if !text.starts_with('{') {
                return Err(wrong("is not a JSON object"));
            }
            let known: HasId = serde_json::from_str(text).map_err(|error| {
                let error = error.to_string();
                let error = error.split(" at line").next().unwrap_or_default();
                wrong(&format!("is not a JSON object: {error}"))
            })?;
            if known.id.is_some() {
                return Ok(Some(Line { event: text.to_owned(), number: self.line, bytes: taken }));
            }
            let rest = text[1..].trim_start();
            let comma = if rest.starts_with('}') { "" } else { "," };
            let event = format!("{{\"id\":\"{}\"{comma}{rest}", uuid::Uuid::now_v7());
            return Ok(Some(Line { event, number: self.line, bytes: taken }));
        }
    }
}
