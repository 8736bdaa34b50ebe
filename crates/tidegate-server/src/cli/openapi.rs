//! `tidegate openapi`.

use clap::Args;

use super::{Failure, args::ConfigArgs, print};
use crate::{config, http::openapi};

/// Print the description of the API that a gateway with this configuration serves at /openapi.json
#[derive(Debug, Args)]
pub(super) struct OpenApi {
    #[command(flatten)]
    config: ConfigArgs,
}

impl OpenApi {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Works even if a gateway would not start: the description needs no keys.
        let (loaded, _) = config::read(&self.config.sources()).map_err(Failure::usage)?;
        print(format_args!("{:#}\n", openapi::document(&loaded.config)))
    }
}
