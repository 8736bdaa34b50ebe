//! Publishers. Each has a keep-alive connection and publishes by the schedule, one request at a time. An
//! event that becomes due during another request waits, and its latency counts from its scheduled time.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    client_pool::explain,
    clock::Clock,
    digest::Refused,
    event::{Mark, Payload},
    http::{self, Target},
    latency::Latencies,
    peers::{Dialect, tidegate::frame},
    poll::{Poll, Ready},
    schedule::Schedule,
};

/// How long to wait for the last responses.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to publish in one phase.
#[derive(Debug, Clone)]
pub struct Work {
    pub schedule: Schedule,
    pub payload: Payload,
    pub service: String,
    /// Events in one request.
    pub batch: u32,
    /// Ends the window early when it is set.
    pub until: Option<Arc<AtomicBool>>,
}

impl Work {
    fn is_over(&self) -> bool {
        self.until.as_ref().is_some_and(|until| until.load(Ordering::Relaxed))
    }
}

/// What was published in one phase, and in total.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// How many events each publisher has sent in all phases.
    pub sent: Vec<u32>,
    /// Events that readers need not receive, because they were refused or not answered. Of all phases.
    pub excused: BTreeSet<(u16, u32)>,
    /// Events that were accepted in this phase.
    pub answered: u64,
    /// Events that were refused or not answered.
    pub refused: u64,
    /// Events that were due but not sent before the window's end: the server was too slow.
    pub unsent: u64,
    /// Bytes of the accepted events as JSON.
    pub event_bytes: u64,
    /// From an event's scheduled time to its response.
    pub latencies: Latencies,
    /// When the phase began, and when the last response came.
    pub began_us: u64,
    pub ended_us: u64,
    /// The first refusal, as text.
    pub refusal: Option<String>,
}

/// A request that is not answered yet.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    due_us: u64,
    first: u32,
    events: u32,
    event_bytes: u64,
}

struct Publisher {
    socket: TcpStream,
    /// The number of its next event.
    next: u32,
    /// Its requests in this phase.
    requests: u32,
    in_flight: Option<InFlight>,
    out: Vec<u8>,
    input: Vec<u8>,
}

/// All publishers of a session, over all its phases.
pub struct Publishers {
    target: Target,
    dialect: Arc<dyn Dialect>,
    head: String,
    clock: Clock,
    poll: Poll,
    publishers: Vec<Publisher>,
    excused: BTreeSet<(u16, u32)>,
    /// How many events were accepted, for a progress bar.
    pub progress: Arc<AtomicU64>,
}

impl Publishers {
    /// Connects `count` publishers.
    pub fn connect(
        count: u16,
        target: &Target,
        dialect: &Arc<dyn Dialect>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let asked = dialect.publish();
        let mut head = format!("POST {} HTTP/1.1\r\nhost: {}\r\n", asked.path, target.host);
        for (name, value) in &asked.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("content-length: ");
        let mut all = Self {
            target: target.clone(),
            dialect: dialect.clone(),
            head,
            clock,
            poll: Poll::new().context("create an epoll instance")?,
            publishers: Vec::new(),
            excused: BTreeSet::new(),
            progress: Arc::default(),
        };
        for index in 0..count {
            let socket = all.connection(u64::from(index))?;
            all.publishers.push(Publisher {
                socket,
                next: 0,
                requests: 0,
                in_flight: None,
                out: Vec::new(),
                input: Vec::new(),
            });
        }
        Ok(all)
    }

    fn connection(&self, token: u64) -> anyhow::Result<TcpStream> {
        let at = self.target.address;
        let socket = TcpStream::connect_timeout(&at, PATIENCE)
            .with_context(|| format!("no server can be reached at {at}; is it running?"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        self.poll.watch(&socket, token)?;
        Ok(socket)
    }

    /// Publishes one probe: an event that checks whether readers receive anything.
    pub fn probe(&self, number: u32, service: &str) -> anyhow::Result<()> {
        let mark = Mark { publisher: crate::event::PROBE, number, intended_us: 0 };
        let mut event = String::new();
        Payload::Order { bytes: 150 }.write(&mut event, self.dialect.marks(), service, mark);
        let (before, after) = self.dialect.wrap();
        let asked = self.dialect.publish();
        let headers: Vec<_> = asked.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let body = [before, &event, after].concat();
        let request = http::request("POST", &asked.path, &self.target, &headers, body.as_bytes());
        let answer = http::ask(&self.target, &request, PATIENCE)?;
        if !(200..300).contains(&answer.status) {
            bail!("the server refused a publish: {}", explain(&frame::problem(answer.status, &answer.body)));
        }
        Ok(())
    }

    /// Publishes by the schedule. Returns when the window is over and the last responses were received.
    pub fn run(&mut self, work: &Work) -> anyhow::Result<Published> {
        let mut done = Published { began_us: self.clock.now_us(), ..Published::default() };
        let window_us = work.schedule.window.as_micros() as u64;
        let (mut over_us, began_us) = (done.began_us + window_us, done.began_us);
        self.publishers.iter_mut().for_each(|publisher| publisher.requests = 0);
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let now = self.clock.now_us();
            if work.is_over() {
                over_us = over_us.min(now);
            }
            let mut next_due = u64::MAX;
            let mut awaited = false;
            for index in 0..self.publishers.len() {
                let publisher = &mut self.publishers[index];
                if publisher.in_flight.is_some() {
                    awaited = true;
                    continue;
                }
                let Some(due) = work.schedule.due_us(index as u16, publisher.requests) else { continue };
                if now >= over_us {
                    continue;
                }
                // Without a rate, an event is due as soon as it can be sent.
                let due_us = if work.schedule.rate.is_some() { began_us + due } else { now };
                if due_us > now {
                    next_due = next_due.min(due_us);
                    continue;
                }
                self.send(index, due_us, work, &mut done)?;
                awaited = true;
            }
            if !awaited && (next_due >= over_us || now >= over_us) {
                break;
            }
            if now > over_us + PATIENCE.as_micros() as u64 {
                self.give_up(&mut done)?;
                break;
            }
            ready.clear();
            let limit = self.clock.until(next_due.min(now + 100_000));
            self.poll.wait(limit, &mut ready).context("wait for publishers' sockets")?;
            for ready in &ready {
                self.turn(ready.token as usize, *ready, &mut done)?;
            }
        }
        for (index, publisher) in self.publishers.iter().enumerate() {
            let asked = (publisher.requests..)
                .take_while(|number| {
                    let due = work.schedule.due_us(index as u16, *number);
                    work.schedule.rate.is_some() && due.is_some_and(|due| began_us + due < over_us)
                })
                .count();
            done.unsent += asked as u64 * u64::from(work.batch);
        }
        done.ended_us = done.ended_us.max(began_us);
        done.sent = self.publishers.iter().map(|publisher| publisher.next).collect();
        done.excused = self.excused.clone();
        Ok(done)
    }

    fn send(&mut self, index: usize, due_us: u64, work: &Work, done: &mut Published) -> anyhow::Result<()> {
        let marks = self.dialect.marks();
        let (before, after) = self.dialect.wrap();
        let publisher = &mut self.publishers[index];
        let mut body = String::with_capacity(256);
        let mut event_bytes = 0;
        body.push_str(before);
        if work.batch > 1 {
            body.push('[');
        }
        for offset in 0..work.batch {
            if offset > 0 {
                body.push(',');
            }
            let begin = body.len();
            let mark = Mark { publisher: index as u16, number: publisher.next + offset, intended_us: due_us };
            work.payload.write(&mut body, marks, &work.service, mark);
            event_bytes += (body.len() - begin) as u64;
        }
        if work.batch > 1 {
            body.push(']');
        }
        body.push_str(after);
        publisher.out.clear();
        publisher.out.extend_from_slice(self.head.as_bytes());
        publisher.out.extend_from_slice(format!("{}\r\n\r\n", body.len()).as_bytes());
        publisher.out.extend_from_slice(body.as_bytes());
        publisher.in_flight =
            Some(InFlight { due_us, first: publisher.next, events: work.batch, event_bytes });
        publisher.next += work.batch;
        publisher.requests += 1;
        if self.write(index).is_err() {
            self.lost(index, done)?;
        }
        Ok(())
    }

    fn write(&mut self, index: usize) -> std::io::Result<()> {
        let publisher = &mut self.publishers[index];
        while !publisher.out.is_empty() {
            match publisher.socket.write(&publisher.out) {
                Ok(sent) => drop(publisher.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn turn(&mut self, index: usize, ready: Ready, done: &mut Published) -> anyhow::Result<()> {
        if ready.writable && self.write(index).is_err() {
            return self.lost(index, done);
        }
        if !ready.readable {
            return Ok(());
        }
        let (mut scratch, mut is_gone) = ([0; 16 * 1024], false);
        while !is_gone {
            let publisher = &mut self.publishers[index];
            match publisher.socket.read(&mut scratch) {
                Ok(0) => is_gone = true,
                Ok(read) => {
                    publisher.input.extend_from_slice(&scratch[..read]);
                    if read < scratch.len() && !ready.ended {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => is_gone = true,
            }
        }
        let publisher = &mut self.publishers[index];
        let Some(answer) = http::answer(&publisher.input)? else {
            return if is_gone { self.lost(index, done) } else { Ok(()) };
        };
        publisher.input.drain(..answer.bytes);
        if let Some(asked) = publisher.in_flight.take() {
            done.ended_us = self.clock.now_us();
            if (200..300).contains(&answer.status) {
                done.answered += u64::from(asked.events);
                done.event_bytes += asked.event_bytes;
                done.latencies.record(done.ended_us.saturating_sub(asked.due_us));
                self.progress.fetch_add(u64::from(asked.events), Ordering::Relaxed);
            } else {
                let refused = frame::problem(answer.status, &answer.body);
                self.refuse(index, asked, &refused, done);
            }
        }
        if answer.is_last || is_gone {
            self.publishers[index].input.clear();
            self.publishers[index].socket = self.connection(index as u64)?;
        }
        Ok(())
    }

    fn refuse(&mut self, index: usize, asked: InFlight, refused: &Refused, done: &mut Published) {
        done.refused += u64::from(asked.events);
        let numbers = asked.first..asked.first + asked.events;
        self.excused.extend(numbers.map(|number| (index as u16, number)));
        done.refusal.get_or_insert_with(|| explain(refused));
    }

    /// The connection is lost, and with it the response that was expected.
    fn lost(&mut self, index: usize, done: &mut Published) -> anyhow::Result<()> {
        if let Some(asked) = self.publishers[index].in_flight.take() {
            let refused = Refused {
                code: "broken".to_owned(),
                message: "the server ended a publisher's connection before it responded".to_owned(),
                limit: None,
                retry_in_ms: None,
            };
            self.refuse(index, asked, &refused, done);
        }
        let publisher = &mut self.publishers[index];
        (publisher.out, publisher.input) = (Vec::new(), Vec::new());
        self.publishers[index].socket = self.connection(index as u64)?;
        Ok(())
    }

    /// Gives up on all requests that are not answered.
    fn give_up(&mut self, done: &mut Published) -> anyhow::Result<()> {
        for index in 0..self.publishers.len() {
            if self.publishers[index].in_flight.is_some() {
                self.lost(index, done)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, net::TcpListener, sync::mpsc, thread};

    use super::*;
    use crate::{event::Marks, peers::bun::Raw, schedule::Arrivals};

    /// A server that answers the requests of one connection, each when its receiver gets a message. `arrived`
    /// is notified of each request.
    fn server(answers: Vec<(&'static str, mpsc::Receiver<()>)>, arrived: mpsc::Sender<()>) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target =
            Target::parse(&format!("http://{}", listener.local_addr().expect("bound"))).expect("ours");
        thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a publisher");
            let mut reader = std::io::BufReader::new(socket.try_clone().expect("cloned"));
            for (answer, hold) in answers {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a line");
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.trim().parse().expect("a length");
                    }
                    if line == "\r\n" {
                        break;
                    }
                }
                reader.read_exact(&mut vec![0; length]).expect("a body");
                // Not every test has a receiver.
                let _ = arrived.send(());
                hold.recv().expect("permission to answer");
                (&socket).write_all(answer.as_bytes()).expect("answered");
            }
            // Keeps the connection until the publisher closes it.
            let _ = reader.read_to_end(&mut Vec::new());
        });
        target
    }

    fn work(rate: Option<f64>, window: Duration, each_max: u32) -> Work {
        Work {
            schedule: Schedule { rate, arrivals: Arrivals::Even, publishers: 1, window, each_max },
            payload: Payload::Order { bytes: 150 },
            service: "orders".to_owned(),
            batch: 1,
            until: None,
        }
    }

    fn publishers(target: &Target) -> Publishers {
        let dialect: Arc<dyn Dialect> = Arc::new(Raw { compress: false, marks: Marks::of_run(1) });
        Publishers::connect(1, target, &dialect, Clock::start()).expect("connected")
    }

    const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

    #[test]
    fn a_stalled_server_is_not_hidden() {
        let (tell, holds): (Vec<_>, Vec<_>) = (0..5).map(|_| mpsc::channel()).unzip();
        let (sender, arrived) = mpsc::channel();
        let target = server(holds.into_iter().map(|hold| (OK, hold)).collect(), sender);
        let mut publishers = publishers(&target);
        let progress = publishers.progress.clone();
        // Five events within 5 ms; the first response comes only long after all of them are due.
        let run = thread::spawn(move || publishers.run(&work(Some(1000.0), Duration::from_secs(5), 5)));
        arrived.recv().expect("the first request");
        // The stall itself; it may be longer, but not shorter.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(progress.load(Ordering::Relaxed), 0);
        tell.iter().for_each(|tell| tell.send(()).expect("sent"));
        let done = run.join().expect("a thread").expect("published");
        assert_eq!((done.answered, done.refused, done.unsent, done.sent), (5, 0, 0, vec![5]));
        let summary = done.latencies.summary().expect("latencies");
        // All five waited, not only the one in flight.
        assert!(summary.p50_ms >= 290.0, "{summary:?}");
    }

    #[test]
    fn refusals_excuse_their_events_and_say_why() {
        let body = r#"{"code":"rate_limited","detail":"too fast","limit":"limits.publishes_per_second"}"#;
        let refusal: &str = Box::leak(
            format!("HTTP/1.1 429 Too Many\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_boxed_str(),
        );
        let (tell, holds): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel()).unzip();
        tell.iter().for_each(|tell| tell.send(()).expect("sent"));
        let target = server([OK, refusal, OK].into_iter().zip(holds).collect(), mpsc::channel().0);
        let done = publishers(&target).run(&work(None, Duration::from_secs(5), 3)).expect("published");
        assert_eq!((done.answered, done.refused, done.excused), (2, 1, BTreeSet::from([(0, 1)])));
        let words = done.refusal.expect("words");
        assert!(words.contains("limits.publishes_per_second"), "{words}");
    }

    #[test]
    fn an_unreachable_server_is_named() {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let target = Target::parse(&format!("http://{port}")).expect("a target");
        let dialect: Arc<dyn Dialect> = Arc::new(Raw { compress: false, marks: Marks::of_run(1) });
        let error = Publishers::connect(1, &target, &dialect, Clock::start()).err().expect("no server");
        assert!(format!("{error:#}").contains("is it running"), "{error:#}");
    }
}
