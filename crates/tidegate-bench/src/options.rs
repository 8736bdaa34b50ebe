//! The command-line options that all scenarios share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    affinity::{Choice, Cores},
    event::Payload,
    peers::{Peer, Transport, tidegate::Attached},
};

/// Options of every scenario.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Servers to measure, separated by commas: tidegate (with settings: tidegate+batch.mode=fixed), bun
    /// (uWebSockets), socketio, nchan, centrifugo (scripts/bench-peers installs these four), floor and
    /// floor-batched (bare loops of send calls), or http://ADDRESS of a running gateway
    #[arg(long, value_name = "PEER", value_delimiter = ',', default_value = "tidegate")]
    pub peer: Vec<Peer>,
    /// Transport of the readers
    #[arg(long, value_enum, default_value = "ws")]
    pub transport: Transport,
    /// Offer compression (permessage-deflate, or gzip on SSE) and decompress what is received
    #[arg(long)]
    pub compress: bool,
    /// Size of an event as JSON
    #[arg(long, value_name = "BYTES", default_value_t = 150)]
    pub bytes: usize,
    /// Duration of the measurement
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = some_seconds, allow_negative_numbers = true)]
    pub seconds: Duration,
    /// Duration of the same load before the measurement, not measured
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds, allow_negative_numbers = true)]
    pub warmup: Duration,
    /// Path of the tidegate program [default: tidegate in the directory of this program]
    #[arg(long, value_name = "PATH")]
    pub gateway: Option<PathBuf>,
    /// Tidegate setting, as for its own --set; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// Directory in which scripts/bench-peers installed the other servers [default: bench-peers in the target
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub peers: Option<PathBuf>,
    /// CPU cores of the server, such as 0 or 0-3, or none to leave the choice to the system
    #[arg(long, value_name = "CORES", default_value = "auto")]
    pub server_cores: Choice,
    /// CPU cores of the load, in the same form
    #[arg(long, value_name = "CORES", default_value = "auto")]
    pub load_cores: Choice,
    /// Number of reader threads [default: the number of load cores minus one, at least one]
    #[arg(long, value_name = "COUNT", value_parser = positive::<usize>)]
    pub reader_threads: Option<usize>,
    /// Number of connections that are opened at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = positive::<usize>)]
    pub opening: usize,
    /// Save all figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub attached: Attached,
}

/// The same options with their defaults resolved on this machine.
#[derive(Debug, Clone)]
pub struct Setting {
    pub common: Common,
    pub gateway: PathBuf,
    pub peers: PathBuf,
    pub server_cores: Option<Cores>,
    pub load_cores: Option<Cores>,
    pub reader_threads: usize,
}

impl Common {
    /// Resolves the defaults on this machine.
    pub fn resolve(self) -> anyhow::Result<Setting> {
        let here = std::env::current_exe()?;
        let beside = here.parent().map(PathBuf::from).unwrap_or_default();
        let target = beside.parent().map(PathBuf::from).unwrap_or_default();
        let (server_cores, load_cores) = (self.server_cores.resolve(0)?, self.load_cores.resolve(1)?);
        let cores = load_cores.as_ref().map_or(1, Cores::count);
        Ok(Setting {
            gateway: self.gateway.clone().unwrap_or_else(|| beside.join("tidegate")),
            peers: self.peers.clone().unwrap_or_else(|| target.join("bench-peers")),
            reader_threads: self.reader_threads.unwrap_or((cores - 1).max(1)),
            server_cores,
            load_cores,
            common: self,
        })
    }
}

impl Setting {
    /// The events that `--bytes` asks for.
    pub fn payload(&self) -> Payload {
        Payload::Order { bytes: self.common.bytes }
    }
}

/// Parses a whole number greater than zero.
pub fn positive<T: std::str::FromStr + PartialOrd + Default>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| *number > T::default());
    number.ok_or_else(|| format!("{text:?} is not a whole number from 1, or too large"))
}

/// Parses a duration in seconds greater than zero.
pub fn some_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("nothing can be measured in no time".to_owned()),
        time => Ok(time),
    }
}

/// Parses a duration in seconds; fractions are allowed.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{text:?} is not a time to wait"))
}

/// Events per second and number of publishers, such as `1000x4`, or `maxx16` for as many events as possible.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub rate: Option<f64>,
    pub publishers: u16,
}

impl std::str::FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a load such as 1000x4 (1,000 events a second from 4 publishers) or maxx16"
            )
        };
        let (rate, publishers) = text.rsplit_once('x').ok_or_else(wrong)?;
        let rate = match rate {
            "max" => None,
            rate => Some(rate.parse::<f64>().ok().filter(|rate| *rate > 0.0).ok_or_else(wrong)?),
        };
        let publishers =
            publishers.parse().ok().filter(|count| (1..=1000).contains(count)).ok_or_else(wrong)?;
        Ok(Self { rate, publishers })
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rate {
            Some(rate) => write!(f, "{}/s x {}", crate::result::grouped(rate as u64), self.publishers),
            None => write!(f, "most x {}", self.publishers),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_measure_nothing_are_refused() {
        assert_eq!((positive("7"), some_seconds("0.5")), (Ok(7_u16), Ok(Duration::from_millis(500))));
        for wrong in ["0", "-1", "many", "70000"] {
            assert!(positive::<u16>(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "soon", "1e30"] {
            assert!(some_seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn loads() {
        assert_eq!("1000x4".parse(), Ok(Load { rate: Some(1000.0), publishers: 4 }));
        assert_eq!("maxx16".parse(), Ok(Load { rate: None, publishers: 16 }));
        for wrong in ["1000", "x4", "0x1", "10x0", "10x5000", "-1x1"] {
            assert!(wrong.parse::<Load>().is_err(), "{wrong}");
        }
    }
}
