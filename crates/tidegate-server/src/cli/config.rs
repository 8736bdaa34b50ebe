//! `tidegate config`.

use clap::{Args, Subcommand};

use super::{
    Failure,
    args::{ConfigArgs, now},
    print,
};
use crate::{config, preflight};

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
        match self {
            Config::Print(which) => {
                // Printed even if the values do not fit together, because then a user needs to see them.
                let (loaded, unfit) = config::read(&which.config.sources()).map_err(Failure::usage)?;
                print(config::effective(&loaded))?;
                if unfit.is_empty() { Ok(()) } else { Err(Failure::usage(config::ConfigErrors(unfit))) }
            }
            Config::Check(which) => {
                let examined = config::examine(&which.config.sources());
                for warning in examined.warnings() {
                    eprintln!("tidegate: warning: {warning}");
                }
                let beyond = preflight::faults(&examined, now());
                let faults: Vec<_> = [examined.faults, examined.unfit, beyond].concat();
                if faults.is_empty() {
                    eprintln!("tidegate: the configuration is good");
                    Ok(())
                } else {
                    Err(Failure::usage(config::ConfigErrors(faults)))
                }
            }
            Config::Reference => print(config::reference()),
        }
    }
}
