"""Gateways with a fault that the cases must find: the suite's own test."""

import os
import shutil
import subprocess

# Name, file, text, what it becomes, the case that must fail.
DISK = "crates/tidegate-engine/src/disk/"
FAULTS = [
    ("continuity", DISK + "read.rs", "if seq <= self.at + 1 {", "if seq <= self.at + 1 || PLANTED {", "missing"),
    ("reserve", DISK + "mod.rs", "let needed = bytes + RESERVE_BYTES;", "if PLANTED { return Ok(()); }\n        let needed = bytes + RESERVE_BYTES;", "most_bytes"),
    ("erase", DISK + "segments.rs", "removed.map_or(Ok(()), |segment| segment.remove())", "removed.filter(|_| !PLANTED).map_or(Ok(()), |segment| segment.remove())", "erasure"),
]


def check(options, run_all):
    """Builds each and runs the case. Returns the names of the faults that were not found."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    copy = os.path.join(options.scratch, "copy")
    target = os.path.join(options.program, "planted")
    os.makedirs(target, exist_ok=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout.split(b"\0")
    for name in filter(None, files):
        source = os.path.join(os.fsencode(root), name)
        place = os.path.join(os.fsencode(copy), name)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.isfile(source):
            shutil.copy2(source, place)
    missed = []
    for name, file, text, becomes, case in FAULTS:
        path = os.path.join(copy, file)
        with open(path) as source:
            whole = source.read()
        if whole.count(text) != 1:
            raise SystemExit(f"planted: {file} does not have {text!r} once")
        with open(path, "w") as source:
            source.write(whole.replace(text, becomes.replace("PLANTED", "true")))
        subprocess.run(
            ["cargo", "build", "--quiet", "--locked", "-p", "tidegate-server", "--bin", "tidegate"], cwd=copy, check=True,
            env={**os.environ, "CARGO_TARGET_DIR": target, "RUSTFLAGS": "--cap-lints=allow"})
        with open(path, "w") as source:
            source.write(whole)
        options.program = os.path.join(target, "debug", "tidegate")
        options.only = case
        found = run_all(options)[case]
        print(f"planted {name}: {'found' if found.startswith('FAILED') else 'MISSED'}", flush=True)
        if not found.startswith("FAILED"):
            missed.append(name)
    return missed
