//! The table of codes reaches others as data: `spec/codes.json` and a block of the Python example are generated
//! from [`Code::ALL`]; PROTOCOL.md, which people write, is held against it. The TypeScript client has a test of
//! its own that holds its final codes against `spec/codes.json`.
//!
//! `WRITE_CODES=1 cargo test -q -p tidegate-protocol --test codes` writes the generated ones anew.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use tidegate_protocol::{Code, Retry};

const COMMAND: &str = "WRITE_CODES=1 cargo test -q -p tidegate-protocol --test codes";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_default()
}

/// Holds the file against what it should be, or writes it.
fn check(name: &str, fresh: &str) {
    if std::env::var_os("WRITE_CODES").is_some() {
        fs::write(path(name), fresh).expect(name);
    }
    assert!(read(name) == fresh, "{name} is stale; make it anew with: {COMMAND}");
}

fn close(code: Code) -> String {
    code.close().map_or_else(|| "null".to_owned(), |close| close.to_string())
}

#[test]
fn the_table_as_json_is_fresh() {
    let rows: Vec<_> = Code::ALL
        .into_iter()
        .map(|code| {
            let (name, close, status, retry) = (code.name(), close(code), code.status(), code.retry().name());
            let meaning = serde_json::Value::from(code.meaning());
            format!(
                "    {{\"name\": \"{name}\", \"close\": {close}, \"status\": {status}, \"retry\": \"{retry}\", \
                 \"meaning\": {meaning}}}"
            )
        })
        .collect();
    let json = format!("{{\n  \"protocol\": 1,\n  \"codes\": [\n{}\n  ]\n}}\n", rows.join(",\n"));
    let table: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(table["codes"].as_array().map(Vec::len), Some(Code::ALL.len()));
    check("spec/codes.json", &json);
}

#[test]
fn the_block_of_the_python_example_is_fresh() {
    const NAME: &str = "examples/client.py";
    const BEGIN: &str =
        "# The codes that are worth another try. Generated from spec/codes.json; made anew with:\n";
    const END: &str = "# End of the generated block.\n";
    let script = read(NAME);
    let (before, rest) = script.split_once(BEGIN).expect("the begin of the block");
    let (_, after) = rest.split_once(END).expect("the end of the block");
    let mut block = format!("# {COMMAND}\nAGAIN = {{\n");
    for code in Code::ALL.into_iter().filter(|code| code.is_retryable()) {
        let _ = writeln!(block, "    \"{}\",", code.name());
    }
    block.push_str("}\n");
    check(NAME, &format!("{before}{BEGIN}{block}{END}{after}"));
}

/// The cells of the rows of "Codes" in PROTOCOL.md: names, close, status, again.
fn protocol_rows() -> Vec<[String; 4]> {
    let text = read("PROTOCOL.md");
    let (_, section) = text.split_once("\n## Codes\n").expect("a section on codes");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let cells = |row: &str| -> Vec<String> { row.split('|').map(|cell| cell.trim().to_owned()).collect() };
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|row| <[String; 4]>::try_from(row[1..5].to_vec()).expect("four cells")).collect()
}

#[test]
fn the_table_of_the_protocol_is_this_one() {
    let mut listed = BTreeMap::new();
    for [names, close, statuses, again] in protocol_rows() {
        let names: Vec<_> = names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
        // "404, 405" is a status for each name; after a status may come in parentheses where it is another.
        let statuses: Vec<_> = statuses.split(" (").next().expect("a status").split(", ").collect();
        assert_eq!(names.len(), statuses.len(), "{names:?}");
        let retry = match again.split([' ', ',']).next() {
            Some("yes") => Retry::Yes,
            Some("renew") => Retry::Renew,
            Some("no") => Retry::No,
            _ => panic!("{names:?} says {again:?} in the column \"again?\""),
        };
        for (name, status) in names.iter().zip(statuses) {
            let close =
                if close == "\u{2014}" { None } else { Some(close.parse::<u16>().expect("a close code")) };
            let row = (close, status.parse::<u16>().expect("a status"), retry);
            assert!(listed.insert(name.clone(), row).is_none(), "{name} has two rows");
        }
    }
    for code in Code::ALL {
        let row = listed.remove(code.name());
        assert_eq!(row, Some((code.close(), code.status(), code.retry())), "{}", code.name());
    }
    assert!(listed.is_empty(), "PROTOCOL.md lists codes that do not exist: {listed:?}");
}

#[test]
fn every_meaning_is_a_sentence() {
    for code in Code::ALL {
        let meaning = code.meaning();
        assert!(meaning.starts_with(char::is_uppercase) && meaning.ends_with('.'), "{meaning}");
    }
}
