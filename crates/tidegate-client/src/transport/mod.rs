//! Connections: each is a task of its own, which tells the driver what it hears and is told what to send.
//! Over both transports it stops to read while the driver takes nothing.

mod event_stream;
mod sse;
mod ws;

use std::time::Duration;

use reqwest::{Url, header};
use tidegate_protocol::{Code, client::Transport};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::gateway::Refused;

/// Frames that may wait between a connection and the driver.
const HEARD_MAX: usize = 8;
/// What may wait to be sent. A session sends an answer for each frame that it takes, and little more; a
/// connection that lets so much wait is dead.
const SAID_MAX: usize = 32;
/// How long the last frame of a connection may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Which stream to open, and with what.
pub(crate) struct Open {
    pub(crate) transport: Transport,
    /// The stream's address with its query, in http or https.
    pub(crate) url: Url,
    pub(crate) token: String,
}

/// What a connection tells.
#[derive(Debug)]
pub(crate) enum Heard {
    Opened,
    Frame(String),
    /// The last.
    Closed(Closed),
}

/// Why a connection ended or did not come about.
#[derive(Debug, Default)]
pub(crate) struct Closed {
    pub(crate) close: Option<u16>,
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<String>,
    pub(crate) retry_in_ms: Option<u64>,
    pub(crate) message: String,
}

impl Closed {
    fn cut(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    fn refused(refused: &Refused) -> Self {
        let code = refused.problem.code.clone().filter(|code| Code::from_name(code).is_some());
        let sentence = refused.sentence();
        let message = if code.is_some() {
            sentence
        } else if sentence.is_empty() {
            format!("the address answered {} without a word of the gateway", refused.status)
        } else {
            refused.to_string()
        };
        let retry_in_ms = refused.retry_in().map(tidegate_protocol::time::millis);
        Self { close: None, status: Some(refused.status.as_u16()), code, retry_in_ms, message }
    }
}

/// What a connection is told.
#[derive(Debug)]
enum Said {
    Frame(String),
    Close(u16),
}

/// The driver's end of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    heard: mpsc::Receiver<Heard>,
    said: mpsc::Sender<Said>,
    task: JoinHandle<()>,
}

/// The connection's end.
#[derive(Debug)]
struct Driver {
    heard: mpsc::Sender<Heard>,
    said: mpsc::Receiver<Said>,
}

impl Connection {
    /// Opens a connection.
    pub(crate) fn open(http: &reqwest::Client, open: Open) -> Self {
        let (tell, heard) = mpsc::channel(HEARD_MAX);
        let (said, told) = mpsc::channel(SAID_MAX);
        let (http, driver) = (http.clone(), Driver { heard: tell, said: told });
        let task = tokio::spawn(async move {
            match open.transport {
                Transport::Ws => ws::run(http, open, driver).await,
                Transport::Sse => sse::run(http, open, driver).await,
            }
        });
        Self { heard, said, task }
    }

    /// The next that is heard. Cancel safe.
    pub(crate) async fn heard(&mut self) -> Heard {
        let ended = || Heard::Closed(Closed::cut("the connection ended"));
        self.heard.recv().await.unwrap_or_else(ended)
    }

    /// Sends a frame; a connection that is over ignores it.
    pub(crate) fn send(&self, frame: String) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.said.try_send(Said::Frame(frame)) {
            self.task.abort();
        }
    }

    /// Closes the connection with this code. Nothing more is heard of it. The returned task ends when it is
    /// closed, which does not take long.
    pub(crate) fn close(self, code: u16) -> JoinHandle<()> {
        let Self { heard, said, mut task } = self;
        drop(heard);
        // If there is no room, it is given up without a word.
        let _ = said.try_send(Said::Close(code));
        tokio::spawn(async move {
            if timeout(CLOSE_TIMEOUT, &mut task).await.is_err() {
                task.abort();
            }
            drop(said);
        })
    }
}

/// The query of a stream or of history.
pub(crate) fn with_query(mut url: Url, parts: &[(&str, Option<String>)]) -> Url {
    for (name, value) in parts {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    url
}

/// Whether the body is an event stream.
fn is_event_stream(headers: &header::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}
