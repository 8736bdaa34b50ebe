//! Makes a copy of the client session, and of the runner of its vectors, for each planted mistake. They are
//! modules of this crate, so that one build has all of them, and the session itself knows nothing of it.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "src/bugs.rs"]
mod bugs;

const CLIENT: &str = "../../crates/tidegate-protocol/src/client";
const RUNNER: &str = "../../crates/tidegate-protocol/tests/session/vector.rs";

fn main() -> Result<(), Box<dyn Error>> {
    for path in [CLIENT, RUNNER, "src/bugs.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = env::var("OUT_DIR")?;
    let mut root = String::new();
    let mut list = String::new();
    for (number, bug) in bugs::BUGS.iter().enumerate() {
        let name = format!("bug_{number}");
        let folder = Path::new(&out).join(&name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        copy(Path::new(CLIENT), &folder.join("client"), "", &name, Some(bug))?;
        let runner = fs::read_to_string(RUNNER)?
            .replace("tidegate_protocol::client", &format!("crate::{name}::client"));
        fs::write(folder.join("vector.rs"), runner)?;
        let path = folder.display();
        writeln!(
            root,
            "#[allow(dead_code, unused, missing_docs)]\nmod {name} {{\n    use tidegate_protocol::*;\n    #[path = \"{path}/client/mod.rs\"]\n    pub mod client;\n    #[path = \"{path}/vector.rs\"]\n    pub mod vector;\n}}"
        )?;
        write!(list, "{name}::vector::failures, ")?;
    }
    writeln!(root, "type Failures = Vec<(String, String)>;\nconst RUNS: &[fn() -> Failures] = &[{list}];")?;
    fs::write(Path::new(&out).join("planted.rs"), root)?;
    Ok(())
}

/// Copies a folder; `crate` becomes the module of the mistake, and the mistake is made in its file.
fn copy(
    from: &Path,
    to: &Path,
    below: &str,
    name: &str,
    bug: Option<&bugs::Bug>,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let file = entry.file_name().into_string().map_err(|_| "a name that is not text")?;
        let place = format!("{below}{file}");
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(&file), &format!("{place}/"), name, bug)?;
            continue;
        }
        if file == "reader.rs" {
            continue;
        }
        let mut text = fs::read_to_string(entry.path())?;
        if let Some(bug) = bug.filter(|bug| bug.file == place) {
            let count = text.matches(bug.of).count();
            if count != 1 {
                return Err(format!(
                    "\"{}\": {place} has this {count} times, not once: {}",
                    bug.name, bug.of
                )
                .into());
            }
            text = text.replace(bug.of, bug.to);
        }
        let text = text.replace("crate::", &format!("crate::{name}::"));
        // `StreamReader` is not part of the session.
        let text = text.replace("mod reader;\n", "").replace("    reader::{Outcome, StreamReader},\n", "");
        // Its unit tests are not wanted.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        fs::write(to.join(&file), text)?;
    }
    Ok(())
}
