//! A reader over WebSocket (RFC 6455): the socket as a sink, and the connection's task.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    mem,
    net::IpAddr,
    ops::ControlFlow,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidegate_core::{Framing, frame, session::Coding};
use tidegate_protocol::{
    Code, Refusal,
    frame::{ClientFrame, read_client_frame},
    ws,
};
use tokio::net::TcpStream;

use super::{
    Peer,
    live::Worker,
    reader::{Attendance, Gone, Reader, Sink},
    start::StreamRequest,
};
use crate::{
    admission,
    config::config_key,
    node::OpenSocket,
    refusals::LimitedBy as _,
    transport::{
        Transport,
        socket::{self, Leftover, ReadFault, Taken},
        upgrade::{Switched, Switching},
    },
};

/// What may wait behind a half-written frame: answers to what the client sends.
const ANSWERS_MAX: usize = 16 << 10;

/// Renewals that may wait for the one before: their keys may have to be fetched.
const RENEWALS_MAX: usize = 4;

/// How long a closing handshake may take (RFC 6455, section 7.1.1).
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// A WebSocket to write to.
pub struct Socket {
    stream: TcpStream,
    leftover: RefCell<Leftover>,
    progress: Cell<Instant>,
}

impl Socket {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            leftover: RefCell::new(Leftover::new(ANSWERS_MAX)),
            progress: Cell::new(Instant::now()),
        }
    }

    /// Whether nothing is left over.
    pub fn is_ready(&self) -> bool {
        self.leftover.borrow().is_empty()
    }

    /// Writes whole frames; what the socket does not take is kept. Whether it took all. A frame is
    /// never begun inside another (R7): while something is left over, all is kept behind it.
    pub fn send(&self, frames: &mut Vec<Bytes>) -> Result<bool, Gone> {
        let mut leftover = self.leftover.borrow_mut();
        let nothing_waited = leftover.is_empty();
        let mut rest = frames.as_slice();
        while leftover.is_empty() && !rest.is_empty() {
            let taken = socket::try_send(&self.stream, rest).map_err(|_| Gone)?;
            if taken == 0 {
                break;
            }
            let done = leftover.keep_rest(rest, taken);
            rest = &rest[done..];
        }
        // Shared bytes: keeping the handles of one round costs nothing of its own.
        leftover.keep(rest);
        frames.clear();
        let is_empty = leftover.is_empty();
        if nothing_waited && !is_empty {
            // What waits, waits from here on. Where nothing does, no clock is asked.
            self.progress.set(Instant::now());
        }
        Ok(is_empty)
    }

    /// Puts frames behind what is left over.
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
            if self.leftover.borrow().bytes() < before {
                self.progress.set(Instant::now());
            }
            if is_empty {
                return Ok(());
            }
            self.stream.writable().await.map_err(|_| Gone)?;
        }
    }

    /// When it last took bytes; now, where none wait.
    pub fn progress(&self, now: Instant) -> Instant {
        if self.is_ready() { now } else { self.progress.get() }
    }
}

/// One WebSocket connection from its upgrade to its end. `token` is what the request itself brought;
/// without it the first frame must be `auth`. The peer's place in the count of sockets is held to the end.
pub fn run(
    worker: Rc<Worker>,
    from: Peer,
    switching: Switching,
    token: Option<String>,
    request: Result<StreamRequest, Refusal>,
    slot: Result<admission::Slot, Refusal>,
) -> impl Future<Output = ()> {
    let Peer { address, place, .. } = from;
    let beginning = begin(worker, address.ip(), switching, token, request, slot);
    Life { stage: Stage::Begins(Box::pin(beginning)), _place: place }
}

/// What a connection's task runs. Put together by hand: an `async fn` has room for the largest of all
/// that it ever waits for, and ten thousand connections that only stand would pay for it.
struct Life {
    stage: Stage,
    /// In the count of sockets.
    _place: Rc<OpenSocket>,
}

/// The beginning and the end are on the heap while they last.
enum Stage {
    Begins(Pin<Box<dyn Future<Output = Option<Begun>>>>),
    Converses(Conversation),
    Ends(Pin<Box<dyn Future<Output = ()>>>),
    Over,
}

impl Future for Life {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let stage = &mut self.get_mut().stage;
        loop {
            *stage = match stage {
                Stage::Begins(beginning) => match ready!(beginning.as_mut().poll(context)) {
                    Some(begun) => Conversation::begin(begun),
                    None => Stage::Over,
                },
                Stage::Converses(conversation) => {
                    let left = ready!(conversation.poll(context));
                    let Stage::Converses(conversation) = mem::replace(stage, Stage::Over) else { continue };
                    conversation.end(left)
                }
                Stage::Ends(end) => {
                    ready!(end.as_mut().poll(context));
                    Stage::Over
                }
                Stage::Over => return Poll::Ready(()),
            }
        }
    }
}

/// A stream that has been greeted.
struct Begun {
    reader: Rc<Reader>,
    socket: Rc<Socket>,
    peer: ws::Reader,
    /// What the client has sent already.
    early: Vec<u8>,
}

/// From the upgrade to the `hello`, or to a refusal.
async fn begin(
    worker: Rc<Worker>,
    address: IpAddr,
    switching: Switching,
    token: Option<String>,
    request: Result<StreamRequest, Refusal>,
    slot: Result<admission::Slot, Refusal>,
) -> Option<Begun> {
    let Switched { stream, mut early } = match switching.socket().await {
        Ok(switched) => switched,
        Err(error) => {
            tracing::debug!(%error, "upgrade a connection");
            return None;
        }
    };
    let deflates = request.as_ref().is_ok_and(|request| matches!(request.coding, Coding::Deflate(_)));
    let mut peer = ws::Reader::new(ws::Limits { deflate: deflates, ..worker.node.ws_limits() });
    let refuse = async |stream: TcpStream, peer, refusal: Refusal| {
        worker.node.metrics.close(refusal.code);
        worker.node.metrics.refused(&refusal);
        tracing::debug!(code = refusal.code.name(), %address, "refuse a stream: {refusal}");
        let last = vec![frame::error(Framing::WebSocket, &refusal)];
        finish(&Socket::new(stream), peer, last, Some(&refusal)).await;
        None
    };
    let (request, mut slot) = match (request, slot) {
        (Ok(request), Ok(slot)) => (request, slot),
        (Err(refusal), _) | (_, Err(refusal)) => return refuse(stream, peer, refusal).await,
    };
    let grant = match token {
        Some(token) => worker.node.authorize(&token, &request.org).await,
        None => {
            let patience = worker.node.config().limits.first_frame_timeout;
            match tokio::time::timeout(patience, first_frame(&stream, &mut peer, &mut early)).await {
                Ok(Ok(token)) => worker.node.authorize(&token, &request.org).await,
                Ok(Err(Some(refusal))) => Err(refusal),
                Ok(Err(None)) => return None,
                Err(_) => Err(Refusal::new(
                    Code::AuthTimeout,
                    "no auth frame came within limits.first_frame_timeout",
                )
                .limited_by(config_key!(limits.first_frame_timeout))),
            }
        }
    };
    let grant = match grant {
        Ok(grant) => grant,
        Err(refusal) => return refuse(stream, peer, refusal).await,
    };
    let entered = match request.enter(&worker.node, &grant, Transport::WebSocket, &mut slot).await {
        Ok(entered) => entered,
        Err(refusal) => return refuse(stream, peer, refusal).await,
    };
    let socket = Rc::new(Socket::new(stream));
    let reader = Reader::open(worker, grant, request, (slot, entered), Sink::WebSocket(socket.clone()));
    Some(Begun { reader, socket, peer, early })
}

/// Waits for the first frame, which must be `auth`; `Err(None)` where the client has gone.
async fn first_frame(
    stream: &TcpStream,
    peer: &mut ws::Reader,
    early: &mut Vec<u8>,
) -> Result<String, Option<Refusal>> {
    loop {
        let read = early.len();
        let mut input = early.as_mut_slice();
        while let Some(event) = peer.read(&mut input).map_err(|error| Some(broken(error)))? {
            let first = match event {
                ws::Event::Text(text) => match read_client_frame(&text) {
                    Ok(ClientFrame::Auth { token }) => Ok(token),
                    Ok(_) => {
                        let message = "the first frame must be auth with a token";
                        Err(Some(Refusal::new(Code::Unauthorized, message)))
                    }
                    Err(refusal) => Err(Some(refusal)),
                },
                ws::Event::Binary(_) => Err(Some(binary())),
                ws::Event::Close(_) => Err(None),
                ws::Event::Ping(_) | ws::Event::Pong(_) => continue,
            };
            // What came behind it is the stream's.
            let taken = read - input.len();
            early.drain(..taken);
            return first;
        }
        // Who waits owns no buffer.
        *early = Vec::new();
        stream.readable().await.map_err(|_| None)?;
        // A socket that always has more must not keep the thread to itself.
        tokio::task::yield_now().await;
        early.resize(socket::SCRATCH_BYTES, 0);
        match stream.try_read(early) {
            Ok(0) => return Err(None),
            Ok(read) => early.truncate(read),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => early.clear(),
            Err(_) => return Err(None),
        }
    }
}

fn binary() -> Refusal {
    Refusal::new(Code::BadFrame, "frames are text messages with a JSON object; binary messages are not taken")
}

fn broken(error: ws::ReadError) -> Refusal {
    if error.close_code() == 1009 {
        return Refusal::new(Code::TooLarge, error.to_string())
            .limited_by(config_key!(limits.client_frame_bytes));
    }
    Refusal::new(Code::BadFrame, error.to_string())
}

/// A parked reader's way to the head.
type Way = Pin<Box<dyn Future<Output = Result<(), Gone>>>>;

/// A token on its way to be the stream's.
type Renewal = Pin<Box<dyn Future<Output = Result<(), Refusal>>>>;

/// Tokens that the client renews its grant with, in order.
#[derive(Default)]
struct Renewals {
    under_way: Option<Renewal>,
    waiting: VecDeque<String>,
}

impl Renewals {
    /// What became of the next one; `None` once there is none.
    fn poll(&mut self, reader: &Rc<Reader>, context: &mut Context<'_>) -> Poll<Option<Result<(), Refusal>>> {
        if self.under_way.is_none() {
            let Some(token) = self.waiting.pop_front() else { return Poll::Ready(None) };
            let reader = reader.clone();
            self.under_way = Some(Box::pin(async move { reader.renew(&token).await }));
        }
        let Some(renewal) = &mut self.under_way else { return Poll::Ready(None) };
        let renewed = ready!(renewal.as_mut().poll(context));
        self.under_way = None;
        Poll::Ready(Some(renewed))
    }
}

/// How a conversation ended.
enum Left {
    /// The client closed, to be answered in kind.
    Closing,
    /// The client went without a word.
    Gone,
    /// The client broke the protocol; the close code of RFC 6455.
    Broken(Refusal),
    /// The stream is to end ([`Reader::ending`]).
    Told,
}

/// A connection that stands: three inputs, the peer, the reader's bell, and (while it is parked) its
/// own way to the head. What it does not need while it is idle is on the heap while there is any.
struct Conversation {
    attendance: Attendance,
    socket: Rc<Socket>,
    peer: ws::Reader,
    way: Option<Way>,
    renewals: Option<Box<Renewals>>,
}

impl Conversation {
    /// Counts the reader in, and takes what the client has sent already.
    fn begin(begun: Begun) -> Stage {
        let Begun { reader, socket, mut peer, mut early } = begun;
        let attendance = Attendance::begin(reader, Transport::WebSocket);
        let (mut renewals, mut left) = (None, None);
        let heard = socket::feed(&mut peer, &mut early, |event| {
            hear(attendance.reader(), event, &mut renewals, &mut left)
        });
        if let Err(error) = heard {
            left = Some(Left::Broken(broken(error)));
        }
        let conversation = Self { attendance, socket, peer, way: None, renewals };
        match left {
            Some(left) => conversation.end(left),
            None => Stage::Converses(conversation),
        }
    }

    /// Goes on until everything waits; ready when it is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Left> {
        let Self { attendance, socket, peer, way, renewals } = self;
        let reader = attendance.reader();
        loop {
            if reader.ending().is_some() {
                return Poll::Ready(Left::Told);
            }
            if reader.poll_called(context).is_ready() {
                continue;
            }
            if let Some(some) = renewals
                && let Poll::Ready(renewed) = some.poll(reader, context)
            {
                match renewed {
                    Some(Ok(())) => {}
                    Some(Err(refusal)) => reader.end(refusal),
                    None => *renewals = None,
                }
                continue;
            }
            if way.is_none() && reader.is_parked() {
                *way = Some(Box::pin(reader.clone().catch_up()));
            }
            if let Some(under_way) = way
                && let Poll::Ready(caught_up) = under_way.as_mut().poll(context)
            {
                *way = None;
                match caught_up {
                    Ok(()) => continue,
                    Err(Gone) => return Poll::Ready(Left::Gone),
                }
            }
            if ready!(socket.stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(Left::Gone);
            }
            let mut left = None;
            let read =
                socket::try_read(&socket.stream, peer, |event| hear(reader, event, renewals, &mut left));
            match read {
                Ok(Taken::Bytes(_)) => {
                    reader.heard(false, 0);
                    reader.heard_partly(!peer.is_idle());
                    // A socket that always has more must not keep the thread to itself: this comes again
                    // when the others have had their turn.
                    let _ = pin!(tokio::task::yield_now()).poll(context);
                    return Poll::Pending;
                }
                Ok(Taken::Blocked | Taken::Stopped) => {}
                Ok(Taken::Ended) | Err(ReadFault::Io(_)) => left = Some(Left::Gone),
                Err(ReadFault::Broken(error)) => left = Some(Left::Broken(broken(error))),
            }
            if let Some(left) = left {
                return Poll::Ready(left);
            }
        }
    }

    /// Takes the reader off the lists, then says the last word, where there is anybody to hear it.
    fn end(self, left: Left) -> Stage {
        let Self { attendance, socket, peer, way, renewals } = self;
        let reader = attendance.reader().clone();
        drop((way, renewals));
        drop(attendance);
        let refusal = match left {
            Left::Gone => return Stage::Over,
            Left::Closing => None,
            Left::Broken(refusal) => Some(refusal),
            Left::Told => reader.ending().cloned(),
        };
        Stage::Ends(Box::pin(async move {
            let last = refusal.as_ref().map_or_else(Vec::new, |refusal| reader.last_frame(refusal));
            finish(&socket, peer, last, refusal.as_ref()).await;
        }))
    }
}

/// Takes one message of the client's.
fn hear(
    reader: &Reader,
    event: ws::Event<'_>,
    renewals: &mut Option<Box<Renewals>>,
    left: &mut Option<Left>,
) -> ControlFlow<()> {
    reader.heard(false, 1);
    match event {
        ws::Event::Text(text) => match read_client_frame(&text) {
            Ok(ClientFrame::Auth { token }) => {
                let waiting = &mut renewals.get_or_insert_default().waiting;
                if waiting.len() < RENEWALS_MAX {
                    waiting.push_back(token);
                } else {
                    let message = "the client renews its token faster than tokens can be verified";
                    reader.end(Refusal::new(Code::RateLimited, message).retry_in(10_000));
                }
            }
            Ok(ClientFrame::Pong) => reader.heard(true, 0),
            Ok(ClientFrame::Health) => {}
            Err(refusal) => reader.end(refusal),
        },
        ws::Event::Binary(_) => reader.end(binary()),
        ws::Event::Ping(payload) => reader.push(vec![ws::pong(&payload)]),
        ws::Event::Pong(_) => {}
        ws::Event::Close(_) => *left = Some(Left::Closing),
    }
    if left.is_some() || reader.ending().is_some() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// Ends a connection cleanly: what is half written, `last`, a close frame; then waits for the
/// client's, so that the last bytes are not lost to a reset. Gives up after a while.
async fn finish(socket: &Socket, mut peer: ws::Reader, last: Vec<Bytes>, refusal: Option<&Refusal>) {
    let close = match refusal {
        Some(refusal) => {
            let code = refusal.code.close().unwrap_or(1011);
            ws::close(code, refusal.code.name())
        }
        None => ws::close(1000, ""),
    };
    let _ = tokio::time::timeout(CLOSE_PATIENCE, async {
        socket.ready().await?;
        let mut frames = last;
        frames.push(close);
        if !socket.send(&mut frames)? {
            socket.ready().await?;
        }
        if refusal.is_none() {
            return Ok(());
        }
        loop {
            socket.stream.readable().await.map_err(|_| Gone)?;
            let mut is_closed = false;
            let read = socket::try_read(&socket.stream, &mut peer, |event| {
                is_closed |= matches!(event, ws::Event::Close(_));
                ControlFlow::Continue(())
            });
            match read {
                Ok(Taken::Ended) | Err(ReadFault::Io(_)) => return Ok::<(), Gone>(()),
                _ if is_closed => return Ok(()),
                // After a breach of the protocol nothing more is read; the bytes are only drained.
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

    #[test]
    fn what_an_idle_connection_costs_here_is_small() {
        // It may take 2 KiB in all, its task's head and what tokio knows of its socket among them
        // (docs/measurements.md). What is seldom needed is on the heap, while it is.
        let costs = [
            ("the task's future", size_of::<Life>(), 112),
            ("the reader", size_of::<Reader>(), 456),
            ("the socket", size_of::<Socket>(), 80),
        ];
        for (what, bytes, most) in costs {
            assert!(bytes <= most, "{what} takes {bytes} bytes, more than {most}");
        }
    }

    #[tokio::test]
    async fn r7_a_page_goes_behind_the_answer_that_was_half_written_while_it_was_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("bound"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (mut client, socket) = (client.expect("connect"), Socket::new(accepted.expect("accept").0));
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
