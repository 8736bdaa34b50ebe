//! `tidegate config`.

use clap::{Args, Subcommand};

use super::{
    Failure,
    args::{ConfigArgs, now},
    print,
};
use crate::{
    auth::{KeysFile, Publishers},
    config,
};

/// Checks and shows the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Show every key with its value and where that came from; secrets are left out
    Print(Which),
    /// Check everything that `serve` would, then exit
    Check(Which),
    /// Print docs/config.md
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Config {
    pub(super) fn run(self) -> Result<(), Failure> {
        let load = |which: Which| config::load(&which.config.sources()).map_err(Failure::usage);
        match self {
            Config::Print(which) => {
                // Printed even if the values do not fit together, because then a user needs to see them.
                let (loaded, unfit) = config::read(&which.config.sources()).map_err(Failure::usage)?;
                print(config::effective(&loaded))?;
                if unfit.is_empty() { Ok(()) } else { Err(Failure::usage(config::ConfigErrors(unfit))) }
            }
            Config::Check(which) => {
                let loaded = load(which)?;
                Publishers::open(KeysFile::at(loaded.config.keys_file()), now()).map_err(Failure::usage)?;
                eprintln!("tidegate: the configuration is good");
                Ok(())
            }
            Config::Reference => print(config::reference()),
        }
    }
}
