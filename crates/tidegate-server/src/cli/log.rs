//! `tidegate log`: looks through the log of a gateway that is stopped. The work is that of
//! `tidegate_engine::check` and `tidegate_engine::repair`.

use std::{fmt::Write as _, path::Path};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tidegate_engine::{
    check::{CheckError, HeadReport, IndexReport, OrgReport, Phase, Place, Progress, Report, check},
    repair::repair,
};

use super::{Failure, args::DataArgs, print};

/// Looks through the log on disk.
#[derive(Debug, Subcommand)]
pub(super) enum Log {
    /// Say what is whole, damaged and missing in the log of a stopped gateway, and mend it if asked to
    Check(Check),
}

/// Reads all of the log and checks it. It changes nothing, unless `--repair` is given. The gateway must be stopped.
///
/// Exit codes: 0, the log is whole (with --repair: it is now); 1, it is damaged; 2, it could not be checked.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  runuser -u tidegate -- tidegate log check --config /etc/tidegate/tidegate.toml --repair"
)]
pub(super) struct Check {
    #[command(flatten)]
    data: DataArgs,
    /// Mend what is damaged. What cannot be read is copied to damaged/ in the log directory and left out; readers
    /// get a gap in its place. Run it as the gateway's user
    #[arg(long)]
    repair: bool,
    /// With --repair: leave out what the disk cannot read now, too. Without it such a file is not changed, because a
    /// later read may succeed
    #[arg(long, requires = "repair")]
    give_up_unreadable: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Log {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Log::Check(check) => check.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let dir = self.data.log_dir()?;
        let bar = progress_bar();
        let mut show = |progress: Progress| show(&bar, progress);
        let done = if self.repair {
            repair(&dir, self.give_up_unreadable, &mut show).map(|(found, after)| (found, Some(after)))
        } else {
            check(&dir, &mut show).map(|found| (found, None))
        };
        bar.finish_and_clear();
        let (found, after) = done.map_err(|error| match error {
            CheckError::NotChecked(error) => Failure::usage(error),
            CheckError::NotMended(error) => Failure::failed(error),
        })?;
        match self.json {
            true => print(format_args!("{}\n", as_json(&found, after.as_ref())))?,
            false => print(as_text(&dir, &found, after.as_ref()))?,
        }
        if after.as_ref().unwrap_or(&found).is_whole() {
            return Ok(());
        }
        let sentence = match self.repair {
            true => "the log is still damaged after the repair; look after the disk and try again",
            false => {
                "the log is damaged; --repair mends it: what is damaged is left out, and readers get a gap there"
            }
        };
        Err(Failure::failed(sentence))
    }
}

/// A progress bar on standard error; hidden if that is not a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{msg}  {bar:32} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(match progress.phase {
        Phase::Check => "checking",
        Phase::Repair => "repairing",
    });
    bar.set_length(progress.total);
    bar.set_position(progress.done);
}

fn as_text(dir: &Path, found: &Report, after: Option<&Report>) -> String {
    let mut text = String::new();
    for org in &found.orgs {
        text += &org_line(org);
    }
    for finding in findings(found) {
        text += &finding;
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "{} ({}), {}, {}, {} missing: {}",
        count(found.segments, "segment"),
        indicatif::BinaryBytes(found.bytes),
        count(found.orgs.len() as u64, "org"),
        count(found.events(), "event"),
        found.missing_events(),
        if found.is_whole() { "the log is whole" } else { "the log is damaged" },
    );
    if found.is_lossy {
        text += "acknowledged events may be lost at the end, so every reader gets a gap when it comes back\n";
    }
    match after {
        Some(_) if found.is_spotless() => text += "there was nothing to repair\n",
        Some(_) if found.damaged_count > 0 || found.torn.is_some() => {
            let _ = writeln!(
                text,
                "repaired; copies of what was left out are in {}, up to 16 MiB of them",
                dir.join("damaged").display()
            );
        }
        Some(_) => text += "repaired\n",
        None => {}
    }
    text
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn org_line(org: &OrgReport) -> String {
    let OrgReport { org, floor, head, events, missing, holes } = org;
    let kept = match (head - floor, head) {
        (0, 0) => "no events yet".to_owned(),
        (0, _) => format!("no events, the last was {head}"),
        _ => format!("{}, {} to {head}", count(*events, "event"), floor + 1),
    };
    if *missing == 0 {
        return format!("{org}: whole, {kept}\n");
    }
    const SHOWN: usize = 20;
    let shown: Vec<String> = holes
        .iter()
        .take(SHOWN)
        .map(|hole| match hole.start() == hole.end() {
            true => hole.start().to_string(),
            false => format!("{}-{}", hole.start(), hole.end()),
        })
        .collect();
    let more = if holes.len() > SHOWN { ", and more (--json lists them)" } else { "" };
    format!("{org}: {kept}, {missing} missing: {}{more}\n", shown.join(", "))
}

fn findings(found: &Report) -> Vec<String> {
    let Report { damaged, damaged_count, missing, indexes, torn, head, is_format_damaged, .. } = found;
    let mut lines = Vec::new();
    for Place { file, offset, bytes } in damaged {
        lines.push(match bytes {
            0 => format!("{}: the file was cut short at {offset}", file.display()),
            _ => format!("{}: {bytes} bytes at {offset} are damaged", file.display()),
        });
    }
    let others = damaged_count.saturating_sub(damaged.len() as u64);
    if others > 0 {
        lines.push(format!("{others} other places are damaged"));
    }
    lines.extend(missing.iter().map(|file| format!("{}: the file is missing", file.display())));
    for IndexReport { file, is_damaged } in indexes {
        lines.push(match is_damaged {
            true => format!("{}: the index is damaged; a start makes it anew", file.display()),
            false => format!("{}: no index yet, as after a crash; a start makes it", file.display()),
        });
    }
    if let Some(Place { file, offset, bytes }) = torn {
        lines.push(format!(
            "{}: the {bytes} bytes from {offset} on are no whole commit, as after a crash; a start cuts them off",
            file.display()
        ));
    }
    match head {
        HeadReport::Whole => {}
        HeadReport::Ahead { acknowledged, found } => lines.push(format!(
            "head: commits up to {acknowledged} were acknowledged, and the log ends with {found}: events are lost"
        )),
        HeadReport::HalfDamaged => lines.push(
            "head: one of its two copies is damaged; the other one says that nothing is missing".to_owned(),
        ),
        HeadReport::Damaged | HeadReport::Missing => {
            let what = if *head == HeadReport::Missing { "missing" } else { "damaged" };
            lines.push(format!("head: the file is {what}, so nobody knows whether the end of the log is missing"));
        }
    }
    if *is_format_damaged {
        lines.push("format: the file is damaged or missing, so no gateway starts".to_owned());
    }
    lines
}

fn as_json(found: &Report, after: Option<&Report>) -> Value {
    let place =
        |Place { file, offset, bytes }: &Place| json!({ "file": file, "offset": offset, "bytes": bytes });
    let orgs: Vec<Value> = found
        .orgs
        .iter()
        .map(|org| {
            let OrgReport { org, floor, head, events, missing, holes } = org;
            let holes: Vec<_> = holes.iter().map(|hole| [hole.start(), hole.end()]).collect();
            json!({
                "org": org.as_str(), "floor": floor, "head": head, "events": events, "missing": missing,
                "holes": holes,
            })
        })
        .collect();
    let indexes: Vec<Value> = found
        .indexes
        .iter()
        .map(|IndexReport { file, is_damaged }| json!({ "file": file, "damaged": is_damaged }))
        .collect();
    let head = match found.head {
        HeadReport::Whole => json!({ "state": "whole" }),
        HeadReport::Ahead { acknowledged, found } => {
            json!({ "state": "ahead", "acknowledged": acknowledged, "found": found })
        }
        HeadReport::HalfDamaged => json!({ "state": "half_damaged" }),
        HeadReport::Damaged => json!({ "state": "damaged" }),
        HeadReport::Missing => json!({ "state": "missing" }),
    };
    json!({
        "whole": found.is_whole(),
        "whole_after_repair": after.map(Report::is_whole),
        "lossy": found.is_lossy,
        "segments": found.segments,
        "bytes": found.bytes,
        "events": found.events(),
        "missing": found.missing_events(),
        "orgs": orgs,
        "damaged": found.damaged.iter().map(place).collect::<Vec<_>>(),
        "damaged_count": found.damaged_count,
        "missing_segments": found.missing,
        "indexes": indexes,
        "torn": found.torn.as_ref().map(place),
        "head": head,
        "format": if found.is_format_damaged { "damaged" } else { "whole" },
    })
}
