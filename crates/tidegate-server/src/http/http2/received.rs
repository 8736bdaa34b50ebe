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

/// How an exchange answers.
pub type Respond = Rc<RefCell<SendResponse<Bytes>>>;

/// What comes with a request. Its sender may go on sending as far as this has been read.
pub struct Received {
    stream: RecvStream,
    /// Asks for the body of a client that waits to be asked (RFC 9110, section 10.1.1).
    go_on: Option<Respond>,
}

impl Received {
    /// The body; `go_on` where the client waits for 100 (Continue).
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
                // Fails where the stream has ended meanwhile, and nobody sends any more.
                let _ = this.stream.flow_control().release_capacity(bytes.len());
                Some(Ok(Frame::data(bytes)))
            }
            // Whatever the reason of a reset, NO_ERROR too: what was cut off is no whole body.
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
