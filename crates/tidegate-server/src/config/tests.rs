//! Every way to get the configuration wrong, and what is said of it.

use std::path::PathBuf;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A directory with a file `c.toml`, shown as `c.toml` in what is said.
struct Given {
    dir: tempfile::TempDir,
    sources: Sources,
}

fn given(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> Given {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.toml");
    std::fs::write(&path, file).expect("a file");
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut sources = Sources {
        file: (!file.is_empty()).then_some(path),
        environment: environment.iter().map(owned).collect(),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
        ..Sources::default()
    };
    sources.command("test", "auth.keys", format!("[{{ secret = \"{SECRET}\" }}]"));
    sources.command("test", "log.dir", quoted(&dir.path().join("data").to_string_lossy()));
    Given { dir, sources }
}

impl Given {
    fn said(&self) -> String {
        let said = match load(&self.sources) {
            Ok(_) => "good".to_owned(),
            Err(errors) => errors.to_string(),
        };
        said.replace(&format!("{}/", self.dir.path().display()), "")
    }

    fn config(&self) -> Config {
        load(&self.sources).expect("a good configuration").config
    }
}

#[track_caller]
fn file_says(file: &str, expected: &str) {
    assert_eq!(given(file, &[], &[]).said(), expected, "for the file:\n{file}");
}

#[track_caller]
fn set_says(sets: &[&str], expected: &str) {
    assert_eq!(given("", &[], sets).said(), expected, "for --set {sets:?}");
}

#[test]
fn defaults_are_what_the_reference_says() {
    let config = given("", &[], &[]).config();
    assert_eq!(config.listen.public.to_string(), "0.0.0.0:8080");
    assert_eq!(config.log.retention, std::time::Duration::from_secs(86_400));
    assert_eq!(config.limits.connections_per_user, 10);
    assert_eq!(config.limits.event_bytes.bytes(), 256 * 1024);
    assert_eq!(config.log.engine, LogEngine::Disk);
    // Each default reads back as itself, so the reference shows what is.
    for (key, shown) in config.show() {
        if !["log.dir", "auth.keys"].contains(&key.name) {
            let default = if key.default.starts_with('"') {
                key.default.to_owned()
            } else {
                key.default.replace('_', "")
            };
            assert_eq!(shown, default, "{}", key.name);
        }
    }
}

#[test]
fn later_sources_win() {
    let file = "[limits]\nconnections_per_user = 11\nconnections_per_address = 12\nheaders = 13\n";
    let environment =
        [("TIDEGATE_LIMITS__CONNECTIONS_PER_ADDRESS", "22"), ("TIDEGATE_LIMITS__HEADERS", "23")];
    let mut given = given(file, &environment, &["limits.headers=33", "limits.headers=34", "limits.orgs=35"]);
    given.sources.flag("--orgs", "limits.orgs", "45");
    let loaded = load(&given.sources).expect("good");
    let limits = &loaded.config.limits;
    assert_eq!(limits.connections_per_user, 11);
    assert_eq!(limits.connections_per_address, 22);
    assert_eq!(limits.headers, 34);
    assert_eq!(limits.orgs, 45);
    let location =
        |key: &str| loaded.location(key).to_string().replace(&format!("{}/", given.dir.path().display()), "");
    assert_eq!(location("limits.connections_per_user"), "c.toml:2:24");
    assert_eq!(
        location("limits.connections_per_address"),
        "environment variable TIDEGATE_LIMITS__CONNECTIONS_PER_ADDRESS"
    );
    assert_eq!(location("limits.headers"), "--set limits.headers");
    assert_eq!(location("limits.orgs"), "--orgs");
    assert_eq!(location("limits.json_depth"), "default");
}

#[test]
fn the_log_is_left_the_files_of_its_segments() {
    let others = |set: &[&str]| load(&given("", &[], set).sources).expect("good").config.other_files();
    assert_eq!(others(&[]), 2048);
    let large = others(&["log.max_bytes=256GiB"]);
    assert!(
        large > 2 * 256 * 16,
        "a segment has 64 MiB at most, and half of that if it ended early: {large}"
    );
    assert!(others(&["log.retention=365d"]) > 365 * 24);
    assert_eq!(others(&["log.engine=memory", "log.max_bytes=256GiB"]), 2048);
}

#[test]
fn typed_values_are_toml_or_else_text() {
    let config = given(
        "",
        &[("TIDEGATE_AUTH__ISSUER", "2026"), ("TIDEGATE_DEDUP__WINDOW", "1m30s")],
        &[
            "auth.origins=[\"https://a.example\", 'http://[::1]:3000']",
            "log.engine=memory",
            "auth.audience=\"a b\"",
            "tail.max_bytes = 1GiB".replace(" = ", "=").as_str(),
        ],
    )
    .config();
    assert_eq!(config.auth.issuer.as_deref(), Some("2026"));
    assert_eq!(config.dedup.window.as_secs(), 90);
    assert_eq!(config.auth.origins.len(), 2);
    assert_eq!(config.auth.audience.as_deref(), Some("a b"));
    assert_eq!(config.log.engine, LogEngine::Memory);
    assert_eq!(config.tail.max_bytes.get(), 1 << 30);
}

#[test]
fn names_without_two_underscores_are_somebody_elses() {
    let environment = [
        ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_TOKEN", "x"),
        ("OTHER__KEY", "1"),
    ];
    assert_eq!(given("", &environment, &[]).said(), "good");
    assert_eq!(
        given("", &[("TIDEGATE_LIMIT__ORGS", "1")], &[]).said(),
        "environment variable TIDEGATE_LIMIT__ORGS: there is no key `limit.orgs`; did you mean `limits.orgs`?"
    );
    assert_eq!(
        given("", &[("TIDEGATE_LIMITS__ORGS", "many")], &[]).said(),
        "environment variable TIDEGATE_LIMITS__ORGS: limits.orgs: \"many\" must be a whole number from 1 to 4294967295"
    );
}

#[test]
fn unknown_keys_are_refused_with_what_was_meant() {
    file_says(
        "[log]\nretenton = \"24h\"\n",
        "c.toml:2:1: there is no key `log.retenton`; did you mean `log.retention`?",
    );
    file_says("[limts]\norgs = 3\n", "c.toml:2:1: there is no key `limts.orgs`; did you mean `limits.orgs`?");
    file_says("colour = 3\n", "c.toml:1:1: there is no key `colour`");
    file_says("[colour]\n", "c.toml:1:2: there is no key `colour`");
    file_says("log = 3\n", "c.toml:1:1: `log` is a section; a key of it must be named, such as `log.engine`");
    file_says("[log.dir]\nx = 1\n", "c.toml:1:1: log.dir: a table must be a path in quotes");
    set_says(
        &["limits.conections=3"],
        "--set limits.conections: there is no key `limits.conections`; did you mean `limits.connections`?",
    );
    set_says(&["limits"], "--set limits: must be key=value, such as limits.connections_per_user=1000");
    set_says(
        &["limits=3"],
        "--set limits: `limits` is a section; a key of it must be named, such as `limits.connections`",
    );
}

#[test]
fn quotas_of_one_org_hold_over_those_of_all() {
    let file = "[limits.org]\nconnections = 5\nstored_bytes = \"1GiB\"\nfilters = 7\n\
                [orgs.acme]\nconnections = 50\nstored_bytes = \"\"\n[orgs.\"a.b\"]\nfilters = 1\n";
    let environment = [("TIDEGATE_LIMITS__ORG__FILTERS", "8")];
    let config = given(file, &environment, &["limits.org.compressors=2"]).config();
    let of = |org: &str| match config.orgs.NAME.0.get(&OrgId::parse(org).expect("a name")) {
        Some(own) => own.over(&config.limits_org),
        None => config.limits_org.clone(),
    };
    let (acme, dotted, other) = (of("acme"), of("a.b"), of("other"));
    assert_eq!((acme.connections, dotted.connections, other.connections), (Some(50), Some(5), Some(5)));
    assert_eq!((acme.filters, dotted.filters, other.filters), (8, 1, 8));
    let gib = Some(ByteSize::new(1 << 30));
    assert_eq!((acme.stored_bytes, other.stored_bytes), (None, gib), "an empty text is no quota");
    assert_eq!((acme.compressors, acme.publish_events_per_second), (Some(2), None));
    // The tables as a whole, in place of those of the file.
    let config = given(file, &[], &["orgs={acme={connections=3}}"]).config();
    assert_eq!(config.orgs.NAME.show(), "\"acme\" = { connections = 3 }");
    // As dotted keys, too.
    assert_eq!(given("[limits]\norg.filters = 3\n", &[], &[]).config().limits_org.filters, 3);
}

#[test]
fn faulty_quotas_are_refused_with_their_place() {
    file_says(
        "[limits.org]\nconections = 5\n",
        "c.toml:2:1: there is no key `limits.org.conections`; did you mean `limits.org.connections`?",
    );
    file_says(
        "[limits]\norg = 5\n",
        "c.toml:2:1: `limits.org` is a section; a key of it must be named, such as `limits.org.connections`",
    );
    file_says(
        "[orgs.acme]\nconnections = 0\nfilters = \"\"\n[orgs.beta]\nconections = 1\n",
        "c.toml:2:15: orgs.NAME: `acme`: `connections`: 0 must be a whole number from 1 to 4294967295\n\
         c.toml:3:11: orgs.NAME: `acme`: `filters`: \"\" must be a whole number from 1 to 4294967295\n\
         c.toml:5:1: orgs.NAME: `beta`: an org has no field \"conections\"; did you mean `connections`?",
    );
    let said = given("[orgs.\"a b\"]\nconnections = 1\n", &[], &[]).said();
    assert!(said.starts_with("c.toml:1:7: orgs.NAME: \"a b\" is no name of an org: "), "{said}");
    file_says(
        "orgs = 3\n",
        "c.toml:1:8: orgs.NAME: 3 must be tables `[orgs.NAME]`, each with keys of `limits.org`",
    );
    set_says(
        &["orgs.acme.connections=5"],
        "--set orgs.acme.connections: the quotas of acme stand in the file, in a table [orgs.acme]",
    );
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_place() {
    let said = given("[log]\nengine = memory\n", &[], &[]).said();
    assert!(said.starts_with("c.toml:2:10: not TOML: "), "{said}");
    let said = given("[log]\nengine = \"disk\"\nengine = \"disk\"\n", &[], &[]).said();
    assert!(said.starts_with("c.toml:3:1: not TOML: duplicate key"), "{said}");
    let said = given("# ü\n[log\n", &[], &[]).said();
    assert!(said.starts_with("c.toml:2:"), "{said}");
    let said = given("", &[], &["auth.origins=[\"https://a.example\""]).said();
    assert!(said.starts_with("--set auth.origins: auth.origins: not TOML: "), "{said}");
    let mut missing = given("", &[], &[]);
    missing.sources.file = Some(missing.dir.path().join("none.toml"));
    assert_eq!(missing.said(), "--config: cannot read none.toml: No such file or directory (os error 2)");
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_what_is_taken() {
    let time = "a time with its unit such as \"50ms\", \"30s\", \"5m\", \"1h30m\" or \"7d\"";
    let size = "a size with its unit such as \"512B\", \"64KiB\", \"4MiB\" or \"1GiB\", more than nothing";
    for (value, shown) in [
        ("5", "5"),
        ("\"5\"", "\"5\""),
        ("\"5 m\"", "\"5 m\""),
        ("\"-5m\"", "\"-5m\""),
        ("\"5M\"", "\"5M\""),
        ("\"\"", "\"\""),
        ("\"30m1h\"", "\"30m1h\""),
        ("\"1m1m\"", "\"1m1m\""),
        ("\"1.5h\"", "\"1.5h\""),
        ("\"99999999999999999999s\"", "\"99999999999999999999s\""),
        ("true", "true"),
        ("[]", "a list"),
        ("1.5", "1.5"),
        ("1979-05-27", "1979-05-27"),
        ("{ }", "a table"),
    ] {
        file_says(
            &format!("[dedup]\nwindow = {value}\n"),
            &format!("c.toml:2:10: dedup.window: {shown} must be {time}"),
        );
    }
    for (value, shown) in [
        ("64", "64"),
        ("\"64KB\"", "\"64KB\""),
        ("\"0B\"", "\"0B\""),
        ("\"99999999999GiB\"", "\"99999999999GiB\""),
    ] {
        file_says(
            &format!("[limits]\nevent_bytes = {value}\n"),
            &format!("c.toml:2:15: limits.event_bytes: {shown} must be {size}"),
        );
    }
    for value in ["0", "-1", "4294967296", "99999999999999999999", "1.0", "\"10\""] {
        file_says(
            &format!("[limits]\norgs = {value}\n"),
            &format!("c.toml:2:8: limits.orgs: {value} must be a whole number from 1 to 4294967295"),
        );
    }
    let address = "an IP address and port such as \"127.0.0.1:8080\" or \"[::1]:8080\"";
    for value in ["\":8080\"", "\"localhost:8080\"", "\"127.0.0.1\"", "\"127.0.0.1:99999\""] {
        file_says(
            &format!("[listen]\npublic = {value}\n"),
            &format!("c.toml:2:10: listen.public: {value} must be {address}"),
        );
    }
    set_says(&["log.engine=nats"], "--set log.engine: log.engine: \"nats\" must be \"memory\" or \"disk\"");
    set_says(&["log.sync=never"], "--set log.sync: log.sync: \"never\" must be \"always\" or \"interval\"");
    set_says(
        &["logs.level=loud"],
        "--set logs.level: logs.level: \"loud\" must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    );
    set_says(
        &["node.workers=0"],
        "--set node.workers: node.workers: 0 must be \"auto\" or a whole number from 1 to 1024",
    );
    set_says(
        &["auth.org_claim="],
        "--set auth.org_claim: auth.org_claim: \"\" must be the name of a claim, 1 to 128 printable ASCII characters",
    );
    set_says(&["dedup.window=4000d"], "--set dedup.window: dedup.window: \"4000d\" is more than ten years");
    set_says(
        &["slow.policy=fast"],
        "--set slow.policy: slow.policy: \"fast\" must be \"catch_up\", \"skip\" or \"latest\"",
    );
    for share in ["0", "0.01", "1.5", "half", "true"] {
        let said = given("", &[], &[&format!("batch.fanout_share={share}")]).said();
        assert!(said.contains("must be a number from 0.05 to 1, such as 0.5"), "{share}: {said}");
    }
}

#[test]
fn origins_are_what_browsers_send() {
    for bad in [
        "*",
        "https://*",
        "https://A.example",
        "https://a.example/",
        "https://a.example:443",
        "http://a.example:80",
        "a.example",
        "https://a.example:0443",
        "https://a.example:99999",
        "ftp://a.example",
        "https://",
        "NULL",
        "file:///",
        "file://a",
        "capacitor://",
        "capacitor://localhost/",
        "Capacitor://localhost",
        "capacitor://u@localhost",
        "app://a b",
        "https://A_b.example",
        "extension://abc",
        "https://a.example:",
        "http://[::g]",
        "https://u@a.example",
        "https://a.example?x",
        "http://a.example:*",
        "http://localhost*",
        "http://x.localhost:*",
        "http://127.0.0.2:*",
        "capacitor://localhost:*",
        "*://localhost:*",
    ] {
        let said =
            given(&format!("[auth]\norigins = [\"https://ok.example\",\n  \"{bad}\"]\n"), &[], &[]).said();
        assert!(
            said.starts_with(&format!(
                "c.toml:3:3: auth.origins: \"{bad}\" must be an origin as browsers send it"
            )),
            "{said}"
        );
    }
    for good in [
        "https://a.example",
        "http://localhost:3000",
        "https://a.example:8443",
        "http://127.0.0.1",
        "http://[::1]:1",
        "http://localhost:*",
        "https://[::1]:*",
        "https://my_app.example",
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "app://.",
        "app://obsidian.md",
        "app://bundle:8080",
        "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
        "moz-extension://0c3ac5a4-1234-4321-8888-000000000000",
        "vscode-webview://1Ab2_c-3",
        "null",
        "file://",
    ] {
        assert_eq!(given("", &[], &[&format!("auth.origins=[\"{good}\"]")]).said(), "good");
    }
}

#[test]
fn any_port_of_loopback_is_no_other_host() {
    let local = Origin::any_of_loopback();
    let admitted = |sent: &str| local.iter().any(|origin| origin.admits(sent.as_bytes()));
    for page in ["http://localhost", "http://localhost:5173", "https://127.0.0.1:1", "http://[::1]:65535"] {
        assert!(admitted(page), "{page}");
    }
    for page in [
        "http://localhost:",
        "http://localhost:*",
        "http://localhost:0x1",
        "http://localhost:05173",
        "http://localhost:65536",
        "http://localhost:5173/",
        "http://localhost:5173.evil.example",
        "http://localhost.evil.example:5173",
        "http://localhost@evil.example",
        "http://evil.localhost:5173",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.2:5173",
        "http://0.0.0.0:5173",
        "http://192.168.1.7:5173",
        "ws://localhost:5173",
        "null",
    ] {
        assert!(!admitted(page), "{page}");
    }
}

#[test]
fn the_name_of_a_cookie_is_one_that_a_browser_would_send_back() {
    for bad in ["a b", "a=b", "a;b", "a,b", "a/b", "\u{e4}"] {
        let said = given("", &[], &[&format!("auth.cookie=\"{bad}\"")]).said();
        assert!(
            said.starts_with("--set auth.cookie: auth.cookie: ")
                && said.contains("must be the name of a cookie"),
            "{said}"
        );
    }
    for good in ["", "session", "__Host-tidegate"] {
        assert_eq!(given("", &[], &[&format!("auth.cookie=\"{good}\"")]).said(), "good");
    }
}

#[test]
fn token_keys_are_checked_and_never_shown() {
    let key = |fields: &str| given(&format!("[[auth.keys]]\n{fields}\n"), &[], &[]).said();
    assert_eq!(
        key("secret = \"short\""),
        "c.toml:2:10: auth.keys: `secret`: the secret has 5 bytes; HS256 needs 32 or more (`openssl rand -hex 32` makes one)"
    );
    assert_eq!(
        key("kid = \"a\""),
        "c.toml:1:1: auth.keys: a key has none of `secret`, `secret_file`, `public_key` and `public_key_file`; it must have one of them"
    );
    assert_eq!(
        key(&format!("secret = \"{SECRET}\"\nsecret_file = \"x\"")),
        "c.toml:1:1: auth.keys: a key has both `secret` and `secret_file`; it must have one of them"
    );
    assert_eq!(
        key("secret_fil = \"x\""),
        "c.toml:2:1: auth.keys: a key has no field \"secret_fil\"; did you mean `secret_file`?"
    );
    assert_eq!(key("secret = 12345678901234567"), "c.toml:2:10: auth.keys: `secret`: must be text in quotes");
    assert_eq!(
        key(&format!("secret = \"{SECRET}\"\nalgorithm = \"none\"")),
        "c.toml:3:13: auth.keys: `algorithm`: \"none\" must be \"HS256\", \"RS256\", \"ES256\" or \"EdDSA\""
    );
    assert_eq!(
        key(&format!("secret = \"{SECRET}\"\nkid = \"\"")),
        "c.toml:3:7: auth.keys: `kid`: must be 1 to 128 bytes"
    );
    let said = key("secret_file = \"/nonexistent/secret\"");
    assert_eq!(
        said,
        "c.toml:2:15: auth.keys: `secret_file`: cannot read /nonexistent/secret: No such file or directory (os error 2)"
    );
    let twice = format!("[[auth.keys]]\nkid = \"a\"\nsecret = \"{SECRET}\"\n").repeat(2);
    assert_eq!(given(&twice, &[], &[]).said(), "c.toml:1:1: auth.keys: has two keys with the kid \"a\"");
    set_says(
        &["auth.keys=[]"],
        "--set auth.keys: auth.keys: is empty, and so is auth.issuers, so nobody could read; add a key with `secret_file` (docs/config.md, [auth])",
    );
    let loose = given("", &[("TIDEGATE_AUTH__KEYS", SECRET)], &[]).said();
    assert!(!loose.contains(SECRET), "{loose}");
    let list = given("", &[], &[&format!("auth.keys=[\"{SECRET}\"]")]).said();
    assert!(!list.contains(SECRET) && list.contains("the value must be a table"), "{list}");
}

#[test]
fn secrets_come_from_files_and_stay_out_of_what_is_printed() {
    let mut given = given("", &[], &[]);
    let path = given.dir.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("a file");
    given.sources.sets.push(format!(
        "auth.keys=[{{secret_file = {}}}, {{kid = \"b\", secret = \"{SECRET}!\"}}]",
        quoted(&path.to_string_lossy())
    ));
    let loaded = load(&given.sources).expect("good");
    assert_eq!(loaded.config.auth.keys[0].secret().map(Secret::expose), Some(SECRET.as_bytes()));
    let printed = effective(&loaded);
    assert!(!printed.contains(SECRET) && !format!("{loaded:?}").contains(SECRET), "{printed}");
    assert!(
        printed.contains(
            "{ kid = \"b\", algorithm = \"HS256\", secret = \"(redacted)\" }]  # --set auth.keys (default [])"
        ),
        "{printed}"
    );
}

#[test]
fn networks_are_taken_as_they_are_meant_or_not_at_all() {
    let good = r#"listen.trusted_proxies=["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1", "0.0.0.0/0"]"#;
    assert_eq!(given("", &[], &[good]).said(), "good");
    for bad in ["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "fd00::1/8", "::ffff:10.0.0.0/104", "all", ""] {
        let said = given("", &[], &[&format!("listen.trusted_proxies=[\"{bad}\"]")]).said();
        assert!(said.contains("must be an address or a network such as"), "{bad}: {said}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    set_says(
        &["dedup.window=25h", "tail.window=26h"],
        "--set dedup.window: log.retention: \"24h\" is less than dedup.window (\"25h\")",
    );
    set_says(
        &["log.retention=1m"],
        "--set log.retention: log.retention: \"1m\" is less than dedup.window (\"5m\")",
    );
    set_says(
        &["tail.window=305s"],
        "--set tail.window: tail.window: \"305s\" must be more than \"5m5s\", the longest time between two tries of a client to reconnect",
    );
    set_says(
        &["dedup.window=1h"],
        "--set dedup.window: tail.window: \"10m\" is less than dedup.window (\"1h\")",
    );
    set_says(
        &["ping.timeout=25s"],
        "--set ping.timeout: ping.timeout: \"25s\" must be less than ping.interval (\"25s\")",
    );
    set_says(
        &["limits.event_bytes=8MiB"],
        "--set limits.event_bytes: limits.request_bytes: \"4MiB\" is less than limits.event_bytes (\"8MiB\")",
    );
    set_says(
        &["limits.in_flight_bytes=7MiB"],
        "--set limits.in_flight_bytes: limits.in_flight_bytes: \"7MiB\" is less than twice limits.request_bytes (\"4MiB\"), and one org gets at most half of it",
    );
    set_says(
        &["limits.token_bytes=32KiB"],
        "--set limits.token_bytes: limits.header_bytes: \"16KiB\" is less than limits.token_bytes (\"32KiB\")\n--set limits.token_bytes: limits.client_frame_bytes: \"16KiB\" is less than limits.token_bytes (\"32KiB\")",
    );
    set_says(
        &["limits.connections=100"],
        "--set limits.connections: limits.connections: 100 is less than limits.connections_per_org (20000)",
    );
    set_says(
        &["dedup.max_entries=1000"],
        "--set dedup.max_entries: dedup.max_entries: 1000 is less than dedup.max_entries_per_org (1000000)",
    );
    set_says(
        &["limits.header_bytes=4KiB", "limits.token_bytes=1KiB"],
        "--set limits.header_bytes: limits.header_bytes: \"4KiB\" must be \"8KiB\" or more",
    );
    set_says(
        &["limits.json_depth=128"],
        "--set limits.json_depth: limits.json_depth: 128 must be 127 or less",
    );
    set_says(&["auth.leeway=6m"], "--set auth.leeway: auth.leeway: \"6m\" must be \"5m\" or less");
    set_says(&["ping.timeout=1ms"], "--set ping.timeout: ping.timeout: \"1ms\" must be \"50ms\" or more");
    set_says(
        &["auth.org_claim=sub"],
        "--set auth.org_claim: auth.org_claim: \"sub\" names two things at once",
    );
    set_says(
        &["listen.admin=127.0.0.1:8080"],
        "--set listen.admin: listen.admin: \"127.0.0.1:8080\" clashes with listen.public (\"0.0.0.0:8080\")",
    );
    assert_eq!(given("", &[], &["listen.public=127.0.0.1:0", "listen.admin=127.0.0.1:0"]).said(), "good");
    assert_eq!(given("", &[], &["listen.public=127.0.0.2:9", "listen.admin=127.0.0.1:9"]).said(), "good");
    let mut given = given("x", &[], &[]);
    let file = given.sources.file.take().expect("a file");
    given.sources.sets.push(format!("log.dir={}", file.join("deeper").display()));
    assert_eq!(
        given.said(),
        "--set log.dir: log.dir: \"c.toml\" is not a directory"
            .replace("c.toml", &file.display().to_string())
            .replace(&format!("{}/", given.dir.path().display()), "")
    );
}

#[test]
fn r23_the_memory_window_is_longer_than_any_delay_of_a_client() {
    let mut backoff = tidegate_protocol::client::Backoff::default();
    let longest = (0..20).map(|_| backoff.next_ms(u64::MAX, None)).max().expect("delays");
    for (window, is_good) in [(longest - 1, false), (longest, false), (longest + 1, true)] {
        let set = format!("tail.window={window}ms");
        assert_eq!(given("", &[], &[&set]).said() == "good", is_good, "a window of {window} ms");
    }
    assert!(given("", &[], &[]).config().tail.window.as_millis() > u128::from(longest), "the default");
}

#[test]
fn all_faults_are_found_in_one_go() {
    let given = given(
        "[log]\nengin = \"disk\"\nsync = \"no\"\n[limits]\norgs = 0\n",
        &[("TIDEGATE_PING__INTERVAL", "soon")],
        &["tail.windw=1h"],
    );
    let said = given.said();
    let locations: Vec<&str> = said.lines().map(|line| line.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(
        locations,
        [
            "c.toml:2:1",
            "--set tail.windw",
            "c.toml:3:8",
            "environment variable TIDEGATE_PING__INTERVAL",
            "c.toml:5:8"
        ]
    );
}

#[test]
fn every_item_of_every_list_is_reported_in_one_go() {
    let origin = "must be an origin as browsers send it";
    let said = given(
        "[auth]\norigins = [\"*\",\n  \"https://ok.example\",\n  \"null/\"]\n[[auth.keys]]\nsecret = \"short\"\nkid = \"\"\n\
         [[auth.keys]]\nsecre = \"x\"\nkidd = \"x\"\n\
         [[auth.issuers]]\nissuer = \"\"\nalgorithms = [\"none\", \"RS999\"]\norgs = [\"a b\", \"c d\"]\njwks = \"http://id.example/\"\n",
        &[],
        &["listen.trusted_proxies=[\"all\", \"none\"]"],
    )
    .said();
    let lines: Vec<&str> = said.lines().collect();
    for (place, words) in [
        ("--set listen.trusted_proxies", "\"all\" must be an address or a network"),
        ("--set listen.trusted_proxies", "\"none\" must be an address or a network"),
        ("c.toml:2:12", origin),
        ("c.toml:4:3", origin),
        ("c.toml:6:10", "the secret has 5 bytes"),
        ("c.toml:7:7", "`kid`: must be 1 to 128 bytes"),
        ("c.toml:9:1", "a key has no field \"secre\"; did you mean `secret`?"),
        ("c.toml:10:1", "a key has no field \"kidd\"; did you mean `kid`?"),
        ("c.toml:12:10", "`issuer`: must be 1 to 1024 bytes"),
        ("c.toml:13:15", "`algorithms`: \"none\" must be"),
        ("c.toml:13:23", "`algorithms`: \"RS999\" must be"),
        ("c.toml:14:8", "`orgs`: \"a b\""),
        ("c.toml:14:8", "`orgs`: \"c d\""),
        ("c.toml:15:8", "`jwks`: must be https"),
    ] {
        let is_said = |line: &&&str| line.starts_with(&format!("{place}: ")) && line.contains(words);
        assert!(lines.iter().any(|line| is_said(&line)), "{place}: {words}, in:\n{said}");
    }
    assert_eq!(lines.len(), 14, "{said}");
}

#[test]
fn relations_are_checked_beside_other_faults_and_not_for_keys_that_are_not_known() {
    let given = given(
        "[limits]\norgs = 0\nevent_bytes = \"8MiB\"\nconnections_per_org = \"many\"\nconnections_per_user = 30_000\n\
         [ping]\ntimeout = \"30s\"\n[log]\nretenton = \"48h\"\n[dedup]\nwindow = \"25h\"\n[tail]\nwindow = \"26h\"\n",
        &[],
        &["auth.keys=[{}]"],
    );
    let said = given.said();
    let keys: Vec<&str> = said
        .lines()
        .map(|line| line.split(": ").nth(1).unwrap_or_default().split(';').next().unwrap_or_default())
        .collect();
    // Whether log.retention is less than dedup.window is not known, nor whether auth.keys is empty.
    assert_eq!(
        keys,
        [
            "there is no key `log.retenton`",
            "auth.keys",
            "limits.connections_per_org",
            "limits.orgs",
            "ping.timeout",
            "limits.request_bytes"
        ],
        "{said}"
    );
}

#[test]
fn a_text_that_opens_like_toml_is_text_where_the_key_takes_it() {
    let config = given("", &[("TIDEGATE_LISTEN__PUBLIC", "[::1]:8080")], &["listen.admin=[::1]:0"]).config();
    assert_eq!(config.listen.admin.to_string(), "[::1]:0");
    assert_eq!(config.listen.public.to_string(), "[::1]:8080");
    let said = given("", &[], &["listen.admin=[::1]"]).said();
    assert!(said.contains("taken as text, \"[::1]\" must be an IP address and port such as"), "{said}");
    // Any text could be an audience or a path, so these are slips.
    for slip in ["auth.audience=[\"a\"", "auth.audience=\"a", "log.dir={data", "auth.audience=[a]"] {
        let said = given("", &[], &[slip]).said();
        assert!(said.contains(": not TOML: "), "{slip}: {said}");
    }
}

#[test]
fn a_list_a_table_and_a_quoted_text_are_never_the_text_that_was_typed() {
    let text = "must be text in quotes";
    let path = "must be a path in quotes";
    for (set, said) in [
        ("auth.audience=[\"a\",\"b\"]", format!("auth.audience: a list {text}")),
        ("auth.audience={a = 1}", format!("auth.audience: a table {text}")),
        ("log.dir=[\"/x\"]", format!("log.dir: a list {path}")),
        ("log.dir=\"\"", format!("log.dir: \"\" {path}")),
    ] {
        let key = set.split('=').next().expect("a key");
        set_says(&[set], &format!("--set {key}: {said}"));
        let variable = "TIDEGATE_".to_owned() + &key.to_uppercase().replace('.', "__");
        let value = &set[key.len() + 1..];
        let said = format!("environment variable {variable}: {said}");
        assert_eq!(given("", &[(&variable, value)], &[]).said(), said, "{value}");
    }
    let config = given("", &[], &["auth.audience=1.5", "log.dir=2026"]).config();
    assert_eq!((config.auth.audience.as_deref(), config.log.dir.to_str()), (Some("1.5"), Some("2026")));
}

#[test]
fn the_operators_address_is_found_beside_any_fault_elsewhere() {
    let listen = "[listen]\nadmin = \"127.0.0.1:9001\"\n";
    let address = |file: &str, environment: &[(&str, &str)], sets: &[&str]| {
        admin_address(&given(file, environment, sets).sources).map(|address| address.port())
    };
    for elsewhere in [
        "",
        "lissten.public = 3\n",
        "[auth]\nkeys = [{secret_file = \"/nowhere/secret\"}]\n",
        "[limits]\norgs = 0\nheders = 3\n",
        "[limits]\norgs = \"1\n[dedup]\nwindow = \"\n",
    ] {
        let file = format!("{listen}{elsewhere}");
        assert_eq!(address(&file, &[], &["log.dri=x"]), Ok(9001), "{file}");
        let file = format!("{elsewhere}{listen}");
        assert_eq!(address(&file, &[], &[]), Ok(9001), "{file}");
        let environment = [("TIDEGATE_LISTEN__ADMIN", "[::1]:9002")];
        assert_eq!(address(&file, &environment, &[]), Ok(9002), "{file}");
        assert_eq!(address(&file, &environment, &["listen.admin=[::1]:9003"]), Ok(9003), "{file}");
    }
    assert_eq!(address("[limits]\norgs = 0\n", &[], &[]), Ok(8081), "the default");
    // Then nobody knows it, and the default may be another gateway's.
    for file in [
        "[listen]\nadmin = \"127.0.0.1:90\n",
        "[listen]\nadmn = \"127.0.0.1:9001\"\n",
        "[log\n",
        "[listen]\nadmin = 1\n",
    ] {
        assert!(address(file, &[], &[]).is_err(), "{file}");
        assert_eq!(address(file, &[], &["listen.admin=[::1]:9003"]), Ok(9003), "{file}");
    }
    let mut unread = given("", &[], &[]).sources;
    unread.file = Some(PathBuf::from("none.toml"));
    let said = admin_address(&unread).expect_err("a fault").to_string();
    assert!(said.starts_with("--config: cannot read none.toml: "), "{said}");
}

#[test]
fn what_is_valid_and_risky_is_a_warning() {
    let warned = |sets: &[&str]| -> Vec<String> {
        let loaded = load(&given("", &[], sets).sources).expect("valid");
        let all = warnings(&loaded).into_iter().map(|warning| warning.to_string());
        // How many files a process may open depends on the machine.
        all.filter(|warning| !warning.contains("open files")).collect()
    };
    assert_eq!(warned(&[]), [""; 0]);
    assert_eq!(warned(&["listen.admin=[::1]:0", "listen.trusted_proxies=[\"10.0.0.0/8\"]"]), [""; 0]);
    for admin in ["0.0.0.0:8081", "[::]:8081", "192.0.2.1:8081"] {
        let said = warned(&[&format!("listen.admin={admin}")]).join("\n");
        assert!(
            said.starts_with(&format!(
                "--set listen.admin: listen.admin: other machines can reach \"{admin}\""
            )),
            "{said}"
        );
    }
    assert_eq!(
        warned(&["auth.keys_file=/nowhere/k.toml"]),
        [
            "--set auth.keys_file: auth.keys_file: \"/nowhere/k.toml\" does not exist, so there are no API keys and \
          nobody can publish; `tidegate key create` makes it"
        ]
    );
    assert_eq!(warned(&["auth.keys_file=/dev/null"]), [""; 0]);
    let small = [
        "limits.event_bytes=64KiB",
        "limits.request_bytes=64KiB",
        "limits.publish_queue_bytes=64KiB",
        "tail.org_max_bytes=16MiB",
        "tail.max_bytes=16MiB",
        "log.max_bytes=16MiB",
        "dedup.window=5m",
    ];
    assert_eq!(
        warned(&small),
        [
            "--set log.max_bytes: log.max_bytes: \"16MiB\" is all that the log may take, and nothing younger than \
             dedup.window (\"5m\") is removed: above \"55924B\" a second on average, publishes are refused \
             (log_full)"
        ]
    );
    assert_eq!(warned(&[&small[..6], &["dedup.window=1m"]].concat()), [""; 0]);
    let said = warned(&["log.min_free=1000000GiB"]).join("\n");
    assert!(
        said.starts_with(
            "--set log.min_free: log.min_free: \"1000000GiB\" is to be left free, and the file system"
        ),
        "{said}"
    );
    assert!(!said.contains("has \"0B\""), "{said}");
    assert_eq!(warned(&["log.min_free=1000000GiB", "log.engine=memory"]), [""; 0]);
    for all in ["\"0.0.0.0/0\"", "\"::/0\"", "\"0.0.0.0/1\", \"128.0.0.0/1\""] {
        let said = warned(&[&format!("listen.trusted_proxies=[{all}]")]).join("\n");
        assert!(said.contains("listen.trusted_proxies: every client counts as a proxy"), "{said}");
    }
}

#[test]
fn what_is_printed_reads_back_as_itself() {
    let sets = [
        "log.engine=memory",
        "auth.origins=[\"https://a.example\"]",
        "dedup.window=1m30s",
        "limits.event_bytes=1500B",
        "node.workers=3",
        "limits.org.filters=3",
        "orgs={acme={connections=3, stored_bytes=\"1GiB\"}, b={compressors=\"\"}}",
    ];
    let mut first = given("", &[], &sets);
    let path = first.dir.path().join("secret");
    std::fs::write(&path, SECRET).expect("a file");
    first.sources.sets.push(format!("auth.keys=[{{secret_file = {}}}]", quoted(&path.to_string_lossy())));
    let printed = effective(&load(&first.sources).expect("good"));
    let second = given(&printed, &[], &[]);
    let (one, two) = (load(&first.sources).expect("good"), load(&second.sources).expect("good"));
    assert_eq!(
        one.config.show().iter().map(|(_, v)| v).collect::<Vec<_>>(),
        two.config.show().iter().map(|(_, v)| v).collect::<Vec<_>>()
    );
}

#[test]
fn keys_are_found_without_a_configuration_that_could_serve() {
    let sources =
        Sources { sets: vec!["log.dir=d".to_owned(), "dedup.window=99h".to_owned()], ..Sources::default() };
    assert_eq!(keys_file(&sources), Ok(PathBuf::from("d/keys.toml")));
    let sources =
        Sources { sets: vec!["auth.keys_file=k".to_owned(), "log.dri=x".to_owned()], ..Sources::default() };
    let said = keys_file(&sources).expect_err("a fault").to_string();
    assert_eq!(said, "--set log.dri: there is no key `log.dri`; did you mean `log.dir`?");
}

#[test]
fn the_reference_is_fresh() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/config.md is stale; make it anew with: cargo run -q -p tidegate-server -- config reference > docs/config.md"
    );
}

/// The `.rs` files under `dir`.
fn sources_under(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.chain(dirs.iter().flat_map(|dir| sources_under(dir))).collect()
}

/// A bound with a default in code and one in the list of keys has two, which differ sooner or later.
#[test]
fn no_part_has_defaults_beside_the_list_of_keys() {
    let is_bounds = |name: &str| ["Limits", "Options", "Settings"].iter().any(|end| name.ends_with(end));
    let first_word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric()).collect() };
    for name in ["tidegate-core", "tidegate-engine", "tidegate-server"] {
        for path in
            sources_under(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src"))
        {
            let text = std::fs::read_to_string(&path).expect("a source file");
            for (at, _) in text.match_indices("impl Default for ") {
                let named = first_word(&text[at + "impl Default for ".len()..]);
                assert!(!is_bounds(&named), "{}: {named} has a default of its own", path.display());
            }
            for derived in text.split("#[derive(").skip(1) {
                let (traits, rest) = derived.split_once(")]").unwrap_or_default();
                let named = rest.split_once("struct ").map_or_else(String::new, |(_, name)| first_word(name));
                assert!(
                    !(traits.contains("Default") && is_bounds(&named)),
                    "{}: {named} has a default of its own",
                    path.display()
                );
            }
        }
    }
}
