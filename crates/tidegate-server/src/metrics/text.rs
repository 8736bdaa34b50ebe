//! The Prometheus text format, made from OpenMetrics text.

use std::fmt::Write as _;

/// `open` in the Prometheus text format, version 0.0.4. In it the family of a counter has the name of its
/// sample, there are no infos and no units, and no end mark.
pub(super) fn prometheus_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut counter = None;
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), ..) | (Some("#"), Some("UNIT"), ..) => {}
            (Some("#"), Some("HELP"), Some(name), Some(help)) => {
                // The type follows its help; hold the help back until it is known.
                counter = Some((name, help));
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (name, kind) = match kind {
                    "counter" => (format!("{name}_total"), "counter"),
                    "info" => (format!("{name}_info"), "gauge"),
                    other => (name.to_owned(), other),
                };
                if let Some((_, help)) = counter.take() {
                    let _ = writeln!(text, "# HELP {name} {help}");
                }
                let _ = writeln!(text, "# TYPE {name} {kind}");
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
