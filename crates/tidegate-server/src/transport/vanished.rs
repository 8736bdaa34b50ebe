//! Peers that vanish without a word: a laptop that changes its network, a proxy that loses power.
//!
//! The kernel sends what is written again and again, for 15 minutes by default (`net.ipv4.tcp_retries2`),
//! before it reports an error. Over server-sent events nothing else would show that the client is gone.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::SockRef;

/// How much longer than `limits.write_timeout` a peer's system may acknowledge nothing. More than the 3 s that
/// an ending connection has for its last frame, so that a client that is merely slow still gets it.
const GRACE: Duration = Duration::from_secs(5);

/// Makes the kernel end a connection on which sent bytes are not acknowledged, or waiting ones are not taken,
/// for a little longer than `write_timeout` (`TCP_USER_TIMEOUT`; RFC 5482). It needs no keepalive beside it,
/// because each open stream is pinged, and everything else that waits has a timeout of its own.
pub fn bound(socket: &impl AsFd, write_timeout: Duration) {
    let set = SockRef::from(socket).set_tcp_user_timeout(Some(write_timeout + GRACE));
    if let Err(error) = set {
        tracing::debug!(%error, "set TCP_USER_TIMEOUT");
    }
}

/// Whether the kernel reports by `error` that it has given up the peer. Besides a timeout, it may name what the
/// network said meanwhile.
pub fn is_cause_of(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    error.raw_os_error().is_some() && matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_waits_a_little_longer_than_the_gateway() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let _client = TcpStream::connect(listener.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        assert_eq!(SockRef::from(&accepted).tcp_user_timeout()?, None);
        bound(&accepted, Duration::from_millis(1500));
        assert_eq!(SockRef::from(&accepted).tcp_user_timeout()?, Some(Duration::from_millis(6500)));
        Ok(())
    }

    #[test]
    fn only_the_kernel_gives_a_peer_up() {
        use rustix::io::Errno;
        for (error, is_cause) in [
            (io::Error::from(Errno::TIMEDOUT), true),
            (io::Error::from(Errno::HOSTUNREACH), true),
            (io::Error::from(Errno::CONNRESET), false),
            (io::Error::from(Errno::PIPE), false),
            (io::Error::new(io::ErrorKind::TimedOut, "ours"), false),
        ] {
            assert_eq!(is_cause_of(&error), is_cause, "{error}");
        }
    }
}
