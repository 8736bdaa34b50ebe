//! Tests of the tests: the client session with one mistake planted at a time. Each must turn the vector that is
//! named beside it red ([`bugs`]). There is nothing here but tests.

pub mod bugs;

#[cfg(test)]
include!(concat!(env!("OUT_DIR"), "/planted.rs"));

#[cfg(test)]
mod tests {
    use super::{RUNS, bugs::BUGS};

    #[test]
    fn every_planted_bug_turns_its_vector_red() {
        for (bug, failures) in BUGS.iter().zip(RUNS) {
            let failures = failures();
            let names: Vec<&String> = failures.iter().map(|(name, _)| name).collect();
            println!("{}: {} vectors are red", bug.name, failures.len());
            assert!(
                names.iter().any(|name| *name == bug.red),
                "\"{}\": \"{}\" does not find it; these do: {names:#?}",
                bug.name,
                bug.red
            );
        }
    }
}
