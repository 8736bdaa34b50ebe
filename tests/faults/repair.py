"""`tidegate log check` and its `--repair`, against what a gateway makes of the same damage."""

import json
import os
import shutil
import subprocess

import account as accounts
from account import check
from cases import Base, goes_on, hurt, in_parallel, segments
from gateway import Finding, Refused


def repair(run):
    """Random damage. `log check` names it, or what it did not name is read whole; `--repair` ends it, a start has
    nothing to complain of, and readers get what they got before."""
    bases = [Base(run, "clean", True), Base(run, "killed", False)]

    def trial(number):
        base, chance = bases[number % 2], run.chance(number)
        log_dir = base.copy(run, f"repair-{number}")
        files = segments(log_dir)
        kinds = [files[-1:], files[:-1], [os.path.join(log_dir, "head")], [os.path.join(log_dir, "format")]]
        kind = chance.choices(kinds, [6, 8, 2, 1])[0]
        what = hurt(chance, chance.choice(kind))
        if chance.random() < 0.2:
            what += " and " + hurt(chance, chance.choice(files[:-1]))
        return _after_repair(run, base, log_dir, what)

    outcomes = in_parallel(trial, range(run.options.repair))
    counts = {word: outcomes.count(word) for word in ("whole", "mended")}
    if counts["mended"] < run.options.repair // 4:
        raise Finding(f"too little was damaged: {counts}")
    return f"{run.options.repair} times: {counts}"


def _check_log(run, log_dir, *more):
    """The exit code and the report."""
    done = subprocess.run(
        [run.program, "log", "check", "--set", f"log.dir={json.dumps(log_dir)}", "--json", *more],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode not in (0, 1) or not done.stdout:
        raise Finding(f"log check {' '.join(more)} ended with {done.returncode}: {done.stderr}")
    return done.returncode, json.loads(done.stdout)


def _read_all(gateway, account):
    """The events that readers get, and whether there were gaps."""
    surveys = [accounts.by_history(gateway, org, account.acks[org][0].epoch) for org in account.orgs()]
    return {survey.org: survey.events for survey in surveys}, any(survey.gaps for survey in surveys)


def _after_repair(run, base, log_dir, what):
    before_dir = log_dir + "-before"
    shutil.copytree(log_dir, before_dir)
    gateway = run.gateway(before_dir, **base.settings)
    mended = run.gateway(log_dir, **base.settings)
    account = base.account.copy()
    try:
        code, report = _check_log(run, log_dir)
        if (code == 0) != report["whole"]:
            raise Finding(f"log check ended with {code} and says whole: {report['whole']}")
        try:
            gateway.start()
            before, had_gaps = _read_all(gateway, account)
        except Refused as refused:
            # It says so of a damaged `format` only.
            if report["format"] != "damaged":
                raise Finding(f"the gateway does not start: {refused}; the check says {_brief(report)}") from None
            before, had_gaps = None, True
        if report["whole"] and had_gaps:
            raise Finding(f"log check finds nothing, and readers get gaps: {before and _counts(before)}")
        gateway.kill()
        code, repaired = _check_log(run, log_dir, "--repair")
        if code != 0 or repaired["whole_after_repair"] is not True:
            raise Finding(f"--repair ended with {code}: {_brief(repaired)}")
        code, again = _check_log(run, log_dir)
        if code != 0:
            raise Finding(f"after the repair, log check ended with {code}: {_brief(again)}")
        mended.start()
        after, _ = _read_all(mended, account)
        status, text = mended.operators("GET", "/readyz")
        if status != 200 or "degraded" in text:
            raise Finding(f"after the repair, the node says {status}: {text}")
        if complaints := [line for line in mended.warnings() if "damaged" in str(line) or "missing" in str(line)]:
            raise Finding(f"after the repair, the start complains: {complaints}")
        if before is not None and after != before:
            raise Finding(
                f"before the repair readers got {_counts(before)} events, after it {_counts(after)}; "
                f"the check says {_brief(report)}")
        told = {org["org"]: org["events"] for org in again["orgs"] if org["events"]}
        if told != _counts(after):
            raise Finding(f"log check says that there are {told} events, and readers get {_counts(after)}")
        check(mended, account, anything=True)
        goes_on(mended, account, ["a", "new"])
        return "whole" if report["whole"] else "mended"
    except Finding as finding:
        kept = os.path.join(run.options.scratch, "kept", os.path.basename(log_dir))
        shutil.copytree(log_dir, kept + "-after")
        raise Finding(f"after {what}: {finding} (see {kept}-after, {gateway.log_file}, {mended.log_file})") from None
    finally:
        gateway.kill()
        mended.kill()
        shutil.rmtree(log_dir, ignore_errors=True)
        shutil.rmtree(before_dir, ignore_errors=True)


def _counts(events):
    return {org: len(of_org) for org, of_org in events.items() if of_org}


def _brief(report):
    names = ("whole", "whole_after_repair", "lossy", "missing", "damaged", "missing_segments", "torn", "head", "format")
    return {name: report[name] for name in names}
