//! The body of a request over HTTP/2.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

/// The sender of an exchange's answer.
pub type Respond = Rc<RefCell<SendResponse<Bytes>>>;

/// The body of a request. The window opens as it is read, so the sender can be only a window ahead.
pub struct Received {
    stream: RecvStream,
    /// Set if the client waits for 100 (Continue) before it sends the body (RFC 9110, section 10.1.1).
    go_on: Option<Respond>,
}

impl Received {
    /// The body; with `go_on` if the client waits for 100 (Continue).
    pub fn new(stream: RecvStream, go_on: Option<Respond>) -> Self {
        Self { stream, go_on }
    }
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
        Poll::Ready(match ready!(this.stream.poll_data(context)) {
            Some(Ok(bytes)) => {
                // Fails if the stream has ended, when no sender is left.
                let _ = this.stream.flow_control().release_capacity(bytes.len());
                Some(Ok(Frame::data(bytes)))
            }
            // Any reset is an error, even NO_ERROR: the body was cut.
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
