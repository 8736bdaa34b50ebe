//! The limits of the machine and of the server that a run needs, checked or printed before it begins.

use anyhow::{Context as _, bail};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::peers::tidegate;

/// File descriptors that are not connections of readers: publishers, files, pipes.
const FILES_BESIDE: u64 = 200;

/// Raises the limit of file descriptors to what `connections` need. A server started later inherits it.
pub fn raise_files(connections: usize) -> anyhow::Result<()> {
    let needed = connections as u64 + FILES_BESIDE;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        bail!(
            "{connections} connections need {needed} file descriptors, and this system allows {} (ulimit -Hn): raise the hard limit, or take fewer --connections",
            limit.maximum.unwrap_or(0)
        );
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of file descriptors (ulimit -n)")
}

/// Checks that this machine has a local port for each connection to one address.
pub fn check_ports(connections: usize) -> anyhow::Result<()> {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let ports: Vec<usize> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    if let [first, last] = ports[..]
        && last.saturating_sub(first) < connections
    {
        bail!(
            "{connections} connections need as many local ports, and {path} allows {}: widen it, or take fewer --connections",
            last.saturating_sub(first)
        );
    }
    Ok(())
}

/// The settings that a running gateway needs for this run, as text.
pub fn for_a_running_gateway(connections: usize) -> String {
    let mut words = String::from(
        "This run needs these settings of the gateway (tidegate serve --set, or its configuration file):\n",
    );
    for setting in tidegate::required_limits(connections) {
        words.push_str("  ");
        words.push_str(&setting);
        words.push('\n');
    }
    words.push_str(&format!("  and {} file descriptors (ulimit -n)", connections as u64 + FILES_BESIDE));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_too_low_are_reported_with_the_number() {
        let error = raise_files(usize::MAX / 4).err().map(|error| error.to_string());
        // Without a hard limit, any number is allowed.
        if getrlimit(Resource::Nofile).maximum.is_some() {
            assert!(error.as_deref().unwrap_or_default().contains("ulimit -Hn"), "{error:?}");
        }
        raise_files(10).expect("ten are there");
        assert!(check_ports(100_000).is_err(), "there are 65,536 ports");
        assert!(for_a_running_gateway(500).contains("limits.connections_per_user=600"));
    }
}
