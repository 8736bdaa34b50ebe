//! What a gateway holds: its memory and open files by the kernel's account, its gauges by its own.

use std::collections::BTreeMap;

use anyhow::Context as _;

/// Gauges of what stays by design after its clients have left (the log, the newest events in memory, known
/// ids), of the configuration, and of the process, whose memory and files are counted here from outside.
const STAYING: &[&str] = &[
    "process_",
    "tidegate_build_info",
    "tidegate_config_",
    "tidegate_dedup_",
    "tidegate_jwks_",
    "tidegate_limit",
    "tidegate_log_",
    "tidegate_memory_bytes",
    "tidegate_orgs",
    "tidegate_replay_page_bytes",
    "tidegate_tail_",
    // Sockets are counted from outside, and this audit has some itself.
    "tidegate_waiting_sockets",
];

/// The gateway's resident memory in bytes, and its number of open files, from the kernel.
pub fn memory_and_files(pid: u32) -> anyhow::Result<(u64, usize)> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the gateway's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("find its memory")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("read its memory")?;
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).context("list its files")?.count();
    Ok((kib << 10, files))
}

/// How many sockets a process has.
pub fn sockets(pid: u32) -> anyhow::Result<usize> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).context("list the gateway's files")?;
    // A file that is closed meanwhile has no link.
    let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    Ok(links.filter(|link| link.to_string_lossy().starts_with("socket:")).count())
}

/// The text of `/metrics`.
pub async fn metrics(client: &reqwest::Client, admin_url: &str) -> anyhow::Result<String> {
    let answer = client.get(format!("{admin_url}/metrics")).send().await.context("read the metrics")?;
    answer.error_for_status()?.text().await.context("read the metrics")
}

/// The samples of a text of metrics, by name and labels.
pub fn samples(text: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("read the sample {line}"))?;
        samples.insert(name.to_owned(), value.parse().with_context(|| format!("read {line}"))?);
    }
    Ok(samples)
}

/// The gauges of what is held for a time: connections, slots, whatever waits. A gauge that is added to the
/// gateway is one of them, until [`STAYING`] names it.
pub fn held(text: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let is_held = |name: &&str| !STAYING.iter().any(|start| name.starts_with(start));
    let gauges = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge"));
    let gauges: Vec<&str> = gauges.filter(is_held).collect();
    let mut held = samples(text)?;
    held.retain(|name, _| gauges.contains(&name.split('{').next().unwrap_or(name)));
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_of_what_is_held_are_told_from_counters_and_from_what_stays() {
        let text = "# TYPE tidegate_connections gauge\ntidegate_connections{transport=\"sse\"} 2\n\
                    # TYPE tidegate_events_total counter\ntidegate_events_total 7\n\
                    # TYPE tidegate_log_bytes gauge\ntidegate_log_bytes{what=\"files\"} 4\n\
                    # TYPE tidegate_new gauge\ntidegate_new 1.5\n# EOF\n";
        let held: Vec<(String, f64)> = held(text).expect("metrics").into_iter().collect();
        let wanted = [("tidegate_connections{transport=\"sse\"}", 2.0), ("tidegate_new", 1.5)];
        assert_eq!(held, wanted.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(samples(text).expect("metrics").len(), 4);
    }
}
