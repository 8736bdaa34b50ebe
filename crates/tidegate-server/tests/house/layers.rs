//! Which crate, and which module of the server, may use which. Both lists are read by people too: a new
//! part goes into one of them, in the layer above all that it uses.

use std::collections::{BTreeMap, BTreeSet};

use crate::project::{self, Text};

/// The crates of the gateway and the ones each may depend on. `tidegate-audit` shares no code with the
/// gateway: what the gateway gets wrong must not be wrong in the auditor too.
const CRATES: [(&str, &[&str]); 7] = [
    ("tidegate-protocol", &[]),
    ("tidegate-core", &["tidegate-protocol"]),
    ("tidegate-engine", &["tidegate-core", "tidegate-protocol"]),
    ("tidegate-client", &["tidegate-protocol"]),
    ("tidegate-server", &["tidegate-client", "tidegate-core", "tidegate-engine", "tidegate-protocol"]),
    ("tidegate-bench", &["tidegate-protocol"]),
    ("tidegate-audit", &[]),
];

/// Crates without IO, and what would bring some in.
const SANS_IO: [&str; 2] = ["tidegate-protocol", "tidegate-core"];
const IO: [&str; 11] = [
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "libc",
    "hyper",
    "reqwest",
    "getrandom",
    "rand",
    "tracing",
    "tempfile",
];

/// The modules of the server, from the bottom up. A module uses only those of the lines before its own.
const SERVER: [&str; 26] = [
    "random",
    "conformance",
    "log_limiter",
    "heartbeats",
    "systemd",
    "page",
    "feed",
    "transport",
    "config",
    "engines",
    "logs",
    "metrics",
    "deletion",
    "auth",
    "refusals",
    "quotas",
    "admission",
    "hub",
    "node",
    "worker",
    "http",
    "admin",
    "dev",
    "app",
    "preflight",
    "cli",
];

/// Folders whose modules do not use each other in a circle.
const WITHOUT_CIRCLES: [&str; 5] = [
    "crates/tidegate-protocol/src",
    "crates/tidegate-protocol/src/ws",
    "crates/tidegate-core/src",
    "crates/tidegate-engine/src",
    "crates/tidegate-server/src",
];

#[test]
fn crates_depend_one_way() {
    let manifests: BTreeMap<String, String> = project::files(&["toml"])
        .into_iter()
        .filter_map(|Text { path, content }| {
            let name = path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")?.to_owned();
            Some((name, content))
        })
        .collect();
    for folder in manifests.keys() {
        assert!(
            CRATES.iter().any(|(name, _)| name == folder),
            "crates/{folder} is new: add it to CRATES in {} with the crates that it may use",
            file!()
        );
    }
    for (name, allowed) in CRATES {
        let manifest: toml::Table = manifests[name].parse().expect("a manifest is TOML");
        let uses: Vec<&str> =
            manifest["dependencies"].as_table().expect("a table").keys().map(String::as_str).collect();
        for used in uses.iter().filter(|used| used.starts_with("tidegate-")) {
            assert!(allowed.contains(used), "crates/{name}/Cargo.toml: {name} must not depend on {used}");
        }
        if SANS_IO.contains(&name) {
            let io = uses.iter().find(|used| IO.contains(used));
            assert_eq!(io, None, "crates/{name}/Cargo.toml: {name} has no clock, no randomness and no IO");
        }
    }
}

#[test]
fn modules_of_the_server_stand_in_layers() {
    let uses = uses("crates/tidegate-server/src");
    let layer = |module: &str| {
        SERVER.iter().position(|name| *name == module).unwrap_or_else(|| {
            panic!("the module {module} of tidegate-server is new: add it to SERVER in {}", file!())
        })
    };
    for (module, used) in &uses {
        for (other, at) in used {
            assert!(
                layer(other) < layer(module),
                "{at}: `{module}` uses `{other}`, which stands above it (SERVER in {})",
                file!()
            );
        }
    }
    for name in SERVER {
        assert!(uses.contains_key(name), "{}: SERVER lists {name}, which is gone", file!());
    }
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    for folder in WITHOUT_CIRCLES {
        let uses = uses(folder);
        assert!(uses.len() > 3, "{folder}: no modules were found");
        if let Some(circle) = circle(&uses) {
            panic!("{folder}: modules use each other in a circle: {}", circle.join(" -> "));
        }
    }
}

#[test]
fn a_use_is_found_however_it_is_written() {
    let code = "
        use crate::{a::{self, X}, b, self as me};
        use super::c::{Y, Z};
        pub(crate) use crate::d;
        // use crate::not;
        fn f() { let text = \"crate::neither\"; crate::e::g(); super::super::far(); }
    ";
    let code = &format!("{code}\n#[cfg(test)]\nmod tests {{ use crate::nor; }}");
    let found = |root| {
        let mut names: Vec<_> = used_in(code, root).into_iter().map(|(name, _)| name).collect();
        names.dedup();
        names
    };
    assert_eq!(found(true), ["a", "b", "d", "e"]);
    assert_eq!(found(false), ["c"], "in a folder, siblings are found by `super`");
    let circular = BTreeMap::from([("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]);
    let circular = circular
        .into_iter()
        .map(|(from, to)| (from.to_owned(), BTreeMap::from([(to.to_owned(), String::new())])))
        .collect();
    assert_eq!(circle(&circular).expect("there is one").len(), 4);
}

/// For each module of `folder`, the modules beside it that it uses, with a place in the code for each.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

fn uses(folder: &str) -> Uses {
    let is_root = folder.ends_with("/src");
    let mut uses = Uses::new();
    let (mut root, mut modules) = (String::new(), Vec::new());
    for Text { path, content } in project::files(&["rs"]) {
        let Some(inside) = path.strip_prefix(folder).and_then(|path| path.strip_prefix('/')) else {
            continue;
        };
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        let is_test = inside.ends_with("tests.rs") || inside.contains("tests/");
        if ["lib.rs", "mod.rs"].contains(&inside) {
            root = content;
        } else if !is_test && module != "main" {
            uses.entry(module.clone()).or_default();
            // In a folder below the root, only the files directly in it have its modules as `super`.
            if is_root || !inside.contains('/') {
                modules.push((module, path, content));
            }
        }
    }
    // A name that the root exports (`pub use batch::Batch;`) stands for the module that it comes from.
    let from = exports(&root);
    for (module, path, content) in modules {
        for (name, line) in used_in(&content, is_root) {
            let name = from.get(&name).cloned().unwrap_or(name);
            if name != module && uses.contains_key(&name) {
                let used = uses.entry(module.clone()).or_default();
                used.entry(name).or_insert_with(|| format!("{path}:{line}"));
            }
        }
    }
    uses
}

/// The code without comments, texts, and what comes from the first module of tests on. Lines stay lines.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| {
        let (mut kept, mut in_text, mut last) = (String::new(), false, ' ');
        for (at, c) in line.char_indices() {
            if !in_text && line[at..].starts_with("//") {
                break;
            }
            if c == '"' && last != '\\' && last != '\'' {
                in_text = !in_text;
            } else if !in_text {
                kept.push(c);
            }
            last = c;
        }
        kept + "\n"
    });
    lines.collect()
}

/// The first names after `crate::` (at a crate's root) or `super::` (in a folder), with their lines.
fn used_in(code: &str, is_root: bool) -> Vec<(String, usize)> {
    let code = self::code(code);
    let lead = if is_root { "crate::" } else { "super::" };
    let mut found = Vec::new();
    for (at, _) in code.match_indices(lead) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        for path in paths(&code[at + lead.len()..]) {
            let first = path.split("::").next().unwrap_or_default().to_owned();
            if !["self", "super", "crate"].contains(&first.as_str()) {
                found.push((first, line));
            }
        }
    }
    found
}

/// What a crate's root exports under its own name: name -> module.
fn exports(root: &str) -> BTreeMap<String, String> {
    let root = self::code(root);
    let mut from = BTreeMap::new();
    for (at, lead) in root.match_indices("pub use ") {
        for path in paths(&root[at + lead.len()..]) {
            let path = path.trim_start_matches("self::");
            if let (Some((module, _)), Some(name)) = (path.split_once("::"), path.rsplit("::").next()) {
                from.insert(name.to_owned(), module.to_owned());
            }
        }
    }
    from
}

/// The paths of the use tree, or of the plain path, that `text` begins with.
fn paths(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let head = &text[..end];
    if !text[end..].starts_with('{') || !(head.is_empty() || head.ends_with("::")) {
        return vec![head.to_owned()];
    }
    let (mut paths_found, mut depth, mut item) = (Vec::new(), 0, String::new());
    for c in text[end..].chars() {
        match c {
            '{' if depth == 0 => {}
            '}' | ',' if depth <= 1 => {
                let item = std::mem::take(&mut item);
                let item = item.split(" as ").next().unwrap_or_default().trim();
                if !item.is_empty() {
                    paths_found.extend(paths(item).into_iter().map(|rest| format!("{head}{rest}")));
                }
            }
            c => item.push(c),
        }
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            break;
        }
    }
    paths_found
}

/// A circle, if there is one, from a module to itself.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    fn walk(uses: &Uses, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let Some(module) = path.last().cloned() else { return false };
        if done.contains(&module) {
            return false;
        }
        for next in uses.get(&module).into_iter().flat_map(|used| used.keys()) {
            if let Some(start) = path.iter().position(|name| name == next) {
                path.drain(..start);
                path.push(next.clone());
                return true;
            }
            path.push(next.clone());
            if walk(uses, path, done) {
                return true;
            }
            path.pop();
        }
        done.insert(module);
        false
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|module| {
        let mut path = vec![module.clone()];
        walk(uses, &mut path, &mut done).then_some(path)
    })
}
