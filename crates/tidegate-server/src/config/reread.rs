//! A configuration that is read again while its node runs: which keys follow, and which wait for a
//! restart.

use super::{ConfigErrors, Loaded, check, keys::KEYS, load, sources::Sources};

/// What a node does with its configuration read again.
#[derive(Debug)]
pub struct Reread {
    /// What it is to run with: its own, with what is reread taken over.
    pub loaded: Loaded,
    /// Keys that were taken over and are not as before.
    pub changed: Vec<&'static str>,
    /// Keys that were changed and wait for a restart.
    pub waiting: Vec<&'static str>,
}

/// Keys of `auth` and `limits` that the node's parts are built with.
const BUILT_IN: [&str; 5] = [
    "auth.keys_file",
    "limits.orgs",
    "limits.publishes_in_flight",
    "limits.publish_queue_bytes",
    // A queue that holds one request of the greatest size is sized by it.
    "limits.events_per_batch",
];

/// Whether `key` is taken over from a configuration that is read again.
pub fn is_reread(key: &str) -> bool {
    (key.starts_with("auth.") || key.starts_with("limits.")) && !BUILT_IN.contains(&key)
}

/// Reads `sources` again for a node that runs with `running`. Whatever is wrong, nothing comes of it.
pub fn reread(sources: &Sources, running: &Loaded) -> Result<Reread, ConfigErrors> {
    let read = load(sources)?;
    let (mut changed, mut waiting) = (Vec::new(), Vec::new());
    for ((key, before), (_, after)) in running.config.show().iter().zip(read.config.show()) {
        if *before != after {
            if is_reread(key.name) { &mut changed } else { &mut waiting }.push(key.name);
        }
    }
    // What is redacted looks the same when it is not.
    let (before, after) = (&running.config.auth, &read.config.auth);
    for (key, is_same) in
        [("auth.keys", before.keys == after.keys), ("auth.issuers", before.issuers == after.issuers)]
    {
        if !is_same && !changed.contains(&key) {
            changed.push(key);
        }
    }
    let mut loaded = running.clone();
    loaded.config.auth = read.config.auth;
    loaded.config.limits = read.config.limits;
    for key in KEYS.iter().map(|key| key.name).filter(|key| is_reread(key)) {
        match read.places.get(key) {
            Some(place) => loaded.places.insert(key, place.clone()),
            None => loaded.places.remove(key),
        };
    }
    let (config, now) = (&mut loaded.config, &running.config);
    config.auth.keys_file.clone_from(&now.auth.keys_file);
    config.limits.orgs = now.limits.orgs;
    config.limits.publishes_in_flight = now.limits.publishes_in_flight;
    config.limits.publish_queue_bytes = now.limits.publish_queue_bytes;
    config.limits.events_per_batch = now.limits.events_per_batch;
    // New bounds must also fit those that stay as they are.
    let unfit = check::relations(&loaded);
    if unfit.is_empty() { Ok(Reread { loaded, changed, waiting }) } else { Err(ConfigErrors(unfit)) }
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
        assert_eq!(read.changed, ["auth.leeway", "limits.connections_per_user", "auth.keys"]);
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
        // What waits is as it was, and what is taken over is as given.
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
        let sets =
            ["limits.publish_queue_bytes=128MiB", "tail.org_max_bytes=128MiB", "limits.request_bytes=80MiB"];
        let said = read(&sets).expect_err("refused").to_string();
        assert!(said.contains("limits.publish_queue_bytes"), "{said}");
    }
}
