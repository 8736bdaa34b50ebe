//! The built binary, as users and scripts run it: exit codes, and what is printed where.

mod completions;
mod orgs;
mod remote;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Few enough connections for the open files of any machine, so that there is no warning of them.
const FEW: [&str; 3] = [
    "--set=limits.connections=100",
    "--set=limits.connections_per_org=100",
    "--set=limits.publishes_in_flight=100",
];

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
        (
            &["conformance", "--scenario", "nonsense"],
            "there is no scenario \"nonsense\"; --list prints their names",
        ),
        (
            &["conformance", "--scenario", "hole_befor_an_event"],
            "there is no scenario \"hole_befor_an_event\"; did you mean `hole_before_an_event`?",
        ),
        (&["org", "delete", "o"], "to delete the org o and all its events without a terminal, say --yes"),
        (&["org", "show", "a b"], "org must be 1 to 64 characters"),
        (&["event", "delete", "--org", "o", "--yes"], "required arguments were not provided"),
        (&["event", "delete", "--org", "o", "--id", "i"], "required arguments were not provided"),
        (
            &["event", "delete", "--org", "o", "--id", "i", "--service", "s", "--user", "u"],
            "cannot be used with",
        ),
        (&["conformance", "--scenario", ""], "there is no scenario \"\"; --list"),
        (&["conformance", "--", "client", "{tokenurl}"], "there is no placeholder {tokenurl}"),
        (&["conformance", "--scenario", "pong", "--transport", "sse"], "none of these scenarios is for"),
        (&["conformance", "--listen", "192.0.2.1:0"], "--listen: cannot listen on 192.0.2.1:0"),
        (&["conformance", "--", "/no/such/client"], "start /no/such/client: No such file"),
        (&["log", "check", "--data-dir", "d"], "there is no log in d; log.dir or --data-dir names"),
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
fn the_kit_lists_its_scenarios_and_judges_a_client() {
    let dir = dir();
    let list = run(dir.path(), &["conformance", "--list", "--json", "--scenario", "hole*"]);
    let names: Vec<String> = list
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["scenario"].to_string())
        .collect();
    assert!(list.code == Some(0) && names.len() > 3, "{list:?}");
    assert!(names.iter().all(|name| name.starts_with("\"hole_")), "{names:?}");

    // A client that prints one line and ends.
    let client = |words: &str, scenario: &str| {
        let args =
            ["conformance", "--scenario", scenario, "--transport", "sse", "--", "/bin/sh", "-c", words];
        run(dir.path(), &args)
    };
    let ran = client("echo hello; echo why >&2", "events");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for words in [
        "FAILED   events (sse)\n  expected: lines of JSON objects on standard output, and nothing else\n",
        "  seen:     the line hello\n",
        "  rule:     spec/README.md, \"What your client prints\"\n",
        "0 passed, 1 failed, 0 skipped\n",
    ] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    assert_eq!(ran.err, "tidegate: the client fails events (sse)\n");
    let ran = client("echo {} $TIDEGATE_TRANSPORT {org} >&2", "start_from_a_cursor");
    assert!(ran.out.contains("the client's process ended (exit status: 0)"), "{}", ran.out);
    assert!(ran.out.contains("  client:   {} sse start_from_a_cursor.sse.0\n"), "{}", ran.out);
    assert!(ran.out.contains("  rule:     spec/README.md, \"Run your client\"\n"), "{}", ran.out);
    let help = run(dir.path(), &["conformance", "-h"]).out;
    for name in ["url", "stream", "org", "transport", "token", "token_url", "cursor"] {
        assert!(help.contains(&format!("\n  {{{name}}} ")), "{name}: {help}");
    }
    let args = ["conformance", "--scenario", "token*", "--without", "token", "--json", "--", "false"];
    let ran = run(dir.path(), &args);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "tidegate: every scenario was skipped\n"));
    assert!(ran.out.ends_with("{\"failed\":0,\"passed\":0,\"skipped\":8}\n"), "{}", ran.out);
}

#[test]
fn what_is_not_utf8_is_refused_by_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"/data/\xff");
    let keys = format!("auth.keys=[{{secret = \"{SECRET}\"}}]");
    let ran: Ran = tidegate(dir().path(), &[&["config", "check", "--set", &keys][..], &FEW].concat())
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
    // Few enough connections for the open files of any machine.
    let few = ["connections", "connections_per_org", "connections_per_address", "publishes_in_flight"]
        .map(|limit| format!("--set=limits.{limit}=100"));
    let check =
        [&["config", "check", "--config", "c.toml"][..], &few.each_ref().map(String::as_str)].concat();
    let ran = run(dir.path(), &check);
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
fn config_check_says_all_that_serve_would() {
    let dir = with_secret();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("made");
    std::fs::write(data.join("format"), "tidegate log 99\n").expect("written");
    std::fs::write(data.join("keys.toml"), "key = 3\n").expect("written");
    let sets = ["log.dir=data", "limits.orgs=0", "listen.public=192.0.2.1:0", "ping.timeout=25s"];
    let sets = sets.map(|set| format!("--set={set}"));
    let given = [&["--config", "c.toml"][..], &sets.each_ref().map(String::as_str)].concat();
    let ran = run(dir.path(), &[&["config", "check"][..], &given].concat());
    assert_eq!(ran.code, Some(2));
    for words in [
        "--set log.dir: log.dir: the log directory data has the format \"tidegate log 99\"",
        "auth.keys_file: read data/keys.toml: line 1: ",
        "--set limits.orgs: limits.orgs: 0 must be a whole number",
        "--set listen.public: listen.public: cannot listen on 192.0.2.1:0: ",
        "--set ping.timeout: ping.timeout: \"25s\" must be less than ping.interval",
    ] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    assert_eq!(ran.err.lines().count(), 5 + ran.err.matches("warning: ").count(), "{}", ran.err);
    let left: Vec<_> =
        std::fs::read_dir(&data).expect("a directory").map(|e| e.expect("a file").file_name()).collect();
    assert_eq!(left.len(), 2, "it changes nothing: {left:?}");
}

#[test]
fn config_check_refuses_a_directory_that_even_root_cannot_make() {
    let dir = with_secret();
    let ran = run(dir.path(), &["config", "check", "--config", "c.toml", "--set", "log.dir=/proc/x/y"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let said = "log.dir: cannot make a directory in \"/proc\": it is a file system of the kernel";
    assert!(ran.err.contains(said), "{}", ran.err);
}

#[test]
fn an_empty_variable_names_no_file() {
    let keys = format!("--set=auth.keys=[{{secret = \"{SECRET}\"}}]");
    let dir = dir();
    let mut check = tidegate(dir.path(), &[&["config", "check", &keys][..], &FEW].concat());
    let ran: Ran = check.env("TIDEGATE_CONFIG", "").output().expect("it runs").into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn health_needs_nothing_of_the_configuration_but_the_address() {
    let dir = dir();
    // Nobody can listen on port 0, so this address is free for sure.
    let file = "[listen]\nadmin = \"127.0.0.1:0\"\npublik = 3\n[auth]\nkeys = [{secret_file = \"none\"}]\n";
    std::fs::write(dir.path().join("c.toml"), file).expect("written");
    for more in [&["--config", "c.toml"][..], &["--admin", "127.0.0.1:0", "--config", "none.toml"]] {
        let ran = run(dir.path(), &[&["health", "--live"][..], more].concat());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.starts_with("tidegate: no gateway answers at 127.0.0.1:0: "), "{}", ran.err);
    }
    let ran = run(dir.path(), &["health", "--live", "--config", "none.toml"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.err.starts_with("tidegate: --config: cannot read none.toml: ")
            && ran
                .err
                .ends_with("\nso listen.admin is not known; name the operators' address with --admin\n"),
        "{}",
        ran.err
    );
}

#[test]
fn config_check_compares_connections_with_the_files_that_may_be_open() {
    let dir = with_secret();
    let check = format!(
        "ulimit -n 2000; exec {} config check --config c.toml --set listen.admin=0.0.0.0:0",
        env!("CARGO_BIN_EXE_tidegate")
    );
    let ran: Ran = std::process::Command::new("sh")
        .args(["-c", &check])
        .current_dir(dir.path())
        .output()
        .expect("it runs")
        .into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for words in [
        "tidegate: warning: limits.connections: 50000 connections, limits.publishes_in_flight (4096) and the log \
         need 56144 open files, and a process may have 2000 here, so at most 750 streams are let in; ",
        "tidegate: warning: --set listen.admin: listen.admin: other machines can reach \"0.0.0.0:0\"",
    ] {
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
    }
    assert!(ran.err.ends_with("tidegate: the configuration is good\n"), "{}", ran.err);
    let strict = format!("{check} --strict");
    let ran: Ran = std::process::Command::new("sh")
        .args(["-c", &strict])
        .current_dir(dir.path())
        .output()
        .expect("it runs")
        .into();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.starts_with("tidegate: --set listen.admin: listen.admin: other machines"), "{}", ran.err);
    assert!(ran.err.contains("\nlimits.connections: 50000 connections, "), "{}", ran.err);
}

#[test]
fn a_token_that_is_looked_at_does_not_steer_the_terminal() {
    let part = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let claims = "{\"sub\":\"ann\u{9b}2J\u{202e}\",\"iss\":\"a\u{2067}b\"}";
    let token = format!("{}.{}.x", part(r#"{"alg":"HS256"}"#), part(claims));
    let ran = run(with_secret().path(), &["token", "inspect", "--config", "c.toml", &token]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains(r#""sub": "ann\u009b2J\u202e""#), "{ran:?}");
    for c in ['\u{9b}', '\u{202e}', '\u{2067}'] {
        assert!(!ran.out.contains(c) && !ran.err.contains(c), "{ran:?}");
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

#[test]
fn a_key_is_made_for_one_org_for_some_or_for_all() {
    let dir = dir();
    let at = ["--data-dir", "d"];
    let create = |orgs: &[&str]| run(dir.path(), &[&["key", "create", "--json"][..], orgs, &at].concat());
    for (orgs, expected, only) in [
        (&["--org", "acme"][..], &["acme"][..], Some("acme")),
        (&["--org", "beta,acme-*"], &["beta", "acme-*"], None),
        (&["--org", "b", "--org", "a"], &["a", "b"], None),
        (&["--org", "*"], &["*"], None),
    ] {
        let ran = create(orgs);
        let line: serde_json::Value = serde_json::from_str(ran.out.trim()).expect("JSON");
        assert_eq!((&line["orgs"], line["org"].as_str()), (&expected.into(), only), "{ran:?}");
    }
    let ran = run(dir.path(), &[&["key", "list"][..], &at].concat());
    for orgs in ["  acme  *  active", "  beta,acme-*  *  active", "  a,b  *  active", "  *  *  active"] {
        assert!(ran.out.contains(orgs), "{orgs}: {}", ran.out);
    }
    for (orgs, reason) in [
        (&["--org", "*,acme"][..], "tidegate: --org has \"*\" beside other names; it must stand alone\n"),
        (&["--org", "a*b"], "a `*` may stand only at the end"),
        (&["--org", ""], "an org must be 1 to 64 characters"),
    ] {
        let ran = create(orgs);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(reason), "{}", ran.err);
    }
}
