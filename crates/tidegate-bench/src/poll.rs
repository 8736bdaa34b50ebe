//! Edge-triggered epoll with a timeout in nanoseconds: with timeouts in milliseconds, the rounding of a
//! schedule would show as latency.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

/// Events returned by one call.
const EVENTS_MAX: usize = 1024;

/// A socket that became ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    pub token: u64,
    /// There is something to read, or the peer has closed the connection.
    pub readable: bool,
    /// The peer has closed the connection: read to the end, because no other edge follows.
    pub ended: bool,
    pub writable: bool,
}

/// A set of watched sockets.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches a socket until it is closed.
    pub fn watch(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)?)
    }

    /// Watches a socket for input only, level-triggered, until it is closed.
    pub fn watch_reads(&self, socket: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Waits until sockets become ready, no longer than `limit`, and appends them to `out`.
    pub fn wait(&self, limit: Duration, out: &mut Vec<Ready>) -> io::Result<()> {
        let mut room = [const { MaybeUninit::<Event>::uninit() }; EVENTS_MAX];
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let events = match epoll::wait(&self.epoll, &mut room, Some(&limit)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        out.extend(events.iter().map(|event| {
            // Copied, because the struct is packed.
            let (flags, data) = (event.flags, event.data);
            let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            Ready {
                token: data.u64(),
                readable: flags.intersects(EventFlags::IN | ends),
                ended: flags.intersects(ends),
                writable: flags.intersects(EventFlags::OUT | ends),
            }
        }));
        Ok(())
    }
}
