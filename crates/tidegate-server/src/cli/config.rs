//! `tidegate config`.

use clap::{Args, Subcommand};

use super::{
    Failure,
    args::{ConfigArgs, now},
    print,
};
use crate::{config, logs, preflight};

/// Checks and shows the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Show every key with its value and where that came from; secrets are left out
    Print(Which),
    /// Check everything that `serve` would, then exit
    Check(Check),
    /// Print docs/config.md
    #[command(hide = true)]
    Reference,
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Take each warning as an error, such as limits that need more open files than the system allows
    #[arg(long)]
    strict: bool,
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
            Config::Check(Check { config, strict }) => {
                let examined = config::examine(&config.sources());
                let mut warnings = examined.warnings();
                let beyond = preflight::faults(&examined, now());
                let mut faults: Vec<_> = [examined.faults, examined.unfit, beyond].concat();
                if strict {
                    faults.append(&mut warnings);
                }
                for warning in warnings {
                    logs::say(format_args!("tidegate: warning: {warning}"));
                }
                if faults.is_empty() {
                    logs::say(format_args!("tidegate: the configuration is good"));
                    Ok(())
                } else {
                    Err(Failure::usage(config::ConfigErrors(faults)))
                }
            }
            Config::Reference => print(config::reference()),
        }
    }
}
