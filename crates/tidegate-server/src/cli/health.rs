//! `tidegate health`: asks the operators' listener, for images that have no other HTTP client.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::Args;

use super::{Failure, args::ConfigArgs, print};
use crate::config;

/// How long the gateway may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Asks a running gateway whether it is ready: exit code 0 if it is, 1 if not
#[derive(Debug, Args)]
pub(super) struct Health {
    /// Ask only whether it lives (/healthz): also true during a drain, or if the log is halted
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    config: ConfigArgs,
    /// The operators' address [default: listen.admin]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

impl Health {
    pub(super) fn run(self) -> Result<(), Failure> {
        let address = match self.admin {
            Some(address) => address,
            None => config::admin_address(&self.config.sources()).map_err(|errors| {
                Failure::usage(format_args!(
                    "{errors}\nso listen.admin is not known; name the operators' address with --admin"
                ))
            })?,
        };
        let address = reachable(address);
        let (path, lacks) = if self.live { ("/healthz", "healthy") } else { ("/readyz", "ready") };
        let answer = ask(address, path, ANSWER_TIMEOUT)
            .map_err(|error| Failure::failed(no_answer(address, &error, ANSWER_TIMEOUT)))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.split(' ').nth(1) != Some("200") {
            return Err(Failure::failed(format_args!(
                "the gateway at {address} is not {lacks}: {}",
                body.trim()
            )));
        }
        print(format_args!("{}\n", body.trim()))
    }
}

/// The address at which a listener on all addresses can be reached from its own machine.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn ask(address: SocketAddr, path: &str, timeout: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // A gateway's answer is a few lines.
    stream.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}

fn no_answer(address: SocketAddr, error: &std::io::Error, timeout: Duration) -> String {
    match error.kind() {
        // Unix reports a read that took too long as one that would block.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("the gateway at {address} did not answer within {}", config::humane(timeout))
        }
        _ => format!("no gateway answers at {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_hangs_did_not_answer_in_time() {
        // The kernel accepts the connection, and nobody reads from it.
        let hangs = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let (address, timeout) = (hangs.local_addr().expect("an address"), Duration::from_millis(20));
        let error = ask(address, "/healthz", timeout).expect_err("no answer");
        assert_eq!(
            no_answer(address, &error, timeout),
            format!("the gateway at {address} did not answer within 20ms")
        );
        drop(hangs);
        let error = ask(address, "/healthz", timeout).expect_err("nobody there");
        assert!(
            no_answer(address, &error, timeout).starts_with("no gateway answers at 127.0.0.1:"),
            "{error}"
        );
    }
}
