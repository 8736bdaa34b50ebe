//! `tidegate health`: asks the operators' listener, for images that have no other HTTP client.

use std::{
    io::{Read as _, Write as _},
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
            None => config::load(&self.config.sources()).map_err(Failure::usage)?.config.listen.admin,
        };
        let address = reachable(address);
        let (path, lacks) = if self.live { ("/healthz", "healthy") } else { ("/readyz", "ready") };
        let answer = ask(address, path)
            .map_err(|error| Failure::failed(format_args!("no gateway answers at {address}: {error}")))?;
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
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // A gateway's answer is a few lines.
    stream.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer)
}
