//! A configuration that is read again while its node runs: which keys follow, and which wait for a
//! restart.

use std::collections::BTreeSet;

use super::{
    ConfigErrors, Loaded, check,
    define::{Change, KeyInfo},
    keys::KEYS,
    load,
    sources::Sources,
};

/// What a node does with its configuration read again.
#[derive(Debug)]
pub struct Reread {
    /// The configuration to run with from now on: its own, with the keys that are reread taken over.
    pub loaded: Loaded,
    /// Keys that were taken over and have another value than before.
    pub changed: Vec<&'static str>,
    /// Keys that were changed and wait for a restart.
    pub waiting: Vec<&'static str>,
}

/// Reads `sources` again for a node that runs with `running`. If anything is wrong, nothing is taken over.
pub fn reread(sources: &Sources, running: &Loaded) -> Result<Reread, ConfigErrors> {
    let read = load(sources)?;
    let differing = running.config.differences(&read.config).into_iter();
    let (changed, waiting): (Vec<_>, Vec<_>) = differing.partition(|key| key.change == Change::Reread);
    let names = |keys: Vec<&KeyInfo>| keys.into_iter().map(|key| key.name).collect();
    let mut loaded = running.clone();
    for key in KEYS.iter().filter(|key| key.change == Change::Reread) {
        match read.locations.get(key.name) {
            Some(location) => loaded.locations.insert(key.name, location.clone()),
            None => loaded.locations.remove(key.name),
        };
    }
    loaded.config.take_over(read.config);
    // New bounds must also fit those that stay as they are.
    let unfit = check::relations(&loaded, &BTreeSet::new());
    if unfit.is_empty() {
        Ok(Reread { loaded, changed: names(changed), waiting: names(waiting) })
    } else {
        Err(ConfigErrors(unfit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(sets: &[&str]) -> Sources {
        let mut all =
            vec!["log.engine=memory".to_owned(), format!("auth.keys=[{{secret = \"{}\"}}]", "t".repeat(32))];
        all.extend(sets.iter().map(|set| (*set).to_owned()));
        Sources { sets: all, ..Sources::default() }
    }

    fn read(sets: &[&str]) -> Result<Reread, ConfigErrors> {
        reread(&sources(sets), &load(&sources(&[])).expect("a configuration"))
    }

    #[test]
    fn every_key_is_taken_over_or_waits_as_the_reference_says() {
        let secret = format!("auth.keys=[{{secret = \"{}\"}}]", "u".repeat(32));
        let read = read(&[
            &secret,
            "limits.connections_per_user=7",
            "limits.orgs=7",
            "limits.publishes_in_flight=7",
            "limits.publish_queue_bytes=7MiB",
            "limits.events_per_batch=7",
            "auth.keys_file=elsewhere.toml",
            "auth.leeway=7s",
            "tail.window=7m",
            "logs.level=debug",
        ])
        .expect("good");
        assert_eq!(read.changed, ["auth.keys", "auth.leeway", "limits.connections_per_user"]);
        let waiting = [
            "auth.keys_file",
            "tail.window",
            "logs.level",
            "limits.orgs",
            "limits.publishes_in_flight",
            "limits.publish_queue_bytes",
            "limits.events_per_batch",
        ];
        assert_eq!(read.waiting, waiting);
        // A key that waits has its old value, and one that is taken over its new value.
        let before = load(&sources(&[])).expect("a configuration").config;
        for ((key, was), (_, is)) in before.show().iter().zip(read.loaded.config.show()) {
            assert_eq!(
                *was == is,
                key.name == "auth.keys" || !read.changed.contains(&key.name),
                "{}",
                key.name
            );
        }
        assert_eq!(read.loaded.config.auth.keys[0].secret().map(|s| s.expose()[0]), Some(b'u'));
    }

    #[test]
    fn a_bound_that_does_not_fit_one_that_stays_is_refused() {
        let sets = [
            "limits.publish_queue_bytes=128MiB",
            "limits.in_flight_bytes=160MiB",
            "tail.org_max_bytes=128MiB",
            "limits.request_bytes=80MiB",
        ];
        let said = read(&sets).expect_err("refused").to_string();
        assert!(said.contains("limits.publish_queue_bytes"), "{said}");
    }
}
