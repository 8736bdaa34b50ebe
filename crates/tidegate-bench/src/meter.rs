//! Measures what server and load use between two moments: CPU time and memory. Used by [`crate::session`].

use std::time::Instant;

use crate::peers::process::{Costs, Server};

/// A reading at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    at: Instant,
    server: Option<Costs>,
    own_seconds: f64,
}

/// What was used since a reading.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    pub seconds: f64,
    /// CPU time since the reading, and the resident memory now.
    pub server: Option<Costs>,
    /// This process's CPU time, as a share of all its cores.
    pub own_share: f64,
}

impl Meter {
    /// Reads what `server` and this process have used until now.
    pub fn read(server: &Server) -> Self {
        Self { at: Instant::now(), server: server.costs(), own_seconds: own_cpu_seconds() }
    }

    /// What was used since this reading; `load_cores` is the number of the load's cores.
    pub fn spent(&self, server: &Server, load_cores: usize) -> Spent {
        let seconds = self.at.elapsed().as_secs_f64().max(1e-6);
        let server = self.server.zip(server.costs()).map(|(before, now)| Costs {
            cpu_seconds: now.cpu_seconds - before.cpu_seconds,
            resident_kib: now.resident_kib,
        });
        let own = own_cpu_seconds() - self.own_seconds;
        Spent { seconds, server, own_share: own / seconds / load_cores as f64 }
    }
}

/// The CPU time of this process, without its children.
fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
