//! `tidegate key`: publishers' API keys in `keys.toml`, whether a server is running or not.

use clap::{Args, Subcommand};
use tidegate_protocol::OrgId;

use super::{
    Failure,
    args::{DataArgs, now},
    print,
};
use crate::auth::{KeyEntry, KeysFile, KeysFileError, parse_services};

/// Makes, lists and revokes API keys.
#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a key and print it; it is shown only once
    Create(Create),
    /// Show the keys, without their secrets
    List(List),
    /// Revoke a key; a running server follows within a second
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    data: DataArgs,
    /// The org to publish to
    #[arg(long)]
    org: OrgId,
    /// The services to publish to, separated by commas; * is all
    #[arg(long, value_name = "NAMES", default_value = "*")]
    services: String,
    /// A description of the key
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON, one key per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    data: DataArgs,
    /// The key's id: tgk_<id>_...
    id: String,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Key::Create(create) => create.run(),
            Key::List(list) => list.run(),
            Key::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let services = parse_services(self.services.split(','))
            .map_err(|reason| Failure::Usage(format!("--services {reason}")))?;
        if self.name.as_ref().is_some_and(|name| name.len() > 200 || name.chars().any(char::is_control)) {
            return Err(Failure::Usage("--name must be up to 200 bytes on one line".to_owned()));
        }
        let file = KeysFile::at(self.data.keys_file()?);
        let made = file.create(self.org, &services, self.name, now()).map_err(Failure::failed)?;
        if self.json {
            let line = serde_json::json!({
                "key": made.plain, "id": made.entry.id, "org": made.entry.org, "services": made.entry.services,
            });
            return print(format_args!("{line}\n"));
        }
        print(format_args!("{}\n", made.plain))?;
        eprintln!(
            "tidegate: key {} for {} ({}) is in {}; the line above is not shown again",
            made.entry.id,
            made.entry.org,
            made.entry.services.join(","),
            file.path().display()
        );
        Ok(())
    }
}

fn public_part(entry: &KeyEntry) -> serde_json::Value {
    serde_json::json!({
        "id": entry.id, "name": entry.name, "org": entry.org, "services": entry.services,
        "created": entry.created, "revoked": entry.revoked,
    })
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let file = KeysFile::at(self.data.keys_file()?);
        let keys = file.list().map_err(Failure::failed)?;
        if self.json {
            return print(keys.iter().map(|key| format!("{}\n", public_part(key))).collect::<String>());
        }
        if keys.is_empty() {
            eprintln!("tidegate: no keys in {}", file.path().display());
            return Ok(());
        }
        let rows = keys.iter().map(|key| {
            let state =
                key.revoked.as_ref().map_or_else(|| "active".to_owned(), |at| format!("revoked {at}"));
            let name = key.name.as_deref().unwrap_or("-");
            format!(
                "{}  {}  {}  {}  {}  {}\n",
                key.id,
                key.created,
                key.org,
                key.services.join(","),
                state,
                name
            )
        });
        print(format!(
            "id            created                   org  services  state  name\n{}",
            rows.collect::<String>()
        ))
    }
}

impl Revoke {
    fn run(self) -> Result<(), Failure> {
        // A user may paste the whole key; its secret is not used.
        let id = self.id.strip_prefix("tgk_").unwrap_or(&self.id);
        let id = id.split('_').next().unwrap_or(id);
        let file = KeysFile::at(self.data.keys_file()?);
        match file.revoke(id, now()) {
            Ok(entry) => {
                eprintln!("tidegate: key {} of {} is revoked", entry.id, entry.org);
                Ok(())
            }
            Err(error @ KeysFileError::NoSuchKey(_)) => Err(Failure::failed(error)),
            Err(error) => Err(Failure::failed(error)),
        }
    }
}
