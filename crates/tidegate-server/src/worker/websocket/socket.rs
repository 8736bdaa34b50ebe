//! A WebSocket as a sink: frames are written without a queue, and what the socket does not take is kept.

use std::{
    cell::{Cell, RefCell},
    ops::ControlFlow,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_protocol::{Refusal, ws};
use tokio::net::TcpStream;

use crate::{
    transport::{
        Transport,
        socket::{self, Leftover, ReadFault, SocketRead},
    },
    worker::{reader::Gone, sent::SentBytes},
};

/// What may wait after a half-written frame: answers to what the client sends.
const ANSWERS_MAX: usize = 16 << 10;

/// How long a closing handshake may take (RFC 6455, section 7.1.1).
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// A WebSocket to write to.
pub struct Socket {
    pub(super) stream: TcpStream,
    leftover: RefCell<Leftover>,
    progress: Cell<Instant>,
    sent: Rc<SentBytes>,
}

impl Socket {
    /// A WebSocket whose bytes are counted in `sent`.
    pub(super) fn new(stream: TcpStream, sent: Rc<SentBytes>) -> Self {
        Self {
            stream,
            sent,
            leftover: RefCell::new(Leftover::new(ANSWERS_MAX)),
            progress: Cell::new(Instant::now()),
        }
    }

    /// Whether nothing is left over.
    pub fn is_ready(&self) -> bool {
        self.leftover.borrow().is_empty()
    }

    /// Writes whole frames and keeps what the socket does not take. Returns whether it took all. No frame
    /// begins inside another (R7): while something is left over, everything is kept after it.
    pub fn send(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        let mut leftover = self.leftover.borrow_mut();
        let nothing_waited = leftover.is_empty();
        let mut rest = frames.as_slice();
        while leftover.is_empty() && !rest.is_empty() {
            let taken = socket::try_send(&self.stream, rest).map_err(|_| Gone)?;
            if taken == 0 {
                break;
            }
            self.sent.add(Transport::WebSocket, taken as u64);
            let done = leftover.keep_rest(rest, taken);
            rest = &rest[done..];
        }
        // The bytes are shared: keeping the handles of one pass costs little.
        leftover.keep(rest);
        frames.clear();
        let is_empty = leftover.is_empty();
        if nothing_waited && !is_empty {
            // The wait begins here. If nothing waits, the clock is not read.
            self.progress.set(Instant::now());
        }
        Ok(is_empty)
    }

    /// Puts frames after what is left over.
    pub fn queue(&self, frames: Vec<Bytes>) -> Result<(), socket::LeftoverFull> {
        frames.into_iter().try_for_each(|frame| self.leftover.borrow_mut().push(frame))
    }

    /// Waits until nothing is left over.
    pub async fn ready(&self) -> Result<(), Gone> {
        loop {
            let (before, is_empty) = {
                let mut leftover = self.leftover.borrow_mut();
                let before = leftover.bytes();
                (before, leftover.flush(&self.stream).map_err(|_| Gone)?)
            };
            let taken = before - self.leftover.borrow().bytes();
            if taken > 0 {
                self.sent.add(Transport::WebSocket, taken as u64);
                self.progress.set(Instant::now());
            }
            if is_empty {
                return Ok(());
            }
            self.stream.writable().await.map_err(|_| Gone)?;
        }
    }

    /// Whether bytes wait, and it has taken none for longer than `patience`.
    pub fn is_stalled(&self, now: Instant, patience: Duration) -> bool {
        !self.is_ready() && now.saturating_duration_since(self.progress.get()) > patience
    }
}

/// Which side closes a connection.
#[derive(Debug, Clone, Copy)]
pub enum Closing<'a> {
    /// The gateway, for this reason.
    Refusing(&'a Refusal),
    /// The client, by a close frame with this code, which is sent back (RFC 6455, section 5.5.1).
    Answering(Option<u16>),
}

/// Ends a connection cleanly: sends what is half written, `last` and a close frame, then waits for the
/// client's close frame if it has not come yet, so that the last bytes are not lost to a reset. Gives up
/// after a while.
pub async fn finish(socket: &Socket, mut peer: ws::MessageReader, last: Vec<Bytes>, closing: Closing<'_>) {
    let close = match closing {
        Closing::Refusing(refusal) => {
            let code = refusal.code.close().unwrap_or(1011);
            ws::close(code, refusal.code.name())
        }
        // 1005 means "no code" and makes an empty frame.
        Closing::Answering(code) => ws::close(code.unwrap_or(1005), ""),
    };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, async {
        socket.ready().await?;
        let mut frames = last;
        frames.push(close);
        if !socket.send(&mut frames)? {
            socket.ready().await?;
        }
        if matches!(closing, Closing::Answering(_)) {
            return Ok(());
        }
        loop {
            socket.stream.readable().await.map_err(|_| Gone)?;
            let mut is_closed = false;
            let read = socket::try_read(&socket.stream, &mut peer, |event| {
                is_closed |= matches!(event, ws::Received::Close(_));
                ControlFlow::Continue(())
            });
            match read {
                Ok(SocketRead::Ended) | Err(ReadFault::Io(_)) => return Ok::<(), Gone>(()),
                _ if is_closed => return Ok(()),
                // After a breach of the protocol nothing more is parsed; the bytes are only drained.
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn r7_a_page_goes_behind_the_answer_that_was_half_written_while_it_was_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("bound"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut client, socket) =
            (client.expect("connect"), Socket::new(accepted.expect("accept").0, Rc::default()));
        socket.stream.writable().await.expect("open");
        // Answers, until one is half written...
        let mut sent = Vec::new();
        let answer = ws::binary_frame(&[b'a'; 100_000]);
        loop {
            sent.extend_from_slice(&answer);
            if !socket.send(&mut vec![answer.clone()]).expect("open") {
                break;
            }
        }
        // ...and only then what its own task has made of a page.
        let page = [ws::text_frame("one"), ws::text_frame("two")];
        page.iter().for_each(|frame| sent.extend_from_slice(frame));
        assert!(!socket.send(&mut page.to_vec()).expect("open"), "not all is taken");
        let mut got = vec![0; sent.len()];
        let (_, read) = tokio::join!(socket.ready(), client.read_exact(&mut got));
        read.expect("all of it");
        assert!(got == sent, "frames came mixed");
        assert!(socket.is_ready());
    }
}
