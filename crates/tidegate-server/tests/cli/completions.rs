//! `tidegate completions`, in bash, which is everywhere; `tidegate man`.

use std::process::Command;

use super::{Ran, dir, run};

/// Runs a bash script without the user's settings.
fn bash(args: &[&str]) -> Ran {
    let mut command = Command::new("bash");
    command.args(["--noprofile", "--norc"]).args(args).output().expect("bash runs").into()
}

#[test]
fn bash_completes_subcommands_flags_and_values() {
    let dir = dir();
    let script = run(dir.path(), &["completions", "bash"]);
    assert_eq!((script.code, script.err.as_str()), (Some(0), ""));
    let file = dir.path().join("tidegate");
    std::fs::write(&file, &script.out).expect("written");
    let file = file.to_str().expect("UTF-8");
    let parsed = bash(&["-n", file]);
    assert_eq!((parsed.code, parsed.err.as_str()), (Some(0), ""), "bash -n");

    // Bash sets this before it calls a completion function; the output is shown afterwards.
    let complete = r#"
        source "$0"
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        spec=$(complete -p tidegate); function=${spec##*-F }; function=${function%% *}
        "$function" tidegate "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[*]}"
    "#;
    for (words, found) in [
        (&["tidegate", "pu"] as &[&str], "publish"),
        (&["tidegate", "co"], "config conformance completions"),
        (&["tidegate", "key", "cr"], "create"),
        (&["tidegate", "serve", "--lis"], "--listen"),
        (&["tidegate", "completions", "el"], "elvish"),
        (&["tidegate", "nonsen"], ""),
    ] {
        let ran = bash(&[&["-c", complete, file], words].concat());
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        assert_eq!(ran.out.trim_end(), found, "{words:?}");
    }
}

#[test]
fn each_shell_has_its_script_and_help_says_where_it_goes() {
    let dir = dir();
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef tidegate"),
        ("fish", "complete -c tidegate"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion:arg-completer[tidegate]"),
    ] {
        let ran = run(dir.path(), &["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{shell}");
        assert!(ran.out.contains(mark) && ran.out.contains("publish"), "{shell}: {:.300}", ran.out);
        let help = run(dir.path(), &["completions", "--help"]);
        assert!(help.out.contains(&format!("tidegate completions {shell} ")), "{}", help.out);
    }
    let ran = run(dir.path(), &["completions", "tcsh"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
}

#[test]
fn each_command_has_a_manual_page() {
    let dir = dir();
    let page = run(dir.path(), &["man"]);
    assert_eq!((page.code, page.err.as_str()), (Some(0), ""));
    assert!(page.out.contains(".TH tidegate 1") && page.out.contains("tidegate\\-serve(1)"), "{}", page.out);
    let ran = run(dir.path(), &["man", "--dir", "."]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    for (page, words) in [
        ("tidegate.1", "A realtime event gateway"),
        ("tidegate-serve.1", "\\-\\-listen"),
        ("tidegate-key-create.1", "\\-\\-services"),
        ("tidegate-config-check.1", "\\-\\-set"),
    ] {
        let text =
            std::fs::read_to_string(dir.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(words), "{page}: {text}");
    }
    let ran = run(dir.path(), &["man", "--dir", "none"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.starts_with("tidegate: write manual pages to none: "), "{}", ran.err);
}
