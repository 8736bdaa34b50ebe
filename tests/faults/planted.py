"""A gateway with faults that the cases must find: the suite's own test. One build has all of them; the environment
of a run says which one it has."""

import os
import shutil
import subprocess

DISK = "crates/tidegate-engine/src/disk/"
# Name, file, text, what it becomes, the case that must fail.
FAULTS = [
    ("continuity", DISK + "read.rs", "if seq <= self.at + 1 {", "if seq <= self.at + 1 || PLANTED {", "missing"),
    ("reserve", DISK + "mod.rs", "let needed = bytes + RESERVE_BYTES;",
     "if PLANTED { return Ok(()); }\n        let needed = bytes + RESERVE_BYTES;", "full_disk"),
    ("max_bytes", DISK + "mod.rs", "if taken + bytes > self.max_bytes + self.segment_bytes {",
     "if !PLANTED && taken + bytes > self.max_bytes + self.segment_bytes {", "most_bytes"),
    ("erase", DISK + "segment.rs", "match std::fs::remove_file(&self.path) {",
     "match if PLANTED { Ok(()) } else { std::fs::remove_file(&self.path) } {", "erasure"),
]


def _plant(copy, faults):
    for name, file, text, becomes, *_ in faults:
        path = os.path.join(copy, file)
        with open(path) as source:
            whole = source.read()
        if whole.count(text) != 1:
            raise SystemExit(f"planted: {file} does not have {text!r} once")
        switch = f'std::env::var_os("TIDEGATE_PLANTED").is_some_and(|planted| planted == "{name}")'
        with open(path, "w") as source:
            source.write(whole.replace(text, becomes.replace("PLANTED", switch)))


def build(options, faults=FAULTS, place="planted"):
    """Builds a gateway with all these faults under the directory `options.program`. Returns its path."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    copy = os.path.join(options.scratch, "copy")
    target = os.path.join(options.program, place)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        source, place = os.path.join(root, name), os.path.join(copy, name)
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            shutil.copy2(source, place)
    _plant(copy, faults)
    subprocess.run(
        ["cargo", "build", "--quiet", "--locked", "-p", "tidegate-server", "--bin", "tidegate"], cwd=copy, check=True,
        env={**os.environ, "CARGO_TARGET_DIR": target})
    return os.path.join(target, "debug", "tidegate")


def check(options, run_all):
    """Builds the gateway, if it is not built already, and runs the case of each fault. Returns the faults that were
    not found."""
    if not os.path.isfile(options.program):
        options.program = build(options)
    missed = []
    for name, *_, case in FAULTS:
        os.environ["TIDEGATE_PLANTED"] = name
        options.only = case
        found = run_all(options)[case].startswith("FAILED")
        print(f"planted {name}: {'found' if found else 'MISSED'}", flush=True)
        if not found:
            missed.append(name)
    return missed
