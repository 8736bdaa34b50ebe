//! `docs/rules.md` against everything that cites a rule.
//!
//! - A number that is cited (`R7`, `P3`, or `r7_` in the name of a test) has a section there.
//! - A rule that is called built, because its section has "Kept by:", names a test with its number.
//! - A test that is named there, or by its number in any other document, exists.
//! - A rule that is called not built is borne by no test.

use std::{collections::BTreeSet, fmt};

use crate::project::{self, Text};

/// Where the rules stand.
const RULES: &str = "docs/rules.md";

/// Files that may cite a rule.
const EXTENSIONS: [&str; 5] = ["rs", "md", "py", "mjs", "js"];

/// Words that look like rules and are percentiles.
const PERCENTILES: [u32; 4] = [50, 90, 95, 99];

/// The number of a rule: `P3`, `R7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    letter: char,
    number: u32,
}

impl Rule {
    /// Reads `R7`, or `r7` in the name of a function. No rule has three digits; curves such as `P256` have.
    fn parse(word: &str) -> Option<Self> {
        let letter = word.chars().next().filter(|letter| "PRpr".contains(*letter))?;
        let digits = &word[1..];
        if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let rule = Self { letter: letter.to_ascii_uppercase(), number: digits.parse().ok()? };
        (rule.letter == 'R' || !PERCENTILES.contains(&rule.number)).then_some(rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.letter, self.number)
    }
}

/// The rules that a line cites. A word such as `P-256`, `RS256` or a piece of base64 is none.
fn cited(line: &str) -> Vec<Rule> {
    let is_part = |c: char| c.is_alphanumeric() || "_+/=-".contains(c);
    let mut found = Vec::new();
    for word in line.split(|c: char| !is_part(c)) {
        // `R1/R5` and `R1-R5` are two citations; `R2/x3` is no citation at all.
        let parts: Option<Vec<Rule>> = word
            .split(['/', '-'])
            .map(|part| part.starts_with(['P', 'R']).then(|| Rule::parse(part)).flatten())
            .collect();
        found.extend(parts.unwrap_or_default());
    }
    found
}

/// The rules in the name of a test: those of `r6_r19_a_renewal` are R6 and R19.
fn borne(test: &str) -> Vec<Rule> {
    test.split('_').filter_map(Rule::parse).collect()
}

/// A test function.
#[derive(Debug, PartialEq, Eq)]
struct Test {
    path: String,
    line: usize,
    name: String,
}

/// The tests of a Rust file: functions with an attribute that ends in `test`, and those whose names begin
/// with the number of a rule (a suite that runs over several engines has its attributes in a macro).
fn tests_of(text: &Text) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut is_marked = false;
    for (at, line) in text.content.lines().enumerate() {
        let line = line.trim();
        if let Some(attribute) = line.strip_prefix("#[") {
            let path = attribute.split(['(', ']', ' ']).next().unwrap_or_default();
            is_marked |= path == "test" || path.ends_with("::test");
            continue;
        }
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let declared =
            ["pub ", "async "].iter().fold(line, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        let name = declared.strip_prefix("fn ").map(|rest| {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            &rest[..end]
        });
        if let Some(name) = name {
            let first = name.split('_').next().unwrap_or_default();
            if is_marked || Rule::parse(first).is_some() {
                tests.push(Test { path: text.path.clone(), line: at + 1, name: name.to_owned() });
            }
        }
        is_marked = false;
    }
    tests
}

/// Tests named by a document: `r7_a_half_written…` and `r7_` stand for every test that begins so.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    text: String,
    is_prefix: bool,
}

impl Named {
    fn new(text: &str) -> Self {
        let is_prefix = text.ends_with(['…', '_']);
        Self { text: text.trim_end_matches('…').to_owned(), is_prefix }
    }

    fn matches(&self, test: &Test) -> bool {
        if self.is_prefix { test.name.starts_with(&self.text) } else { test.name == self.text }
    }
}

/// The words of a line that are names of tests with a number.
fn named(line: &str) -> Vec<Named> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '…'))
        .filter(|word| word.contains('_') && word.starts_with(['p', 'r']))
        .filter(|word| Rule::parse(word.split('_').next().unwrap_or_default()).is_some())
        .map(Named::new)
        .collect()
}

/// A line below "Kept by:": a file, and tests in it.
#[derive(Debug)]
struct Kept {
    line: usize,
    file: String,
    tests: Vec<Named>,
}

/// One rule of the document.
#[derive(Debug)]
struct Section {
    rule: Rule,
    line: usize,
    kept: Vec<Kept>,
    is_called_missing: bool,
}

/// The sections of the rules: a heading `### R7. One owner`, text, and "Kept by:" with a list.
fn sections(text: &Text) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut is_list = false;
    for (at, line) in text.content.lines().enumerate() {
        let line_number = at + 1;
        if line.starts_with('#') {
            is_list = false;
            let heading = line.strip_prefix("### ").and_then(|heading| heading.split_once(". "));
            if let Some(rule) = heading.and_then(|(number, _)| Rule::parse(number)) {
                sections.push(Section {
                    rule,
                    line: line_number,
                    kept: Vec::new(),
                    is_called_missing: false,
                });
            }
            continue;
        }
        let Some(section) = sections.last_mut() else { continue };
        section.is_called_missing |= line.contains("Not built yet.");
        if line.starts_with("Kept by:") {
            is_list = true;
        } else if is_list && line.starts_with("- ") {
            let mut words = line.split('`').skip(1).step_by(2);
            let file = words.next().unwrap_or_default().to_owned();
            section.kept.push(Kept { line: line_number, file, tests: words.map(Named::new).collect() });
        } else if !line.is_empty() {
            is_list = false;
        }
    }
    sections
}

/// Everything that is wrong between the rules and the project, each with its place and what to do.
fn faults(rules: &Text, project: &[Text]) -> Vec<String> {
    let sections = sections(rules);
    let tests: Vec<Test> =
        project.iter().filter(|text| text.path.ends_with(".rs")).flat_map(tests_of).collect();
    let mut faults = numbering(rules, &sections);
    if !faults.is_empty() {
        // All that cites a missing number would be found too, and hide the one fault.
        return faults;
    }
    citations(&sections, project, &tests, &mut faults);
    for section in &sections {
        kept(rules, section, project, &tests, &mut faults);
    }
    faults
}

/// The numbers of each letter rise without a hole, so that a rule that was dropped by mistake is missed.
fn numbering(rules: &Text, sections: &[Section]) -> Vec<String> {
    let mut faults = Vec::new();
    for letter in ['P', 'R'] {
        let numbers = sections.iter().filter(|section| section.rule.letter == letter);
        for (section, expected) in numbers.zip(1..) {
            if section.rule.number != expected {
                faults.push(format!(
                    "{}:{}: {} stands where {letter}{expected} is expected: give each rule one section, in order",
                    rules.path, section.line, section.rule
                ));
                break;
            }
        }
    }
    faults
}

/// Numbers and tests that are cited anywhere.
fn citations(sections: &[Section], project: &[Text], tests: &[Test], faults: &mut Vec<String>) {
    let standing: BTreeSet<Rule> = sections.iter().map(|section| section.rule).collect();
    let mut check = |path: &str, line: usize, rule: Rule| {
        if !standing.contains(&rule) {
            faults.push(format!(
                "{path}:{line}: cites {rule}, which does not stand in {RULES}: write its section there, or \
                 cite the rule that is meant"
            ));
        }
    };
    for text in project {
        for (at, line) in text.content.lines().enumerate() {
            cited(line).into_iter().for_each(|rule| check(&text.path, at + 1, rule));
        }
    }
    for test in tests {
        borne(&test.name).into_iter().for_each(|rule| check(&test.path, test.line, rule));
    }
    // What the rules name is looked for file by file, in `kept`.
    for text in project.iter().filter(|text| text.path.ends_with(".md") && text.path != RULES) {
        for (at, line) in text.content.lines().enumerate() {
            for name in named(line).iter().filter(|name| !tests.iter().any(|test| name.matches(test))) {
                faults.push(format!(
                    "{}:{}: names the test {}, which does not exist: name it as it is called now",
                    text.path,
                    at + 1,
                    name.text
                ));
            }
        }
    }
}

/// What the section of one rule says of its tests.
fn kept(rules: &Text, section: &Section, project: &[Text], tests: &[Test], faults: &mut Vec<String>) {
    let Section { rule, line, kept, is_called_missing } = section;
    let path = &rules.path;
    let bears = |test: &Test| borne(&test.name).contains(rule);
    for Kept { line, file, tests: names } in kept {
        let is_file = |path: &str| path == file || path.ends_with(&format!("/{file}"));
        if !project.iter().any(|text| is_file(&text.path)) {
            faults.push(format!("{path}:{line}: there is no file {file}: name it as it is called now"));
            continue;
        }
        for name in names {
            if !tests.iter().any(|test| is_file(&test.path) && name.matches(test)) {
                faults.push(format!(
                    "{path}:{line}: there is no test {} in {file}: name it as it is called now",
                    name.text
                ));
            }
        }
    }
    let names = || kept.iter().flat_map(|kept| &kept.tests);
    let bearing = tests.iter().find(|test| bears(test));
    if kept.is_empty() {
        match bearing {
            None if *is_called_missing => {}
            None => faults.push(format!(
                "{path}:{line}: {rule} says neither what keeps it (\"Kept by:\" and a list) nor \"Not built yet.\""
            )),
            Some(test) => faults.push(format!(
                "{path}:{line}: {} in {}:{} bears {rule}, which has no \"Kept by:\": say what is built, and list it",
                test.name, test.path, test.line
            )),
        }
    } else if !tests.iter().any(|test| bears(test) && names().any(|name| name.matches(test))) {
        let letter = rule.letter.to_ascii_lowercase();
        faults.push(format!(
            "{path}:{line}: {rule} is called built, and no test listed for it has its number: name the test \
             that keeps it {letter}{}_..., and list it",
            rule.number
        ));
    }
}

#[test]
fn every_rule_that_is_cited_stands_and_every_rule_that_is_built_has_a_test() {
    let mut project = project::files(&EXTENSIONS);
    // The texts below cite rules that do not exist, on purpose.
    project.retain(|text| !text.path.ends_with("tests/house/rules.rs"));
    let rules =
        project.iter().find(|text| text.path == RULES).unwrap_or_else(|| panic!("{RULES} is missing"));
    let faults = faults(rules, &project);
    assert!(faults.is_empty(), "the rules and the project differ:\n{}", faults.join("\n"));
}

mod scanner {
    use super::*;

    const RULE: &str = "### P1. Order\n\nText.\n\nKept by:\n\n- `tests/a.rs`: `p1_order…`\n\n### R1. Frames\n\nNot built yet.\n";
    const TEST: &str = "#[test]\nfn p1_order_is_kept() {}\n";

    fn text(path: &str, content: &str) -> Text {
        Text { path: path.to_owned(), content: content.to_owned() }
    }

    /// The faults of a project with these rules, this file `tests/a.rs`, and this file `docs/a.md`.
    fn found(rules: &str, code: &str, page: &str) -> String {
        let rules = text(RULES, rules);
        let project =
            [text(RULES, &rules.content), text("crates/x/tests/a.rs", code), text("docs/a.md", page)];
        faults(&rules, &project).join("\n")
    }

    #[track_caller]
    fn finds(rules: &str, code: &str, page: &str, expected: &str) {
        let found = found(rules, code, page);
        assert!(
            found.starts_with(expected) && found.lines().count() == 1,
            "expected {expected}, found:\n{found}"
        );
    }

    #[test]
    fn what_agrees_has_no_faults() {
        assert_eq!(found(RULE, TEST, "As P1 and R1 say; `p1_order…`, `p1_order_is_kept`, `p1_`."), "");
    }

    #[test]
    fn citations_are_words_of_their_own() {
        let rules = |line: &str| cited(line).iter().map(Rule::to_string).collect::<Vec<_>>();
        assert_eq!(
            rules("// R7: one owner (P3, R12), \"R8: {page}\", R18/R19, P1-P8."),
            ["R7", "P3", "R12", "R8", "R18", "R19", "P1", "P8"]
        );
        for none in [
            "P-256",
            "P256",
            "RS256, ES256",
            "R2D2",
            "the p99 and P99, P50",
            "H4sI/R2+x=",
            "xR7 R7_a R1234",
            "R",
            "r7",
        ] {
            assert_eq!(cited(none), [], "{none}");
        }
    }

    #[test]
    fn tests_are_found_by_their_attribute_or_their_number() {
        let code = "#[test]\n#[ignore]\n// Why.\nfn plain() {}\nfn helper_r9() {}\n    #[tokio::test(flavor = \"x\")]\n    \
                    async fn late_r2_too() {}\nfn r3_on_every_engine(world: World) {}\nfn p99_ratio() {}\n";
        let tests = tests_of(&text("a.rs", code));
        let tests: Vec<_> = tests.iter().map(|test| (test.line, test.name.as_str())).collect();
        assert_eq!(tests, [(4, "plain"), (7, "late_r2_too"), (8, "r3_on_every_engine")]);
        assert_eq!(borne("r6_r19_a_renewal").len(), 2);
    }

    #[test]
    fn a_number_without_a_section_is_found_in_code_tests_and_documents() {
        finds(RULE, &format!("{TEST}// See R9.\n"), "", "crates/x/tests/a.rs:3: cites R9, which");
        finds(
            RULE,
            &format!("{TEST}#[test]\nfn r9_more() {{}}\n"),
            "",
            "crates/x/tests/a.rs:4: cites R9, which",
        );
        finds(RULE, TEST, "One.\nBy P4.", "docs/a.md:2: cites P4, which");
    }

    #[test]
    fn a_built_rule_without_a_test_is_found() {
        let unborne = RULE.replace("p1_order…", "order_is_kept");
        finds(
            &unborne,
            "#[test]\nfn order_is_kept() {}\n",
            "",
            "docs/rules.md:1: P1 is called built, and no test",
        );
        finds(&RULE.replace("Not built yet.", "Text."), TEST, "", "docs/rules.md:9: R1 says neither");
    }

    #[test]
    fn a_rule_called_not_built_that_a_test_bears_is_found() {
        let code = format!("{TEST}#[test]\nfn r1_frames() {{}}\n");
        finds(RULE, &code, "", "docs/rules.md:9: r1_frames in crates/x/tests/a.rs:4 bears R1");
    }

    #[test]
    fn a_test_or_a_file_that_does_not_exist_is_found() {
        let other = RULE.replace("`p1_order…`", "`p1_order…`, `gone…`");
        finds(&other, TEST, "", "docs/rules.md:7: there is no test gone in tests/a.rs");
        let other = format!("{RULE}\nKept by:\n\n- `b.rs`: the tests there\n");
        assert!(found(&other, TEST, "").contains("docs/rules.md:15: there is no file b.rs"));
        finds(RULE, TEST, "\n`p1_gone…`", "docs/a.md:2: names the test p1_gone, which does not exist");
    }

    #[test]
    fn a_rule_that_was_left_out_is_found() {
        finds(&RULE.replace("R1. ", "R2. "), TEST, "", "docs/rules.md:9: R2 stands where R1 is expected");
    }
}
