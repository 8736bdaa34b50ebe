//! The network of a world and the gateway behind it: how an attempt is answered, what a reader is sent, and
//! how connections end.

use tidegate_protocol::{
    Cursor,
    client::{Input, Transport},
    frame::ClientFrame,
};

use super::{Connection, Happening, Token, WALL, World};
use crate::log::{Grant, Reader, rfc3339};

impl World {
    pub(super) fn open(
        &mut self,
        g: u64,
        transport: Transport,
        token: &str,
        cursor: Option<Cursor>,
        tail: Option<u32>,
    ) {
        let token = token.strip_prefix("token-").and_then(|number| number.parse().ok()).unwrap_or(0);
        let connection = Connection {
            transport,
            token,
            reader: None,
            version: None,
            is_cut: false,
            is_buffered: false,
            last_arrival: self.time,
            is_serving: false,
        };
        self.connections.insert(g, connection);
        let (wait, answer) = (self.latency(), self.latency());
        let is_blocked = self.blocked == Some(transport);
        let kind = if self.is_calm { 99 } else { self.prng.below(30) };
        let closed = |close, status, code: Option<&str>, retry_in_ms| {
            let code = code.map(str::to_owned);
            Happening::Of(g, Input::Closed { g, close, status, code, retry_in_ms, message: None })
        };
        if is_blocked && (transport == Transport::Sse || self.prng.chance(300)) {
            // A proxy takes the request, and nothing comes of it.
            self.connection(g).is_buffered = true;
            self.after(wait, Happening::Of(g, Input::Opened { g }));
            return;
        }
        match kind {
            _ if is_blocked => self.after(wait, closed(Some(1006), None, None, None)),
            0 | 1 => self.after(wait, closed(Some(1006), None, None, None)),
            2 => {} // never answered
            3 => {
                self.connection(g).is_buffered = true;
                self.after(wait, Happening::Of(g, Input::Opened { g }));
            }
            4 => {
                let retry = self.prng.pick(&[None, Some(500), Some(20_000)]);
                self.refuse(g, wait, "overloaded", 1013, 503, retry);
            }
            5 => {
                let status = self.prng.pick(&[502, 504, 429, 408]);
                self.after(wait, closed(None, Some(status), None, None));
            }
            6 if self.prng.chance(200) => {
                let (code, close, status) = self.prng.pick(&[
                    ("evicted", 4555, 403),
                    ("forbidden", 4552, 403),
                    ("unauthorized", 4551, 401),
                ]);
                self.refuse(g, wait, code, close, status, None);
            }
            7 if self.prng.chance(200) => self.after(wait, closed(None, Some(404), None, None)),
            8 => {
                self.after(wait, Happening::Of(g, Input::Opened { g }));
                let slow = self.prng.between(1_000, 15_000);
                self.after(wait + slow, Happening::Greet(g, cursor, tail));
            }
            _ => {
                self.after(wait, Happening::Of(g, Input::Opened { g }));
                self.after(wait + answer, Happening::Greet(g, cursor, tail));
            }
        }
    }

    pub(super) fn connection(&mut self, g: u64) -> &mut Connection {
        self.connections.get_mut(&g).expect("it is open")
    }

    /// The gateway refuses a stream: over WebSocket it opens first.
    pub(super) fn refuse(
        &mut self,
        g: u64,
        wait: u64,
        code: &str,
        close: u16,
        status: u16,
        retry_in_ms: Option<u64>,
    ) {
        match self.connections.get(&g).map(|connection| connection.transport) {
            Some(Transport::Ws) => {
                self.after(wait, Happening::Of(g, Input::Opened { g }));
                self.end(g, code, close, retry_in_ms);
            }
            Some(Transport::Sse) => {
                let code = Some(code.to_owned());
                let status = Some(status);
                let closed = Input::Closed { g, close: None, status, code, retry_in_ms, message: None };
                self.after(wait, Happening::Of(g, closed));
            }
            None => {}
        }
    }

    /// Sends a frame, in order and through the faults of the network.
    pub(super) fn send(&mut self, g: u64, text: String) {
        let latency = self.latency();
        let fault = if self.is_calm { 1_000 } else { self.prng.below(1_000) };
        let time = self.time;
        let Some(connection) = self.connections.get_mut(&g) else { return };
        if connection.is_cut || connection.is_buffered {
            return;
        }
        let stall = if fault < 10 { 8_000 } else { 0 };
        let arrival = connection.last_arrival.max(time + latency + stall);
        connection.last_arrival = arrival;
        let wait = arrival - time;
        // No transport loses a frame and goes on; a proxy that did would be found out by the next frame's `prev`,
        // unless it lost a gap that lowers the cursor.
        let lowers = text.contains(r#""reason":"epoch""#);
        match fault {
            10..20 if !lowers => return,                                   // lost
            20..30 => self.after(wait, Happening::Frame(g, text.clone())), // twice
            30..33 => {
                let half = text.chars().take(text.len() / 2).collect();
                return self.after(wait, Happening::Frame(g, half));
            }
            33..36 => self.after(wait, Happening::Frame(g, r#"{"type":"of_the_future","prev":9}"#.into())),
            36..40 => {
                self.after(wait, Happening::Frame(g, text));
                return self.cut(g);
            }
            _ => {}
        }
        self.after(wait, Happening::Frame(g, text));
    }

    /// The connection breaks; the client may never hear of it.
    pub(super) fn cut(&mut self, g: u64) {
        let heard = self.prng.chance(600);
        let Some(connection) = self.connections.get_mut(&g) else { return };
        connection.is_cut = true;
        let wait = connection.last_arrival.saturating_sub(self.time);
        if heard {
            let close = self.prng.pick(&[Some(1006), Some(1006), Some(1001), None]);
            let closed =
                Input::Closed { g, close, status: None, code: None, retry_in_ms: None, message: None };
            self.after(wait, Happening::Of(g, closed));
        }
    }

    /// The gateway ends a stream with a code.
    pub(super) fn end(&mut self, g: u64, code: &str, close: u16, retry_in_ms: Option<u64>) {
        let retry = retry_in_ms.map_or(String::new(), |retry| format!(",\"retry_in_ms\":{retry}"));
        if self.prng.chance(800) {
            self.send(g, format!(r#"{{"type":"error","code":"{code}","message":"it ends"{retry}}}"#));
        }
        let Some(connection) = self.connections.get_mut(&g) else { return };
        if connection.is_cut || connection.is_buffered {
            return;
        }
        connection.is_cut = true;
        let wait = connection.last_arrival.saturating_sub(self.time);
        let close = (connection.transport == Transport::Ws).then_some(close);
        let closed = Input::Closed { g, close, status: None, code: None, retry_in_ms: None, message: None };
        self.after(wait, Happening::Of(g, closed));
    }

    pub(super) fn token_of(&self, number: u64) -> Token {
        let index = usize::try_from(number).expect("small").checked_sub(1);
        index.map_or(Token { until: 0, grant: Grant::Less }, |index| self.tokens[index])
    }

    pub(super) fn greet(&mut self, g: u64, cursor: Option<&Cursor>, tail: Option<u32>) {
        let Some(connection) = self.connections.get(&g) else { return };
        let number = connection.token;
        let token = self.token_of(number);
        if token.until <= self.time {
            let is_ws = connection.transport == Transport::Ws;
            return if is_ws {
                self.end(g, "token_expired", 4001, None)
            } else {
                self.refuse(g, 1, "token_expired", 4001, 401, None)
            };
        }
        let version = self.logs.len() - 1;
        let reader = self.log().open(version, cursor, tail, token.grant);
        self.greeted(g, reader, number);
        let wait = self.ping_ms;
        self.after(wait, Happening::Ping(g));
        self.plan_serve(g, 0);
    }

    pub(super) fn greeted(&mut self, g: u64, reader: Reader, number: u64) {
        let left = self.token_of(number).until - self.time;
        let hello = self.log().hello(&reader, g, left, WALL + self.time, self.ping_ms);
        let connection = self.connection(g);
        connection.version = Some(reader.version);
        connection.reader = Some(reader);
        connection.token = number;
        self.send(g, hello);
        self.after(left, Happening::Expire(g, number));
    }

    pub(super) fn plan_serve(&mut self, g: u64, wait: u64) {
        let Some(connection) = self.connections.get_mut(&g) else { return };
        if connection.reader.is_some() && !connection.is_serving {
            connection.is_serving = true;
            self.after(wait, Happening::Serve(g));
        }
    }

    pub(super) fn serve_all(&mut self) {
        let open: Vec<u64> = self.connections.keys().copied().collect();
        for g in open {
            let wait = self.prng.below(20);
            self.plan_serve(g, wait);
        }
    }

    pub(super) fn serve(&mut self, g: u64) {
        let is_skip = !self.is_calm && self.prng.chance(60);
        let now = WALL + self.time;
        let log = &self.logs[self.logs.len() - 1];
        let Some(connection) = self.connections.get_mut(&g) else { return };
        connection.is_serving = false;
        let Some(reader) = &mut connection.reader else { return };
        let skip = if is_skip { log.skip(reader) } else { None };
        let Some(text) = skip.or_else(|| log.next(reader, &mut self.prng, now)) else { return };
        self.send(g, text);
        self.plan_serve(g, 1);
    }

    pub(super) fn ping(&mut self, g: u64) {
        let now = WALL + self.time;
        let Some(reader) = self.connections.get(&g).and_then(|connection| connection.reader.as_ref()) else {
            return;
        };
        let is_due = reader.due.is_some();
        let text = self.log().ping(reader, now);
        if !is_due {
            self.send(g, text);
        }
        let wait = self.ping_ms;
        self.after(wait, Happening::Ping(g));
    }

    pub(super) fn up(&mut self, g: u64, frame: ClientFrame) {
        let Some(connection) = self.connections.get(&g) else { return };
        if connection.is_cut || connection.is_buffered {
            return;
        }
        match frame {
            ClientFrame::Pong | ClientFrame::Health(_) => {}
            ClientFrame::Ping { n } => {
                let timestamp = rfc3339(WALL + self.time);
                self.send(g, format!(r#"{{"type":"pong","n":{n},"timestamp":"{timestamp}"}}"#));
            }
            ClientFrame::Auth { token } => {
                let number = token.strip_prefix("token-").and_then(|number| number.parse().ok()).unwrap_or(0);
                let Token { until, grant } = self.token_of(number);
                let Some(mut reader) = self.connection(g).reader.clone() else { return };
                if !self.is_calm && self.prng.chance(100) {
                    self.send(g, r#"{"type":"status","code":"overloaded","message":"later"}"#.into());
                } else if until <= self.time {
                    self.end(g, "token_expired", 4001, None);
                } else if reader.due.is_none() {
                    let version = reader.version;
                    self.logs[version].renew(&mut reader, grant);
                    self.greeted(g, reader, number);
                }
            }
        }
    }

    pub(super) fn page(&mut self, g: u64, after: &Cursor) -> Result<(), String> {
        let reader = self.connections.values().last().and_then(|connection| connection.reader.as_ref());
        let grant = reader.map_or(Grant::Less, |reader| reader.grant);
        let limit = if self.prng.chance(500) { 2 } else { 50 };
        let text = match if self.is_calm { 99 } else { self.prng.below(20) } {
            0 => "[]".to_owned(),
            1 => r#"{"events":[{"seq":1},{"seq":1}],"cursor":"a-5","has_more":false}"#.to_owned(),
            _ => self.log().page(after, grant, limit),
        };
        if self.cancelled.contains(&g) && self.prng.chance(500) {
            return Ok(());
        }
        self.feed(Input::Page { g, text })
    }

    pub(super) fn append(&mut self, id: String, source: Option<&'static str>, service: Option<usize>) {
        let (now, uid) = (WALL + self.time, self.uids);
        self.uids += 1;
        let mut prng = self.prng.clone();
        match service {
            Some(service) => self.log_mut().append_to(&mut prng, now, uid, id, source, service),
            None => self.log_mut().append(&mut prng, now, uid, id, source),
        }
        self.prng = prng;
    }

    pub(super) fn publish(&mut self) {
        for _ in 0..self.prng.pick(&[1, 1, 1, 2, 5, 20]) {
            let id = format!("b{}", self.uids);
            let source = self.prng.pick(&[None, None, Some("/x")]);
            self.append(id, source, None);
        }
        self.serve_all();
        if self.faults_left > 0 {
            let wait = self.prng.pick(&[10, 100, 1_000, 8_000, 40_000]);
            self.after(wait, Happening::Publish);
        }
    }
}
