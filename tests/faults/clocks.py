"""Clocks that are wrong, by libfaketime."""

import glob
import os
import time

from account import Account, check, content
from cases import KEEP, holds, until
from gateway import Finding, post, publish
from volumes import Skip

MINUTE, DAY = 60, 24 * 3600
# 2036-02-08: NTP's seconds of 32 bits begin anew on the day before.
IN_2036 = 2086041600


class Clock:
    """The clock of a gateway, by libfaketime. Its monotonic clock stays as it is, unless `monotonic` is set."""

    def __init__(self, file, keys, monotonic=False):
        found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/lib*/faketime/libfaketimeMT.so.1")
        if not found:
            raise Skip("libfaketime")
        self.file, self.keys = file, keys
        self.wrapper = ["env", f"LD_PRELOAD={found[0]}", f"FAKETIME_TIMESTAMP_FILE={file}", "FAKETIME_NO_CACHE=1"]
        if not monotonic:
            self.wrapper += ["FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1"]
        self.set(0)

    def set(self, seconds, faster=1):
        """How far the clock is from the right time, and how many times faster it goes from the next start on."""
        with open(self.file + ".new", "w") as file:
            file.write(f"{seconds:+d} x{faster}\n")
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
        "the clock was set back, and no log line says so", 20,
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


def _sweep(gateway, account):
    """Waits for a whole sweep: one comes with each deletion, and the second one begins after the first has ended."""
    for org in ("swept-1", "swept-2"):
        if publish(gateway, account, org)[0] != 200 or gateway.operators("DELETE", f"/v1/orgs/{org}")[0] != 200:
            raise Finding(f"{org} was not published to, or not deleted")
        del account.acks[org]
        until("a deleted org is still in the files", 90, lambda text=f"{org}.p.": not holds(gateway.log_dir, text))


def _leap(run):
    gateway, clock_, account = _gateway_with_clock(run, "leap")
    gateway.start(clock_.wrapper)
    _publish_one(gateway, account)
    clock_.set(IN_2036 - int(time.time()))
    _publish_one(gateway, account)
    until(
        "the clock leapt ahead, and no log line says so", 20,
        lambda: any("leapt ahead" in str(line) for line in gateway.warnings()))
    _sweep(gateway, account)
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
