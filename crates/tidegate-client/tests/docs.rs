//! What docs/clients.md shows is what is compiled and run.

use std::{fs, path::Path};

#[test]
fn the_page_shows_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(root.join("examples/follow.rs")).expect("the example");
    let page = fs::read_to_string(root.join("../../docs/clients.md")).expect("the page");
    let between = |text: &str, start: &str, end: &str| {
        let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start:?} is not there"));
        rest.split_once(end).expect("an end").0.trim().to_owned()
    };
    let runs = between(&example, "// example: follow\n", "// end\n");
    let shown =
        between(&page, "<!-- example: crates/tidegate-client/examples/follow.rs -->\n```rust\n", "```\n");
    assert_eq!(shown, runs, "docs/clients.md shows other code than examples/follow.rs");
}
