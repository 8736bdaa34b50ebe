//! Where `org` and `event` find the logs: in a running gateway, asked through its operators' listener, or in
//! the directory of a stopped one, which they open themselves. The directory's lock says which it is.

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tidegate_client::gateway::{self, Refused};
use tidegate_core::Event;
use tidegate_engine::{DiskStore, Engine, Feed, Hooks, OrgLog, SystemClock};
use tidegate_protocol::{OrgId, Seq};

use super::{Failure, args::DataArgs, health::reachable, remote::printable};
use crate::{
    admin::OrgShown,
    auth::KeysFile,
    config::{self, Config, LogEngine},
    deletion::{Which, delete_events, find_log},
    engines,
};

/// How long a gateway may take to answer, and to delete, for which it may have to read a whole log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const DELETION_TIMEOUT: Duration = Duration::from_secs(3600);

/// Which gateway.
#[derive(Debug, Clone, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The operators' address of a running gateway [default: listen.admin, if a gateway runs over log.dir]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// The logs of a gateway.
pub(super) enum Logs {
    /// Of a running one.
    Running(Operators),
    /// Of a stopped one.
    Stopped(Stopped),
}

/// The operators' listener of a running gateway.
pub(super) struct Operators {
    client: reqwest::Client,
    address: SocketAddr,
}

/// The opened log of a stopped gateway. Closed when this is dropped, so that the stop is a clean one.
pub(super) struct Stopped {
    engine: Arc<dyn Engine>,
    keys: KeysFile,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.engine.close();
    }
}

/// A command has no readers.
struct NoReaders;

impl Feed for NoReaders {
    fn committed(&self, _: &OrgId, _: Seq, _: &[Arc<Event>]) {}
    fn org_deleted(&self, _: &OrgId) {}
    fn events_deleted(&self, _: &OrgId, _: &[Seq]) {}
}

/// Whether the log of this configuration is on this machine, and no gateway has it open.
fn is_stopped(config: &Config) -> bool {
    // A directory that this user cannot look into is that of a gateway that may be asked.
    config.log.engine == LogEngine::Disk
        && DiskStore::holds_log(&config.log.dir)
        && DiskStore::is_in_use(&config.log.dir).is_ok_and(|is_in_use| !is_in_use)
}

impl LogsArgs {
    /// The logs that are meant.
    pub(super) fn find(&self) -> Result<Logs, Failure> {
        if let Some(address) = self.admin {
            return Ok(Logs::Running(Operators::at(address)?));
        }
        let (sources, dev_admin) = self.data.sources_and_admin()?;
        // Whether a node would start with it does not matter: it is about the log alone.
        if let Ok((loaded, _)) = config::read(&sources)
            && is_stopped(&loaded.config)
        {
            return Ok(Logs::Stopped(Stopped::open(&loaded.config)?));
        }
        // Faults elsewhere do not matter: the gateway may have been started before they were made.
        let address = match dev_admin {
            Some(address) => address,
            None => config::admin_address(&sources).map_err(|errors| {
                Failure::usage(format_args!(
                    "{errors}\nso listen.admin is not known; name the operators' address with --admin"
                ))
            })?,
        };
        Ok(Logs::Running(Operators::at(address)?))
    }
}

impl Operators {
    fn at(address: SocketAddr) -> Result<Self, Failure> {
        // The operators' address is on this machine or near it, whatever proxy leads elsewhere.
        let client = gateway::client().no_proxy().build().map_err(Failure::failed)?;
        Ok(Self { client, address: reachable(address) })
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, Failure> {
        let mut url = Url::parse(&format!("http://{}/v1", self.address)).map_err(Failure::failed)?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn ask(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let timeout = if method == Method::DELETE { DELETION_TIMEOUT } else { ANSWER_TIMEOUT };
        let address = self.address;
        let request = self.client.request(method, self.url(path, query)?).timeout(timeout);
        let response = request.send().await.map_err(|error| {
            Failure::Failed(match error.is_timeout() {
                true => {
                    format!("the gateway at {address} did not answer within {}", config::humane(timeout))
                }
                false => format!(
                    "no gateway answers at {address}: start it, or name the operators' address of one that \
                     runs with --admin, or with --config or --data-dir the log of one that is stopped"
                ),
            })
        })?;
        if !response.status().is_success() {
            let refused = Refused::read(response).await;
            // The sentence says it all; without one, the status has to do.
            let sentence = Some(refused.sentence()).filter(|sentence| !sentence.is_empty());
            return Err(Failure::Failed(printable(&sentence.unwrap_or_else(|| refused.to_string()))));
        }
        response.json().await.map_err(|error| {
            Failure::Failed(format!("the answer of {address} is not that of a gateway: {error}"))
        })
    }
}

impl Stopped {
    fn open(config: &Config) -> Result<Self, Failure> {
        let dir = &config.log.dir;
        check_owner(dir)?;
        eprintln!("tidegate: no gateway runs over {}: its log is opened here", dir.display());
        let hooks = Hooks { feed: Arc::new(NoReaders), clock: Arc::new(SystemClock), observer: Arc::new(()) };
        let (engine, _) =
            engines::open(config, hooks).map_err(|error| Failure::Failed(format!("{error:#}")))?;
        Ok(Self { engine, keys: KeysFile::at(config.keys_file()) })
    }

    fn show(&self, log: &OrgLog) -> Value {
        json!(OrgShown::of(&*self.engine, log, 0))
    }

    async fn log(&self, org: &OrgId) -> Result<OrgLog, Failure> {
        let missing = || Failure::Failed(format!("there is no log of an org {org} here"));
        find_log(&*self.engine, org).await.ok_or_else(missing)
    }
}

/// What this command writes, the gateway must be able to read.
fn check_owner(dir: &Path) -> Result<(), Failure> {
    let owner = std::fs::metadata(dir)
        .map_err(|error| Failure::Failed(format!("look at {}: {error}", dir.display())))?
        .uid();
    if rustix::process::geteuid().as_raw() == owner {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{} belongs to the user {owner}: run this command as that user, or the gateway cannot open its log again",
        dir.display()
    )))
}

impl Logs {
    /// All orgs, by name.
    pub(super) async fn list(&self) -> Result<Vec<Value>, Failure> {
        let operators = match self {
            Logs::Running(operators) => operators,
            Logs::Stopped(stopped) => {
                let logs = stopped.engine.list_orgs().await;
                return Ok(logs.iter().map(|log| stopped.show(log)).collect());
            }
        };
        let mut orgs: Vec<Value> = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let mut query = vec![("limit", "1000")];
            query.extend(next.as_deref().map(|after| ("after", after)));
            let mut page = operators.ask(Method::GET, &["orgs"], &query).await?;
            if let Value::Array(page) = page["orgs"].take() {
                orgs.extend(page);
            }
            next = page["next"].as_str().map(str::to_owned);
            if next.is_none() {
                return Ok(orgs);
            }
        }
    }

    /// One org; of a running gateway with its quotas.
    pub(super) async fn show(&self, org: &OrgId) -> Result<Value, Failure> {
        match self {
            Logs::Running(operators) => {
                let mut shown = operators.ask(Method::GET, &["orgs", org.as_str()], &[]).await?;
                let mut quotas = operators.ask(Method::GET, &["orgs", org.as_str(), "quotas"], &[]).await?;
                shown["quotas"] = quotas["quotas"].take();
                Ok(shown)
            }
            Logs::Stopped(stopped) => Ok(stopped.show(&stopped.log(org).await?)),
        }
    }

    /// Deletes an org; what a running gateway answers.
    pub(super) async fn delete_org(&self, org: &OrgId, keeps_keys: bool) -> Result<Value, Failure> {
        let stopped = match self {
            Logs::Running(operators) => {
                let query: &[_] = if keeps_keys { &[("keys", "keep")] } else { &[] };
                return operators.ask(Method::DELETE, &["orgs", org.as_str()], query).await;
            }
            Logs::Stopped(stopped) => stopped,
        };
        stopped.log(org).await?;
        let keys = match keeps_keys {
            true => Default::default(),
            false => stopped.keys.forget_org(org).map_err(|error| {
                Failure::Failed(format!(
                    "nothing was deleted: {error}; with --keep-keys the keys stay as they are"
                ))
            })?,
        };
        stopped.engine.delete_org(org).await.map_err(Failure::failed)?;
        // What is deleted leaves the files now.
        stopped.engine.sweep();
        Ok(json!({
            "org": org.as_str(), "readers_closed": 0,
            "keys_removed": keys.removed, "keys_changed": keys.changed,
        }))
    }

    /// Deletes events of an org. Returns how many.
    pub(super) async fn delete_events(&self, org: &OrgId, which: &Which) -> Result<Value, Failure> {
        let stopped = match self {
            Logs::Running(operators) => {
                let query = match which {
                    Which::Id(service, id) => vec![("service", service.as_str()), ("id", id.as_str())],
                    Which::User(user) => vec![("user", user.as_str())],
                };
                return operators.ask(Method::DELETE, &["orgs", org.as_str(), "events"], &query).await;
            }
            Logs::Stopped(stopped) => stopped,
        };
        let log = stopped.log(org).await?;
        let deleted = delete_events(&*stopped.engine, &log, which).await.map_err(Failure::failed)?;
        if deleted == 0
            && let Which::Id(service, id) = which
        {
            return Err(Failure::Failed(format!("org {org} has no event {id} of the service {service}")));
        }
        stopped.engine.sweep();
        Ok(json!({ "deleted": deleted }))
    }
}

/// Lets the user confirm a deletion, unless `is_sure`. If nobody can be asked, it must be said beforehand.
pub(super) fn confirm(is_sure: bool, what: &str) -> Result<(), Failure> {
    if is_sure {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(format!("to delete {what} without a terminal, say --yes")));
    }
    eprint!("Delete {what}? This cannot be undone. [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(Failure::failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Failed("nothing was deleted".to_owned())),
    }
}
