//! A stream over server-sent events: one GET request, whose body has the frames.

use reqwest::{Response, StatusCode, header};

use super::{Closed, Driver, Heard, Open, Said, event_stream::SseReader, is_event_stream};
use crate::gateway::{Refused, transport};

/// Runs the connection until it ends or the driver closes it.
pub(super) async fn run(http: reqwest::Client, open: Open, mut driver: Driver) {
    let Driver { heard, said } = &mut driver;
    let read = async {
        let closed = match connect(&http, open).await {
            Ok(response) => {
                let _ = heard.send(Heard::Opened).await;
                frames(response, heard).await
            }
            Err(closed) => closed,
        };
        let _ = heard.send(Heard::Closed(closed)).await;
    };
    // Nothing can be sent over this transport, so what is said is a close, or the driver is gone.
    let closed = async { while let Some(Said::Frame(_)) = said.recv().await {} };
    tokio::select! {
        () = read => {}
        () = closed => {}
    }
}

async fn connect(http: &reqwest::Client, open: Open) -> Result<Response, Closed> {
    let request = http.get(open.url).bearer_auth(&open.token).header(header::ACCEPT, "text/event-stream");
    let response = request.send().await.map_err(|error| Closed::cut(transport(error)))?;
    let status = response.status();
    let is_no_stream = |message: &str| {
        let message = message.to_owned();
        Err(Closed { status: Some(status.as_u16()), message, ..Closed::default() })
    };
    match status {
        StatusCode::NO_CONTENT => is_no_stream("the gateway has ended this stream for good (204)"),
        StatusCode::OK if is_event_stream(response.headers()) => Ok(response),
        StatusCode::OK => is_no_stream("the answer is not text/event-stream: this address is no gateway"),
        _ => Err(Closed::refused(&Refused::read(response).await)),
    }
}

/// Hands over the frames of the body; returns why it ended.
async fn frames(mut response: Response, heard: &tokio::sync::mpsc::Sender<Heard>) -> Closed {
    let mut reader = SseReader::default();
    loop {
        match response.chunk().await {
            Err(error) => return Closed::cut(transport(error)),
            Ok(None) => return Closed::cut("the stream ended"),
            Ok(Some(chunk)) => match reader.take(&chunk) {
                Err(error) => return Closed::cut(error.to_string()),
                Ok(events) => {
                    for event in events {
                        if heard.send(Heard::Frame(event.data)).await.is_err() {
                            return Closed::default();
                        }
                    }
                }
            },
        }
    }
}
