"""What has to be gone from every file: what an operator deletes, and what retention removes."""

import http.client
import json
import os
import shutil
import subprocess
import time

import account as accounts
from account import Account, check, content
from cases import CALLS, KEEP, Base, goes_on, holds, in_parallel, paths_of, strace, until
from clocks import Clock
from gateway import Finding, Refused, publish
from volumes import need

# A start sweeps at once; a sweep that fails is tried again each minute.
ERASED_SECONDS = 75
# How many calls of one kind a deletion and its sweep make, about.
POINTS_USUAL = 4


def deletion(run):
    """SIGKILL at the n-th call of each kind on the log's files over a deletion and its sweep, by a running gateway
    and by the command on a stopped one. It has happened whole or not at all. What is deleted is never read again and
    leaves the files; the rest is all there."""
    need("strace")
    base = Base(run, "base", False)

    def call_by_call(how):
        number = 1
        while _deletion_point(run, base, *how, number):
            number += 1
        return number - 1

    hows = [(by, what, call) for by in ("running", "stopped") for what in ("event", "org") for call in CALLS]
    tries = run.options.deletion
    if tries is None:
        points = sum(in_parallel(call_by_call, hows))
    else:
        usual = [(*how, number) for how in hows for number in range(1, POINTS_USUAL + 1)]
        some = run.random.sample(usual, min(tries, len(usual)))
        points = sum(in_parallel(lambda point: _deletion_point(run, base, *point), some))
    if points < (tries or 400) // 4:
        raise Finding(f"only {points} points")
    return f"{points} points"


class Deletion:
    """One deletion: its path, its command, what it removes, and a text that only this has."""

    def __init__(self, org, ack=None):
        self.org, self.ack = org, ack
        self.text = content(ack.id, 64)["text"] if ack else f"{org}.p."
        self.was_answered = self.is_done = False

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
    command = strace(gateway.log_dir, injected, paths_of(gateway.log_dir) + [gateway.log_dir + "/keys.toml"])
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
            lambda: not gateway.is_running() or not any(holds(gateway.log_dir, word) for word in words))
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
            [*strace(log_dir, injected, paths_of(log_dir) + [log_dir + "/keys.toml"]),
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
    """A deletion has happened whole or not at all, also if it was not answered."""
    for each in sent:
        if each.ack:
            _settle(gateway, account, each)
            continue
        status, answer = gateway.operators("GET", f"/v1/orgs/{each.org}")
        if status not in (200, 404) or each.was_answered and status != 404:
            raise Finding(f"{each.org} was deleted (answered: {each.was_answered}), and is shown with {status}: {answer}")
        if status == 404:
            each.is_done = True
            acks = account.acks.pop(each.org)
            page = gateway.page(each.org, f"{acks[0].epoch}-0")
            if page["events"] or page.get("gap", {}).get("reason") != "epoch":
                raise Finding(f"{each.org} was deleted, and a reader of before gets {page}")
    check(gateway, account)
    for each in sent:
        if each.is_done:
            until(
                f"{each.path()} was deleted (answered: {each.was_answered}), and {each.text!r} is still in the files",
                ERASED_SECONDS, lambda word=each.text: not holds(log_dir, word))
    check(gateway, account)


def _settle(gateway, account, deletion_):
    """Looks whether an event is there, and expects the same from now on."""
    org, ack = deletion_.org, deletion_.ack
    survey = accounts.by_history(gateway, org, ack.epoch, account.holes(org))
    deletion_.is_done = ack.id not in {event_id for _, event_id in survey.events}
    if not deletion_.was_answered:
        account.perhaps_deleted[org].discard(ack.seq)
        if deletion_.is_done:
            account.deleted.setdefault(org, set()).add(ack.seq)


# How fast the clocks of a gateway go that has to wait for minutes.
FASTER = 6


def erasure(run):
    """What retention has removed is in no file any more, on a quiet node, and after a stop."""
    words = [f"forget-me-{run.random.randrange(10**12)}" for _ in range(2)]
    settings = {
        **KEEP, "log__retention": '"60s"', "log__erase_within": '"3m"', "dedup__window": '"5s"',
        "limits__publish_timeout": '"60s"'}
    within = (60 + 180) / FASTER
    gateways, began = [], time.monotonic()
    for number, word in enumerate(words):
        log_dir = os.path.join(run.folder, f"log{number}")
        clock = Clock(log_dir + ".clock", run.keys, monotonic=True)
        gateway = run.gateway(log_dir, **settings)
        account = Account()
        if number == 0:
            clock.set(0, FASTER)
        gateway.start(clock.wrapper)
        # The prefix stands in the id, and the id in the content.
        status, _ = publish(gateway, account, "a", prefix=word)
        if status != 200 or not holds(log_dir, word):
            raise Finding(f"a marked event was answered {status}, or is in no file")
        if number == 1:
            # It stands still for longer than its events are kept.
            gateway.stop()
            clock.set(100, FASTER)
            gateway.start(clock.wrapper)
        gateways.append((gateway, account, log_dir, word))
    for gateway, account, log_dir, word in gateways:
        until(
            f"expired events are still in {log_dir}", began + within - time.monotonic(),
            lambda folder=log_dir, text=word: not holds(folder, text))
        check(gateway, account, retention=60 / FASTER)
        goes_on(gateway, account, ["a"])
        gateway.kill()
    return f"gone after {FASTER * (time.monotonic() - began):.0f} s at most, by clocks that are {FASTER} times faster"
