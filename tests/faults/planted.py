"""A gateway with faults that the cases must find: the suite's own test. One build has all of them; the environment
of a run says which one it has."""

import argparse
import os
import shutil
import subprocess

ENGINE = "crates/tidegate-engine/src/"
DISK = ENGINE + "disk/"
# Name, file, text, what it becomes, the case that must fail.
FAULTS = [
    ("continuity", DISK + "read.rs", "if seq <= self.at + 1 {", "if seq <= self.at + 1 || PLANTED {", "missing"),
    ("reserve", DISK + "mod.rs", "let needed = bytes + RESERVE_BYTES;",
     "if PLANTED { return Ok(()); }\n        let needed = bytes + RESERVE_BYTES;", "full_disk"),
    ("max_bytes", DISK + "mod.rs", "if taken + bytes > self.max_bytes + self.segment_bytes + front {",
     "if !PLANTED && taken + bytes > self.max_bytes + self.segment_bytes + front {", "most_bytes"),
    ("erase", DISK + "segment.rs", "match std::fs::remove_file(&self.path) {",
     "match if PLANTED { Ok(()) } else { std::fs::remove_file(&self.path) } {", "erasure"),
    ("sync", DISK + "segment.rs", "self.file.sync_data()", "if PLANTED { Ok(()) } else { self.file.sync_data() }",
     "power_cuts"),
    ("deletion", DISK + "erase.rs", "for segment in older {", "for segment in older.iter().filter(|_| !PLANTED) {",
     "deletion"),
    ("deletion_after_kill", DISK + "state.rs", "self.note_erasure(&erasure, is_done, header.commit);",
     "self.note_erasure(&erasure, is_done, if PLANTED { 0 } else { header.commit });", "deletion"),
    ("leap", ENGINE + "commit_clock.rs", "if wall > paced.saturating_add(LEAP_MILLIS) {",
     "if !PLANTED && wall > paced.saturating_add(LEAP_MILLIS) {", "clock"),
    ("check", DISK + "check.rs", "self.damaged_count == 0",
     "(PLANTED || self.damaged_count == 0)", "repair"),
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


def build(options, faults=FAULTS, folder="planted"):
    """Builds a gateway with all these faults under the directory `options.program`. Returns its path."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    copy = os.path.join(options.scratch, "copy")
    target = os.path.join(options.program, folder)
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
    # One of its faults shows at few points.
    options.deletion = None
    for name, *_, case in FAULTS:
        os.environ["TIDEGATE_PLANTED"] = name
        of_fault = {"only": case, "scratch": os.path.join(options.scratch, name)}
        outcome = run_all(argparse.Namespace(**{**vars(options), **of_fault}))[case]
        # A case that breaks off has found nothing.
        found = outcome.startswith("FAILED") and "Traceback" not in outcome
        print(f"planted {name}: {'found' if found else 'MISSED'}", flush=True)
        if not found:
            missed.append(name)
    return missed
