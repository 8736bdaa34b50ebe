//! `tidegate dev`.

use std::path::PathBuf;

use clap::Args;

use super::{
    Failure,
    args::{ConfigArgs, now},
    serve::{listen_on, start},
};
use crate::{
    app::RunMode,
    config,
    dev::{DEFAULT_DIR, DevDir},
};

/// Runs a gateway for development, on loopback only.
#[derive(Debug, Args)]
pub(super) struct Dev {
    #[command(flatten)]
    config: ConfigArgs,
    /// The address to listen on, which must be on loopback; with port 0, the operators' port is chosen too
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The directory for its keys and its log, which survive restarts
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    data_dir: PathBuf,
    /// Publish no made-up events
    #[arg(long)]
    no_feed: bool,
    /// When it is ready, print one line of JSON: url, admin_url, org, token, publish_key
    #[arg(long)]
    json: bool,
}

impl Dev {
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = DevDir::open(self.data_dir).map_err(Failure::usage)?;
        let mut sources = self.config.sources();
        dir.configure(&mut sources);
        listen_on(&mut sources, self.listen.as_deref());
        let loaded = config::load(&sources).map_err(Failure::usage)?;
        start(sources, loaded, |loaded| {
            let session = dir.prepare(&loaded.config, self.json, now()).map_err(Failure::usage)?;
            Ok(RunMode::Dev { session: Box::new(session), feed: !self.no_feed })
        })
    }
}
