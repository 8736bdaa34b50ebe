//! `tidegate completions`: shell completion of this command line.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::{Cli, Failure, print};

const WHERE: &str = "\
Where it goes:
  bash        tidegate completions bash > ~/.local/share/bash-completion/completions/tidegate
  zsh         tidegate completions zsh > _tidegate, in a directory of $fpath
  fish        tidegate completions fish > ~/.config/fish/completions/tidegate.fish
  powershell  in $PROFILE: tidegate completions powershell | Out-String | Invoke-Expression
  elvish      in rc.elv: eval (tidegate completions elvish | slurp)
New shells then use it. Make the files again after an upgrade.";

#[derive(Debug, Args)]
#[command(after_help = WHERE)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut Cli::command(), "tidegate", &mut script);
        print(String::from_utf8_lossy(&script))
    }
}
