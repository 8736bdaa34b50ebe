//! `tidegate man`: the manual pages of this command line (roff), for packages.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use super::{Cli, Failure, print};

#[derive(Debug, Args)]
pub(super) struct Manual {
    /// Write a page for each command into this directory, which must exist
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Manual {
    pub(super) fn run(self) -> Result<(), Failure> {
        let command = Cli::command();
        match self.dir {
            Some(dir) => clap_mangen::generate_to(command, &dir).map_err(|error| {
                Failure::failed(format_args!("write manual pages to {}: {error}", dir.display()))
            }),
            None => {
                let mut page = Vec::new();
                Man::new(command).render(&mut page).map_err(Failure::output)?;
                print(String::from_utf8_lossy(&page))
            }
        }
    }
}
