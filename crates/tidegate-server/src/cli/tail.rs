//! `tidegate tail`: arguments and printing. Following the stream is `tidegate-client`'s.

use clap::{Args, ValueEnum};
use tidegate_client::{Client, Deliveries, Delivery, Notice, Transport};
use tidegate_protocol::Cursor;
use tokio::sync::mpsc;

use super::{
    Failure,
    printer::Printer,
    remote::{RemoteArgs, block_on, printable},
};
use crate::logs;

/// Follows a stream.
#[derive(Debug, Args)]
pub(super) struct Tail {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The token [default: the one of `tidegate dev`]
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The services to see, separated by commas [default: all that the token allows]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    services: Vec<String>,
    /// Begin with the last N events
    #[arg(long, value_name = "N", conflicts_with = "cursor")]
    tail: Option<u32>,
    /// Begin after this cursor, as printed by an earlier run or answered to a publish
    #[arg(long)]
    cursor: Option<Cursor>,
    /// How the stream is carried
    #[arg(long, value_name = "NAME", default_value = "sse")]
    transport: Carrier,
    /// Stop after N events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print JSON lines, one for each event or gap
    #[arg(long)]
    json: bool,
}

/// The names of transports on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Carrier {
    /// WebSocket
    Ws,
    /// Server-sent events
    Sse,
}

impl Tail {
    pub(super) fn run(self) -> Result<(), Failure> {
        let remote = self.remote.resolve()?;
        let token = self.token.clone().or_else(|| remote.saved.as_ref()?.token.clone());
        let token = token
            .ok_or_else(|| Failure::Usage("--token (or TIDEGATE_TOKEN) must give a token".to_owned()))?;
        let printer = Printer { json: self.json, left: self.count, org: remote.gateway.org.to_string() };
        if self.count == Some(0) {
            return Ok(());
        }
        let (tell, broken) = mpsc::unbounded_channel();
        let builder = Client::builder(remote.gateway.base)
            .org(remote.gateway.org.as_str())
            .services(self.services)
            .static_token(token)
            .cursor(self.cursor)
            .tail(self.tail)
            .transports([match self.transport {
                Carrier::Ws => Transport::Ws,
                Carrier::Sse => Transport::Sse,
            }])
            .impatient(true)
            .on_notice(move |notice| say(notice, &tell));
        let mut running = None;
        let done = block_on(async {
            let (client, deliveries) =
                builder.connect().map_err(|error| Failure::Usage(error.to_string()))?;
            running = Some(client.clone());
            let done = Follower { deliveries, broken, printer }.follow().await;
            client.shutdown().await;
            done
        });
        // The client may be ahead of the last event that was asked for.
        let cursor = done.as_ref().ok().cloned().or_else(|| running?.cursor());
        if let Some(cursor) = cursor {
            logs::say(format_args!("tidegate: continue later with --cursor {cursor}"));
        }
        done.map(drop)
    }
}

/// Prints what the client has to say; `tell` gets what ends the command.
fn say(notice: &Notice, tell: &mpsc::UnboundedSender<String>) {
    match notice {
        Notice::Status { code, message, .. } if !message.is_empty() => {
            logs::say(format_args!("tidegate: {}", printable(&format!("{code}: {message}"))));
        }
        Notice::Failed(failure) if failure.code == "protocol" => {
            // The next answer would be no better; the receiver is gone if the command ends anyway.
            let _ = tell.send(format!("the gateway broke the protocol: {failure}"));
        }
        Notice::Failed(failure) => {
            if let Some(delay) = failure.retry_in {
                let (why, seconds) = (printable(&failure.to_string()), delay.as_secs_f64());
                logs::say(format_args!("tidegate: {why}; connecting again in {seconds:.1} s"));
            }
        }
        _ => {}
    }
}

struct Follower {
    deliveries: Deliveries,
    broken: mpsc::UnboundedReceiver<String>,
    printer: Printer,
}

impl Follower {
    /// Prints until the stream ends, or all events that were asked for are printed: then it returns the position
    /// after the last one.
    async fn follow(mut self) -> Result<Cursor, Failure> {
        loop {
            let next = tokio::select! {
                biased;
                next = self.deliveries.next() => next,
                Some(why) = self.broken.recv() => return Err(Failure::Failed(printable(&why))),
            };
            // What is here already is printed at once.
            let mut items: Vec<Delivery> = Vec::new();
            let mut next = next;
            while let Some(Ok(item)) = next {
                items.push(item);
                next = self.deliveries.next_ready();
            }
            if let Some(last) = self.printer.print(&items)? {
                return Ok(last);
            }
            if let Some(Err(ended)) = next {
                return Err(Failure::Failed(printable(&ended.to_string())));
            }
        }
    }
}
