//! The built binary, as users and scripts run it: exit codes, and what is printed where.

mod completions;
mod remote;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// The result of a run.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The binary in `dir`, without our own environment.
fn tidegate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(dir).env_clear().args(args).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Ran {
    tidegate(dir, args).output().expect("it runs").into()
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn with_secret() -> tempfile::TempDir {
    let dir = dir();
    std::fs::write(dir.path().join("c.toml"), format!("[[auth.keys]]\nkid = \"a\"\nsecret = \"{SECRET}\"\n"))
        .expect("written");
    dir
}

#[test]
fn usage_and_configuration_end_with_2() {
    for (args, words) in [
        (&["nonsense"] as &[&str], "unrecognized subcommand"),
        (&[], "Usage: tidegate"),
        (&["serve", "--nonsense"], "unexpected argument"),
        (&["serve"], "tidegate: auth.keys: is empty, and so is auth.issuers, so nobody could read"),
        (&["serve", "--config", "none.toml"], "tidegate: --config: cannot read none.toml: No such file"),
        (&["serve", "--set", "limits.orgs=0"], "--set limits.orgs: limits.orgs: 0 must be a whole number"),
        (
            &["serve", "--listen", "nowhere"],
            "--listen: listen.public: \"nowhere\" must be an IP address and port",
        ),
        (&["dev", "--listen", "0.0.0.0:0"], "listen.public: \"0.0.0.0:0\" is not on loopback"),
        (&["config", "check", "--set", "log.retenton=1h"], "did you mean `log.retention`?"),
        (&["publish"], "required arguments were not provided"),
        (&["publish", "--file", "-", "--service", "x", "--event", "y"], "cannot be used with"),
        (&["publish", "--org", "o", "--service", "s", "--event", "e"], "--key (or TIDEGATE_KEY)"),
        (&["publish", "--service", "s", "--event", "e", "--key", "k"], "--org (or TIDEGATE_ORG)"),
        (
            &["publish", "--org", "o", "--key", "k", "--service", "s", "--event", "e", "--data", "{"],
            "--data is not JSON",
        ),
        (&["publish", "--org", "o", "--key", "k", "--file", "none"], "--file: cannot read none"),
        (&["publish", "--org", "o", "--key", "k", "--file", "."], "--file: . is a directory"),
        (&["publish", "--org", "a b", "--key", "k", "--file", "-"], "org must be 1 to 64 characters"),
        (&["tail", "--org", "o"], "--token (or TIDEGATE_TOKEN)"),
        (&["tail", "--org", "o", "--token", "t", "--url", "ftp://x"], "--url: \"ftp://x\" is not an address"),
        (&["tail", "--org", "o", "--token", "t", "--url", "http://u:p@x"], "--url must have no credentials"),
        (&["tail", "--cursor", "x"], "cursor must be <epoch>-<seq>"),
        (&["key", "create", "--org", "o", "--services", "a,*"], "--services has \"*\" beside other names"),
        (
            &["token", "create", "--org", "o", "--user", "u", "--services", "*", "--expires-in", "soon"],
            "a time with its unit",
        ),
    ] {
        let ran = run(dir().path(), args);
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[test]
fn what_is_not_utf8_is_refused_by_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"/data/\xff");
    let ran: Ran = tidegate(dir().path(), &["config", "check"])
        .env("TIDEGATE_LOG__DIR", odd)
        .env("TIDEGATE_HOST", odd)
        .output()
        .expect("it runs")
        .into();
    assert_eq!(ran.code, Some(2));
    assert_eq!(ran.err, "tidegate: environment variable TIDEGATE_LOG__DIR: its value is not UTF-8\n");
}

#[test]
fn help_and_version_end_with_0() {
    let dir = dir();
    let ran = run(dir.path(), &["version"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), concat!("tidegate ", env!("CARGO_PKG_VERSION"), " (protocol 1)\n"))
    );
    for args in [&["--help"] as &[&str], &["serve", "--help"], &["publish", "-h"], &["--version"]] {
        assert_eq!(run(dir.path(), args).code, Some(0), "{args:?}");
    }
}

#[test]
fn config_is_checked_and_printed() {
    let dir = with_secret();
    let ran = run(dir.path(), &["config", "check", "--config", "c.toml"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), "tidegate: the configuration is good\n"));
    let ran: Ran = tidegate(dir.path(), &["config", "print", "--set", "limits.orgs=7"])
        .env("TIDEGATE_CONFIG", "c.toml")
        .env("TIDEGATE_PING__INTERVAL", "20s")
        .env("TIDEGATE_PORT", "tcp://10.0.0.1:80")
        .output()
        .expect("it runs")
        .into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("\norgs = 7  # --set limits.orgs (default 20_000)\n"), "{}", ran.out);
    assert!(ran.out.contains(
        "\ninterval = \"20s\"  # environment variable TIDEGATE_PING__INTERVAL (default \"25s\")\n"
    ));
    assert!(ran.out.contains("# c.toml:1:1 (default [])"), "{}", ran.out);
    assert!(!ran.out.contains(SECRET));
    let ran = run(dir.path(), &["config", "print"]);
    assert_eq!(ran.code, Some(2), "what does not fit together is shown, and said");
    assert!(ran.out.contains("[limits]") && ran.err.contains("auth.keys: is empty"), "{ran:?}");
    std::fs::create_dir(dir.path().join("tidegate-data")).expect("made");
    std::fs::write(dir.path().join("tidegate-data/keys.toml"), "key = 3\n").expect("written");
    let ran = run(dir.path(), &["config", "check", "--config", "c.toml"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("read tidegate-data/keys.toml: line 1: "), "{}", ran.err);
}

#[test]
fn no_token_is_made_that_the_gateway_would_refuse() {
    let dir = with_secret();
    let create = |life: &str, more: &[&str]| {
        let args = ["token", "create", "--config", "c.toml", "--org", "o", "--user", "u", "--services", "*"];
        run(dir.path(), &[&args[..], &["--expires-in", life], more].concat())
    };
    let ran = create("31d", &[]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("--expires-in 31d is longer than auth.max_token_life (30d)"), "{}", ran.err);
    for ran in [create("30d", &[]), create("31d", &["--set", "auth.max_token_life=31d"])] {
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

#[test]
fn tokens_are_made_and_looked_at() {
    let dir = with_secret();
    let create = [
        "token",
        "create",
        "--config",
        "c.toml",
        "--org",
        "acme",
        "--user",
        "ann",
        "--services",
        "finance,staff",
    ];
    let ran = run(dir.path(), &create);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let token = ran.out.trim();
    let ran = run(dir.path(), &["token", "inspect", "--config", "c.toml", token]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out.contains("\"sub\": \"ann\"")
            && ran.out.contains("good: user ann may read finance,staff of org acme"),
        "{}",
        ran.out
    );
    let other = format!("auth.keys=[{{secret = \"{}\"}}]", SECRET.replace('0', "1"));
    let ran = run(dir.path(), &["token", "inspect", "--set", &other, token]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("\"sub\": \"ann\""), "{}", ran.out);
    assert_eq!(ran.err, "tidegate: refused (unauthorized): the token's signature does not match\n");
    let ran = run(dir.path(), &[&create[..], &["--kid", "b"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (Some(2), "tidegate: --kid names no key of auth.keys\n"));
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let dir = dir();
    let at = ["--data-dir", "d"];
    let ran = run(dir.path(), &[&["key", "create", "--org", "acme", "--name", "billing"][..], &at].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let key = ran.out.trim().to_owned();
    let id = key.split('_').nth(1).expect("an id").to_owned();
    assert!(key.starts_with("tgk_") && ran.err.contains(&id) && !ran.err.contains(&key), "{ran:?}");
    let ran = run(dir.path(), &[&["key", "list"][..], &at].concat());
    assert!(
        ran.out.contains(&id) && ran.out.contains("active  billing") && !ran.out.contains(&key),
        "{ran:?}"
    );
    let ran = run(dir.path(), &[&["key", "revoke", &key][..], &at].concat());
    assert_eq!((ran.code, ran.err), (Some(0), format!("tidegate: key {id} of acme is revoked\n")));
    let ran = run(dir.path(), &[&["key", "list", "--json"][..], &at].concat());
    let line: serde_json::Value = serde_json::from_str(ran.out.trim()).expect("JSON");
    assert!(line["revoked"].is_string() && line["hash"].is_null(), "{line}");
    let ran = run(dir.path(), &[&["key", "revoke", "nope"][..], &at].concat());
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (Some(1), "tidegate: there is no key nope in this file (`tidegate key list` shows them)\n")
    );
}
