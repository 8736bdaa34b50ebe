//! The task that drives one session: it owns the connection, the timer, and the requests for tokens and pages,
//! tells the session what happens, and does what the session says, in that order.
//!
//! What happens is one of six things: the application asks for something or takes an item, a token comes, a
//! page of history comes, the session's deadline comes, the connection tells something.
//!
//! **A slow application.** While the queue is full the connection is not read, so the gateway notices that this
//! reader is slow, and nothing is kept here. The gateway's pings are not read either: over WebSocket the
//! connection shows by itself that this end lives, and the time in which nothing was read is no silence. If the
//! application takes nothing at all for [`STALL`], the connection is left, and resumed from the last item in the
//! queue once the application has taken everything. Either way the queue is bounded and nothing is lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tidegate_protocol::{
    Cursor,
    client::{Config, Input, Output, Phase, Session, TokenReason},
    time::millis,
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
    time::{Instant, sleep_until},
};

use crate::{
    Client, Deliveries, Delivery, Ended, Event, Failure, Gap, Notice, Status,
    client::Command,
    gateway::Gateway,
    queue::{Queue, QueueLimits},
    random::unit,
    token::{Token, TokenError, TokenRequest, Tokens},
    transport::{Closed, Connection, Heard, Open, with_query},
};

/// How long the application may take nothing while the queue is full: less than the 30 s after which a gateway
/// ends the stream of a reader that takes no bytes (`limits.write_timeout`).
const STALL: Duration = Duration::from_secs(5);

/// How many events a page of history has at most.
const PAGE_EVENTS: u32 = 1000;

/// How long a page of history may be: so many events of the default `limits.event_bytes`.
const PAGE_BYTES_MAX: usize = 300 << 20;

/// How many of the application's commands may wait.
const COMMANDS_MAX: usize = 8;

/// The delays that come from the short end of their windows if a person is waiting.
const IMPATIENT_ATTEMPTS: u32 = 2;

/// Gets everything that is worth a line in a log.
pub(crate) type Observer = Arc<dyn Fn(&Notice) + Send + Sync>;

/// What a client is made of.
pub(crate) struct Setup {
    pub(crate) http: reqwest::Client,
    pub(crate) gateway: Gateway,
    pub(crate) services: Option<String>,
    pub(crate) slow: Option<String>,
    pub(crate) tokens: Tokens,
    pub(crate) config: Config,
    pub(crate) limits: QueueLimits,
    pub(crate) observer: Option<Observer>,
    pub(crate) is_impatient: bool,
}

/// Starts the task of a client.
pub(crate) fn start(setup: Setup) -> (Client, Deliveries) {
    let session = Session::new(setup.config.clone());
    let status = Status {
        state: session.state().connection_state(),
        phase: session.state().phase,
        attempt: 0,
        retry_at: None,
        transport: session.state().transport,
        error: None,
    };
    let queue = Queue::new(setup.limits, session.state().cursor.clone());
    let session = Arc::new(Mutex::new(session));
    let (commands, to_driver) = mpsc::channel(COMMANDS_MAX);
    let (tell_status, status) = watch::channel(status);
    let (tell_end, end) = watch::channel(None);
    let driver = Driver {
        setup,
        session: Arc::clone(&session),
        queue: Arc::clone(&queue),
        commands: to_driver,
        status: tell_status,
        end: tell_end,
        began: Instant::now(),
        connection: None,
        token: None,
        page: None,
        expired: None,
        stalled_at: None,
        clients_gone: false,
        failed: None,
    };
    tokio::spawn(driver.run());
    let client = Client { commands, status, end, session, queue: Arc::clone(&queue) };
    (client, Deliveries::new(queue))
}

/// A task that answers the request with this generation.
type Pending<T> = Option<(u64, JoinHandle<T>)>;

struct Driver {
    setup: Setup,
    session: Arc<Mutex<Session>>,
    queue: Arc<Queue>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    end: watch::Sender<Option<Option<Ended>>>,
    /// The zero of the session's `now`.
    began: Instant,
    connection: Option<(u64, Connection)>,
    token: Pending<Result<Token, TokenError>>,
    page: Pending<Option<String>>,
    /// The gateway's sentence if it called the token expired since the last request for one.
    expired: Option<String>,
    /// Since when the queue is full and the application takes nothing.
    stalled_at: Option<Instant>,
    /// Whether no [`Client`] is left, and all of their commands were taken.
    clients_gone: bool,
    /// The error that ended the session.
    failed: Option<Ended>,
}

/// What happened.
enum Fact {
    Command(Option<Command>),
    Taken,
    Stalled,
    Due,
    Token(u64, Result<Result<Token, TokenError>, JoinError>),
    Page(u64, Result<Option<String>, JoinError>),
    Heard(u64, Heard),
}

impl Driver {
    async fn run(mut self) {
        let mut closing = self.step(Input::Connect);
        while !self.is_over() {
            let input = match self.fact().await {
                Fact::Command(Some(Command::Wake(reason))) => Input::Wake { reason },
                Fact::Command(Some(Command::Shutdown(done))) => {
                    closing = self.step(Input::Disconnect).or(closing);
                    self.finish(None, closing).await;
                    // Nobody waits any more if the caller has given up.
                    let _ = done.send(());
                    return;
                }
                Fact::Command(None) => {
                    self.clients_gone = true;
                    continue;
                }
                Fact::Taken => {
                    self.stalled_at = None;
                    if self.queue.is_abandoned() {
                        closing = self.step(Input::Disconnect).or(closing);
                        break;
                    }
                    if !self.is_paused() || self.queue.len() > 0 {
                        continue;
                    }
                    Input::Drained
                }
                Fact::Stalled => {
                    self.stalled_at = None;
                    Input::Overflow
                }
                Fact::Due => Input::Tick,
                Fact::Token(g, answer) => token_input(g, answer),
                Fact::Page(g, answer) => match answer {
                    Ok(Some(text)) => Input::Page { g, text },
                    Ok(None) | Err(_) => Input::PageFailed { g },
                },
                Fact::Heard(g, Heard::Opened) => Input::Opened { g },
                Fact::Heard(g, Heard::Frame(text)) => Input::Frame { g, text },
                Fact::Heard(g, Heard::Closed(closed)) => {
                    self.connection = None;
                    let Closed { close, status, code, retry_in_ms, message } = closed;
                    Input::Closed { g, close, status, code, retry_in_ms, message: Some(message) }
                }
            };
            closing = self.step(input).or(closing);
        }
        let why = self.failed.take();
        self.finish(why, closing).await;
    }

    /// Waits until something happens.
    async fn fact(&mut self) -> Fact {
        let (deadline, is_open) = {
            let session = self.session();
            (session.deadline(), session.state().is_open())
        };
        let due = deadline.map(|at| self.began + Duration::from_millis(at));
        // Before `hello` nothing comes that would wait for the application.
        let is_full = is_open && !self.queue.has_room();
        if !is_full {
            self.stalled_at = None;
        } else if self.stalled_at.is_none() {
            self.stalled_at = Some(Instant::now());
        }
        let stalls = self.stalled_at.map(|since| since + STALL);
        let fact = tokio::select! {
            biased;
            command = self.commands.recv(), if !self.clients_gone => Fact::Command(command),
            () = self.queue.taken() => Fact::Taken,
            (g, answer) = finished(&mut self.token) => Fact::Token(g, answer),
            (g, answer) = finished(&mut self.page) => Fact::Page(g, answer),
            () = until(due) => Fact::Due,
            () = until(stalls) => Fact::Stalled,
            (g, heard) = heard(&mut self.connection), if !is_full => Fact::Heard(g, heard),
        };
        if is_full {
            let now = self.now();
            self.session().not_read(now);
        }
        fact
    }

    /// The session's `now`.
    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_paused(&self) -> bool {
        self.session().state().paused
    }

    fn is_over(&self) -> bool {
        self.session().state().phase == Phase::Stopped
    }

    /// Tells the session a fact and does what it says. Returns the task that closes a connection, if one is
    /// closed.
    fn step(&mut self, input: Input) -> Option<JoinHandle<()>> {
        let now = self.now();
        let wall = millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let mut session = self.session();
        let is_short = self.setup.is_impatient && session.state().attempt < IMPATIENT_ATTEMPTS;
        let random = if is_short { unit() / 16.0 } else { unit() };
        let outputs = session.step(input, now, wall, random);
        let cursor = session.state().cursor.clone();
        drop(session);
        let mut closing = None;
        let mut waiting = Vec::new();
        for output in outputs {
            match output {
                Output::Event { .. } | Output::Gap { .. } => waiting.push(output),
                Output::Cursor { cursor } => {
                    self.deliver(&mut waiting, &cursor);
                    self.queue.moved(cursor);
                }
                output => closing = self.perform(output).or(closing),
            }
        }
        if let Some(cursor) = cursor {
            self.deliver(&mut waiting, &cursor);
        }
        closing
    }

    /// Hands over what came before the stream was at `cursor`. Each item gets a position of its own, so that
    /// the application can stop between two of them.
    fn deliver(&self, waiting: &mut Vec<Output>, cursor: &Cursor) {
        let last = waiting.len().saturating_sub(1);
        for (at, output) in waiting.drain(..).enumerate() {
            let place = |seq| Cursor { seq: if at == last { cursor.seq } else { seq }, ..cursor.clone() };
            self.queue.push(match output {
                Output::Event { event, replay, latency_ms } => {
                    let latency = latency_ms.map(Duration::from_millis);
                    let mut event = Event::new(event, replay, latency, cursor.clone());
                    event.cursor = place(event.seq);
                    Delivery::Event(event)
                }
                Output::Gap { prev, seq, epoch, reason, services } => {
                    Delivery::Gap(Gap { prev, seq, epoch, reason, services, cursor: place(seq) })
                }
                _ => continue,
            });
        }
    }

    fn perform(&mut self, output: Output) -> Option<JoinHandle<()>> {
        match output {
            Output::GetToken { g, reason } => self.get_token(g, reason),
            Output::Open { g, transport, token, cursor, tail, replaces } => {
                let url = with_query(
                    self.setup.gateway.address("stream"),
                    &[
                        ("services", self.setup.services.clone()),
                        ("slow", self.setup.slow.clone()),
                        ("cursor", cursor.map(|cursor| cursor.to_string())),
                        ("tail", tail.map(|tail| tail.to_string())),
                        ("replaces", replaces.filter(|id| !id.is_empty())),
                    ],
                );
                let connection = Connection::open(&self.setup.http, Open { transport, url, token });
                self.connection = Some((g, connection));
            }
            Output::Close { g, code } => {
                return match self.connection.take() {
                    Some((open, connection)) if open == g => Some(connection.close(code)),
                    other => {
                        self.connection = other;
                        None
                    }
                };
            }
            Output::Cancel { g } => {
                cancel(&mut self.token, g);
                cancel(&mut self.page, g);
            }
            Output::Send { frame } => {
                if let (Some((_, connection)), Ok(text)) = (&self.connection, serde_json::to_string(&frame)) {
                    connection.send(text);
                }
            }
            Output::History { g, after, .. } => {
                let url = with_query(
                    self.setup.gateway.address("events"),
                    &[
                        ("after", Some(after.to_string())),
                        ("limit", Some(PAGE_EVENTS.to_string())),
                        ("services", self.setup.services.clone()),
                    ],
                );
                let token = self.session().state().token.clone().unwrap_or_default();
                let request = self.setup.http.get(url).bearer_auth(token);
                self.page = Some((g, tokio::spawn(page(request))));
            }
            Output::Hello { connection_id, services, head, resumed, renewed, .. } => {
                self.status.send_modify(|status| status.error = None);
                if !renewed {
                    let transport = self.session().state().transport;
                    self.notice(&Notice::Connected { connection_id, transport, services, head, resumed });
                }
            }
            Output::Status { code, message } => self.notice(&Notice::Status { code, message }),
            Output::Error { code, message, fatal, retry_in_ms } => {
                self.failed(code, message, fatal, retry_in_ms);
            }
            Output::State { state, phase, attempt, retry_in_ms } => {
                let transport = self.session().state().transport;
                let retry_at = retry_in_ms.map(|ms| SystemTime::now() + Duration::from_millis(ms));
                self.status.send_modify(|status| {
                    let error = status.error.take();
                    *status = Status { state, phase, attempt, retry_at, transport, error };
                });
            }
            // A program is as long-lived as its client: there is nowhere to keep the transport. And `step`
            // has delivered the rest.
            Output::Transport { .. } | Output::Event { .. } | Output::Gap { .. } | Output::Cursor { .. } => {}
        }
        None
    }

    fn get_token(&mut self, g: u64, reason: TokenReason) {
        let expired = self.expired.take();
        let answer = match &self.setup.tokens {
            Tokens::Callback(callback) => {
                let callback = Arc::clone(callback);
                // A task of its own, so that a panic there ends nothing else.
                tokio::spawn(async move { callback(TokenRequest { reason }).await })
            }
            Tokens::Static(token) => {
                let answer = match (expired, reason) {
                    (Some(sentence), _) => Err(TokenError::fatal(sentence)),
                    (None, TokenReason::Refresh) => Err(TokenError::retry("this token cannot be renewed")),
                    (None, _) => Ok(token.clone()),
                };
                tokio::spawn(std::future::ready(answer))
            }
        };
        self.token = Some((g, answer));
    }

    fn failed(&mut self, code: String, message: String, is_final: bool, retry_in_ms: Option<u64>) {
        let retry_in = retry_in_ms.map(Duration::from_millis);
        let failure = Failure { code, message, is_final, retry_in };
        if failure.code == tidegate_protocol::Code::TokenExpired.name() {
            self.expired = Some(failure.to_string());
        }
        if is_final {
            let Failure { code, message, .. } = failure.clone();
            self.failed = Some(Ended { code, message });
        } else if failure.code == "token" && matches!(self.setup.tokens, Tokens::Static(_)) {
            // A static token is asked to be renewed, and cannot be: nothing is wrong until it expires.
            return;
        }
        self.status.send_modify(|status| status.error = Some(failure.clone()));
        self.notice(&Notice::Failed(failure));
    }

    fn notice(&self, notice: &Notice) {
        if let Some(observer) = &self.setup.observer {
            observer(notice);
        }
    }

    /// Ends the task: nothing more is delivered.
    async fn finish(&mut self, why: Option<Ended>, closing: Option<JoinHandle<()>>) {
        if let Some((_, token)) = self.token.take() {
            token.abort();
        }
        if let Some((_, page)) = self.page.take() {
            page.abort();
        }
        if let Some(closing) = closing {
            // An error means that the runtime is shutting down.
            let _ = closing.await;
        }
        self.queue.end(why.clone());
        self.end.send_replace(Some(why));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // After `finish` this changes nothing.
        let why = Some(Ended {
            code: "aborted".to_owned(),
            message: "the client's task is gone: its runtime has ended, or an observer panicked".to_owned(),
        });
        self.queue.end(why.clone());
        self.end.send_if_modified(|end| {
            let is_news = end.is_none();
            end.get_or_insert(why);
            is_news
        });
    }
}

fn token_input(g: u64, answer: Result<Result<Token, TokenError>, JoinError>) -> Input {
    let error = match answer {
        Ok(Ok(Token { text, expires_in })) => {
            let expires_in_ms = expires_in.map(|life| i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
            return Input::Token { g, token: text, expires_in_ms };
        }
        Ok(Err(error)) => error,
        Err(_) => TokenError::retry("the token callback panicked"),
    };
    Input::TokenFailed { g, r#final: error.is_final, message: error.message }
}

/// One page of history; `None` if it cannot be had.
async fn page(request: reqwest::RequestBuilder) -> Option<String> {
    let mut response = request.send().await.ok()?.error_for_status().ok()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > PAGE_BYTES_MAX {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).ok()
}

fn cancel<T>(pending: &mut Pending<T>, g: u64) {
    if let Some((_, task)) = pending.take_if(|(asked, _)| *asked == g) {
        task.abort();
    }
}

/// The answer, once it is there; never if nothing was asked for. Cancel safe.
async fn finished<T>(pending: &mut Pending<T>) -> (u64, Result<T, JoinError>) {
    let Some((g, task)) = pending else { return std::future::pending().await };
    let answer = (*g, task.await);
    *pending = None;
    answer
}

async fn heard(connection: &mut Option<(u64, Connection)>) -> (u64, Heard) {
    match connection {
        Some((g, connection)) => (*g, connection.heard().await),
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use tokio::time::timeout;

    use super::*;

    /// Far more than a test takes.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A client of an address where nobody listens.
    fn client() -> crate::Builder {
        Client::builder("http://127.0.0.1:1").org("acme").static_token("tok")
    }

    #[tokio::test]
    async fn a_shutdown_is_done_though_its_caller_and_all_clients_are_gone() {
        let (client, mut deliveries) = client().connect().expect("it starts");
        // Only this task runs until the next await.
        let is_asked = pin!(client.shutdown()).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        assert!(is_asked);
        drop(client);
        let end = timeout(DEADLINE, deliveries.next()).await.expect("it ends");
        assert!(end.is_none(), "{end:?}");
    }

    #[tokio::test]
    async fn the_end_of_a_client_whose_observer_panics_is_known_everywhere() {
        let builder = client().on_notice(|_| panic!("planted by a test"));
        let (client, mut deliveries) = builder.connect().expect("it starts");
        let end = timeout(DEADLINE, deliveries.next()).await.expect("it ends");
        let ended = end.expect("an item").expect_err("its task is gone");
        assert_eq!(ended.code, "aborted");
        assert_eq!(client.closed().await, Some(ended));
    }
}
