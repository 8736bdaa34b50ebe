//! One request over HTTP/2, and its answer.
//!
//! The request gets the form that HTTP/1.1 gives it, so that no handler depends on the version. The answer
//! leaves in pieces that fit into the peer's window. The rest stays in its place, so that a reader's lag
//! shows in its [`BodyBuffer`](crate::worker::sse::BodyBuffer), and a peer that takes nothing holds up one answer, for a
//! limited time.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, StreamId, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either};
use tidegate_protocol::{Code, Refusal};

use super::{
    PIECE, fault,
    received::{Received, Respond, Unread, discard},
};
use crate::{
    admission::{InFlightLimits, Payer},
    config::config_key,
    http::{
        Answer, Incoming, answer, answer::Pieces, body::REQUEST_BYTES, connection::STALL_GRACE, problem,
        record,
    },
    metrics::{InFlight, Operation},
    node::Node,
    refusals::LimitedBy as _,
    transport::{
        guarded::{LINGER, RequestState},
        windows::Windows,
    },
    worker::{
        Peer, Worker,
        sse::{Cut, SseBody},
    },
};

/// How often an answer that has waited for its whole time looks whether another one is in its way.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Room on the connection that an exchange may take: its part in the account of windows, until it is dropped.
pub struct OpenAnswer {
    windows: Rc<Windows>,
    state: Arc<RequestState>,
    stream: u32,
}

impl OpenAnswer {
    /// For a request that was just taken up.
    pub fn open(windows: &Rc<Windows>, state: &Arc<RequestState>, stream: StreamId) -> Self {
        let stream = stream.as_u32();
        windows.open(stream);
        Self { windows: windows.clone(), state: state.clone(), stream }
    }

    /// Waits until it is the fault of this answer that nothing of it is taken from now on. If another one is to
    /// blame, that one has to end.
    async fn stalled(&self, timeout: Duration) {
        let began = Instant::now();
        tokio::time::sleep(timeout).await;
        while !self.windows.is_stalled(self.stream, began, Instant::now(), timeout) {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The same for the time in which the next piece may still be made: only time in which the peer's window or
    /// socket is shut counts.
    async fn stalled_before_next(&self, timeout: Duration) {
        let mut shut = Instant::now();
        loop {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let now = Instant::now();
            if !self.windows.is_spent(self.stream) && !self.state.is_shut() {
                shut = now;
            } else if self.windows.is_stalled(self.stream, shut, now, timeout) {
                return;
            }
        }
    }
}

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.windows.close(self.stream, Instant::now());
    }
}

/// Answers a request.
pub async fn run(
    worker: Rc<Worker>,
    peer: Peer,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    open: OpenAnswer,
) {
    let node = worker.node.clone();
    let is_head = request.method() == Method::HEAD;
    let address = peer.address.ip();
    let respond: Respond = Rc::new(RefCell::new(respond));
    let unread = Unread::default();
    // A client may have as many connections as there are sockets, with a hundred requests on each.
    let limits = InFlightLimits::from(&node.config().limits);
    let charged = node.ledger.charge(InFlight::Request, Payer::Address(address), REQUEST_BYTES, limits);
    let charge = match charged {
        Ok(charge) => charge,
        Err(refusal) => {
            node.metrics.refused(&refusal);
            tracing::debug!(%refusal, "refuse a request over HTTP/2");
            respond.borrow_mut().send_reset(Reason::REFUSED_STREAM);
            return;
        }
    };
    let answering = async {
        match as_http1(&node, request, &respond, &unread) {
            Ok(request) => {
                let Ok(response) = answer(worker, peer, request).await;
                response
            }
            Err((status, refusal)) => {
                node.metrics.refused(&refusal);
                let response = problem::refuse_as(status, &refusal);
                record(&node, Operation::Other, address, &response, Some(&refusal.message));
                response
            }
        }
    };
    let response = tokio::select! {
        biased;
        // A client that resets the request gets no answer, and the handler is dropped.
        _ = poll_fn(|context| respond.borrow_mut().poll_reset(context)) => return,
        response = answering => response,
    };
    // A stream is counted as a connection.
    let _charge = Some(charge).filter(|_| !matches!(response.body(), Answer::Stream(_)));
    let timeout = node.config().limits.write_timeout + STALL_GRACE;
    match give(&respond, response, is_head, timeout, &open).await {
        // As over HTTP/1.1.
        Sent::All => {
            drop(open);
            discard(unread, LINGER).await;
        }
        Sent::Gone(_) => {}
        Sent::Stalled { is_stream } => {
            // A stream is not reset before its reader has ended, which counts it.
            if !is_stream {
                node.metrics.refusal(config_key!(limits.write_timeout));
            }
            tracing::debug!("reset an answer because the peer takes nothing of it");
        }
        Sent::Cut => tracing::debug!("reset an answer that cannot be made to its end"),
        // Usually the peer has gone.
        Sent::Failed(error) => tracing::debug!(%error, "answer over HTTP/2"),
    }
}

/// The request in the form of HTTP/1.1: `:authority` becomes Host, and cookies are joined into one line (RFC
/// 9113, sections 8.3.1 and 8.2.3).
fn as_http1(
    node: &Node,
    request: Request<RecvStream>,
    respond: &Respond,
    unread: &Unread,
) -> Result<Request<Incoming>, (StatusCode, Refusal)> {
    let (mut head, body) = request.into_parts();
    let waits = head.headers.get(header::EXPECT).is_some_and(|expect| expect == "100-continue");
    let go_on = (waits && !body.is_end_stream()).then(|| respond.clone());
    let body = Received::new(body, go_on, unread.clone());
    join_cookies(&mut head.headers);
    let most = node.config().limits.headers;
    if head.headers.len() > most {
        let message = format!("the request has more headers than limits.headers allows ({most})");
        let refusal = Refusal::new(Code::TooLarge, message).limited_by(config_key!(limits.headers));
        return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, refusal));
    }
    if let Some(authority) = head.uri.authority() {
        let authority = HeaderValue::from_str(authority.as_str()).ok();
        if head.headers.get_all(header::HOST).iter().any(|host| Some(host) != authority.as_ref()) {
            let refusal = Refusal::new(Code::BadRequest, "Host and :authority name different hosts");
            return Err((StatusCode::BAD_REQUEST, refusal));
        }
        if let Some(authority) = authority {
            head.headers.insert(header::HOST, authority);
        }
    }
    Ok(Request::from_parts(head, Either::Right(body)))
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    // Joined from valid values and `; `, so it is valid.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// How sending an answer ended.
enum Sent {
    All,
    /// The peer has gone, or the stream was reset.
    Gone(Option<Reason>),
    /// The peer took nothing for too long.
    Stalled {
        is_stream: bool,
    },
    /// The rest of the answer cannot be made.
    Cut,
    Failed(h2::Error),
}

async fn give(
    respond: &Respond,
    response: Response<Answer>,
    is_head: bool,
    timeout: Duration,
    open: &OpenAnswer,
) -> Sent {
    let (mut head, body) = response.into_parts();
    let mut rest = Rest::of(body).await;
    if let Rest::Stream(body) = &rest {
        body.set_stream(open.stream);
    }
    // These headers belong to an HTTP/1.1 connection.
    for name in [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    if let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now())) {
        head.headers.entry(header::DATE).or_insert(now);
    }
    let has_length = !matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let (Rest::Whole(bytes), true) = (&rest, has_length) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert(bytes.len().into());
    }
    let is_all = is_head || rest.is_empty();
    let sent = respond.borrow_mut().send_response(Response::from_parts(head, ()), is_all);
    match sent {
        Err(error) => {
            respond.borrow_mut().send_reset(Reason::INTERNAL_ERROR);
            Sent::Failed(error)
        }
        Ok(_) if is_all => Sent::All,
        Ok(mut stream) => {
            let given = give_rest(&mut stream, &mut rest, timeout, open).await;
            match (&given, &rest) {
                (Sent::Stalled { .. }, _) => stream.send_reset(Reason::CANCEL),
                (Sent::Cut, _) => stream.send_reset(Reason::INTERNAL_ERROR),
                (Sent::Gone(Some(reason)), Rest::Stream(body)) => {
                    if let Some(refusal) = fault(*reason) {
                        body.end_reader(refusal);
                    }
                }
                _ => {}
            }
            given
        }
    }
}

async fn give_rest(
    stream: &mut SendStream<Bytes>,
    rest: &mut Rest,
    timeout: Duration,
    open: &OpenAnswer,
) -> Sent {
    loop {
        // The next piece of an answer is made when the peer has taken the one before, which may be never.
        let is_made_as_taken = matches!(rest, Rest::Pieces(_));
        let waiting = poll_fn(|context| {
            if let Poll::Ready(reset) = stream.poll_reset(context) {
                Poll::Ready(Err(reset.ok()))
            } else {
                rest.poll(context).map(Ok)
            }
        });
        let waited = tokio::select! {
            biased;
            waited = waiting => waited,
            () = patience(open, open.stalled_before_next(timeout)), if is_made_as_taken => {
                return Sent::Stalled { is_stream: false };
            }
        };
        let length = match waited {
            Err(reset) => return Sent::Gone(reset),
            Ok(Err(Cut)) => return Sent::Cut,
            Ok(Ok(Some(length))) => length.min(PIECE),
            // Even if the stream is cut: a reset would discard the last frame.
            Ok(Ok(None)) => {
                return match stream.send_data(Bytes::new(), true) {
                    Ok(()) => Sent::All,
                    Err(_) => Sent::Gone(None),
                };
            }
        };
        // Reserved only now, so that idle streams hold nothing of the connection's window.
        stream.reserve_capacity(length);
        let room = tokio::select! {
            biased;
            room = poll_fn(|context| poll_room(stream, context)) => match room {
                Ok(room) => room,
                Err(reset) => return Sent::Gone(reset),
            },
            () = rest.patience(timeout, open) => {
                return Sent::Stalled { is_stream: matches!(rest, Rest::Stream(_)) };
            }
        };
        let piece = rest.take(room.min(length));
        open.windows.handle_sent(open.stream, piece.len());
        let is_last = rest.is_empty();
        match stream.send_data(piece, is_last) {
            Ok(()) if is_last => return Sent::All,
            Ok(()) => {}
            Err(_) => return Sent::Gone(None),
        }
    }
}

/// How many bytes fit into the peer's window and the send buffer; if the stream was reset, by which code.
fn poll_room(
    stream: &mut SendStream<Bytes>,
    context: &mut Context<'_>,
) -> Poll<Result<usize, Option<Reason>>> {
    if let Poll::Ready(reset) = stream.poll_reset(context) {
        return Poll::Ready(Err(reset.ok()));
    }
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(context)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(None)),
        }
    }
    Poll::Ready(Ok(stream.capacity()))
}

/// The rest of an answer.
enum Rest {
    Whole(Bytes),
    Pieces(Pieces),
    Stream(SseBody),
}

impl Rest {
    async fn of(body: Answer) -> Self {
        match body {
            Answer::Whole(mut whole) => {
                let frame = whole.frame().await.map(|Ok(frame)| frame);
                Rest::Whole(frame.and_then(|frame| frame.into_data().ok()).unwrap_or_default())
            }
            Answer::Pieces(pieces) => Rest::Pieces(pieces),
            Answer::Stream(stream) => Rest::Stream(stream),
        }
    }

    /// Whether nothing is left. Pieces and a stream show that only when they are polled.
    fn is_empty(&self) -> bool {
        matches!(self, Rest::Whole(bytes) if bytes.is_empty())
    }

    /// How many bytes are ready; `None` at the end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<usize>, Cut>> {
        match self {
            Rest::Whole(bytes) => Poll::Ready(Ok((!bytes.is_empty()).then_some(bytes.len()))),
            Rest::Pieces(pieces) => pieces.poll_waiting(context),
            Rest::Stream(body) => body.poll_waiting(context).map(Ok),
        }
    }

    /// Waits as long as an answer may wait for room: a stream for as long as its reader does. Then it is out of
    /// the way of the others ([`Windows`]).
    async fn patience(&self, timeout: Duration, open: &OpenAnswer) {
        match self {
            Rest::Whole(_) | Rest::Pieces(_) => patience(open, open.stalled(timeout)).await,
            Rest::Stream(body) => {
                poll_fn(|context| body.poll_ended(context)).await;
                open.windows.handle_leaving(open.stream);
                tokio::time::sleep(STALL_GRACE).await;
            }
        }
    }

    fn take(&mut self, length: usize) -> Bytes {
        match self {
            Rest::Whole(bytes) => bytes.split_to(length.min(bytes.len())),
            Rest::Pieces(pieces) => pieces.take(length),
            Rest::Stream(body) => body.take(length),
        }
    }
}

/// Waits until an answer that is no stream has `stalled`, or has to make room for the others.
async fn patience(open: &OpenAnswer, stalled: impl Future<Output = ()>) {
    tokio::select! {
        () = poll_fn(|context| open.windows.poll_must_go(open.stream, context)) => {}
        () = stalled => open.windows.handle_leaving(open.stream),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{Stream, stream};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::{
        guarded::{Guarded, Timeouts},
        windows::Observed,
    };

    /// How an answer ends that begins with three bytes, and how many bytes its client gets, which has a window of
    /// `room` and grants no more.
    async fn given(room: u32, rest: impl Stream<Item = Result<Bytes, Cut>> + 'static) -> (Sent, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let connected = TcpStream::connect(listener.local_addr().expect("bound"));
        let (client, accepted) = tokio::join!(connected, listener.accept());
        let asking = async {
            let handshake =
                h2::client::Builder::new().initial_window_size(room).handshake::<_, Bytes>(client?);
            let (mut requests, connection) = handshake.await.expect("a handshake");
            let read = async {
                let request = Request::new(());
                let (answer, _) = requests.send_request(request, true).expect("a request");
                drop(requests);
                let mut body = answer.await.expect("an answer").into_body();
                let mut bytes = 0;
                while let Some(Ok(piece)) = body.data().await {
                    bytes += piece.len();
                }
                bytes
            };
            let (_, bytes) = tokio::join!(connection, read);
            std::io::Result::Ok(bytes)
        };
        let answering = async {
            let (windows, state) = (Rc::<Windows>::default(), Arc::<RequestState>::default());
            let long = Timeouts { head: Duration::from_secs(60), write: Duration::from_secs(60) };
            let socket = Guarded::new(accepted.expect("accept").0, state.clone(), long);
            let handshake = h2::server::handshake(Observed::new(socket, windows.clone()));
            let mut connection = handshake.await.expect("a handshake");
            let (_, mut respond) = connection.accept().await.expect("a request").expect("valid");
            let open = OpenAnswer::open(&windows, &state, respond.stream_id());
            let mut stream = respond.send_response(Response::new(()), false).expect("open");
            let mut rest = Rest::Pieces(Pieces::new(Bytes::from_static(b"one"), rest));
            let sent = tokio::select! {
                sent = give_rest(&mut stream, &mut rest, Duration::from_millis(50), &open) => sent,
                _ = connection.accept() => panic!("the client asks once"),
            };
            drop((stream, respond));
            while connection.accept().await.is_some() {}
            sent
        };
        let (sent, bytes) = tokio::join!(answering, asking);
        (sent, bytes.expect("connect"))
    }

    #[tokio::test]
    async fn a_piece_is_waited_for_as_long_as_the_peer_has_room() {
        let slow = stream::once(async {
            tokio::time::sleep(4 * BETWEEN_LOOKS).await;
            Ok(Bytes::from_static(b"two"))
        });
        assert!(matches!(given(100, slow).await, (Sent::All, 6)), "the gateway was slow");
        let never = stream::pending();
        let ended = given(3, never).await;
        assert!(matches!(ended, (Sent::Stalled { is_stream: false }, 3)), "the client gives no room");
    }

    #[test]
    fn crumbs_of_a_cookie_become_one_line_in_their_order() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=\"2\"", "c=3; d=4"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        headers.append("x", HeaderValue::from_static("y"));
        join_cookies(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!(headers[header::COOKIE], "a=1; b=\"2\"; c=3; d=4");
        join_cookies(&mut headers);
        assert_eq!(headers[header::COOKIE], "a=1; b=\"2\"; c=3; d=4");
    }
}
