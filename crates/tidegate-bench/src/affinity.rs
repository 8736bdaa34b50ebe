//! The CPU cores of the server and of the load. They should not share a core, because the load's own work
//! would then add to the measured latency.

use std::{fmt, str::FromStr};

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// A list of cores such as `0` or `0-3,6`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cores(Vec<usize>);

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a list of cores such as 0 or 2-3,6");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) =
                (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
            if first > last || last >= CpuSet::MAX_CPU {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

impl Cores {
    /// The number of cores.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether both lists have a core in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|core| other.0.contains(core))
    }

    fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        self.0.iter().for_each(|core| set.set(*core));
        set
    }
}

/// A core option on the command line: `auto`, `none`, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The server gets the first core and the load the second, if there are two.
    Auto,
    /// The system chooses.
    None,
    These(Cores),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            cores => cores.parse().map(Self::These),
        }
    }
}

impl Choice {
    /// The cores of the server (`index` 0) or of the load (`index` 1).
    pub fn resolve(&self, index: usize) -> anyhow::Result<Option<Cores>> {
        match self {
            Self::None => Ok(None),
            Self::These(cores) => Ok(Some(cores.clone())),
            Self::Auto => {
                let allowed = sched_getaffinity(None).context("read this process's cores")?;
                let allowed: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
                Ok((allowed.len() > 1).then(|| Cores(vec![allowed[index]])))
            }
        }
    }
}

/// The cores that this process may use, as text.
fn allowed() -> String {
    let Ok(set) = sched_getaffinity(None) else { return "unknown cores".to_owned() };
    Cores((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()).to_string()
}

/// Pins the calling thread, and all threads that it starts later.
pub fn pin(cores: &Cores) -> anyhow::Result<()> {
    sched_setaffinity(None, &cores.set())
        .with_context(|| format!("run on core {cores} (this process may use {})", allowed()))
}

/// Runs `spawn` on `cores`, so that a process started by it stays there. Afterwards this thread returns to
/// its own cores.
pub fn on_cores<T>(cores: Option<&Cores>, spawn: impl FnOnce() -> T) -> anyhow::Result<T> {
    let Some(cores) = cores else { return Ok(spawn()) };
    let before = sched_getaffinity(None).context("read this thread's cores")?;
    pin(cores)?;
    let spawned = spawn();
    sched_setaffinity(None, &before).context("restore this thread's cores")?;
    Ok(spawned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores() {
        let cores: Cores = "0-2,6".parse().expect("cores");
        assert_eq!((cores.to_string().as_str(), cores.count()), ("0,1,2,6", 4));
        assert!(cores.overlaps(&Cores(vec![2])) && !cores.overlaps(&Cores(vec![3])));
        for wrong in ["", "a", "3-1", "1-", "99999999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_process_gets_its_cores_and_this_thread_keeps_its_own() {
        let before = sched_getaffinity(None).expect("cores");
        let first = (0..CpuSet::MAX_CPU).find(|core| before.is_set(*core)).expect("a core");
        let output = on_cores(Some(&Cores(vec![first])), || {
            std::process::Command::new("sh").args(["-c", "grep Cpus_allowed_list /proc/self/status"]).output()
        });
        let output = output.expect("pinned").expect("run");
        let allowed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(allowed.ends_with(&format!("\t{first}")), "{allowed}");
        assert_eq!(sched_getaffinity(None).expect("cores"), before);
    }
}
