//! The flow-control windows of an HTTP/2 connection (RFC 9113, section 5.2), as its peer grants them: which
//! answer the peer leaves unread, so that the others get no room.
//!
//! The `h2` crate keeps the same account and does not show it. So [`Observed`] reads along with what comes from
//! the peer, and the exchanges report what they send. Nothing here changes what is sent: if the account were
//! wrong, the wrong answer would be ended, for it is asked only after an answer got no room for a long time.
//!
//! It also counts frames that ask for nothing and bring nothing ([`Spare`]).

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::floods::Spare;

/// What precedes the first frame of a client (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
/// The window of a stream and of the connection until the peer says otherwise (section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Requests whose room was granted before they were taken up. A client that sends more at once has it forgotten.
const PENDING_MAX: usize = 256;

/// The account of one connection.
#[derive(Debug, Default)]
pub struct Windows {
    account: RefCell<Account>,
    flooded: Notify,
}

#[derive(Debug)]
struct Account {
    parser: Parser,
    /// What the peer grants to each new stream. A change also holds for those that are open.
    initial: i64,
    connection: Window,
    streams: BTreeMap<u32, Answer>,
    /// The highest stream that was taken up.
    newest: u32,
    /// When an answer that the peer left unread was last out of the way.
    made_room: Option<Instant>,
    spare: Spare,
}

/// What was granted beyond the initial window, and what was sent.
#[derive(Debug, Default, Clone, Copy)]
struct Window {
    granted: i64,
    sent: i64,
}

/// One answer.
#[derive(Debug, Default)]
struct Answer {
    window: Window,
    is_open: bool,
    /// Set if it must make room for the others.
    must_go: bool,
    /// Its task, which waits for [`Answer::must_go`].
    task: Option<Waker>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            parser: Parser::default(),
            initial: INITIAL_WINDOW,
            connection: Window::default(),
            streams: BTreeMap::new(),
            newest: 0,
            made_room: None,
            spare: Spare::full(),
        }
    }
}

impl Window {
    fn is_spent(self, initial: i64) -> bool {
        initial + self.granted <= self.sent
    }

    /// How much was sent and not granted again: in most clients, what was not read.
    fn unread(self) -> i64 {
        self.sent - self.granted
    }
}

impl Windows {
    /// Takes bytes from the peer, in the order in which they came.
    pub fn handle_received(&self, bytes: &[u8]) {
        let mut account = self.account.borrow_mut();
        let mut rest = bytes;
        while let Some(said) = account.parser.read(&mut rest) {
            account.handle(said);
        }
        let (requests, useless) =
            (std::mem::take(&mut account.parser.requests), std::mem::take(&mut account.parser.useless));
        account.spare.received(requests, useless);
    }

    /// Waits until the peer has sent more frames without use than it may. Nothing more is read from it then.
    pub async fn flooded(&self) {
        self.flooded.notified().await;
    }

    fn is_flooded(&self, now: Instant) -> bool {
        self.account.borrow_mut().spare.is_used_up(now)
    }

    /// An answer to this request begins.
    pub fn open(&self, stream: u32) {
        let mut account = self.account.borrow_mut();
        account.newest = account.newest.max(stream);
        account.streams.entry(stream).or_default().is_open = true;
        let newest = account.newest;
        // Those that are not open were refused before anybody saw them.
        account.streams.retain(|other, answer| answer.is_open || *other > newest);
    }

    /// So many bytes of an answer were sent.
    pub fn handle_sent(&self, stream: u32, bytes: usize) {
        let mut account = self.account.borrow_mut();
        account.spare.sent(bytes as f64);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        account.connection.sent += bytes;
        if let Some(answer) = account.streams.get_mut(&stream) {
            answer.window.sent += bytes;
        }
    }

    /// An answer has ended.
    pub fn close(&self, stream: u32, now: Instant) {
        let mut account = self.account.borrow_mut();
        if account.streams.remove(&stream).is_some_and(|answer| answer.must_go) {
            account.made_room = Some(now);
        }
    }

    /// An answer is to end because the peer takes nothing of it: until it has ended, the others wait.
    pub fn handle_leaving(&self, stream: u32) {
        if let Some(answer) = self.account.borrow_mut().streams.get_mut(&stream) {
            answer.must_go = true;
            if let Some(task) = answer.task.take() {
                task.wake();
            }
        }
    }

    /// Whether the window of an answer or of the connection is spent.
    pub fn is_spent(&self, stream: u32) -> bool {
        let account = self.account.borrow();
        account.connection.is_spent(INITIAL_WINDOW)
            || account.streams.get(&stream).is_some_and(|answer| answer.window.is_spent(account.initial))
    }

    /// Whether an answer has to make room for the others.
    pub fn must_go(&self, stream: u32) -> bool {
        self.account.borrow().streams.get(&stream).is_some_and(|answer| answer.must_go)
    }

    /// Ready once an answer has to make room for the others.
    pub fn poll_must_go(&self, stream: u32, context: &Context<'_>) -> Poll<()> {
        match self.account.borrow_mut().streams.get_mut(&stream) {
            Some(answer) if answer.must_go => Poll::Ready(()),
            Some(answer) => {
                answer.task = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// Whether it is the fault of an answer itself that nothing of it was taken since `taken`, for longer than
    /// `patience`: its own window is spent. If only the window of the connection is, the answer that the peer
    /// leaves unread has to go, and this one may wait once more as long.
    pub fn is_stalled(&self, stream: u32, taken: Instant, now: Instant, patience: Duration) -> bool {
        let unread = {
            let account = self.account.borrow();
            let Some(answer) = account.streams.get(&stream) else { return now - taken > patience };
            if answer.must_go {
                return true;
            }
            let waits_for_others =
                !answer.window.is_spent(account.initial) && account.connection.is_spent(INITIAL_WINDOW);
            if !waits_for_others {
                return now - taken > patience;
            }
            if account.streams.values().any(|answer| answer.must_go) {
                return false;
            }
            let since = account.made_room.map_or(taken, |made_room| made_room.max(taken));
            if now - since <= patience {
                return false;
            }
            // Room was made already, and the peer gave none of it to this answer.
            if since > taken {
                return true;
            }
            account.most_unread()
        };
        match unread {
            Some(other) if other != stream => {
                self.handle_leaving(other);
                false
            }
            _ => true,
        }
    }
}

impl Account {
    fn handle(&mut self, said: Said) {
        match said {
            Said::InitialWindow(bytes) => self.initial = i64::from(bytes),
            Said::Room { stream: 0, bytes } => self.connection.granted += i64::from(bytes),
            Said::Room { stream, bytes } => {
                let is_new = stream > self.newest && self.streams.len() < self.open() + PENDING_MAX;
                let answer = match self.streams.get_mut(&stream) {
                    None if is_new => self.streams.entry(stream).or_default(),
                    None => return,
                    Some(answer) => answer,
                };
                answer.window.granted += i64::from(bytes);
            }
        }
    }

    fn open(&self) -> usize {
        self.streams.values().filter(|answer| answer.is_open).count()
    }

    /// The answer that holds the most of the connection's window; of those, first one whose own window is spent.
    fn most_unread(&self) -> Option<u32> {
        let open = self.streams.iter().filter(|(_, answer)| answer.is_open && answer.window.unread() > 0);
        open.max_by_key(|(_, answer)| (answer.window.is_spent(self.initial), answer.window.unread()))
            .map(|(stream, _)| *stream)
    }
}

/// What a peer says of its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The window of each stream.
    InitialWindow(u32),
    /// More room on a stream, or on the connection (0).
    Room { stream: u32, bytes: u32 },
}

/// Finds what a peer says of its windows in the bytes that it sends. Whether they are valid is for `h2` to say.
#[derive(Debug)]
struct Parser {
    /// Bytes that are of no interest.
    skip: usize,
    head: Vec<u8>,
    /// The frame whose payload comes next.
    frame: Option<FrameHead>,
    payload: Vec<u8>,
    /// How many requests, and how many frames without use, have come since they were last counted.
    requests: u32,
    useless: u32,
}

#[derive(Debug, Clone, Copy)]
struct FrameHead {
    kind: u8,
    stream: u32,
    left: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: Vec::new(),
            frame: None,
            payload: Vec::new(),
            requests: 0,
            useless: 0,
        }
    }
}

impl Parser {
    /// Reads to the next thing of interest; `None` at the end of `bytes`.
    fn read(&mut self, bytes: &mut &[u8]) -> Option<Said> {
        loop {
            let skipped = self.skip.min(bytes.len());
            *bytes = &bytes[skipped..];
            self.skip -= skipped;
            if bytes.is_empty() {
                return None;
            }
            let Some(frame) = &mut self.frame else {
                if fill(&mut self.head, FRAME_HEAD_BYTES, bytes) {
                    self.begin();
                }
                continue;
            };
            let unit = if frame.kind == SETTINGS { 6 } else { 4 };
            if frame.left < unit {
                // The end of the payload.
                self.skip = frame.left;
                self.frame = None;
                continue;
            }
            if !fill(&mut self.payload, unit, bytes) {
                return None;
            }
            frame.left -= unit;
            let (kind, stream) = (frame.kind, frame.stream);
            let number = |at: usize| {
                let bytes = self.payload[at..at + 4].try_into().unwrap_or_default();
                u32::from_be_bytes(bytes)
            };
            let said = match kind {
                SETTINGS if self.payload[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() => {
                    Some(Said::InitialWindow(number(2)))
                }
                SETTINGS => None,
                _ => Some(Said::Room { stream, bytes: number(0) & (u32::MAX >> 1) }),
            };
            self.payload.clear();
            if frame.left == 0 {
                self.frame = None;
            }
            if said.is_some() {
                return said;
            }
        }
    }

    /// After the head of a frame.
    fn begin(&mut self) {
        let head = &self.head;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        self.head.clear();
        match kind {
            DATA if length > 0 => {}
            HEADERS => self.requests += 1,
            _ => self.useless += 1,
        }
        match kind {
            SETTINGS if flags & ACK == 0 && length > 0 => {
                self.frame = Some(FrameHead { kind, stream, left: length });
            }
            WINDOW_UPDATE if length > 0 => self.frame = Some(FrameHead { kind, stream, left: length }),
            _ => self.skip = length,
        }
    }
}

/// Moves bytes until `into` has `length`; returns whether it has.
fn fill(into: &mut Vec<u8>, length: usize, from: &mut &[u8]) -> bool {
    let moved = (length - into.len()).min(from.len());
    into.extend_from_slice(&from[..moved]);
    *from = &from[moved..];
    into.len() == length
}

/// A socket under HTTP/2 whose incoming bytes are also read for the account.
#[derive(Debug)]
pub struct Observed<S> {
    socket: S,
    windows: Rc<Windows>,
}

impl<S> Observed<S> {
    /// Reads along with `socket`, from its first byte.
    pub fn new(socket: S, windows: Rc<Windows>) -> Self {
        Self { socket, windows }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.windows.is_flooded(Instant::now()) {
            this.windows.flooded.notify_one();
            // Nothing more is read, and the connection ends.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(context, buffer))?;
        this.windows.handle_received(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [&head, payload].concat()
    }

    /// What a client sends that has a window of 1000 bytes for each stream.
    fn spoken() -> Vec<u8> {
        let settings = [&[0, 3, 0, 0, 0, 9, 0, 4][..], &1000_u32.to_be_bytes()].concat();
        [
            vec![b'P'; PREFACE_BYTES],
            frame(SETTINGS, 0, 0, &settings),
            frame(SETTINGS, ACK, 0, &[]),
            frame(0, 0, 1, &[8; 300]),
            // The highest bit is reserved.
            frame(WINDOW_UPDATE, 0, 1 << 31 | 7, &(1 << 31 | 5_u32).to_be_bytes()),
            frame(WINDOW_UPDATE, 0, 0, &9_u32.to_be_bytes()),
        ]
        .concat()
    }

    #[test]
    fn windows_are_found_in_bytes_that_come_in_any_pieces() {
        let spoken = spoken();
        for size in 1..=spoken.len() {
            let mut parser = Parser::default();
            let mut said = Vec::new();
            for mut piece in spoken.chunks(size) {
                said.extend(std::iter::from_fn(|| parser.read(&mut piece)));
            }
            let room = |stream, bytes| Said::Room { stream, bytes };
            assert_eq!(said, [Said::InitialWindow(1000), room(7, 5), room(0, 9)], "pieces of {size}");
        }
    }

    #[test]
    fn frames_without_use_are_counted_and_requests_and_answers_allow_for_some() {
        let ping = || frame(6, 0, 0, &[0; 8]);
        let flooded = |windows: &Windows| windows.is_flooded(Instant::now());
        let windows = Windows::default();
        windows.handle_received(&[b'P'; PREFACE_BYTES]);
        windows.handle_received(&ping().repeat(1000));
        assert!(!flooded(&windows));
        windows.handle_received(&ping().repeat(500));
        assert!(flooded(&windows));
        let later = Instant::now() + Duration::from_secs(6);
        assert!(!windows.is_flooded(later), "a hundred more for each second");
        // Requests that are cancelled, bodies, and room for answers.
        let windows = Windows::default();
        windows.handle_received(&[b'P'; PREFACE_BYTES]);
        let request = [frame(HEADERS, 0, 1, &[1; 20]), frame(3, 0, 1, &[0; 4])].concat();
        windows.handle_received(&request.repeat(100_000));
        windows.handle_received(&frame(DATA, 0, 1, &[1; 100]).repeat(100_000));
        for _ in 0..100_000 {
            windows.handle_sent(1, 4096);
            windows.handle_received(&frame(WINDOW_UPDATE, 0, 1, &4096_u32.to_be_bytes()));
            windows.handle_received(&frame(WINDOW_UPDATE, 0, 0, &4096_u32.to_be_bytes()));
        }
        assert!(!flooded(&windows));
        windows.handle_received(&frame(DATA, 0, 1, &[]).repeat(100_000));
        assert!(flooded(&windows), "bodies of nothing");
        // An answer that is taken byte by byte (CVE-2019-9511).
        let windows = Windows::default();
        windows.handle_received(&[b'P'; PREFACE_BYTES]);
        for _ in 0..2000 {
            windows.handle_sent(1, 1);
            windows.handle_received(&frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()));
        }
        assert!(flooded(&windows));
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Three answers, after as many bytes of each were sent. The connection's window is as large as their sum.
    fn three(sent: [usize; 3]) -> (Windows, Instant) {
        let windows = Windows::default();
        windows.handle_received(&[b'P'; PREFACE_BYTES]);
        for (stream, sent) in [1, 3, 5].into_iter().zip(sent) {
            windows.open(stream);
            windows.handle_sent(stream, sent);
        }
        (windows, Instant::now())
    }

    #[test]
    fn the_one_that_is_unread_goes_and_the_others_wait_once_more() {
        let (windows, began) = three([65_535, 0, 0]);
        let at = |seconds| began + Duration::from_secs(seconds);
        let is_stalled = |stream, seconds| windows.is_stalled(stream, began, at(seconds), PATIENCE);
        assert!(!is_stalled(1, 30) && !is_stalled(3, 30));
        assert!(!is_stalled(3, 31), "another one is to blame");
        assert!(windows.must_go(1) && is_stalled(1, 31));
        assert!(!is_stalled(5, 33), "it is still there");
        windows.close(1, at(34));
        assert!(!is_stalled(3, 64), "another timeout");
        assert!(is_stalled(3, 65), "and no third");
    }

    #[test]
    fn an_answer_without_room_of_its_own_blames_nobody() {
        let (windows, began) = three([65_535, 0, 0]);
        assert!(windows.is_stalled(1, began, began + Duration::from_secs(31), PATIENCE));
        assert!(!windows.must_go(3) && !windows.must_go(5));
        // Nor does one that waits for the socket.
        let (windows, began) = three([60_000, 0, 0]);
        assert!(windows.is_stalled(3, began, began + Duration::from_secs(31), PATIENCE));
        assert!(!windows.must_go(1));
    }

    #[test]
    fn of_several_the_one_that_holds_most_goes_if_no_window_is_spent() {
        let (windows, began) = three([20_000, 35_535, 10_000]);
        assert!(!windows.is_stalled(5, began, began + Duration::from_secs(31), PATIENCE));
        assert_eq!([1, 3, 5].map(|stream| windows.must_go(stream)), [false, true, false]);
    }

    #[test]
    fn what_was_granted_again_was_read() {
        let (windows, _) = three([65_535, 65_535, 0]);
        let mut room = frame(WINDOW_UPDATE, 0, 1, &65_000_u32.to_be_bytes());
        room.extend(frame(WINDOW_UPDATE, 0, 7, &1_u32.to_be_bytes()));
        windows.handle_received(&room);
        assert_eq!(windows.account.borrow().most_unread(), Some(3));
        // Room for a request that was not taken up yet is kept for it.
        windows.open(7);
        assert_eq!(windows.account.borrow().streams[&7].window.granted, 1);
        // A stranger's is not, and neither is that of one that was refused.
        (0..2000).for_each(|stream| {
            windows.handle_received(&frame(WINDOW_UPDATE, 0, 2 * stream + 9, &1_u32.to_be_bytes()));
        });
        assert!(windows.account.borrow().streams.len() <= 4 + PENDING_MAX);
        windows.open(5001);
        assert_eq!(windows.account.borrow().streams.len(), 5);
    }
}
