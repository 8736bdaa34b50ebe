//! The files of the project, as text.

use std::{fs, path::Path};

/// One file.
pub struct Text {
    /// From the root of the project, with `/` between.
    pub path: String,
    /// What it holds.
    pub content: String,
}

/// What is built or installed, and not the project's own. Names that begin with a dot are left out too.
const FOREIGN: [&str; 2] = ["target", "node_modules"];

/// All files with one of these extensions, in the order of their paths.
pub fn files(extensions: &[&str]) -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    walk(&root, "", extensions, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn walk(directory: &Path, prefix: &str, extensions: &[&str], found: &mut Vec<Text>) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("read the directory {prefix}: {error}"));
    for entry in entries {
        let entry = entry.expect("an entry of a directory");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let kind = entry.file_type().expect("the type of a file");
        let path = format!("{prefix}{name}");
        if name.starts_with('.') || FOREIGN.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), extensions, found);
        } else if name.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension)) {
            let bytes = fs::read(entry.path()).unwrap_or_else(|error| panic!("read {path}: {error}"));
            found.push(Text { path, content: String::from_utf8_lossy(&bytes).into_owned() });
        }
    }
}
