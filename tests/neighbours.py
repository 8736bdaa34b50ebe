#!/usr/bin/env python3
"""Checks `tidegate-audit neighbours` itself: a gateway with one fault planted at a time lets an attack hurt its victim,
and the audit must find that; without the fault it must find nothing.

    python3 tests/neighbours.py target    builds the gateway with the faults in target/planted-neighbours; takes the
                                          auditor from target/debug

It needs Python and Rust, and a machine that does nothing else: the verdict is about times, too."""

import argparse
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "faults"))

import planted  # noqa: E402

# Name, file, text, what it becomes, the attack that must be found, the number of orgs that attack.
FAULTS = [
    ("reserve", "crates/tidegate-engine/src/dedup.rs", "if per_log < total && !may_take(held, more, free) {",
     "if !PLANTED && per_log < total && !may_take(held, more, free) {", "dedup-fill", "2"),
    ("scan", "crates/tidegate-server/src/worker/catch_up/scan.rs", "self.is_within(limits) && (self.events == 0",
     "PLANTED || self.is_within(limits) && (self.events == 0", "scan-large", "1"),
    ("slice", "crates/tidegate-server/src/worker/fan_out.rs", "let is_over = passed >= SLICE ||",
     "let is_over = !PLANTED && passed >= SLICE ||", "filters-event", "1"),
]


def audit(program, gateway, fault, attack, orgs):
    """Whether the audit of this attack finds nothing while this fault is planted."""
    command = [program, "neighbours", "--gateway", gateway, "--attack", attack, "--orgs", orgs]
    ended = subprocess.run(command, env={**os.environ, "TIDEGATE_PLANTED": fault}, check=False)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"neighbours: the audit ended with {ended.returncode}")
    return ended.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", metavar="target", help="the directory to build in")
    options = parser.parse_args()
    options.program = os.path.abspath(options.program)
    program = os.path.join(options.program, "debug", "tidegate-audit")
    missed = []
    with tempfile.TemporaryDirectory() as options.scratch:
        gateway = planted.build(options, FAULTS, "planted-neighbours")
        for name, *_, attack, orgs in FAULTS:
            quiet = audit(program, gateway, "none", attack, orgs)
            found = not audit(program, gateway, name, attack, orgs)
            verdict = "found" if quiet and found else "MISSED" if quiet else "found without it, too"
            print(f"planted {name}: {verdict}", flush=True)
            if not (quiet and found):
                missed.append(name)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
