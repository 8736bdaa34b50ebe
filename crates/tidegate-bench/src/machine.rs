//! A description of the machine that a run was measured on.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub system: String,
    /// The profile that this tool was compiled with. Figures of `debug` builds are meaningless.
    pub profile: String,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str, separator: char| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split(separator).nth(1).unwrap_or("unknown").trim().trim_matches('"').to_owned()
        };
        let memory = crate::peers::process::field_kib(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0);
        let cores = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
        Self {
            processor: field(&read("/proc/cpuinfo"), "model name", ':'),
            cores,
            memory_mib: memory / 1024,
            kernel: format!("Linux {}", kernel_release(&read("/proc/sys/kernel/osrelease"))),
            system: field(&read("/etc/os-release"), "PRETTY_NAME", '='),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}

/// The version number without the vendor's suffix.
fn kernel_release(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

/// The current time in UTC as RFC 3339, to the second.
pub fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_named() {
        assert_eq!(kernel_release("6.1.0-18-cloud-amd64\n"), "6.1.0");
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_mib > 0, "{machine:?}");
        assert!(now().ends_with('Z'));
    }
}
