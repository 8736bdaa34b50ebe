"""Faults of disks, limits and power, against the real program over real file systems.

    python3 tests/faults target/debug/tidegate              all cases, in the amounts of CI (as root)
    python3 tests/faults --long target/debug/tidegate       larger amounts
    python3 tests/faults --only damage,missing ...          these cases
    python3 tests/faults target/debug/tidegate --soak 20    no cases, but 20 minutes of load, and what holds memory
    python3 tests/faults --planted target                   builds a gateway with faults; each must be found

It needs Python, and what a case needs beside it: root, loop devices, mkfs.xfs, mkfs.ext4, strace, libfaketime. What
is not there is printed, and the case is skipped. If there are findings, the files are kept and their place is printed."""

import argparse
import collections
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import cases  # noqa: E402
import clocks  # noqa: E402
import erasure  # noqa: E402
import planted  # noqa: E402
import repair  # noqa: E402
import soak  # noqa: E402
from gateway import ENDING, Finding, Refused  # noqa: E402
from volumes import Skip  # noqa: E402

# Those that take long come first, so that no lane is left with one of them at the end.
CASES = [
    erasure.erasure, cases.failing_calls, cases.power_cuts, cases.damage, cases.most_bytes, repair.repair,
    erasure.deletion, cases.descriptors, cases.kill_points_running, cases.kill_points_cut,
    cases.full_disk, cases.kill_points_start,
    clocks.clock, cases.large_start, cases.missing]
QUICK = {
    "images": 40, "damage": 100, "points": 60, "running": 14, "rate_seconds": 12, "deletion": 30, "repair": 30}
# All deletions, so no number.
LONG = {
    "images": 500, "damage": 2000, "points": 500, "running": 200, "rate_seconds": 60, "deletion": None, "repair": 500}


def run_case(case, options, results):
    began = time.monotonic()
    name = case.__name__
    run = None
    try:
        run = cases.Run(options, name, options.seed)
        options.runs.append(run)
        outcome = f"passed: {case(run)}"
    except Skip as skip:
        outcome = f"skipped: this machine has no {skip}"
    except Finding as finding:
        outcome = f"FAILED: {finding}"
    except Refused as refused:
        outcome = f"FAILED: the gateway does not start: {refused}"
    except Exception:  # noqa: BLE001
        outcome = f"FAILED: {traceback.format_exc()}"
    finally:
        if run is not None:
            run.close()
    if ENDING.is_set():
        return
    results[name] = outcome
    print(f"{name}: {outcome} ({time.monotonic() - began:.0f} s)", flush=True)


def run_all(options):
    """Runs the cases, some side by side, because most of them wait for a disk or for time to pass. Returns the
    outcome of each."""
    wanted = options.only.split(",") if options.only else [case.__name__ for case in CASES]
    if unknown := set(wanted) - {case.__name__ for case in CASES}:
        raise SystemExit(f"faults: no case is called {', '.join(sorted(unknown))}")
    waiting = collections.deque(case for case in CASES if case.__name__ in wanted)
    results = {}

    def lane():
        while waiting and not ENDING.is_set():
            with contextlib.suppress(IndexError):
                run_case(waiting.popleft(), options, results)

    lanes = [threading.Thread(target=lane, daemon=True) for _ in range(options.lanes)]
    try:
        for each in lanes:
            each.start()
        for each in lanes:
            each.join()
    except BaseException:
        # Nothing new is started; what runs is ended, so that its cases end.
        ENDING.set()
        close(options)
        for each in lanes:
            each.join(30)
        raise
    return results


def close(options):
    """Ends what runs."""
    for run in options.runs:
        run.close()


def run_soak(options):
    print(f"seed {options.seed}", flush=True)
    try:
        return soak.soak(options)
    except (Finding, Refused) as finding:
        print(f"soak: FAILED: {finding}")
        return False


def main():
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the gateway; with --planted, the directory to build in, or the gateway with the faults")
    parser.add_argument("--long", action="store_true", help="larger amounts")
    parser.add_argument("--only", help="the cases to run, separated by commas")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats what chance decided")
    parser.add_argument("--planted", action="store_true", help="check the suite itself by planted faults")
    parser.add_argument(
        "--soak", metavar="MINUTES", type=int, nargs="?", const=20,
        help="instead of the cases, load for so long (20 if none is given), and memory by what holds it")
    parser.add_argument("--lanes", type=int, default=4, help="how many cases run side by side; default 4")
    for name, amount in QUICK.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, help=f"default {amount}, or {LONG[name] or 'all'} with --long")
    options = parser.parse_args()
    for name, amount in (LONG if options.long else QUICK).items():
        if getattr(options, name) is None:
            setattr(options, name, amount)
    options.program = os.path.abspath(options.program)
    options.scratch = tempfile.mkdtemp(prefix="tidegate-faults-")
    # Cases clean up as after an error.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.runs = []
    try:
        if options.soak:
            failed = [] if run_soak(options) else ["soak"]
        elif options.planted:
            failed = planted.check(options, run_all)
        else:
            print(f"seed {options.seed}", flush=True)
            failed = [name for name, outcome in run_all(options).items() if outcome.startswith("FAILED")]
    except (SystemExit, KeyboardInterrupt):
        ENDING.set()
        close(options)
        shutil.rmtree(options.scratch, ignore_errors=True)
        raise
    finally:
        close(options)
    if failed:
        print(f"failed: {', '.join(failed)}; the files are in {options.scratch}")
    else:
        shutil.rmtree(options.scratch, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
