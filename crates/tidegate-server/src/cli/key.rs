//! `tidegate key`: publishers' API keys in `keys.toml`, whether a server is running or not.

use super::{
    Failure,
    args::{DataArgs, now},
    print,
};
use crate::{
    auth::{KeyEntry, KeysFile, KeysFileError, Orgs, parse_services},
    logs,
};
use clap::{Args, Subcommand};

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
    /// The orgs to publish to, separated by commas or each with its own --org; acme-* is all whose names begin
    /// with acme-, and * is all
    #[arg(long = "org", value_name = "NAMES", required = true, value_delimiter = ',')]
    orgs: Vec<String>,
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
        let orgs = Orgs::parse(self.orgs.iter().map(String::as_str))
            .map_err(|reason| Failure::Usage(format!("--org {reason}")))?;
        let services = parse_services(self.services.split(','))
            .map_err(|reason| Failure::Usage(format!("--services {reason}")))?;
        if self.name.as_ref().is_some_and(|name| name.len() > 200 || name.chars().any(char::is_control)) {
            return Err(Failure::Usage("--name must be up to 200 bytes on one line".to_owned()));
        }
        let file = KeysFile::at(self.data.keys_file()?);
        let made = file.create(&orgs, &services, self.name, now()).map_err(Failure::failed)?;
        if self.json {
            let mut line = serde_json::json!({
                "key": made.plain, "id": made.entry.id, "services": made.entry.services,
            });
            put_orgs(&mut line, &orgs);
            return print(format_args!("{line}\n"));
        }
        print(format_args!("{}\n", made.plain))?;
        logs::say(format_args!(
            "tidegate: key {} for {} ({}) is in {}; the line above is not shown again",
            made.entry.id,
            orgs,
            made.entry.services.join(","),
            file.path().display()
        ));
        Ok(())
    }
}

/// `orgs` has all; `org` is there too if the key is for one org alone.
fn put_orgs(line: &mut serde_json::Value, orgs: &Orgs) {
    line["orgs"] = orgs.texts().into();
    if let Some(org) = orgs.only() {
        line["org"] = org.as_str().into();
    }
}

fn public_part(entry: &KeyEntry) -> serde_json::Value {
    let mut line = serde_json::json!({
        "id": entry.id, "name": entry.name, "services": entry.services,
        "created": entry.created, "revoked": entry.revoked,
    });
    if let Ok(orgs) = entry.orgs() {
        put_orgs(&mut line, &orgs);
    }
    line
}

/// The orgs of a key in a line for people. The file was read, so they are valid.
fn shown(entry: &KeyEntry) -> String {
    entry.orgs().map_or_else(|_| "-".to_owned(), |orgs| orgs.to_string())
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let file = KeysFile::at(self.data.keys_file()?);
        let keys = file.list().map_err(Failure::failed)?;
        if self.json {
            return print(keys.iter().map(|key| format!("{}\n", public_part(key))).collect::<String>());
        }
        if keys.is_empty() {
            logs::say(format_args!("tidegate: no keys in {}", file.path().display()));
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
                shown(key),
                key.services.join(","),
                state,
                name
            )
        });
        print(format!(
            "id            created                   orgs  services  state  name\n{}",
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
                logs::say(format_args!("tidegate: key {} of {} is revoked", entry.id, shown(&entry)));
                Ok(())
            }
            Err(error @ KeysFileError::NoSuchKey(_)) => Err(Failure::failed(error)),
            Err(error) => Err(Failure::failed(error)),
        }
    }
}
