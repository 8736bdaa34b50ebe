//! `tidegate serve`.

use clap::Args;

use super::{
    Failure,
    args::{ConfigArgs, now},
};
use crate::{
    app::{self, ExitReason, Prepared, RunMode},
    auth::{KeysFile, Publishers, TokenVerifier},
    config::{self, Loaded, Sources},
    logs,
};

/// Runs a gateway.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// The public address (listen.public); with port 0, the operators' port is chosen too
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut sources = self.config.sources();
        listen_on(&mut sources, self.listen.as_deref());
        let loaded = config::load(&sources).map_err(Failure::usage)?;
        start(sources, loaded, |_| Ok(RunMode::Serve))
    }
}

/// `--listen` with port 0 chooses both ports, so that test runs never clash.
pub(super) fn listen_on(sources: &mut Sources, address: Option<&str>) {
    let Some(address) = address else { return };
    sources.flag("--listen", "listen.public", config::quoted(address));
    if address.ends_with(":0") && !sources.names("listen.admin") {
        sources.flag("--listen", "listen.admin", "\"127.0.0.1:0\"");
    }
}

/// Opens everything that is needed before a port is bound, then runs the node.
pub(super) fn start(
    sources: Sources,
    loaded: Loaded,
    mode: impl FnOnce(&Loaded) -> Result<RunMode, Failure>,
) -> Result<(), Failure> {
    let _logging = logs::start(&loaded.config.logs)
        .map_err(|error| Failure::failed(format_args!("start logging: {error}")))?;
    let mode = mode(&loaded)?;
    let config = &loaded.config;
    let publishers = Publishers::open(KeysFile::at(config.keys_file()), now()).map_err(Failure::usage)?;
    let tokens = TokenVerifier::new(&config.auth, config.limits.token_bytes.bytes());
    match app::run(Prepared { loaded, tokens, publishers, sources, mode }) {
        Ok(ExitReason::Drained) => Ok(()),
        Ok(ExitReason::Interrupted) => Err(Failure::Interrupted),
        Err(error) => Err(Failure::Failed(format!("{error:#}"))),
    }
}
