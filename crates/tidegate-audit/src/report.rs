//! The report that an audit prints at its end.

use std::{path::Path, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::findings::Findings;

/// A progress bar over `steps`, shown on a terminal.
pub fn progress(steps: u64, of: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let template = format!("{{elapsed:>4}} {{bar:30}} {{pos}}/{{len}} {of}  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Rows of a name and a value.
#[derive(Debug, Default)]
pub struct Report(Vec<(String, String)>);

impl Report {
    /// Adds a row.
    pub fn row(&mut self, name: impl Into<String>, value: impl ToString) -> &mut Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// Prints the rows, then the findings. True if there are none.
    pub fn print(&self, audit: &str, findings: &Findings, kept: Option<&Path>) -> bool {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        println!();
        for (name, value) in &self.0 {
            println!("  {name:<width$}  {value:>12}");
        }
        let count = findings.count();
        println!("  {:<width$}  {count:>12}\n", "findings");
        let shown = findings.kept();
        for finding in &shown {
            println!("  - {finding}");
        }
        if count > shown.len() {
            println!("  - and {} more", count - shown.len());
        }
        if let Some(kept) = kept.filter(|_| count > 0) {
            println!("  The gateway's directory is kept: {}", kept.display());
        }
        println!("{audit}: {}", if count == 0 { "all promises kept" } else { "promises broken" });
        count == 0
    }
}
