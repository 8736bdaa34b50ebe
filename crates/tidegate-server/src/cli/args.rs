//! Flags that several commands share, and the clock.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use tidegate_protocol::UnixMillis;

use super::Failure;
use crate::{
    config::{self, Loaded, Sources},
    dev::{self, DevDir, Saved},
    logs,
};

/// Where the configuration comes from.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfigArgs {
    /// The configuration file (TOML) [env: TIDEGATE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Set any key; the value is TOML, a bare word is text
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) sets: Vec<String>,
}

impl ConfigArgs {
    /// The file, the environment and `--set`.
    pub(super) fn sources(&self) -> Sources {
        let mut sources = Sources::from_process();
        // An empty variable is not set: compose passes one on for a variable that its own environment lacks.
        let variable = || std::env::var_os("TIDEGATE_CONFIG").filter(|name| !name.is_empty());
        sources.file = self.config.clone().or_else(|| variable().map(PathBuf::from));
        sources.sets.clone_from(&self.sets);
        sources
    }
}

/// A configuration, or the one of a development directory.
#[derive(Debug, Clone, Args)]
pub(super) struct DataArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// The data directory [default: log.dir of the configuration, or the one of `tidegate dev`]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
}

impl DataArgs {
    fn sources(&self) -> Result<Sources, Failure> {
        self.sources_and_admin().map(|(sources, _)| sources)
    }

    /// The sources. A development directory completes them if the user named it, or named no configuration.
    /// Also the operators' address of the gateway that was last started over that directory.
    pub(super) fn sources_and_admin(&self) -> Result<(Sources, Option<SocketAddr>), Failure> {
        let mut sources = self.config.sources();
        let mut admin = None;
        let dev = match &self.data_dir {
            Some(dir) => Some(dir.clone()),
            None if !sources.names_any() => Some(PathBuf::from(dev::DEFAULT_DIR)),
            None => None,
        };
        let dev = match dev {
            Some(dir) => Saved::find(&dir).map_err(Failure::usage)?.map(|saved| {
                let url = saved.admin_url.as_deref().and_then(|url| url.strip_prefix("http://"));
                admin = url.and_then(|address| address.parse().ok());
                dir
            }),
            None => None,
        };
        match (dev, &self.data_dir) {
            (Some(dir), named) => {
                if named.is_none() {
                    logs::say(format_args!("tidegate: using the development directory {}", dir.display()));
                }
                DevDir::open(dir).map_err(Failure::usage)?.configure(&mut sources);
            }
            (None, Some(dir)) => sources.flag("--data-dir", "log.dir", quoted_path(dir)),
            (None, None) => {}
        }
        Ok((sources, admin))
    }

    /// The whole configuration, checked.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        config::load(&self.sources()?).map_err(Failure::usage)
    }

    /// The log directory. The rest of the configuration need not be valid.
    pub(super) fn log_dir(&self) -> Result<PathBuf, Failure> {
        config::log_dir(&self.sources()?).map_err(Failure::usage)
    }

    /// The path of the keys' file. The rest of the configuration need not be valid.
    pub(super) fn keys_file(&self) -> Result<PathBuf, Failure> {
        config::keys_file(&self.sources()?).map_err(Failure::usage)
    }
}

/// A path as a TOML text.
pub(super) fn quoted_path(path: &Path) -> String {
    config::quoted(&path.to_string_lossy())
}

/// The time now. The only clock of the commands that create or check credentials.
pub(super) fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis::try_from(since.as_millis()).unwrap_or(UnixMillis::MAX)
}

/// Parses a time such as `24h` for clap.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
}
