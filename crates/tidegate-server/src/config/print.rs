//! Shows a configuration: `config print`, and the reference in `docs/config.md`.

use std::fmt::Write as _;

use super::{
    Loaded, Location,
    define::Change,
    keys::{KEYS, SECTIONS},
};

/// The effective configuration as commented TOML, each value with its source.
/// Secrets are redacted.
pub fn effective(loaded: &Loaded) -> String {
    let mut out = String::from(
        "# The effective configuration. The comment after each value says where it came from.\n",
    );
    let shown = loaded.config.show();
    for section in SECTIONS {
        out.push('\n');
        comment(&mut out, section.docs);
        let _ = writeln!(out, "[{}]", section.name);
        for (key, value) in shown.iter().filter(|(key, _)| key.section == section.name) {
            comment(&mut out, key.docs);
            let location = loaded.location(key.name);
            if key.is_tables() {
                for line in value.lines().filter(|_| !loaded.config.orgs.NAME.0.is_empty()) {
                    let _ = writeln!(out, "{line}  # {location}");
                }
                continue;
            }
            let _ = match location {
                Location::Default => writeln!(out, "{} = {value}  # default", key.key()),
                location => writeln!(out, "{} = {value}  # {location} (default {})", key.key(), key.default),
            };
        }
    }
    out
}

fn comment(out: &mut String, docs: &[&str]) {
    for line in docs {
        let _ = writeln!(out, "#{line}");
    }
}

/// `docs/config.md`, made from the list that the node reads its configuration by.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for section in SECTIONS {
        let _ = writeln!(out, "\n## `[{}]`\n\n{}", section.name, prose(section.docs));
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let _ = writeln!(out, "\n### `{}`\n\n{}\n", key.name, prose(key.docs));
            let _ = writeln!(out, "- Default: `{}`", key.default);
            let _ = writeln!(out, "- Takes: {}", (key.kind)());
            if let Some(variable) = key.variable() {
                let _ = writeln!(out, "- Environment: `{variable}`");
            }
            let change = match key.change {
                Change::Reread => "reread on SIGHUP",
                Change::Restart => "needs a restart",
            };
            let _ = writeln!(out, "- Change: {change}");
        }
    }
    out
}

fn prose(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n")
}

const INTRODUCTION: &str = r#"# Configuration

<!-- Generated from crates/tidegate-server/src/config/keys.rs by `cargo run -q -p tidegate-server -- config reference > docs/config.md`. -->

A node needs no configuration but a key for its subscribers' tokens (`auth.keys`, or `auth.issuers`).
Values come from these sources, in this order; a later one wins:

1. the defaults below,
2. the TOML file that `--config` (or `TIDEGATE_CONFIG`) names,
3. the environment: `TIDEGATE_LIMITS__CONNECTIONS_PER_USER=20` sets `limits.connections_per_user`.
   Names without a double underscore are ignored,
4. `--set limits.connections_per_user=20`, as often as needed,
5. flags of their own, such as `--listen`.

In the environment and in `--set` a value is TOML; a bare word is text, and so is an address
(`--set listen.admin=[::1]:8081`). A list is given as a whole:
`--set 'auth.origins=["https://app.example.com"]'`.

Times are texts with a unit (`ms`, `s`, `m`, `h`, `d`, largest first: `"1h30m"`), and so are sizes (`B`,
`KiB`, `MiB`, `GiB`). Everything is checked before a port is bound. Unknown keys are refused, and each
fault is reported with its file, line and column, its environment variable or its flag, all of them at
once. `tidegate config check` does this check (exit code 2 if something is wrong), and says what else a
start would refuse or a careful operator would not do; `tidegate config print` shows every value and where
it came from, without secrets.

On SIGHUP, `tidegate serve` reads the same sources again (the file, its own environment, its flags), and
the files of keys that they name. The keys that are marked below as reread are taken over: all of them, or
none if anything is wrong. The log says which, and names the keys that were changed too but need a restart.
New bounds hold for what comes after: existing connections and streams stay, and a stream keeps
its grant until its token expires. (`tidegate dev` ends on SIGHUP, as a terminal's programs do.)
"#;
