//! Moves bytes between a TCP socket and the WebSocket codec, without a buffer per connection.
//!
//! Nothing here waits: the connection loop waits until the socket is ready, calls, and waits again after a
//! call that would block. Reads go through one scratch buffer per thread, writes come straight from shared
//! frames, so an idle connection holds no buffer at all.

use std::{cell::Cell, collections::VecDeque, io, mem, ops::ControlFlow};

use bytes::{Buf as _, Bytes};
use rustix::{
    io::Errno,
    net::{self, SendAncillaryBuffer, SendFlags},
};
use tidegate_protocol::ws::{MessageReader, Received, Violation};
use tokio::{io::Interest, net::TcpStream};

/// The most that one read takes from a socket.
pub const SCRATCH_BYTES: usize = 16 * 1024;

/// The most frames that one write passes on.
pub const WRITE_FRAMES_MAX: usize = 16;

thread_local! {
    /// SocketRead out while in use, so that a callback that reads again gets its own.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };

    /// The bytes that sockets of this thread have taken since [`take_sent`] was called.
    static SENT: Cell<u64> = const { Cell::new(0) };
}

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketRead {
    /// This many bytes were read and all their events passed on. There may be more.
    Bytes(usize),
    /// The socket has nothing to read now.
    Blocked,
    /// The client has closed its sending side.
    Ended,
    /// `on_event` stopped; bytes after that event are dropped.
    Stopped,
}

/// Why a read failed. Both reasons end the connection.
#[derive(Debug, thiserror::Error)]
pub enum ReadFault {
    /// The socket failed.
    #[error("read the socket: {0}")]
    Io(#[from] io::Error),
    /// The client broke the protocol.
    #[error(transparent)]
    Broken(#[from] Violation),
}

/// Reads once, at most [`SCRATCH_BYTES`], and passes each event to `on_event`. The caller decides how long
/// one client's turn is: call again, or serve others first.
pub fn try_read(
    stream: &TcpStream,
    reader: &mut MessageReader,
    on_event: impl FnMut(Received<'_>) -> ControlFlow<()>,
) -> Result<SocketRead, ReadFault> {
    let mut scratch = SCRATCH.take();
    scratch.resize(SCRATCH_BYTES, 0);
    let taken = match stream.try_read(&mut scratch) {
        Ok(0) => Ok(SocketRead::Ended),
        Ok(read) => match feed(reader, &mut scratch[..read], on_event) {
            Ok(ControlFlow::Continue(())) => Ok(SocketRead::Bytes(read)),
            Ok(ControlFlow::Break(())) => Ok(SocketRead::Stopped),
            Err(error) => Err(error.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(SocketRead::Blocked),
        Err(error) => Err(error.into()),
    };
    SCRATCH.set(scratch);
    taken
}

/// Passes the events in `input` to `on_event`: for bytes that came before the socket did
/// ([`super::upgrade::Switched::early`]).
pub fn feed(
    reader: &mut MessageReader,
    mut input: &mut [u8],
    mut on_event: impl FnMut(Received<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    while let Some(event) = reader.read(&mut input)? {
        if on_event(event).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Writes the first [`WRITE_FRAMES_MAX`] of `frames` in one call and returns how many bytes the socket took:
/// 0 if it would block. Call it only while there is no [`Leftover`].
pub fn try_send(stream: &TcpStream, frames: &[Bytes]) -> io::Result<usize> {
    send(stream, frames.iter())
}

/// How many bytes the sockets of this thread have taken since the last call.
pub fn take_sent() -> u64 {
    SENT.take()
}

/// It uses `send` and `sendmsg`, because `writev` does part of the work of a file write in every call. It
/// bypasses tokio, whose readiness state would be one more cold cache line for each of a thousand sockets. If
/// the socket would block, that state is corrected, because a task is about to wait for it.
fn send<'a>(stream: &TcpStream, frames: impl Iterator<Item = &'a Bytes>) -> io::Result<usize> {
    let mut slices = [io::IoSlice::new(&[]); WRITE_FRAMES_MAX];
    let mut used = 0;
    for (slice, frame) in slices.iter_mut().zip(frames.filter(|frame| !frame.is_empty())) {
        *slice = io::IoSlice::new(frame);
        used += 1;
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = loop {
        let sent = match &slices[..used] {
            [] => return Ok(0),
            [only] => net::send(stream, only, flags),
            several => net::sendmsg(stream, several, &mut SendAncillaryBuffer::default(), flags),
        };
        if sent != Err(Errno::INTR) {
            break sent;
        }
    };
    match sent {
        Ok(taken) => {
            SENT.set(SENT.get() + taken as u64);
            Ok(taken)
        }
        Err(Errno::AGAIN) => {
            let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            // The result is ignored: the call only clears the readiness flag.
            let _ = stream.try_io(Interest::WRITABLE, blocked);
            Ok(0)
        }
        Err(error) => Err(error.into()),
    }
}

/// Bytes that must be written before anything else: the rest of a frame that the socket took in part, then
/// control frames. No frame begins inside another (R7).
#[derive(Debug)]
pub struct Leftover {
    /// On the heap, and only while there is something.
    waiting: Option<Box<Waiting>>,
    answer_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    rest: Bytes,
    pushed: VecDeque<Bytes>,
    pushed_bytes: usize,
    /// How many of them came by [`Leftover::push`] since the leftover was last empty.
    answer_bytes: usize,
}

/// The leftover has no room for another frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more bytes wait to be written than this connection may hold")]
pub struct LeftoverFull;

impl Leftover {
    /// An empty leftover. Pushed answers may hold `answer_bytes_max` in all. The rest of a begun frame is
    /// always kept and is not counted, so there is room for a close frame after it.
    pub const fn new(answer_bytes_max: usize) -> Self {
        Self { waiting: None, answer_bytes_max }
    }

    /// Whether nothing is left over, so that other frames may be written.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.rest.len() + waiting.pushed_bytes)
    }

    /// Appends an answer to the client.
    pub fn push(&mut self, frame: Bytes) -> Result<(), LeftoverFull> {
        let answer_bytes = self.waiting.as_ref().map_or(0, |waiting| waiting.answer_bytes) + frame.len();
        if answer_bytes > self.answer_bytes_max {
            return Err(LeftoverFull);
        }
        self.keep(&[frame]);
        if let Some(waiting) = &mut self.waiting {
            waiting.answer_bytes = answer_bytes;
        }
        Ok(())
    }

    /// Keeps the frames of a pass that the socket took in part. Their bytes are shared with other readers.
    pub fn keep(&mut self, frames: &[Bytes]) {
        let bytes = frames.iter().map(Bytes::len).sum::<usize>();
        if bytes > 0 {
            let waiting = self.waiting.get_or_insert_default();
            waiting.pushed_bytes += bytes;
            waiting.pushed.extend(frames.iter().cloned());
        }
    }

    /// After [`try_send`] has taken `taken` bytes of `frames`: keeps the rest of the last frame that was
    /// begun. Returns how many of `frames` were begun; the others stay the caller's.
    pub fn keep_rest(&mut self, frames: &[Bytes], mut taken: usize) -> usize {
        debug_assert!(self.is_empty(), "the leftover is written before other frames");
        for (index, frame) in frames.iter().enumerate() {
            if taken == 0 {
                return index;
            }
            if taken < frame.len() {
                self.waiting.get_or_insert_default().rest = frame.slice(taken..);
                return index + 1;
            }
            taken -= frame.len();
        }
        frames.len()
    }

    /// Writes until nothing is left over or the socket would block. Returns whether nothing is left.
    pub fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while let Some(Waiting { rest, pushed, .. }) = self.waiting.as_deref() {
            let taken = send(stream, [rest].into_iter().chain(pushed))?;
            if taken == 0 {
                return Ok(false);
            }
            self.advance(taken);
        }
        Ok(true)
    }

    fn advance(&mut self, mut taken: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        if taken < waiting.rest.len() {
            waiting.rest.advance(taken);
            return;
        }
        // Dropped, not only emptied: the frame may be the last one that holds its batch.
        taken -= mem::take(&mut waiting.rest).len();
        waiting.pushed_bytes = waiting.pushed_bytes.saturating_sub(taken);
        while let Some(front) = waiting.pushed.front_mut() {
            if taken < front.len() {
                front.advance(taken);
                return;
            }
            taken -= front.len();
            waiting.pushed.pop_front();
        }
        // Idle connections hold nothing.
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::ws::{self, Limits};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("bound"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.expect("connect"), accepted.expect("accept").0)
    }

    #[tokio::test]
    async fn reads_events_until_blocked_then_the_end() {
        let (mut client, server) = pair().await;
        let mut reader = MessageReader::new(Limits::default());
        let mut texts = Vec::new();
        let mut on_event = |event: Received<'_>| {
            if let Received::Text(text) = event {
                texts.push(text.into_owned());
            }
            ControlFlow::Continue(())
        };
        assert_eq!(try_read(&server, &mut reader, &mut on_event).expect("open"), SocketRead::Blocked);
        client.write_all(b"\x81\x82\0\0\0\0hi\x81\x83\0\0\0\0you").await.expect("write");
        client.shutdown().await.expect("shut down");
        let mut bytes = 0;
        loop {
            server.readable().await.expect("open");
            match try_read(&server, &mut reader, &mut on_event).expect("open") {
                SocketRead::Bytes(read) => bytes += read,
                SocketRead::Ended => break,
                SocketRead::Blocked => {}
                SocketRead::Stopped => panic!("nothing stops it"),
            }
        }
        assert_eq!((bytes, texts), (17, vec!["hi".to_owned(), "you".to_owned()]));
        assert!(matches!(
            feed(&mut reader, &mut [0x81, 0], |_| ControlFlow::Continue(())),
            Err(Violation::Unmasked)
        ));
    }

    #[tokio::test]
    async fn a_frame_begun_is_finished_before_a_pong() {
        let (mut client, server) = pair().await;
        let frames: Vec<Bytes> = (0..40u8).map(|i| ws::binary_frame(&vec![i; 300_000])).collect();
        let (mut sent, mut leftover) = (0, Leftover::new(1024));
        // Until the socket is full in the middle of a frame.
        server.writable().await.expect("open");
        while leftover.is_empty() {
            let taken = try_send(&server, &frames[sent..]).expect("open");
            assert!(taken > 0 || sent > 0);
            if taken == 0 {
                break;
            }
            sent += leftover.keep_rest(&frames[sent..], taken);
        }
        leftover.push(ws::pong(b"!")).expect("room");
        let expected: Vec<u8> =
            frames[..sent].iter().flatten().chain(ws::pong(b"!").iter()).copied().collect();
        let mut got = Vec::new();
        while got.len() < expected.len() {
            // The two sides do not wait for each other: a full socket has room again only after the client
            // reads.
            tokio::select! {
                writable = server.writable(), if !leftover.is_empty() => {
                    writable.expect("open");
                    leftover.flush(&server).expect("open");
                }
                read = client.read_buf(&mut got) => assert!(read.expect("open") > 0, "ended early"),
            }
        }
        assert!(got == expected, "frames came mixed");
        assert!(leftover.is_empty() && leftover.bytes() == 0);
    }

    #[test]
    fn the_leftover_is_bounded_but_finishes_what_was_begun() {
        let frames = [ws::text_frame("one"), ws::text_frame("two"), ws::text_frame("three")];
        let mut leftover = Leftover::new(4);
        assert_eq!(leftover.keep_rest(&frames, 0), 0);
        assert_eq!(leftover.keep_rest(&frames, 5), 1);
        assert_eq!(leftover.keep_rest(&frames, 5 + 5 + 7), 3);
        assert!(leftover.is_empty());
        assert_eq!(leftover.keep_rest(&frames, 5 + 1), 2);
        assert_eq!(leftover.bytes(), 4);
        for room in [Ok(()), Ok(()), Err(LeftoverFull)] {
            assert_eq!(leftover.push(ws::pong(b"")), room);
        }
        leftover.keep(&frames[..1]);
        assert_eq!(leftover.bytes(), 4 + 2 + 2 + 5);
        // The room for answers is free again only after the last byte, not after each one: a client that
        // keeps asking and never reads is stopped.
        leftover.advance(12);
        assert_eq!(leftover.push(ws::pong(b"")), Err(LeftoverFull));
        leftover.advance(1);
        assert!(leftover.is_empty() && leftover.bytes() == 0);
        assert_eq!(leftover.push(ws::pong(b"")), Ok(()));
    }
}
