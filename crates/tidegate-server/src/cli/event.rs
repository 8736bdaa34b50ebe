//! `tidegate event`: deletes events of an org, whether the gateway is running or not.

use clap::{Args, Subcommand};
use tidegate_protocol::{EventId, OrgId, ServiceName, UserId};

use super::{
    Failure,
    org_logs::{LogsArgs, confirm},
    print,
    remote::block_on,
};
use crate::deletion::Which;

/// Deletes events.
#[derive(Debug, Subcommand)]
pub(super) enum Event {
    /// Delete an event by its id, or all events that are targeted at a user
    Delete(Delete),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["id", "user"]))]
pub(super) struct Delete {
    #[command(flatten)]
    logs: LogsArgs,
    /// The org
    #[arg(long)]
    org: OrgId,
    /// The service of the event
    #[arg(long, requires = "id")]
    service: Option<ServiceName>,
    /// The id of the event
    #[arg(long, requires = "service")]
    id: Option<EventId>,
    /// The user; events for several users are deleted for all of them
    #[arg(long)]
    user: Option<UserId>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Event {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Event::Delete(delete) = self;
        delete.run()
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        let Self { logs, org, service, id, user, yes, json } = self;
        let (which, what) = match (service, id, user) {
            (Some(service), Some(id), None) => {
                let what = format!("the event {id} of the service {service} in {org}");
                (Which::Id(service, id), what)
            }
            (None, None, Some(user)) => {
                let what = format!("all events in {org} that are targeted at {user}");
                (Which::User(user), what)
            }
            _ => return Err(Failure::Usage("name --service and --id, or --user".to_owned())),
        };
        confirm(yes, &what)?;
        let logs = logs.find()?;
        let done = block_on(async { logs.delete_events(&org, &which).await })?;
        if json {
            return print(format_args!("{done}\n"));
        }
        match done["deleted"].as_u64() {
            Some(1) => eprintln!("tidegate: 1 event of {org} is deleted"),
            count => eprintln!("tidegate: {} events of {org} are deleted", count.unwrap_or(0)),
        }
        Ok(())
    }
}
