//! A reader over WebSocket (RFC 6455): the task of a connection, from its upgrade to its end.

mod socket;

use std::{
    collections::VecDeque,
    mem,
    ops::ControlFlow,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tidegate_core::{Framing, frame};
use tidegate_protocol::{
    Code, Refusal,
    frame::{ClientFrame, read_client_frame},
    ws,
};

pub use self::socket::Socket;
use self::socket::{Closing, finish};
use super::{
    Peer, Worker,
    reader::{Attendance, Gone, Reader, Sink, takes_no_answers},
    start::StreamRequest,
    timers,
};
use crate::{
    admission,
    config::config_key,
    metrics::Operation,
    node::OpenSocket,
    refusals::LimitedBy as _,
    transport::{
        Transport,
        socket::{ReadFault, SCRATCH_BYTES, SocketRead, feed, try_read},
        upgrade::{Switched, Switching},
    },
};

/// How many renewals may wait for the one before: its keys may have to be fetched.
const RENEWALS_MAX: usize = 4;

/// A socket whose upgrade was answered.
pub struct Upgraded {
    /// The way to the socket.
    pub switching: Switching,
    /// Whether permessage-deflate was negotiated.
    pub deflates: bool,
}

/// The stream that an upgrade asked for.
pub struct Asked {
    /// What it asks for.
    pub request: StreamRequest,
    /// The token that the request brought; without it the first frame must be `auth`.
    pub token: Option<String>,
    /// What the connection is counted by.
    pub slot: admission::Slot,
}

/// One WebSocket connection from its upgrade to its end. The peer's slot in the count of sockets is held to
/// the end.
pub fn run(worker: Rc<Worker>, from: Peer, upgraded: Upgraded, asked: Asked) -> impl Future<Output = ()> {
    let counted = from.slot.clone();
    let beginning = begin(worker, from, upgraded, asked);
    ConnectionTask { stage: Stage::Begins(Box::pin(beginning)), _counted: counted }
}

/// A connection that is refused: its upgrade was answered, so it gets an `error` frame and a close code. A
/// `slot` is held to the end.
pub async fn refuse(
    worker: Rc<Worker>,
    from: Peer,
    upgraded: Upgraded,
    refusal: Refusal,
    slot: Option<admission::Slot>,
) {
    if let Some((fresh, _)) = Fresh::open(&worker, &from, upgraded).await {
        fresh.refuse(&refusal).await;
    }
    drop(slot);
}

/// What the task of a connection runs. It is written by hand: an `async fn` has room for the largest of
/// all that it ever waits for, and ten thousand idle connections would pay for it.
struct ConnectionTask {
    stage: Stage,
    /// The slot in the count of sockets.
    _counted: Rc<OpenSocket>,
}

/// The beginning and the end are on the heap while they last.
enum Stage {
    Begins(Pin<Box<dyn Future<Output = Option<Begun>>>>),
    Converses(Conversation),
    Ends(Pin<Box<dyn Future<Output = ()>>>),
    Over,
}

impl Future for ConnectionTask {
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
    attendance: Attendance,
    socket: Rc<Socket>,
    peer: ws::MessageReader,
    /// What the client has sent already.
    early: Vec<u8>,
}

/// A socket that was upgraded and has no stream yet.
struct Fresh<'a> {
    worker: &'a Worker,
    from: &'a Peer,
    socket: Socket,
    peer: ws::MessageReader,
}

impl<'a> Fresh<'a> {
    /// Waits for the socket. Returns it with what the client has sent already; `None` if it has gone.
    async fn open(worker: &'a Worker, from: &'a Peer, upgraded: Upgraded) -> Option<(Self, Vec<u8>)> {
        let Upgraded { switching, deflates } = upgraded;
        match switching.socket().await {
            Ok(Switched { stream, early }) => {
                let limits = ws::Limits { deflate: deflates, ..worker.node.ws_limits() };
                let (socket, peer) = (Socket::new(stream), ws::MessageReader::new(limits));
                Some((Self { worker, from, socket, peer }, early))
            }
            Err(error) => {
                tracing::debug!(%error, "upgrade a connection");
                None
            }
        }
    }

    /// Ends it with an error and a close code.
    async fn refuse(self, refusal: &Refusal) {
        let metrics = &self.worker.node.metrics;
        metrics.close(refusal.code);
        metrics.refused(refusal);
        let address = self.from.address.ip();
        self.worker.node.log_refused(Operation::Stream, refusal.code, address, &refusal.message);
        let last = vec![frame::error(Framing::WebSocket, refusal)];
        finish(&self.socket, self.peer, last, Closing::Refusing(refusal)).await;
    }
}

/// From the upgrade to the `hello`, or to a refusal.
async fn begin(worker: Rc<Worker>, from: Peer, upgraded: Upgraded, asked: Asked) -> Option<Begun> {
    let Asked { request, token, mut slot } = asked;
    let (mut fresh, mut early) = Fresh::open(&worker, &from, upgraded).await?;
    let token = match token {
        Some(token) => token,
        None => {
            let patience = worker.node.config().limits.first_frame_timeout;
            let first = first_frame(&worker, &fresh.socket, &mut fresh.peer, &mut early);
            match tokio::time::timeout(patience, first).await {
                Ok(Ok(token)) => token,
                Ok(Err(Left::Broken(refusal))) => {
                    fresh.refuse(&refusal).await;
                    return None;
                }
                Ok(Err(Left::Closing(code))) => {
                    finish(&fresh.socket, fresh.peer, Vec::new(), Closing::Answering(code)).await;
                    return None;
                }
                Ok(Err(Left::Gone | Left::Ended)) => return None,
                Err(_) => {
                    let message = "no auth frame came within limits.first_frame_timeout";
                    let refusal = Refusal::new(Code::AuthTimeout, message);
                    fresh.refuse(&refusal.limited_by(config_key!(limits.first_frame_timeout))).await;
                    return None;
                }
            }
        }
    };
    let allowed = async {
        let grant = worker.node.authorize(&token, &request.org).await?;
        let entered = request.enter(&worker, &grant, Transport::WebSocket, &mut slot).await?;
        Ok((grant, entered))
    };
    let (grant, entered) = match allowed.await {
        Ok(allowed) => allowed,
        Err(refusal) => {
            fresh.refuse(&refusal).await;
            return None;
        }
    };
    let Fresh { socket, peer, .. } = fresh;
    let socket = Rc::new(socket);
    let sink = Sink::WebSocket(socket.clone());
    let attendance = Reader::open(worker.clone(), grant, request, (slot, entered), sink);
    Some(Begun { attendance, socket, peer, early })
}

/// Waits for the first frame, which must be `auth`. Answers pings (RFC 6455, section 5.5.2).
async fn first_frame(
    worker: &Worker,
    socket: &Socket,
    peer: &mut ws::MessageReader,
    early: &mut Vec<u8>,
) -> Result<String, Left> {
    let (began, mut pings) = (Instant::now(), 0_u32);
    loop {
        let read = early.len();
        let mut input = early.as_mut_slice();
        while let Some(event) = peer.read(&mut input).map_err(|error| Left::Broken(broken(error)))? {
            let first = match event {
                ws::Received::Text(text) => match read_client_frame(&text) {
                    Ok(ClientFrame::Auth { token }) => Ok(token),
                    Ok(_) => {
                        let message = "the first frame must be auth with a token";
                        Err(Left::Broken(Refusal::new(Code::Unauthorized, message)))
                    }
                    Err(refusal) => Err(Left::Broken(refusal)),
                },
                ws::Received::Binary(_) => Err(Left::Broken(binary())),
                ws::Received::Close(close) => Err(Left::Closing(close.code)),
                ws::Received::Pong(_) => continue,
                ws::Received::Ping(payload) => {
                    pings += 1;
                    let rate = worker.node.config().limits.client_frames_per_second;
                    if f64::from(pings) > rate as f64 * began.elapsed().as_secs_f64().max(1.0) {
                        return Err(Left::Broken(timers::too_many_frames(rate)));
                    }
                    pong(socket, &payload)?;
                    continue;
                }
            };
            // What came after it belongs to the stream.
            let taken = read - input.len();
            early.drain(..taken);
            return first;
        }
        // A connection that waits owns no buffer.
        *early = Vec::new();
        tokio::select! {
            readable = socket.stream.readable() => readable.map_err(|_| Left::Gone)?,
            written = socket.ready(), if !socket.is_ready() => {
                written.map_err(|_| Left::Gone)?;
                continue;
            }
        }
        // A socket that always has more must not keep the thread to itself.
        tokio::task::yield_now().await;
        early.resize(SCRATCH_BYTES, 0);
        match socket.stream.try_read(early) {
            Ok(0) => return Err(Left::Gone),
            Ok(read) => early.truncate(read),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => early.clear(),
            Err(_) => return Err(Left::Gone),
        }
    }
}

/// Answers a ping of a client that has no stream yet.
fn pong(socket: &Socket, payload: &[u8]) -> Result<(), Left> {
    let mut pong = vec![ws::pong(payload)];
    if socket.is_ready() {
        return socket.send(&mut pong).map(drop).map_err(|_| Left::Gone);
    }
    socket.queue(pong).map_err(|_| Left::Broken(takes_no_answers()))
}

fn binary() -> Refusal {
    Refusal::new(Code::BadFrame, "frames are text messages with a JSON object; binary messages are not taken")
}

fn broken(error: ws::Violation) -> Refusal {
    if error.close_code() == 1009 {
        return Refusal::new(Code::TooLarge, error.to_string())
            .limited_by(config_key!(limits.client_frame_bytes));
    }
    Refusal::new(Code::BadFrame, error.to_string())
}

/// What brings a lagging reader back to its group.
type CatchingUp = Pin<Box<dyn Future<Output = Result<(), Gone>>>>;

/// The renewal of a grant by one token.
type Renewal = Pin<Box<dyn Future<Output = Result<(), Refusal>>>>;

/// Tokens that the client renews its grant with, in order.
#[derive(Default)]
struct Renewals {
    under_way: Option<Renewal>,
    waiting: VecDeque<String>,
}

impl Renewals {
    /// The result of the next renewal; `None` once there is none.
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
    /// The client sent a close frame with this code, which is answered by one.
    Closing(Option<u16>),
    /// The client has gone without one.
    Gone,
    /// The client broke the protocol; the close code of RFC 6455.
    Broken(Refusal),
    /// The gateway ends the stream ([`Reader::ending`]).
    Ended,
}

/// A connection with a stream. It has three inputs: the peer, notifications of its reader, and catching up
/// while the reader lags. What an idle connection does not need is on the heap while it is needed.
struct Conversation {
    attendance: Attendance,
    socket: Rc<Socket>,
    peer: ws::MessageReader,
    catching_up: Option<CatchingUp>,
    renewals: Option<Box<Renewals>>,
}

impl Conversation {
    /// Takes what the client has sent already.
    fn begin(begun: Begun) -> Stage {
        let Begun { attendance, socket, mut peer, mut early } = begun;
        let (mut renewals, mut left) = (None, None);
        let heard =
            feed(&mut peer, &mut early, |event| hear(attendance.reader(), event, &mut renewals, &mut left));
        if let Err(error) = heard {
            left = Some(Left::Broken(broken(error)));
        }
        let conversation = Self { attendance, socket, peer, catching_up: None, renewals };
        match left {
            Some(left) => conversation.end(left),
            None => Stage::Converses(conversation),
        }
    }

    /// Goes on until everything waits; ready when it is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Left> {
        let Self { attendance, socket, peer, catching_up, renewals } = self;
        let reader = attendance.reader();
        loop {
            if reader.ending().is_some() {
                return Poll::Ready(Left::Ended);
            }
            if reader.poll_notified(context).is_ready() {
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
            if catching_up.is_none() && reader.lags() {
                *catching_up = Some(Box::pin(reader.clone().catch_up()));
            }
            if let Some(under_way) = catching_up
                && let Poll::Ready(caught_up) = under_way.as_mut().poll(context)
            {
                *catching_up = None;
                match caught_up {
                    Ok(()) => continue,
                    Err(Gone) => return Poll::Ready(Left::Gone),
                }
            }
            if ready!(socket.stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(Left::Gone);
            }
            let mut left = None;
            let read = try_read(&socket.stream, peer, |event| hear(reader, event, renewals, &mut left));
            match read {
                Ok(SocketRead::Bytes(_)) => {
                    reader.heard_bytes();
                    reader.heard_partly(!peer.is_idle());
                    // A socket that always has more must not keep the thread to itself: this comes again
                    // when the others have had their turn.
                    let _ = pin!(tokio::task::yield_now()).poll(context);
                    return Poll::Pending;
                }
                Ok(SocketRead::Blocked | SocketRead::Stopped) => {}
                Ok(SocketRead::Ended) | Err(ReadFault::Io(_)) => left = Some(Left::Gone),
                Err(ReadFault::Broken(error)) => left = Some(Left::Broken(broken(error))),
            }
            if let Some(left) = left {
                return Poll::Ready(left);
            }
        }
    }

    /// Takes the reader off the lists, then sends the last frames, if the client is still there.
    fn end(self, left: Left) -> Stage {
        let Self { attendance, socket, peer, catching_up, renewals } = self;
        let reader = attendance.reader().clone();
        drop((catching_up, renewals));
        let refusal = match left {
            Left::Gone => return Stage::Over,
            Left::Closing(code) => {
                return Stage::Ends(Box::pin(async move {
                    finish(&socket, peer, Vec::new(), Closing::Answering(code)).await;
                }));
            }
            Left::Broken(refusal) => {
                reader.end(refusal.clone());
                reader.ending().cloned().unwrap_or(refusal)
            }
            Left::Ended => match reader.ending().cloned() {
                Some(refusal) => refusal,
                None => return Stage::Over,
            },
        };
        // Counts the end, before the client sees it.
        drop(attendance);
        Stage::Ends(Box::pin(async move {
            let last = reader.last_frame(&refusal);
            finish(&socket, peer, last, Closing::Refusing(&refusal)).await;
        }))
    }
}

/// Takes one message of the client.
fn hear(
    reader: &Reader,
    event: ws::Received<'_>,
    renewals: &mut Option<Box<Renewals>>,
    left: &mut Option<Left>,
) -> ControlFlow<()> {
    let mut is_pong = false;
    match event {
        ws::Received::Text(text) => match read_client_frame(&text) {
            Ok(ClientFrame::Auth { token }) => {
                let waiting = &mut renewals.get_or_insert_default().waiting;
                if waiting.len() < RENEWALS_MAX {
                    waiting.push_back(token);
                } else {
                    let message = "the client renews its token faster than tokens can be verified";
                    reader.end(Refusal::new(Code::RateLimited, message).retry_in(10_000));
                }
            }
            Ok(ClientFrame::Pong) => is_pong = true,
            Ok(ClientFrame::Ping { n }) => reader.answer_ping(n),
            Ok(ClientFrame::Health(report)) => reader.take_report(&report),
            Err(refusal) => reader.end(refusal),
        },
        ws::Received::Binary(_) => reader.end(binary()),
        ws::Received::Ping(payload) => reader.push(vec![ws::pong(&payload)]),
        ws::Received::Pong(_) => {}
        ws::Received::Close(close) => *left = Some(Left::Closing(close.code)),
    }
    reader.heard_frame(is_pong);
    if left.is_some() || reader.ending().is_some() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_idle_connection_costs_here_is_small() {
        // It may take 2 KiB in all, with the header of its task and what tokio keeps for its socket
        // (docs/measurements.md). What is seldom needed is on the heap while it is needed.
        let costs = [
            ("the task's future", size_of::<ConnectionTask>(), 112),
            ("the reader", size_of::<Reader>(), 464),
            ("the socket", size_of::<Socket>(), 80),
        ];
        for (what, bytes, most) in costs {
            assert!(bytes <= most, "{what} takes {bytes} bytes, more than {most}");
        }
    }
}
