//! `tidegate org`: the orgs that have a log, listed and deleted, whether the gateway is running or not.

use clap::{Args, Subcommand};
use serde_json::Value;
use tidegate_protocol::OrgId;

use super::{
    Failure,
    org_logs::{LogsArgs, confirm},
    print,
    remote::block_on,
};

/// Lists, shows and deletes orgs.
#[derive(Debug, Subcommand)]
pub(super) enum Org {
    /// Show all orgs that have a log
    List(List),
    /// Show one org; of a running gateway with its quotas, and how much of them it uses
    Show(Show),
    /// Delete an org: its events, its ids, the API keys that are for it alone; its readers are closed
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    logs: LogsArgs,
    /// Print JSON, one org per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    logs: LogsArgs,
    /// The org
    org: OrgId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    logs: LogsArgs,
    /// The org
    org: OrgId,
    /// Leave the API keys as they are
    #[arg(long)]
    keep_keys: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Org {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Org::List(list) => list.run(),
            Org::Show(show) => show.run(),
            Org::Delete(delete) => delete.run(),
        }
    }
}

/// What is shown of an org, by the names of the fields in JSON.
const COLUMNS: [(&str, &str); 6] = [
    ("org", "org"),
    ("floor", "floor"),
    ("head", "head"),
    ("last event", "last_event_at"),
    ("readers", "readers"),
    ("epoch", "epoch"),
];

/// A value in a line for people.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let logs = self.logs.find()?;
        let orgs = block_on(async { logs.list().await })?;
        if self.json {
            return print(orgs.iter().map(|org| format!("{org}\n")).collect::<String>());
        }
        let head = COLUMNS.map(|(title, _)| title.to_owned());
        let rows = orgs.iter().map(|org| COLUMNS.map(|(_, name)| shown(&org[name])));
        print(table(std::iter::once(head).chain(rows).collect()))
    }
}

impl Show {
    fn run(self) -> Result<(), Failure> {
        let logs = self.logs.find()?;
        let org = block_on(async { logs.show(&self.org).await })?;
        if self.json {
            return print(format_args!("{org}\n"));
        }
        let line = |(title, name): (&str, &str)| format!("{title:10}  {}\n", shown(&org[name]));
        print(format_args!("{}{}", COLUMNS.map(line).concat(), quotas(&org["quotas"])))
    }
}

/// A table of quotas, after an empty line; nothing if there are none.
fn quotas(quotas: &Value) -> String {
    let Value::Array(quotas) = quotas else { return String::new() };
    let rows =
        quotas.iter().map(|quota| ["quota", "used", "limit", "set_by"].map(|name| shown(&quota[name])));
    let head = ["quota", "used", "limit", "set by"].map(str::to_owned);
    format!("\n{}", table(std::iter::once(head).chain(rows).collect()))
}

/// Rows, each cell as wide as the widest of its column.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// "3 readers", "1 reader".
fn counted(count: &Value, what: &str) -> String {
    let count = count.as_u64().unwrap_or(0);
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        confirm(self.yes, &format!("the org {} and all its events", self.org))?;
        let logs = self.logs.find()?;
        let done = block_on(async { logs.delete_org(&self.org, self.keep_keys).await })?;
        if self.json {
            return print(format_args!("{done}\n"));
        }
        let readers = counted(&done["readers_closed"], "reader");
        let keys = counted(&done["keys_removed"], "API key");
        let changed = match done["keys_changed"].as_u64() {
            Some(1..) => format!(", {} for other orgs changed", counted(&done["keys_changed"], "API key")),
            _ => String::new(),
        };
        eprintln!("tidegate: org {} is deleted: {readers} closed, {keys} removed{changed}", self.org);
        Ok(())
    }
}
