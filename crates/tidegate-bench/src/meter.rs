//! What server and load cost between two moments: processor time and memory. Read by [`crate::session`].

use std::time::Instant;

use crate::peers::process::{Costs, Server};

/// The costs at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    at: Instant,
    server: Option<Costs>,
    own_seconds: f64,
}

/// What was spent since.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    pub seconds: f64,
    /// Processor time since, and what is resident now.
    pub server: Option<Costs>,
    /// This process's processor time, of all cores that it has.
    pub own_share: f64,
}

impl Meter {
    /// Reads what `server` and this process have cost until now.
    pub fn read(server: &Server) -> Self {
        Self { at: Instant::now(), server: server.costs(), own_seconds: own_cpu_seconds() }
    }

    /// What was spent since, with so many cores for the load.
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

/// This process's own processor time, without its children's.
fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
