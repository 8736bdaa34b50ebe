//! Publishers' keys: which are accepted, and how the file may change under a running server.

use std::os::unix::fs::PermissionsExt;

use tidegate_protocol::ServiceName;

use super::{reserve::planted, *};

const NOW: UnixMillis = 1_800_000_000_000;

struct Keys {
    _dir: tempfile::TempDir,
    file: KeysFile,
}

fn keys() -> Keys {
    let dir = tempfile::tempdir().expect("a directory");
    let file = KeysFile::at(dir.path().join("data/keys.toml"));
    Keys { _dir: dir, file }
}

fn org(name: &str) -> OrgId {
    OrgId::parse(name).expect("an org")
}

fn orgs(texts: &[&str]) -> Orgs {
    Orgs::parse(texts.iter().copied()).expect("orgs")
}

fn create(file: &KeysFile, services: &[&str]) -> NewKey {
    let services = parse_services(services.iter().copied()).expect("services");
    file.create(&orgs(&["acme"]), &services, None, NOW).expect("a key")
}

fn said(publishers: &Publishers, plain: &str, now: UnixMillis) -> String {
    match publishers.verify(plain, now).and_then(|key| key.for_org(&org("acme"))) {
        Ok(grant) => format!("{} {:?}", grant.org(), grant.services()),
        Err(refusal) => format!("{}: {}", refusal.code.name(), refusal.message),
    }
}

#[test]
fn a_key_publishes_to_its_org_and_services() {
    let keys = keys();
    let key = create(&keys.file, &["finance"]);
    let publishers = Publishers::open(keys.file, NOW).expect("open");
    assert_eq!(said(&publishers, &key.plain, NOW), "acme finance");
    let verified = publishers.verify(&key.plain, NOW).expect("a key");
    let grant = verified.for_org(&org("acme")).expect("a grant");
    assert_eq!(**grant.key_id(), key.entry.id);
    let service = |name| ServiceName::parse(name).expect("a name");
    assert!(grant.check(&service("finance")).is_ok());
    let refusal = grant.check(&service("staff")).expect_err("refused");
    assert_eq!(
        (refusal.code, &*refusal.message),
        (Code::Forbidden, "the API key does not cover the service staff")
    );
    let refusal = verified.for_org(&org("other")).expect_err("refused");
    assert_eq!(
        (refusal.code, &*refusal.message),
        (Code::Forbidden, "the API key does not cover the org other")
    );
}

#[test]
fn a_key_for_many_orgs_is_kept_in_the_file_beside_those_for_one() {
    let keys = keys();
    let (one, all) = (create(&keys.file, &["*"]), Filter::all());
    let made = |texts: &[&str]| keys.file.create(&orgs(texts), &all, None, NOW).expect("a key");
    let (any, some) = (made(&["*"]), made(&["beta", "acme-*"]));
    let text = std::fs::read_to_string(keys.file.path()).expect("a file");
    for line in [r#"org = "acme""#, r#"orgs = ["*"]"#, r#"orgs = ["beta", "acme-*"]"#] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    let publishers = Publishers::open(keys.file, NOW).expect("open");
    for (key, covered, others) in [
        (one, &["acme"][..], &["acme-1", "beta"][..]),
        (any, &["acme", "beta", "z"], &[]),
        (some, &["beta", "acme-1"], &["acme", "beta-1"]),
    ] {
        let grant = publishers.verify(&key.plain, NOW).expect("a key");
        for name in covered {
            assert_eq!(grant.for_org(&org(name)).expect("covered").org().as_str(), *name);
        }
        for name in others {
            assert_eq!(grant.for_org(&org(name)).expect_err("refused").code, Code::Forbidden, "{name}");
        }
    }
}

#[test]
fn a_file_that_is_no_plain_file_is_left_as_it_is() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let dir = tempfile::tempdir().expect("a directory");
    // A null device of its own, if this user may make one; otherwise a directory.
    let path = dir.path().join("keys.toml");
    let made = mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 3));
    made.or_else(|_| std::fs::create_dir(&path)).expect("made");
    let before = std::fs::metadata(&path).expect("there").file_type();
    let file = KeysFile::at(path.clone());
    let made = file.create(&orgs(&["acme"]), &Filter::all(), None, NOW);
    let refused = made.err().expect("refused").to_string();
    assert!(refused.contains("keys.toml") && refused.contains("not a plain file"), "{refused}");
    assert_eq!(std::fs::metadata(&path).expect("there").file_type(), before);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing is made beside it");
}

#[test]
fn a_link_in_the_place_of_the_lock_is_not_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, other) = (dir.path().join("keys.toml"), dir.path().join("other"));
    std::os::unix::fs::symlink(&other, dir.path().join("keys.toml.lock")).expect("a link");
    let refused = KeysFile::at(path.clone()).create(&orgs(&["acme"]), &Filter::all(), None, NOW);
    assert!(refused.err().expect("refused").to_string().contains("keys.toml"));
    assert!(!other.exists() && !path.exists(), "nothing is made");
}

#[test]
fn a_link_to_the_file_stays_a_link() {
    let keys = keys();
    create(&keys.file, &["*"]);
    let link = keys._dir.path().join("link.toml");
    std::os::unix::fs::symlink(keys.file.path(), &link).expect("a link");
    create(&KeysFile::at(link.clone()), &["*"]);
    assert!(std::fs::symlink_metadata(&link).expect("there").file_type().is_symlink());
    assert_eq!(keys.file.list().expect("keys").len(), 2);
}

#[test]
fn p5_a_key_is_revoked_on_a_full_disk_and_the_reserve_is_made_again() {
    let keys = keys();
    let key = create(&keys.file, &["*"]);
    let reserve = keys.file.path().with_extension("toml.reserve");
    let taken = || {
        std::fs::metadata(&reserve).map_or(0, |found| std::os::unix::fs::MetadataExt::blocks(&found) * 512)
    };
    assert!(taken() >= 64 << 10, "{}", taken());
    planted::full(true);
    keys.file.revoke(&key.entry.id, NOW).expect("revoked");
    assert!(keys.file.list().expect("keys")[0].revoked.is_some());
    assert_eq!(std::fs::metadata(keys.file.path()).expect("there").permissions().mode() & 0o777, 0o600);
    std::fs::remove_file(&reserve).expect("made again");
    let refused = keys.file.revoke(&key.entry.id, NOW).expect_err("no room").to_string();
    assert!(refused.contains("write") && refused.contains("keys.toml"), "{refused}");
    planted::full(false);
    keys.file.keep_reserve().expect("room");
    assert!(taken() >= 64 << 10, "{}", taken());
    assert_eq!(keys.file.list().expect("keys").len(), 1);
}

#[test]
fn a_reserve_is_not_made_while_the_keys_are_changed_or_if_they_cannot_be_locked() {
    let keys = keys();
    create(&keys.file, &["*"]);
    let reserve = keys.file.path().with_extension("toml.reserve");
    std::fs::remove_file(&reserve).expect("there");
    let lock = keys.file.path().with_extension("toml.lock");
    let changing = std::fs::File::open(&lock).expect("there");
    changing.lock().expect("locked");
    keys.file.keep_reserve().expect("another time");
    assert!(!reserve.exists());
    drop(changing);
    std::fs::remove_file(&lock).expect("there");
    std::os::unix::fs::symlink(&lock, &lock).expect("a link to itself");
    assert!(keys.file.keep_reserve().expect_err("refused").to_string().contains("lock"));
    assert!(!reserve.exists());
    std::fs::remove_file(&lock).expect("there");
    keys.file.keep_reserve().expect("room");
    assert!(reserve.exists());
}

#[test]
fn a_lock_that_root_has_made_is_given_to_the_owner_of_the_keys() {
    use std::os::unix::fs::{MetadataExt, chown};
    let keys = keys();
    create(&keys.file, &["*"]);
    let lock = keys.file.path().with_extension("toml.lock");
    let owner = || std::fs::metadata(&lock).expect("there").uid();
    // Only root can give files away.
    if owner() != 0 || chown(keys.file.path(), Some(4321), None).is_err() {
        return;
    }
    create(&keys.file, &["*"]);
    assert_eq!(owner(), 4321);
    let other = keys._dir.path().join("other");
    std::fs::remove_file(&lock).expect("there");
    std::fs::write(&other, "").expect("written");
    std::fs::hard_link(&other, &lock).expect("a link");
    create(&keys.file, &["*"]);
    assert_eq!(owner(), 0, "it has another name");
}

#[test]
fn other_keys_are_refused_alike() {
    let keys = keys();
    let key = create(&keys.file, &["*"]);
    let publishers = Publishers::open(keys.file, NOW).expect("open");
    let unknown = "unauthorized: the API key is not one of this gateway's";
    let malformed = "unauthorized: an API key looks like tgk_<id>_<secret>";
    let id = &key.entry.id;
    let mut wrong = key.plain.clone();
    wrong.replace_range(wrong.len() - 1.., if wrong.ends_with('0') { "1" } else { "0" });
    for (plain, expected) in [
        (wrong, unknown),
        (format!("{}0", key.plain), unknown),
        (key.plain[..key.plain.len() - 1].to_owned(), unknown),
        (format!("tgk_{id}_"), unknown),
        (format!("tgk_{id}_{}", key.entry.hash), unknown),
        (key.plain.replace(id, "000000000000"), unknown),
        (format!("tgk_{id}"), malformed),
        (key.plain.to_uppercase(), malformed),
        (format!(" {}", key.plain), malformed),
        (format!("tgk_{}_x", "a".repeat(100)), malformed),
        (format!("tgk_{id}_{}", "a".repeat(100_000)), malformed),
        (String::new(), malformed),
        ("tgk_".to_owned(), malformed),
    ] {
        assert_eq!(said(&publishers, &plain, NOW), expected, "{plain:.80}");
    }
}

#[test]
fn the_file_keeps_hashes_for_its_owner_alone() {
    let keys = keys();
    let key = create(&keys.file, &["*"]);
    let text = std::fs::read_to_string(keys.file.path()).expect("a file");
    let secret = key.plain.rsplit('_').next().expect("a secret");
    assert_eq!(secret.len(), 64, "256 bits");
    assert!(!text.contains(secret), "{text}");
    let mode = std::fs::metadata(keys.file.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_running_server_follows_new_and_revoked_keys() {
    let keys = keys();
    let publishers = Publishers::open(keys.file.clone(), NOW).expect("no file yet is fine");
    let first = create(&keys.file, &["*"]);
    assert_eq!(
        said(&publishers, &first.plain, NOW),
        "acme *",
        "a key that is not known makes it look at once"
    );
    let second = create(&keys.file, &["staff"]);
    assert_eq!(said(&publishers, &second.plain, NOW), "acme staff");
    keys.file.revoke(&first.entry.id, NOW).expect("revoked");
    assert_eq!(said(&publishers, &first.plain, NOW + 999), "acme *", "a known one is looked up each second");
    assert_eq!(said(&publishers, &first.plain, NOW + 1000), "unauthorized: the API key was revoked");
    assert_eq!(said(&publishers, &second.plain, NOW + 1000), "acme staff");
    std::fs::remove_file(keys.file.path()).expect("removed");
    assert_eq!(
        said(&publishers, &second.plain, NOW + 3000),
        "unauthorized: the API key is not one of this gateway's"
    );
    // A clock that was set back does not stop the checks of the file.
    let third = create(&keys.file, &["*"]);
    assert_eq!(said(&publishers, &third.plain, NOW), "acme *");
    keys.file.revoke(&third.entry.id, NOW).expect("revoked");
    assert_eq!(said(&publishers, &third.plain, NOW - 5000), "unauthorized: the API key was revoked");
}

#[test]
fn a_broken_file_changes_nothing_at_runtime_and_stops_a_start() {
    let keys = keys();
    let key = create(&keys.file, &["*"]);
    let publishers = Publishers::open(keys.file.clone(), NOW).expect("open");
    let path = keys.file.path().to_owned();
    let good = std::fs::read_to_string(&path).expect("a file");
    let hash = &key.entry.hash;
    for (broken, reason) in [
        ("[[key]\n".to_owned(), "line 1: "),
        (good.replace("org = \"acme\"", "org = \"a b\""), "org must be 1 to 64"),
        (good.replace("org =", "orgz ="), "unknown field `orgz`"),
        (good.replace("org =", "name ="), "it has neither `org` nor `orgs`"),
        (good.replace("org = \"acme\"", "org = \"acme\"\norgs = [\"acme\"]"), "it has both `org` and `orgs`"),
        (good.replace("org = \"acme\"", "org = \"*\""), "put a `*` into the list `orgs`"),
        (good.replace("org = \"acme\"", "orgs = [\"*\", \"acme\"]"), "must stand alone"),
        (good.replace("org = \"acme\"", "orgs = []"), "`orgs` is empty"),
        (good.replace("[\"*\"]", "[]"), "is empty, which grants nothing"),
        (good.replace(hash.as_str(), "abc"), "is not 64 hex digits"),
        (format!("{good}\n{}", &good[good.find("[[key]]").expect("a key")..]), "appears twice"),
    ] {
        std::fs::write(&path, &broken).expect("written");
        assert_eq!(said(&publishers, &key.plain, NOW + 5000), "acme *");
        assert_eq!(
            said(&publishers, "tgk_0_0", NOW + 5000),
            "unauthorized: the API key is not one of this gateway's"
        );
        let error = Publishers::open(keys.file.clone(), NOW).expect_err("refused").to_string();
        assert!(error.contains(reason) && !error.contains(hash.as_str()), "{error}");
        assert!(
            keys.file.revoke(&key.entry.id, NOW).is_err(),
            "a command does not write over what it cannot read"
        );
    }
    std::fs::write(&path, good).expect("written");
    keys.file.revoke(&key.entry.id, NOW).expect("revoked");
    assert_eq!(said(&publishers, &key.plain, NOW + 10_000), "unauthorized: the API key was revoked");
}

#[test]
fn keys_made_at_the_same_time_are_all_kept() {
    let keys = keys();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    create(&keys.file, &["*"]);
                }
            });
        }
    });
    let list = keys.file.list().expect("a list");
    assert_eq!(list.len(), 80);
}

#[test]
fn a_revoked_key_stays_revoked_and_a_missing_one_is_named() {
    let keys = keys();
    let key = create(&keys.file, &["*"]);
    let first = keys.file.revoke(&key.entry.id, NOW).expect("revoked");
    assert_eq!(first.revoked.as_deref(), Some("2027-01-15T08:00:00.000Z"));
    assert_eq!(keys.file.revoke(&key.entry.id, NOW + 60_000).expect("again").revoked, first.revoked);
    let error = keys.file.revoke("nope", NOW).expect_err("none").to_string();
    assert_eq!(error, "there is no key nope in this file (`tidegate key list` shows them)");
}

#[test]
fn a_deleted_org_takes_its_keys_with_it_and_leaves_those_of_others() {
    let keys = keys();
    let all = Filter::all();
    let make = |names: &[&str]| keys.file.create(&orgs(names), &all, None, NOW).expect("a key");
    let made = [&["acme"][..], &["acme"], &["acme", "beta"], &["acme*"], &["*"], &["beta"]].map(make);
    keys.file.revoke(&made[1].entry.id, NOW).expect("revoked");
    let publishers = Publishers::open(keys.file.clone(), NOW).expect("open");
    let forgotten = publishers.forget_org(&org("acme")).expect("written");
    assert_eq!(forgotten, ForgottenOrg { removed: 2, changed: 1 });
    let left: Vec<String> =
        keys.file.list().expect("keys").iter().map(|key| key.orgs().expect("orgs").to_string()).collect();
    assert_eq!(left, ["beta", "acme*", "*", "beta"]);
    // At once, not within a second.
    assert_eq!(
        said(&publishers, &made[0].plain, NOW),
        "unauthorized: the API key is not one of this gateway's"
    );
    assert!(said(&publishers, &made[2].plain, NOW).starts_with("forbidden: "));
    assert_eq!(said(&publishers, &made[4].plain, NOW), "acme *");
    let stamp = keys.file.stamp();
    assert_eq!(publishers.forget_org(&org("acme")).expect("nothing to do"), ForgottenOrg::default());
    assert_eq!(keys.file.stamp(), stamp, "the file is not written for nothing");
}
