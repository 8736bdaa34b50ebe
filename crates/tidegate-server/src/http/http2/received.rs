//! The body of a request over HTTP/2.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

/// The sender of an exchange's answer.
pub type Respond = Rc<RefCell<SendResponse<Bytes>>>;

/// What is left of a request's body when its handler has dropped it.
pub type Unread = Rc<RefCell<Option<RecvStream>>>;

/// The body of a request. The window opens as it is read, so the sender can be only a window ahead.
pub struct Received {
    /// Set until it is dropped.
    stream: Option<RecvStream>,
    /// Set if the client waits for 100 (Continue) before it sends the body (RFC 9110, section 10.1.1).
    go_on: Option<Respond>,
    unread: Unread,
}

impl Received {
    /// The body; with `go_on` if the client waits for 100 (Continue). What is not read of it goes to `unread`.
    pub fn new(stream: RecvStream, go_on: Option<Respond>, unread: Unread) -> Self {
        Self { stream: Some(stream), go_on, unread }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // A client that still waits for 100 (Continue) sends no body.
        let rest = self.stream.take().filter(|stream| self.go_on.is_none() && !stream.is_end_stream());
        if rest.is_some() {
            self.unread.replace(rest);
        }
    }
}

/// Reads and discards the rest of a body that was refused, for at most `patience`.
///
/// To drop it would reset the stream. A reset with NO_ERROR after a whole answer asks the client only to stop
/// sending (RFC 9113, section 8.1), but some, curl among them, then report an error instead of the answer.
pub async fn discard(unread: Unread, patience: Duration) {
    let Some(mut stream) = unread.take() else { return };
    // The result is ignored: after this time the stream is reset.
    let _ = tokio::time::timeout(patience, async {
        while let Some(Ok(bytes)) = stream.data().await {
            let _ = stream.flow_control().release_capacity(bytes.len());
        }
    })
    .await;
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if let Some(respond) = this.go_on.take() {
            let mut go_on = Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            respond.borrow_mut().send_informational(go_on)?;
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        Poll::Ready(match ready!(stream.poll_data(context)) {
            Some(Ok(bytes)) => {
                // Fails if the stream has ended, when no sender is left.
                let _ = stream.flow_control().release_capacity(bytes.len());
                Some(Ok(Frame::data(bytes)))
            }
            // Any reset is an error, even NO_ERROR: the body was cut.
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
