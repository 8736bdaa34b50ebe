//! `tidegate tail`: arguments and printing. Following the stream is `crate::follow`.

use clap::Args;
use tidegate_protocol::{Cursor, Seq};

use super::{
    Failure,
    printer::Printer,
    remote::{RemoteArgs, block_on, client, printable},
};
use crate::follow::{Follower, Target, Update};

/// Follows a stream.
#[derive(Debug, Args)]
pub(super) struct Tail {
    #[command(flatten)]
    remote: RemoteArgs,
    /// The token [default: the one of `tidegate dev`]
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The services to see, separated by commas [default: all that the token allows]
    #[arg(long, value_name = "NAMES")]
    services: Option<String>,
    /// Begin with the last N events
    #[arg(long, value_name = "N", conflicts_with = "cursor")]
    tail: Option<u32>,
    /// Begin after this cursor, as printed by an earlier run or answered to a publish
    #[arg(long)]
    cursor: Option<Cursor>,
    /// Stop after N events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print JSON lines, one for each event or gap
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) fn run(self) -> Result<(), Failure> {
        let remote = self.remote.resolve()?;
        let token = self.token.clone().or_else(|| remote.saved.as_ref()?.token.clone());
        let token = token
            .ok_or_else(|| Failure::Usage("--token (or TIDEGATE_TOKEN) must give a token".to_owned()))?;
        let printer = Printer { json: self.json, left: self.count, org: remote.gateway.org.to_string() };
        let target = Target { gateway: remote.gateway, token, services: self.services, tail: self.tail };
        let mut follower = Follower::new(client()?, target, self.cursor);
        if self.count == Some(0) {
            return Ok(());
        }
        let done = block_on(follow(&mut follower, printer));
        if let Some(mut cursor) = follower.cursor().cloned() {
            // The follower's cursor is at the end of the batch that the last printed event is in.
            if let Ok(last) = done {
                cursor.seq = last;
            }
            eprintln!("tidegate: continue later with --cursor {cursor}");
        }
        done.map(drop)
    }
}

/// Prints updates until the stream ends, or all events that were asked for are printed: then it returns the seq
/// of the last one.
async fn follow(follower: &mut Follower, mut printer: Printer) -> Result<Seq, Failure> {
    loop {
        match follower.next().await.map_err(|ended| Failure::Failed(printable(&ended.to_string())))? {
            Update::Events(events) => {
                if let Some(last) = printer.events(&events)? {
                    return Ok(last);
                }
            }
            Update::Gap { prev, seq, reason, frame } => printer.gap(prev, seq, &reason, &frame)?,
            Update::Status(text) => eprintln!("tidegate: {}", printable(&text)),
            Update::Reconnecting { why, delay } => {
                let seconds = delay.as_secs_f64();
                eprintln!("tidegate: {}; connecting again in {seconds:.1} s", printable(&why));
            }
        }
    }
}
