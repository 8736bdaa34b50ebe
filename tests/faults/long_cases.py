"""Cases that only `--long` runs: LONG_ONLY names them."""

import glob
import http.client
import json
import os
import shutil
import subprocess
import time

import account as accounts
from account import Account, check, content
from cases import CALLS, KEEP, Base, _holds, _hurt, _paths, goes_on, in_parallel, segments, strace, until
from gateway import Finding, Refused, post, publish
from volumes import Skip, need

# --- deletion --------------------------------------------------------------------------------------------

# A start sweeps at once; a sweep that fails is tried again each minute.
ERASED_SECONDS = 75


def deletion(run):
    """SIGKILL at the n-th call of each kind on the log's files over a deletion and its sweep, by a running gateway
    and by the command on a stopped one. What was answered as deleted is never read again and leaves the files; the
    rest is all there."""
    need("strace")
    base = Base(run, "base", False)
    points = []

    def call_by_call(how):
        number = 1
        while number <= run.options.deletion and _deletion_point(run, base, *how, number):
            points.append((*how, number))
            number += 1

    hows = [(by, what, call) for by in ("running", "stopped") for what in ("event", "org") for call in CALLS]
    in_parallel(call_by_call, hows)
    if len(points) < min(run.options.deletion, 4) * 4:
        raise Finding(f"too few points: {points}")
    return f"{len(points)} points"


class Deletion:
    """One deletion: its path, its command, what it removes, and a text that only this has."""

    def __init__(self, org, ack=None):
        self.org, self.ack = org, ack
        self.text = content(ack.id, 64)["text"] if ack else f"{org}.p."
        self.was_answered = False

    def path(self):
        if self.ack:
            return f"/v1/orgs/{self.org}/events?service=s&id={self.ack.id}"
        return f"/v1/orgs/{self.org}"

    def command(self, program, log_dir):
        settings = {"log.dir": json.dumps(log_dir), **{key.replace("__", "."): value for key, value in KEEP.items()}}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        if self.ack:
            what = ["event", "delete", "--org", self.org, "--service", "s", "--id", self.ack.id]
        else:
            what = ["org", "delete", self.org]
        return [program, *what, "--yes", *sets]


def _deletion_point(run, base, by, what, call, number):
    """Deletes, and kills at a call. Returns whether it came to that call."""
    name = f"{by}-{what}-{call}-{number}"
    log_dir, account = base.copy(run, name), base.account.copy()
    acks = account.acks["a"]
    # Of an old segment, from within a batch; and of the newest one.
    deletions = [Deletion("a", acks[7]), Deletion("a", acks[-8])] if what == "event" else [Deletion("c")]
    gateway = run.gateway(log_dir, **base.settings)
    injected = [f"{call}:signal=KILL:when={number}"]
    try:
        if by == "running":
            sent, was_killed = _delete_running(gateway, deletions, injected)
        else:
            sent, was_killed = _delete_stopped(run, log_dir, deletions, injected)
        _note(account, sent)
        try:
            gateway.start()
        except Refused as refused:
            raise Finding(f"the next start is refused: {refused}") from None
        _after_deletion(gateway, account, log_dir, sent)
        goes_on(gateway, account, ["a", "new"])
        gateway.stop()
        gateway.start()
        check(gateway, account, by=accounts.by_stream)
        return was_killed
    except Finding as finding:
        raise Finding(f"killed at {name}: {finding} (see {gateway.log_file})") from None
    finally:
        gateway.kill()
        shutil.rmtree(log_dir, ignore_errors=True)


def _delete_running(gateway, deletions, injected):
    """Kills from the first request on: strace comes to the process after its start."""
    gateway.start()
    command = strace(gateway.log_dir, injected, _paths(gateway.log_dir) + [gateway.log_dir + "/keys.toml"])
    # It stays the parent's child here.
    command.remove("-D")
    tracer = subprocess.Popen(
        [*command, "-p", str(gateway.process.pid)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until("strace did not come to all threads", 20, lambda: _is_traced(gateway.process.pid))
        sent = []
        for deletion_ in deletions:
            sent.append(deletion_)
            try:
                status, answer = gateway.operators("DELETE", deletion_.path())
            except (OSError, http.client.HTTPException):
                until("a deletion broke off, and the gateway runs", 20, lambda: not gateway.is_running())
                break
            if status != 200:
                raise Finding(f"DELETE {deletion_.path()} was answered {status}: {answer}")
            deletion_.was_answered = True
        words = [each.text for each in sent]
        until(
            "what was deleted is still in the files", ERASED_SECONDS,
            lambda: not gateway.is_running() or not any(_holds(gateway.log_dir, word) for word in words))
        was_killed = not gateway.is_running()
        gateway.kill()
        return sent, was_killed
    finally:
        gateway.kill()
        tracer.wait()


def _is_traced(pid):
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/status") as status:
                if "TracerPid:\t0\n" in status.read():
                    return False
    except FileNotFoundError:
        return False
    return True


def _delete_stopped(run, log_dir, deletions, injected):
    sent = []
    for deletion_ in deletions:
        sent.append(deletion_)
        done = subprocess.run(
            [*strace(log_dir, injected, _paths(log_dir) + [log_dir + "/keys.toml"]),
             *deletion_.command(run.program, log_dir)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode == -9:
            return sent, True
        if done.returncode != 0:
            raise Finding(f"the command for {deletion_.path()} ended with {done.returncode}: {done.stderr}")
        deletion_.was_answered = True
    return sent, False


def _note(account, sent):
    """Puts deletions of events into the account."""
    for each in sent:
        if each.ack:
            where = account.deleted if each.was_answered else account.perhaps_deleted
            where.setdefault(each.org, set()).add(each.ack.seq)


def _after_deletion(gateway, account, log_dir, sent):
    for each in sent:
        if each.ack:
            continue
        status, answer = gateway.operators("GET", f"/v1/orgs/{each.org}")
        if status not in (200, 404) or each.was_answered and status != 404:
            raise Finding(f"{each.org} was deleted (answered: {each.was_answered}), and is shown with {status}: {answer}")
        if status == 404:
            # All of it or nothing: what is not shown is nowhere, also if nobody was told.
            acks = account.acks.pop(each.org)
            page = gateway.page(each.org, f"{acks[0].epoch}-0")
            if page["events"] or page.get("gap", {}).get("reason") != "epoch":
                raise Finding(f"{each.org} was deleted, and a reader of before gets {page}")
    check(gateway, account)
    for each in sent:
        if each.was_answered:
            until(
                f"{each.path()} was deleted, and {each.text!r} is still in the files", ERASED_SECONDS,
                lambda word=each.text: not _holds(log_dir, word))
    check(gateway, account)


# --- clocks ----------------------------------------------------------------------------------------------

MINUTE, DAY = 60, 24 * 3600
# 2036-02-08: NTP's seconds of 32 bits begin anew on the day before.
IN_2036 = 2086041600


class Clock:
    """The clock of a gateway, by libfaketime. Its monotonic clock stays as it is."""

    def __init__(self, file, keys):
        found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/lib*/faketime/libfaketimeMT.so.1")
        if not found:
            raise Skip("libfaketime")
        self.file, self.keys = file, keys
        self.wrapper = [
            "env", f"LD_PRELOAD={found[0]}", f"FAKETIME_TIMESTAMP_FILE={file}", "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]
        self.set(0)

    def set(self, seconds):
        """How far the clock is from the right time."""
        with open(self.file + ".new", "w") as file:
            file.write(f"{seconds:+d}\n")
        os.replace(self.file + ".new", self.file)
        self.keys.clock_ahead = seconds


def clock(run):
    """A clock that is set back, and right again: ids stay known. A clock that leaps to 2036 and back: nothing is
    lost, and no event is of another year."""
    steps = []
    for name, back in (("minutes", -10 * MINUTE), ("day", -DAY)):
        for ends in ("kill", "stop"):
            _set_back(run, f"{name}-{ends}", back, ends)
            steps.append(f"{back} s and {ends}")
    _leap(run)
    return f"{', '.join(steps)}; to 2036 and back"


def _gateway_with_clock(run, name):
    clock_ = Clock(os.path.join(run.folder, name + ".clock"), run.keys)
    return run.gateway(os.path.join(run.folder, name), **KEEP), clock_, Account()


def _publish_one(gateway, account):
    status, answer = publish(gateway, account, "a", size=64, batch=1)
    if status != 200:
        raise Finding(f"a publish was answered {status}: {answer}")


def _are_known(gateway, account, when):
    """All that was published is a duplicate when it is sent again."""
    for ack in account.acks["a"]:
        event = {"service": "s", "event": "e", "id": ack.id, "data": content(ack.id, 64)}
        status, answer = post(gateway, "a", [event])
        given = answer["events"][0] if status == 200 else {}
        if (given.get("duplicate"), given.get("seq")) != (True, ack.seq):
            raise Finding(f"{when}: {ack.id}, stored as {ack.seq}, was sent again and answered {status}: {answer}")


def _set_back(run, name, back, ends):
    gateway, clock_, account = _gateway_with_clock(run, name)
    began = time.monotonic()
    gateway.start(clock_.wrapper)
    _publish_one(gateway, account)
    clock_.set(back)
    _publish_one(gateway, account)
    until(
        "the clock was set back, and no log line says so", 90,
        lambda: any("ahead of the clock" in str(line) for line in gateway.warnings()))
    _publish_one(gateway, account)
    # One start while the clock is wrong, one after it is right.
    for offset in (back, 0):
        clock_.set(offset)
        _publish_one(gateway, account)
        getattr(gateway, ends)()
        gateway.start(clock_.wrapper)
        if time.monotonic() - began > 4 * MINUTE:
            raise Skip("time for this within the dedup window")
        _are_known(gateway, account, f"{name}, after a start with the clock off by {offset} s")
        check(gateway, account)
    gateway.kill()


def _leap(run):
    gateway, clock_, account = _gateway_with_clock(run, "leap")
    gateway.start(clock_.wrapper)
    _publish_one(gateway, account)
    clock_.set(IN_2036 - int(time.time()))
    _publish_one(gateway, account)
    until(
        "the clock leapt ahead, and no log line says so", 90,
        lambda: any("leapt ahead" in str(line) for line in gateway.warnings()))
    # A sweep of retention comes each minute.
    time.sleep(65)
    check(gateway, account)
    _publish_one(gateway, account)
    gateway.kill()
    gateway.start(clock_.wrapper)
    check(gateway, account)
    _publish_one(gateway, account)
    clock_.set(0)
    _publish_one(gateway, account)
    gateway.stop()
    gateway.start(clock_.wrapper)
    check(gateway, account)
    _publish_one(gateway, account)
    _are_known(gateway, account, "after a leap to 2036 and back")
    page = gateway.page("a", f"{account.epochs['a'][0]}-0")
    years = {event["timestamp"][:4] for event in page["events"]}
    if not years <= {str(time.gmtime().tm_year), str(time.gmtime().tm_year - 1)}:
        raise Finding(f"after a leap to 2036 and back there are events of {years}")
    gateway.kill()


# --- check and repair ------------------------------------------------------------------------------------


def repair(run):
    """Random damage. `log check` names it, or what it did not name is read whole; `--repair` ends it, a start has
    nothing to complain of, and readers get what they got before."""
    bases = [Base(run, "clean", True), Base(run, "killed", False)]
    trials = []
    for number in range(run.options.repair):
        base = bases[number % 2]
        log_dir = base.copy(run, f"repair-{number}")
        files = segments(log_dir)
        kinds = [files[-1:], files[:-1], [os.path.join(log_dir, "head")], [os.path.join(log_dir, "format")]]
        kind = run.random.choices(kinds, [6, 8, 2, 1])[0]
        what = _hurt(run.random, run.random.choice(kind))
        if run.random.random() < 0.2:
            what += " and " + _hurt(run.random, run.random.choice(files[:-1]))
        trials.append((base, log_dir, what))
        if len(trials) == 10 or number == run.options.repair - 1:
            run.outcomes = getattr(run, "outcomes", []) + in_parallel(lambda trial: _after_repair(run, *trial), trials)
            trials = []
    counts = {word: run.outcomes.count(word) for word in ("whole", "mended")}
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


# They take minutes, and CI has none to spare: only --long runs them.
LONG_ONLY = [deletion, clock, repair]
