//! The bodies of a request and of its answer over HTTP/1.1.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Answer;
use crate::{admission::Quiet, worker::sse::Cut};

/// A body that notes whether it was read to its end. If it was not, hyper may close the connection after the
/// answer.
pub struct Http1Body {
    body: Incoming,
    is_read: Rc<Cell<bool>>,
    quiet: Rc<Quiet>,
}

impl Http1Body {
    /// Sets `is_read` once the body has been read, and tells `quiet`.
    pub fn new(body: Incoming, is_read: Rc<Cell<bool>>, quiet: Rc<Quiet>) -> Self {
        is_read.set(body.is_end_stream());
        Self { body, is_read, quiet }
    }
}

impl Body for Http1Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        let is_read = frame.is_none() || this.body.is_end_stream();
        this.is_read.set(is_read);
        if is_read {
            this.quiet.read();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer that notes when hyper has taken all of it. Its last bytes may then still wait for the
/// socket.
pub struct Http1Answer {
    body: Answer,
    is_given: Option<Rc<Cell<bool>>>,
}

impl Http1Answer {
    /// Sets `is_given`, if there is one, when `body` has been taken or is dropped.
    pub fn new(body: Answer, is_given: Option<Rc<Cell<bool>>>) -> Self {
        Self { body, is_given }
    }
}

impl Drop for Http1Answer {
    fn drop(&mut self) {
        if let Some(is_given) = &self.is_given {
            is_given.set(true);
        }
    }
}

impl Body for Http1Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
